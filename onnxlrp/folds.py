"""Batch norms and per-channel constants go into the linear node before them, or after them; outputs stay the same.

Weights are changed by nodes on constants, which the runtime folds when it loads the file: the file does not grow.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from .constants import Maker, constants_of, is_static, only_user, producer, replace_tensor
from .facts import is_float, scaled_inputs

__all__ = ["fold_back", "fold_forward", "merge_affine", "mul_add", "varies"]


def channel_axis(node: gs.Node, rank: int) -> int:
    """Axis of a linear node's output that its weight's output channels lie on."""
    return rank - 1 if node.op == "MatMul" else 1


def varies(t: gs.Tensor, x: gs.Tensor, axis: int) -> bool:
    """Whether a constant is a scalar or varies along one axis only of x, and does not broadcast x up."""
    if t.shape is None or x.shape is None or len(t.shape) > len(x.shape):
        return False
    rank = len(x.shape)
    shape = [1] * (rank - len(t.shape)) + list(t.shape)
    return shape[axis] in (1, x.shape[axis]) and all(d == 1 for a, d in enumerate(shape) if a != axis)


def is_linear(node: gs.Node, fixed: Collection[str]) -> bool:
    """A linear node whose weight is a constant of known shape on its right."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or not is_float(node.outputs[0]):
        return False
    x, w = node.inputs[:2]
    return w.name in fixed and x.name not in fixed and is_static(w) and len(w.shape) > 1  # a vector has no output channels


class Affine(NamedTuple):
    """x · scale + shift with flat constants; None for 1 and 0."""

    scale: gs.Tensor | None = None
    shift: gs.Tensor | None = None


def batch_norm(make: Maker, node: gs.Node) -> Affine | None:
    """γ/√(σ²+ε) and β − μ γ/√(σ²+ε) of a BatchNormalization. None when they are not constants."""
    if node.attrs.get("training_mode", 0) or not all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
        return None
    gamma, beta, mu, var = (np.asarray(t.values, np.float64) for t in node.inputs[1:5])
    scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return Affine(make.constant(scale.astype(np.float32)), make.constant((beta - mu * scale).astype(np.float32)))


def affine_of(make: Maker, node: gs.Node, x: gs.Tensor, axis: int, fixed: Collection[str]) -> Affine | None:
    """What a node does to x, when that is a scale and a shift along one axis by constants."""
    if node.op == "BatchNormalization":
        return batch_norm(make, node) if axis == 1 and node.inputs[0] is x else None
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    mine = 0 if node.inputs[0] is x else 1
    other = node.inputs[1 - mine]
    if other.name not in fixed or (mine == 1 and node.op in ("Sub", "Div")) or not varies(other, x, axis):
        return None
    flat = make.reshape(other, -1)
    if node.op in ("Add", "Sub"):
        return Affine(shift=flat if node.op == "Add" else make.op("Sub", make.constant(np.float32(0)), flat))
    return Affine(scale=flat if node.op == "Mul" else make.op("Div", make.constant(np.float32(1)), flat))


def chain(make: Maker, first: Affine, then: Affine) -> Affine:
    """(x·a + b)·c + d  =  x·(a c) + (b c + d)."""
    scale, shift = first
    if then.scale is not None:
        scale = then.scale if scale is None else make.op("Mul", scale, then.scale)
        shift = None if shift is None else make.op("Mul", shift, then.scale)
    if then.shift is not None:
        shift = then.shift if shift is None else make.op("Add", shift, then.shift)
    return Affine(scale, shift)


def fold_back(graph: gs.Graph, kept: Collection[str]) -> None:
    """BatchNormalization, and Add, Sub, Mul, Div by scalars or per-channel constants, into the linear node before them."""
    fixed = constants_of(graph)
    for node in [n for n in graph.nodes if is_linear(n, fixed)]:
        _fold_run(graph, Maker(graph, f"{node.name}/fold"), node, kept, fixed)


def _fold_run(graph: gs.Graph, make: Maker, node: gs.Node, kept: Collection[str], fixed: Collection[str]) -> None:
    """Fold all that follows one linear node, a Transpose looked through.

    A MatMul keeps its bias in an Add behind it (groups.py reads the two as one); there, what is folded moves into both.
    """
    y = node.outputs[0]
    user = only_user(y, kept)
    if user is None or y.shape is None:
        return
    axis, last = channel_axis(node, len(y.shape)), y
    if user.op == "Transpose":  # channels last: look through
        axis, last = list(user.attrs.get("perm") or range(len(y.shape))[::-1]).index(axis), user.outputs[0]
    nodes, total = _run(make, last, axis, kept, fixed)
    if not nodes or (node.op == "MatMul" and [n.op for n in nodes] == ["Add"]):
        return
    apply_affine(make, node, total.scale, None if node.op == "MatMul" else total.shift)
    source = last.inputs[0]
    source.outputs[0] = _cut(last, nodes)
    if node.op == "MatMul" and total.shift is not None:
        out, product = node.outputs[0], gs.Variable(make.name("product"), y.dtype, y.shape)
        node.outputs[0] = product
        bias = lay(make, total.shift, product, channel_axis(node, len(product.shape)))
        graph.nodes.append(gs.Node("Add", make.name("bias"), {}, [product, bias], [out]))


def _cut(first: gs.Tensor, nodes: list[gs.Node]) -> gs.Tensor:
    """Take out the nodes behind `first`, one after the other; the tensor that the last one wrote is returned."""
    out, gone = nodes[-1].outputs[0], [first, *(n.outputs[0] for n in nodes[:-1])]
    out.shape = out.shape if out.shape is not None else first.shape
    for node in nodes:
        node.outputs.clear()
        node.inputs.clear()
    for t in gone:
        replace_tensor(t, out)  # who asks for its shape asks for that of the last one
    return out


def _run(make: Maker, x: gs.Tensor, axis: int, kept: Collection[str], fixed: Collection[str]) -> tuple[list[gs.Node], Affine]:
    """The nodes behind x, one after the other, that scale and shift by constants along one axis; and their product."""
    nodes: list[gs.Node] = []
    total = Affine()
    while (user := only_user(x, kept)) is not None and (found := affine_of(make, user, x, axis, fixed)) is not None:
        nodes.append(user)
        total, x = chain(make, total, found), user.outputs[0]
        if x.shape is None:
            break
    return nodes, total


def lay(make: Maker, t: gs.Tensor, x: gs.Tensor, axis: int) -> gs.Tensor:
    """A flat constant laid out along one axis of x."""
    return make.reshape(t, -1, *[1] * (len(x.shape) - axis - 1))


def merge_affine(graph: gs.Graph, kept: Collection[str]) -> None:
    """A run of Add, Sub, Mul, Div by per-channel constants that folded nowhere becomes one Mul and one Add."""
    fixed, scaled = constants_of(graph), scaled_inputs(graph, {t.name for t in graph.inputs})
    done: set[int] = set()
    for node in list(graph.nodes):
        if id(node) in done or node.op not in ("Add", "Sub", "Mul", "Div") or node.outputs[0].name in scaled:
            continue
        if not is_float(node.outputs[0]):
            continue
        x = next((t for t in node.inputs if t.name not in fixed), None)
        if x is None or x.shape is None or sum(t.name in fixed for t in node.inputs) != 1:
            continue
        for axis in (1, *range(len(x.shape))):
            if axis < len(x.shape) and _merge(graph, node, x, axis, kept, fixed, done):
                break


def _merge(
    graph: gs.Graph, node: gs.Node, x: gs.Tensor, axis: int, kept: Collection[str], fixed: Collection[str], done: set[int]
) -> bool:
    make = Maker(graph, f"{node.name}/affine{axis}")
    first = affine_of(make, node, x, axis, fixed)
    if first is None or node.outputs[0].shape is None:
        return False
    more, rest = _run(make, node.outputs[0], axis, kept, fixed)
    nodes, total = [node, *more], chain(make, first, rest)
    if total.scale is None or total.shift is None or [n.op for n in nodes] == ["Mul", "Add"]:
        return False
    if all(t.shape is not None and int(np.prod(t.shape)) == 1 for t in (total.scale, total.shift)):
        return False
    done.update(id(n) for n in nodes)
    name = nodes[-1].name
    out = _cut(node.outputs[0], more) if more else node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    product = gs.Variable(make.name("product"), out.dtype, x.shape)
    graph.nodes.append(gs.Node("Mul", f"{node.name}/scale", {}, [x, lay(make, total.scale, x, axis)], [product]))
    graph.nodes.append(gs.Node("Add", name, {}, [product, lay(make, total.shift, x, axis)], [out]))
    return True


def apply_affine(make: Maker, node: gs.Node, scale: gs.Tensor | None, shift: gs.Tensor | None) -> None:
    """w, b := w · scale, b · scale + shift along the output channels."""
    w = node.inputs[1]
    b = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if scale is not None:
        b = make.op("Mul", b, scale) if b is not None else None
        node.inputs[1] = make.op("Mul", w, _along(make, node, scale))
    if shift is not None:
        zeros = make.constant(np.zeros(_outputs(node, w), np.float32))
        b = make.op("Add", b if b is not None else zeros, shift)  # a scalar shift becomes one per channel
    if b is not None:
        node.inputs = [node.inputs[0], node.inputs[1], b]


def _outputs(node: gs.Node, w: gs.Tensor) -> int:
    """Number of output channels, from the weight."""
    if node.op == "ConvTranspose":
        return int(w.shape[1]) * int(node.attrs.get("group", 1))
    return int(w.shape[0] if node.op == "Conv" or node.attrs.get("transB", 0) else w.shape[-1])


def _along(make: Maker, node: gs.Node, scale: gs.Tensor) -> gs.Tensor:
    """A per-output-channel vector in the layout of the weight."""
    w = node.inputs[1]
    rank = len(w.shape)
    if node.op == "Conv":
        return make.reshape(scale, -1, *[1] * (rank - 1))
    if node.op == "ConvTranspose":  # w (C, M/group, *k): output channel m of group g is w[g-th block of C, m]
        groups = int(node.attrs.get("group", 1))
        if groups == 1 or scale.shape is None or int(np.prod(scale.shape)) == 1:
            return make.reshape(scale, 1, -1, *[1] * (rank - 2))
        table = make.reshape(scale, groups, 1, -1)
        spread = make.op(
            "Expand", table, make.constant(np.asarray([groups, int(w.shape[0]) // groups, int(w.shape[1])], np.int64))
        )
        return make.reshape(spread, int(w.shape[0]), int(w.shape[1]), *[1] * (rank - 2))
    return make.reshape(scale, -1, 1) if node.attrs.get("transB", 0) else make.reshape(scale, -1)


def fold_forward(graph: gs.Graph, kept: Collection[str]) -> None:
    """BatchNormalization, or Mul and Add per channel, directly before a Conv without padding, Gemm or MatMul goes into it."""
    fixed, scaled = constants_of(graph), scaled_inputs(graph, {t.name for t in graph.inputs})
    for node in [n for n in graph.nodes if is_linear(n, fixed) and n.op != "ConvTranspose"]:
        make, w = Maker(graph, f"{node.name}/before"), node.inputs[1]
        rank, conv, trans = len(w.shape), node.op == "Conv", bool(node.attrs.get("transB", 0))
        norm = _norm_before(make, node, kept, fixed)
        if norm is None or any(node.attrs.get("pads", [])) or node.attrs.get("group", 1) != 1 or (rank != 2 and not conv):
            continue
        x, scale, shift = norm
        if node.inputs[0].name in scaled:
            continue
        inner = [1, -1, *[1] * (rank - 2)] if conv or trans else [-1, 1]
        moved = make.op("Mul", w, make.reshape(shift, *inner))
        axes = make.constant(np.asarray([a for a in range(rank) if a != (0 if conv or trans else 1)], np.int64))
        extra = make.op("ReduceSum", moved, axes, keepdims=0)
        extra.shape = [_outputs(node, w)]
        node.inputs[0] = x
        node.inputs[1] = make.op("Mul", w, make.reshape(scale, *inner))
        if node.op != "MatMul":
            apply_affine(make, node, None, extra)
            continue
        out = node.outputs[0]
        node.outputs[0] = gs.Variable(make.name("product"), out.dtype, out.shape)
        graph.nodes.append(gs.Node("Add", make.name("bias"), {}, [node.outputs[0], extra], [out]))
        _fold_run(graph, make, node, kept, {*fixed, extra.name})  # with the bias that was there


def _norm_before(
    make: Maker, node: gs.Node, kept: Collection[str], fixed: Collection[str]
) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor] | None:
    """(input, scale, shift) of a BatchNormalization, or a per-channel Mul and Add, that feeds a linear node only."""
    x = node.inputs[0]
    norm = producer(x)
    if norm is None or only_user(x, kept) is not node or x.shape is None:
        return None
    axis = 1 if node.op == "Conv" else len(x.shape) - 1
    if norm.op == "BatchNormalization" and axis == 1:
        pair = batch_norm(make, norm)
        return None if pair is None or pair.scale is None or pair.shift is None else (norm.inputs[0], pair.scale, pair.shift)
    found = mul_add(norm, kept, fixed, axis)
    return None if found is None else (found[0], make.reshape(found[1], -1), make.reshape(found[2], -1))


def mul_add(
    add: gs.Node, kept: Collection[str], fixed: Collection[str], axis: int | None = None
) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor] | None:
    """(x, scale, shift) when `add` is x · scale + shift with per-channel constants (not two scalars)."""
    if add.op != "Add":
        return None
    for i in (0, 1):
        mul, shift = producer(add.inputs[i]), add.inputs[1 - i]
        if mul is None or mul.op != "Mul" or shift.name not in fixed or only_user(add.inputs[i], kept) is not add:
            continue
        for j in (0, 1):
            x, scale = mul.inputs[j], mul.inputs[1 - j]
            if scale.name not in fixed or x.name in fixed or x.shape is None:
                continue
            axes = [axis] if axis is not None else range(len(x.shape))
            single = any(varies(scale, x, a) and varies(shift, x, a) for a in axes)
            scalars = all(int(np.prod(t.shape)) == 1 for t in (scale, shift) if is_static(t))
            if single and not scalars:
                return x, scale, shift
    return None
