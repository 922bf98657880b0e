"""The options of `onnxlrp evaluate`, and the evaluation that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .evaluate import evaluate
from .options import PREPARE, RANGES, READ, SESSION
from .preprocessing import preprocessing_of
from .report.command import composites
from .samples import float_input, read_samples
from .scores import Evaluation, plot_target
from .task import PROBABILITIES, RANDOMIZE, Settings

__all__ = ["EVALUATE", "LEGEND", "evaluation"]

F = TypeVar("F", bound=Callable[..., Any])


SAMPLES = 1000
LEGEND = """\
Regions of a sample are removed one after the other, the most relevant first (MoRF) or the least relevant (LeRF).
MoRF ↑, LeRF ↓: how far the output falls below its start, on average along the way; gap ↑: MoRF − LeRF, 0 for random relevance.
deletion ↓: mean probability as the most relevant go; insertion ↑: the same as they are put back into an empty sample first.
sensitivity ↓: how much the map changes with noise. ρ: its rank correlation with the map of random weights, best near 0."""


def _composites(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return composites(",".join(values))


def _plot(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A place that can be written, before anything is computed."""
    return None if value is None else str(plot_target(value))


def _baseline(_: click.Context, param: click.Parameter, value: str) -> str | float:
    if value in ("mean", "uniform"):
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a number, mean or uniform", param=param) from error


EVALUATE: list[Callable[[F], F]] = [
    click.option(
        "--composites",
        "-c",
        multiple=True,
        callback=_composites,
        required=True,
        metavar="PRESET,PRESET",
        help="Composites to rank: 'epsilon,epsilon_gamma_box(low=0, high=1)'.",
    ),
    click.option(
        "--target",
        "-t",
        "target",
        type=int,
        help="Class to explain, -1: the largest output (default: `target` in DATA, or -1).",
    ),
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=SAMPLES,
        show_default=True,
        help="Rows of DATA at most, evenly spread over it.",
    ),
    click.option("--region", type=click.IntRange(1), help="Side of the squares that are removed (default: 1)."),
    click.option("--steps", type=click.IntRange(1), help="Points of a curve at most (default: 32)."),
    click.option("--baseline", callback=_baseline, default="0", help="What replaces them: a number (0), mean, uniform noise."),
    click.option("--probability", type=click.Choice(PROBABILITIES), help="Of the output, for insertion and deletion."),
    click.option("--radius", type=float, help="Sensitivity: noise, as a share of DATA's range (default: 0.05)."),
    click.option("--noise", type=click.IntRange(0), help="Sensitivity: draws of noise, 0 leaves it out (default: 10)."),
    click.option("--randomize", type=click.Choice(RANDOMIZE), help="Random weights: all at once (default), by layers, none."),
    click.option("--resamples", type=click.IntRange(1), help="Bootstrap draws for the intervals (default: 1000)."),
    click.option("--batch-size", "rows", type=click.IntRange(1), help="Rows per run (default: 64)."),
    click.option("--seed", type=click.IntRange(0), help="Of everything random (default: 0)."),
    *PREPARE,
    *READ,
    *RANGES,
    *SESSION,
    click.option("--plot", callback=_plot, metavar="FILE", help="Curves as .png, .pdf or .svg (needs onnxlrp[plot])."),
]
OWN = ("region", "steps", "baseline", "probability", "radius", "noise", "randomize", "resamples", "rows", "seed")


def evaluation(model: str, data: str, progress: Callable[[str], None], options: dict[str, Any]) -> tuple[Evaluation, list[str]]:
    """What the options ask for, and notes on the data; options that were not given keep the library's defaults."""
    how = preprocessing_of(options)
    given = {k: v for k, v in options.items() if v is not None}
    settings = Settings(**{k: given.pop(k) for k in OWN if k in given}, layout=how.layout or None)
    chosen, target, most = given.pop("composites"), given.pop("target", None), given.pop("samples")
    samples = read_samples(data, float_input(model, given.get("input_shapes")), how, most)
    if target is None:
        target = samples.target
    provider = given.pop("provider", None)
    found = evaluate(model, samples.x, chosen, target, settings, providers=provider, progress=progress, **given)
    return found, samples.notes
