"""Pooling over windows: MaxPool selects, AveragePool is linear. x (N,C,*S), y (N,C,*O)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..emit import Emit
from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, fixed
from .conv import Window, spread
from .registry import View, op

LOWEST = float(np.finfo(np.float32).min)


def plane(x: Tensor) -> Tensor:
    """(N,C,*S) -> (N·C,1,*S): channels become batch, so that one kernel of one channel serves any C."""
    e = x.emit
    assert x.shape is not None
    sizes = [d if isinstance(d, int) else e.dim(x, a) for a, d in enumerate(x.shape)][2:]
    return e.reshape(x, -1, 1, *sizes, shape=(None, 1, *x.shape[2:]))


def ones_kernel(e: Emit, window: Window) -> Tensor:
    return e.array(np.ones((1, 1, *window.kernel), np.float32))


def clipped(window: Window, x: Tensor) -> Window:
    """The window without the part that lies beyond the padded input wherever it starts (kernels larger than the input)."""
    sizes = fixed(x.shape[2:]) if x.shape is not None else None
    if sizes is None or any(d != 1 for d in window.dilations):
        return window
    room = [d + b + a for d, b, a in zip(sizes, window.begin, window.end, strict=True)]
    return replace(window, kernel=tuple(min(k, n) for k, n in zip(window.kernel, room, strict=True)))


def counts(v: View, x: Tensor, window: Window) -> Tensor:
    """Positions that each window averages over, shape (1,1,*O)."""
    e, include = v.e, bool(v.attr("count_include_pad", 0))
    assert x.shape is not None
    assert v.y.shape is not None
    spatial, outs = x.shape[2:], v.y.shape[2:]
    if all(isinstance(d, int) for d in (*spatial, *outs)):
        total = np.ones((1, 1), np.float32)
        for axis, (size, out) in enumerate(zip(spatial, outs, strict=True)):
            first = np.arange(int(out or 0)) * window.strides[axis] - window.begin[axis]
            at = first[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
            low, high = (-window.begin[axis], int(size or 0) + window.end[axis]) if include else (0, int(size or 0))
            inside = ((at >= low) & (at < high)).sum(1).astype(np.float32)
            total = total[..., None] * inside
        return e.array(total)
    rank = len(window.kernel)
    ones = e.op("Expand", e.one, e.concat([e.ints(1, 1), e.dims(x, range(2, rank + 2))]), shape=(1, 1, *spatial))
    grown = window
    if include:
        ones = e.pad(ones, [0, 0, *window.begin], [0, 0, *window.end], 1.0)
        grown = replace(window, begin=(0,) * rank, end=(0,) * rank)
    if v.attr("ceil_mode", 0):
        grown = replace(grown, end=tuple(p + s - 1 for p, s in zip(grown.end, grown.strides, strict=True)))
    found = e.op("Conv", ones, ones_kernel(e, window), shape=(1, 1, *outs), **grown.attrs())
    if not v.attr("ceil_mode", 0):
        return found
    axes = range(2, rank + 2)
    return e.op("Slice", found, e.ints(*[0] * rank), e.dims(v.y, axes), e.ints(*axes), shape=(1, 1, *outs))


def mean_attrs(v: View, window: Window) -> dict[str, Any]:
    return {"kernel_shape": list(window.kernel), "strides": list(window.strides), "pads": [*window.begin, *window.end],
            "ceil_mode": int(v.attr("ceil_mode", 0)), "count_include_pad": 0}  # fmt: skip


def average(v: View, x: Tensor, y: Tensor, window: Window, include_pad: int) -> LinearMap:
    """y_k = Σ_j x_j / n_k over a window; adjoint: divide by n, spread each value over its window."""
    e = v.e
    attrs = {**mean_attrs(v, window), "count_include_pad": include_pad}

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.op("AveragePool", xs[0], shape=y.shape, **attrs) + b

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        each = plane(w * s / counts(v, x, window))
        near = clipped(window, x)
        return [e.reshape_like(spread(e, each, ones_kernel(e, near), near, plane(x), 1, 1), x)]

    return LinearMap((x,), e.one, e.zero, y, apply, adjoint)


@op("AveragePool", Kind.LINEAR, "Pooling", "AveragePooling")
def average_pool(v: View) -> Reading:
    """Mean over each window, padding counted where count_include_pad says so."""
    window = Window.of(v, v.attr("kernel_shape"))
    return v.linear(Kind.LINEAR, average(v, v.need(0), v.y, window, int(v.attr("count_include_pad", 0))))


def _blocks(v: View) -> str | None:
    block = v.need(2).value
    if block is None:
        return "its block_shape is computed at run time"
    dilated = block.size != 2 and any(d != 1 for d in v.attr("dilations", []))
    return "the runtime mixes channels where blocks of other than two axes are dilated" if dilated else None


@op("Col2Im", Kind.LINEAR, refuse=_blocks)
def col2im(v: View) -> Reading:
    """Columns added up where their blocks lie in the image; adjoint: a Conv that takes each block apart again.

    x (N,C·∏k,L), y (N,C,*image).
    """
    e, x, y = v.e, v.need(0), v.y
    sizes = v.need(2).value
    assert sizes is not None
    window = Window.of(v, [int(k) for k in sizes])
    n = math.prod(window.kernel)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.op("Col2Im", e.expand_like(xs[0], x), v.need(1), v.need(2), shape=y.shape, **v.node.attrs) + b

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        each = e.array(np.eye(n, dtype=np.float32).reshape(n, 1, *window.kernel))
        outs = (None,) * len(window.kernel)
        return [e.reshape_like(e.op("Conv", plane(w * s), each, shape=(None, n, *outs), **window.attrs()), x)]

    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, e.zero, y, apply, adjoint))


def scatter(x: Tensor, at: Tensor, r: Tensor) -> Tensor:
    """r added to zeros of x's layout at flat positions; of as many rows as r has, where they share one forward pass."""
    e = x.emit
    sizes = fixed(x.shape)
    size = math.prod(sizes) if sizes is not None else None
    count = e.ints(size) if size is not None else e.reshape(e.op("Size", x, shape=(), dtype=np.int64), 1)
    if e.shared:
        copies = e.op("Div", *(e.op("Size", t, shape=(), dtype=np.int64) for t in (r, at)), shape=(), dtype=np.int64)
        starts = e.reshape(e.op("Mul", e.arange(e.reshape(copies, 1)), count, shape=(None,), dtype=np.int64), -1, 1)
        at = e.op("Add", starts, e.reshape(at, 1, -1), shape=(None, None), dtype=np.int64)
        count, size = e.op("Mul", e.reshape(copies, 1), count, shape=(1,), dtype=np.int64), None
    flat = e.op("Expand", e.zero, count, shape=(size,))
    line = e.op("ScatterElements", flat, e.reshape(at, -1), e.reshape(r, -1), shape=(size,), axis=0, reduction="add")
    return e.reshape_like(line, x)


def fetch(x: Tensor, at: Tensor) -> Tensor:
    """Elements of x at flat positions, in their layout."""
    e = x.emit
    return e.op("Gather", e.reshape(x, -1), at, shape=at.shape, axis=0)


@op("MaxPool", Kind.SELECT, "Pooling", "MaxPooling")
def max_pool(v: View) -> Reading:
    """Maximum over each window; the second output of MaxPool says where it was (the first one on ties)."""
    e, x, y = v.e, v.need(0), v.y
    window = Window.of(v, v.attr("kernel_shape"))

    attrs = {k: a for k, a in v.node.attrs.items() if k != "storage_order"}  # 1: column-major indices

    def winner() -> Tensor:
        return e.ops("MaxPool", x, shapes=[y.shape, y.shape], dtypes=[None, np.int64], **attrs)[1]

    def back(s: Tensor) -> Tensor:
        return scatter(x, winner(), s)

    def ties(r: Tensor) -> tuple[Tensor, ...]:
        rank, n = len(window.kernel), int(np.prod(window.kernel))
        each = e.array(np.eye(n, dtype=np.float32).reshape(n, 1, *window.kernel))
        over = [s - 1 if v.attr("ceil_mode", 0) else 0 for s in window.strides]
        end = [p + o for p, o in zip(window.end, over, strict=True)]
        padded = e.pad(plane(x), [0, 0, *window.begin], [0, 0, *end], LOWEST)
        bare = replace(window, begin=(0,) * rank, end=(0,) * rank)
        assert y.shape is not None
        columns = e.op("Conv", padded, each, shape=(None, n, *y.shape[2:]), **bare.attrs())
        if any(over):
            axes = range(2, rank + 2)
            sizes = (None, n, *y.shape[2:])
            columns = e.op("Slice", columns, e.ints(*[0] * rank), e.dims(y, axes), e.ints(*axes), shape=sizes)
        hit = e.cast(e.elementwise("Equal", columns, plane(y), dtype=bool), np.float32)
        part = hit * (plane(r) / e.reduce("ReduceSum", hit, [1]))
        return (e.reshape_like(spread(e, part, each, window, plane(x), 1, 1), x),)

    mean = average(v, x, y, window, 0).evaluated(y.batch) if all(d == 1 for d in window.dilations) else None
    return select(v, x, winner, back, ties, mean)


def select(
    v: View,
    x: Tensor,
    winner: Callable[[], Tensor],
    back: Callable[[Tensor], Tensor],
    ties: Callable[[Tensor], tuple[Tensor, ...]],
    mean: LinearMap | None,
) -> Reading:
    """Reading of a maximum: winners frozen it is a linear map, y = x[winner]."""
    e, y = v.e, v.y

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.reshape_like(fetch(e.expand_like(xs[0], x), winner()), y) + b

    def passed(r: Tensor) -> tuple[Tensor, ...]:
        return (v.carried(x, r, back(r)),)

    m = LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [back(w * s)])
    return v.linear(Kind.SELECT, m, passed=passed, vjp=passed, ties=ties, average=mean)


def axes_of(v: View, rank: int) -> Sequence[int] | None:
    """Axes of a reduction, non-negative; None when they are computed at run time."""
    if v.node.op.startswith("Global"):
        return range(2, rank)
    given = v.attr("axes")
    if given is None and (t := v.x(1)) is not None:
        if t.value is None:
            return None
        given = t.value.ravel().tolist()
    if not given:
        return () if v.attr("noop_with_empty_axes", 0) else range(rank)
    return sorted(int(a) % rank for a in given)
