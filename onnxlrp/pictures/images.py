"""Images and slices of volumes: channels to one value, relevance over the input, enlarged so that pixels are seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..errors import InputError
from .colors import blend, colorize

__all__ = ["channels_last", "ends_in_channels", "enlarged", "painted", "plane", "reduced", "shades"]

Array = np.ndarray
SMALLEST = 256  # pictures with a shorter side are enlarged, so that 8×8 digits can be seen
COLORS = (1, 3, 4)  # channels that pictures have; an axis of another size is looked for elsewhere


def plane(relevance: Array, reduce: str = "sum") -> Array:
    """(H, W) from one row's relevance: channels reduced, squares made of what is flat. Raises InputError."""
    return reduced(channels_last(relevance), reduce)


def channels_last(row: Array) -> Array:
    """(C, H, W), (H, W, C), (H, W) or flat (N,) to (H, W, C); N = n² is a square, else one line. Raises InputError."""
    a = np.asarray(row, np.float64)
    if a.ndim == 1:
        side = round(np.sqrt(len(a)))
        a = a.reshape(side, side) if side * side == len(a) else a[None, :]
    if a.ndim == 2:
        return a[..., None]
    if a.ndim != 3:
        raise InputError(f"a heat-map needs one image of shape (C, H, W), (H, W, C), (H, W) or (N,), got {row.shape}")
    return a if ends_in_channels(a.shape) else np.moveaxis(a, 0, -1)


def ends_in_channels(shape: Sequence[int]) -> bool:
    """Whether a row is (H, W, C): a square in front, or a picture's number of channels behind and nowhere else."""
    if len(shape) != 3 or shape[1] == shape[2]:
        return False
    return shape[0] == shape[1] > 1 or (shape[2] in COLORS and shape[0] not in (1, 3))


def reduced(values: Array, reduce: str = "sum") -> Array:
    """(..., C) to (...): Σ r, √Σ r² or max |r| over the channels."""
    if reduce == "norm":
        return np.asarray(np.sqrt((values**2).sum(-1)))
    return np.asarray(np.abs(values).max(-1) if reduce == "abs-max" else values.sum(-1))


def shades(values: Array, overlay: str) -> Array:
    """An input (..., C) as RGB (..., 3) between 0 and 255, its smallest value black and its largest white.

    overlay: "grey", the mean of the channels; "color", of 1, 3 or 4 channels (the fourth, opacity, is left out).
    Raises InputError.
    """
    channels = values.shape[-1]
    if overlay == "color" and channels not in COLORS:
        raise InputError(f"overlay 'color' needs an input of 1, 3 or 4 channels, this one has {channels}: overlay 'grey'")
    if not np.isfinite(values).all():
        raise InputError("the input to draw has values that are not finite")
    x = values[..., :3] if channels == 4 else values
    x = x.mean(-1, keepdims=True) if overlay == "grey" else x
    low, high = x.min(initial=np.inf), x.max(initial=-np.inf)
    x = (x - low) / (high - low) if high > low else np.clip(x, 0, 1)
    return np.broadcast_to(x * 255, (*x.shape[:-1], 3))


def painted(r: Array, under: Array | None, cmap: str) -> Image.Image:
    """(H, W) relevance in [-1, 1] as a picture of W×H pixels, over an input (H, W, 3) when that is given."""
    return Image.fromarray(colorize(r, cmap) if under is None else blend(r, under, cmap))


def enlarged(picture: Image.Image, size: int | None, smallest: int = SMALLEST) -> Image.Image:
    """The picture with a shorter side of `size`, or of the first multiple of its own that is not below `smallest`."""
    short = min(picture.size)
    wanted = size or max(short, -(-smallest // short) * short)
    factor = wanted / short
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)
