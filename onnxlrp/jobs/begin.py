"""How a run begins, or goes on: the model is compiled, batch and parts are chosen, all of it is fixed in the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from onnx.external_data_helper import ExternalDataInfo

from ..compile import compile as compile_model
from ..data import Rows, Source
from ..errors import CompositeError, InputError
from ..explanation import Explanation
from ..graph import read, read_whole, save
from ..inputs import Preprocessing
from ..rows import row_bytes
from ..run import Explainer
from ..session import metadata, providers_of
from ..version import __version__
from .manifest import Job, changes
from .stores import Column
from .worker import Worker, columns_of, explainer_of, source_of

__all__ = ["Request", "begin"]

PART = 2**24  # bytes of results that are written, and at worst lost, at once
BATCH = 2**26, 2**31  # bytes of a batch's forward pass and relevance: on a CPU, more leaves the caches; on a GPU, it is busy
MOST = 256  # rows of a batch that is found automatically
UNKNOWN = 8  # rows of one where the model does not tell what a row takes
LEAST_PARTS = 16  # of a small data set, so that several machines have something to do
FIRST = 8  # rows that may fail before a run is given up at its beginning


@dataclass(frozen=True)
class Request:
    """What the caller asks for. composite and options: of `compile`. batch: None: chosen, and then fixed."""

    model: str
    data: str
    format: str
    composite: str | None
    options: Mapping[str, Any]
    target: int | None
    start: str | None
    how: Preprocessing
    columns: Mapping[str, Any]
    picture: Mapping[str, Any]
    provider: str
    threads: int
    batch: int | None

    @property
    def gpu(self) -> bool:
        return providers_of(self.provider)[0].startswith("CUDA")

    def manifest(self) -> dict[str, Any]:
        """The part of the manifest that follows from what is asked, and that a resumed run must ask for again."""
        asked = {
            "versions": {name: version(name) for name in ("onnxruntime", "numpy")} | {"onnxlrp": __version__},
            "model": {"files": _digests(self.model)},
            "options": {
                "composite": self.composite, **self.options, "target": self.target, "start": self.start
            },
            "preprocessing": asdict(self.how),
            "columns": dict(self.columns),
            "out": {"format": self.format, "picture": dict(self.picture)},
        }  # fmt: skip
        try:
            found: dict[str, Any] = json.loads(json.dumps(asked))  # tuples as the lists that a file gives back
        except TypeError as error:
            raise InputError(
                "what a run is asked for is kept as text: give a preset by its name; for a composite of your own, compile the "
                "model with it, and give the file"
            ) from error
        return found


def begin(job: Job, request: Request, resume: bool) -> Worker:
    """A worker of this run, begun or taken up again. Raises InputError when there is another one in its place."""
    asked, data = request.manifest(), Path(request.data).resolve()
    if data in job.out.resolve().parents:
        raise InputError(f"{job.out} lies in {request.data}, which would not be the same data any more: choose another place")
    if job.begun:
        return _again(job, request, asked, resume)
    if job.out.exists():
        raise InputError(f"{job.out} exists and is no run that could be resumed: choose another name, or remove it")
    job.clear()
    save(_compiled(request), job.model)
    explainer = explainer_of(job.model, request.provider)
    source = source_of(request.data, explainer, asked)
    first, explanation, rows = _first(request, explainer, source)
    columns = columns_of(explanation, rows)
    if request.format == "pictures":  # options that do not fit are refused before anything is fixed
        explanation.heatmap(**request.picture)
    free = bool(explainer.face["rows"]["inputs"])
    batch = _batch(request, explainer, first, free)
    run = {
        "provider": request.provider,
        "gpu": request.gpu,
        "free": free,
        "batch": batch,
        "part": _part(request, columns, first, batch, len(source)),
    }
    about = {**source.identity(), "rows": len(source)}
    job.begin({**asked, "data": about, "run": run, "output": {name: asdict(c) for name, c in columns.items()}})
    worker = Worker(job, explainer, source, request.threads)
    worker.store.begin()
    return worker


def _again(job: Job, request: Request, asked: Mapping[str, Any], resume: bool) -> Worker:
    if not resume:
        raise InputError(f"{job.out} is a run that has begun: --resume goes on with it; or choose another name")
    if not job.out.exists() and len(job.left()) < len(job.parts):
        raise InputError(f"{job.out} is gone, and {job.folder} says that rows are in it: remove that too, to begin anew")
    then = job.manifest
    batch = request.batch or then["run"]["batch"]
    now = {**asked, "run": {**then["run"], "provider": request.provider, "batch": batch}}
    found = changes({key: then[key] for key in now}, now)
    if not found:
        explainer = explainer_of(job.model, request.provider)
        source = source_of(request.data, explainer, then)
        found = changes({"data": then["data"]}, {"data": {**source.identity(), "rows": len(source)}})
    if found:
        text = "; ".join(found)
        raise InputError(f"--resume: {job.out} was begun otherwise: {text}. Ask for the same, or choose another name")
    worker = Worker(job, explainer, source, request.threads)
    worker.store.begin()
    return worker


def _compiled(request: Request) -> Any:
    if "onnxlrp.version" not in metadata(request.model):
        return compile_model(request.model, request.composite or "epsilon_plus", **request.options)
    if request.composite is not None or request.options:
        given = ["composite"] * (request.composite is not None) + list(request.options)
        raise CompositeError(f"the model is compiled already: {', '.join(given)} must be given when compiling it")
    return read_whole(request.model)


def _digests(model: str) -> dict[str, str]:
    """SHA-256 of the model's file, and of those with its weights."""
    proto, _ = read(model)
    beside = sorted({ExternalDataInfo(t).location for t in proto.graph.initializer if t.external_data})
    return {Path(model).name: _digest(Path(model)), **{name: _digest(Path(model).parent / name) for name in beside}}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _first(request: Request, explainer: Explainer, source: Source) -> tuple[Rows, Explanation, int]:
    """The first row that can be explained, as often as the model takes; it says what the output looks like.

    Raises what is wrong when none can be.
    """
    if not len(source):
        raise InputError(f"{request.data} has no rows: there is nothing to explain")
    failed, reason = 0, ""
    fixed = [i.shape[0] for i in explainer.inputs.values() if i.name in explainer.required and i.shape]
    times = 1 if explainer.face["rows"]["inputs"] else next((n for n in fixed if isinstance(n, int)), 1)
    for at in range(len(source)):  # one by one: a batch of any size might not fit into memory
        alone = source.read(at, at + 1)
        if not len(alone.good):
            reason = reason or alone.unreadable[0]
            continue
        feed = {name: np.repeat(v, times, 0) for name, v in alone.feed.items()}
        target = request.target if alone.target is None else alone.target.tolist() * times
        try:
            return alone, explainer.quietly(feed, target, request.start), times
        except InputError as error:
            reason = reason if failed else str(error)
        if (failed := failed + 1) == FIRST:
            raise InputError(f"{request.data}: none of the first {FIRST} rows could be explained: {reason}")
    raise InputError(f"{request.data}: no row could be read and explained: {reason}")


def _batch(request: Request, explainer: Explainer, first: Rows, free: bool) -> int:
    """Rows per run: as asked; as the model wants; else what fits into the caches, a power of two."""
    rows = explainer.face["rows"]
    if not free:
        sizes = {explainer.inputs[name].shape[0] for name in first.feed if explainer.inputs[name].shape}
        if len(sizes) != 1:
            text = " and ".join(sorted(map(str, sizes)))
            raise InputError(f"the model's inputs have {text} rows: a row of the data cannot be told from another")
        if request.batch not in (None, *sizes):
            raise InputError(f"--batch {request.batch}: the model takes {sizes.pop()} rows at a time, no more and no fewer")
        return int(sizes.pop())
    if request.batch is not None or not rows["independent"]:
        return request.batch or 1
    shapes = {name: explainer.inputs[name].shape for name in first.feed}
    used = row_bytes(rows["memory"], first.feed, shapes)
    if not used:
        return UNKNOWN
    fit = BATCH[request.gpu] // used
    return min(MOST, 2 ** (fit.bit_length() - 1)) if fit else 1


def _part(request: Request, columns: Mapping[str, Column], first: Rows, batch: int, rows: int) -> int:
    """Rows of a part: whole batches, of not too many bytes, and not all rows in one."""
    size = sum(c.empty(1).nbytes for c in columns.values())
    size += sum(v.nbytes for v in first.feed.values()) if request.format == "pictures" else 0  # drawn beside relevance
    batches = min(PART // max(size, 1) // batch, -(-rows // (LEAST_PARTS * batch)), 2**16 // batch)
    return batch * max(1, batches)
