"""Parquet: one file, or a folder of parts in the order of their paths. Read forward, a batch of a row group at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..inputs import adapted
from ..validity import one_line
from . import columns as convert
from .base import Base, Block, Task, chosen, digest
from .check import Wanted, classes_of, sizes_text
from .files import check_pictures

__all__ = ["Parquet"]

BATCH = 2**24  # bytes of a batch, about, and never over ROWS rows
ROWS = 8192
BROKEN = (pa.ArrowException, OSError, ValueError, StopIteration)


@dataclass(frozen=True)
class Group:
    """A row group: its place in the data set and in its file."""

    start: int
    stop: int
    file: Path
    index: int


@dataclass(frozen=True)
class Batch:
    """Rows start to stop, decoded; or, for the rest of a group that cannot be, the reason."""

    start: int
    stop: int
    columns: Any
    reason: str = ""


class Parquet(Base):
    """Rows of Parquet files with the same columns. What is held is one batch of decoded columns, those that are used.

    Reading forward decodes each row once; going back within a row group begins it again.
    """

    def __init__(self, files: list[Path], what: str, task: Task) -> None:
        super().__init__(task)
        self.what, self.lock = what, threading.Lock()
        schema, self.groups, self.footers = _scan(files)
        names = schema.names
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InputError(f"{files[0]} has several columns called '{twice[0]}'")
        types = dict(zip(names, schema.types, strict=True))
        self.table = _features(types, task)
        inputs, self.id, self.target = chosen(types, task, what, "column") if not self.table else ({}, *_named(types, task))
        self.inputs, self.target = inputs, self.target if task.targets else None
        self.used = [*dict.fromkeys([*inputs.values(), *self.table, *(n for n in (self.id, self.target) if n)])]
        self.targeted = self.target is not None
        self._check(types, files)
        if not self.groups:
            raise InputError(f"{what} has no rows")
        self.starts = np.array([g.start for g in self.groups])
        self.encoded = [name for name, at in inputs.items() if convert.is_picture(types[at])]
        self.batch: Batch | None = None
        self.group: Group | None = None
        self.batches: Iterator[Any] = iter(())
        self.settle()
        self._check_values()

    def _check(self, types: dict[str, Any], files: list[Path]) -> None:
        """Raises InputError for columns that no row could be read from, and parts that differ."""
        task = self.task
        for name, at in self.inputs.items():
            if convert.is_picture(types[at]):
                check_pictures(task, name, f"column '{at}'")
            elif not convert.is_values(types[at]):
                raise InputError(f"{self.what}: column '{at}' is {types[at]}; inputs are numbers, lists of them, or pictures")
        if self.target and not (convert.is_number(types[self.target]) and not pa.types.is_floating(types[self.target])):
            raise InputError(f"{self.what}: column '{self.target}' is {types[self.target]}; the target must be whole numbers")
        for file in files[1:]:
            other = pq.read_schema(file)
            for name in self.used:
                if name not in other.names or other.field(name).type != types[name]:
                    raise InputError(f"{file}: column '{name}' is not as in {files[0]}; parts must have the same columns")

    def _check_values(self) -> None:
        """Raises InputError for a preprocessing that fits no row."""
        wanted = {name: want for name, want in self.task.wanted.items() if name not in self.encoded}
        zeros = {name: np.zeros((1, *(n or 0 for n in want.row)), np.float32) for name, want in wanted.items()}
        if not self.encoded or (zeros and self.task.how.of_values):
            adapted(zeros, wanted, self.task.how.for_values() if self.encoded else self.task.how, self.what)

    def __len__(self) -> int:
        return self.groups[-1].stop

    def identity(self) -> dict[str, Any]:
        """Columns, and a hash of the footers, which say what lies where in the files, and how large they are."""
        used = {**self.inputs, **({"features": self.table} if self.table else {})}
        return {
            "kind": "parquet", "rows": len(self), "files": digest(*self.footers), "columns": used, "id": self.id,
            "target": self.target,
        }  # fmt: skip

    def read(self, start: int, stop: int) -> Any:
        """The rows start to stop; one thread at a time."""
        with self.lock:
            return super().read(start, stop)

    # decoding --------------------------------------------------------------------------------------------------------

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        while start < stop:
            end = min(stop, self._at(start).stop)
            if self.encoded:  # decoding pictures again by halves would take long
                yield from ((i, i + 1) for i in range(start, end))
            else:
                yield start, end
            start = end

    def _at(self, row: int) -> Batch:
        """The batch that holds a row."""
        group = self.groups[int(np.searchsorted(self.starts, row, "right")) - 1]
        if self.batch is None or self.group is not group or row < self.batch.start:
            self.batch, self.group = Batch(group.start, group.start, None), group
            self.batches = self._decoded(group)
        while row >= self.batch.stop:
            at = self.batch.stop
            try:
                found = next(self.batches)
                self.batch = Batch(at, min(at + found.num_rows, group.stop), found)
            except BROKEN as error:
                said = "the file ends before it" if isinstance(error, StopIteration) else one_line(error)
                self.batch = Batch(at, group.stop, None, f"{group.file.name} could not be read: {said}")
        return self.batch

    def _decoded(self, group: Group) -> Iterator[Any]:
        """Batches of a row group, about BATCH bytes each, as the footer or the model has them, whichever is more."""
        with pq.ParquetFile(group.file, buffer_size=2**20, pre_buffer=False) as file:
            facts = file.metadata.row_group(group.index)
            size = sum(
                facts.column(i).total_uncompressed_size
                for i in range(facts.num_columns)
                if facts.column(i).path_in_schema.split(".")[0] in self.used
            ) // max(1, facts.num_rows)
            wanted = self.task.wanted.values()
            size = max(size, sum(w.dtype.itemsize * math.prod(n or 1 for n in w.row) for w in wanted), 1)
            rows = max(1, min(ROWS, BATCH // size))
            yield from file.iter_batches(rows, [group.index], self.used, use_threads=False)

    def _take(self, start: int, stop: int) -> Block:
        batch = self._at(start)
        if batch.columns is None:
            raise InputError(batch.reason)
        rows = batch.columns.slice(start - batch.start, stop - start)

        def get(name: str) -> Any:
            return rows.column(rows.schema.get_field_index(name))

        try:
            return self._converted(get)
        except BROKEN as error:
            raise InputError(f"could not be converted: {one_line(error)}") from error

    def _converted(self, get: Callable[[str], Any]) -> Block:
        """Rows of the columns that `get` gives. Raises InputError when any of them is bad."""
        task = self.task
        if self.table:
            ((name, want),) = task.wanted.items()
            feed = {name: convert.side_by_side(get, self.table, want.dtype, task.gaps)}
        else:
            feed = {name: self._input(get(at), at, task.wanted[name]) for name, at in self.inputs.items()}
        plain = {name: x for name, x in feed.items() if name not in self.encoded}
        if task.how.of_values and plain:
            feed |= adapted(plain, task.wanted, task.how.for_values(), self.what)
        target = (
            None if self.target is None else classes_of(convert.numbers(get(self.target), self.target, False), task.classes)
        )
        return task.checked(feed), target

    def _input(self, column: Any, at: str, want: Wanted) -> np.ndarray:
        if want.name in self.encoded:
            return convert.pictures(column, at, want, self.task.how)
        return convert.values(column, at, want, self.task.gaps)

    def _ids(self, start: int, stop: int) -> list[str]:
        batch = self._at(start)
        if self.id is None or batch.columns is None:
            return [str(i) for i in range(start, stop)]
        rows = batch.columns.slice(start - batch.start, stop - start)
        return convert.texts(rows.column(rows.schema.get_field_index(self.id)), start)


def _scan(files: list[Path]) -> tuple[Any, list[Group], list[str | bytes]]:
    """The columns of the first file, the row groups of all, and what tells the files apart. Raises InputError."""
    groups: list[Group] = []
    footers: list[str | bytes] = []
    schema, row = None, 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow if schema is None else schema
                counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        except BROKEN as error:
            raise InputError(f"{path} is not a complete Parquet file: {one_line(error)}") from error
        for index, count in enumerate(counts):
            if count > 0:
                groups.append(Group(row, row + count, path, index))
                row += count
        footers += [path.name, _footer(path)]
    return schema, groups, footers


def _footer(path: Path) -> bytes:
    """The footer of a file and its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return file.read(length) + size.to_bytes(8, "little")


def _named(types: dict[str, Any], task: Task) -> tuple[str | None, str | None]:
    """The columns of ids and targets of a table."""
    names = task.columns
    return names.id or ("id" if "id" in types else None), names.target or ("target" if "target" in types else None)


def _features(types: dict[str, Any], task: Task) -> list[str]:
    """The columns of numbers that side by side are an only input (N, features); [] where a column is the input."""
    if len(task.wanted) != 1 or task.columns.inputs:
        return []
    ((name, want),) = task.wanted.items()
    if len(want.row) != 1 or (name in types and not (convert.is_number(types[name]) and want.row != (1,))):
        return []
    names = _named(types, task)
    for asked in names:
        if asked is not None and asked not in types:
            return []  # `chosen` says so
    rest = [n for n in types if n not in names]
    found = [n for n in rest if convert.is_number(types[n])]
    lists = [n for n in rest if n not in found and (convert.is_values(types[n]) or convert.is_picture(types[n]))]
    if lists or not found:
        return []
    if not want.fits((len(found),)):
        raise InputError(
            f"there are {len(found)} columns of numbers ({', '.join(found[:8])}{', …' if len(found) > 8 else ''}), input "
            f"'{name}' takes {sizes_text(want.row)}: drop the others; --id-column and --target-column name what is no feature"
        )
    return found
