"""Sick models: the diagnosis names the layer that was made sick, and its remedy, applied, takes the finding away."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models_for_tests import data, net, weight

from onnxlrp import AlphaBeta, Composite, Epsilon, Explainer, NameMap, ZBox, ZPlus
from onnxlrp.cli import cli
from onnxlrp.doctor import Report, examine

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", np.load(MODELS / "digit.npy")
X = data(1, 3, 5, 4)
ONES = np.ones((1, 4), np.float32)


def conv(bias: float) -> onnx.ModelProto:
    """Conv – Relu – Gemm, whose convolution has this bias in every channel."""
    body = "h = Conv(x, k, b)  r = Relu(h)  f = Flatten(r)  y = Gemm(f, u, c)"
    constants: dict[str, Any] = {
        "k": weight(4, 3, 3, 3),
        "b": np.full(4, bias, np.float32),
        "u": abs(weight(24, 2)),
        "c": data(2, low=0.5),
    }
    return net(body, "float[N,3,5,4] x", "float[N,2] y", **constants)


def cancelling() -> onnx.ModelProto:
    """h_0 = x_0 - x_1 + 1e-7 x_2, which is next to nothing and weighs 1e6 in y."""
    w = np.array([[1, 1], [-1, 1], [1e-7, 1], [0, 1]], np.float32)
    u = np.array([[1e6, 0], [1, 1]], np.float32)
    return net("h = MatMul(x, w)  y = MatMul(h, u)", "float[N,4] x", "float[N,2] y", w=w, u=u)


def chain(body: str, *weights: np.ndarray) -> onnx.ModelProto:
    """A model on x (N,4) with the weights w0, w1, …"""
    named: dict[str, Any] = {f"w{i}": w for i, w in enumerate(weights)}
    return net(body, "float[N,4] x", f"float[N,{weights[-1].shape[1]}] y", **named)


def report(model: Any, composite: Any, x: Any, **options: Any) -> Report:
    return examine(Explainer(model, composite, **options), x if isinstance(x, dict) else {"x": x})


def severities(found: Report) -> dict[str, str]:
    return {f.where: f.severity for f in found.diagnoses}


def test_a_healthy_model_has_notes_at_most() -> None:
    found = report(CNN, "epsilon", {"image": DIGIT})
    assert found.findings == ()
    assert severities(found) == {"layer 0 'bn1' (Epsilon(1e-06))": "note"}
    (note,) = found.diagnoses
    share = found.books[0].bias / found.scale
    assert note.what == f"{share:.1%} of the initial relevance goes to its bias"
    assert found.verdict().endswith("nothing is off")
    assert report(CNN, "epsilon_gamma_box(low=0, high=1)", {"image": DIGIT}).diagnoses == ()


def test_a_huge_bias() -> None:
    found = report(conv(1e3), "epsilon_plus", X)
    assert abs(found.ratio) < 0.01
    whole, layer = found.diagnoses
    assert (whole.where, whole.severity, layer.where, layer.severity) == (
        "the whole map", "moderate", "layer 0 'h' (ZPlus())", "moderate",
    )  # fmt: skip
    assert "(biases take 99.9%)" in whole.what
    assert 'bias="ignore"' in layer.remedy
    cured = Composite(Epsilon(), NameMap({"h": ZPlus(bias="ignore")}))
    assert report(conv(1e3), cured, X).findings == ()


KINDS = {
    "sum": "r = Relu(x)  a = Add(r, k)",
    "normalization": "a = LayerNormalization(x, g, k)",
}


@pytest.mark.parametrize("name", KINDS)
def test_the_remedy_for_biases_holds_for_every_kind(name: str) -> None:
    constants: dict[str, Any] = {"k": 9 * data(4, low=0.5), "w": abs(weight(4, 2)), "g": data(4, low=0.5)}
    model = net(f"{KINDS[name]}  y = MatMul(a, w)", "float[N,4] x", "float[N,2] y", **constants)
    x = np.array([[1, 2, 3, -1]], np.float32)
    found = report(model, "epsilon", x)
    taken = next(f for f in found.diagnoses if " 'a' (Epsilon(1e-06))" in f.where)
    assert 'bias="ignore"' in taken.remedy
    cured = report(model, Composite(Epsilon(), NameMap({"a": Epsilon(bias="ignore")})), x)
    assert [b.bias for b in cured.books] == [0] * len(cured.books)


def test_near_zero_denominators_are_told_though_the_sums_agree() -> None:
    found = report(cancelling(), "lrp_zero", ONES)
    assert found.ratio == pytest.approx(1, abs=0.02)
    first = found.diagnoses[0]
    assert (first.where, first.severity) == ("layer 0 'h' (Zero())", "severe")
    explained = Explainer(cancelling(), "lrp_zero", checks=True).quietly(ONES)
    size = np.abs(explained.relevance).sum() / np.abs(explained.initial).sum()
    assert size > 1e4
    assert f"blows relevance up {size:.3g} times" in first.what
    assert report(cancelling(), Composite(Epsilon(), NameMap({"h": ZPlus()})), ONES).findings == ()


def test_sizes_are_sums_of_absolute_values() -> None:
    found = Explainer(CNN, "epsilon", checks=True, layers=["conv2"]).quietly(DIGIT)
    books = found.conservation
    assert books[0].sent_l1 == pytest.approx(np.abs(found.relevance).sum(dtype=float), rel=1e-5)
    assert books[0].arrived_l1 == pytest.approx(books[1].sent_l1, rel=1e-5)
    assert books[1].arrived_l1 == pytest.approx(np.abs(found.layers["conv2"]).sum(dtype=float), rel=1e-5)
    assert books[0].sent_l1 > abs(books[0].sent)


def test_growth_says_nothing_of_a_gradient() -> None:
    model = chain("h = MatMul(x, w0)  r = Relu(h)  y = MatMul(r, w1)", 100 * abs(weight(4, 3)), 100 * abs(weight(3, 2)))
    explainer = Explainer(model, "gradient", checks=True)
    assert np.abs(explainer.quietly(ONES).relevance).sum() > 100
    found = examine(explainer, {"x": ONES})
    assert found.diagnoses == ()
    assert "need not conserve" in found.verdict()


THREE = "h = MatMul(x, w0)  l = MatMul(h, w1)  y = MatMul(l, w2)"
NAN = {  # and the layer that computes it
    "first layer": (chain("l = Log(x)  y = MatMul(l, w0)", weight(4, 3)), ONES - [[1, 0, 0, 0]], "layer 0 'l' (Pass())"),
    "middle": (
        chain(
            "h = MatMul(x, w0)  l = Log(h)  g = MatMul(l, w1)  y = MatMul(g, w2)",
            -abs(weight(4, 3)),
            weight(3, 3),
            weight(3, 2),
        ),
        ONES,
        "layer 0 'h' (Epsilon(1e-06))",
    ),
    "beyond float32": (
        chain(THREE, *[1e20 * abs(weight(n, m)) for n, m in ((4, 3), (3, 3), (3, 2))]),
        ONES,
        "layer 1 'l' (Epsilon(1e-06))",
    ),
}


@pytest.mark.parametrize("name", NAN)
def test_what_the_model_itself_computes_is_told_from_what_a_rule_does(name: str) -> None:
    model, x, where = NAN[name]
    found = report(model, "epsilon", x)
    assert found.diagnoses[0].where == where
    assert "the model itself computes" in found.diagnoses[0].what
    assert "no rule can mend that" in found.diagnoses[0].remedy
    assert len(found.diagnoses) == 2, "the origin alone, not every layer below it"
    assert found.diagnoses[1].where.startswith(f"layer {len(found.books) - 1} ")
    json.loads(json.dumps(found.to_dict()), parse_constant=pytest.fail)  # NaN is no JSON


def test_a_rule_that_divides_by_zero_is_blamed_where_the_model_is_healthy() -> None:
    w = np.array([[1, 1], [-1, 1], [0, 1], [0, 1]], np.float32)
    model = chain("h = MatMul(x, w0)  y = MatMul(h, w1)", w, weight(2, 2))
    (found,) = report(model, Composite(Epsilon(), NameMap({"h": Epsilon(0.0)})), ONES).diagnoses
    assert found.where == "layer 0 'h' (Epsilon(0))"
    assert "not finite" in found.what
    assert "larger ε" in found.remedy
    assert report(model, Composite(Epsilon(), NameMap({"h": Epsilon(1e-4)})), ONES).findings == ()


def test_a_dead_layer() -> None:
    found = report(conv(-1e3), "epsilon_plus", X)
    first, *others = found.diagnoses
    assert (first.where, first.severity) == ("layer 2 'y' (Epsilon(1e-06))", "severe")
    assert "100.0% of the initial relevance ends here" in first.what
    assert "dead units" in first.remedy
    assert [f.where for f in others] == ["the whole map"], "its bias is no second disease, and bias='ignore' no remedy"


def test_nothing_to_explain() -> None:
    (found,) = report(chain("y = MatMul(x, w0)", weight(4, 2)), "epsilon", 0 * ONES).diagnoses
    assert str(found) == 'the initial relevance: is 0 everywhere, and so is the map; choose another target, or init="one"'


def test_a_softmax_and_its_remedy() -> None:
    body = "s = MatMul(x, w0)  p = Softmax<axis=-1>(s)  y = MatMul(p, w1)"
    model = chain(body, 4 * weight(4, 6), weight(6, 3, seed=2))
    found = report(model, "attn_lrp", data(1, 4))
    assert any(f.where == "layer 1 'p' (SoftmaxTaylor())" and "cp_lrp" in f.remedy for f in found.diagnoses)


def test_bounds_and_ranges() -> None:
    found = report(CNN, "epsilon_gamma_box(low=0, high=0.5)", {"image": DIGIT}, input_ranges=(0, 0.75))
    assert [(f.where, f.severity) for f in found.diagnoses] == [("input 'image'", "severe"), ("layer 0 'bn1'", "severe")]
    assert found.diagnoses[0].what.startswith(f"{(DIGIT > 0.75).sum()} values lie outside the range [0, 0.75]")
    assert found.diagnoses[0].remedy == "compile with its real range (input_ranges)"
    assert found.diagnoses[1].remedy == "its low and high are to bound this layer's own input"
    assert report(CNN, Composite(Epsilon(), NameMap({"bn1": ZBox(0, 1)})), {"image": DIGIT}).findings == ()


def test_a_contrast_is_not_judged_by_its_sum() -> None:
    explainer = Explainer(CNN, "epsilon_plus", init="given")
    start = np.zeros((1, 10), np.float32)
    start[0, [3, 5]] = 1, -1
    assert not any(f.where == "the whole map" for f in examine(explainer, {"image": DIGIT, "relevance_out": start}).diagnoses)


def test_warnings_name_layer_and_remedy() -> None:
    cases: list[tuple[Any, Any, Any, str]] = [
        (conv(1e3), "epsilon_plus", X, r"layer 0 'h' \(ZPlus\(\)\): .* its bias; .*bias=\"ignore\""),
        (conv(-1e3), "epsilon", X, r"layer 2 'y' .*: sends no relevance on.*; .*dead units"),
        (cancelling(), "lrp_zero", ONES, r"layer 0 'h' \(Zero\(\)\): blows relevance up.*; .*ZPlus"),
        (NAN["middle"][0], "epsilon", ONES, r"layer 2 'y' .* not finite.*; .*mend the input"),
        (
            chain("y = MatMul(x, w0)", weight(4, 2)),
            ZBox(0, 0.5),
            ONES,
            r"layer 0 'y': 4 inputs .* ZBox\(0, 0.5\); its low and high",
        ),
    ]
    for model, composite, x, pattern in cases:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Explainer(model, composite, checks=True)(x)
        texts = [str(w.message) for w in caught]
        assert any(re.search(pattern, t) for t in texts), (pattern, texts)


def test_what_is_a_note_does_not_warn() -> None:
    Explainer(CNN, "epsilon", checks=True)(DIGIT)  # 35 % in a bias
    assert report(CNN, AlphaBeta(2, 1), {"image": DIGIT}).findings == ()


def test_the_report_is_printed_and_decides_the_exit_code(tmp_path: Path) -> None:
    onnx.save(conv(1e3), tmp_path / "bias.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    arguments = ["check", str(tmp_path / "bias.onnx"), str(tmp_path / "x.npz"), "-c", "epsilon_plus"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("• moderate: layer 0 'h' (ZPlus())"))
    assert lines[at + 1].startswith("    → correct, but the map lacks it")
    assert lines[-1] == "2 findings"
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert [set(f) for f in found["diagnoses"]] == [{"where", "what", "remedy", "severity"}] * 2
    assert len(found["findings"]) == 2


def test_check_of_a_class_and_of_random_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DIGIT)
    for target, words in ((5, ["-t", "5"]), (3, []), (3, ["-t", "-1"])):
        done = CliRunner().invoke(cli, ["check", str(CNN), str(tmp_path / "x.npy"), "--json", *words])
        assert json.loads(done.output)["ratio"] == pytest.approx(Explainer(CNN).quietly(DIGIT, target).ratio[0], rel=1e-5)
        assert "on" not in json.loads(done.output)
    said = "on random input (give INPUT for a real one)"
    assert said in CliRunner().invoke(cli, ["check", str(CNN)]).output.splitlines()
    assert json.loads(CliRunner().invoke(cli, ["check", str(CNN), "--json"]).output)["on"] == said
