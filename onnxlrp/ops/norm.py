"""Normalisation layers: statistics are frozen. With a mean they are linear in x, without one only the factor is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..linear import Kind, LinearMap, Reading, Transform
from ..tensor import Tensor, mean
from .pointwise import through_members
from .registry import View, op


def centred(v: View, x: Tensor, mean: Transform, scale: Tensor, shift: Tensor, epsilon: float) -> Reading:
    """y = (x − μ) γ/σ + β with σ frozen: w = γ/σ, z = (x − mean x) w + β, adjoint t − mean t with t = s w.

    mean: over what is normalised together, broadcasting against x, as scale and shift do. vjp: the true derivative.
    """
    e = v.e
    flat = x - mean(x)
    inverse = 1.0 / e.elementwise("Sqrt", mean(flat * flat) + epsilon)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return (xs[0] - mean(e.expand_like(xs[0], x))) * w + b

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        t = s * w
        return [t - mean(t)]

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        t, unit = r * scale, flat * inverse
        return (inverse * (t - mean(t) - unit * mean(t * unit)),)

    return v.linear(Kind.NORM, LinearMap((x,), scale * inverse, shift, v.y, apply, adjoint), vjp=vjp)


def over(axes: Sequence[int]) -> Transform:
    """Mean over axes, kept as size 1."""
    return lambda t: mean(t, list(axes))


@op("LayerNormalization", Kind.NORM, "Normalization")
def layer_normalization(v: View) -> Reading:
    """Over the axes from `axis` to the last; scale and bias of these axes."""
    x = v.need(0)
    axes = list(range(int(v.attr("axis", -1)) % x.rank, x.rank))
    return centred(v, x, over(axes), v.need(1), v.opt(2), float(v.attr("epsilon", 1e-5)))


def per_channel(t: Tensor, rank: int) -> Tensor:
    """(C) -> (C,1,…,1) against (N,C,*S)."""
    return t if t.is_zero or t.is_one else t.emit.reshape(t, -1, *[1] * (rank - 2))


@op("InstanceNormalization", Kind.NORM, "Normalization")
def instance_normalization(v: View) -> Reading:
    """Over the spatial axes; scale and bias per channel."""
    x = v.need(0)
    scale, shift = (per_channel(v.opt(i), x.rank) for i in (1, 2))
    return centred(v, x, over(range(2, x.rank)), scale, shift, float(v.attr("epsilon", 1e-5)))


@op("GroupNormalization", Kind.NORM, "Normalization")
def group_normalization(v: View) -> Reading:
    """Over the channels of a group and the spatial axes; scale and bias broadcast against x, as groups.py has them."""
    e, x = v.e, v.need(0)
    assert x.shape is not None
    groups = int(v.attr("num_groups"))

    def within(t: Tensor) -> Tensor:
        parts = e.op(
            "Reshape", e.expand_like(t, x), e.ints(0, groups, -1), shape=(x.shape[0] if x.shape else None, groups, None)
        )
        return e.reshape_like(e.expand_like(mean(parts, [2]), parts), x)

    return centred(v, x, within, v.need(1), v.opt(2), float(v.attr("epsilon", 1e-5)))


@op("RMSNormalization", Kind.FROZEN_NORM, "Normalization")
def rms_normalization(v: View) -> Reading:
    """y = x γ / √(mean x² + ε): the factor is frozen, relevance passes."""
    x = v.need(0)
    return v.reading(Kind.FROZEN_NORM, (x,), passed=lambda r: (r,), vjp=lambda r: (through_members(v, r),))


@op("MeanVarianceNormalization", Kind.NORM, "Normalization")
def mean_variance_normalization(v: View) -> Reading:
    """Over `axes` (0, 2, 3), without scale and bias; the standard adds 1e-9 to σ."""
    return centred(v, v.need(0), over(v.attr("axes") or [0, 2, 3]), v.e.one, v.e.zero, 0.0)


@op("LpNormalization", Kind.FROZEN_NORM, "Normalization")
def lp_normalization(v: View) -> Reading:
    """y = x / ‖x‖ₚ: the norm is frozen. Derivative for p = 2: (r − y Σ r y) / ‖x‖, for p = 1: (r − sign(x) Σ r y) / ‖x‖."""
    e, x, y = v.e, v.need(0), v.y
    axis, p = int(v.attr("axis", -1)), int(v.attr("p", 2))

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        size = e.reduce("ReduceL2" if p == 2 else "ReduceL1", x, [axis])
        inner = e.reduce("ReduceSum", r * y, [axis])
        return ((r - (y if p == 2 else e.elementwise("Sign", x)) * inner) / size,)

    return v.reading(Kind.FROZEN_NORM, (x,), passed=lambda r: (r,), vjp=vjp)


@op("LRN", Kind.FROZEN_NORM, "Normalization")
def lrn(v: View) -> Reading:
    """y = x / (bias + α/n Σ_window x²)^β over channels: the factor is frozen.

    Derivative: f r − 2αβ/n x Σ_window r y / (bias + …), with f the factor.
    """
    e, x, y = v.e, v.need(0), v.y
    size, alpha, beta, bias = int(v.attr("size")), float(v.attr("alpha")), float(v.attr("beta")), float(v.attr("bias"))

    def over_channels(t: Tensor, before: int, after: int) -> Tensor:
        """Sum over a window of channels: the window becomes the height of a pooling over (N,1,C,rest)."""
        assert t.shape is not None
        flat = e.op("Reshape", t, e.ints(0, 0, -1), shape=(*t.shape[:2], None))
        tall = e.op("Unsqueeze", flat, e.ints(1), shape=(t.shape[0], 1, t.shape[1], None))
        pads = [before, 0, after, 0]
        attrs: dict[str, Any] = {
            "kernel_shape": [size, 1],
            "strides": [1, 1],
            "pads": pads,
            "count_include_pad": 1,
            "ceil_mode": 0,
        }
        pooled = e.op("AveragePool", tall, shape=tall.shape, **attrs)
        return float(size) * e.reshape_like(pooled, t)

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        low, high = (size - 1) // 2, size - 1 - (size - 1) // 2
        base = bias + (alpha / size) * over_channels(x * x, low, high)
        factor = e.elementwise("Pow", base, e.array(-beta))
        return (r * factor - (2 * alpha * beta / size) * x * over_channels(r * y / base, high, low),)

    return v.reading(Kind.FROZEN_NORM, (x,), passed=lambda r: (r,), vjp=vjp)
