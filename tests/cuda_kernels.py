"""Operators of the standard with a kernel in onnxruntime's CUDA provider: versions and types, from its OperatorKernels.md.

A kernel serves a node when the operator's schema in the node's opset began at a version that the kernel is registered
for: "13+" is 13 alone (newer schemas need a registration of their own), "[11, 21]" is a range.
"""

from __future__ import annotations

import onnx

_FLOATS = "float16 float double"
_MATHS = f"{_FLOATS} int32 int64 uint32 uint64"
_WHOLE = "int8 int16 int32 int64 uint8 uint16 uint32 uint64"
_ALL = f"{_FLOATS} bool {_WHOLE}"

# operator -> first and last version of schemas that its newest kernel for opset 18 takes, and types of its first input
KERNELS: dict[str, tuple[int, int, str]] = {
    "Abs": (13, 13, f"{_FLOATS} {_WHOLE}"),
    "Add": (14, 14, f"{_FLOATS} {_WHOLE}"),
    "And": (7, 7, "bool"),
    "ArgMax": (13, 13, _FLOATS),
    "ArgMin": (13, 13, _FLOATS),
    "AveragePool": (11, 18, _FLOATS),
    "BatchNormalization": (15, 15, _FLOATS),
    "Cast": (13, 18, _ALL),
    "Ceil": (13, 13, _FLOATS),
    "Clip": (13, 13, f"{_FLOATS} int8 int64 uint8 uint64"),
    "Compress": (11, 11, _ALL),
    "Concat": (13, 13, _ALL),
    "ConstantOfShape": (9, 9, "int64"),
    "Conv": (11, 21, _FLOATS),
    "ConvTranspose": (11, 11, _FLOATS),
    "Cos": (7, 7, _FLOATS),
    "CumSum": (14, 14, _MATHS),
    "DepthToSpace": (13, 13, _FLOATS),
    "Div": (14, 14, f"{_FLOATS} {_WHOLE}"),
    "Dropout": (13, 13, _FLOATS),
    "Einsum": (12, 12, _FLOATS),
    "Elu": (6, 6, _FLOATS),
    "Equal": (13, 13, f"bool {_MATHS}"),
    "Erf": (13, 13, _FLOATS),
    "Exp": (13, 13, _FLOATS),
    "Expand": (13, 13, _ALL),
    "EyeLike": (9, 9, "float double int32 int64 uint64"),
    "Flatten": (13, 13, _ALL),
    "Floor": (13, 13, _FLOATS),
    "GRU": (14, 14, _FLOATS),
    "Gather": (13, 13, _ALL),
    "GatherElements": (13, 13, _ALL),
    "GatherND": (13, 13, f"bool {_FLOATS} int64"),
    "Gemm": (13, 13, _FLOATS),
    "GlobalAveragePool": (1, 1, _FLOATS),
    "GlobalMaxPool": (1, 1, _FLOATS),
    "Greater": (13, 13, _MATHS),
    "GreaterOrEqual": (16, 16, _MATHS),
    "GridSample": (16, 19, "float"),
    "HardSigmoid": (6, 21, _FLOATS),
    "HardSwish": (14, 21, _FLOATS),
    "If": (13, 18, "bool"),
    "Identity": (14, 18, _ALL),
    "InstanceNormalization": (6, 6, _FLOATS),
    "IsInf": (10, 19, "float double"),
    "IsNaN": (13, 19, _FLOATS),
    "LRN": (13, 13, _FLOATS),
    "LSTM": (14, 14, _FLOATS),
    "LayerNormalization": (17, 17, _FLOATS),
    "LeakyRelu": (16, 16, _FLOATS),
    "Less": (13, 13, _MATHS),
    "LessOrEqual": (16, 16, _MATHS),
    "Log": (13, 13, _FLOATS),
    "LogSoftmax": (13, 13, _FLOATS),
    "Loop": (13, 18, f"int64 {_ALL}"),
    "MatMul": (13, 13, _FLOATS),
    "Max": (13, 13, _MATHS),
    "MaxPool": (12, 12, f"{_FLOATS} int8 uint8"),
    "Min": (13, 13, _MATHS),
    "Mod": (13, 13, _MATHS),
    "Mul": (14, 14, f"{_FLOATS} {_WHOLE}"),
    "Neg": (13, 13, f"{_FLOATS} int8 int16 int32 int64"),
    "NonZero": (13, 13, "bool float16 float int32 int64 uint8"),
    "Not": (1, 1, "bool"),
    "OneHot": (11, 11, "int32 int64"),
    "Or": (7, 7, "bool"),
    "PRelu": (16, 16, _FLOATS),
    "Pad": (18, 18, f"bool {_FLOATS}"),
    "Pow": (15, 15, f"{_FLOATS} int32 int64"),
    "RNN": (14, 14, _FLOATS),
    "Range": (11, 11, "float double int16 int32 int64"),
    "Reciprocal": (13, 13, _FLOATS),
    "ReduceL1": (18, 18, f"{_FLOATS} int32"),
    "ReduceL2": (18, 18, f"{_FLOATS} int32"),
    "ReduceLogSum": (18, 18, _FLOATS),
    "ReduceLogSumExp": (18, 18, _FLOATS),
    "ReduceMax": (18, 18, f"{_FLOATS} int32 int64"),
    "ReduceMean": (18, 18, f"{_FLOATS} int32"),
    "ReduceMin": (18, 18, f"{_FLOATS} int8 int32 int64 uint8"),
    "ReduceProd": (18, 18, f"{_FLOATS} int32"),
    "ReduceSum": (13, 13, f"{_FLOATS} int32 int64"),
    "ReduceSumSquare": (18, 18, _FLOATS),
    "Relu": (14, 14, _FLOATS),
    "Reshape": (14, 18, _ALL),
    "Resize": (18, 18, f"{_FLOATS} int32 uint8"),
    "ReverseSequence": (10, 10, _ALL),
    "RoiAlign": (10, 10, "float double"),
    "Round": (11, 11, _FLOATS),
    "Scan": (16, 18, _ALL),
    "ScatterElements": (18, 18, _ALL),
    "ScatterND": (18, 18, _ALL),
    "Selu": (6, 6, _FLOATS),
    "Shape": (15, 18, _ALL),
    "Shrink": (9, 9, f"{_FLOATS} {_WHOLE}"),
    "Sigmoid": (13, 13, _FLOATS),
    "Sign": (13, 13, f"{_FLOATS} {_WHOLE}"),
    "Sin": (7, 7, _FLOATS),
    "Size": (13, 13, _ALL),
    "Slice": (13, 13, _ALL),
    "Softmax": (13, 13, _FLOATS),
    "Softplus": (1, 1, _FLOATS),
    "Softsign": (1, 1, _FLOATS),
    "SpaceToDepth": (13, 13, _FLOATS),
    "Split": (18, 18, _ALL),
    "Sqrt": (13, 13, _FLOATS),
    "Squeeze": (13, 20, _ALL),
    "Sub": (14, 14, f"{_FLOATS} {_WHOLE}"),
    "Sum": (13, 13, _FLOATS),
    "Tanh": (13, 13, _FLOATS),
    "ThresholdedRelu": (10, 10, _FLOATS),
    "Tile": (13, 13, f"{_FLOATS} int32 int64"),
    "TopK": (11, 11, f"{_FLOATS} int32 int64"),
    "Transpose": (13, 20, _ALL),
    "Trilu": (14, 14, _ALL),
    "Unsqueeze": (13, 20, _ALL),
    "Where": (16, 16, f"{_FLOATS} int32 int64 uint8"),
    "Xor": (7, 7, "bool"),
}
# The type that decides is that of an input further on: Where's choice, OneHot's values.
DECIDING = {"Where": 1, "OneHot": 2}


def missing(op: str, dtype: str, opset: int = 18) -> str | None:
    """Why the CUDA provider has no kernel for an operator with this type; None where it has one."""
    if op not in KERNELS:
        return "no kernel"
    first, last, types = KERNELS[op]
    since = onnx.defs.get_schema(op, opset).since_version
    if not first <= since <= last:
        return f"no kernel for its version {since}"
    if op == "OneHot" and dtype not in ("float", "float16", "int64"):
        return f"no kernel for {dtype}"
    return None if op == "OneHot" or dtype in types.split() else f"no kernel for {dtype}"
