"""Add, Sub, Sum, Mean, Mul, Div in all their readings: which one depends on the operands that are active."""

from __future__ import annotations

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, where
from .registry import View, op


def sum_kind(v: View) -> Kind:
    return Kind.SCALING if v.scaled else Kind.SUM


@op("Sum Mean", Kind.SUM, "Sum", data=None)
@op("Add Sub", sum_kind, "Sum", kinds=(Kind.SUM, Kind.SCALING), data=None)
def add(v: View) -> Reading:
    """y = Σ x (+ frozen operands as bias): r_i = x_i r / stab(Σ x), summed over broadcast axes. Sub adds -x₂."""
    e, actives = v.e, v.actives()
    if v.scaled:
        return passed(v)
    operands = [v.need(i) for i in range(len(v.node.inputs))]
    if v.node.op == "Sub":
        operands[1] = -operands[1]
    n = len(operands) if v.node.op == "Mean" else 1
    xs = tuple(operands[i] for i in actives)
    to = tuple(v.node.inputs[i].name for i in actives)
    b = e.total([x for i, x in enumerate(operands) if i not in actives]) / n

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return e.expand_like(w * e.total(xs) / n + b, v.y)

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        return [e.unbroadcast(w * s / n, x) for x in xs]

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        minus = [v.node.op == "Sub" and i == 1 for i in actives]
        return tuple(-c if m else c for m, c in zip(minus, adjoint(r, e.one), strict=True))

    return v.linear(Kind.SUM, LinearMap(xs, e.one, b, v.y, apply, adjoint), to, vjp=vjp)


def passed(v: View) -> Reading:
    """Relevance unchanged (input scaling); the plain derivative still knows the factor."""
    (i,) = v.actives()
    x = v.need(i)
    e = v.e

    def back(r: Tensor) -> tuple[Tensor, ...]:
        return (e.unbroadcast(r, x),)

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        if v.node.op in ("Mul", "Div"):
            other = v.need(1 - i)
            return (e.unbroadcast(r * other if v.node.op == "Mul" else r / other, x),)
        return (e.unbroadcast(-r if v.node.op == "Sub" and i == 1 else r, x),)

    return v.reading(Kind.SCALING, (x,), passed=back, vjp=vjp)


def product_kind(v: View) -> Kind:
    if v.scaled:
        return Kind.SCALING
    if len(v.actives()) == 2:
        return Kind.PRODUCT if v.node.op == "Mul" else Kind.RATIO
    return Kind.SCALE if v.node.op == "Mul" or v.is_active(0) else Kind.POINTWISE


@op("Mul", product_kind, "Product", kinds=(Kind.PRODUCT, Kind.SCALE, Kind.SCALING), data=None)
def mul(v: View) -> Reading:
    """Frozen factor: r where it is not 0, else 0. Two active operands: each linear with the other as its weight."""
    if v.scaled:
        return passed(v)
    if len(v.actives()) == 1:
        (i,) = v.actives()
        return scale(v, v.need(i), v.need(1 - i))
    e, xs = v.e, (v.need(0), v.need(1))

    def back(r: Tensor) -> tuple[Tensor, ...]:
        return tuple(e.unbroadcast(r, x) for x in xs)

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        return (e.unbroadcast(r * xs[1], xs[0]), e.unbroadcast(r * xs[0], xs[1]))

    return v.reading(Kind.PRODUCT, xs, passed=back, vjp=vjp)


def scale(v: View, x: Tensor, factor: Tensor, inverse: bool = False) -> Reading:
    """y = factor · x (or x / factor): relevance passes, but not where the factor is 0."""
    e = v.e

    def kept(r: Tensor) -> tuple[Tensor, ...]:
        nowhere = factor.span.low > 0 or factor.span.high < 0 or (factor.value is not None and np.all(factor.value))
        if not (inverse or nowhere):
            # factor == 0: nothing of x is in y (a mask)
            empty = e.elementwise("Equal", factor, e.zero_like(factor.dtype), dtype=bool)
            r = where(empty, 0.0, r)
        return (e.unbroadcast(r, x),)

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        return (e.unbroadcast(r / factor if inverse else r * factor, x),)

    return v.reading(Kind.SCALE, (x,), passed=kept, vjp=vjp)


@op("Div", product_kind, kinds=(Kind.RATIO, Kind.SCALE, Kind.SCALING, Kind.POINTWISE), data=None)
def div(v: View) -> Reading:
    """Frozen denominator: scale. Frozen numerator: reciprocal, then scale. Both active: all to the numerator."""
    if v.scaled:
        return passed(v)
    e, top, bottom = v.e, v.need(0), v.need(1)
    if not v.is_active(1):
        return scale(v, top, bottom, inverse=True)
    steep = -v.y / bottom
    if not v.is_active(0):
        kept = scale(v, bottom, top).passed
        return v.reading(Kind.POINTWISE, (bottom,), passed=kept, vjp=lambda r: (e.unbroadcast(r * steep, bottom),))
    return v.reading(
        Kind.RATIO,
        (top, bottom),
        passed=lambda r: (e.unbroadcast(r, top), e.zero),
        vjp=lambda r: (e.unbroadcast(r / bottom, top), e.unbroadcast(r * steep, bottom)),
    )


def _training(v: View) -> str | None:
    return "training_mode=1 normalises with the batch's own statistics" if v.attr("training_mode", 0) else None


@op("BatchNormalization", Kind.AFFINE, "Normalization", refuse=_training)
def batch_normalization(v: View) -> Reading:
    """y = x · γ/√(σ²+ε) + (β − μ γ/√(σ²+ε)) that could not be folded: Pass, or any linear rule on this affine map."""
    e, x = v.e, v.need(0)
    gamma, beta, mu, var = (v.need(i) for i in range(1, 5))
    w = gamma / e.elementwise("Sqrt", var + float(v.attr("epsilon", 1e-5)))
    b = beta - mu * w
    w, b = (t if x.rank < 2 else e.reshape(t, -1, *[1] * (x.rank - 2)) for t in (w, b))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return xs[0] * w + b

    return v.linear(Kind.AFFINE, LinearMap((x,), w, b, v.y, apply, lambda s, w: [s * w]), passed=lambda r: (r,))


@op("Affine", Kind.AFFINE, "Normalization")
def affine(v: View) -> Reading:
    """y = x · scale + shift: Mul and Add by per-channel constants that folded nowhere (groups.py), laid out already."""
    x, w, b = v.need(0), v.need(1), v.need(2)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return xs[0] * w + b

    return v.linear(Kind.AFFINE, LinearMap((x,), w, b, v.y, apply, lambda s, w: [s * w]), passed=lambda r: (r,))
