"""`onnxlrp explain --text`: relevance per token on the terminal, as JSON, or in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
from rich.console import Console

from . import text
from .prepare import numbered
from .run import Explainer
from .wording import composite_line, explained, labels_for, names_before, summary

__all__ = ["TextRequest", "explain_text"]


@dataclass(frozen=True)
class TextRequest:
    """What the command line asks for. target: the file to write; classes: one per text; labels: as `read_labels` takes it."""

    texts: Sequence[str]
    tokenizer: str
    target: str | None
    classes: Sequence[int | str]
    labels: str | None
    metadata: Mapping[str, str]


def explain_text(explainer: Explainer, asked: TextRequest, console: Console | None) -> None:
    """Explain texts and show their tokens by relevance, without a console as JSON, and write them where a file is named."""
    feed, tokens = text.encode(asked.tokenizer, asked.texts, explainer)
    names = names_before(explainer, asked.labels, asked.metadata)
    explanation = explainer(feed, target=numbered(asked.classes, names))
    relevances = text.relevance_per_token(explanation, (len(tokens), len(tokens[0])))
    names, target = labels_for(explainer, explanation, asked.labels, asked.metadata), asked.target
    captions = [explained(explainer, explanation, row, names) for row in range(len(tokens))]
    if target is not None and target.endswith(".html"):
        text.save_html(target, text.to_html(tokens, relevances, captions))
    elif target is not None:
        explanation.save(target)
    if console is None:
        pairs = [[(t.name, float(r)) for t, r in zip(*row, strict=True)] for row in zip(tokens, relevances, strict=True)]
        click.echo(json.dumps({**summary(explanation, names), "tokens": pairs}))
        return
    console.print(f"composite {composite_line(explainer.plan['composite'])}", markup=False)
    for row, r, caption in zip(tokens, relevances, captions, strict=True):
        console.print(text.to_terminal(row, r, numbers=console.color_system is None))
        console.print(caption, markup=False)
    console.print(f"written: {target}" if target else "nothing written; -o out.html or -o out.npz keeps it", markup=False)
