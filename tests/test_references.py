"""Whole networks against independent reference numbers, where the checkout has them beside it (`../shared`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxlrp import (
    AlphaBeta,
    Average,
    Composite,
    Epsilon,
    Explainer,
    FirstLayerMap,
    FirstLayerTypeMap,
    FirstNTypeMap,
    Flat,
    Gamma,
    GlobalTypeMap,
    Pass,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)

SHARED = Path(__file__).parents[2] / "shared"
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the reference numbers (../shared/data) are not beside this checkout")

LAYERS = ["conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "fc2", "fc3"]


def error(found: np.ndarray, reference: np.ndarray) -> float:
    """max |difference| / max |reference|."""
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / max(np.abs(reference).max(), 1e-30))


def pull_request_84(n: int) -> Composite:
    """The composite of ExplainableAI.jl's pull request 84."""
    types = {"Convolution": AlphaBeta(2, 1), "Dense": Epsilon(), "Pooling": Epsilon(), "Reshaping": Pass()}
    return Composite(GlobalTypeMap(types), FirstNTypeMap(n, {"Conv": Flat()}))


GAMMA_BOX = Composite(GlobalTypeMap({"Convolution": Gamma(), "Dense": Epsilon()}), FirstLayerTypeMap({"Conv": ZBox(0, 1)}))
LENET = {
    "LRPZero": "lrp_zero",
    "EpsilonPlus": "epsilon_plus",
    "EpsilonPlusFlat": "epsilon_plus_flat",
    "EpsilonAlpha2Beta1": "epsilon_alpha2_beta1",
    "EpsilonAlpha2Beta1Flat": "epsilon_alpha2_beta1_flat",
    "EpsilonGammaBox_0_1": GAMMA_BOX,
    "docs_custom_rules": [ZPlus(), Epsilon(), Gamma(0.25), Epsilon(), Zero(), Zero(), Zero(), Zero()],
    "seed000_pr84": pull_request_84(7),
    "seed000_pr84_first1": pull_request_84(1),
    "wsquare_first_gamma": Composite(Epsilon(), GlobalTypeMap({"Conv": Gamma(0.25)}), FirstLayerMap(WSquare())),
}
RAW = ["EpsilonPlusFlat", "LRPZero"]


@needs_data
@pytest.mark.filterwarnings("ignore:Σ relevance")  # init="one" of a negative or small logit is no concern here
@pytest.mark.parametrize("config", [*LENET, *(f"{c}/raw_output" for c in RAW)])
def test_lenet5_agrees_at_every_layer(config: str) -> None:
    data = np.load(DATA / "lenet5_relevances.npz")
    name, raw = config.removesuffix("/raw_output"), config.endswith("/raw_output")
    explainer = Explainer(DATA / "lenet5.onnx", LENET[name], init="logit" if raw else "one", layers=LAYERS[:-1])
    explanation = explainer(data["x"].astype(np.float32))
    found = [explanation.relevance, *(explanation.layers[layer] for layer in LAYERS[:-1])]
    keys = {k.split("/")[-1]: k for k in data.files if k.startswith(f"R/{name}/") and ("raw_output" in k) == raw}
    keys = {layer: keys.get(layer) or next(k for k in data.files if k in (f"R/{config}/{layer}",)) for layer in LAYERS}
    worst = {layer: error(r, data[keys[layer]]) for layer, r in zip(LAYERS, found, strict=True)}
    assert max(worst.values()) <= 1e-4, worst


@needs_data
def test_tutorial_mlp_per_sample() -> None:
    data = np.load(DATA / "tutorial_mlp_reference.npz")
    explanation = Explainer(DATA / "tutorial_mlp.onnx", "tutorial_mlp")(data["x"].astype(np.float32), data["T"].tolist())
    assert error(explanation.relevance, data["R0/per_sample"]) <= 1e-4


@needs_data
def test_tutorial_convolutional_recipe() -> None:
    data = np.load(DATA / "tutorial_conv_lenet5.npz")
    gamma, relative = Gamma(0.25), Epsilon(0.25, relative=True, signed=False)
    rules = [ZBox(0, 1), Average(gamma), gamma, Average(gamma), Pass(), relative, relative, Zero()]
    explanation = Explainer(DATA / "lenet5.onnx", rules, layers=LAYERS[:-1])(data["x"], data["label"].tolist())
    found = [explanation.relevance, *(explanation.layers[layer] for layer in LAYERS[:-1])]
    worst = {layer: error(r, data[f"R/{layer}"]) for layer, r in zip(LAYERS, found, strict=True)}
    assert max(worst.values()) <= 1e-4, worst
