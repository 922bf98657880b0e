"""Operators that small runtimes have, typed once from what their makers publish.

`WEBGPU`: docs/webgpu-operators.md of the npm package onnxruntime-web 1.30.0, standard domain: name and opset range. It is
the list of the provider behind `ort.all` and `ort`; the one behind `ort.webgpu` of the same release, probed with one node
per operator and type, has all of it and more. What both lack, measured by running them: the second output of MaxPool is an
error at run time in both, not a fallback; values of int64 and bool stay on the CPU for most operators.

`MOBILE`: mobile_package_op_type_support_1.17.md of onnxruntime's documentation. Those packages had opsets 12 to 15 and
ended with 1.18; today's Android and iOS packages have every operator. The names serve as the vocabulary of reduced builds.
"""

from __future__ import annotations

__all__ = ["MOBILE", "WEBGPU", "lacking"]

WEBGPU = """
    Abs:6+ Acos:7+ Acosh:9+ Add:7+ ArgMax:1+ ArgMin:1+ Asin:7+ Asinh:9+ Atan:7+ Atanh:9+ AveragePool:7+
    BatchNormalization:7+ Cast:6+ Ceil:6+ Clip:6+ Concat:1+ Conv:1+ ConvTranspose:1+ Cos:7+ Cosh:9+ CumSum:11+ DFT:17+
    DepthToSpace:11+ DequantizeLinear:10+ Div:7+ Einsum:12+ Elu:6+ Equal:7+ Erf:9+ Exp:6+ Expand:8+ Flatten:1+ Floor:6+
    Gather:1+ GatherElements:11+ GatherND:11+ Gelu:20+ Gemm:7+ GlobalAveragePool:1+ GlobalMaxPool:1+ Greater:7+
    GreaterOrEqual:12+ GridSample:16-19 HardSigmoid:6+ HardSwish:14+ If:1+ InstanceNormalization:6+
    LayerNormalization:1+ LeakyRelu:6+ Less:7+ LessOrEqual:12+ Log:6+ MatMul:1+ MaxPool:1+ Mul:7+ Neg:6+ Not:1+ Pad:2+
    Pow:7+ Range:11+ Reciprocal:6+ ReduceL1:1+ ReduceL2:1+ ReduceLogSum:1+ ReduceLogSumExp:1+ ReduceMax:1+ ReduceMean:1+
    ReduceMin:1+ ReduceProd:1+ ReduceSum:1+ ReduceSumSquare:1+ Relu:6+ Reshape:5+ Resize:10+ ScatterND:11+ Shape:1+
    Sigmoid:6+ Sin:7+ Sinh:9+ Slice:1+ Softmax:1+ Split:1+ Sqrt:6+ Squeeze:1+ Sub:7+ Tan:7+ Tanh:6+ ThresholdedRelu:10+
    Tile:6+ Transpose:1+ Unsqueeze:1+ Where:9+
"""
MOBILE = frozenset(
    """
    Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat ConstantOfShape Conv ConvTranspose Cos CumSum
    DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor Gather GatherND Gemm
    GlobalAveragePool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization LRN LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul MatMulInteger Max MaxPool Mean Min Mul Neg NonMaxSuppression
    NonZero Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum Relu Reshape Resize ReverseSequence Round Scan ScatterND Shape Sigmoid Sin Size Slice
    Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unique Unsqueeze Where
    """.split()
)


def _ranges(text: str) -> dict[str, tuple[int, int | None]]:
    """`Abs:6+ GridSample:16-19` to {name: (first opset, last opset)}; None: there is no last one."""
    found: dict[str, tuple[int, int | None]] = {}
    for entry in text.split():
        name, _, span = entry.partition(":")
        first, _, last = span.rstrip("+").partition("-")
        found[name] = (int(first), int(last) if last else None)
    return found


RANGES = _ranges(WEBGPU)


def lacking(op: str, opset: int, domain: str = "") -> tuple[str, ...]:
    """Which of "webgpu" and "mobile" have no kernel of this name for a file of this opset."""
    first, last = RANGES.get(op, (opset + 1, None))
    standard = domain in ("", "ai.onnx")
    web = standard and first <= opset and (last is None or opset <= last)
    return tuple(name for name, has in (("webgpu", web), ("mobile", standard and op in MOBILE)) if not has)
