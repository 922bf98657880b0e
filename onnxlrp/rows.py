"""Batches in parts: which models allow it, what a row costs in memory, how inputs are cut and results joined."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .errors import InputError
from .facts import Facts
from .outputs import Interface

__all__ = ["joined", "part_size", "parts", "row_bytes", "rows_of"]

Array = np.ndarray
SMALL = 2**26  # bytes: an estimate below it needs no look at the machine's memory
SHARE = 0.25  # of the memory that is free
FACTOR = 2 * 4  # bytes of a run per element of the forward pass: float32, and relevance beside it (measured: 1.0 to 1.4 × 4)
ALONG = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "CumSum": None, "TopK": -1, "LpNormalization": -1, "CumProd": None}


# ------------------------------------------------------------------------------------------------- when compiling


def rows_of(graph: gs.Graph, facts: Facts, face: Interface, explained: Sequence[str], given: bool) -> dict[str, Any]:
    """What the runtime must know of the batch axis, for the interface of the compiled file.

    explained: tensors that are returned beside the outputs. given: whether the initial relevance is an input.
    inputs: those that lead with it. masks: its axis in each mask. stuck: an output that does not lead with it, or "".
    independent: whether no tensor is known to mix rows. memory: {names of free axes: elements} of the forward pass.
    """
    front = {t.name: t.shape[0] for t in graph.inputs if t.shape}
    names = {d for d in front.values() if not isinstance(d, int)}
    tensors = {t.name: t for n in graph.nodes for t in n.outputs} | {t.name: t for t in graph.inputs}
    shown = dict.fromkeys([*(o.name for o in graph.outputs), *face.relevance, *face.layers, *face.tokens, *explained])
    stuck = [t for t in shown if t not in tensors or not _leads(tensors[t], facts, names)]
    alone = (
        len(names) == 1 and len(front) == len(graph.inputs) and None not in names and not set(map(type, front.values())) - {str}
    )
    return {
        "inputs": [t for t, d in front.items() if d in names] + ([face.seed.name] if given and face.seed is not None else []),
        "masks": {face.masks[t].name: facts.batch.get(t) for t in face.masks},
        "stuck": stuck[0] if stuck else "",
        "independent": alone and not stuck and _independent(graph, facts, next(iter(names))),
        "memory": _memory(graph),
    }


def _leads(t: gs.Tensor, facts: Facts, names: set[Any]) -> bool:
    """Whether the first axis is the batch; in a model without a name for it, whether nothing says another thing."""
    if not t.shape or isinstance(t.shape[0], int):
        return False
    unnamed = t.shape[0] is None or t.shape[0].startswith("unk__")  # by shape inference
    return facts.batch.get(t.name) == 0 or t.shape[0] in names or (None in names and unnamed)


def _independent(graph: gs.Graph, facts: Facts, batch: str) -> bool:
    """Whether the batch axis can be followed to every tensor that depends on the inputs, and nothing works along it."""
    touched = {t.name for t in graph.inputs}
    for node in graph.nodes:
        if node.op in ("Shape", "Size") or not any(t.name in touched for t in node.inputs):
            continue
        if any(isinstance(v, gs.Graph) for v in node.attrs.values()):
            return False
        for t in (t for t in node.outputs if t.name):
            if facts.batch.get(t.name) is None or t.shape is None or list(t.shape).count(batch) > 1:
                return False
            touched.add(t.name)
        axis = node.attrs.get("axis", ALONG.get(node.op))
        if node.op in ALONG and (axis is None or axis % len(node.outputs[0].shape) == facts.batch[node.outputs[0].name]):
            return False
    return True


def _memory(graph: gs.Graph) -> dict[str, int]:
    """Elements of the forward pass by the free axes that multiply them: {"batch": 3000, "batch seq": 12}."""
    found: dict[str, int] = {}
    for t in (t for n in graph.nodes for t in n.outputs):
        if t.shape is not None and None not in t.shape and any(isinstance(d, str) for d in t.shape):
            key = " ".join(sorted(d for d in t.shape if isinstance(d, str)))
            found[key] = found.get(key, 0) + math.prod(d for d in t.shape if isinstance(d, int))
    return found


# --------------------------------------------------------------------------------------------------- when running


def part_size(facts: Mapping[str, Any], feed: Mapping[str, Array], axes: Mapping[str, Sequence[Any]], asked: int | None) -> int:
    """Rows per run, 0 for all of them at once. asked: by the caller; None: as many as fit into the memory that is free.

    axes: {input: declared shape}. Raises InputError when the caller asks for what the model does not allow.
    """
    if asked is None and not facts["independent"]:
        return 0
    uncut = [name for name, axis in facts["masks"].items() if axis is None and name in feed and feed[name].size > 1]
    counts = {len(feed[name]) for name in facts["inputs"] if name in feed}
    rows = max(counts, default=0)
    if asked is None:
        return 0 if uncut else _fitting(facts["memory"], feed, axes, rows)
    if not counts:
        raise InputError("batch_size: no input of the model has a free first axis, so that its batch cannot be split")
    if facts["stuck"]:
        raise InputError(f"batch_size: '{facts['stuck']}' does not have the batch as its first axis: run it as one batch")
    if uncut:
        raise InputError(f"batch_size: the batch axis of '{uncut[0]}' is not known: run it as one batch")
    if len(counts) > 1:
        raise InputError(
            f"batch_size: inputs have {' and '.join(map(str, sorted(counts)))} rows; a batch needs as many of each"
        )
    return asked if rows > asked else 0


def _fitting(memory: Mapping[str, int], feed: Mapping[str, Array], axes: Mapping[str, Sequence[Any]], rows: int) -> int:
    if rows < 2:
        return 0
    used = row_bytes(memory, feed, axes)
    if used < SMALL:
        return 0
    free = free_memory()
    return 0 if free is None or used <= SHARE * free else max(1, int(rows * SHARE * free / used))


def row_bytes(memory: Mapping[str, int], feed: Mapping[str, Array], axes: Mapping[str, Sequence[Any]]) -> int:
    """Bytes that a run on these rows takes, about; 0 where the shapes do not tell."""
    sizes = {d: n for name, a in feed.items() for d, n in zip(axes[name], a.shape, strict=False) if isinstance(d, str)}
    count: int = sum(n * math.prod(sizes.get(d, 1) for d in key.split()) for key, n in memory.items())
    return FACTOR * count


def free_memory() -> int | None:
    """Bytes that can be had without swapping, within a container's limit; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # not Linux, or no limit ("max")
        pass
    return max(min(found), 0) if found else None


def parts(facts: Mapping[str, Any], feed: Mapping[str, Array], size: int, target: str) -> Iterator[dict[str, Array]]:
    """The feed, `size` rows at a time; what has no batch axis stays whole."""
    rows = max(len(feed[name]) for name in facts["inputs"])
    axes = dict.fromkeys([*facts["inputs"], target], 0) | facts["masks"]
    cut = {name: axis for name, axis in axes.items() if axis is not None and name in feed and feed[name].shape[axis] == rows}
    for start in range(0, rows, size):
        some = slice(start, start + size)
        yield {
            name: np.ascontiguousarray(a[(slice(None),) * cut[name] + (some,)]) if name in cut else a
            for name, a in feed.items()
        }


def joined(results: Sequence[Sequence[Any]], names: Sequence[str], size: int, summed: str) -> list[Any]:
    """One result from those of the parts: rows one after the other; summed: the output that is a sum over rows."""
    out: list[Any] = []
    for name, values in zip(names, zip(*results, strict=True), strict=True):
        if name != summed and any(len(v) != size for v in values[:-1]):
            raise InputError(f"batch_size: '{name}' does not have one row for each of the batch: run it as one batch")
        out.append(np.sum(values, axis=0) if name == summed else np.concatenate(values))
    return out
