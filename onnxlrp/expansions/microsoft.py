"""Fused operators that onnxruntime's optimiser puts into the files it saves (domain com.microsoft), in standard ones.

They end in spellings that groups.py and norm_patterns.py read as one unit: GELU, SiLU, layer and root mean square norms.
A node that waits for a shape returns None: shapes behind it are inferred once the others are written out.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from .quantized import first, last, main, rest
from .writer import Writer, expansion

__all__: list[str] = []

DOMAIN = "com.microsoft"
# fused activations and the names of their parameters, in the order of `activation_params`
ACTIVATIONS = {
    **dict.fromkeys(("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma"), "Clip": ("min", "max"),
}  # fmt: skip


def activated(w: Writer, y: gs.Tensor, kind: str, given: dict[str, float]) -> gs.Tensor:
    """The fused activation of y with its parameters; none where `kind` is empty."""
    if not kind:
        return y
    if kind not in ACTIVATIONS:
        raise UnsupportedOp(
            f"node '{w.node.name}' ({w.node.op}): its activation {kind} is not known; save the model again at level BASIC"
        )
    if kind == "Clip":
        return w("Clip", y, given.get("min"), given.get("max"))
    return w(kind, y, **given)


def activated_conv(w: Writer, y: gs.Tensor) -> gs.Tensor:
    """f(y + z) with z the fourth input, f by name and parameters in order."""
    kind, given = str(w.attr("activation", "")), list(w.attr("activation_params", []))
    return activated(w, plus(w, y, w.input(3)), kind, dict(zip(ACTIVATIONS.get(kind, ()), given, strict=False)))


def activated_gemm(w: Writer, y: gs.Tensor) -> gs.Tensor:
    """f(y), f by name and parameters by name."""
    kind = str(w.attr("activation", ""))
    given = {name: w.attr(f"activation_{name}") for name in ACTIVATIONS.get(kind, ())}
    return activated(w, y, kind, {name: float(v) for name, v in given.items() if v is not None})


def plus(w: Writer, x: gs.Tensor, *others: gs.Tensor | None) -> gs.Tensor:
    """x + the others that are there."""
    for other in others:
        x = x if other is None else w("Add", x, other)
    return x


# ------------------------------------------------------------------------------------------------------ linear operators


@expansion("FusedConv", DOMAIN)
def fused_conv(w: Writer) -> gs.Tensor:
    """f(Conv(x, w) + b + z)."""
    attrs = rest(w, "activation", "activation_params")
    return activated_conv(w, main(w, "Conv", w.need(0), w.need(1), w.input(2), **attrs))


@expansion("NhwcConv NhwcFusedConv", DOMAIN)
def nhwc_conv(w: Writer) -> gs.Tensor | None:
    """FusedConv with channels last; NhwcConv has them last in the weight too, NhwcFusedConv has not."""
    weight, attrs = w.need(1), rest(w, "activation", "activation_params")
    if weight.shape is None:
        return None
    rank = len(weight.shape)
    weight = first(w, weight, rank) if w.node.op == "NhwcConv" else weight
    y = main(w, "Conv", first(w, w.need(0), rank), weight, w.input(2), **attrs)
    return activated_conv(w, last(w, y, rank))


@expansion("ConvTransposeWithDynamicPads", DOMAIN)
def conv_transpose_with_dynamic_pads(w: Writer) -> None:
    """Refused: padding that is only known at run time is not read."""
    raise UnsupportedOp(
        f"node '{w.node.name}' (ConvTransposeWithDynamicPads): its pads are computed at run time; "
        "export a ConvTranspose with fixed pads"
    )


@expansion("FusedMatMul TransposeMatMul FusedMatMulActivation", DOMAIN)
def fused_matmul(w: Writer) -> gs.Tensor | None:
    """alpha · op(a) op(b), op: transBatchA moves the first axis before the last one, transA swaps the last two."""
    if any(w.need(i).shape is None for i in (0, 1)):
        return None
    a, b = (
        _laid_out(w, w.need(i), bool(w.attr(f"trans{x}", 0)), bool(w.attr(f"transBatch{x}", 0))) for i, x in enumerate("AB")
    )
    y, alpha = main(w, "MatMul", a, b), float(w.attr("alpha", 1.0))
    return activated_gemm(w, y if alpha == 1 else w("Mul", y, alpha))


def _laid_out(w: Writer, t: gs.Tensor, swap: bool, batch: bool) -> gs.Tensor:
    """An operand of FusedMatMul as MatMul wants it."""
    axes = list(range(len(t.shape)))
    if len(axes) < 2:  # vectors have nothing to swap
        return t
    perm = [*axes[1:-1], axes[0], axes[-1]] if batch else axes
    perm = [*perm[:-2], perm[-1], perm[-2]] if swap else perm
    return t if perm == axes else w("Transpose", t, perm=perm)


@expansion("FusedGemm", DOMAIN)
def fused_gemm(w: Writer) -> gs.Tensor:
    """f(alpha op(a) op(b) + beta c)."""
    names = [k for k in w.node.attrs if k.startswith("activation")]
    return activated_gemm(w, main(w, "Gemm", w.need(0), w.need(1), w.input(2), **rest(w, *names)))


@expansion("GemmFastGelu", DOMAIN)
def gemm_fast_gelu(w: Writer) -> gs.Tensor:
    """FastGelu(x w + bias)."""
    return tanh_gelu(w, plus(w, main(w, "MatMul", w.need(0), w.need(1)), w.input(2)))


@expansion("BiasAdd", DOMAIN)
def bias_add(w: Writer) -> gs.Tensor:
    """x + bias + skip."""
    return plus(w, w.need(0), w.need(1), w.need(2))


# ----------------------------------------------------------------------------------------------------------- activations


def erf_gelu(w: Writer, x: gs.Tensor) -> gs.Tensor:
    """x · ½ (1 + erf(x/√2))."""
    return w("Mul", x, w("Mul", w("Add", w("Erf", w("Mul", x, 1 / math.sqrt(2))), 1.0), 0.5))


def tanh_gelu(w: Writer, x: gs.Tensor) -> gs.Tensor:
    """x · ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    cubic = w("Add", x, w("Mul", w("Mul", w("Mul", x, x), x), 0.044715))
    return w("Mul", x, w("Mul", w("Add", w("Tanh", w("Mul", cubic, math.sqrt(2 / math.pi))), 1.0), 0.5))


def silu(w: Writer, x: gs.Tensor, alpha: float = 1.0) -> gs.Tensor:
    """x · sigmoid(α x)."""
    return w("Mul", x, w("Sigmoid", x if alpha == 1 else w("Mul", x, alpha)))


@expansion("Gelu BiasGelu", DOMAIN)
def bias_gelu(w: Writer) -> gs.Tensor:
    """GELU(x + bias)."""
    return erf_gelu(w, plus(w, w.need(0), w.input(1)))


@expansion("FastGelu", DOMAIN)
def fast_gelu(w: Writer) -> gs.Tensor:
    """GELU by tanh of x + bias."""
    return tanh_gelu(w, plus(w, w.need(0), w.input(1)))


@expansion("QuickGelu", DOMAIN)
def quick_gelu(w: Writer) -> gs.Tensor:
    """x · sigmoid(α x), α = 1.702 by default."""
    return silu(w, w.need(0), float(w.attr("alpha", 1.702)))


@expansion("BiasSplitGelu", DOMAIN)
def bias_split_gelu(w: Writer) -> gs.Tensor:
    """left · GELU(right), the halves of x + bias along the last axis."""
    left, right = w.outputs("Split", plus(w, w.need(0), w.need(1)), dtypes=(None, None), axis=-1, num_outputs=2)
    return w("Mul", left, erf_gelu(w, right))


@expansion("BiasDropout BitmaskBiasDropout", DOMAIN)
def bias_dropout(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """x + bias + residual: dropout does nothing at inference, and its mask is not known."""
    return plus(w, w.need(0), w.need(1), w.input(2)), None


@expansion("BitmaskDropout", DOMAIN)
def bitmask_dropout(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """x, as at inference."""
    return w("Identity", w.need(0)), None


@expansion("BiasSoftmax", DOMAIN)
def bias_softmax(w: Writer) -> gs.Tensor | None:
    """Softmax of x + bias along the last axis."""
    if w.need(0).shape is None:
        return None
    rank = len(w.need(0).shape)
    if int(w.attr("axis", 1)) % rank != rank - 1:
        raise UnsupportedOp(f"node '{w.node.name}' (BiasSoftmax): only a softmax along the last axis is read")
    return main(w, "Softmax", plus(w, w.need(0), w.need(1)), axis=-1)


# ----------------------------------------------------------------------------------------------------------------- norms


@expansion("LayerNormalization", DOMAIN)
def layer_normalization(w: Writer) -> tuple[gs.Tensor, ...]:
    """The standard's, which older files have before the standard had it."""
    return layer_norm(w, w.need(0), w.need(1), w.input(2), int(w.attr("axis", -1)))


def layer_norm(w: Writer, x: gs.Tensor, scale: gs.Tensor, shift: gs.Tensor | None, axis: int = -1) -> tuple[gs.Tensor, ...]:
    """LayerNormalization with the node's ε: y, mean, 1/σ, as many as the node has."""
    wanted = max((i + 1 for i, t in enumerate(w.node.outputs[:3]) if t.name), default=1)
    epsilon = float(w.attr("epsilon", 1e-5))
    made = w.outputs("LayerNormalization", x, scale, shift, dtypes=(None,) * wanted, axis=axis, epsilon=epsilon)
    w.made[-1].name = w.node.name
    return tuple(made)


def rms_norm(w: Writer, x: gs.Tensor, scale: gs.Tensor, axes: range) -> tuple[gs.Tensor, gs.Tensor]:
    """(x γ / √(mean x² + ε), the factor)."""
    power = w("ReduceMean", w("Mul", x, x), w.ints(*axes), keepdims=1)
    inverse = w("Reciprocal", w("Sqrt", w("Add", power, float(w.attr("epsilon", 1e-5)))))
    return w("Mul", w("Mul", x, inverse), scale), inverse


@expansion("SimplifiedLayerNormalization")
@expansion("SimplifiedLayerNormalization", DOMAIN)
def simplified_layer_normalization(w: Writer) -> tuple[gs.Tensor, ...] | None:
    """x γ / √(mean x² + ε) over the axes from `axis` to the last."""
    x, start = w.need(0), int(w.attr("axis", -1))
    if start >= 0 and x.shape is None:
        return None
    return rms_norm(w, x, w.need(1), range(start, 0) if start < 0 else range(start, len(x.shape)))


def with_skip(w: Writer, bias: gs.Tensor | None) -> gs.Tensor:
    """x + skip + bias; the bias goes to the product among them, whose layer it belongs to."""
    x, skip = w.need(0), w.need(1)
    if any(n.op in ("MatMul", "FusedMatMul") for n in skip.inputs) and not any(
        n.op in ("MatMul", "FusedMatMul") for n in x.inputs
    ):
        x, skip = skip, x
    return plus(w, plus(w, x, bias), skip)


@expansion("SkipLayerNormalization", DOMAIN)
def skip_layer_normalization(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """LayerNormalization(x + skip + bias); the fourth output is the sum."""
    x = with_skip(w, w.input(4))
    y, *more = layer_norm(w, x, w.need(2), w.input(3))
    return y, *(more + [None] * 2)[:2], x


@expansion("SkipSimplifiedLayerNormalization", DOMAIN)
def skip_simplified_layer_normalization(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """Root mean square norm of x + skip + bias; the fourth output is the sum."""
    x = with_skip(w, w.input(3))
    y, inverse = rms_norm(w, x, w.need(2), range(-1, 0))
    return y, None, inverse, x


@expansion("GroupNorm SkipGroupNorm", DOMAIN)
def group_norm(w: Writer) -> gs.Tensor | tuple[gs.Tensor, ...] | None:
    """γ (s − μ)/√(σ² + ε) + β per group of channels, s = x + skip + bias; then SiLU where `activation` is 1."""
    x = w.need(0)
    if x.shape is None:
        return None
    rank, behind = len(x.shape), bool(w.attr("channels_last", 1))
    if w.node.op == "SkipGroupNorm":
        skip = w.need(3)
        if skip.shape is None:
            return None
        if len(skip.shape) == 2:  # (N,C)
            skip = w("Unsqueeze", skip, w.ints(*range(1, rank - 1)) if behind else w.ints(*range(2, rank)))
        bias = w.input(4)
        if bias is not None and not behind:
            bias = w("Reshape", bias, w.ints(-1, *[1] * (rank - 2)))
        x = plus(w, x, skip, bias)
    s, groups = x, int(w.attr("groups"))
    x = first(w, x, rank) if behind else x
    parts = w("Reshape", x, w.ints(0, groups, -1))
    kind = x.dtype or np.float32
    ones, zeros = (w.constant(np.full(groups, v), kind) for v in (1, 0))
    flat = w("InstanceNormalization", parts, ones, zeros, epsilon=float(w.attr("epsilon", 1e-5)))
    y: gs.Tensor = w("Reshape", flat, w("Shape", x, dtype=np.int64))
    for op, t in (("Mul", w.need(1)), ("Add", w.need(2))):
        y = w(op, y, w("Reshape", t, w.ints(-1, *[1] * (rank - 2))))
    y = silu(w, y) if w.attr("activation", 0) else y
    y = last(w, y, rank) if behind else y
    return (y, s) if w.node.op == "SkipGroupNorm" else y


# ------------------------------------------------------------------------------- the standard's under another domain


@expansion("GridSample", DOMAIN)
def grid_sample(w: Writer) -> gs.Tensor:
    """The standard's of opset 16, whose modes have the same names."""
    return main(w, "GridSample", w.need(0), w.need(1), **w.node.attrs)


@expansion("Trilu", DOMAIN)
def trilu(w: Writer) -> gs.Tensor:
    """The standard's."""
    return main(w, "Trilu", w.need(0), w.input(1), **w.node.attrs)


@expansion("GatherND", DOMAIN)
def gather_nd(w: Writer) -> gs.Tensor:
    """The standard's, whose indices are int64."""
    return main(w, "GatherND", w.need(0), w("Cast", w.need(1), dtype=np.int64, to=7))


@expansion("Pad", DOMAIN)
def pad(w: Writer) -> gs.Tensor:
    """The standard's; pads may be one row of a matrix, the value of shape (1)."""
    value = w.input(2)
    value = None if value is None else w("Reshape", value, w.constant([], np.int64))
    mode = str(w.attr("mode", "constant"))
    return main(w, "Pad", w.need(0), w("Reshape", w.need(1), w.ints(-1)), value, mode=mode)


@expansion("ExpandDims", DOMAIN)
def expand_dims(w: Writer) -> gs.Tensor:
    """Unsqueeze."""
    return main(w, "Unsqueeze", w.need(0), w("Cast", w("Reshape", w.need(1), w.ints(-1)), dtype=np.int64, to=7))


@expansion("Range", DOMAIN)
def range_of(w: Writer) -> gs.Tensor:
    """The standard's, of scalars; the step is 1 by default."""
    scalar = w.constant([], np.int64)
    start, limit, delta = (None if (t := w.input(i)) is None else w("Reshape", t, scalar) for i in range(3))
    return main(w, "Range", start, limit, delta if delta is not None else 1)


@expansion("Unique", DOMAIN)
def unique(w: Writer) -> tuple[gs.Tensor, ...]:
    """The standard's in order of appearance, without its second output."""
    values, _, inverse, counts = w.outputs("Unique", w.need(0), dtypes=(None, np.int64, np.int64, np.int64), sorted=0)
    return values, inverse, counts
