"""The page: what is explained, its relevance, other composites beside it, layers, conservation, and the plan."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from .. import doctor, text
from ..errors import InputError
from ..explanation import Books, Explanation
from ..labels import class_name
from ..plan import Layer, Plan, show_shape
from ..run import Explainer
from ..version import __version__
from ..wording import composite_line, explained, strongest
from .charts import bar, books_row, number, scores_rows, span_of, table
from .maps import View, features, layer_map, picture_kind, relevance_map
from .rows import one_row, rows_of

__all__ = ["Entry", "chosen_layers", "render"]

Array = np.ndarray
MAPS, TOP, FEW, LONG = 4, 5, 12, 12  # layers unless named; classes; features of a card; rows up to which no filter


@dataclass(frozen=True)
class Entry:
    """One composite's explanation of the same input. conserves: whether its sum is to be that of the output.

    faithful: how much faster the output falls without what it calls relevant, None where that is not known.
    """

    name: str
    explanation: Explanation
    conserves: bool
    faithful: float | None = None

    @classmethod
    def of(
        cls,
        explainer: Explainer,
        explanation: Explanation,
        name: str = "",
        score: Callable[[Explanation], float] | None = None,
    ) -> Entry:
        """Without the books, which would keep the model in memory. score: gives its faithfulness."""
        lasting = replace(explanation, _books=Books)
        return cls(name or _name(explainer), lasting, explainer.conserves, None if score is None else score(explanation))


def chosen_layers(plan: Plan) -> list[int]:
    """Up to four layers that a page shows unless others are named: the last convolution or pooling of each resolution."""
    maps = [la for la in plan.layers if len(la.output_shape or ()) == 4 and re.match(r"\w*(Conv|Pool)", la.op)]
    spatial = [la for la in maps if set(_size(la)) != {1}]
    last = [la for i, la in enumerate(spatial) if i + 1 == len(spatial) or _size(spatial[i + 1]) != _size(la)]
    picked = np.linspace(0, len(last) - 1, min(MAPS, len(last))).round().astype(int).tolist()
    return [last[i].index for i in picked]


def _size(layer: Layer) -> tuple[Any, ...]:
    return (layer.output_shape or ())[2:]


def render(
    explainer: Explainer,
    explanation: Explanation,
    *,
    compare: Sequence[Entry] = (),
    title: str = "Explanation",
    source: str = "",
    view: View | None = None,
) -> str:
    """The page as HTML that needs nothing else; of a batch one row, view's, in the books all rows.

    compare: explanations of the same input and class by several composites, the page's own first. source: what the input
    is called. Raises InputError for names that do not fit, and for a row that does not exist.
    """
    look = view or View()
    one = one_row(explainer, explanation, look.row)
    others = [replace(entry, explanation=one_row(explainer, entry.explanation, look.row)) for entry in compare]
    sections = [
        ("relevance", "Relevance", _relevance(one, look)),
        ("composites", "Composites side by side", _sheet(others, look) if others else ""),
        ("layers", "Layers", _layers(one)),
        ("conservation", "Conservation", _conservation(explainer, explanation)),
        ("plan", "Plan", _plan(explainer)),
    ]
    shown = [s for s in sections if s[2]]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in shown)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{name}</h2>\n{content}\n</section>'
        for key, name, content in shown
    )
    script, style = _asset("script.js"), _asset("style.css")
    head = _head(explainer, one, title, source, look, rows_of(explainer, explanation))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return PAGE.format(
        title=html.escape(title), head=head, links=links, body=body, style=style, script=script,
        digest=digest, version=html.escape(__version__),
    )  # fmt: skip


SHEET_NOTE = (
    "Each map has its own scale. Σ ÷ initial: relevance that reaches the input, of what started (– where a method does not "
    "conserve it). Cosine: likeness to this page's map."
)
FAITHFUL_NOTE = (
    " Faithfulness: how much lower the output lies, on average, when the most relevant regions are set to 0 first than when "
    "the least relevant are (the gap of <code>onnxlrp evaluate</code>, for this one input); higher is better, chance is 0."
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'">
<link rel="icon" href="data:,">
<title>{title} · onnxlrp</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
{head}
<nav aria-label="Sections">{links}</nav>
</header>
<main id="main" tabindex="-1">
{body}
</main>
<footer><p>Layer-wise Relevance Propagation, onnxlrp {version}. Red speaks for what is explained, blue against it.</p></footer>
<dialog aria-label="Enlarged picture"><form method="dialog"><button>Close</button></form></dialog>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _name(explainer: Explainer) -> str:
    return composite_line(explainer.plan["composite"]).split(": ")[0]


def _row(values: Array) -> Array:
    """The first row of a batch."""
    return values[0] if values.ndim else values


def _head(explainer: Explainer, explanation: Explanation, title: str, source: str, view: View, rows: int) -> str:
    """Title and facts."""
    facts = [
        ("input", html.escape(source)),
        ("composite", html.escape(composite_line(explainer.plan["composite"]))),
        ("Σ relevance ÷ initial", f'<span id="ratio">{number(float(explanation.ratio[0]))}</span>'),
        ("rows", f"row {view.row} of {rows} is shown; conservation is that of all" if rows > 1 else ""),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{said}</dd></div>" for name, said in facts if said)
    said = explained(explainer, explanation, labels=view.labels).removeprefix("explains ").split("; --position")[0]
    return f'<h1>{html.escape(title)}</h1>\n<p class="lead">Why {html.escape(said)}</p>\n<dl>{items}</dl>'


# sections ------------------------------------------------------------------------------------------------------------


def _relevance(explanation: Explanation, view: View) -> str:
    scores, maps = _scores(explanation, view.labels), _maps(explanation, view)
    kinds = _kinds(explanation, view)
    ramp, over = ("ramp words", "none") if kinds == {"text"} else ("ramp", "white")
    if kinds != {"table"}:
        maps += (
            f'<p class="note">against <span class="{ramp}" role="img" aria-label="from blue over {over} to red"></span> for; '
            "the strongest value is full colour</p>"
        )
    beside = scores + (_tokens(explanation, view) if view.tokens else "")
    return f'<div class="columns"><div>{maps}</div><div>{beside}</div></div>' if beside else maps


def _scores(explanation: Explanation, labels: Sequence[str]) -> str:
    """The largest outputs as bars, the explained class marked; empty when the output is no list of scores."""
    order = strongest(explanation, TOP)
    if not order or explanation.target is None:
        return ""
    y = explanation.output
    target = int(explanation.target[0])
    rows = scores_rows([(class_name(labels, i), float(y[0, i]), i == target) for i in order])
    headers = [("class", ""), ("", "chart"), (explanation.output_name, "num"), ("", "")]
    return table(headers, rows, f"Largest of {y.shape[1]} outputs" if y.shape[1] > len(rows) else "Outputs")


def _maps(explanation: Explanation, view: View) -> str:
    """Every explained input's relevance; of a text that of its tokens."""
    if view.tokens:
        r = text.relevance_per_token(explanation, (1, len(view.tokens)))
        return text.figure(view.tokens, r[0], "")
    if explanation.tokens:
        return "".join(relevance_map(None, _row(r), View("table"), name) for name, r in explanation.tokens.items())
    found = []
    for name, r in explanation.relevances.items():
        x = explanation.inputs.get(name)
        many = f"<h3>{html.escape(name)}</h3>" if len(explanation.relevances) > 1 else ""
        found.append(many + relevance_map(None if x is None else _row(x), _row(r), view, name))
    return "".join(found)


def _tokens(explanation: Explanation, view: View) -> str:
    """A text's tokens with their position and number, strongest first: for whom the colours say too little."""
    r = text.relevance_per_token(explanation, (1, len(view.tokens)))[0]
    shown = [i for i in np.argsort(-np.abs(r), kind="stable").tolist() if not view.tokens[i].padding]
    span = span_of([float(r[i]) for i in shown])
    rows = [
        f'<tr><td class="num">{i}</td><th scope="row"{" class=special" if view.tokens[i].special else ""}>'
        f'{html.escape(view.tokens[i].name)}</th><td class="chart">{bar(float(r[i]), span)}</td>'
        f'<td class="num">{number(float(r[i]))}</td></tr>'
        for i in shown
    ]
    headers = [("#", "num"), ("token", ""), ("", "chart"), ("relevance", "num")]
    return f'<div class="tokens">{_long(headers, rows, "Tokens, strongest first", "tokens")}</div>'


def _sheet(entries: Sequence[Entry], view: View) -> str:
    """The same input under several composites, with what can be said of them in numbers."""
    first = _flat(entries[0].explanation)
    cards = []
    for at, entry in enumerate(entries):
        r = _flat(entry.explanation)
        with np.errstate(all="ignore"):
            likeness = float(r @ first / (np.linalg.norm(r) * np.linalg.norm(first)))
        ratio = number(float(entry.explanation.ratio[0])) if entry.conserves else "–"
        name = html.escape(entry.name).replace("(", "<wbr>(")
        mark = " <small>this page</small>" if at == 0 else ""
        facts = [("Σ ÷ initial", ratio), ("cosine", number(likeness))]
        facts.append(("faithfulness", "" if entry.faithful is None else number(entry.faithful)))
        said = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts if value)
        cards.append(
            f'<article class="card"><h3><span>{name}{mark}</span></h3>'
            f"<div>{_card(entry, entries[0], view)}</div><dl>{said}</dl></article>"
        )
    note = f'<p class="note">{SHEET_NOTE}{FAITHFUL_NOTE if any(e.faithful is not None for e in entries) else ""}</p>'
    wide = "" if _kinds(entries[0].explanation, view) == {"image"} else " wide"
    return f'<div class="sheet{wide}">{"".join(cards)}</div>{note}'


def _kinds(explanation: Explanation, view: View) -> set[str]:
    """What the inputs are shown as."""
    if view.tokens or explanation.tokens:
        return {"text" if view.tokens else "table"}
    return {picture_kind(_row(r), view) for r in explanation.relevances.values()}


def _card(entry: Entry, first: Entry, view: View) -> str:
    """The maps alone; a picture's input is shown once a page, features are those of the page's own, in its order."""
    kinds = _kinds(entry.explanation, view)
    if kinds == {"table"}:
        mine, its = ((e.explanation.tokens or e.explanation.relevances) for e in (first, entry))
        return "".join(
            features(None, _row(its[k]).astype(np.float64), view.names, k, order=_row(r), most=FEW) for k, r in mine.items()
        )
    if kinds != {"image"}:
        return _maps(entry.explanation, view)
    return "".join(relevance_map(None, _row(r), view, name) for name, r in entry.explanation.relevances.items())


def _flat(explanation: Explanation) -> Array:
    """The first row's relevance of all inputs, one after the other."""
    return np.concatenate([np.ravel(_row(r)).astype(np.float64) for r in explanation.relevances.values()])


def _layers(explanation: Explanation) -> str:
    cards = []
    for name, r in explanation.layers.items():
        size, total = show_shape(_row(r).shape), number(float(_row(r).sum(dtype=np.float64)))
        cards.append(
            f'<article class="card"><h3><span>{html.escape(name)}</span></h3><div>{layer_map(_row(r), name)}</div>'
            f"<dl><div><dt>{size}</dt><dd>Σ {total}</dd></div></dl></article>"
        )
    note = '<p class="note">Relevance of what each layer puts out, channels summed, each on its own scale.</p>'
    return f'<div class="sheet">{"".join(cards)}</div>{note}' if cards else ""


def _conservation(explainer: Explainer, explanation: Explanation) -> str:
    """What arrived at every layer and where it went: bars and numbers, from the output down to the input."""
    try:
        books = explanation.conservation
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"
    found = doctor.examine(explainer, dict(explanation.inputs)).findings
    verdict = "".join(f"<li>{html.escape(text)}</li>" for text in found)
    span = span_of([v for b in books for v in (b.arrived, b.sent, b.sent + b.bias, b.sent + b.bias + b.epsilon)])
    rows = [books_row(b, span) for b in reversed(books)]
    headers = [("#", "num"), ("layer", ""), ("", "chart")]
    headers += [(name, "num") for name in ("in", "out", "bias", "ε", "dropped")]
    key = "".join(
        f'<span class="key"><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="{kind}" width="10" height="10"/></svg>'
        f"{said}</span>"
        for kind, said in (
            ("accent", "out: sent on towards the input"), ("tick", "in: arrived from above"), ("bias", "taken by bias"),
            ("epsilon", "taken by ε"), ("dropped", "dropped by gates, masks or the rule"),
        )
    )  # fmt: skip
    said = f'<ul class="findings">{verdict}</ul>' if verdict else "<p>Nothing is off.</p>"
    return f'{said}<p class="note">{key}</p>' + _long(headers, rows, "Relevance through every layer, output first", "layers")


def _plan(explainer: Explainer) -> str:
    """Which rule every layer got, and what decided it."""
    rows = []
    for la in explainer.plan["layers"]:
        sizes = [show_shape(None if la[k] is None else tuple(la[k])) for k in ("input", "output")]
        texts = [la["op"], *sizes, la["rule"], la["why"]]
        cells = "".join(
            f"<td>{f'<code>{html.escape(t)}</code>' if i == 3 else html.escape(t)}</td>" for i, t in enumerate(texts)
        )
        rows.append(f'<tr><td class="num">{la["index"]}</td><th scope="row">{html.escape(la["name"])}</th>{cells}</tr>')
    headers = [("#", "num"), *((h, "") for h in ("layer", "operator", "input", "output", "rule", "decided by"))]
    notes = "".join(f"<li>{html.escape(n)}</li>" for n in explainer.plan["notes"])
    return _long(headers, rows, "The rule of every layer, input first", "plan") + (f"<ul>{notes}</ul>" if notes else "")


def _long(headers: Sequence[tuple[str, str]], rows: Sequence[str], caption: str, what: str) -> str:
    return table(headers, rows, caption, f"Filter the {what}" if len(rows) > LONG else "")
