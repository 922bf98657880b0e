"""Operators that copy values to other places: relevance goes where the value came from, by the exact adjoint."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..linear import Kind, Reading
from ..tensor import Tensor, fixed
from .pool import scatter
from .registry import View, op


def _random(v: View) -> str | None:
    mode = v.x(2) if v.node.op == "Dropout" else None
    return None if mode is None or (mode.value is not None and not mode.value.any()) else "training_mode drops at random"


@op("Reshape Flatten Squeeze Unsqueeze Identity Dropout", Kind.MOVE, "Reshaping", refuse=_random)
def reshape(v: View) -> Reading:
    """The same values in the same order."""
    x = v.need(0)
    return v.move(x, lambda r: v.e.reshape_like(r, x))


@op("Transpose", Kind.MOVE, "Reshaping")
def transpose(v: View) -> Reading:
    """Axes permuted; relevance by the inverse permutation."""
    x = v.need(0)
    perm = v.attr("perm") or list(range(x.rank))[::-1]
    return v.move(x, lambda r: v.e.transpose(r, np.argsort(perm).tolist()))


def by_index(v: View, x: Tensor, again: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Adjoint of any copy: send the positions of x, from 1, through the same operator; each output says where it is from.

    Position 0 is what operators fill up with: what arrives there belongs to nobody.
    """
    e = v.e

    def back(r: Tensor) -> Tensor:
        size = e.reshape(e.op("Size", x, shape=(), dtype=np.int64), 1)
        one_more = e.op("Add", size, e.ints(1), shape=(1,), dtype=np.int64)
        every = e.op("Slice", e.arange(one_more), e.ints(1), one_more, shape=(None,), dtype=np.int64)
        places = again(e.reshape_to(every, e.shape_of(x), x.shape))
        line = scatter(e.op("Expand", e.zero, one_more, shape=(None,)), places, r)
        return e.reshape_to(e.op("Slice", line, e.ints(1), one_more, shape=(None,)), e.shape_of(x), x.shape)

    return back


def rerun(v: View) -> Callable[[Tensor], Tensor]:
    """The node itself on another first input."""
    others = [v.x(i) for i in range(1, len(v.node.inputs))]
    return lambda t: v.e.op(v.node.op, t, *others, shape=v.y.shape, dtype=np.int64, **v.node.attrs)


@op("Slice", Kind.MOVE, "Reshaping")
def slice_(v: View) -> Reading:
    """A range along some axes: zeros are put back around it."""
    x = v.need(0)
    starts, ends, axes, steps = (t.value if (t := v.x(i)) is not None else None for i in range(1, 5))
    unit = v.x(4) is None or (steps is not None and bool((steps == 1).all()))
    placed = (axes is not None or v.x(3) is None) and unit and x.shape is not None
    if starts is not None and ends is not None and placed and x.shape is not None:
        over = axes.tolist() if axes is not None else range(len(starts))
        before, after = [0] * x.rank, [0] * x.rank
        sized = True
        for a, start, end in zip(over, starts.tolist(), ends.tolist(), strict=True):
            size = x.shape[int(a)]
            if not isinstance(size, int):
                sized = False
                continue
            low = min(max(start + size if start < 0 else start, 0), size)
            high = min(max(end + size if end < 0 else end, low), size)
            before[int(a)], after[int(a)] = low, size - high
        if sized:
            return v.move(x, lambda r: v.e.pad(r, before, after, shape=x.shape))
    return v.move(x, by_index(v, x, rerun(v)))


@op("Split", Kind.MOVE, "Reshaping", outputs=None)
def split(v: View) -> Reading:
    """Consecutive parts along an axis: relevances are concatenated again, zeros for parts that nobody explains."""
    e, x, axis = v.e, v.need(0), int(v.attr("axis", 0))
    parts = [e.adopt(o) for o in v.node.outputs if o.name]

    def back(*rs: Tensor) -> tuple[Tensor, ...]:
        full = [e.zeros_like(p) if r.is_zero else r for p, r in zip(parts, rs, strict=True)]
        return (e.op("Concat", *full, shape=x.shape, axis=axis),)

    return v.reading(Kind.MOVE, (x,), passed=back, vjp=back)


@op("Concat", Kind.MOVE, "Reshaping", data=None)
def concat(v: View) -> Reading:
    """Parts joined along an axis: relevance is split at the same places."""
    e, axis = v.e, int(v.attr("axis"))
    parts = [v.need(i) for i in range(len(v.node.inputs))]
    xs = tuple(parts[i] for i in v.actives())

    def back(r: Tensor) -> tuple[Tensor, ...]:
        sizes = e.concat([e.dim(p, axis) for p in parts])
        cut = e.ops("Split", r, sizes, shapes=[p.shape for p in parts], axis=axis)
        return tuple(cut[i] for i in v.actives())

    return v.reading(Kind.MOVE, xs, passed=back, vjp=back)


@op("Gather", Kind.MOVE, "Reshaping")
def gather(v: View) -> Reading:
    """Entries along an axis; relevance is added up where an entry was taken several times."""
    e, x, at = v.e, v.need(0), v.need(1)
    axis = int(v.attr("axis", 0)) % x.rank

    def back(r: Tensor) -> Tensor:
        assert x.shape is not None
        sizes: list[int | Tensor] = [d if isinstance(d, int) else e.dim(x, a) for a, d in enumerate(x.shape)]
        count: int | Tensor = e.reshape(e.op("Size", at, shape=(), dtype=np.int64), 1)
        if (taken := fixed(at.shape)) is not None:
            count = math.prod(taken)
        lined = e.reshape(r, *sizes[:axis], count, *sizes[axis + 1 :], shape=(*x.shape[:axis], None, *x.shape[axis + 1 :]))
        index = e.reshape(e.cast(at, np.int64), *[1] * axis, -1, *[1] * (x.rank - axis - 1))
        index = e.op("Expand", index, e.op("Shape", lined, shape=(x.rank,), dtype=np.int64), shape=lined.shape)
        return e.op("ScatterElements", e.zeros_like(x), index, lined, shape=x.shape, axis=axis, reduction="add")

    return v.move(x, back)


@op("Pad", Kind.MOVE, "Reshaping")
def pad(v: View) -> Reading:
    """Values with a border: constant borders are cut off, reflected ones return what they copied."""
    e, x, pads = v.e, v.need(0), v.need(1)
    if v.attr("mode", "constant") == "constant":
        axes = v.x(3)
        cut = e.array(-pads.value, np.int64) if pads.value is not None else e.op("Neg", pads, shape=pads.shape)
        return v.move(x, lambda r: e.op("Pad", r, cut, e.zero, axes, shape=x.shape, mode="constant"))

    def again(t: Tensor) -> Tensor:  # the other modes do not read the constant
        wide = e.cast(t, np.float64)  # Pad of integers has no CUDA kernel
        return e.cast(e.op("Pad", wide, pads, None, v.x(3), shape=v.y.shape, mode=v.attr("mode")), np.int64)

    return v.move(x, by_index(v, x, again))


@op("Expand", Kind.MOVE, "Reshaping")
def expand(v: View) -> Reading:
    """Broadcast copies: relevance is summed."""
    x = v.need(0)
    return v.move(x, lambda r: v.e.unbroadcast(r, x))


@op("Tile", Kind.MOVE, "Reshaping")
def tile(v: View) -> Reading:
    """Repeated copies: relevance is summed over them."""
    e, x, times = v.e, v.need(0), v.need(1)

    def back(r: Tensor) -> Tensor:
        parts: list[int | Tensor] = []
        for axis in range(x.rank):
            fixed = int(times.value[axis]) if times.value is not None else None
            again = e.op("Gather", times, e.ints(axis), shape=(1,), axis=0) if fixed is None else fixed
            parts += [again, e.dim(x, axis)]
        split = e.reshape(r, *parts, shape=(None,) * len(parts))
        return e.reshape_like(e.reduce("ReduceSum", split, range(0, 2 * x.rank, 2), keepdims=False), x)

    return v.move(x, back)


@op("DepthToSpace", Kind.MOVE, "Reshaping")
def depth_to_space(v: View) -> Reading:
    """Channels to blocks of pixels (DCR or CRD order)."""
    e, x, block = v.e, v.need(0), int(v.attr("blocksize"))
    if v.attr("mode", "DCR") == "DCR":
        return v.move(x, lambda r: e.op("SpaceToDepth", r, shape=x.shape, blocksize=block))

    def back(r: Tensor) -> Tensor:
        n, _, h, w = (d if isinstance(d, int) else e.dim(x, a) for a, d in enumerate(x.shape or ()))
        cells = e.reshape(r, n, e.dim(r, 1), h, block, w, block, shape=(None,) * 6)
        return e.reshape_like(e.transpose(cells, [0, 1, 3, 5, 2, 4]), x)

    return v.move(x, back)


@op("SpaceToDepth", Kind.MOVE, "Reshaping")
def space_to_depth(v: View) -> Reading:
    """Blocks of pixels to channels."""
    x = v.need(0)
    return v.move(x, lambda r: v.e.op("DepthToSpace", r, shape=x.shape, blocksize=int(v.attr("blocksize")), mode="DCR"))


@op("Where", Kind.MOVE, data=(1, 2))
def where_(v: View) -> Reading:
    """Chosen by a frozen condition: relevance to the operand that was chosen."""
    e, chosen = v.e, v.need(0)
    actives = v.actives()

    def back(r: Tensor) -> tuple[Tensor, ...]:
        nothing = e.zero
        sides = {1: (r, nothing), 2: (nothing, r)}
        return tuple(e.unbroadcast(e.elementwise("Where", chosen, *sides[i], dtype=r.dtype), v.need(i)) for i in actives)

    return v.reading(Kind.MOVE, tuple(v.need(i) for i in actives), passed=back, vjp=back)
