"""Integrated gradients and SmoothGrad: closed forms, completeness, finite differences, and one call per sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import data, near, net, run, small, weight

from onnxlrp import Composite, Epsilon, Explainer, InputError, gradients, integrated_gradients, smoothgrad, starts

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", np.load(MODELS / "digit.npy")
W, V = weight(5, 6), weight(6, 4, seed=2)
LINEAR = net("y = Gemm(x, v, c)", "float[N,6] x", v=V, c=data(4))
QUADRATIC = net("q = Mul(x, x)\ny = MatMul(q, v)", "float[N,6] x", v=V)
SMOOTH = net("h = MatMul(x, w)\nt = Tanh(h)\ny = MatMul(t, v)", "float[N,5] x", w=W, v=V)


def smooth(x: np.ndarray) -> np.ndarray:
    """SMOOTH in float64."""
    out: np.ndarray = np.tanh(x.astype(np.float64) @ W.astype(np.float64)) @ V
    return out


def slope(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, k: int, h: float = 1e-6) -> np.ndarray:
    """∂ f_k / ∂ x by central differences, float64; f of one row."""
    x = x.astype(np.float64)
    steps = h * np.eye(x.size).reshape(-1, *x.shape[1:])
    out: np.ndarray = ((f(x + steps) - f(x - steps))[:, k] / (2 * h)).reshape(x.shape)
    return out


# ------------------------------------------------------------------------------------------- integrated gradients


@pytest.mark.parametrize("steps", [1, 3])
def test_linear_and_quadratic_models_in_closed_form(steps: int) -> None:
    x, b = data(3, 6), data(6, seed=5)
    found = integrated_gradients(Explainer(LINEAR, "gradient"), x, b, steps=steps, target=2)
    near(found.relevance, (x - b) * V[:, 2])
    # the derivative is linear in x, so that a midpoint is exact
    found = integrated_gradients(Explainer(QUADRATIC, "gradient"), x, b, steps=steps, target=[0, 1, 3])
    near(found.relevance, (x**2 - b**2) * V.T[[0, 1, 3]])
    near(found.ratio, np.ones(3))


@pytest.mark.parametrize("baseline", [0.0, 0.3, data(1, 5, seed=3), data(5, seed=3), {"x": data(2, 5, seed=4)}])
def test_midpoints_against_finite_differences(baseline: Any) -> None:
    x, steps = data(2, 5), 4
    b = np.broadcast_to(baseline["x"] if isinstance(baseline, dict) else baseline, x.shape).astype(np.float64)
    wanted = np.zeros((2, 5))
    for k in range(steps):
        at = b + (k + 0.5) / steps * (x - b)
        wanted += np.concatenate([slope(smooth, at[i : i + 1], 3) for i in range(2)]) / steps
    found = integrated_gradients(Explainer(SMOOTH, "gradient"), x, baseline, steps=steps, target=3)
    near(found.relevance, wanted * (x - b), 1e-5)
    near(found.initial[:, 3], (smooth(x) - smooth(b))[:, 3])
    assert found.relevance.dtype == np.float32


def test_completeness() -> None:
    x, b = data(3, 5), data(3, 5, seed=7)
    explainer = Explainer(SMOOTH, "gradient")
    rise = (smooth(x) - smooth(b))[:, 1]
    gaps = [abs(integrated_gradients(explainer, x, b, steps=n, target=1).relevance.sum(1) - rise).max() for n in (2, 8, 64)]
    assert gaps[0] > 8 * gaps[1] > 64 * gaps[2]  # midpoints: the error falls with the square of the steps
    assert gaps[2] < 1e-3 * abs(rise).max()
    kinks = integrated_gradients(Explainer(small(), "gradient"), data(2, 3, 6, 5), steps=300, target=1)
    near(kinks.ratio, np.ones(2), 5e-3)
    near(kinks.initial.sum(1), kinks.output[:, 1] - run(small(), x=np.zeros((1, 3, 6, 5), np.float32))["y"][0, 1])


def test_the_class_is_that_of_the_input() -> None:
    explainer = Explainer(CNN, "gradient")
    found = integrated_gradients(explainer, DIGIT, 1 - DIGIT, steps=20)
    assert found.target is not None
    assert found.target.tolist() == [3]
    assert explainer.quietly(1 - DIGIT).target != [3]
    near(found.relevance, integrated_gradients(explainer, DIGIT, 1 - DIGIT, steps=20, target=3).relevance, 0)
    near(smoothgrad(explainer, DIGIT, noise=3).relevance, smoothgrad(explainer, DIGIT, noise=3, target=3).relevance, 0)


def test_of_a_contrast_is_a_difference() -> None:
    x = data(2, 5)
    plain, given = Explainer(SMOOTH, "gradient"), Explainer(SMOOTH, "gradient", init="given")
    one, other = (integrated_gradients(plain, x, 0.1, steps=5, target=k) for k in (2, 0))
    found = integrated_gradients(given, x, 0.1, steps=5, start=starts.contrast(2, 0))
    near(found.relevance, one.relevance - other.relevance)
    near(found.initial, one.initial - other.initial)
    both = integrated_gradients(given, x[:1], 0.1, steps=5, start=[starts.target(2), starts.target(0)])
    near(both.relevance, np.concatenate([one.relevance[:1], other.relevance[:1]]))


def test_logits_behind_a_softmax_are_complete() -> None:
    model = net("h = MatMul(x, w)\nt = Tanh(h)\nz = MatMul(t, v)\ny = Softmax(z)", "float[N,5] x", w=W, v=V)
    x = data(2, 5)
    found = integrated_gradients(Explainer(model, "gradient"), x, 0.2, steps=40, target=3)
    near(found.initial[:, 3], (smooth(x) - smooth(np.full((2, 5), 0.2)))[:, 3])
    near(found.ratio, np.ones(2), 1e-3)


def test_several_inputs() -> None:
    model = net("p = Mul(x, u)\ny = MatMul(p, v)", "float[N,6] x, float[N,6] u", v=V)
    feed = {"x": data(2, 6), "u": data(2, 6, seed=3)}
    both = integrated_gradients(Explainer(model, "gradient"), feed, steps=2, target=1)
    near(both.relevances["x"], feed["x"] * feed["u"] * V[:, 1] / 2)  # f = Σ v x u along a ray: half to each
    near(both.relevances["u"], feed["x"] * feed["u"] * V[:, 1] / 2)
    one = integrated_gradients(Explainer(model, "gradient", explain=["x"]), feed, steps=2, target=1)
    near(one.relevance, feed["x"] * feed["u"] * V[:, 1])
    with pytest.raises(InputError, match="input 'u' has none"):
        integrated_gradients(Explainer(model, "gradient"), feed, {"x": 0})


@pytest.mark.parametrize("way", ["split by bytes", "batch_size", "fixed batch"])
def test_however_the_steps_are_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(2, 5)
    whole = integrated_gradients(Explainer(SMOOTH, "gradient"), x, 0.1, steps=7, target=[1, 2])
    model, options, runs = SMOOTH, {}, []
    if way == "split by bytes":
        monkeypatch.setattr(gradients, "BYTES", 3 * (x.nbytes + 16))  # of x and two targets
    elif way == "batch_size":
        options["batch_size"] = 3
    else:
        model = net("h = MatMul(x, w)\nt = Tanh(h)\ny = MatMul(t, v)", "float[2,5] x", "float[2,4] y", w=W, v=V)
    explainer = Explainer(model, "gradient", **options)
    once = explainer.quietly
    monkeypatch.setattr(
        explainer, "quietly", lambda feed, *a: (runs.append(len(feed["x"])) if isinstance(feed, dict) else 0, once(feed, *a))[1]
    )
    found = integrated_gradients(explainer, x, 0.1, steps=7, target=[1, 2])
    near(found.relevance, whole.relevance, 1e-6)
    near(found.ratio, whole.ratio)
    assert runs == {"split by bytes": [6, 6, 2, 2], "batch_size": [14, 2], "fixed batch": [2] * 8}[way]


# -------------------------------------------------------------------------------------------------------- SmoothGrad


def noisy(x: np.ndarray, noise: float, samples: int, seed: int) -> np.ndarray:
    """(samples, *x.shape)"""
    rng = np.random.default_rng(seed)
    span = np.stack([np.ptp(row) for row in x]).reshape(-1, *[1] * (x.ndim - 1))
    return np.stack([x + noise * span * rng.standard_normal(x.shape, np.float32) for _ in range(samples)])


def test_smoothgrad_in_closed_form() -> None:
    x, near_x = data(3, 6), noisy(data(3, 6), 0.2, 5, 9)
    found = smoothgrad(Explainer(LINEAR, "gradient"), x, noise=0.2, samples=5, target=1)
    near(found.relevance, np.broadcast_to(V[:, 1], (3, 6)))
    explainer = Explainer(QUADRATIC, "gradient")
    found = smoothgrad(explainer, x, noise=0.2, samples=5, seed=9, target=1)
    near(found.relevance, 2 * near_x.mean(0) * V[:, 1])
    squared = smoothgrad(explainer, x, noise=0.2, samples=5, seed=9, target=1, squared=True)
    near(squared.relevance, (4 * near_x**2).mean(0) * V[:, 1] ** 2)
    near(smoothgrad(explainer, x, noise=0, samples=2, target=1).relevance, explainer.quietly(x, 1).relevance, 1e-6)


@pytest.mark.filterwarnings("ignore:Σ relevance")
def test_smoothgrad_of_any_composite_is_the_mean_of_its_calls() -> None:
    x = data(2, 3, 6, 5)
    explainer = Explainer(small(), "epsilon", layers=["p"])
    calls = [explainer.quietly(p, [1, 2]) for p in noisy(x, 0.3, 4, 2).astype(np.float32)]
    found = smoothgrad(explainer, x, noise=0.3, samples=4, seed=2, target=[1, 2])
    near(found.relevance, np.mean([c.relevance for c in calls], axis=0))
    near(found.layers["p"], np.mean([c.layers["p"] for c in calls], axis=0))
    near(found.initial, np.mean([c.initial for c in calls], axis=0))
    near(found.ratio, found.relevance.sum((1, 2, 3)) / found.initial.sum(1))
    near(found.output, run(small(), x=x)["y"], 1e-6)


def test_layers_keep_their_other_names() -> None:
    explainer = Explainer(CNN, "gradient", layers=["pool"])
    found = smoothgrad(explainer, DIGIT, samples=2)
    assert found.layers[2] is found.layers["pool"]


def test_one_seed_one_result() -> None:
    explainer = Explainer(SMOOTH, "gradient")
    x = data(2, 5)
    near(smoothgrad(explainer, x, seed=1).relevance, smoothgrad(explainer, x, seed=1).relevance, 0)
    assert (smoothgrad(explainer, x, seed=1).relevance != smoothgrad(explainer, x, seed=2).relevance).any()


def test_noise_that_leaves_a_rule_s_bounds_warns_once() -> None:
    explainer = Explainer(CNN, "epsilon_gamma_box(low=0, high=1)", batch_size=2)
    with pytest.warns(UserWarning, match="outside the bounds of ZBox") as found:
        smoothgrad(explainer, DIGIT, samples=6)
    assert len(found) == 1
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoothgrad(explainer, DIGIT, noise=0, samples=2)


# ------------------------------------------------------------------------------------------------------------ errors

POSITIONS = net("y = MatMul(x, v)", "float[N,T,6] x", "float[N,T,4] y", v=V)
INTEGERS = net("t = Gather(table, x)\ny = MatMul(t, v)", "int64[N,T] x", "float[N,T,4] y", v=V, table=weight(9, 6))


def test_positions_of_different_classes_need_a_target() -> None:
    x = data(2, 3, 6)
    explainer = Explainer(POSITIONS, "gradient")
    with pytest.raises(InputError, match="differs between positions of the output: give target="):
        integrated_gradients(explainer, x)
    near(integrated_gradients(explainer, x, target=1).relevance, x * V[:, 1])
    one = Explainer(POSITIONS, "gradient", position=2)
    found = integrated_gradients(one, x)
    best = (x[:, 2] @ V).argmax(1)
    near(found.relevance[:, 2], x[:, 2] * V.T[best])
    assert not found.relevance[:, :2].any()


def test_errors_are_one_line() -> None:
    gradient, x = Explainer(SMOOTH, "gradient"), data(2, 5)

    def raised(function: Any, *arguments: Any, **options: Any) -> str:
        with pytest.raises(InputError) as error:
            function(*arguments, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    ig = integrated_gradients
    assert "with the preset gradient, not gradient_x_input" in raised(ig, Explainer(SMOOTH, "gradient_x_input"), x)
    assert "not epsilon" in raised(ig, Explainer(SMOOTH, "epsilon"), x)
    assert "preset gradient" in raised(ig, Explainer(SMOOTH, Composite(Epsilon(), times_input=True)), x)
    assert "without layers=" in raised(ig, Explainer(SMOOTH, "gradient", layers=["h"]), x)
    assert "steps must be a positive integer" in raised(ig, gradient, x, steps=0)
    assert "samples must be a positive integer" in raised(smoothgrad, gradient, x, samples=2.5)
    assert "noise must be a number" in raised(smoothgrad, gradient, x, noise=-1)
    assert "noise must be a number" in raised(smoothgrad, gradient, x, noise=float("nan"))
    assert "baseline of input 'x' must be a number, or fit the shape (2, 5)" in raised(ig, gradient, x, np.zeros(4))
    assert "got 'black'" in raised(ig, gradient, x, "black")
    assert "not finite" in raised(ig, gradient, x, np.inf)
    assert "target" in raised(ig, gradient, x, target=9)
    assert "init='given'" in raised(smoothgrad, gradient, x, start=starts.top(1))
    ids = np.zeros((1, 2), np.int64)
    assert "'t' lies within the model" in raised(smoothgrad, Explainer(INTEGERS, "gradient"), ids)
    assert "'h' lies within the model" in raised(ig, Explainer(SMOOTH, "gradient", explain=["h"]), x)
