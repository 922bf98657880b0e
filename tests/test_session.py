"""Opening models: from where, with how much memory, and what is kept to compile once more."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, small, weight

import onnxlrp
from onnxlrp import Explainer, InvalidModel
from onnxlrp.session import metadata, open_session, providers_of, run

MODELS = Path(__file__).parents[1] / "models"
CNN, MLP = MODELS / "digits_cnn.onnx", MODELS / "digits_mlp.onnx"
X = data(3, 3, 6, 5, seed=4)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What sessions were opened on."""
    found: list[Any] = []

    def spy(place: Any, providers: Any, threads: int) -> Any:
        found.append(place)
        return open_session(place, providers, threads)

    monkeypatch.setattr("onnxlrp.run.open_session", spy)
    return found


def test_a_compiled_file_is_opened_where_it_lies(tmp_path: Path, places: list[Any]) -> None:
    path = tmp_path / "small.lrp.onnx"
    onnxlrp.save(onnxlrp.compile(small(), "epsilon"), path)
    explainer = Explainer(path)
    assert places == [str(path)]
    assert [o.name for o in explainer.model.graph.output] == ["y", "relevance.x"]
    near(explainer.quietly(X).relevance, Explainer(small(), "epsilon").quietly(X).relevance, 0)


def test_large_weights_go_by_way_of_a_file(monkeypatch: pytest.MonkeyPatch, places: list[Any]) -> None:
    model = net("f = Flatten(x)\n h = Gemm(f, a)\n y = Gemm(h, b)", a=weight(90, 64), b=weight(64, 4))
    wanted = Explainer(model, "epsilon", output="h").quietly(X)
    monkeypatch.setattr("onnxlrp.session.APART", 0)
    found = Explainer(model, "epsilon", output="h").quietly(X)
    assert isinstance(places[0], bytes)
    assert places[1].endswith("model.onnx")
    assert not Path(places[1]).exists()
    near(found.relevance, wanted.relevance, 0)
    near(found.output, wanted.output, 0)


HEADS: dict[str, dict[str, Any]] = {
    "logit": {},
    "one": {"init": "one"},
    "gradient": {"composite": "gradient"},
    "no class axis": {"output": "z", "class_axis": None},
    "within": {"output": "r"},
    "position": {"output": "r", "position": (2, 3)},
}


@pytest.mark.parametrize("target", [None, 2, [1, -1, 0]], ids=["largest", "one", "per row"])
@pytest.mark.parametrize("name", HEADS)
def test_initial_relevance_is_the_graph_s_own(name: str, target: Any) -> None:
    """What the runtime derives from the output equals the tensor in the graph, bit for bit."""
    options = {"composite": "epsilon", **HEADS[name]}
    model = small()
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["y", "last"], ["z"], "z", keepdims=0))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([1]), "last"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N"]))
    if name == "no class axis":
        target = None
    explanation = Explainer(model, **options).quietly(X, target)
    compiled = onnxlrp.compile(model, **options)
    face = json.loads(metadata(compiled)["onnxlrp.interface"])
    compiled.graph.output.append(onnx.helper.make_empty_tensor_value_info(face["initial"]))
    session = open_session(compiled.SerializeToString(), providers_of("cpu"), 1)
    feed = {"x": X} if target is None else {"x": X, "target": np.atleast_1d(np.asarray(target))}
    assert np.array_equal(run(session, [face["initial"]], feed)[0], explanation.initial)


def test_metadata_without_the_graph(tmp_path: Path) -> None:
    compiled = onnxlrp.compile(CNN)
    path = tmp_path / "c.onnx"
    onnxlrp.save(compiled, path)
    assert (
        metadata(path) == metadata(compiled) == metadata(path.read_bytes()) == {p.key: p.value for p in compiled.metadata_props}
    )
    for broken in (b"", b"hello", path.read_bytes()[:1000], b"\xff" * 100, bytes(100)):
        path.write_bytes(broken)
        assert metadata(path) == {}
    assert metadata(tmp_path / "nowhere.onnx") == {}


def test_bound_inputs_and_outputs_give_what_a_run_gives() -> None:
    """The path of CUDA, on the device that is here."""
    explainer = Explainer(CNN, "epsilon_plus", layers=["pool"], checks=True, batch_size=2)
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    plain = explainer.quietly(x, [0, 1, 2, 3, 4])
    explainer._device = "cpu"
    bound = explainer.quietly(x, [0, 1, 2, 3, 4])
    for a, b in zip(plain._arrays().values(), bound._arrays().values(), strict=True):
        assert np.array_equal(a, b)


def test_an_overwritten_file_is_not_compiled_again(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CNN.read_bytes())
    explainer = Explainer(path)
    with path.open("ab") as file:
        file.write(b"\0")
    explanation = explainer(np.load(MODELS / "digit.npy"))
    with pytest.raises(InvalidModel, match="was overwritten since"):
        _ = explanation.conservation


def big(path: Path) -> Path:
    """16 MB of weights."""
    onnx.save(net("y = MatMul(x, w)", "float[N,2048] x", "float[N,2048] y", w=weight(2048, 2048)), path)
    return path


def holds(root: Any) -> list[str]:
    """Types of the models and large byte strings that an object refers to, however deep."""
    seen, todo, found = {id(root)}, [root], []
    while todo:
        each = todo.pop()
        if isinstance(each, onnx.ModelProto) or (isinstance(each, bytes) and len(each) > 2**20):
            found.append(type(each).__name__)
        for child in gc.get_referents(each):
            shared = isinstance(child, (type, ModuleType)) or (isinstance(child, dict) and "__builtins__" in child)
            if id(child) not in seen and not shared:
                seen.add(id(child))
                todo.append(child)
    return sorted(found)


def test_what_an_explainer_keeps_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxlrp.session.APART", 0)
    path = big(tmp_path / "big.onnx")
    kept = {}
    for name, model in (("path", path), ("bytes", path.read_bytes()), ("proto", onnx.load(path))):
        explainer = Explainer(model, "epsilon")
        explanation = explainer.quietly(data(2, 2048))
        assert len(explanation.conservation) == 1
        kept[name] = holds(explainer)
    assert kept == {"path": [], "bytes": ["bytes"], "proto": ["ModelProto"]}  # what cannot be read again, once


PEAK = """
import resource, sys
import onnxlrp
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
onnxlrp.Explainer(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
def test_opening_a_compiled_file_takes_what_the_runtime_takes(tmp_path: Path) -> None:
    """64 MB of weights: the runtime has them as they are, and packed twice; no fourth copy."""
    w = weight(4096, 4096)
    onnxlrp.save(
        onnxlrp.compile(net("y = MatMul(x, w)", "float[N,4096] x", "float[N,4096] y", w=w), "epsilon"), tmp_path / "c.onnx"
    )
    command = [sys.executable, "-c", PEAK, str(tmp_path / "c.onnx")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak < 4 * 64, peak


def test_a_call_costs_little_python() -> None:
    """Allocations, which do not depend on what else the machine does: no array as large as the input is made to check it."""
    explainer, x = Explainer(net("y = MatMul(x, w)", "float[N,64] x", w=weight(64, 4)), "epsilon"), data(4096, 64)
    explainer.quietly(x, 0)
    tracemalloc.start()
    explainer._feeds.feed(x, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 16
