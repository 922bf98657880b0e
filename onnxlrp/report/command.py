"""`onnxlrp report`: its options, and how they become a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from .. import presets, text
from ..compile import inspect
from ..errors import CompositeError, InputError
from ..explanation import Explanation, writable
from ..inputs import Preprocessing
from ..pictures.options import names
from ..run import Explainer
from ..session import metadata
from ..wording import explained
from .faithful import judge
from .maps import KINDS, View
from .page import Entry, chosen_layers, render

__all__ = ["PAGE", "composites", "write"]

F = TypeVar("F", bound=Callable[..., Any])


def composites(value: str) -> list[str]:
    """`epsilon_plus,epsilon_gamma_box(low=0, high=1)` to its presets: commas within brackets are theirs. Each once."""
    found, depth = [""], 0
    for letter in value:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    out = list(dict.fromkeys(name.strip() for name in found))
    for name in out:
        presets.parse(name)
    return out


def compared(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    return composites(value) if value is not None else []


PAGE: list[Callable[[F], F]] = [
    click.option("--text", "line", help="Text to explain, in the place of INPUT."),
    click.option("--tokenizer", type=click.Path(), help="The tokenizer.json of --text (needs onnxlrp[text])."),
    click.option("-o", "--out", "target", required=True, type=click.Path(), help="The .html file to write."),
    click.option("--target", "-t", "classes", type=int, help="Class to explain (default: the largest output)."),
    click.option(
        "--compare",
        callback=compared,
        metavar="PRESET,PRESET",
        help="Composites to show side by side: 'epsilon,epsilon_gamma_box(low=0, high=1)'.",
    ),
    click.option(
        "--layers", multiple=True, metavar="LAYER", help="Layer (name, index) or tensor to show (default: up to four, spread)."
    ),
    click.option("--kind", type=click.Choice(KINDS), help="What the input is (default: told from its shape)."),
    click.option("--names", callback=names, metavar="NAME,NAME|FILE", help="Names of a table's features; a file: by line."),
]
HEAD = ("composite", "output", "explain", "init", "canonize", "class_axis", "input_shapes")


def write(
    model: str,
    data: str | None,
    options: dict[str, Any],
    prepare: Callable[[str, str, dict[str, Any]], tuple[Explainer, dict[str, np.ndarray]]],
    opened: Callable[[str, dict[str, Any]], Explainer],
    given: Callable[[dict[str, Any]], dict[str, Any]],
) -> str:
    """Write the page of an input file, or of options' text; says what it did.

    prepare, opened, given: of the command line, an explainer with its input, one alone, the options that were given.
    """
    target, line, tokenizer, compare = (options.pop(k) for k in ("target", "line", "tokenizer", "compare"))
    classes, kind, names = (options.pop(k) for k in ("classes", "kind", "names"))
    if (line is None) == (data is None) or (line is None) != (tokenizer is None):
        raise click.UsageError("give either INPUT, a file, or --text together with --tokenizer")
    if Path(target).suffix != ".html":
        raise InputError(f"{target}: a report is written as .html")
    writable(Path(target))
    how = Preprocessing(options["scale"], options["mean"], options["std"], options["layout"] or "")
    options |= beside(model, given(options))
    if data is not None:
        explainer, feed = prepare(model, data, dict(options))
        tokens: list[text.Token] = []
    else:
        explainer = opened(model, dict(options))
        feed, (tokens,) = text.encode(tokenizer, [line], explainer)
    view = view_of(kind, names, tokens, how)
    explanation = explainer(feed, target=classes)
    entries = side_by_side(model, explainer, explanation, compare, options, opened)
    source = Path(data).name if data is not None else f"“{line}”"
    page = render(explainer, explanation, compare=entries, title=Path(model).name, source=source, view=view)
    text.save_html(target, page)
    return f"{explained(explainer, explanation)}\nwritten: {target}, {len(page.encode()):,} bytes"


def side_by_side(
    model: str,
    explainer: Explainer,
    explanation: Explanation,
    compare: Sequence[str],
    options: dict[str, Any],
    opened: Callable[[str, dict[str, Any]], Explainer],
) -> list[Entry]:
    """The page's own explanation and those of other composites, one model in memory at a time; none without others."""
    others = [name for name in compare if name != (options["composite"] or "epsilon_plus")]
    if not others:
        return []
    bare = {**options, "checks": None, "layers": ()}
    if "onnxlrp.version" in metadata(model):
        raise CompositeError("the model is compiled already: other composites need the model as it was")
    score = judge(model, explainer, explanation, options["provider"], options["threads"])
    entries = [Entry.of(explainer, explanation, score=score)]
    for name in others:
        other = opened(model, {**bare, "composite": name})
        entries.append(Entry.of(other, other.quietly(explanation.inputs), name, score))
    return entries


def beside(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the page needs beside the inputs' relevance: diagnostics and layers. A compiled model is as it is.

    options: those that were given.
    """
    if "onnxlrp.version" in metadata(model):
        if "layers" in options:
            raise CompositeError("the model is compiled already: layers must be given when compiling it")
        return {}
    if "layers" in options:
        return {"checks": True}
    return {"checks": True, "layers": chosen_layers(inspect(model, **{k: options[k] for k in HEAD if k in options}))}


def view_of(kind: str | None, names: Sequence[str] | None, tokens: Sequence[text.Token], how: Preprocessing) -> View:
    """How the input is shown. Raises UsageError for options that would say nothing."""
    if tokens and (kind or names):
        raise click.UsageError("--kind and --names are for inputs, not for --text")
    if names and kind == "image":
        raise click.UsageError("--names is for the features of a table or the channels of a series")
    return View(kind or ("table" if names else ""), names or (), tokens, how)
