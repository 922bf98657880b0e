"""Pooling over regions of interest: RoiAlign takes means of interpolated pixels, MaxRoiPool the largest pixel.

Relevance goes to the data. The regions say where to look, not what is there: they get none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from ..emit import Emit
from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, where
from .pool import LOWEST
from .registry import View, op
from .sample import f, real, within


class Tap(NamedTuple):
    """Pixels read for each output: their number in the data laid out as rows, their weight, whether they count; (M,k)."""

    row: Tensor
    weight: Tensor
    used: Tensor


def rows_of(x: Tensor) -> Tensor:
    """(N,C,*S) -> (N·∏S, C)."""
    e = x.emit
    assert x.shape is not None
    last = e.transpose(x, [0, *range(2, x.rank), 1])
    return e.reshape(last, -1, e.dim(x, 1), shape=(None, x.shape[1]))


def laid_out(rows: Tensor, like: Tensor) -> Tensor:
    """(N·∏S, C) -> (N,C,*S)."""
    e = like.emit
    assert like.shape is not None
    order = [0, *range(2, like.rank), 1]
    last = e.reshape_to(rows, e.dims(like, order), tuple(like.shape[a] for a in order))
    return e.transpose(last, np.argsort(order).tolist())


def blank(x: Tensor) -> Tensor:
    """Zeros, one row per pixel of x."""
    assert x.shape is not None
    return x.emit.reshape(x.emit.zeros_like(x), -1, x.emit.dim(x, 1), shape=(None, x.shape[1]))


def _corner(v: View, index: int) -> Tensor:
    """A coordinate of each region, scaled to pixels, (R,1,1)."""
    e = v.e
    column = e.op("Gather", v.need(1), e.array(index, np.int64), shape=(None,), axis=1)
    return float(v.attr("spatial_scale")) * e.reshape(column, -1, 1, 1)


def _regions(batch: Tensor, x: Tensor, rows: Sequence[Tap], cols: Sequence[Tap]) -> list[Tap]:
    """Taps of both axes (R,P,k) combined: one row per output bin, (R·PH·PW, kh·kw)."""
    e = x.emit
    height, width = e.dim(x, 2), e.dim(x, 3)
    start = e.reshape(batch, -1, 1, 1, 1, 1) * height

    def grid(a: Tensor, axes: tuple[int, int]) -> Tensor:
        return e.op("Unsqueeze", a, e.ints(*axes), shape=(None,) * 5)

    def flat(a: Tensor) -> Tensor:
        return e.op("Flatten", a, shape=(None, None), axis=3)

    out = []
    for a, b in product(rows, cols):
        row = (start + grid(a.row, (2, 4))) * width + grid(b.row, (1, 3))
        weight = e.expand_like(grid(a.weight, (2, 4)) * grid(b.weight, (1, 3)), row)
        used = e.elementwise("And", grid(a.used, (2, 4)), grid(b.used, (1, 3)), dtype=bool)
        out.append(Tap(flat(row), flat(weight), flat(used)))
    return out


def _most(counts: Tensor) -> Tensor:
    """The largest of some counts and 1, as an integer; there may be no region at all."""
    e = counts.emit
    some = e.op("Concat", e.reshape(counts, -1), e.array([1.0]), shape=(None,), axis=0)
    return e.cast(e.op("ReduceMax", some, shape=(), keepdims=0), np.int64)


def _steps(e: Emit, bins: int) -> Tensor:
    """0 … bins-1, laid out as (1,P,1)."""
    return e.array(np.arange(bins).reshape(1, -1, 1))


def _align_kind(v: View) -> Kind:
    return Kind.SELECT if v.attr("mode") == "max" else Kind.LINEAR


@op("RoiAlign", _align_kind, kinds=(Kind.LINEAR, Kind.SELECT), data=None)
def roi_align(v: View) -> Reading:
    """Mean (or maximum) of interpolated pixels over the bins of each region.   x (N,C,H,W), rois (R,4), y (R,C,PH,PW).

    mode=max follows the runtime: the largest of the weighted corners, not of the interpolated values.
    """
    e, x, y, mean = v.e, v.need(0), v.y, v.attr("mode") != "max"

    def along(axis: int) -> list[Tap]:
        return _samples(v, 3 - axis, e.dim(x, axis), int(v.attr(("output_height", "output_width")[axis - 2])), mean)

    if not mean:
        return largest(v, x, lambda: _regions(v.need(2), x, along(2), along(3)))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        others = [v.need(1), v.need(2)]
        return w * e.op("RoiAlign", e.expand_like(xs[0], x), *others, shape=y.shape, **v.node.attrs) + b

    def back(s: Tensor) -> Tensor:
        """x̄[n] = Σ_r [r looks at n] Aᵣᵀ s[r] Bᵣ, where y[r] = Aᵣ x[n] Bᵣᵀ."""
        assert x.shape is not None
        images, channels, high, wide = x.shape
        a, b = (_matrix(along(axis), e.dim(x, axis)) for axis in (2, 3))  # (R,PH,H), (R,PW,W)
        wide_rows = e.op(
            "MatMul", s, e.op("Unsqueeze", b, e.ints(1), shape=(None, 1, None, wide)), shape=(None, channels, None, wide)
        )
        rows = e.reshape(e.transpose(wide_rows, [1, 3, 0, 2]), e.dim(x, 1) * e.dim(x, 3), -1, shape=(None, None))
        mine = e.elementwise("Equal", e.reshape(e.arange(e.dim(x, 0)), -1, 1), v.need(2), dtype=bool)
        picked = where(e.op("Unsqueeze", mine, e.ints(2, 3), shape=(images, None, 1, 1), dtype=bool), a, 0.0)
        stacked = e.reshape(picked, e.dim(x, 0), -1, e.dim(x, 2), shape=(images, None, high))
        out = e.op("MatMul", rows, stacked, shape=(images, None, high))
        apart = e.reshape(out, *(e.dim(x, axis) for axis in (0, 1, 3, 2)), shape=(images, channels, wide, high))
        return e.transpose(apart, [0, 1, 3, 2])

    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [back(w * s)]))


def _matrix(taps: Sequence[Tap], n: Tensor) -> Tensor:
    """Taps of one axis as interpolation matrices, (R,P,n)."""
    e = n.emit
    every = e.arange(n)
    parts = []
    for tap in taps:
        given = where(tap.used, tap.weight, 0.0)
        row, weight = (e.op("Unsqueeze", t, e.ints(3), shape=(None, None, None, 1)) for t in (tap.row, given))
        parts.append(e.reduce("ReduceSum", where(e.elementwise("Equal", row, every, dtype=bool), weight, 0.0), [2], False))
    return e.total(parts)


def _samples(v: View, index: int, n: Tensor, bins: int, mean: bool) -> list[Tap]:
    """Lower and upper neighbours of the sampling points along one axis, (R,P,k), k the most points that a region has."""
    e, half, ratio = v.e, v.attr("coordinate_transformation_mode") == "half_pixel", int(v.attr("sampling_ratio"))
    start, end = (_corner(v, i) - (0.5 if half else 0.0) for i in (index, index + 2))
    step = (end - start if half else f("Max", end - start, e.one)) / float(bins)
    count = e.array(float(ratio)) if ratio > 0 else f("Ceil", step)
    point = e.array(np.arange(ratio)) if ratio > 0 else e.cast(e.arange(_most(count)), np.float32)
    at, size = start + _steps(e, bins) * step + (point + 0.5) * step / count, real(n)
    inside = e.elementwise("And", at >= -1.0, at <= size, dtype=bool)
    share = where(inside, 1.0 / f("Max", count, e.one) if mean else 1.0, 0.0)
    at = f("Min", f("Max", at, e.zero), size - 1.0)
    low = f("Floor", at)
    used, lower = e.expand_like(point < count, at), e.cast(low, np.int64)
    return [Tap(lower, (1.0 - (at - low)) * share, used), Tap(f("Min", lower + 1, n - 1), (at - low) * share, used)]


@op("MaxRoiPool", Kind.SELECT, data=None)
def max_roi_pool(v: View) -> Reading:
    """Largest pixel of each bin of each region.   x (N,C,H,W), rois (R,5): entry of the batch, x1, y1, x2, y2."""
    e, x = v.e, v.need(0)

    def taps() -> list[Tap]:
        batch = e.cast(e.op("Gather", v.need(1), e.array(0, np.int64), shape=(None,), axis=1), np.int64)
        high, wide = v.attr("pooled_shape")
        rows, cols = _bins(v, 2, e.dim(x, 2), int(high)), _bins(v, 1, e.dim(x, 3), int(wide))
        return _regions(batch, x, [rows], [cols])

    return largest(v, x, taps)


def _bins(v: View, index: int, n: Tensor, bins: int) -> Tap:
    """The pixels of each bin along one axis, (R,P,k), k the largest bin."""
    e, size = v.e, real(n)

    def rounded(t: Tensor) -> Tensor:  # half away from 0
        low = f("Floor", abs(t))
        return f("Sign", t) * where(abs(t) - low >= 0.5, low + 1.0, low)

    start, end = (rounded(_corner(v, i)) for i in (index, index + 2))
    step = f("Max", end - start + 1.0, e.one) / float(bins)
    first, last = (
        f("Min", f("Max", start + t, e.zero), size)
        for t in (f("Floor", _steps(e, bins) * step), f("Ceil", (_steps(e, bins) + 1.0) * step))
    )
    at = first + e.cast(e.arange(_most(last - first)), np.float32)
    row = within(e.cast(at, np.int64), n)
    return Tap(row, e.expand_like(e.one, row), at < last)


def largest(v: View, x: Tensor, taps: Callable[[], list[Tap]]) -> Reading:
    """y = max over the taps of weight · pixel: winners frozen, each output is one weighted pixel; 0 where no tap counts."""
    e, y = v.e, v.y
    channels = x.shape[1] if x.shape is not None else None

    def winner() -> tuple[Tensor, Tensor, Tensor]:
        """Row, weight and whether there is one, of each output and channel, (M,C)."""
        row, weight, used = (e.op("Concat", *parts, shape=(None, None), axis=1) for parts in zip(*taps(), strict=True))
        pixels = e.op("Gather", rows_of(x), row, shape=(None, None, channels), axis=0)
        values = pixels * e.op("Unsqueeze", weight, e.ints(2), shape=(None, None, 1))
        values = where(e.op("Unsqueeze", used, e.ints(2), shape=(None, None, 1)), values, LOWEST)
        best = e.op("ArgMax", values, shape=(None, channels), dtype=np.int64, axis=1, keepdims=0)
        at, w = (e.op("GatherElements", t, best, shape=(None, channels), axis=1) for t in (row, where(used, weight, 0.0)))
        return at, w, where(abs(w) > 0.0, 1.0, 0.0)

    def back(s: Tensor, weighted: bool) -> Tensor:
        at, weight, some = winner()
        part = rows_of(s) * (weight if weighted else some)
        return laid_out(e.op("ScatterElements", blank(x), at, part, shape=blank(x).shape, axis=0, reduction="add"), x)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        at, weight, _ = winner()
        pixels = e.op("GatherElements", rows_of(e.expand_like(xs[0], x)), at, shape=at.shape, axis=0)
        return w * laid_out(pixels * weight, y) + b

    m = LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [back(w * s, True)])
    return v.linear(Kind.SELECT, m, passed=lambda r: (back(r, False),), vjp=lambda r: (back(r, True),))
