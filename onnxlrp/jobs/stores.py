"""Where results go: Zarr, Parquet, or pictures. Each writes one part at a time, whole, as often as it is asked to.

Row i of the output is row i of the data. A row that was set aside is there too: `explained` is false, numbers are NaN,
the target is -1; `set_aside.csv` has the reason.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..pictures import Style, pictures
from .manifest import Job, Part, flush, folder_for, replacing, write_file

__all__ = ["FORMATS", "Column", "Result", "Store", "csv_text", "format_of", "store_of"]

Array = np.ndarray
LONGEST = 200  # bytes of a name: systems hold 255, with .png and what a file is called while it is written
UNSAFE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)|[. ]$", re.IGNORECASE)  # names that Windows does not hold


@dataclass(frozen=True)
class Column:
    """An array of the output: what a row of it is."""

    dtype: str
    shape: tuple[int, ...]
    tensor: str = ""  # of the model, whose relevance or value it is

    @property
    def fill(self) -> Any:
        """The value of a row that was set aside."""
        return {"f": np.nan, "i": -1, "u": 0, "b": False, "O": ""}[np.dtype(self.dtype).kind]

    def empty(self, rows: int) -> Array:
        return np.full((rows, *self.shape), self.fill, self.dtype)


@dataclass(frozen=True)
class Result:
    """What a part gave: identifiers, and an array for each column. inputs: of the rows that are explained."""

    part: Part
    ids: Sequence[str]
    values: Mapping[str, Array]
    inputs: Mapping[str, Array]


class Store(Protocol):
    """An output. `begin` and `write` may be repeated after a crash; a part is flushed to the disk when `write` returns."""

    wants_inputs: bool

    def begin(self) -> None: ...

    def write(self, result: Result) -> None: ...

    def finish(self) -> None: ...


class ZarrStore:
    """A Zarr group with an array for each column and one chunk of it for each part."""

    wants_inputs = False

    def __init__(self, job: Job, columns: Mapping[str, Column]) -> None:
        self.job, self.columns = job, columns
        self.size = int(job.manifest["run"]["part"])

    def begin(self) -> None:
        import zarr  # deferred: an extra

        if (self.job.out / "zarr.json").is_file():
            return
        rough = self.job.folder / "new.zarr"
        shutil.rmtree(rough, ignore_errors=True)
        group, rows = zarr.create_group(rough, attributes={"onnxlrp": self.job.manifest}), self.job.rows
        for name, column in self.columns.items():
            shape, chunks = (rows, *column.shape), (min(self.size, rows), *(max(n, 1) for n in column.shape))
            about: dict[str, Any] = {"tensor": column.tensor} if column.tensor else {}
            kind = "str" if column.dtype == "O" else column.dtype
            group.create_array(name, shape=shape, chunks=chunks, dtype=kind, fill_value=column.fill, attributes=about)
        group.create_array("id", shape=(rows,), chunks=(min(self.size, rows),), dtype="str", fill_value="")
        for name in (*self.columns, "id"):
            (rough / name / "c").mkdir()  # of chunks: what holds them is on the disk from the beginning
        for path in (rough, *rough.rglob("*")):
            flush(path)
        os.replace(rough, self.job.out)
        flush(self.job.out.parent)

    def write(self, result: Result) -> None:
        import zarr

        group: Any = zarr.open_group(self.job.out, mode="r+")
        part = result.part
        folders = [self.job.out / name / "c" / str(part.index) for name in (*self.columns, "id")]
        for folder in folders:  # what a killed run may have left
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
        for name, values in {**result.values, "id": np.array(result.ids, object)}.items():
            group[name][part.start : part.stop] = values
        for folder in folders:
            for path in [folder, *folder.rglob("*")]:
                if path.exists():  # a chunk of nothing but the fill value is none
                    flush(path)
            if folder.parent.is_dir():
                flush(folder.parent)

    def finish(self) -> None:
        """Remove what a process killed in the middle of a chunk left beside it."""
        for name in (*self.columns, "id"):
            for rough in (self.job.out / name / "c").glob("*.partial"):
                rough.unlink(missing_ok=True)


class ParquetStore:
    """A folder with one Parquet file for each part: what pyarrow, pandas, Polars, DuckDB, Spark and Ray read as a table."""

    wants_inputs = False

    def __init__(self, job: Job, columns: Mapping[str, Column]) -> None:
        self.job, self.columns = job, columns

    def begin(self) -> None:
        folder_for(self.job.out / "part")

    def write(self, result: Result) -> None:
        import pyarrow as pa  # deferred: an extra
        import pyarrow.parquet as pq

        columns = {"id": pa.array(result.ids, pa.string())}
        columns |= {name: _arrow(pa, values) for name, values in result.values.items()}
        fields = [pa.field(name, column.type, metadata=self._about(name)) for name, column in columns.items()]
        whole = io.BytesIO()
        table = pa.table(list(columns.values()), schema=pa.schema(fields))
        pq.write_table(table, whole, compression="zstd", use_dictionary=False)  # no two relevances are equal: 4 times faster
        write_file(self.job.out / f"part-{result.part.index:06d}.parquet", whole.getvalue())

    def _about(self, name: str) -> dict[str, str] | None:
        column = self.columns.get(name)
        return {"tensor": column.tensor} if column is not None and column.tensor else None

    def finish(self) -> None:
        """Remove what a process killed in the middle of a file left."""
        for rough in self.job.out.glob(".part-*"):
            rough.unlink(missing_ok=True)


def _arrow(pa: Any, values: Array) -> Any:
    """An Arrow column: of numbers or text, or of tensors of a fixed shape."""
    if values.dtype.kind == "O":
        return pa.array(values.tolist())
    if values.ndim == 1:
        return pa.array(values)
    if 0 in values.shape:  # tensors without an element have no Arrow type
        return pa.array([[]] * len(values), pa.list_(pa.from_numpy_dtype(values.dtype)))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


class PictureStore:
    """A folder of heat-maps, `<file>.png` or `<row>.png`, and `rows.csv` with what is no picture."""

    wants_inputs = True

    def __init__(self, job: Job, columns: Mapping[str, Column]) -> None:
        self.job, self.columns = job, columns
        self.shown = next(name for name in columns if name.startswith("relevance"))
        self.style = Style(**job.manifest["out"]["picture"])

    def begin(self) -> None:
        folder_for(self.job.out / "rows.csv")

    def write(self, result: Result) -> None:
        rows = np.flatnonzero(result.values["explained"])
        relevance, inputs = result.values[self.shown][rows], result.inputs.get(self.columns[self.shown].tensor)
        drawn = pictures(relevance, range(len(rows)), inputs, self.style) if len(rows) else []
        for row, picture in zip(rows, drawn, strict=True):
            whole = io.BytesIO()
            picture.save(whole, format="PNG")
            write_file(self.job.out / f"{self._name(result, int(row))}.png", whole.getvalue())
        write_file(self._table(result.part), csv_text(self._rows(result)))

    def _name(self, result: Result, row: int) -> str:
        """The path of the data's own file, else its row number: identifiers in a column need not differ."""
        if self.job.manifest["data"]["kind"] == "folder":
            return _file_name(result.ids[row])
        return f"{result.part.start + row:0{len(str(self.job.rows - 1))}d}"

    def _table(self, part: Part) -> Path:
        return self.job.folder / "rows" / f"{part.index:06d}.csv"

    def _rows(self, result: Result) -> Iterable[Sequence[Any]]:
        return zip(result.ids, *(v.tolist() for v in result.values.values() if v.ndim == 1), strict=True)

    def finish(self) -> None:
        flat = [name for name, column in self.columns.items() if not column.shape]
        with replacing(self.job.out / "rows.csv") as file:
            file.write(csv_text([["id", *flat]]).encode())
            for part in self.job.parts:
                file.write(self._table(part).read_bytes())
        for rough in (*self.job.out.rglob(".*.png.*"), *self.job.out.glob(".rows.csv.*")):
            rough.unlink(missing_ok=True)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _file_name(name: str) -> str:
    """An identifier as a path inside the output: its own folders, and nothing that leads out of it."""
    return "/".join(_step(step) for step in name.split("/") if step not in ("", ".", "..")) or "_"


def _step(name: str) -> str:
    """A name that every system can hold; one that has to be changed for that gets a part of its hash, to differ still."""
    safe = re.sub(r'[<>:"\\|?*\x00-\x1f]', "_", name)
    if safe == name and len(name.encode()) <= LONGEST and not UNSAFE.search(name):
        return name
    return f"{safe.encode()[: LONGEST // 2].decode(errors='ignore')}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


FORMATS: dict[str, type[ZarrStore | ParquetStore | PictureStore]] = {
    "zarr": ZarrStore,
    "parquet": ParquetStore,
    "pictures": PictureStore,
}


def format_of(out: Path, asked: str | None) -> str:
    """`zarr`, `parquet` or `pictures`: as asked, or by the name; a name without a suffix is a folder of pictures."""
    kinds = {".zarr": "zarr", ".parquet": "parquet", "": "pictures"}
    if asked is None and out.suffix not in kinds:
        raise InputError(f"{out}: a run writes .zarr, .parquet, or a folder of pictures (a name without a dot); or --format")
    return asked or kinds[out.suffix]


def store_of(job: Job, columns: Mapping[str, Column]) -> Store:
    """The store of a run that has begun."""
    return FORMATS[job.manifest["out"]["format"]](job, columns)
