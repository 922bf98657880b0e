"""Several pictures on one sheet, each below its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError

__all__ = ["blank", "cut", "font", "sheet"]

GAP, CAPTION, LETTERS = 12, 24, 15  # pixels between pictures, of a caption's line, of its letters
MOST_PIXELS = 100_000_000  # of a sheet: 300 MB


def blank(width: int, height: int) -> Image.Image:
    """A white picture. Raises InputError when it would take too much memory."""
    if width * height > MOST_PIXELS:
        raise InputError(f"a picture of {width}×{height} pixels is too large: take fewer rows or a smaller size")
    return Image.new("RGB", (width, height), "white")


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def cut(text: str, letters: ImageFont.ImageFont | ImageFont.FreeTypeFont, room: float) -> str:
    """The text on one line, its end replaced by … where it is wider than `room` pixels."""
    text = " ".join(text.split())
    if letters.getlength(text) <= room:
        return text
    while text and letters.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str] = (), columns: int | None = None) -> Image.Image:
    """A grid of pictures, read by rows: columns·W + (columns − 1)·gap wide, W the widest; captions above, if any.

    columns: about as many as rows unless given. Raises InputError.
    """
    if not pictures:
        raise InputError("a sheet needs pictures")
    if captions and len(captions) != len(pictures):
        raise InputError(f"{len(captions)} captions were given for {len(pictures)} pictures")
    if columns is not None and columns < 1:
        raise InputError(f"columns must be a positive integer, got {columns}")
    across = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    down = math.ceil(len(pictures) / across)
    top = CAPTION if captions else 0
    wide, high = max(p.width for p in pictures), max(p.height for p in pictures) + top
    whole = blank(across * (wide + GAP) - GAP, down * (high + GAP) - GAP)
    draw, letters = ImageDraw.Draw(whole), font(LETTERS)
    for i, picture in enumerate(pictures):
        x, y = i % across * (wide + GAP), i // across * (high + GAP)
        whole.paste(picture, (x, y + top))
        if captions:
            draw.text((x, y + top / 2), cut(captions[i], letters, wide), fill="black", font=letters, anchor="lm")
    return whole
