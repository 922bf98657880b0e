"""portable=True: the compiled graph with operators that onnxruntime-web's WebGPU providers and reduced mobile builds have.

One pass over the finished graph (`to_portable`), and what is left that a runtime lacks (`gaps`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from ..order import live
from .operators import REPLACEMENTS
from .rewriter import Rewriter
from .runtimes import lacking

__all__ = ["Gap", "gaps", "to_portable"]

OURS = "lrp/"  # begins the names of nodes that the model did not have
BESIDE = {  # operators of ours that only come with one of the model's that WebGPU lacks too
    "Scan": ("LSTM", "GRU", "RNN"),
    "ReverseSequence": ("LSTM", "GRU", "RNN"),
}


@dataclass(frozen=True)
class Gap:
    """An operator that a runtime lacks, which then runs it on the CPU or refuses the file. nodes: how many, by whose."""

    op: str
    runtimes: tuple[str, ...]
    why: str
    model: int
    relevance: int

    def __str__(self) -> str:
        parts = [f"{n} of {whose}" for n, whose in ((self.model, "the model"), (self.relevance, "its relevance")) if n]
        return f"{self.op}: not on {' and '.join(self.runtimes)} ({self.why}); {', '.join(parts)}"


def to_portable(graph: gs.Graph) -> None:
    """Replace what small runtimes lack, in place, in the forward part too; names of inputs and outputs stay."""
    rewriter = Rewriter(graph)
    for node in list(graph.nodes):
        replace = REPLACEMENTS.get(node.op) if node.domain in ("", "ai.onnx", None) else None
        if replace is None or not replace(node, rewriter):
            rewriter.nodes.append(node)
            continue
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes[:] = live(rewriter.nodes, graph.outputs)


def gaps(model: onnx.ModelProto) -> list[Gap]:
    """What a compiled file has that a runtime lacks, operators in alphabetical order.

    model counts nodes of the forward part, and those of relevance of the same operator, which add nothing to it;
    relevance counts the others.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    found: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for node, names, why in _lacked(model.graph, opset, ()):
        found.setdefault((node.op_type, names, why), []).append(node.name)
    own = {n.op_type for n in model.graph.node if not n.name.startswith(OURS)}
    out = []
    for (op, names, why), nodes in sorted(found.items()):
        brought = op in own or any(o in own for o in BESIDE.get(op, ()))
        ours = 0 if brought else sum(name.startswith(OURS) for name in nodes)
        out.append(Gap(op, names, why, len(nodes) - ours, ours))
    return out


def _lacked(
    graph: onnx.GraphProto, opset: int, beyond: tuple[str, ...]
) -> Iterator[tuple[onnx.NodeProto, tuple[str, ...], str]]:
    """Nodes that runtimes lack, bodies included; beyond: those that run this body on the CPU as a whole."""
    for node in graph.node:
        missing, why = _missing(node, opset)
        if names := tuple(n for n in missing if n not in beyond):
            yield node, names, why
        for a in node.attribute:
            for body in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
                yield from _lacked(body, opset, (*beyond, *missing))


def _missing(node: onnx.NodeProto, opset: int) -> tuple[tuple[str, ...], str]:
    """Runtimes that lack a node, and why."""
    if names := lacking(node.op_type, opset, node.domain):
        return names, "no such operator"
    if node.op_type == "MaxPool" and len([o for o in node.output if o]) > 1:
        return ("webgpu",), "no second output"
    kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
    if node.op_type in ("Conv", "ConvTranspose") and len(kernel) > 2:
        return ("webgpu",), "windows of one or two axes only"
    return (), ""
