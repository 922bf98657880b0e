"""Pictures of relevance: symmetric about zero, red for and blue against. Pillow draws; matplotlib brings other colours."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .errors import InputError

__all__ = ["colorize", "heatmap", "plane"]

SMALLEST = 256  # pictures with a shorter side are enlarged, so that 8×8 digits can be seen
BLUE, WHITE, RED = (np.array(c, np.float64) for c in ((0, 0, 255), (255, 255, 255), (255, 0, 0)))


def plane(relevance: np.ndarray) -> np.ndarray:
    """(H, W) from one row's relevance: channels summed, squares made of what is flat. Raises InputError."""
    r = np.asarray(relevance, np.float64)
    if r.ndim == 3:
        axis = -1 if r.shape[-1] in (1, 3, 4) and r.shape[0] not in (1, 3) else 0
        r = r.sum(axis)
    if r.ndim == 1:
        side = round(np.sqrt(len(r)))
        r = r.reshape(side, side) if side * side == len(r) else r[None, :]
    if r.ndim != 2:
        raise InputError(f"a heat-map needs one image of shape (C, H, W), (H, W, C), (H, W) or (N,), got {relevance.shape}")
    return r


def colorize(values: np.ndarray, cmap: str = "bwr") -> np.ndarray:
    """[-1, 1] to RGB bytes: blue, white, red, or any matplotlib colormap by name (the extra `onnxlrp[plot]`)."""
    v = np.clip(values, -1, 1)[..., None]
    if cmap == "bwr":
        rgb = np.where(v < 0, WHITE + (WHITE - BLUE) * v, WHITE - (WHITE - RED) * v)
        return np.asarray(np.round(rgb), np.uint8)
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise InputError(
            f"colormap '{cmap}': only 'bwr' is built in; the names of matplotlib need it: pip install 'onnxlrp[plot]'"
        ) from error
    if cmap not in colormaps:
        raise InputError(f"unknown colormap '{cmap}'; see matplotlib.colormaps")
    return np.asarray(colormaps[cmap]((v[..., 0] + 1) / 2, bytes=True))[..., :3]


def heatmap(relevance: np.ndarray, *, size: int | None = None, cmap: str = "bwr") -> Image.Image:
    """One row's relevance as a picture; its largest absolute value is full red or blue. size: of the shorter side."""
    r = plane(relevance)
    if not np.isfinite(r).all():
        raise InputError("the relevance has values that are not finite; `onnxlrp check` names the layer")
    top = np.abs(r).max(initial=0.0)
    picture = Image.fromarray(colorize(r / top if top > 0 else r, cmap))
    short = min(picture.size)
    wanted = size or max(short, -(-SMALLEST // short) * short)
    factor = wanted / short
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)
