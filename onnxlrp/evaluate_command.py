"""The options of `onnxlrp evaluate`, and the evaluation that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .evaluate import evaluate
from .options import SESSION
from .report.command import composites
from .scores import Evaluation, plot_target
from .task import PROBABILITIES, RANDOMIZE, Settings, read_samples

__all__ = ["EVALUATE", "evaluation"]

F = TypeVar("F", bound=Callable[..., Any])


def _composites(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return composites(value)


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
        callback=_composites,
        required=True,
        metavar="PRESET,PRESET",
        help="Composites to rank: 'epsilon,epsilon_gamma_box(low=0, high=1)'.",
    ),
    click.option("--target", "-t", "target", type=int, help="Class to explain (default: `target` in DATA, or the largest)."),
    click.option("--region", type=click.IntRange(1), help="Side of the squares that are removed (default: 1)."),
    click.option("--steps", type=click.IntRange(1), help="Points of a curve at most (default: 32)."),
    click.option("--baseline", callback=_baseline, default="0", help="What replaces them: a number (0), mean, uniform noise."),
    click.option("--probability", type=click.Choice(PROBABILITIES), help="Of the output, for insertion and deletion."),
    click.option("--radius", type=float, help="Sensitivity: noise, as a share of DATA's range (default: 0.05)."),
    click.option("--noise", type=click.IntRange(0), help="Sensitivity: draws of noise, 0 leaves it out (default: 10)."),
    click.option("--randomize", type=click.Choice(RANDOMIZE), help="Random weights: all at once (default), by layers, none."),
    click.option("--resamples", type=click.IntRange(1), help="Bootstrap draws for the intervals (default: 1000)."),
    click.option("--batch-size", "rows", type=click.IntRange(1), help="Rows per run (default: 64)."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Where the channels are (default: by the shape)."),
    click.option("--seed", type=click.IntRange(0), help="Of everything random (default: 0)."),
    click.option("--output", help="Model output to explain (default: the first)."),
    click.option("--class-axis", type=int, help="Axis of the classes in the explained tensor."),
    *SESSION,
    click.option("--plot", callback=_plot, metavar="FILE", help="Curves as .png, .pdf or .svg (needs onnxlrp[plot])."),
]
OWN = ("region", "steps", "baseline", "probability", "radius", "noise", "randomize", "resamples", "rows", "layout", "seed")


def evaluation(model: str, data: str, progress: Callable[[str], None], options: dict[str, Any]) -> Evaluation:
    """What the options ask for; those that were not given keep the library's defaults."""
    given = {k: v for k, v in options.items() if v is not None}
    settings = Settings(**{k: given.pop(k) for k in OWN if k in given})
    chosen, target = given.pop("composites"), given.pop("target", None)
    samples, held = read_samples(data)
    if target is None:
        target = held
    return evaluate(model, samples, chosen, target, settings, providers=given.pop("provider", None), progress=progress, **given)
