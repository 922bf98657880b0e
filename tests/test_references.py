"""Whole networks against independent reference numbers, where the checkout has them beside it (`../shared`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxlrp
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
DATA, ZOO, REFS = SHARED / "data", SHARED / "zoo", SHARED / "zoo_refs"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the reference numbers (../shared/data) are not beside this checkout")
needs_zoo = pytest.mark.skipif(
    not REFS.is_dir(), reason="the reference numbers (../shared/zoo_refs) are not beside this checkout"
)

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


# ----------------------------------------------------------------------------------------------------------------- zoo

STATUS = json.loads((REFS / "status.json").read_text()) if REFS.is_dir() else {}
FILES = {m["name"]: m["file"] for m in json.loads((ZOO / "manifest.json").read_text())} if ZOO.is_dir() else {}
OTHER_ISSUES = ("attn_lrp", "cp_lrp")  # presets that this version does not have


def compiled_or_refused(path: Path, preset: str) -> onnx.ModelProto:
    """A compiled model; skips when the operator of a node, which the message must name, is not read yet."""
    try:
        return onnxlrp.compile(path, preset)
    except onnxlrp.UnsupportedOp as refused:
        if "node '" not in str(refused):
            raise
        pytest.skip(str(refused).split("; to get past")[0])


def assert_books_balance(path: Path, preset: str, feed: dict[str, np.ndarray]) -> None:
    """arrived = sent + bias + ε at every layer: exact book-keeping in the place of a map that rounding decides."""
    books = Explainer(path, preset, checks=True)(feed).conservation
    scale = max(abs(b.arrived) for b in books)
    assert scale > 0
    for b in books:
        assert abs(b.dropped) <= 1e-3 * max(scale, abs(b.bias), abs(b.epsilon)), b


@needs_zoo
@pytest.mark.slow
def test_zoo_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints which models are explained, and for the others the node that has no reading."""
    lines = {name: reading(ZOO / file) for name, file in sorted(FILES.items())}
    explained = sum(line.endswith("layers") for line in lines.values())
    with capsys.disabled():
        print("\n".join(["", *(f"{name:30} {line}" for name, line in lines.items()), f"{explained} of {len(lines)} explained"]))
    assert explained
    assert all("node '" in line or line.endswith("layers") for line in lines.values())


def reading(path: Path) -> str:
    """How many layers are explained, or which node is not read."""
    try:
        return f"{len(onnxlrp.inspect(path))} layers"
    except onnxlrp.UnsupportedOp as refused:
        return str(refused).split("; to get past")[0][:150]


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, with the convolutions that round as the reference's do.

    onnxruntime's layout optimisation sums in another order; a unit within that rounding (1e-6) of a ReLU's kink then
    flips, which Epsilon turns into 1e-3 … 1e-2 of a map. That is the runtime's rounding, not the compiler's formula.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


@needs_zoo
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:layer .* inputs lie outside")  # ±3 is the references' range, not every input's
@pytest.mark.filterwarnings("ignore:Σ relevance")  # random weights under Epsilon conserve little; the books still balance
@pytest.mark.parametrize("name", [n for n, s in STATUS.items() if s.get("presets")] or ["none"])
def test_zoo_model_matches_its_reference(name: str) -> None:
    """Compiles, gives the model's own outputs, and the reference's relevance; or names the node that it cannot read."""
    worst = {}
    for preset, info in STATUS[name]["presets"].items():
        if preset in OTHER_ISSUES:
            continue
        compiled = compiled_or_refused(ZOO / FILES[name], preset)
        reference = np.load(REFS / info["file"])
        feed = {k[3:]: reference[k] for k in reference.files if k.startswith("in:")}
        found = run(compiled, feed)
        for key in [k for k in reference.files if k.startswith("relevance:")]:
            r = found[f"relevance.{key[10:]}"]
            assert np.isfinite(r).all()
            if info["well_conditioned"]:
                worst[f"{preset} {key}"] = error(r, reference[key])
        if not info["well_conditioned"]:
            assert_books_balance(ZOO / FILES[name], preset, feed)
    assert all(v <= 1e-3 for v in worst.values()), worst


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES) or ["none"])
def test_zoo_model_keeps_its_outputs(name: str) -> None:
    """The compiled graph's own outputs equal the model's, and its file is hardly larger than the model's."""
    path = ZOO / FILES[name]
    compiled = compiled_or_refused(path, "epsilon_plus_flat")
    data = np.load(path.with_suffix(".npz"))
    feed = {k[3:]: data[k] for k in data.files if k.startswith("in:")}
    found = run(compiled, feed)
    own = run_model(path, feed)
    for key, y in own.items():
        if isinstance(y, np.ndarray) and y.dtype.kind == "f":
            assert error(found[key].astype(np.float64), y.astype(np.float64)) <= 1e-5
    weights = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*") if p.suffix != ".npz")
    assert compiled.ByteSize() <= 1.05 * weights + 200_000 + 2_000 * len(compiled.graph.node)


def run_model(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's own outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
