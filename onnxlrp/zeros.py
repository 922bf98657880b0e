"""Zero sets: what is proved about where an operator's result is 0.

u is in the zero set of t when both have one shape and u = 0 implies t = 0 (infinities and NaN aside). Relevance has the
form x ⊙ c nearly everywhere, so it is 0 where x is: behind a ReLU, where the layer's own output was not positive. Without
this, GeneralizedGamma takes 1.65 times as long on VGG-16 and 1.39 on ResNet-50, Epsilon 1.09.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tensor import Shape, Tensor

__all__ = ["rectifies", "zeros"]

Names = tuple[str, ...]
CAP = 8  # the nearest ones are what a rule asks for; without a limit they pile up along a chain of products


def _first(xs: Sequence[Names]) -> Names:
    return xs[0]


def _any(xs: Sequence[Names]) -> Names:
    return tuple(dict.fromkeys(name for x in xs for name in x))


def _all(xs: Sequence[Names]) -> Names:
    return tuple(name for name in xs[0] if all(name in x for x in xs[1:]))


def _chosen(xs: Sequence[Names]) -> Names:
    return xs[1]


# operator -> zero set of the result from those of the inputs, each with the input's own name in front
ZEROS: dict[str, Callable[[Sequence[Names]], Names]] = {
    **dict.fromkeys("Identity Cast Neg Abs Relu Sqrt Sign Div".split(), _first),  # 0 / d = 0
    **dict.fromkeys(["Add", "Sub"], _all),
    "Mul": _any,
    "Where": _chosen,  # only asked where the other branch is 0
}


def zeros(op: str, xs: Sequence[Tensor | None], shape: Shape) -> Names:
    """Names of tensors that are 0 only where the node's result is; absent inputs are None."""
    if op not in ZEROS or shape is None or None in shape:
        return ()
    if op == "Where" and not (xs[2] is not None and xs[2].is_zero):
        return ()
    own = [() if x is None or x.value is not None or x.shape != shape else (x.name, *x.zeros) for x in xs]
    return ZEROS[op](own)[:CAP]


def rectifies(op: str, attrs: Mapping[str, Any], xs: Sequence[Tensor | None]) -> bool:
    """Whether the node's result is 0 wherever its first input is not positive."""
    if op == "Clip":
        low, high = (xs[i] if len(xs) > i else None for i in (1, 2))
        floor = low is not None and low.value is not None and not low.value.any()
        return floor and (high is None or (high.value is not None and bool((high.value > 0).all())))  # below 0 it wins
    return op == "Relu" or (op == "ThresholdedRelu" and attrs.get("alpha", 1.0) >= 0)
