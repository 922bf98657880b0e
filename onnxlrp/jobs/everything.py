"""`explain_all`: every row of a data set, begun or gone on with, here or on a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data import Columns
from ..errors import InputError
from ..inputs import Preprocessing
from ..session import metadata, providers_of
from ..starts import parse
from .begin import Request, begin
from .cluster import on_ray
from .finish import Summary, finish
from .manifest import Job, claimed
from .stores import format_of

__all__ = ["explain_all"]

NEEDS = {"zarr": ("filelock", "zarr"), "parquet": ("filelock", "pyarrow"), "pictures": ("filelock",)}
Path_ = str | os.PathLike[str]


def explain_all(
    model: Path_,
    data: Path_,
    out: Path_,
    composite: str | None = None,
    *,
    format: str | None = None,
    target: int | None = None,
    start: str | None = None,
    preprocessing: Preprocessing | None = None,
    columns: Columns | None = None,
    picture: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch: int | None = None,
    resume: bool = False,
    actors: int = 0,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Summary:
    """Explain every row of `data` into `out`; with resume=True go on with a run that was stopped, to the same bytes.

    model: a file, compiled or not. data: as `onnxlrp.data.open_data` reads it. out: .zarr, .parquet, or a folder of pictures;
    format: "zarr", "parquet", "pictures", whatever its name. composite: a preset as text; options: of `compile`. target: a
    class for all rows, in the place of the data's. start: as text, for `starts.parse`. picture: options of `Style`.
    threads: batches at once, None: one per processor. batch: rows of one, None: found. actors: of Ray Data, 0 to run here.
    tell: hears notes on the data. Raises what is wrong with the request; rows that are wrong are set aside.
    """
    job, kind, style = Job(Path(out)), format_of(Path(out), format), dict(picture or {})
    old = sys.version_info < (3, 11)
    for name in NEEDS[kind]:
        if find_spec(name) is None:
            hint = "Python 3.11 or newer has it; write .parquet" if old and name == "zarr" else 'pip install "onnxlrp[run]"'
            raise InputError(f"a run to {job.out.name} needs {name}: {hint}")
    if actors and find_spec("ray") is None:
        raise InputError('--engine ray needs Ray: pip install "onnxlrp[ray]"')
    if job.out.name in ("", ".."):
        raise InputError(f"cannot write {job.out}: give the output a name of its own")
    if not job.out.parent.is_dir():
        raise InputError(f"cannot write {job.out}: the folder {job.out.parent} does not exist")
    if "grid" in style or style.get("per") == "batch":
        raise InputError("grid and per='batch' are for the pictures of one batch: a run draws each row by itself")
    if start is not None:
        parse(start)
        if target is not None or options.get("position") is not None or options.get("init", "given") != "given":
            raise InputError("start says where relevance starts: leave out target, position and init")
        options |= {} if "onnxlrp.version" in metadata(model) else {"init": "given"}
    where = columns or Columns()
    request = Request(
        model=os.fspath(model),
        data=os.fspath(data),
        format=kind,
        composite=composite,
        options=options,
        target=target,
        start=start,
        how=preprocessing or Preprocessing(),
        columns={"id": where.id, "target": where.target, "inputs": dict(where.inputs)},
        picture=style,
        provider=provider,
        threads=threads or (1 if actors or providers_of(provider)[0].startswith("CUDA") else _cores()),
        batch=batch,
    )
    with claimed(job):
        worker = begin(job, request, resume)
        if tell is not None:
            for note in worker.source.notes:
                tell(note)
        engine = partial(on_ray, job, request.data, actors, request.threads) if actors else worker.run
        return finish(job, engine, worker.store.finish)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
