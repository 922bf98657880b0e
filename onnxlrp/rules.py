"""The rules: frozen dataclasses that say which shares a linear reading is split into. They know no operator.

Letters: x input, w weight, b bias, z = Σ x w + b, s = r / stab(z), r relevance; x⁺ = max(x, 0), x⁻ = min(x, 0).
stab(z) = z + ε where z >= 0, else z - ε. Bias policy (field `bias`): "split" gives each share the part of the bias that
the rule's formula names, "ignore" none, "full" all of it; WSquare also knows "square".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import CompositeError, RuleMismatch
from .linear import Absorbed, Kind, LinearMap, Reading, Share, Term, Transform, neg, none, one, pos, propagate, same, square
from .tensor import Operand, Tensor, relu, where

__all__ = [
    "AlphaBeta", "Epsilon", "Flat", "Gamma", "GeneralizedGamma", "Rule", "WSquare", "ZBox", "ZPlus", "Zero",
]  # fmt: skip

LINEAR = frozenset({Kind.WEIGHTED, Kind.LINEAR, Kind.SUM, Kind.AFFINE, Kind.NORM, Kind.REDUCE, Kind.SELECT})


def option(default: Any) -> Any:
    """A keyword-only field that is printed only when it differs from its default."""
    return field(default=default, kw_only=True)


class Rule:
    """A linear rule with hooks; subclass it and override what differs (RULES.md: a rule in two lines).

    R_j = x̃_j Σ_k w̃_jk R_k / denominator(z̃_k),   z̃ = x̃ w̃ + b̃,   where ~ is what the hooks return.
    """

    epsilon: float = 1e-6
    kinds: ClassVar[frozenset[Kind]] = LINEAR

    # hooks of a custom rule ------------------------------------------------------------------------------------------
    def modify_input(self, x: Tensor) -> Tensor:
        """x̃, default x."""
        return x

    def modify_parameters(self, p: Tensor) -> Tensor:
        """w̃ and b̃, default unchanged."""
        return p

    def modify_weight(self, w: Tensor) -> Tensor:
        """w̃, default modify_parameters(w)."""
        return self.modify_parameters(w)

    def modify_bias(self, b: Tensor) -> Tensor:
        """b̃, default modify_parameters(b)."""
        return self.modify_parameters(b)

    def modify_layer(self, layer: LinearMap) -> LinearMap:
        """The layer that is propagated through; the default leaves it to the three hooks above."""
        return layer

    def modify_denominator(self, z: Tensor) -> Tensor:
        """stab(z, ε)."""
        return stab(z, self.epsilon)

    def is_compatible(self, layer: LinearMap) -> bool:
        """Whether the rule can explain this linear reading."""
        return True

    # what a rule that needs more overrides ---------------------------------------------------------------------------
    def shares(self) -> tuple[Share, ...]:
        """The shares of the rule; the default is one, made of the hooks."""
        return (Share((Term(self.modify_input, self.modify_weight),), bias=self.modify_bias),)

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        """Relevance of node.xs from the relevance of the node's outputs."""
        shares = self.shares()
        if node.inner is not None:
            return node.inner(shares[0].bias, self.modify_denominator, absorbed, *r)
        if len(node.maps) == 1:
            return self._through(node.maps[0], shares, r[0], absorbed, node)
        raise self.mismatch(node)

    def _through(self, m: LinearMap, shares: Any, r: Tensor, absorbed: Absorbed, node: Reading) -> tuple[Tensor, ...]:
        if not self.is_compatible(m):
            raise self.mismatch(node)
        if type(self).modify_layer is not Rule.modify_layer:
            changed, shares = self.modify_layer(m), (Share((Term(same, same),)),)
            m = changed.evaluated(m.y.batch)
        return propagate(m, shares, r, self.modify_denominator, absorbed)

    # ------------------------------------------------------------------------------------------------------------------
    def fits(self, kind: Kind) -> bool:
        """Whether the rule may be assigned to nodes of this kind."""
        return kind in self.kinds

    def mismatch(self, node: Reading) -> RuleMismatch:
        return RuleMismatch(f"rule {self!r} does not fit a node of kind {node.kind.value}")

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of inputs that the rule assumes, where it is a pair of numbers."""
        return None

    def outside(self, x: Tensor) -> Tensor | None:
        """Count of inputs that the rule's assumptions exclude, for diagnostics."""
        return None

    def __repr__(self) -> str:
        shown: list[str] = []
        own: Any = self
        for f in fields(own) if is_dataclass(own) else ():
            value = getattr(self, f.name)
            if not f.kw_only or value != f.default:
                shown.append(f"{f.name}={_show(value)}" if f.kw_only else _show(value))
        return f"{type(self).__name__}({', '.join(shown)})"


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def stab(z: Tensor, epsilon: Operand) -> Tensor:
    """z + ε where z >= 0, else z - ε (sign(0) = +1). A sum of non-positive parts has none to divide at 0: z - ε."""
    if z.nonneg or z.is_zero:
        return z + epsilon
    if z.nonpos:
        return z - epsilon
    step = z.emit.lift(epsilon, z)
    d = z + where(z >= 0, step, -step)
    d.stabilized = (z, step)
    return d


def _number(rule: object, name: str, low: float = 0.0) -> None:
    value = getattr(rule, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value) or value < low:
        raise CompositeError(f"{type(rule).__name__}: {name} must be a finite number >= {low:g}, got {value!r}")


def _policy(rule: object, bias: str, split: Transform, **more: Transform) -> Transform:
    known = {"split": split, "ignore": none, "full": same, **more}
    if bias not in known:
        raise CompositeError(f"{type(rule).__name__}: bias must be one of {', '.join(known)}, got {bias!r}")
    return known[bias]


class Checked(Rule):
    """Base of the rules with parameters: building the shares checks them."""

    def __post_init__(self) -> None:
        _number(self, "epsilon")
        self.shares()


@dataclass(frozen=True, repr=False)
class Zero(Checked):
    """R_j = Σ_k x_j w_jk / z_k R_k, with ε = 1e-9 against 0/0.   Bach et al. 2015 (LRP-0)."""

    epsilon: float = option(1e-9)
    bias: str = option("split")
    kinds: ClassVar[frozenset[Kind]] = LINEAR | {Kind.RECURRENT}

    def shares(self) -> tuple[Share, ...]:
        return (Share((Term(same, same),), bias=_policy(self, self.bias, same)),)


@dataclass(frozen=True, repr=False)
class Epsilon(Checked):
    """R_j = Σ_k x_j w_jk / stab(z_k) R_k.   Bach et al. 2015 eq. 58; Montavon et al. 2019 §10.2.

    relative: the increment is ε·RMS(z) + 1e-9, RMS over everything but the batch axis. signed=False: always added.
    """

    epsilon: float = 1e-6
    relative: bool = option(False)
    signed: bool = option(True)
    bias: str = option("split")
    kinds: ClassVar[frozenset[Kind]] = LINEAR | {Kind.RECURRENT}

    def shares(self) -> tuple[Share, ...]:
        return (Share((Term(same, same),), bias=_policy(self, self.bias, same)),)

    def modify_denominator(self, z: Tensor) -> Tensor:
        if not self.relative:
            return stab(z, self.epsilon) if self.signed else z + self.epsilon
        if z.batch is None:
            raise RuleMismatch(
                f"rule {self!r} needs the model's batch axis, which cannot be traced to this node: "
                "where the file does not name it, input_shapes={input: ['batch', ...]} does"
            )
        power = z.emit.reduce("ReduceMean", z * z, [a for a in range(z.rank) if a != z.batch])
        step = self.epsilon * z.emit.elementwise("Sqrt", power) + 1e-9
        return stab(z, step) if self.signed else z + step


@dataclass(frozen=True, repr=False)
class Gamma(Checked):
    """R_j = Σ_k x_j (w_jk + γ w_jk⁺) / Σ(…) R_k, bias b + γ b⁺.   Montavon et al. 2019 §10.2."""

    gamma: float = 0.25
    epsilon: float = option(1e-6)
    bias: str = option("split")

    def modify_parameters(self, p: Tensor) -> Tensor:
        return p + self.gamma * relu(p)

    def shares(self) -> tuple[Share, ...]:
        _number(self, "gamma")
        return (Share((Term(same, self.modify_parameters),), bias=_policy(self, self.bias, self.modify_parameters)),)


@dataclass(frozen=True, repr=False)
class GeneralizedGamma(Checked):
    """Gamma for signed inputs; the sign of the node's own output z selects the share, z == 0 drops R.   Andéol 2021.

    z > 0: x⁺(w + γw⁺) + x⁻(w + γw⁻), bias b + γb⁺;   z < 0: x⁺(w + γw⁻) + x⁻(w + γw⁺), bias b + γb⁻.
    """

    gamma: float = 0.25
    epsilon: float = option(1e-6)
    bias: str = option("split")

    def _up(self, p: Tensor) -> Tensor:
        return p + self.gamma * pos(p)

    def _down(self, p: Tensor) -> Tensor:
        return p + self.gamma * neg(p)

    def shares(self) -> tuple[Share, ...]:
        _number(self, "gamma")
        up, down = (_policy(self, self.bias, t) for t in (self._up, self._down))
        sign = 0 if self.bias == "ignore" else 1  # z + γz⁺ > 0 where z > 0, but not without the bias that z has
        return (
            Share((Term(pos, self._up), Term(neg, self._down)), bias=up, gate=_where_positive, sign=sign),
            Share((Term(pos, self._down), Term(neg, self._up)), bias=down, gate=_where_negative, sign=-sign),
        )


def _where_positive(r: Tensor, y: Tensor) -> Tensor:
    return r if r.emit.rectifier(r, y) is not None else where(y > 0, r, 0.0)


def _where_negative(r: Tensor, y: Tensor) -> Tensor:
    return r.emit.zero if y.nonneg or r.emit.rectifier(r, y) is not None else where(y < 0, r, 0.0)


@dataclass(frozen=True, repr=False)
class ZPlus(Checked):
    """R_j = Σ_k (x_j w_jk)⁺ / (Σ_i (x_i w_ik)⁺ + b_k⁺) R_k.   Montavon et al. 2017 (z⁺); inputs of either sign."""

    bias: str = option("split")
    epsilon: float = option(1e-6)

    def shares(self) -> tuple[Share, ...]:
        return (Share((Term(pos, pos), Term(neg, neg)), bias=_policy(self, self.bias, pos)),)


@dataclass(frozen=True, repr=False)
class AlphaBeta(Checked):
    """R_j = Σ_k (α (x_j w_jk)⁺ / Σ(…)⁺ − β (x_j w_jk)⁻ / Σ(…)⁻) R_k, biases b⁺ and b⁻, α − β = 1.   Bach 2015 eq. 60."""

    alpha: float = 2.0
    beta: float = 1.0
    bias: str = option("split")
    epsilon: float = option(1e-6)

    def shares(self) -> tuple[Share, ...]:
        _number(self, "alpha")
        _number(self, "beta")
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise CompositeError(f"AlphaBeta: alpha - beta must be 1, got alpha={self.alpha!r}, beta={self.beta!r}")
        up, down = (_policy(self, self.bias, t) for t in (pos, neg))
        return (
            Share((Term(pos, pos), Term(neg, neg)), bias=up, coef=self.alpha),
            Share((Term(pos, neg), Term(neg, pos)), bias=down, coef=-self.beta),
        )


@dataclass(frozen=True, repr=False, eq=False)
class ZBox(Checked):
    """R_j = Σ_k (x_j w_jk − l_j w_jk⁺ − h_j w_jk⁻) / Σ(…) R_k for inputs in [l, h].   Montavon et al. 2017 (z^B).

    low, high: in the units of the layer's own input; a scalar, one value per channel, or an array of the input's shape.
    """

    low: float | np.ndarray
    high: float | np.ndarray
    bias: str = option("split")
    epsilon: float = option(1e-6)

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            try:
                value = np.asarray(getattr(self, name), np.float32)
            except (TypeError, ValueError) as error:
                raise CompositeError(f"ZBox: {name} must be a number or an array, got {getattr(self, name)!r}") from error
            if not np.isfinite(value).all():
                raise CompositeError(f"ZBox: {name} must be finite, got {getattr(self, name)!r}")
            object.__setattr__(self, name, float(value) if value.ndim == 0 else value)
        try:
            crossed = bool(np.any(np.asarray(self.low) > np.asarray(self.high)))
        except ValueError as error:
            raise CompositeError(f"ZBox: low and high have shapes that do not fit each other: {error}") from error
        if crossed:
            raise CompositeError(f"ZBox: low must not exceed high, got low={self.low!r}, high={self.high!r}")
        super().__post_init__()

    def _low(self, x: Tensor) -> Tensor:
        return _bound(x, self.low, "low")

    def _high(self, x: Tensor) -> Tensor:
        return _bound(x, self.high, "high")

    def shares(self) -> tuple[Share, ...]:
        terms = (Term(same, same), Term(self._low, pos, -1.0), Term(self._high, neg, -1.0))
        return (Share(terms, bias=_policy(self, self.bias, none)),)

    @property
    def bounds(self) -> tuple[float, float] | None:
        one = not isinstance(self.low, np.ndarray) and not isinstance(self.high, np.ndarray)
        return (float(self.low), float(self.high)) if one else None

    def outside(self, x: Tensor) -> Tensor | None:
        below, above = (where(c, 1.0, 0.0) for c in (x < self._low(x), x > self._high(x)))
        return x.emit.op("ReduceSum", below + above, shape=(), keepdims=0)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ZBox)
            and (self.bias, self.epsilon) == (other.bias, other.epsilon)
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )

    def __hash__(self) -> int:
        return hash((np.asarray(self.low).tobytes(), np.asarray(self.high).tobytes(), self.bias, self.epsilon))


def _bound(x: Tensor, value: float | np.ndarray, name: str) -> Tensor:
    """A bound as a tensor of x's shape: scalar, per channel (axis 1), or of the input's shape without its batch axis."""
    if not isinstance(value, np.ndarray):
        return x.emit.zero if value == 0 else x.emit.expand_like(x.emit.array(value), x)
    if value.ndim == 1 and x.rank > 2:
        value = value.reshape(-1, *[1] * (x.rank - 2))
    sizes = (1,) * (x.rank - value.ndim) + value.shape
    assert x.shape is not None
    if len(sizes) != x.rank or any(isinstance(d, int) and v not in (1, d) for v, d in zip(sizes, x.shape, strict=True)):
        raise RuleMismatch(f"its {name} of shape {value.shape} does not broadcast to the layer's input {x.shape}")
    return x.emit.expand_like(x.emit.array(value.reshape(sizes)), x)


@dataclass(frozen=True, repr=False)
class WSquare(Checked):
    """R_j = Σ_k w_jk² / Σ_i w_ik² R_k.   Montavon et al. 2017 (w²); bias="square" adds b² to the sum as zennit does."""

    bias: str = option("split")
    epsilon: float = option(1e-6)

    def shares(self) -> tuple[Share, ...]:
        return (Share((Term(one, square),), bias=_policy(self, self.bias, none, square=square)),)


@dataclass(frozen=True, repr=False)
class Flat(Checked):
    """R_j = Σ_k 1 / Σ_i 1 R_k over the connections that exist (zero padding is none).   Lapuschkin et al. 2019."""

    bias: str = option("split")
    epsilon: float = option(1e-6)

    def shares(self) -> tuple[Share, ...]:
        return (Share((Term(one, one),), bias=_policy(self, self.bias, none)),)
