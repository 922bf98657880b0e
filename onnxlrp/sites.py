"""The path of relevance as composites see it: kinds, groups, layer indices, first and last weighted layers, gates."""

from __future__ import annotations

from collections.abc import Sequence

from .emit import Emit
from .facts import Facts
from .graph import Source
from .groups import Group
from .linear import Kind
from .ops import OPS, View
from .selectors import Site

__all__ = ["signals", "sites"]

UNCOUNTED = frozenset("Transpose Identity Cast Squeeze Unsqueeze QuantizeDequantize".split())


def sites(source: Source, facts: Facts) -> list[Site]:
    """One Site per unit of the path, in order."""
    emit = Emit()
    out = []
    for unit in facts.path:
        view = View(unit, facts.active, emit, unit.outputs[0].name in facts.scaled)
        entry = OPS.get(unit.op) if (unit.domain or "") in ("", "ai.onnx") else None
        kind = Kind.UNKNOWN if entry is None else entry.kind if isinstance(entry.kind, Kind) else entry.kind(view)
        groups = set(entry.groups if entry is not None else ())
        if kind is not Kind.WEIGHTED:
            groups -= {"Convolution", "Dense", "Linear"}
        groups |= KIND_GROUPS.get(kind, set())
        if kind in (Kind.SCALE, Kind.SCALING):
            groups -= {"Product", "Sum"}
        scope = source.scope(unit.members[-1] if isinstance(unit, Group) else unit)
        out.append(Site(unit.name, scope, unit.op, kind, frozenset(groups)))
    _count(out, facts)
    _ends(out, facts)
    _attention(out, facts)
    return out


def _attention(found: list[Site], facts: Facts) -> None:
    """Group Attention: products of two matrices, the softmax between them, and the layers that directly lead there or away."""
    matrices = ("MatMul", "Einsum")
    leading: set[str] = set()
    for unit, site in reversed(list(zip(facts.path, found, strict=True))):
        core = site.kind is Kind.SOFTMAX or (site.kind is Kind.PRODUCT and site.op in matrices)
        leads = any(t.name in leading for t in unit.outputs)
        if core or (leads and site.weighted):
            site.groups |= {"Attention"}
        if core or (leads and not site.weighted):
            leading |= {t.name for t in unit.inputs if t.name in facts.active}
    behind: set[str] = set()
    for unit, site in zip(facts.path, found, strict=True):
        follows = any(t.name in behind for t in unit.inputs)
        if follows and site.weighted:
            site.groups |= {"Attention"}
        core = "Attention" in site.groups and not site.weighted
        if core or (follows and site.kind in (Kind.MOVE, Kind.SCALE, Kind.PRODUCT)):  # a product: the output is gated
            behind |= {t.name for t in unit.outputs}


KIND_GROUPS = {
    Kind.MOVE: {"Reshaping"}, Kind.SUM: {"Sum"}, Kind.PRODUCT: {"Product"}, Kind.POINTWISE: {"Activation"},
    Kind.AFFINE: {"Normalization"}, Kind.NORM: {"Normalization"}, Kind.FROZEN_NORM: {"Normalization"},
    Kind.SOFTMAX: {"Softmax"},
}  # fmt: skip


def _count(out: list[Site], facts: Facts) -> None:
    """Layer indices: a counted node opens a layer, the activation that alone follows it belongs to it."""
    users: dict[str, int] = {}
    for unit in facts.path:
        for t in unit.inputs:
            users[t.name] = users.get(t.name, 0) + 1
    open_layer: dict[str, int] = {}  # tensor -> layer that an activation of it would join
    count = 0
    for unit, site in zip(facts.path, out, strict=True):
        before = next((t.name for t in unit.inputs if t.name in facts.active), "")
        joins = open_layer.get(before) if users.get(before, 0) == 1 else None
        after = unit.outputs[0].name
        if site.op in UNCOUNTED:
            if joins is not None:
                open_layer[after] = joins
            site.layer = joins
        elif site.kind is Kind.POINTWISE and joins is not None:
            site.layer = joins
        else:
            site.layer, site.core = count, True
            count += 1
            if site.kind is not Kind.POINTWISE:
                open_layer.update({t.name: site.layer for t in unit.outputs})


def _ends(out: list[Site], facts: Facts) -> None:
    """First: weighted with no weighted node above; last: weighted with none below."""
    above: set[str] = set()
    for unit, site in zip(facts.path, out, strict=True):
        fed = any(t.name in above for t in unit.inputs)
        site.first = site.weighted and not fed
        if fed or site.weighted:
            above |= {t.name for t in unit.outputs}
    below: set[str] = set()
    for unit, site in reversed(list(zip(facts.path, out, strict=True))):
        feeds = any(t.name in below for t in unit.outputs)
        site.last = site.weighted and not feeds
        if feeds or site.weighted:
            below |= {t.name for t in unit.inputs if t.name in facts.active}


GATES = ("Sigmoid", "HardSigmoid", "Softmax")


def signals(found: Sequence[Site], facts: Facts) -> frozenset[str]:
    """Tensors that come out of a gate, looking through moves, casts and scales: signals, which SignalTakesAll gives nothing."""
    out: set[str] = set()
    for unit, site in zip(facts.path, found, strict=True):
        sources = [t.name for t in unit.inputs if t.name in facts.active]
        through = site.kind in (Kind.MOVE, Kind.SCALE) or unit.op in ("Cast", "QuantizeDequantize")
        if unit.op in GATES or (through and sources and all(name in out for name in sources)):
            out |= {t.name for t in unit.outputs}
    return frozenset(out)
