"""What is wrong with a file, in one line: versions, dangling names, missing types, shapes that cannot be."""

from __future__ import annotations

import re

import onnx
import onnxruntime as ort
from onnx import shape_inference

from .errors import InvalidModel
from .order import reads

__all__ = ["check_inference", "check_names", "check_version", "one_line"]

OLDEST = 7  # the first opset that is read; older files rarely say what modern operators need to know


def one_line(error: Exception) -> str:
    """First line of a foreign error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def check_version(model: onnx.ModelProto) -> None:
    """Raises InvalidModel for an opset that the installed onnx package does not know, or that is too old."""
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or OLDEST <= opset.version <= newest:
            continue
        if opset.version < OLDEST:
            hint = f"opsets {OLDEST} to {newest} are read: export it again, or convert it with onnx.version_converter"
        else:
            hint = f"this version of the onnx package knows opsets up to {newest}: update onnx"
        raise InvalidModel(f"the model declares opset {opset.version}; {hint}")


def check_names(model: onnx.ModelProto) -> None:
    """Raises InvalidModel for a tensor that is read but given by nobody, or an input without a type."""
    graph = model.graph
    for face in graph.input:
        if face.type.HasField("tensor_type") and not face.type.tensor_type.elem_type:
            raise InvalidModel(f"input '{face.name}' has no element type; declare it (float, int64, ...)")
    known = {t.name for t in (*graph.input, *graph.initializer)} | {t.values.name for t in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in reads(node):
            if name and name not in known:
                raise InvalidModel(
                    f"node '{node.name or node.output[0]}' ({node.op_type}) reads '{name}', which no input, "
                    "initializer or node of the file provides"
                )
    for out in graph.output:
        if out.name not in known:
            raise InvalidModel(f"output '{out.name}' is computed by no node of the file")


def check_inference(light: onnx.ModelProto) -> None:
    """Raises InvalidModel where types and shapes contradict each other.

    light: a model without its large weights. Strict inference also rejects some files that run (exporters record odd
    shapes), so that onnxruntime is asked before a file is refused.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(light)
    del bare.graph.value_info[:]
    try:
        shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except Exception:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            ort.InferenceSession(bare.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            said = one_line(error)
            if any(known in said for known in ("InferenceError]", "Type Error", "Type (tensor", "Typestr")):
                said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Type Error: ", "", said)
                raise InvalidModel(f"onnxruntime refuses the model: {said}") from error
