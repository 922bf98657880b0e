"""What a peephole sees of the graph: readers, shapes, constants, and a place to put new nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..order import captured, live, sort
from ..tensor import Shape

__all__ = ["Scope", "fold_shape", "number", "source"]

MADE_OF = tuple("Relu Min Mul Add Sub Neg Cast Identity Expand Concat".split())  # operators that transform weights


class Scope:
    """A graph while it is rewritten. Call `refresh` after a pass: readers are counted as they were before it."""

    def __init__(self, graph: gs.Graph, shapes: Mapping[str, Shape]) -> None:
        self.graph, self.shapes = graph, dict(shapes)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
        self._made: list[gs.Node] = []
        self._changed = True
        self.refresh()

    def refresh(self) -> None:
        """After changes: drop what nothing needs, put the new nodes in their places, count readers."""
        if not self._changed:
            return
        outputs = self.graph.outputs
        self.graph.nodes[:] = live(sort([*self.graph.nodes, *self._made]), outputs)
        self._made, self._changed = [], False
        self.kept = {o.name for o in outputs} | {name for n in self.graph.nodes for name in captured(n)}
        self._users: dict[str, list[gs.Node]] = {}
        for node in self.graph.nodes:
            for t in node.inputs:
                self._users.setdefault(t.name, []).append(node)

    def users(self, t: gs.Tensor) -> list[gs.Node]:
        """Nodes that read t."""
        return self._users.get(t.name, [])

    def only(self, t: gs.Tensor) -> bool:
        """Whether one node of the backward part writes t, and at most one reads it."""
        own = source(t)
        return own is not None and own.name.startswith("lrp/") and t.name not in self.kept and len(self.users(t)) <= 1

    def shape(self, t: gs.Tensor) -> Shape:
        """Shape as far as it is known."""
        return tuple(t.shape) if isinstance(t, gs.Constant) else self.shapes.get(t.name)

    def like(self, a: gs.Tensor, b: gs.Tensor) -> bool:
        """Whether two tensors are known to have one shape."""
        shape = self.shape(a)
        return shape is not None and None not in shape and shape == self.shape(b)

    def constant(self, value: Any, dtype: Any = np.int64) -> gs.Constant:
        """A constant; equal ones are one tensor."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = gs.Constant(f"lrp/fast/constant_{len(self._constants)}", array)
        return self._constants[key]

    def make(self, node: gs.Node, role: str, op: str, *inputs: gs.Tensor, shape: Shape = None, **attrs: Any) -> gs.Variable:
        """The output of a new node, named after the one that it helps."""
        self._changed = True
        out = gs.Variable(f"{node.name}/{role}")
        self._made.append(gs.Node(op, out.name, attrs, list(inputs), [out]))
        self.shapes[out.name] = shape
        return out

    def become(self, node: gs.Node, op: str, inputs: Sequence[gs.Tensor], **attrs: Any) -> None:
        """Turn a node into another one with the same outputs."""
        self._changed = True
        node.op, node.inputs, node.attrs = op, list(inputs), attrs


def source(t: gs.Tensor, *ops: str) -> gs.Node | None:
    """The node that writes t, if its operator is one of these (of all by default)."""
    node = t.inputs[0] if t.inputs else None
    return node if node is not None and (not ops or node.op in ops) else None


def number(t: gs.Tensor) -> float | None:
    """Value of a constant with one element."""
    return float(np.asarray(t.values).ravel()[0]) if isinstance(t, gs.Constant) and np.prod(t.shape) == 1 else None


def fold_shape(t: gs.Tensor) -> list[int] | None:
    """Shape of a weight: a constant, or what element-wise operators, Expand and Concat make of some."""
    if isinstance(t, gs.Constant):
        return list(t.shape)
    node = source(t, *MADE_OF)
    if node is None:
        return None
    if node.op == "Expand":
        constant = all(isinstance(x, gs.Constant) for x in node.inputs)
        return [int(d) for d in node.inputs[1].values] if constant else None
    shapes = [s for x in node.inputs if (s := fold_shape(x)) is not None]
    if len(shapes) < len(node.inputs):
        return None
    if node.op == "Concat":
        axis = node.attrs["axis"]
        return [sum(s[a] for s in shapes) if a == axis else d for a, d in enumerate(shapes[0])]
    return max(shapes, key=math.prod)
