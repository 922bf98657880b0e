"""Broken files: one clear line that names what is wrong, exit code 2, and nothing written."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_for_tests import net, small, weight
from onnx import TensorProto, helper

from onnxlrp.cli import main

Write = Callable[[Path], None]


def changed(change: Callable[[onnx.ModelProto], object]) -> Write:
    """A small convolutional net, saved after a change."""

    def write(path: Path) -> None:
        model = small()
        change(model)
        onnx.save(model, path)

    return write


def text(body: str, y: str = "float[N,3] y", x: str = "float[N,3,4] x", domains: str = "", **constants: np.ndarray) -> Write:
    return lambda path: onnx.save(net(body, x, y, domains=domains, **constants), path)


def truncated(path: Path) -> None:
    whole = small().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.txt", "not a model")


def without_data(path: Path) -> None:
    onnx.save(net("y = MatMul(x, w)", "float[N,40] x", "float[N,50] y", w=weight(40, 50)), path,
              save_as_external_data=True, location="weights.bin")  # fmt: skip
    (path.parent / "weights.bin").unlink()


def set_dim(size: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[0] = size

    return change


def as_integers(model: onnx.ModelProto) -> None:
    w = model.graph.initializer[0]
    w.data_type, w.raw_data = TensorProto.INT64, w.raw_data * 2


ONE = np.asarray([0])
ROWS: dict[str, tuple[Write, str]] = {
    "truncated": (truncated, "not a complete ONNX file"),
    "a picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))) and None, "not a complete ONNX file"),
    "a text": (lambda p: p.write_text("hello world\n" * 99) and None, "not a complete ONNX file"),
    "an archive": (archive, "not a complete ONNX file"),
    "empty": (lambda p: p.write_bytes(b"") and None, "it has no nodes and no outputs"),
    "weights of another type": (changed(as_integers), "Conv"),
    "missing initializer": (changed(lambda m: m.graph.initializer.pop(0)), "node 'h' (Conv) reads 'w', which no input"),
    "missing node": (changed(lambda m: m.graph.node.pop(1)), "node 'p' (MaxPool) reads 'r', which no input"),
    "missing output": (changed(lambda m: setattr(m.graph.output[0], "name", "z")), "output 'z' is computed by no node"),
    "cycle": (text("a = Add(x, b)\nb = Relu(a)\ny = Relu(b)"), "cycle through the node that computes 'a'"),
    "two sources": (text("a = Relu(x)\na = Tanh(x)\ny = Relu(a)"), "two nodes compute 'a'"),
    "unknown domain": (
        text("a = my.Thing(x)\ny = Relu(a)", domains=', "my" : 1'), "node 'a': operator my::Thing (opset 18) has no reading",
    ),
    "undeclared domain": (changed(lambda m: setattr(m.graph.node[0], "domain", "nowhere")), "domain 'nowhere'"),
    "unknown operator": (
        changed(lambda m: setattr(m.graph.node[0], "op_type", "Convv")), "Convv (opset 18) is no operator of the ONNX standard",
    ),
    "unknown attribute": (
        changed(lambda m: m.graph.node[0].attribute.append(helper.make_attribute("bogus", 3))), "attribute: bogus",
    ),
    "opset of the future": (changed(lambda m: setattr(m.opset_import[0], "version", 999)), "opset 999; this version of"),
    "opset 0": (changed(lambda m: setattr(m.opset_import[0], "version", 0)), "opset 0; opsets 7 to"),
    "opset 4": (changed(lambda m: setattr(m.opset_import[0], "version", 4)), "opset 4; opsets 7 to"),
    "absurd size": (changed(set_dim(2**50)), "refuses the model"),
    "negative size": (changed(set_dim(-4)), "Negative dimension"),
    "absurd reshape": (text("y = Reshape(x, s)", s=np.asarray([2**40, 2**40])), "Node (y) Op (Reshape)"),
    "axis of Concat": (text("y = Concat<axis=-7>(x, x)"), "Node (y) Op (Concat) [ShapeInferenceError] axis must be in"),
    "axis of Flatten": (text("h = Flatten<axis=9>(x)\ny = Relu(h)"), "Node (h) Op (Flatten)"),
    "axis of Gather": (text("h = Gather<axis=5>(x, i)\ny = Relu(h)", i=ONE), "Node (h) Op (Gather)"),
    "axis of ReduceMean": (text("y = ReduceMean(x, a)", a=ONE - 9), "Node (y) Op (ReduceMean)"),
    "axis of Softmax": (text("y = Softmax<axis=-7>(x)"), "Node (y) Op (Softmax)"),
    "shapes that do not fit": (text("h = MatMul(x, w)\ny = Relu(h)", w=weight(5, 6)), "Node (h) Op (MatMul)"),
    "input without a type": (
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 0)), "input 'x' has no element type",
    ),
    "external data missing": (without_data, "external data is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_one_clear_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write, wanted = ROWS[name]
    file, out = tmp_path / "model.onnx", tmp_path / "out" / "compiled.onnx"
    write(file)
    out.parent.mkdir()
    for arguments in (["compile", str(file), "-o", str(out)], ["inspect", str(file)], ["check", str(file)]):
        monkeypatch.setattr("sys.argv", ["onnxlrp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert ended.value.code == 2
        assert len(said.err.strip().splitlines()) == 1
        assert wanted in said.err
        assert said.out == ""
        assert list(out.parent.iterdir()) == []
