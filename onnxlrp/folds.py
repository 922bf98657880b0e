"""Batch norms and per-channel constants go into the linear node before them, or after them; outputs stay the same.

Weights are changed by nodes on constants, which the runtime folds when it loads the file: the file does not grow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from .constants import Maker, constants_of, is_static, only_user, producer, splice
from .facts import scaled_inputs

__all__ = ["fold_back", "fold_forward", "mul_add", "varies"]


def channel_axis(node: gs.Node, rank: int) -> int:
    """Axis of a linear node's output that its weight's output channels lie on."""
    return rank - 1 if node.op == "MatMul" else 1


def varies(t: gs.Tensor, rank: int, axis: int) -> bool:
    """Whether a constant is a scalar or varies along one axis only of a tensor of that rank."""
    if t.shape is None or len(t.shape) > rank:
        return False
    shape = [1] * (rank - len(t.shape)) + list(t.shape)
    return all(d == 1 for a, d in enumerate(shape) if a != axis)


def is_linear(node: gs.Node, fixed: Collection[str]) -> bool:
    """A linear node whose weight is a constant on its right."""
    if node.op in ("Conv", "ConvTranspose", "Gemm"):
        return node.inputs[1].name in fixed
    return node.op == "MatMul" and node.inputs[1].name in fixed and node.inputs[0].name not in fixed


def batch_norm(make: Maker, node: gs.Node) -> tuple[gs.Tensor, gs.Tensor] | None:
    """(scale, shift) of a BatchNormalization: γ/√(σ²+ε) and β − μ γ/√(σ²+ε). None when they are not constants."""
    if node.attrs.get("training_mode", 0) or not all(isinstance(t, gs.Constant) for t in node.inputs[1:5]):
        return None
    gamma, beta, mu, var = (np.asarray(t.values, np.float64) for t in node.inputs[1:5])
    scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
    return make.constant(scale.astype(np.float32)), make.constant((beta - mu * scale).astype(np.float32))


def fold_back(graph: gs.Graph, kept: Collection[str]) -> None:
    """BatchNormalization, and Add, Sub, Mul, Div by scalars or per-channel constants, into the linear node before them."""
    fixed = constants_of(graph)
    for node in [n for n in graph.nodes if is_linear(n, fixed)]:
        while _fold_one(graph, node, kept, fixed):
            pass


def _fold_one(graph: gs.Graph, node: gs.Node, kept: Collection[str], fixed: set[str]) -> bool:
    y = node.outputs[0]
    user = only_user(y, kept)
    if user is None or y.shape is None:
        return False
    rank = len(y.shape)
    axis, last = channel_axis(node, rank), y
    if user.op == "Transpose":  # channels last: look through
        perm = user.attrs.get("perm") or list(range(rank))[::-1]
        axis, last = perm.index(axis), user.outputs[0]
        user = only_user(last, kept)
        if user is None:
            return False
    make = Maker(graph, user.name)
    scale: gs.Tensor | None = None
    shift: gs.Tensor | None = None
    if user.op == "BatchNormalization" and axis == 1 and user.inputs[0] is last:
        pair = batch_norm(make, user)
        if pair is None:
            return False
        scale, shift = pair
    elif user.op in ("Add", "Sub", "Mul", "Div"):
        mine = 0 if user.inputs[0] is last else 1
        other = user.inputs[1 - mine]
        if other.name not in fixed or (mine == 1 and user.op in ("Sub", "Div")) or not varies(other, rank, axis):
            return False
        if user.outputs[0].shape is not None and len(user.outputs[0].shape) != rank:
            return False
        flat = make.reshape(other, -1)
        zero, one = (make.constant(np.float32(v)) for v in (0, 1))
        if user.op in ("Add", "Sub"):
            shift = flat if user.op == "Add" else make.op("Sub", zero, flat)
        else:
            scale = flat if user.op == "Mul" else make.op("Div", one, flat)
        if user.op in ("Add", "Sub") and node.op == "MatMul":
            return False  # grouped, not rewritten: see groups.py
    else:
        return False
    apply_affine(make, node, scale, shift)
    if last is y:
        splice(y, user)
    else:
        splice(last, user)
    fixed |= {t.name for n in graph.nodes[-8:] for t in n.outputs}  # what apply_affine just made
    fixed |= {t.name for t in node.inputs[1:]}
    return True


def apply_affine(make: Maker, node: gs.Node, scale: gs.Tensor | None, shift: gs.Tensor | None) -> None:
    """w, b := w · scale, b · scale + shift along the output channels."""
    w = node.inputs[1]
    b = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    outs = _outputs(node)
    if scale is not None:
        node.inputs[1] = make.op("Mul", w, _along(make, node, scale))
        b = make.op("Mul", b, scale) if b is not None else None
    if shift is not None:
        b = make.op("Add", b, shift) if b is not None else shift
        if outs is not None and node.op != "MatMul":
            b = make.op("Add", b, make.constant(np.zeros(outs, np.float32)))  # a scalar shift becomes one per channel
    if b is not None:
        node.inputs = [node.inputs[0], node.inputs[1], b]


def _outputs(node: gs.Node) -> int | None:
    shape = node.outputs[0].shape
    size = shape[channel_axis(node, len(shape))] if shape is not None else None
    return size if isinstance(size, int) else None


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
    """BatchNormalization directly before a Conv without padding, Gemm or MatMul goes into that one's weight."""
    fixed, scaled = constants_of(graph), scaled_inputs(graph, {t.name for t in graph.inputs})
    for node in [n for n in graph.nodes if is_linear(n, fixed) and n.op != "ConvTranspose"]:
        for x, scale, shift, chain in _norms_before(graph, node, kept, fixed):
            if chain[-1].outputs[0].name in scaled or any(node.attrs.get("pads", [])) or node.attrs.get("group", 1) != 1:
                continue
            make, w = Maker(graph, node.name), node.inputs[1]
            rank = len(w.shape)
            conv, trans = node.op == "Conv", bool(node.attrs.get("transB", 0))
            if rank != 2 and not conv:
                continue
            inner = [1, -1, *[1] * (rank - 2)] if conv or trans else [-1, 1]
            moved = make.op("Mul", w, make.reshape(shift, *inner))
            axes = make.constant(np.asarray([a for a in range(rank) if a != (0 if conv or trans else 1)], np.int64))
            extra = gs.Variable(make._name("ReduceSum"), np.float32)
            graph.nodes.append(gs.Node("ReduceSum", extra.name, {"keepdims": 0}, [moved, axes], [extra]))
            node.inputs[0] = x
            node.inputs[1] = make.op("Mul", w, make.reshape(scale, *inner))
            apply_affine(make, node, None, extra)
            break


def _norms_before(
    graph: gs.Graph, node: gs.Node, kept: Collection[str], fixed: Collection[str]
) -> Iterator[tuple[gs.Tensor, gs.Tensor, gs.Tensor, list[gs.Node]]]:
    """(input, scale, shift, nodes) of a BatchNormalization, or a per-channel Mul and Add, that feeds a linear node only."""
    x = node.inputs[0]
    norm = producer(x)
    if norm is None or only_user(x, kept) is not node or x.shape is None:
        return
    axis = 1 if node.op == "Conv" else len(x.shape) - 1
    make = Maker(graph, norm.name)
    if norm.op == "BatchNormalization" and axis == 1:
        pair = batch_norm(make, norm)
        if pair is not None:
            yield norm.inputs[0], *pair, [norm]
        return
    found = mul_add(norm, kept, fixed, axis)
    if found is not None:
        first, scale, shift = found
        yield first, make.reshape(scale, -1), make.reshape(shift, -1), [norm]


def mul_add(
    add: gs.Node, kept: Collection[str], fixed: Collection[str], axis: int | None = None
) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor] | None:
    """(x, scale, shift) when `add` is x · scale + shift with per-channel constants (not two scalars)."""
    if add.op != "Add" or add.outputs[0].shape is None:
        return None
    rank = len(add.outputs[0].shape)
    for i in (0, 1):
        mul = producer(add.inputs[i])
        shift = add.inputs[1 - i]
        if mul is None or mul.op != "Mul" or shift.name not in fixed or only_user(add.inputs[i], kept) is not add:
            continue
        for j in (0, 1):
            x, scale = mul.inputs[j], mul.inputs[1 - j]
            if scale.name not in fixed or x.name in fixed or scale.shape is None or shift.shape is None:
                continue
            axes = [axis] if axis is not None else range(rank)
            single = [a for a in axes if varies(scale, rank, a) and varies(shift, rank, a)]
            scalars = all(int(np.prod(t.shape)) == 1 for t in (scale, shift) if is_static(t))
            if single and not scalars and x.shape is not None and len(x.shape) == rank:
                return x, scale, shift
    return None
