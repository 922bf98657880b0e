"""What the runtime writes into the standard domain, or opset 18 has for 8-bit codes only, moved to where it is read.

expansions/microsoft.py and expansions/quantized.py write it out from domain com.microsoft.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, numpy_helper

from .errors import UnsupportedOp
from .order import proto_levels

__all__ = ["claim_codes", "claim_norms", "widen_codes"]

DOMAIN = "com.microsoft"
NARROW = (TensorProto.INT4, TensorProto.UINT4)
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def _move(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """To the runtime's domain."""
    node.domain = DOMAIN
    if all(o.domain != DOMAIN for o in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=1)


def _claim(model: onnx.ModelProto, names: tuple[str, ...]) -> Iterator[onnx.NodeProto]:
    """Move nodes of the standard domain to the runtime's."""
    for node in (n for g in proto_levels(model.graph) for n in g.node if not n.domain and n.op_type in names):
        _move(model, node)
        yield node


def claim_norms(model: onnx.ModelProto) -> None:
    """LayerNormalization from before the standard had it, and SimplifiedLayerNormalization: the converter knows neither."""
    early = any(o.domain == "" and o.version < 17 for o in model.opset_import)
    list(_claim(model, ("SimplifiedLayerNormalization", *(["LayerNormalization"] if early else []))))


def claim_codes(model: onnx.ModelProto) -> None:
    """QuantizeLinear and DequantizeLinear of newer opsets: blocks, 16 and 4 bits. Raises UnsupportedOp for floats as codes."""
    kinds = {t.name: t.data_type for g in proto_levels(model.graph) for t in g.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    for node in _claim(model, QUANTIZERS):
        codes = [kinds.get(name, 0) for name in (*node.input[:1], *node.input[2:], *node.output)]
        given = [a.i for a in node.attribute if a.name == "output_dtype"]
        for kind in (TensorProto.DataType.Name(k) for k in (*codes, *given)):
            if kind.startswith(("FLOAT8", "FLOAT4")):
                raise UnsupportedOp(
                    f"node '{node.name}' ({node.op_type}): its codes are {kind}, which opset 18 does not have; "
                    "bring the model in float or with 8-bit integers"
                )


def widen_codes(model: onnx.ModelProto, folder: str) -> onnx.ModelProto:
    """A copy with 4-bit integers as int8, where there are any; what quantises to them says so in `output_dtype`."""
    narrow = {t.name: t.data_type for t in model.graph.initializer if t.data_type in NARROW}
    inside = [n for n in model.graph.node if n.op_type == "Constant" and n.attribute and n.attribute[0].t.data_type in NARROW]
    if not narrow and not inside:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    narrow |= {n.output[0]: n.attribute[0].t.data_type for n in inside}
    values = [n.attribute[0].t for n in copy.graph.node if n.op_type == "Constant" and n.output[0] in narrow]
    for t in [*(t for t in copy.graph.initializer if t.name in narrow), *values]:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t, folder).astype("int8"), t.name))
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in narrow:
            kept = [a for a in node.attribute if a.name != "output_dtype"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("output_dtype", narrow[node.input[2]])])
            _move(copy, node)
    return copy
