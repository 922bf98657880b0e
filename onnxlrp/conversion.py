"""What onnx's version converter gets wrong around subgraphs: names that hide others, and the Scan of opset 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from .errors import UnsupportedOp
from .order import proto_levels

__all__ = ["check_scans", "restore_batch", "unshadow"]


def unshadow(graph: onnx.GraphProto, scopes: Sequence[set[str]] = ()) -> None:
    """The converter numbers its constants anew in every subgraph; names that hide one from outside get another, in place."""
    own = {v.name for v in (*graph.input, *graph.initializer)} | {name for n in graph.node for name in n.output if name}
    hidden = {name: f"{name}/{len(scopes)}" for name in own if any(name in s for s in scopes)}
    if hidden:
        _rename(graph, hidden)
    for body in _bodies(graph):
        unshadow(body, [*scopes, own])


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        v.name = names.get(v.name, v.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for body in _bodies(graph):
        made = {v.name for v in (*body.input, *body.initializer)} | {name for n in body.node for name in n.output}
        _rename(body, {old: new for old, new in names.items() if old not in made})


def _bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]


def check_scans(model: onnx.ModelProto) -> bool:
    """Whether there is such a Scan. Raises UnsupportedOp for sequence lengths, which opset 9 lacks."""
    scans = [n for g in proto_levels(model.graph) for n in g.node if n.op_type == "Scan" and n.domain == ""]
    for node in scans:
        if node.input[0]:
            name = node.name or node.output[0]
            raise UnsupportedOp(f"node '{name}' (Scan): sequence lengths of opset 8 are not read; export with opset 9 or newer")
    return bool(scans)


def restore_batch(converted: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Scan ran over every item of a batch: a Scan over the batch around that of opset 9, which lacks this axis; in place.

    The converter leaves the axis out, of the model's inputs and outputs, too.
    """
    types = {v.name: v.type for v in (*original.graph.input, *original.graph.output)}
    for face in (*converted.graph.input, *converted.graph.output):
        face.type.CopyFrom(types[face.name])
    for graph in list(proto_levels(converted.graph)):
        del graph.value_info[:]
        for node in graph.node:
            if node.op_type == "Scan" and node.domain == "":
                _over_batch(node)


def _over_batch(node: onnx.NodeProto) -> None:
    """Scan(states …, sequences …) becomes Scan(all of them, body = the same Scan of one item of the batch), in place."""
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    body = next(a.g for a in node.attribute if a.name == "body")
    count = len(node.input)
    base = node.name or node.output[0]
    inner.name = f"{base}/item"
    inner.input[:] = [f"{base}/item/{i}" for i in range(count)]
    inner.output[:] = [f"{base}/item/{count + i}" for i in range(len(node.output))]
    kinds = [v.type.tensor_type.elem_type for v in (*body.input, *body.output)]
    faces = [
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip([*inner.input, *inner.output], kinds, strict=True)
    ]
    item = onnx.helper.make_graph([inner], f"{base}/item", faces[:count], faces[count:])
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("body", item))
    node.attribute.append(onnx.helper.make_attribute("num_scan_inputs", count))
