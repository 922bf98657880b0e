"""Runs a job to its end, here or on a cluster, showing how far it is; what is left undone can be resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import InputError
from .manifest import Job, Part, replacing
from .stores import csv_text

__all__ = ["Summary", "finish"]

Engine = Callable[[Iterable[Part]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Summary:
    """A finished run. rows: of the data. aside: without relevance. outside: whose relevance strays from its initial value.

    now: rows of this session. seconds: it took. batch: rows of one run of the model.
    """

    out: Path
    rows: int
    aside: int
    outside: int
    now: int
    seconds: float
    reason: str  # of the first that was set aside
    batch: int


def finish(job: Job, engine: Engine, close: Callable[[], None]) -> Summary:
    """Have the engine compute what is left, then close the output. Raises InputError when it cannot be written."""
    left = job.left()
    now = sum(part.stop - part.start for part in left)
    begun = time.perf_counter()
    try:
        with _progress(job, now) as advance:
            for facts in engine(left):
                advance(facts)
        seconds = time.perf_counter() - begun
        close()
        aside, outside, reason = _collect(job)
    except OSError as error:
        raise InputError(f"cannot write {job.out}: {error.strerror or error}; --resume goes on when that is mended") from error
    return Summary(job.out, job.rows, aside, outside, now, seconds, reason, int(job.manifest["run"]["batch"]))


def _collect(job: Job) -> tuple[int, int, str]:
    """Write the list of rows that were set aside; how many they are, how many stray, and the first reason."""
    aside, outside, reason = 0, 0, ""
    with replacing(job.folder / "set_aside.csv") as file:
        file.write(csv_text([["row", "id", "reason"]]).encode())
        for mark in job.marks():  # a part at a time: there may be as many rows as in the data
            file.write(csv_text(mark["aside"]).encode())
            reason = reason or next((text for _, _, text in mark["aside"]), "")
            aside, outside = aside + len(mark["aside"]), outside + mark["outside"]
    return aside, outside, reason


# ------------------------------------------------------------------------------------------------------------ progress


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.1f} rows/s")


class _progress:
    """A bar on a terminal, nothing elsewhere: rows done, rate, time left, rows set aside."""

    def __init__(self, job: Job, now: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), TextColumn("{task.fields[aside]}"))
        console = Console(stderr=True)
        self.bar = Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
        self.task = self.bar.add_task("", total=job.rows, completed=job.rows - now, aside="")
        self.aside = 0

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self.bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _advance(self, facts: dict[str, Any]) -> None:
        self.aside += len(facts["aside"])
        text = f"{self.aside:,} set aside" if self.aside else ""
        self.bar.update(self.task, advance=facts["rows"], aside=text)
