"""Operators on 8-bit and 4-bit codes, in their float forms between DequantizeLinear and QuantizeLinear.

A code q means x = (q − zero) · scale. quantization.py then writes the steps from x to codes and back as float arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..constants import producer
from ..errors import UnsupportedOp
from .writer import Writer, expansion

__all__ = ["KERNEL", "NARROW", "PLAIN", "dequantized", "first", "last", "main", "rest"]

KERNEL = "/integer_kernel"  # ends the names of QuantizeLinear nodes that were part of an integer operator
FLOAT = np.float32
PLAIN = (np.int8, np.uint8, np.int32)  # codes that DequantizeLinear of opset 18 reads
NARROW = {onnx.TensorProto.INT4: (-8, 7), onnx.TensorProto.UINT4: (0, 15)}  # codes that are stored as int8, and their range


def flat(w: Writer, t: gs.Tensor | None) -> gs.Tensor | None:
    """A scale or zero point of one element as a scalar, which needs no axis."""
    if isinstance(t, gs.Constant) and len(t.shape) and np.prod(t.shape) == 1:
        return w.constant(t.values.reshape(()), t.values.dtype)
    return t


def dequantized(w: Writer, q: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor | None, axis: int = 0) -> gs.Tensor:
    """x = (q − zero) · scale, per tensor or along `axis`."""
    scale, zero = flat(w, scale) or scale, flat(w, zero)
    if isinstance(zero, gs.Constant) and isinstance(scale, gs.Constant) and np.prod(zero.shape) < np.prod(scale.shape):
        zero = w.constant(np.broadcast_to(zero.values, scale.shape), zero.values.dtype)
    return w("DequantizeLinear", q, scale, zero, dtype=FLOAT, axis=axis)


def operand(w: Writer, index: int, axis: int = 0) -> gs.Tensor:
    """The operand whose codes, scale and zero point are inputs index, index + 1, index + 2."""
    return dequantized(w, w.need(index), w.need(index + 1), w.input(index + 2), axis)


def coded(w: Writer, y: gs.Tensor, index: int) -> gs.Tensor:
    """Codes of y by the scale and zero point at inputs index, index + 1."""
    zero = flat(w, w.input(index + 1))
    kind = zero.dtype if zero is not None else np.uint8
    codes = w("QuantizeLinear", y, flat(w, w.need(index)), zero, dtype=kind)
    w.made[-1].name = f"{w.node.name}{KERNEL}"
    return codes


def main(w: Writer, op: str, *inputs: gs.Tensor | float | None, dtype: Any = None, **attrs: Any) -> gs.Variable:
    """The node that does the work: it keeps the name of the one it comes from."""
    y = w(op, *inputs, dtype=dtype, **attrs)
    w.made[-1].name = w.node.name
    return y


def bias(w: Writer, b: gs.Tensor | None, *scales: gs.Tensor) -> gs.Tensor | None:
    """b · Π scales: int32 codes of a bias have the product of the operands' scales, and no zero point."""
    if b is None:
        return None
    if all(isinstance(s, gs.Constant) for s in scales):
        product = np.ones((), FLOAT)
        for s in scales:
            product = np.asarray(product * s.values, FLOAT)
        return dequantized(w, b, w.constant(product), None)
    scale = scales[0]
    for s in scales[1:]:
        scale = w("Mul", scale, s)
    return dequantized(w, b, scale, None)


def rest(w: Writer, *dropped: str) -> dict[str, Any]:
    """The node's attributes without some."""
    return {k: v for k, v in w.node.attrs.items() if k not in dropped}


def first(w: Writer, t: gs.Tensor, rank: int) -> gs.Tensor:
    """Channels last to channels first."""
    return w("Transpose", t, perm=[0, rank - 1, *range(1, rank - 1)])


def last(w: Writer, t: gs.Tensor, rank: int) -> gs.Tensor:
    """Channels first to channels last."""
    return w("Transpose", t, perm=[0, *range(2, rank), 1])


# ------------------------------------------------------------------------------------------------------- static scales


@expansion("QLinearConv")
@expansion("QLinearConv", "com.microsoft")
def qlinear_conv(w: Writer) -> gs.Tensor | None:
    """y = Conv(x, w) + b with x, w per tensor or output channel, int32 bias; com.microsoft has channels_last."""
    x, rank = operand(w, 0), None
    if w.attr("channels_last", 0):
        if w.need(0).shape is None:
            return None
        rank = len(w.need(0).shape)
        x = first(w, x, rank)
    b = bias(w, w.input(8), w.need(1), w.need(4))
    y = main(w, "Conv", x, operand(w, 3, 0), b, **rest(w, "channels_last"))
    return coded(w, y if rank is None else last(w, y, rank), 6)


@expansion("QLinearMatMul")
def qlinear_matmul(w: Writer) -> gs.Tensor:
    """y = a b, b per tensor or column."""
    return coded(w, main(w, "MatMul", operand(w, 0), operand(w, 3, -1)), 6)


@expansion("QGemm", "com.microsoft")
def qgemm(w: Writer) -> gs.Tensor:
    """y = alpha (a b + c), b per tensor or column; float where there is no output scale."""
    a, trans = operand(w, 0), int(w.attr("transB", 0))
    alpha = float(w.attr("alpha", 1.0))
    scales = [w.need(1), w.need(4), *([w.constant(np.float32(alpha))] if alpha != 1 else [])]
    b = operand(w, 3, 0 if trans else 1)
    y = main(w, "Gemm", a, b, bias(w, w.input(6), *scales), alpha=alpha, transA=int(w.attr("transA", 0)), transB=trans)
    return coded(w, y, 7) if w.input(7) is not None else y


@expansion("QLinearAdd QLinearMul", "com.microsoft")
def qlinear_binary(w: Writer) -> gs.Tensor:
    """a + b, a · b."""
    return coded(w, main(w, w.node.op.removeprefix("QLinear"), operand(w, 0), operand(w, 3)), 6)


@expansion("QLinearLeakyRelu QLinearSigmoid", "com.microsoft")
def qlinear_activation(w: Writer) -> gs.Tensor:
    """f(x)."""
    return coded(w, main(w, w.node.op.removeprefix("QLinear"), operand(w, 0), **w.node.attrs), 3)


@expansion("QLinearAveragePool QLinearGlobalAveragePool", "com.microsoft")
def qlinear_pool(w: Writer) -> gs.Tensor | None:
    """Means of windows, or of everything; channels first or last."""
    op, x, rank = w.node.op.removeprefix("QLinear"), operand(w, 0), w.need(0).shape and len(w.need(0).shape)
    if not w.attr("channels_last", 0):
        return coded(w, main(w, op, x, **rest(w, "channels_last")), 3)
    if rank is None:
        return None
    return coded(w, last(w, main(w, op, first(w, x, rank), **rest(w, "channels_last")), rank), 3)


@expansion("QLinearReduceMean", "com.microsoft")
def qlinear_reduce_mean(w: Writer) -> gs.Tensor:
    """Mean over `axes`."""
    axes = w.ints(*w.attr("axes")) if w.attr("axes") else None
    return coded(w, main(w, "ReduceMean", operand(w, 0), axes, keepdims=int(w.attr("keepdims", 1))), 3)


@expansion("QLinearSoftmax", "com.microsoft")
def qlinear_softmax(w: Writer) -> gs.Tensor:
    """Softmax along `axis`; as before opset 13, over all axes from `axis` on."""
    x = operand(w, 0)
    if int(w.attr("opset", 13)) >= 13:
        return coded(w, main(w, "Softmax", x, axis=int(w.attr("axis", -1))), 3)
    rows = w("Flatten", x, axis=int(w.attr("axis", 1)))
    y = main(w, "Softmax", rows, axis=-1)
    return coded(w, w("Reshape", y, w("Shape", x, dtype=np.int64)), 3)


@expansion("QLinearConcat", "com.microsoft")
def qlinear_concat(w: Writer) -> gs.Tensor:
    """Inputs: scale and zero point of the output, then (codes, scale, zero point) of each part."""
    parts = [operand(w, i) for i in range(2, len(w.node.inputs), 3)]
    return coded(w, main(w, "Concat", *parts, axis=int(w.attr("axis"))), 0)


@expansion("QLinearWhere", "com.microsoft")
def qlinear_where(w: Writer) -> gs.Tensor:
    """x where the condition holds, else y."""
    x, y = operand(w, 1), operand(w, 4)
    return coded(w, main(w, "Where", w.need(0), x, y, dtype=FLOAT), 7)


@expansion("NhwcMaxPool", "com.microsoft")
def nhwc_max_pool(w: Writer) -> gs.Tensor | None:
    """MaxPool of codes, channels last."""
    x = w.need(0)
    if x.shape is None:
        return None
    return last(w, main(w, "MaxPool", first(w, x, len(x.shape)), **w.node.attrs), len(x.shape))


# ------------------------------------------------------------------------------------------------------ dynamic scales


@expansion("DynamicQuantizeMatMul", "com.microsoft")
def dynamic_quantize_matmul(w: Writer) -> gs.Tensor:
    """y = x b + bias, x quantised by its own range at run time."""
    q, scale, zero = w.outputs("DynamicQuantizeLinear", w.need(0), dtypes=(np.uint8, FLOAT, np.uint8))
    x = dequantized(w, q, scale, zero)
    return with_bias(w, main(w, "MatMul", x, dequantized(w, w.need(1), w.need(2), w.input(3), -1)), w.input(4))


@expansion("MatMulIntegerToFloat", "com.microsoft")
def matmul_integer_to_float(w: Writer) -> gs.Tensor:
    """y = a b + bias in float, from codes of both."""
    a = dequantized(w, w.need(0), w.need(2), w.input(4))
    return with_bias(w, main(w, "MatMul", a, dequantized(w, w.need(1), w.need(3), w.input(5), -1)), w.input(6))


def with_bias(w: Writer, y: gs.Tensor, b: gs.Tensor | None) -> gs.Tensor:
    """y + b."""
    return y if b is None else w("Add", y, b)


# ------------------------------------------------------------------------------------------- other codes: blocks, 16, 4 bit


@expansion("QuantizeLinear", "com.microsoft")
def quantize_linear(w: Writer) -> gs.Tensor:
    """The standard's node, whatever the codes are: quantization.py writes it out with what reads the codes."""
    x, zero, given = w.need(0), flat(w, w.input(2)), int(w.attr("output_dtype", 0))
    kind = zero.dtype if zero is not None else np.uint8
    attrs = {k: w.node.attrs[k] for k in ("axis", "block_size") if w.node.attrs.get(k)}
    if given in NARROW:
        attrs["output_dtype"], kind = given, np.int8
    elif given:
        kind = onnx.helper.tensor_dtype_to_np_dtype(given)
    return w("QuantizeLinear", x, flat(w, w.need(1)), zero, dtype=kind, **attrs)


@expansion("DequantizeLinear", "com.microsoft")
def dequantize_linear(w: Writer) -> gs.Tensor:
    """Constants as arithmetic where opset 18 does not know their codes, (q − zero) · scale; else the standard's node."""
    q, scale, zero = w.need(0), flat(w, w.need(1)), flat(w, w.input(2))
    axis, block = int(w.attr("axis", 1)), int(w.attr("block_size", 0))
    assert scale is not None
    if (q.dtype in PLAIN and not block) or not constant(q):
        attrs = {"axis": axis, **({"block_size": block} if block else {})}
        return w("DequantizeLinear", q, scale, zero, dtype=scale.dtype or FLOAT, **attrs)
    codes = w("Cast", q, dtype=FLOAT, to=1)
    if zero is not None:
        codes = w("Sub", codes, spread(w, w("Cast", zero, dtype=FLOAT, to=1), q, axis, block))
    y = w("Mul", codes, spread(w, w("Cast", scale, dtype=FLOAT, to=1), q, axis, block))
    kind = scale.dtype if scale.dtype is not None else FLOAT
    to = kind if isinstance(kind, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return y if kind == FLOAT else w("Cast", y, dtype=kind, to=int(to))


def spread(w: Writer, t: gs.Tensor, q: gs.Tensor, axis: int, block: int) -> gs.Tensor:
    """A scale or zero point laid out against the codes: one, one per index of `axis`, or one per block of these."""
    rank, given = w.rank(q), w.need(1).shape
    axis %= rank
    if block:
        return w("Gather", t, w.ints(*(np.arange(int(q.shape[axis])) // block)), axis=axis)
    return t if given is not None and np.prod(given) == 1 else w("Reshape", t, w.ints(-1, *[1] * (rank - 1 - axis)))


def constant(t: gs.Tensor) -> bool:
    """Whether a tensor comes from constants only."""
    node = producer(t)
    return isinstance(t, gs.Constant) or (node is not None and all(constant(x) for x in node.inputs if x.name))


@expansion("MatMulNBits", "com.microsoft")
def matmul_nbits(w: Writer) -> gs.Tensor:
    """y = a ŵᵀ + bias, ŵ (N, K) from 2-, 4- or 8-bit codes in blocks along K: b (N, blocks, bytes), scales (N, blocks)."""
    n, k, bits, block = (int(w.attr(name, 4)) for name in ("N", "K", "bits", "block_size"))
    if w.input(4) is not None or int(w.attr("weight_prepacked", 0)):
        raise UnsupportedOp(
            f"node '{w.node.name}' (MatMulNBits): weights reordered by g_idx or packed for one device are not read; "
            "bring a file with plain blocks"
        )
    blocks = -(-k // block)
    weight = blockwise(w, (n, blocks, block), bits, w.need(1), w.need(2), w.input(3))
    rows = w("Reshape", weight, w.ints(n, blocks * block))
    if blocks * block != k:
        rows = w("Slice", rows, w.ints(0), w.ints(k), w.ints(1))
    return with_bias(w, main(w, "MatMul", w.need(0), w("Transpose", rows, perm=[1, 0])), w.input(5))


@expansion("GatherBlockQuantized", "com.microsoft")
def gather_block_quantized(w: Writer) -> gs.Tensor | None:
    """Rows of a table of codes in blocks along the last axis: the whole table in float, then Gather."""
    data, scales, zero = w.need(0), w.need(2), w.input(3)
    if data.shape is None or data.dtype is None:
        return None
    rank, bits, block = len(data.shape), int(w.attr("bits", 4)), int(w.attr("block_size", 128))
    axis, along = int(w.attr("gather_axis", 0)), int(w.attr("quantize_axis", 1))
    if along % rank != rank - 1 or axis % rank == rank - 1 or block == 0:
        raise UnsupportedOp(
            f"node '{w.node.name}' (GatherBlockQuantized): only blocks along the last axis are read, and rows along another"
        )
    packed = data.dtype == np.uint8 and bits < 8
    width = int(data.shape[-1]) * (8 // bits if packed else 1)
    lead = [int(d) for d in data.shape[:-1]]
    if width % block:
        raise UnsupportedOp(f"node '{w.node.name}' (GatherBlockQuantized): its last axis is not a whole number of blocks")
    signed = 8 if data.dtype == np.uint8 else 0  # other codes have no default zero point
    table = blockwise(w, (*lead, width // block, block), bits if signed else 0, data, scales, zero)
    rows = w("Reshape", table, w.ints(*lead, width))
    return w("Gather", rows, w.need(1), axis=axis)


def blockwise(
    w: Writer, shape: tuple[int, ...], bits: int, q: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor | None
) -> gs.Tensor:
    """(q − zero) · scale of shape (…, blocks, block); packed codes of `bits`, whose zero is 2^(bits−1) by default; 0: int8."""
    codes = w("Cast", w("Reshape", unpacked(w, q, bits), w.ints(*shape)), dtype=FLOAT, to=1)
    cells, lead = w.ints(*shape[:-1], 1), shape[:-2]
    if zero is not None:
        if zero.dtype == np.uint8 and bits:  # packed along the blocks, each row filled up to whole bytes
            rows = w("Reshape", unpacked(w, w("Reshape", zero, w.ints(*lead, -1)), bits), w.ints(*lead, -1))
            zero = w("Slice", rows, w.ints(0), w.ints(shape[-2]), w.ints(len(lead)))
        codes = w("Sub", codes, w("Reshape", w("Cast", zero, dtype=FLOAT, to=1), cells))
    elif bits:
        codes = w("Sub", codes, float(2 ** (bits - 1)))
    return w("Mul", codes, w("Reshape", w("Cast", scale, dtype=FLOAT, to=1), cells))


def unpacked(w: Writer, q: gs.Tensor, bits: int) -> gs.Tensor:
    """Bytes (…, n) to codes (…, n, 8/bits), the low bits first."""
    if bits in (0, 8):
        return q
    mask = w.constant(2**bits - 1, np.uint8)
    shifted = [q, *(w("BitShift", q, w.constant(s, np.uint8), direction="RIGHT") for s in range(bits, 8, bits))]
    return w("Concat", *(w("Unsqueeze", w("BitwiseAnd", t, mask), w.ints(-1)) for t in shifted), axis=-1)
