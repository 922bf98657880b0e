"""precision="fp16": what is half and what is not, the error of float16 arithmetic, and no silent over- or underflow."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Runner, error, shared
from models_for_tests import CONSTANTS, data, net, small, weight
from onnx import TensorProto, helper

import onnxlrp
from onnxlrp.cli import main
from onnxlrp.errors import CompositeError

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PRESETS = ("epsilon", "epsilon_plus_flat", "epsilon_gamma_box(low=-3, high=3)", "epsilon_alpha2_beta1", "attn_lrp", "w_square")


def halves(model: onnx.ModelProto) -> set[str]:
    """Names of the float16 values of a model: what Casts to float16 and products of such values make."""
    found = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    for node in model.graph.node:
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if to == TensorProto.FLOAT16 or (node.op_type in PRODUCTS and node.input[0] in found):
            found |= set(node.output)
    return found


def rounding(model: onnx.ModelProto) -> Runner:
    """The model with every float16 value copied: onnxruntime drops pairs of Casts where it has no half arithmetic."""
    kept, held = onnx.ModelProto(), halves(model)
    kept.CopyFrom(model)
    del kept.graph.node[:]
    for node in model.graph.node:
        kept.graph.node.append(node)
        if node.output[0] in held:
            name = node.output[0]
            kept.graph.node[-1].output[0] = f"{name}/raw"
            kept.graph.node.append(helper.make_node("Concat", [f"{name}/raw"], [name], axis=0))
    return Runner(kept, optimise=False)


def both(model: Any, composite: Any, feeds: dict[str, np.ndarray], **options: Any) -> tuple[Any, Any, Any]:
    """Outputs in float32, in float16 as onnxruntime runs it here, and in float16 with every value rounded."""
    whole = onnxlrp.compile(model, composite, **options)
    half = onnxlrp.compile(model, composite, precision="fp16", **options)
    return Runner(whole)(feeds), Runner(half)(feeds), rounding(half)(feeds)


def transposed() -> onnx.ModelProto:
    """conv transpose – relu – grouped conv – relu – flatten – matmul – add, without ties to break."""
    body = """
        h = ConvTranspose<pads=[1,0,0,1], strides=[2,1]>(x, u, b)
        r = LeakyRelu(h)
        g = Conv<group=2, pads=[1,1,0,0]>(r, k)
        q = LeakyRelu(g)
        f = Flatten(q)
        m = MatMul(f, v)
        y = Add(m, c)
    """
    return net(body, u=weight(3, 4, 3, 3), k=weight(4, 2, 2, 2), v=weight(4 * 12 * 6, 4), b=CONSTANTS["b"], c=CONSTANTS["c"])


def attention() -> onnx.ModelProto:
    """One head on x (N,T,6): softmax(x a (x b)ᵀ) x v, tokens averaged, dense."""
    body = """
        q = MatMul(x, a)
        k = MatMul(x, b)
        w = MatMul(x, v)
        t = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, t)
        p = Softmax<axis=-1>(s)
        o = MatMul(p, w)
        r = ReduceMean<keepdims=0>(o, axes)
        y = Gemm<transB=1>(r, d, c)
    """
    parts = {"a": weight(6, 5, seed=1), "b": weight(6, 5, seed=2), "v": weight(6, 7, seed=3), "d": weight(4, 7, seed=4)}
    return net(body, x="float[N,T,6] x", c=CONSTANTS["c"], axes=np.asarray([1]), **parts)


def smooth() -> onnx.ModelProto:
    """`small` without a maximum: rounding flips no winner. (R is as large as z behind a LeakyRelu, so that R / z is tame.)"""
    model = small()
    model.graph.node[1].op_type = "LeakyRelu"
    model.graph.node[2].op_type = "AveragePool"
    return model


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "smooth": (smooth, (3, 3, 6, 5)),
    "transposed": (transposed, (3, 3, 6, 5)),
    "attention": (attention, (3, 5, 6)),
}


@pytest.mark.parametrize("composite", PRESETS)
@pytest.mark.parametrize("name", NETS)
def test_half_precision_stays_near(name: str, composite: str) -> None:
    make, shape = NETS[name]
    whole, half, rounded = both(make(), composite, {"x": data(*shape)})
    for found in (half, rounded):
        assert error(found["y"], whole["y"]) <= 2e-3
        assert error(found["relevance.x"], whole["relevance.x"]) <= 1e-2
    assert error(rounded["y"], half["y"]) > 1e-6  # the second of them does round


def plain(**constants: Any) -> onnx.ModelProto:
    """conv – leaky relu – flatten – gemm, all of it positive: no sum cancels, and relevance is as large as r."""
    body = """
        h = Conv<pads=[1,1,1,1]>(x, w)
        r = LeakyRelu(h)
        f = Flatten(r)
        y = Gemm(f, v)
    """
    return net(body, **{"w": plain_constant("w"), "v": plain_constant("v"), **constants})


def plain_constant(name: str) -> np.ndarray:
    return np.abs(CONSTANTS["w"] if name == "w" else weight(120, 4, seed=3))


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e6, 1e12])
@pytest.mark.parametrize("at", ["x", "w", "v", "r"])
def test_values_far_outside_half_range(at: str, scale: float) -> None:
    """Activations, weights, relevances and s = r / z may have any size; Zero keeps its ε out of the comparison."""
    model = plain(**({at: plain_constant(at) * np.float32(scale)} if at in "wv" else {}))
    r = data(3, 4, seed=5, low=0) * np.float32(scale if at == "r" else 1)
    feeds = {"x": data(3, 3, 6, 5, low=0) * np.float32(scale if at == "x" else 1), "relevance_out": r}
    rule = onnxlrp.Composite(onnxlrp.Zero(epsilon=1e-30))
    whole, half, rounded = both(model, rule, feeds, init="given")
    for found in (half, rounded):
        assert error(found["y"], whole["y"]) <= 2e-3
        assert error(found["relevance.x"], whole["relevance.x"]) <= 2e-3


@pytest.mark.parametrize("composite", ["epsilon", "zplus", "w_square", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("share", [0.0, 1e-12, 1e-7, 1e-4])
def test_a_dead_channel_does_not_drown_the_others(share: float, composite: str) -> None:
    """Class 2 has (almost) no weights and gets relevance all the same: s = r / ε is 10⁶ times that of its neighbours."""
    v = plain_constant("v")
    v[:, 2] *= np.float32(share)
    feeds = {"x": data(3, 3, 6, 5, low=0), "relevance_out": np.ones((3, 4), np.float32)}
    whole, half, rounded = both(plain(v=v), composite, feeds, init="given")
    for found in (half, rounded):
        assert error(found["relevance.x"], whole["relevance.x"]) <= 2e-3


def test_rows_are_independent_and_a_row_of_zeros_stays_zero() -> None:
    half = rounding(onnxlrp.compile(smooth(), "epsilon", precision="fp16"))
    x = data(3, 3, 6, 5)
    x[1] *= 1e8
    x[2] = 0
    together = half({"x": x})
    for row in range(3):
        alone = half({"x": x[row : row + 1]})
        for name in ("y", "relevance.x"):
            np.testing.assert_array_equal(together[name][row : row + 1], alone[name])
    assert np.isfinite(together["relevance.x"]).all()
    assert not together["relevance.x"][2].any()


def test_what_is_not_finite_is_not_hidden() -> None:
    half = rounding(onnxlrp.compile(plain(), "epsilon", precision="fp16", init="given"))
    r = np.ones((2, 4), np.float32)
    r[0, 1] = np.inf
    found = half({"x": data(2, 3, 6, 5), "relevance_out": r})["relevance.x"]
    assert not np.isfinite(found[0]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_products_are_half_and_nothing_else_is(name: str, optimize: bool) -> None:
    model = onnxlrp.compile(NETS[name][0](), "epsilon_plus", precision="fp16", optimize=optimize)
    held = halves(model)
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for node in model.graph.node:
        kinds[any(i in held for i in node.input)][node.op_type] += 1
    assert set(kinds[True]) <= {*PRODUCTS, "Cast"}
    assert not set(kinds[False]) & {"Gemm", "MatMul", "Conv"}
    assert {o.type.tensor_type.elem_type for o in (*model.graph.output, *model.graph.input)} <= {1, TensorProto.INT64}


def test_depthwise_convolutions_and_average_pools_stay_float32() -> None:
    body = """
        h = Conv<group=3, pads=[1,1,1,1]>(x, k)
        p = AveragePool<kernel_shape=[2,2]>(h)
        f = Flatten(p)
        y = MatMul(f, v)
    """
    model = onnxlrp.compile(net(body, k=weight(3, 1, 3, 3), v=weight(60, 4)), "epsilon", precision="fp16")
    held = halves(model)
    products = Counter((n.op_type, n.output[0] in held) for n in model.graph.node if n.op_type in PRODUCTS)
    assert products[("MatMul", True)] == 2
    assert not any(half for op, half in products if op != "MatMul")


def test_weights_are_stored_in_half_once(tmp_path: Path) -> None:
    big = weight(600, 500)
    source = net("y = MatMul(x, w)", "float[N,600] x", "float[N,500] y", w=big)
    apart = onnx.load_model_from_string(source.SerializeToString())
    onnx.save(apart, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    model = onnxlrp.compile(str(tmp_path / "m.onnx"), "gamma", precision="fp16")
    stored = {t.name: t for t in model.graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["w"]), big.astype(np.float16))
    assert model.ByteSize() < 0.55 * onnxlrp.compile(source, "gamma").ByteSize()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_weights_that_half_cannot_hold_are_stored_as_they_are(scale: float) -> None:
    w = weight(6, 4) * np.float32(scale)
    model = onnxlrp.compile(net("y = MatMul(x, w)", "float[N,6] x", w=w), "epsilon", precision="fp16")
    stored = {t.name: t for t in model.graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["w"]), w)


@pytest.mark.parametrize(
    "options",
    [{"bake": True}, {"checks": True}, {"layers": ["h"]}, {"conditions": ["r"]}, {"optimize": False}, {"canonize": False}],
    ids=str,
)
def test_other_options_keep_working(options: dict[str, Any]) -> None:
    whole, half, rounded = both(smooth(), "epsilon_plus", {"x": data(2, 3, 6, 5)}, **options)
    assert whole.keys() == half.keys()
    for found in (half, rounded):
        for name in whole.keys() - {"checks"}:
            assert error(found[name], whole[name]) <= 5e-3, name
        if "checks" in whole:
            assert error(found["checks"][:, :2], whole["checks"][:, :2]) <= 5e-3


def test_explainer_and_metadata() -> None:
    explainer = onnxlrp.Explainer(plain(), "epsilon", precision="fp16")
    assert np.isfinite(explainer(data(2, 3, 6, 5)).relevances["x"]).all()
    for precision in ("fp32", "fp16"):
        props = {p.key: p.value for p in onnxlrp.compile(small(), precision=precision).metadata_props}
        assert props["onnxlrp.precision"] == precision


def test_unknown_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompositeError, match="precision must be one of fp32, fp16, got 'bf16'"):
        onnxlrp.compile(small(), precision="bf16")
    onnx.save(small(), tmp_path / "m.onnx")
    words = ["onnxlrp", "compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out.onnx"), "--precision", "bf16"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


TRANSFORMERS = ("bert.ts.fp16", "vit.dyn.fp16", "vit.dyn", "gpt2_cls.dyn")
NETWORKS = ("resnet.dyn", "unet_convtranspose.dyn", "flax_cnn.dynbatch")
CASES = [(n, c) for n in TRANSFORMERS for c in ("epsilon_plus", "attn_lrp")]
CASES += [(n, c) for n in NETWORKS for c in ("epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box(low=-3, high=3)")]


def stored_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights rounded to float16, to be explained in float32."""
    for t in model.graph.initializer:
        if t.data_type == TensorProto.FLOAT and len(t.dims) > 1:
            t.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16).astype(np.float32), t.name)
            )
    return model


@pytest.mark.parametrize(("name", "composite"), CASES)
def test_reference_models(name: str, composite: str) -> None:
    """At most 2e-2 beyond what rounding the weights does: it turns the sign of some z near 0, and opens or shuts a ReLU."""
    path, arrays = shared(f"zoo/{name}.onnx"), np.load(shared(f"zoo/{name}.npz"))
    feeds = {k[3:]: arrays[k] for k in arrays if k.startswith("in:")}
    whole, half, rounded = both(str(path), composite, feeds)
    least = Runner(onnxlrp.compile(stored_in_half(onnx.load(path)), composite))(feeds)
    for found in (half, rounded):
        for key, value in whole.items():
            if key.startswith("relevance"):
                assert np.corrcoef(value.ravel(), found[key].ravel())[0, 1] > 0.999
                assert error(found[key], value) <= 2e-2 + error(least[key], value)
            else:
                assert error(found[key], value) <= 2e-3
