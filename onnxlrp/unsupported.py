"""Operators of the standard that have no reading on purpose, and why; what nothing flows through is `facts.INERT`."""

from __future__ import annotations

from typing import Any

import onnx

from .errors import UnsupportedOp

__all__ = ["UNSUPPORTED", "because", "check_opset"]

LOSS = "because a loss is no answer of a model: name its logits with output="
SEQUENCE = "because what its sequence holds is only known at run time"
UNSUPPORTED = {
    "ConcatFromSequence": SEQUENCE,
    "Det": "because a determinant is no sum over its entries, and the standard has no cofactors to share it by",
    "NegativeLogLikelihoodLoss": LOSS,
    "Optional": "because what it holds may be absent",
    "OptionalGetElement": "because what it holds may be absent",
    "SequenceAt": SEQUENCE,
    "SequenceConstruct": SEQUENCE,
    "SequenceEmpty": SEQUENCE,
    "SequenceErase": SEQUENCE,
    "SequenceInsert": SEQUENCE,
    "SequenceMap": "because it runs a graph for every element of a sequence: unroll it, or write it as a Loop",
    "SoftmaxCrossEntropyLoss": LOSS,
    "SplitToSequence": SEQUENCE,
}


def because(unit: Any) -> str | None:
    """Why an operator of the standard domain has no reading, 'because ...'; None when that is not on purpose."""
    return UNSUPPORTED.get(unit.op) if (unit.domain or "") in ("", "ai.onnx") else None


def check_opset(nodes: Any, opset: int) -> None:
    """Raises UnsupportedOp for an operator that is newer than the files that are written and was not written out."""
    for node in nodes:
        if (node.domain or "") in ("", "ai.onnx") and onnx.defs.has(node.op) and not onnx.defs.has(node.op, opset, ""):
            raise UnsupportedOp(
                f"node '{node.name}': operator {node.op} does not exist in opset {opset}, which is written; "
                "compute what it computes outside of the model"
            )
