"""The table of operators and what a reading function is given."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import onnx

from ..emit import Emit
from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor

__all__ = ["OPS", "Op", "View", "op"]


@dataclass(frozen=True)
class View:
    """A node of the model, its tensors in the compiled graph, and which of its inputs are active."""

    node: Any  # gs.Node, or a Group that looks like one
    active: Collection[str]
    e: Emit
    scaled: bool = False  # the node only scales an explained graph input

    def x(self, index: int) -> Tensor | None:
        """Input by position; None when it is absent."""
        given = index < len(self.node.inputs) and self.node.inputs[index].name
        return self.e.adopt(self.node.inputs[index]) if given else None

    def need(self, index: int) -> Tensor:
        """Input that the operator cannot do without."""
        x = self.x(index)
        assert x is not None, f"{self.node.op} without input {index}"
        return x

    def opt(self, index: int) -> Tensor:
        """Input by position; ZERO when it is absent."""
        x = self.x(index)
        return self.e.zero if x is None else x

    @property
    def y(self) -> Tensor:
        """First output."""
        return self.e.adopt(self.node.outputs[0])

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute, or what the operator's schema says when it is absent, or `default`."""
        if name in self.node.attrs:
            return self.node.attrs[name]
        if default is None and onnx.defs.has(self.node.op, self.node.domain or ""):
            known = onnx.defs.get_schema(self.node.op, 18, self.node.domain or "").attributes.get(name)
            if known is not None and known.default_value.type:
                default = onnx.helper.get_attribute_value(known.default_value)
        return default.decode() if isinstance(default, bytes) else default

    def is_active(self, index: int) -> bool:
        """Whether the explained input reaches this input."""
        return index < len(self.node.inputs) and self.node.inputs[index].name in self.active

    def actives(self) -> list[int]:
        """Positions of the active inputs."""
        return [i for i in range(len(self.node.inputs)) if self.is_active(i)]

    # readings --------------------------------------------------------------------------------------------------------
    def reading(self, kind: Kind, xs: tuple[Tensor, ...], to: tuple[str, ...] = (), **parts: Any) -> Reading:
        """A Reading of this node; relevance of xs goes to the tensors of the same names unless `to` says otherwise."""
        return Reading(kind, xs, to or tuple(x.name for x in xs), self.y, **parts)

    def linear(self, kind: Kind, m: LinearMap, to: tuple[str, ...] = (), **parts: Any) -> Reading:
        """Reading with one linear map."""
        return self.reading(kind, m.xs, to, maps=(m,), **parts)

    def carried(self, x: Tensor, r: Tensor, sent: Tensor) -> Tensor:
        """`sent`, the relevance r of copies y of x laid out as x: it is 0 where x is, if r is 0 where y is."""
        if not sent.is_zero and self.y.name in r.zeros and x.shape == sent.shape:
            sent.zeros = (x.name, *(n for n in sent.zeros if n != x.name))
        return sent

    def move(self, x: Tensor, back: Callable[[Tensor], Tensor]) -> Reading:
        """Reading of a copy of one tensor: `back` lays relevance out as the input."""

        def moves(r: Tensor) -> tuple[Tensor, ...]:
            return (self.carried(x, r, back(r)),)

        return self.reading(Kind.MOVE, (x,), passed=moves, vjp=moves)


Read = Callable[[View], Reading]


@dataclass(frozen=True)
class Op:
    """An entry of the table. kind: fixed, or found from the node (which inputs are active); kinds: all it may be."""

    kind: Kind | Callable[[View], Kind]
    read: Read
    groups: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    data: tuple[int, ...] | None = (0,)  # inputs that may depend on the explained one; None: all
    refuse: Callable[[View], str | None] | None = None  # why a node has no reading although its operator has one
    outputs: tuple[int, ...] | None = (0,)  # where relevance may arrive; None: at all

    def against(self, v: View) -> str | None:
        """Why this node cannot be read; None when it can."""
        said = self.refuse(v) if self.refuse is not None else None
        for i in v.actives():
            if said is None and self.data is not None and i not in self.data:
                said = f"its input {i} '{v.node.inputs[i].name}' depends on the explained input"
        return said


OPS: dict[str, Op] = {}


def op(
    name: str,
    kind: Kind | Callable[[View], Kind],
    *groups: str,
    kinds: tuple[Kind, ...] = (),
    data: tuple[int, ...] | None = (0,),
    refuse: Callable[[View], str | None] | None = None,
    outputs: tuple[int, ...] | None = (0,),
) -> Callable[[Read], Read]:
    """Register a reading for one or more operators (names separated by blanks)."""

    def register(read: Read) -> Read:
        for each in name.split():
            OPS[each] = Op(kind, read, groups, kinds or ((kind,) if isinstance(kind, Kind) else ()), data, refuse, outputs)
        return read

    return register
