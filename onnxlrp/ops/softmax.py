"""Softmax inside the network: relevance by the first-order Taylor expansion of AttnLRP, r_x = x ⊙ Jᵀ(r / y)."""

from __future__ import annotations

from ..linear import Kind, Reading
from ..tensor import Tensor, where
from .registry import View, op

EPSILON = 1e-6
MASKED = -1e38  # at and below it a logit is a mask: −∞, or the lowest float, whose relevance would overflow


@op("Softmax", Kind.SOFTMAX, "Softmax")
def softmax(v: View) -> Reading:
    """r_x = x ⊙ (r − y Σ r) along the axis.   Achtibat et al. 2024, Prop. 3.1. An x of −∞ (a mask) counts as 0.

    Also in a row of nothing but −∞, where y is not a number and nothing carries relevance.
    """
    e, x, y = v.e, v.need(0), v.y
    axis = int(v.attr("axis", -1)) % x.rank

    def taylor(r: Tensor) -> tuple[Tensor, ...]:
        t = r - y * e.reduce("ReduceSum", r, [axis])
        return (where(x > MASKED, x * t, 0.0),)

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        return (where(x > MASKED, y * (r - e.reduce("ReduceSum", r * y, [axis])), 0.0),)

    return v.reading(Kind.SOFTMAX, (x,), taylor=taylor, vjp=vjp)


@op("LogSoftmax", Kind.SOFTMAX, "Softmax")
def log_softmax(v: View) -> Reading:
    """y = x − log Σ exp x, so J = I − 1 pᵀ with p = exp y: r_x = x ⊙ (s − p Σ s), s = r / stab(y)."""
    e, x, y = v.e, v.need(0), v.y
    axis = int(v.attr("axis", -1)) % x.rank

    def vjp(r: Tensor) -> tuple[Tensor, ...]:
        return (r - e.elementwise("Exp", y) * e.reduce("ReduceSum", r, [axis]),)

    def taylor(r: Tensor) -> tuple[Tensor, ...]:
        s = r / (y - EPSILON)  # y <= 0
        return (where(x > MASKED, x * vjp(where(y > -float("inf"), s, 0.0))[0], 0.0),)

    return v.reading(Kind.SOFTMAX, (x,), taylor=taylor, vjp=vjp)
