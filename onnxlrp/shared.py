"""Many relevances of one input through one forward pass: which networks allow it.

The backward part then has K rows where the forward pass has one, and every operator must broadcast the one. Those that lay
relevance out by positions within the whole batch would mix rows, so that only operators known to broadcast are taken.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .errors import CompositeError
from .facts import Facts
from .plan import Plan

__all__ = ["check_shared"]

BROADCAST = frozenset(
    "Conv ConvTranspose Gemm MatMul Add Sub Mul Div Sum Relu LeakyRelu PRelu Clip Elu Selu Celu Sigmoid HardSigmoid Tanh "
    "Softplus Softsign Erf Gelu HardSwish Mish Identity Cast Dropout BatchNormalization InstanceNormalization "
    "LayerNormalization GroupNormalization RMSNormalization MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean "
    "ReduceSum Flatten Reshape Transpose Squeeze Unsqueeze Concat Softmax".split()
)


def check_shared(graph: gs.Graph, plan: Plan, facts: Facts) -> None:
    """Raises CompositeError, naming the node, where a network cannot share one forward pass."""
    fixed = [t.name for t in graph.inputs if not t.shape or isinstance(t.shape[0], int)]
    if fixed:
        raise CompositeError(
            f"shared_forward: input '{fixed[0]}' needs a free batch axis; give input_shapes with a name for it"
        )
    for step in plan.steps:
        unit = step.unit
        if unit.op not in BROADCAST or facts.batch.get(unit.outputs[0].name) != 0:
            why = (
                "does not broadcast relevance over rows"
                if unit.op not in BROADCAST
                else "has an output whose first axis is not known to be the batch"
            )
            raise CompositeError(f"shared_forward: node '{unit.name}' ({unit.op}) {why}: leave shared_forward out")
