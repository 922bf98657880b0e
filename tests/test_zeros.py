"""Zero sets are sound: in random runs, a tensor is 0 wherever one of its zero set is; and they reach where they should."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, net, run, weight

import onnxlrp
from onnxlrp.emit import Emit
from onnxlrp.outputs import expose

BODY = """
    a = {0}
    s = Add(a, k)
    q = Relu(s)
    p = MaxPool<kernel_shape=[2,2], strides=[1,1]>(q)
    t = Transpose<perm=[0,1,3,2]>(p)
    h = Conv<kernel_shape=[2,2]>(t, v, c)
    m = Mul(h, h)
    u = {1}
    g = GlobalAveragePool(u)
    y = Flatten(g)
"""
FIRST = "Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, w, b)\n k = Relu(a)"
LAST = {
    "Relu": "Relu(h)",
    "Clip": "Clip(h, zero, six)",
    "Clip with a high below 0": "Clip(h, zero, minus)",
    "Clip with a low above 0": "Clip(h, six, eight)",
    "ThresholdedRelu": "ThresholdedRelu<alpha=0.2>(h)",
    "ThresholdedRelu below 0": "ThresholdedRelu<alpha=-0.2>(h)",
    "LeakyRelu": "LeakyRelu(h)",
    "Sum": "Sum(h, m)",
}
NUMBERS = {k: np.float32(v) for k, v in {"zero": 0, "six": 0.6, "eight": 0.8, "minus": -1}.items()}
FIRES = {"Relu", "Clip", "ThresholdedRelu"}


def model(last: str) -> onnx.ModelProto:
    weights = {"w": weight(4, 3, 3, 3), "b": data(4), "v": weight(4, 4, 2, 2, seed=3), "c": data(4, seed=4) - 1}
    return net(BODY.format(FIRST, LAST[last]), **weights, **NUMBERS)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "gamma", "epsilon_alpha2_beta1", "w_square", "gradient"])
@pytest.mark.parametrize("last", LAST)
def test_claims_hold(last: str, composite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Emit] = []

    def spy(e: Emit, *rest: Any) -> Any:
        seen.append(e)
        return expose(e, *rest)

    monkeypatch.setattr(sys.modules["onnxlrp.compile"], "expose", spy)  # the function has the module's name
    compiled = onnxlrp.compile(model(last), composite, optimize=False)
    made = {name for n in compiled.graph.node for name in n.output} | {"x"}
    tensors = [t for group in seen[0]._interned.values() for t in group if t.value is None]
    claims = {t.name: [u for u in t.zeros if u in made] for t in tensors if t.name in made}
    wanted = {name for name, zeros in claims.items() if zeros} | {u for zeros in claims.values() for u in zeros}
    shown = {o.name for o in compiled.graph.output} | {"x"}
    compiled.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted - shown)
    x = data(3, 3, 6, 5, seed=7)
    x[0, :, :2] = 0
    values = {**run(compiled, x=x), "x": x}
    checked = 0
    for name, zeros in claims.items():
        for u in zeros:
            checked += int((values[u] == 0).any())
            assert not values[name][values[u] == 0].any(), f"{name} is not 0 where {u} is"
    assert checked > 0 or composite in ("w_square", "gradient")


@pytest.mark.parametrize("last", LAST)
def test_a_rectified_layer_needs_no_comparison(last: str) -> None:
    compiled = onnxlrp.compile(model(last), "epsilon", optimize=False)
    compared = [n.name for n in compiled.graph.node if n.name.startswith("lrp/h/GreaterOrEqual")]
    assert bool(compared) != (last in FIRES)


@pytest.mark.parametrize("last", LAST)
def test_a_rectified_layer_needs_one_share(last: str) -> None:
    compiled = onnxlrp.compile(model(last), "gamma", optimize=False)
    adjoints = [n for n in compiled.graph.node if n.name.startswith("lrp/h/ConvTranspose")]
    assert len(adjoints) == (1 if last in FIRES else 2)
