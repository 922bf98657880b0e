"""Peepholes on the backward graph, equal up to rounding. Speed lives here, behind guards that were measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from .constants import producer
from .opsets import OPSET
from .order import captured, depends, live
from .weights import fill

__all__ = ["bake_constants", "speed_up"]

# A stride-1 adjoint as a Conv uses the runtime's blocked layout: 1.2 to 2.4 times as fast where it has output channels
# to block, slower where it has few (3 channels: 0.6 times).
WIDE = 16


class Constants(dict[tuple[int, ...], gs.Constant]):
    """int64 vectors, one per value: tensors of one name must be one tensor."""

    def __missing__(self, values: tuple[int, ...]) -> gs.Constant:
        name = f"lrp/flip/{'_'.join(map(str, values))}"
        self[values] = gs.Constant(name, np.asarray(values, np.int64))
        return self[values]


def speed_up(graph: gs.Graph) -> None:
    """Apply every row of the table to every node of the backward part, in place."""
    nodes: list[gs.Node] = []
    constants = Constants()
    for node in graph.nodes:
        for op, replace in PEEPHOLES:
            if node.op == op and node.name.startswith("lrp/"):
                nodes += replace(node, constants)
        nodes.append(node)
    graph.nodes[:] = nodes


def flip(node: gs.Node, constants: Constants) -> list[gs.Node]:
    """ConvTranspose(s, w), stride 1  =  Conv(s, w with channels swapped and taps reversed), pads := extent - 1 - pads.

    Returns the nodes that make the flipped weight; none when the guard says no.
    """
    attrs, w = node.attrs, node.inputs[1]
    shape = constant_shape(w)
    if shape is None or shape[1] < WIDE or attrs["group"] != 1 or any(s != 1 for s in attrs["strides"]):
        return []
    kernel, twice = attrs["kernel_shape"], attrs["dilations"] * 2
    mirrored = [(k - 1) * d - p for k, d, p in zip(kernel * 2, twice, attrs["pads"], strict=True)]
    if min(mirrored) < 0:
        return []
    n, new = len(kernel), []
    if any(k > 1 for k in kernel):
        turned = gs.Variable(f"{node.name}/reversed")
        back, end, axes = (-1,) * n, (int(np.iinfo(np.int32).min),) * n, tuple(range(2, n + 2))
        new.append(gs.Node("Slice", turned.name, {}, [w, *(constants[v] for v in (back, end, axes, back))], [turned]))
        w = turned
    swapped = gs.Variable(f"{node.name}/swapped")
    new.append(gs.Node("Transpose", swapped.name, {"perm": [1, 0, *range(2, n + 2)]}, [w], [swapped]))
    node.op, node.inputs = "Conv", [node.inputs[0], swapped]
    node.attrs["pads"] = mirrored
    return new


def constant_shape(t: gs.Tensor) -> list[int] | None:
    """Shape of a weight that element-wise operators made of a constant."""
    while not isinstance(t, gs.Constant):
        node = producer(t)
        if node is None or node.op not in ("Relu", "Min", "Mul", "Add", "Sub", "Cast", "Identity"):
            return None
        sources = [x for x in node.inputs if not (isinstance(x, gs.Constant) and math.prod(x.shape) == 1)]
        if not sources:
            return None
        t = max(sources, key=lambda x: len(constant_shape(x) or ()))
    return list(t.shape) if len(t.shape) > 2 else None


PEEPHOLES: list[tuple[str, Callable[[gs.Node, Constants], list[gs.Node]]]] = [
    ("ConvTranspose", flip),
]


def bake_constants(graph: gs.Graph) -> None:
    """Store what depends on constants only, for runtimes that do not fold it when they load the file."""
    known = {t.name for n in graph.nodes for t in n.inputs if isinstance(t, gs.Constant)} - {t.name for t in graph.inputs}
    inside: list[gs.Node] = []
    for node in graph.nodes:
        if node.inputs and all(name in known for name in depends(node)):
            known |= {t.name for t in node.outputs}
            inside.append(node)
    members = {id(n) for n in inside}
    outputs = {o.name for o in graph.outputs} | {name for n in graph.nodes for name in captured(n)}
    wanted: list[Any] = [
        t for n in inside for t in n.outputs if t.name in outputs or any(id(c) not in members for c in t.outputs)
    ]
    if not wanted:
        return
    part = gs.export_onnx(gs.Graph(inside, [], wanted, opset=OPSET), do_type_check=False)
    part.ir_version = 8
    fill(part, graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    values = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {})
    for t, value in zip(wanted, values, strict=True):
        stored = gs.Constant(f"{t.name}/baked", value)
        for user in list(t.outputs):
            if id(user) not in members:
                user.inputs = [stored if x is t else x for x in user.inputs]
    graph.nodes[:] = live(graph.nodes, graph.outputs)
