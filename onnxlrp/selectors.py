"""Primitives of composites: each chooses rules for the sites that it selects by type, name, index or position."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

import onnx

from .errors import CompositeError, RuleMismatch
from .linear import Kind
from .rules import Rule

__all__ = [
    "FirstLayerMap", "FirstLayerTypeMap", "FirstNTypeMap", "GlobalMap", "GlobalTypeMap", "LastLayerMap",
    "LastLayerTypeMap", "LastNTypeMap", "LayerMap", "NameMap", "RangeMap", "RangeTypeMap",
]  # fmt: skip

GROUPS = (
    "Convolution", "Dense", "Linear", "Pooling", "AveragePooling", "MaxPooling", "Activation", "Normalization",
    "Reshaping", "Sum", "Product", "Softmax", "Attention",
)  # fmt: skip


@dataclass(eq=False)
class Site:
    """A relevance-carrying node as a composite sees it. core: it is what its layer is named after."""

    name: str
    scope: str
    op: str
    kind: Kind
    groups: frozenset[str]
    layer: int | None = None
    core: bool = False
    first: bool = False
    last: bool = False

    @property
    def weighted(self) -> bool:
        return self.kind in (Kind.WEIGHTED, Kind.RECURRENT)

    def named(self, pattern: str) -> bool:
        """Glob, or regular expression after `re:`, on the node's name or its module scope."""
        names = [n for n in (self.name, self.scope) if n]
        if pattern.startswith("re:"):
            return any(re.search(pattern[3:], n) for n in names)
        return any(n == pattern or fnmatch.fnmatchcase(n, pattern) for n in names)


@dataclass(frozen=True)
class Choice:
    """A rule for one site. strict: it must fit, because the site was singled out; lenient choices that don't are skipped."""

    site: Site
    rule: Rule
    why: str
    strict: bool = False


class Primitive(Protocol):
    """Anything that chooses rules for sites."""

    def choose(self, sites: Sequence[Site], layers: int) -> Iterable[Choice]:
        """Choices among all sites of a model with so many layers."""
        ...


def check_count(n: object, what: str, signed: bool = False) -> None:
    """A whole number, numpy's included."""
    if isinstance(n, bool) or not isinstance(n, Integral) or (n < 0 and not signed):
        raise CompositeError(f"{what}: needs a whole number{'' if signed else ' >= 0'}, got {n!r}")


def _index(index: int, layers: int, what: str) -> int:
    check_count(index, what, signed=True)
    if not -layers <= index < layers:
        raise CompositeError(f"{what}: the model has layers 0 to {layers - 1} (see `onnxlrp inspect`)")
    return index % layers


class _Shown:
    """Text of a primitive: its name and arguments, then one line per rule."""

    def __str__(self) -> str:
        values = {k: v for k, v in vars(self).items() if k != "types"}
        rules = [repr(v) for v in values.values() if isinstance(v, Rule)]
        arguments = [str(v) for v in values.values() if not isinstance(v, (Rule, dict))]
        head = type(self).__name__ + (f"({', '.join(arguments)})" if arguments else "")
        table = next((v for v in vars(self).values() if isinstance(v, dict)), None)
        if table is None:
            return f"{head} → {', '.join(rules)}"
        width = max((len(str(k)) for k in table), default=0)
        return "\n".join([head, *(f"  {str(k).ljust(width)} → {v!r}" for k, v in table.items())])


class _Everywhere(_Shown):
    """Base of maps without a type: weighted linear nodes that `selects` lets through."""

    rule: Rule

    def selects(self, site: Site, layers: int) -> bool:
        return True

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        check_rule(self.rule, type(self).__name__)
        for site in sites:
            if site.kind is Kind.WEIGHTED and site.core and self.selects(site, layers):
                yield Choice(site, self.rule, str(self).split(" →")[0])


class _Typed(_Shown):
    """Base of maps by op type or group: the first matching type wins."""

    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        return True

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        check_types(self.types, type(self).__name__)
        head = str(self).split("\n")[0]
        for site in sites:
            if self.selects(site, layers):
                for key, rule in self.types.items():
                    if key == site.op or key in site.groups:
                        yield Choice(site, rule, f"{head}: {key}", strict=key == site.op)
                        break


def check_rule(rule: object, where: str) -> None:
    """A rule, not a class or something else."""
    if not isinstance(rule, Rule):
        raise CompositeError(f"{where} needs a rule, got {rule!r}{called(rule)}")


def called(rule: object) -> str:
    """The hint for a rule's class in the place of a rule."""
    return f"; write {rule.__name__}()" if isinstance(rule, type) and issubclass(rule, Rule) else ""


def check_types(types: object, where: str) -> None:
    """Keys are groups or operators, values are rules."""
    if not isinstance(types, Mapping):
        raise CompositeError(f"{where} needs a dict {{type: rule}}, got {types!r}")
    for key, rule in types.items():
        if key not in GROUPS and not onnx.defs.has(str(key)) and not onnx.defs.has(str(key), "ai.onnx.ml"):
            near = difflib.get_close_matches(str(key), [*GROUPS, "Conv", "Gemm", "MatMul", "MaxPool", "Add"], 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; groups are {', '.join(GROUPS)}"
            raise CompositeError(f"{where}: '{key}' is neither a group nor an ONNX operator{hint}")
        check_rule(rule, f"{where}['{key}']")


@dataclass(frozen=True)
class GlobalMap(_Everywhere):
    """All weighted layers."""

    rule: Rule


@dataclass(frozen=True)
class RangeMap(_Everywhere):
    """Weighted layers whose index lies in a range; negative bounds count from the end."""

    range: range
    rule: Rule

    def selects(self, site: Site, layers: int) -> bool:
        return in_range(site, self.range, layers)


@dataclass(frozen=True)
class FirstLayerMap(_Everywhere):
    """The first weighted layers by data flow: those with no weighted layer above them."""

    rule: Rule

    def selects(self, site: Site, layers: int) -> bool:
        return site.first


@dataclass(frozen=True)
class LastLayerMap(_Everywhere):
    """The last weighted layers by data flow: those with no weighted layer below them."""

    rule: Rule

    def selects(self, site: Site, layers: int) -> bool:
        return site.last


@dataclass(frozen=True)
class LayerMap(_Shown):
    """The n-th layer; negative counts from the end."""

    index: int
    rule: Rule

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        check_rule(self.rule, "LayerMap")
        index = _index(self.index, layers, f"LayerMap({self.index!r})")
        yield from (Choice(s, self.rule, f"LayerMap({self.index})", True) for s in sites if s.core and s.layer == index)


@dataclass(frozen=True)
class GlobalTypeMap(_Typed):
    """By op type or group, everywhere."""

    types: Mapping[str, Rule]


@dataclass(frozen=True)
class RangeTypeMap(_Typed):
    """By op type or group within a range of layer indices."""

    range: range
    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        return in_range(site, self.range, layers)


@dataclass(frozen=True)
class FirstNTypeMap(_Typed):
    """By op type or group within the first n layers."""

    n: int
    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        check_count(self.n, f"FirstNTypeMap({self.n!r}, ...)")
        return site.layer is not None and site.layer < self.n


@dataclass(frozen=True)
class LastNTypeMap(_Typed):
    """By op type or group within the last n layers."""

    n: int
    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        check_count(self.n, f"LastNTypeMap({self.n!r}, ...)")
        return site.layer is not None and site.layer >= layers - self.n


@dataclass(frozen=True)
class FirstLayerTypeMap(_Typed):
    """By op type or group on the first weighted layers by data flow."""

    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        return site.first


@dataclass(frozen=True)
class LastLayerTypeMap(_Typed):
    """By op type or group on the last weighted layers by data flow."""

    types: Mapping[str, Rule]

    def selects(self, site: Site, layers: int) -> bool:
        return site.last


@dataclass(frozen=True)
class NameMap(_Shown):
    """By node name or exporter scope: exact, glob, or a regular expression after `re:`."""

    names: Mapping[str, Rule]

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        if not isinstance(self.names, Mapping):
            raise CompositeError(f"NameMap needs a dict {{name: rule}}, got {self.names!r}")
        for pattern, rule in self.names.items():
            check_rule(rule, f"NameMap['{pattern}']")
            try:
                hits = [s for s in sites if s.named(pattern)]
            except re.error as error:
                raise CompositeError(f"NameMap: '{pattern}' is not a regular expression: {error}") from error
            if not hits:
                names = [n for s in sites for n in (s.name, s.scope) if n]
                near = difflib.get_close_matches(pattern, names, 3) or names[:3]
                raise CompositeError(f"NameMap: no node is called '{pattern}'; there are, for example, {', '.join(near)}")
            if not any(rule.fits(s.kind) for s in hits) and not any(s.name == pattern for s in hits):
                some = ", ".join(f"{s.name} ({s.op})" for s in hits[:3])
                raise RuleMismatch(f"NameMap: rule {rule!r} fits none of the nodes that '{pattern}' names, such as {some}")
            exact = not any(c in pattern for c in "*?[") and not pattern.startswith("re:")
            for site in hits:
                # A scope names a module with all its nodes: the rule goes to those that it fits.
                yield Choice(site, rule, f"NameMap: {pattern}", strict=exact and site.name == pattern)


@dataclass(frozen=True)
class HalfTypeMap(_Typed):
    """By op type or group in the lower or upper half of the convolutions (the lower one has the extra one), pools included."""

    half: str
    types: Mapping[str, Rule]

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        convolutions = [s.layer for s in sites if s.core and "Convolution" in s.groups and s.layer is not None]
        upper = convolutions[(len(convolutions) + 1) // 2 :]
        split = upper[0] if upper else layers
        inside = [s for s in sites if s.layer is not None and (s.layer < split) == (self.half == "lower")]
        return super().choose(inside, layers)


@dataclass(frozen=True)
class EveryMap(_Shown):
    """Every node that carries relevance, whatever its kind."""

    rule: Rule

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        yield from (Choice(s, self.rule, "EveryMap") for s in sites)


@dataclass(frozen=True)
class WeightedRangeMap(_Shown):
    """The n-th weighted layers, counted among weighted layers only."""

    range: range
    rule: Rule

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        weighted = [s for s in sites if s.weighted and s.core]
        yield from (Choice(s, self.rule, f"WeightedRangeMap({self.range})") for s in weighted[_slice(self.range)])


def _slice(r: range) -> slice:
    return slice(r.start, r.stop, r.step)


def in_range(site: Site, r: range, layers: int) -> bool:
    """Whether a layer index lies in a range whose negative bounds count from the end."""
    if not isinstance(r, range):
        raise CompositeError(f"RangeMap and RangeTypeMap need a range such as range(1, 4), got {r!r}")
    return site.layer is not None and site.layer in range(layers)[_slice(r)]


@dataclass(frozen=True)
class RuleList:
    """One rule per layer. A linear rule on a layer that moves or rectifies changes nothing there, as in the papers' lists."""

    rules: tuple[Rule, ...]

    def choose(self, sites: Sequence[Site], layers: int) -> Iterator[Choice]:
        if len(self.rules) != layers:
            raise CompositeError(f"the list has {len(self.rules)} rules, the model {layers} layers (see `onnxlrp inspect`)")
        for index, rule in enumerate(self.rules):
            check_rule(rule, f"the list's entry {index}")
            yield from (Choice(s, rule, f"list[{index}]") for s in sites if s.core and s.layer == index)

    def __str__(self) -> str:
        return "\n".join(["RuleList", *(f"  {i} → {r!r}" for i, r in enumerate(self.rules))])
