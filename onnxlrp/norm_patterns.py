"""Normalisation layers spelled out by exporters, recognised by what they compute: the finders of groups.py for norms.

A norm is n = d · 1/√(mean(d²) + ε): with d = x − mean(x) it is a layer norm, with d = x the root mean square norm.
Constant Mul and Add behind it are its scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import only_user, producer

__all__ = ["Norm", "group_norm", "spelled_norm"]

Norm = tuple[str, list[gs.Tensor], list[gs.Tensor], list[gs.Node], dict[str, Any]]  # op, inputs, outputs, members, attrs


def spelled_norm(node: gs.Node, kept: Collection[str], fixed: Collection[str]) -> Norm | None:
    """A layer norm or root mean square norm whose normalised value `node` computes; None when it is none."""
    found = _normalised(node, fixed)
    if found is None:
        return None
    d, mean, epsilon, members = found
    axes = _axes(mean)
    centre = producer(d)
    if axes is None or d.shape is None:
        return None
    rank = len(d.shape)
    axes = sorted(a % rank for a in axes)
    if axes != list(range(axes[0], rank)):
        return None
    attrs = {"axis": axes[0], "epsilon": epsilon}
    mu = producer(centre.inputs[1]) if centre is not None and centre.op == "Sub" else None
    if mu is not None and mu.op == "ReduceMean" and mu.inputs[0] is centre.inputs[0]:
        same = sorted(a % rank for a in _axes(mu) or ()) == axes
        members += [centre, mu]
        return _with_affine("LayerNormalization", mu.inputs[0], node, members, attrs, kept, fixed) if same else None
    if node.op == "Mul":  # as a Div it is a ratio, which passes in the same way
        return _with_affine("RMSNormalization", d, node, members, attrs, kept, fixed)
    return None


def _normalised(node: gs.Node, fixed: Collection[str]) -> tuple[gs.Tensor, gs.Node, float, list[gs.Node]] | None:
    """(d, the ReduceMean of d², ε, nodes) when the node is d/√(mean d² + ε) in one of its spellings."""
    for i in (0, 1) if node.op == "Mul" else (0,) if node.op == "Div" else ():
        d, root = node.inputs[i], node.inputs[1 - i]
        members = [node]
        if node.op == "Mul":
            inverse = producer(root)
            if inverse is None:
                continue
            members.append(inverse)
            if inverse.op == "Reciprocal" or (inverse.op == "Div" and _is(inverse.inputs[0], 1.0)):
                root = inverse.inputs[-1]
            elif inverse.op == "Pow" and _is(inverse.inputs[1], -0.5):
                root = None
            else:
                continue
        sqrt = producer(root) if root is not None else inverse
        if sqrt is None or (root is not None and sqrt.op != "Sqrt" and not (sqrt.op == "Pow" and _is(sqrt.inputs[1], 0.5))):
            continue
        members += [sqrt] if root is not None else []
        epsilon, mean = 0.0, producer(sqrt.inputs[0])
        if mean is not None and mean.op == "Add":
            value = next(
                (t for t in mean.inputs if t.name in fixed and isinstance(t, gs.Constant) and math.prod(t.shape) == 1), None
            )
            rest = [t for t in mean.inputs if t is not value]
            if value is None or len(rest) != 1:
                continue
            members.append(mean)
            epsilon, mean = float(np.ravel(value.values)[0]), producer(rest[0])
        square = producer(mean.inputs[0]) if mean is not None and mean.op == "ReduceMean" else None
        if square is None:
            continue
        power = square.op == "Pow" and _is(square.inputs[1], 2.0)
        if not power and not (square.op == "Mul" and square.inputs[0] is square.inputs[1]):
            continue
        if square.inputs[0] is d:
            return d, mean, epsilon, [*members, mean, square]
    return None


def _with_affine(
    op: str, x: gs.Tensor, node: gs.Node, members: list[gs.Node], attrs: dict[str, Any], kept: Collection[str],
    fixed: Collection[str],
) -> Norm:  # fmt: skip
    """Take the constant Mul and Add behind the normalised value along."""
    out = node.outputs[0]
    parts: dict[str, gs.Tensor] = {}
    for kind in ("Mul", "Add") if op == "LayerNormalization" else ("Mul",):
        user = only_user(out, kept)
        if user is None or user.op != kind:
            continue
        other = user.inputs[1] if user.inputs[0] is out else user.inputs[0]
        width = len(out.shape or ()) - attrs["axis"]
        if other.name not in fixed or other.shape is None or len(_trimmed(other.shape)) > width:
            break
        parts[kind] = other
        members = [user, *members]
        out = user.outputs[0]
    one = parts.get("Mul", gs.Constant(f"{node.name}/one", np.ones((), np.float32)))
    return op, [x, one, *([parts["Add"]] if "Add" in parts else [])], [out], members, attrs


def _trimmed(shape: Any) -> list[Any]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return sizes


def group_norm(node: gs.Node, kept: Collection[str], fixed: Collection[str]) -> Norm | None:
    """Reshape (N,G,…), InstanceNormalization with scale 1 and bias 0, Reshape back, then Mul and Add per channel."""
    if node.op != "InstanceNormalization" or not all(isinstance(t, gs.Constant) for t in node.inputs[1:3]):
        return None
    before, after = producer(node.inputs[0]), only_user(node.outputs[0], kept)
    if before is None or before.op != "Reshape" or after is None or after.op != "Reshape":
        return None
    if np.any(node.inputs[1].values != 1) or np.any(node.inputs[2].values != 0) or only_user(node.inputs[0], kept) is not node:
        return None
    x, out, groups = before.inputs[0], after.outputs[0], int(node.inputs[1].shape[0])
    if x.shape is None or out.shape is None or list(x.shape[1:]) != list(out.shape[1:]):
        return None
    members, rank, parts = [after, node, before], len(x.shape), {}
    for kind in ("Mul", "Add"):
        user = only_user(out, kept)
        if user is None or user.op != kind:
            continue
        other = user.inputs[1] if user.inputs[0] is out else user.inputs[0]
        sizes = [1] * (rank - len(other.shape)) + list(other.shape) if other.shape is not None else [None]
        if other.name not in fixed or any(d != 1 for a, d in enumerate(sizes) if a != 1):
            break
        parts[kind], members, out = other, [user, *members], user.outputs[0]
    one = parts.get("Mul", gs.Constant(f"{node.name}/one", np.ones((), np.float32)))
    inputs = [x, one, *([parts["Add"]] if "Add" in parts else [])]
    attrs = {"num_groups": groups, "epsilon": node.attrs.get("epsilon", 1e-5)}
    return "GroupNormalization", inputs, [out], members, attrs


def _axes(node: gs.Node) -> list[int] | None:
    """Axes of a ReduceMean that keeps its dimensions."""
    if not node.attrs.get("keepdims", 1):
        return None
    given = node.attrs.get("axes")
    if given is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        given = node.inputs[1].values.ravel().tolist()
    return [int(a) for a in given] if given else None


def _is(t: gs.Tensor, value: float) -> bool:
    return isinstance(t, gs.Constant) and math.prod(t.shape) == 1 and float(np.ravel(t.values)[0]) == value
