"""How good are the maps? `evaluate` runs composites over samples and ranks them, with a confidence interval per number.

Per sample, with f the explained output at the target, x^(k) the sample without k regions of R, and p = k / R:
- aopc_morf = 1/(L+1) Σ_k (f(x) - f(x^(k))), most relevant first (higher is better); aopc_lerf, least relevant first (lower).
- gap = aopc_morf - aopc_lerf, the area between the two curves: what composites are ranked by. 0 for random relevance.
- deletion = ∫ P(x^(k)) dp, most relevant first (lower); insertion, the same with the most relevant put back into the
  baseline first (higher), which is the curve of the least relevant first, read from its end.  P: probability of the target.
- max_sensitivity = max ‖Φ(y) - Φ(x)‖ / ‖Φ(x)‖ over y within a radius (lower).
- randomization = Spearman's ρ of the map and that of a model with randomised weights (near 0 is better).
Bach 2015, Samek 2017 (AOPC), Petsiuk 2018, Yeh 2019, Adebayo 2018; `metrics` has the formulas.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import metrics
from .composites import Composite, CompositeLike
from .errors import CompositeError, InputError, InvalidModel
from .graph import ModelSource, read_whole
from .randomize import randomized
from .run import Explainer
from .scores import Estimate, Evaluation, Scores
from .session import metadata, providers_of
from .task import Settings, Task, in_parts, task_of

__all__ = ["Settings", "evaluate"]

Array = np.ndarray
RANDOM = "random"
REPEATS = 3  # runs that the time is the median of


def evaluate(
    model: ModelSource,
    data: Any,
    composites: Sequence[CompositeLike] | Mapping[str, CompositeLike],
    target: int | Sequence[int] | None = None,
    settings: Settings | None = None,
    *,
    providers: str | Sequence[str] | None = None,
    threads: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Evaluation:
    """Composites, and random relevance, ranked by how fast the output falls when what they call relevant is removed.

    data: samples (N, ...) of the model's one float input. composites: presets or Composites, or {name: composite}.
    target: class of each sample; None: the largest output. options: of `compile`. progress: told what is being done.
    Raises InputError, CompositeError, and what `compile` raises.
    """
    settings = settings or Settings()
    chosen = named(composites)
    if "onnxlrp.version" in metadata(model):
        raise InvalidModel("the model was compiled by onnxlrp already: evaluate takes the original, to try several composites")
    if wrong := {"explain", "init", "layers", "conditions", "position", "batch_size"} & set(options):
        raise CompositeError(f"{min(wrong)} cannot be given to evaluate: it explains a model's one float input")
    run = {"providers": providers, "threads": threads, **options}
    explainers = {}
    for name, composite in chosen.items():
        progress(f"compiling {name}")
        explainers[name] = Explainer(model, composite, **run)
    task = task_of(model, data, target, settings, next(iter(explainers.values())), providers_of(providers), threads)
    found = []
    for name, explainer in explainers.items():
        progress(f"evaluating {name}")
        found.append(judge(task, name, explainer))
    if settings.randomize != "none":
        compare_randomized(task, model, chosen, found, run, progress)
    noise = settings.rng(2).standard_normal(task.x.shape)
    found.append(Scores(RANDOM, noise, *faithfulness(task, noise)))
    for scores in found[:-1]:
        more = estimate(task, scores.values["gap"].values - found[-1].values["gap"].values)
        scores.chance = None if np.isnan(more.low) else not more.low > 0
    some = task.x[: settings.rows]
    return Evaluation.of(found, RANDOM, task.fractions, timed(lambda: task.forward(some)) / len(some))


def named(composites: Any) -> dict[str, CompositeLike]:
    """{name: composite}; a preset's text and a Composite's name are names. Raises CompositeError."""
    if isinstance(composites, (str, Composite)):
        composites = [composites]
    pairs = composites.items() if isinstance(composites, Mapping) else [(_name(c), c) for c in composites]
    found: dict[str, CompositeLike] = {}
    for name, composite in pairs:
        if name in found or name == RANDOM:
            raise CompositeError(f"composites: '{name}' is {'the baseline, always there' if name == RANDOM else 'there twice'}")
        found[name] = composite
    if not found:
        raise CompositeError("composites: give at least one")
    return found


def _name(composite: Any) -> str:
    name = composite.strip() if isinstance(composite, str) else getattr(composite, "name", "")
    if not name:
        raise CompositeError("composites: one has no name: give a dict {name: composite}")
    return str(name)


# ------------------------------------------------------------------------------------------------------------- judging


def judge(task: Task, name: str, explainer: Explainer) -> Scores:
    """All metrics of one composite that need the model as it is."""
    explain = explaining(task, name, explainer)
    feed = {task.name: task.x}
    for text in explainer.left_ranges(feed) + explainer.left_boxes(feed):
        warnings.warn(f"{name}: {text}", stacklevel=3)
    maps = explain(task.x)
    some = task.x[: task.settings.rows]
    seconds = timed(lambda: explain(some)) / len(some)
    values, curves = faithfulness(task, maps)
    if task.settings.noise:
        limits = float(task.x.min()), float(task.x.max())
        radius, rng = task.settings.radius * (limits[1] - limits[0]), task.settings.rng(3)
        worst = metrics.max_sensitivity(explain, task.x, maps, radius, task.settings.noise, limits, rng)
        values["max_sensitivity"] = estimate(task, worst)
    return Scores(name, maps, values, curves, seconds)


def explaining(task: Task, name: str, explainer: Explainer) -> Callable[[Array], Array]:
    """Relevance of the samples, the first of them, or noisy ones, for their targets. Raises InputError unless finite."""

    def run(x: Array, target: Array) -> Array:
        return explainer.quietly(x, [int(t) for t in target]).relevances[task.name]

    whole = in_parts(run, task.settings.rows, task.fixed)

    def explain(x: Array) -> Array:
        maps = whole(x, task.target[: len(x)])
        if not np.isfinite(maps).all():
            raise InputError(f"'{name}' gives relevance that is not finite; `onnxlrp check` names the layer")
        return maps

    return explain


def faithfulness(task: Task, maps: Array) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Values and curves of removing regions, most and least relevant first, both from the same forward passes."""
    ranks = metrics.ranking(metrics.pooled(maps, task.labels), task.settings.rng(1))
    at, rows = task.target[:, None, None], np.arange(len(task.x))
    curves = {}
    for way, order in (("morf", ranks), ("lerf", ranks.shape[1] - 1 - ranks)):
        scores = metrics.curves(task.forward, task.x, task.base, task.labels, order, task.counts, task.settings.rows)
        curves[way] = np.take_along_axis(scores, at, axis=2)[..., 0]
        curves[f"p_{way}"] = task.probability(scores)[rows, :, task.target]
    curves["deletion"], curves["insertion"] = curves.pop("p_morf"), curves.pop("p_lerf")[:, ::-1]
    morf, lerf = metrics.aopc(curves["morf"]), metrics.aopc(curves["lerf"])
    values = {"gap": morf - lerf, "aopc_morf": morf, "aopc_lerf": lerf}
    values["deletion"] = metrics.auc(curves["deletion"], task.fractions)
    values["insertion"] = metrics.auc(curves["insertion"], 1 - task.fractions[::-1])
    return {key: estimate(task, v) for key, v in values.items()}, curves


def estimate(task: Task, values: Array) -> Estimate:
    """Mean and interval; all with the same draws of samples."""
    return Estimate(*metrics.bootstrap(values, task.settings.resamples, task.settings.seed), values)


def compare_randomized(
    task: Task,
    model: ModelSource,
    chosen: Mapping[str, CompositeLike],
    found: Sequence[Scores],
    run: Mapping[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Adds ρ of each composite's maps and those of the model with randomised weights; all composites see the same weights."""
    by_layer = task.settings.randomize == "layers"
    for layer, proto in randomized(read_whole(model), by_layer, task.settings.rng(4)):
        for scores in found:
            progress(f"{scores.name} with random weights from the top to {layer}")
            maps = explaining(task, scores.name, Explainer(proto, chosen[scores.name], **run))(task.x)
            pair = (metrics.pooled(m, task.labels) for m in (scores.maps, maps))
            scores.randomized.append((layer, estimate(task, metrics.spearman(*pair))))
    for scores in found:
        scores.values["randomization"] = scores.randomized[-1][1]


def timed(run: Callable[[], Any]) -> float:
    """Seconds, the median of REPEATS runs."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return float(np.median(found))
