"""The reverse walk: from the initial relevance to the explained tensors. Correctness lives here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .emit import Emit
from .errors import RuleMismatch
from .facts import Facts
from .linear import Absorbed, Reading
from .ops import OPS, View
from .plan import Plan, Step
from .tensor import Tensor

__all__ = ["Relevances", "backward"]


@dataclass
class Relevances:
    """Relevance per tensor, as it arrives; a mask on a tensor multiplies what arrives there."""

    e: Emit
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    arriving: dict[str, list[Tensor]] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)

    def send(self, name: str, r: Tensor) -> None:
        """Relevance for a tensor from one of its consumers."""
        if not r.is_zero:
            assert name not in self.total, f"relevance for {name} after it was passed on"
            self.arriving.setdefault(name, []).append(r)

    def collect(self, name: str) -> Tensor:
        """All that arrived at a tensor; ZERO for nothing."""
        if name not in self.total:
            r = self.e.total(self.arriving.get(name, []))
            if name in self.masks and not r.is_zero:
                r = self.e.expand_like(r * self.masks[name], r)
            self.total[name] = r
        return self.total[name]


@dataclass
class Books:
    """What a step took in, gave out and kept, for diagnostics."""

    step: Step
    arrived: list[Tensor]
    sent: list[Tensor]
    absorbed: Absorbed
    xs: tuple[Tensor, ...]


def backward(e: Emit, plan: Plan, facts: Facts, seed: Tensor, masks: Mapping[str, Tensor]) -> tuple[Relevances, list[Books]]:
    """Walk the plan backwards. Raises RuleMismatch naming the node."""
    relevances, books = Relevances(e, masks), []
    relevances.send(plan.head.tensor, seed)
    for step in reversed(plan.steps):
        unit = step.unit
        with e.scope(unit.name):
            taken = unit.outputs if not step.opaque and OPS[unit.op].outputs is None else unit.outputs[:1]
            arrived = [relevances.collect(o.name) for o in taken if o.name in facts.active]
        if all(r.is_zero for r in arrived):
            continue
        with e.scope(unit.name):
            view = View(unit, facts.active, e, unit.outputs[0].name in facts.scaled)
            absorbed = Absorbed([], [])
            try:
                node = opaque(view, step) if step.opaque else OPS[unit.op].read(view)
                node = replace(node, signals=tuple(name in plan.signals for name in node.to))
                sent = step.rule.backward(node, tuple(arrived), absorbed)
            except RuleMismatch as error:
                raise RuleMismatch(f"node '{unit.name}' ({unit.op}): {error}") from error
            for name, r in zip(node.to, sent, strict=True):
                relevances.send(name, r)
        books.append(Books(step, [r for r in arrived if not r.is_zero], list(sent), absorbed, node.xs))
    return relevances, books[::-1]


def opaque(v: View, step: Step) -> Reading:
    """A node that only Pass or Stop can explain."""
    return v.reading(step.kind, tuple(v.need(i) for i in v.actives()))
