"""The command line: exit codes, one line per error, nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from onnxlrp import Explainer, cli, inspect, presets

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.png"


def onnxlrp(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m onnxlrp`."""
    command = [sys.executable, "-m", "onnxlrp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def said(*arguments: object) -> str:
    """What a command prints that ends well and without a warning, run here."""
    done = CliRunner().invoke(cli.cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_explain_picture_to_png_and_npz(tmp_path: Path) -> None:
    for out in ("heat.png", "out.npz"):
        done = onnxlrp("explain", CNN, DIGIT, "-c", "epsilon_plus_flat", "-o", tmp_path / out)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "3    5.6" in done.stdout
        assert "← explained" in done.stdout
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.size == (256, 256)
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["relevance.image"].shape == (1, 1, 8, 8)


def test_compile_then_explain(tmp_path: Path) -> None:
    done = onnxlrp("compile", CNN, "-o", tmp_path / "c.onnx", "--layers", "pool", "--checks", "--bake", "-c", "epsilon")
    assert done.returncode == 0, done.stderr
    names = [o.name for o in onnx.load(tmp_path / "c.onnx").graph.output]
    assert names == ["logits", "relevance.image", "relevance.max_pool2d", "checks"]
    done = onnxlrp("explain", tmp_path / "c.onnx", MODELS / "digit.npy", "-t", 5, "--json")
    assert json.loads(done.stdout)["target"] == [5]


def test_inspect_table_and_json() -> None:
    done = said("inspect", CNN, "-c", "epsilon_plus_flat")
    assert "FirstLayerTypeMap: Linear" in done
    rows = json.loads(said("inspect", CNN, "--json"))["layers"]
    assert [r["index"] for r in rows] == list(range(9))
    assert rows[2]["op"] == "MaxPool"


def test_check_is_a_verdict(tmp_path: Path) -> None:
    done = onnxlrp("check", CNN, DIGIT, "-c", "epsilon_plus_flat")
    assert done.returncode == 0
    assert "nothing is off" in done.stdout
    np.save(tmp_path / "zeros.npy", np.zeros((1, 1, 8, 8), np.float32))
    done = onnxlrp("check", CNN, tmp_path / "zeros.npy", "-c", "epsilon")
    assert done.returncode == 1
    assert "its bias" in done.stdout
    done = onnxlrp("check", CNN, DIGIT, "-c", "epsilon_gamma_box(low=0, high=0.5)")
    assert done.returncode == 1
    assert "outside the bounds of ZBox(0, 0.5)" in done.stdout


def test_ranges_and_rows_per_run(tmp_path: Path) -> None:
    np.save(tmp_path / "five.npy", np.random.default_rng(0).random((5, 1, 8, 8), np.float32))
    for name, more in (("whole", []), ("parts", ["--batch-size", 2, "--input-range", "0,1"])):
        command = ["explain", CNN, tmp_path / "five.npy", "-c", "epsilon_gamma_box(low=0, high=1)", *more]
        assert onnxlrp(*command, "-o", tmp_path / f"{name}.npz").returncode == 0
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "parts.npz") as parts:
        np.testing.assert_allclose(parts["relevance.image"], whole["relevance.image"], rtol=0, atol=1e-5)
    done = onnxlrp("explain", CNN, MODELS / "digit.npy", "--input-range", "image=0,0.5")
    assert "22 values lie outside the range [0, 0.5]" in done.stderr
    done = onnxlrp("check", CNN, MODELS / "digit.npy", "--input-range", "0,0.5")
    assert done.returncode == 1
    assert "22 values lie outside the range [0, 0.5]" in done.stdout


def test_ops_lists_operators() -> None:
    done = said("ops")
    assert "ConvTranspose" in done
    assert {r["op"] for r in json.loads(said("ops", "--json"))} >= {"Conv", "Gemm", "Shape"}


WRONG = {
    "no such model": (["inspect", "nowhere.onnx"], "nowhere.onnx"),
    "not ONNX": (["inspect", DIGIT], "not"),
    "truncated": (["inspect", "truncated.onnx"], "truncated.onnx"),
    "unknown preset": (["inspect", CNN, "-c", "epsilon_pluss"], "did you mean 'epsilon_plus'?"),
    "bad preset argument": (["inspect", CNN, "-c", "epsilon_gamma_box(lo=1)"], "lo"),
    "crossed bounds": (["inspect", CNN, "-c", "epsilon_gamma_box(low=1, high=0)"], "low must not exceed high"),
    "unknown output": (["inspect", CNN, "--output", "nope"], "nope"),
    "unknown layer": (["compile", CNN, "-o", "out.onnx", "--layers", "conv9"], "conv9"),
    "layer out of range": (["compile", CNN, "-o", "out.onnx", "--layers", "99"], "0 to 8"),
    "no such folder": (["compile", CNN, "-o", "nowhere/out.onnx"], "does not exist"),
    "wrong suffix": (["compile", CNN, "-o", "out.txt"], ".onnx"),
    "no such input": (["explain", CNN, "nowhere.npy"], "nowhere.npy"),
    "wrong input shape": (["explain", CNN, "wide.npy", "-o", "out.npz"], "must have the shape"),
    "NaN input": (["explain", CNN, "nan.npy", "-o", "out.npz"], "NaN"),
    "pickled input": (["explain", CNN, "pickle.npy", "-o", "out.npz"], "pickle.npy"),
    "not an array": (["explain", CNN, "text.npy", "-o", "out.npz"], "text.npy"),
    "target out of range": (
        ["explain", CNN, DIGIT, "-t", "10", "-o", "out.npz"],
        "target 10: the model has the classes 0 to 9",
    ),
    "bad suffix": (["explain", CNN, DIGIT, "-o", "out.txt"], ".npz or .png"),
    "unknown provider": (["explain", CNN, DIGIT, "--provider", "quantum"], "quantum"),
    "unknown option": (["explain", CNN, DIGIT, "--colour"], "--colour"),
    "unknown command": (["explian", CNN], "explian"),
    "missing argument": (["explain", CNN], "INPUT"),
    "bad position": (["compile", CNN, "-o", "out.onnx", "--position", "x"], "position"),
    "bad input shape option": (["inspect", CNN, "--input-shapes", "image"], "NAME=SIZE"),
    "negative input shape": (["inspect", CNN, "--input-shapes", "image=-1,1,8,8"], "'-1' is neither a size"),
    "empty input shape": (["inspect", CNN, "--input-shapes", "image=0,1,8,8"], "neither a size"),
    "no pair": (["explain", CNN, DIGIT, "--input-range", "0.5"], "is not NAME=LOW,HIGH"),
    "range that is text": (["compile", CNN, "-o", "out.onnx", "--input-range", "image=a,b"], "is not NAME=LOW,HIGH"),
    "crossed range": (["compile", CNN, "-o", "out.onnx", "--input-range", "image=1,0"], "low <= high"),
    "range of nothing": (["check", CNN, "--input-range", "pixels=0,1"], "float inputs are image"),
    "two ranges, one name": (["check", CNN, "--input-range", "0,1", "--input-range", "image=0,1"], "lacks a name"),
    "no rows per run": (["explain", CNN, DIGIT, "--batch-size", "0"], "--batch-size"),
    "empty composite": (["inspect", CNN, "-c", ""], "`onnxlrp presets` lists them"),
    "composite twice": (["inspect", CNN, "-c", "flat", "-c", "zplus"], "one composite here, not flat and zplus"),
    "composite twice, run": (["run", CNN, "wide.npy", "-o", "o.zarr", "-c", "flat", "-c", "zplus"], "one composite here"),
    "more rows than it takes": (["explain", "fixed.onnx", "two.npy"], "the model takes 1 row at a time: `onnxlrp run`"),
    "more rows to check": (["check", "fixed.onnx", "two.npy"], "explains all of them, --row N one"),
    "no such row": (["explain", CNN, "two.npy", "--row", "2"], "row 2 does not exist: the input has 2 rows, 0 to 1"),
    "row of nothing": (["check", CNN, "--row", "2"], "--row is for INPUT"),
    "half a composite": (["inspect", CNN, "-c", "epsilon("], "`onnxlrp presets` lists them"),
    "no size": (["explain", CNN, DIGIT, "-o", "out.png", "--size", "0"], "--size"),
    "negative threads": (["explain", CNN, DIGIT, "--threads", "-1"], "--threads"),
    "colormap without a picture": (["explain", CNN, DIGIT, "-o", "out.npz", "--cmap", "bwr"], "-o heat.png"),
    "unknown colormap": (["explain", CNN, DIGIT, "-o", "out.png", "--cmap", "nope"], "colormap 'nope'"),
    "masks cannot be fed": (["explain", CNN, DIGIT, "--conditions", "pool"], "--conditions"),
    "model into a folder": (["compile", CNN, "-o", "folder.onnx"], "folder.onnx: it is a folder"),
    "picture into a folder": (["explain", CNN, DIGIT, "-o", "folder.png"], "folder.png: it is a folder"),
    "folder as input": (["explain", CNN, "folder.png"], "is a folder"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    (path / "truncated.onnx").write_bytes(CNN.read_bytes()[:50_000])
    (path / "text.npy").write_text("hello")
    for name in ("folder.onnx", "folder.png"):
        (path / name).mkdir()
    model = onnx.load(CNN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path / "fixed.onnx")
    np.save(path / "two.npy", np.zeros((2, 1, 8, 8), np.float32))
    np.save(path / "wide.npy", np.zeros((1, 1, 9, 9), np.float32))
    np.save(path / "nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    np.save(path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, text = WRONG[name]
    before = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["onnxlrp", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    done = capsys.readouterr()
    assert ended.value.code == 2, done
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert text in done.err
    assert sorted(folder.iterdir()) == before


def test_wrong_usage_of_the_program(folder: Path) -> None:
    done = onnxlrp("explain", CNN, "nowhere.npy", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxlrp: nowhere.npy: no such file\n"


def test_narrow_terminal_cuts_no_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan = inspect(CNN)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for columns in (30, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        cli.show(plan.table(), optional=("input", "output"))
        lines = capsys.readouterr().out.splitlines()
        for layer in plan:
            assert any(line.split()[:2] == [str(layer.index), layer.name] for line in lines), (columns, lines)
        assert any("batch×16×8×8" in line for line in lines) == (columns == 200)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="POSIX")
def test_closed_pipe_ends_quietly() -> None:
    command = [sys.executable, "-m", "onnxlrp", "ops"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() in (0, -signal.SIGPIPE)


def one_layer(path: Path, op: str, shape: list[int], *after: onnx.NodeProto, **attributes: list[int]) -> Path:
    """A model of one layer with five classes, and what follows it."""
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape, np.float32), "w")
    x = ["n", *(shape[1], 8, 8)] if op == "Conv" else ["n", shape[0]]
    kind, y = (onnx.TensorProto.INT64, ["n"]) if after else (onnx.TensorProto.FLOAT, ["n", 5, 8, 8])
    nodes = [onnx.helper.make_node(op, ["x", "w"], ["z" if after else "y"], **attributes), *after]
    faces = (
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [onnx.helper.make_tensor_value_info("y", kind, y)],
    )
    graph = onnx.helper.make_graph(nodes, "g", *faces, [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_explain_says_what_is_explained(tmp_path: Path) -> None:
    maps = one_layer(tmp_path / "maps.onnx", "Conv", [5, 1, 3, 3], pads=[1, 1, 1, 1])
    pick = onnx.helper.make_node("ArgMax", ["z"], ["y"], axis=1, keepdims=0)
    label = one_layer(tmp_path / "label.onnx", "MatMul", [4, 5], pick)
    np.save(tmp_path / "x.npy", np.random.default_rng(1).random((3, 1, 8, 8), np.float32))
    np.save(tmp_path / "v.npy", np.ones((2, 4), np.float32))
    done = said("explain", maps, tmp_path / "x.npy", "-o", tmp_path / "heat.png")
    assert "composite epsilon_plus: ZPlus on convolutions" in done
    assert "explains 64 positions of output y, class axis 1; --position" in done
    assert "the picture shows row 0 of 3" in done
    done = said("explain", maps, tmp_path / "x.npy", "--position", "(3, 4)", "-t", 2)
    assert "explains class 2 at position 3, 4 of output y" in done
    done = said("explain", label, tmp_path / "v.npy")
    assert "of z, behind output y" in done
    found = json.loads(said("explain", maps, tmp_path / "x.npy", "--json"))
    assert found["target"]["shape"] == [3, 8, 8]
    assert len(found["target"]["first"]) == 64
    assert len(found["ratio"]) == 3


def explained(*arguments: object) -> Any:
    return json.loads(said("explain", *arguments, "--json"))


def test_a_sample_without_the_batch_axis(tmp_path: Path) -> None:
    x = np.load(MODELS / "digit.npy")
    np.save(tmp_path / "one.npy", x[0])
    np.savez(tmp_path / "one.npz", image=x[0])
    np.save(tmp_path / "flat.npy", x.reshape(64))
    dense = one_layer(tmp_path / "dense.onnx", "MatMul", [64, 5])
    wanted = explained(CNN, MODELS / "digit.npy")
    assert explained(CNN, tmp_path / "one.npy") == explained(CNN, tmp_path / "one.npz") == wanted
    np.save(tmp_path / "batch.npy", x.reshape(1, 64))
    more = ("--class-axis", 1)
    assert explained(dense, tmp_path / "flat.npy", *more) == explained(dense, tmp_path / "batch.npy", *more)
    assert "nothing is off" in said("check", CNN, tmp_path / "one.npy")
    assert "explains class 3" in said("report", CNN, tmp_path / "one.npy", "-o", tmp_path / "r.html")


def test_one_row_of_many(tmp_path: Path) -> None:
    """--row explains that row alone, also where the model takes one at a time."""
    model = onnx.load(CNN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.save(tmp_path / "five.npy", x)
    wanted = Explainer(CNN)(x)
    for place in (CNN, tmp_path / "fixed.onnx"):
        shown = said("explain", place, tmp_path / "five.npy", "--row", 3, "-o", tmp_path / "o.npz")
        assert shown.startswith("input five.npy: row 3 of 5\n")
        with np.load(tmp_path / "o.npz") as saved:
            np.testing.assert_allclose(saved["relevance.image"], wanted.relevance[3:4], rtol=0, atol=1e-5)
    found = json.loads(said("check", CNN, tmp_path / "five.npy", "--row", 3, "--json"))
    assert found["on"] == "input five.npy: row 3 of 5"
    assert found["ratio"] == pytest.approx(wanted.ratio[3], abs=1e-5)


def test_what_was_done_to_the_picture_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    done = "30 × 20 (width × height) stretched to 8 × 8, made grey, pixels ÷ 255, no mean or std (--mean, --std)"
    assert said("explain", CNN, tmp_path / "photo.png").splitlines()[0] == f"input photo.png: {done}"
    scaled = explained(CNN, MODELS / "digit.npy", "--scale", "0.5")
    assert scaled["input"] == "digit.npy: values ÷ 0.5, no mean or std (--mean, --std)"
    assert "input" not in explained(CNN, MODELS / "digit.npy")


def test_presets_are_listed_with_what_they_are_for() -> None:
    found = json.loads(said("presets", "--json"))
    assert [row["preset"] for row in found] == list(presets.PRESETS)
    for row in found:
        assert row["for"], row
        assert any(row["preset"] in line and row["for"] in line for line in said("presets").splitlines())


def test_help_names_the_command_that_lists_the_presets() -> None:
    done = said("explain", "--help")
    assert "`onnxlrp presets` lists them" in " ".join(done.split())
    assert "guided_backprop" not in done
    assert "(default, or -1: the largest output)" in " ".join(done.split())
    assert "--conditions" not in done
    assert "--conditions" in said("compile", "--help")
    assert "--checks" in said("check", "--help")
