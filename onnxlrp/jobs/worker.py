"""Computes parts of a run: reads ahead, explains, writes behind. The same on every machine, so that results are too."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data import Columns, Rows, Source, open_data
from ..errors import InputError
from ..explanation import Explanation
from ..inputs import Preprocessing
from ..run import Explainer
from ..session import metadata
from ..validity import one_line
from .manifest import Job, Part
from .stores import Column, Result, store_of

__all__ = ["Worker", "columns_of", "explainer_of", "source_of"]

Array = np.ndarray
T = TypeVar("T")
R = TypeVar("R")
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # what no folder of a Zarr group can be called everywhere
MACHINE = re.compile(  # what says that not a row is at fault: memory, the GPU, a disk of the network
    r"bad.?alloc|(unable to|cannot|failed to) allocate|out of memory|(cuda|cudnn|cublas)\w* (failure|error)"
    r"|too many open files|stale file handle|transport endpoint",
    re.IGNORECASE,
)
UNCUT = 2**31  # rows: a batch is never cut by what memory happens to be free, so that it gives the same numbers again


def explainer_of(model: Path, provider: str) -> Explainer:
    """A session of the run's compiled file that gives the same numbers on every machine: one thread for each batch.

    Several batches at once use as many processors as well as several threads for one do, without waiting for each other
    in every operator, and nothing depends on how many there are.
    """
    face = json.loads(metadata(model).get("onnxlrp.interface", "{}"))  # an Explainer says what is wrong with the file
    independent = face.get("rows", {}).get("independent", False)
    return Explainer(model, providers=provider, threads=1, batch_size=UNCUT if independent else None)


def source_of(data: str, explainer: Explainer, manifest: Mapping[str, Any]) -> Source:
    """The data set, read as the model's inputs want it."""
    face, started = explainer.face, manifest["options"]["start"] is not None  # then relevance_out is made of the output
    wanted = {n: explainer.inputs[n] for n in explainer.required if not (started and n == face["initial"])}
    how, columns = Preprocessing(**manifest["preprocessing"]), Columns(**manifest["columns"])
    asked = manifest["options"]["target"]
    if not face["target"] and (columns.target is not None or asked is not None):
        raise InputError("the model's output is not explained by class: leave out --target and --target-column")
    by_row = bool(face["target"]) and asked is None  # a column called `target` of a model without classes is its own
    return open_data(data, wanted, how, columns=columns, gaps=face["gaps"], classes=face["classes"], targets=by_row)


def columns_of(explanation: Explanation, rows: int) -> dict[str, Column]:
    """The arrays of the output, from the explanation of a row, or of as many as the model takes. Raises InputError."""
    columns = {}
    for name, (tensor, v) in _arrays(explanation).items():
        if v.dtype.kind not in "fiubO":
            raise InputError(f"'{tensor}' is {v.dtype}, which a run does not write: name another output (--output)")
        if len(v) != rows:
            shape = "×".join(map(str, v.shape))
            raise InputError(f"'{tensor or name}' of {rows} row(s) is {shape}: it does not have one row for each of the batch")
        columns[name] = Column(v.dtype.str[1:], v.shape[1:], tensor)
    return {**columns, "conservation_error": Column("f4", ()), "explained": Column("b1", ())}


def _arrays(e: Explanation) -> dict[str, tuple[str, Array]]:
    """Columns by name, each with the tensor it is of: relevance first."""
    many = len(e.relevances) > 1
    found = {f"relevance.{t}" if many else "relevance": (t, r) for t, r in e.relevances.items()}
    found |= {f"relevance.{t}": (t, r) for t, r in e.layers.items()}
    found |= {f"relevance_tokens.{t}": (t, r) for t, r in e.tokens.items()}
    if not isinstance(e.output, np.ndarray):
        raise InputError(f"'{e.output_name}' is a sequence, which a run does not write: name another output (--output)")
    found["output"] = (e.output_name, e.output)
    if e.target is not None:
        found["target"] = ("", e.target)
    out: dict[str, tuple[str, Array]] = {}
    for name, (tensor, v) in found.items():
        name = UNSAFE.sub(".", name)
        while name in out:
            name += "_"
        out[name] = tensor, np.atleast_1d(v.astype(object) if v.dtype.kind in "US" else v)
    return out


@dataclass
class _Block:
    """What one batch gave: rows that were explained, at their positions in it, and why the others were not."""

    rows: Rows
    at: Array
    values: dict[str, Array] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Array]:
        keep = np.isin(self.rows.good, self.at)
        return {name: v[keep] for name, v in self.rows.feed.items() if len(v) == len(keep)}


class Worker:
    """One session that runs several batches at once, one reader, one writer."""

    def __init__(self, job: Job, explainer: Explainer, source: Source, threads: int) -> None:
        manifest = job.manifest
        self.job, self.explainer, self.source, self.threads = job, explainer, source, threads
        self.target, self.start = manifest["options"]["target"], manifest["options"]["start"]
        self.columns = {name: Column(c["dtype"], tuple(c["shape"]), c["tensor"]) for name, c in manifest["output"].items()}
        self.store = store_of(job, self.columns)
        self.batch = int(manifest["run"]["batch"])

    @classmethod
    def open(cls, job: Job, data: str, threads: int) -> Worker:
        """On a machine that knows no more than where the files are."""
        explainer = explainer_of(job.model, job.manifest["run"]["provider"])
        return cls(job, explainer, source_of(data, explainer, job.manifest), threads)

    def run(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Compute, write and mark parts, in order; gives the facts of each once it is on disk.

        At any time as many batches are read ahead as there are threads, as many run, one part is assembled, one is written.
        """
        pools = [ThreadPoolExecutor(count, name) for name, count in (("read", 1), ("run", self.threads), ("write", 1))]
        reader, runner, writer = pools
        batches = ((part, at) for part in parts for at in range(part.start, part.stop, self.batch))
        read = _ahead(self._read, batches, reader, self.threads)
        results = self._parts(_ahead(self._explain, read, runner, self.threads))
        try:
            yield from _ahead(self._write, results, writer, 1)
        finally:
            for pool in pools:  # after an error, nothing is begun any more, and what is not written is not waited for
                pool.shutdown(wait=pool is writer, cancel_futures=True)

    def _read(self, batch: tuple[Part, int]) -> tuple[Part, Rows]:
        part, at = batch
        return part, self.source.read(at, min(at + self.batch, part.stop))

    def _parts(self, batches: Iterable[tuple[Part, _Block]]) -> Iterator[tuple[Result, dict[str, Any]]]:
        blocks: list[_Block] = []
        for part, block in batches:
            blocks.append(block)
            if block.rows.stop == part.stop:
                yield self._assemble(part, blocks)
                blocks = []

    def _write(self, done: tuple[Result, dict[str, Any]]) -> dict[str, Any]:
        result, facts = done
        if (already := self.job.facts(result.part)) is not None:  # by another machine, when this one was held to be dead
            return already
        self.store.write(result)
        self.job.mark(result.part, facts)
        return facts

    # rows ------------------------------------------------------------------------------------------------------------

    def _explain(self, batch: tuple[Part, Rows]) -> tuple[Part, _Block]:
        part, rows = batch
        for text in rows.unreadable.values():
            blame(text)
        block = self._run(rows)
        block.reasons |= rows.unreadable
        if not self.store.wants_inputs:  # a part holds many batches
            block.rows = replace(rows, feed={})
        return part, block

    def _run(self, rows: Rows) -> _Block:
        """Explain the rows that could be read together; one by one where that fails, to find which of them it is."""
        if not len(rows.good):
            return _Block(rows, rows.good)
        try:
            return self._finite(rows, self._values(rows))
        except InputError as error:
            blame(str(error))
            if len(rows.good) == 1:
                return _Block(rows, rows.good[:0], reasons={int(rows.good[0]): str(error)})
        alone = [self._run(row(rows, i)) for i in range(len(rows.good))]
        found = [block for block in alone if len(block.at)]
        values = {name: np.concatenate([b.values[name] for b in found]) for name in (found[0].values if found else ())}
        at = np.concatenate([b.at for b in alone])
        return _Block(rows, at, values, {i: text for b in alone for i, text in b.reasons.items()})

    def _values(self, rows: Rows) -> dict[str, Array]:
        count, short = len(rows.good), self.batch - len(rows.good)
        feed: dict[str, Array] = dict(rows.feed)
        target = self.target if rows.target is None else rows.target.tolist()
        if short and not self.job.manifest["run"]["free"]:  # the model wants so many rows: the last one again
            feed = {name: np.concatenate([v, np.repeat(v[-1:], short, 0)]) for name, v in feed.items()}
            target = target + target[-1:] * short if isinstance(target, list) else target
        e = self.explainer.quietly(feed, target, self.start)
        rows_of_batch = count + (0 if self.job.manifest["run"]["free"] else short)
        values = {name: v for name, (_, v) in _arrays(e).items()}
        with np.errstate(over="ignore"):
            values["conservation_error"] = (e.ratio - 1).astype(np.float32)
        for name, v in values.items():
            if len(v) != rows_of_batch:
                raise InputError(f"its '{name}' does not have one row for each of the batch: run it with --batch 1")
        values = {name: v[:count] for name, v in values.items()}
        for name, v in values.items():
            if v.shape[1:] != self.columns[name].shape:
                sizes = ["×".join(map(str, s)) for s in (v.shape[1:], self.columns[name].shape)]
                raise InputError(f"its {name} has the shape {sizes[0]}, the first row's {sizes[1]}")
        return values

    def _finite(self, rows: Rows, values: dict[str, Array]) -> _Block:
        """Set aside the rows whose relevance is not finite: no picture and no number of them means anything."""
        r = [v.reshape(len(rows.good), -1) for name, v in values.items() if name.startswith("relevance")]
        good = np.logical_and.reduce([np.isfinite(v).all(1) for v in r])
        bad = "its relevance has values that are not finite; `onnxlrp check` names the layer"
        reasons = {int(i): bad for i in rows.good[~good]}
        return _Block(rows, rows.good[good], {name: v[good] for name, v in values.items()} if reasons else values, reasons)

    def _assemble(self, part: Part, blocks: list[_Block]) -> tuple[Result, dict[str, Any]]:
        """The arrays of a part, with gaps for rows that were set aside, and what the run keeps of it."""
        values = {name: column.empty(part.stop - part.start) for name, column in self.columns.items()}
        for block in blocks:
            at = block.rows.start - part.start + block.at
            values["explained"][at] = True
            for name, v in block.values.items():
                values[name][at] = v
        error = values["conservation_error"]
        given = [block.inputs for block in blocks if len(block.at)] if self.store.wants_inputs else []
        inputs = {name: np.concatenate([g[name] for g in given]) for name in (given[0] if given else ())}
        ids = [name for block in blocks for name in block.rows.ids]
        aside = {block.rows.start + i: text for block in blocks for i, text in block.reasons.items()}
        facts = {
            "rows": part.stop - part.start,
            "aside": [[row, ids[row - part.start], one_line(ValueError(aside[row]))] for row in sorted(aside)],
            "outside": int(((error < -0.5) | (error > 1)).sum()) if self.explainer.conserves else 0,  # as an Explainer warns
        }
        return Result(part, ids, values, inputs), facts


def blame(text: str) -> None:
    """Raises InputError where the machine is at fault, and not the row: it must not be set aside."""
    if MACHINE.search(text):
        raise InputError(f"{text}. No row is at fault: --resume goes on when that is mended")


def row(rows: Rows, i: int) -> Rows:
    """One of the rows that could be read, alone."""
    feed = {name: v[i : i + 1] for name, v in rows.feed.items()}
    target = None if rows.target is None else rows.target[i : i + 1]
    return Rows(rows.start, rows.stop, rows.ids, rows.good[i : i + 1], feed, target, {})


def _ahead(make: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor, depth: int) -> Iterator[R]:
    """make(item) in order, each begun up to `depth` items before it is asked for."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(make, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
