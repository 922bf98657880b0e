"""Reading data sets row by row: folders of pictures or .npy, .npy, .npz, Parquet, Zarr."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inputs import PICTURES, Preprocessing
from .base import Task
from .check import wanted_of
from .files import Folder, arrays_of, files_in
from .source import Columns, Rows, Source

__all__ = ["Columns", "Rows", "Source", "open_data"]

PARQUET = (".parquet", ".pq")


def open_data(
    path: str | os.PathLike[str],
    wanted: Mapping[str, Any],
    how: Preprocessing | None = None,
    *,
    columns: Columns | None = None,
    gaps: bool = False,
    classes: int | None = None,
    targets: bool = True,
) -> Source:
    """A data set as a `Source`. Raises InputError for what is wrong with the whole of it.

    wanted: {input: anything with `type` ("tensor(float)") and `shape`}. gaps: whether the model fills NaN (Explainer.face).
    classes: how many there are, to refuse rows whose target is none of them. targets: whether a column of them is read.
    """
    place = Path(path)
    task = Task(wanted_of(wanted), how or Preprocessing(), columns or Columns(), gaps, classes, targets)
    if not task.wanted:
        raise InputError("the model has no inputs to read rows for")
    try:
        return _opened(place, task)
    except OSError as error:
        raise InputError(f"{place} could not be read: {error.strerror or error}") from error


def _opened(place: Path, task: Task) -> Source:
    """The reader of what lies there, told apart by names."""
    if place.is_file():
        if place.suffix.lower() in (".npy", ".npz"):
            return arrays_of(place, task)
        if place.suffix.lower() in PARQUET:
            return _parquet([place], place, task)
        if place.suffix.lower() in PICTURES:
            raise InputError(f"{place} is one picture: `onnxlrp explain` takes it; a data set is the folder that it is in")
        raise InputError(f"{place}: data sets are folders of pictures or .npy, and .npy, .npz, .parquet, .zarr")
    if not place.is_dir():
        raise InputError(f"{place}: no such file or folder")
    if any((place / name).is_file() for name in (".zarray", ".zgroup", "zarr.json")):
        return _zarr(place, task)
    files = files_in(place)
    parts = [place / f for f in files if Path(f).suffix.lower() in PARQUET and not Path(f).name.startswith("_")]
    if parts and any(Path(f).suffix.lower() in (*PICTURES, ".npy") for f in files):
        raise InputError(f"{place} holds Parquet files ({parts[0].name}) beside pictures or .npy: give a folder of one kind")
    return _parquet(parts, place, task) if parts else Folder(place, files, task)


def _parquet(files: list[Path], place: Path, task: Task) -> Source:
    try:
        from .parquet import Parquet
    except ImportError as error:
        raise InputError('Parquet needs pyarrow: pip install "onnxlrp[run]"') from error
    return Parquet(files, str(place), task)


def _zarr(place: Path, task: Task) -> Source:
    try:
        from .zarrs import store
    except ImportError as error:
        raise InputError('Zarr needs Python 3.11 and the package zarr: pip install "onnxlrp[run]"') from error
    return store(place, task)
