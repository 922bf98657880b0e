"""How the runtime's integer kernels round, in float: so that a quantised model's outputs stay the same to the bit.

They hold exact integers where floats have rounded sums, and a value half way between two codes is common enough (means
of four codes, say) for that to show. Formulas measured against the kernels; on other processors they may differ by a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import producer

__all__ = ["MEAN", "MOVES", "SNAP", "Grid", "grid_of", "maker", "mean_in_order", "ordered_mean", "round_to_codes", "snap"]

MEAN, SNAP = "/mean_in_order", "/on_grid"  # end the names of what is written here
TAPS = 16  # positions of a window that are worth a node each
# operators that move values or choose among them, and which inputs these are (None: all)
MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        ("Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather GatherElements GatherND Expand Tile Identity "
         "DepthToSpace SpaceToDepth ReverseSequence MaxPool ReduceMax ReduceMin").split(), (0,)),
    "Concat": None, "Pad": (0, 2), "Where": (1, 2),
}  # fmt: skip
ALONE = tuple(op for op, places in MOVES.items() if places == (0,))
Steps = list[tuple[str, Any]]  # operators one after the other, with the constant operand of each


@dataclass(frozen=True)
class Grid:
    """Values are integers times `scale`: one, or one per index of `axis`. integer: the runtime has them as 8-bit codes."""

    scale: np.ndarray
    axis: int = 0
    integer: bool = True


def grid_of(t: gs.Tensor, known: Mapping[str, Grid]) -> Grid | None:
    """The grid of a tensor; moving values on one grid leaves them on it."""
    grid = known.get(t.name)
    while grid is None and (node := producer(t)) is not None and node.op in ALONE:
        t = node.inputs[0]
        grid = known.get(t.name)
        if grid is not None and grid.scale.size > 1:
            return None
    return grid


def maker(x: gs.Tensor) -> tuple[Any, list[list[int]]]:
    """The node that makes x, behind Relu and Transpose, and how it was transposed since; None for graph inputs."""
    perms: list[list[int]] = []
    node = producer(x)
    while node is not None and (node.op == "Relu" or (node.op == "Transpose" and "perm" in node.attrs)):
        perms += [[int(p) for p in node.attrs["perm"]]] if node.op == "Transpose" else []
        node = producer(node.inputs[0])
    return node, perms[::-1]


def round_to_codes(x: gs.Tensor, scale: np.ndarray, zero: np.ndarray, known: Mapping[str, Grid]) -> Steps:
    """round(x / scale), as the kernel of the node that makes x rounds; zero: its zero point there.

    Of a sum of products it has the integer n: x is n · u up to float rounding, and n · (u / scale) is what is rounded.
    Products and means of windows are rounded after the zero point is added.
    """
    node, perms = maker(x)
    grids = [grid_of(t, known) for t in node.inputs if t.name] if node is not None and scale.size == 1 else []
    found = spacing(node, grids)
    steps: Steps = [("Div", scale), ("Round", None)]
    if found is not None:
        unit, count = found[0], np.float32(found[1])
        for perm in perms if unit.size > 1 else ():
            unit = unit.reshape([1] * (len(perm) - unit.ndim) + list(unit.shape)).transpose(perm)
        steps = [("Div", unit / count), ("Round", None), ("Mul", unit / (scale * count)), ("Round", None)]
    product = found is not None and node.op == "Mul"
    if zero.any() and (product or (node is not None and node.name.endswith(MEAN))):
        steps[-1:] = [("Add", zero), ("Round", None), ("Sub", zero)]
    return steps


def spacing(node: gs.Node, grids: Sequence[Grid | None]) -> tuple[np.ndarray, int] | None:
    """(u, n): results of the node are whole multiples of u / n, laid out against it, from the grids of its inputs."""
    found = [g for g in grids if g is not None and g.integer]
    if len(found) < len(grids) or not found or found[0].scale.size > 1:
        return None
    x = found[0].scale
    if node.op == "GlobalAveragePool":
        sizes = (node.inputs[0].shape or [None])[2:]
        return (x, int(np.prod(sizes))) if sizes and all(isinstance(d, int) for d in sizes) else None
    if node.op not in ("Conv", "Gemm", "MatMul", "Mul"):
        return None
    unit, rank = x * found[1].scale, len(node.inputs[1].shape)
    channels = {"Conv": 0, "Gemm": 0 if node.attrs.get("transB", 0) else 1}.get(node.op, rank - 1)
    if unit.size > 1 and (node.op == "Mul" or found[1].axis % rank != channels):
        return None
    if len(found) > 2 and not np.allclose(found[2].scale, unit, rtol=1e-5, atol=0):
        return None
    behind = rank - 2 if node.op == "Conv" else 0
    return unit.reshape(-1, *[1] * behind) if unit.size > 1 else unit.reshape(()), 1


def snap(graph: gs.Graph, node: gs.Node, scale: gs.Tensor, weight: Grid | None) -> None:
    """y := round((y − b) / u) · u + b, u = scale · weight scale: the sum of products of codes as the runtime has it.

    For a scale that is found at run time: what is quantised next would else round another way. One layer in groups.py.
    """
    found = spacing(node, [Grid(np.ones((), np.float32)), weight])
    if node.op not in ("Conv", "MatMul") or found is None:
        return
    out, base, rank = node.outputs[0], f"{node.name}{SNAP}", len(node.inputs[1].shape)
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None

    def op(kind: str, role: str, *inputs: gs.Tensor) -> gs.Tensor:
        y = gs.Variable(f"{base}/{role}", np.float32, out.shape if role in ("Sub", "Div", "Round", "Mul") else None)
        graph.nodes.append(gs.Node(kind, y.name, {}, list(inputs), [y]))
        return y

    unit = op("Mul", "unit", scale, gs.Constant(f"{base}/weight", np.asarray(found[0])))
    t = gs.Variable(f"{base}/sum", np.float32, out.shape)
    node.outputs = [t]
    if bias is not None:
        bias = op("Reshape", "bias", bias, gs.Constant(f"{base}/shape", np.asarray([-1, *[1] * (rank - 2)], np.int64)))
        t = op("Sub", "Sub", t, bias)
    t = op("Round", "Round", op("Div", "Div", t, unit))
    last = ("Mul", [t, unit]) if bias is None else ("Add", [op("Mul", "Mul", t, unit), bias])
    graph.nodes.append(gs.Node(last[0], base, {}, last[1], [out]))


def mean_in_order(graph: gs.Graph, node: gs.Node) -> None:
    """An AveragePool as slices added in the order of the window, so that halves between two codes fall as in the runtime.

    Left as it is where sizes are unknown or the window is large. `ordered_mean` finds it again.
    """
    x, attrs, out = node.inputs[0], node.attrs, node.outputs[0]
    kernel, sizes = list(attrs["kernel_shape"]), list(x.shape or [None])[2:]
    n = len(kernel)
    plain = not attrs.get("ceil_mode", 0) and all(d == 1 for d in attrs.get("dilations", ()))
    if not plain or np.prod(kernel) > TAPS or not all(isinstance(d, int) for d in sizes):
        return
    pads, strides = list(attrs.get("pads", [0] * 2 * n)), list(attrs.get("strides", [1] * n))
    outs = [(d + b + e - k) // s + 1 for d, b, e, k, s in zip(sizes, pads[:n], pads[n:], kernel, strides, strict=True)]
    border = float(attrs.get("count_include_pad", 0))
    inside = np.pad(np.ones(sizes, np.float32), list(zip(pads[:n], pads[n:], strict=True)), constant_values=border)
    base, count = f"{node.name}{MEAN}", np.zeros(outs, np.float32)

    def op(kind: str, role: str, *inputs: gs.Tensor) -> gs.Tensor:
        y = gs.Variable(f"{base}/{role}", np.float32, None if kind == "Pad" else out.shape)
        graph.nodes.append(gs.Node(kind, y.name, {}, list(inputs), [y]))
        return y

    def ints(role: str, values: Any) -> gs.Constant:
        return gs.Constant(f"{base}/{role}", np.asarray(values, np.int64))

    x = op("Pad", "padded", x, ints("pads", [0, 0, *pads[:n], 0, 0, *pads[n:]])) if any(pads) else x
    total, axes = None, ints("axes", range(2, n + 2))
    for i, first in enumerate(np.ndindex(*kernel)):
        ends = [f + s * (o - 1) + 1 for f, s, o in zip(first, strides, outs, strict=True)]
        part = op("Slice", f"slice_{i}", x, ints(f"from_{i}", first), ints(f"to_{i}", ends), axes, ints(f"by_{i}", strides))
        total = part if total is None else op("Add", f"sum_{i}", total, part)
        count += inside[tuple(slice(f, e, s) for f, e, s in zip(first, ends, strides, strict=True))]
    node.op, node.name = "Div", base
    node.attrs.clear()
    node.inputs = [total, gs.Constant(f"{base}/count", count)]


def ordered_mean(node: gs.Node) -> tuple[gs.Tensor, list[gs.Node], dict[str, Any]] | None:
    """(x, nodes, attributes) of the AveragePool of which `mean_in_order` made the node; None where it did not."""
    if node.op != "Div" or not node.name.endswith(MEAN):
        return None
    members, at = [node], 0
    while at < len(members):
        makers = [producer(t) for t in members[at].inputs]
        members += [m for m in makers if m is not None and m.name.startswith(f"{node.name}/") and m not in members]
        at += 1
    slices = [m for m in members if m.op == "Slice"]
    pad = next((m for m in members if m.op == "Pad"), None)
    kernel = [int(k) + 1 for k in np.max([m.inputs[1].values for m in slices], axis=0)]
    n = len(kernel)
    pads = [0] * 2 * n if pad is None else [int(p) for p in (*pad.inputs[1].values[2 : n + 2], *pad.inputs[1].values[n + 4 :])]
    whole = bool(np.all(node.inputs[1].values == np.prod(kernel)))
    attrs = {"kernel_shape": kernel, "strides": [int(s) for s in slices[0].inputs[4].values], "pads": pads,
             "count_include_pad": int(whole)}  # fmt: skip
    return (slices[0] if pad is None else pad).inputs[0], members, attrs
