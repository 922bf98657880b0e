"""Composites: ordered primitives that assign rules to nodes. A later primitive overrides an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .errors import CompositeError
from .rules import Epsilon, Rule
from .selectors import NameMap, Primitive, RuleList, called

__all__ = ["Composite"]


@dataclass(frozen=True, init=False)
class Composite:
    """An ordered list of primitives, with the default rule of weighted linear nodes first: `Composite(ZPlus(), ...)`.

    derivative: the preset is a gradient method, whose initial relevance under init="logit" is 1 (the logit's derivative
    by itself). times_input: multiply what arrives at an explained tensor with that tensor.
    """

    default: Rule
    primitives: tuple[Primitive, ...]
    name: str = ""
    derivative: bool = field(default=False, repr=False)
    times_input: bool = field(default=False, repr=False)

    def __init__(self, *parts: Rule | Primitive, name: str = "", derivative: bool = False, times_input: bool = False) -> None:
        rules = [p for p in parts if isinstance(p, Rule)]
        if len(rules) > 1 or (rules and parts[0] is not rules[0]):
            raise CompositeError("Composite takes at most one rule, the default, as its first argument; then primitives")
        for part in parts:
            if not isinstance(part, Rule) and (isinstance(part, type) or not hasattr(part, "choose")):
                raise CompositeError(
                    f"Composite takes a rule and primitives such as GlobalTypeMap({{...}}), got {part!r}{called(part)}"
                )
        primitives = tuple(p for p in parts if not isinstance(p, Rule))
        for key, value in {
            "default": rules[0] if rules else Epsilon(), "primitives": primitives, "name": name,
            "derivative": derivative, "times_input": times_input,
        }.items():  # fmt: skip
            object.__setattr__(self, key, value)

    def __str__(self) -> str:
        lines = [f"Composite{f' {self.name}' if self.name else ''}", f"  default → {self.default!r}"]
        lines += [f"  {line}" for p in self.primitives for line in str(p).split("\n")]
        return "\n".join(lines)

    @cached_property
    def text(self) -> str:
        return str(self)


CompositeLike = str | Composite | Sequence[Rule] | Mapping[str, Rule]


def resolve(composite: CompositeLike, presets: Callable[[str], Composite]) -> Composite:
    """Preset text, Composite, list with one rule per layer, or {node name: rule} to a Composite. Raises CompositeError."""
    if isinstance(composite, Composite):
        return composite
    if isinstance(composite, str):
        return presets(composite)
    if isinstance(composite, Rule):
        return Composite(composite)
    if isinstance(composite, Mapping):
        return Composite(NameMap(dict(composite)))
    if isinstance(composite, (list, tuple)):
        return Composite(RuleList(tuple(composite)))
    raise CompositeError(
        f"a composite is a preset name, a Composite, a list of rules or a dict, got {composite!r}{called(composite)}"
    )
