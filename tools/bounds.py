"""Work of an explanation, in forwards: Σ MACs × evaluations(rule) ÷ Σ MACs, the model's own forward included.

An evaluation is one pass through a layer's linear map, or through its adjoint. Element-wise work is not counted.
"""

from __future__ import annotations

import math

import onnx
import onnx_graphsurgeon as gs

from onnxlrp import presets
from onnxlrp.compile import prepare
from onnxlrp.linear import Kind
from onnxlrp.outputs import Request, forward
from onnxlrp.plan import Step
from onnxlrp.rules import AlphaBeta, Epsilon, Flat, Gamma, GeneralizedGamma, Rule, WSquare, ZBox, Zero, ZPlus

__all__ = ["bound", "evaluations", "macs"]

COUNTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
PRODUCT = 3  # A B, and an adjoint for each of the two operands


def evaluations(rule: Rule, nonneg: bool, rectified: bool) -> int:
    """Evaluations that a rule needs. nonneg: x >= 0. rectified: a ReLU follows, so that r = 0 wherever z <= 0.

    1 for the model's own z, then one each for a share's z and its adjoint, per sign of x that it tells apart.
    """
    signs = 1 if nonneg else 2
    match rule:
        case Zero() | Epsilon():
            return 2  # z is the model's own
        case Gamma():
            return 3
        case ZPlus() | AlphaBeta(beta=0):
            return 1 + 2 * signs
        case AlphaBeta():
            return 4 * signs  # z⁻ = z − z⁺ for x >= 0; otherwise z = z⁺ + z⁻ is free
        case GeneralizedGamma():
            return 1 + 2 * signs * (1 if rectified else 2)
        case ZBox():
            return 3  # l w⁺ + h w⁻ is the same for every input; w = w⁺ + w⁻ leaves two adjoints
        case Flat():
            return 1  # Σ 1 is a constant and its adjoint a box filter
        case WSquare():
            return 2
    raise ValueError(f"the work of rule {rule!r} is not known")


def size(t: gs.Tensor) -> int:
    """Elements per sample; an axis of unknown size counts once."""
    return math.prod(d if isinstance(d, int) else 1 for d in t.shape)


def macs(node: gs.Node) -> int:
    """Multiply-adds per sample of Conv, ConvTranspose, Gemm or MatMul."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if node.op == "Conv":
        return size(y) * math.prod(w.shape[1:])
    if node.op == "ConvTranspose":
        return size(x) * math.prod(w.shape[1:])
    inner = x.shape[0 if node.op == "Gemm" and node.attrs.get("transA") else -1]
    return size(y) * int(inner)


def is_rectifier(node: gs.Node) -> bool:
    """Relu, or Clip from 0."""
    low = node.inputs[1] if node.op == "Clip" and len(node.inputs) > 1 else None
    return node.op == "Relu" or (isinstance(low, gs.Constant) and low.values == 0)


def bound(model: onnx.ModelProto, composite: str) -> float:
    """The least work of a preset on a model, in forwards."""
    source, facts, plan = prepare(model, presets.parse(composite), Request(), None, None, [], True, None, None)
    tensors = forward(source, facts).tensors
    ends = {t.name for t in source.graph.outputs}

    def needed(step: Step) -> int:
        if step.kind is Kind.PRODUCT:
            return PRODUCT
        x = next(t for t in step.unit.inputs if t.name in facts.active)
        y = step.unit.outputs[0]
        rectified = y.name not in ends and bool(y.outputs) and all(is_rectifier(n) for n in y.outputs)
        return evaluations(step.rule, tensors[x.name].nonneg, rectified)

    passed = {st.unit.name: needed(st) for st in plan.steps if st.unit.op in COUNTED}
    work = {n.name: macs(n) for n in source.graph.nodes if n.op in COUNTED}
    return sum(work[n] * passed.get(n, 1) for n in work) / sum(work.values())
