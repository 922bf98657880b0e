"""Which picture relevance gets: the kind told from a row's shape, its values arranged for it, and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..errors import InputError
from .colors import full
from .images import COLORS, channels_last, enlarged, painted, reduced, shades
from .plots import bars, curves
from .sheet import sheet
from .style import Style

__all__ = ["kind_of", "pictures"]

Array = np.ndarray
SQUARE = 64  # flat rows of n² values are images from 8×8 on
MOST_BARS, MOST_SLICES, SLICE = 20, 16, 128  # SLICE: pixels that a slice's shorter side has at least


def kind_of(shape: Sequence[int]) -> str:
    """The kind of one row's shape.

    (C, D, H, W): volume. (C, H, W): image. (H, W): image; series when one side has at most 16 entries, the other at
    least 16 and three times as many. (N,): image when N = n² ≥ 64, else table.
    """
    if len(shape) == 4:
        return "volume"
    if len(shape) == 2:
        short, long = sorted(shape)
        return "series" if short <= 16 <= long and long >= 3 * short else "image"
    flat = len(shape) == 1
    return "table" if flat and (shape[0] < SQUARE or round(shape[0] ** 0.5) ** 2 != shape[0]) else "image"


def pictures(values: Array, rows: Sequence[int], inputs: Array | None, style: Style) -> list[Image.Image]:
    """One picture for each of these rows of relevance (N, ...). inputs: what is explained, of the same shape, if known.

    Raises InputError when options do not fit the kind, or the kind the shape.
    """
    if inputs is not None and inputs.shape != values.shape:
        inputs = None
    kind = style.kind or told(values.shape[1:], style.names is not None, inputs is not None)
    style.fits(kind)
    if inputs is None and (kind == "series" or style.overlay):
        raise InputError(f"{'a curve' if kind == 'series' else 'overlay'} shows the model's input, and this is no input of it")
    if not values.size:
        raise InputError(f"a picture needs values, and the relevance has the shape {values.shape}")
    found = {i: arranged(values[i], kind, style) for i in (range(len(values)) if style.per == "batch" else rows)}
    if not all(np.isfinite(r).all() for r in found.values()):
        raise InputError("the relevance has values that are not finite; `onnxlrp check` names the layer")
    whole = full(found.values(), style.normalize) if style.per == "batch" else None
    drawn = []
    for i in rows:
        top = full([found[i]], style.normalize) if whole is None else whole
        drawn.append(DRAW[kind](found[i], top, None if inputs is None else inputs[i], style))
    return drawn


def told(shape: Sequence[int], named: bool, drawable: bool) -> str:
    """The kind of a row, when it is not given: what has names is no image, a curve needs the input to draw."""
    kind = kind_of(shape)
    if named:
        return kind if kind == "series" else "table"
    return "image" if kind == "series" and not drawable else kind


def arranged(row: Array, kind: str, style: Style) -> Array:
    """A row of relevance as its kind is drawn: (H, W), (D, H, W), (channels, T) or (F,). Raises InputError."""
    if kind == "image":
        return reduced(channels_last(row), style.reduce or "sum")
    if kind == "volume":
        return reduced(volume(row), style.reduce or "sum")
    return channels_first(row) if kind == "series" else np.asarray(row, np.float64).ravel()


def volume(row: Array) -> Array:
    """(C, D, H, W), (D, C, H, W) or (D, H, W, C) to (D, H, W, C): the first axis of these with 1, 3 or 4 entries is C,
    else the first axis. (D, H, W) has one channel. Raises InputError."""
    a = np.asarray(row, np.float64)
    if a.ndim == 3:
        return a[..., None]
    if a.ndim != 4:
        raise InputError(f"a volume needs a row of shape (C, D, H, W) or (D, H, W), got {row.shape}")
    return np.moveaxis(a, next((axis for axis in (0, 1, 3) if a.shape[axis] in COLORS), 0), -1)


def channels_first(row: Array) -> Array:
    """(channels, T) from (T,), (C, T) or (T, C): time is the longer axis. Raises InputError."""
    a = np.asarray(row, np.float64)
    a = a.reshape([n for n in a.shape if n != 1]) if a.ndim > 2 else a
    if a.ndim not in (1, 2):
        raise InputError(f"a series needs a row of shape (C, T), (T, C) or (T,), got {row.shape}")
    a = np.atleast_2d(a)
    return a.T if a.shape[0] > a.shape[1] else a


def draw_image(r: Array, top: float, x: Array | None, style: Style) -> Image.Image:
    under = None if x is None or style.overlay is None else shades(channels_last(x), style.overlay)
    return enlarged(painted(r / top if top > 0 else r, under, style.cmap), style.size)


def draw_volume(r: Array, top: float, x: Array | None, style: Style) -> Image.Image:
    """Slices along the first axis, first and last among them, with the colours of the whole volume."""
    count = min(style.most or MOST_SLICES, len(r))
    under = None if x is None or style.overlay is None else shades(volume(x), style.overlay)
    at = np.round(np.linspace(0, len(r) - 1, count)).astype(int)
    v = r / top if top > 0 else r
    slices = [painted(v[i], None if under is None else under[i], style.cmap) for i in at]
    return sheet([enlarged(s, style.size, SLICE) for s in slices], [f"slice {i}" for i in at])


def draw_series(r: Array, top: float, x: Array | None, style: Style) -> Image.Image:
    assert x is not None
    names = named(style, len(r), "channels") or ([f"channel {c}" for c in range(len(r))] if len(r) > 1 else [])
    v = r / top if top > 0 else r
    return curves(v, channels_first(x), names, size=style.size, cmap=style.cmap)


def draw_table(r: Array, top: float, x: Array | None, style: Style) -> Image.Image:
    """Bars by feature name, with the feature's value where the input is known."""
    names = named(style, len(r), "features") or [f"feature {i}" for i in range(len(r))]
    values = [] if x is None else [f"{value:.4g}" for value in np.asarray(x, np.float64).ravel()]
    return bars(r, top, names, values, most=style.most or MOST_BARS, size=style.size, cmap=style.cmap)


def named(style: Style, count: int, what: str) -> list[str]:
    """The names that were given, none if there are none. Raises InputError when there are more or fewer than needed."""
    if style.names is None:
        return []
    if len(style.names) != count:
        raise InputError(f"{len(style.names)} names were given for {count} {what}")
    return [str(name) for name in style.names]


DRAW = {"image": draw_image, "series": draw_series, "table": draw_table, "volume": draw_volume}
