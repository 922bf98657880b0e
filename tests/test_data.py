"""Data sets: every form read gives the arrays it was written from; bad rows are named; what is wrong as a whole is one line."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import ExifTags, Image

from onnxlrp.cli import cli
from onnxlrp.data import Columns, open_data
from onnxlrp.errors import InputError
from onnxlrp.inputs import Preprocessing, picked, read_input, treatment
from onnxlrp.preprocessing import preprocessing_of
from onnxlrp.report.maps import _pixels

pa = pytest.importorskip("pyarrow", reason="Parquet is read by pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
zarr = pytest.importorskip("zarr", reason="Zarr is read by zarr")

Array = np.ndarray
ROWS = 23
MODELS = Path(__file__).parent.parent / "models"


@dataclass
class Face:
    """An input of a model, as onnxruntime describes it."""

    shape: tuple[Any, ...]
    type: str = "tensor(float)"


IMAGE = {"image": Face(("n", 1, 4, 6))}
RNG = np.random.default_rng(7)
X = RNG.standard_normal((ROWS, 1, 4, 6)).astype(np.float32)
PIXELS = RNG.integers(0, 256, (ROWS, 4, 6), dtype=np.uint8)


def everything(source: Any, step: int = 5) -> tuple[Array, dict[int, str], list[str]]:
    """All rows, read by `step`, of a source with one input; reasons by row; ids."""
    found, reasons, ids = [], {}, []
    for i in range(0, len(source), step):
        rows = source.read(i, min(i + step, len(source)))
        assert rows.good.dtype == np.int64
        (x,) = rows.feed.values()
        assert len(x) == len(rows.good)
        assert sorted([*rows.good, *rows.unreadable]) == list(range(rows.stop - rows.start))
        found.append(x)
        ids += rows.ids
        reasons |= {i + at: reason for at, reason in rows.unreadable.items()}
    return np.concatenate(found), reasons, ids


def write(path: Path, columns: dict[str, Any], rows: int = 7) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def encoded(pixels: Array) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, order: Any) -> None:
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    source = open_data(tmp_path / "x.npy", IMAGE)
    x, reasons, ids = everything(source)
    assert np.array_equal(x, X)
    assert x.dtype == np.float32
    assert not reasons
    assert ids == [str(i) for i in range(ROWS)]
    assert np.array_equal(source.read(11, 12).feed["image"], X[11:12])
    assert source.read(3, 3).feed["image"].shape == (0, 1, 4, 6)
    with pytest.raises(IndexError):
        source.read(20, 24)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", image=X.astype(">f8"), id=np.arange(ROWS) * 10, target=np.arange(ROWS) % 3)
    source = open_data(tmp_path / "x.npz", IMAGE, classes=3)
    rows = source.read(4, 9)
    assert np.array_equal(rows.feed["image"], X[4:9])
    assert rows.ids == ["40", "50", "60", "70", "80"]
    assert rows.target is not None
    assert rows.target.tolist() == [1, 2, 0, 1, 2]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("group", [False, True])
def test_zarr(tmp_path: Path, version: Any, group: bool) -> None:
    path = tmp_path / "x.zarr"
    if group:
        root = zarr.open_group(path, mode="w", zarr_format=version)
        root.create_array("image", data=X, chunks=(4, 1, 4, 3))
        root.create_array("target", data=np.arange(ROWS), chunks=(5,))
    else:
        zarr.create_array(path, data=X, chunks=(4, 1, 4, 3), zarr_format=version)
    source = open_data(path, IMAGE)
    x, reasons, _ = everything(source)
    assert np.array_equal(x, X)
    assert not reasons
    target = source.read(9, 11).target
    assert target is None or target.tolist() == [9, 10]
    assert (target is not None) == group


def test_bytes_are_taken_as_they_are_unless_scaled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS[:, None])
    plain = open_data(tmp_path / "x.npy", IMAGE)
    assert np.array_equal(everything(plain)[0], PIXELS[:, None].astype(np.float32))
    assert "0 to 255" in plain.notes[0]
    how = Preprocessing(255, (0.5,), (0.25,))
    scaled = open_data(tmp_path / "x.npy", IMAGE, how)
    np.testing.assert_allclose(everything(scaled)[0], (PIXELS[:, None] / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    assert not scaled.notes
    np.testing.assert_array_equal(read_input(tmp_path / "x.npy", IMAGE, how)["image"], everything(scaled)[0])
    colours = {"image": Face(("n", 2, 2, 3))}  # by shape: (N, H, W, C)
    np.save(tmp_path / "c.npy", np.ones((2, 2, 2, 3), np.float32))
    per = open_data(tmp_path / "c.npy", colours, Preprocessing(mean=(1, 2, 3)))
    assert np.array_equal(per.read(0, 1).feed["image"][0, 0, 0], [0, -1, -2])


def test_bad_rows_are_named_and_the_others_kept(tmp_path: Path) -> None:
    x = X.astype(np.float64)
    x[3, 0, 1, 1], x[8, 0, 0, 0], x[9] = np.nan, np.inf, 1e300
    np.savez(tmp_path / "x.npz", image=x, target=np.where(np.arange(ROWS) == 12, 7, 1))
    found, reasons, _ = everything(open_data(tmp_path / "x.npz", IMAGE, classes=5), 10)
    assert {row: reason.split("(s) ")[-1] for row, reason in reasons.items()} == {
        3: "that are NaN or infinite", 8: "that are NaN or infinite", 9: "that are too large for float32",
        12: "target 7 is no class; classes are 0 to 4, or -1 for the largest output",
    }  # fmt: skip
    assert np.array_equal(found, np.delete(X, [3, 8, 9, 12], 0))
    found, reasons, _ = everything(open_data(tmp_path / "x.npz", IMAGE, gaps=True), 10)
    assert sorted(reasons) == [8, 9]
    assert np.isnan(found[3]).sum() == 1


@pytest.mark.parametrize(
    ("kind", "values", "good"),
    [
        ("tensor(int64)", np.array([1.0, 2.5, np.nan, -3.0, 1e30]), [1, -3]),
        ("tensor(uint8)", np.array([0, 255, 256, -1, 7]), [0, 255, 7]),
        ("tensor(uint64)", np.array([0, -1, 5, 6, 7]), [0, 5, 6, 7]),
        ("tensor(int64)", np.array([2**63, 1, 2, 3, 4], np.uint64), [1, 2, 3, 4]),
        ("tensor(float16)", np.array([1.0, 65504.0, 1e6, -1e6, 0.5]), [1, 65504, 0.5]),
        ("tensor(bool)", np.array([0, 1, 2, 1, 0]), [0, 1, 1, 0]),
        ("tensor(float)", np.array([True, False, True, True, False]), [1, 0, 1, 1, 0]),
    ],
)
def test_values_that_the_type_lacks_are_bad_rows(tmp_path: Path, kind: str, values: Array, good: list[float]) -> None:
    np.save(tmp_path / "x.npy", values[:, None])
    found, reasons, _ = everything(open_data(tmp_path / "x.npy", {"x": Face((None, 1), kind)}))
    assert found.ravel().tolist() == good
    assert len(reasons) == 5 - len(good)


# ------------------------------------------------------------------------------------------------------------ Parquet


def tensors() -> Any:
    kind = pa.fixed_shape_tensor(pa.float32(), (6, 4, 1), permutation=[2, 1, 0])  # stored as (6, 4, 1), means (1, 4, 6)
    storage = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(X.transpose(0, 3, 2, 1)).ravel(), 24)
    return pa.ExtensionArray.from_storage(kind, storage)


FORMS: dict[str, Any] = {
    "list": lambda: pa.array(list(X.reshape(ROWS, -1))),
    "large list": lambda: pa.array(X.reshape(ROWS, -1).tolist(), pa.large_list(pa.float64())),
    "list of fixed size": lambda: pa.array(list(X.reshape(ROWS, -1)), pa.list_(pa.float32(), 24)),
    "nested lists": lambda: pa.array(X.tolist(), pa.list_(pa.list_(pa.list_(pa.float32())))),
    "nested, mixed": lambda: pa.array(X.tolist(), pa.list_(pa.list_(pa.list_(pa.float32(), 6)), 1)),
    "tensor": tensors,
}


@pytest.mark.parametrize("form", FORMS)
def test_parquet(tmp_path: Path, form: str) -> None:
    write(tmp_path / "x.parquet", {"id": [f"r{i}" for i in range(ROWS)], "image": FORMS[form](), "other": ["?"] * ROWS})
    source = open_data(tmp_path / "x.parquet", IMAGE)
    for step in (1, 5, ROWS):
        x, reasons, ids = everything(source, step)
        assert np.array_equal(x, X)
        assert not reasons
        assert ids == [f"r{i}" for i in range(ROWS)]
    for start, stop in RNG.integers(0, ROWS, (20, 2)):
        rows = source.read(min(start, stop), max(start, stop))
        assert np.array_equal(rows.feed["image"], X[min(start, stop) : max(start, stop)])


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_of_encoded_pictures(tmp_path: Path, struct: bool) -> None:
    data: list[Any] = [encoded(p) for p in PIXELS]
    data[5], data[6] = data[5][:60], b"nothing"
    column = [{"bytes": d, "path": None} for d in data] if struct else data
    if struct:
        column[9] = {"bytes": None, "path": "x.png"}
    write(tmp_path / "x.parquet", {"picture": column, "label": np.arange(ROWS)})
    source = open_data(tmp_path / "x.parquet", IMAGE, columns=Columns(None, "label", {"image": "picture"}))
    x, reasons, _ = everything(source)
    bad = [5, 6, 9] if struct else [5, 6]
    assert sorted(reasons) == bad
    np.testing.assert_allclose(x, np.delete(PIXELS, bad, 0)[:, None] / 255, rtol=1e-6)
    rows = source.read(4, 8)
    assert rows.target is not None
    assert rows.target.tolist() == [4, 7]


def test_parquet_of_features(tmp_path: Path) -> None:
    table = {
        "id": np.arange(ROWS),
        "name": ["x"] * ROWS,
        "a": np.arange(ROWS),
        "b": np.arange(ROWS) / 4,
        "c": [True, None] * 11 + [False],
    }
    write(tmp_path / "x.parquet", table)
    wanted = {"input": Face(("n", 3))}
    x, reasons, ids = everything(open_data(tmp_path / "x.parquet", wanted))
    assert sorted(reasons) == list(range(1, ROWS, 2))
    assert "'c' has 1 null" in reasons[1]
    expected = np.stack([np.arange(ROWS), np.arange(ROWS) / 4, np.arange(ROWS) != 22], 1).astype(np.float32)[::2]
    assert np.array_equal(x, expected)
    assert ids[4] == "4"
    with pytest.raises(InputError, match="3 columns of numbers"):
        open_data(tmp_path / "x.parquet", {"input": Face(("n", 4))})


def test_null_features_are_gaps_where_the_model_fills_them(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"a": [1, None, 3], "b": [0.5, 1.5, None]})
    x, reasons, _ = everything(open_data(tmp_path / "x.parquet", {"input": Face(("n", 2))}, gaps=True))
    assert not reasons
    np.testing.assert_array_equal(x, [[1, 0.5], [np.nan, 1.5], [3, np.nan]])


def test_several_inputs_and_parts(tmp_path: Path) -> None:
    wanted = {"ids": Face(("n", "length"), "tensor(int64)"), "mask": Face(("n", "length"), "tensor(int64)")}
    ids = np.arange(60).reshape(6, 10)
    for part in range(3):
        rows = ids[2 * part : 2 * part + 2]
        place = tmp_path / f"day={part}"
        place.mkdir()
        write(place / "part.parquet", {"mask": (rows > 20).astype(np.int8).tolist(), "ids": rows.tolist(), "k": [1, 2]}, 1)
    (tmp_path / "_SUCCESS").touch()
    source = open_data(tmp_path, wanted)
    rows_read = source.read(1, 6)
    assert np.array_equal(rows_read.feed["ids"], ids[1:])
    assert np.array_equal(rows_read.feed["mask"], ids[1:] > 20)
    write(tmp_path / "day=2" / "part.parquet", {"ids": ids.tolist()})
    with pytest.raises(InputError, match="column 'mask' is not as in"):
        open_data(tmp_path, wanted)


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    rows: list[Any] = X.reshape(ROWS, -1).tolist()
    rows[0], rows[2], rows[4], rows[20] = rows[0][:-1], None, [*rows[4][:-1], None], [*rows[20][:-1], float("nan")]
    write(tmp_path / "x.parquet", {"image": rows, "target": [None if i == 6 else 1 for i in range(ROWS)]})
    x, reasons, _ = everything(open_data(tmp_path / "x.parquet", IMAGE), ROWS)
    assert np.array_equal(x, np.delete(X, [0, 2, 4, 6, 20], 0))
    assert {row: text.split(": ")[-1] for row, text in reasons.items()} == {
        0: "'image' has rows of 23, input 'image' takes 1×4×6", 2: "'image' is null", 4: "'image' has 1 null value(s)",
        6: "'target' has 1 null value(s)", 20: "input 'image' has 1 value(s) that are NaN or infinite",
    }  # fmt: skip
    ragged = [[[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], None]]
    write(tmp_path / "ragged.parquet", {"x": ragged})
    x, reasons, _ = everything(open_data(tmp_path / "ragged.parquet", {"x": Face(("n", 2, 2))}))
    assert x.tolist() == [ragged[1]]
    assert "different lengths" in reasons[0]
    assert "null list" in reasons[2]


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": FORMS["list"]()}), path, row_group_size=7, use_dictionary=False, compression="snappy")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    at = column.data_page_offset
    data[at : at + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    x, reasons, ids = everything(open_data(path, IMAGE))
    assert sorted(reasons) == list(range(7, 14))
    assert "could not be read" in reasons[7]
    assert np.array_equal(x, np.delete(X, range(7, 14), 0))
    assert len(ids) == ROWS


def test_reading_forward_decodes_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", {"image": FORMS["list"]()})
    seen: list[Any] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: Any, rows: int, groups: list[int], *rest: Any, **more: Any) -> Any:
        seen.extend(groups)
        return plain(self, rows, groups, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    everything(open_data(tmp_path / "x.parquet", IMAGE), 3)
    assert seen == [0, 1, 2, 3]


def test_batches_within_a_row_group_hold_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxlrp.data.parquet.BATCH", 24 * 4 * 3)
    write(tmp_path / "x.parquet", {"image": pa.array(X.reshape(ROWS, -1).tolist(), pa.list_(pa.float32()))}, ROWS)
    source: Any = open_data(tmp_path / "x.parquet", IMAGE)
    x, _, _ = everything(source, 4)
    assert np.array_equal(x, X)
    assert source.batch.stop - source.batch.start <= 3
    assert np.array_equal(source.read(2, 4).feed["image"], X[2:4])  # back again


# ------------------------------------------------------------------------------------------------------------ folders


def test_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    names = ["a10.png", "a2.png", "b/ä.png", "b.png"]
    for name, pixels in zip(names, PIXELS, strict=False):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "b" / "cut.png").write_bytes(encoded(RNG.integers(0, 256, (4, 6), dtype=np.uint8))[:50])
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "._a2.png").write_text("")
    source = open_data(tmp_path, IMAGE)
    x, reasons, ids = everything(source, 2)
    assert ids == ["a10.png", "a2.png", "b.png", "b/cut.png", "b/ä.png"]
    assert list(reasons) == [3]
    np.testing.assert_allclose(x[:, 0], PIXELS[[0, 1, 3, 2]] / 255, rtol=1e-6)
    assert "1 other file(s)" in source.notes[0]
    assert "1 .txt" in source.notes[0]


def test_folder_of_arrays(tmp_path: Path) -> None:
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", X[i : i + 1] if i % 2 else X[i])
    np.save(tmp_path / "6.npy", X[6, :, :3])
    np.save(tmp_path / "7.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "8.npy").write_bytes(b"")
    x, reasons, _ = everything(open_data(tmp_path, IMAGE))
    assert np.array_equal(x, X[:6])
    assert "must have rows of 1×4×6, got 1×3×6" in reasons[6]
    assert "Python objects" in reasons[7]
    assert sorted(reasons) == [6, 7, 8]


def test_free_sizes_are_those_of_the_first_readable_row(tmp_path: Path) -> None:
    free = {"image": Face(("n", 1, "h", "w"))}
    (tmp_path / "0.npy").write_bytes(b"no array")
    for i, size in enumerate([4, 4, 5]):
        np.save(tmp_path / f"{i + 1}.npy", np.ones((1, size, 6), np.float32))
    x, reasons, _ = everything(open_data(tmp_path, free), 1)
    assert x.shape == (2, 1, 4, 6)
    assert sorted(reasons) == [0, 3]
    assert "rows of 1×4×6, got 1×5×6" in reasons[3]
    Image.fromarray(PIXELS[0]).save(tmp_path / "z.png")
    with pytest.raises(InputError, match="--input-size"):
        open_data(tmp_path, free)
    assert open_data(tmp_path, free, Preprocessing(size=(4, 6))).read(4, 5).feed["image"].shape == (1, 1, 4, 6)


# --------------------------------------------------------------------------------------------------- the whole of it


def bad(tmp_path: Path, name: str) -> tuple[Path, Columns]:
    path, columns = tmp_path / "x", Columns()
    path.mkdir()
    np.save(path / "x.npy", X[:, 0])
    np.save(path / "empty.npy", X[:0])
    np.savez(path / "x.npz", a=X, b=X)
    np.savez(path / "short.npz", image=X, target=np.arange(3))
    np.savez(path / "half.npz", image=X, target=np.arange(ROWS) / 2)
    write(path / "x.parquet", {"image": list(X.reshape(ROWS, -1)), "text": ["x"] * ROWS})
    (path / "not.parquet").write_text("PAR1 hello")
    (path / "nothing").mkdir()
    (path / "x.csv").write_text("1,2")
    (path / "x.zarr").mkdir()
    (path / "x.zarr" / "zarr.json").write_text("{")
    place = {"mixed": path, "missing column": path / "x.parquet", "unknown input": path / "x.parquet",
             "text column": path / "x.parquet", "text target": path / "x.parquet"}.get(name, path / name)  # fmt: skip
    if name == "missing column":
        columns = Columns(target="label")
    elif name == "unknown input":
        columns = Columns(inputs={"pic": "image"})
    elif name == "text column":
        columns = Columns(inputs={"image": "text"})
    elif name == "text target":
        columns = Columns(target="text")
    return place, columns


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "x.npy": "rows of 4×6, input 'image' takes 1×4×6", "empty.npy": "has no rows", "x.npz": "no array called 'image'",
        "short.npz": "'target' has 3 rows", "half.npz": "whole number", "nowhere.npy": "no such file", "x.csv": "data sets are",
        "not.parquet": "not a complete Parquet file", "nothing": "has no pictures", "mixed": "beside pictures",
        "missing column": "no column called 'label'", "unknown input": "no input called 'pic'", "x.zarr": "damaged",
        "text column": "column 'text' is string", "text target": "must be whole numbers",
    }.items(),
)  # fmt: skip
def test_what_is_wrong_with_the_whole_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    place, columns = bad(tmp_path, name)
    with pytest.raises(InputError, match=text) as caught:
        open_data(place, IMAGE, columns=columns)
    assert "\n" not in str(caught.value)


def test_options_that_would_say_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for how in (Preprocessing(size=(4, 6)), Preprocessing(channels="bgr"), Preprocessing(mean=(1, 2, 3))):
        with pytest.raises(InputError, match=r"leave it out|mean has 3 values"):
            open_data(tmp_path / "x.npy", IMAGE, how)
    with pytest.raises(InputError, match="which has no columns"):
        open_data(tmp_path, IMAGE, columns=Columns(id="name"))
    Image.fromarray(PIXELS[0]).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="give scale=1"):
        open_data(tmp_path, {"image": Face(("n", 1, 4, 6), "tensor(uint8)")})


@pytest.mark.parametrize("kind", ["folder", "npy", "npz", "parquet", "zarr"])
def test_identity_tells_data_apart(tmp_path: Path, kind: str) -> None:
    def make(place: Path, x: Array) -> Any:
        place.mkdir()
        if kind == "folder":
            for i, row in enumerate(x):
                np.save(place / f"{i}.npy", row)
            return open_data(place, IMAGE).identity()
        path = place / f"x.{kind}"
        if kind == "npy":
            np.save(path, x)
        elif kind == "npz":
            np.savez(path, image=x)
        elif kind == "parquet":
            write(path, {"image": list(x.reshape(len(x), -1))})
        else:
            zarr.create_array(path, data=x)
        return open_data(path, IMAGE).identity()

    first = make(tmp_path / "a", X)
    assert json.loads(json.dumps(first)) == first
    assert make(tmp_path / "b", X) == first
    assert make(tmp_path / "c", X[:-1]) != first
    if kind in ("npy", "npz", "parquet"):  # of the others, sizes and descriptions alone are looked at
        assert make(tmp_path / "d", X + 1) != first


# ------------------------------------------------------------------------------------------------------ preprocessing


def colours(height: int, width: int) -> Array:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_and_crop(tmp_path: Path) -> None:
    pixels = colours(20, 37)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    wanted = {"image": Face((1, 3, 8, 8))}
    x = read_input(tmp_path / "x.png", wanted, Preprocessing(resize=10))["image"]
    small = Image.fromarray(pixels).resize((18, 10), Image.Resampling.BILINEAR)  # 10·37/20 = 18.5, rounded down
    np.testing.assert_allclose(x[0], np.asarray(small)[1:9, 5:13].transpose(2, 0, 1) / np.float32(255), rtol=1e-6)
    cut = read_input(tmp_path / "x.png", {"image": Face((1, 3, "h", "w"))}, Preprocessing(crop=(6, 7)))["image"]
    np.testing.assert_allclose(cut[0], pixels[7:13, 15:22].transpose(2, 0, 1) / np.float32(255), rtol=1e-6)
    for how, text in ((Preprocessing(crop=(6, 8)), "crop makes pictures 6"), (Preprocessing(resize=7), "cannot be cut out")):
        with pytest.raises(InputError, match=text):
            read_input(tmp_path / "x.png", wanted, how)


def test_order_of_channels(tmp_path: Path) -> None:
    pixels = colours(4, 6)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    how = Preprocessing(1.0, (1, 2, 3), channels="bgr")
    x = read_input(tmp_path / "x.png", {"image": Face((1, 3, 4, 6))}, how)["image"]
    np.testing.assert_allclose(x[0].transpose(1, 2, 0), pixels[..., ::-1] - np.float32([1, 2, 3]))
    with pytest.raises(InputError, match="bgr"):
        read_input(tmp_path / "x.png", IMAGE, how)


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    pixels = colours(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rows of the picture are columns of the file
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "x.png", exif=exif)
    x = read_input(tmp_path / "x.png", {"image": Face((1, 3, 4, 6))})["image"]
    np.testing.assert_allclose(x[0].transpose(1, 2, 0), pixels / np.float32(255), rtol=1e-6)


TEXT = "size: [4, 6]\nscale: 2\nmean: [1, 2, 3]\nstd: 4\nlayout: nchw\nchannels: bgr\n"


def test_description_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="descriptions in YAML are read by PyYAML")
    (tmp_path / "p.yaml").write_text(TEXT)
    (tmp_path / "p.json").write_text(
        '{"size": "4x6", "scale": 2.0, "mean": [1, 2, 3], "std": [4], "layout": "nchw", "channels": "bgr"}'
    )
    expected = Preprocessing(2.0, (1, 2, 3), (4,), "nchw", (4, 6), channels="bgr")
    for name in ("p.yaml", "p.json"):
        assert preprocessing_of({"preprocess": tmp_path / name}) == expected
    options = {"preprocess": tmp_path / "p.yaml", "scale": 3.0, "resize": 9, "mean": (), "other": 1}
    assert preprocessing_of(options) == Preprocessing(3.0, (1, 2, 3), (4,), "nchw", resize=9, channels="bgr")
    assert options == {"other": 1}
    with pytest.raises(InputError, match="one or the other"):
        preprocessing_of({"input_size": (4, 4), "crop": (4, 4)})


def test_commands_take_descriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.json").write_text('{"scale": 100, "mean": 0.5, "std": 2}')
    given = {
        "file": ["--preprocess", "p.json"],
        "line": ["--scale", "100", "--mean", "0.5", "--std", "2"],
        "over": ["--preprocess", "p.json", "--scale", "50"],
    }
    for name, options in given.items():
        command = ["explain", str(MODELS / "digits_cnn.onnx"), str(MODELS / "digit.png"), "-o", f"{name}.npz", *options]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
    found = {name: np.load(f"{name}.npz")["relevance.image"] for name in given}
    assert np.array_equal(found["file"], found["line"])
    assert not np.allclose(found["file"], found["over"])


def test_reports_show_the_picture_in_its_own_colours(tmp_path: Path) -> None:
    pixels = colours(4, 6)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for how in (Preprocessing(), Preprocessing(mean=(0.1, 0.2, 0.3), std=(2, 3, 4), channels="bgr")):
        x = read_input(tmp_path / "x.png", {"image": Face((1, 3, 4, 6))}, how)["image"]
        assert np.array_equal(np.asarray(_pixels(x[0], how)), pixels)


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "sizes: 3": "'sizes' is not known; keys are size, resize", "size: [1, 2, 3]": "size is [1, 2, 3]; it must be",
        "scale: wide": "scale is 'wide'", "scale: 0": "other than 0",
        "std: [1, 0]": "std must not be 0", "- 1": "a line per key",
        "mean: {a: 1}": "a list of numbers", "layout: hwc": "nchw or nhwc", "resize: 1.5": "a number of pixels",
        "a: [": "could not be read", "x: !!python/object/apply:os.getcwd []": "could not be read",
    }.items(),
)  # fmt: skip
def test_wrong_descriptions_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    pytest.importorskip("yaml", reason="descriptions in YAML are read by PyYAML")
    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(InputError) as caught:
        preprocessing_of({"preprocess": tmp_path / "p.yml"})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Preprocessing(), "9 × 12 (width × height) stretched to 6 × 4, pixels ÷ 255, no mean or std (--mean, --std)"),
        (Preprocessing(resize=6), "9 × 12 (width × height) made 6 along its shorter side, the middle 6 × 4 cut out, "
         "pixels ÷ 255, no mean or std (--mean, --std)"),
        (Preprocessing(crop=(4, 6), scale=1), "9 × 12 (width × height) the middle 6 × 4 cut out, pixels from 0 to 255, "
         "no mean or std (--mean, --std)"),
        (Preprocessing(mean=(0.5,), std=(1, 2, 4), channels="bgr"), "9 × 12 (width × height) stretched to 6 × 4, in the order "
         "BGR, pixels ÷ 255, − mean (0.5), ÷ std (1, 2, 4)"),
    ],
)  # fmt: skip
def test_what_is_done_to_a_picture_is_said(how: Preprocessing, said: str, tmp_path: Path) -> None:
    """Of a picture 12 wide that the camera held sideways."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (12, 9)).save(tmp_path / "x.jpg", exif=exif)
    wanted = {"image": Face((1, 3, 4, 6))}
    assert treatment(tmp_path / "x.jpg", read_input(tmp_path / "x.jpg", wanted, how), wanted, how) == said


def test_rows_of_several_inputs() -> None:
    wanted = {"a": Face(("n", 3)), "b": Face(("n", 2)), "c": Face((1, 4)), "scale": Face((3,))}
    feed = {"a": np.eye(5, 3), "b": np.eye(5, 2), "c": np.eye(5, 4), "scale": np.ones(3)}
    found, count = picked(feed, wanted, 2)
    assert count == 5
    for name in ("a", "b", "c"):
        np.testing.assert_array_equal(found[name], feed[name][2:3])
    assert found["scale"] is feed["scale"]
    with pytest.raises(InputError, match="inputs have 2 and 5 rows"):
        picked({**feed, "b": np.eye(2)}, wanted, 0)
