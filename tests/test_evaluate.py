"""Each metric against a slow, literal float64 calculation, and against what is known in closed form of a linear model."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, run, small, weight
from onnx import numpy_helper
from PIL import Image

from onnxlrp import Composite, CompositeError, Epsilon, Error, Explainer, InputError, InvalidModel, compile, metrics
from onnxlrp.evaluate import Settings, evaluate
from onnxlrp.preprocessing import Preprocessing
from onnxlrp.randomize import randomized, weighted
from onnxlrp.samples import float_input, read_samples
from onnxlrp.task import Declared

MODELS = Path(__file__).parents[1] / "models"
CNN = str(MODELS / "digits_cnn.onnx")
QUICK = {"noise": 0, "randomize": "none", "resamples": 50}


MEASURED = ("gap", "aopc_morf", "aopc_lerf", "deletion", "insertion")


def linear(features: int = 6, classes: int = 3, batch: str = "N") -> onnx.ModelProto:
    """y = x·w, whose relevance of input i for class c is x_i w_ic."""
    w = weight(features, classes, seed=5)
    return net("y = Gemm(x, w)", f"float[{batch},{features}] x", f"float[{batch},{classes}] y", w=w)


def two_layers() -> onnx.ModelProto:
    """Conv – Relu – Gemm, on (N,3,5,4), the dense weights by way of a Transpose and a Constant."""
    body = "h = Conv(x, k, b)  r = Relu(h)  f = Flatten(r)  v = Transpose(u)  y = MatMul(f, v)"
    model = net(body, "float[N,3,5,4] x", "float[N,2] y", k=weight(4, 3, 3, 3), b=data(4), u=weight(2, 24))
    u = next(t for t in model.graph.initializer if t.name == "u")
    constant = onnx.helper.make_node("Constant", [], ["u"], value=u)
    model.graph.initializer.remove(u)
    model.graph.node.insert(0, constant)
    return model


def digits(count: int) -> np.ndarray:
    """The digit in models/, moved by up to one pixel and with a little noise."""
    rng = np.random.default_rng(3)
    digit = np.load(MODELS / "digit.npy")[0]
    moved = [np.roll(digit, (rng.integers(-1, 2), rng.integers(-1, 2)), (1, 2)) for _ in range(count)]
    return np.clip(np.stack(moved) + rng.normal(0, 0.05, (count, 1, 8, 8)), 0, 1).astype(np.float32)


# ----------------------------------------------------------------------------------------------------- in closed form


def test_linear_model_curves_are_sorted_sums_and_no_order_is_better() -> None:
    model, x, target = linear(), data(4, 6, seed=9), [2, 0, 1, 2]
    found = evaluate(model, x, ["lrp_zero"], target, Settings(**QUICK))["lrp_zero"]
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    parts = x * w[:, target].T  # relevance
    down = np.sort(parts, axis=1)[:, ::-1]
    zeros = np.zeros((4, 1))
    near(found.curves["morf"], parts.sum(1, keepdims=True) - np.hstack([zeros, down.cumsum(1)]), 1e-6)
    near(found.curves["lerf"], parts.sum(1, keepdims=True) - np.hstack([zeros, down[:, ::-1].cumsum(1)]), 1e-6)
    for row, gap in zip(parts, found.values["gap"].values, strict=True):
        each = [np.cumsum(order).sum() / 7 for order in itertools.permutations(row)]  # AOPC of every order
        assert gap == pytest.approx(max(each) - min(each), abs=1e-5)


def test_max_sensitivity_of_a_linear_model() -> None:
    model, x = linear(), data(3, 6, seed=9)
    settings = Settings(**{**QUICK, "noise": 7, "radius": 0.1})
    found = evaluate(model, x, ["lrp_zero", "gradient"], 1, settings)
    w = numpy_helper.to_array(model.graph.initializer[0])[:, 1].astype(np.float64)
    low, high = x.min(), x.max()
    radius, rng, worst = 0.1 * (float(high) - float(low)), settings.rng(3), np.zeros(3)
    for _ in range(7):
        y = np.clip(x + rng.uniform(-radius, radius, x.shape), low, high).astype(np.float32).astype(np.float64)
        for i in range(3):
            worst[i] = max(worst[i], np.sqrt(sum((w * (y[i] - x[i])) ** 2)) / np.sqrt(sum((w * x[i]) ** 2)))
    near(found["lrp_zero"].values["max_sensitivity"].values, worst, 1e-5)
    assert found["gradient"].values["max_sensitivity"].mean == 0  # the gradient of a linear model is everywhere the same


def test_max_sensitivity_of_maps_that_vanish() -> None:
    x, maps = np.ones((2, 3)), np.zeros((2, 3))
    moved = [lambda y: np.zeros_like(y), lambda y: y]
    found = [metrics.max_sensitivity(f, x, maps, 0.1, 2, (0, 2), np.random.default_rng(0)) for f in moved]
    assert found[0].tolist() == [0, 0]
    assert found[1].tolist() == [np.inf, np.inf]


# ---------------------------------------------------------------------------------------------- literal calculations


def literal(model: Any, x: np.ndarray, target: list[int], maps: np.ndarray, base: np.ndarray, size: int, steps: int) -> Any:
    """All four curves, one sample, region and position at a time; insertion puts regions back into the baseline."""
    found: dict[str, list[Any]] = {"morf": [], "lerf": [], "deletion": [], "insertion": []}
    height, width = x.shape[2:]
    blocks = [(i, j) for i in range(0, height, size) for j in range(0, width, size)]
    counts = [round(k * len(blocks) / steps) for k in range(steps + 1)]

    def scores(image: np.ndarray, c: int) -> tuple[float, float]:
        y = run(model, x=image[None].astype(np.float32))["y"][0].astype(np.float64)
        return y[c], np.exp(y[c]) / sum(np.exp(y))

    for image, c, relevance, gone in zip(x, target, maps, base, strict=True):
        total = {b: float(relevance[:, b[0] : b[0] + size, b[1] : b[1] + size].sum(dtype=np.float64)) for b in blocks}
        order = sorted(blocks, key=lambda b: -total[b])

        def put(into: np.ndarray, of: np.ndarray, some: list[tuple[int, int]]) -> np.ndarray:
            out = into.copy()
            for i, j in some:
                out[:, i : i + size, j : j + size] = of[:, i : i + size, j : j + size]
            return out

        found["morf"].append([scores(put(image, gone, order[:k]), c)[0] for k in counts])
        found["lerf"].append([scores(put(image, gone, order[::-1][:k]), c)[0] for k in counts])
        found["deletion"].append([scores(put(image, gone, order[:k]), c)[1] for k in counts])
        found["insertion"].append([scores(put(gone, image, order[: len(blocks) - k]), c)[1] for k in counts[::-1]])
    return {k: np.array(v) for k, v in found.items()}, np.array(counts) / len(blocks)


@pytest.mark.parametrize(("size", "steps", "baseline"), [(1, 30, 0.0), (2, 4, "mean"), (2, 9, "uniform"), (4, 2, 0.5)])
def test_curves_equal_a_literal_calculation(size: int, steps: int, baseline: Any) -> None:
    model, x, target = small(), data(3, 3, 6, 5, seed=7), [3, 1, 0]
    settings = Settings(**QUICK, region=size, steps=steps, baseline=baseline, rows=7)
    evaluation = evaluate(model, x, ["epsilon"], target, settings)
    found = evaluation["epsilon"]
    base = {
        "mean": np.stack([[np.full((6, 5), channel.mean()) for channel in image] for image in x]),
        "uniform": settings.rng(0).uniform(x.min(), x.max(), x.shape),
    }.get(baseline, np.full(x.shape, baseline if isinstance(baseline, float) else 0))
    maps = Explainer(model, "epsilon").quietly(x, target).relevance
    curves, fractions = literal(model, x, target, maps, base, size, steps)
    near(evaluation.fractions, fractions)
    for key, curve in curves.items():
        near(found.curves[key], curve, 2e-6)
    levels = len(fractions)
    aopc = {k: [sum(c[0] - c[i] for i in range(levels)) / levels for c in curves[k]] for k in ("morf", "lerf")}
    near(found.values["aopc_morf"].values, aopc["morf"], 1e-5)
    near(found.values["gap"].values, np.subtract(aopc["morf"], aopc["lerf"]), 1e-5)
    for key, p in (("deletion", fractions), ("insertion", 1 - fractions[::-1])):
        area = [sum((c[i] + c[i + 1]) / 2 * (p[i + 1] - p[i]) for i in range(levels - 1)) for c in curves[key]]
        near(found.values[key].values, area, 1e-5)


def test_regions_cut_everything_but_channels() -> None:
    grid = [[0, 0, 1], [0, 0, 1], [2, 2, 3]]
    assert metrics.regions((3, 3), 2, None).tolist() == grid
    assert metrics.regions((2, 3, 3), 2, 0).tolist() == [grid, grid]
    assert metrics.regions((3, 3, 2), 2, 2)[..., 1].tolist() == grid
    series = data(2, 3, 8)
    model = net("f = Flatten(x)  y = Gemm(f, w)", "float[N,3,8] x", w=weight(24, 4))
    for layout, count in ((None, 24), ("nchw", 8), ("nhwc", 3)):
        found = evaluate(model, series, ["epsilon"], settings=Settings(**QUICK, layout=layout))
        assert len(found.fractions) == count + 1


def test_channels_last_is_the_same_picture() -> None:
    w = weight(4, 3, 3, 3)
    body = "h = Conv(x, w)  r = Relu(h)  y = ReduceMean<keepdims=0>(r, axes)"
    first = net(body, "float[N,3,6,5] x", "float[N,4] y", w=w, axes=np.array([2, 3]))
    last = net(f"t = Transpose<perm=[0,3,1,2]>(x)  {body.replace('(x', '(t')}", "float[N,6,5,3] x", "float[N,4] y", w=w,
               axes=np.array([2, 3]))  # fmt: skip
    x = data(3, 3, 6, 5, seed=7)
    pair = [evaluate(m, v, ["epsilon"], 1, Settings(**QUICK)) for m, v in ((first, x), (last, x.transpose(0, 2, 3, 1)))]
    near(pair[0]["epsilon"].curves["morf"], pair[1]["epsilon"].curves["morf"], 1e-6)
    assert len(pair[0].fractions) == 31


def literal_rho(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of mean ranks, counted."""
    p, q = ([sum(u < v for u in s) + (sum(u == v for u in s) - 1) / 2 for v in s] for s in (list(a), list(b)))
    return float(np.corrcoef(p, q)[0, 1])


def test_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (4, 11)), rng.normal(size=(4, 11))
    near(metrics.spearman(a, b), [literal_rho(p, q) for p, q in zip(a, b, strict=True)], 1e-12)
    assert metrics.spearman(b, np.exp(b)) == pytest.approx(np.ones(4))
    assert metrics.spearman(b, -b) == pytest.approx(-np.ones(4))
    assert metrics.spearman(b, np.ones((4, 11))).tolist() == [0, 0, 0, 0]


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    mean, low, high = metrics.bootstrap(values, 4000, seed=0)
    half = 1.96 * values.std() / np.sqrt(400)
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    assert metrics.bootstrap(values, 4000, seed=0) == (mean, low, high)
    assert np.isnan(metrics.bootstrap(values[:1], 100, seed=0)[1:]).all()


def test_ties_are_broken_at_random_and_lerf_is_the_reverse() -> None:
    ranks = metrics.ranking(np.zeros((200, 5)), np.random.default_rng(0))
    assert (np.sort(ranks, axis=1) == np.arange(5)).all()
    near(ranks.mean(axis=0), np.full(5, 2.0), 0.15)
    assert metrics.ranking(np.array([[1.0, 3.0, 2.0]]), np.random.default_rng(0)).tolist() == [[2, 0, 1]]


# ------------------------------------------------------------------------------------------------------ random weights


def values_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return found | {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"}


def test_weights_are_permuted_from_the_top() -> None:
    assert weighted(two_layers().graph) == [("y", ["u"]), ("h", ["k", "b"])]
    before = values_of(two_layers())
    changed = []
    for layer, model in randomized(two_layers(), True, np.random.default_rng(0)):
        after = values_of(model)
        changed.append((layer, {k for k in before if not np.array_equal(before[k], after[k])}))
        for name, value in before.items():
            np.testing.assert_array_equal(np.sort(value, None), np.sort(after[name], None))
    assert changed == [("y", {"u"}), ("h", {"u", "k", "b"})]
    assert [layer for layer, _ in randomized(two_layers(), False, np.random.default_rng(0))] == ["h"]


@pytest.mark.parametrize("how", ["all", "layers"])
def test_correlation_with_maps_of_random_weights(how: str) -> None:
    settings, x = Settings(**{**QUICK, "randomize": how}, region=2), data(3, 3, 5, 4)
    found = evaluate(two_layers(), x, ["epsilon", "gradient"], 1, settings)
    assert [layer for layer, _ in found["epsilon"].randomized] == (["h"] if how == "all" else ["y", "h"])
    labels = metrics.regions((3, 5, 4), 2, 0)
    models = randomized(two_layers(), how == "layers", settings.rng(4))
    for (_, model), (_, rho) in zip(models, found["epsilon"].randomized, strict=True):
        maps = [Explainer(m, "epsilon").quietly(x, 1).relevance for m in (two_layers(), model)]
        pair = [[[m[labels == r].sum() for r in range(6)] for m in each] for each in maps]
        near(rho.values, [literal_rho(np.array(a), np.array(b)) for a, b in zip(*pair, strict=True)], 1e-9)


# ----------------------------------------------------------------------------------------------------------- the whole


def test_digits_are_ranked_and_random_comes_last() -> None:
    names = ["epsilon", "epsilon_plus", "epsilon_gamma_box(low=0, high=1)", "gradient_x_input"]
    found = [evaluate(CNN, digits(24), names, settings=Settings(seed=seed, noise=3)) for seed in (0, 0)]
    order = [s.name for s in found[0].ranking]
    assert order[-1] == "random"
    assert sorted(order[:-1]) == sorted(names)
    assert [s.chance for s in found[0].ranking] == [False] * 4 + [None]
    for s in found[0].ranking:
        for key, value in s.values.items():
            assert value.low <= value.mean <= value.high, key
    assert found[0]["random"].values["gap"].low < 0.5
    first, second = (json.dumps([timeless(s.to_dict()) for s in f.ranking], allow_nan=False) for f in found)
    assert first == second


def test_bounds_that_the_samples_leave_are_named() -> None:
    with pytest.warns(UserWarning, match=r"epsilon_gamma_box\(low=0, high=0.5\): layer 0 'bn1': \d+ inputs lie outside"):
        evaluate(CNN, digits(2), ["epsilon_gamma_box(low=0, high=0.5)"], settings=Settings(**QUICK))


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "seconds_per_sample"}


def test_parts_and_fixed_batches_change_nothing() -> None:
    x = data(5, 6, seed=9)
    settings = Settings(rows=3, noise=2, resamples=10)
    whole = evaluate(linear(), x, ["epsilon"], [0, 1, 2, 0, 1], Settings(noise=2, resamples=10))
    for model in (linear(), linear(batch="2")):
        parts = evaluate(model, x, ["epsilon"], [0, 1, 2, 0, 1], settings)
        for key, value in parts["epsilon"].values.items():
            near(value.values, whole["epsilon"].values[key].values, 1e-5)


def test_scores_are_those_behind_a_final_softmax() -> None:
    x = digits(3).reshape(3, 64)
    found = evaluate(str(MODELS / "digits_mlp.onnx"), x, {"mine": Composite(Epsilon())}, settings=Settings(**QUICK))["mine"]
    explanation = Explainer(str(MODELS / "digits_mlp.onnx"), "epsilon")(x)
    near(found.curves["morf"][:, 0], explanation.initial.max(axis=1), 1e-5)
    near(found.curves["deletion"][:, 0], explanation.outputs["probabilities"].max(axis=1), 1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("none", lambda y: y), ("sigmoid", lambda y: 1 / (1 + np.exp(-y)))])
def test_probabilities(kind: str, expected: Any) -> None:
    found = evaluate(linear(), data(2, 6), ["epsilon"], 1, Settings(**QUICK, probability=kind))["epsilon"]
    near(found.curves["deletion"], expected(found.curves["morf"]), 1e-6)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a plot needs matplotlib")
    found = evaluate(linear(), data(1, 6), ["epsilon"], settings=Settings(**QUICK))
    for name in ("curves.png", "curves.svg"):
        found.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "curves.svg"]
    np.save(tmp_path / "x.npy", digits(2))
    done = command(CNN, tmp_path / "x.npy", "-c", "epsilon", "--noise", 0, "--randomize", "none", "--plot", tmp_path / "c.pdf")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


def test_one_sample_has_no_interval() -> None:
    found = evaluate(linear(), data(1, 6), ["epsilon"], settings=Settings(**QUICK))
    assert "no intervals" in found.footer()
    assert found.ranking[0].to_dict()["gap"]["low"] is None
    assert found.ranking[0].chance is None


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "onnxlrp", "evaluate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_command_line(tmp_path: Path) -> None:
    x = digits(6)
    np.savez(tmp_path / "digits.npz", image=x, target=np.full(6, 3))
    quick = ["--noise", 1, "--steps", 8, "--resamples", 20]
    chosen = "epsilon,epsilon_gamma_box(low=0, high=1)"
    done = command(CNN, tmp_path / "digits.npz", "-c", chosen, *quick, "--randomize", "layers")
    assert (done.returncode, done.stderr) == (0, "")
    assert "epsilon_gamma_box(low=0, high=1)" in done.stdout
    assert "node_conv2d_3" in done.stdout
    done = command(CNN, tmp_path / "digits.npz", "-c", chosen, *quick, "--json", "--baseline", "mean", "--seed", 4)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    settings = Settings(steps=8, noise=1, resamples=20, baseline="mean", seed=4)
    same = evaluate(CNN, x, chosen.split(",", 1), 3, settings).to_dict()
    for a, b in zip(found["ranking"], same["ranking"], strict=True):
        assert a["composite"] == b["composite"]
        near([a[k]["low"] for k in MEASURED], [b[k]["low"] for k in MEASURED])
        near(a["curves"]["insertion"], b["curves"]["insertion"])


def test_options_of_reading_the_model(tmp_path: Path) -> None:
    """They reach the compiler: fixed rows change no number, folding does, a range that is left is named."""
    np.save(tmp_path / "x.npy", digits(3))
    quick = ["-c", "zplus", "--noise", 0, "--randomize", "none", "--steps", 8, "--json"]
    plain = command(CNN, tmp_path / "x.npy", *quick)
    fixed = command(CNN, tmp_path / "x.npy", *quick, "--input-shapes", "image=2,1,8,8", "--input-range", "0,1")
    assert (plain.stderr, fixed.stderr) == ("", "")
    a, b = (json.loads(done.stdout)["ranking"][0]["curves"]["insertion"] for done in (plain, fixed))
    near(a, b, 1e-5)
    factors: dict[str, Any] = {"s": np.float32([2, -1]), "t": np.float32([1, 2]), "m": data(2), "v": np.float32([1, 4])}
    body = "h = Conv(x, k)  n = BatchNormalization(h, s, t, m, v)  r = Relu(n)  f = Flatten(r)  y = Gemm(f, u)"
    model = net(body, "float[N,1,8,8] x", k=weight(2, 1, 3, 3), u=weight(72, 4), **factors)
    onnx.save(model, tmp_path / "norm.onnx")
    whole = [command(tmp_path / "norm.onnx", tmp_path / "x.npy", *quick, *more) for more in ((), ("--no-canonize",))]
    c, d = (json.loads(done.stdout)["ranking"][0]["curves"]["insertion"] for done in whole)
    assert np.abs(np.subtract(c, d)).max() > 1e-3  # a batch norm that is not folded has a rule of its own
    left = command(CNN, tmp_path / "x.npy", *quick, "--input-range", "0,0.5")
    assert re.search(r"zplus: input 'image': \d+ values lie outside the range \[0, 0.5\]", left.stderr)
    wrong = command(CNN, tmp_path / "x.npy", *quick, "--input-shapes", "image=2,1,9,9")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-c", "epsilonn"], "did you mean 'epsilon'?"),
        (["-c", "epsilon", "--baseline", "blur"], "'blur' is not a number, mean or uniform"),
        (["-c", "epsilon", "--plot", "curves.txt"], "plots are written as .png, .pdf, .svg"),
        (["-c", "epsilon", "--radius", "-1"], "radius must be a positive number"),
        (["-c", "epsilon", "-t", "10"], "target 10: the model has the classes 0 to 9"),
        ([], "--composites"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(options: list[str], expected: str) -> None:
    done = command(CNN, MODELS / "digit.npy", *options)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


WRONG: dict[str, tuple[Any, type[Error], str]] = {
    "no composite": (lambda: evaluate(linear(), data(2, 6), []), CompositeError, "at least one"),
    "twice": (lambda: evaluate(linear(), data(2, 6), ["epsilon", "epsilon "]), CompositeError, "'epsilon' is there twice"),
    "the baseline": (lambda: evaluate(linear(), data(2, 6), {"random": "epsilon"}), CompositeError, "always there"),
    "without a name": (lambda: evaluate(linear(), data(2, 6), [Composite(Epsilon())]), CompositeError, "no name"),
    "compiled": (lambda: evaluate(compile(linear()), data(2, 6), ["epsilon"]), InvalidModel, "takes the original"),
    "an option": (lambda: evaluate(linear(), data(2, 6), ["epsilon"], init="one"), CompositeError, "init cannot be given"),
    "a shape": (lambda: evaluate(linear(), data(2, 5), ["epsilon"]), InputError, "must have the shape"),
    "nothing": (lambda: evaluate(linear(), np.zeros((2, 6)), ["epsilon"]), InputError, "nothing to remove"),
    "targets": (lambda: evaluate(linear(), data(2, 6), ["epsilon"], [0, 1, 2]), InputError, "one integer or 2"),
    "a target": (lambda: evaluate(linear(), data(2, 6), ["epsilon"], 3), InputError, "3: the model has the classes 0 to 2"),
    "a baseline": (lambda: evaluate(linear(), data(2, 6), ["epsilon"], settings=Settings(baseline="blur")), InputError,
                   "a number, mean or uniform"),
    "a region": (lambda: Settings(region=0), InputError, "region must be a whole number, at least 1"),
    "a radius": (lambda: Settings(radius=0), InputError, "radius must be a positive number"),
    "a kind": (lambda: Settings(randomize="some"), InputError, "randomize is one of all, layers, none"),
    "no weights": (lambda: evaluate(net("y = ReduceSum<keepdims=0>(x, a)", "float[N,4,3] x", a=np.array([2])),
                                    data(2, 4, 3), ["epsilon"]), InputError, "no weights"),
    "three axes": (lambda: evaluate(net("y = Relu(x)", "float[N,4,3] x", "float[N,4,3] y"), data(2, 4, 3), ["epsilon"],
                                    class_axis=1), InputError, "needs an output (batch, classes)"),
    "tokens": (lambda: evaluate(net("e = Gather(t, x)  f = Flatten(e)  y = Gemm(f, w)", "int64[N,2] x", t=weight(5, 3),
                                    w=weight(6, 4)), np.ones((2, 2), np.int64), ["epsilon"]), InputError, "is tensor(int64)"),
    "a map": (lambda: evaluate(net("z = Mul(x, n)  y = Gemm(z, w)", "float[N,3] x", w=weight(3, 4),
                                   n=np.array([np.inf, 1, 1], np.float32)), data(2, 3), ["epsilon"]), Error, "finite"),
    "two inputs": (lambda: evaluate(net("y = Add(x, z)", "float[N,4] x, float[N,4] z"), data(2, 4), ["epsilon"]),
                   InputError, "the model has several: x, z"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_clear_line(what: str) -> None:
    call, kind, expected = WRONG[what]
    with pytest.raises(kind) as caught:
        call()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


INPUT = {"pixels": Declared("tensor(float)", ["N", 6])}


def test_samples_from_files(tmp_path: Path) -> None:
    x, target = data(2, 6), np.array([1, 0])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "alone.npz", x=x)
    np.savez(tmp_path / "both.npz", x=x, target=target)
    np.savez(tmp_path / "three.npz", a=x, b=x, target=target)
    for name, held in (("x.npy", None), ("alone.npz", None), ("both.npz", target)):
        found = read_samples(str(tmp_path / name), INPUT, Preprocessing(), 10)
        np.testing.assert_array_equal(found.x, x)
        assert found.notes == []
        if held is None:
            assert found.target is None
        else:
            np.testing.assert_array_equal(found.target, held)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "both.npz").read_bytes()[:300])
    (tmp_path / "x.png").write_bytes(b"")
    for name, expected in (("three.npz", "no array called 'pixels'"), ("x.png", "is one picture"), ("torn.npz", "torn.npz"),
                           ("none.npy", "no such file")):  # fmt: skip
        with pytest.raises(InputError, match=expected):
            read_samples(str(tmp_path / name), INPUT, Preprocessing(), 10)


def test_the_input_that_samples_are_read_for() -> None:
    assert float_input(linear()) == {"x": Declared("tensor(float)", ["N", 6])}
    assert float_input(linear(), {"x": [2, 6]}) == {"x": Declared("tensor(float)", [2, 6])}
    with pytest.raises(InputError, match="the model has several: x, z"):
        float_input(net("y = Add(x, z)", "float[N,4] x, float[N,4] z"))


def test_samples_are_spread_evenly_and_bad_rows_left_out(tmp_path: Path) -> None:
    x, target = data(20, 6), np.arange(20) % 3
    x[[5, 10], 2] = np.nan
    np.savez(tmp_path / "x.npz", x=x, target=target)
    some = read_samples(str(tmp_path / "x.npz"), INPUT, Preprocessing(scale=2), 4)  # rows 0, 5, 10, 15
    np.testing.assert_array_equal(some.x, x[[0, 15]] / np.float32(2))
    np.testing.assert_array_equal(some.target, target[[0, 15]])
    assert some.notes == [
        "4 of 20 rows, evenly spread; --samples takes more",
        "2 of 4 rows could not be read and are left out; the first: 5: input 'pixels' has 1 value(s) that are NaN or infinite",
    ]
    every = read_samples(str(tmp_path / "x.npz"), INPUT, Preprocessing(), 20)
    np.testing.assert_array_equal(every.x, np.delete(x, [5, 10], 0))
    np.save(tmp_path / "bad.npy", np.full((3, 6), np.nan, np.float32))
    with pytest.raises(InputError, match="no row can be read; the first: 0: input 'pixels'"):
        read_samples(str(tmp_path / "bad.npy"), INPUT, Preprocessing(), 10)


def test_a_folder_of_pictures_is_evaluated_as_its_arrays(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    for i, grey in enumerate(pixels):
        Image.fromarray(grey).save(tmp_path / "d" / f"{i}.png")
    (tmp_path / "d" / "broken.png").write_bytes(b"none")
    np.save(tmp_path / "x.npy", (pixels[:, None] / np.float32(255) - np.float32(0.5)) / np.float32(0.25))
    quick = ["-c", "epsilon", "-c", "flat", "--noise", 0, "--steps", 8, "--resamples", 20, "--randomize", "none"]
    folder = command(CNN, tmp_path / "d", *quick, "--mean", "0.5", "--std", "0.25", "--json")
    assert folder.stderr.startswith("1 of 4 rows could not be read and are left out; the first: broken.png")
    assert folder.stderr.count("\n") == 1
    array = command(CNN, tmp_path / "x.npy", *quick, "--json")
    a, b = (json.loads(done.stdout)["ranking"] for done in (folder, array))
    assert sorted(r["composite"] for r in a) == ["epsilon", "flat", "random"]
    near([r["curves"]["morf"] for r in a], [r["curves"]["morf"] for r in b], 1e-5)
    shown = command(CNN, tmp_path / "x.npy", *quick, "--samples", 2)
    assert "2 samples;" in shown.stdout
    assert shown.stderr == "2 of 3 rows, evenly spread; --samples takes more\n"
    for word in ("MoRF ↑, LeRF ↓: how far", "gap ↑: MoRF − LeRF", "deletion ↓:", "insertion ↑:", "ρ: its rank correlation"):
        assert word in shown.stdout
