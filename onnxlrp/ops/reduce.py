"""Reductions over whole axes: sums and means are linear, maxima and minima select."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, fixed
from .pool import axes_of, scatter, select
from .registry import View, op


def static_axes(v: View) -> str | None:
    x = v.x(0)
    return "its axes are computed at run time" if x is None or axes_of(v, x.rank) is None else None


def keep(t: Tensor, axes: Sequence[int], rank: int) -> Tensor:
    """Put reduced axes back as size 1."""
    e = t.emit
    if t.rank == rank or not axes:
        return t
    rest = iter(t.shape or ())
    return e.op("Unsqueeze", t, e.ints(*axes), shape=tuple(1 if a in axes else next(rest) for a in range(rank)))


def size_over(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Number of elements along axes, as float32."""
    e = x.emit
    sizes = fixed([x.shape[a] for a in axes]) if x.shape is not None else None
    if sizes is not None:
        return e.array(float(math.prod(sizes)))
    return e.cast(e.op("Squeeze", volume(x, axes), shape=(), dtype=np.int64), np.float32)


def volume(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Number of elements along axes, int64 of shape [1]. Products, because ReduceProd of integers has no CUDA kernel."""
    e = x.emit
    total = e.ints(1)
    for axis in axes:
        total = total * e.dim(x, axis)
    return total


def mean_map(v: View, x: Tensor, y: Tensor, axes: Sequence[int], divide: bool) -> LinearMap:
    """y = Σ x (/ n) over axes; adjoint: s (/ n) to every element."""
    e = v.e

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        z = e.reduce("ReduceMean" if divide else "ReduceSum", e.expand_like(xs[0], x), list(axes))
        return w * e.reshape_like(z, y) + b

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        each = keep(w * s, axes, x.rank)
        return [each / size_over(x, axes) if divide else each]

    return LinearMap((x,), e.one, e.zero, y, apply, adjoint)


@op("ReduceMean ReduceSum", Kind.LINEAR, refuse=static_axes)
def reduce_linear(v: View) -> Reading:
    """Mean or sum over axes."""
    x = v.need(0)
    return v.linear(Kind.LINEAR, mean_map(v, x, v.y, axes_of(v, x.rank) or (), v.node.op == "ReduceMean"))


@op("GlobalAveragePool", Kind.LINEAR, "Pooling", "AveragePooling")
def global_average_pool(v: View) -> Reading:
    """Mean over all spatial axes."""
    x = v.need(0)
    return v.linear(Kind.LINEAR, mean_map(v, x, v.y, range(2, x.rank), True))


def extremum(v: View) -> Reading:
    """Maximum or minimum over axes; the first winner on ties."""
    e, x, y = v.e, v.need(0), v.y
    axes = list(axes_of(v, x.rank) or ())
    arg = "ArgMin" if v.node.op == "ReduceMin" else "ArgMax"

    def winner() -> Tensor:
        """Flat position of each winner, in y's layout."""
        every = e.reshape(e.arange(e.op("Size", x, shape=(), dtype=np.int64)), -1)
        places = e.reshape_to(every, e.shape_of(x), x.shape)
        perm = [a for a in range(x.rank) if a not in axes] + axes
        rest = x.rank - len(axes)

        def rows(t: Tensor) -> Tensor:
            moved = e.transpose(t, perm)
            assert moved.shape is not None
            line = volume(x, axes)
            target = e.concat([e.dims(moved, range(rest)), line]) if rest else line
            return e.reshape_to(moved, target, (*moved.shape[:rest], None))

        best = e.op(arg, rows(x), shape=None, dtype=np.int64, axis=-1, keepdims=1)
        return e.reshape_like(e.op("GatherElements", rows(places), best, shape=None, axis=-1), y)

    def ties(r: Tensor) -> tuple[Tensor, ...]:
        hit = e.cast(e.elementwise("Equal", x, keep(y, axes, x.rank), dtype=bool), np.float32)
        return (hit * (keep(r, axes, x.rank) / e.reduce("ReduceSum", hit, axes)),)

    return select(v, x, winner, lambda s: scatter(x, winner(), s), ties, mean_map(v, x, v.y, axes, True).evaluated(y.batch))


@op("GlobalMaxPool", Kind.SELECT, "Pooling", "MaxPooling")
def global_max_pool(v: View) -> Reading:
    """Maximum over all spatial axes."""
    return extremum(v)


def _nothing_to_select(v: View) -> str | None:
    x = v.x(0)
    if x is None or x.shape is None or (axes := axes_of(v, x.rank)) is None:
        return static_axes(v)
    return "it reduces an empty axis, where nothing wins" if any(x.shape[a] == 0 for a in axes) else None


@op("ReduceMax ReduceMin", Kind.SELECT, refuse=_nothing_to_select)
def reduce_extremum(v: View) -> Reading:
    """Maximum or minimum over axes."""
    return extremum(v)
