"""Models with randomised weights, from the top layer down: a map that does not change does not explain the model.

Sanity checks of Adebayo et al. 2018. Random is a permutation of each tensor's values, which keeps their distribution (and
the sign of variances, the range of codes).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from .errors import InputError

__all__ = ["randomized", "weighted"]

WEIGHTED = (
    "Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
)  # fmt: skip
CARRIED = ("Identity", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze", "DequantizeLinear", "QuantizeLinear")


def weighted(graph: onnx.GraphProto) -> list[tuple[str, list[str]]]:
    """(node, names of its weights) from the top layer to the bottom one; a weight that two nodes use is the upper's.

    Constants of more than one value that reach an operator of WEIGHTED itself or by way of CARRIED; biases that a
    node of their own adds, and weights in the bodies of If, Loop and Scan, stay.
    """
    constants = {name for name, t in _tensors(graph).items() if int(np.prod(t.dims)) > 1}
    carried = {n.output[0]: n.input[0] for n in graph.node if n.op_type in CARRIED}
    found, seen = [], set[str]()
    for node in reversed(graph.node):
        if node.op_type not in WEIGHTED:
            continue
        names = []
        for name in node.input:
            while name in carried:
                name = carried[name]
            if name in constants and name not in seen:
                seen.add(name)
                names.append(name)
        if names:
            found.append((node.name or node.output[0], names))
    return found


def randomized(model: onnx.ModelProto, by_layer: bool, rng: np.random.Generator) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(lowest randomised layer, model): with one more layer each time, or with all at once. The model itself is changed.

    Raises InputError for a model without weights.
    """
    layers = weighted(model.graph)
    if not layers:
        raise InputError("randomize: the model has no weights that could be randomised; leave it out (--randomize none)")
    at = _tensors(model.graph)
    for index, (layer, names) in enumerate(layers):
        for name in names:
            values = numpy_helper.to_array(at[name])
            at[name].CopyFrom(numpy_helper.from_array(rng.permutation(values.ravel()).reshape(values.shape), name))
        if by_layer or index == len(layers) - 1:
            yield layer, model


def _tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers, and the values of Constant nodes."""
    found = {t.name: t for t in graph.initializer}
    for node in (n for n in graph.node if n.op_type == "Constant"):
        for a in (a for a in node.attribute if a.name == "value"):
            found[node.output[0]] = a.t
    return found
