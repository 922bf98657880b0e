"""Operators as others that compute the same: x for a node of the graph, its inputs a, b, …; exact unless it says otherwise.

Each function writes nodes of its Rewriter, the last of which writes the node's own output, and says whether it could:
types and ranks that it does not know leave the node as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..constants import producer
from .pooling import indices, winners
from .rewriter import BOOL, FLOAT, INT64, TYPES, Rewriter, Size

__all__ = ["REPLACEMENTS", "Replace"]

Replace = Callable[[gs.Node, Rewriter], bool]
FLOATS = (FLOAT, int(TensorProto.FLOAT16))


def identity(node: gs.Node, g: Rewriter) -> bool:
    """x in its own shape: a Reshape moves no data."""
    x = node.inputs[0]
    shape, name = g.shape_of(x), f"{node.name}/same"
    if g.type_of(x) not in TYPES:
        return False
    if shape is not None and sum(d is None for d in shape) <= 1 and 0 not in shape:
        g.reshape(name, x, *(-1 if d is None else d for d in shape), out=node.outputs[0])
    else:
        g.op("Reshape", name, x, g.op("Shape", f"{name}/sizes", x), out=node.outputs[0], allowzero=1)
    return True


def extremum(node: gs.Node, g: Rewriter) -> bool:
    """min(a, b) = b where a ≥ b, else a, which keeps a NaN in a; min(a, 0) = −max(−a, 0); max(a, 0) = ReLU."""
    y = node.outputs[0]
    operands = sorted(node.inputs, key=lambda t: isinstance(t, gs.Constant))  # a NaN stays where it can be: not in a constant
    if g.type_of(operands[0]) not in TYPES:
        return False
    if len(operands) == 1:
        return identity(node, g)
    total, low = operands[0], node.op == "Min"
    if len(operands) == 2 and _is_zero(operands[1], g.shape_of(total)) and g.type_of(total) in FLOATS:
        _rectified(node, total, low, g)
        return True
    for i, b in enumerate(operands[1:]):
        beaten = g.op("GreaterOrEqual" if low else "LessOrEqual", f"{node.name}/beaten", total, b)
        last = i == len(operands) - 2
        total = g.op("Where", f"{node.name}/chosen", beaten, b, total, out=y if last else None)
    return True


def _is_zero(t: gs.Tensor, beside: Sequence[int | None] | None) -> bool:
    """Whether it is one number, 0, that leaves the shape of the other operand as it is."""
    single = isinstance(t, gs.Constant) and t.values.size == 1 and not t.values.any()
    return single and len(t.shape) <= len(beside or ())


def _rectified(node: gs.Node, a: gs.Tensor, low: bool, g: Rewriter) -> None:
    if not low:
        g.op("Relu", f"{node.name}/positive", a, out=node.outputs[0])
        return
    flipped = g.op("Relu", f"{node.name}/positive", g.op("Neg", f"{node.name}/flipped", a))
    g.op("Neg", f"{node.name}/negative", flipped, out=node.outputs[0])


def size(node: gs.Node, g: Rewriter) -> bool:
    """Elements of x: the length of x as a vector."""
    if g.type_of(node.inputs[0]) not in TYPES:
        return False
    line = g.op("Shape", f"{node.name}/length", g.flat(f"{node.name}/line", node.inputs[0]))
    g.op("Squeeze", f"{node.name}/count", line, g.ints(0), out=node.outputs[0])
    return True


def logical(node: gs.Node, g: Rewriter) -> bool:
    """a ∧ b = [a·b ≠ 0], a ∨ b = [a + b ≠ 0], a ⊻ b = [a − b ≠ 0], in float32."""
    a, b = (g.op("Cast", f"{node.name}/number", t, to=FLOAT) for t in node.inputs)
    both = g.op({"And": "Mul", "Or": "Add", "Xor": "Sub"}[node.op], f"{node.name}/both", a, b)
    g.op("Cast", f"{node.name}/flag", both, to=BOOL, out=node.outputs[0])
    return True


def sign(node: gs.Node, g: Rewriter) -> bool:
    """sign(x) = [x > 0] − [x < 0]."""
    x = node.inputs[0]
    if g.type_of(x) not in TYPES:
        return False
    zero, kind = g.numbers(0, x), g.type_of(x)
    up, down = (g.op("Cast", f"{node.name}/one", g.op(o, f"{node.name}/is", x, zero), to=kind) for o in ("Greater", "Less"))
    g.op("Sub", f"{node.name}/sign", up, down, out=node.outputs[0])
    return True


def eye_like(node: gs.Node, g: Rewriter) -> bool:
    """[i + k = j] for row i and column j of a matrix like x."""
    x = node.inputs[0]
    kind = int(node.attrs.get("dtype", g.type_of(x)))
    if len(g.shape_of(x) or ()) != 2 or kind not in TYPES:
        return False
    rows, columns = (g.arange(f"{node.name}/{what}", g.dim(x, i)) for i, what in enumerate(("rows", "columns")))
    if node.attrs.get("k", 0):
        rows = g.op("Add", f"{node.name}/shifted", rows, g.ints(int(node.attrs["k"])))
    hit = g.op("Equal", f"{node.name}/diagonal", g.reshape(f"{node.name}/upright", rows, -1, 1), columns)
    g.op("Cast", f"{node.name}/eye", hit, to=kind, out=node.outputs[0])
    return True


def space_to_depth(node: gs.Node, g: Rewriter) -> bool:
    """(N,C,H·b,W·b) -> (N,C,H,b,W,b) -> (N,b,b,C,H,W) -> (N,b²·C,H,W)."""
    x, b, name = node.inputs[0], int(node.attrs["blocksize"]), node.name
    if len(g.shape_of(x) or ()) != 4:
        return False
    n, c, h, w = (g.dim(x, a) for a in range(4))
    h, w = (g.calculate("Div", f"{name}/blocks", d, b) for d in (h, w))
    apart = g.reshape(f"{name}/apart", x, n, c, h, b, w, b)
    turned = g.op("Transpose", f"{name}/turned", apart, perm=[0, 3, 5, 1, 2, 4])
    g.reshape(f"{name}/deep", turned, n, g.calculate("Mul", f"{name}/channels", c, b * b), h, w, out=node.outputs[0])
    return True


def rounded(node: gs.Node, g: Rewriter) -> bool:
    """⌊x⌋ + [x − ⌊x⌋ > ½], with ≥ where ⌊x⌋ is odd: halves go to the even neighbour."""
    x, name = node.inputs[0], node.name
    if g.type_of(x) != FLOAT:
        return False
    half, one = g.numbers(0.5, x), g.numbers(1, x)
    low = g.op("Floor", f"{name}/low", x)
    rest = g.op("Sub", f"{name}/rest", x, low)
    halved = g.op("Mul", f"{name}/halved", low, half)
    even = g.op("Equal", f"{name}/even", halved, g.op("Floor", f"{name}/whole", halved))
    over, least = (g.op(o, f"{name}/up", rest, half) for o in ("Greater", "GreaterOrEqual"))
    above, from_half = (g.op("Where", f"{name}/step", t, one, g.numbers(0, x)) for t in (over, least))
    step = g.op("Where", f"{name}/chosen", even, above, from_half)
    g.op("Add", f"{name}/rounded", low, step, out=node.outputs[0])
    return True


def remainder(node: gs.Node, g: Rewriter) -> bool:
    """rem(rem(a, b) + b, b) of integers, where rem(a, b) = a − (a ÷ b)·b has the sign of a and Mod that of b."""
    a, b = node.inputs
    if g.type_of(a) != INT64 or node.attrs.get("fmod", 0):
        return False

    def rem(t: gs.Tensor, out: gs.Tensor | None = None) -> gs.Tensor:
        times = g.op("Mul", f"{node.name}/times", g.op("Div", f"{node.name}/quotient", t, b), b)
        return g.op("Sub", f"{node.name}/remainder", t, times, out=out)

    rem(g.op("Add", f"{node.name}/shifted", rem(a), b), node.outputs[0])
    return True


def reduce_l1(node: gs.Node, g: Rewriter) -> bool:
    """Σ |x|."""
    size = g.op("Abs", f"{node.name}/size", node.inputs[0])
    g.op("ReduceSum", f"{node.name}/sum", size, *node.inputs[1:], out=node.outputs[0], **node.attrs)
    return True


def conv(node: gs.Node, g: Rewriter) -> bool:
    """Input channels that are 6, 9, 15, … filled up with zeros to a multiple of 4.

    For multiples of 3 but neither 3 nor of 4, windows of more than one position and whole fours of output channels, the
    WebGPU provider of onnxruntime-web 1.30.0 (`ort.webgpu`) convolves wrongly, by as much as the result; a rule that
    convolves the positive and the negative part of a picture in one Conv has 6.
    """
    x, w, *bias = node.inputs
    shape = g.shape_of(w)
    if shape is None or len(shape) < 3 or int(node.attrs.get("group", 1)) != 1:
        return False
    channels = shape[1]
    if channels is None or channels <= 3 or channels % 3 or channels % 4 == 0 or all(d == 1 for d in shape[2:]):
        return False
    after = [0] * (len(shape) + 1) + [-channels % 4] + [0] * (len(shape) - 2)
    x, w = (g.op("Pad", f"{node.name}/filled", t, g.ints(*after)) for t in (x, w))
    g.op("Conv", node.name, x, w, *bias, out=node.outputs[0], **node.attrs)
    return True


def pad_counts(node: gs.Node, g: Rewriter) -> bool:
    """Pad of integers that were cast to float64 for it: as integers."""
    before = producer(node.inputs[0])
    users = node.outputs[0].outputs
    if before is None or before.op != "Cast" or g.type_of(before.inputs[0]) != INT64:
        return False
    if g.type_of(node.inputs[0]) != TensorProto.DOUBLE or any(u.op != "Cast" or u.attrs["to"] != INT64 for u in users):
        return False
    attrs = {k: v for k, v in node.attrs.items() if v is not None}
    g.op("Pad", f"{node.name}/counts", before.inputs[0], *node.inputs[1:], out=node.outputs[0], **attrs)
    return True


# ---------------------------------------------------------------------------------------------------- places by number


def scatter_elements(node: gs.Node, g: Rewriter) -> bool:
    """Along the first axis, whole rows by ScatterND where an index is the same all along them; else element by element."""
    data, at, updates = node.inputs
    shape, taken = g.shape_of(data), g.shape_of(at)
    attrs = {"reduction": str(node.attrs.get("reduction", "none"))}
    if shape is None or taken is None or g.type_of(data) not in TYPES:
        return False
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    if winners(node, g):
        return True
    line = _line(at, axis, len(shape), g)
    if line is not None and _covers(node, shape, g.shape_of(updates), axis):
        _scatter_rows(node, line, axis, attrs, g)
        return True
    place = _place(node, data, at, axis, g)
    column = g.reshape(f"{node.name}/column", place, -1, 1)
    flat = (g.flat(f"{node.name}/line", t) for t in (data, updates))
    start, given = flat
    if len(shape) == 1:
        g.op("ScatterND", f"{node.name}/placed", start, column, given, out=node.outputs[0], **attrs)
        return True
    placed = g.op("ScatterND", f"{node.name}/placed", start, column, given, **attrs)
    g.reshape(f"{node.name}/laid", placed, *(g.dim(data, a) for a in range(len(shape))), out=node.outputs[0])
    return True


def _line(at: gs.Tensor, axis: int, rank: int, g: Rewriter) -> gs.Tensor | None:
    """The vector that indices repeat along all axes but one; None where they may differ."""
    grown = producer(at)
    if grown is None or grown.op != "Expand":
        return None
    inner = grown.inputs[0]
    shape = g.shape_of(inner)
    if shape is None or len(shape) != rank or any(d != 1 for a, d in enumerate(shape) if a != axis):
        return None
    return g.flat(f"{at.name}/line", inner)


def _covers(node: gs.Node, shape: Sequence[int | None], other: Sequence[int | None] | None, axis: int) -> bool:
    """Whether updates are as large as data along all axes but one; those of relevance always are (the adjoint of Gather)."""
    if other is None or len(other) != len(shape):
        return False
    pairs = [pair for a, pair in enumerate(zip(shape, other, strict=True)) if a != axis]
    return all(a == b and (a is not None or node.name.startswith("lrp/")) for a, b in pairs)


def _scatter_rows(node: gs.Node, line: gs.Tensor, axis: int, attrs: dict[str, Any], g: Rewriter) -> None:
    data, _, updates = node.inputs
    rank = len(g.shapes[data.name])
    column = g.reshape(f"{node.name}/column", line, -1, 1)
    perm = [axis, *(a for a in range(rank) if a != axis)]
    if axis:
        data, updates = (g.op("Transpose", f"{node.name}/rows", t, perm=perm) for t in (data, updates))
    placed = g.op("ScatterND", f"{node.name}/placed", data, column, updates, out=None if axis else node.outputs[0], **attrs)
    if axis:
        g.op("Transpose", f"{node.name}/back", placed, perm=np.argsort(perm).tolist(), out=node.outputs[0])


def gather_elements(node: gs.Node, g: Rewriter) -> bool:
    """x as a vector, taken at Σ position · stride."""
    x, at = node.inputs
    shape = g.shape_of(x)
    if shape is None or g.shape_of(at) is None:
        return False
    place = _place(node, x, at, int(node.attrs.get("axis", 0)) % len(shape), g)
    g.op("Gather", f"{node.name}/taken", g.flat(f"{node.name}/line", x), place, axis=0, out=node.outputs[0])
    return True


def _place(node: gs.Node, x: gs.Tensor, at: gs.Tensor, axis: int, g: Rewriter) -> gs.Tensor:
    """Positions in x as a vector, in the layout of `at`: its entries along an axis, its own places along the others."""
    rank, name = len(g.shapes[x.name]), node.name
    sizes: list[Size] = [g.dim(x, a) for a in range(rank)]
    if g.type_of(at) != INT64:
        at = _typed(g.op("Cast", f"{name}/index", at, to=INT64), at, g)
    below = g.op("Less", f"{name}/below", at, g.constant(0, np.int64))
    from_end = g.op("Add", f"{name}/from_end", at, g.integer(sizes[axis]))
    place = g.op("Where", f"{name}/from_start", below, from_end, at)
    if rank == 1:
        return place
    stride = g.product(f"{name}/stride", sizes[axis + 1 :])
    place = g.op("Mul", f"{name}/scaled", place, g.integer(stride))
    for a in (a for a in range(rank) if a != axis):
        own = g.arange(f"{name}/own", g.dim(at, a))
        step = g.op("Mul", f"{name}/step", own, g.integer(g.product(f"{name}/stride", sizes[a + 1 :])))
        laid = g.reshape(f"{name}/along", step, *[1] * a, -1, *[1] * (rank - a - 1))
        place = g.op("Add", f"{name}/place", place, laid)
    return place


def _typed(made: gs.Tensor, like: gs.Tensor, g: Rewriter) -> gs.Tensor:
    g.types[made.name], g.shapes[made.name] = INT64, g.shapes[like.name]
    return made


REPLACEMENTS: dict[str, Replace] = {
    "And": logical, "Conv": conv, "EyeLike": eye_like, "GatherElements": gather_elements, "Identity": identity,
    "Max": extremum, "MaxPool": indices, "Min": extremum, "Mod": remainder, "Or": logical, "Pad": pad_counts,
    "ReduceL1": reduce_l1, "Round": rounded, "ScatterElements": scatter_elements, "Sign": sign, "Size": size,
    "SpaceToDepth": space_to_depth, "Xor": logical,
}  # fmt: skip
