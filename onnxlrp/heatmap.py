"""Pictures of relevance: symmetric about zero, red for and blue against. Pillow draws; matplotlib brings other colours.

`Explanation.heatmap` draws what the input is; here is what it is made of, for arrays of one's own.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .pictures import Style, kind_of, pictures, sheet
from .pictures.colors import colorize
from .pictures.images import plane

__all__ = ["Style", "colorize", "heatmap", "kind_of", "pictures", "plane", "sheet"]


def heatmap(relevance: np.ndarray, *, size: int | None = None, cmap: str = "bwr") -> Image.Image:
    """One row's relevance as an image; its largest absolute value is full red or blue. size: of the shorter side."""
    return pictures(np.asarray(relevance)[None], [0], None, Style(size=size, cmap=cmap, kind="image"))[0]
