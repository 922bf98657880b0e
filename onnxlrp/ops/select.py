"""Element-wise extrema and TopK: relevance to the operand, or the place, that won; the first one on ties."""

from __future__ import annotations

from ..linear import Kind, Reading
from ..tensor import Tensor, where
from .registry import View, op


@op("Max Min", Kind.SELECT, data=None)
def extremum_of_operands(v: View) -> Reading:
    """y = max(x₁, x₂, …): each element's relevance to the first operand that holds it; a frozen winner keeps it."""
    e, y = v.e, v.y
    operands = [v.need(i) for i in range(len(v.node.inputs))]
    actives = v.actives()

    def back(r: Tensor) -> tuple[Tensor, ...]:
        parts, left = [], r
        for i, x in enumerate(operands):
            won = e.elementwise("Equal", e.expand_like(x, y), y, dtype=bool)
            if i in actives:
                parts.append(e.unbroadcast(where(won, left, 0.0), x))
            left = where(won, 0.0, left)
        return tuple(parts)

    return v.reading(Kind.SELECT, tuple(operands[i] for i in actives), passed=back, vjp=back)


@op("TopK", Kind.SELECT)
def top_k(v: View) -> Reading:
    """The k largest (or smallest) along an axis: the second output says where they were."""
    e, x = v.e, v.need(0)
    axis = int(v.attr("axis", -1)) % x.rank
    at = e.adopt(v.node.outputs[1])

    def back(r: Tensor) -> Tensor:
        return e.op("ScatterElements", e.zeros_like(x), at, r, shape=x.shape, axis=axis, reduction="add")

    return v.reading(Kind.SELECT, (x,), passed=lambda r: (back(r),), vjp=lambda r: (back(r),))
