"""Reductions that measure: norms, sums of squares, log-sum-exp, products. Relevance in proportion to each element's part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor
from .conv import Window, spread
from .pool import axes_of, ones_kernel, plane
from .reduce import keep, size_over, static_axes
from .registry import View, op

Part = Callable[[View, Tensor, Sequence[int]], Tensor]  # what each element contributes to the whole
Slope = Callable[[View, Tensor, Tensor, Sequence[int]], Tensor]  # (view, x, y laid out over x, axes) -> dy/dx


def _softmax(v: View, x: Tensor, axes: Sequence[int]) -> Tensor:
    shifted = v.e.elementwise("Exp", x - v.e.reduce("ReduceMax", x, list(axes)))
    return shifted / v.e.reduce("ReduceSum", shifted, list(axes))


# operator: (part of each element, derivative)
MEASURES: dict[str, tuple[Part, Slope]] = {
    "ReduceL1": (lambda v, x, a: abs(x), lambda v, x, y, a: v.e.elementwise("Sign", x)),
    "ReduceL2": (lambda v, x, a: x * x, lambda v, x, y, a: x / y),
    "ReduceSumSquare": (lambda v, x, a: x * x, lambda v, x, y, a: 2.0 * x),
    "ReduceLogSum": (lambda v, x, a: x, lambda v, x, y, a: 1.0 / v.e.elementwise("Exp", y)),
    "ReduceLogSumExp": (_softmax, lambda v, x, y, a: _softmax(v, x, a)),
    "ReduceProd": (lambda v, x, a: v.e.ones_like(x) / size_over(x, a), lambda v, x, y, a: y / x),
}  # fmt: skip


@op(" ".join(MEASURES), Kind.REDUCE, refuse=static_axes)
def measure(v: View) -> Reading:
    """r_x = p r / stab(Σ p), p the part of each element: |x|, x², x, softmax(x), or equal parts."""
    e, x, y = v.e, v.need(0), v.y
    axes = list(axes_of(v, x.rank) or ())
    part, slope = MEASURES[v.node.op]
    p = part(v, x, axes)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.reshape_like(e.reduce("ReduceSum", xs[0], axes), y) + b

    m = LinearMap((p,), e.one, e.zero, apply((p,), e.one, e.zero), apply, lambda s, w: [keep(w * s, axes, x.rank)])

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        whole = keep(y, axes, x.rank)
        return (e.expand_like(keep(r, axes, x.rank) * slope(v, x, whole, axes), x),)

    return v.linear(Kind.REDUCE, m, (x.name,), vjp=vjp)


@op("LpPool GlobalLpPool", Kind.REDUCE)
def lp_pool(v: View) -> Reading:
    """y = (Σ_window |x|ᵖ)^(1/p): in proportion to |x|ᵖ; p = 1 on x >= 0 is a sum."""

    e, x, y, order = v.e, v.need(0), v.y, float(v.attr("p", 2))
    power = abs(x) if order == 1 else e.elementwise("Pow", abs(x), e.array(order))
    whole_axes = list(range(2, x.rank))
    rest = e.elementwise("Pow", abs(x), e.array(order - 1)) * e.elementwise("Sign", x)

    def total(t: Tensor) -> Tensor:
        if v.node.op == "GlobalLpPool":
            return e.reduce("ReduceSum", t, whole_axes)
        window = Window.of(v, v.attr("kernel_shape"))
        shape = (None, 1, *y.shape[2:]) if y.shape is not None else None
        return e.reshape_like(e.op("Conv", plane(t), ones_kernel(e, window), shape=shape, **window.attrs()), y)

    def back(s: Tensor) -> Tensor:
        if v.node.op == "GlobalLpPool":
            return s
        window = Window.of(v, v.attr("kernel_shape"))
        return e.reshape_like(spread(e, plane(s), ones_kernel(e, window), window, plane(x), 1, 1), x)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * total(xs[0]) + b

    m = LinearMap((power,), e.one, e.zero, total(power), apply, lambda s, w: [back(w * s)])
    scale = e.elementwise("Pow", y, e.array(1 - order)) if not math.isclose(order, 1) else e.one
    return v.linear(Kind.REDUCE, m, (x.name,), vjp=lambda r: (back(r * scale) * rest,))
