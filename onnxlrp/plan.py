"""The plan: which rule every relevance-carrying node gets, and why. `print(plan)` is the table of `onnxlrp inspect`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from rich import box
from rich.console import Console
from rich.table import Table

from .composites import Composite
from .emit import Emit
from .errors import CompositeError, RuleMismatch, UnsupportedOp
from .expansions.ml import unread
from .facts import Facts
from .graph import Source
from .groups import Unit
from .head import Head
from .linear import Kind
from .node_rules import Pass, SignalTakesAll, Stop, default_rule
from .ops import OPS, View
from .rules import Rule
from .selectors import Choice, Site
from .sites import signals, sites
from .unsupported import because

__all__ = ["Layer", "Plan", "Step", "assign"]


@dataclass(frozen=True)
class Step:
    """One node with its rule; why names the primitive that decided. opaque: no reading, only Pass or Stop get past it."""

    unit: Unit
    kind: Kind
    rule: Rule
    why: str
    layer: int | None
    opaque: bool = False


@dataclass(frozen=True)
class Layer:
    """A row of the plan: a node with the activation that follows it."""

    index: int
    name: str
    op: str
    kind: str
    input_shape: tuple[Any, ...] | None
    output_shape: tuple[Any, ...] | None
    rule: Rule
    why: str
    output: str
    input: str = ""


@dataclass(frozen=True)
class Plan(Sequence[Layer]):
    """The resolved composite: `plan[3].rule`, `print(plan)`, `plan.to_json()`; steps are what the compiler walks."""

    layers: tuple[Layer, ...]
    steps: tuple[Step, ...]
    head: Head
    explained: tuple[str, ...]
    composite: str
    init: str = "logit"
    notes: tuple[str, ...] = ()
    signals: frozenset[str] = frozenset()  # tensors that come out of a gate

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    def layer(self, key: str | int) -> Layer | None:
        """A layer by index, by its name in the table, or by the name of a node in it; None when there is none."""
        if isinstance(key, str):
            named = next((layer for layer in self.layers if layer.name == key), None)
            if named is not None or any(t.name == key for st in self.steps for t in (*st.unit.inputs, *st.unit.outputs)):
                return named  # a tensor of this name is not the node's layer
            found = next((st.layer for st in self.steps if st.unit.name == key and st.layer is not None), None)
            if found is not None or not key.lstrip("-").isdigit():
                return None if found is None else self.layers[found]
        index = int(key)
        if not -len(self.layers) <= index < len(self.layers):
            raise CompositeError(f"layer {index}: the model has layers 0 to {len(self.layers) - 1}")
        return self.layers[index]

    def records(self) -> list[dict[str, Any]]:
        """The table as plain data."""
        return [
            {"index": la.index, "name": la.name, "op": la.op, "kind": la.kind, "input": la.input_shape,
             "output": la.output_shape, "rule": repr(la.rule), "why": la.why, "tensor": la.output,
             "input_tensor": la.input}
            for la in self.layers
        ]  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(
            {"layers": self.records(), "output": self.head.output, "explained_tensor": self.head.tensor,
             "class_axis": self.head.class_axis, "inputs": list(self.explained), "composite": self.composite,
             "init": self.init, "notes": list(self.notes)}
        )  # fmt: skip

    def table(self) -> Table:
        """The plan as a rich table."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("#", justify="right")
        for title in ("layer", "operator", "input", "output", "rule", "decided by"):
            table.add_column(title, no_wrap=True)
        for la in self.layers:
            sizes = (show_shape(la.input_shape), show_shape(la.output_shape))
            table.add_row(str(la.index), la.name, la.op, *sizes, repr(la.rule), la.why)
        return table

    def footer(self) -> str:
        """What is explained, from where to where."""
        head = self.head
        end = f" (before {' and '.join(reversed(head.stripped))})" if head.stripped else ""
        axis = "every value" if head.class_axis is None else f"class axis {head.class_axis} ({head.why})"
        of = f" of output {head.output}" if head.tensor != head.output else ""
        lines = [f"explains  {head.tensor}{end}{of}, {axis}, initial relevance: {self.init}"]
        lines.append(f"down to   {', '.join(self.explained)}")
        return "\n".join([*lines, *(f"note      {n}" for n in self.notes)])

    def __str__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=10_000, color_system=None, legacy_windows=False).print(self.table())
        return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").split("\n")) + "\n\n" + self.footer()


def show_shape(shape: tuple[Any, ...] | None) -> str:
    """(batch, 3, 8, 8) as `batch×3×8×8`."""
    unknown = ("None", "unk__")  # shape inference invents names like unk__0
    return "?" if shape is None else "×".join("?" if str(d).startswith(unknown) else str(d) for d in shape) or "scalar"


def assign(source: Source, composite: Composite, facts: Facts, head: Head, init: str = "logit") -> Plan:
    """Resolve a composite on a model. Raises UnsupportedOp, RuleMismatch, CompositeError, each naming the node."""
    found = sites(source, facts)
    layers = sum(s.core for s in found)
    chosen: dict[int, Choice] = {}
    for site in found:
        if site.kind is Kind.WEIGHTED and site.core:
            chosen[id(site)] = Choice(site, composite.default, "default of the composite")
    for primitive in composite.primitives:
        for choice in primitive.choose(found, layers):
            if choice.site.kind is Kind.UNKNOWN and not isinstance(choice.rule, (Pass, Stop)):
                continue
            if choice.rule.fits(choice.site.kind):
                chosen[id(choice.site)] = choice
            elif choice.strict:
                s = choice.site
                raise RuleMismatch(
                    f"rule {choice.rule!r} does not fit node '{s.name}' ({s.op}, {s.kind.value}), chosen by {choice.why}; "
                    f"its default is {default_rule(s.kind)!r}"
                )
    steps, gated = [], signals(found, facts)
    for unit, site in zip(facts.path, found, strict=True):
        pick = chosen.get(id(site)) or Choice(site, default_rule(site.kind), f"default of {site.kind.value}")
        beyond, reason = beyond_reading(unit, site, facts), against(unit, site, facts)
        past = isinstance(pick.rule, Stop) or (isinstance(pick.rule, Pass) and not beyond and unit.name not in source.kept)
        if reason is not None and not (pick.strict and past):
            raise UnsupportedOp(refusal(unit, site, source, reason, ("Stop",) if beyond else ("Pass", "Stop")))
        why = pick.why
        if isinstance(pick.rule, SignalTakesAll):
            gates = {t.name in gated for t in unit.inputs if t.name in facts.active}
            why += "" if len(gates) == 2 else f", {'all' if gates == {True} else 'none'} of its operands a gate: as Uniform"
        steps.append(Step(unit, site.kind, pick.rule, why, site.layer, reason is not None))
    rows = _rows(steps, found, facts)
    return Plan(rows, tuple(steps), head, facts.explained, composite.text, init, (*source.notes, *facts.notes), gated)


def against(unit: Unit, site: Site, facts: Facts) -> str | None:
    """Why a node has no reading; None when it has one."""
    if (said := unread(unit) or because(unit)) is not None:
        return f"has no reading, {said}"
    beyond = beyond_reading(unit, site, facts)
    if site.kind is Kind.UNKNOWN and not unit.domain and not onnx.defs.has(unit.op):
        return "is no operator of the ONNX standard"
    if site.kind is Kind.UNKNOWN or beyond:
        return f"has no reading{beyond}"
    view = View(unit, facts.active, Emit(), unit.outputs[0].name in facts.scaled)
    unknown = [t.name for t in (*unit.inputs, *unit.outputs) if t.name in facts.active and t.shape is None]
    if unknown and site.kind is not Kind.POINTWISE:
        return f"has no reading: the rank of '{unknown[0]}' is unknown (input_shapes= may help)"
    said = OPS[unit.op].against(view)
    return f"has no reading: {said}" if said else None


def beyond_reading(unit: Unit, site: Site, facts: Facts) -> str:
    """Says at which output relevance arrives that no reading knows, such as the mean of a LayerNormalization."""
    known = (0,) if site.kind is Kind.UNKNOWN else OPS[unit.op].outputs
    for i, t in enumerate(unit.outputs):
        if t.name in facts.needed and known is not None and i not in known:
            return f": relevance arrives at its output {i} '{t.name}'"
    return ""


def refusal(unit: Unit, site: Site, source: Source, reason: str, ways: Sequence[str]) -> str:
    """The error of an operator without a reading, or used in a way that has none: it names the way past it."""
    if unit.name in source.kept:
        return f"node '{unit.name}' ({unit.op}): {source.kept[unit.name]}"
    domain = f"{unit.domain}::" if unit.domain else ""
    lines = " or ".join(f"NameMap({{'{site.name}': {rule}()}})" for rule in ways)
    named = f"node '{site.name}': operator {domain}{unit.op} (opset {source.graph.opset})"
    return f"{named} {reason}; to get past it, put {lines} into the composite"


def _rows(steps: Sequence[Step], found: Sequence[Site], facts: Facts) -> tuple[Layer, ...]:
    members: dict[int | None, list[Step]] = {}
    for st in steps:
        members.setdefault(st.layer, []).append(st)
    cores = [(st, s) for st, s in zip(steps, found, strict=True) if s.core]
    counts: dict[str, int] = {}
    for _, s in cores:
        counts[s.scope] = counts.get(s.scope, 0) + 1
    rows = []
    for step, site in cores:
        extra = [st for st in members[site.layer] if st.kind is Kind.POINTWISE and st is not step]
        rule, op = step.rule, " + ".join([site.op, *(st.unit.op for st in extra)])
        why = step.why
        for st in extra:
            if not isinstance(st.rule, Pass):
                why += f"; {st.unit.op} {st.rule!r}"
        outputs = (extra[-1] if extra else step).unit.outputs
        out = next((t for t in outputs if t.name in facts.needed), outputs[0])  # an LSTM may be asked for its last state only
        source = next((t for t in step.unit.inputs if t.name in facts.active), step.unit.inputs[0])
        # a module called "3" would be taken for the layer of that index
        telling = site.scope and counts[site.scope] == 1 and not site.scope.isdigit()
        name = site.scope if telling else site.name
        assert site.layer is not None
        rows.append(
            Layer(site.layer, name, op, site.kind.value, _shape(source), _shape(out), rule, why, out.name,
                  source.name)
        )  # fmt: skip
    return tuple(rows)


def _shape(t: gs.Tensor) -> tuple[Any, ...] | None:
    return tuple(t.shape) if t.shape is not None else None
