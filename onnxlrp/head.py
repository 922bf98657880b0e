"""Where relevance starts: which tensor is explained, along which axis its classes lie, and the initial relevance."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import constants_of, producer
from .emit import Emit
from .errors import CompositeError, UnsupportedOp
from .expansions.ml import unread
from .facts import is_float
from .groups import quantize, spelled_sigmoid
from .tensor import Tensor, where

__all__ = ["Head", "find_head", "initial_relevance"]

SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")
LABELS = ("ArgMax", "ZipMap", "QuantizeLinear")  # what makes labels or codes of scores
AXES = {"Softmax": -1, "LogSoftmax": -1, "ArgMax": 0}  # operators that say where the classes lie, and their default
TRANSPARENT = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "LabelEncoder")
MASK = "attention_mask"  # the name that exporters give to what marks a text's tokens among its padding
PICKS = ("ArrayFeatureExtractor", "Gather")
SPELLED = ("Concat", "Reciprocal", "Div")  # what a Sigmoid may be spelled with, or its outputs put together
COPIES = ("Slice", "Gather", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity")


@dataclass(frozen=True)
class Head:
    """The explained tensor. output: the model output that it stands for; stripped: operators left out at the end."""

    tensor: str
    output: str
    rank: int
    class_axis: int | None
    why: str
    stripped: tuple[str, ...] = ()


def find_head(graph: gs.Graph, output: str | None, class_axis: int | None) -> Head:
    """Output 0 unless named, without a final Softmax, LogSoftmax, Sigmoid, ArgMax, ZipMap or label cast."""
    names = [o.name for o in graph.outputs]
    if output is None:
        output = names[0]
    tensors = {t.name: t for n in graph.nodes for t in n.outputs}
    if output in names and output not in tensors:
        raise UnsupportedOp(f"output '{output}' is an input itself, so nothing explains it; name another output (output=)")
    if output not in tensors:
        near_name = difflib.get_close_matches(output, [*names, *tensors], 1)
        hint = f"did you mean '{near_name[0]}'?" if near_name else f"the model has {', '.join(names)}"
        raise CompositeError(f"output: no output is called '{output}'; {hint}")
    t, stripped = _strip(graph, tensors[output])
    node = producer(t)
    _refuse_unread(t)
    if not is_float(t):
        raise UnsupportedOp(
            f"output '{output}' is {tensors[output].dtype}, and no scores were found behind node '{node.name}' ({node.op}); "
            f"name another output (output=): {', '.join(names)}"
        )
    if t.shape is None:
        raise UnsupportedOp(f"output '{output}' of node '{node.name}' ({node.op}) has an unknown rank; input_shapes= may help")
    rank = len(t.shape)
    if class_axis is not None:
        if not -rank <= class_axis < rank:
            raise CompositeError(f"class_axis={class_axis}: '{t.name}' has {rank} axes")
        return Head(t.name, output, rank, class_axis % rank, "as asked for", stripped)
    axis = None if rank <= 1 else rank - 1 if rank == 3 else 1
    why = "rank <= 1: every value" if axis is None else "last axis, rank 3" if rank == 3 else f"axis 1, rank {rank}"
    user = next((n for n in t.outputs if n.op in AXES and n.op in stripped), None)
    if axis is not None and user is not None:  # it says itself where the classes lie (channels last, for example)
        own = int(user.attrs.get("axis", AXES[user.op])) % rank
        axis, why = own, why if own == axis else f"the axis of the {user.op}"
    return Head(t.name, output, rank, axis, why, stripped)


def _refuse_unread(t: gs.Tensor) -> None:
    """Raises UnsupportedOp where the operator that writes t, or one that leaves its rank unknown, has no reading."""
    found, waiting = None, [t]
    for x in waiting:
        node = producer(x)
        if node is not None and (because := unread(node)) is not None:
            found = f"node '{node.name}': operator {node.domain}::{node.op} has no reading, {because}"
        if node is not None and x.shape is None:
            names = {y.name for y in waiting}
            waiting += [y for y in node.inputs if y.shape is None and y.name not in names]
    if found is not None:  # the first one on the way from the input
        raise UnsupportedOp(found)


def _strip(graph: gs.Graph, out: gs.Tensor) -> tuple[gs.Tensor, tuple[str, ...]]:
    """The logits behind an output; the output itself when there is nothing to strip."""
    best, t, fixed = out, out, constants_of(graph)
    stripped: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    shares = False
    while t.inputs:
        node = t.inputs[0]
        if node.op in SQUASHING or node.op in LABELS:
            t = node.inputs[0]
            seen = (*seen, node.op)
            best, stripped = t, seen
            if node.op in SQUASHING:
                break
        elif (parts := _normalised(node)) is not None:
            t, seen, shares = parts, (*seen, node.op), True
        elif node.op == "Exp" and (scores := _exponent(node.inputs[0], shares)) is not None:
            best, stripped = scores, (*seen, "Softmax")
            break
        elif node.op in PICKS:
            if node.inputs[0].name not in fixed:
                break  # values of the network, not a list of labels
            t = node.inputs[1]  # a label picked by its index: follow the index
        elif node.op in TRANSPARENT:
            t = node.inputs[0]
        elif (steps := quantize(node, (), (), {})) is not None:
            t = steps.inputs[0]
        elif (logits := _logits(graph, t, {}) if node.op in SPELLED else None) is not None:
            return logits, (*seen, "Sigmoid")
        else:
            break
    cast = producer(best)
    if cast is not None and cast.op == "Cast" and is_float(best) and is_float(cast.inputs[0]):
        best = cast.inputs[0]  # relevance is float32, whatever the model's output is
    return best, stripped


def _normalised(node: gs.Node) -> gs.Tensor | None:
    """p where the node is p / Σ p, which changes the scale of a row only; what guards against Σ p = 0 is looked through."""
    if node.op == "LpNormalization":
        return node.inputs[0] if int(node.attrs.get("p", 2)) == 1 else None
    if node.op != "Div":
        return None
    guarded = producer(node.inputs[0])
    parts = [node.inputs[0]]
    if guarded is not None and guarded.op == "Add" and any(_is_flag(t) for t in guarded.inputs):
        parts += [t for t in guarded.inputs if not _is_flag(t)]
    summed = _summed(node.inputs[1], 3)
    return next((p for p in parts if p.name in summed), None)


def _exponent(t: gs.Tensor, shares: bool) -> gs.Tensor | None:
    """z where exp(t) is Softmax(z): t is z − log Σ exp z; or z or z − max z, when the exponentials are divided by their sum."""
    sub = producer(t)
    if sub is not None and sub.op == "Sub":
        z, over = sub.inputs[0], sub.inputs[1]
        while (node := producer(over)) is not None and node.op in TRANSPARENT:
            over = node.inputs[0]
        if node is not None and node.inputs[0] is z and (node.op == "ReduceLogSumExp" or (shares and node.op == "ReduceMax")):
            return z
    return t if shares else None


def _is_flag(t: gs.Tensor) -> bool:
    cast = producer(t)
    return cast is not None and cast.op == "Cast" and cast.inputs[0].dtype == bool


def _summed(t: gs.Tensor, depth: int) -> set[str]:
    """Tensors whose sum t is, up to what is added where the sum is 0."""
    node = producer(t)
    if node is None or not depth:
        return set()
    if node.op in ("ReduceSum", "ReduceL1"):
        return {node.inputs[0].name}
    return {name for x in node.inputs for name in _summed(x, depth - 1)} if node.op in ("Add", "Max", "Where") else set()


def _logits(graph: gs.Graph, t: gs.Tensor, done: dict[str, gs.Tensor]) -> gs.Tensor | None:
    """z where t is Sigmoid(z) seen through copies of it and 1 − p: Concat(1 − p, p) is that of (−z, z)."""
    node = producer(t)
    if node is None or t.name in done:
        return done.get(t.name)
    inputs: list[gs.Tensor | None] = []
    if node.op == "Sigmoid":
        return node.inputs[0]
    if (spelled := spelled_sigmoid(node)) is not None:
        op, inputs = "Neg", [spelled[0]]
    elif node.op == "Sub" and isinstance(node.inputs[0], gs.Constant) and np.all(node.inputs[0].values == 1):
        op, inputs = "Neg", [_logits(graph, node.inputs[1], done)]
    elif node.op == "Concat":
        op, inputs = "Concat", [_logits(graph, x, done) for x in node.inputs]
    elif node.op in COPIES:
        op, inputs = node.op, [_logits(graph, node.inputs[0], done), *node.inputs[1:]]
    if not inputs or any(x is None for x in inputs):
        return None
    name = f"{node.name}/logits"
    done[t.name] = gs.Variable(name, np.float32, t.shape)
    graph.nodes.append(gs.Node(op, name, {} if op == "Neg" else dict(node.attrs), inputs, [done[t.name]]))
    return done[t.name]


def initial_relevance(
    e: Emit, head: Head, init: str, target: Tensor | None, given: Tensor | None, position: int | tuple[int, ...] | None
) -> Tensor:
    """The relevance of the explained tensor: its own value ("logit") or 1 at the target class of each position.

    A target outside [-1, C) is an error on the CPU (Gather refuses it) and NaN elsewhere, never a map of zeros.
    """
    y = e.tensors[head.tensor]
    if given is not None:
        if position is not None:
            raise CompositeError("position= says nothing with init='given': let relevance_out be 0 at the other positions")
        return given
    value: Tensor = y if init == "logit" else e.ones_like(y)
    if head.class_axis is not None:
        assert target is not None
        assert y.shape is not None
        axis, rank = head.class_axis, head.rank
        classes = y.shape[axis]
        table_size = e.op("Add", e.dim(y, axis), e.ints(2), shape=(1,), dtype=np.int64)
        count = e.ints(classes + 2) if isinstance(classes, int) else table_size
        # row 0 is never asked for: a runtime whose Gather gives 0 out of range is found out by it
        table = e.arange(count)
        shifted = e.op("Add", target, e.ints(2), shape=(None,), dtype=np.int64)
        legal = e.elementwise("Greater", shifted, e.array(0, np.int64), dtype=bool)
        asked = e.op("Where", legal, shifted, e.array(np.iinfo(np.int32).max, np.int64), shape=(None,), dtype=np.int64)
        row = e.op("Gather", table, asked, shape=(None,), dtype=np.int64, axis=0)
        row = e.reshape(row, -1, *[1] * (rank - 1), shape=(None, *[1] * (rank - 1)))
        wrong = e.elementwise("Equal", row, e.array(0, np.int64), dtype=bool)
        best = e.op("ArgMax", y, shape=(*y.shape[:axis], 1, *y.shape[axis + 1 :]), dtype=np.int64, axis=axis, keepdims=1)
        default = e.elementwise("Equal", row, e.array(1, np.int64), dtype=bool)
        chosen = e.elementwise("Where", default, best, e.elementwise("Sub", row, e.array(2, np.int64)), dtype=np.int64)
        hit = e.elementwise("Equal", along(e, e.arange(e.dim(y, axis), classes), axis, rank), chosen, dtype=bool)
        value = where(wrong, float("nan"), where(hit, value, 0.0))
        value.shape = y.shape
    marked = _marked(e, head, y)
    if marked is not None:  # padding is not explained
        value = where(marked, value, 0.0)
        if position in (-1, (-1,)):
            return where(_last(e, marked), value, 0.0)
    return value if position is None else _at(e, value, head, position)


def _marked(e: Emit, head: Head, y: Tensor) -> Tensor | None:
    """Positions that the input attention_mask marks, (N,T,1); None for models without one of the output's length.

    Two lengths with different names are compared when the model runs: all positions count where they differ. In a model
    with an input for its decoder, the mask is the encoder's.
    """
    mask = e.tensors.get(MASK)
    if mask is None or mask.var.inputs or mask.shape is None or len(mask.shape) != 2 or head.rank != 3 or y.shape is None:
        return None
    ours, theirs = mask.shape[1], y.shape[1]
    known = isinstance(ours, int) and isinstance(theirs, int)
    if head.class_axis != 2 or (known and ours != theirs) or any(name.startswith("decoder_") for name in e.tensors):
        return None
    marked = e.cast(mask, bool)
    if ours != theirs or ours is None:
        own, wanted = e.dim(mask, 1), e.dim(y, 1)
        last = e.op("Sub", own, e.ints(1), shape=(1,), dtype=np.int64)
        at = e.elementwise("Min", e.arange(wanted), last, dtype=np.int64)
        marked = e.op("Gather", marked, at, shape=(mask.shape[0], theirs), axis=1)
        other = e.elementwise("Not", e.elementwise("Equal", own, wanted, dtype=bool), dtype=bool)
        marked = e.elementwise("Or", other, marked, dtype=bool)
    return e.op("Unsqueeze", marked, e.ints(2), shape=(mask.shape[0], theirs, 1))


def _last(e: Emit, marked: Tensor) -> Tensor:
    """Where the last marked position of each row is."""
    every = along(e, e.arange(e.dim(marked, 1)), 1, 3)
    at = e.elementwise("Where", marked, every, e.array(-1, np.int64), dtype=np.int64)
    return e.elementwise("Equal", at, e.reduce("ReduceMax", at, [1]), dtype=bool)


def _at(e: Emit, r: Tensor, head: Head, position: int | tuple[int, ...]) -> Tensor:
    """r at one position, 0 at the others; the axes are all but the batch and the class axis."""
    axes = [a for a in range(head.rank) if a not in (0, head.class_axis)]
    index: list[Any] = list(position) if isinstance(position, (tuple, list)) else [position]
    if not all(isinstance(i, Integral) for i in index):
        raise CompositeError(f"position={position!r}: give an integer, or a tuple with one for each of the axes {axes}")
    if len(index) != len(axes):
        raise CompositeError(
            f"position={position!r}: '{head.tensor}' has {len(axes)} position axes {axes}; give one index each"
        )
    for axis, i in zip(axes, map(int, index), strict=True):
        size = r.shape[axis] if r.shape is not None else None
        if isinstance(size, int) and not -size <= i < size:
            raise CompositeError(f"position={position!r}: axis {axis} of '{head.tensor}' has {size} positions")
        every = e.arange(e.dim(r, axis), size)
        wanted = e.ints(i) if i >= 0 else e.op("Add", e.dim(r, axis), e.ints(i), shape=(1,), dtype=np.int64)
        # out of range the runtime refuses; one that takes 0 instead is found out, so that no map is silently empty
        at = e.op("Gather", every, e.ints(i), shape=(1,), dtype=np.int64, axis=0)
        r = where(along(e, e.elementwise("Equal", every, at, dtype=bool), axis, head.rank), r, 0.0)
        if not isinstance(size, int):
            r = where(e.elementwise("Equal", at, wanted, dtype=bool), r, float("nan"))
    return r


def along(e: Emit, line: Tensor, axis: int, rank: int) -> Tensor:
    """A vector laid along one axis of a tensor of that rank."""
    size = line.shape[0] if line.shape is not None else None
    rest = rank - axis - 1
    return e.reshape(line, *[1] * axis, -1, *[1] * rest, shape=(*[1] * axis, size, *[1] * rest))
