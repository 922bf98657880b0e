"""Shapes of all tensors, as far as onnx's inference finds them."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from .weights import skeleton

__all__ = ["infer_shapes"]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes of all tensors where inference knows them; a failure is no error (runs need no shapes, readings ask for ranks).

    The result is a skeleton. What the file records is used only where inference finds nothing: some exporters are wrong.
    """
    recorded = {v.name: v for v in model.graph.value_info}
    bare = skeleton(model)
    del bare.graph.value_info[:]
    made = {name for node in bare.graph.node for name in node.output}
    for output in bare.graph.output:
        if output.type.HasField("tensor_type") and output.name in made:
            output.type.tensor_type.ClearField("shape")
    try:
        bare = shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:
        return skeleton(model)
    known = {v.name for v in bare.graph.value_info}
    bare.graph.value_info.extend(v for name, v in recorded.items() if name not in known)
    for found, declared in zip(bare.graph.output, model.graph.output, strict=True):
        told = not declared.type.HasField("tensor_type") or declared.type.tensor_type.HasField("shape")
        if told and not _contradicts(found.type.tensor_type, declared.type.tensor_type):
            found.CopyFrom(declared)
    return bare


def _contradicts(found: onnx.TypeProto.Tensor, declared: onnx.TypeProto.Tensor) -> bool:
    """Whether an inferred shape shows that the declared one is wrong."""
    if not (found.HasField("shape") and declared.HasField("shape")):
        return False
    a, b = ([d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim] for t in (found, declared))
    return len(a) != len(b) or any(None not in (i, k) and i != k for i, k in zip(a, b, strict=True))
