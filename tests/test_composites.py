"""Composites: which rule each primitive gives to which node, in what order, and the texts that people read."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import near, net, run, small, vgg11, weight

import onnxlrp
from onnxlrp import (
    AlphaBeta,
    Average,
    Composite,
    DeconvNet,
    Epsilon,
    FirstLayerMap,
    FirstLayerTypeMap,
    FirstNTypeMap,
    Flat,
    Gamma,
    GeneralizedGamma,
    GlobalMap,
    GlobalTypeMap,
    GuidedBackprop,
    LastLayerMap,
    LastLayerTypeMap,
    LastNTypeMap,
    LayerMap,
    NameMap,
    Pass,
    RangeMap,
    RangeTypeMap,
    Rule,
    Stop,
    TieSplit,
    WinnerTakesAll,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    presets,
)

MODELS = Path(__file__).parent.parent / "models"


def lines(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


# ---------------------------------------------------------------------------------------------------------------- texts

TEXTS = {
    "epsilon": """
        Composite epsilon
          default → Epsilon(1e-06)
    """,
    "epsilon_plus": """
        Composite epsilon_plus
          default → Epsilon(1e-06)
          GlobalTypeMap
            Convolution → ZPlus()
            Dense       → Epsilon(1e-06)
    """,
    "epsilon_alpha2_beta1_flat": """
        Composite epsilon_alpha2_beta1_flat
          default → Epsilon(1e-06)
          GlobalTypeMap
            Convolution → AlphaBeta(2, 1)
            Dense       → Epsilon(1e-06)
          FirstLayerTypeMap
            Linear → Flat()
    """,
    "epsilon_gamma_box(low=-3, high=2.5)": """
        Composite epsilon_gamma_box(low=-3, high=2.5)
          default → Epsilon(1e-06)
          GlobalTypeMap
            Convolution → GeneralizedGamma(0.25)
            Dense       → Epsilon(1e-06)
          FirstLayerTypeMap
            Convolution → ZBox(-3, 2.5)
    """,
    "innvestigate_a_flat": """
        Composite innvestigate_a_flat
          default → Epsilon(1e-06)
          GlobalTypeMap
            Convolution → AlphaBeta(1, 0)
            Dense       → Epsilon(0.1)
          FirstLayerTypeMap
            Linear → Flat()
    """,
    "tutorial_mlp": """
        Composite tutorial_mlp
          default → Zero()
          FirstLayerMap → ZBox(-1, 1)
          WeightedRangeMap(range(1, 2)) → Gamma(0.1)
          WeightedRangeMap(range(2, 3)) → Epsilon(0.1, relative=True, signed=False)
    """,
    "tutorial_vgg": """
        Composite tutorial_vgg(low=-3.0, high=3.0)
          default → Zero()
          HalfTypeMap(lower)
            Convolution    → Gamma(0.25)
            MaxPooling     → Average(Gamma(0.25))
            AveragePooling → Gamma(0.25)
          HalfTypeMap(upper)
            Convolution    → Epsilon(0.25, relative=True, signed=False)
            MaxPooling     → Average(Epsilon(0.25, relative=True, signed=False))
            AveragePooling → Epsilon(0.25, relative=True, signed=False)
          FirstLayerMap → ZBox(-3, 3)
    """,
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_a_preset(name: str) -> None:
    assert str(presets.parse(name)) == lines(TEXTS[name])


def test_text_of_every_primitive() -> None:
    composite = Composite(
        ZPlus(bias="ignore"),
        GlobalMap(Epsilon(0.25)),
        LayerMap(-1, Zero()),
        RangeMap(range(1, 4), Gamma(0.1)),
        FirstLayerMap(ZBox(0, np.ones(3))),
        LastLayerMap(Stop()),
        GlobalTypeMap({"Conv": AlphaBeta(1.5, 0.5), "MaxPooling": Average(ZPlus())}),
        FirstNTypeMap(7, {"Conv": Flat()}),
        LastNTypeMap(2, {"Dense": WSquare()}),
        RangeTypeMap(range(0, -1), {"Relu": GuidedBackprop()}),
        FirstLayerTypeMap({"Linear": Flat()}),
        LastLayerTypeMap({"Gemm": GeneralizedGamma(1)}),
        NameMap({"block.*": Pass(), "re:^fc": TieSplit()}),
    )
    assert str(composite) == lines("""
        Composite
          default → ZPlus(bias='ignore')
          GlobalMap → Epsilon(0.25)
          LayerMap(-1) → Zero()
          RangeMap(range(1, 4)) → Gamma(0.1)
          FirstLayerMap → ZBox(0, array(3,))
          LastLayerMap → Stop()
          GlobalTypeMap
            Conv       → AlphaBeta(1.5, 0.5)
            MaxPooling → Average(ZPlus())
          FirstNTypeMap(7)
            Conv → Flat()
          LastNTypeMap(2)
            Dense → WSquare()
          RangeTypeMap(range(0, -1))
            Relu → GuidedBackprop()
          FirstLayerTypeMap
            Linear → Flat()
          LastLayerTypeMap
            Gemm → GeneralizedGamma(1)
          NameMap
            block.* → Pass()
            re:^fc  → TieSplit()
    """)


PLANS = {
    "digits_cnn": "epsilon_plus_flat",
    "digits_mlp": "tutorial_mlp",
    "digits_flax": "epsilon_gamma_box(low=0, high=1)",
}


@pytest.mark.parametrize("model", PLANS)
def test_text_of_a_plan(model: str) -> None:
    """What `inspect` prints, to the letter; a change that is meant belongs into golden/ as well."""
    text = str(onnxlrp.inspect(MODELS / f"{model}.onnx", PLANS[model]))
    assert text.strip("\n") + "\n" == (Path(__file__).parent / "golden" / f"{model}.txt").read_text(encoding="utf-8")


def test_plan_as_data() -> None:
    plan = onnxlrp.inspect(MODELS / "digits_cnn.onnx", "epsilon_plus")
    assert len(plan) == 9
    assert plan[3].rule == Pass()
    assert plan[-1].name == "fc"
    assert [la.index for la in plan] == list(range(9))
    assert plan.layer("block.conv1") is plan.layer("node_conv2d_2") is plan.layer(4) is plan.layer("4") is plan.layer(-5)
    assert plan.layer("nobody") is None


# ------------------------------------------------------------------------------------------------------- counting layers


def test_vgg11_counts_as_in_flux_and_keras() -> None:
    plan = onnxlrp.inspect(vgg11(), "epsilon")
    conv, pool = "Conv + Relu", "MaxPool"
    assert [la.op for la in plan] == [
        *(conv, pool, conv, pool, conv, conv, pool, conv, conv, pool, conv, conv, pool),
        *("Flatten", "Gemm + Relu", "Gemm + Relu", "Gemm"),
    ]


def test_first_n_type_map_as_in_the_julia_documentation() -> None:
    """FirstNTypeMap(7, {"Conv": Flat()}): convolutions whose index is below 7."""
    plan = onnxlrp.inspect(vgg11(), Composite(FirstNTypeMap(7, {"Conv": Flat()})))
    assert [la.index for la in plan if la.rule == Flat()] == [0, 2, 4, 5]
    assert {la.rule for la in plan if la.op == "MaxPool"} == {WinnerTakesAll()}
    assert [la.why for la in plan if la.rule == Flat()] == ["FirstNTypeMap(7): Conv"] * 4


COUNTS = {
    "moves that never count": (
        "h = Conv<pads=[1,1,1,1]>(x, w); a = Transpose<perm=[0,2,3,1]>(h); r = Relu(a); b = Transpose<perm=[0,3,1,2]>(r); "
        "i = Identity(b); u = Unsqueeze(i, one); s = Squeeze(u, one); c = Cast<to=1>(s); g = GlobalAveragePool(c); "
        "f = Flatten(g); y = Gemm(f, v)",
        "Conv + Relu, GlobalAveragePool, Flatten, Gemm",
    ),
    "Flatten, Reshape and Dropout count": (
        "h = Conv<pads=[1,1,1,1]>(x, w); d = Dropout(h); g = GlobalMaxPool(d); f = Reshape(g, flat); e = Flatten(f); "
        "y = Gemm(e, v)",
        "Conv, Dropout, GlobalMaxPool, Reshape, Flatten, Gemm",
    ),
    "two activations": (
        "h = Conv<pads=[1,1,1,1]>(x, w); r = Tanh(h); s = Relu(r); g = GlobalMaxPool(s); f = Flatten(g); y = Gemm(f, v)",
        "Conv + Tanh, Relu, GlobalMaxPool, Flatten, Gemm",
    ),
    "an activation of the input": (
        "r = Relu(x); h = Conv(r, w); g = GlobalMaxPool(h); f = Flatten(g); y = Gemm(f, v)",
        "Relu, Conv, GlobalMaxPool, Flatten, Gemm",
    ),
    "shape arithmetic does not count": (
        "h = Conv<pads=[1,1,1,1]>(x, w); g = GlobalMaxPool(h); s = Shape(h); t = Slice(s, zero, one); "
        "e = Concat<axis=0>(t, m); "
        "f = Reshape(g, e); y = Gemm(f, v)",
        "Conv, GlobalMaxPool, Reshape, Gemm",
    ),
    "a mask does not count": (
        "h = Conv<pads=[1,1,1,1]>(x, w); k = Greater(x, zero_); q = Cast<to=1>(k); p = ReduceMax(q, one); n = Mul(h, p); "
        "g = GlobalMaxPool(n); f = Flatten(g); y = Gemm(f, v)",
        "Conv, Mul, GlobalMaxPool, Flatten, Gemm",
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_counts_as_a_layer(name: str) -> None:
    body, wanted = COUNTS[name]
    constants = {
        "w": weight(4, 3, 3, 3),
        "v": weight(4, 4),
        "one": np.int64([1]),
        "flat": np.int64([0, -1]),
        "zero": np.int64([0]),
        "m": np.int64([-1]),
        "zero_": np.float32(0),
    }
    plan = onnxlrp.inspect(net(body.replace("; ", "\n"), **constants), "epsilon")
    assert ", ".join(la.op for la in plan) == wanted
    assert [la.index for la in plan] == list(range(len(plan)))


# ------------------------------------------------------------------------------------------------------------ primitives


def rules(model: onnx.ModelProto, *parts: Any) -> dict[str, Rule]:
    """Rule per node."""
    return {s.unit.name: s.rule for s in onnxlrp.inspect(model, Composite(*parts)).steps}


VGG = vgg11()
NODES = {s.unit.name: s for s in onnxlrp.inspect(VGG, "epsilon").steps}
CONVS = [n for n in NODES if n.startswith("conv")]
WEIGHTED = [*CONVS, "fc1", "fc2", "fc3"]
POOLS = ["p1", "p2", "p4", "p6", "p8"]
F = Flat()

SELECTED: dict[str, tuple[list[Any], list[str]]] = {
    "default": ([F], WEIGHTED),
    "GlobalMap": ([GlobalMap(F)], WEIGHTED),
    "LayerMap": ([LayerMap(4, F)], ["conv3"]),
    "LayerMap of a pool": ([LayerMap(1, F)], ["p1"]),
    "LayerMap, negative": ([LayerMap(-1, F)], ["fc3"]),
    "LayerMap, numpy": ([LayerMap(np.int64(0), F)], ["conv1"]),
    "RangeMap": ([RangeMap(range(2, 6), F)], ["conv2", "conv3", "conv4"]),
    "RangeMap, negative": ([RangeMap(range(-3, 17), F)], ["fc1", "fc2", "fc3"]),
    "RangeMap, from the end": ([RangeMap(range(11, -1), F)], ["conv8", "fc1", "fc2"]),
    "RangeMap, step": ([RangeMap(range(0, 9, 4), F)], ["conv1", "conv3", "conv6"]),
    "RangeMap, empty": ([RangeMap(range(0, 0), F)], []),
    "FirstLayerMap": ([FirstLayerMap(F)], ["conv1"]),
    "LastLayerMap": ([LastLayerMap(F)], ["fc3"]),
    "GlobalTypeMap, op": ([GlobalTypeMap({"Conv": F})], CONVS),
    "GlobalTypeMap, group": ([GlobalTypeMap({"Dense": F})], ["fc1", "fc2", "fc3"]),
    "GlobalTypeMap, Linear": ([GlobalTypeMap({"Linear": F})], WEIGHTED),
    "GlobalTypeMap, MaxPooling": ([GlobalTypeMap({"MaxPooling": F})], POOLS),
    "GlobalTypeMap, Pooling": ([GlobalTypeMap({"Pooling": F})], POOLS),
    "GlobalTypeMap, several": ([GlobalTypeMap({"Gemm": F, "MaxPool": F})], [*POOLS, "fc1", "fc2", "fc3"]),
    "FirstNTypeMap": ([FirstNTypeMap(3, {"Linear": F, "MaxPool": F})], ["conv1", "p1", "conv2"]),
    "LastNTypeMap": ([LastNTypeMap(6, {"Linear": F})], ["conv8", "fc1", "fc2", "fc3"]),
    "LastNTypeMap, none": ([LastNTypeMap(0, {"Linear": F})], []),
    "RangeTypeMap": ([RangeTypeMap(range(1, 5), {"MaxPool": F, "Conv": F})], ["p1", "conv2", "p2", "conv3"]),
    "FirstLayerTypeMap": ([FirstLayerTypeMap({"Linear": F})], ["conv1"]),
    "FirstLayerTypeMap, no such type": ([FirstLayerTypeMap({"Dense": F})], []),
    "LastLayerTypeMap": ([LastLayerTypeMap({"Gemm": F})], ["fc3"]),
    "LastLayerTypeMap, no such type": ([LastLayerTypeMap({"Conv": F})], []),
    "NameMap": ([NameMap({"conv3": F})], ["conv3"]),
    "NameMap, glob": ([NameMap({"fc*": F})], ["fc1", "fc2", "fc3"]),
    "NameMap, glob with class": ([NameMap({"conv[1-3]": F})], ["conv1", "conv2", "conv3"]),
    "NameMap, regular expression": ([NameMap({"re:^conv[78]$": F})], ["conv7", "conv8"]),
    "NameMap, regular expression anywhere": ([NameMap({"re:c[12]": F})], ["fc1", "fc2"]),
    "NameMap of a pool": ([NameMap({"p1": F})], ["p1"]),
}


@pytest.mark.parametrize("name", SELECTED)
def test_what_a_primitive_selects(name: str) -> None:
    parts, wanted = SELECTED[name]
    found = rules(VGG, *parts)
    assert sorted(n for n, r in found.items() if r == F) == sorted(wanted)
    plain = {n: s.rule for n, s in NODES.items()}
    assert {n: r for n, r in found.items() if r != F} == {n: r for n, r in plain.items() if n not in wanted}


@pytest.mark.parametrize(("key", "wanted"), [("Relu", 10), ("Activation", 10)])
def test_activations_by_type(key: str, wanted: int) -> None:
    found = rules(VGG, GlobalTypeMap({key: DeconvNet()}))
    assert [n.startswith("relu") for n, r in found.items() if r == DeconvNet()] == [True] * wanted
    first = rules(VGG, FirstNTypeMap(3, {key: DeconvNet()}))
    assert [n for n, r in first.items() if r == DeconvNet()] == ["relu1", "relu2"]
    shown = onnxlrp.inspect(VGG, Composite(FirstNTypeMap(1, {key: DeconvNet()})))[0]
    assert shown.why == "default of the composite; Relu DeconvNet()"


def test_a_later_primitive_overrides_an_earlier_one() -> None:
    found = rules(VGG, Zero(), GlobalTypeMap({"Conv": ZPlus()}), RangeMap(range(0, 3), Gamma(0.1)), NameMap({"conv2": F}))
    assert [found[n] for n in ("conv1", "conv2", "conv3", "fc1")] == [Gamma(0.1), F, ZPlus(), Zero()]
    found = rules(VGG, NameMap({"conv2": F}), GlobalTypeMap({"Conv": ZPlus()}))
    assert found["conv2"] == ZPlus()


def test_the_first_matching_type_of_a_map_wins() -> None:
    assert rules(VGG, GlobalTypeMap({"Convolution": ZPlus(), "Conv": F}))["conv1"] == ZPlus()
    assert rules(VGG, GlobalTypeMap({"Conv": F, "Convolution": ZPlus()}))["conv1"] == F
    assert rules(VGG, GlobalTypeMap({"Linear": ZPlus(), "Gemm": F}))["fc1"] == ZPlus()


def test_a_later_pattern_of_a_name_map_overrides() -> None:
    found = rules(VGG, NameMap({"conv*": ZPlus(), "conv1": F}))
    assert (found["conv1"], found["conv2"]) == (F, ZPlus())


def test_maps_without_a_type_concern_weighted_layers_only() -> None:
    for part in (GlobalMap(ZPlus()), RangeMap(range(0, 17), ZPlus())):
        found = rules(VGG, part)
        assert {found[n] for n in POOLS} == {WinnerTakesAll()}
        assert found["flat"] == Pass()
        assert found["relu1"] == Pass()


def test_a_rule_alone_is_a_composite() -> None:
    assert [la.rule for la in onnxlrp.inspect(small(), ZPlus())] == [ZPlus(), WinnerTakesAll(), Pass(), ZPlus()]


# ------------------------------------------------------------------------------------------------- first, last, by flow

FLOWS = {
    "chain": ("a = Conv(x, w); y = Conv(a, w)", "a", "y"),
    "two inputs": ("a = Conv(x, w); b = Conv(z, w); s = Add(a, b); y = Conv(s, w)", "a b", "y"),
    "identity shortcut": ("a = Conv(x, w); r = Relu(a); b = Conv(r, w); y = Add(a, b)", "a", "b"),
    "projection shortcut": ("a = Conv(x, w); b = Conv(a, w); p = Conv(x, w); y = Add(b, p)", "a p", "b p"),
    "two heads": ("a = Conv(x, w); y = Conv(a, w); q = Conv(a, w)", "a", "y"),
    "a node before the first layer": ("r = Relu(x); m = Sub(r, z); a = Conv(m, w); b = Conv(a, w); y = Relu(b)", "a", "b"),
}


@pytest.mark.parametrize("name", FLOWS)
def test_first_and_last_by_data_flow(name: str) -> None:
    body, first, last = FLOWS[name]
    outputs = "float[N,3,6,5] y" + (", float[N,3,6,5] q" if "q =" in body else "")
    explain = ["x", "z"] if "z" in body else ["x"]
    model = net(body.replace("; ", "\n"), "float[N,3,6,5] x, float[N,3,6,5] z", outputs, w=weight(3, 3, 1, 1))
    composites = {
        first: (FirstLayerMap(F), FirstLayerTypeMap({"Conv": F})),
        last: (LastLayerMap(F), LastLayerTypeMap({"Linear": F})),
    }
    for wanted, parts in composites.items():
        for part in parts:
            steps = onnxlrp.inspect(model, Composite(part), explain=explain).steps
            assert [s.unit.name for s in steps if s.rule == F] == wanted.split()


# --------------------------------------------------------------------------------------------------- scopes, lists, dicts


def scoped() -> onnx.ModelProto:
    model = small()
    scopes = {"h": "stem.conv", "r": "stem.act", "p": "stem.pool", "f": "head", "y": "head"}
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{scopes[node.name]}', 'call']")
    return model


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("stem.conv", ["h"]),
        ("stem.*", ["h", "p"]),
        ("re:^stem", ["h", "p"]),
        ("h", ["h"]),
        ("head", ["y"]),
        ("*", ["h", "p", "y"]),
    ],
)
def test_names_of_scopes(pattern: str, wanted: list[str]) -> None:
    found = rules(scoped(), NameMap({pattern: F}))
    assert [n for n, r in found.items() if r == F] == wanted


def test_a_scope_of_several_nodes_is_no_layer_name() -> None:
    assert [la.name for la in onnxlrp.inspect(scoped())] == ["stem.conv", "stem.pool", "f", "y"]


def test_a_list_of_rules() -> None:
    found = onnxlrp.inspect(small(), [ZPlus(), Epsilon(), Flat(), Zero()])
    assert [la.rule for la in found] == [ZPlus(), Epsilon(), Pass(), Zero()]
    assert found[3].why == "list[3]"
    average = onnxlrp.inspect(small(), (ZPlus(), Average(), Pass(), Zero()))
    assert average[1].rule == Average()


def test_a_dict_of_names() -> None:
    found = onnxlrp.inspect(small(), {"h": ZPlus(), "p": TieSplit()})
    assert [la.rule for la in found] == [ZPlus(), TieSplit(), Pass(), Epsilon()]


# --------------------------------------------------------------------------------------------------------------- presets

ARGUMENTS = {
    "epsilon(0.1)": Epsilon(0.1),
    "epsilon(epsilon=0.25, bias='ignore')": Epsilon(0.25, bias="ignore"),
    "epsilon(1e-3, relative=True)": Epsilon(1e-3, relative=True),
    " gamma( gamma = 0.5 ) ": GeneralizedGamma(0.5),
    "alpha2_beta1": AlphaBeta(2, 1),
    "zplus(bias='full')": ZPlus(bias="full"),
    "w_square": WSquare(),
    "flat": Flat(),
    "lrp_zero()": Zero(),
    "gamma": GeneralizedGamma(0.25),
}


@pytest.mark.parametrize("text", ARGUMENTS)
def test_presets_with_arguments_as_text(text: str) -> None:
    assert presets.parse(text).default == ARGUMENTS[text]
    assert onnxlrp.inspect(small(), text)[0].rule == ARGUMENTS[text]


def test_bounds_as_text() -> None:
    for text in ("epsilon_gamma_box(low=-3, high=3)", "epsilon_gamma_box(-3, 3)", "epsilon_gamma_box(-3, high=3.0)"):
        assert onnxlrp.inspect(small(), text)[0].rule == ZBox(-3, 3)
    per_channel = onnxlrp.inspect(small(), "epsilon_gamma_box(low=[-1, -2, -3], high=[1, 2, 3])")[0].rule
    assert per_channel == ZBox(np.float32([-1, -2, -3]), np.float32([1, 2, 3]))


TABLE = {  # first layer, convolutions, dense layers, as in RULES.md
    "epsilon_gamma_box": (ZBox(-1, 1), GeneralizedGamma(0.25), Epsilon()),
    "epsilon_plus": (ZPlus(), ZPlus(), Epsilon()),
    "epsilon_alpha2_beta1": (AlphaBeta(2, 1), AlphaBeta(2, 1), Epsilon()),
    "epsilon_plus_flat": (Flat(), ZPlus(), Epsilon()),
    "epsilon_alpha2_beta1_flat": (Flat(), AlphaBeta(2, 1), Epsilon()),
    "lrp_zero": (Zero(), Zero(), Zero()),
    "epsilon": (Epsilon(), Epsilon(), Epsilon()),
    "gamma": (GeneralizedGamma(), GeneralizedGamma(), GeneralizedGamma()),
    "zplus": (ZPlus(), ZPlus(), ZPlus()),
    "alpha2_beta1": (AlphaBeta(), AlphaBeta(), AlphaBeta()),
    "w_square": (WSquare(), WSquare(), WSquare()),
    "flat": (Flat(), Flat(), Flat()),
    "innvestigate_a": (AlphaBeta(1, 0), AlphaBeta(1, 0), Epsilon(0.1)),
    "innvestigate_b": (AlphaBeta(2, 1), AlphaBeta(2, 1), Epsilon(0.1)),
    "innvestigate_a_flat": (Flat(), AlphaBeta(1, 0), Epsilon(0.1)),
    "innvestigate_b_flat": (Flat(), AlphaBeta(2, 1), Epsilon(0.1)),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_give_the_rules_of_the_table(name: str) -> None:
    found = {s.unit.name: s.rule for s in onnxlrp.inspect(VGG, name).steps}
    first, convolution, dense = TABLE[name]
    assert found["conv1"] == first
    assert {found[n] for n in CONVS[1:]} == {convolution}
    assert {found[n] for n in ("fc1", "fc2", "fc3")} == {dense}
    assert {found[n] for n in POOLS} == {WinnerTakesAll()}


@pytest.mark.parametrize("preset", ["epsilon_plus_flat", "innvestigate_a_flat"])
def test_flat_presets_on_a_first_dense_layer(preset: str) -> None:
    assert onnxlrp.inspect(MODELS / "digits_mlp.onnx", preset)[0].rule == Flat()


def test_tutorial_vgg_splits_the_convolutions_in_halves() -> None:
    found = {s.unit.name: s.rule for s in onnxlrp.inspect(VGG, "tutorial_vgg(low=-2, high=2)").steps}
    lower, upper = Gamma(0.25), Epsilon(0.25, relative=True, signed=False)
    assert found["conv1"] == ZBox(-2, 2)
    assert {found[n] for n in ("conv2", "conv3", "conv4")} == {lower}
    assert {found[n] for n in ("p1", "p2", "p4")} == {Average(lower)}
    assert {found[n] for n in ("conv5", "conv6", "conv7", "conv8")} == {upper}
    assert {found[n] for n in ("p6", "p8")} == {Average(upper)}
    assert {found[n] for n in ("fc1", "fc2", "fc3")} == {Zero()}


def test_tutorial_mlp_by_weighted_layer() -> None:
    body = "a = Gemm(x, w); r = Relu(a); d = Dropout(r); b = Gemm(d, w); c = Gemm(b, w); e = Gemm(c, w); y = Gemm(e, w)"
    model = net(body.replace("; ", "\n"), "float[N,4] x", "float[N,4] y", w=weight(4, 4))
    found = {s.unit.name: s.rule for s in onnxlrp.inspect(model, "tutorial_mlp").steps}
    relative = Epsilon(0.1, relative=True, signed=False)
    assert [found[n] for n in "abcey"] == [ZBox(-1, 1), Gamma(0.1), relative, Zero(), Zero()]


DIGIT = np.load(MODELS / "digit.npy")


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return run(str(MODELS / "digits_cnn.onnx"), image=DIGIT)["logits"]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_explains_the_digit(name: str, logits: np.ndarray) -> None:
    out = run(onnxlrp.compile(MODELS / "digits_cnn.onnx", name), image=DIGIT)
    r = out["relevance.image"]
    near(out["logits"], logits)
    assert r.shape == DIGIT.shape
    assert np.isfinite(r).all()
    assert np.abs(r).max() > 0


def test_names_in_all_are_what_the_contract_names() -> None:
    assert {"Composite", "GlobalTypeMap", "FirstLayerMap", "Epsilon", "ZPlus", "Flat", "presets"} <= set(dir(onnxlrp))


def test_a_module_called_by_a_number_does_not_name_its_layer() -> None:
    """`layers=["1"]` is layer 1, whatever nn.Sequential called its modules."""
    model = net("a = Relu(x)\nb = GlobalAveragePool(a)\ny = Flatten(b)", "float[N,3,6,5] x", "float[N,3] y")
    for node, scope in zip(model.graph.node, ("1", "2", "0"), strict=True):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{scope}', 'call']")
    model.ir_version = 10
    plan = onnxlrp.inspect(model)
    assert [la.name for la in plan] == ["a", "b", "y"]
    assert plan.layer("1") is plan[1]
