"""Curves coloured by relevance, and signed bars: what is no image, drawn with Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputError
from .colors import blend, colorize
from .sheet import blank, cut, font

__all__ = ["bars", "curves"]

Array = np.ndarray
NARROWEST, WIDEST, WIDTH = 200, 1600, 640
FINE = 3  # curves are drawn so many times larger and averaged: smooth edges
INK, GREY, PALE = (40, 40, 40), (170, 170, 170), (225, 225, 225)
PANEL, TITLE, SIDE, LINE = 110, 20, 64, 2.4  # of a curve: height, its title's, the margin for numbers, the curve's width
BAR, LETTERS = 22, 13  # height of a bar's row, of letters


def width_of(size: int | None, usual: int) -> int:
    """The width that was asked for. Raises InputError when numbers and names do not fit in."""
    if size is not None and size < NARROWEST:
        raise InputError(f"size: series and tables need a width of at least {NARROWEST} pixels, got {size}")
    return size or usual


def curves(v: Array, x: Array, names: list[str], *, size: int | None = None, cmap: str = "bwr") -> Image.Image:
    """One panel per channel: the curve x (C, T), grey where v (C, T) is 0, an end of the colormap where it is ±1.

    names: of the channels, above their panels; none for one panel without. Strong relevance is drawn last, on top.
    Raises InputError.
    """
    if not np.isfinite(x).all():
        raise InputError("the input to draw has values that are not finite")
    channels, steps = x.shape
    width = width_of(size, min(max(WIDTH, SIDE + 2 * steps), WIDEST))
    title = TITLE if names else 0
    whole = blank(width, channels * (PANEL + title) + TITLE)
    draw, letters = ImageDraw.Draw(whole), font(LETTERS)
    for c in range(channels):
        y = c * (PANEL + title) + title
        whole.paste(curve(v[c], x[c], width - SIDE, cmap), (SIDE, y))
        if names:
            draw.text((SIDE, y - title / 2), cut(names[c], letters, width - SIDE), fill=INK, font=letters, anchor="lm")
        for value, at in ((x[c].max(), y + 8), (x[c].min(), y + PANEL - 8)):
            draw.text((SIDE - 6, at), f"{value:.3g}", fill=INK, font=letters, anchor="rm")
    bottom = whole.height - TITLE / 2
    draw.text((SIDE, bottom), "0", fill=INK, font=letters, anchor="lm")
    draw.text((width - 1, bottom), str(steps - 1), fill=INK, font=letters, anchor="rm")
    return whole


def curve(v: Array, x: Array, width: int, cmap: str) -> Image.Image:
    """One panel, PANEL high: step t lies at t/(T−1) of the width between margins of 4, min and max 8 from the edges."""
    low, high = float(x.min()), float(x.max())
    share = (x - low) / (high - low) if high > low else np.full(x.shape, 0.5)
    when = np.linspace(0, 1, len(x)) if len(x) > 1 else np.array([0.5])
    across, down = FINE * (4 + when * (width - 8)), FINE * (PANEL - 8 - share * (PANEL - 16))
    large = Image.new("RGB", (FINE * width, FINE * PANEL), "white")
    draw = ImageDraw.Draw(large)
    if low <= 0 <= high and high > low:
        zero = round(FINE * (PANEL - 8 + low / (high - low) * (PANEL - 16)))
        draw.line((0, zero, large.width, zero), fill=PALE, width=FINE)
    draw.rectangle((0, 0, large.width - 1, large.height - 1), outline=PALE, width=FINE)
    middle_x, middle_y = (across[1:] + across[:-1]) / 2, (down[1:] + down[:-1]) / 2
    from_x, from_y = np.r_[across[:1], middle_x], np.r_[down[:1], middle_y]
    to_x, to_y = np.r_[middle_x, across[-1:]], np.r_[middle_y, down[-1:]]
    thick, colors = round(FINE * LINE), blend(v, np.array(GREY, np.float64), cmap)
    for t in np.argsort(np.abs(v), kind="stable"):
        color = tuple(colors[t].tolist())
        points = [(from_x[t], from_y[t]), (across[t], down[t]), (to_x[t], to_y[t])]
        draw.line(points, fill=color, width=thick, joint="curve")
        for a, b in points if len(x) > 1 else points[:1]:  # round ends: no gaps between the pieces
            draw.ellipse((a - thick / 2, b - thick / 2, a + thick / 2, b + thick / 2), fill=color)
    return large.reduce(FINE)


def bars(
    r: Array, top: float, names: list[str], values: list[str], *, most: int, size: int | None = None, cmap: str = "bwr"
) -> Image.Image:
    """Signed bars of r (F,), largest |r| first, as long as r ÷ top; a line for what is left out.

    names: of the features. values: what each is, behind its name, or none. Raises InputError.
    """
    order = np.argsort(-np.abs(r), kind="stable")
    shown, left = order[:most], order[most:]
    width, letters = width_of(size, WIDTH), font(LETTERS)
    ends = [f" = {values[i]}" if values else "" for i in shown]
    labels = [cut(names[i], letters, 0.4 * width - letters.getlength(end)) + end for i, end in zip(shown, ends, strict=True)]
    numbers = [f"{r[i]:+.4g}" for i in shown]
    first = round(max(letters.getlength(s) for s in labels)) + 10
    last = width - round(max(letters.getlength(s) for s in numbers)) - 10
    whole = blank(width, BAR * (len(shown) + bool(len(left))))
    draw = ImageDraw.Draw(whole)
    colors = colorize(np.array([-1.0, 1.0]), cmap)
    zero, half = (first + last) // 2, (last - first) // 2
    for line, i in enumerate(shown):
        y = line * BAR
        draw.text((first - 8, y + BAR / 2), labels[line], fill=INK, font=letters, anchor="rm")
        draw.text((width - 2, y + BAR / 2), numbers[line], fill=INK, font=letters, anchor="rm")
        length = round(min(abs(r[i]) / top, 1) * half) if top > 0 else 0
        if length:
            left_end = zero + 1 if r[i] > 0 else zero - length
            draw.rectangle((left_end, y + 3, left_end + length - 1, y + BAR - 4), fill=tuple(colors[int(r[i] > 0)].tolist()))
    draw.line((zero, 0, zero, BAR * len(shown) - 1), fill=GREY)
    if len(left):
        text = f"and {len(left)} more, together {r[left].sum():+.4g}"
        draw.text((first, BAR * (len(shown) + 0.5)), cut(text, letters, width - first), fill=INK, font=letters, anchor="lm")
    return whole
