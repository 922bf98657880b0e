"""What an evaluation is done on: settings, samples with their targets, a session of the plain model, regions, baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import metrics
from .errors import InputError
from .feeds import check_array, known_classes
from .graph import ModelSource, read_whole
from .run import Explainer
from .session import open_session, staged
from .validity import one_line

__all__ = ["Declared", "Settings", "Task", "in_parts", "task_of"]

Array = np.ndarray
PROBABILITIES = ("softmax", "sigmoid", "none")
RANDOMIZE = ("all", "layers", "none")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    region: side of the squares that are removed, in positions. steps: points of a curve at most, beside its start.
    baseline: a number, "mean" (of the sample, per channel) or "uniform" (noise within the range of the samples).
    probability: what makes a probability of the explained output: "softmax", "sigmoid", "none"; None: softmax where there
    are several classes. radius: of max_sensitivity, as a share of the range of the samples. noise: its draws, 0 for none.
    randomize: "all" weights at once, "layers" one more layer at a time from the top, "none". resamples: of the
    bootstrap. rows: run at a time. layout: "nchw", "nhwc", None: by the shape. Raises InputError.
    """

    region: int = 1
    steps: int = 32
    baseline: str | float = 0.0
    probability: str | None = None
    radius: float = 0.05
    noise: int = 10
    randomize: str = "all"
    resamples: int = 1000
    rows: int = 64
    layout: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("region", 1), ("steps", 1), ("noise", 0), ("resamples", 1), ("rows", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
        if not (np.isfinite(self.radius) and self.radius > 0):
            raise InputError(f"radius must be a positive number, got {self.radius!r}")
        for name, known in (
            ("probability", (None, *PROBABILITIES)),
            ("randomize", RANDOMIZE),
            ("layout", (None, "nchw", "nhwc")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is one of {', '.join(k for k in known if k)}, got {getattr(self, name)!r}")

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of their own for each purpose, so that leaving one metric out changes no other."""
        return np.random.default_rng([self.seed, *purpose])


@dataclass(frozen=True)
class Task:
    """What all composites are judged on."""

    settings: Settings
    name: str  # of the input
    x: Array
    target: Array
    fixed: int  # the only number of rows that the model takes, 0 for any
    forward: Callable[[Array], Array]
    probability: Callable[[Array], Array]
    labels: Array
    base: Array
    counts: Array

    @property
    def fractions(self) -> Array:
        return np.asarray(self.counts / self.counts[-1])


def task_of(
    model: ModelSource, data: Any, target: Any, settings: Settings, explainer: Explainer, providers: list[str], threads: int
) -> Task:
    """Samples, targets, a session of the plain model, regions and baseline. Raises InputError for what has none."""
    if len(explainer.required) != 1:
        raise InputError(f"evaluate changes one float input; the model has several: {', '.join(explainer.required)}")
    name = explainer.required[0]
    declared = explainer.inputs[name]
    if declared.type not in ("tensor(float)", "tensor(double)", "tensor(float16)") or len(declared.shape) < 2:
        raise InputError(
            f"evaluate changes a float input (batch, ...); '{name}' is {declared.type} with {len(declared.shape)} axes"
        )
    fixed = declared.shape[0] if isinstance(declared.shape[0], int) else 0
    loose = Declared(declared.type, [None, *declared.shape[1:]])
    x = check_array(name, data, loose)
    if x.min() == x.max():
        raise InputError("the samples are one and the same value everywhere: there is nothing to remove")
    if explainer.plan["class_axis"] != 1:
        raise InputError("evaluate needs an output (batch, classes); name one (output=) or its class axis (class_axis=1)")
    plain = _plain(model, str(explainer.plan["explained_tensor"]), name, providers, threads)
    forward = in_parts(plain, settings.rows, fixed)
    scores = forward(x)
    if scores.ndim != 2 or len(scores) != len(x):
        raise InputError(
            f"evaluate needs an output (batch, classes), '{explainer.plan['output']}' has the shape {scores.shape}"
        )
    channels = _channels(x.shape[1:], settings.layout)
    labels = metrics.regions(x.shape[1:], settings.region, channels)
    count = int(labels.max()) + 1
    counts = np.unique(np.linspace(0, count, min(settings.steps, count) + 1).round().astype(np.int64))
    base = metrics.baseline_values(x, settings.baseline, channels, settings.rng(0))
    chosen = settings.probability or ("softmax" if scores.shape[1] > 1 else "none")
    return Task(settings, name, x, targets(target, scores), fixed, forward, _PROBABILITY[chosen], labels, base, counts)


@dataclass(frozen=True)
class Declared:
    """An input as onnxruntime describes it."""

    type: str
    shape: list[Any] = field(default_factory=list)


def _plain(model: ModelSource, tensor: str, name: str, providers: list[str], threads: int) -> Callable[[Array], Array]:
    """Values of the explained tensor by the plain model. Raises InputError where a file has no such tensor."""
    proto = read_whole(model)
    made = {t for n in proto.graph.node for t in n.output}
    if tensor not in made:
        raise InputError(f"the explained '{tensor}' is not computed by the model as it stands: name another output (output=)")
    extra = [] if tensor in {o.name for o in proto.graph.output} else [tensor]
    with staged(proto, extra) as place:
        session = open_session(place, providers, threads)

    def run(x: Array) -> Array:
        try:
            return np.asarray(session.run([tensor], {name: x})[0], np.float64)
        except Exception as error:
            raise InputError(f"onnxruntime could not run the model on this input: {one_line(error)}") from error

    return run


def in_parts(run: Callable[..., Array], rows: int, fixed: int) -> Callable[..., Array]:
    """run, `rows` rows of its arguments at a time; fixed: the only number of rows that a model takes, 0 for any."""
    size = fixed or rows

    def whole(*arrays: Array) -> Array:
        found = []
        for start in range(0, len(arrays[0]), size):
            parts = [a[start : start + size] for a in arrays]
            count = len(parts[0])
            if count < fixed:  # filled up with its last row
                parts = [np.concatenate([p, p[-1:].repeat(fixed - count, 0)]) for p in parts]
            found.append(run(*parts)[:count])
        return np.concatenate(found)

    return whole


def targets(target: Any, scores: Array) -> Array:
    """The class of each row (N,), the largest score where none is given. Raises InputError."""
    rows, classes = scores.shape
    best = np.asarray(scores.argmax(axis=1))
    if target is None:
        return best
    value = np.asarray(target)
    if value.dtype.kind not in "iu" or value.ndim > 1 or value.size not in (1, rows):
        raise InputError(f"target must be one integer or {rows}, one for each sample; got {value.dtype} {value.shape}")
    wrong = value[(value < -1) | (value >= classes)]
    if wrong.size:
        raise InputError(f"target {wrong.flat[0]}: {known_classes(classes)}")
    return np.asarray(np.where(value < 0, best, value))


def _channels(shape: tuple[int, ...], layout: str | None) -> int | None:
    """The channel axis of a sample: as named, else last where it has 1, 3 or 4 of them and the first has not."""
    if layout is not None:
        return 0 if layout == "nchw" else len(shape) - 1
    if len(shape) < 3:
        return None
    return len(shape) - 1 if shape[-1] in (1, 3, 4) and shape[0] not in (1, 3) else 0


def _softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


_PROBABILITY: dict[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "sigmoid": lambda scores: 0.5 + 0.5 * np.tanh(scores / 2),
    "none": lambda scores: scores,
}
