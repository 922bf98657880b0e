"""What is asked for beside the inputs: relevance of layers, masks, diagnostics; and graphs that fork and join."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import CONSTANTS, data, lrp, near, net, relevance, run, small, vgg11, weight

import onnxlrp
from onnxlrp import AlphaBeta, Composite, Epsilon, Flat, Gamma, GeneralizedGamma, GlobalTypeMap, WSquare, ZBox, ZPlus

X = data(2, 3, 6, 5)


def named() -> onnx.ModelProto:
    """The small model; nodes do not share their names with tensors."""
    model = small()
    for node in model.graph.node:
        node.name = f"node_{node.name}"
    return model


# --------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        (0, "r"),
        ("0", "r"),
        (-1, "y"),
        ("conv", "r"),
        ("h", "h"),
        ("r", "r"),
        (1, "p"),
        ("pool", "p"),
        (-2, "f"),
        ("x", "x"),
        ("y", "y"),
    ],
)
def test_layers_by_name_index_and_tensor(key: Any, tensor: str) -> None:
    """A layer's relevance is that of its output after the activation; a tensor's that of the tensor."""
    model = named()
    model.graph.node[0].name, model.graph.node[2].name = "conv", "pool"
    out = lrp(model, {"x": X}, "epsilon_plus", layers=[key])
    near(out["relevance.x"], relevance(model, X, "epsilon_plus"), 0)
    parts = "h = Conv<pads=[1,1,1,1]>(x, w, b); r = Relu(h); p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r); f = Flatten(p)"
    shapes = {"h": "N,4,6,5", "r": "N,4,6,5", "p": "N,4,3,2", "f": "N,24", "x": "N,3,6,5", "y": "N,4"}
    inner = run(net(parts.replace("; ", "\n"), y=", ".join(f"float[{shapes[t]}] {t}" for t in "hrpf"), **CONSTANTS), x=X)
    if tensor in "xy":
        y = run(model, x=X)["y"]
        wanted = out["relevance.x"] if tensor == "x" else np.where(y == y.max(1, keepdims=True), y, 0)
    else:  # the rest of the network as a model of its own
        steps = ("r = Relu(h)", "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)", "f = Flatten(p)", "y = Gemm(f, v, c)")
        rest = net("\n".join(steps["hrpf".index(tensor) :]), f"float[{shapes[tensor]}] {tensor}", **CONSTANTS)
        wanted = lrp(rest, {tensor: inner[tensor]}, "epsilon_plus")[f"relevance.{tensor}"]
    near(out[f"relevance.{tensor}"], wanted)


def test_several_layers_and_each_once() -> None:
    compiled = onnxlrp.compile(named(), layers=["h", 0, "r", "p", 1])
    assert [o.name for o in compiled.graph.output] == ["y", "relevance.x", "relevance.h", "relevance.r", "relevance.p"]


def test_a_layer_answers_to_its_scope_and_to_its_node() -> None:
    model = named()
    model.graph.node[0].name = "node_7"
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stem.conv', 'call']")
    for key in ("stem.conv", "node_7"):
        assert "relevance.r" in lrp(model, {"x": X}, layers=[key])


def test_layers_with_given_relevance_and_targets() -> None:
    r = data(2, 4, seed=5)
    out = lrp(named(), {"x": X, "relevance_out": r}, init="given", layers=["y", "f"])
    near(out["relevance.y"], r, 0)
    near(out["relevance.f"].sum(), r.sum() - (r * CONSTANTS["c"] / run(named(), x=X)["y"]).sum(), 1e-3)
    out = lrp(named(), {"x": X}, target=[2, 0], layers=["y"])
    assert np.array_equal(np.argwhere(out["relevance.y"]), [[0, 2], [1, 0]])


# ----------------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize("key", ["h", "r", "p", "f", "x", "y", 0, -1])
def test_a_mask_of_ones_changes_nothing(key: Any) -> None:
    plain = relevance(named(), X, "epsilon_plus")
    compiled = onnxlrp.compile(named(), "epsilon_plus", conditions=[key])
    name = compiled.graph.input[-1].name
    assert name == f"mask.{ {0: 'r', -1: 'y'}.get(key, key) }"
    rank = len(compiled.graph.input[-1].type.tensor_type.shape.dim)
    near(run(compiled, x=X)["relevance.x"], plain, 0)
    near(run(compiled, x=X, **{name: np.ones((1,) * rank, np.float32)})["relevance.x"], plain, 0)
    near(run(compiled, x=X, **{name: np.zeros((1,) * rank, np.float32)})["relevance.x"], 0 * plain)


@pytest.mark.parametrize(
    ("key", "shape"), [("r", (1, 4, 1, 1)), ("p", (1, 4, 1, 1)), ("r", (2, 4, 6, 5)), ("f", (1, 24)), ("x", (1, 1, 6, 1))]
)
def test_a_mask_and_its_complement_sum_to_the_whole(key: str, shape: tuple[int, ...]) -> None:
    compiled = onnxlrp.compile(named(), "epsilon_plus", conditions=[key], layers=[key])
    mask = (np.random.default_rng(0).random(shape) < 0.5).astype(np.float32)
    whole, some, rest = (run(compiled, x=X, **{f"mask.{key}": m}) for m in (np.ones_like(mask), mask, 1 - mask))
    near(some["relevance.x"] + rest["relevance.x"], whole["relevance.x"])
    near(some[f"relevance.{key}"], whole[f"relevance.{key}"] * mask)
    assert 0 < np.abs(some["relevance.x"]).sum() < np.abs(some["relevance.x"]).sum() + np.abs(rest["relevance.x"]).sum()
    near(some["y"], whole["y"], 0)  # the forward pass is untouched


def test_one_channel_at_a_time_sums_to_the_whole() -> None:
    compiled = onnxlrp.compile(named(), "epsilon_alpha2_beta1", conditions=["r"])
    maps = [
        run(compiled, x=X, **{"mask.r": np.eye(4, dtype=np.float32)[k].reshape(1, 4, 1, 1)})["relevance.x"] for k in range(4)
    ]
    near(sum(maps), relevance(named(), X, "epsilon_alpha2_beta1"))


def test_two_masks() -> None:
    compiled = onnxlrp.compile(named(), conditions=["r", "f"])
    a, b = np.float32([1, 0, 1, 0]).reshape(1, 4, 1, 1), data(1, 24, low=0)
    near(
        run(compiled, x=X, **{"mask.r": a, "mask.f": b})["relevance.x"],
        sum(
            run(compiled, x=X, **{"mask.r": a * np.eye(4, dtype=np.float32)[k].reshape(1, 4, 1, 1), "mask.f": b})["relevance.x"]
            for k in (0, 2)
        ),
    )


def test_masks_per_row() -> None:
    compiled = onnxlrp.compile(named(), conditions=["p"])
    mask = data(2, 4, 1, 1, low=0)
    both = run(compiled, x=X, **{"mask.p": mask})["relevance.x"]
    for n in range(2):
        near(run(compiled, x=X[n : n + 1], **{"mask.p": mask[n : n + 1]})["relevance.x"], both[n : n + 1])


# ---------------------------------------------------------------------------------------------------------- diagnostics

COMPOSITES = {
    "epsilon": Epsilon(),
    "large epsilon": Epsilon(0.5),
    "zplus": ZPlus(),
    "alpha_beta": AlphaBeta(3, 2),
    "gamma": Gamma(0.5),
    "generalized_gamma": GeneralizedGamma(0.5),
    "flat": Flat(),
    "w_square": WSquare(),
    "w_square, bias": WSquare(bias="square"),
    "zbox": ZBox(-5, 5),
    "bias ignored": ZPlus(bias="ignore"),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_checks_balance_per_linear_step(name: str) -> None:
    """arrived = sent + taken by the bias + taken by ε."""
    compiled = onnxlrp.compile(named(), Composite(COMPOSITES[name]), checks=True)
    out = run(compiled, x=X)
    props = {p.key: p.value for p in compiled.metadata_props}
    layers = json.loads(props["onnxlrp.interface"])["check_layers"]
    assert layers == [0, 0, 1, 2, 3]  # conv, relu, pool, flatten, gemm
    assert out["checks"].shape == (5, 8)
    arrived, sent, bias, epsilon, bad, outside, arrived_l1, sent_l1 = out["checks"].T
    scale = np.abs(out["checks"][:, :4]).sum(1).max()
    near(arrived / scale, (sent + bias + epsilon) / scale, 3e-5 if name != "generalized_gamma" else 1e-3)
    y = run(named(), x=X)["y"].max(1).sum()
    near(arrived[4], y)
    near(sent[0], out["relevance.x"].sum(), 1e-4)
    near(arrived[1:4], sent[2:5], 1e-4)
    near(arrived_l1[:-1], sent_l1[1:], 1e-4)
    near(sent_l1[0], np.abs(out["relevance.x"]).sum(dtype=float), 1e-4)
    assert (bad == 0).all()
    assert (outside == 0).all()
    if name in ("epsilon", "large epsilon", "zplus", "gamma"):
        assert np.abs(bias[[0, 4]]).min() > 0
    if name in ("flat", "zbox", "bias ignored"):
        assert (bias == 0).all()
    if name == "large epsilon":
        assert np.abs(epsilon[4]) > 0.01


def test_checks_count_inputs_outside_the_box() -> None:
    out = lrp(named(), {"x": X}, Composite(GlobalTypeMap({"Conv": ZBox(-0.5, 0.5)})), checks=True)
    assert out["checks"][0, 5] == (np.abs(X) > 0.5).sum()


def test_checks_count_what_is_not_finite() -> None:
    model = net("y = MatMul(x, w)", "float[N,3] x", "float[N,2] y", w=weight(3, 2))
    out = lrp(model, {"x": np.float32([[1, np.inf, 2]])}, checks=True)
    assert out["checks"][0, 4] > 0
    assert lrp(model, {"x": data(1, 3)}, checks=True)["checks"][0, 4] == 0


# --------------------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize("tensor", ["h", "r", "p", "f"])
def test_explaining_an_intermediate_tensor(tensor: str) -> None:
    out = lrp(named(), {"x": X}, "epsilon_plus", explain=[tensor])
    assert "relevance.x" not in out
    near(out[f"relevance.{tensor}"], lrp(named(), {"x": X}, "epsilon_plus", layers=[tensor])[f"relevance.{tensor}"])


def test_explaining_the_explained_tensor() -> None:
    out = lrp(named(), {"x": X}, explain=["y"])
    y = out["y"]
    near(out["relevance.y"], np.where(y == y.max(1, keepdims=True), y, 0))


def test_tensors_that_end_what_is_above_them() -> None:
    """explain= names where relevance ends: what arrives there goes no further, and what gets by is not lost."""
    model = net(
        "a = MatMul(x, w)\nr = Tanh(a)\nb = MatMul(x, v)\ny = Add(r, b)",
        "float[N,3] x",
        "float[N,4] y",
        w=weight(3, 4),
        v=weight(3, 4, seed=5),
    )
    x = data(2, 3)
    both, one = lrp(model, {"x": x}, explain=["r", "x"]), lrp(model, {"x": x}, layers=["r", "b"])
    near(both["relevance.r"], one["relevance.r"])
    past = lrp(
        net("b = MatMul(x, v)", "float[N,3] x", "float[N,4] b", v=weight(3, 4, seed=5)),
        {"x": x, "relevance_out": one["relevance.b"]},
        init="given",
    )
    near(both["relevance.x"], past["relevance.x"])


def test_a_tensor_behind_another_explained_one_is_no_map_of_zeros() -> None:
    with pytest.raises(onnxlrp.CompositeError, match=r"explain: 'x' reaches 'y' only through .* layers="):
        onnxlrp.compile(named(), explain=["x", "p"])


# --------------------------------------------------------------------------------- several inputs, outputs, forks, joins

SUMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "two inputs added": ("a = Conv(x, w); b = Conv(z, u); y = Add(a, b)", "x z", {}),
    "two inputs concatenated": ("a = Concat<axis=1>(x, z); y = Conv(a, q)", "x z", {"q": weight(3, 6, 1, 1)}),
    "shared weight": ("a = Conv(x, w); b = Relu(a); c = Conv(b, w); y = Conv(c, w)", "x", {}),
    "one weight, two inputs": ("a = Conv(x, w); b = Conv(z, w); y = Add(a, b)", "x z", {}),
    "twice the same input": ("a = Conv(x, w); y = Add(a, a)", "x", {}),
    "product with itself": ("a = Conv(x, w); y = Mul(a, a)", "x", {}),
    "concatenated with itself": ("a = Conv(x, w); c = Concat<axis=1>(a, a); y = Conv(c, q)", "x", {"q": weight(3, 6, 1, 1)}),
    "three consumers": ("a = Conv(x, w); b = Relu(a); c = Tanh(a); d = Conv(a, u); e = Add(b, c); y = Add(e, d)", "x", {}),
    "residual": ("a = Conv(x, w); r = Relu(a); b = Conv(r, u); y = Add(b, a)", "x", {}),
    "residual to the input": ("a = Conv(x, w); r = Relu(a); b = Conv(r, u); y = Add(b, x)", "x", {}),
    "two residual blocks": (
        "a = Conv(x, w); r = Relu(a); b = Conv(r, u); s = Add(b, x); t = Relu(s); c = Conv(t, w); y = Add(c, t)",
        "x",
        {},
    ),
    "dense connections": (
        "a = Conv(x, w); c = Concat<axis=1>(x, a); b = Conv(c, q); d = Concat<axis=1>(c, b); y = Conv(d, n)",
        "x",
        {"q": weight(3, 6, 1, 1), "n": weight(3, 9, 1, 1)},
    ),
    "split and joined": (
        "p, d, s = Split<axis=1>(x, ones); a = Add(p, s); y = Conv(a, k)",
        "x",
        {"ones": np.int64([1, 1, 1]), "k": weight(3, 1, 1, 1)},
    ),
    "gated": ("a = Conv(x, w); g = Sigmoid(a); b = Conv(x, u); y = Mul(g, b)", "x", {}),
    "channel attention": (
        "a = Conv(x, w); g = GlobalAveragePool(a); h = Conv(g, u); s = Sigmoid(h); y = Mul(a, s)",
        "x",
        {},
    ),
    "broadcast sum": ("a = Conv(x, w); g = GlobalMaxPool(z); y = Add(a, g)", "x z", {}),
}


def forked(name: str, positive: bool) -> onnx.ModelProto:
    body, _, more = SUMS[name]
    constants = {"w": weight(3, 3, 1, 1, seed=1), "u": weight(3, 3, 1, 1, seed=2), **more}
    if positive:
        constants = {k: np.abs(v) for k, v in constants.items()}
    return net(body.replace("; ", "\n"), "float[N,3,6,5] x, float[N,3,6,5] z", "float[N,3,6,5] y", **constants)


@pytest.mark.parametrize("composite", [Epsilon(1e-9), ZPlus(epsilon=1e-12)], ids=["epsilon", "zplus"])
@pytest.mark.parametrize("name", SUMS)
def test_forks_and_joins_conserve(name: str, composite: onnxlrp.Rule) -> None:
    """Without biases, what starts arrives: a copy counted twice or a branch forgotten would change the sum."""
    feeds = {"x": data(2, 3, 6, 5, low=0.1), "z": data(2, 3, 6, 5, seed=3, low=0.1)}
    model = forked(name, positive=isinstance(composite, ZPlus))  # or what only inhibits keeps its share
    y = run(model, **feeds)["y"]
    r = np.abs(y)
    whole = Composite(composite, GlobalTypeMap({"Sum": Epsilon(1e-9)}))
    out = lrp(model, {**feeds, "relevance_out": r}, whole, init="given")
    reached = SUMS[name][1].split()
    assert sorted(k for k in out if k.startswith("relevance")) == sorted(f"relevance.{i}" for i in reached)
    near(out["y"], y)
    near(np.sum([out[f"relevance.{i}"].sum() for i in reached]), r.sum(), 2e-3)


def test_a_join_splits_in_proportion() -> None:
    model = net("y = Add(x, z)", "float[N,4] x, float[N,4] z", "float[N,4] y")
    x, z, r = data(2, 4), data(2, 4, seed=3), data(2, 4, seed=4)
    out = lrp(model, {"x": x, "z": z, "relevance_out": r}, init="given")
    near(out["relevance.x"], r * x / (x + z), 1e-4)
    near(out["relevance.z"], r * z / (x + z), 1e-4)


def test_a_fork_adds_up() -> None:
    model = net("a = Neg(x)\nb = Tanh(x)\ny = Concat<axis=1>(a, b)", "float[N,4] x", "float[N,8] y")
    r = data(2, 8)
    near(lrp(model, {"x": data(2, 4), "relevance_out": r}, init="given")["relevance.x"], r[:, :4] + r[:, 4:])


def test_unused_inputs_stay_inputs_and_get_no_map() -> None:
    model = net("y = MatMul(x, w)", "float[N,3] x, float[N,7] unused, int64[N] ids", "float[N,4] y", w=weight(3, 4))
    compiled = onnxlrp.compile(model)
    assert [i.name for i in compiled.graph.input] == ["x", "unused", "ids", "target"]
    assert [o.name for o in compiled.graph.output] == ["y", "relevance.x"]
    run(compiled, x=data(2, 3), unused=data(2, 7), ids=np.int64([0, 1]))


def test_an_input_that_another_output_uses() -> None:
    model = net("y = Tanh(x)\nq = Add(x, z)", "float[N,4] x, float[N,4] z", "float[N,4] y, float[N,4] q")
    feeds = {"x": data(2, 4), "z": data(2, 4, seed=3)}
    first, second = lrp(model, feeds), lrp(model, feeds, output="q")
    assert "relevance.z" not in first
    assert np.abs(second["relevance.z"]).max() > 0
    for out in (first, second):
        near(out["q"], feeds["x"] + feeds["z"])


def test_a_tensor_that_is_an_output_and_goes_on() -> None:
    body = "h = MatMul(x, w)\nr = Relu(h)\ny = MatMul(r, v)"
    constants = {"w": weight(3, 5), "v": weight(5, 4)}
    x = data(2, 3)
    alone = net(body, "float[N,3] x", "float[N,4] y", **constants)
    for outputs in ("float[N,4] y, float[N,5] r", "float[N,5] r, float[N,4] y"):
        out = lrp(net(body, "float[N,3] x", outputs, **constants), {"x": x}, "zplus", output="y")
        near(out["relevance.x"], relevance(alone, x, "zplus"))
        near(out["r"], np.maximum(x @ constants["w"], 0))
    inner = lrp(net(body, "float[N,3] x", "float[N,5] r, float[N,4] y", **constants), {"x": x}, "zplus")
    near(
        inner["relevance.x"],
        relevance(net("h = MatMul(x, w)\nr = Relu(h)", "float[N,3] x", "float[N,5] r", w=constants["w"]), x, "zplus"),
    )


def test_any_tensor_may_be_explained_as_an_output() -> None:
    out = lrp(named(), {"x": X}, "epsilon", output="f")
    inner = "h = Conv<pads=[1,1,1,1]>(x, w, b)\nr = Relu(h)\np = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\nf = Flatten(p)"
    near(out["relevance.x"], relevance(net(inner, y="float[N,24] f", **CONSTANTS), X, "epsilon"))


def test_model_outputs_come_first_and_keep_types_and_shapes() -> None:
    body = "z = MatMul(x, w)\ny = Softmax(z)\nlabel = ArgMax<axis=1, keepdims=0>(y)"
    model = net(body, "float[N,3] x", "int64[N] label, float[N,4] y", w=weight(3, 4))
    compiled = onnxlrp.compile(model, layers=["z"])
    described = [
        (o.name, o.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim])
        for o in compiled.graph.output
    ]
    assert described == [("label", 7, ["N"]), ("y", 1, ["N", 4]), ("relevance.x", 1, ["N", 3]), ("relevance.z", 1, ["N", 4])]


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1"])
def test_without_canonize_the_sum_is_the_same(composite: str) -> None:
    model = vgg11(size=32)
    x = data(1, 3, 32, 32)
    a, b = (relevance(model, x, composite, canonize=c) for c in (True, False))
    near(a, b)  # nothing folds here, so nothing changes


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_rows_are_independent(batch: int) -> None:
    model = vgg11(size=32)
    x = data(batch, 3, 32, 32)
    compiled = onnxlrp.compile(model, "epsilon_gamma_box(low=-4, high=4)", layers=["p4"])
    out = run(compiled, x=x)
    for n in range(batch):
        one = run(compiled, x=x[n : n + 1])
        near(out["relevance.x"][n : n + 1], one["relevance.x"], 2e-5)
        near(out["relevance.p4"][n : n + 1], one["relevance.p4"], 2e-5)
