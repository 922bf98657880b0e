"""Channels-last regions between channels-first convolutions: transposes go, relevance is that of the channels-first twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models_for_tests import data, lrp, near, net, ops, relevance, run, weight

import onnxlrp
from onnxlrp import Composite, Epsilon, FirstLayerTypeMap, Flat, GlobalTypeMap, ZPlus

LAST, FIRST = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"
CHANNELS = np.asarray([0.5, -1, 2, 1.5], np.float32)
WEIGHTS = {"w": weight(4, 3, 3, 3, seed=1), "b": data(4, seed=2), "v": weight(2, 4, 3, 3, seed=3)}

# what stands between two convolutions: channels-last with its constants, channels-first with its
ROWS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "relu": ("e = Relu(d)", "e = Relu(d)", {}, {}),
    "several": ("k = LeakyRelu(d); l = Tanh(k); e = Neg(l)", "k = LeakyRelu(d); l = Tanh(k); e = Neg(l)", {}, {}),
    "hard_swish": (
        "k = Add(d, three); l = Clip(k, zero, six); m = Mul(l, sixth); e = Mul(d, m)",
        "k = Add(d, three); l = Clip(k, zero, six); m = Mul(l, sixth); e = Mul(d, m)",
        *[{"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}] * 2,
    ),
    "scale": ("e = Mul(d, c)", "e = Mul(d, c)", {"c": CHANNELS}, {"c": CHANNELS.reshape(4, 1, 1)}),
    "from_constant": ("e = Sub(c, d)", "e = Sub(c, d)", {"c": CHANNELS}, {"c": CHANNELS.reshape(4, 1, 1)}),
    "prelu": ("e = PRelu(d, c)", "e = PRelu(d, c)", {"c": CHANNELS}, {"c": CHANNELS.reshape(4, 1, 1)}),
    "pad": (
        "e = Pad(d, p)", "e = Pad(d, p)",
        {"p": np.asarray([0, 1, 0, 0, 0, 0, 2, 0])}, {"p": np.asarray([0, 0, 1, 0, 0, 0, 0, 2])},
    ),
    "residual": ("k = Relu(d); l = Sigmoid(d); e = Add(k, l)", "k = Relu(d); l = Sigmoid(d); e = Add(k, l)", {}, {}),
    "squeeze_and_excite": (
        "k = ReduceMean<keepdims=1>(d, a); l = Sigmoid(k); e = Mul(d, l)",
        "k = ReduceMean<keepdims=1>(d, a); l = Sigmoid(k); e = Mul(d, l)",
        {"a": np.asarray([1, 2])}, {"a": np.asarray([2, 3])},
    ),
}  # fmt: skip


def networks(name: str) -> tuple[Any, Any]:
    last, first, ours, theirs = ROWS[name]
    frame = "c1 = Conv<pads=[1,1,1,1]>(x, w, b)\n{}\ny = Conv(f, v)"
    body = f"d = {LAST}(c1)\n{last.replace('; ', chr(10))}\nf = {FIRST}(e)"
    twin = first.replace("; ", "\n").replace("e = ", "f = ").replace("(d", "(c1").replace(" d)", " c1)")
    sizes = ("float[N,3,6,5] x", "float[N,2,H,W] y")
    return net(frame.format(body), *sizes, **WEIGHTS, **ours), net(frame.format(twin), *sizes, **WEIGHTS, **theirs)


@pytest.mark.parametrize("name", ROWS)
def test_transposes_go_and_relevance_stays(name: str) -> None:
    model, twin = networks(name)
    x = data(2, 3, 6, 5)
    compiled = onnxlrp.compile(model, "epsilon")
    assert "Transpose" not in [n.op_type for n in compiled.graph.node if not n.name.startswith("lrp/")]
    near(run(compiled, x=x)["y"], run(model, x=x)["y"])
    for composite in ("epsilon", "epsilon_plus_flat", Composite(ZPlus())):
        near(relevance(model, x, composite), relevance(twin, x, composite))
        assert [la.rule for la in onnxlrp.inspect(model, composite)] == [la.rule for la in onnxlrp.inspect(twin, composite)]


def test_a_pad_reaches_its_convolution() -> None:
    """Flat counts the taps inside the image only, also where the padding is spelled channels-last."""
    pads = np.asarray([0, 1, 1, 0, 0, 1, 1, 0])
    sizes, rest = ("float[N,5,4,3] x", "float[N,4,5,4] y"), {"w": WEIGHTS["w"], "b": WEIGHTS["b"]}
    padded = net(f"p = Pad(x, p_)\nt = {FIRST}(p)\ny = Conv(t, w, b)", *sizes, p_=pads, **rest)
    direct = net(f"t = {FIRST}(x)\ny = Conv<pads=[1,1,1,1]>(t, w, b)", *sizes, **rest)
    flat = Composite(FirstLayerTypeMap({"Conv": Flat()}))
    x = data(2, 5, 4, 3)
    near(relevance(padded, x, flat), relevance(direct, x, flat))


@pytest.mark.parametrize(
    "body",
    [
        f"d = {LAST}(x)\ny = Relu(d)",  # nothing takes it back
        f"d = {LAST}(x)\ne = Softmax<axis=1>(d)\ny = {FIRST}(e)",  # not element-wise
        f"d = {LAST}(x)\ne = Add(d, q)\ny = {FIRST}(e)",  # with a tensor of the network
        "d = Transpose<perm=[0,2,1,3]>(x)\ne = Relu(d)\ny = Transpose<perm=[0,2,1,3]>(e)",  # heads of an attention
    ],
)
def test_others_stay(body: str) -> None:
    model = net(f"q = Transpose<perm=[0,3,2,1]>(x)\n{body}", "float[N,5,5,5] x", "float[N,A,B,C] y")
    x = data(2, 5, 5, 5)
    if "Softmax" in body:
        model = net(body.replace("Softmax", "LayerNormalization").replace("(d)", "(d, g)"), "float[N,5,5,5] x",
                    "float[N,A,B,C] y", g=np.ones((5, 5, 5), np.float32))  # fmt: skip
    found = lrp(model, {"x": x}, "epsilon")
    near(found["y"], run(model, x=x)["y"])
    assert ops(onnxlrp.compile(model, "epsilon")).count("Transpose") >= 2


def test_a_tensor_that_was_asked_for_stays_channels_last() -> None:
    model, _ = networks("relu")
    found = lrp(model, {"x": data(2, 3, 6, 5)}, Composite(Epsilon(), GlobalTypeMap({"Conv": ZPlus()})), layers=["e"])
    assert found["relevance.e"].shape == (2, 6, 5, 4)


def test_a_tensor_between_two_transposes_can_be_explained() -> None:
    model = net(f"d = {LAST}(x)\ne = {FIRST}(d)\nr = Relu(e)\nf = Flatten(r)\ny = MatMul(f, w)", "float[N,3,2,5] x",
                "float[N,4] y", w=weight(30, 4))  # fmt: skip
    x = data(2, 3, 2, 5)
    found = lrp(model, {"x": x}, "epsilon", explain=["d"])
    near(found["relevance.d"].transpose(0, 3, 1, 2), relevance(model, x))
