"""GridSample: each output is a weighted sum of the pixels around a place that a grid names.

Relevance goes to the data that is sampled. The grid says where to look, not what is there: it gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, where
from .reduce import volume
from .registry import View, op

__all__ = ["f", "real", "within"]


def f(op_type: str, *xs: Tensor) -> Tensor:
    return xs[0].emit.elementwise(op_type, *xs)


def real(n: Tensor) -> Tensor:
    """An integer as float32."""
    return n.emit.array(n.value, np.float32) if n.value is not None else n.emit.cast(n, np.float32)


def within(i: Tensor, n: Tensor) -> Tensor:
    """Clipped to 0 … n-1."""
    return f("Min", f("Max", i, i.emit.array(0, np.int64)), n - 1)


CUBIC = -0.75  # coefficient of the operator's cubic kernel


def _grid_kind(v: View) -> Kind:
    return Kind.MOVE if v.attr("mode") == "nearest" else Kind.LINEAR


@op("GridSample", _grid_kind, kinds=(Kind.LINEAR, Kind.MOVE), data=None)
def grid_sample(v: View) -> Reading:
    """y[n,:,p] = Σ_t w_t x[n,:,q_t], q_t the pixels around grid[n,p].   x (N,C,*S), grid (N,*P,d), y (N,C,*P)."""
    e, x, y = v.e, v.need(0), v.y

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.op("GridSample", e.expand_like(xs[0], x), v.need(1), shape=y.shape, **v.node.attrs) + b

    def back(s: Tensor) -> Tensor:
        return _collect(x, s, _taps(v))

    if _grid_kind(v) is Kind.MOVE:
        return v.move(x, back)
    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [back(w * s)]))


def _collect(x: Tensor, s: Tensor, taps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Adjoint of y_p = Σ_taps weight_p x[at_p], at and weight (N,P): s times the weight, added where it was read."""
    e = x.emit
    assert x.shape is not None
    images, channels = e.dim(x, 0), e.dim(x, 1)
    each = e.reshape(s, images, channels, -1, shape=(*x.shape[:2], None))
    plane = volume(x, range(2, x.rank))
    starts = e.reshape(e.arange(images * channels), images, channels, 1, shape=(*x.shape[:2], 1)) * plane
    line = e.op("Expand", e.zero, e.reshape(e.op("Size", x, shape=(), dtype=np.int64), 1), shape=(None,))
    for at, weight in taps:
        index = starts + e.op("Unsqueeze", at, e.ints(1), shape=(None, 1, None))
        part = each * e.op("Unsqueeze", weight, e.ints(1), shape=(None, 1, None))
        line = e.op("ScatterElements", line, e.reshape(index, -1), e.reshape(part, -1), shape=(None,), axis=0, reduction="add")
    return e.reshape_like(line, x)


def _taps(v: View) -> list[tuple[Tensor, Tensor]]:
    """The 1, 2^d or 4^d pixels of each grid point, their places in a plane and their weights: products of those per axis."""
    e, x, grid = v.e, v.need(0), v.need(1)
    d, align = x.rank - 2, bool(v.attr("align_corners"))
    points = e.reshape(grid, e.dim(grid, 0), -1, d, shape=(None, None, d))
    sizes = [e.dim(x, a) for a in range(2, x.rank)]
    along = []
    for i, n in enumerate(sizes):
        g = e.op("Gather", points, e.array(d - 1 - i, np.int64), shape=(None, None), axis=2)  # the grid names x first
        u = (g + 1.0) * 0.5 * (real(n) - 1.0) if align else ((g + 1.0) * real(n) - 1.0) * 0.5
        along.append([_padded(v, at, weight, n, align) for at, weight in _neighbours(str(v.attr("mode")), u)])
    taps = []
    for corner in product(*along):
        place, share = corner[0]
        for (at, weight), n in zip(corner[1:], sizes[1:], strict=True):
            place, share = place * n + at, share * weight
        taps.append((place, e.expand_like(share, place)))
    return taps


def _neighbours(mode: str, u: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Positions along one axis from which a value at coordinate u is made, with their weights."""
    e = u.emit
    if mode == "nearest":
        return [(e.cast(f("Round", u), np.int64), e.one)]
    base = f("Floor", u)
    i = e.cast(base, np.int64)
    if mode in ("bilinear", "linear"):
        return [(i, (base + 1.0) - u), (i + 1, u - base)]
    t = (u - (base - 1.0)) - 1.0  # this and the polynomials round as the runtime's do: weights next to 0 are mostly rounding

    def near(t: Tensor) -> Tensor:
        return ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1.0

    def far(t: Tensor) -> Tensor:
        return ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC

    return [(i - 1, far(t + 1.0)), (i, near(t)), (i + 1, near(1.0 - t)), (i + 2, far(2.0 - t))]


def _padded(v: View, at: Tensor, weight: Tensor, n: Tensor, align: bool) -> tuple[Tensor, Tensor]:
    """Positions outside moved to the pixel that stands for them, or given no weight."""
    e, mode = v.e, v.attr("padding_mode")
    if mode == "reflection":  # … 2 1 0 1 2 … with aligned corners, … 1 0 0 1 … without
        period = f("Max", 2 * (n - 1) if align else 2 * n, e.array(1, np.int64))
        cycle = f("Mod", at, period)
        return f("Min", cycle, (period if align else period - 1) - cycle), weight
    inside = e.elementwise("Equal", within(at, n), at, dtype=bool)
    return within(at, n), weight if mode == "border" else where(inside, weight, 0.0)
