"""A folder of pictures or .npy files, a row each; one .npy or .npz, whose first axis is the rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import npy
from ..errors import InputError
from ..inputs import BROKEN, PICTURES, adapted, picture, picture_size
from ..validity import one_line
from .base import Arrays, Base, Block, Like, Task, digest
from .check import sizes_text

__all__ = ["Folder", "arrays_of", "check_pictures", "files_in"]

ENDS = 2**20  # bytes at each end of a file that tell it from another of its size


def files_in(folder: Path) -> list[str]:
    """Paths below a folder with / between, by code points; none that begin with a dot, no folders that are links."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        found += [(below / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


class Folder(Base):
    """Pictures and .npy files below a folder, one row each, in the order of their relative paths, which are the ids."""

    def __init__(self, folder: Path, files: list[str], task: Task) -> None:
        super().__init__(task)
        self.folder = folder
        self.files = [f for f in files if Path(f).suffix.lower() in (*PICTURES, ".npy")]
        others = Counter(Path(f).suffix.lower() or "no suffix" for f in files) - Counter(
            Path(f).suffix.lower() for f in self.files
        )
        if not self.files:
            raise InputError(f"{folder} has no pictures ({', '.join(PICTURES)}), .npy or Parquet files")
        if len(task.wanted) != 1:
            raise InputError(f"{folder} gives one input, the model has {', '.join(task.wanted)}: give .npz, Parquet or Zarr")
        if task.columns != type(task.columns)():
            raise InputError(f"{folder} is a folder of files, which has no columns: leave out what names them")
        if others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
            self.notes.append(f"{others.total()} other file(s) in {folder} ignored: {kinds}")
        (self.want,) = task.wanted.values()
        if any(Path(f).suffix.lower() != ".npy" for f in self.files):
            check_pictures(task, self.want.name, str(folder))
        elif task.how.of_pictures:
            raise InputError(f"{folder} holds arrays, and {task.how.of_pictures} is for pictures: leave it out")
        self.settle()

    def __len__(self) -> int:
        return len(self.files)

    def identity(self) -> dict[str, Any]:
        """Names and sizes of all files."""
        sizes = [str((self.folder / f).stat().st_size) if (self.folder / f).exists() else "none" for f in self.files]
        return {"kind": "folder", "rows": len(self.files), "files": digest(*self.files, *sizes)}

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((i, i + 1) for i in range(start, stop))

    def _take(self, start: int, stop: int) -> Block:
        file, (want,) = self.folder / self.files[start], self.task.wanted.values()
        try:
            drawn = file.suffix.lower() in PICTURES
            x = picture(file, "it", want.shape, self.task.how) if drawn else self._array(file)
        except BROKEN as error:
            raise InputError(f"could not be read: {one_line(error)}") from error
        return self.task.checked({want.name: x}), None

    def _array(self, file: Path) -> np.ndarray:
        """A .npy as a batch of one; it may have that axis already. Raises InputError."""
        found, (want,) = npy.parts(file), self.task.wanted.values()
        if not isinstance(found, npy.Stored):
            raise InputError("is an .npz; in a folder a row is an .npy")
        one = len(found.shape) == len(want.shape) and found.shape[0] == 1
        row = found.shape[1:] if one else found.shape
        if not want.fits(row):
            raise InputError(f"input '{want.name}' must have rows of {sizes_text(want.row)}, got {sizes_text(found.shape)}")
        x = found.whole().reshape(1, *row)
        if self.task.how.of_values and x.dtype.kind in "fiub":
            return adapted({want.name: x}, self.task.wanted, self.task.how.for_values(), "it")[want.name]
        return x

    def _ids(self, start: int, stop: int) -> list[str]:
        return [os.fsencode(f).decode("utf-8", "backslashreplace") for f in self.files[start:stop]]


def check_pictures(task: Task, name: str, what: str) -> None:
    """Raises InputError where the model's input is none of pictures, or their size is open."""
    want = task.wanted[name]
    _, height, width = picture_size(want.shape, task.how, what)
    if height is None or width is None:
        raise InputError(
            f"input '{name}' takes pictures of any size ({sizes_text(want.row)}): give their size (--input-size 224x224), "
            "or resize and crop, so that all rows have one"
        )
    if want.dtype.kind != "f" and task.how.scale is None:
        raise InputError(f"input '{name}' takes {want.dtype}: give scale=1 (--scale 1), or pixels would be divided by 255")


def arrays_of(path: Path, task: Task) -> Arrays:
    """A .npy, or a .npz whose arrays are called as the inputs. Raises InputError."""
    try:
        found = npy.parts(path)
    except BROKEN as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error
    held: dict[str, Like] = {"array": found} if isinstance(found, npy.Stored) else dict(found)
    kind = "npy" if isinstance(found, npy.Stored) else "npz"
    faces = {name: [str(x.dtype), list(x.shape)] for name, x in held.items()}
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        ends = digest(first, file.read(ENDS))
    return Arrays(held, task, str(path), {"kind": kind, "bytes": size, "arrays": faces, "ends": ends})
