"""The kernel: readings of a node (`LinearMap`, `Reading`), shares of a rule (`Term`, `Share`), and what combines them.

A reading knows no rule, a share knows no operator; `propagate` is the only place where they meet:

    z_share = Σ_t σ_t A(x_t; w_t) + b_share        r_x = Σ_share ρ Σ_t σ_t x_t ⊙ Aᵀ( gate(r) / stab(z_share) ; w_t )
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import NamedTuple

from .tensor import Tensor, where

__all__ = ["Absorbed", "Kind", "LinearMap", "Reading", "Share", "Term", "Transform", "propagate"]

Transform = Callable[[Tensor], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]  # (r, y) -> r


class Kind(Enum):
    """What an operator does with relevance; every operator has exactly one (the value is what tables print)."""

    WEIGHTED = "linear, with a weight"
    LINEAR = "linear, without a weight"
    SUM = "sum"
    SCALING = "input scaling"
    SCALE = "scale"
    PRODUCT = "product"
    RATIO = "ratio"
    AFFINE = "normalization (affine)"
    NORM = "normalization"
    FROZEN_NORM = "normalization (factor frozen)"
    SOFTMAX = "softmax"
    POINTWISE = "pointwise"
    MOVE = "move"
    SELECT = "select"
    REDUCE = "reduce"
    RECURRENT = "recurrent"
    CONTROL = "control flow"
    INERT = "inert"
    UNKNOWN = "unknown operator"


def same(x: Tensor) -> Tensor:
    """x."""
    return x


def pos(x: Tensor) -> Tensor:
    """x⁺ = max(x, 0)."""
    return x.emit.pos(x)


def neg(x: Tensor) -> Tensor:
    """x⁻ = min(x, 0)."""
    return x.emit.neg(x)


def none(x: Tensor) -> Tensor:
    """ZERO: absent."""
    return x.emit.zero


def one(x: Tensor) -> Tensor:
    """1 everywhere; ONE stays ONE."""
    return x if x.value is not None and x.value.ndim == 0 else x.emit.ones_like(x)


def square(x: Tensor) -> Tensor:
    """x²."""
    return x * x


def whole(r: Tensor, y: Tensor) -> Tensor:
    """Gate that lets everything through."""
    return r


class Term(NamedTuple):
    """σ x_t · w_t: a transform of the input, one of the weight, a sign."""

    x: Transform
    w: Transform
    sign: float = 1.0


class Share(NamedTuple):
    """One denominator: ρ gate(r) / stab(Σ terms + bias).

    sign: of that sum wherever gate(r) is not 0, for a map through a weight; 0: either.
    """

    terms: tuple[Term, ...]
    bias: Transform = same
    coef: float = 1.0
    gate: Gate = whole
    sign: int = 0


@dataclass(frozen=True)
class LinearMap:
    """One way to read a node as linear: y = apply(xs, w, b).

    xs: inputs that receive relevance. w: weight, or ONE. b: bias, or ZERO. apply: (xs, w, b) -> z.
    adjoint: (s, w) -> one c per x, with <apply(x, w, ZERO), s> == <x, adjoint(s, w)>.
    lay: a bias -> the same values laid out so that they broadcast against y.
    """

    xs: tuple[Tensor, ...]
    w: Tensor
    b: Tensor
    y: Tensor
    apply: Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]
    adjoint: Callable[[Tensor, Tensor], Sequence[Tensor]]
    lay: Transform = same

    def z(self, xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        """apply, where a product with ZERO costs nothing and the node's own arguments give its own output."""
        if w.is_zero or all(x.is_zero for x in xs):
            return b
        mine = all(a is o for a, o in zip((*xs, w, b), (*self.xs, self.w, self.b), strict=True))
        return self.y if mine and self.y.emit.smart else self.apply(xs, w, b)

    def evaluated(self, batch: int | None) -> LinearMap:
        """This map with y computed from its own arguments: for a map made of another one's parts."""
        y = self.apply(self.xs, self.w, self.b)
        y.batch = batch
        return replace(self, y=y)

    def c(self, s: Tensor, w: Tensor) -> Sequence[Tensor]:
        """adjoint; ZERO for a ZERO weight."""
        return [s.emit.zero] * len(self.xs) if w.is_zero or s.is_zero else self.adjoint(s, w)


Moves = Callable[..., tuple[Tensor, ...]]  # relevance per output -> relevance per x


@dataclass(frozen=True)
class Reading:
    """A node as the rules see it.

    xs: inputs that receive relevance, sent to the tensors named `to`. maps: linear readings (two for a product).
    passed: relevance unchanged, laid out as the inputs. vjp: the plain vector-Jacobian product.
    average, ties: what a maximum can also be read as. taylor: the expansion of a softmax.
    signals: per x, whether it is a gate (comes out of a Sigmoid, HardSigmoid or Softmax).
    inner: (bias transform, stab, absorbed, *r) -> relevance of xs, for a node with linear maps inside (a recurrent one).
    """

    kind: Kind
    xs: tuple[Tensor, ...]
    to: tuple[str, ...]
    y: Tensor
    maps: tuple[LinearMap, ...] = ()
    passed: Moves | None = None
    vjp: Moves | None = None
    average: LinearMap | None = None
    ties: Moves | None = None
    taylor: Moves | None = None
    signals: tuple[bool, ...] = ()
    inner: Callable[..., tuple[Tensor, ...]] | None = None

    def derivative(self, *r: Tensor) -> tuple[Tensor, ...] | None:
        """Jᵀ r, from vjp or from the linear maps; None when the reading knows neither."""
        if self.vjp is not None:
            return self.vjp(*r)
        if not self.maps:
            return None
        found = [(x, c) for m in self.maps for x, c in zip(m.xs, m.c(r[0], m.w), strict=True)]
        return tuple(c if c.is_zero else c.emit.expand_like(c, x) for x, c in found)


class Absorbed(NamedTuple):
    """Relevance that a node keeps, as thunks: emitted only when diagnostics ask for it."""

    bias: list[Callable[[], Tensor]]
    epsilon: list[Callable[[], Tensor]]


def propagate(
    m: LinearMap, shares: Sequence[Share], r: Tensor, stab: Transform, absorbed: Absorbed | None = None
) -> tuple[Tensor, ...]:
    """Relevance of m.xs from the relevance r of m.y (module docstring); ZERO where nothing arrives."""
    e = r.emit
    out = [e.zero] * len(m.xs)
    for share in shares:
        terms = [(tuple(t.x(x) for x in m.xs), t.w(m.w), t.sign) for t in share.terms]
        live = [(xs, w, sign) for xs, w, sign in terms if not w.is_zero and not all(x.is_zero for x in xs)]
        if not live or share.coef == 0:
            continue
        b = waiting = e.zero if m.b.is_zero else share.bias(m.b)
        z = e.zero
        for xs, w, sign in live:
            part = m.z(xs, w, waiting if sign == 1 else e.zero)
            waiting = e.zero if sign == 1 else waiting
            z = z + part if sign == 1 else z - (part if sign == -1 else -sign * part)
        z = z + (waiting if waiting.is_zero else m.lay(waiting))
        z.batch = m.y.batch
        sign = 0 if m.w.is_one else share.sign  # a fixed map (DFT) may have negative parts of its own
        d = stab(z if sign == 0 else abs(z) if sign > 0 else -abs(z))
        s = share.gate(r, m.y) / d
        if absorbed is not None:
            absorbed.bias.append(partial(_kept, share.coef, s, b if b.is_zero else m.lay(b)))
            absorbed.epsilon.append(partial(_kept, share.coef, s, d - z))
        for xs, w, sign in live:
            for i, (x, c) in enumerate(zip(xs, m.c(s, w), strict=True)):
                part = x * c
                scale = share.coef * sign
                out[i] = out[i] + part if scale == 1 else out[i] - part if scale == -1 else out[i] + scale * part
    return tuple(x if x.is_zero else e.expand_like(x, o) for x, o in zip(out, m.xs, strict=True))


def _kept(coef: float, s: Tensor, part: Tensor) -> Tensor:
    """ρ Σ_k s_k part_k, the relevance that a bias or ε takes; a bias of −∞ (a mask) takes none."""
    x = s * part if part.is_zero else where(abs(part) < float("inf"), s * part, 0.0)
    return x if x.is_zero else coef * x.emit.op("ReduceSum", x, shape=(), keepdims=0)
