"""What every operator does with relevance, as data: `onnxlrp ops` and the table of the README.

All operators of the ONNX standard up to opset NEWEST, of ai.onnx.ml, and those of com.microsoft that are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from .control import CONTROL
from .expansions import EXPANSIONS
from .expansions.ml import DOMAIN as ML
from .expansions.ml import INERT_ML, KINDS_ML, UNSUPPORTED_ML
from .facts import INERT
from .linear import Kind
from .node_rules import default_rule
from .ops import OPS
from .unsupported import SEQUENCE, UNSUPPORTED

__all__ = ["NEWEST", "Support", "support", "to_markdown"]

NEWEST = 26
SCHEMAS = onnx.defs.get_all_schemas_with_history()
EVERY = frozenset(s.name for s in SCHEMAS if not s.domain and s.since_version <= NEWEST)
GROUPED = ("Affine", "QuantizeDequantize")  # names of groups of nodes, not of operators
AS = {  # operators that the converter or expansions/ makes others of, whose kinds they have
    "AffineGrid": "MatMul", "CastLike": "Cast", "ConvInteger": "Conv", "CumProd": "ReduceProd", "DeformConv": "Conv",
    "MatMulInteger": "MatMul", "QLinearConv": "Conv", "QLinearMatMul": "MatMul", "STFT": "DFT",
    "TensorScatter": "ScatterElements", "QuantizeLinear": "QuantizeDequantize", "DequantizeLinear": "QuantizeDequantize",
    "DynamicQuantizeLinear": "QuantizeDequantize", "Scatter": "ScatterElements", "Upsample": "Resize",
}  # fmt: skip


@dataclass(frozen=True)
class Support:
    """One operator: its kinds, the groups that a type map may name it by, the rule it gets by default, and a remark."""

    op: str
    domain: str
    kinds: tuple[str, ...]
    groups: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    note: str = ""


def support() -> list[Support]:
    """Every operator, by domain and name."""
    known = {("", name) for name in EVERY} | {(ML, s.name) for s in SCHEMAS if s.domain == ML}
    known |= {("", name) for name in OPS if name not in GROUPED} | {key for key in EXPANSIONS if key[0] == "com.microsoft"}
    return sorted((_row(domain, name) for domain, name in known), key=lambda r: (r.domain, r.op))


def _row(domain: str, name: str) -> Support:
    read = OPS.get(name) if not domain else None
    if read is not None:
        kinds = tuple(k.value for k in read.kinds)
        return Support(name, domain, kinds, read.groups, tuple(dict.fromkeys(_default(k) for k in read.kinds)))
    if not domain and name in AS:
        pair = AS[name] not in EVERY
        return Support(name, domain, _row("", AS[name]).kinds, note="both together, as float" if pair else f"as {AS[name]}")
    if not domain and name in CONTROL:
        return Support(name, domain, (Kind.CONTROL.value,), note="unrolled where it is known when compiling")
    because = (UNSUPPORTED if not domain else UNSUPPORTED_ML).get(name)
    if because == SEQUENCE:
        return Support(name, domain, (Kind.MOVE.value,), note="where what its sequence holds is known when compiling")
    if because is not None:
        return Support(name, domain, ("not supported",), note=because)
    write = EXPANSIONS.get((domain, name))
    if name in (INERT if not domain else INERT_ML):
        return Support(name, domain, (Kind.INERT.value,), (), ("none",), "" if not domain else INERT_ML[name])
    if write is not None:
        return Support(name, domain, (KINDS_ML[name] if domain == ML else "written out",), note="in standard operators")
    return Support(name, domain, ("not supported",), note="because it has no reading yet")


def _default(kind: Kind) -> str:
    return "of the composite" if kind is Kind.WEIGHTED else repr(default_rule(kind))


def to_markdown() -> str:
    """The table by kind: operators that are read in the same way share a line."""
    rows = support()
    lines = ["| kind | operators | default rule |", "|---|---|---|"]
    for kind in Kind:
        names = [r.op for r in rows if kind.value in r.kinds and not r.domain]
        if names:
            rule = "none" if kind is Kind.INERT else f"`{_default(kind)}`" if kind is not Kind.WEIGHTED else "the composite's"
            rule = "unrolled where known" if kind is Kind.CONTROL else rule
            lines.append(f"| {kind.value} | {' '.join(names)} | {rule} |")
    for domain, kinds, says in (
        ("com.microsoft", "written out", "of what they are written out in"),
        (ML, "written out", "of what they are written out in"),
        (ML, Kind.INERT.value, "none"),
    ):
        names = [
            r.op for r in rows if r.domain == domain and (r.kinds == (kinds,) or (kinds == "written out" and r.op in KINDS_ML))
        ]
        lines.append(f"| {domain}, {kinds} | {' '.join(names)} | {says} |")
    lines += ["", "Not supported:", ""]
    reasons: dict[str, list[str]] = {}
    for r in rows:
        if r.kinds == ("not supported",):
            reasons.setdefault(r.note, []).append(r.op)
    return "\n".join([*lines, *(f"- {', '.join(names)}: {why}" for why, names in reasons.items())])
