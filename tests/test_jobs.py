"""Runs over data sets: the numbers of an Explainer, whatever happens on the way, each row exactly once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import net
from PIL import Image

from onnxlrp import Composite, Explainer, Gamma, InputError, compile, save
from onnxlrp.cli import main
from onnxlrp.inputs import read_input
from onnxlrp.jobs import everything
from onnxlrp.jobs.manifest import Job, claimed
from onnxlrp.jobs.stores import _file_name
from onnxlrp.jobs.worker import Worker

pa = pytest.importorskip("pyarrow", reason="pyarrow (onnxlrp[run]) is not installed")
pytest.importorskip("filelock", reason="filelock (onnxlrp[run]) is not installed")
zarr = pytest.importorskip("zarr", reason="zarr (onnxlrp[run]) is not installed")

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
ROWS, BATCH = 300, 8
KILLED = """
import dataclasses, os, signal, sys
import numpy as np
from onnxlrp.jobs import stores
kind, left = getattr(stores, sys.argv.pop(1)), [int(sys.argv.pop(1))]
whole = kind.write
def write(self, result):
    if not left[0]:  # the part is there, with other numbers in it, and is not marked yet
        whole(self, dataclasses.replace(result, values={k: np.zeros_like(v) for k, v in result.values.items()}))
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    whole(self, result)
kind.write = write
from onnxlrp.cli import main
main()
"""
STEPS = """
import os, signal
left = [NTH]
def counted(step):
    def call(*a, **k):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*a, **k)
    return call
from onnxlrp.cli import main
for name in ("mkdir", "replace", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
main()
"""


def onnxlrp(*arguments: object, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in this process, or a script with its arguments in one of its own."""
    if script is not None:
        return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False)
    out, errors = io.StringIO(), io.StringIO()
    argv, shown, pipe = sys.argv, warnings.showwarning, signal.getsignal(signal.SIGPIPE)
    sys.argv = ["onnxlrp", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv, warnings.showwarning = argv, shown
        signal.signal(signal.SIGPIPE, pipe)
    return subprocess.CompletedProcess(sys.argv, int(left.value.code or 0), out.getvalue(), errors.getvalue())


def digits(rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = np.repeat(np.load(MODELS / "digit.npy"), rows, 0) + rng.normal(0, 0.2, (rows, 1, 8, 8))
    return np.ascontiguousarray(np.clip(x, 0, 1), np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", digits())
    return tmp_path / "x.npy"


def run(data: Path, out: Path, *options: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return onnxlrp(*how.pop("before", ()), "run", CNN, data, "-o", out, "--batch", BATCH, *options, **how)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def arrays(out: Path) -> dict[str, np.ndarray]:
    """Columns of a Zarr group or a folder of Parquet files."""
    if out.suffix == ".zarr":
        group = zarr.open_group(out, mode="r")
        return {name: group[name][:] for name in group.array_keys()}
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(out).to_table()
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {
        name: c.to_numpy_ndarray() if isinstance(c, pa.FixedShapeTensorArray) else c.to_numpy(zero_copy_only=False)
        for name, c in columns.items()
    }


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        assert a[name].tolist() == b[name].tolist() if a[name].dtype.kind in "OTU" else a[name].tobytes() == b[name].tobytes()


@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_rows_are_those_of_an_explainer(data: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out.{kind}"
    ok(run(data, out, "-c", "epsilon"))
    found, x, explainer = arrays(out), digits(), Explainer(CNN, "epsilon", threads=1)
    for at in range(0, ROWS, BATCH):
        e, some = explainer.quietly(x[at : at + BATCH]), slice(at, at + BATCH)
        assert found["relevance"][some].tobytes() == e.relevance.tobytes()
        assert found["output"][some].tobytes() == e.output.tobytes()
        np.testing.assert_array_equal(found["target"][some], e.target)
        np.testing.assert_allclose(found["conservation_error"][some], e.ratio - 1, atol=1e-6)
    assert found["explained"].all()
    assert [str(i) for i in found["id"]] == [str(i) for i in range(ROWS)]
    assert (tmp_path / f"out.{kind}.run" / "set_aside.csv").read_text() == "row,id,reason\n"


@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_killed_and_resumed_is_the_same_to_the_byte(data: Path, tmp_path: Path, kind: str) -> None:
    whole, broken = tmp_path / f"whole.{kind}", tmp_path / f"broken.{kind}"
    ok(run(data, whole))
    store = f"{kind.title()}Store"
    for after, threads in ((3, 1), (0, 2), (5, 3)):  # how many run at once changes nothing
        done = run(data, broken, "--resume", "--threads", threads, script=KILLED, before=(store, after))
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(Job(broken).left()) == len(Job(broken).parts) - 8
    ok(run(data, broken, "--resume"))
    same(arrays(broken), arrays(whole))
    files = {p.relative_to(broken): p.read_bytes() for p in broken.rglob("*") if p.is_file() and p.name != "zarr.json"}
    assert files == {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file() and p.name != "zarr.json"}
    assert "nothing was left to do" in ok(run(data, broken, "--resume"))


def test_pictures_are_resumed_too(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for i, x in enumerate(digits(20)):
        Image.fromarray(np.uint8(x[0] * 255)).save(folder / ("sub" if i % 2 else "") / f"d{i:02d}.png")
    (folder / "torn.png").write_bytes((folder / "d00.png").read_bytes()[:40])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ok(run(folder, whole, "--size", 64))
    assert run(folder, broken, "--size", 64, script=KILLED, before=("PictureStore", 1)).returncode == -signal.SIGKILL
    ok(run(folder, broken, "--size", 64, "--resume"))
    found = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert {p.relative_to(broken): p.read_bytes() for p in broken.rglob("*") if p.is_file()} == found
    assert {str(p) for p in found} == {"rows.csv"} | {f"{'sub/' if i % 2 else ''}d{i:02d}.png.png" for i in range(20)}
    with Image.open(whole / "d00.png.png") as drawn:
        explanation = Explainer(CNN).quietly(read_input(folder / "d00.png", {"image": Explainer(CNN).inputs["image"]}))
        assert np.abs(np.asarray(drawn, int) - np.asarray(explanation.heatmap(size=64), int)).max() <= 1
    rows = table(whole / "rows.csv")
    assert [r["explained"] for r in rows].count("False") == 1
    aside = table(tmp_path / "whole.run" / "set_aside.csv")
    assert [r["id"] for r in aside] == ["torn.png"]


def test_unreadable_rows_are_set_aside(tmp_path: Path) -> None:
    x = digits(40)
    x[5, 0, 2, 2], x[17] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    printed = ok(run(tmp_path / "x.npy", tmp_path / "o.zarr"))
    assert "2 set aside" in printed
    found = arrays(tmp_path / "o.zarr")
    assert np.flatnonzero(~found["explained"]).tolist() == [5, 17]
    assert np.isnan(found["relevance"][[5, 17]]).all()
    assert found["target"][[5, 17]].tolist() == [-1, -1]
    others = [i for i in range(40) if i not in (5, 17)]
    np.testing.assert_allclose(found["relevance"][others], Explainer(CNN)(x[others]).relevance, atol=1e-6)
    aside = table(tmp_path / "o.zarr.run" / "set_aside.csv")
    assert [row["row"] for row in aside] == ["5", "17"]
    assert "NaN" in aside[0]["reason"]


def test_a_row_that_the_model_cannot_run_is_found(tmp_path: Path) -> None:
    """A token outside the vocabulary stops onnxruntime for the whole batch: the other rows are explained."""
    rng = np.random.default_rng(1)
    nodes = "e = Gather(t, ids)  m = ReduceMean<keepdims=0>(e, axes)  y = MatMul(m, w)"
    table, w = rng.standard_normal((11, 4)).astype("f4"), rng.standard_normal((4, 3)).astype("f4")
    onnx.save(net(nodes, "int64[N,T] ids", "float[N,3] y", t=table, axes=np.array([1]), w=w), tmp_path / "m.onnx")
    ids = rng.integers(0, 11, (20, 5))
    ids[[0, 13], 2] = 11
    np.save(tmp_path / "ids.npy", ids)
    ok(onnxlrp("run", tmp_path / "m.onnx", tmp_path / "ids.npy", "-o", tmp_path / "o.zarr", "-c", "epsilon", "--batch", 8))
    found = arrays(tmp_path / "o.zarr")
    assert np.flatnonzero(~found["explained"]).tolist() == [0, 13]
    good = found["explained"]
    e = Explainer(tmp_path / "m.onnx", "epsilon")(ids[good])
    np.testing.assert_allclose(found["relevance"][good], e.relevance, atol=1e-6)
    tokens = next(v for k, v in found.items() if k.startswith("relevance_tokens"))
    np.testing.assert_allclose(tokens[good], next(iter(e.tokens.values())), atol=1e-6)


def test_relevance_that_is_not_finite_is_set_aside(tmp_path: Path) -> None:
    model = net("s = Sqrt(x)  y = MatMul(s, w)", "float[N,4] x", "float[N,2] y", w=np.ones((4, 2), np.float32))
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).uniform(1, 2, (12, 4)).astype(np.float32)
    x[7, 1] = -1
    np.save(tmp_path / "x.npy", x)
    ok(onnxlrp("run", tmp_path / "m.onnx", tmp_path / "x.npy", "-o", tmp_path / "o.zarr", "-c", "epsilon"))
    assert np.flatnonzero(~arrays(tmp_path / "o.zarr")["explained"]).tolist() == [7]
    assert "not finite" in (tmp_path / "o.zarr.run" / "set_aside.csv").read_text()


def test_a_model_of_fixed_batch_gets_full_batches(tmp_path: Path) -> None:
    model = onnx.load(CNN)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "four.onnx")
    np.save(tmp_path / "x.npy", digits(10))
    command = ("run", tmp_path / "four.onnx", tmp_path / "x.npy", "-o", tmp_path / "o.parquet")
    assert "4 rows at a time" in refused(onnxlrp(*command, "--batch", 5))
    ok(onnxlrp(*command))
    found = arrays(tmp_path / "o.parquet")
    np.testing.assert_allclose(found["relevance"], Explainer(CNN)(digits(10)).relevance, atol=1e-6)


def test_two_inputs_layers_and_targets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes, w = "s = Add(a, b)  h = Relu(s)  y = MatMul(h, w)", rng.normal(size=(4, 3)).astype("f4")
    onnx.save(net(nodes, "float[N,4] a, float[N,4] b", "float[N,3] y", w=w), tmp_path / "m.onnx")
    a, b = rng.normal(size=(2, 9, 4)).astype(np.float32)
    target = rng.integers(0, 3, 9)
    np.savez(tmp_path / "x.npz", a=a, b=b, target=target, id=np.array([f"row {i}" for i in range(9)]))
    out = tmp_path / "o.zarr"
    ok(onnxlrp("run", tmp_path / "m.onnx", tmp_path / "x.npz", "-o", out, "-c", "epsilon", "--layers", "h"))
    e = Explainer(tmp_path / "m.onnx", "epsilon", layers=["h"])({"a": a, "b": b}, target=target.tolist())
    found = arrays(out)
    for name in ("a", "b"):
        np.testing.assert_allclose(found[f"relevance.{name}"], e.relevances[name], atol=1e-6)
    np.testing.assert_allclose(found["relevance.s"], e.layers["s"], atol=1e-6)
    assert found["target"].tolist() == target.tolist()
    assert found["id"].tolist() == [f"row {i}" for i in range(9)]


def test_targets_of_the_data_and_of_the_command(tmp_path: Path) -> None:
    """A class that is none sets its row aside; --target takes the place of the column; no class, no target."""
    x = digits(6)
    np.savez(tmp_path / "x.npz", image=x, target=np.array([3, 8, 10, -1, 0, 1]))
    ok(run(tmp_path / "x.npz", tmp_path / "a.zarr"))
    found = arrays(tmp_path / "a.zarr")
    assert found["target"][[0, 1, 2, 4, 5]].tolist() == [3, 8, -1, 0, 1]
    assert np.flatnonzero(~found["explained"]).tolist() == [2]
    for name, options in (("b.zarr", ("--target", 5)), ("n.zarr", ("-t", "f", "--labels", "a,b,c,d,e,f,g,h,i,j"))):
        ok(run(tmp_path / "x.npz", tmp_path / name, *options))
        assert arrays(tmp_path / name)["target"].tolist() == [5] * 6
    onnx.save(net("y = MatMul(x, w)", "float[N,4] x", "float[N] y", w=np.ones(4, np.float32)), tmp_path / "m.onnx")
    np.savez(tmp_path / "y.npz", x=np.ones((3, 4), np.float32), target=np.array([0.5, 1.5, 2.5]))
    command = ("run", tmp_path / "m.onnx", tmp_path / "y.npz", "-o", tmp_path / "c.zarr")
    assert "not explained by class" in refused(onnxlrp(*command, "--target", 0))
    ok(onnxlrp(*command))
    assert "target" not in arrays(tmp_path / "c.zarr")


def test_contrast_starts(data: Path, tmp_path: Path) -> None:
    ok(run(data, tmp_path / "o.zarr", "--start", "contrast:3,5"))
    e = Explainer(CNN, init="given")(digits(), start="contrast:3,5")
    np.testing.assert_allclose(arrays(tmp_path / "o.zarr")["relevance"], e.relevance, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-c", "epsilon"), 'options.composite was not given, is "epsilon"'),
        (("--target", 3), "options.target was not given, is 3"),
        (("--batch", 16), "run.batch was 8, is 16"),
        (("--mean", "0.5"), "preprocessing.mean was [], is [0.5]"),
        (("--input-range", "0,1"), "options.input_ranges was not given, is [0.0, 1.0]"),
    ],
)
def test_another_option_does_not_resume(data: Path, tmp_path: Path, options: tuple[object, ...], word: str) -> None:
    out = tmp_path / "o.zarr"
    assert run(data, out, script=KILLED, before=("ZarrStore", 1)).returncode == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert word in refused(run(data, out, "--resume", *options))
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if p.name not in ("lock", "running")} == {
        p: t for p, t in before.items() if p.name not in ("lock", "running")
    }


def test_another_model_or_other_data_do_not_resume(data: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "o.zarr"
    model.write_bytes(CNN.read_bytes())
    ok(onnxlrp("run", model, data, "-o", out))
    proto = onnx.load(model)
    proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    onnx.save(proto, model)
    assert "model.files.m.onnx has changed" in refused(onnxlrp("run", model, data, "-o", out, "--resume"))
    model.write_bytes(CNN.read_bytes())
    np.save(data, digits(ROWS - 1))
    assert "data.rows was 300, is 299" in refused(onnxlrp("run", model, data, "-o", out, "--resume"))


def test_two_runs_exclude_each_other(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    with claimed(Job(out)):
        assert f"process {os.getpid()}" in refused(run(data, out))
    assert not out.exists()
    ok(run(data, out))


def test_full_disk_is_one_line_and_resumes(data: Path, tmp_path: Path) -> None:
    full = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise OSError(28, 'No space left on device')")
    message = refused(run(data, tmp_path / "o.zarr", script=full, before=("ZarrStore", 2)))
    assert "No space left on device" in message
    assert "--resume" in message
    ok(run(data, tmp_path / "o.zarr", "--resume"))
    np.testing.assert_allclose(arrays(tmp_path / "o.zarr")["relevance"], Explainer(CNN)(digits()).relevance, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("-o", "out.csv"), ".zarr, .parquet"),
        (("-o", "nowhere/out.zarr"), "does not exist"),
        (("-o", "out.zarr", "--actors", "2"), "--engine ray"),
        (("-o", "out.zarr", "--target", "99"), "99"),
        (("-o", "out.zarr", "--size", "64"), "heat-maps"),
        (("-o", "out", "--grid", "all"), "each row by itself"),
        (("-o", "out", "--cmap", "nosuch"), "unknown colormap 'nosuch'"),
        (("-o", "out", "--kind", "table", "--names", "a,b"), "2 names"),
        (("-o", "out.zarr", "--labels", "a,b"), "--labels names"),
        (("-o", "out.zarr", "--target", "thre", "--labels", "zero,one,two,three"), "did you mean 'three'?"),
        (("-o", "out.zarr", "--explain", "nothing"), "nothing"),
        (("-o", "out.zarr", "--output", "nothing"), "nothing"),
    ],
)
def test_bad_requests_leave_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], word: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    assert word in refused(onnxlrp("run", CNN, data, *options))
    assert list(place.iterdir()) == []


def test_a_composite_of_ones_own_is_compiled_first(data: Path, tmp_path: Path) -> None:
    """An object has no text that a resumed run could be held against; the compiled file is the same everywhere."""
    own: Any = Composite(Gamma(0.3))
    with pytest.raises(InputError, match="compile the model with it"):
        everything.explain_all(CNN, data, tmp_path / "o.zarr", own)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]
    save(compile(CNN, own), tmp_path / "own.onnx")
    everything.explain_all(tmp_path / "own.onnx", data, tmp_path / "o.zarr")
    np.testing.assert_allclose(
        arrays(tmp_path / "o.zarr")["relevance"], Explainer(CNN, own).quietly(digits()).relevance, atol=1e-6
    )


def test_unknown_providers_leave_nothing(data: Path, tmp_path: Path) -> None:
    assert "provider 'nope' is not available" in refused(run(data, tmp_path / "o.zarr", "--provider", "nope"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]


def test_without_ray_nothing_is_begun(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "find_spec", lambda name: None if name == "ray" else name)
    assert 'pip install "onnxlrp[ray]"' in refused(run(data, tmp_path / "o.zarr", "--engine", "ray"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]


def test_existing_output_is_not_touched(data: Path, tmp_path: Path) -> None:
    ok(run(data, tmp_path / "o.zarr"))
    assert "--resume goes on" in refused(run(data, tmp_path / "o.zarr"))
    (tmp_path / "mine").mkdir()
    assert "exists" in refused(run(data, tmp_path / "mine"))
    assert not (tmp_path / "mine.run").exists()


def test_batch_is_found_and_kept(data: Path, tmp_path: Path) -> None:
    summary = json.loads(ok(onnxlrp("run", CNN, data, "-o", tmp_path / "o.zarr", "--json")))
    manifest = json.loads((tmp_path / "o.zarr.run" / "manifest.json").read_text())
    assert summary["rows"] == ROWS
    assert summary["batch"] == manifest["run"]["batch"] == 256
    assert manifest["run"]["part"] % 256 == 0


@pytest.mark.parametrize("nth", [0, 2, 12, 40])
def test_killed_while_beginning_and_ending(data: Path, tmp_path: Path, nth: int) -> None:
    """Whichever step towards the disk it dies at: folders, the model, the manifest, the first parts."""
    script = STEPS.replace("NTH", str(nth))
    np.save(data, digits(16))
    ok(run(data, tmp_path / "whole.zarr"))
    done = run(data, tmp_path / "o.zarr", script=script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    ok(run(data, tmp_path / "o.zarr", "--resume"))
    same(arrays(tmp_path / "o.zarr"), arrays(tmp_path / "whole.zarr"))
    left = {p.name for p in (tmp_path / "o.zarr.run").iterdir() if not p.name.startswith(".")}
    assert left == {"lock", "manifest.json", "model.onnx", "parts", "set_aside.csv"}


def test_interrupted_at_once(data: Path, tmp_path: Path) -> None:
    """Ctrl-C does not wait for the batches that are being run."""
    slow = "import time, onnxlrp.jobs.worker as w; w.Worker._run = lambda *_: (print(flush=True), time.sleep(60)); "
    command = [sys.executable, "-c", f"{slow}from onnxlrp.cli import main; main()", "run", str(CNN), str(data)]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "o.zarr")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors == "onnxlrp: interrupted; --resume goes on\n"


BAD_ALLOC = """
def fail(*_):
    raise InputError("onnxruntime could not run the model on this input: bad allocation")
Worker._values = fail
"""
BAD_DISK = """
read = Folder._take
def fail(self, start, stop):
    if start:
        raise InputError("could not be read: [Errno 116] Stale file handle")
    return read(self, start, stop)
Folder._take = fail
"""


@pytest.mark.parametrize("fault", [BAD_ALLOC, BAD_DISK], ids=["memory", "disk"])
def test_a_failing_machine_costs_no_rows(tmp_path: Path, fault: str) -> None:
    """Memory that runs out, a disk that is gone: no fault of a row. The run stops, and goes on later with all rows."""
    names = "from onnxlrp.errors import InputError\nfrom onnxlrp.jobs.worker import Worker\n"
    script = f"{names}from onnxlrp.data.files import Folder\n{fault}\nfrom onnxlrp.cli import main\nmain()"
    (tmp_path / "in").mkdir()
    for i, x in enumerate(digits(20)):
        np.save(tmp_path / "in" / f"{i:02d}.npy", x)
    assert "No row is at fault" in refused(run(tmp_path / "in", tmp_path / "o.zarr", script=script))
    ok(run(tmp_path / "in", tmp_path / "o.zarr", "--resume"))
    assert arrays(tmp_path / "o.zarr")["explained"].all()


def test_what_is_beside_the_output_is_left_alone(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "o.zarr.run" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert "is of no run" in refused(run(data, tmp_path / "o.zarr", "--target", 99))
    assert mine.read_text() == "mine"


def test_an_output_that_is_gone_is_not_complete(data: Path, tmp_path: Path) -> None:
    ok(run(data, tmp_path / "o.zarr"))
    (tmp_path / "o.zarr").rename(tmp_path / "elsewhere.zarr")
    assert "is gone" in refused(run(data, tmp_path / "o.zarr", "--resume"))
    assert not (tmp_path / "o.zarr").exists()


def test_output_in_the_data_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", digits(1)[0])
    assert "lies in" in refused(run(folder, folder / "heat"))
    assert [p.name for p in folder.iterdir()] == ["a.npy"]


def test_a_machine_held_to_be_dead_leaves_parts_alone(data: Path, tmp_path: Path) -> None:
    """What is marked is not written again: who writes it last might be stopped in the middle."""
    out = tmp_path / "o.zarr"
    ok(run(data, out))
    job = Job(out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    found = list(Worker.open(job, str(data), 1).run(job.parts[:2]))
    assert found == list(job.marks())[:2]
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_inputs_are_not_held_for_a_part(data: Path, tmp_path: Path) -> None:
    """A part of small results may have many batches of large inputs."""
    ok(run(data, tmp_path / "o.zarr"))
    worker = Worker.open(Job(tmp_path / "o.zarr"), str(data), 1)
    part = worker.job.parts[0]
    _, block = worker._explain((part, worker.source.read(part.start, part.start + BATCH)))
    assert block.at.tolist() == list(range(BATCH))
    assert block.rows.feed == {}


@pytest.mark.parametrize("kind", ["zarr", "parquet", "pictures"])
def test_labels_of_text_and_ids_of_any_kind(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)).astype("f4")
    x[3, 0] = np.nan
    helper, float_ = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=w.ravel().tolist(),
        intercepts=[0.0, 0.0, 0.0], classlabels_strings=["ä", "b", "c"], multi_class=1, post_transform="SOFTMAX",
    )  # fmt: skip
    outputs = [helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["N"])]
    outputs.append(helper.make_tensor_value_info("p", float_, ["N", 3]))
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", float_, ["N", 4])], outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=x, id=np.array(["a\ud800b", "..", "é/\n", "", ".."]))
    out = tmp_path / ("o" if kind == "pictures" else f"o.{kind}")
    ok(onnxlrp("run", tmp_path / "m.onnx", tmp_path / "x.npz", "-o", out, "-c", "epsilon", "--output", "label"))
    labels = [["ä", "b", "c"][i] for i in np.argmax(x @ w.T, 1)]
    labels[3] = ""
    found = arrays(out) if kind != "pictures" else {k: [r[k] for r in table(out / "rows.csv")] for k in ("id", "output")}
    assert list(found["output"]) == labels
    assert list(found["id"]) == ["a\\ud800b", "..", "é/\n", "", ".."]


def test_pictures_of_any_name_have_each_its_own() -> None:
    names = ["a:b", "a?b", "a_b", "CON", "end.", "x" * 250, "x" * 249 + "y"]
    found = [_file_name(f"sub/{name}") for name in names]
    assert len(set(found)) == len(found)
    assert found[2] == "sub/a_b"
    assert all(len(name.encode()) < 220 and not set(name) & set(':?*"<>|') for name in found)
    assert all(not name.endswith(".") and name.split("/")[-1] != "CON" for name in found)
    assert [_file_name(name) for name in ("../..", "../a", "/a//b")] == ["_", "a", "a/b"]


def test_outputs_without_rows_are_refused_at_once(tmp_path: Path) -> None:
    """One value for all rows is that of a row where each is run alone; anything else cannot be cut."""
    w = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    onnx.save(net("h = MatMul(x, w)  y = ReduceSum<keepdims=0>(h)", "float[N,4] x", "float y", w=w), tmp_path / "sum.onnx")
    ok(onnxlrp("run", tmp_path / "sum.onnx", tmp_path / "x.npy", "-o", tmp_path / "sum.zarr", "-c", "epsilon"))
    found = arrays(tmp_path / "sum.zarr")
    assert found["explained"].all()
    np.testing.assert_allclose(found["output"], (x @ w).sum(1), rtol=1e-4)
    onnx.save(net("h = MatMul(x, w)  y = Squeeze(h)", "float[N,4] x", "float[M] y", w=w), tmp_path / "flat.onnx")
    command = ("run", tmp_path / "flat.onnx", tmp_path / "x.npy", "-o", tmp_path / "flat.zarr", "-c", "epsilon")
    assert "one row for each of the batch" in refused(onnxlrp(*command))
    assert not (tmp_path / "flat.zarr.run").exists()


@pytest.mark.slow
def test_ray_gives_the_same_rows_whoever_dies(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray (onnxlrp[ray]) is not installed")
    data, whole, out = tmp_path / "x.npy", tmp_path / "whole.zarr", tmp_path / "ray.zarr"
    np.save(data, np.tile(digits(), (1000, 1, 1, 1)))
    ok(run(data, whole))
    command = [sys.executable, "-m", "onnxlrp", "run", CNN, data, "-o", out, "--batch", BATCH, "--engine", "ray"]
    job, killed = Job(out), False
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not killed:
            time.sleep(0.05)
            if job.begun and len(job.left()) < len(job.parts):
                os.kill(actors()[0], signal.SIGKILL)
                killed = bool(job.left())
        _, errors = process.communicate()
    assert killed, "the run was over before an actor could be killed: give it more rows"
    assert process.returncode == 0, errors
    same(arrays(out), arrays(whole))


@pytest.mark.slow
def test_a_full_disk_on_ray_is_one_line(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray (onnxlrp[ray]) is not installed")
    out = tmp_path / "o.zarr"
    ok(run(data, out))
    for mark in (tmp_path / "o.zarr.run" / "parts").iterdir():
        mark.unlink()
    chunks = out / "relevance" / "c"
    chunks.rename(out / "moved")
    chunks.write_text("no folder")  # nothing can be written there
    done = run(data, out, "--engine", "ray", "--resume", script="from onnxlrp.cli import main; main()")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"onnxlrp: cannot write {out}: Not a directory; --resume")


def actors() -> list[int]:
    """Processes of Ray's actors."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if place.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(place.parent.name))
    return found
