"""Element-wise functions: relevance passes; the table gives each one's derivative for the gradient family.

At a kink the derivative is that of the side where x does less: 0 for Relu at 0 and for Clip at its bounds, the slope for
LeakyRelu at 0, as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..linear import Kind, Reading
from ..tensor import Tensor, where
from .registry import OPS, View, op

Slope = Callable[[View, Tensor, Tensor], Tensor]  # (view, x, y) -> dy/dx


def _f(op_type: str, *xs: Tensor) -> Tensor:
    return xs[0].emit.elementwise(op_type, *xs)


def _step(condition: Tensor, high: float | Tensor = 1.0, low: float | Tensor = 0.0) -> Tensor:
    return where(condition, high, low)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + _f("Erf", x * (1 / math.sqrt(2))))


def _gelu(v: View, x: Tensor, y: Tensor) -> Tensor:
    if v.attr("approximate", "none") == "tanh":
        k = math.sqrt(2 / math.pi)
        t = _f("Tanh", k * (x + 0.044715 * (x * x * x)))
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (k * (1.0 + 3 * 0.044715 * (x * x)))
    return _normal_cdf(x) + x * (1 / math.sqrt(2 * math.pi)) * _f("Exp", -0.5 * (x * x))


def _clip(v: View, x: Tensor, y: Tensor) -> Tensor:
    low, high = v.x(1), v.x(2)
    out = x.emit.ones_like(x)
    out = out if low is None else where(x <= low, 0.0, out)
    return out if high is None else where(x >= high, 0.0, out)


def _shrink(v: View, x: Tensor, y: Tensor) -> Tensor:
    return _step(abs(x) > float(v.attr("lambd")))


def _pow(v: View, x: Tensor, y: Tensor) -> Tensor:
    n = x.emit.cast(v.need(1), x.dtype)  # the exponent may be an integer
    return n * _f("Pow", x, n - 1.0)


def _swish(v: View, x: Tensor, y: Tensor) -> Tensor:
    s = _f("Sigmoid", float(v.attr("alpha", 1.0)) * x)
    return s + float(v.attr("alpha", 1.0)) * y * (1.0 - s)


def _mish(v: View, x: Tensor, y: Tensor) -> Tensor:
    t = _f("Tanh", _f("Softplus", x))
    return t + x * (1.0 - t * t) * _f("Sigmoid", x)


SLOPES: dict[str, Slope] = {
    "Relu": lambda v, x, y: _step(x > 0),
    "LeakyRelu": lambda v, x, y: _step(x > 0, 1.0, float(v.attr("alpha"))),
    "PRelu": lambda v, x, y: where(x > 0, x.emit.ones_like(x), v.need(1)),
    "ThresholdedRelu": lambda v, x, y: _step(x > float(v.attr("alpha"))),
    "Elu": lambda v, x, y: where(x > 0, 1.0, y + float(v.attr("alpha"))),
    "Selu": lambda v, x, y: where(x > 0, float(v.attr("gamma")), y + float(v.attr("alpha")) * float(v.attr("gamma"))),
    "Celu": lambda v, x, y: where(x >= 0, 1.0, y * (1 / float(v.attr("alpha"))) + 1.0),
    "Gelu": _gelu, "Swish": _swish, "Mish": _mish, "Clip": _clip, "Shrink": _shrink, "Pow": _pow,
    "Sigmoid": lambda v, x, y: y * (1.0 - y),
    "HardSigmoid": lambda v, x, y: where(y > 0, where(y < 1, float(v.attr("alpha")), x.emit.zeros_like(x)), 0.0),
    "HardSwish": lambda v, x, y: where(x <= -3, 0.0, where(x >= 3, 1.0, (2 * x + 3.0) * (1 / 6))),
    "Tanh": lambda v, x, y: 1.0 - y * y,
    "Softplus": lambda v, x, y: _f("Sigmoid", x),
    "Softsign": lambda v, x, y: 1.0 / ((1.0 + abs(x)) * (1.0 + abs(x))),
    "Erf": lambda v, x, y: (2 / math.sqrt(math.pi)) * _f("Exp", -(x * x)),
    "Exp": lambda v, x, y: y,
    "Log": lambda v, x, y: 1.0 / x,
    "Sqrt": lambda v, x, y: 0.5 / y,
    "Reciprocal": lambda v, x, y: -(y * y),
    "Abs": lambda v, x, y: where(x > 0, 1.0, where(x < 0, -1.0, x.emit.zeros_like(x))),
    "Neg": lambda v, x, y: -x.emit.ones_like(x),
    "Sin": lambda v, x, y: _f("Cos", x), "Cos": lambda v, x, y: -_f("Sin", x), "Tan": lambda v, x, y: 1.0 + y * y,
    "Asin": lambda v, x, y: 1.0 / _f("Sqrt", 1.0 - x * x), "Acos": lambda v, x, y: -1.0 / _f("Sqrt", 1.0 - x * x),
    "Atan": lambda v, x, y: 1.0 / (1.0 + x * x), "Sinh": lambda v, x, y: _f("Cosh", x), "Cosh": lambda v, x, y: _f("Sinh", x),
    "Asinh": lambda v, x, y: 1.0 / _f("Sqrt", 1.0 + x * x), "Acosh": lambda v, x, y: 1.0 / _f("Sqrt", x * x - 1.0),
    "Atanh": lambda v, x, y: 1.0 / (1.0 - x * x),
    "Cast": lambda v, x, y: x.emit.ones_like(y),
    "Mod": lambda v, x, y: x.emit.ones_like(y),  # x - n trunc(x / n)
    "QuantizeDequantize": lambda v, x, y: x.emit.ones_like(x),
}  # fmt: skip


def _refuse(v: View) -> str | None:
    frozen = {"PRelu": "slope", "Pow": "exponent", "Clip": "bound", "Mod": "divisor"}
    if v.node.op in frozen and v.actives() != [0]:
        return f"its {frozen[v.node.op]} depends on the explained input"
    return "fmod=0, which the runtime computes for integers only" if v.node.op == "Mod" and not v.attr("fmod") else None


@op(" ".join(SLOPES), Kind.POINTWISE, "Activation", refuse=_refuse)
def pointwise(v: View) -> Reading:
    """y = f(x) element by element: relevance passes."""
    e, x = v.e, v.need(0)
    slope = SLOPES[v.node.op]

    def fit(r: Tensor) -> Tensor:  # a constant operand may be larger than x
        return r if v.y.shape is None or x.shape is None else e.unbroadcast(r, x)

    if getattr(v.node, "elementwise", False):
        return v.reading(Kind.POINTWISE, (x,), passed=lambda r: (fit(r),), vjp=lambda r: (through_members(v, r),))
    return v.reading(Kind.POINTWISE, (x,), passed=lambda r: (fit(r),), vjp=lambda r: (fit(r * slope(v, x, v.y)),))


def through_members(v: View, r: Tensor) -> Tensor:
    """Derivative of a group (GELU spelled out, ...) with respect to its input, node by node: exact for any spelling."""
    source = v.node.inputs[0].name
    active = {source} | {t.name for m in v.node.members for t in m.outputs}
    arriving = {v.node.outputs[0].name: r}
    for member in v.node.members:  # listed from the output to the input
        view = View(member, active, v.e)
        node = OPS[member.op].read(view)
        back = node.derivative(arriving[member.outputs[0].name])
        assert back is not None
        for name, part in zip(node.to, back, strict=True):
            arriving[name] = arriving[name] + part if name in arriving else part
    return arriving[source]
