"""Speed rewrites: each fires where its guard says so, not elsewhere, and agrees with the plain emission."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlrp


def convolution(channels: int, outputs: int, **attrs: object) -> onnx.ModelProto:
    """x (N, channels, 9, 7) -> Conv 3×3 -> Relu -> global average -> logits."""
    rng = np.random.default_rng(0)
    group = int(attrs.get("group", 1))  # type: ignore[call-overload]
    w = rng.standard_normal((outputs, channels // group, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], "conv", **attrs),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 9, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def relevance(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["relevance.x"], {"x": x})[0])


def backward_ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node if n.name.startswith("lrp/"))


FLIPS = {
    "wide": (16, 4, {"pads": [1, 1, 1, 1]}, True),
    "no padding": (16, 4, {}, True),
    "asymmetric padding": (16, 4, {"pads": [0, 1, 2, 1]}, True),
    "dilated": (17, 4, {"dilations": [2, 1], "pads": [1, 0, 3, 2]}, True),
    "few channels": (3, 16, {"pads": [1, 1, 1, 1]}, False),
    "strided": (16, 4, {"strides": [2, 1], "pads": [1, 1, 1, 1]}, False),
    "grouped": (16, 4, {"group": 2, "pads": [1, 1, 1, 1]}, False),
    "padding beyond the kernel": (16, 4, {"pads": [3, 3, 3, 3]}, False),
}


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "gamma"])
@pytest.mark.parametrize("name", FLIPS)
def test_stride_1_adjoint_becomes_a_convolution(name: str, composite: str) -> None:
    channels, outputs, attrs, fires = FLIPS[name]
    model = convolution(channels, outputs, **attrs)
    plain, fast = onnxlrp.compile(model, composite, optimize=False), onnxlrp.compile(model, composite)
    assert backward_ops(plain)["ConvTranspose"] > 0
    assert (backward_ops(fast)["ConvTranspose"] == 0) == fires
    x = np.random.default_rng(1).standard_normal((2, channels, 9, 7)).astype(np.float32)
    reference = relevance(plain, x)
    assert np.abs(relevance(fast, x) - reference).max() <= 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_box(low=-3, high=3)", "epsilon_plus_flat"])
def test_bake_stores_modified_weights(composite: str) -> None:
    model = convolution(16, 4, pads=[1, 1, 1, 1])
    plain, baked = onnxlrp.compile(model, composite), onnxlrp.compile(model, composite, bake=True)
    fixed = {t.name for t in baked.graph.initializer} - {"target"}
    left = [n.name for n in baked.graph.node if n.input and all(name in fixed for name in n.input)]
    assert left == []
    assert len(baked.graph.node) < len(plain.graph.node)
    x = np.random.default_rng(1).standard_normal((2, 16, 9, 7)).astype(np.float32)
    reference = relevance(plain, x)
    assert np.abs(relevance(baked, x) - reference).max() <= 1e-6 * np.abs(reference).max()


def test_zplus_behind_a_relu_costs_one_convolution_each_way() -> None:
    model = convolution(16, 4, pads=[1, 1, 1, 1])
    counts = Counter(n.op_type for n in onnxlrp.compile(model, "zplus", optimize=False).graph.node)
    assert counts["Conv"] == 2  # the model's own and z⁺
    assert counts["ConvTranspose"] == 1
    counts = Counter(n.op_type for n in onnxlrp.compile(model, "epsilon", optimize=False).graph.node)
    assert (counts["Conv"], counts["ConvTranspose"]) == (1, 1)
    del model.graph.node[0]
    model.graph.node[0].input[0] = "x"  # nothing is known about the sign of the input any more
    counts = Counter(n.op_type for n in onnxlrp.compile(model, "zplus", optimize=False).graph.node)
    assert (counts["Conv"], counts["ConvTranspose"]) == (3, 2)
