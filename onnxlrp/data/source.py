"""What every reader of a data set is: rows by position, each checked by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["Columns", "Rows", "Source"]


@dataclass(frozen=True)
class Rows:
    """Rows start to stop of a data set: those that could be read, and why the others could not.

    ids: one per row, also of unreadable ones. good: int64, the positions (0 to stop - start - 1, ascending) of the rows in
    feed. feed: {input: array (len(good), ...)} of the model's types. target: int64 (len(good),), from a target column.
    unreadable: {position: reason}, one line each.
    """

    start: int
    stop: int
    ids: list[str]
    good: np.ndarray
    feed: dict[str, np.ndarray]
    target: np.ndarray | None
    unreadable: dict[int, str]


@dataclass(frozen=True)
class Columns:
    """Which columns (or arrays of an archive, a group) are the id, the class to explain, and {input: column} the inputs."""

    id: str | None = None
    target: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A data set. `read` may be called from any thread, for any range, in any order; in order is fast."""

    notes: list[str]  # what the user should hear of, such as files that are ignored

    def __len__(self) -> int:
        """How many rows there are, unreadable ones included."""
        ...

    def identity(self) -> dict[str, Any]:
        """JSON that changes when the data does: kind, count, names and sizes, hashes of footers or ends."""
        ...

    def read(self, start: int, stop: int) -> Rows:
        """The rows start to stop, 0 ≤ start ≤ stop ≤ len. Bad rows are `unreadable`, never an exception."""
        ...
