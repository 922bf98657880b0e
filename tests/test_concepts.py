"""Concepts: channels of a layer, one by one; every claim against an explanation made of two halves of the model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.utils
import pytest
from models_for_tests import CONSTANTS, data, lrp, near, net, relevance, weight

from onnxlrp import InputError
from onnxlrp.concepts import Concepts, IndexedFeatures, TopNFeatures
from onnxlrp.heatmap import heatmap, sheet

BODY = """
    h = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(h)
    k = Conv<pads=[1,1,1,1]>(r, v, d)
    q = Relu(k)
    g = GlobalAveragePool(q)
    f = Flatten(g)
    y = Gemm<transB=1>(f, m)
"""
X = data(3, 3, 6, 5, seed=4)


def model() -> onnx.ModelProto:
    more = {"v": weight(5, 4, 3, 3, seed=8), "d": data(5, seed=9), "m": weight(4, 5, seed=10)}
    return net(BODY, w=CONSTANTS["w"], b=CONSTANTS["b"], **more)


def through(channels: dict[int, list[int]], target: list[int] | None = None) -> np.ndarray:
    """Relevance of X with that of `r` zeroed but in the channels of each row: upper half, mask, lower half."""
    whole = model()
    shaped = onnx.shape_inference.infer_shapes(whole)
    extract = onnx.utils.Extractor(shaped).extract_model
    upper, lower = extract(["r"], ["y"]), extract(["x"], ["r"])
    act = np.maximum(lrp(lower, {"x": X}, "epsilon_plus", init="one")["r"], 0)
    r = lrp(upper, {"r": act}, "epsilon_plus", target=target)["relevance.r"]
    mask = np.zeros_like(r)
    for row, kept in channels.items():
        mask[row, kept] = 1
    return lrp(lower, {"x": X, "relevance_out": r * mask}, "epsilon_plus", init="given")["relevance.x"]


def test_a_channel_is_the_relevance_with_the_others_zeroed() -> None:
    found = Concepts(model(), "epsilon_plus", layers=["h"])(X, IndexedFeatures(2, 0))
    assert found.relevance.shape == (6, 3, 6, 5)
    for f, channel in enumerate((2, 0)):
        near(found.relevance[f * 3 : f * 3 + 3], through({i: [channel] for i in range(3)}))


def test_all_channels_add_up_to_the_whole() -> None:
    found = Concepts(model(), "epsilon_plus", layers=["h"])(X, IndexedFeatures(0, 1, 2, 3))
    near(found.relevance.reshape(4, 3, 3, 6, 5).sum(0), relevance(model(), X, "epsilon_plus"))


def test_the_strongest_channels_of_every_input() -> None:
    concepts = Concepts(model(), "epsilon_plus", layers=["h"])
    target = [1, 3, 0]
    per_channel = concepts.relevance_per_channel(X, target)["h"]
    whole = lrp(model(), {"x": X}, "epsilon_plus", layers=["h"], target=target)["relevance.r"]
    near(per_channel, whole.sum((2, 3)))
    found = concepts(X, TopNFeatures(2), target)
    order = np.argsort(-whole.sum((2, 3)), axis=1)
    for f in range(2):
        near(found.relevance[f * 3 : f * 3 + 3], through({i: [int(order[i, f])] for i in range(3)}, target))
    assert found.target is not None
    assert found.target.tolist() == target * 2


def test_conditions_at_two_layers() -> None:
    concepts = Concepts(model(), "epsilon_plus", layers=["h", "k"])
    pairs = [{"h": [c], "k": [d]} for c in range(4) for d in range(5)]
    found = concepts(X, pairs).relevance.reshape(20, 3, 3, 6, 5)
    near(found.sum(0), relevance(model(), X, "epsilon_plus"))
    one = concepts(X, [{"h": [1, 3]}]).relevance
    near(found[5:10].sum(0) + found[15:].sum(0), one)
    near(one, through({i: [1, 3] for i in range(3)}))


@pytest.mark.parametrize("by", ["relevance", "activation"])
def test_inputs_that_maximise_a_concept(by: str) -> None:
    concepts = Concepts(model(), "epsilon_plus", layers=["h"])
    many = data(10, 3, 6, 5, seed=12)
    rows, values = concepts.strongest([many[:4], many[4:]], "h", 2, n=3, by=by)
    if by == "relevance":
        every = lrp(model(), {"x": many}, "epsilon_plus", layers=["h"])["relevance.r"].sum((2, 3))[:, 2]
    else:
        half = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model())).extract_model(["x"], ["r"])
        every = lrp(half, {"x": many}, init="one")["r"].max((2, 3))[:, 2]
    assert rows.tolist() == np.argsort(-every)[:3].tolist()
    near(values, np.sort(every)[::-1][:3])


def test_conditions_share_one_forward_pass_where_they_can() -> None:
    assert Concepts(model(), layers=["h"]).shared
    other = net(BODY.replace("Relu(h)", "Abs(h)"), w=CONSTANTS["w"], b=CONSTANTS["b"], v=weight(5, 4, 3, 3, seed=8),
                d=data(5, seed=9), m=weight(4, 5, seed=10))  # fmt: skip
    alone = Concepts(other, "epsilon_plus", layers=["h"])
    assert not alone.shared
    found = alone(X, IndexedFeatures(0, 1, 2, 3), target=[1, 2, 3])
    near(found.relevance.reshape(4, 3, 3, 6, 5).sum(0), lrp(other, {"x": X}, "epsilon_plus", target=[1, 2, 3])["relevance.x"])


def test_gallery_shows_the_strongest_inputs_in_order() -> None:
    concepts = Concepts(model(), "epsilon_plus", layers=["h"])
    many = data(6, 3, 6, 5, seed=12)
    rows, values = concepts.strongest([many], "h", 1, n=2)
    shown = concepts.gallery(many, "h", 1, n=2, size=96)
    captions = [f"row {row}: relevance {value:.3g}" for row, value in zip(rows, values, strict=True)]
    maps = [through_one(many[row : row + 1]) for row in rows]
    assert shown.tobytes() == sheet([heatmap(m, size=96) for m in maps], captions).tobytes()


def through_one(x: np.ndarray) -> np.ndarray:
    mask = np.eye(4, dtype=np.float32)[1].reshape(1, 4, 1, 1)
    return np.asarray(lrp(model(), {"x": x, "mask.r": mask}, "epsilon_plus", conditions=["h"])["relevance.x"][0])


WRONG = {
    "no layers": (lambda: Concepts(model(), layers=[]), "layers must be a list"),
    "one name": (lambda: Concepts(model(), layers="h"), "layers must be a list"),
    "another layer": (lambda: Concepts(model(), layers=["h"])(X, [{"k": [0]}]), "condition on 'k'"),
    "channel": (lambda: Concepts(model(), layers=["h"])(X, IndexedFeatures(4)), r"channel 4 is outside \[0, 4\)"),
    "too many": (lambda: Concepts(model(), layers=["h"])(X, TopNFeatures(5)), "the layer has 4 channels"),
    "nothing": (lambda: Concepts(model(), layers=["h"])(X, []), "no features"),
    "axis": (lambda: Concepts(model(), layers=["f"], axis=3)(X, IndexedFeatures(0)), "has no axis 3"),
    "by": (lambda: Concepts(model(), layers=["h"]).strongest([X], "h", 0, by="size"), "by must be"),
    "no data": (lambda: Concepts(model(), layers=["h"]).strongest([], "h", 0), "no batches"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    attempt, text = WRONG[name]
    with pytest.raises(InputError, match=text):
        attempt()
