"""Initial relevance made of the output: hand-made tables, sums and differences of plain targets, errors in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models_for_tests import data, near, net, run, small, weight

import onnxlrp
from onnxlrp import Explainer, InputError, starts
from onnxlrp.cli import cli
from onnxlrp.session import run as run_session
from onnxlrp.starts import initial

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.npy"
X = data(3, 3, 6, 5)
Y = np.array([[4, 1, -2, 3], [-1, -5, -3, -2]], np.float32)

TABLE: dict[str, tuple[starts.Start, Any, Any]] = {  # start, its R on Y, its c
    "target": (starts.target(1), [[0, 1, 0, 0], [0, -5, 0, 0]], [[0, 1, 0, 0], [0, 1, 0, 0]]),
    "winner": (starts.target(), [[4, 0, 0, 0], [-1, 0, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]]),
    "contrast": (starts.contrast(1, 2), [[0, 1, 2, 0], [0, -5, 3, 0]], [[0, 1, -1, 0], [0, 1, -1, 0]]),
    "against the largest other": (starts.contrast(0), [[4, 0, 0, -3], [-1, 0, 0, 2]], [[1, 0, 0, -1], [1, 0, 0, -1]]),
    "against the winner": (starts.contrast(2, -1), [[-4, 0, -2, 0], [1, 0, -3, 0]], [[-1, 0, 1, 0], [-1, 0, 1, 0]]),
    "mean": (
        starts.against_mean(3),
        [[-4 / 3, -1 / 3, 2 / 3, 3], [1 / 3, 5 / 3, 1, -2]],
        [[-1 / 3, -1 / 3, -1 / 3, 1], [-1 / 3, -1 / 3, -1 / 3, 1]],
    ),
    "top": (starts.top(2), [[4, 0, 0, 3], [-1, 0, 0, -2]], [[1, 0, 0, 1], [1, 0, 0, 1]]),
    "reference": (starts.reference(1.5), Y - 1.5, np.ones((2, 4))),
    "reference of one": (starts.reference(1.5, target=3), [[0, 0, 0, 1.5], [0, 0, 0, -3.5]], [[0, 0, 0, 1]] * 2),
    "references": (starts.reference(np.array([[1], [2]])), Y - np.array([[1], [2]]), np.ones((2, 4))),
}


@pytest.mark.parametrize("name", TABLE)
def test_initial_relevance_by_hand(name: str) -> None:
    start, wanted, coefficients = TABLE[name]
    near(initial(start, Y, 1, derivative=False), wanted, 1e-7)
    near(initial(start, Y, 1, derivative=True), coefficients, 1e-7)
    if name != "references":  # every position on its own, wherever the class axis lies
        stacked = np.stack([Y, Y[::-1]], 2)[:, :, :, None]  # (2,4,2,1)
        wanted = np.stack([initial(start, Y, 1, False), initial(start, Y[::-1], 1, False)], 2)[:, :, :, None]
        near(initial(start, stacked, 1, False), wanted, 1e-7)
        near(initial(start, np.moveaxis(stacked, 1, 3), 3, False), np.moveaxis(wanted, 1, 3), 1e-7)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "gradient", "gradient_x_input"])
def test_contrast_is_the_difference_of_two_targets(composite: str) -> None:
    plain, given = Explainer(small(), composite), Explainer(small(), composite, init="given")
    one, other = plain.quietly(X, 2), plain.quietly(X, 0)
    found = given.quietly(X, start=starts.contrast(2, 0))
    near(found.relevance, one.relevance - other.relevance)
    near(found.initial, one.initial - other.initial)
    near(found.output, one.output, 1e-6)
    mean = given.quietly(X, start=starts.against_mean(1))
    others = sum(plain.quietly(X, k).relevance for k in (0, 2, 3)) / 3
    near(mean.relevance, plain.quietly(X, 1).relevance - others)


def test_a_linear_model_in_closed_form() -> None:
    w = weight(5, 4)
    x = data(2, 5)
    explainer = Explainer(net("y = Gemm(x, w)", "float[N,5] x", w=w), "lrp_zero", init="given")
    y = x.astype(np.float64) @ w
    near(explainer.quietly(x, start=starts.contrast(3, 1)).relevance, x * (w[:, 3] - w[:, 1]))
    near(explainer.quietly(x, start=starts.reference(0.5, 2)).relevance, x * w[:, 2] * ((y - 0.5) / y)[:, 2:3])


def test_starts_of_one_row_share_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(small(), "epsilon", init="given")
    asked = [starts.target(1), starts.contrast(2, 0), starts.top(3), lambda y: y**2]
    alone = [explainer.quietly(X[:1], start=s) for s in asked]
    rows: list[int] = []

    def counted(session: Any, names: Any, feed: Any, device: str = "") -> Any:
        rows.append(len(feed["x"]) if "relevance_out" not in feed else -len(feed["x"]))
        return run_session(session, names, feed, device)

    monkeypatch.setattr("onnxlrp.run.run", counted)
    found = explainer.quietly(X[:1], start=asked)
    assert rows == [1, -4]
    near(found.relevance, np.concatenate([e.relevance for e in alone]), 1e-6)
    near(found.initial[3], found.output[3] ** 2)


def test_one_start_per_row_and_batches_in_parts() -> None:
    explainer = Explainer(small(), "epsilon", init="given")
    asked = [starts.target(1), starts.contrast(2, 0), starts.top(3)]
    found = explainer.quietly(X, start=asked)
    for i, start in enumerate(asked):
        near(found.relevance[i : i + 1], explainer.quietly(X[i : i + 1], start=start).relevance, 1e-6)
    split = Explainer(small(), "epsilon", init="given", batch_size=2)
    near(split.quietly(X, start=asked).relevance, found.relevance, 1e-6)
    near(split.scores(X), found.output, 1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_logits_behind_a_softmax(compiled: bool, tmp_path: Path) -> None:
    w, x = data(5, 4, seed=1), data(3, 5)
    model = net("h = Gemm(x, w)\ny = Softmax(h)", "float[N,5] x", w=w)
    if compiled:
        onnxlrp.save(onnxlrp.compile(model, "epsilon", init="given"), tmp_path / "c.onnx")
        explainer = Explainer(tmp_path / "c.onnx")
    else:
        explainer = Explainer(model, "epsilon", init="given")
    near(explainer.scores(x), x @ w)
    near(explainer.quietly(x, start=starts.contrast(3, 1)).initial, initial(starts.contrast(3, 1), x @ w, 1, False))


def test_padding_is_left_out_and_masks_are_kept() -> None:
    body = "h = MatMul(x, w)\nm = Cast<to=1>(attention_mask)\nu = Unsqueeze(m, last)\ny = Mul(h, u)"
    sizes = "float[N,T,3] x, int64[N,T] attention_mask"
    model = net(body, sizes, "float[N,T,4] y", w=weight(3, 4), last=np.array([-1]))
    feed = {"x": data(2, 3, 3), "attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    explainer = Explainer(model, "epsilon", init="given", conditions=["h"])
    one = explainer.quietly(feed, start=lambda y: np.ones_like(y))
    assert (one.initial == feed["attention_mask"][..., None] * np.ones(4)).all()
    assert one.relevance.any()
    shut = explainer.quietly({**feed, "mask.h": np.zeros((1, 1, 1), np.float32)}, start=starts.target())
    assert not shut.relevance.any()
    near(explainer.quietly(feed, start=starts.target()).initial, Explainer(model, "epsilon").quietly(feed).initial, 1e-6)


def test_a_contrast_does_not_warn_of_its_sum() -> None:
    explainer = Explainer(CNN, "epsilon_plus", init="given")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer(np.load(DIGIT), start=starts.contrast(5, 8))
    with pytest.warns(UserWarning, match="times the initial relevance"):
        explainer(np.zeros((1, 1, 8, 8), np.float32), start=starts.target(2))


def raised(**call: Any) -> str:
    with pytest.raises(InputError) as error:
        call.pop("explainer", GIVEN).quietly(call.pop("x", X), **call)
    assert "\n" not in str(error.value)
    return str(error.value)


GIVEN = Explainer(small(), "epsilon", init="given")


def test_errors_are_one_line() -> None:
    assert "compiled with init='given'; this one has init='logit'" in raised(
        explainer=Explainer(small(), "epsilon"), start=starts.top(1)
    )
    assert raised(start=starts.contrast(1, 9)) == "contrast(1, 9): the model has the classes 0 to 3, not 9"
    assert raised(start=starts.target(-2)) == "target(-2): the model has the classes 0 to 3, not -2"
    assert raised(start=starts.top(5)) == "top(5): the output has 4 classes"
    assert "start has 2 entries, the batch 3 rows" in raised(start=[starts.top(1)] * 2)
    assert "start has 0 entries" in raised(start=[])
    assert "must return numbers of the shape (3, 4)" in raised(start=lambda y: y[:, :2])
    assert "shape (3,) does not fit the output's, (3, 4)" in raised(start=starts.reference(np.arange(3)))
    assert "start 'top' is none of" in raised(start=["top"] * 3)
    assert "got 4" in raised(start=[starts.top(1), starts.top(1), 4])
    assert "got 3" in raised(start=3)
    assert "start= or 'relevance_out', not both" in raised(x={"x": X, "relevance_out": X}, start=starts.top(1))
    assert "takes no target" in raised(start=starts.top(1), target=2)
    assert "must have the shape" in raised(x=X[0], start=starts.top(1))
    assert "no input called 'z'" in raised(x={"x": X, "z": X}, start=starts.top(1))
    assert "input 'x' is missing" in raised(x={}, start=starts.top(1))
    winner = int(GIVEN.scores(X[:1]).argmax())
    assert f"class {winner} is the largest one itself in 1 row(s)" in raised(x=X[:1], start=starts.contrast(-1, winner))


def test_outputs_without_classes_and_fixed_batches() -> None:
    flat = Explainer(net("y = MatMul(x, w)", "float[N,3] x", "float[N] y", w=weight(3)), "epsilon", init="given")
    x = data(2, 3)
    near(flat.quietly(x, start=starts.reference(0.5)).initial, flat.scores(x) - 0.5, 1e-6)
    assert "no class axis" in raised(explainer=flat, x=x, start=starts.top(1))
    one = Explainer(net("y = MatMul(x, w)", "float[1,3] x", "float[1,4] y", w=weight(3, 4)), "epsilon", init="given")
    assert "has no free first axis" in raised(explainer=one, x=x[:1], start=[starts.top(1)] * 2)
    single = Explainer(net("y = MatMul(x, w)", "float[N,3] x", "float[N,1] y", w=weight(3, 1)), "epsilon", init="given")
    assert "a single class" in raised(explainer=single, x=x, start=starts.contrast())
    assert "a single class" in raised(explainer=single, x=x, start=starts.against_mean())


def test_a_position_is_refused_where_relevance_is_given() -> None:
    model = net("y = MatMul(x, w)", "float[N,T,3] x", "float[N,T,4] y", w=weight(3, 4))
    with pytest.raises(onnxlrp.CompositeError, match="position= says nothing with init='given'"):
        onnxlrp.compile(model, init="given", position=1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("contrast:3,5", "contrast(3, 5)"),
        ("contrast", "contrast(-1, -1)"),
        ("against_mean: 2", "against_mean(2)"),
        ("top:2", "top(2)"),
        ("reference:-0.5", "reference(-0.5)"),
        ("reference:1,2", "reference(1, target=2)"),
        ("target:4", "target(4)"),
    ],
)
def test_parse(text: str, wanted: str) -> None:
    assert starts.parse(text).text == wanted


@pytest.mark.parametrize(
    "text", ["", "bottom:2", "top", "top:0", "top:a", "top:1.5", "top:True", "contrast:1,2,3", "contrast:2,2", "reference:nan",
             "reference:'a'", "reference:1e999", "top:2,target=1", "against_mean:(("]
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InputError):
        starts.parse(text)


def test_forward_part_takes_what_the_tensor_needs() -> None:
    compiled = onnxlrp.compile(small(), "epsilon", init="given")
    part = starts.forward_part(compiled, "y")
    assert [n.op_type for n in part.graph.node] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert {t.name for t in part.graph.initializer} == {"w", "b", "v", "c"}
    assert [t.name for t in part.graph.input] == ["x"]
    assert len(compiled.graph.node) > 5  # untouched
    with pytest.raises(InputError, match="'z' is not computed here"):
        starts.forward_part(compiled, "z")


def test_command_line(tmp_path: Path) -> None:
    def explain(*arguments: object, model: object = CNN) -> Any:
        return CliRunner().invoke(cli, ["explain", str(model), str(DIGIT), *map(str, arguments)])

    done = explain("--start", "contrast:3,5", "-o", tmp_path / "o.npz")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "o.npz") as saved:
        assert np.flatnonzero(saved["initial_relevance"][0]).tolist() == [3, 5]
    onnx.save(onnxlrp.compile(CNN, init="given"), tmp_path / "c.onnx")
    assert explain("--start", "top:2", "--json", model=tmp_path / "c.onnx").exit_code == 0
    for wrong in (["--start", "top:0"], ["--start", "top:1", "-t", 3], ["--start", "top:1", "--init", "one"]):
        failed = explain(*wrong)
        assert failed.exit_code != 0, wrong


# ------------------------------------------------------------------------------------------------------------- regions


def segmenter() -> onnx.ModelProto:
    return net("y = Conv<pads=[1,1,1,1]>(x, w, b)", y="float[N,4,6,5] y", w=weight(4, 3, 3, 3), b=data(4))


@pytest.mark.parametrize(
    ("options", "inside"),
    [
        ({"box": (1, 2, 4, 5)}, np.s_[1:4, 2:5]),
        ({"point": (5, 0)}, np.s_[5:6, 0:1]),
        ({"mask": np.pad(np.ones((2, 2)), ((3, 1), (0, 3)))}, np.s_[3:5, 0:2]),
    ],
    ids=["box", "point", "mask"],
)
def test_region_starts_at_one_class_there(options: dict[str, Any], inside: Any) -> None:
    x = data(2, 3, 6, 5, seed=6)
    y = run(segmenter(), x=x)["y"]
    for k in (2, -1):
        explainer = Explainer(segmenter(), "epsilon", init="given", class_axis=1)
        found = explainer.quietly(x, start=starts.region(k, **options))
        wanted = np.zeros_like(y)
        for row in range(2):
            c = k if k >= 0 else int(y[row][(slice(None), *inside)].sum((1, 2)).argmax())
            wanted[(row, c, *inside)] = y[(row, c, *inside)]
        near(found.initial, wanted)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: starts.region(1), "give one of box, point and mask"),
        (lambda: starts.region(1, box=(0, 0, 2, 2), point=(1, 1)), "give one of"),
        (lambda: starts.region(1, box=(0, 0, 7, 2)), "does not lie within"),
        (lambda: starts.region(1, box=(2, 0, 2, 2)), "does not lie within"),
        (lambda: starts.region(1, point=(1,)), "2 position axes"),
        (lambda: starts.region(1, point=("a", 1)), "positions are integers"),
        (lambda: starts.region(1, mask=np.ones((4, 4))), "does not fit"),
        (lambda: starts.region(1, mask=np.zeros((6, 5))), "no position"),
        (lambda: starts.region(4, point=(0, 0)), "the model has the classes 0 to 3, not 4"),
    ],
)
def test_regions_that_are_none(make: Callable[[], starts.Start], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Explainer(segmenter(), "epsilon", init="given", class_axis=1).quietly(data(1, 3, 6, 5), start=make())


def test_region_as_text() -> None:
    assert starts.parse("region:1,(0,0,3,3)").text == "region(1, box=(0, 0, 3, 3))"


def test_text_is_a_start_as_on_the_command_line() -> None:
    explainer = Explainer(CNN, init="given")
    x = np.load(DIGIT)
    made = explainer(x, start=starts.contrast(3, 8))
    np.testing.assert_array_equal(explainer(x, start="contrast:3,8").relevance, made.relevance)
    np.testing.assert_array_equal(explainer(x, start=["contrast:3,8", starts.top(2)]).relevance[:1], made.relevance)
    with pytest.raises(InputError, match="'constrast:3' is none of"):
        explainer(x, start="constrast:3")
