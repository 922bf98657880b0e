"""Rewrites keep the model's outputs, fire on every spelling, and leave alone what only looks alike."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from models_for_tests import data, lrp, near, net, relevance, run, weight

import onnxlrp
from onnxlrp.ops import OPS

C4, C3, W = data(4, seed=5), data(3, seed=6), weight(4, 3, 3, 3)
POSITIVE4, POSITIVE3 = data(4, seed=7, low=0.5), data(3, seed=8, low=0.5)
NORM4 = {"s": POSITIVE4, "t": C4, "m": C4[::-1].copy(), "q": POSITIVE4[::-1].copy()}
NORM3 = {"s": POSITIVE3, "t": C3, "m": C3[::-1].copy(), "q": POSITIVE3[::-1].copy()}
BN = "BatchNormalization<epsilon=0.01>"


class Case(NamedTuple):
    """A model as text, and the operators that its plan should show."""

    body: str
    plan: str
    constants: Mapping[str, Any] = MappingProxyType({})
    x: str = "float[N,3,6,5] x"
    y: str = "float[N,4,6,5] y"
    keep: tuple[str, ...] = ()

    def model(self) -> onnx.ModelProto:
        return net(self.body.replace("; ", "\n"), self.x, self.y, **self.constants)


CONV = "h = Conv<pads=[1,1,1,1]>(x, w, b); "
BARE = "h = Conv<pads=[1,1,1,1]>(x, w); "
PARTS = {"w": W, "b": C4, **NORM4}
UP = C4.reshape(4, 1, 1)
MAT = {"x": "float[N,3] x", "y": "float[N,4] y"}
SEQ = {"x": "float[N,7,3] x", "y": "float[N,7,4] y"}
V = weight(3, 4)

FOLD_BACK = {
    "batch norm": Case(CONV + f"y = {BN}(h, s, t, m, q)", "Conv", PARTS),
    "batch norm, no bias": Case(BARE + f"y = {BN}(h, s, t, m, q)", "Conv", PARTS),
    "batch norm, relu": Case(CONV + f"n = {BN}(h, s, t, m, q); y = Relu(n)", "Conv + Relu", PARTS),
    "two batch norms": Case(CONV + f"n = {BN}(h, s, t, m, q); y = {BN}(n, s, t, m, q)", "Conv", PARTS),
    "mul add": Case(CONV + "n = Mul(h, k); y = Add(n, d)", "Conv", {**PARTS, "k": UP, "d": UP}),
    "constants on the left": Case(CONV + "n = Mul(k, h); y = Add(d, n)", "Conv", {**PARTS, "k": UP, "d": UP}),
    "sub div": Case(BARE + "n = Sub(h, k); y = Div(n, d)", "Conv", {**PARTS, "k": UP, "d": POSITIVE4.reshape(1, 4, 1, 1)}),
    "add": Case(BARE + "y = Add(h, k)", "Conv", {**PARTS, "k": UP}),
    "scalars": Case(BARE + "n = Mul(h, k); y = Add(n, k)", "Conv", {**PARTS, "k": np.float32(1.7)}),
    "scalar sub": Case(CONV + "y = Sub(h, k)", "Conv", {**PARTS, "k": np.float32([0.7])}),
    "constant computed in the graph": Case(
        CONV + "u = Unsqueeze(k, axes); n = Exp(u); y = Mul(h, n)", "Conv", {**PARTS, "k": C4, "axes": np.int64([1, 2])}
    ),
    "shape of the middle is asked for": Case(
        CONV + f"n = {BN}(h, s, t, m, q); z = Shape(h); y = Reshape(n, z)", "Conv, Reshape", PARTS
    ),
    "channels last": Case(
        CONV + "p = Transpose<perm=[0,2,3,1]>(h); n = Mul(p, s); y = Add(n, t)", "Conv", PARTS, y="float[N,6,5,4] y"
    ),
    "channels last, batch norm after": Case(
        CONV + f"p = Transpose<perm=[0,1,3,2]>(h); y = {BN}(p, s, t, m, q)", "Conv", PARTS, y="float[N,4,5,6] y"
    ),
    "grouped conv": Case(
        f"h = Conv<group=3>(x, w); y = {BN}(h, s, t, m, q)",
        "Conv",
        {"w": weight(6, 1, 3, 3), "s": data(6, low=0.5), "t": data(6), "m": data(6, seed=3), "q": data(6, low=0.5)},
        y="float[N,6,4,3] y",
    ),
    "conv transpose": Case(
        f"h = ConvTranspose<strides=[2,2]>(x, w, b); y = {BN}(h, s, t, m, q)",
        "ConvTranspose",
        {**PARTS, "w": weight(3, 4, 2, 2)},
        y="float[N,4,12,10] y",
    ),
    "grouped conv transpose": Case(
        f"h = ConvTranspose<group=2, strides=[2,2]>(x, w); n = {BN}(h, s, t, m, q); y = Mul(n, two)",
        "ConvTranspose",
        {
            "w": weight(4, 3, 2, 2),
            "s": data(6, low=0.5),
            "t": data(6),
            "m": data(6, seed=3),
            "q": data(6, low=0.5),
            "two": np.float32(2),
        },
        x="float[N,4,6,5] x",
        y="float[N,6,12,10] y",
    ),
    "gemm, batch norm": Case(f"h = Gemm(x, w, b); y = {BN}(h, s, t, m, q)", "Gemm", {**PARTS, "w": V}, **MAT),
    "gemm transB": Case("h = Gemm<transB=1>(x, w, b); n = Mul(h, s); y = Add(n, t)", "Gemm", {**PARTS, "w": V.T.copy()}, **MAT),
    "gemm, no bias": Case("h = Gemm(x, w); n = Div(h, s); y = Sub(n, t)", "Gemm", {**PARTS, "w": V}, **MAT),
    "matmul, batch norm": Case(f"h = MatMul(x, w); y = {BN}(h, s, t, m, q)", "MatMul", {**PARTS, "w": V}, **MAT),
    "matmul, bias, batch norm": Case(
        f"h = MatMul(x, w); n = Add(h, b); y = {BN}(n, s, t, m, q)", "MatMul", {**PARTS, "w": V}, **MAT
    ),
    "matmul, mul, add": Case("h = MatMul(x, w); n = Mul(h, s); y = Add(n, t)", "MatMul", {**PARTS, "w": V}, **SEQ),
    "1-D": Case(
        f"h = Conv(x, w, b); y = {BN}(h, s, t, m, q)",
        "Conv",
        {**PARTS, "w": weight(4, 3, 3)},
        x="float[N,3,9] x",
        y="float[N,4,7] y",
    ),
}

NOT_BACK = {
    "another consumer": Case(CONV + f"n = {BN}(h, s, t, m, q); y = Add(n, h)", "Conv, BatchNormalization, Add", PARTS),
    "middle is an output": Case(
        CONV + f"y = {BN}(h, s, t, m, q)", "Conv, BatchNormalization", PARTS, y="float[N,4,6,5] y, float[N,4,6,5] h"
    ),
    "middle is kept": Case("[conv] " + CONV + f"y = {BN}(h, s, t, m, q)", "Conv, BatchNormalization", PARTS, keep=("h",)),
    "position table": Case(CONV + "y = Add(h, k)", "Conv, Add", {**PARTS, "k": data(4, 6, 5)}),
    "wrong axis": Case(CONV + "y = Mul(h, k)", "Conv, Mul", {**PARTS, "k": data(5)}),
    "reflected sub": Case(CONV + "y = Sub(k, h)", "Conv, Sub", {**PARTS, "k": UP}),
    "reflected div": Case(CONV + "y = Div(k, h)", "Conv + Div", {**PARTS, "w": np.abs(W) / 9, "b": POSITIVE4 + 9, "k": UP}),
    "more axes": Case(CONV + "y = Mul(h, k)", "Conv, Mul", {**PARTS, "k": data(2, 1, 1, 1, 1)}, y="float[2,N,4,6,5] y"),
    "more channels": Case(
        "h = Conv<pads=[1,1,1,1]>(x, w); n = Mul(h, k); y = Add(n, d)", "Conv, Mul, Add", {"w": W[:1], "k": UP, "d": UP}
    ),
    "more channels, add": Case("h = Conv<pads=[1,1,1,1]>(x, w); y = Add(h, k)", "Conv, Add", {"w": W[:1], "k": UP}),
    "more channels, matmul": Case("h = MatMul(x, w); y = Add(h, k)", "MatMul, Add", {"w": V[:, :1], "k": C4}, **MAT),
    "active constants": Case(CONV + "y = Mul(h, k)", "Conv, Mul", PARTS, x="float[N,3,6,5] x, float[N,4,1,1] k"),
    "matmul, wrong axis": Case("h = MatMul(x, w); y = Mul(h, k)", "MatMul, Mul", {"w": V, "k": data(7, 1)}, **SEQ),
    "matmul, position table": Case("h = MatMul(x, w); y = Add(h, k)", "MatMul, Add", {"w": V, "k": data(7, 4)}, **SEQ),
    "matmul by a vector": Case(
        "h = MatMul(x, w); y = Mul(h, k)",
        "MatMul, Mul",
        {"w": data(3), "k": data(7)},
        x="float[N,7,3] x",
        y="float[N,7] y",
    ),
    "matmul, weight on the left": Case(
        f"h = MatMul(w, x); y = {BN}(h, s, t, m, q)",
        "MatMul, BatchNormalization",
        {"w": weight(2, 7), "s": POSITIVE3[:2], "t": C3[:2], "m": C3[:2], "q": POSITIVE3[:2]},
        x="float[N,7,3] x",
        y="float[N,2,3] y",
    ),
    "training-mode-free dropout between": Case(
        CONV + f"d = Dropout(h); y = {BN}(d, s, t, m, q)", "Conv, Dropout, BatchNormalization", PARTS
    ),
}

P3 = {"p": np.int64([0, 0, 1, 2, 0, 0, 0, 1])}
RELU = "r = Relu(x); a = MaxPool<kernel_shape=[2,2]>(r); "  # no linear layer before, and not a scaled input
SMALLER = {"y": "float[N,4,3,2] y"}
FOLD_FORWARD = {
    "batch norm": Case(
        RELU + f"n = {BN}(a, s, t, m, q); y = Conv(n, w, b)", "Relu, MaxPool, Conv", {"w": W, "b": C4, **NORM3}, **SMALLER
    ),
    "batch norm, strided": Case(
        RELU + f"n = {BN}(a, s, t, m, q); y = Conv<strides=[2,1]>(n, w)",
        "Relu, MaxPool, Conv",
        {"w": W, **NORM3},
        y="float[N,4,2,2] y",
    ),
    "mul add": Case(
        RELU + "n = Mul(a, k); o = Add(n, d); y = Conv(o, w)",
        "Relu, MaxPool, Conv",
        {"w": W, "k": POSITIVE3.reshape(3, 1, 1), "d": C3.reshape(1, 3, 1, 1)},
        **SMALLER,
    ),
    "gemm": Case(f"r = Relu(x); n = {BN}(r, s, t, m, q); y = Gemm(n, v, b)", "Relu, Gemm", {"v": V, "b": C4, **NORM3}, **MAT),
    "gemm transB": Case(
        f"r = Relu(x); n = {BN}(r, s, t, m, q); y = Gemm<transB=1>(n, v)", "Relu, Gemm", {"v": V.T.copy(), **NORM3}, **MAT
    ),
    "matmul": Case(f"r = Relu(x); n = {BN}(r, s, t, m, q); y = MatMul(n, v)", "Relu, MatMul", {"v": V, **NORM3}, **MAT),
    "matmul, bias": Case(
        f"r = Relu(x); n = {BN}(r, s, t, m, q); h = MatMul(n, v); y = Add(h, b)",
        "Relu, MatMul",
        {"v": V, "b": C4, **NORM3},
        **MAT,
    ),
    "matmul, mul add": Case(
        "r = Relu(x); n = Mul(r, s); o = Add(n, t); y = MatMul(o, v)", "Relu, MatMul", {"v": V, **NORM3}, **SEQ
    ),
}
NOT_FORWARD = {
    "padding": Case(
        RELU + f"n = {BN}(a, s, t, m, q); y = Conv<pads=[0,0,0,1]>(n, w)",
        "Relu, MaxPool, BatchNormalization, Conv",
        {"w": W, **NORM3},
        y="float[N,4,3,3] y",
    ),
    "a Pad between": Case(
        RELU + f"n = {BN}(a, s, t, m, q); o = Pad(n, p); y = Conv(o, w)",
        "Relu, MaxPool, BatchNormalization, Conv",
        {"w": W, **NORM3, **P3},
        y="float[N,4,4,5] y",
    ),
    "relu between, as in DenseNet": Case(
        RELU + f"n = {BN}(a, s, t, m, q); o = Relu(n); y = Conv(o, w)",
        "Relu, MaxPool, BatchNormalization + Relu, Conv",
        {"w": W, **NORM3},
        **SMALLER,
    ),
    "another consumer": Case(
        RELU + f"n = {BN}(a, s, t, m, q); g = Conv(n, w); i = GlobalAveragePool(n); j = ReduceMean<keepdims=0>(i, axes); "
        "l = Unsqueeze(j, axes); y = Add(g, l)",
        "Relu, MaxPool, BatchNormalization, Conv, GlobalAveragePool, ReduceMean, Add",
        {"w": W, **NORM3, "axes": np.int64([1])},
        **SMALLER,
    ),
    "groups": Case(
        RELU + f"n = {BN}(a, s, t, m, q); y = Conv<group=3>(n, w)",
        "Relu, MaxPool, BatchNormalization, Conv",
        {"w": weight(6, 1, 3, 3), **NORM3},
        y="float[N,6,3,2] y",
    ),
    "input scaling": Case(
        f"n = {BN}(x, s, t, m, q); y = Conv(n, w)", "BatchNormalization, Conv", {"w": W, **NORM3}, y="float[N,4,4,3] y"
    ),
    "input scaling, mul add": Case(
        "n = Mul(x, k); o = Add(n, k); y = Conv(o, w)",
        "Mul, Add, Conv",
        {"w": W, "k": C3.reshape(3, 1, 1)},
        y="float[N,4,4,3] y",
    ),
    "two scalars": Case(
        RELU + "n = Mul(a, k); o = Add(n, k); y = Conv(o, w)",
        "Relu, MaxPool, Mul, Add, Conv",
        {"w": W, "k": np.float32(0.5)},
        **SMALLER,
    ),
    "a lone add": Case(
        RELU + "n = Add(a, k); y = Conv(n, w)", "Relu, MaxPool, Add, Conv", {"w": W, "k": C3.reshape(3, 1, 1)}, **SMALLER
    ),
    "not per channel": Case(
        RELU + "n = Mul(a, k); o = Add(n, d); y = Conv(o, w)",
        "Relu, MaxPool, Affine, Conv",
        {"w": W, "k": data(4), "d": data(4, seed=2)},
        **SMALLER,
    ),
    "table": Case(
        RELU + "n = Mul(a, k); o = Add(n, d); y = Conv(o, w)",
        "Relu, MaxPool, Mul, Add, Conv",
        {"w": W, "k": data(3, 5, 4), "d": data(3, 1, 1)},
        **SMALLER,
    ),
    "kept": Case(
        RELU + f"n = {BN}(a, s, t, m, q); y = Conv(n, w, b)",
        "Relu, MaxPool, BatchNormalization, Conv",
        {"w": W, "b": C4, **NORM3},
        **SMALLER,
        keep=("n",),
    ),
}

PADS = {
    "zeros": Case("o = Pad(x, p); y = Conv(o, w, b)", "Conv", {**PARTS, **P3}, y="float[N,4,5,6] y"),
    "explicit zero": Case(
        "o = Pad(x, p, z); y = Conv<pads=[1,0,0,1]>(o, w, b)", "Conv", {**PARTS, **P3, "z": np.float32(0)}, y="float[N,4,6,7] y"
    ),
    "axes": Case(
        "o = Pad(x, p, z, a); y = Conv(o, w)",
        "Conv",
        {**PARTS, "p": np.int64([2, 1, 0, 1]), "z": np.float32(0), "a": np.int64([-1, 2])},
        y="float[N,4,6,5] y",
    ),
    "before SAME": Case(
        'o = Pad(x, p); y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(o, w)', "Conv", {**PARTS, **P3}, y="float[N,4,4,4] y"
    ),
    "strides, dilations": Case(
        "o = Pad(x, p); y = Conv<strides=[2,1], dilations=[1,2]>(o, w)", "Conv", {**PARTS, **P3}, y="float[N,4,3,4] y"
    ),
}
NOT_PADS = {
    "ones": Case("o = Pad(x, p, z); y = Conv(o, w)", "Pad, Conv", {**PARTS, **P3, "z": np.float32(1)}, y="float[N,4,5,6] y"),
    "reflect": Case('o = Pad<mode="reflect">(x, p); y = Conv(o, w)', "Pad, Conv", {**PARTS, **P3}, y="float[N,4,5,6] y"),
    "crop": Case(
        "o = Pad(x, p); y = Conv(o, w)", "Pad, Conv", {**PARTS, "p": np.int64([0, 0, -1, 2, 0, 0, 0, 1])}, y="float[N,4,3,6] y"
    ),
    "channels": Case(
        "o = Pad(x, p); y = Conv(o, w)",
        "Pad, Conv",
        {"w": weight(4, 4, 3, 3), "p": np.int64([0, 1, 0, 0, 0, 0, 0, 0])},
        y="float[N,4,4,3] y",
    ),
    "another consumer": Case(
        "o = Pad(x, p); c = Conv(o, w); g = GlobalMaxPool(o); e = Conv(g, u); y = Add(c, e)",
        "Pad, Conv, GlobalMaxPool, Conv, Add",
        {**PARTS, **P3, "u": weight(4, 3, 1, 1)},
        y="float[N,4,5,6] y",
    ),
    "kept": Case("o = Pad(x, p); y = Conv(o, w)", "Pad, Conv", {**PARTS, **P3}, y="float[N,4,5,6] y", keep=("o",)),
    "max pool": Case("o = Pad(x, p); y = MaxPool<kernel_shape=[4,4]>(o)", "Pad, MaxPool", P3, y="float[N,3,4,5] y"),
}


def auto(op: str, mode: str, size: str, strides: str, more: str = "") -> Case:
    """A row for auto_pad; where the sizes are known at run time only, a strided Conv gets a Pad in front."""
    at_run_time = op == "Conv" and mode != "VALID" and (size, strides) == ("H,W", "2,3")
    body = f'y = {op}<auto_pad="{mode}", strides=[{strides}]{more}>(x{", w, b" if op.startswith("Conv") else ""})'
    w = weight(3, 4, 3, 2) if op == "ConvTranspose" else weight(4, 3, 3, 2)
    return Case(
        body,
        "Pad, Conv" if at_run_time else op,
        {"w": w, "b": C4} if op.startswith("Conv") else {},
        f"float[N,3,{size}] x",
        "float[N,C,A,B] y",
    )


AUTO_PAD = {
    f"{op} {mode} {size} stride {strides}{more}": auto(op, mode, size, strides, more)
    for op, more in [
        ("Conv", ""),
        ("Conv", ", dilations=[2,1]"),
        ("ConvTranspose", ""),
        ("MaxPool", ", kernel_shape=[3,2]"),
        ("AveragePool", ", kernel_shape=[3,2]"),
    ]
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    for size in ("6,5", "H,W")
    for strides in ("1,1", "2,3")
    if not ("dilations" in more and mode != "VALID")  # onnxruntime cannot
    and not ("Pool" in op and size == "H,W" and strides == "2,3")
}

A = weight(3, 4)
GEMM = {
    "alpha, beta": Case("y = Gemm<alpha=0.5, beta=2.0>(x, w, b)", "Gemm", {"w": V, "b": C4}, **MAT),
    "beta 0": Case("y = Gemm<beta=0.0>(x, w, b)", "Gemm", {"w": V, "b": C4}, **MAT),
    "transA": Case("y = Gemm<transA=1>(x, w, b)", "MatMul", {"w": V, "b": C4}, x="float[3,N] x", y="float[N,4] y"),
    "transA, transB, alpha": Case(
        "y = Gemm<transA=1, transB=1, alpha=3.0>(x, w)", "MatMul", {"w": V.T.copy()}, x="float[3,N] x", y="float[N,4] y"
    ),
    "active B": Case(
        "r = Gemm(x, v); z = Transpose<perm=[1,0]>(r); y = Gemm<alpha=2.0, beta=0.5>(r, z, b)",
        "Gemm, Mul, MatMul, Add",
        {"v": V, "b": data(2)},
        x="float[2,3] x",
        y="float[2,2] y",
    ),
    "active B transposed": Case(
        "r = Gemm(x, v); y = Gemm<transB=1>(r, r)", "Gemm, MatMul", {"v": V}, x="float[2,3] x", y="float[2,2] y"
    ),
    "active C": Case("r = Gemm(x, v); y = Gemm<beta=0.5>(x, v, r)", "Gemm, MatMul, Add", {"v": V}, **MAT),
    "weight on the left": Case(
        "y = Gemm(w, x, c)", "MatMul, Add", {"w": weight(2, 3), "c": data(2, 1)}, x="float[3,4] x", y="float[2,4] y"
    ),
    "scalar C": Case("y = Gemm(x, v, c)", "Gemm", {"v": V, "c": np.float32(0.5)}, **MAT),
    "row C": Case("y = Gemm(x, v, c)", "Gemm", {"v": V, "c": data(1, 4)}, **MAT),
    "table C": Case("y = Gemm(x, v, c)", "Gemm", {"v": V, "c": data(2, 4)}, x="float[2,3] x", y="float[2,4] y"),
}

TABLES = {
    "fold back": FOLD_BACK,
    "leave (back)": NOT_BACK,
    "fold forward": FOLD_FORWARD,
    "leave (forward)": NOT_FORWARD,
    "pad": PADS,
    "leave (pad)": NOT_PADS,
    "auto_pad": AUTO_PAD,
    "gemm": GEMM,
}
ROWS = [pytest.param(case, id=f"{table}: {name}") for table, cases in TABLES.items() for name, case in cases.items()]


def feeds(model: onnx.ModelProto, sizes: dict[str, int] | None = None, seed: int = 3) -> dict[str, np.ndarray]:
    """Normal data for each input; symbolic axes are 2 unless `sizes` says otherwise."""
    sizes = {"N": 2, "H": 7, "W": 8, **(sizes or {})}
    shapes = {i.name: [d.dim_value or sizes[d.dim_param] for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {name: data(*shape, seed=seed + k) for k, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("case", ROWS)
def test_rewrites(case: Case) -> None:
    model = case.model()
    given = feeds(model)
    compiled = onnxlrp.compile(model, "epsilon", layers=case.keep, explain=["x"])
    out, wanted = run(compiled, **given), run(model, **given)
    for name, value in wanted.items():
        near(out[name], value)
    assert np.isfinite(out["relevance.x"]).all()
    assert np.abs(out["relevance.x"]).max() > 0
    plan = json.loads({p.key: p.value for p in compiled.metadata_props}["onnxlrp.plan"])
    assert ", ".join(row["op"] for row in plan["layers"]) == case.plan


@pytest.mark.parametrize("case", [r for r in ROWS if r.id.startswith(("fold", "pad"))])
def test_no_fold_without_canonize(case: Case) -> None:
    model, given = case.model(), feeds(case.model())
    folded, plain = (len(onnxlrp.inspect(model, "epsilon", canonize=c).steps) for c in (True, False))
    assert plain > folded or case.body.count(";") == 0
    near(lrp(model, given, canonize=False)["y"], run(model, **given)["y"])


# --------------------------------------------------------------------------------------------------------- activations

SQRT2, CUBIC, ROOT = np.float32(2**0.5), np.float32(0.044715), np.float32((2 / np.pi) ** 0.5)
ONES = {
    "half": np.float32(0.5),
    "one": np.float32(1),
    "three": np.float32(3),
    "six": np.float32(6),
    "zero": np.float32(0),
    "sixth": np.float32(1 / 6),
    "r2": SQRT2,
    "i2": 1 / SQRT2,
    "cubic": CUBIC,
    "root": ROOT,
    "q": np.float32([1.702]),
}
GROUPS = {
    "gelu, (x/2)(1+erf)": ("a = Div(x, r2); e = Erf(a); p = Add(e, one); h = Mul(x, half); y = Mul(h, p)", "Gelu"),
    "gelu, x(1+erf)/2": ("a = Mul(x, i2); e = Erf(a); p = Add(one, e); h = Mul(x, p); y = Mul(h, half)", "Gelu, Mul"),
    "gelu, x·((1+erf)/2)": ("a = Mul(i2, x); e = Erf(a); p = Add(e, one); h = Mul(half, p); y = Mul(x, h)", "Gelu"),
    "gelu, tanh with Pow": (
        "c = Pow(x, three); k = Mul(c, cubic); s = Add(x, k); t = Mul(s, root); e = Tanh(t); p = Add(e, one); "
        "h = Mul(x, half); y = Mul(h, p)",
        "Gelu",
    ),
    "gelu, tanh with products": (
        "b = Mul(x, x); c = Mul(b, x); k = Mul(c, cubic); s = Add(x, k); t = Mul(s, root); e = Tanh(t); p = Add(e, one); "
        "h = Mul(p, half); y = Mul(x, h)",
        "Gelu",
    ),
    "quick gelu": ("a = Mul(x, q); e = Sigmoid(a); y = Mul(x, e)", "Swish"),
    "silu": ("e = Sigmoid(x); y = Mul(x, e)", "Swish"),
    "silu, spelled out": ("n = Neg(x); e = Exp(n); d = Add(one, e); i = Reciprocal(d); y = Mul(x, i)", "Swish"),
    "hard swish, HardSigmoid": ("e = HardSigmoid<alpha=0.16666667>(x); y = Mul(e, x)", "HardSwish"),
    "hard swish, Clip": ("a = Add(x, three); c = Clip(a, zero, six); d = Div(c, six); y = Mul(x, d)", "HardSwish"),
    "hard swish, Clip, late division": (
        "a = Add(x, three); c = Clip(a, zero, six); m = Mul(x, c); y = Mul(m, sixth)",
        "HardSwish, Mul",
    ),
    "hard swish, Relu and Min": (
        "a = Add(x, three); b = Relu(a); c = Min(b, six); m = Mul(c, sixth); y = Mul(x, m)",
        "HardSwish",
    ),
    "mish": ("s = Softplus(x); t = Tanh(s); y = Mul(x, t)", "Mish"),
    "mish, spelled out": ("e = Exp(x); o = Add(e, one); s = Log(o); t = Tanh(s); y = Mul(x, t)", "Mish"),
}
LIKE = {"x": "float[N,3,4] x", "y": "float[N,3,4] y"}


@pytest.mark.parametrize("name", GROUPS)
def test_spelled_out_activations_pass(name: str) -> None:
    body, shown = GROUPS[name]
    lead = "x = Neg(in); "  # away from the graph input, where Mul would be input scaling
    model = net((lead + body).replace("; ", "\n"), LIKE["x"].replace(" x", " in"), LIKE["y"], **ONES)
    plan = onnxlrp.inspect(model, "epsilon")
    assert ", ".join(s.unit.op for s in plan.steps) == f"Neg, {shown}"
    x, r = data(2, 3, 4, seed=4), data(2, 3, 4, seed=5)
    out = lrp(model, {"in": x, "relevance_out": r}, init="given")
    near(out["relevance.in"], r)
    near(out["y"], run(model, **{"in": x})["y"])
    if not {n.op_type for n in model.graph.node} <= set(OPS):
        return  # no reading yet, so no derivative
    gradient = lrp(model, {"in": x, "relevance_out": r}, "gradient", init="given")["relevance.in"]
    step = np.float32(1e-2) * data(2, 3, 4, seed=6)
    slope = (run(model, **{"in": x + step})["y"].astype(float) - run(model, **{"in": x - step})["y"]) / 2
    near(np.sum(slope * r), np.sum(gradient * step), 1e-3)


OPS_OF = {"Gelu": 20, "HardSwish": 14, "Mish": 18}


@pytest.mark.parametrize("op", OPS_OF)
def test_an_activation_as_one_operator(op: str) -> None:
    model = net(f"h = Neg(x)\ny = {op}(h)", LIKE["x"], LIKE["y"], opset=OPS_OF[op])
    x, r = data(2, 3, 4), data(2, 3, 4, seed=5)
    out = lrp(model, {"x": x, "relevance_out": r}, init="given")
    near(out["relevance.x"], r)
    near(out["y"], run(model, x=x)["y"])


NOT_GROUPS = {
    "gated linear unit": ("a = MatMul(x, w); e = Sigmoid(a); y = Mul(x, e)", "MatMul, Sigmoid, Mul"),
    "gate is an output": ("e = Sigmoid(x); y = Mul(x, e)", "Sigmoid, Mul"),
    "gate has another use": ("e = Sigmoid(x); m = Mul(x, e); y = Add(m, e)", "Sigmoid, Mul, Add"),
    "scaled per channel": ("e = Mul(x, k); s = Sigmoid(e); y = Mul(x, s)", "Mul, Sigmoid, Mul"),
    "no gate": ("a = Add(x, half); y = Mul(x, a)", "Add, Mul"),
}


@pytest.mark.parametrize("name", NOT_GROUPS)
def test_products_that_are_no_activation(name: str) -> None:
    body, shown = NOT_GROUPS[name]
    outputs = LIKE["y"] + (", float[N,3,4] e" if name == "gate is an output" else "")
    constants = {**ONES, "w": weight(4, 4), "k": data(4, low=0.5)}
    model = net(("x = Neg(in); " + body).replace("; ", "\n"), "float[N,3,4] in", outputs, **constants)
    assert ", ".join(s.unit.op for s in onnxlrp.inspect(model, "epsilon").steps) == f"Neg, {shown}"
    x = data(2, 3, 4)
    near(lrp(model, {"in": x})["y"], run(model, **{"in": x})["y"])


# ------------------------------------------------------------------------------------------------- quantised, other types

QDQ = {
    "uint8": ({"s": np.float32(0.02), "z": np.uint8(128)}, ""),
    "int8": ({"s": np.float32(0.02), "z": np.int8(-3)}, ""),
    "per channel": ({"s": data(3, low=0.01) / 20, "z": np.int8([0, 3, -5])}, "<axis=1>"),
    "per last axis": ({"s": np.abs(data(5)) / 20, "z": np.zeros(5, np.int8)}, "<axis=-1>"),
}


@pytest.mark.parametrize("name", QDQ)
@pytest.mark.parametrize("zero", [True, False], ids=["zero point", "no zero point"])
def test_quantize_dequantize_is_written_out(name: str, zero: bool) -> None:
    constants, axis = QDQ[name]
    z = ", z" if zero else ""
    if not zero:
        constants = {"s": constants["s"]}
    body = f"h = Neg(x)\nc = QuantizeLinear{axis}(h, s{z})\nd = DequantizeLinear{axis}(c, s{z})\ny = Relu(d)"
    model = net(body, y="float[N,3,6,5] y", **constants)
    x, r = 2 * data(2, 3, 6, 5), data(2, 3, 6, 5, seed=2)  # some values are clipped
    compiled = onnxlrp.compile(model, "epsilon", init="given")
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in compiled.graph.node}
    out = run(compiled, x=x, relevance_out=r)
    near(out["y"], run(model, x=x)["y"], 1e-6)
    near(out["relevance.x"], r)


def test_quantised_weights_stay_quantised() -> None:
    codes = (data(300, 64) * 40).astype(np.int8)
    body = "v = DequantizeLinear<axis=1>(c, s, z)\ny = MatMul(x, v)"
    constants = {"c": codes, "s": data(64, low=0.1) / 40, "z": np.zeros(64, np.int8)}
    model = net(body, "float[N,300] x", "float[N,64] y", **constants)
    compiled = onnxlrp.compile(model, "zplus")
    assert compiled.ByteSize() < model.ByteSize() + 20_000
    x = data(2, 300)
    plain = net("y = MatMul(x, v)", "float[N,300] x", "float[N,64] y", v=codes.astype(np.float32) * constants["s"])
    near(run(compiled, x=x)["relevance.x"], relevance(plain, x, "zplus"))


@pytest.mark.parametrize("kind", ["float16", "double"])
@pytest.mark.parametrize("head", ["logits", "softmax"])
@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "alpha2_beta1"])
def test_other_float_types(kind: str, head: str, composite: str) -> None:
    dtype = np.float16 if kind == "float16" else np.float64
    body = f"""
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        n = {BN}(h, s, t, m, q)
        r = Relu(n)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        k = Cast<to={10 if kind == "float16" else 11}>(five)
        d = Div(f, k)
        z = Gemm<alpha=0.5>(d, v, b)
        y = {"Softmax" if head == "softmax" else "Identity"}(z)
    """
    constants = {"w": W, "b": C4, "v": weight(4, 4), **NORM4}
    cast = {k: v.astype(dtype) for k, v in constants.items()}
    model = net(body, f"{kind}[N,3,6,5] x", f"{kind}[N,4] y", five=np.int64(5), **cast)
    single = body.replace(f"to={10 if kind == 'float16' else 11}", "to=1")
    like = net(single, five=np.int64(5), **{k: v.astype(np.float32) for k, v in cast.items()})
    x = data(2, 3, 6, 5).astype(dtype)
    compiled = onnxlrp.compile(model, composite)
    inner = {v.name: v.type.tensor_type.elem_type for v in (*compiled.graph.input, *compiled.graph.output)}
    own = 10 if kind == "float16" else 11
    assert inner == {"x": own, "target": 7, "y": own, "relevance.x": 1}
    out = run(compiled, x=x)
    wanted = lrp(like, {"x": x.astype(np.float32)}, composite)
    near(out["y"], wanted["y"], 1e-3 if kind == "float16" else 1e-6)
    near(out["relevance.x"], wanted["relevance.x"])
    if kind == "float16":
        near(out["y"], run(model, x=x)["y"], 5e-3)


def test_a_float64_output_that_is_also_used_inside() -> None:
    body = "y = MatMul(x, w)\nz = Relu(y)"
    model = net(body, "double[N,3] x", "double[N,4] z, double[N,4] y", w=V.astype(np.float64))
    x = data(2, 3).astype(np.float64)
    out, wanted = lrp(model, {"x": x}), run(model, x=x)
    near(out["y"], wanted["y"])
    near(out["z"], wanted["z"])
    assert np.abs(out["relevance.x"]).max() > 0


# ------------------------------------------------------------------------------- spellings of one network, one relevance

X4 = data(2, 3, 6, 5, seed=9)
TAIL = "r = Relu(n); p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r); "
SCALE = NORM4["s"] / np.sqrt(NORM4["q"] + np.float32(0.01))
SHIFT = NORM4["t"] - NORM4["m"] * SCALE
V24 = weight(24, 4)
AFFINE = {"k": SCALE.reshape(4, 1, 1), "d": SHIFT.reshape(4, 1, 1)}
STEPS = {
    "a1": NORM4["m"].reshape(4, 1, 1),
    "a2": np.sqrt(NORM4["q"] + np.float32(0.01)).reshape(4, 1, 1),
    "a3": NORM4["s"].reshape(4, 1, 1),
    "a4": NORM4["t"].reshape(4, 1, 1),
}
NORMS = {
    "operator": (CONV + f"n = {BN}(h, s, t, m, q); ", NORM4),
    "mul and add": (CONV + "i = Mul(h, k); n = Add(i, d); ", AFFINE),
    "sub, div, mul, add": (CONV + "i = Sub(h, a1); j = Div(i, a2); l = Mul(a3, j); n = Add(a4, l); ", STEPS),
    "by hand": ("n = Conv<pads=[1,1,1,1]>(x, w2, b2); ", {"w2": W * SCALE.reshape(4, 1, 1, 1), "b2": C4 * SCALE + SHIFT}),
    "Pad": ("e = Pad(x, pads); h = Conv(e, w, b); " + f"n = {BN}(h, s, t, m, q); ", NORM4),
    "auto_pad": (CONV.replace("pads=[1,1,1,1]", 'auto_pad="SAME_LOWER"') + f"n = {BN}(h, s, t, m, q); ", NORM4),
    "bias apart": (BARE + "g = Add(h, b3); " + f"n = {BN}(g, s, t, m, q); ", {**NORM4, "b3": UP}),
    "Constant nodes": (
        CONV.replace("w, b", "w5, b5") + f"w5 = Identity(w); b5 = Squeeze(b4); n = {BN}(h, s, t, m, q); ",
        {**NORM4, "b4": UP},
    ),
    "channels last": (
        "h1 = Conv<pads=[1,1,1,1]>(x, w, b); h2 = Transpose<perm=[0,2,3,1]>(h1); i = Mul(h2, k1); j = Add(i, d1); "
        "n = Transpose<perm=[0,3,1,2]>(j); ",
        {"k1": SCALE, "d1": SHIFT},
    ),
}
FLATTENS = {
    "Flatten": "f = Flatten(p); ",
    "Reshape": "f = Reshape(p, flat); ",
    "Reshape by Shape": "i = Shape(p); j = Gather(i, zero); o = Unsqueeze(j, ax); l = Concat<axis=0>(o, m1); "
    "f = Reshape(p, l); ",
    "Squeeze of Reshape": "e0 = Reshape(p, flat3); f = Squeeze(e0, last); ",
}
DENSE = {
    "Gemm": ("y = Gemm(f, v, b)", {"v": V24}),
    "MatMul and Add": ("z = MatMul(f, v); y = Add(z, b)", {"v": V24}),
    "Add from the left": ("z = MatMul(f, v); y = Add(b, z)", {"v": V24}),
    "transB": ("y = Gemm<transB=1>(f, v, b)", {"v": V24.T.copy()}),
    "alpha, beta": ("y = Gemm<alpha=0.25, beta=0.5>(f, v, c)", {"v": 4 * V24, "c": 2 * C4}),
    "transA of a transpose": ("t1 = Transpose<perm=[1,0]>(f); y = Gemm<transA=1>(t1, v, b)", {"v": V24}),
    "transposed weight": ("v2 = Transpose<perm=[1,0]>(v); y = MatMul(f, v2); ", {"v": V24.T.copy()}),
    "Sub of the negative": ("z = MatMul(f, v); y = Sub(z, c)", {"v": V24, "c": -C4}),
    "1×1 convolution": (
        "u = Unsqueeze(f, ax23); z = Conv(u, v, b); y = Squeeze(z, ax23)",
        {"v": V24.T.reshape(4, 24, 1, 1).copy()},
    ),
}
COMMON = {
    "w": W,
    "b": C4,
    "flat": np.int64([0, -1]),
    "zero": np.int64(0),
    "ax": np.int64([0]),
    "m1": np.int64([-1]),
    "flat3": np.int64([0, -1, 1]),
    "last": np.int64([2]),
    "ax23": np.int64([2, 3]),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
}


def spelled(norm: str = "operator", flatten: str = "Flatten", dense: str = "Gemm") -> onnx.ModelProto:
    (first, some), (last, more) = NORMS[norm], DENSE[dense]
    body = (first + TAIL + FLATTENS[flatten] + last).replace("; ", "\n")
    if dense == "transposed weight":
        body = body.replace("y = MatMul(f, v2)", "z = MatMul(f, v2)\ny = Add(z, b)")
    return net(body, **COMMON, **some, **more)


SPELLINGS = [
    *({"norm": n} for n in NORMS if n != "operator"),
    *({"flatten": f} for f in FLATTENS if f != "Flatten"),
    *({"dense": d} for d in DENSE if d != "Gemm"),
]


SAME_RULE = ["epsilon", "gamma", "zplus"]  # presets that treat convolutions and dense layers alike
SPELLED_UNDER = [
    pytest.param(s, c, id=f"{next(iter(s.values()))}-{c}")
    for s in SPELLINGS
    for c in (SAME_RULE if s.get("dense") == "1×1 convolution" else [*SAME_RULE, "epsilon_alpha2_beta1"])
]


@pytest.mark.parametrize(("spelling", "composite"), SPELLED_UNDER)
def test_spellings_of_one_network_have_one_relevance(spelling: dict[str, str], composite: str) -> None:
    wanted = lrp(spelled(), {"x": X4}, composite)
    out = lrp(spelled(**spelling), {"x": X4}, composite)
    near(out["y"], wanted["y"])
    near(out["relevance.x"], wanted["relevance.x"], 2e-5)


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_box(low=-3, high=3)", "epsilon_plus_flat"])
def test_channels_last_and_first_have_one_relevance(composite: str) -> None:
    body = """
        x = Transpose<perm=[0,3,1,2]>(image)
        h = Conv<pads=[1,1,1,1]>(x, w)
        l = Transpose<perm=[0,2,3,1]>(h)
        n = Add(l, b)
        r = Relu(n)
        i = Transpose<perm=[0,3,1,2]>(r)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(i)
        f = Flatten(p)
        y = Gemm(f, v, b)
    """
    model = net(body, "float[N,6,5,3] image", w=W, b=C4, v=V24)
    first = net((CONV.replace("h =", "n =") + TAIL + "f = Flatten(p); y = Gemm(f, v, b)").replace("; ", "\n"), w=W, b=C4, v=V24)
    out = lrp(model, {"image": np.ascontiguousarray(X4.transpose(0, 2, 3, 1))}, composite)["relevance.image"]
    near(out.transpose(0, 3, 1, 2), relevance(first, X4, composite))


def test_mean_pool_spellings() -> None:
    head = "h = Conv(x, w, b); r = Relu(h); "
    tails = {
        "f = GlobalAveragePool(r); y = Flatten(f)": {},
        "y = ReduceMean<keepdims=0>(r, a)": {"a": np.int64([2, 3])},
        "f = AveragePool<kernel_shape=[4,3]>(r); y = Flatten(f)": {},
        "f = ReduceMean(r, a); y = Squeeze(f, a)": {"a": np.int64([-1, -2])},
    }
    maps = [relevance(net((head + t).replace("; ", "\n"), w=W, b=C4, **k), X4, "epsilon_plus") for t, k in tails.items()]
    for r in maps[1:]:
        near(r, maps[0])


def test_what_follows_a_matmul_behind_a_transpose_is_its_bias() -> None:
    text = "a = MatMul(x, w)\nb = Transpose<perm=[0, 2, 1]>(a)\nc = Mul(b, s)\nd = Add(c, t)\ny = Relu(d)"
    constants = {"w": weight(4, 6), "s": data(6, 1), "t": data(6, 1)}
    model = net(text, "float[N,3,4] x", "float[N,6,3] y", **constants)
    plan = onnxlrp.inspect(model)
    assert [(la.op, la.output_shape) for la in plan] == [("MatMul + Relu", ("N", 6, 3))]
    x = data(2, 3, 4)
    found = lrp(model, {"x": x})
    w = constants["w"] * constants["s"].ravel()
    twin = net("a = MatMul(x, w)\nb = Add(a, t)\nc = Transpose<perm=[0, 2, 1]>(b)\ny = Relu(c)", "float[N,3,4] x",
               "float[N,6,3] y", w=w, t=constants["t"].ravel())  # fmt: skip
    near(found["y"], lrp(twin, {"x": x})["y"])
    near(found["relevance.x"], lrp(twin, {"x": x})["relevance.x"])
