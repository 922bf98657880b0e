"""How relevance is drawn: the options of a picture, checked when they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..errors import InputError

__all__ = ["KINDS", "NORMALIZE", "OVERLAYS", "PER", "REDUCTIONS", "Style"]

KINDS = ("image", "series", "table", "volume")
NORMALIZE = "max"
PER = ("row", "batch")
REDUCTIONS = ("sum", "norm", "abs-max")
OVERLAYS = ("grey", "color")
ONLY = {  # the kinds that an option is for; the others are for all
    "reduce": ("image", "volume"),
    "overlay": ("image", "volume"),
    "names": ("series", "table"),
    "most": ("table", "volume"),
}


@dataclass(frozen=True)
class Style:
    """The options of a picture. Raises InputError for a value that is none.

    size: pixels of the shorter side of an image or slice, of the width of a series or table.
    cmap: "bwr" (blue against, white, red for), or a matplotlib colormap; its middle is relevance 0.
    kind: "image" (channels, height, width), "series" (channels, time), "table" (features), "volume" (channels, depth,
        height, width; frames of a video); None: told from the shape, see `kind_of`.
    normalize: the |relevance| of full colour: "max", or a percentile of |relevance| in (0, 100]; what is above is clipped.
    per: "row" or "batch": whether that is found for every row alone, or once over the whole batch.
    reduce: channels to one value: "sum" (default), "norm" (√Σr²), "abs-max" (max |r|).
    overlay: "grey" or "color": the input lies below, and shows where there is no relevance.
    names: of a table's features, of a series' channels.
    most: bars of a table (default: 20, the largest), slices of a volume (default: 16, evenly spread).
    """

    size: int | None = None
    cmap: str = "bwr"
    kind: str | None = None
    normalize: str | float = NORMALIZE
    per: str = "row"
    reduce: str | None = None
    overlay: str | None = None
    names: Sequence[str] | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        for option, known in (("kind", KINDS), ("per", PER), ("reduce", REDUCTIONS), ("overlay", OVERLAYS)):
            value = getattr(self, option)
            if value not in known and (value is not None or option == "per"):
                raise InputError(f"{option} must be one of {', '.join(known)}; got {value!r}")
        for option in ("size", "most"):
            value = getattr(self, option)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{option} must be a positive integer, got {value!r}")
        number = isinstance(self.normalize, (int, float)) and not isinstance(self.normalize, bool)
        if self.normalize != NORMALIZE and not (number and 0 < float(self.normalize) <= 100):
            raise InputError(f"normalize must be 'max' or a percentile above 0 and up to 100, got {self.normalize!r}")
        if isinstance(self.names, str):
            raise InputError(f"names must be a list of names, got the text {self.names!r}")

    def fits(self, kind: str) -> None:
        """Raises InputError when an option was given that pictures of this kind do not have."""
        for f in fields(self):
            kinds = ONLY.get(f.name, KINDS)
            if getattr(self, f.name) is not None and kind not in kinds:
                raise InputError(f"{f.name} is for the kind {' or '.join(kinds)}, and this is drawn as {kind}: name the kind")
