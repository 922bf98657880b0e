"""Attention and rotary embeddings, written out in products and one Softmax that stays; fused_attention.py builds on it.

Everything is laid out (B,H,S,d): batch, heads, sequence, head size; only ranks need be known, sizes may be symbols.
A query sees a key where the mask says so; the softmax of a query that sees none is a row of zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from .writer import Writer, expansion

__all__ = [
    "Scores", "both", "cached", "count", "dim", "heads", "length", "merged", "per_head", "repeated", "rotated", "scale_of",
    "scores", "size", "times", "turned", "visible", "weighted",
]  # fmt: skip

NEGATIVE = -np.inf
LAST = 2**31 - 1  # the end of an axis, for Slice


@dataclass(frozen=True)
class Scores:
    """What becomes of q·k, in the order of qk_matmul_output_mode: scaled, capped, masked, softmax."""

    scaled: gs.Tensor
    capped: gs.Tensor
    masked: gs.Tensor
    weights: gs.Tensor


# ------------------------------------------------------------------------------------------------------ sizes and layouts


def dim(x: gs.Tensor, axis: int) -> int | str | None:
    """Length of an axis, or its symbol."""
    known: int | str | None = x.shape[axis] if x.shape is not None else None
    return known


def size(x: gs.Tensor, axis: int) -> int | None:
    """Length of an axis where it is known now."""
    known = dim(x, axis)
    return known if isinstance(known, int) else None


def per_head(width: int | None, n: int) -> int | None:
    """Size of each of n heads."""
    return None if width is None else width // n


def times(head: int | None, n: int) -> int | None:
    """Width of n heads."""
    return None if head is None else head * n


def length(w: Writer, x: gs.Tensor, axis: int) -> gs.Tensor:
    """Length of an axis, of shape (1)."""
    known = size(x, axis)
    return w("Shape", x, dtype=np.int64, start=axis, end=axis + 1) if known is None else w.ints(known)


def count(w: Writer, stop: gs.Tensor) -> gs.Tensor:
    """0, 1, … stop - 1; stop of shape (1)."""
    if isinstance(stop, gs.Constant):
        return w.ints(*range(int(stop.values[0])))
    zero, one = (w.constant(v, np.int64) for v in (0, 1))
    return w("Range", zero, w("Squeeze", stop), one)


def heads(w: Writer, x: gs.Tensor, n: int, head: int | None, like: gs.Tensor | None = None) -> gs.Tensor:
    """(B,S,n·d) as (B,n,S,d). head: d, where known. like: has the B and S of x, where x was made just now."""
    y = w("Transpose", w("Reshape", x, w.ints(0, 0, n, head or -1)), perm=[0, 2, 1, 3])
    like = x if like is None else like
    y.shape = [dim(like, 0), n, dim(like, 1), head]
    return y


def cached(w: Writer, past: gs.Tensor | None, x: gs.Tensor) -> gs.Tensor:
    """Keys or values behind those of the past."""
    if past is None:
        return x
    y = w("Concat", past, x, axis=2)
    if x.shape is not None:
        old, new = size(past, 2), size(x, 2)
        y.shape = [*x.shape[:2], None if old is None or new is None else old + new, x.shape[3]]
    return y


def merged(w: Writer, x: gs.Tensor, width: int | None) -> gs.Tensor:
    """(B,n,S,d) as (B,S,n·d)."""
    return w("Reshape", w("Transpose", x, perm=[0, 2, 1, 3]), w.ints(0, 0, -1 if width is None else width))


def repeated(w: Writer, x: gs.Tensor, like: gs.Tensor, n: int | None, wanted: int | None) -> gs.Tensor:
    """Each of n heads as often as `wanted` heads need it; counted at run time, against `like`, where one is not known."""
    if n is not None and wanted is not None:
        return x if n == wanted else w("Gather", x, w.ints(*np.repeat(np.arange(n), wanted // n)), axis=1)
    many = length(w, like, 1)
    return w("Gather", x, w("Div", count(w, many), w("Div", many, length(w, x, 1))), axis=1)


# -------------------------------------------------------------------------------------------------------------- attention


def scale_of(w: Writer, q: gs.Tensor, width: int | None, given: float | None) -> gs.Tensor | float:
    """The given scale, or 1/√d; d from q at run time where `width` is not known."""
    if given:
        return float(given)
    if width is not None:
        return 1 / math.sqrt(width)
    return w("Reciprocal", w("Sqrt", w("Cast", length(w, q, 3), dtype=np.float32, to=1)))


def both(w: Writer, *conditions: gs.Tensor | None) -> gs.Tensor | None:
    """All conditions that are there."""
    there = [c for c in conditions if c is not None]
    out = there[0] if there else None
    for each in there[1:]:
        out = w("And", out, each, dtype=bool)
    return out


def visible(
    w: Writer, q: gs.Tensor, k: gs.Tensor, first: gs.Tensor | None, causal: bool, left: int = -1, right: int = -1
) -> gs.Tensor | None:
    """Which keys j a query at i sees by their positions: j ≤ i if causal, i - left ≤ j ≤ i + right. None: all.

    first: position of the first query, of shape (1) or (B,1,1,1). Shape (S,T) or (B,1,S,T).
    """
    if not causal and left < 0 and right < 0:
        return None
    i, j = w("Unsqueeze", count(w, length(w, q, 2)), w.ints(-1)), count(w, length(w, k, 2))
    i = i if first is None else w("Add", i, first)
    return both(
        w,
        w("GreaterOrEqual", i, j, dtype=bool) if causal else None,
        w("GreaterOrEqual", j, w("Sub", i, left), dtype=bool) if left >= 0 else None,
        w("LessOrEqual", j, w("Add", i, right), dtype=bool) if right >= 0 else None,
    )


def scores(
    w: Writer,
    q: gs.Tensor,
    k: gs.Tensor,
    scale: gs.Tensor | float = 1.0,
    *,
    softcap: float = 0.0,
    bias: gs.Tensor | None = None,
    seen: gs.Tensor | None = None,
    sees_any: bool = False,
    sink: gs.Tensor | None = None,
) -> Scores:
    """Softmax of c·tanh(scale q·k / c) + bias over the keys that are seen.

    sees_any: no query can be without a key. sink: (1,H,1,1), the score of one more key, which has no value.
    """
    kind = q.dtype if isinstance(q.dtype, np.dtype | type) else np.float32
    scaled = w("MatMul", q, w("Transpose", k, perm=[0, 1, 3, 2]))
    if not (isinstance(scale, float) and scale == 1):
        scaled = w("Mul", scaled, scale)
    capped = w("Mul", w("Tanh", w("Div", scaled, softcap)), softcap) if softcap else scaled
    masked = capped if bias is None else w("Add", capped, bias)
    if seen is not None:
        masked = w("Where", seen, masked, w.constant(NEGATIVE, kind), dtype=kind)
    inside, sees = masked, None
    if not sees_any and (seen is not None or bias is not None):
        # a row of nothing but −∞ has no softmax: zeros go in, so that no derivative is without a number, and zeros come out
        sees = w("Greater", w("ReduceMax", masked, w.ints(-1), keepdims=1), NEGATIVE, dtype=bool)
        inside = w("Where", sees, masked, w.constant(0, kind), dtype=kind)
    weights = softmax(w, inside, q, sink)
    if sees is not None:
        weights = w("Where", sees, weights, w.constant(0, kind), dtype=kind)
    return Scores(scaled, capped, masked, weights)


def softmax(w: Writer, x: gs.Tensor, q: gs.Tensor, sink: gs.Tensor | None) -> gs.Tensor:
    """Softmax along the last axis, with the sink in a column of its own that is dropped."""
    if sink is None:
        return w("Softmax", x, axis=-1)
    column = w("Expand", sink, w("Concat", length(w, q, 0), w.ints(1), length(w, q, 2), w.ints(1), axis=0))
    return w("Slice", w("Softmax", w("Concat", x, column, axis=-1), axis=-1), w.ints(0), w.ints(-1), w.ints(-1))


def weighted(w: Writer, s: Scores, v: gs.Tensor) -> gs.Tensor:
    """Σ weight · value; the node that keeps the name of the one it comes from unless another has it."""
    y = w("MatMul", s.weights, v)
    if all(n.name != w.node.name for n in w.made):
        w.made[-1].name = w.node.name
    return y


@expansion("Attention")
def attention(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """softmax(q kᵀ·scale + mask) v, and the keys, values and scores.   Attention, opsets 23 to 25."""
    q, k, v = w.need(0), w.need(1), w.need(2)
    n, kv = w.attr("q_num_heads"), w.attr("kv_num_heads")
    flat = len(q.shape) == 3 if q.shape is not None else n is not None
    if flat:
        if not (n and kv):
            raise UnsupportedOp(f"node '{w.node.name}' (Attention): q_num_heads or kv_num_heads is missing")
        head, width = per_head(size(q, 2), n), times(per_head(size(v, 2), kv), n)
        q, k, v = (heads(w, x, m, per_head(size(x, 2), m)) for x, m in ((q, n), (k, kv), (v, kv)))
    else:
        n, kv, head, width = size(q, 1), size(k, 1), size(q, 3), None
    k, v = cached(w, w.input(4), k), cached(w, w.input(5), v)
    seen, bias, sees_any = masks(w, q, k)
    scaled = w("Mul", q, scale_of(w, q, head, w.attr("scale")))  # before the product, as the standard has it
    s = scores(w, scaled, repeated(w, k, q, kv, n), softcap=float(w.attr("softcap", 0.0)),
               bias=bias, seen=seen, sees_any=sees_any)  # fmt: skip
    y = weighted(w, s, repeated(w, v, q, kv, n))
    stages = (s.scaled, s.capped, s.masked, s.weights)
    return merged(w, y, width) if flat else y, k, v, stages[int(w.attr("qk_matmul_output_mode", 0))]


def masks(w: Writer, q: gs.Tensor, k: gs.Tensor) -> tuple[gs.Tensor | None, gs.Tensor | None, bool]:
    """Which keys are seen, what is added to the scores, and whether every query is known to see a key."""
    mask, past, valid = w.input(3), w.input(4), w.input(6)
    first = None if past is None else length(w, past, 2)
    if valid is not None:
        valid = w("Reshape", w("Cast", valid, dtype=np.int64, to=7), w.ints(-1, 1, 1, 1))
        first = w("Sub", valid, length(w, q, 2))
    left, right = (int(w.attr(f"{side}_window_size", -1)) for side in ("left", "right"))
    near = visible(w, q, k, first, bool(w.attr("is_causal", 0)), left, right)
    inside = None if valid is None else w("Less", count(w, length(w, k, 2)), valid, dtype=bool)
    # with the keys of the past in front, a causal query sees at least its own
    sees_any = left < 0 and right < 0 and valid is None and (mask is None or harmless(mask))
    if mask is None:
        return both(w, near, inside), None, sees_any
    if mask.dtype is None:
        raise UnsupportedOp(f"node '{w.node.name}' (Attention): the type of its mask '{mask.name}' is not known")
    mask = padded(w, mask, k, valid is not None)
    boolean = mask.dtype == np.dtype(bool)
    return both(w, near, inside, mask if boolean else None), None if boolean else mask, sees_any


def padded(w: Writer, mask: gs.Tensor, k: gs.Tensor, shorter: bool) -> gs.Tensor:
    """The mask, with keys that it does not mention unseen. shorter: whether it may lack some where sizes are not known."""
    have, total = dim(mask, -1) if mask.shape else None, dim(k, 2)
    if have == 1 and total != 1:
        raise UnsupportedOp(
            f"node '{w.node.name}' ({w.node.op}): its mask '{mask.name}' has one column, which opset 23 repeats and opset 24 "
            "fills up with keys that are not seen; expand it to all keys"
        )
    unknown = not (isinstance(have, int) and isinstance(total, int))
    if (have is not None and have == total) or (unknown and not shorter):
        return mask
    rank = w.rank(mask)
    more = w("Sub", length(w, k, 2), length(w, mask, rank - 1))
    pads = w("Concat", w.ints(*[0] * (2 * rank - 1)), more, axis=0)
    return w("Pad", mask, pads, w.constant(False, bool) if mask.dtype == np.dtype(bool) else NEGATIVE)


def harmless(mask: gs.Tensor) -> bool:
    """Whether a mask leaves every query at least the first key, as far as is known now."""
    if not isinstance(mask, gs.Constant):
        return False
    values = np.asarray(mask.values)
    return bool(np.all(values[..., 0] if values.dtype == bool else values[..., 0] > NEGATIVE))


# -------------------------------------------------------------------------------------------------------------- rotations


def rotated(
    w: Writer, x: gs.Tensor, cos: gs.Tensor, sin: gs.Tensor, part: int, width: int | None, interleaved: bool
) -> gs.Tensor:
    """(a + ib)(cos + i sin) of the first `part` features, the rest as it is; a, b: their halves, or every other one.

    part: 0 for all. width: all features, where known. cos, sin: of as many features as a, to broadcast.
    """

    def features(start: int, end: int, step: int = 1) -> gs.Tensor:
        return w("Slice", x, w.ints(start), w.ints(end), w.ints(-1), w.ints(step))

    part = 0 if part == width else part
    if interleaved:
        a, b = (features(i, part or LAST, 2) for i in (0, 1))
    elif part:
        a, b = features(0, part // 2), features(part // 2, part)
    else:
        a, b = w.outputs("Split", x, dtypes=(None, None), axis=-1, num_outputs=2)
    real, imaginary = w("Sub", w("Mul", a, cos), w("Mul", b, sin)), w("Add", w("Mul", b, cos), w("Mul", a, sin))
    rest = [features(part, LAST)] if part else []
    if not interleaved:
        return w("Concat", real, imaginary, *rest, axis=-1)
    pairs = w("Concat", *(w("Unsqueeze", t, w.ints(-1)) for t in (real, imaginary)), axis=-1)
    y = w("Reshape", pairs, w.ints(0, 0, 0, part or width or -1))
    return w("Concat", y, *rest, axis=-1) if rest else y


@expansion("RotaryEmbedding")
def rotary_embedding(w: Writer) -> gs.Tensor:
    """Features turned in pairs by the angles of their position.   RotaryEmbedding, opset 23.

    x (B,H,S,d), or (B,S,H·d) with num_heads; tables (positions,d/2) with position_ids (B,S), or (B,S,d/2).
    """
    x, cos, sin, places = w.need(0), w.need(1), w.need(2), w.input(3)
    if places is not None:
        cos, sin = (w("Gather", t, places, axis=0) for t in (cos, sin))
    return turned(w, x, cos, sin, int(w.attr("num_heads", 0)), int(w.attr("rotary_embedding_dim", 0)))


def turned(w: Writer, x: gs.Tensor, cos: gs.Tensor, sin: gs.Tensor, n: int, part: int) -> gs.Tensor:
    """`rotated` of (B,H,S,d), or of (B,S,n·d) with n heads; cos, sin (B,S,·)."""
    interleaved = bool(w.attr("interleaved", 0))
    if (len(x.shape) if x.shape is not None else 3 if n else 4) == 4:
        cos, sin = (w("Unsqueeze", t, w.ints(1)) for t in (cos, sin))
        return rotated(w, x, cos, sin, part, size(x, 3), interleaved)
    whole = size(x, 2)
    width = per_head(whole, n)
    cos, sin = (w("Unsqueeze", t, w.ints(2)) for t in (cos, sin))
    parts = w("Reshape", x, w.ints(0, 0, n, -1 if width is None else width))
    y = rotated(w, parts, cos, sin, part, width, interleaved)
    return w("Reshape", y, w.ints(0, 0, -1 if whole is None else whole))
