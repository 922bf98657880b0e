"""The .npy and .npz formats: what a file declares, held against what it can hold before memory is asked for.

numpy allocates what a header declares; a header of a hundred bytes may declare petabytes, and a .npz of a few thousand may
unpack to gigabytes.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import InputError

__all__ = ["ARRAYS", "Header", "Stored", "header", "load", "parts"]

ARRAYS = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # and how such a file begins
MOST = 2**30  # bytes that a compressed array may unpack to: it has to be in memory as a whole
DENSEST = 1032  # bytes that deflate makes of one, at most
LOCAL = 30  # bytes of a local file header in a zip, before the name


@dataclass(frozen=True)
class Header:
    """What a .npy declares: values of `dtype` in `shape`, from byte `offset` on; fortran: the first axis runs fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Member:
    """An array of a .npz. start: of its bytes in the file, None where they are compressed."""

    name: str
    header: Header
    start: int | None


def header(file: IO[bytes], name: str, size: int) -> Header:
    """The header at the file's position, of `size` bytes in all. Raises InputError for what cannot be there."""
    begin = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise InputError(f"{name} is .npy of version {version[0]}.{version[1]}; arrays of numbers are written as 1.0")
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{name} is not a complete .npy file: {' '.join(str(error).split())[:200]}") from error
    found = Header(shape, dtype, fortran, file.tell() - begin)
    if dtype.hasobject:
        raise InputError(f"{name} holds Python objects: save it as an array of numbers")
    if any(not 0 <= n < 2**62 for n in shape) or found.offset + found.nbytes > size:
        sizes = "×".join(map(str, shape))
        raise InputError(
            f"{name} declares {sizes} values of {dtype}, and has {size - found.offset:,} bytes: it is cut off or damaged"
        )
    return found


def members(path: Path) -> dict[str, Member]:
    """The arrays of a .npz by name, checked, none of them read. Raises InputError, BadZipFile."""
    found, size = {}, path.stat().st_size
    with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if not info.filename.endswith(".npy") or name in found:
                raise InputError(
                    f"{path} is not what numpy.savez writes: it holds '{info.filename}'" + " twice" * (name in found)
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path}: '{name}' is packed in a way that numpy does not write: save it with numpy.savez")
            packed = info.compress_type != zipfile.ZIP_STORED
            if info.compress_size > size or info.file_size > info.compress_size * (DENSEST if packed else 1):
                raise InputError(f"{path}: '{name}' declares {info.file_size:,} bytes in a file of {size:,}: it is damaged")
            with archive.open(info) as opened:
                head = header(opened, f"'{name}' in {path}", info.file_size)
            start = None if packed else _start(raw, info) + head.offset
            found[name] = Member(name, head, start)
    return found


def _start(raw: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, whose name and extra field may differ from the directory's."""
    raw.seek(info.header_offset)
    local = raw.read(LOCAL)
    return info.header_offset + LOCAL + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


@dataclass(frozen=True)
class Stored:
    """An array in a file, from byte `start` on. A slice of its first axis is read when it is asked for, and nothing else."""

    path: Path
    header: Header
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype

    def whole(self) -> np.ndarray:
        """All of it. Raises InputError where the file is shorter by now."""
        return self._read(self.start, math.prod(self.shape)).reshape(self.shape, order="F" if self.header.fortran else "C")

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows rows.start to rows.stop."""
        first, count = rows.start, rows.stop - rows.start
        if self.header.fortran and len(self.shape) > 1:  # a row's values lie all over the file
            return np.array(np.memmap(self.path, self.dtype, "r", self.start, self.shape, "F")[rows])
        each = math.prod(self.shape[1:])
        return self._read(self.start + first * each * self.dtype.itemsize, count * each).reshape(count, *self.shape[1:])

    def _read(self, offset: int, count: int) -> np.ndarray:
        found = np.fromfile(self.path, self.dtype, count, offset=offset) if count else np.empty(0, self.dtype)
        if len(found) != count:
            raise InputError(f"{self.path} became shorter while it was read")
        return found


def parts(path: Path) -> Stored | dict[str, Stored | np.ndarray]:
    """The array of a .npy, or those of a .npz by name: what is compressed is unpacked, what is not stays in the file.

    Raises InputError, for compressed arrays that unpack to more than `MOST` too.
    """
    with path.open("rb") as file:
        begins = file.read(6)
        if not begins.startswith(tuple(ARRAYS.values())):
            raise InputError(f"{path} is not a {path.suffix.lower()} file: numpy.save and numpy.savez write them")
        if begins == ARRAYS[".npy"]:
            file.seek(0)
            head = header(file, str(path), os.fstat(file.fileno()).st_size)
            return Stored(path, head, head.offset)
    found = members(path)
    packed = [m for m in found.values() if m.start is None]
    size = sum(m.header.nbytes for m in packed)
    if size > MOST:
        raise InputError(
            f"{path}: what is compressed in it ({', '.join(m.name for m in packed[:5])}) unpacks to {size:,} bytes, which have "
            "to fit into memory: save it uncompressed, with numpy.savez or as .npy, which is read in parts"
        )
    out: dict[str, Stored | np.ndarray] = {}
    with np.load(path, allow_pickle=False) as archive:
        for m in found.values():
            out[m.name] = archive[m.name] if m.start is None else Stored(path, m.header, m.start)
    return out


def load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy, or {name: array} of a .npz, in memory. Raises InputError."""
    found = parts(path)
    if isinstance(found, Stored):
        return found.whole()
    return {name: x.whole() if isinstance(x, Stored) else x for name, x in found.items()}
