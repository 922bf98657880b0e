"""Every mistake gives one line that names the culprit and says what to do; nothing fails with a foreign traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import CONSTANTS, data, lrp, near, net, relevance, small, weight

import onnxlrp
from onnxlrp import (
    AlphaBeta,
    Average,
    BetaSmooth,
    Composite,
    CompositeError,
    Epsilon,
    FirstLayerMap,
    FirstNTypeMap,
    Flat,
    Gamma,
    GeneralizedGamma,
    GlobalMap,
    GlobalTypeMap,
    InvalidModel,
    LayerMap,
    NameMap,
    Pass,
    RangeMap,
    RuleMismatch,
    Stop,
    UnsupportedOp,
    WinnerTakesAll,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    presets,
)


def message(kind: type[Exception], act: Callable[[], Any], *parts: str) -> str:
    """The text of the error that `act` raises: one line that contains all parts."""
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert isinstance(caught.value, onnxlrp.Error)
    assert "\n" not in text
    missing = [p for p in parts if p not in text]
    assert not missing, f"{missing} not in: {text}"
    return text


def compiling(model: Any, composite: Any = "epsilon", **options: Any) -> Callable[[], Any]:
    return lambda: onnxlrp.compile(model, composite, **options)


# ---------------------------------------------------------------------------------------------------------- the file


def test_missing_file(tmp_path: Path) -> None:
    message(InvalidModel, compiling(tmp_path / "none.onnx"), "none.onnx", "no such file")


def test_folder(tmp_path: Path) -> None:
    message(InvalidModel, compiling(tmp_path), str(tmp_path), "is a folder", "give the .onnx file")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    whole = Path(__file__).parent.parent.joinpath("models/digits_cnn.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * keep)])
    message(InvalidModel, compiling(path), "cut.onnx", "truncated")


@pytest.mark.parametrize("content", [b"", b"hello, this is no model\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04"])
@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "path"])
def test_not_onnx(tmp_path: Path, content: bytes, as_bytes: bool) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    message(InvalidModel, compiling(content if as_bytes else path), "the model" if as_bytes else "other.onnx")


def test_missing_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    message(InvalidModel, compiling(path), "m.onnx", "external data", "weights.bin")
    message(InvalidModel, compiling(path.read_bytes()), "external data", "path")
    message(InvalidModel, compiling(onnx.load(path, load_external_data=False)), "external data", "path")


def test_cycle() -> None:
    model = net("a = Add(x, b)\nb = Relu(a)\ny = Identity(b)", y="float[N,3,6,5] y")
    message(InvalidModel, compiling(model), "cycle", "'a'")


def test_missing_initializer() -> None:
    constants = {k: v for k, v in CONSTANTS.items() if k != "v"}
    model = small()
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    message(InvalidModel, compiling(model), "v", "y")


@pytest.mark.parametrize("output", ["z", "y"])
def test_output_that_nothing_computes(output: str) -> None:
    model = net("h = Relu(x)", y=f"float[N,3,6,5] {output}")
    message(InvalidModel, compiling(model), output)


def test_model_without_outputs() -> None:
    model = net("h = Relu(x)", y="float[N,3,6,5] h")
    del model.graph.output[:]
    message(InvalidModel, compiling(model), "output")


def test_nchwc() -> None:
    model = net("y = com.microsoft.nchwc.ReorderInput(x)", domains=', "com.microsoft.nchwc" : 1')
    model.graph.node[0].op_type, model.graph.node[0].domain = "ReorderInput", "com.microsoft.nchwc"
    message(UnsupportedOp, compiling(model), "'y'", "ReorderInput", "BASIC")


def test_the_same_tensor_written_twice() -> None:
    model = net("h = Relu(x)\nh = Abs(x)\ny = Identity(h)", y="float[N,3,6,5] y")
    message(InvalidModel, compiling(model), "h")


# ------------------------------------------------------------------------------------------------------------ operators

UNKNOWN = {
    "standard": ("y = Det(h)", "", "Det"),
    "unknown domain": ("y = acme.Twirl(h)", ', "acme" : 1', "acme::Twirl"),
    "same name as a standard operator": ("y = acme.Relu(h)", ', "acme" : 1', "acme::Relu"),
    "com.microsoft": ("y = com.microsoft.Inverse(h)", ', "com.microsoft" : 1', "com.microsoft::Inverse"),
}


def unknown(name: str) -> onnx.ModelProto:
    body, domains, _ = UNKNOWN[name]
    rank = "float[N] y" if name == "standard" else "float[N,4,4] y"
    if name not in ("standard", "com.microsoft"):
        rank = "float[N,4,4] y"
    return net(f"h = Relu(x)\n{body}", "float[N,4,4] x", rank, domains=domains)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_operator(name: str) -> None:
    message(
        UnsupportedOp, compiling(unknown(name)), "node 'y'", f"operator {UNKNOWN[name][2]} ", "opset",
        "NameMap({'y': Pass()})", "NameMap({'y': Stop()})",
    )  # fmt: skip


@pytest.mark.parametrize("rule", [Pass(), Stop()], ids=repr)
def test_the_way_out_of_an_unknown_operator(rule: onnxlrp.Rule) -> None:
    # multiplying into a tensor has no reading; two ways lead to the output, so that Stop leaves one
    body = 'h = Relu(x)\nm = ScatterElements<reduction="mul">(h, at, two)\ng = Add(m, h)\ny = ReduceSum<keepdims=0>(g, axes)'
    model = net(body, "float[N,4] x", "float[N] y", at=np.int64([[0]]), two=np.float32([[2]]), axes=np.int64([1]))
    message(UnsupportedOp, compiling(model), "node 'm'", "ScatterElements", "reduction=mul")
    x = np.float32([[0.5, 1, 3, -1]])
    r = relevance(model, x, Composite(NameMap({"m": rule})))
    h = np.maximum(x, 0)
    near(r, h + h * [2, 1, 1, 1] if isinstance(rule, Pass) else h, 1e-4)


def test_pass_through_an_operator_that_changes_the_shape() -> None:
    composite = Composite(NameMap({"y": Pass()}))
    message(RuleMismatch, compiling(unknown("standard"), composite), "node 'y'", "(Det)", "Pass()", "N×4×4")


def test_a_reading_that_does_not_cover_a_use() -> None:
    model = net("y = Clip(x, s)\ns = ReduceMax<keepdims=0>(x)", "float[N,4] x", "float[N,4] y")
    message(UnsupportedOp, compiling(model), "node 'y'", "Clip", "bound depends on the explained input", "NameMap({'y': ")


ACTIVE_PARAMETERS = {
    "weight of a Conv": ("y = Conv(k, x)", "float[3,2,2,2] x", {"k": data(1, 2, 5, 5)}, "float[1,3,4,4] y"),
    "bias of a Conv": ("b = ReduceMax<keepdims=0>(x)\nf = Unsqueeze(b, zero)\ny = Conv(x, k, f)", "float[1,2,5,5] x",
                       {"k": data(1, 2, 2, 2), "zero": np.zeros(1, np.int64)}, "float[1,1,4,4] y"),
    "scale of a BatchNormalization": ("y = BatchNormalization(k, x, x, m, m)", "float[3] x",
                                      {"k": data(2, 3, 4), "m": np.ones(3, np.float32)}, "float[2,3,4] y"),
    "value of a Pad": ("v = ReduceMax<keepdims=0>(x)\ny = Pad(x, p, v)", "float[2,3] x",
                       {"p": np.asarray([0, 1, 0, 0])}, "float[2,4] y"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVE_PARAMETERS)
def test_a_parameter_that_depends_on_the_explained_input(name: str) -> None:
    """Relevance that would go there has no reading: an error, never a map that silently lacks it."""
    text, x, constants, y = ACTIVE_PARAMETERS[name]
    message(UnsupportedOp, compiling(net(text, x, y, **constants)), "node 'y'", "depends on the explained input", "Stop()")


def test_statistics_of_the_batch_itself() -> None:
    text = "y, m, v = BatchNormalization<training_mode=1>(x, s, s, s, s)"
    model = net(text, "float[N,3,4] x", "float[N,3,4] y", s=np.ones(3, np.float32))
    message(UnsupportedOp, compiling(model), "node 'y'", "training_mode=1")


def test_unknown_rank_names_the_node() -> None:
    model = net("a = Reshape(x, s)\nb = Transpose(a)\ny = Flatten(b)", "float[N,4] x, int64[K] s", "float[N,4] y")
    message(UnsupportedOp, compiling(model), "node 'a'", "rank", "input_shapes=")


def test_stop_gets_past_a_use_without_reading() -> None:
    model = net("c = Clip(x, s)\ns = ReduceMax<keepdims=0>(x)\ny = Add(c, x)", "float[N,4] x", "float[N,4] y")
    found = lrp(model, {"x": data(2, 4)}, onnxlrp.Composite(onnxlrp.NameMap({"c": onnxlrp.Stop()})))
    assert np.isfinite(found["relevance.x"]).all()


# ----------------------------------------------------------------------------------------------------- start and end


def test_unknown_output() -> None:
    message(CompositeError, compiling(small(), output="logits"), "output", "'logits'", "y")


def test_unknown_output_suggests_a_close_one() -> None:
    model = net("logits = Relu(x)", y="float[N,3,6,5] logits")
    message(CompositeError, compiling(model, output="logit"), "'logit'", "did you mean 'logits'?")


def test_integer_output_without_scores_behind_it() -> None:
    model = net("s = Shape(x)\ny = Relu(x)", y="int64[4] s, float[N,3,6,5] y")
    message(UnsupportedOp, compiling(model), "output 's'", "int64", "Shape", "output=", "y")


def test_output_that_does_not_depend_on_the_input() -> None:
    model = net("y = Expand(k, s)\ns = Shape(x)", "float[N,4] x", "float[N,4] y", k=np.float32([[1, 2, 3, 4]]))
    message(UnsupportedOp, compiling(model), "'y'", "does not depend on 'x'", "output=", "explain=")


def test_output_that_is_an_input() -> None:
    model = net("y = Relu(x)", "float[N,4] x", "float[N,4] x, float[N,4] y")
    message(UnsupportedOp, compiling(model), "output 'x' is an input itself", "output=")


def test_relevance_that_ends_in_an_inert_node_names_it() -> None:
    body = "g = Greater(x, zero)\nc = Cast<to=1>(g)\ny = MatMul(c, w)"
    model = net(body, "float[N,4] x", "float[N,2] y", zero=np.float32(0), w=weight(4, 2))
    message(UnsupportedOp, compiling(model), "'y'", "it ends at node 'g' (Greater)")


def test_integer_inputs_without_embedding() -> None:
    model = net("c = Cast<to=1>(ids)\ny = MatMul(c, w)", "int64[N,4] ids", "float[N,2] y", w=weight(4, 2))
    message(UnsupportedOp, compiling(model), "'y'", "any float input or embedding", "explain=")


def test_unknown_explain() -> None:
    message(CompositeError, compiling(small(), explain=["xx"]), "explain", "'xx'", "x")
    near_names = message(CompositeError, compiling(small(), explain=["hh"]), "explain")
    assert "h" in near_names.split("near are")[1]


def test_explain_what_does_not_reach_the_output() -> None:
    model = net("h = Relu(z)\ny = Relu(x)", "float[N,4] x, float[N,4] z", "float[N,4] y, float[N,4] h")
    message(UnsupportedOp, compiling(model, explain=["x", "z"]), "'z'", "does not depend")


@pytest.mark.parametrize("what", ["layers", "conditions"])
@pytest.mark.parametrize(
    ("key", "parts"),
    [("hh", ("'hh'", "h")), (9, ("9", "layers 0 to 3")), (-5, ("-5", "layers 0 to 3")), ("w", ("'w'", "no layer"))],
    ids=["close name", "index", "negative index", "weight"],
)
def test_unknown_layers_and_conditions(what: str, key: Any, parts: tuple[str, ...]) -> None:
    message(CompositeError, compiling(small(), **{what: [key]}), *parts)


def test_layers_behind_the_explained_tensor() -> None:
    model = net("z = MatMul(x, w)\ny = Softmax(z)", "float[N,3] x", "float[N,4] y", w=weight(3, 4))
    message(CompositeError, compiling(model, layers=["y"]), "layers", "'y'", "no tensor that carries relevance")


@pytest.mark.parametrize("axis", [2, -3])
def test_class_axis(axis: int) -> None:
    message(CompositeError, compiling(small(), class_axis=axis), f"class_axis={axis}", "'y'", "2 axes")


@pytest.mark.parametrize(
    ("shape", "position", "parts"),
    [
        ("N,4", 0, ("position=0", "0 position axes")),
        ("N,7,4", 7, ("position=7", "7 positions")),
        ("N,7,4", -8, ("position=-8", "7 positions")),
        ("N,4,5,6", 1, ("position=1", "[2, 3]", "one index each")),
        ("N,4,5,6", (1, 6), ("position=(1, 6)", "axis 3", "6 positions")),
        ("N,7,4", "last", ("position='last'",)),
    ],
)
def test_position(shape: str, position: Any, parts: tuple[str, ...]) -> None:
    model = net("y = Relu(x)", f"float[{shape}] x", f"float[{shape}] y")
    message(CompositeError, compiling(model, position=position), *parts)


def test_init() -> None:
    message(CompositeError, compiling(small(), init="ones"), "init", "'logit', 'one' or 'given'", "'ones'")


def test_input_shapes() -> None:
    message(onnxlrp.InputError, compiling(small(), input_shapes={"image": [1, 3, 6, 5]}), "'image'", "x")
    message(onnxlrp.InputError, compiling(small(), input_shapes={"x": [1, 3]}), "'x'", "2 axes", "4")


# ---------------------------------------------------------------------------------------------------------- composites

MISMATCH = [
    ({"p": Epsilon()}, None),  # a linear rule reads the maximum as linear in its winner: it fits
    ({"r": ZPlus()}, ("node 'r' (Relu, pointwise)", "ZPlus()", "NameMap: r", "Pass()")),
    ({"f": Flat()}, ("node 'f' (Flatten, move)", "Flat()", "Pass()")),
    ({"h": WinnerTakesAll()}, ("node 'h' (Conv", "WinnerTakesAll()", "Epsilon(1e-06)")),
    ({"h": BetaSmooth()}, ("node 'h' (Conv", "BetaSmooth(10)")),
]


@pytest.mark.parametrize(("names", "parts"), MISMATCH, ids=[str(m[0]) for m in MISMATCH])
def test_rule_on_a_node_selected_by_name(names: dict, parts: tuple[str, ...] | None) -> None:
    if parts is None:
        onnxlrp.compile(small(), names)
    else:
        message(RuleMismatch, compiling(small(), names), *parts)


@pytest.mark.parametrize(
    ("types", "parts"),
    [
        ({"Relu": ZPlus()}, ("node 'r' (Relu", "ZPlus()", "GlobalTypeMap: Relu")),
        ({"MaxPool": Stop(), "Conv": Average()}, ("node 'h' (Conv", "Average(Epsilon(1e-06))")),
    ],
    ids=str,
)
def test_rule_on_a_single_op_type(types: dict, parts: tuple[str, ...]) -> None:
    message(RuleMismatch, compiling(small(), Composite(GlobalTypeMap(types))), *parts)


@pytest.mark.parametrize("group", ["Activation", "Reshaping"])
def test_rule_on_a_group_that_it_does_not_fit_is_skipped(group: str) -> None:
    plain = onnxlrp.inspect(small(), "epsilon")
    steps = onnxlrp.inspect(small(), Composite(GlobalTypeMap({group: ZPlus()}))).steps
    assert [s.rule for s in steps] == [s.rule for s in plain.steps]


@pytest.mark.parametrize("pattern", ["f*", "re:^f$", "head"])
def test_a_pattern_whose_rule_fits_nothing(pattern: str) -> None:
    model = small()
    model.graph.node[3].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'head', 'flatten']")
    message(RuleMismatch, compiling(model, {pattern: Flat()}), f"'{pattern}'", "Flat()", "f (Flatten)")


def test_layer_map_is_strict() -> None:
    message(RuleMismatch, compiling(small(), Composite(LayerMap(2, Flat()))), "node 'f' (Flatten", "Flat()", "LayerMap(2)")
    message(CompositeError, compiling(small(), Composite(LayerMap(4, Flat()))), "LayerMap(4)", "layers 0 to 3", "inspect")


def test_zbox_bounds_that_do_not_fit_the_input() -> None:
    bounds = ZBox(np.zeros(5), np.ones(5))
    message(RuleMismatch, compiling(small(), {"h": bounds}), "node 'h' (Conv)", "low", "(5, 1, 1)", "3, 6, 5")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("epsilon_plas", ("unknown preset 'epsilon_plas'", "did you mean 'epsilon_plus'?")),
        ("qqqq", ("unknown preset 'qqqq'", "`onnxlrp presets` lists them")),
        ("epsilon_gamma_box(lo=1)", ("epsilon_gamma_box(lo=1)", "'lo'")),
        ("epsilon_plus(3)", ("epsilon_plus(3)", "argument")),
        ("epsilon(", ("'epsilon('", "name(argument=value, ...)")),
        ("epsilon(1 + x)", ("'epsilon(1 + x)'",)),
        ("", ("''",)),
        ("gamma(gamma=-1)", ("GeneralizedGamma", "gamma", "-1")),
        ("epsilon('a')", ("Epsilon", "epsilon", "'a'")),
        ("epsilon_gamma_box(low=2, high=1)", ("ZBox", "low must not exceed high", "2")),
        ("epsilon(**{'epsilon': 1})", ("epsilon",)),
        ("epsilon(*[1])", ("epsilon",)),
    ],
)
def test_presets(name: str, parts: tuple[str, ...]) -> None:
    message(CompositeError, lambda: presets.parse(name), *parts)
    message(CompositeError, compiling(small(), name), *parts)


BAD_RULES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "alpha - beta": (lambda: AlphaBeta(2, 2), ("AlphaBeta", "alpha - beta must be 1", "alpha=2", "beta=2")),
    "negative beta": (lambda: AlphaBeta(0.5, -0.5), ("AlphaBeta", "beta", "-0.5")),
    "negative epsilon": (lambda: Epsilon(-1), ("Epsilon", "epsilon", ">= 0", "-1")),
    "nan": (lambda: Epsilon(float("nan")), ("Epsilon", "epsilon", "nan")),
    "infinite": (lambda: Gamma(float("inf")), ("Gamma", "gamma", "inf")),
    "text": (lambda: GeneralizedGamma("big"), ("GeneralizedGamma", "gamma", "'big'")),  # type: ignore[arg-type]
    "bool": (lambda: Zero(epsilon=True), ("Zero", "epsilon", "True")),
    "bias policy": (lambda: ZPlus(bias="none"), ("ZPlus", "bias", "split, ignore, full", "'none'")),
    "square belongs to WSquare": (lambda: Flat(bias="square"), ("Flat", "bias", "'square'")),
    "WSquare knows square": (lambda: WSquare(bias="cube"), ("WSquare", "square", "'cube'")),
    "crossed box": (lambda: ZBox(1, -1), ("ZBox", "low must not exceed high")),
    "text box": (lambda: ZBox("a", 1), ("ZBox", "low", "'a'")),  # type: ignore[arg-type]
    "nan box": (lambda: ZBox(0, float("nan")), ("ZBox", "high", "finite")),
    "ragged box": (lambda: ZBox(np.zeros(3), np.ones(2)), ("ZBox", "shapes")),
    "two defaults": (lambda: Composite(Epsilon(), ZPlus()), ("at most one rule",)),
    "rule not first": (lambda: Composite(GlobalMap(Flat()), ZPlus()), ("at most one rule",)),
    "rule class in Composite": (lambda: Composite(ZPlus), ("ZPlus",)),
    "not a primitive": (lambda: Composite({"Conv": ZPlus()}), ("GlobalTypeMap({...})",)),
}


@pytest.mark.parametrize("name", BAD_RULES)
def test_bad_parameters(name: str) -> None:
    make, parts = BAD_RULES[name]
    message(CompositeError, make, *parts)
    message(ValueError, make)


BAD_PRIMITIVES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "class in a map": (GlobalMap(Flat), ("GlobalMap", "needs a rule", "Flat()")),
    "class in a type map": (GlobalTypeMap({"Conv": Flat}), ("GlobalTypeMap['Conv']", "Flat()")),
    "class in a name map": (NameMap({"h": ZPlus}), ("NameMap['h']", "ZPlus()")),
    "class in a layer map": (LayerMap(0, Flat), ("LayerMap", "Flat()")),
    "text for a rule": (FirstLayerMap("ZPlus"), ("FirstLayerMap", "'ZPlus'")),
    "rule for a dict": (GlobalTypeMap(ZPlus()), ("GlobalTypeMap", "dict", "ZPlus()")),
    "rule for a name dict": (NameMap(ZPlus()), ("NameMap", "dict", "ZPlus()")),
    "unknown type, close": (GlobalTypeMap({"Convolutions": Flat()}), ("'Convolutions'", "did you mean 'Convolution'?")),
    "unknown type, close operator": (GlobalTypeMap({"Gemmm": Flat()}), ("'Gemmm'", "did you mean 'Gemm'?")),
    "unknown type": (FirstNTypeMap(2, {"qqq": Flat()}), ("FirstNTypeMap", "'qqq'", "groups are", "Convolution")),
    "a type that is no text": (GlobalTypeMap({3: Flat()}), ("GlobalTypeMap", "3")),
    "unknown node": (NameMap({"hh": Flat()}), ("NameMap", "'hh'", "h")),
    "unknown glob": (NameMap({"conv*": Flat()}), ("NameMap", "'conv*'", "for example")),
    "bad regular expression": (NameMap({"re:(": Flat()}), ("NameMap", "'re:('", "regular expression")),
    "range that is none": (RangeMap(3, Flat()), ("RangeMap", "range", "3")),  # type: ignore[arg-type]
    "n that is none": (FirstNTypeMap("2", {"Conv": Flat()}), ("FirstNTypeMap", "'2'")),  # type: ignore[arg-type]
    "index that is none": (LayerMap("h", Flat()), ("LayerMap", "'h'")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD_PRIMITIVES)
def test_bad_primitives(name: str) -> None:
    primitive, parts = BAD_PRIMITIVES[name]
    message(CompositeError, compiling(small(), Composite(primitive)), *parts)


@pytest.mark.parametrize(
    ("composite", "parts"),
    [
        ([ZPlus(), Pass()], ("2 rules", "4 layers", "inspect")),
        ([ZPlus, Pass(), Pass(), Epsilon()], ("entry 0", "ZPlus()")),
        (3, ("preset name", "3")),
        (None, ("preset name", "None")),
        (ZPlus, ("ZPlus()",)),
        ({"h": "ZPlus"}, ("'h'", "'ZPlus'")),
    ],
    ids=["too short", "class", "number", "None", "rule class", "text in dict"],
)
def test_what_is_no_composite(composite: Any, parts: tuple[str, ...]) -> None:
    message(CompositeError, compiling(small(), composite), *parts)


def test_a_hook_that_promotes() -> None:
    class Wide(onnxlrp.Rule):
        def modify_weight(self, w: Any) -> Any:
            return w * np.ones(1, np.float64)

    message(CompositeError, compiling(small(), Composite(Wide())), "float64", "float32")


def test_a_rule_that_is_not_compatible() -> None:
    class Picky(onnxlrp.Rule):
        def is_compatible(self, layer: Any) -> bool:
            return False

    message(RuleMismatch, compiling(small(), Composite(Picky())), "node 'y' (Gemm)", "Picky()")


def test_errors_are_raised_by_inspect_too() -> None:
    message(CompositeError, lambda: onnxlrp.inspect(small(), "qqq"), "qqq")
    message(UnsupportedOp, lambda: onnxlrp.inspect(unknown("standard")), "Det")
    message(RuleMismatch, lambda: onnxlrp.inspect(small(), {"r": ZPlus()}), "node 'r'")


def test_rank_that_nobody_knows() -> None:
    # a loop of unknown length makes an output of unknown rank
    model = net("y = Reshape(x, s)", "float[N,4] x, int64[K] s", "float y")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    message(UnsupportedOp, compiling(model), "output 'y'", "unknown rank", "input_shapes=")
    assert lrp(model, {"x": data(2, 4), "s": np.int64([4, 2])}, input_shapes={"s": [2]})["relevance.x"].shape == (2, 4)
