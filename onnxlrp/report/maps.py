"""Relevance in the form of its input: pictures as they are, curves on coloured ground, features as signed bars, tokens."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .. import text
from ..errors import InputError
from ..heatmap import heatmap, kind_of
from ..inputs import Preprocessing
from ..pictures.images import ends_in_channels
from .charts import bar, number, span_of, table

__all__ = ["KINDS", "View", "features", "layer_map", "picture_kind", "relevance_map", "uri"]

Array = np.ndarray
LONGEST = 640  # pixels of a picture's longer side; larger ones are reduced
BARS, CURVES = 30, 8  # features and channels that are shown: the strongest
KINDS = ("image", "series", "table")


@dataclass(frozen=True)
class View:
    """How inputs are shown. kind: image, series or table, "" to infer it from the shape; names: of the features or channels.

    tokens: of a text, one per position. how: what made numbers of a picture, to be undone. labels: names of the classes.
    row: of a batch, the one shown.
    """

    kind: str = ""
    names: Sequence[str] = ()
    tokens: Sequence[text.Token] = ()
    how: Preprocessing = field(default_factory=Preprocessing)
    labels: Sequence[str] = ()
    row: int = 0


def picture_kind(r: Array, view: View) -> str:
    """What one row's relevance is shown as; a volume as an image, summed over its depth."""
    return view.kind or kind_of(r.shape).replace("volume", "image")


def uri(picture: Image.Image) -> str:
    """A picture as a data URI (PNG)."""
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def relevance_map(x: Array | None, r: Array, view: View, what: str) -> str:
    """One row's relevance beside (picture), on (curve, text) or next to (features) its input x, if there is one."""
    kind, r = picture_kind(r, view), np.asarray(r, np.float64)
    if not np.isfinite(r).all():
        return f"<p>The relevance of {html.escape(what)} has values that are not finite.</p>"
    if x is not None and (x.shape != r.shape or x.dtype.kind not in "fiub"):
        x = None
    if kind == "image":
        return _images(x, r, view, what)
    return _series(x, r, view.names, what) if kind == "series" and r.ndim in (1, 2) else features(x, r, view.names, what)


def layer_map(r: Array, what: str) -> str:
    """The relevance of a layer as a picture, its channels summed; one that cannot be drawn is said to be so."""
    try:
        return _picture(uri(_heat(_plane(r))), f"relevance of {what}", _strip(_plane(r)))
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"


def _plane(r: Array) -> Array:
    """(H, W): channels summed, and all that is in front of them; of a flat row the square, else one line."""
    r = np.asarray(r, np.float64)
    if r.ndim >= 3:
        return np.asarray(r.sum(-1 if ends_in_channels(r.shape) else tuple(range(r.ndim - 2))))
    if r.ndim == 2:
        return r
    side = round(float(np.sqrt(r.size)))
    return r.reshape(side, side) if side * side == r.size else r.reshape(1, -1)


def _strip(plane: Array) -> bool:
    return bool(max(plane.shape) > 8 * min(plane.shape))


def _heat(plane: Array) -> Image.Image:
    """The heat-map, a pixel a value: the page enlarges it."""
    short, long = sorted(plane.shape)
    return heatmap(plane, size=max(1, round(short * min(1.0, LONGEST / long))))


def _picture(source: str, alt: str, strip: bool = False) -> str:
    """A picture that opens enlarged."""
    kind = "zoom strip" if strip else "zoom"
    return f'<button type="button" class="{kind}"><img src="{source}" alt="{html.escape(alt)}"></button>'


def _images(x: Array | None, r: Array, view: View, what: str) -> str:
    plane = _plane(r)
    heat, top = uri(_heat(plane)), float(np.abs(plane).max(initial=0.0))
    label = f"relevance of {what}, red for, blue against"
    if x is None:
        shown, mix = _picture(heat, label, _strip(plane)), ""
    else:
        seen = _pixels(x, view.how)
        under = uri(seen)
        first = f"<figure>{_picture(under, f'input {what} as the model sees it')}<figcaption>Input</figcaption></figure>"
        both = f'<img src="{under}" alt="" class="under"><img src="{heat}" alt="{html.escape(label)}" class="over">'
        shown = f'<button type="button" class="zoom stack">{both}</button>'
        mix = (
            '<label class="mix" hidden>Input beneath <input type="range" min="0" max="100" value="0" '
            f'aria-label="how much of the input {html.escape(what)} shows beneath the relevance"></label>'
        )
    note = f"<figcaption>Relevance; the strongest pixel has |r| = {number(top)}{mix}</figcaption>"
    return f'<div class="pair">{first if x is not None else ""}<figure>{shown}{note}</figure></div>'


def _pixels(x: Array, how: Preprocessing) -> Image.Image:
    """A row as a picture: mean and std undone, then [0, 1], [0, 255] or the values' own range to black and white."""
    v = np.asarray(x, np.float64)
    v = v.mean(tuple(range(v.ndim - 3))) if v.ndim > 3 else v
    if v.ndim == 3:
        v = v if ends_in_channels(v.shape) else v.transpose(1, 2, 0)
        with np.errstate(all="ignore"):
            v = v * np.asarray(how.std or 1.0) + np.asarray(how.mean or 0.0)
        v = v[..., [2, 1, 0, *range(3, v.shape[-1])]] if how.channels == "bgr" and v.shape[-1] >= 3 else v
        v = v if v.shape[-1] == 3 else v[..., :3] if v.shape[-1] == 4 else v.mean(-1)
    else:
        v = _plane(v)
    v = np.nan_to_num(v, posinf=0.0, neginf=0.0)
    low, high = float(v.min(initial=0.0)), float(v.max(initial=0.0))
    if how.mean or how.std:
        low, high = 0.0, 255.0 / (how.scale or 255.0)
    elif low >= 0:
        high = 1.0 if high <= 1 else 255.0 if high <= 255 else high
    picture = Image.fromarray(np.uint8(np.round(255 * np.clip((v - low) / ((high - low) or 1.0), 0, 1))))
    if max(picture.size) > LONGEST:
        picture.thumbnail((LONGEST, LONGEST))
    return picture


def features(
    x: Array | None, r: Array, names: Sequence[str], what: str, *, order: Array | None = None, most: int = BARS
) -> str:
    """The strongest features as signed bars, strongest first. order: which are, if not by r itself."""
    flat = r.ravel()
    _fitting(names, flat.size, "features", what)
    first = np.argsort(-np.abs(flat if order is None else order.ravel()), kind="stable")[:most]
    span = span_of([float(v) for v in flat])
    values = None if x is None else x.ravel()
    rows = []
    for i in first:
        at = ", ".join(str(int(k)) for k in np.unravel_index(i, r.shape)) if r.ndim > 1 else str(i)
        name = names[i] if names else f"{what}[{at}]"
        value = "" if values is None else f'<td class="num">{number(float(values[i]))}</td>'
        rows.append(
            f'<tr><th scope="row">{html.escape(name)}</th>{value}<td class="chart">{bar(float(flat[i]), span)}</td>'
            f'<td class="num">{number(float(flat[i]))}</td></tr>'
        )
    headers = [("feature", ""), *([("value", "num")] if values is not None else []), ("", "chart"), ("relevance", "num")]
    some = f", {'the' if order is None else 'at this page’s'} {most} strongest of {flat.size}" if flat.size > most else ""
    return table(headers, rows, f"Relevance of {what}{some}")


def _fitting(names: Sequence[str], count: int, of: str, what: str) -> None:
    if names and len(names) != count:
        raise InputError(f"{len(names)} names for the {count} {of} of '{what}'")


def _series(x: Array | None, r: Array, names: Sequence[str], what: str) -> str:
    """Each channel as a curve on a ground of its relevance; the shorter axis is the channels'."""
    r, x = np.atleast_2d(r), None if x is None else np.atleast_2d(x)
    turned = r.shape[0] > r.shape[1]
    r, x = (r.T, None if x is None else x.T) if turned else (r, x)
    _fitting(names, len(r), "channels", what)
    top = float(np.abs(r).max(initial=0.0)) or 1.0
    order = sorted(np.argsort(-np.abs(r).sum(1), kind="stable")[:CURVES].tolist())
    steps, out = r.shape[1], []
    for c in order:
        # one scale for all channels: the strongest of all is appended, and cut off by the picture's frame
        ground = uri(heatmap(np.append(r[c], top)[None], size=1).crop((0, 0, steps, 1)))
        line = "" if x is None else f'<polyline points="{_points(np.asarray(x[c], np.float64))}"/>'
        name = html.escape(names[c] if names else f"channel {c}")
        label = f"{name} of {html.escape(what)}: Σ relevance {r[c].sum():.4g}"
        out.append(
            f'<figure class="curve"><svg viewBox="0 0 {steps} 100" preserveAspectRatio="none" role="img" aria-label="{label}">'
            f'<image href="{ground}" width="{steps}" height="100" preserveAspectRatio="none"/>{line}</svg>'
            f"<figcaption>{name}, Σ {number(float(r[c].sum()))}</figcaption></figure>"
        )
    some = f"; the {CURVES} strongest of {len(r)} channels" if len(r) > CURVES else ""
    return f'{"".join(out)}<p class="note">{steps} steps; full colour is |r| = {number(top)}{some}.</p>'


def _points(values: Array) -> str:
    """A curve through the middles of its steps, within 100 of height."""
    v = np.nan_to_num(values)
    low, high = float(v.min(initial=np.inf)), float(v.max(initial=-np.inf))
    y = 92 - 84 * (v - low) / ((high - low) or 1.0)
    return " ".join(f"{i + 0.5:g},{h:.1f}" for i, h in enumerate(y))
