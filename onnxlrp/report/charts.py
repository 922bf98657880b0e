"""Numbers and bars as HTML: every number keeps its full value, every bar has its number beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from ..explanation import LayerBooks

__all__ = ["bar", "books_row", "number", "scores_rows", "span_of", "table"]

WIDTH = 1000  # of a bar's own coordinates; the page stretches them
NOTHING = 5e-5  # of the largest relevance: what is shown as ≈0


def number(value: float, nothing: float = 0.0) -> str:
    """A number as it is read, four digits, ≈0 below what is nothing; its full value is the element's."""
    shown = f"{value:.4g}".replace("-", "−") if np.isfinite(value) else "not finite"
    shown = "≈0" if 0 < abs(value) < nothing else shown
    return f'<data value="{float(value)!r}">{shown}</data>'


def table(headers: Sequence[tuple[str, str]], rows: Sequence[str], caption: str, label: str = "") -> str:
    """A table in a frame that scrolls on its own. headers: (text, class of its column); label: that of its filter."""
    head = "".join(f'<th scope="col" class="{kind}">{html.escape(text)}</th>' for text, kind in headers)
    find = (
        f'<input type="search" class="filter" placeholder="Filter" aria-label="{html.escape(label)}" hidden>' if label else ""
    )
    body, said = "\n".join(rows), html.escape(caption)
    kind = "frame long" if label else "frame"
    return (
        f'{find}<div class="{kind}" tabindex="0" role="region" aria-label="{said}"><table><caption>{said}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def span_of(values: Sequence[float]) -> tuple[float, float]:
    """(low, high) around zero and all finite values, not empty."""
    known = [0.0, *(v for v in values if np.isfinite(v))]
    low, high = min(known), max(known)
    return (low, high) if high > low else (0.0, 1.0)


def _rect(start: float, stop: float, span: tuple[float, float], kind: str, top: int, height: int) -> str:
    if not (np.isfinite(start) and np.isfinite(stop)):
        return ""
    low, high = span
    a, b = sorted((v - low) / (high - low) * WIDTH for v in (start, stop))
    return f'<rect class="{kind}" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{height}"/>' if b - a >= 0.05 else ""


def _svg(shapes: str, span: tuple[float, float]) -> str:
    low, high = span
    zero = -low / (high - low) * WIDTH
    axis = f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="20"/>'
    return f'<svg viewBox="0 0 {WIDTH} 20" preserveAspectRatio="none" aria-hidden="true" focusable="false">{shapes}{axis}</svg>'


def bar(value: float, span: tuple[float, float], kind: str = "") -> str:
    """One value from zero; without a kind red for, blue against."""
    return _svg(_rect(0.0, value, span, kind or ("for" if value > 0 else "against"), 4, 12), span)


def scores_rows(scores: Sequence[tuple[str, float, bool]]) -> list[str]:
    """(name of the class, score, whether it is explained), one row each."""
    span = span_of([value for _, value, _ in scores])
    return [
        f'<tr{" class=marked" if marked else ""}><th scope="row">{html.escape(name)}</th>'
        f'<td class="chart">{bar(value, span, "accent" if marked else "plain")}</td><td class="num">{number(value)}</td>'
        f"<td>{'explained' if marked else ''}</td></tr>"
        for name, value, marked in scores
    ]


def books_row(b: LayerBooks, span: tuple[float, float]) -> str:
    """What a layer sent on as a bar, what arrived as a mark, and below it what bias, ε and the rest took of the gap."""
    at, shapes = b.sent, [_rect(0.0, b.sent, span, "accent", 2, 10)]
    for kind, value in (("bias", b.bias), ("epsilon", b.epsilon), ("dropped", b.dropped)):
        shapes.append(_rect(at, at + value, span, kind, 14, 5))
        at += value
    low, high = span
    if np.isfinite(b.arrived):
        place = (b.arrived - low) / (high - low) * WIDTH
        shapes.append(f'<line class="arrived" x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="20"/>')
    nothing = NOTHING * max(abs(low), abs(high))
    cells = "".join(f'<td class="num">{number(v, nothing)}</td>' for v in (b.arrived, b.sent, b.bias, b.epsilon, b.dropped))
    return (
        f'<tr data-layer="{b.index}"><td class="num">{b.index}</td><th scope="row">{html.escape(b.name)}</th>'
        f'<td class="chart">{_svg("".join(shapes), span)}</td>{cells}</tr>'
    )
