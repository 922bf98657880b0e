"""`onnxlrp run`: its options, and the run that they ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ..data import Columns
from ..labels import class_index, labels_of, read_labels
from ..options import HEAD, LABELS, LAYERS, MAKE, POSITION, PREPARE, RANGES, given, one_class, options_of
from ..pictures.options import PICTURE, picture_options
from ..preprocessing import preprocessing_of
from ..session import metadata
from ..starts import MAKERS
from ..starts import parse as parse_start
from .everything import explain_all
from .stores import FORMATS, format_of

__all__ = ["run"]

F = TypeVar("F", bound=Callable[..., Any])


def inputs(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`image=pixels` to {"image": "pixels"}."""
    found = {}
    for value in values:
        name, _sep, column = value.partition("=")
        if not name or not column:
            raise click.BadParameter(f"{value!r} is not INPUT=COLUMN", param=param)
        found[name] = column
    return found


def start(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """`contrast:3,5`, read once to refuse it here, and kept as text, which every worker can read."""
    if value is not None:
        parse_start(value)
    return value


JOB: list[Callable[[F], F]] = [
    click.option(
        "-o", "--out", required=True, type=click.Path(), help="Folder to write: name.zarr, name.parquet, or name for pictures."
    ),
    click.option("--format", type=click.Choice(list(FORMATS)), help="What OUT is, whatever its name."),
    click.option("--resume", is_flag=True, help="Go on with a run that was stopped or killed; begin it if there is none."),
    click.option("--batch", type=click.IntRange(1), help="Rows per run of the model (default: found; then fixed for the run)."),
    click.option(
        "--target",
        "-t",
        callback=one_class,
        metavar="CLASS",
        help="Class to explain, its number or name (default: the data's, or the largest output).",
    ),
    *LABELS,
    click.option("--id-column", help="Column or array with the rows' identifiers (default: `id`, else the row number)."),
    click.option("--target-column", help="Column or array with the classes to explain (default: `target`, if there is one)."),
    click.option("--column", "columns", multiple=True, callback=inputs, metavar="INPUT=COLUMN", help="Where an input is."),
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="Here (default), or on Ray Data."),
    click.option("--actors", type=click.IntRange(1), help="Ray: sessions at once (default: 2)."),
    click.option(
        "--threads", type=click.IntRange(1), help="Batches at once in a session (default: one per processor; 1 on Ray)."
    ),
    click.option("--provider", help="cpu (default), cuda, or an onnxruntime provider."),
    *HEAD,
    *LAYERS,
    *POSITION,
    *MAKE,
    *RANGES,
    click.option("--start", callback=start, metavar="KIND:…", help=f"Start of relevance: {', '.join(MAKERS)}, as in explain."),
    *PREPARE,
    *PICTURE,
]


@click.command()
@click.argument("model", type=click.Path())
@click.argument("data", type=click.Path())
@options_of(JOB)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def run(model: str, data: str, as_json: bool, **options: Any) -> None:
    """Explain a whole data set: a folder of pictures or .npy, a .npy, .npz, Parquet or Zarr. MODEL may be compiled already.

    OUT has a row for each row of DATA. Killed at any moment, the same command with --resume goes on, and the result is the
    same. Rows that cannot be read or explained are set aside: OUT.run/set_aside.csv says why.
    """
    engine, actors = options.pop("engine"), options.pop("actors")
    if actors is not None and engine == "local":
        raise click.UsageError("--actors is for --engine ray")
    drawn = format_of(Path(options["out"]), options["format"]) == "pictures"
    picture = picture_options(options, "run.png" if drawn else None)
    columns = Columns(options.pop("id_column"), options.pop("target_column"), options.pop("columns"))
    target, labels = options.pop("target"), options.pop("labels")
    if isinstance(target, str):
        carried = metadata(model) if labels is None else {}
        target = class_index(labels_of(carried, None) if labels is None else read_labels(labels, None), target)
    elif labels is not None:
        raise click.UsageError("--labels names the classes for --target NAME: a run writes numbers")
    try:
        found = explain_all(
            model,
            data,
            target=target,
            columns=columns,
            picture=picture,
            preprocessing=preprocessing_of(options),
            actors=0 if engine == "local" else actors or 2,
            tell=partial(click.echo, err=True),
            **given(options),
        )
    except KeyboardInterrupt:
        click.echo("onnxlrp: interrupted; --resume goes on", err=True)
        os._exit(2)  # a batch that is being run cannot be stopped, and nobody needs it
    if as_json:
        click.echo(json.dumps({**asdict(found), "out": str(found.out)}))
        return
    rate = f"{found.now / max(found.seconds, 1e-9):,.1f} rows/s, {found.batch} at a time"
    click.echo(f"{found.rows - found.aside:,} of {found.rows:,} rows explained" + (f"; {rate}" if found.now else ""))
    if found.aside:
        click.echo(f"{found.aside:,} set aside, listed in {found.out}.run/set_aside.csv; the first: {found.reason}")
    if found.outside:
        click.echo(
            f"{found.outside:,} rows whose Σ relevance is outside 0.5 to 2 times the initial relevance: biases or ε absorb it; "
            "`onnxlrp check` names the layers"
        )
    click.echo(f"written: {found.out}" if found.now else f"nothing was left to do: {found.out} is complete")
