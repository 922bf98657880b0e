"""Intervals: what is proved about the range of every operator's result.

Nothing is assumed that is not proved: an operator without a row has an unbounded result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx

__all__ = ["Interval", "interval"]

INF = float("inf")
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


class Interval(NamedTuple):
    """low <= every element <= high (NaN aside)."""

    low: float = -INF
    high: float = INF

    @classmethod
    def of(cls, value: np.ndarray) -> Interval:
        """Range of a constant."""
        if value.size == 0 or value.dtype.kind not in "fiub":
            return cls()
        low, high = float(value.min()), float(value.max())
        return cls() if np.isnan(low) or np.isnan(high) else cls(low, high)

    @property
    def sign(self) -> Interval:
        """What survives rounding: non-negative, non-positive, or nothing."""
        return Interval(0.0 if self.low >= 0 else -INF, 0.0 if self.high <= 0 else INF)

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def plus(self, other: Interval) -> Interval:
        return Interval(self.low if other.low >= 0 else -INF, self.high if other.high <= 0 else INF).sign

    def times(self, other: Interval) -> Interval:
        a, b = self.sign, other.sign
        if (a.low == 0 and b.low == 0) or (a.high == 0 and b.high == 0):
            return Interval(0.0, INF)
        return Interval(-INF, 0.0) if (a.low == 0 and b.high == 0) or (a.high == 0 and b.low == 0) else Interval()


class Ranged(Protocol):
    """Anything with a range and, when constant, a value."""

    span: Interval
    value: np.ndarray | None


Rule = Callable[[Sequence[Any], Mapping[str, Any]], Interval]


def _keep(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    return xs[0].span


def _sign(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign


def _union(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out = xs[0].span
    for x in xs[1:]:
        out = out.union(x.span)
    return out


def _extreme(choose: Callable[[list[float]], float]) -> Rule:
    return lambda xs, _: Interval(choose([x.span.low for x in xs]), choose([x.span.high for x in xs]))


def _sum(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out = xs[0].span.sign
    for x in xs[1:]:
        out = out.plus(x.span.sign)
    return out


def _product(xs: Sequence[Any], _: Mapping[str, Any]) -> Interval:
    if len(xs) == 2 and xs[0] is xs[1]:
        return Interval(0.0, INF)
    out: Interval = xs[0].span.times(xs[1].span)
    return out


def _quotient(xs: Sequence[Any], _: Mapping[str, Any]) -> Interval:
    # x / ±0 is an infinity of either sign
    below = xs[1].span
    return _product(xs, {}) if below.low > 0 or below.high < 0 or xs[0] is xs[1] else Interval()


def _opt(xs: Sequence[Ranged | None], index: int) -> Ranged | None:
    return xs[index] if len(xs) > index else None


def _affine(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out, bias = xs[0].span.times(xs[1].span), _opt(xs, 2)
    return out if bias is None else out.plus(bias.span.sign)


def _gemm(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return _affine(xs, attrs) if attrs.get("alpha", 1.0) > 0 and attrs.get("beta", 1.0) >= 0 else Interval()


def _fixed(low: float, high: float) -> Rule:
    return lambda xs, attrs: Interval(low, high)


def _clip(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    low, high = xs[0].span
    below, above = _opt(xs, 1), _opt(xs, 2)
    if below is not None and below.value is not None and below.value.size == 1:
        low, high = (max(v, float(below.value.ravel()[0])) for v in (low, high))
    if above is not None and above.value is not None and above.value.size == 1:
        low, high = (min(v, float(above.value.ravel()[0])) for v in (low, high))
    unknown = (below is not None and below.value is None) or (above is not None and above.value is None)
    return Interval() if unknown else Interval(low, high)


def _pad(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    if attrs.get("mode", "constant") != "constant":
        return xs[0].span
    value = _opt(xs, 2)
    return xs[0].span.union(Interval(0.0, 0.0) if value is None else value.span)


def _pow(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    value = xs[1].value
    n = float(value.ravel()[0]) if value is not None and value.size == 1 else None
    even = n is not None and n % 2 == 0
    return Interval(0.0, INF) if even or xs[0].span.low > 0 or (xs[0].span.low == 0 and (n or -1) > 0) else Interval()


def _cast(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign if attrs.get("to") in FLOATS else Interval()  # integers wrap around


def _leaky(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign if attrs.get("alpha", 0.01) >= 0 else Interval()


def _resize(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    beyond = attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"  # puts extrapolation_value there
    return xs[0].span.sign if attrs.get("mode", "nearest") in ("nearest", "linear") and not beyond else Interval()


def _abs(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    low, high = xs[0].span
    return Interval(max(0.0, low, -high), max(-low, high))


# operator -> range of the first output from the ranges of the inputs; bounds survive exact operators, signs survive rounding
INTERVALS: dict[str, Rule] = {
    **dict.fromkeys(
        ("Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather GatherElements GatherND "
    "Expand Tile MaxPool GlobalMaxPool ReduceMax ReduceMin DepthToSpace SpaceToDepth Compress "
    "ReverseSequence TopK").split(), _keep),
    **dict.fromkeys("AveragePool GlobalAveragePool ReduceMean ReduceSum CumSum LRN".split(), _sign),
    **dict.fromkeys("Tanh Softsign Erf Atan Sinh Asinh".split(), _sign),
    "Concat": _union, "Max": _extreme(max), "Min": _extreme(min),
    **dict.fromkeys(["Add", "Sum", "Mean"], _sum),
    "Mul": _product, "Div": _quotient, "Cast": _cast, "Trilu": lambda xs, _: xs[0].span.union(Interval(0.0, 0.0)),
    **dict.fromkeys(["Conv", "ConvTranspose", "MatMul"], _affine),
    **dict.fromkeys("Exp Sqrt Softplus ReduceL1 ReduceL2 ReduceSumSquare LpPool GlobalLpPool".split(), _fixed(0.0, INF)),
    **dict.fromkeys(["Sigmoid", "HardSigmoid", "Softmax", "Hardmax"], _fixed(0.0, 1.0)),
    "Relu": lambda xs, _: Interval(max(0.0, xs[0].span.low), max(0.0, xs[0].span.high)),
    "Neg": lambda xs, _: Interval(-xs[0].span.high, -xs[0].span.low),
    "Sub": lambda xs, _: xs[0].span.sign.plus(Interval(-xs[1].span.high, -xs[1].span.low).sign),
    "Where": lambda xs, _: xs[1].span.union(xs[2].span),
    "Gemm": _gemm, "Clip": _clip, "Pad": _pad, "Pow": _pow, "LeakyRelu": _leaky, "Resize": _resize, "Abs": _abs,
}  # fmt: skip


def interval(op: str, attrs: Mapping[str, Any], xs: Sequence[Ranged | None]) -> Interval:
    """Proved range of a node's first output; absent inputs are None."""
    return INTERVALS[op](xs, attrs) if op in INTERVALS and xs and xs[0] is not None else Interval()
