"""Opsets: everything is brought to OPSET, up by onnx's converter, down by lowering the declared opset.

Newer operators are written out later (expansions/); here are the attributes and inputs that an opset renamed, and what
shape inference gets wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from .conversion import check_scans, restore_batch, unshadow
from .dialect import claim_codes
from .errors import InvalidModel, UnsupportedOp
from .inference import infer_shapes
from .order import proto_levels
from .validity import one_line

__all__ = ["OPSET", "spell_one_sided", "to_opset", "write_out_ceil_mode"]

OPSET = 18
SAMPLING = {b"linear": b"bilinear", b"cubic": b"bicubic"}  # mode of GridSample


def to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Up with the converter, down by lowering the declared opset (the converter does not go down)."""
    versions = {("" if o.domain == "ai.onnx" else o.domain): o for o in model.opset_import}
    opset = versions.get("")
    if opset is None:
        model.opset_import.add(domain="", version=OPSET)
        return model
    if opset.version < OPSET:
        batched = opset.version < 9 and check_scans(model)
        try:
            converted = version_converter.convert_version(model, OPSET)
        except Exception as error:
            text = f"opset {opset.version} could not be brought to opset {OPSET}: {one_line(error).split('failed: ')[-1]}"
            raise InvalidModel(text) from error
        for graph in proto_levels(converted.graph) if opset.version < 11 else ():
            _old_resize(graph)
        if batched:
            restore_batch(converted, model)
        unshadow(converted.graph)
        return converted
    if opset.version > OPSET:
        model = infer_shapes(model)  # while newer operators are still known
        claim_codes(model)
        opset = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
        version, opset.version = opset.version, OPSET
        for graph in proto_levels(model.graph):
            if version >= 20:
                _rename_from_20(graph)
            for node in graph.node:
                _lower(node)
    return model


def _old_resize(graph: onnx.GraphProto) -> None:
    """Upsample, and Resize before opset 11, read position i / scale; the converter forgets to say so."""
    for node in graph.node:
        known = {a.name for a in node.attribute}
        for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            if node.op_type == "Resize" and name not in known:
                node.attribute.append(onnx.helper.make_attribute(name, value))


def write_out_ceil_mode(graph: onnx.GraphProto) -> None:
    """ceil_mode=1 with padding p at the end is ceil_mode=0 with min(p + stride - 1, kernel - 1), where padding counts nothing.

    Shape inference counts windows that would start behind the last value; the standard and the runtime leave them out.
    Padding that an AveragePool counts becomes a Pad, so that what is left counts nothing.
    """
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        attrs = {a.name: a for a in node.attribute}
        values = {name: onnx.helper.get_attribute_value(a) for name, a in attrs.items()}
        known = values.get("auto_pad", b"NOTSET") == b"NOTSET" and all(d == 1 for d in values.get("dilations", []))
        if node.op_type in ("MaxPool", "AveragePool") and values.get("ceil_mode") and known:
            kernel = values["kernel_shape"]
            n = len(kernel)
            pads, strides = values.get("pads", [0] * 2 * n), values.get("strides", [1] * n)
            begin, end = pads[:n], [min(p + s - 1, k - 1) for p, s, k in zip(pads[n:], strides, kernel, strict=True)]
            if values.get("count_include_pad") and any(pads):
                counted = [min(p, e) for p, e in zip(pads[n:], end, strict=True)]
                nodes += _padded(node, [0, 0, *begin, 0, 0, *counted])
                begin, end = [0] * n, [e - p for e, p in zip(end, counted, strict=True)]
            for name in {"ceil_mode", "pads", "count_include_pad"} & attrs.keys():
                node.attribute.remove(attrs[name])
            node.attribute.append(onnx.helper.make_attribute("pads", [*begin, *end]))
        nodes.append(node)
    if len(nodes) > len(graph.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _padded(node: onnx.NodeProto, pads: list[int]) -> list[onnx.NodeProto]:
    """Nodes that pad the node's input with zeros, which the node reads afterwards."""
    base = f"{node.output[0]}/counted_padding"
    value = onnx.numpy_helper.from_array(np.asarray(pads, np.int64), f"{base}/pads")
    made = [
        onnx.helper.make_node("Constant", [], [f"{base}/pads"], f"{base}/pads", value=value),
        onnx.helper.make_node("Pad", [node.input[0], f"{base}/pads"], [base], base, mode="constant"),
    ]
    node.input[0] = base
    return made


def _lower(node: onnx.NodeProto) -> None:
    """Drop attributes that opset 18 does not know where they hold a value that changes nothing there."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, ""):
        return
    try:
        known = onnx.defs.get_schema(node.op_type, OPSET).attributes
    except onnx.defs.SchemaError:
        return  # newer operator: expanded or refused by name later
    for attribute in [a for a in node.attribute if a.name not in known]:
        harmless = {"saturate": True, "keep_aspect_ratio_policy": attribute.s == b"stretch"}
        one = attribute.name == "dilations" and all(d == 1 for d in attribute.ints)
        if not (harmless.get(attribute.name) or one or node.op_type == "Cast"):
            name = node.name or node.output[0]
            raise UnsupportedOp(f"node '{name}' ({node.op_type}): attribute {attribute.name} does not exist in opset {OPSET}")
        node.attribute.remove(attribute)


def spell_one_sided(graph: onnx.GraphProto) -> None:
    """STFT is one-sided by default, but shape inference takes a missing attribute for 0."""
    for node in graph.node:
        if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("onesided", 1))


def _rename_from_20(graph: onnx.GraphProto) -> None:
    """The modes of GridSample, and the axis of DFT, which became an input with another default."""
    known = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    known |= {n.output[0]: _constant(n) for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        for mode in (a for a in node.attribute if node.op_type == "GridSample" and a.name == "mode"):
            mode.s = SAMPLING.get(mode.s, mode.s)
        if node.op_type == "DFT":
            given = node.input[2] if len(node.input) > 2 else ""
            if given and known.get(given) is None:
                raise UnsupportedOp(f"node '{node.name}' (DFT): its axis '{given}' is computed at run time; make it a constant")
            axis = int(known[given].ravel()[0]) if given else -2
            del node.input[2:]
            node.attribute.append(onnx.helper.make_attribute("axis", axis))


def _constant(node: onnx.NodeProto) -> Any:
    """Value of a Constant node of numbers, else None."""
    value = onnx.helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if node.attribute[0].name in ("value_int", "value_ints") else None
