"""Zarr, versions 2 and 3: an array, or a group with arrays called as the inputs."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ..errors import InputError
from ..validity import one_line
from .base import Arrays, Like, Task, digest

__all__ = ["store"]

LARGEST = 2**30  # bytes of a chunk, which has to be in memory as a whole
KEPT = 2**28  # bytes of decoded chunks that are held for the next rows; of larger ones, the rows asked for alone
NAMES = (".zarray", ".zgroup", "zarr.json")  # of metadata
DANGEROUS = "pickle"  # a codec that runs what it reads


class Chunked:
    """An array whose chunks along the first axis are decoded once when it is read in order: the last ones are kept."""

    def __init__(self, array: Any, name: str) -> None:
        self.array, self.name = array, name
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        step = max(1, array.chunks[0]) if array.shape else 1
        slab = step * math.prod(self.shape[1:]) * self.dtype.itemsize  # chunks side by side, which a row runs through
        self.step = step if slab <= KEPT else 1
        self.lock = threading.Lock()
        self.start, self.held = 0, np.empty(0)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with self.lock:
            if not self.start <= rows.start <= rows.stop <= self.start + len(self.held):
                start = rows.start - rows.start % self.step
                stop = min(self.shape[0], -(-max(rows.stop, 1) // self.step) * self.step)
                try:
                    self.held, self.start = np.asarray(self.array[start:stop]), start
                except Exception as error:  # a codec's own kinds
                    raise InputError(f"'{self.name}' could not be read: {one_line(error)}") from error
            return self.held[rows.start - self.start : rows.stop - self.start]


def store(path: Path, task: Task) -> Arrays:
    """A store in a folder. Raises InputError."""
    described = _described(path)
    try:
        found = zarr.open(path, mode="r")
        arrays = {"array": found} if isinstance(found, zarr.Array) else dict(found.arrays())
    except Exception as error:
        raise InputError(f"{path} is no Zarr store that can be read: {one_line(error)}") from error
    held: dict[str, Like] = {}
    for name, array in arrays.items():
        size = math.prod(array.chunks) * max(1, np.dtype(array.dtype).itemsize)
        if size > LARGEST or any(n < 0 for n in array.shape):
            raise InputError(f"{path}: '{name}' has chunks of {size:,} bytes: write it again with smaller ones")
        held[name] = Chunked(array, name)
    out = Arrays(held, task, str(path), {"kind": "zarr", "metadata": digest(*described)})
    if out.target is not None and out.target.dtype.kind not in "iu":
        raise InputError(f"{path}: the target must be whole numbers")
    return out


def _described(path: Path) -> list[str]:
    """The metadata, as text, of the store and the arrays in it. Raises InputError for codecs that run what they read."""
    found = []
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        for name in NAMES:
            if not (folder / name).is_file():
                continue
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            try:
                said = json.loads(text)
            except ValueError as error:
                raise InputError(f"{folder / name} is damaged: {one_line(error)}") from error
            codecs = json.dumps(
                [said.get(key) for key in ("filters", "compressor", "codecs")] if isinstance(said, dict) else []
            )
            if DANGEROUS in codecs.lower():
                raise InputError(f"{folder} holds Python objects, which run as they are read: save it as an array of numbers")
            found += [folder.relative_to(path).as_posix(), name, text]
    return found
