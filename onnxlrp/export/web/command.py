"""`onnxlrp export web`: its options, and how they become a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import onnx

from ...labels import labels_of, read_labels
from ...options import HEAD, LABELS, MAKE, PREPARE, RANGES, given, options_of
from ...pictures.options import names
from ...preprocessing import preprocessing_of
from ...report.command import compared
from ...session import metadata
from ..model import compiled, interface
from .page import KINDS, Page, free, write_page
from .runtime import find_runtime

__all__ = ["web"]

DEFAULT = "epsilon_plus"


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--out", "target", required=True, type=click.Path(), help="The folder to write, new or empty.")
@click.option("--runtime", type=click.Path(), help="Folder of the npm package onnxruntime-web (default: as npm installs it).")
@click.option("--title", help="Heading of the page (default: the model's file name).")
@click.option("--compare", callback=compared, metavar="PRESET,PRESET", help="More composites, to switch between on the page.")
@click.option("--kind", type=click.Choice(KINDS), help="What the input is (default: told from its shape).")
@click.option("--names", callback=names, metavar="NAME,NAME|FILE", help="Names of a table's features; a file: by line.")
@options_of(LABELS, PREPARE, HEAD, RANGES, MAKE)
def web(
    model: str,
    target: str,
    runtime: str | None,
    title: str | None,
    compare: list[str],
    kind: str | None,
    names: list[str] | None,
    labels: str | None,
    **options: Any,
) -> None:
    """Write a page that runs the model on the visitor's device: draw or choose a picture, see classes and relevance.

    The folder is served as it is by any web server: cd DIR && python -m http.server
    """
    free(Path(target))
    how = preprocessing_of(options)
    files = find_runtime(runtime)
    models = ruled(model, compare, given(options))
    called = class_names(next(iter(models.values())), model, labels)
    page = Page(title or Path(model).stem, kind or "", how, called, names or ())
    size = write_page(models, target, page, files)
    click.echo(f"{target}: {len(models)} rule{'s' * (len(models) > 1)}, {size:,} bytes; cd {target} && python -m http.server")


def ruled(model: str, compare: list[str], options: dict[str, Any]) -> dict[str, onnx.ModelProto]:
    """{name: compiled model} of the composite and of those to compare; of a model that is compiled already, itself."""
    props = metadata(model)
    if "onnxlrp.version" in props:
        found = compiled(model, {**options, **({"compare": compare} if compare else {})})
        said = props.get("onnxlrp.composite", "").split("\n")[0].removeprefix("Composite").strip()
        return {said or "composite": found}
    chosen = dict.fromkeys([options.pop("composite", DEFAULT), *compare])
    return {name: compiled(model, {**options, "composite": name}) for name in chosen}


def class_names(model: onnx.ModelProto, source: str, asked: str | None) -> list[str]:
    """The names of the classes: those asked for, else those in the model's file, else none."""
    count = interface(model)["classes"]
    return read_labels(asked, count) if asked is not None else labels_of(metadata(source), count)
