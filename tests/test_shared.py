"""Many relevances of one input through one forward pass: equal to those of as many runs, or refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models_for_tests import CONSTANTS, data, lrp, near, net, weight

import onnxlrp
from onnxlrp import CompositeError, Explainer, InputError, starts

X = data(1, 3, 6, 5, seed=3)
NETS = {
    "overlapping pools": """
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        r = Relu(h)
        p = MaxPool<kernel_shape=[3,2], strides=[1,2], pads=[1,0,1,1]>(r)
        q = AveragePool<kernel_shape=[2,2]>(p)
        g = GlobalMaxPool(q)
        y = Flatten(g)
    """,
    "residual, concatenated": """
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        r = Relu(h)
        k = Conv<pads=[1,1,1,1]>(r, v, b)
        s = Add(k, r)
        c = Concat<axis=1>(s, h)
        t = Transpose<perm=[0,2,3,1]>(c)
        f = Flatten(t)
        y = MatMul(f, m)
    """,
    "attention": """
        f = Reshape(x, rows)
        q = MatMul(f, a)
        k = Transpose<perm=[0,2,1]>(q)
        s = MatMul(q, k)
        p = Softmax<axis=-1>(s)
        o = MatMul(p, q)
        n = LayerNormalization(o, e, z)
        l = Flatten(n)
        y = MatMul(l, u)
    """,
}
WEIGHTS = {
    "overlapping pools": {"w": CONSTANTS["w"], "b": CONSTANTS["b"]},
    "residual, concatenated": {
        "w": CONSTANTS["w"], "b": CONSTANTS["b"], "v": weight(4, 4, 3, 3, seed=5), "m": weight(240, 4, seed=6)
    },
    "attention": {
        "rows": np.int64([-1, 15, 6]), "a": weight(6, 8), "e": data(8, seed=7), "z": data(8, seed=8),
        "u": weight(120, 4, seed=9),
    },
}  # fmt: skip


def made(name: str) -> onnx.ModelProto:
    return net(NETS[name], **WEIGHTS[name])


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_plus_flat", "gamma"])
@pytest.mark.parametrize("name", NETS)
def test_several_targets_of_one_input(name: str, composite: str) -> None:
    targets = [2, 0, 3, -1, 1]
    found = Explainer(made(name), composite, shared_forward=True).quietly(X, targets)
    assert found.output.shape == (1, 4)
    assert found.target is not None
    assert found.target.tolist() == [2, 0, 3, int(found.output.argmax()), 1]
    for row, target in enumerate(targets):
        alone = Explainer(made(name), composite).quietly(X, target)
        near(found.relevance[row], alone.relevance[0])
        near(found.initial[row], alone.initial[0])
        near(found.ratio[row], alone.ratio[0], 1e-3)


@pytest.mark.parametrize("name", NETS)
def test_a_batch_is_explained_as_without(name: str) -> None:
    x = data(3, 3, 6, 5, seed=4)
    shared = lrp(made(name), {"x": x}, "epsilon_plus", target=[0, 1, 2], shared_forward=True)
    near(shared["relevance.x"], lrp(made(name), {"x": x}, "epsilon_plus", target=[0, 1, 2])["relevance.x"])


def test_several_given_relevances_and_masks() -> None:
    r, mask = data(4, 4, seed=5), np.zeros((4, 4, 1, 1), np.float32)
    mask[range(4), range(4)] = 1
    options = {"init": "given", "conditions": ["h"]}
    found = lrp(made("overlapping pools"), {"x": X, "relevance_out": r, "mask.r": mask}, shared_forward=True, **options)
    for row in range(4):
        feeds = {"x": X, "relevance_out": r[row : row + 1], "mask.r": mask[row : row + 1]}
        near(found["relevance.x"][row], lrp(made("overlapping pools"), feeds, **options)["relevance.x"][0])


def test_several_starts_of_one_input() -> None:
    asked = [starts.contrast(0, 2), starts.against_mean(1), starts.top(2)]
    shared = Explainer(made("attention"), init="given", shared_forward=True)
    found = shared.quietly(X, start=asked)
    assert found.output.shape == (1, 4)
    for row, start in enumerate(asked):
        near(found.relevance[row], Explainer(made("attention"), init="given").quietly(X, start=start).relevance[0])


def test_what_cannot_share_is_refused() -> None:
    strange = net("h = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Abs(h)\n g = GlobalAveragePool(r)\n y = Flatten(g)",
                  w=CONSTANTS["w"], b=CONSTANTS["b"])  # fmt: skip
    with pytest.raises(CompositeError, match=r"shared_forward: node 'r' \(Abs\) does not broadcast"):
        onnxlrp.compile(strange, shared_forward=True)
    fixed = net(NETS["overlapping pools"], "float[1,3,6,5] x", "float[1,4] y", **WEIGHTS["overlapping pools"])
    with pytest.raises(CompositeError, match="shared_forward: input 'x' needs a free batch axis"):
        onnxlrp.compile(fixed, shared_forward=True)
    with pytest.raises(InputError, match="target has 3 entries, the batch 1 rows"):
        Explainer(made("attention"))(X, target=[0, 1, 2])
    with pytest.raises(InputError, match="target has 3 entries, the batch 2 rows"):
        Explainer(made("attention"), shared_forward=True)(np.concatenate([X, X]), target=[0, 1, 2])
