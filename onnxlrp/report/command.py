"""`onnxlrp report`: its options, and how they become a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import presets, text
from ..compile import inspect
from ..errors import CompositeError, InputError
from ..explanation import Explanation, writable
from ..options import TARGET, given
from ..pictures.options import names
from ..prepare import Prepared, numbered, opened, prepare
from ..preprocessing import Preprocessing, preprocessing_of
from ..run import Explainer
from ..session import metadata
from ..wording import explained, labels_for, names_before
from .faithful import judge
from .maps import KINDS, View
from .page import Entry, chosen_layers, render
from .rows import one_row

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
    *TARGET,
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
    click.option("--row", type=click.IntRange(0), help="Row of INPUT to show (default: 0)."),
]
HEAD = ("composite", "output", "explain", "init", "canonize", "class_axis", "input_shapes")


def write(
    model: str,
    data: str | None,
    options: dict[str, Any],
) -> str:
    """Write the page of an input file, or of options' text; says what it did."""
    target, line, tokenizer, compare = (options.pop(k) for k in ("target", "line", "tokenizer", "compare"))
    classes, kind, names, labels, row = (options.pop(k) for k in ("classes", "kind", "names", "labels", "row"))
    if (line is None) == (data is None) or (line is None) != (tokenizer is None):
        raise click.UsageError("give either INPUT, a file, or --text together with --tokenizer")
    if Path(target).suffix != ".html":
        raise InputError(f"{target}: a report is written as .html")
    writable(Path(target))
    how = preprocessing_of(dict(options))
    options |= beside(model, given(options))
    tokens: list[text.Token] = []
    if data is not None:
        ready = prepare(model, data, dict(options))
        ready, row = (ready.at(row or 0), 0) if ready.one_at_a_time else (ready.whole(), row)
        source = ready.source
    elif row is not None:
        raise click.UsageError("--row is for INPUT, a file, not for --text")
    else:
        explainer = opened(model, dict(options))
        feed, (tokens,) = text.encode(tokenizer, [line], explainer)
        ready, source = Prepared(explainer, feed, ""), f"“{line}”"
    view, explainer = view_of(kind, names, tokens, how), ready.explainer
    called = names_before(explainer, labels, metadata(model))
    explanation = explainer(ready.feed, target=None if classes is None else numbered([classes], called))
    view = replace(view, row=row or 0, labels=labels_for(explainer, explanation, labels, metadata(model)))
    one = one_row(explainer, explanation, view.row)
    entries = side_by_side(model, explainer, explanation, compare, options, view.row)
    page = render(explainer, explanation, compare=entries, title=Path(model).name, source=source, view=view)
    text.save_html(target, page)
    said = [ready.said] * bool(ready.said) + [explained(explainer, one, labels=view.labels)]
    return "\n".join([*said, f"written: {target}, {len(page.encode()):,} bytes"])


def side_by_side(
    model: str,
    explainer: Explainer,
    explanation: Explanation,
    compare: Sequence[str],
    options: dict[str, Any],
    row: int,
) -> list[Entry]:
    """The page's own explanation and those of other composites, one model in memory at a time; none without others."""
    others = [name for name in compare if name != (options["composite"] or "epsilon_plus")]
    if not others:
        return []
    bare = {**options, "checks": None, "layers": ()}
    if "onnxlrp.version" in metadata(model):
        raise CompositeError("the model is compiled already: other composites need the model as it was")
    score = judge(model, explainer, explanation, options["provider"], options["threads"], row)
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
