"""Explanations averaged over many inputs by one compiled graph: integrated gradients, SmoothGrad.

    explainer = Explainer("model.onnx", "gradient")
    integrated_gradients(explainer, x, baseline=0, steps=50)
    smoothgrad(explainer, x, noise=0.15, samples=25)

Steps and samples become rows of a batch where the rows of the model are known to be independent, and as many runs where
not; the Explainer splits what memory does not hold. The class is that of x throughout.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import InputError
from .explanation import Explanation
from .run import Explainer, ratio_of
from .starts import StartLike, repeated

__all__ = ["integrated_gradients", "smoothgrad"]

Array = np.ndarray
Target = int | Sequence[int] | None
Starts = StartLike | Sequence[StartLike] | None

BYTES = 2**25  # of inputs that are made at a time


def integrated_gradients(
    explainer: Explainer,
    x: Any,
    baseline: Any = 0.0,
    *,
    steps: int = 50,
    target: Target = None,
    start: Starts = None,
) -> Explanation:
    """(x − b) ⊙ mean of ∂f/∂x at b + (k + ½) (x − b) ÷ steps, k = 0 … steps − 1   (Sundararajan et al. 2017).

    explainer: of the preset gradient. baseline b: a number, an array that broadcasts to x, or {input: either}. Inputs that
    are not explained stay as they are. start: as in a call of the explainer, for f = y_a − y_b and others.
    The explanation's `initial` is f(x) − f(b), and its ratio Σ relevance ÷ (f(x) − f(b)), 1 when there are steps enough.
    Raises InputError.
    """
    _count("steps", steps)
    face = explainer.face
    if explainer.conserves or face.get("times_input", True):
        name = explainer.plan["composite"].split("\n")[0].removeprefix("Composite ")
        raise InputError(f"integrated gradients average derivatives: compile with the preset gradient, not {name}")
    if face["layers"]:
        raise InputError("integrated gradients are of inputs: compile without layers=")
    first = explainer.quietly(x, target, start)
    ends = _varied(explainer, first)
    begins = {name: _baseline(name, end, baseline) for name, end in ends.items()}
    feed = _with_target(explainer, first)

    def points() -> Iterator[dict[str, Array]]:
        for k in range(steps):
            a = (k + 0.5) / steps
            yield {n: ((1 - a) * begins[n].astype(np.float64) + a * ends[n]).astype(ends[n].dtype) for n in ends}

    mean = _averaged(explainer, feed, points(), steps)["relevances"]
    found = {n: (mean[n] * (ends[n].astype(np.float64) - begins[n])).astype(np.float32) for n in ends}
    last = explainer.quietly({**feed, **begins})
    rise = _explained(explainer, first).astype(np.float64) - _explained(explainer, last)
    initial = (first.initial * rise).astype(np.float32)
    return replace(first, relevances=found, initial=initial, ratio=ratio_of(found, initial))


def smoothgrad(
    explainer: Explainer,
    x: Any,
    *,
    noise: float = 0.15,
    samples: int = 25,
    seed: int = 0,
    squared: bool = False,
    target: Target = None,
    start: Starts = None,
) -> Explanation:
    """Mean of R(x + noise · (max x − min x) · g), g normal, max and min of each row   (Smilkov et al. 2017).

    explainer: of any composite; that of the paper is the preset gradient. squared: the mean of R² (Hooker et al. 2019).
    g comes from numpy's default_rng(seed), sample by sample, input by input. `initial` is averaged too; with init="given"
    it is that of x. Raises InputError.
    """
    _count("samples", samples)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < np.inf:
        raise InputError(f"noise must be a number ≥ 0, relative to the range of the input, got {noise!r}")
    first = explainer.quietly(x, target, start)
    centres = _varied(explainer, first)
    spans = {n: noise * np.ptp(c, axis=tuple(range(1, c.ndim)) or None, keepdims=True) for n, c in centres.items()}
    rng = np.random.default_rng(seed)

    def points() -> Iterator[dict[str, Array]]:
        for _ in range(samples):
            yield {n: (c + spans[n] * rng.standard_normal(c.shape, np.float32)).astype(c.dtype) for n, c in centres.items()}

    found = _averaged(explainer, _with_target(explainer, first), points(), samples, 2 if squared else 1)
    layers = copy.copy(first.layers)
    layers.update(_single(found["layers"]))
    relevances, initial = _single(found["relevances"]), found["initial"][""].astype(np.float32)
    ratio = ratio_of(relevances, initial)
    return replace(first, relevances=relevances, layers=layers, tokens=_single(found["tokens"]), initial=initial, ratio=ratio)


# -------------------------------------------------------------------------------------------------------------- runs


def _averaged(
    explainer: Explainer, feed: Mapping[str, Array], points: Iterator[dict[str, Array]], count: int, power: int = 1
) -> dict[str, dict[str, Array]]:
    """Means in float64 of relevanceᵖᵒʷᵉʳ (of inputs, layers, tokens) and of the initial relevance; warns as a call does."""
    sums: dict[str, dict[str, Array]] = {"relevances": {}, "layers": {}, "tokens": {}, "initial": {}}
    said: dict[str, str] = {}
    while part := list(itertools.islice(points, _together(explainer, feed))):
        varied = {name: np.concatenate([p[name] for p in part]) if len(part) > 1 else part[0][name] for name in part[0]}
        found = explainer.quietly({**repeated(explainer, feed, len(part)), **varied})
        said = {re.sub(r"-?\d[\d.e+-]*", "#", text): text for text in explainer.complaints(found)} | said  # counts differ
        for kind, total in sums.items():
            values = {"": found.initial} if kind == "initial" else getattr(found, kind)
            for name, r in values.items():
                each = r if kind == "initial" else r.astype(np.float64) ** power
                each = each[None] if len(part) == 1 else each.reshape(len(part), -1, *r.shape[1:])
                total[name] = total.get(name, 0) + each.sum(0, dtype=np.float64)
    for text in said.values():
        warnings.warn(text, stacklevel=3)
    return {kind: {name: t / count for name, t in total.items()} for kind, total in sums.items()}


def _together(explainer: Explainer, feed: Mapping[str, Array]) -> int:
    """How many copies of the batch one run takes."""
    if not explainer.face["rows"]["independent"]:
        return 1
    return max(1, BYTES // max(sum(a.nbytes for a in feed.values()), 1))


def _with_target(explainer: Explainer, first: Explanation) -> dict[str, Array]:
    """What was fed, with the class that the first run chose, for no point on the way to choose another."""
    feed, name, axis = dict(first.inputs), explainer.face["target"], explainer.face["class_axis"]
    if not name or first.target is None or (name in feed and (feed[name] >= 0).all()):
        return feed
    used = (first.initial != 0).any(axis)
    if axis == 0:
        used, classes = used[None], first.target[None]
    else:
        classes = first.target
    chosen = [np.unique(c[u]) if u.any() else c.ravel()[:1] for c, u in zip(classes, used, strict=True)]
    if any(len(c) > 1 for c in chosen):
        raise InputError("the largest class differs between positions of the output: give target=, or compile with position=")
    return {**feed, name: np.concatenate(chosen).astype(np.int64)}


def _varied(explainer: Explainer, first: Explanation) -> dict[str, Array]:
    """The explained inputs. Raises InputError for what is none, or holds no real numbers."""
    for name in first.relevances:
        if name not in explainer.required:
            raise InputError(f"'{name}' lies within the model and cannot be varied: explain float inputs (explain=)")
        if first.inputs[name].dtype.kind != "f":
            raise InputError(f"input '{name}' is {first.inputs[name].dtype}: only float inputs can be varied")
    return {name: first.inputs[name] for name in first.relevances}


def _baseline(name: str, x: Array, baseline: Any) -> Array:
    """The baseline of one input, of its shape and type."""
    value = baseline.get(name) if isinstance(baseline, Mapping) else baseline
    if value is None:
        raise InputError(f"baseline: input '{name}' has none; give {{name: number or array}} for every explained input")
    try:
        made = np.broadcast_to(np.asarray(value, x.dtype), x.shape)
    except (TypeError, ValueError) as error:
        got = f"the shape {np.shape(value)}" if np.ndim(value) else repr(value)
        raise InputError(f"baseline of input '{name}' must be a number, or fit the shape {x.shape}; got {got}") from error
    if not np.isfinite(made).all():
        raise InputError(f"baseline of input '{name}' has values that are not finite")
    return np.ascontiguousarray(made)


def _explained(explainer: Explainer, explanation: Explanation) -> Array:
    """The explained tensor, from the run where it shows it."""
    name = explainer.plan["explained_tensor"]
    if name in explanation.outputs:
        return explanation.outputs[name]
    return explanation.output if explanation.output_name == name else explainer.scores(explanation.inputs)


def _single(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a.astype(np.float32) for name, a in arrays.items()}


def _count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")
