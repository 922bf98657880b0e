"""Patterns that are read as one operator: a group changes no node, it only says how several are explained together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs

from .constants import constants_of, only_user, producer
from .facts import scaled_inputs
from .folds import mul_add, varies
from .integer_kernels import MEAN, SNAP, ordered_mean
from .norm_patterns import group_norm, spelled_norm
from .quantization import FAKE_QUANT

__all__ = ["Group", "Unit", "units"]


@dataclass(eq=False)
class Group:
    """Several nodes explained as one operator; looks like a node to the readings."""

    op: str
    name: str
    inputs: list[gs.Tensor]
    outputs: list[gs.Tensor]
    members: list[gs.Node]
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str | None = None

    @property
    def elementwise(self) -> bool:
        """Whether its derivative is that of its members, node by node."""
        return self.op in (*GATES.values(), "Sigmoid", "RMSNormalization")


class Unit(Protocol):
    """What is explained as one operator: a node, or a group."""

    op: str
    name: str
    inputs: list[gs.Tensor]
    outputs: list[gs.Tensor]
    attrs: dict[str, Any]
    domain: str | None


def units(graph: gs.Graph, kept: Collection[str], canonize: bool = True) -> list[Unit]:
    """The model as what is explained: its nodes, with groups in the place of their last member.

    canonize=False leaves out the groups of what the model spells; those of what was written out here stay.
    """
    fixed, scaled = constants_of(graph), scaled_inputs(graph, {t.name for t in graph.inputs})
    order = {id(n): i for i, n in enumerate(graph.nodes)}
    sinks: dict[int, Group] = {}
    members: set[int] = set()
    spelled = (norm, softmax, gate, sigmoid, biased_matmul, affine) if canonize else ()
    for find in (quantize, mean, on_grid, *spelled):
        for node in graph.nodes:
            if id(node) in members:
                continue
            group = find(node, kept, fixed, order)
            if group is not None and group.op == "Affine" and group.outputs[0].name in scaled:
                continue  # it only scales an explained input
            if group is not None and not members & {id(m) for m in group.members}:
                sinks[id(group.members[0])] = group
                members |= {id(m) for m in group.members}
    out: list[Unit] = []
    for node in graph.nodes:
        if id(node) in sinks:
            out.append(sinks[id(node)])
        elif id(node) not in members:
            out.append(node)
    return out


ELEMENTWISE = frozenset(
    (
        "Add Sub Sum Mul Div Erf Tanh Sigmoid HardSigmoid Softplus Exp Log Clip Relu Pow Sqrt Reciprocal Neg Min Max Identity"
    ).split()
)
GATES = {"Erf": "Gelu", "Softplus": "Mish", "Log": "Mish", "Tanh": "Gelu", "Sigmoid": "Swish", "HardSigmoid": "HardSwish",
         "Clip": "HardSwish", "Relu": "HardSwish", "Min": "HardSwish", "Exp": "Swish"}  # fmt: skip


def gate(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """x · g(x) with g element-wise (GELU, SiLU, HardSwish, Mish however they are spelled) is one activation of x."""
    if node.op != "Mul" or any(t.name in fixed for t in node.inputs):
        return None
    region = [node]
    sources = {t.name: t for t in node.inputs}
    while len(sources) > 1:
        # take the latest source apart: when only one is left, the whole region is a function of that one
        t = max(sources.values(), key=lambda t: order[id(t.inputs[0])] if t.inputs else -1)
        part = producer(t)
        inside = {id(m) for m in region}
        if part is None or part.op not in ELEMENTWISE or t.name in kept or not {id(n) for n in t.outputs} <= inside:
            return None
        if not all(_scalar(x) for x in part.inputs if x.name in fixed):
            return None
        region.append(part)
        del sources[t.name]
        sources |= {x.name: x for x in part.inputs if x.name and x.name not in fixed}
        if len(region) > 12:
            return None
    kind = next((name for op, name in GATES.items() if any(m.op == op for m in region)), None)
    return Group(kind, node.name, list(sources.values()), list(node.outputs), region) if kind else None


def _scalar(t: gs.Tensor) -> bool:
    return t.shape is not None and int(np.prod([d if isinstance(d, int) else 2 for d in t.shape])) == 1


def spelled_sigmoid(node: gs.Node) -> tuple[gs.Tensor, list[gs.Node]] | None:
    """(t, nodes) when the node is 1 / (1 + exp(t)), which is Sigmoid(−t)."""
    below = producer(node.inputs[-1]) if node.op == "Reciprocal" or (node.op == "Div" and _one(node.inputs[0])) else None
    if below is None or below.op != "Add":
        return None
    for i in (0, 1):
        exponential = producer(below.inputs[1 - i])
        if _one(below.inputs[i]) and exponential is not None and exponential.op == "Exp":
            return exponential.inputs[0], [node, below, exponential]
    return None


def _one(t: gs.Tensor) -> bool:
    return isinstance(t, gs.Constant) and t.values.size == 1 and bool(np.all(t.values == 1))


def sigmoid(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """1 / (1 + exp(t)) as one activation of t."""
    found = spelled_sigmoid(node)
    if found is None or found[0].name in fixed:
        return None
    t, members = found
    inside = all(only_user(m.outputs[0], kept) is not None for m in members[1:])
    return Group("Sigmoid", node.name, [t], list(node.outputs), members) if inside else None


def norm(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """Layer, group and root mean square norms however they are spelled (norm_patterns.py)."""
    found = spelled_norm(node, kept, fixed) or group_norm(node, kept, fixed)
    if found is None:
        return None
    op, inputs, outputs, members, attrs = found
    members = sorted({id(m): m for m in members}.values(), key=lambda m: -order[id(m)])
    return Group(op, node.name, inputs, outputs, members, attrs)


def on_grid(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """A layer whose results integer_kernels.py rounds to what integers can give; the bias of a MatMul may follow."""
    if not node.name.endswith(SNAP):
        return None
    members, y = [node], node.outputs[0]
    while members[-1].name.startswith(node.name):
        members.append(producer(members[-1].inputs[0]))
    layer = members[-1]
    add = only_user(y, kept) if layer.op == "MatMul" and y.shape is not None else None
    if add is not None and add.op == "Add":
        bias = add.inputs[1 if add.inputs[0] is y else 0]
        if bias.name in fixed and varies(bias, y, len(y.shape) - 1):
            return Group("MatMul", layer.name, [*layer.inputs, bias], list(add.outputs), [add, *members])
    return Group(layer.op, layer.name, list(layer.inputs), list(node.outputs), members, dict(layer.attrs))


def softmax(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """exp(x) / Σ exp(x) along an axis, with or without subtracting the largest x first."""
    top, below = (producer(t) for t in node.inputs) if node.op == "Div" else (None, None)
    if top is None or below is None or top.op != "Exp" or below.op != "ReduceSum" or below.inputs[0] is not node.inputs[0]:
        return None
    axis, t, members = _one_axis(below), top.inputs[0], [node, below, top]
    shift = producer(t)
    largest = producer(shift.inputs[1]) if shift is not None and shift.op == "Sub" else None
    if (
        largest is not None
        and largest.op == "ReduceMax"
        and largest.inputs[0] is shift.inputs[0]
        and _one_axis(largest) == axis
    ):
        t, members = shift.inputs[0], [*members, shift, largest]
    inside = {id(m) for m in members}
    closed = all(x.name not in kept and {id(n) for n in x.outputs} <= inside for m in members[1:] for x in m.outputs)
    if axis is None or not closed or t.name in fixed:
        return None
    return Group("Softmax", node.name, [t], list(node.outputs), members, {"axis": axis})


def _one_axis(node: gs.Node) -> int | None:
    """The one axis of a reduction that keeps it; None for others."""
    given = len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant)
    axes = [int(a) for a in np.ravel(node.inputs[1].values)] if given else []
    if len(axes) != 1 or not node.attrs.get("keepdims", 1) or node.inputs[0].shape is None:
        return None
    return axes[0] % len(node.inputs[0].shape)


def biased_matmul(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """MatMul by a constant, then Add of a constant that varies along the output channels: one dense layer."""
    if node.op != "Add":
        return None
    for i in (0, 1):
        y, bias = node.inputs[i], node.inputs[1 - i]
        product = producer(y)
        if product is None or product.op != "MatMul" or bias.name not in fixed or y.shape is None or not y.shape:
            continue
        right = product.inputs[1].name in fixed and product.inputs[0].name not in fixed
        if right and only_user(y, kept) is node and varies(bias, y, len(y.shape) - 1):
            return Group("MatMul", product.name, [*product.inputs, bias], list(node.outputs), [product, node])
    return None


def affine(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """Mul then Add by per-channel constants that folded nowhere: a BatchNormalization in another spelling."""
    found = mul_add(node, kept, fixed)
    if found is None:
        return None
    x, scale, shift = found
    mul = next(t.inputs[0] for t in node.inputs if t.inputs and t.inputs[0].op == "Mul" and t.name not in fixed)
    return Group("Affine", mul.name, [x, scale, shift], list(node.outputs), [mul, node])


def quantize(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """What quantization.py makes of QuantizeLinear and DequantizeLinear is x up to rounding, whatever its scale depends on."""
    if not node.name.endswith(FAKE_QUANT) or node.op != "Mul":
        return None
    members = [node]
    while (before := producer(members[-1].inputs[0])) is not None and before.name.startswith(f"{node.name}/"):
        members.append(before)
    x = members[-1].inputs[0]
    if members[-1].op == "Cast":  # of codes, whose scale depends on the range of x
        x = x.inputs[0].inputs[0]
    return Group("QuantizeDequantize", node.name, [x], list(node.outputs), members)


def mean(node: gs.Node, kept: Collection[str], fixed: Collection[str], order: dict[int, int]) -> Group | None:
    """An AveragePool that integer_kernels.py wrote as a sum of slices."""
    found = ordered_mean(node)
    return found and Group("AveragePool", node.name.removesuffix(MEAN), [found[0]], list(node.outputs), found[1], found[2])
