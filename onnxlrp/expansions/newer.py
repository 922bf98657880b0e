"""Standard operators that opset 18 lacks, or whose shapes cannot be inferred, in those it has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from .writer import Writer, expansion


@expansion("CastLike")
def cast_like(w: Writer) -> gs.Tensor | None:
    """Cast: the second operand only names a type."""
    return None if w.need(1).dtype is None else _cast(w, w.need(0), w.need(1).dtype)


def _cast(w: Writer, t: gs.Tensor, kind: Any) -> gs.Variable:
    to = kind if isinstance(kind, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return w("Cast", t, dtype=kind, to=int(to))


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
    w.made[-1].name = w.node.name  # the layer is called after it
    y = w("Reshape", flat, w("Shape", x, dtype=np.int64))
    for op, t in (("Mul", w.need(1)), ("Add", w.need(2))):
        per_group = t.shape is not None and list(t.shape) == [groups] and channels != groups  # opset 18
        if per_group:
            t = w("Expand", w("Unsqueeze", t, w.ints(1)), w.ints(groups, int(channels) // groups))
        y = w(op, y, w("Reshape", t, w.ints(-1, *[1] * (rank - 2))))
    return y


@expansion("STFT")
def stft(w: Writer) -> gs.Tensor:
    """DFT of the frames x_(f·step + n), times the window.   STFT, opset 17."""
    x, step, window = w.need(0), w("Reshape", w.need(1), w.ints(1)), w.input(2)
    length = w("Reshape", w.need(3), w.ints(1)) if window is None else w("Shape", window, dtype=np.int64)
    step, length = (_cast(w, t, np.int64) for t in (step, length))
    room = w("Sub", w("Shape", x, dtype=np.int64, start=1, end=2), length)
    starts = w("Mul", _count(w, w("Add", w("Div", room, step), 1)), step)
    at = w("Add", w("Unsqueeze", starts, w.ints(1)), _count(w, length))
    frames = w("Gather", x, at, axis=1)
    if w.rank(x) == 2:
        frames = w("Unsqueeze", frames, w.ints(-1))
    if window is not None:
        frames = w("Mul", frames, w("Unsqueeze", window, w.ints(-1)))
    return w("DFT", frames, axis=2, onesided=int(w.attr("onesided")))


def _count(w: Writer, stop: gs.Tensor) -> gs.Variable:
    """0, 1, … stop-1; stop of shape [1]."""
    zero, one = (w.constant(v, np.int64) for v in (0, 1))
    return w("Range", zero, w("Squeeze", stop), one)


@expansion("DFT")
def dft_of_any_length(w: Writer) -> gs.Tensor | None:
    """Stays, but a signal is cut or padded to a length that is only known at run time: shape inference gives up there."""
    x, length = w.need(0), w.input(1)
    onesided, inverse = int(w.attr("onesided")), int(w.attr("inverse"))
    if length is None or isinstance(length, gs.Constant) or (onesided and inverse):
        return None
    rank, axis = w.rank(x), int(w.attr("axis", 1)) % w.rank(x)
    wanted = _cast(w, w("Reshape", length, w.ints(1)), np.int64)
    more = w("Sub", wanted, w("Shape", x, dtype=np.int64, start=axis, end=axis + 1))
    pads = w("Concat", w.ints(*[0] * (rank + axis)), more, w.ints(*[0] * (rank - axis - 1)), axis=0)
    return w("DFT", w("Pad", x, pads), axis=axis, onesided=onesided, inverse=inverse)


MOST_PRODUCTS = 256  # nodes that a running product is written out in, at most


@expansion("CumProd")
def cum_prod(w: Writer) -> gs.Tensor:
    """One ReduceProd for every length: each of the factors gets an equal part, as everywhere.   CumProd, opset 26."""
    x, axis = w.need(0), w.need(1)
    at = int(np.ravel(axis.values)[0]) % w.rank(x) if isinstance(axis, gs.Constant) else 0
    size = x.shape[at]
    if not isinstance(axis, gs.Constant) or not isinstance(size, int) or not 0 < size <= MOST_PRODUCTS:
        raise UnsupportedOp(
            f"node '{w.node.name}' (CumProd): over an axis of unknown size, or of more than {MOST_PRODUCTS}; "
            "fix it with input_shapes={...}"
        )
    backwards, last = bool(w.attr("reverse")), size - 1 if w.attr("exclusive") else size
    products: list[gs.Variable] = []
    if w.attr("exclusive"):
        shape = w("Shape", w("Slice", x, w.ints(0), w.ints(1), w.ints(at)), dtype=np.int64)
        products.append(w("Expand", _cast(w, w.constant(1), x.dtype or np.float32), shape))
    for n in range(1, last + 1):
        low, high = (size - n, size) if backwards else (0, n)
        part = w("Slice", x, w.ints(low), w.ints(high), w.ints(at))
        products.append(part if n == 1 else w("ReduceProd", part, w.ints(at), keepdims=1))
    return w("Concat", *(products[::-1] if backwards else products), axis=at)


@expansion("TensorScatter")
def tensor_scatter(w: Writer) -> gs.Tensor:
    """A cache with an update written into it at each row's place; a circular one starts over.   TensorScatter, opset 24."""
    cache, update, first = w.need(0), w.need(1), w.input(2)
    rank = w.rank(cache)
    axis = int(w.attr("axis", -2)) % rank
    at = w("Reshape", _count(w, w("Shape", update, dtype=np.int64, start=axis, end=axis + 1)),
           w.ints(*[-1 if a == axis else 1 for a in range(rank)]))  # fmt: skip
    if first is not None:
        at = w("Add", w("Reshape", first, w.ints(-1, *[1] * (rank - 1))), at)
    if w.attr("mode", "linear") == "circular":
        at = w("Mod", at, w("Shape", cache, dtype=np.int64, start=axis, end=axis + 1))
    return w("ScatterElements", cache, w("Expand", at, w("Shape", update, dtype=np.int64)), update, axis=axis)


@expansion("AffineGrid")
def affine_grid(w: Writer) -> gs.Tensor:
    """Every place of an image, from -1 to 1, times an affine map θ (N,d,d+1).   AffineGrid, opset 20."""
    theta, size, kind = w.need(0), w.need(1), w.need(0).dtype or np.float32
    d = int(theta.shape[1]) if theta.shape is not None and isinstance(theta.shape[1], int) else w.rank(w.node.outputs[0]) - 2
    sizes = [w("Slice", size, w.ints(2 + i), w.ints(3 + i)) for i in range(d)]
    plane = w("Concat", *sizes, axis=0)
    columns = []
    for i, n in enumerate(sizes):
        place, real = _cast(w, _count(w, n), kind), _cast(w, n, kind)
        if w.attr("align_corners", 0):
            place = w("Sub", w("Div", w("Mul", place, 2.0), w("Max", w("Sub", real, 1.0), 1.0)), 1.0)
        else:
            place = w("Sub", w("Div", w("Add", w("Mul", place, 2.0), 1.0), real), 1.0)
        line = w("Reshape", place, w.ints(*[-1 if a == i else 1 for a in range(d)]))
        columns.append(w("Unsqueeze", w("Expand", line, plane), w.ints(-1)))
    ones = w("Expand", _cast(w, w.constant([1]), kind), w("Concat", plane, w.ints(1), axis=0))
    base = w("Concat", *columns[::-1], ones, axis=-1)
    turned = w("Transpose", theta, perm=[0, 2, 1])
    grid = w("MatMul", w("Reshape", base, w.ints(1, -1, d + 1)), turned)
    entries = w("Shape", theta, dtype=np.int64, start=0, end=1)
    return w("Reshape", grid, w("Concat", entries, plane, w.ints(d), axis=0))


@expansion("DeformConv")
def deform_conv(w: Writer) -> gs.Tensor:
    """x sampled at every tap of every window, shifted by its offset, times the mask, then a 1×1 Conv.   DeformConv, opset 19.

    x (N,C,H,W), weight (M,C/group,kH,kW), offset (N,G·kH·kW·2,OH,OW), mask (N,G·kH·kW,OH,OW), G offset groups.
    """
    x, weight, offset, bias, mask = w.need(0), w.need(1), w.need(2), w.input(3), w.input(4)
    if weight.shape is None or len(weight.shape) != 4 or not all(isinstance(n, int) for n in weight.shape):
        raise UnsupportedOp(
            f"node '{w.node.name}' (DeformConv): only images of two axes and weights of known size are supported"
        )
    outs, ins, *kernel = (int(n) for n in weight.shape)
    group, parts, taps = int(w.attr("group", 1)), int(w.attr("offset_group", 1)), math.prod(kernel)
    channels = ins * group
    image, window = (w("Shape", t, dtype=np.int64, start=2, end=4) for t in (x, offset))
    high, wide = (w("Slice", window, w.ints(i), w.ints(i + 1)) for i in (0, 1))
    rows = w("Mul", high, w.constant(taps, np.int64))

    def laid_out(t: gs.Tensor, *sizes: int | gs.Tensor) -> gs.Variable:
        return w("Reshape", t, w("Concat", *(w.ints(n) if isinstance(n, int) else n for n in sizes), axis=0))

    shifts = laid_out(offset, -1, taps, 2, window)
    places = []
    for axis, n in enumerate((high, wide)):
        tap = np.unravel_index(np.arange(taps), kernel)[axis] * int(w.attr("dilations", [1, 1])[axis])
        stride, pad = int(w.attr("strides", [1, 1])[axis]), int(w.attr("pads", [0] * 4)[axis])
        start = w("Sub", w("Mul", _count(w, n), w.constant(stride, np.int64)), w.constant(pad, np.int64))
        line = w("Reshape", start, w.ints(*([-1, 1] if axis == 0 else [1, -1])))
        still = _cast(w, w("Add", line, w.constant(tap.reshape(-1, 1, 1), np.int64)), offset.dtype or np.float32)
        at = w("Add", w("Gather", shifts, w.constant(axis, np.int64), axis=2), still)
        size = _cast(w, w("Slice", image, w.ints(axis), w.ints(axis + 1)), offset.dtype or np.float32)
        normed = w("Sub", w("Div", w("Add", w("Mul", at, 2.0), 1.0), size), 1.0)
        places.append(w("Unsqueeze", normed, w.ints(-1)))
    grid = laid_out(w("Concat", places[1], places[0], axis=-1), -1, rows, wide, 2)
    pixels = w("GridSample", laid_out(x, -1, channels // parts, image), grid, mode="bilinear", padding_mode="zeros")
    if mask is not None:
        pixels = w("Mul", pixels, laid_out(mask, -1, 1, rows, wide))
    columns = laid_out(pixels, -1, channels * taps, window)
    kernels = w("Reshape", weight, w.ints(outs, ins * taps, 1, 1))
    return w("Conv", columns, kernels, *([] if bias is None else [bias]), group=group, kernel_shape=[1, 1])


@expansion("OptionalGetElement")
def optional_get_element(w: Writer) -> gs.Tensor | None:
    """What was put in; a tensor that is no optional at all is itself.   OptionalGetElement, opsets 15 and 18."""
    x = w.need(0)
    if x.inputs and x.inputs[0].op == "Optional":
        return x.inputs[0].inputs[0] if x.inputs[0].inputs else None
    return x if x.shape is not None else None
