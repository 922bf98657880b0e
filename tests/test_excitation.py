"""Excitation backprop by its definition: P(a_j) = Σ_k a_j w_jk⁺ / Σ_i a_i w_ik⁺ · P(a_k).   Zhang et al. 2016 eq. 5-6.

Activations a are those of a net of ReLUs, so a >= 0, and of the input, which is to be >= 0 too; no bias takes part. In
two respects the preset has more than the definition, as RULES of the field have it (`ZPlus`): a positive bias is a part of
the denominator and keeps its share, and negative inputs meet the negative weights. Both are calculated here as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, weight

from onnxlrp import Composite, Explainer, GlobalTypeMap, Gradient, ZPlus

K, V, U = weight(3, 2, 3, 3), weight(60, 16, seed=2), weight(16, 4, seed=3)


def model(*, bias: bool) -> onnx.ModelProto:
    """Conv – Relu – Flatten – Gemm – Relu – Gemm on x (N,2,5,6): 3 channels of 4×5 (padded below), 16 units, 4 classes."""
    body = """
        h = Conv<pads=[0,0,1,1]>(x, k, b)
        r = Relu(h)
        f = Flatten(r)
        g = Gemm(f, v, c)
        q = Relu(g)
        y = MatMul(q, u)
    """
    biases: dict[str, Any] = {
        "b": 0.1 * data(3, seed=8) if bias else np.zeros(3, np.float32),
        "c": 0.1 * data(16, seed=9) if bias else np.zeros(16, np.float32),
    }
    return net(body, "float[N,2,5,6] x", "float[N,4] y", k=K, v=V, u=U, **biases)


def matrix() -> np.ndarray:
    """The convolution as a matrix (2·5·6, 3·4·5), one entry at a time."""
    w = np.zeros((2, 5, 6, 3, 4, 5))
    for o, i, j, c, di, dj in np.ndindex(3, 4, 5, 2, 3, 3):
        if i + di < 5 and j + dj < 6:
            w[c, i + di, j + dj, o, i, j] = K[o, c, di, dj]
    return w.reshape(60, 60)


def step(a: np.ndarray, w: np.ndarray, p: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """P(a_j) of one layer, a (N,J), w (J,K), p (N,K); b: to be a part of the denominator, by b⁺."""
    up, down = w.clip(min=0), w.clip(max=0)
    excited = a.clip(min=0)[:, :, None] * up + a.clip(max=0)[:, :, None] * down  # (N,J,K)
    total = excited.sum(1) + (0 if b is None else b.clip(min=0))
    share = np.divide(excited, total[:, None], out=np.zeros_like(excited), where=total[:, None] > 0)
    return np.asarray((share * p[:, None]).sum(2))


def expected(x: np.ndarray, target: int, b: np.ndarray, c: np.ndarray, *, bias: bool) -> np.ndarray:
    """The marginal winning probability of every input value, from P = 1 for the target."""
    w = matrix()
    a0 = x.reshape(len(x), -1).astype(np.float64)
    per_output = np.repeat(b.astype(np.float64), 20)
    a1 = (a0 @ w + per_output).clip(min=0)
    a2 = (a1 @ V.astype(np.float64) + c).clip(min=0)
    p = np.zeros((len(x), 4))
    p[:, target] = 1
    p = step(a2, U.astype(np.float64), p)
    p = step(a1, V.astype(np.float64), p, c.astype(np.float64) if bias else None)
    return step(a0, w, p, per_output if bias else None).reshape(x.shape)


@pytest.mark.parametrize("target", range(4))
def test_excitation_backprop_is_its_definition(target: int) -> None:
    x = data(3, 2, 5, 6, seed=4, low=0)
    found = Explainer(model(bias=False), "excitation_backprop", init="one")(x, target=target)
    want = expected(x, target, np.zeros(3), np.zeros(16), bias=False)
    near(found.relevance, want, 1e-4)
    assert want.min() >= 0
    near(want.sum((1, 2, 3)), np.ones(3), 1e-12)
    near(found.relevance.sum((1, 2, 3)), np.ones(3), 1e-4)  # a probability: someone wins


@pytest.mark.parametrize("sign", [1, -1], ids=["input >= 0", "input of both signs"])
def test_what_the_preset_adds_to_the_definition(sign: int) -> None:
    x = data(3, 2, 5, 6, seed=4, low=0 if sign > 0 else -1)
    found = Explainer(model(bias=True), "excitation_backprop", init="one")(x, target=1).relevance
    b, c = 0.1 * data(3, seed=8), 0.1 * data(16, seed=9)
    near(found, expected(x, 1, b, c, bias=True), 1e-4)
    without = expected(x, 1, b, c, bias=False)
    assert np.abs(found - without).max() > 0.05 * np.abs(without).max()
    assert 0 < found.sum() < 3  # the positive biases keep their share


def test_it_can_be_had_without_biases() -> None:
    """The definition for a net with biases: ZPlus(bias="ignore")."""
    x = data(3, 2, 5, 6, seed=4, low=0)
    plain = Composite(ZPlus(bias="ignore"), GlobalTypeMap({"Activation": Gradient()}))
    found = Explainer(model(bias=True), plain, init="one")(x, target=2).relevance
    near(found, expected(x, 2, 0.1 * data(3, seed=8), 0.1 * data(16, seed=9), bias=False), 1e-4)
