"""The command line: exit codes, one line per error, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.png"


def onnxlrp(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m onnxlrp`."""
    command = [sys.executable, "-m", "onnxlrp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


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
    done = onnxlrp("inspect", CNN, "-c", "epsilon_plus_flat")
    assert done.returncode == 0
    assert "FirstLayerTypeMap: Linear" in done.stdout
    rows = json.loads(onnxlrp("inspect", CNN, "--json").stdout)["layers"]
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


def test_ops_lists_operators() -> None:
    done = onnxlrp("ops")
    assert done.returncode == 0
    assert "ConvTranspose" in done.stdout
    assert {r["op"] for r in json.loads(onnxlrp("ops", "--json").stdout)} >= {"Conv", "Gemm", "Shape"}


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
    "target out of range": (["explain", CNN, DIGIT, "-t", "10", "-o", "out.npz"], "[-1, 10)"),
    "bad suffix": (["explain", CNN, DIGIT, "-o", "out.txt"], ".npz or .png"),
    "unknown provider": (["explain", CNN, DIGIT, "--provider", "quantum"], "quantum"),
    "unknown option": (["explain", CNN, DIGIT, "--colour"], "--colour"),
    "unknown command": (["explian", CNN], "explian"),
    "missing argument": (["explain", CNN], "INPUT"),
    "bad position": (["compile", CNN, "-o", "out.onnx", "--position", "x"], "position"),
    "bad input shape option": (["inspect", CNN, "--input-shapes", "image"], "NAME=SIZE"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    (path / "truncated.onnx").write_bytes(CNN.read_bytes()[:50_000])
    (path / "text.npy").write_text("hello")
    np.save(path / "wide.npy", np.zeros((1, 1, 9, 9), np.float32))
    np.save(path / "nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    np.save(path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(folder: Path, name: str) -> None:
    arguments, text = WRONG[name]
    before = sorted(folder.iterdir())
    done = onnxlrp(*arguments, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert text in done.stderr
    assert sorted(folder.iterdir()) == before
