"""Models on codes of 8 bits and fewer: the runtime's outputs to the bit, and the relevance of the same network in float."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, lrp, near, net, run, weight
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from test_microsoft import save

import onnxlrp
from onnxlrp.errors import UnsupportedOp

DOMAIN = ', "com.microsoft" : 1'
M = "com.microsoft."


def codes(*shape: int, kind: Any = np.int8, seed: int = 0, bits: int = 7) -> np.ndarray:
    """Random codes; of 7 bits, so that kernels for processors that saturate sums of two products compute the same."""
    low = 0 if np.dtype(kind).kind == "u" else -(2 ** (bits - 1))
    return np.random.default_rng(seed).integers(low, low + 2**bits, shape).astype(kind)


# ------------------------------------------------------------------------------------------------------- one operator


@dataclass(frozen=True)
class Case:
    """An operator from codes q of -x (scale s) and p of |x| (scale t) to codes r (scale u), and the same from floats f, g to w.

    constants: arrays, or what makes one of the codes' type. read: scale of r.
    """

    integer: str
    plain: str
    x: str = "float[2,4,6,6] x"
    y: str = "float[2,4,6,6] y"
    constants: dict[str, Any] = field(default_factory=dict)
    read: str = "u, z"
    kernel: bool = True  # the CPU has one

    def model(self, kind: str, integer: bool) -> onnx.ModelProto:
        dtype, zero = {"int8": (np.int8, 3), "uint8": (np.uint8, 128), "after relu": (np.uint8, 0)}[kind]
        constants = {k: np.float32(v) for k, v in (("s", 0.0213), ("t", 0.0171), ("u", 0.0377))}
        constants |= {"z": dtype(zero), "o": dtype(max(zero - 1, 0))}
        constants |= {k: v(dtype) if callable(v) else v for k, v in self.constants.items()}
        body = "h = Neg(x); q = QuantizeLinear(h, s, z); j = Abs(x); p = QuantizeLinear(j, t, o); "
        if integer:
            body += f"{self.integer}; y = DequantizeLinear(r, {self.read})"
        else:
            body += f"f = DequantizeLinear(q, s, z); g = DequantizeLinear(p, t, o); {self.plain}; "
            body += "y = Identity(w)" if self.read != "u, z" else "r = QuantizeLinear(w, u, z); y = DequantizeLinear(r, u, z)"
        return net(body.replace("; ", "\n"), self.x, self.y, domains=DOMAIN, **constants)


def conv(integer: str = "pads=[1,1,1,1]", scales: np.ndarray | float = 0.0021, bias: bool = True, outer: str = "{}") -> Case:
    scales = np.asarray(scales, np.float32)
    axis = "<axis=0>" if scales.ndim else ""
    constants = {"k": codes(4, 4, 3, 3, seed=1), "ks": scales, "kz": np.zeros(scales.shape, np.int8)}
    plain = f"v = DequantizeLinear{axis}(k, ks, kz)"
    if bias:
        constants |= {"kb": codes(4, kind=np.int32, seed=2, bits=13), "bs": scales * np.float32(0.0213)}
        plain += f"; b = DequantizeLinear{axis}(kb, bs)"
    tail = ", kb" if bias else ""
    return Case(
        outer.format(f"QLinearConv<{integer}>", f"s, z, k, ks, kz, u, z{tail}"),
        f"{plain}; w = Conv<pads=[1,1,1,1]>(f, v{', b' if bias else ''})",
        constants=constants,
    )


def matmul(scales: Any, y: str = "float[2,5,5] y") -> Case:
    scales = np.asarray(scales, np.float32)
    axis = "<axis=1>" if scales.ndim else ""
    constants = {"k": codes(6, 5, seed=3), "ks": scales, "kz": np.zeros(scales.shape, np.int8)}
    plain = f"v = DequantizeLinear{axis}(k, ks, kz); w = MatMul(f, v)"
    return Case("r = QLinearMatMul(q, s, z, k, ks, kz, u, z)", plain, "float[2,5,6] x", y, constants)


def gemm(alpha: float) -> Case:
    scales = data(5, low=0.3) / 200
    bias = scales * np.float32(0.0213)
    constants = {"k": codes(5, 144, seed=3), "ks": scales, "kz": np.zeros(5, np.int8), "kb": np.arange(5, dtype=np.int32) * 900}
    constants["bs"] = bias if alpha == 1 else bias * np.float32(alpha)
    return Case(
        f"a = Flatten(q); r = {M}QGemm<transB=1, alpha={alpha}>(a, s, z, k, ks, kz, kb, u, z)",
        "a = Flatten(f); v = DequantizeLinear<axis=0>(k, ks, kz); b = DequantizeLinear<axis=0>(kb, bs); "
        f"w = Gemm<transB=1, alpha={alpha}>(a, v, b)",
        y="float[2,5] y",
        constants=constants,
    )


def table(dtype: Any) -> np.ndarray:
    return codes(6, kind=dtype, seed=1)


def one(dtype: Any) -> np.ndarray:
    return np.asarray(1, dtype)


NHWC = "a = Transpose<perm=[0,2,3,1]>(q); c = com.microsoft.{}(a, {}); r = Transpose<perm=[0,3,1,2]>(c)"
POOL = "kernel_shape=[2,2], strides=[2,2]"
WIDE = "kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,1]"
HALF, POINT = "float[2,4,3,3] y", "float[2,4,1,1] y"
MOVED = {"read": "s, z"}
OPERATORS = {
    "QLinearConv": conv(outer="r = {}(q, {})"),
    "QLinearConv per channel": conv(scales=[0.0021, 0.0014, 0.0033, 0.0027], outer="r = {}(q, {})"),
    "QLinearConv without bias": conv(bias=False, outer="r = {}(q, {})"),
    "QLinearConv, auto_pad": conv('auto_pad="SAME_UPPER"', outer="r = {}(q, {})"),
    "QLinearConv, channels last": conv("pads=[1,1,1,1], channels_last=1", outer=NHWC),
    "QLinearMatMul": matmul(0.0044),
    "QLinearMatMul per column": matmul(data(5, low=0.3) / 90),
    "QLinearMatMul of activations": Case(
        "a = Transpose<perm=[0,2,1]>(p); r = QLinearMatMul(q, s, z, a, t, o, u, z)",
        "a = Transpose<perm=[0,2,1]>(g); w = MatMul(f, a)",
        "float[2,5,6] x",
        "float[2,5,5] y",
    ),
    "QGemm": gemm(1.0),
    "QGemm, alpha": gemm(0.5),
    "QLinearAdd": Case(f"r = {M}QLinearAdd(q, s, z, p, t, o, u, z)", "w = Add(f, g)"),
    "QLinearAdd of a constant": Case(
        f"r = {M}QLinearAdd(q, s, z, k, t, o, u, z)", "v = DequantizeLinear(k, t, o); w = Add(f, v)", constants={"k": table}
    ),
    "QLinearMul": Case(f"r = {M}QLinearMul(q, s, z, p, t, o, u, z)", "w = Mul(f, g)"),
    "QLinearLeakyRelu": Case(f"r = {M}QLinearLeakyRelu<alpha=0.2>(q, s, z, u, z)", "w = LeakyRelu<alpha=0.2>(f)"),
    "QLinearSigmoid": Case(f"r = {M}QLinearSigmoid(q, s, z, u, z)", "w = Sigmoid(f)"),
    "QLinearConcat": Case(
        f"r = {M}QLinearConcat<axis=1>(u, z, q, s, z, p, t, o)", "w = Concat<axis=1>(f, g)", y="float[2,8,6,6] y"
    ),
    "QLinearWhere": Case(
        f"r = {M}QLinearWhere(m, q, s, z, p, t, o, u, z)", "w = Where(m, f, g)", constants={"m": codes(4, 6, 6) > 0}
    ),
    "QLinearGlobalAveragePool": Case(f"r = {M}QLinearGlobalAveragePool(q, s, z, u, z)", "w = GlobalAveragePool(f)", y=POINT),
    "QLinearGlobalAveragePool, channels last": Case(
        NHWC.format("QLinearGlobalAveragePool<channels_last=1>", "s, z, u, z"), "w = GlobalAveragePool(f)", y=POINT
    ),
    "QLinearAveragePool": Case(f"r = {M}QLinearAveragePool<{POOL}>(q, s, z, u, z)", f"w = AveragePool<{POOL}>(f)", y=HALF),
    "QLinearAveragePool on one scale": Case(
        f"r = {M}QLinearAveragePool<{POOL}>(q, s, z, u, z)",
        f"w = AveragePool<{POOL}>(f)",
        y=HALF,
        constants={"u": np.float32(0.0213)},
    ),
    "QLinearAveragePool, padded": Case(
        f"r = {M}QLinearAveragePool<{WIDE}>(q, s, z, u, z)",
        f"w = AveragePool<{WIDE}>(f)",
        y=HALF,
        constants={"u": np.float32(0.0213)},
    ),
    "QLinearAveragePool, padding counted": Case(
        f"r = {M}QLinearAveragePool<{WIDE}, count_include_pad=1>(q, s, z, u, z)",
        f"w = AveragePool<{WIDE}, count_include_pad=1>(f)",
        y=HALF,
        constants={"u": np.float32(0.0213)},
    ),
    "QLinearAveragePool, channels last": Case(
        NHWC.format(f"QLinearAveragePool<{POOL}, channels_last=1>", "s, z, u, z"), f"w = AveragePool<{POOL}>(f)", y=HALF
    ),
    "QLinearAveragePool on one scale, channels last": Case(
        NHWC.format(f"QLinearAveragePool<{POOL}, channels_last=1>", "s, z, u, z"),
        f"w = AveragePool<{POOL}>(f)",
        y=HALF,
        constants={"u": np.float32(0.0213)},
    ),
    "QLinearReduceMean": Case(
        f"r = {M}QLinearReduceMean<axes=[2,3], keepdims=0>(q, s, z, u, z)",
        "w = ReduceMean<keepdims=0>(f, a)",
        y="float[2,4] y",
        constants={"a": np.int64([2, 3])},
        kernel=False,
    ),
    "MaxPool": Case(f"r = MaxPool<{POOL}>(q)", f"w = MaxPool<{POOL}>(f)", y=HALF, **MOVED),
    "NhwcMaxPool": Case(
        f"a = Transpose<perm=[0,2,3,1]>(q); c = {M}NhwcMaxPool<{POOL}>(a); r = Transpose<perm=[0,3,1,2]>(c)",
        f"w = MaxPool<{POOL}>(f)",
        y=HALF,
        **MOVED,
    ),
    "Split, Concat": Case(
        "a, b = Split<axis=1, num_outputs=2>(q); r = Concat<axis=1>(b, a)",
        "a, b = Split<axis=1, num_outputs=2>(f); w = Concat<axis=1>(b, a)",
        **MOVED,
    ),
    "Concat with a constant": Case(
        "r = Concat<axis=3>(q, k)",
        "v = DequantizeLinear(k, s, z); w = Concat<axis=3>(f, v)",
        y="float[2,4,6,7] y",
        constants={"k": lambda d: codes(2, 4, 6, 1, kind=d)},
        **MOVED,
    ),
    "Pad by default": Case(
        "r = Pad(q, k)",
        "v = DequantizeLinear(e, s, z); w = Pad(f, k, v)",
        y="float[2,4,7,6] y",
        constants={"k": np.int64([0, 0, 1, 0] + [0] * 4), "e": lambda d: np.asarray(0, d)},
        **MOVED,
    ),
    "Pad with a code": Case(
        "r = Pad(q, k, e)",
        "v = DequantizeLinear(e, s, z); w = Pad(f, k, v)",
        y="float[2,4,7,6] y",
        constants={"k": np.int64([0, 0, 1, 0] + [0] * 4), "e": one},
        **MOVED,
    ),
    "Where": Case(
        "r = Where(m, q, k)",
        "v = DequantizeLinear(k, s, z); w = Where(m, f, v)",
        constants={"k": table, "m": codes(4, 6, 6) > 0},
        **MOVED,
    ),
    "Reshape, Slice, Gather": Case(
        "a = Reshape(q, k); b = Slice(a, k0, k1, k0); r = Gather<axis=1>(b, i)",
        "a = Reshape(f, k); b = Slice(a, k0, k1, k0); w = Gather<axis=1>(b, i)",
        y="float[1,3,36] y",
        constants={"k": np.int64([2, 4, 36]), "k0": np.int64([0]), "k1": np.int64([1]), "i": np.int64([2, 0, 2])},
        **MOVED,
    ),
}
KINDS = ["int8", "uint8", "after relu"]
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def image(case: Case) -> np.ndarray:
    dims = case.x[case.x.index("[") + 1 : case.x.index("]")].split(",")
    return data(*map(int, dims), seed=3)


@every_operator
@every_kind
def test_operator_outputs_are_the_runtimes(name: str, kind: str) -> None:
    case = OPERATORS[name]
    x, model = image(case), case.model(kind, integer=True)
    compiled = onnxlrp.compile(model, "epsilon", explain=["x"])
    assert not any(n.domain or n.op_type.startswith(("Quantize", "QLinear")) for n in compiled.graph.node)
    found, wanted = run(compiled, x=x)["y"], run(model if case.kernel else case.model(kind, False), x=x)["y"]
    steps = np.abs(found - wanted) / 0.0213  # the finer scale
    fused = "QLinearAdd" in name  # its kernel uses fused multiply-add
    assert steps.max() < (2 if fused else 1e-3)
    assert np.mean(steps > 0.5) <= (0.01 if fused else 0)
    assert np.abs(found).max() > 0


@every_operator
@every_kind
@pytest.mark.parametrize("composite", ["epsilon", "zplus"])
def test_operator_relevance_is_that_of_its_float_form(name: str, kind: str, composite: str) -> None:
    case = OPERATORS[name]
    integer, plain = (case.model(kind, form) for form in (True, False))
    x = image(case)
    r = data(*run(plain, x=x)["y"].shape, seed=5)
    found, wanted = (
        lrp(m, {"x": x, "relevance_out": r}, composite, init="given", explain=["x"])["relevance.x"] for m in (integer, plain)
    )
    near(found, wanted, 1e-5)
    assert np.abs(found).max() > 0


# ------------------------------------------------------------------------------------------- networks, by the quantiser


class Samples(CalibrationDataReader):
    """Eight inputs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.left = iter([{"x": data(*shape, seed=100 + i)} for i in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def convolutional() -> onnx.ModelProto:
    """Convolutions with a residual sum, max and mean pools, LeakyRelu, two dense layers."""
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        c = Conv<pads=[1,1,1,1]>(p, w2, b2)
        s = Add(c, p)
        t = Relu(s)
        m = AveragePool<kernel_shape=[2,2], strides=[2,2]>(t)
        d = Conv<pads=[1,1,1,1]>(m, w3, b3)
        l = LeakyRelu<alpha=0.1>(d)
        f = Flatten(l)
        g = Gemm(f, v, cv)
        e = Relu(g)
        y = Gemm(e, u, cu)
    """
    weights = {"w1": weight(8, 3, 3, 3), "w2": weight(8, 8, 3, 3, seed=3), "w3": weight(16, 8, 3, 3, seed=5),
               "v": weight(144, 16, seed=7), "u": weight(16, 5, seed=9)}  # fmt: skip
    biases = {"b1": 8, "b2": 8, "b3": 16, "cv": 16, "cu": 5}
    more = {name: data(size, seed=10 + size + len(name)) / 8 for name, size in biases.items()}
    return net(body, "float[N,3,12,12] x", "float[N,5] y", **weights, **more)


def perceptron() -> onnx.ModelProto:
    """Two MatMul with bias, one Gemm."""
    body = "a = MatMul(x, w1)\nb = Add(a, b1)\nr = Relu(b)\nc = MatMul(r, w2)\nd = Add(c, b2)\ne = Relu(d)\ny = Gemm(e, w3, b3)"
    weights = {"w1": weight(64, 48), "w2": weight(48, 32, seed=3), "w3": weight(32, 7, seed=5)}
    biases = {"b1": data(48, seed=2) / 4, "b2": data(32, seed=4) / 4, "b3": data(7, seed=6) / 4}
    return net(body, "float[N,64] x", "float[N,7] y", **weights, **biases)


NETS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "convolutional": (convolutional, (2, 3, 12, 12)),
    "perceptron": (perceptron, (2, 64)),
}
TYPES = {"S8": QuantType.QInt8, "U8": QuantType.QUInt8}
STATIC = [
    (form, activations, weights, channels)
    for form in ("QDQ", "QOperator")
    for activations, weights in (("S8", "S8"), ("U8", "S8"), ("U8", "U8"))
    for channels in (False, True)
]
WAYS = {f"{f} {a}{w}{' per channel' if c else ''}": (f, a, w, c) for f, a, w, c in STATIC}
WAYS |= {f"dynamic {w}{' per channel' if c else ''}": ("dynamic", "", w, c) for w in TYPES for c in (False, True)}
every_way = pytest.mark.parametrize(("name", "way"), [(n, w) for n in NETS for w in WAYS])


@cache
def quantised(name: str, way: str, narrow: bool) -> onnx.ModelProto:
    """What the runtime's tool makes of a network. narrow: weights of 7 bits (reduce_range)."""
    form, activations, weights, channels = WAYS[way]
    build, shape = NETS[name]
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "codes.onnx")
        onnx.save(build(), source)
        common = {"weight_type": TYPES[weights], "per_channel": channels, "reduce_range": narrow}
        if form == "dynamic":
            quantize_dynamic(source, target, **common)
        else:
            kind = {"quant_format": QuantFormat[form], "activation_type": TYPES[activations]}
            quantize_static(source, target, Samples(shape), **kind, **common)
        model = onnx.load(target)
    logging.disable(logging.NOTSET)
    return model


def rows(name: str, seed: int = 500) -> np.ndarray:
    """Sixteen inputs of a network."""
    return data(16, *NETS[name][1][1:], seed=seed)


@every_way
def test_network_outputs_are_the_runtimes(name: str, way: str) -> None:
    model, x = quantised(name, way, True), rows(name)
    found, wanted = (run(m, x=x)["y"] for m in (onnxlrp.compile(model, "epsilon_plus"), model))
    # QLinearAdd (the biases of the perceptron) uses fused multiply-add: a step of difference where two codes are as near
    close = np.abs(found - wanted).max(1) <= 1e-6 * np.abs(wanted).max()
    assert np.mean(close) >= (0.8 if name == "perceptron" and way.startswith("Q") else 1)


@cache
def in_float(name: str, composite: str) -> np.ndarray:
    """Relevance of the float network for class 1, one row an input."""
    found = lrp(NETS[name][0](), {"x": rows(name)}, composite, target=[1])["relevance.x"]
    return found.reshape(len(found), -1)


@every_way
@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_plus_flat"])
def test_network_is_explained_as_in_float(name: str, way: str, composite: str) -> None:
    if name == "perceptron" and composite == "epsilon_plus_flat":
        composite = "zplus"  # Flat on the first of three dense layers makes one value of a row
    small = lrp(quantised(name, way, False), {"x": rows(name)}, composite, target=[1])["relevance.x"]
    alike = [np.corrcoef(a.ravel(), b)[0, 1] for a, b in zip(small, in_float(name, composite), strict=True)]
    assert np.median(alike) > (0.95 if name == "perceptron" and composite == "epsilon_plus" else 0.98)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("way", ["QDQ U8S8", "QOperator U8S8", "dynamic S8"])
def test_network_has_the_layers_of_its_parent(name: str, way: str) -> None:
    def layers(model: onnx.ModelProto) -> list[str]:
        shown = [la.op.split(" + ")[0] for la in onnxlrp.inspect(model, "epsilon_plus")]
        return ["MatMul" if op == "Gemm" else op for op in shown]

    found, wanted = layers(quantised(name, way, False)), layers(NETS[name][0]())
    if name == "perceptron" and way != "dynamic S8":  # the bias of a MatMul is quantised on its own there
        found = [op for op in found if op != "Add"]
    assert found == wanted


@pytest.mark.parametrize("way", ["QDQ S8S8", "QOperator U8U8", "dynamic S8 per channel"])
def test_without_canonization(way: str) -> None:
    """What was written out here is read as one unit all the same."""
    model, x = quantised("convolutional", way, False), rows("convolutional")
    plain, folded = (lrp(model, {"x": x}, "epsilon_plus", target=[1], canonize=c)["relevance.x"] for c in (False, True))
    assert np.corrcoef(plain.ravel(), folded.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("way", WAYS)
def test_weights_stay_codes(way: str) -> None:
    wide = net(
        "h = MatMul(x, w)\nr = Relu(h)\ny = MatMul(r, v)",
        "float[N,300] x",
        "float[N,5] y",
        w=weight(300, 200),
        v=weight(200, 5),
    )
    NETS["wide"] = (lambda: wide, (2, 300))
    model = quantised("wide", way, False)
    del NETS["wide"]
    compiled = onnxlrp.compile(model, "zplus")
    assert compiled.ByteSize() < model.ByteSize() + 30_000


HEADS = {
    "softmax": (f"p = {M}QLinearSoftmax<axis=-1, opset=17>(g, t, o, u, i)", "y = DequantizeLinear(p, u, i)", "float[2,4] y"),
    "older softmax": (
        f"p = {M}QLinearSoftmax<axis=1, opset=12>(g, t, o, u, i)",
        "y = DequantizeLinear(p, u, i)",
        "float[2,4] y",
    ),
    "sigmoid": (f"p = {M}QLinearSigmoid(g, t, o, u, i)", "y = DequantizeLinear(p, u, i)", "float[2,4] y"),
    "codes": ("f = Flatten(g)", "y = Identity(f)", "uint8[2,4] y"),
    "class": ("y = ArgMax<axis=1>(g)", "", "int64[2,1] y"),
}


@pytest.mark.parametrize("name", HEADS)
def test_scores_are_explained(name: str) -> None:
    """What squashes, orders or codes the scores at the end is left out, quantised or not."""
    first, last, y = HEADS[name]
    body = f"q = QuantizeLinear(x, s, z)\ng = QLinearMatMul(q, s, z, w, t, k, t, o)\n{first}\n{last}"
    constants = {"s": 0.02, "t": 0.03, "u": 1 / 256}
    scales = {k: np.float32(v) for k, v in constants.items() if k != "u" or f" {k}," in body}
    more = {"i": np.uint8(0)} if "u" in scales else {}
    shared = {**scales, **more, "z": np.uint8(120), "o": np.uint8(100), "k": np.int8(0), "w": codes(6, 4, bits=4)}
    model = net(body, "float[2,6] x", y, domains=DOMAIN, **shared)
    body = "\n".join([*body.splitlines()[:2], "d = DequantizeLinear(g, t, o)"])
    plain = net(body, "float[2,6] x", "float[2,4] d", **{k: v for k, v in shared.items() if k not in "ui"})
    x = data(2, 6)
    out, wanted = (lrp(m, {"x": x}, "epsilon", target=[1], init="one") for m in (model, plain))
    assert np.array_equal(out["y"], run(model, x=x)["y"])
    near(out["relevance.x"], wanted["relevance.x"], 1e-5)


# ------------------------------------------------------------------------------------------ against the formula in numpy


def stab(z: np.ndarray) -> np.ndarray:
    return np.where(z >= 0, z + 1e-6, z - 1e-6)


def epsilon(x: np.ndarray, w: np.ndarray, z: np.ndarray, r: np.ndarray) -> np.ndarray:
    """x ⊙ (w (r / stab(z)))."""
    return x * ((r / stab(z)) @ w.T)


def test_dynamic_quantisation_by_hand() -> None:
    w, v, b = codes(6, 5, seed=1), codes(5, 4, seed=2), data(5, seed=3) / 3
    scales = {"ws": np.float32(0.021), "vs": np.float32(0.013)}
    body = """
        q, s, z = DynamicQuantizeLinear(x)
        k = Mul(s, ws)
        a = MatMulInteger(q, w, z)
        c = Cast<to=1>(a)
        m = Mul(c, k)
        h = Add(m, b)
        r = Relu(h)
        q2, s2, z2 = DynamicQuantizeLinear(r)
        k2 = Mul(vs, s2)
        a2 = MatMulInteger(q2, v, z2)
        c2 = Cast<to=1>(a2)
        y = Mul(k2, c2)
    """
    model = net(body, "float[N,6] x", "float[N,4] y", w=w, v=v, b=b, **scales)
    x = data(3, 6)
    out = lrp(model, {"x": x}, "epsilon", target=[2])

    def fake(t: np.ndarray) -> np.ndarray:
        low, high = min(t.min(), 0), max(t.max(), 0)
        step = (high - low) / 255
        zero = np.rint(-low / step)
        return (np.clip(np.rint(t / step) + zero, 0, 255) - zero) * step

    first, second = w * 0.021, v * 0.013
    xs = fake(x.astype(np.float64))
    h = xs @ first + b
    hs = fake(np.maximum(h, 0))
    y = hs @ second
    r = np.zeros_like(y)
    r[:, 2] = y[:, 2]
    near(out["y"], y, 1e-5)
    near(out["relevance.x"], epsilon(xs, first, h, epsilon(hs, second, y, r)), 1e-5)


def test_static_quantisation_by_hand() -> None:
    w, v = codes(5, 6, seed=1), codes(4, 5, seed=2)
    ws, vs = data(5, low=0.2) / 50, data(4, low=0.2, seed=4) / 50
    scales = {"s": 0.02, "t": 0.03, "u": 0.05}
    kb = codes(5, kind=np.int32, seed=3, bits=10)
    constants = {k: np.float32(s) for k, s in scales.items()} | {"z": np.uint8(120), "o": np.uint8(0), "p": np.uint8(100)}
    constants |= {"w": w, "v": v, "ws": ws, "vs": vs, "wz": np.zeros(5, np.int8), "vz": np.zeros(4, np.int8), "kb": kb}
    body = f"""
        q = QuantizeLinear(x, s, z)
        h = {M}QGemm<transB=1>(q, s, z, w, ws, wz, kb, t, o)
        g = {M}QGemm<transB=1>(h, t, o, v, vs, vz, , u, p)
        y = DequantizeLinear(g, u, p)
    """
    model = net(body, "float[N,6] x", "float[N,4] y", domains=DOMAIN, **constants)
    x = data(3, 6)
    out = lrp(model, {"x": x}, "epsilon", target=[2])
    near(out["y"], run(model, x=x)["y"], 1e-6)

    def fake(t: np.ndarray, step: float, zero: int) -> np.ndarray:
        return (np.clip(np.rint(t / step) + zero, 0, 255) - zero) * step

    first, second = w.T * ws.astype(np.float64), v.T * vs.astype(np.float64)
    xs = fake(x, scales["s"], 120)
    h = xs @ first + kb * ws * scales["s"]
    hs = fake(h, scales["t"], 0)
    z = hs @ second
    y = fake(z, scales["u"], 100)
    r = np.zeros_like(y)
    r[:, 2] = y[:, 2]
    near(out["y"], y, 1e-5)
    near(out["relevance.x"], epsilon(xs, first, h, epsilon(hs, second, z, r)), 1e-5)


def test_nothing_flows_through_a_scale() -> None:
    """Without biases the relevance of x is the logit, whatever the scales found at run time are."""
    body = """
        q, s, z = DynamicQuantizeLinear(x)
        k = Mul(s, ws)
        a = ConvInteger<pads=[1,1,1,1]>(q, w, z)
        c = Cast<to=1>(a)
        m = Mul(c, k)
        r = Relu(m)
        g = GlobalAveragePool(r)
        y = Flatten(g)
    """
    model = net(body, "float[N,3,6,5] x", "float[N,4] y", w=codes(4, 3, 3, 3), ws=np.float32(0.01))
    assert [s.unit.op for s in onnxlrp.inspect(model).steps][:2] == ["QuantizeDequantize", "Conv"]
    out = lrp(model, {"x": data(2, 3, 6, 5)}, "epsilon", target=[1])
    near(out["relevance.x"].sum((1, 2, 3)), out["y"][:, 1], 1e-4)


# ------------------------------------------------------------------------------------------- integer products elsewhere


def integers(tail: str, y: str = "float[N,4] y", **more: Any) -> onnx.ModelProto:
    """Codes of x, MatMulInteger, and what follows; w has a zero point."""
    body = f"q, s, z = DynamicQuantizeLinear(x); a = MatMulInteger(q, w, z, o); {tail}".replace("; ", "\n")
    return net(body, "float[N,6] x", y, domains=DOMAIN, w=codes(6, 4), o=np.int8(3), **more)


PRODUCTS = {
    "the usual": ("c = Cast<to=1>(a); k = Mul(s, ws); y = Mul(c, k)", {"ws": np.float32(0.02)}, "MatMul"),
    "per column": ("c = Cast<to=1>(a); k = Mul(ws, s); y = Mul(k, c)", {"ws": data(4, low=0.1)}, "MatMul"),
    "two factors": ("c = Cast<to=1>(a); k = Mul(c, s); y = Mul(k, ws)", {"ws": np.float32(0.02)}, "MatMul, Mul, Mul"),
    "no scale": ("y = Cast<to=1>(a)", {}, "MatMul"),
    "a scale of rows": (
        "c = Cast<to=1>(a); t = ReduceMax<keepdims=1>(m, i); k = Mul(t, ws); y = Mul(c, k)",
        {"ws": np.float32(0.02), "m": data(2, 6), "i": np.int64([1])},
        "MatMul, Mul",
    ),
    "a constant": ("c = Cast<to=1>(a); y = Mul(c, ws)", {"ws": np.float32(0.02)}, "MatMul"),
    "a Reshape of the codes": ("c = Cast<to=1>(a); k = Mul(s, ws); y = Mul(c, k)", {"ws": np.float32(0.02)}, "MatMul"),
    "a bias": (
        "c = Cast<to=1>(a); k = Mul(s, ws); m = Mul(c, k); y = Add(b, m)",
        {"ws": np.float32(0.02), "b": data(4)},
        "MatMul",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_integer_products(name: str) -> None:
    tail, constants, shown = PRODUCTS[name]
    model = integers(tail, **constants)
    x = data(2, 6)
    steps = [s.unit.op for s in onnxlrp.inspect(model, "epsilon").steps]
    assert ", ".join(steps) == f"QuantizeDequantize, {shown}"
    out = lrp(model, {"x": x}, "epsilon", target=[1])
    near(out["y"], run(model, x=x)["y"], 1e-6)
    assert np.isfinite(out["relevance.x"]).all()
    assert np.abs(out["relevance.x"]).max() > 0
    if name != "a bias":
        near(out["relevance.x"].sum(1), out["y"][:, 1], 1e-3)


def test_integer_arithmetic_carries_no_relevance() -> None:
    model = integers("t = Add(a, k); y = Cast<to=1>(t)", k=np.int32(5))
    with pytest.raises(UnsupportedOp, match="does not depend on 'x' through operators that carry relevance"):
        onnxlrp.compile(model, "epsilon")


def test_integers_may_be_outputs() -> None:
    body = "q, s, z = DynamicQuantizeLinear(x)\na = MatMulInteger(q, w, z)\nc = Cast<to=1>(a)\ny = Relu(c)"
    model = net(body, "float[N,6] x", "float[N,4] y, int32[N,4] a, float[N,4] c, uint8[N,6] q", w=codes(6, 4))
    x = data(2, 6)
    out, wanted = lrp(model, {"x": x}, "epsilon", target=[1]), run(model, x=x)
    assert all(np.array_equal(out[k], wanted[k]) for k in "acq")
    assert np.abs(out["relevance.x"]).max() > 0


def test_a_zero_point_per_row_is_refused() -> None:
    body = "q = QuantizeLinear(x, s, z)\na = MatMulInteger(q, w, v)\ny = Cast<to=1>(a)"
    model = net(body, "float[2,6] x", "float[2,4] y", w=codes(6, 4), s=np.float32(0.02), z=np.uint8(3), v=np.uint8([3, 4]))
    with pytest.raises(UnsupportedOp, match="node 'a' \\(MatMulInteger\\): a zero point per row"):
        onnxlrp.compile(model, "epsilon")


# --------------------------------------------------------------------------------------------- what the runtime saves


SAVED = [("convolutional", way, level) for way in ("QDQ S8S8", "QDQ U8S8", "QOperator U8U8") for level in ("EXTENDED", "ALL")]
SAVED += [("convolutional", "dynamic S8", "EXTENDED"), ("perceptron", "dynamic U8", "EXTENDED")]


@pytest.mark.parametrize(("name", "way", "level"), SAVED)
def test_saved_by_the_runtime(name: str, way: str, level: str, tmp_path: Path) -> None:
    """At level ALL the convolutions of codes have their channels last, in domain com.microsoft still."""
    model, path, x = quantised(name, way, True), tmp_path / "saved.onnx", rows(name)
    save(model, path, level)
    domains = {n.op_type: n.domain for n in onnx.load(path).graph.node}
    assert {"QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & domains.keys()
    assert level == "EXTENDED" or domains["QLinearConv"] == "com.microsoft"
    out, wanted = (lrp(m, {"x": x}, "epsilon_plus", target=[1]) for m in (path, model))
    near(out["y"], wanted["y"], 1e-6)
    near(out["relevance.x"], wanted["relevance.x"], 1e-4)
