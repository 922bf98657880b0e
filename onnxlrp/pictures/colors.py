"""Relevance to colours, symmetric about zero: red for and blue against, or any colormap of matplotlib."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from .style import NORMALIZE

__all__ = ["blend", "colorize", "full"]

Array = np.ndarray
BLUE, WHITE, RED = (np.array(c, np.float64) for c in ((0, 0, 255), (255, 255, 255), (255, 0, 0)))


def colorize(values: Array, cmap: str = "bwr") -> Array:
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


def blend(values: Array, under: Array, cmap: str = "bwr") -> Array:
    """(1 − |v|)·under + |v|·end(sign v) as RGB bytes: `under` where v is 0, an end of the colormap where it is ±1.

    values: (...), in [-1, 1]. under: (..., 3), 0 to 255. Over white this is `colorize` with bwr.
    """
    against, favour = colorize(np.array([-1.0, 1.0]), cmap).astype(np.float64)
    v = np.clip(values, -1, 1)[..., None]
    weight = np.abs(v)
    return np.asarray(np.round((1 - weight) * under + weight * np.where(v < 0, against, favour)), np.uint8)


def full(rows: Iterable[Array], normalize: str | float = NORMALIZE) -> float:
    """The |relevance| that gets full colour: the largest, or a percentile; the largest too where that percentile is 0."""
    values = np.concatenate([np.abs(r).ravel() for r in rows])
    top = float(values.max(initial=0.0))
    if normalize == NORMALIZE or not values.size:
        return top
    return float(np.percentile(values, float(normalize))) or top
