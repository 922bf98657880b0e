"""Operators that opset 18 lacks, written out in those it has. One function per operator; groups.py knows them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
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

    def ints(self, name: str, values: list[int]) -> gs.Constant:
        """An int64 vector: shapes, axes."""
        return gs.Constant(f"{self.node.name}/{name}_{len(self.made)}", np.asarray(values, np.int64))

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


def rms_normalization(w: Writer, x: gs.Tensor) -> gs.Variable:
    """x γ / √(mean x² + ε) over the axes from `axis` to the last.   RMSNormalization, opset 23."""
    axes = list(range(int(w.node.attrs.get("axis", -1)), 0)) if w.node.attrs.get("axis", -1) < 0 else None
    if axes is None:
        axes = list(range(int(w.node.attrs["axis"]), len(x.shape)))
    power = w("ReduceMean", w("Mul", x, x), w.ints("axes", axes), keepdims=1)
    inverse = w("Reciprocal", w("Sqrt", w("Add", power, float(w.node.attrs.get("epsilon", 1e-5)))))
    for made in w.made[-4:]:
        made.outputs[0].shape = None  # smaller than x
    return w("Mul", w("Mul", x, inverse), w.node.inputs[1])


def group_normalization(w: Writer, x: gs.Tensor) -> gs.Variable:
    """Reshape (N,G,…), InstanceNormalization, Reshape back, scale and bias.   GroupNormalization, opsets 18 and 21."""
    node, rank = w.node, len(x.shape)
    groups = int(node.attrs["num_groups"])
    ones, zeros = (gs.Constant(f"{node.name}/{n}", np.full(groups, v, np.float32)) for n, v in (("ones", 1), ("zeros", 0)))
    parts = w("Reshape", x, w.ints("groups", [0, groups, -1]))
    flat = w("InstanceNormalization", parts, ones, zeros, epsilon=node.attrs.get("epsilon", 1e-5))
    parts.shape = flat.shape = None
    y = w("Reshape", flat, w("Shape", x))
    w.made[-2].outputs[0].shape, w.made[-2].outputs[0].dtype = [rank], np.int64
    for op, t in (("Mul", node.inputs[1]), ("Add", node.inputs[2])):
        per_group = t.shape is not None and list(t.shape) == [groups] and x.shape[1] != groups  # opset 18
        if per_group:
            sizes = w.ints(f"{op}_spread", [groups, int(x.shape[1]) // groups])
            t = w("Expand", w("Unsqueeze", t, w.ints("last", [1])), sizes)
            w.made[-2].outputs[0].shape = w.made[-1].outputs[0].shape = None
        column = w("Reshape", t, w.ints("column", [-1, *[1] * (rank - 2)]))
        column.shape = [x.shape[1], *[1] * (rank - 2)]
        y = w(op, y, column)
    return y


NEWER: dict[str, Callable[[Writer, gs.Tensor], gs.Variable]] = {
    "Gelu": gelu, "Swish": swish, "RMSNormalization": rms_normalization, "GroupNormalization": group_normalization,
}  # fmt: skip


def expand(graph: gs.Graph) -> None:
    """Replace newer operators, in place."""
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        if node.op == "CastLike" and node.inputs[1].dtype is not None:  # its second operand only names a type
            to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node.inputs[1].dtype))
            node.op, node.attrs, node.inputs = "Cast", {"to": to}, [node.inputs[0]]
        if node.op == "MeanVarianceNormalization":  # shape inference fails on its default axes
            node.attrs.setdefault("axes", [0, 2, 3])
            node.outputs[0].shape = node.inputs[0].shape
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
