"""What the readers share: blocks checked by halves, joined into `Rows`; arrays of any store as a source."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..inputs import BROKEN, Preprocessing, adapted
from ..validity import one_line
from .check import Wanted, by_halves, checked, classes_of, sizes_text
from .source import Columns, Rows

__all__ = ["Arrays", "Like", "Task", "chosen", "digest"]

Array = np.ndarray
Block = tuple[dict[str, Array], Array | None]  # feed and target


class Task:
    """What rows are read for: the model's inputs, the preprocessing; gaps, classes and targets as for `open_data`."""

    def __init__(
        self,
        wanted: Mapping[str, Wanted],
        how: Preprocessing,
        columns: Columns,
        gaps: bool,
        classes: int | None,
        targets: bool,
    ) -> None:
        self.wanted, self.how, self.columns = dict(wanted), how, columns
        self.gaps, self.classes, self.targets = gaps, classes, targets
        unknown = [name for name in columns.inputs if name not in wanted]
        if unknown:
            raise InputError(f"the model has no input called '{unknown[0]}'; inputs are {', '.join(wanted)}")

    def checked(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """A block in the types of the inputs. Raises InputError when a row is wrong."""
        return {name: checked(self.wanted[name], x, self.gaps) for name, x in feed.items()}


class Base(ABC):
    """A source whose rows are read in blocks. Subclasses say how many there are, what they are, and how they are called."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.notes: list[str] = []
        self.targeted = False  # whether there is a column of targets

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def identity(self) -> dict[str, Any]: ...

    @abstractmethod
    def _take(self, start: int, stop: int) -> Block:
        """Rows of one span. Raises InputError when any of them is bad."""

    @abstractmethod
    def _ids(self, start: int, stop: int) -> list[str]: ...

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The pieces that `_take` is asked for; each is done with before the next is."""
        yield start, stop

    def read(self, start: int, stop: int) -> Rows:
        """The rows start to stop. Raises IndexError outside 0 to len."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)}")
        ids: list[str] = []
        unreadable: dict[int, str] = {}
        blocks: list[tuple[int, int, Block]] = []
        for first, last in self._spans(start, stop):
            for i, j, found in by_halves(self._take, first, last):
                if isinstance(found, str):
                    unreadable[i - start] = found
                else:
                    blocks.append((i - start, j - start, found))
            ids += [name.encode("utf-8", "backslashreplace").decode() for name in self._ids(first, last)]  # half a character
        good = np.concatenate([np.arange(i, j) for i, j, _ in blocks]) if blocks else np.empty(0, np.int64)
        feeds, targets = [feed for _, _, (feed, _) in blocks], [t for _, _, (_, t) in blocks if t is not None]
        feed = {name: _joined([f[name] for f in feeds], want) for name, want in self.task.wanted.items()}
        target = np.concatenate([np.empty(0, np.int64), *targets]) if self.targeted else None
        return Rows(start, stop, ids, good, feed, target, unreadable)

    def settle(self) -> None:
        """Sizes that the model leaves free are those of the first readable row: rows of one run have one shape."""
        if all(None not in want.row for want in self.task.wanted.values()):
            return
        for i in range(len(self)):
            rows = self.read(i, i + 1)
            if len(rows.good):
                wanted = self.task.wanted
                self.task.wanted = {name: want.settled(rows.feed[name].shape[1:]) for name, want in wanted.items()}
                return
            reason = rows.unreadable[0]
        raise InputError(f"no row can be read; the last one: {reason}")


def _joined(blocks: list[Array], want: Wanted) -> Array:
    if not blocks:
        return np.empty((0, *(n or 0 for n in want.row)), want.dtype)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def digest(*parts: bytes | str) -> str:
    """SHA-256 of parts, each with its length."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------------------- arrays


class Like(Protocol):
    """An array in a store, of which slices of the first axis are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice) -> Any: ...


def chosen(
    held: Mapping[str, Any], task: Task, what: str, kind: str = "array"
) -> tuple[dict[str, str], str | None, str | None]:
    """{input: array}, the array of ids and that of targets, by name.

    As the columns say, else as the input is called, `id` and `target`; the only one left for an only input.
    Raises InputError.
    """
    asked = task.columns
    for name in (*asked.inputs.values(), asked.id, asked.target):
        if name is not None and name not in held:
            raise InputError(f"{what} has no {kind} called '{name}'; it has {_some(held)}")
    taken = {*asked.inputs.values(), *task.wanted}
    ids = asked.id or ("id" if "id" in held and "id" not in taken else None)
    target = asked.target or ("target" if "target" in held and "target" not in taken else None)
    found = {name: asked.inputs.get(name, name) for name in task.wanted}
    missing = [name for name, column in found.items() if column not in held]
    rest = [name for name in held if name not in (ids, target)]
    if len(task.wanted) == len(missing) == len(rest) == 1:
        return {missing[0]: rest[0]}, ids, target
    if missing:
        raise InputError(
            f"{what} has no {kind} called '{missing[0]}', as the model's input is; it has {_some(held)}: "
            f"--column {missing[0]}=NAME says which it is"
        )
    return found, ids, target


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join(list(names)[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "none"


class Arrays(Base):
    """Arrays whose first axis is the rows, in whatever store. identity: of the store."""

    def __init__(self, held: Mapping[str, Like], task: Task, what: str, identity: dict[str, Any]) -> None:
        super().__init__(task)
        inputs, ids, target = chosen(held, task, what)
        target = target if task.targets else None
        self.what, self._identity = what, identity
        self.arrays = {name: held[at] for name, at in inputs.items()}
        self.ids, self.target = held[ids] if ids else None, held[target] if target else None
        self.targeted = target is not None
        for name, x in (*self.arrays.items(), ("id", self.ids), ("target", self.target)):
            if x is not None and not x.shape:
                raise InputError(f"{what}: '{name}' is one value; rows lie along the first axis")
        self.count = next(iter(self.arrays.values())).shape[0]
        for at in (*inputs.values(), *([ids] if ids else []), *([target] if target else [])):
            if held[at].shape[0] != self.count:
                raise InputError(f"{what}: '{at}' has {held[at].shape[0]} rows, the others {self.count}")
        if not self.count:
            raise InputError(f"{what} has no rows")
        self._check(inputs)
        self.notes += _pixels(self.arrays, task)

    def _check(self, inputs: Mapping[str, str]) -> None:
        """What holds for all rows alike: types and sizes. Raises InputError."""
        for name, x in self.arrays.items():
            want, at = self.task.wanted[name], f"{self.what}: '{inputs[name]}'"
            if x.dtype.kind not in "fiub":
                what = {"O": "Python objects", "c": "complex numbers", "U": "text", "S": "text"}.get(x.dtype.kind, str(x.dtype))
                raise InputError(f"{at} holds {what}; input '{name}' takes {want.dtype}")
            if not want.fits(tuple(x.shape[1:])):
                raise InputError(
                    f"{at} has rows of {sizes_text(tuple(x.shape[1:]))}, input '{name}' takes {sizes_text(want.row)}"
                )
        if self.ids is not None and (len(self.ids.shape) != 1 or self.ids.dtype.kind == "V"):
            raise InputError(f"{self.what}: the ids must be one number or text a row")
        if self.target is not None and (len(self.target.shape) != 1 or self.target.dtype.kind not in "iu"):
            raise InputError(f"{self.what}: the target must be one whole number a row, it is {self.target.dtype}")
        adapted({name: np.zeros((1, *x.shape[1:]), np.float32) for name, x in self.arrays.items()}, self.task.wanted,
                self.task.how, self.what)  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def identity(self) -> dict[str, Any]:
        return {**self._identity, "rows": self.count}

    def _take(self, start: int, stop: int) -> Block:
        rows = slice(start, stop)
        try:
            feed = {name: np.asarray(x[rows]) for name, x in self.arrays.items()}
            target = None if self.target is None else classes_of(np.asarray(self.target[rows]), self.task.classes)
        except BROKEN as error:
            raise InputError(f"could not be read: {one_line(error)}") from error
        if self.task.how.of_values:
            feed = adapted(feed, self.task.wanted, self.task.how, self.what)
        return self.task.checked(feed), target

    def _ids(self, start: int, stop: int) -> list[str]:
        if self.ids is None:
            return [str(i) for i in range(start, stop)]
        try:
            found = np.asarray(self.ids[slice(start, stop)]).tolist()
        except BROKEN:
            return [str(i) for i in range(start, stop)]
        return [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else str(v) for v in found]


def _pixels(arrays: Mapping[str, Like], task: Task) -> list[str]:
    """What to say of pictures of bytes that are taken as they are, which is rarely what a model was trained on."""
    return [
        f"'{name}' holds whole numbers of one byte and is taken as it is, 0 to 255; scale=255 makes that 0 to 1"
        for name, x in arrays.items()
        if x.dtype == np.uint8 and task.wanted[name].dtype.kind == "f" and len(x.shape) >= 3 and task.how.scale is None
    ]
