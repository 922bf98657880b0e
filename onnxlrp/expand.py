"""Operators that opset 18 lacks, written out in those it has. One function per operator; groups.py knows them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["expand"]


class Writer:
    """Appends nodes that replace one node; their names start with its name."""

    def __init__(self, node: gs.Node) -> None:
        self.node, self.made = node, []  # type: tuple[gs.Node, list[gs.Node]]
        self.like = node.inputs[0]

    def __call__(self, op: str, *inputs: gs.Tensor | float, **attrs: Any) -> gs.Variable:
        name = f"{self.node.name}/{op}_{len(self.made)}"
        operands = [self.scalar(x) if isinstance(x, (int, float)) else x for x in inputs]
        out = gs.Variable(name, self.like.dtype, self.like.shape)
        self.made.append(gs.Node(op, name, attrs, operands, [out]))
        return out

    def scalar(self, value: float) -> gs.Constant:
        return gs.Constant(f"{self.node.name}/{value:g}", np.asarray(value, self.like.dtype or np.float32))


def gelu(w: Writer, x: gs.Tensor) -> gs.Variable:
    """½ x (1 + erf(x/√2)), or with tanh.   Gelu, opset 20."""
    if w.node.attrs.get("approximate", "none") == "tanh":
        cubic = w("Add", x, w("Mul", w("Mul", w("Mul", x, x), x), 0.044715))
        inner = w("Tanh", w("Mul", cubic, math.sqrt(2 / math.pi)))
    else:
        inner = w("Erf", w("Mul", x, 1 / math.sqrt(2)))
    return w("Mul", w("Mul", x, w("Add", inner, 1.0)), 0.5)


def swish(w: Writer, x: gs.Tensor) -> gs.Variable:
    """x · sigmoid(α x).   Swish, opset 24."""
    alpha = float(w.node.attrs.get("alpha", 1.0))
    return w("Mul", x, w("Sigmoid", x if alpha == 1 else w("Mul", x, alpha)))


NEWER: dict[str, Callable[[Writer, gs.Tensor], gs.Variable]] = {"Gelu": gelu, "Swish": swish}


def expand(graph: gs.Graph) -> None:
    """Replace newer operators, in place."""
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        write = NEWER.get(node.op) if (node.domain or "") in ("", "ai.onnx") else None
        if write is None:
            nodes.append(node)
            continue
        w = Writer(node)
        write(w, node.inputs[0])
        out = node.outputs[0]
        node.outputs.clear()
        node.inputs.clear()
        w.made[-1].outputs = [out]
        w.made[-1].name = node.name
        nodes += w.made
    graph.nodes[:] = nodes
