"""What an explanation is: relevance, outputs, and the books of every layer; how it is shown and saved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Books", "Explanation", "LayerBooks", "Layers", "outside_text", "writable"]

Array = np.ndarray


@dataclass(frozen=True)
class LayerBooks:
    """Relevance through one layer, summed over the batch: arrived = sent + bias + epsilon + dropped.

    nonfinite: values that are NaN or infinite. outside: inputs that the layer's rule excludes (ZBox bounds).
    arrived_l1, sent_l1: Σ |relevance|; far above |Σ| where values of both signs cancel.
    """

    index: int
    name: str
    rule: str
    arrived: float
    sent: float
    bias: float
    epsilon: float
    nonfinite: int
    outside: int
    arrived_l1: float
    sent_l1: float

    @property
    def dropped(self) -> float:
        """What neither bias nor ε explains: gates, masks, Stop."""
        return self.arrived - self.sent - self.bias - self.epsilon


def outside_text(index: int, name: str, count: int, rule: str) -> str:
    """What is wrong, where, and what to do."""
    known = "its low and high are to bound this layer's own input"
    return f"layer {index} '{name}': {count} inputs lie outside the bounds of {rule}; {known}"


class Books(tuple[LayerBooks, ...]):
    """One LayerBooks per layer, in the order of the plan."""


class Layers(dict[str, Array]):
    """Relevance by layer name; also found by index and by tensor name."""

    def __init__(self, found: Mapping[str, Array], rows: Sequence[Mapping[str, Any]]) -> None:
        by_tensor = {row["tensor"]: row["name"] for row in rows}
        super().__init__({by_tensor.get(t, t): r for t, r in found.items()})
        self._alias = {**by_tensor, **{row["index"]: row["name"] for row in rows}}

    def __missing__(self, key: Any) -> Array:
        name = self._alias.get(key)
        if name is None or name not in self.keys():
            raise KeyError(f"no relevance of layer {key!r}; asked for were {', '.join(self) or 'none'} (layers=)")
        return self[name]


@dataclass(frozen=True)
class Explanation:
    """What one run gave.

    relevances: per explained tensor, of its shape. output: the explained output. outputs: all of the model's.
    target: the class explained, per row (per position for outputs of rank > 2). layers: relevance of what `layers=`
    named. ratio: Σ relevance ÷ Σ initial relevance, per row. tokens: per embedding of tokens, relevance per token (N,T).
    """

    relevances: dict[str, Array]
    outputs: dict[str, Array]
    target: Array | None
    layers: dict[str, Array]
    initial: Array
    ratio: Array
    output_name: str
    inputs: dict[str, Array] = field(repr=False)
    _books: Callable[[], Books] = field(repr=False)
    _inner: Array | None = field(default=None, repr=False)
    tokens: dict[str, Array] = field(default_factory=dict)

    @property
    def relevance(self) -> Any:
        """The array when one tensor is explained, else the dict."""
        return next(iter(self.relevances.values())) if len(self.relevances) == 1 else self.relevances

    @property
    def output(self) -> Array:
        """The model output, or the tensor within the model, that is explained. Raises InputError when it was not kept."""
        if self.output_name in self.outputs:
            return self.outputs[self.output_name]
        if self._inner is None:
            raise InputError(f"the explained '{self.output_name}' is no output of the model, and no run computes it")
        return self._inner

    @cached_property
    def conservation(self) -> Books:
        """Relevance that arrived at, was sent on by, and was kept by every layer; runs the model once more if needed."""
        return self._books()

    def heatmap(
        self,
        row: int = 0,
        *,
        name: str | None = None,
        grid: str | Sequence[int] | None = None,
        captions: Sequence[str] | None = None,
        size: int | None = None,
        cmap: str = "bwr",
        **style: Any,
    ) -> Image:
        """Picture of one row's relevance, symmetric about zero; with grid="all" or row numbers, of several on one sheet.

        name: of the explained tensor (default: the first). captions: of a grid's pictures (default: row and class).
        The other options are those of `onnxlrp.heatmap.Style`: kind (image, series, table, volume; told from the shape),
        size, cmap, normalize, per, reduce, overlay, names, most. Raises InputError.
        """
        from .pictures import Style, pictures, sheet

        key = name or next(iter(self.relevances))
        if key not in self.relevances:
            raise InputError(f"heatmap: '{key}' is not explained; explained are {', '.join(self.relevances)}")
        values = self.relevances[key]
        rows = _rows([row] if grid is None else grid, len(values) if values.ndim else 0)
        if grid is None and captions is not None:
            raise InputError("heatmap: captions are for a grid")
        drawn = pictures(values, rows, self.inputs.get(key), Style(size=size, cmap=cmap, **style))
        return drawn[0] if grid is None else sheet(drawn, [self._caption(i) for i in rows] if captions is None else captions)

    def _caption(self, row: int) -> str:
        """The row, and the class explained where there is one per row."""
        known = self.target is not None and self.target.ndim == 1 and row < len(self.target)
        return f"row {row}: class {self.target[row]}" if known and self.target is not None else f"row {row}"

    def save(self, path: str | os.PathLike[str], **picture_options: Any) -> None:
        """`.npz`: all arrays; `.png`: the heat-map, of row 0 unless `heatmap`'s options say else. Complete or not at all."""
        target = Path(path)
        if target.suffix not in (".npz", ".png"):
            raise InputError(f"{target}: explanations are saved as .npz or .png")
        writable(target)
        picture = self.heatmap(**picture_options) if target.suffix == ".png" else None
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
                file = Path(folder) / target.name
                if picture is not None:
                    picture.save(file, format="PNG")
                else:
                    np.savez(file, **self._arrays())
                os.replace(file, target)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error

    def _arrays(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {f"relevance.{k}": v for k, v in {**self.relevances, **self.layers}.items()}
        arrays |= {f"relevance_tokens.{k}": v for k, v in self.tokens.items()}
        for name, value in self.outputs.items():
            if isinstance(value, np.ndarray):  # sequences and maps are no arrays
                arrays[f"output.{name}"] = value.astype(str) if value.dtype.kind == "O" else value
        arrays["initial_relevance"] = self.initial
        return arrays if self.target is None else {**arrays, "target": self.target}


def _rows(asked: str | Sequence[int], count: int) -> list[int]:
    """The rows asked for, "all" or numbers, counted from the front. Raises InputError."""
    rows = list(range(count)) if isinstance(asked, str) and asked == "all" else asked
    if isinstance(rows, str) or not all(isinstance(i, (int, np.integer)) for i in rows):
        raise InputError(f"heatmap: grid must be 'all' or a list of row numbers, got {asked!r}")
    for row in rows:
        if not -count <= row < count:
            raise InputError(f"heatmap: row {row} does not exist, the batch has {count} rows")
    if not len(rows):
        raise InputError("heatmap: there is no row to draw")
    return [int(row) % count for row in rows]


def writable(target: Path) -> None:
    """Raises InputError when there is no folder to write this file into, or a folder in its place."""
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
