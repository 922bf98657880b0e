"""Where relevance starts: what is stripped, which axis holds the classes, which value starts where."""

from typing import Any

import numpy as np
import pytest
from models_for_tests import data, lrp, near, net, relevance, run, session, weight

import onnxlrp

V = weight(5, 4)
LOGITS = "z = MatMul(x, v)\n"
X = data(3, 5)
INT4 = "int64[N] y"
LABELS = np.int64([10, 20, 30, 40])

# name: (nodes after the logits z, declaration of y, explained tensor, stripped operators)
STRIPPED: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "nothing": ("y = Identity(z)", "float[N,4] y", "y", ()),
    "Softmax": ("y = Softmax(z)", "float[N,4] y", "z", ("Softmax",)),
    "LogSoftmax": ("y = LogSoftmax(z)", "float[N,4] y", "z", ("LogSoftmax",)),
    "Sigmoid": ("y = Sigmoid(z)", "float[N,4] y", "z", ("Sigmoid",)),
    "Softmax, Identity, Cast": ("p = Softmax(z); q = Identity(p); y = Cast<to=1>(q)", "float[N,4] y", "z", ("Softmax",)),
    "Softmax, Reshape": ("p = Softmax(z); y = Reshape(p, two)", "float[N,4] y", "z", ("Softmax",)),
    "ArgMax": ("y = ArgMax<axis=1, keepdims=0>(z)", INT4, "z", ("ArgMax",)),
    "ArgMax of Softmax": ("p = Softmax(z); y = ArgMax<axis=1, keepdims=0>(p)", INT4, "z", ("ArgMax", "Softmax")),
    "label cast": ("a = ArgMax<axis=1, keepdims=0>(z); y = Cast<to=1>(a)", "float[N] y", "z", ("ArgMax",)),
    "label list": ("a = ArgMax<axis=1, keepdims=0>(z); y = Gather(labels, a)", INT4, "z", ("ArgMax",)),
    "scikit-learn": (
        "p = Softmax(z); a = ArgMax<axis=1, keepdims=1>(p); b = ai.onnx.ml.ArrayFeatureExtractor(labels, a); "
        "c = Reshape(b, one); y = Cast<to=7>(c)", INT4, "z", ("ArgMax", "Softmax"),
    ),
    "Softmax twice": ("p = Softmax(z); y = Softmax(p)", "float[N,4] y", "p", ("Softmax",)),
    "Softmax in the middle": ("p = Softmax(z); y = MatMul(p, u)", "float[N,2] y", "y", ()),
    "Softmax, then Mul": ("p = Softmax(z); y = Mul(p, two_)", "float[N,4] y", "y", ()),
    "Relu": ("y = Relu(z)", "float[N,4] y", "y", ()),
    "Reshape alone": ("r = Reshape(z, two); y = Identity(r)", "float[N,4] y", "y", ()),
    "float64": ("p = Softmax(z); y = Cast<to=11>(p)", "double[N,4] y", "z", ("Softmax",)),
    "float64 logits": ("y = Cast<to=11>(z)", "double[N,4] y", "y/float32", ()),
}  # fmt: skip


def headed(name: str) -> Any:
    body, y, *_ = STRIPPED[name]
    constants = {
        "v": V,
        "labels": LABELS,
        "two": np.int64([-1, 4]),
        "one": np.int64([-1]),
        "u": weight(4, 2),
        "two_": np.float32(2),
    }
    domains = ', "ai.onnx.ml" : 3' if "ai.onnx.ml" in body else ""
    return net(LOGITS + body.replace("; ", "\n"), "float[N,5] x", y, domains=domains, **constants)


@pytest.mark.parametrize("name", STRIPPED)
def test_stripping(name: str) -> None:
    *_, tensor, stripped = STRIPPED[name]
    model = headed(name)
    composite = {"p": onnxlrp.Pass()} if name in ("Softmax twice", "Softmax in the middle", "Softmax, then Mul") else "epsilon"
    head = onnxlrp.inspect(model, composite).head
    assert (head.tensor, head.stripped, head.output, head.class_axis) == (tensor, stripped, "y", 1)
    out = lrp(model, {"x": X}, composite)
    wanted = run(model, x=X)["y"]
    assert out["y"].dtype == wanted.dtype
    near(out["y"], wanted)
    assert np.abs(out["relevance.x"]).max() > 0
    if tensor == "z":  # the logit's own explanation
        plain = net(LOGITS + "y = Identity(z)", "float[N,5] x", "float[N,4] y", v=V)
        near(out["relevance.x"], relevance(plain, X, "epsilon"))
        near(out["relevance.x"].sum(1), (X @ V).max(1), 1e-4)


def test_binary_head_counts_as_two_logits() -> None:
    body = "z = MatMul(x, w)\np = Sigmoid(z)\nq = Sub(one, p)\ny = Concat<axis=1>(q, p)"
    model = net(body, "float[N,5] x", "float[N,2] y", w=V[:, :1].copy(), one=np.float32(1))
    plan = onnxlrp.inspect(model, "epsilon")
    assert plan.head.stripped == ("Sigmoid",)
    assert plan.head.class_axis == 1
    z = X @ V[:, :1]
    for target, sign in ((0, -1), (1, 1)):
        out = lrp(model, {"x": X}, target=[target])
        near(out["relevance.x"], sign * X * V[:, 0], 1e-4)
        near(out["y"], run(model, x=X)["y"])
    near(relevance(model, X).sum(1), np.abs(z[:, 0]), 1e-4)


def test_a_concat_that_is_no_binary_head() -> None:
    body = "z = MatMul(x, w)\np = Sigmoid(z)\nq = Sub(two, p)\ny = Concat<axis=1>(q, p)"
    model = net(body, "float[N,5] x", "float[N,2] y", w=V[:, :1].copy(), two=np.float32(2))
    assert onnxlrp.inspect(model, "epsilon").head.tensor == "y"


def test_values_picked_by_the_best_score_are_explained_themselves() -> None:
    """A box chosen by its score is no label: the relevance is the box's, not the score's."""
    body = (
        "s = MatMul(x, v); a = ArgMax<axis=1>(s); b = MatMul(x, u); y = GatherElements<axis=1>(b, a); z = Gather<axis=1>(b, i)"
    )
    model = net(
        body.replace("; ", "\n"), "float[N,5] x", "float[N,1] y, float[N,2] z", v=V, u=weight(5, 4, seed=9), i=np.int64([2, 0])
    )
    for output, tensor in (("y", "y"), ("z", "z")):
        assert onnxlrp.inspect(model, "epsilon", output=output).head.tensor == tensor


def test_an_inner_tensor_named_as_output_is_not_folded_away() -> None:
    body = "h = Conv(x, w)\ny = BatchNormalization(h, s, s, s, s)"
    model = net(body, "float[N,3,4,4] x", "float[N,3,4,4] y", w=weight(3, 3, 1, 1), s=np.float32([1, 2, 3]))
    x = data(2, 3, 4, 4)
    plain = net("h = Conv(x, w)", "float[N,3,4,4] x", "float[N,3,4,4] h", w=weight(3, 3, 1, 1))
    near(relevance(model, x, output="h"), relevance(plain, x))


def test_label_and_probabilities_of_one_classifier() -> None:
    body = LOGITS + "p = Softmax(z)\nlabel = ArgMax<axis=1, keepdims=0>(p)"
    model = net(body, "float[N,5] x", "int64[N] label, float[N,4] p", v=V)
    first, second = (lrp(model, {"x": X}, output=o) for o in ("label", "p"))
    near(first["relevance.x"], second["relevance.x"])
    assert np.array_equal(first["label"], (X @ V).argmax(1))


# ----------------------------------------------------------------------------------------------------------- class axis

AXES = {
    "rank 0": ("", None), "rank 1": ("N", None), "rank 2": ("N,4", 1), "rank 3": ("N,3,4", 2), "rank 4": ("N,4,3,2", 1),
    "rank 5": ("N,4,3,2,2", 1),
}  # fmt: skip


@pytest.mark.parametrize("init", ["logit", "one"])
@pytest.mark.parametrize("name", AXES)
def test_class_axis_and_default_target(name: str, init: str) -> None:
    """The best class at each position; every value up to rank 1."""
    shape, axis = AXES[name]
    if shape:
        model = net("y = Neg(x)", f"float[{shape}] x", f"float[{shape}] y")
        x = data(*(2 if d == "N" else int(d) for d in shape.split(",")))
    else:
        model, x = net("y = ReduceSum<keepdims=0>(x)", "float[N] x", "float y"), data(3)
    head = onnxlrp.inspect(model, "epsilon").head
    assert head.class_axis == axis
    compiled = onnxlrp.compile(model, "epsilon", init=init)
    assert ("target" in [i.name for i in compiled.graph.input]) == (axis is not None)
    r, y = run(compiled, x=x)["relevance.x"], run(model, x=x)["y"]
    start = y if init == "logit" else np.ones_like(y)
    if not shape:
        near(r, x if init == "logit" else x / x.sum(), 1e-4)
    else:
        near(r, start if axis is None else np.where(y == y.max(axis, keepdims=True), start, 0))


@pytest.mark.parametrize(("axis", "named"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)])
def test_named_class_axis(axis: int, named: int) -> None:
    model = net("y = Neg(x)", "float[2,3,4] x", "float[2,3,4] y")
    x = data(2, 3, 4)
    head = onnxlrp.inspect(model, "epsilon", class_axis=axis).head
    assert (head.class_axis, head.why) == (named, "as asked for")
    near(relevance(model, x, class_axis=axis), np.where(-x == (-x).max(named, keepdims=True), -x, 0))


# --------------------------------------------------------------------------------------------------------------- target


@pytest.mark.parametrize("shape", [(3, 4), (3, 7, 4), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("target", [[2], [0, 3, 1], [-1], [-1, 2, -1]], ids=str)
def test_target_one_for_all_or_one_per_row(shape: tuple[int, ...], target: list[int]) -> None:
    axis = 2 if len(shape) == 3 else 1
    dims = ",".join(["N", *map(str, shape[1:])])
    model = net("y = Neg(x)", f"float[{dims}] x", f"float[{dims}] y")
    x = data(*shape)
    y = -x
    wanted = np.zeros_like(y)
    for n in range(3):
        k = (target * 3)[n] if len(target) == 1 else target[n]
        row = np.moveaxis(y[n], axis - 1, -1)
        pick = row.argmax(-1) if k < 0 else np.full(row.shape[:-1], k)
        hit = np.arange(row.shape[-1]) == pick[..., None]
        wanted[n] = np.moveaxis(np.where(hit, row, 0), -1, axis - 1)
    near(relevance(model, x, target=target), wanted)


@pytest.mark.parametrize("init", ["logit", "one"])
@pytest.mark.parametrize("classes", ["4", "C"], ids=["known classes", "symbolic classes"])
@pytest.mark.parametrize("target", [[4], [-2], [100], [-(2**62)], [2**62], [0, 4, 1], [1, -2, 1]], ids=str)
def test_a_target_out_of_range_is_an_error_in_a_bare_session(target: list[int], classes: str, init: str) -> None:
    model = net("y = Neg(x)", f"float[N,{classes}] x", f"float[N,{classes}] y")
    s = session(onnxlrp.compile(model, "epsilon", init=init))
    x = data(3, 4)
    s.run(None, {"x": x, "target": np.int64([3])})
    with pytest.raises(Exception, match=r"(?i)gather|indices|index|bound"):
        s.run(None, {"x": x, "target": np.int64(target)})


def test_the_first_of_equal_classes_is_the_default() -> None:
    model = net("y = Neg(x)", "float[N,3] x", "float[N,3] y")
    near(relevance(model, np.float32([[-1, -2, -2]])), np.float32([[0, 2, 0]]))


def test_the_target_may_be_left_out_or_given() -> None:
    compiled = onnxlrp.compile(headed("Softmax"), "epsilon")
    (target,) = (i for i in compiled.graph.input if i.name == "target")
    assert target.type.tensor_type.elem_type == 7
    assert "target" in [t.name for t in compiled.graph.initializer]
    near(run(compiled, x=X)["relevance.x"], run(compiled, x=X, target=np.int64([-1]))["relevance.x"], 0)


# -------------------------------------------------------------------------------------------------------- init, position


def test_given_relevance() -> None:
    model = headed("Softmax")
    compiled = onnxlrp.compile(model, "epsilon", init="given")
    assert [i.name for i in compiled.graph.input] == ["x", "relevance_out"]
    r = data(3, 4, seed=4)
    z = X @ V
    near(run(compiled, x=X, relevance_out=r)["relevance.x"], X * ((r / (z + np.where(z >= 0, 1e-6, -1e-6))) @ V.T), 1e-4)


def test_one_is_logit_divided_by_the_logit() -> None:
    z = (X @ V).max(1)[:, None]
    near(relevance(headed("Softmax"), X, init="one") * z, relevance(headed("Softmax"), X), 1e-5)


@pytest.mark.parametrize("composite", ["gradient", "guided_backprop"])
def test_gradient_presets_start_with_one(composite: str) -> None:
    assert onnxlrp.inspect(headed("Softmax"), composite).init == "one"
    best = (X @ V).argmax(1)
    near(relevance(headed("Softmax"), X, composite), V.T[best])


POSITIONS = [
    ((3, 7, 4), 0, (0,)), ((3, 7, 4), 3, (3,)), ((3, 7, 4), -1, (6,)), ((3, 7, 4), (-7,), (0,)), ((3, 7, 4), np.int64(2), (2,)),
    ((3, 4, 2, 5), (1, 2), (1, 2)), ((3, 4, 2, 5), (-1, -5), (1, 0)),
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [True, False], ids=["symbolic", "fixed"])
@pytest.mark.parametrize(("shape", "position", "place"), POSITIONS, ids=[f"{p[0]} at {p[1]}" for p in POSITIONS])
def test_position(shape: tuple[int, ...], position: Any, place: tuple[int, ...], symbolic: bool) -> None:
    axis = 2 if len(shape) == 3 else 1
    names = [d if a == axis or not symbolic else f"D{a}" for a, d in enumerate(shape)]
    dims = ",".join(["N", *map(str, names[1:])])
    model = net("y = Neg(x)", f"float[{dims}] x", f"float[{dims}] y")
    x = data(*shape)
    whole = relevance(model, x)
    where = np.zeros(shape, bool)
    where[(slice(None), *place) if axis == 2 else (slice(None), slice(None), *place)] = True
    near(relevance(model, x, position=position), np.where(where, whole, 0))
    assert np.abs(np.where(where, whole, 0)).max() > 0


def test_position_and_target_together() -> None:
    model = net("y = Neg(x)", "float[N,T,4] x", "float[N,T,4] y")
    x = data(2, 5, 4)
    wanted = np.zeros_like(x)
    wanted[0, 3, 1], wanted[1, 3, 2] = -x[0, 3, 1], -x[1, 3, 2]
    near(relevance(model, x, position=-2, target=[1, 2]), wanted)


def test_a_position_beyond_the_run_time_length_is_no_map_of_zeros() -> None:
    model = net("y = Neg(x)", "float[N,T,4] x", "float[N,T,4] y")
    s = session(onnxlrp.compile(model, "epsilon", position=6))
    assert np.abs(s.run(["relevance.x"], {"x": data(2, 7, 4)})[0]).max() > 0
    with pytest.raises(Exception, match=r"(?i)gather|indices|index|bound"):
        s.run(["relevance.x"], {"x": data(2, 5, 4)})


# ------------------------------------------------------------------------------------------------------ the footer's words


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Softmax", "explains  z (before Softmax) of output y, class axis 1 (axis 1, rank 2), initial relevance: logit"),
        (
            "scikit-learn",
            "explains  z (before Softmax and ArgMax) of output y, class axis 1 (axis 1, rank 2), initial relevance: logit",
        ),
        ("nothing", "explains  y, class axis 1 (axis 1, rank 2), initial relevance: logit"),
    ],
)
def test_the_plan_says_what_is_explained(name: str, line: str) -> None:
    assert line in str(onnxlrp.inspect(headed(name), "epsilon")).split("\n")


def test_a_batch_of_one_row_equals_the_row_of_a_batch() -> None:
    s = session(onnxlrp.compile(headed("Softmax"), "epsilon"))
    whole = s.run(["relevance.x"], {"x": X, "target": np.int64([1, 0, 3])})[0]
    for n, target in enumerate([1, 0, 3]):
        near(s.run(["relevance.x"], {"x": X[n : n + 1], "target": np.int64([target])})[0], whole[n : n + 1])


@pytest.mark.parametrize("last", ["Softmax<axis=-1>", "LogSoftmax<axis=3>", "ArgMax<axis=-1>"])
def test_channels_last_classes_lie_where_the_model_says(last: str) -> None:
    kind = "int64" if last.startswith("Arg") else "float"
    size = 1 if last.startswith("Arg") else 5
    model = net(f"z = Transpose<perm=[0, 2, 3, 1]>(x)\ny = {last}(z)", "float[N,5,2,3] x", f"{kind}[N,2,3,{size}] y")
    plan = onnxlrp.inspect(model)
    assert plan.head.class_axis == 3
    assert f"the axis of the {last.split('<')[0]}" in str(plan)
    x = np.random.default_rng(0).uniform(1, 2, (2, 5, 2, 3)).astype(np.float32)
    assert np.array_equal(relevance(model, x), np.where(x == x.max(1, keepdims=True), x, 0))
