"""Peepholes on the backward graph, equal up to rounding. Speed lives here, behind guards that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_graphsurgeon as gs
import onnxruntime as ort

from .opsets import OPSET
from .order import captured, depends, live
from .peepholes.convolutions import box_filter, flip, join, split_forward, symmetric
from .peepholes.scope import Scope
from .peepholes.sums import epsilon_in_bias, factor, narrow, one_batch, scaled, sign_free, unexpanded
from .tensor import Shape
from .weights import fill

__all__ = ["bake_constants", "speed_up"]

# (operator, rewrite): in this order, each over the whole graph. Behind a row: what an explanation takes without it, times what
# it takes with it (two CPU cores, 224 x 224, batch 1).
PEEPHOLES: list[tuple[str, Callable[[gs.Node, Scope], None]]] = [
    ("Sub", narrow),  # 1.29: MLP, ZBox; 1.01: ResNet-50
    ("Mul", scaled),  # 1.05: MobileNetV2, 1.01: VGG-16, AlphaBeta
    ("Add", factor),  # 1.03: MobileNetV2, AlphaBeta; 1.01: ResNet-50, Epsilon
    ("Sub", factor),
    ("Div", sign_free),  # 1.07: ResNet-50, Epsilon
    ("ConvTranspose", box_filter),  # 1.02: ResNet-50, Flat first
    ("Conv", one_batch),  # 1.02: ResNet-50, Flat first
    ("Gemm", one_batch),
    *((op, unexpanded) for op in ("Add", "Sub", "Mul", "Div")),  # 1.01: VGG-16, ZBox first
    ("Conv", split_forward),  # 1.20: VGG-16, 1.16: ResNet-50, AlphaBeta
    ("Add", join),  # 1.05: MobileNetV2, 1.01: U-Net, ZPlus
    ("Add", epsilon_in_bias),  # 1.08: DenseNet-121, 1.01: ResNet-50, ZPlus
    ("ConvTranspose", flip),  # 1.13: VGG-16, 1.31: MobileNetV2, Epsilon
    ("Conv", symmetric),
    ("ConvTranspose", symmetric),
]


def speed_up(graph: gs.Graph, shapes: Mapping[str, Shape]) -> None:
    """Apply the table to the backward part, in place. shapes: of the tensors, as far as they are known."""
    scope = Scope(graph, shapes)
    for op, rewrite in PEEPHOLES:
        for node in list(graph.nodes):
            if node.op == op and node.name.startswith("lrp/"):
                rewrite(node, scope)
        scope.refresh()


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
