"""What is fixed for a run when it begins, and what of it is done: files beside the output, each complete or not there.

`OUT.run/` holds `manifest.json`, the compiled `model.onnx`, and `parts/000012.json` for each part whose rows are on disk.
A part is written first, then flushed to the disk, then marked: whatever happens, a marked part is whole, and one that is
not marked is made again, by the same runs of the same file on the same rows, byte for byte the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

__all__ = ["Job", "Part", "changes", "claimed", "flush", "folder_for", "replacing", "write_file"]

FORMAT = 1
HASH = re.compile("[0-9a-f]{64}")
LOCKS = ("lock", "running")


@dataclass(frozen=True)
class Part:
    """Rows start to stop: what is computed, written and marked as one."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """A run: where its output goes, and its manifest. Small, and the same on every machine that sees the files."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.run")

    @property
    def model(self) -> Path:
        """The compiled model, which every session of the run opens."""
        return self.folder / "model.onnx"

    @property
    def begun(self) -> bool:
        return (self.folder / "manifest.json").is_file()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Raises InputError when it is not one of ours."""
        path = self.folder / "manifest.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a run's manifest: remove {self.folder} to begin anew") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{path} was written by another version of onnxlrp: finish the run with that one")
        return found

    @property
    def rows(self) -> int:
        return int(self.manifest["data"]["rows"])

    @property
    def parts(self) -> list[Part]:
        return [self.part(i) for i in range(-(-self.rows // int(self.manifest["run"]["part"])))]

    def part(self, index: int) -> Part:
        size = int(self.manifest["run"]["part"])
        return Part(index, index * size, min((index + 1) * size, self.rows))

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Fix the run: from here on it can be resumed. The model must be there."""
        for path in self.folder.glob(f"{self.model.name}*"):  # with its weights
            flush(path)
        write_file(self.folder / "manifest.json", json.dumps({"format": FORMAT, **manifest}, indent=1))

    # parts -----------------------------------------------------------------------------------------------------------

    def _mark(self, part: Part) -> Path:
        return self.folder / "parts" / f"{part.index:06d}.json"

    def left(self) -> list[Part]:
        """Parts that are not marked, in order."""
        done = {name.name for name in (self.folder / "parts").glob("*.json")}
        return [part for part in self.parts if self._mark(part).name not in done]

    def mark(self, part: Part, facts: Mapping[str, Any]) -> None:
        """Say that a part is on disk. facts: what a summary needs of it."""
        write_file(self._mark(part), json.dumps(facts))

    def facts(self, part: Part) -> dict[str, Any] | None:
        """What was said of a part, None where it is not marked."""
        path = self._mark(part)
        found: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
        return found

    def marks(self) -> Iterator[dict[str, Any]]:
        """The facts of every part, in order."""
        for part in self.parts:
            yield json.loads(self._mark(part).read_text("utf-8"))

    def clear(self) -> None:
        """Remove what a run that was killed before it had begun left."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in LOCKS:
                path.unlink()


def changes(then: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """What differs between two manifests, in words: `options.composite was "epsilon", is "epsilon_plus"`."""
    found = []
    for key in [*then, *(k for k in now if k not in then)]:
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += changes(a, b, f"{where}{key}.")
        elif isinstance(a, str) and isinstance(b, str) and a != b and HASH.fullmatch(a) and HASH.fullmatch(b):
            found.append(f"{where}{key} has changed")
        elif a != b:
            found.append(f"{where}{key} was {_short(a)}, is {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return "not given" if value is None else text if len(text) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------------------------------ files, durably


def flush(path: Path) -> None:
    """Have the disk hold a file's contents, or a folder's names, before anything says that it does."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        if path.is_dir():  # Windows does not open folders
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_for(path: Path) -> None:
    """Make the folder of a file, on the disk too."""
    if not path.parent.is_dir():
        folder_for(path.parent)
        path.parent.mkdir(exist_ok=True)
        flush(path.parent.parent)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to: `path` is it, on the disk and complete, at the end, or as it was."""
    folder_for(path)
    rough = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with rough.open("wb") as file:
            yield file
        flush(rough)
        os.replace(rough, path)
        flush(path.parent)
    finally:
        rough.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """A small file, on the disk and complete, or as it was."""
    with replacing(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode())


@contextmanager
def claimed(job: Job) -> Iterator[None]:
    """Keep other runs out of this output. The system lets go of the lock when the process ends, however it ends."""
    from filelock import FileLock, Timeout  # deferred: an extra

    if job.folder.exists() and not (job.folder / "lock").exists() and (not job.folder.is_dir() or any(job.folder.iterdir())):
        raise InputError(f"{job.folder} exists and is of no run: choose another name for the output, or remove it")
    folder_for(job.folder / "lock")
    holder, lock = job.folder / "running", FileLock(job.folder / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        by = holder.read_text("utf-8") if holder.is_file() else "another process"
        raise InputError(f"{job.out}: {by} is writing it; wait for it, or stop it") from error
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        if not job.begun:  # nothing was computed: leave nothing behind
            with suppress(OSError):
                job.clear()  # the lock last: it says whose folder this is
            shutil.rmtree(job.folder, ignore_errors=True)
        lock.release()
