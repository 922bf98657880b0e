"""Rules of nodes that are not plainly linear: pass, stop, gradient, maxima, products, activations; and the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from .errors import RuleMismatch
from .linear import Absorbed, Kind, Reading, Share, Term, pos, propagate, same
from .rules import Epsilon, Rule, option
from .tensor import Tensor, where

__all__ = [
    "Average", "BetaSmooth", "DeconvNet", "Gradient", "GuidedBackprop", "Pass", "SignalTakesAll", "SoftmaxTaylor", "Stop",
    "TieSplit", "Uniform", "ValueOnly", "WinnerTakesAll",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Pass(Rule):
    """R_x = R: relevance unchanged, moved to where the values came from."""

    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind) - {Kind.PRODUCT}  # it would double the relevance

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        if node.passed is not None:
            return node.passed(*r)
        x = node.xs[0]
        if len(node.xs) != 1 or x.shape is None or x.shape != node.y.shape:
            raise RuleMismatch(
                f"rule Pass() does not fit: the input {_sizes(x)} and the output {_sizes(node.y)} differ"
                if len(node.xs) == 1
                else f"rule Pass() does not fit: there are {len(node.xs)} active inputs"
            )
        return (r[0],)


def _sizes(x: Tensor) -> str:
    return "×".join("?" if d is None else str(d) for d in x.shape) if x.shape is not None else "of unknown shape"


@dataclass(frozen=True, repr=False)
class Stop(Rule):
    """R_x = 0: no relevance to the inputs of this node."""

    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        return tuple(x.emit.zero for x in node.xs)


@dataclass(frozen=True, repr=False)
class Gradient(Rule):
    """R_x = Jᵀ R: the plain vector-Jacobian product."""

    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        out = node.derivative(*r)
        if out is None:
            raise self.mismatch(node)
        return out


@dataclass(frozen=True, repr=False)
class WinnerTakesAll(Rule):
    """Everything to the maximum, to the first one on ties."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.SELECT})

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        if node.passed is None:
            raise self.mismatch(node)
        return node.passed(*r)


@dataclass(frozen=True, repr=False)
class TieSplit(WinnerTakesAll):
    """Equal parts to all exact maxima (lrp_toolbox)."""

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        if node.ties is None:
            raise self.mismatch(node)
        return node.ties(*r)


@dataclass(frozen=True, repr=False)
class Average(Rule):
    """A maximum read as the average over its window, explained by a linear rule (LRP tutorial).   Montavon et al. 2019."""

    rule: Rule = field(default_factory=Epsilon)
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.SELECT})

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        if node.average is None:
            raise self.mismatch(node)
        return self.rule.backward(replace(node, maps=(node.average,)), r, absorbed)


@dataclass(frozen=True, repr=False)
class Uniform(Rule):
    """Product of n active operands: each gets 1/n of what its linear reading gives it.   Achtibat et al. 2024 (AttnLRP).

    An element-wise product gives exactly R/n to each, also where the product is 0.
    """

    epsilon: float = option(1e-6)
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.PRODUCT})

    def carriers(self, node: Reading) -> list[int]:
        """Positions of the operands that share the relevance."""
        return list(range(len(node.xs)))

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        out = [x.emit.zero for x in node.xs]
        carriers = self.carriers(node)
        part = 1.0 / len(carriers)
        share = (Share((Term(same, same),), coef=part),)
        passed = node.passed(*r) if node.passed is not None else ()
        for i in carriers:
            whole = passed[i] if passed else propagate(node.maps[i], share, r[0], self.modify_denominator, absorbed)[0]
            out[i] = part * whole if passed and part != 1 else whole
        return tuple(out)


@dataclass(frozen=True, repr=False)
class SignalTakesAll(Uniform):
    """The operand that comes out of a Sigmoid, HardSigmoid or Softmax is a gate and gets nothing.   Arras et al. 2017.

    Where none or all of the operands are gates: Uniform.
    """

    def carriers(self, node: Reading) -> list[int]:
        found = [i for i, gate in enumerate(node.signals) if not gate]
        return found or super().carriers(node)


@dataclass(frozen=True, repr=False)
class ValueOnly(Uniform):
    """The last operand gets everything: the value in attention · value."""

    def carriers(self, node: Reading) -> list[int]:
        return [len(node.xs) - 1]


@dataclass(frozen=True, repr=False)
class SoftmaxTaylor(Rule):
    """R_x = x ⊙ (R − y Σ R).   Achtibat et al. 2024 (AttnLRP), Prop. 3.1. The one default that does not conserve Σ R."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.SOFTMAX})

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        if node.taylor is None:
            raise self.mismatch(node)
        return node.taylor(*r)


@dataclass(frozen=True, repr=False)
class DeconvNet(Rule):
    """R_x = R⁺.   Zeiler & Fergus 2014."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.POINTWISE})

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        return (pos(r[0]),)


@dataclass(frozen=True, repr=False)
class GuidedBackprop(DeconvNet):
    """R_x = R⁺ where x > 0, else 0.   Springenberg et al. 2015."""

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        return (where(node.xs[0] > 0, pos(r[0]), 0.0),)


@dataclass(frozen=True, repr=False)
class BetaSmooth(DeconvNet):
    """R_x = R · sigmoid(β x): the derivative of a softplus in place of a ReLU's.   Dombrowski et al. 2019."""

    beta: float = 10.0

    def backward(self, node: Reading, r: tuple[Tensor, ...], absorbed: Absorbed) -> tuple[Tensor, ...]:
        x = node.xs[0]
        return (r[0] * x.emit.elementwise("Sigmoid", self.beta * x),)


DEFAULTS: dict[Kind, Rule] = {
    Kind.WEIGHTED: Epsilon(), Kind.LINEAR: Epsilon(), Kind.SUM: Epsilon(), Kind.NORM: Epsilon(),
    Kind.REDUCE: Epsilon(), Kind.RECURRENT: Epsilon(), Kind.SELECT: WinnerTakesAll(), Kind.PRODUCT: Uniform(),
    Kind.SOFTMAX: SoftmaxTaylor(),
}  # fmt: skip


def default_rule(kind: Kind) -> Rule:
    """What a node of this kind gets when no primitive names it (OPERATORS.md)."""
    return DEFAULTS.get(kind, Pass())
