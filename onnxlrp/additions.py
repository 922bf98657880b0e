"""Nodes and constants that are added to a finished graph, under names that nothing in it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["Additions"]


class Additions:
    """`nodes`, in the order in which they are made, and constants called `lrp/<prefix>/<number>`."""

    def __init__(self, graph: gs.Graph, prefix: str) -> None:
        self.nodes: list[gs.Node] = []
        self.names = {t.name for n in graph.nodes for t in (*n.inputs, *n.outputs)} | {t.name for t in graph.inputs}
        self.prefix = prefix
        self.constants: dict[tuple[Any, ...], gs.Constant] = {}

    def op(self, op: str, name: str, *inputs: gs.Tensor, out: gs.Tensor | None = None, **attrs: Any) -> gs.Tensor:
        """A new node. out: the tensor that it writes, by default a new one."""
        name = self.unique(name)
        made = gs.Variable(name) if out is None else out
        self.nodes.append(gs.Node(op, name, attrs, list(inputs), [made]))
        return made

    def unique(self, name: str) -> str:
        """The name, with `_` appended while it is taken."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def constant(self, value: Any, dtype: Any = None) -> gs.Constant:
        """A constant; equal ones are shared."""
        value = np.asarray(value, dtype)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            self.constants[key] = gs.Constant(self.unique(f"lrp/{self.prefix}/{len(self.constants)}"), value)
        return self.constants[key]

    def ints(self, *values: int) -> gs.Constant:
        """An int64 vector."""
        return self.constant(values, np.int64)
