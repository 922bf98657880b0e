"""The options of pictures on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import InputError
from .style import KINDS, NORMALIZE, OVERLAYS, PER, REDUCTIONS, Style

__all__ = ["PICTURE", "picture_options"]

F = TypeVar("F", bound=Callable[..., Any])


def grid(_: click.Context, param: click.Parameter, value: str | None) -> str | list[int] | None:
    """`all`, or `0,2,5`."""
    if value is None or value == "all":
        return value
    try:
        return [int(v) for v in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'all' nor a list of row numbers: 0,2,5", param=param) from error


def normalization(_: click.Context, param: click.Parameter, value: str | None) -> str | float | None:
    """`max`, or a percentile: `99`, `99.5`."""
    if value is None or value == NORMALIZE:
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'max' nor a percentile: 99", param=param) from error


def names(_: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """`age,height,weight`, or a file with one name per line."""
    if value is None:
        return None
    if not os.path.isfile(value):  # Path.is_file raises for a long list of names
        return [name.strip() for name in value.split(",")]
    try:
        return [line.strip() for line in Path(value).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--names: {value} could not be read as text") from error


PICTURE: list[Callable[[F], F]] = [
    click.option("--size", type=click.IntRange(1), help="Heat-map: pixels of the shorter side; of a curve's or table's width."),
    click.option("--cmap", help="Heat-map: bwr (default), or any matplotlib colormap (needs onnxlrp[plot])."),
    click.option("--kind", type=click.Choice(KINDS), help="Heat-map: what the input is (default: told from its shape)."),
    click.option("--normalize", callback=normalization, metavar="max|PERCENT", help="Heat-map: |relevance| of full colour."),
    click.option("--per", type=click.Choice(PER), help="Heat-map: --normalize for each row, or once over the batch."),
    click.option("--reduce", type=click.Choice(REDUCTIONS), help="Heat-map: channels to one value (default: sum)."),
    click.option("--overlay", type=click.Choice(OVERLAYS), help="Heat-map: over the input, in grey or in its colours."),
    click.option("--grid", callback=grid, metavar="all|ROW,ROW", help="Heat-map: several rows on one sheet."),
    click.option(
        "--names", callback=names, metavar="NAME,NAME|FILE", help="Heat-map: of features or channels; a file: by line."
    ),
    click.option("--most", type=click.IntRange(1), help="Heat-map: bars of a table (default: 20), slices of a volume (16)."),
]
NAMES = ("size", "cmap", "kind", "normalize", "per", "reduce", "overlay", "grid", "names", "most")


def picture_options(options: dict[str, Any], target: str | None) -> dict[str, Any]:
    """Take the options of `Explanation.heatmap` that were given out of all. Raises UsageError, InputError."""
    found = {name: value for name in NAMES if (value := options.pop(name)) is not None}
    if found and not (target or "").endswith(".png"):
        raise click.UsageError(f"--{next(iter(found))} is for heat-maps: add -o heat.png")
    Style(**{name: value for name, value in found.items() if name != "grid"})  # refused before the model runs
    return found
