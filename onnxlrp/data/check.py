"""Checking rows: of a block at once, and where something is wrong, by halves down to the rows that are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..feeds import TYPES
from ..validity import one_line

__all__ = ["Wanted", "by_halves", "checked", "classes_of", "sizes_text", "wanted_of"]

Array = np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """An input of the model: its type as onnxruntime names it, its shape with the batch axis, None or a name where free."""

    name: str
    type: str
    shape: tuple[Any, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(TYPES[self.type])

    @property
    def row(self) -> tuple[int | None, ...]:
        """Sizes of one row, None where they are free."""
        return tuple(d if isinstance(d, int) else None for d in self.shape[1:])

    def settled(self, row: tuple[int, ...]) -> Wanted:
        """With the sizes of a row that is there."""
        return Wanted(self.name, self.type, (self.shape[0], *row))

    def fits(self, row: tuple[int, ...]) -> bool:
        return len(row) == len(self.row) and all(d in (None, n) for d, n in zip(self.row, row, strict=True))


def wanted_of(declared: Mapping[str, Any]) -> dict[str, Wanted]:
    """{input: Wanted} of anything with `type` and `shape`. Raises InputError for inputs that no row can feed."""
    found = {}
    for name, face in declared.items():
        if face.type not in TYPES:
            raise InputError(f"input '{name}' takes {face.type}; data sets hold numbers")
        if not len(face.shape):
            raise InputError(f"input '{name}' is one number for all rows, which no data set gives: fix it in the model")
        found[name] = Wanted(name, face.type, tuple(face.shape))
    return found


def sizes_text(sizes: tuple[Any, ...]) -> str:
    """`3×224×224`, ? where free."""
    return "×".join("?" if n is None else str(n) for n in sizes) or "one number"


def checked(want: Wanted, block: Array, gaps: bool) -> Array:
    """A block of rows (n, ...) in the input's type. Raises InputError when any of them is wrong.

    gaps: whether NaN may stand for what is missing.
    """
    name, dtype = want.name, want.dtype
    if not want.fits(block.shape[1:]):
        raise InputError(f"input '{name}' must have rows of {sizes_text(want.row)}, got {sizes_text(block.shape[1:])}")
    if block.dtype.kind not in "fiub":
        raise InputError(f"input '{name}' must be {dtype}, got {block.dtype}")
    block = np.asarray(block)
    if block.dtype.kind == "f" and not gaps and block.size:
        low, high = block.min(), block.max()  # NaN and infinities reach the extremes
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"input '{name}' has {int(np.sum(~np.isfinite(block)))} value(s) that are NaN or infinite")
    elif block.dtype.kind == "f" and np.isinf(block).any():
        raise InputError(f"input '{name}' has {int(np.sum(np.isinf(block)))} infinite value(s)")
    if block.dtype == dtype:
        return np.ascontiguousarray(block)
    with np.errstate(all="ignore"):
        taken = np.ascontiguousarray(block, dtype)
        same = np.isinf(taken) == np.isinf(block) if dtype.kind == "f" else taken.astype(block.dtype) == block
    if dtype.kind in "iu" and block.dtype.kind in "iu" and taken.size and block.dtype != np.bool_:
        same &= (taken < 0) == (block < 0)  # int64 and uint64 hold the same bits
    if not np.all(same):
        what = "too large for" if dtype.kind == "f" else "no values of"
        raise InputError(f"input '{name}' has {int(np.sum(~same))} value(s) that are {what} {dtype}")
    return taken


def classes_of(block: Array, classes: int | None) -> Array:
    """Targets (n,) as int64; -1 is the largest output. Raises InputError when one is no class."""
    if block.ndim != 1 or block.dtype.kind not in "iuf":
        raise InputError(f"the target must be one whole number a row, got {sizes_text(block.shape[1:])} of {block.dtype}")
    with np.errstate(all="ignore"):
        taken = block.astype(np.int64)
    wrong = (taken != block) | (taken < -1)
    if classes is not None:
        wrong |= taken >= classes
    if wrong.any():
        known = f"0 to {classes - 1}" if classes is not None else "0 and up"
        raise InputError(f"target {block[wrong][0]} is no class; classes are {known}, or -1 for the largest output")
    return np.ascontiguousarray(taken)


def by_halves(take: Callable[[int, int], T], start: int, stop: int) -> Iterator[tuple[int, int, T | str]]:
    """(i, j, rows i to j) in order; where `take` raises InputError, the halves apart, and (i, i + 1, reason) of a bad row.

    A block without bad rows costs one call, k bad rows of n about 2k log₂ n.
    """
    todo = [(start, stop)] if start < stop else []
    while todo:
        i, j = todo.pop()
        try:
            found: T | str = take(i, j)
        except InputError as error:
            if j - i > 1:
                todo += [((i + j) // 2, j), (i, (i + j) // 2)]
                continue
            found = one_line(error)
        yield i, j, found
