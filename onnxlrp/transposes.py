"""Channels-last regions of channels-first networks (TensorFlow's exporter): transposes meet and cancel.

A Transpose that moves the channels to the end is pushed behind the element-wise operators that follow it, until it meets
the one that moves them back. Then a Pad reaches its Conv, and an activation is read as one whatever its spelling.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import producer, replace_tensor
from .weights import Weight

__all__ = ["cancel_transposes"]

UNARY = frozenset(
    ("Relu LeakyRelu Sigmoid HardSigmoid HardSwish Tanh Elu Selu Celu Gelu Softplus Softsign Mish Erf Exp Sqrt Log Neg Abs "
     "Reciprocal Identity Cast Clip").split()
)  # fmt: skip
NARY = frozenset("Add Sub Mul Div Max Min Pow Sum PRelu".split())


def cancel_transposes(graph: gs.Graph, kept: Collection[str]) -> None:
    """Push transposes to channels-last down and drop those that undo each other, in place."""
    meeting = _meeting(graph)
    for node in list(graph.nodes):
        if node.op == "Transpose":
            _meet(node, kept)
        elif node.outputs and node.outputs[0].name in meeting and node.outputs[0].name not in kept:
            perms = [_to_last(t) if t.name not in kept else None for t in node.inputs]
            perm = next((p for p in perms if p is not None), None)
            if perm is not None and (inputs := _behind(node, perms, perm)) is not None:
                _push(graph, node, inputs, perm)


def _meeting(graph: gs.Graph) -> set[str]:
    """Tensors from which a Transpose that moves the channels back is reached through what can be pushed."""
    names: set[str] = set()
    for node in reversed(graph.nodes):
        perm = node.attrs.get("perm", ()) if node.op == "Transpose" else ()
        back = len(perm) > 3 and list(perm) == [0, len(perm) - 1, *range(1, len(perm) - 1)]
        pushed = node.op in UNARY | NARY | {"Pad", "ReduceMean"} and any(t.name in names for t in node.outputs)
        names |= {t.name for t in node.inputs} if back or pushed else set()
    return names


def _to_last(t: gs.Tensor) -> list[int] | None:
    """The permutation of the Transpose that made t when it moves the channels of four axes or more to the end."""
    node = producer(t)
    if node is None or node.op != "Transpose":
        return None
    perm = [int(p) for p in node.attrs.get("perm", ())]
    return perm if len(perm) > 3 and perm == [0, *range(2, len(perm)), 1] else None


def _meet(node: gs.Node, kept: Collection[str]) -> None:
    """Transpose(Transpose(x)): x itself where the second undoes the first."""
    first = producer(node.inputs[0])
    if first is None or first.op != "Transpose" or {node.inputs[0].name, node.outputs[0].name} & set(kept):
        return
    p, q = first.attrs.get("perm"), node.attrs.get("perm")
    if p is not None and q is not None and [p[i] for i in q] == list(range(len(p))):
        replace_tensor(node.outputs[0], first.inputs[0])


def _behind(node: gs.Node, perms: Sequence[list[int] | None], perm: list[int]) -> list[gs.Tensor] | None:
    """The inputs of the node before the Transpose, constants laid out for it; None when it cannot be moved."""
    rank = len(perm)
    before = [producer(t).inputs[0] if p == perm else None for t, p in zip(node.inputs, perms, strict=True)]
    if before[0] is None and node.op not in NARY:
        return None
    if node.op in UNARY:
        return [before[0], *node.inputs[1:]]
    if node.op == "Pad" and len(node.inputs) < 4 and _small(node.inputs[1]):
        pads = np.asarray(node.inputs[1].values).reshape(2, rank)[:, np.argsort(perm)]
        return [before[0], gs.Constant(f"{node.name}/pads", pads.ravel()), *node.inputs[2:]]
    if node.op == "ReduceMean" and node.attrs.get("keepdims", 1) and len(node.inputs) > 1 and _small(node.inputs[1]):
        axes = [perm[int(a)] for a in node.inputs[1].values]
        return [before[0], gs.Constant(f"{node.name}/axes", np.asarray(axes, np.int64))] if axes else None
    if node.op not in NARY or (node.op == "PRelu" and before[0] is None):
        return None
    out: list[gs.Tensor] = []
    for i, (t, x) in enumerate(zip(node.inputs, before, strict=True)):
        if x is None and not (_small(t) and t.values.ndim <= rank):
            return None
        if x is None and t.values.size > 1:
            value = t.values.reshape([1] * (rank - t.values.ndim) + list(t.values.shape))
            x = gs.Constant(f"{node.name}/constant_{i}", np.ascontiguousarray(value.transpose(np.argsort(perm))))
        out.append(t if x is None else x)
    return out


def _small(t: gs.Tensor) -> bool:
    """A constant that may be laid out anew."""
    return isinstance(t, gs.Constant) and not isinstance(t, Weight)


def _push(graph: gs.Graph, node: gs.Node, inputs: list[gs.Tensor], perm: list[int]) -> None:
    """op(Transpose(x)) becomes Transpose(op(x)); the result keeps its name."""
    out = node.outputs[0]
    shape: list[Any] | None = None
    if out.shape is not None:
        shape = [out.shape[perm.index(a)] for a in range(len(perm))]
    inner = gs.Variable(f"{out.name}/channels_first", out.dtype, shape)
    node.inputs, node.outputs = inputs, [inner]
    graph.nodes.append(gs.Node("Transpose", f"{node.name}/channels_last", {"perm": perm}, [inner], [out]))
