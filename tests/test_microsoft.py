"""Fused operators of domain com.microsoft: the runtime's own output, and the relevance of the standard spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models_for_tests import data, lrp, near, net, run, small, vgg11, weight

import onnxlrp
from onnxlrp.errors import UnsupportedOp

DOMAIN = ', "com.microsoft" : 1'
V, B, G = weight(6, 6), data(6, seed=5) / 3, data(6, seed=6, low=0.5)
IMAGE = {"w": weight(4, 3, 3, 3), "b": data(4, seed=2) / 4}
PADS = "kernel_shape=[3,3], pads=[1,1,1,1]"
SKIP = {"k": data(1, 5, 6, seed=7), "g": G, "b": B, "c": data(6, seed=8) / 3}
CHANNELS = {"g": data(6, seed=6, low=0.5), "b": B}


@dataclass(frozen=True)
class Case:
    """A model with the fused operator, the same in standard ones, and what the plan shows. kernel: the CPU can run it."""

    body: str
    plain: str
    shown: str
    constants: dict[str, Any] = field(default_factory=dict)
    x: str = "float[N,5,6] x"
    y: str = "float[N,5,6] y"
    kernel: bool = True

    def model(self, body: str) -> onnx.ModelProto:
        """The model; `;` parts the nodes, `@` is the domain, and a MatMul behind it is the layer that gives it a past."""
        text = re.sub(r"@", "com.microsoft.", body).replace("; ", "\n")
        return net(text, self.x, self.y, opset=18, domains=DOMAIN, **self.constants)


def conv(kind: str, params: str = "", plain: str = "", z: str = "") -> Case:
    extra = f', activation="{kind}"' + (f", activation_params=[{params}]" if params else "")
    body = f"h = Neg(x); y = @FusedConv<{PADS}{extra}>(h, w, b{', z' if z else ''})"
    last = f"; s = Add(c, {z})" if z else ""
    spelled = f"h = Neg(x); c = Conv<{PADS}>(h, w, b){last}; y = {plain or kind + '(@@)'}"
    spelled = spelled.replace("@@", "s" if z else "c")
    shown = f"Neg, Conv, {'Add, ' if z else ''}{kind}".removesuffix(", Sigmoid")  # which is stripped at the end
    constants = {**IMAGE, **({"z": data(2, 4, 6, 5, seed=9)} if z else {}), "lo": np.float32(-0.5), "hi": np.float32(1.5)}
    return Case(body, spelled, shown, constants, "float[N,3,6,5] x", "float[N,4,6,5] y")


def matmul(attrs: str, plain: str, a: str = "float[N,5,6] x", y: str = "float[N,5,5] y", **constants: Any) -> Case:
    return Case(
        f"h = Neg(x); y = @FusedMatMul<{attrs}>(h, {'v' if constants else 'h'})", f"h = Neg(x); {plain}", "*", constants, a, y
    )


RMS = "p = Mul(s, s); m = ReduceMean<keepdims=1>(p, axes); e = Add(m, eps); q = Sqrt(e); r = Reciprocal(q); n = Mul(s, r)"
GELU = "i = Mul(s, k2); e = Erf(i); o = Add(e, k1); m = Mul(s, o)"
TANH = "a1 = Mul(s, s); a2 = Mul(a1, s); a3 = Mul(a2, kc); a4 = Add(s, a3); a5 = Mul(a4, kp); th = Tanh(a5); o = Add(th, k1)"
NUMBERS = {"k1": np.float32(1), "k2": np.float32(np.sqrt(0.5)), "kh": np.float32(0.5), "kc": np.float32(0.044715),
           "kp": np.float32(np.sqrt(2 / np.pi)), "axes": np.int64([-1]), "eps": np.float32(1e-3)}  # fmt: skip
GROUP = (
    "u = Reshape(s, sh); i = InstanceNormalization<epsilon=1e-3>(u, o2, z2); "
    "q = Shape(s); v = Reshape(i, q); f = Mul(v, gc); n = Add(f, bc)"
)
TO_FIRST, TO_LAST = "Transpose<perm=[0,3,1,2]>", "Transpose<perm=[0,2,3,1]>"
GROUPS = {"sh": np.int64([0, 2, -1]), "o2": np.ones(2, np.float32), "z2": np.zeros(2, np.float32),
          "gc": G.reshape(6, 1, 1), "bc": B.reshape(6, 1, 1), **CHANNELS}  # fmt: skip
LAST = {"x": "float[N,4,5,6] x", "y": "float[N,4,5,6] y", "kernel": False}

CASES = {
    "FusedConv": Case(
        f"y = @FusedConv<{PADS}>(x, w, b)", f"y = Conv<{PADS}>(x, w, b)", "Conv", IMAGE, "float[N,3,6,5] x", "float[N,4,6,5] y"
    ),
    "FusedConv Relu": conv("Relu"),
    "FusedConv Relu with a sum": conv("Relu", z="z"),
    "FusedConv Tanh": conv("Tanh"),
    "FusedConv Sigmoid": conv("Sigmoid"),
    "FusedConv LeakyRelu": conv("LeakyRelu", "0.3", "LeakyRelu<alpha=0.3>(@@)"),
    "FusedConv HardSigmoid": conv("HardSigmoid", "0.3, 0.4", "HardSigmoid<alpha=0.3, beta=0.4>(@@)"),
    "FusedConv Clip": conv("Clip", "-0.5, 1.5", "Clip(@@, lo, hi)"),
    "NhwcFusedConv": Case(
        f't = Transpose<perm=[0,2,3,1]>(x); y = @NhwcFusedConv<{PADS}, activation="Relu">(t, w, b)',
        f"c = Conv<{PADS}>(x, w, b); t = Transpose<perm=[0,2,3,1]>(c); y = Relu(t)",
        "*",
        IMAGE,
        "float[N,3,6,5] x",
        "float[N,6,5,4] y",
        kernel=False,
    ),
    "NhwcConv": Case(
        f"t = Transpose<perm=[0,2,3,1]>(x); y = @NhwcConv<{PADS}>(t, v, b)",
        f"c = Conv<{PADS}>(x, w, b); y = Transpose<perm=[0,2,3,1]>(c)",
        "*",
        {**IMAGE, "v": np.ascontiguousarray(IMAGE["w"].transpose(0, 2, 3, 1))},
        "float[N,3,6,5] x",
        "float[N,6,5,4] y",
        kernel=False,
    ),
    "FusedMatMul": matmul("alpha=0.5", "u = MatMul(h, v); y = Mul(u, kh)", y="float[N,5,6] y", v=V, **NUMBERS),
    "FusedMatMul transB": matmul(
        "transB=1, alpha=0.5",
        "w = Transpose(v); u = MatMul(h, w); y = Mul(u, kh)",
        y="float[N,5,4] y",
        v=weight(4, 6),
        **NUMBERS,
    ),
    "FusedMatMul transA": matmul(
        "transA=1", "w = Transpose<perm=[0,2,1]>(h); y = MatMul(w, v)", y="float[N,6,3] y", v=weight(5, 3)
    ),
    "FusedMatMul of activations": matmul("transB=1", "w = Transpose<perm=[0,2,1]>(h); y = MatMul(h, w)"),
    "FusedMatMul transBatchB": Case(
        "h = Neg(x); y = @FusedMatMul<transBatchB=1, transB=1>(h, v)",
        "h = Neg(x); w = Transpose<perm=[1,2,0]>(v); y = MatMul(h, w)",
        "*",
        {"v": data(4, 3, 6)},
        "float[3,5,6] x",
        "float[3,5,4] y",
    ),
    "FusedMatMul transBatchA": Case(
        "h = Neg(x); y = @FusedMatMul<transBatchA=1>(h, v)",
        "h = Neg(x); w = Transpose<perm=[1,0,2]>(h); y = MatMul(w, v)",
        "*",
        {"v": data(5, 6, 2)},
        "float[3,5,6] x",
        "float[5,3,2] y",
    ),
    "TransposeMatMul": Case(
        "h = Neg(x); y = @TransposeMatMul<transB=1>(h, v)", "h = Neg(x); w = Transpose(v); y = MatMul(h, w)", "*", {"v": V}
    ),
    "FusedMatMulActivation": Case(
        'h = Neg(x); y = @FusedMatMulActivation<activation="LeakyRelu", activation_alpha=0.3>(h, v)',
        "h = Neg(x); u = MatMul(h, v); y = LeakyRelu<alpha=0.3>(u)",
        "Neg, MatMul, LeakyRelu",
        {"v": V},
        kernel=False,
    ),
    "FusedGemm": Case(
        'h = Neg(x); y = @FusedGemm<activation="LeakyRelu", activation_alpha=0.3, transB=1, alpha=2.0, beta=0.5>(h, v, b)',
        "h = Neg(x); u = Gemm<transB=1, alpha=2.0, beta=0.5>(h, v, b); y = LeakyRelu<alpha=0.3>(u)",
        "Neg, Gemm, LeakyRelu",
        {"v": V, "b": B},
        "float[N,6] x",
        "float[N,6] y",
    ),
    "FusedGemm Relu": Case(
        'h = Neg(x); y = @FusedGemm<activation="Relu">(h, v)',
        "h = Neg(x); u = Gemm(h, v); y = Relu(u)",
        "Neg, Gemm, Relu",
        {"v": V},
        "float[N,6] x",
        "float[N,6] y",
    ),
    "Gelu": Case(
        "s = MatMul(x, v); y = @Gelu(s)", f"s = MatMul(x, v); {GELU}; y = Mul(m, kh)", "MatMul, Gelu", {"v": V, **NUMBERS}
    ),
    "BiasGelu": Case(
        "t = MatMul(x, v); y = @BiasGelu(t, b)",
        f"t = MatMul(x, v); s = Add(t, b); {GELU}; y = Mul(m, kh)",
        "MatMul, Gelu",
        {"v": V, "b": B, **NUMBERS},
    ),
    "FastGelu": Case(
        "s = MatMul(x, v); y = @FastGelu(s)",
        f"s = MatMul(x, v); {TANH}; m = Mul(s, o); y = Mul(m, kh)",
        "MatMul, Gelu",
        {"v": V, **NUMBERS},
    ),
    "FastGelu with bias": Case(
        "t = MatMul(x, v); y = @FastGelu(t, b)",
        f"t = MatMul(x, v); s = Add(t, b); {TANH}; m = Mul(s, o); y = Mul(m, kh)",
        "MatMul, Gelu",
        {"v": V, "b": B, **NUMBERS},
    ),
    "GemmFastGelu": Case(
        "y = @GemmFastGelu(x, v, b)",
        f"t = MatMul(x, v); s = Add(t, b); {TANH}; m = Mul(s, o); y = Mul(m, kh)",
        "MatMul, Gelu",
        {"v": V, "b": B, **NUMBERS},
        kernel=False,
    ),
    "QuickGelu": Case(
        "s = MatMul(x, v); y = @QuickGelu<alpha=1.3>(s)",
        "s = MatMul(x, v); i = Mul(s, ka); g = Sigmoid(i); y = Mul(s, g)",
        "MatMul, Swish",
        {"v": V, "ka": np.float32(1.3)},
    ),
    "QuickGelu by default": Case(
        "s = MatMul(x, v); y = @QuickGelu(s)",
        "s = MatMul(x, v); i = Mul(s, ka); g = Sigmoid(i); y = Mul(s, g)",
        "MatMul, Swish",
        {"v": V, "ka": np.float32(1.702)},
    ),
    "BiasSplitGelu": Case(
        "t = MatMul(x, v); y = @BiasSplitGelu(t, b)",
        f"t = MatMul(x, v); a = Add(t, b); l, s = Split<axis=-1, num_outputs=2>(a); {GELU}; z = Mul(m, kh); y = Mul(l, z)",
        "MatMul, Split, Gelu, Mul",
        {"v": V, "b": B, **NUMBERS},
        y="float[N,5,3] y",
        kernel=False,
    ),
    "BiasAdd": Case(
        "t = MatMul(x, v); y = @BiasAdd(t, b, x)",
        "t = MatMul(x, v); s = Add(t, b); y = Add(s, x)",
        "MatMul, Add",
        {"v": V, "b": B},
        kernel=False,
    ),
    "BiasDropout": Case(
        "t = MatMul(x, v); y = @BiasDropout(t, b, x)",
        "t = MatMul(x, v); s = Add(t, b); y = Add(s, x)",
        "MatMul, Add",
        {"v": V, "b": B},
        kernel=False,
    ),
    "BitmaskDropout": Case("t = MatMul(x, v); y = @BitmaskDropout(t)", "y = MatMul(x, v)", "*", {"v": V}, kernel=False),
    "BiasSoftmax": Case(
        "t = MatMul(x, v); s = @BiasSoftmax<axis=2, is_inner_broadcast=0>(t, b); y = Identity(s)",
        "t = MatMul(x, v); a = Add(t, b); s = Softmax<axis=-1>(a); y = Identity(s)",
        "MatMul",
        {"v": V, "b": B},
        kernel=False,
    ),
    "LayerNormalization of another domain": Case(
        "y = @LayerNormalization<axis=-1, epsilon=1e-3>(x, g, b)",
        "y = LayerNormalization<axis=-1, epsilon=1e-3>(x, g, b)",
        "LayerNormalization",
        SKIP,
        kernel=False,
    ),
    "SkipLayerNormalization": Case(
        "y = @SkipLayerNormalization<epsilon=1e-3>(x, t, g, b); t = MatMul(x, v)",
        "t = MatMul(x, v); s = Add(x, t); y = LayerNormalization<axis=-1, epsilon=1e-3>(s, g, b)",
        "MatMul, Add, LayerNormalization",
        {**SKIP, "v": V},
    ),
    "SkipLayerNormalization with bias and sum": Case(
        "t = MatMul(x, v); n,,, s = @SkipLayerNormalization<epsilon=1e-3>(x, t, g, b, c); y = Add(n, s)",
        "t = MatMul(x, v); a = Add(t, c); s = Add(a, x); n = LayerNormalization<axis=-1, epsilon=1e-3>(s, g, b); y = Add(n, s)",
        "MatMul, Add, LayerNormalization, Add",
        {**SKIP, "v": V},
    ),
    "SkipLayerNormalization of a table": Case(
        "h = Neg(x); y = @SkipLayerNormalization<epsilon=1e-3>(h, k, g)",
        "h = Neg(x); s = Add(h, k); y = LayerNormalization<axis=-1, epsilon=1e-3>(s, g)",
        "Neg, Add, LayerNormalization",
        SKIP,
    ),
    "SimplifiedLayerNormalization": Case(
        "s = Neg(x); y = SimplifiedLayerNormalization<axis=-1, epsilon=1e-3>(s, g)",
        f"s = Neg(x); {RMS}; y = Mul(n, g)",
        "Neg, RMSNormalization",
        {"g": G, **NUMBERS},
    ),
    "SimplifiedLayerNormalization over two axes": Case(
        "s = Neg(x); y = SimplifiedLayerNormalization<axis=1, epsilon=1e-3>(s, g)",
        f"s = Neg(x); {RMS}; y = Mul(n, g)",
        "Neg, RMSNormalization",
        {"g": data(5, 6, low=0.5), **NUMBERS, "axes": np.int64([1, 2])},
    ),
    "SkipSimplifiedLayerNormalization": Case(
        "t = MatMul(x, v); n,,, s = @SkipSimplifiedLayerNormalization<epsilon=1e-3>(x, t, g, c); y = Add(n, s)",
        f"t = MatMul(x, v); a = Add(t, c); s = Add(a, x); {RMS}; f = Mul(n, g); y = Add(f, s)",
        "MatMul, Add, RMSNormalization, Add",
        {**SKIP, "v": V, **NUMBERS},
    ),
    "GroupNorm": Case(
        "h = Neg(x); y = @GroupNorm<groups=2, epsilon=1e-3, activation=0, channels_last=0>(h, g, b)",
        f"s = Neg(x); {GROUP}; y = Identity(n)",
        "Neg, GroupNormalization",
        GROUPS,
        "float[N,6,4,5] x",
        "float[N,6,4,5] y",
        kernel=False,
    ),
    "GroupNorm with SiLU": Case(
        "h = Neg(x); y = @GroupNorm<groups=2, epsilon=1e-3, activation=1, channels_last=0>(h, g, b)",
        f"s = Neg(x); {GROUP}; z = Sigmoid(n); y = Mul(n, z)",
        "Neg, GroupNormalization, Swish",
        GROUPS,
        "float[N,6,4,5] x",
        "float[N,6,4,5] y",
        kernel=False,
    ),
    "GroupNorm, channels last": Case(
        "h = Neg(x); y = @GroupNorm<groups=2, epsilon=1e-3, activation=1>(h, g, b)",
        f"h = Neg(x); s = {TO_FIRST}(h); {GROUP}; z = Sigmoid(n); t = Mul(n, z); y = {TO_LAST}(t)",
        "Neg, Transpose, GroupNormalization, Swish, Transpose",
        GROUPS,
        **LAST,
    ),
    "SkipGroupNorm": Case(
        "h = Neg(x); n1, s1 = @SkipGroupNorm<groups=2, epsilon=1e-3, activation=0>(h, g, b, k, c); y = Add(n1, s1)",
        f"h = Neg(x); a = Add(h, kk); d = Add(a, c); s = {TO_FIRST}(d); {GROUP}; t = {TO_LAST}(n); y = Add(t, d)",
        "*",
        {**GROUPS, "k": data(1, 6, seed=3), "kk": data(1, 6, seed=3).reshape(1, 1, 1, 6), "c": data(6, seed=8) / 3},
        **LAST,
    ),
    "GridSample": Case(
        'h = Neg(x); y = @GridSample<mode="bilinear", align_corners=1>(h, grid)',
        'h = Neg(x); y = GridSample<mode="bilinear", align_corners=1>(h, grid)',
        "Neg, GridSample",
        {"grid": data(2, 3, 4, 2) / 2},
        "float[2,3,6,5] x",
        "float[2,3,3,4] y",
    ),
    "Trilu": Case("h = Neg(x); y = @Trilu<upper=0>(h)", "h = Neg(x); y = Trilu<upper=0>(h)", "Neg, Trilu"),
    "GatherND": Case(
        "h = Neg(x); y = @GatherND(h, i)",
        "h = Neg(x); y = GatherND(h, j)",
        "Neg, GatherND",
        {"i": np.int32([[1, 0], [0, 2]]), "j": np.int64([[1, 0], [0, 2]])},
        "float[2,5,6] x",
        "float[2,6] y",
    ),
    "Pad": Case(
        "h = Neg(x); y = @Pad(h, p, q)",
        "h = Neg(x); y = Pad(h, r, s)",
        "Neg, Pad",
        {"p": np.int64([[0, 1, 2, 0, 0, 1]]), "q": np.float32([0.5]), "r": np.int64([0, 1, 2, 0, 0, 1]), "s": np.float32(0.5)},
        y="float[N,6,9] y",
    ),
    "ExpandDims": Case(
        "h = Neg(x); y = @ExpandDims(h, a)",
        "h = Neg(x); y = Unsqueeze(h, i)",
        "*",
        {"a": np.int32(1), "i": np.int64([1])},
        y="float[N,1,5,6] y",
    ),
    "Range": Case(
        "h = Neg(x); t = @Range(k0, k6); y = Mul(h, t)",
        "h = Neg(x); t = Range(k0, k6, k1); y = Mul(h, t)",
        "Neg, Mul",
        {"k0": np.float32(0), "k6": np.float32(6), "k1": np.float32(1)},
    ),
    "Unique": Case(
        "h = Neg(x); u, i, c = @Unique(k); j = Cast<to=1>(i); y = Mul(h, j)",
        "h = Neg(x); y = Mul(h, f)",
        "Neg, Mul",
        {"k": np.float32([5, 1, 5, 7, 1, 5]), "f": np.float32([0, 1, 0, 2, 1, 0])},
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def feeds(case: Case) -> dict[str, np.ndarray]:
    dims = re.search(r"\[(.*)\]", case.x)
    assert dims is not None
    return {"x": data(*(2 if d == "N" else int(d) for d in dims[1].split(",")), seed=3)}


@every_case
def test_outputs_are_the_runtimes(name: str) -> None:
    case = CASES[name]
    given = feeds(case)
    fused, plain = case.model(case.body), case.model(case.plain)
    wanted = run(plain, **given)["y"]
    if case.kernel:
        near(run(fused, **given)["y"], wanted, 1e-5)
    out = lrp(fused, given, "epsilon", explain=["x"])
    near(out["y"], wanted, 1e-5)
    assert {o.domain for o in onnxlrp.compile(fused, "epsilon", explain=["x"]).opset_import} <= {"", "com.microsoft"}
    assert not any(n.domain for n in onnxlrp.compile(fused, "epsilon", explain=["x"]).graph.node)


@every_case
@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "gradient"])
def test_relevance_is_that_of_the_standard_spelling(name: str, composite: str) -> None:
    case = CASES[name]
    found, wanted = (
        lrp(case.model(body), feeds(case), composite, explain=["x"])["relevance.x"] for body in (case.body, case.plain)
    )
    near(found, wanted, 1e-4 if composite == "gradient" else 1e-5)
    assert np.abs(found).max() > 0


@every_case
def test_the_plan_shows_what_is_fused(name: str) -> None:
    case = CASES[name]
    shown = ", ".join(s.unit.op for s in onnxlrp.inspect(case.model(case.body), "epsilon", explain=["x"]).steps)
    if case.shown != "*":
        assert shown == case.shown
    assert "com.microsoft" not in shown


# ------------------------------------------------------------------------------------------------ what the runtime saves


def save(model: onnx.ModelProto, path: Path, level: str) -> None:
    """Let onnxruntime write the model as it optimises it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def transformer_block() -> onnx.ModelProto:
    """Layer norms around a residual sum and a GELU layer, and a root mean square norm with SiLU."""
    body = f"""
        n = LayerNormalization<axis=-1, epsilon=1e-3>(x, g, b)
        a = MatMul(n, v)
        s = Add(a, c)
        {GELU.replace("; ", chr(10))}
        hm = Mul(m, kh)
        p1 = MatMul(hm, u)
        p2 = Add(p1, b)
        q1 = Add(p2, x)
        l = LayerNormalization<axis=-1, epsilon=1e-3>(q1, g, b)
        j = MatMul(l, v)
        w = Sigmoid(j)
        t = Mul(j, w)
        z1 = MatMul(t, u)
        z2 = Add(z1, q1)
        pool = ReduceMean<keepdims=0>(z2, first)
        y = Gemm(pool, head)
    """
    constants = {**NUMBERS, "g": G, "b": B, "c": data(12, seed=8) / 3, "v": weight(6, 12), "u": weight(12, 6, seed=9)}
    constants |= {"first": np.int64([1]), "head": weight(6, 4, seed=11)}
    del constants["kc"], constants["kp"], constants["axes"], constants["eps"]
    return net(body, "float[N,5,6] x", "float[N,4] y", opset=18, **constants)


NETS = {"small": small, "vgg11": vgg11, "transformer block": transformer_block}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "gradient"])
def test_saved_by_the_runtime(name: str, level: str, composite: str, tmp_path: Path) -> None:
    model, path = NETS[name](), tmp_path / "saved.onnx"
    save(model, path, level)
    fused = {n.op_type for n in onnx.load(path).graph.node if n.domain == "com.microsoft"}
    assert bool(fused) is (level == "EXTENDED"), fused
    dims = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = data(*dims, seed=3)
    out, wanted = (lrp(m, {"x": x}, composite, target=[1]) for m in (path, model))
    near(out["y"], wanted["y"], 1e-5)
    near(out["relevance.x"], wanted["relevance.x"], 1e-4)


def test_saved_for_one_processor_is_refused(tmp_path: Path) -> None:
    save(vgg11(), tmp_path / "saved.onnx", "ALL")
    with pytest.raises(UnsupportedOp, match="optimised by onnxruntime at level ALL for one processor; save it again"):
        onnxlrp.compile(tmp_path / "saved.onnx")


@pytest.mark.parametrize("opset", [11, 13, 16])
def test_norms_before_the_standard_had_them(opset: int) -> None:
    """onnxruntime writes LayerNormalization and SimplifiedLayerNormalization into the standard domain of any opset."""
    body = """
        n = LayerNormalization<axis=-1, epsilon=1e-3>(x, g, b)
        s = SimplifiedLayerNormalization<axis=-1>(n, g)
        y = MatMul(s, v)
    """
    model = net(body, "float[N,5,6] x", "float[N,5,4] y", opset=opset, g=G, b=B, v=weight(6, 4))
    x = data(2, 5, 6)
    shown = [s.unit.op for s in onnxlrp.inspect(model).steps]
    assert shown == ["LayerNormalization", "RMSNormalization", "MatMul"]
    near(lrp(model, {"x": x}, "epsilon")["y"], run(model, x=x)["y"])


REFUSED = {
    "ConvTransposeWithDynamicPads": ("y = @ConvTransposeWithDynamicPads(x, w, p)", "its pads are computed at run time"),
    "FusedConv": ('y = @FusedConv<activation="Mystery">(x, w)', "its activation Mystery is not known"),
    "BiasSoftmax": ("s = @BiasSoftmax<axis=1, is_inner_broadcast=0>(x, b); y = Neg(s)", "only a softmax along the last axis"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_nodes_name(name: str) -> None:
    body, reason = REFUSED[name]
    body = re.sub(r"@", "com.microsoft.", body).replace("; ", "\n")
    constants = {"w": weight(3, 4, 2, 2), "p": np.int64([0, 0, 0, 0]), "b": data(5)}
    model = net(
        body, "float[2,3,6,5] x", "float[2,4,6,5] y", domains=DOMAIN, **{k: v for k, v in constants.items() if f" {k}" in body}
    )
    with pytest.raises(UnsupportedOp, match=rf"node '[ys]' \({name}\): {reason}"):
        onnxlrp.compile(model)


def test_the_mask_of_a_dropout_is_not_known() -> None:
    model = net(
        "t, m = com.microsoft.BiasDropout(x, b)\ny = Neg(t)", "float[N,6] x", "float[N,6] y, bool[N,6] m", domains=DOMAIN, b=B
    )
    with pytest.raises(UnsupportedOp, match="node 't' \\(BiasDropout\\): its output 1 'm' is not known"):
        onnxlrp.compile(model)


def test_waits_for_shapes_that_others_make() -> None:
    """A FusedMatMul behind a BiasGelu behind a FusedMatMul: the ranks are known one after the other."""
    body = "a = @FusedMatMul<transB=1>(x, v); b = @BiasGelu(a, c); d = @FusedMatMul<transA=1>(b, u); y = @QuickGelu(d)"
    model = net(re.sub(r"@", "com.microsoft.", body).replace("; ", "\n"), "float[N,5,6] x", "float[N,4,3] y", domains=DOMAIN,
                v=weight(4, 6), c=B[:4], u=weight(5, 3))  # fmt: skip
    x = data(2, 5, 6)
    near(lrp(model, {"x": x}, "epsilon")["y"], run(model, x=x)["y"])
    assert [s.unit.op for s in onnxlrp.inspect(model).steps if s.unit.op != "Transpose"] == [
        "MatMul",
        "Gelu",
        "MatMul",
        "Swish",
    ]
