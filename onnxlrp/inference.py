"""Shapes of all tensors, as far as onnx's inference finds them."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from .weights import skeleton

__all__ = ["infer_shapes", "types_and_shapes"]


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
    _rename_invented(bare, model)
    known = {v.name for v in bare.graph.value_info}
    bare.graph.value_info.extend(v for name, v in recorded.items() if name not in known)
    for found, declared in zip(bare.graph.output, model.graph.output, strict=True):
        told = not declared.type.HasField("tensor_type") or declared.type.tensor_type.HasField("shape")
        if told and not _contradicts(found.type.tensor_type, declared.type.tensor_type):
            found.CopyFrom(declared)
    return bare


def types_and_shapes(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    """Element type of every tensor, as in TensorProto, and sizes of those whose rank is known, None where they are not."""
    graph = infer_shapes(model).graph
    types = {t.name: int(t.data_type) for t in graph.initializer}
    shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for v in (*graph.input, *graph.output, *graph.value_info):
        kind = v.type.tensor_type
        types[v.name] = int(kind.elem_type)
        if kind.HasField("shape"):
            shapes[v.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return types, shapes


INVENTED = "unk__"  # begins the names that inference gives to sizes it does not know, counting from 0 in every run


def _rename_invented(found: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Number the sizes that were invented just now behind those that the model has already: equal names are equal sizes."""
    given = {d.dim_param for v in found.graph.input for d in v.type.tensor_type.shape.dim}
    faces = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    old = {d.dim_param for v in faces for d in v.type.tensor_type.shape.dim if d.dim_param.startswith(INVENTED)}
    first = 1 + max((int(n) for name in old if (n := name[len(INVENTED) :]).isdigit()), default=-1)
    new: dict[str, str] = {}
    for v in (*found.graph.value_info, *found.graph.output):
        for d in v.type.tensor_type.shape.dim:
            if d.dim_param.startswith(INVENTED) and d.dim_param not in given:
                d.dim_param = new.setdefault(d.dim_param, f"{INVENTED}{first + len(new)}")


def _contradicts(found: onnx.TypeProto.Tensor, declared: onnx.TypeProto.Tensor) -> bool:
    """Whether an inferred shape shows that the declared one is wrong."""
    if not (found.HasField("shape") and declared.HasField("shape")):
        return False
    a, b = ([d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim] for t in (found, declared))
    return len(a) != len(b) or any(None not in (i, k) and i != k for i, k in zip(a, b, strict=True))
