"""Large files: weights stay where the file has them, and a model over 2 GB is compiled, written and run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, run, weight
from onnx import TensorProto, helper

import onnxlrp
from onnxlrp.graph import load
from onnxlrp.weights import Weight

BODY = "h = MatMul(x, w)\nr = Relu(h)\ny = MatMul(r, v)"


def external(folder: Path) -> Path:
    """A two-layer model whose weights lie in m.onnx.data."""
    model = net(BODY, "float[N,40] x", "float[N,6] y", w=weight(40, 50), v=weight(50, 6))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=100)
    return folder / "m.onnx"


def test_external_weights_are_read_once_they_are_needed(tmp_path: Path) -> None:
    path = external(tmp_path)
    graph = load(path).graph
    (w,) = [t for t in graph.tensors().values() if isinstance(t, Weight)]
    assert w.name == "w"
    assert w.values is not w.values  # read anew, not kept
    near(w.values, weight(40, 50), 0)
    x = data(2, 40)
    whole = net(BODY, "float[N,40] x", "float[N,6] y", w=weight(40, 50), v=weight(50, 6))
    near(run(onnxlrp.compile(path), x=x)["relevance.x"], run(onnxlrp.compile(whole), x=x)["relevance.x"], 0)


def test_external_data_too_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.onnx.data").write_bytes((tmp_path / "m.onnx.data").read_bytes()[:-500])
    with pytest.raises(onnxlrp.InvalidModel, match=r"external data is too short: 'v' ends at byte [\d,]+ of m.onnx.data"):
        onnxlrp.compile(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = external(tmp_path / "inner")
    (tmp_path / "inner" / "m.onnx.data").rename(tmp_path / "secret")
    model = onnx.load(path, load_external_data=False)
    for t in model.graph.initializer:
        t.external_data[0].value = "../secret"
    onnx.save(model, path)
    with pytest.raises(onnxlrp.InvalidModel, match=r"'\.\./secret' lies outside the model's folder"):
        onnxlrp.compile(path)


def test_a_large_weight_that_is_an_output_too() -> None:
    model = net(BODY, "float[N,40] x", "float[N,6] y, float[40,50] w", w=weight(40, 50), v=weight(50, 6))
    found = run(onnxlrp.compile(model), x=data(2, 40))
    near(found["w"], weight(40, 50), 0)


# Run in a process of its own, whose peak memory is that of compiling and saving. ru_maxrss is in KB on Linux.
COMPILE = """
import resource, sys, onnxlrp
onnxlrp.save(onnxlrp.compile(sys.argv[1], "epsilon_plus"), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_dense(path: Path, layers: int, width: int) -> int:
    """A chain of dense layers with one data file; returns the bytes of the weights."""
    w = weight(width, width) * np.float32(1.4)
    nodes, weights, t = [], [], "x"
    with Path(f"{path}.data").open("wb") as file:
        for i in range(layers):
            stub = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
            stub.data_location = TensorProto.EXTERNAL
            for key, value in (("location", f"{path.name}.data"), ("offset", file.tell()), ("length", w.nbytes)):
                stub.external_data.add(key=key, value=str(value))
            file.write(w.data)
            weights.append(stub)
            nodes += [helper.make_node("MatMul", [t, f"w{i}"], [f"h{i}"]), helper.make_node("Relu", [f"h{i}"], [f"r{i}"])]
            t = f"r{i}"
    nodes[-1].output[0] = "y"
    faces = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width])] for n in ("x", "y")]
    graph = helper.make_graph(nodes, "dense", *faces, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return layers * w.nbytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux reports it")
def test_three_gigabytes(tmp_path: Path) -> None:
    """Compiled and written within 1.3 times the model's size; the compiled file runs and its relevance adds up."""
    size = write_dense(tmp_path / "big.onnx", layers=12, width=8192)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path / "big.onnx"), str(tmp_path / "out.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(done.stdout)
    print(f"peak memory {peak / size:.2f} times the model's {size / 2**30:.1f} GB")
    assert size > 3 * 10**9
    assert peak < 1.3 * size
    x = data(2, 8192, low=0)
    found = run(str(tmp_path / "out.onnx"), x=x)
    start = np.take_along_axis(found["y"], found["y"].argmax(1)[:, None], 1)[:, 0]
    near(found["relevance.x"].sum(1), start, 1e-3)


@pytest.mark.parametrize("names", ["own", "equal"])
def test_a_chain_of_ten_thousand_nodes_listed_backwards(names: str) -> None:
    """Nothing recurses, nothing is quadratic (minutes instead of seconds)."""
    count = 10_000
    nodes = [
        helper.make_node("LeakyRelu", [f"t{i}"], [f"t{i + 1}"], name="same" if names == "equal" else f"node{i}", alpha=0.9999)
        for i in range(count)
    ]
    faces = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3])] for n in ("t0", f"t{count}")]
    graph = helper.make_graph(nodes[::-1], "chain", *faces)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = run(onnxlrp.compile(model, init="given"), t0=data(2, 3), relevance_out=data(2, 3, seed=1))
    near(found["relevance.t0"], data(2, 3, seed=1), 0)
