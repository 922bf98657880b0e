"""portable=True: every replacement computes what it stands for, and nothing of ours is left that WebGPU lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from helpers import error, nodes_of, run, shared
from onnx import TensorProto, helper, numpy_helper

import onnxlrp
from onnxlrp.cli import main
from onnxlrp.portable import gaps, to_portable
from onnxlrp.portable.runtimes import RANGES, lacking
from onnxlrp.session import metadata

DIGITS = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
ZOO = Path(__file__).parents[2] / "shared" / "zoo"
RNG = np.random.default_rng(0)
KINDS = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64, np.bool_: TensorProto.BOOL}
X = np.asarray([[-2, 0, 3, np.nan], [5, -0.5, np.inf, 1]], np.float32)

HALVES = np.asarray([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, -0.7, 8388609, np.inf, np.nan], np.float32)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ties(*shape: int) -> np.ndarray:
    """Few different values, so that most windows have several maxima."""
    return RNG.integers(-1, 2, shape).astype(np.float32)


def single(op: str, inputs: list[np.ndarray], fixed: bool = False, outputs: int = 1, **attrs: Any) -> tuple[Any, Any]:
    """A model with one node, and what to feed it. fixed: sizes are written in the file, and all inputs but the first."""
    names = [f"x{i}" for i in range(len(inputs))]
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if not fixed or n == "x0"}

    def face(name: str, x: np.ndarray) -> onnx.ValueInfoProto:
        sizes = list(x.shape) if fixed else [f"{name}_{a}" for a in range(x.ndim)]
        return helper.make_tensor_value_info(name, KINDS[x.dtype.type], sizes)

    outs = [f"y{i}" for i in range(outputs)]
    kind = TensorProto.INT64 if op == "Size" else attrs.get("dtype", KINDS[inputs[0].dtype.type])
    kinds = [kind, TensorProto.INT64]
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, "node", **attrs)], "g", [face(n, x) for n, x in feeds.items()],
        [helper.make_tensor_value_info(n, k, None) for n, k in zip(outs, kinds, strict=False)],
        [numpy_helper.from_array(x, n) for n, x in zip(names, inputs, strict=True) if n not in feeds],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model, feeds


def replaced(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after the pass."""
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    to_portable(graph)
    out: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    out.ir_version = 8
    onnx.checker.check_model(out)
    return out


CASES: dict[str, tuple[str, list[np.ndarray], dict[str, Any]]] = {
    "min of 0": ("Min", [X, np.asarray(0, np.float32)], {}),
    "max of 0": ("Max", [X, np.asarray(0, np.float32)], {}),
    "0 that broadcasts": ("Min", [np.asarray([1, -1], np.float32), np.zeros((2, 1, 2), np.float32)], {}),
    "min of three": ("Min", [X, floats(2, 4), np.asarray([[0.5]], np.float32)], {}),
    "max of integers": ("Max", [np.arange(-2, 3), np.asarray([1])], {}),
    "min of one": ("Min", [X], {}),
    "identity": ("Identity", [X], {}),
    "identity of a scalar": ("Identity", [np.asarray(2, np.float32)], {}),
    "identity of nothing": ("Identity", [np.zeros((0, 3), np.float32)], {}),
    "identity of flags": ("Identity", [X > 0], {}),
    "size": ("Size", [X], {}),
    "size of a scalar": ("Size", [np.asarray(2, np.float32)], {}),
    "size of nothing": ("Size", [np.zeros((0, 3), np.float32)], {}),
    "and": ("And", [X > 0, X[:1] < 4], {}),
    "or": ("Or", [X > 0, X[:1] < 4], {}),
    "xor": ("Xor", [X > 0, X[:1] < 4], {}),
    "sign": ("Sign", [np.asarray([-3, -0.0, 0, 1e-30, np.inf], np.float32)], {}),
    "sign of integers": ("Sign", [np.arange(-2, 3)], {}),
    "eye": ("EyeLike", [np.zeros((3, 5), np.float32)], {}),
    "eye above": ("EyeLike", [np.zeros((4, 3), np.int64)], {"k": 1, "dtype": int(TensorProto.FLOAT)}),
    "eye below": ("EyeLike", [np.zeros((4, 3), np.float32)], {"k": -2}),
    "halves": ("Round", [HALVES], {}),
    "remainder": ("Mod", [np.arange(-7, 8).reshape(-1, 1), np.asarray([-3, 4, 1])], {}),
    "sum of sizes": ("ReduceL1", [floats(3, 4)], {}),
    "blocks to channels": ("SpaceToDepth", [floats(2, 3, 6, 4)], {"blocksize": 2}),
    "gather": ("GatherElements", [floats(3, 4, 5), RNG.integers(-4, 4, (2, 6, 5))], {"axis": 1}),
    "gather from a vector": ("GatherElements", [floats(7), np.asarray([6, -7, 0])], {}),
    "gather last": ("GatherElements", [np.arange(12).reshape(3, 4), RNG.integers(-4, 4, (3, 2))], {"axis": -1}),
    "scatter": ("ScatterElements", [floats(3, 5), np.asarray([[1, -1]]), floats(1, 2)], {"axis": 1}),
    "scatter added": ("ScatterElements", [floats(9), RNG.integers(-9, 9, 30), floats(30)], {"reduction": "add"}),
    "scatter of rows": (
        "ScatterElements", [floats(4, 3), np.tile([[2], [0], [2]], 3), floats(3, 3)], {"axis": 0, "reduction": "add"},
    ),
    "smallest": ("ScatterElements", [floats(4, 2), RNG.integers(0, 2, (4, 6)), floats(4, 6)], {"axis": 1, "reduction": "min"}),
}  # fmt: skip


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_replacement_computes_what_the_operator_computes(case: str, fixed: bool) -> None:
    """Equal as onnxruntime compares them, NaN for NaN; sums to rounding."""
    op, inputs, attrs = CASES[case]
    model, feeds = single(op, inputs, fixed, **attrs)
    portable = replaced(model)
    assert nodes_of(model, op) == 1
    assert nodes_of(portable, op) == 0
    assert not gaps(portable)
    expected, found = run(model, feeds, optimise=False)["y0"], run(portable, feeds, optimise=False)["y0"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6 if op == "ReduceL1" or attrs.get("reduction") == "add" else 0)


POOLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "1-D": ((2, 3, 9), {"kernel_shape": [3], "strides": [2]}),
    "2-D": ((2, 3, 8, 7), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "overlapping": ((2, 2, 7, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "one sided": ((1, 2, 6, 6), {"kernel_shape": [3, 2], "strides": [1, 3], "pads": [2, 0, 0, 1]}),
    "dilated": ((1, 2, 9, 9), {"kernel_shape": [2, 3], "dilations": [3, 2]}),
    "ceil": ((2, 1, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "ceil with pads": ((1, 2, 7, 9), {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 1, 0, 1], "ceil_mode": 1}),
    "3-D": ((1, 2, 5, 4, 6), {"kernel_shape": [2, 2, 3], "strides": [2, 1, 2]}),
}


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_places_of_maxima_are_those_of_onnxruntime(pool: str, fixed: bool) -> None:
    """The second output of MaxPool, the first of several maxima included, for an input full of them."""
    shape, attrs = POOLS[pool]
    x = ties(*shape)
    model, feeds = single("MaxPool", [x], fixed, outputs=2, **attrs)
    portable = replaced(model)
    assert [(g.op, g.why) for g in gaps(model)] == [("MaxPool", "no second output")]
    assert not gaps(portable)
    expected, found = run(model, feeds), run(portable, feeds)
    assert len(np.unique(expected["y1"])) > 2
    for name in ("y0", "y1"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("pool", POOLS)
def test_relevance_of_maxima_goes_to_the_same_places(pool: str, batch: str | int) -> None:
    """A pool of one or two axes needs no integers for it, one of three axes does; maps are equal, on ties too."""
    shape, attrs = POOLS[pool]
    sizes: list[int | str] = (
        [batch, *shape[1:]] if isinstance(batch, int) else [batch, shape[1], *(f"d{a}" for a in range(2, len(shape)))]
    )
    nodes = [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("MaxPool", ["r"], ["y"], "pool", **attrs)]
    faces = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape)),
    ]
    graph = helper.make_graph(nodes, "g", faces[:1], faces[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = ties(2, *shape[1:])
    plain, portable = (onnxlrp.compile(model, "epsilon", init="given", portable=p) for p in (False, True))
    feeds = {"x": x, "relevance_out": floats(*run(model, {"x": x})["y"].shape)}
    expected, found = run(plain, feeds)["relevance.x"], run(portable, feeds)["relevance.x"]
    assert np.abs(expected).max() > 0
    assert error(found, expected) <= 1e-6
    assert not gaps(portable)
    assert nodes_of(portable, "ConvTranspose") == (len(shape) < 5)
    assert nodes_of(portable, "ArgMax") == (len(shape) == 5)


@pytest.mark.parametrize(("channels", "filled"), [(3, 3), (4, 4), (6, 8), (9, 12), (12, 12), (15, 16)])
def test_input_channels_that_webgpu_takes_wrongly_are_filled_up(channels: int, filled: int) -> None:
    """Zeros change no sum; what the provider computes rightly stays as it is."""
    x, w = floats(2, channels, 6, 5), floats(4, channels, 3, 2)
    model, feeds = single("Conv", [x, w], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], fixed=True)
    portable = replaced(model)
    inner = onnx.shape_inference.infer_shapes(portable).graph.value_info
    widths = {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in inner}
    assert max([channels, *widths.values()]) == filled
    assert error(run(portable, feeds)["y0"], run(model, feeds)["y0"]) <= 1e-6


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    return np.asarray(np.load(DIGITS.with_name("digit.npy")))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"composite": "epsilon"},
        {"composite": "gradient"},
        {"composite": "tutorial_vgg"},
        {"composite": "excitation_backprop"},
        {"checks": True, "layers": ["conv2"], "conditions": ["conv2"]},
        {"bake": True},
        {"optimize": False},
        {"shared_forward": True},
        {"canonize": False},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_the_digits_model_is_explained_alike(options: dict[str, Any], digit: np.ndarray) -> None:
    """Same outputs and relevance, for a target given and for the winner; nothing that a runtime lacks."""
    plain, portable = (onnxlrp.compile(DIGITS, portable=p, **options) for p in (False, True))
    assert [g.op for g in gaps(plain) if g.relevance]
    assert {g.op for g in gaps(portable)} <= {"BatchNormalization"}  # the model's own, which one composite keeps apart
    assert not [g for g in gaps(portable) if g.relevance]
    assert [o.name for o in portable.graph.output] == [o.name for o in plain.graph.output]
    for feeds in ({"image": digit}, {"image": digit, "target": np.asarray([5])}):
        expected, found = run(plain, feeds), run(portable, feeds)
        assert all(error(found[name], expected[name]) <= 1e-6 for name in expected)


def test_the_file_says_that_it_is_portable(digit: np.ndarray) -> None:
    """In its metadata; all else that the runtime reads there is as without, above all whether rows are independent."""
    plain, portable = (onnxlrp.compile(DIGITS, portable=p) for p in (False, True))
    props = metadata(portable)
    assert props.pop("onnxlrp.portable") == "1"
    assert "onnxlrp.portable" not in metadata(plain)
    assert json.loads(props["onnxlrp.interface"]) == json.loads(metadata(plain)["onnxlrp.interface"])
    assert props == metadata(plain)
    ours = onnxlrp.Explainer(DIGITS, portable=True)(np.concatenate([digit, digit]), target=[3, 5])
    assert error(ours.relevance, onnxlrp.Explainer(DIGITS)(np.concatenate([digit, digit]), target=[3, 5]).relevance) <= 1e-6


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--portable of compile writes the same file as portable=True, and says what is left."""
    out = tmp_path / "digits.lrp.onnx"
    monkeypatch.setattr(sys, "argv", ["onnxlrp", "compile", str(DIGITS), "-o", str(out), "--portable"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "left as it is: BatchNormalization: not on mobile" in capsys.readouterr().out
    written = onnx.load(out)
    assert list(written.graph.node) == list(onnxlrp.compile(DIGITS, portable=True).graph.node)


def test_what_is_left_is_listed_with_whose_it_is() -> None:
    """An operator without a replacement is no error: it is named, with the runtimes that lack it and how many nodes have it."""
    model, _ = single("Conv", [floats(1, 2, 4, 4, 4), floats(3, 2, 2, 2, 2)], fixed=True, kernel_shape=[2, 2, 2])
    found = gaps(onnxlrp.compile(model, portable=True, init="given"))
    assert {(g.op, g.runtimes, bool(g.model), bool(g.relevance)) for g in found} == {
        ("Conv", ("webgpu",), True, False),
        ("ConvTranspose", ("webgpu",), False, True),
    }
    assert "windows of one or two axes only" in str(found[0])
    model, _ = single("LRN", [floats(2, 3, 4, 4)], fixed=True, size=3)
    assert [(g.op, g.runtimes, g.model, g.relevance) for g in gaps(replaced(model))] == [("LRN", ("webgpu",), 1, 0)]


def test_the_table_knows_ranges_of_opsets() -> None:
    """GridSample has a kernel for opsets 16 to 19 only; nothing outside of the standard domain has one."""
    assert RANGES["GridSample"] == (16, 19)
    both = ("webgpu", "mobile")
    assert [lacking("GridSample", v) for v in (15, 16, 19, 20)] == [both, ("mobile",), ("mobile",), both]
    assert lacking("Add", 18) == ()
    assert lacking("LSTM", 18) == lacking("Gelu", 18, "com.microsoft") == both


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("preset", ["epsilon_plus", "attn_lrp"])
def test_models_of_many_exporters(preset: str) -> None:
    """Outputs and relevance as without, and nothing of ours that a runtime lacks, on every model of the zoo."""
    shared("zoo")
    compiled = 0
    for path in sorted(ZOO.glob("*.onnx")):
        try:
            plain = onnxlrp.compile(path, preset)
        except onnxlrp.UnsupportedOp:
            continue
        portable = onnxlrp.compile(path, preset, portable=True)
        assert not [str(g) for g in gaps(portable) if g.relevance], path.stem
        data = np.load(path.with_suffix(".npz"))
        feeds = {k[3:]: data[k] for k in data.files if k.startswith("in:")}
        expected, found = run(plain, feeds, optimise=False), run(portable, feeds, optimise=False)
        worst = {k: error(found[k], y) for k, y in expected.items() if isinstance(y, np.ndarray) and y.dtype.kind == "f"}
        assert all(e <= 1e-6 for e in worst.values()), (path.stem, worst)
        compiled += 1
    assert compiled > 100
