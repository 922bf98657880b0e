"""Standard operators that opset 18 lacks, in those it has."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .writer import Writer, expansion


@expansion("CastLike")
def cast_like(w: Writer) -> gs.Tensor | None:
    """Cast: the second operand only names a type."""
    kind = w.need(1).dtype
    if kind is None:
        return None
    to = kind if isinstance(kind, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return w("Cast", w.need(0), dtype=kind, to=int(to))


@expansion("MeanVarianceNormalization")
def mean_variance_normalization(w: Writer) -> None:
    """Stays, but its default axes are spelled out: shape inference fails on them."""
    w.node.attrs.setdefault("axes", [0, 2, 3])
    w.node.outputs[0].shape = w.need(0).shape


@expansion("Gelu")
def gelu(w: Writer) -> gs.Tensor:
    """½ x (1 + erf(x/√2)), or with tanh.   Gelu, opset 20."""
    x = w.need(0)
    if w.attr("approximate", "none") == "tanh":
        cubic = w("Add", x, w("Mul", w("Mul", w("Mul", x, x), x), 0.044715))
        inner = w("Tanh", w("Mul", cubic, math.sqrt(2 / math.pi)))
    else:
        inner = w("Erf", w("Mul", x, 1 / math.sqrt(2)))
    return w("Mul", w("Mul", x, w("Add", inner, 1.0)), 0.5)


@expansion("Swish")
def swish(w: Writer) -> gs.Tensor:
    """x · sigmoid(α x).   Swish, opset 24."""
    x, alpha = w.need(0), float(w.attr("alpha", 1.0))
    return w("Mul", x, w("Sigmoid", x if alpha == 1 else w("Mul", x, alpha)))


@expansion("RMSNormalization")
def rms_normalization(w: Writer) -> gs.Tensor:
    """x γ / √(mean x² + ε) over the axes from `axis` to the last.   RMSNormalization, opset 23."""
    x, first = w.need(0), int(w.attr("axis", -1))
    axes = range(first, 0) if first < 0 else range(first, w.rank(x))
    power = w("ReduceMean", w("Mul", x, x), w.ints(*axes), keepdims=1)
    inverse = w("Reciprocal", w("Sqrt", w("Add", power, float(w.attr("epsilon", 1e-5)))))
    return w("Mul", w("Mul", x, inverse), w.need(1))


@expansion("GroupNormalization")
def group_normalization(w: Writer) -> gs.Tensor:
    """Reshape (N,G,…), InstanceNormalization, Reshape back, scale and bias.   GroupNormalization, opsets 18 and 21."""
    x, groups = w.need(0), int(w.attr("num_groups"))
    rank, channels = w.rank(x), w.need(0).shape[1]
    parts = w("Reshape", x, w.ints(0, groups, -1))
    ones, zeros = (w.constant(np.full(groups, v), x.dtype or np.float32) for v in (1, 0))
    flat = w("InstanceNormalization", parts, ones, zeros, epsilon=w.attr("epsilon", 1e-5))
    y = w("Reshape", flat, w("Shape", x, dtype=np.int64))
    for op, t in (("Mul", w.need(1)), ("Add", w.need(2))):
        per_group = t.shape is not None and list(t.shape) == [groups] and channels != groups  # opset 18
        if per_group:
            t = w("Expand", w("Unsqueeze", t, w.ints(1)), w.ints(groups, int(channels) // groups))
        y = w(op, y, w("Reshape", t, w.ints(-1, *[1] * (rank - 2))))
    return y
