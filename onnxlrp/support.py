"""What every operator does with relevance, as data: `onnxlrp ops` and the table of the README."""

from __future__ import annotations

from dataclasses import dataclass

from .facts import INERT
from .linear import Kind
from .node_rules import default_rule
from .ops import OPS

__all__ = ["Support", "support", "to_markdown"]


@dataclass(frozen=True)
class Support:
    """One operator: its kinds, the groups that a type map may name it by, and the rule it gets by default."""

    op: str
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    rules: tuple[str, ...]


def support() -> list[Support]:
    """All operators that are known, by name."""
    rows = [
        Support(name, tuple(k.value for k in op.kinds), op.groups, tuple(dict.fromkeys(_default(k) for k in op.kinds)))
        for name, op in OPS.items()
        if name not in ("Affine", "QuantizeDequantize")
    ]
    rows += [Support(name, (Kind.INERT.value,), (), ("none",)) for name in INERT]
    return sorted(rows, key=lambda r: r.op)


def _default(kind: Kind) -> str:
    return "of the composite" if kind is Kind.WEIGHTED else repr(default_rule(kind))


def to_markdown() -> str:
    """The table by kind: operators that are read in the same way share a line."""
    lines = ["| kind | operators | default rule |", "|---|---|---|"]
    for kind in Kind:
        names = [r.op for r in support() if kind.value in r.kinds]
        if names:
            rule = "none" if kind is Kind.INERT else f"`{_default(kind)}`" if kind is not Kind.WEIGHTED else "the composite's"
            lines.append(f"| {kind.value} | {' '.join(names)} | {rule} |")
    return "\n".join(lines)
