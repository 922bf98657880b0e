"""LSTM, GRU, RNN: against a second implementation step by step in float64, and derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, lrp, near, net, relevance, run
from onnx import helper
from onnx.numpy_helper import from_array
from recurrent_reference import GATES, Array, Cell

import onnxlrp
import onnxlrp.expansions.recurrent
import onnxlrp.ops.recurrent
from onnxlrp import Composite, Epsilon, FirstLayerMap, GlobalMap, GlobalTypeMap, NameMap, Pass, Stop, ZBox, Zero, ZPlus
from onnxlrp.emit import Emit

T, N, I, H = 5, 3, 2, 4
LENS = np.asarray([3, 5, 1], np.int32)
STATES = ("x", "h0", "c0")


@dataclass(frozen=True)
class Case:
    """A node with random weights. active: which of h0, c0 are inputs of the model; frozen: which are constants."""

    op: str
    name: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = True
    peepholes: bool = False
    lens: Sequence[int] | None = None
    active: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    shape: tuple[int, int] = (T, N)

    def __str__(self) -> str:
        return f"{self.op} {self.name}"

    @property
    def directions(self) -> int:
        return 2 if self.attrs.get("direction") == "bidirectional" else 1

    @property
    def cell(self) -> Cell:
        g, d = GATES[self.op] * H, self.directions
        w, r, b = (data(*s, seed=i) for i, s in enumerate([(d, g, I), (d, g, H), (d, 2 * g)], 1))
        p = data(d, 3 * H, seed=4) if self.peepholes else None
        return Cell(self.op, w * 0.7, r * 0.5, b * 0.4 if self.bias else None, p, self.attrs)

    def values(self, shape: tuple[int, int] | None = None) -> dict[str, Array]:
        """x, h0, c0 of a batch."""
        t, n = shape or self.shape
        states = {k: data(self.directions, n, H, seed=i) for i, k in enumerate(STATES[1:], 6)}
        used = (*self.active, *self.frozen)
        return {"x": data(t, n, I, seed=5), **{k: s for k, s in states.items() if k in used}}

    def outputs(self) -> int:
        return 3 if self.op == "LSTM" else 2

    def model(self, layout: int = 0, keep: Sequence[int] = (0, 1, 2)) -> onnx.ModelProto:
        """z = the outputs that are kept, one behind the other along time: (T + 2, D, N, H)."""
        cell, values, front = self.cell, self.values(), "NT" if layout else "TN"
        names = [n if i in keep else "" for i, n in enumerate(("Y", "Y_h", "Y_c")[: self.outputs()])]
        constants = {"w": cell.w, "r": cell.r, "b": cell.b, "p": cell.p} | {k: values[k] for k in self.frozen}
        constants = {k: np.asarray(v, np.float32) for k, v in constants.items() if v is not None}
        if self.lens is not None:
            constants["lens"] = np.asarray(self.lens, np.int32)
        inputs = ["x", "w", "r", "b" if self.bias else "", "lens" if self.lens is not None else "",
                  *(k if k in values else "" for k in STATES[1:]), "p" if self.peepholes else ""]  # fmt: skip
        inputs = inputs[: 8 if self.op == "LSTM" else 6]
        node = helper.make_node(self.op, inputs, names, self.op.lower(), hidden_size=H, layout=layout, **self.attrs)
        nodes, parts, axis = [node], [n for n in names[:1] if n], 1 if layout else 0
        for n in (n for n in names[1:] if n):
            nodes.append(helper.make_node("Unsqueeze", [n, "axis"], [f"{n}1"], f"{n}1"))
            parts.append(f"{n}1")
        nodes.append(helper.make_node("Concat", parts, ["z"], "z", axis=axis))
        state = [self.directions, "N", H] if not layout else ["N", self.directions, H]
        faces = [helper.make_tensor_value_info("x", 1, [*front, I])]
        faces += [helper.make_tensor_value_info(k, 1, state) for k in self.active]
        out = [helper.make_tensor_value_info("z", 1, [None] * 4)]
        weights = [from_array(v, k) for k, v in constants.items()] + [from_array(np.asarray([axis], np.int64), "axis")]
        graph = helper.make_graph(nodes, "g", faces, out, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def feeds(self, shape: tuple[int, int] | None = None) -> dict[str, Array]:
        return {k: v for k, v in self.values(shape).items() if k not in self.frozen}

    def given(self, shape: tuple[int, int] | None = None) -> Array:
        """Relevance of z."""
        t, n = shape or self.shape
        return data(t + self.outputs() - 1, self.directions, n, H, seed=9)

    def expected(self, shape: tuple[int, int] | None = None, **options: Any) -> dict[str, Any]:
        x, h0, c0 = (self.values(shape).get(k) for k in STATES)
        lens = None if self.lens is None else np.asarray(self.lens)
        r = self.given(shape)
        given = [r[: len(x)], *r[len(x) :]]
        return self.cell.relevance(x, given, lens, h0, c0, **options)

    def forward(self, values: Mapping[str, Array]) -> Array:
        """z in float64."""
        lens = None if self.lens is None else np.asarray(self.lens)
        y, *last = self.cell.forward(values["x"], lens, values.get("h0"), values.get("c0"))
        return np.concatenate([y, *(s[None] for s in last)])


def functions(*names: str, alpha: Sequence[float] = (), beta: Sequence[float] = (), **more: Any) -> dict[str, Any]:
    """Attributes that name the activations."""
    scales = {"activation_alpha": list(alpha), "activation_beta": list(beta)}
    return {"activations": list(names), **{k: v for k, v in scales.items() if v}, **more}


BOTH, REVERSE = {"direction": "bidirectional"}, {"direction": "reverse"}
STARTED: dict[str, Any] = {"active": ("h0", "c0")}
CASES = [
    Case("LSTM"),
    Case("LSTM", "reverse", REVERSE, **STARTED),
    Case("LSTM", "both ways", BOTH, **STARTED),
    Case("LSTM", "lengths", lens=LENS, **STARTED),
    Case("LSTM", "lengths, reverse", REVERSE, lens=LENS, **STARTED),
    Case("LSTM", "lengths, both ways, peepholes", BOTH, lens=LENS, peepholes=True, **STARTED),
    Case("LSTM", "a row without steps", BOTH, lens=[0, 5, 2], **STARTED),
    Case("LSTM", "peepholes", peepholes=True),
    Case("LSTM", "peepholes, coupled, clip", {"input_forget": 1, "clip": 0.6}, peepholes=True, **STARTED),
    Case("LSTM", "coupled", {"input_forget": 1}, **STARTED),
    Case("LSTM", "clip", {"clip": 0.3}, **STARTED),
    Case("LSTM", "no bias", bias=False),
    Case("LSTM", "frozen start", frozen=("h0", "c0")),
    Case("LSTM", "one frozen", active=("c0",), frozen=("h0",)),
    Case("LSTM", "one step", shape=(1, 1), **STARTED),
    Case("LSTM", "hard", functions("HardSigmoid", "Softsign", "Relu"), **STARTED),
    Case("LSTM", "scaled", functions("hardsigmoid", "LeakyRelu", "Elu", alpha=[0.3, 0.2, 0.7], beta=[0.4]), **STARTED),
    Case("LSTM", "affine", functions("Sigmoid", "Affine", "ScaledTanh", alpha=[0.7, 1.3], beta=[0.2, 0.8]), **STARTED),
    Case("LSTM", "soft", functions("Sigmoid", "Softplus", "ThresholdedRelu", alpha=[0.2]), **STARTED),
    Case("LSTM", "two kinds", functions(*"Sigmoid Tanh Tanh HardSigmoid Elu Relu".split(), **BOTH)),
    *(
        Case("GRU", f"{name}, {'after' if flag else 'before'} reset", {**attrs, "linear_before_reset": flag}, **more)
        for flag in (0, 1)
        for name, attrs, more in (
            ("plain", {}, {}),
            ("reverse", REVERSE, {"active": ("h0",)}),
            ("both ways", BOTH, {"active": ("h0",)}),
            ("lengths", {}, {"active": ("h0",), "lens": LENS}),
            ("lengths, both ways", BOTH, {"active": ("h0",), "lens": LENS}),
            ("a row without steps", BOTH, {"active": ("h0",), "lens": [0, 5, 2]}),
            ("clip", {"clip": 0.3}, {"active": ("h0",)}),
            ("no bias", {}, {"bias": False}),
            ("frozen start", {}, {"frozen": ("h0",)}),
            ("hard", functions("HardSigmoid", "Softsign"), {}),
            ("scaled", functions("Sigmoid", "ScaledTanh", alpha=[1.3], beta=[0.7]), {}),
        )
    ),
    Case("RNN"),
    Case("RNN", "reverse", REVERSE, active=("h0",)),
    Case("RNN", "both ways", BOTH, active=("h0",)),
    Case("RNN", "lengths, both ways", BOTH, lens=LENS, active=("h0",)),
    Case("RNN", "relu, no bias, frozen start", functions("Relu"), bias=False, frozen=("h0",)),
    Case("RNN", "clip", {"clip": 0.5}, active=("h0",)),
    Case("RNN", "scaled, both ways", functions("LeakyRelu", "Elu", alpha=[0.3, 0.6], **BOTH)),
    Case("RNN", "affine", functions("Affine", alpha=[0.7], beta=[0.1])),
]
every = pytest.mark.parametrize("case", CASES, ids=str)


@every
def test_relevance_is_the_second_implementations(case: Case) -> None:
    """Relevance at Y, Y_h and Y_c at once, ragged rows, every option; the outputs are the model's."""
    model, feeds, given = case.model(), case.feeds(), case.given()
    found = lrp(model, {**feeds, "relevance_out": given}, "epsilon", init="given")
    near(found["z"], run(model, **feeds)["z"], 0)
    near(found["z"], case.forward(case.values()), 2e-6)
    for name in feeds:
        near(found[f"relevance.{name}"], case.expected()[name], 1e-4)


@every
def test_the_books_balance(case: Case) -> None:
    """arrived = sent + bias + ε, a frozen state counting as bias; what is given after the end of a row is dropped."""
    rule, feeds, given = GlobalTypeMap({case.op: Epsilon(0.1)}), case.feeds(), case.given()
    found = lrp(case.model(), {**feeds, "relevance_out": given}, Composite(rule), init="given", checks=True)
    expected = case.expected(epsilon=0.1)
    for name in feeds:
        near(found[f"relevance.{name}"], expected[name], 1e-5)
    frozen = sum(expected[k].sum() for k in case.frozen)
    books = [given.sum(dtype=np.float64), sum(expected[k].sum() for k in feeds), expected["bias"] + frozen, expected["epsilon"]]
    assert np.abs(found["checks"][0][:4] - books).max() <= 1e-6 * expected["size"]
    assert case.lens is not None or abs(books[0] - sum(books[1:])) <= 1e-12 * expected["size"]


@every
def test_derivative_is_that_of_finite_differences(case: Case) -> None:
    """Gates included, through time."""
    values = {k: v.astype(np.float64) for k, v in case.values().items()}
    found = lrp(case.model(), {**case.feeds(), "relevance_out": case.given()}, "gradient", init="given")
    for name in case.feeds():
        near(found[f"relevance.{name}"], differences(case, values, name), 1e-5)


def differences(case: Case, values: dict[str, Array], name: str, step: float = 1e-5) -> Array:
    """d Σ r z / d(one input), by central differences."""
    out = np.zeros(values[name].shape)
    for i in np.ndindex(out.shape):
        sides = []
        for sign in (1, -1):
            moved = values[name].copy()
            moved[i] += sign * step
            sides.append(np.sum(case.given() * case.forward({**values, name: moved})))
        out[i] = (sides[0] - sides[1]) / (2 * step)
    return out


# ---------------------------------------------------------------------------------------------- layouts, shapes, outputs

SOME = [c for c in CASES if c.name in ("lengths, both ways, peepholes", "lengths, both ways, before reset", "both ways")]
some = pytest.mark.parametrize("case", SOME, ids=str)


def batch_first(z: Array) -> Array:
    return np.transpose(z, (2, 0, 1, 3))


@some
@pytest.mark.parametrize("preset", ["epsilon", "gradient"])
def test_batch_first_is_the_same_with_its_axes_in_another_order(case: Case, preset: str) -> None:
    """layout=1, which onnxruntime has no kernel for: the compiled file runs."""
    feeds, given = case.feeds(), case.given()
    one = lrp(case.model(), {**feeds, "relevance_out": given}, preset, init="given")
    swapped = {k: v.swapaxes(0, 1) for k, v in feeds.items()}
    model = onnxlrp.compile(case.model(layout=1), preset, init="given")
    other = run(model, **swapped, relevance_out=batch_first(given))
    near(other["z"], batch_first(one["z"]), 0)
    for name in feeds:
        near(other[f"relevance.{name}"], one[f"relevance.{name}"].swapaxes(0, 1), 0)
    assert [n.name for n in model.graph.node if n.op_type == case.op] == [case.op.lower()]


@some
def test_one_file_serves_every_length_and_batch(case: Case) -> None:
    case = Case(case.op, attrs=case.attrs, peepholes=case.peepholes, active=("h0",))
    session = onnxlrp.compile(case.model(), "epsilon", init="given")
    for shape in ((1, 1), (1, 3), (7, 1), (12, 5)):
        found = run(session, **case.feeds(shape), relevance_out=case.given(shape))
        for name in ("x", "h0"):
            near(found[f"relevance.{name}"], case.expected(shape)[name], 5e-5)


@some
@pytest.mark.parametrize("keep", [(0,), (1,), (0, 1)])
def test_outputs_that_nobody_asks_for(case: Case, keep: tuple[int, ...]) -> None:
    """A model may leave out Y: its Y_h alone still tells."""
    whole = case.given()
    parts = [whole[:T], whole[T : T + 1]]
    given = np.concatenate([parts[i] for i in keep])
    full = np.concatenate([p if i in keep else 0 * p for i, p in enumerate(parts)] + [0 * whole[T + 1 :]])
    found = lrp(case.model(keep=keep), {**case.feeds(), "relevance_out": given}, "epsilon", init="given")
    same = lrp(case.model(), {**case.feeds(), "relevance_out": full}, "epsilon", init="given")
    near(found["relevance.x"], same["relevance.x"], 1e-6)


@some
def test_a_given_start_of_zeros_is_none(case: Case) -> None:
    with_zeros = Case(case.op, attrs=case.attrs, peepholes=case.peepholes, active=("h0",))
    feeds = {**with_zeros.feeds(), "h0": 0 * with_zeros.feeds()["h0"], "relevance_out": case.given()}
    without = Case(case.op, attrs=case.attrs, peepholes=case.peepholes)
    given = {**without.feeds(), "relevance_out": case.given()}
    one, other = (lrp(c.model(), f, "epsilon", init="given") for c, f in ((with_zeros, feeds), (without, given)))
    near(one["relevance.x"], other["relevance.x"], 0)
    assert not one["relevance.h0"].any()


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("attrs", [{}, BOTH], ids=["forward", "both ways"])
def test_what_fills_up_rows_reaches_nothing(op: str, attrs: dict[str, Any]) -> None:
    """Lengths that are an input of the model; NaN behind the end of a row stays there."""
    case = Case(op, attrs=attrs, active=("h0",), lens=LENS)
    model = case.model()
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "lens"))
    model.graph.input.append(helper.make_tensor_value_info("lens", 6, ["N"]))
    compiled = onnxlrp.compile(model, "epsilon", init="given")
    feeds = case.feeds()
    for lens in (LENS, np.asarray([5, 2, 4], np.int32)):
        filled = np.where((np.arange(T)[:, None] < lens)[..., None], feeds["x"], np.float32("nan"))
        for x in (feeds["x"], filled):
            found = run(compiled, x=x, h0=feeds["h0"], lens=lens, relevance_out=case.given())
            expected = Case(op, attrs=attrs, active=("h0",), lens=lens).expected()
            for name in ("x", "h0"):
                near(found[f"relevance.{name}"], expected[name], 2e-5)


def test_relevance_of_a_layer_is_that_of_the_output_that_is_used() -> None:
    case = Case("LSTM")
    found = lrp(
        case.model(keep=(1,)), {**case.feeds(), "relevance_out": case.given()[:1]}, "epsilon", init="given", layers=["lstm"]
    )
    near(found["relevance.Y_h"], case.given()[0], 0)


def test_without_the_emitters_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same relevance from the plain emission."""
    model, x = network(), data(2, T, I)
    short = relevance(model, x)
    monkeypatch.setattr("onnxlrp.outputs.Emit", partial(Emit, smart=False))
    near(relevance(model, x), short, 1e-5)


def network(steps: int | str = "T", op: str = "LSTM", size: int = H) -> onnx.ModelProto:
    """Two layers, the second one both ways, the last step of it, a dense layer: x (N,T,I) to y (N,3)."""
    g, outs = GATES[op] * size, [(1, I), (2, size)]
    constants = {}
    for k, (d, i) in enumerate(outs):
        constants |= {f"w{k}": data(d, g, i, seed=k) / 2, f"r{k}": data(d, g, size, seed=5 + k) / size**0.5}
    body = f"""
        t = Transpose<perm=[1,0,2]>(x)
        a, ah = {op}<hidden_size={size}>(t, w0, r0)
        s = Squeeze(a, one)
        b, bh = {op}<hidden_size={size}, direction="bidirectional">(s, w1, r1)
        q = Transpose<perm=[2,0,1,3]>(b)
        f = Reshape(q, wide)
        last = Gather<axis=1>(f, end)
        y = Gemm(last, v, c)
    """
    return net(
        body, f"float[N,{steps},{I}] x", "float[N,3] y", **constants, one=np.asarray([1]), end=np.asarray(-1),
        wide=np.asarray([0, 0, 2 * size]), v=data(2 * size, 3, seed=8), c=np.zeros(3, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("op", list(GATES))
def test_a_stack_of_layers_conserves_relevance(op: str) -> None:
    """No biases, no start: Σ R = the logit, up to ε; and layer by layer it is what two second implementations say."""
    model, x = network(op=op), data(3, T, I, seed=3)
    found = lrp(model, {"x": x}, "epsilon", target=[0, 2, 1])
    logits = found["y"][range(3), [0, 2, 1]]
    near(found["relevance.x"].sum((1, 2)), logits, 2e-3)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    low, high = (Cell(op, weights[f"w{k}"], weights[f"r{k}"], attrs={} if k == 0 else BOTH) for k in (0, 1))
    middle = low.forward(x.swapaxes(0, 1))[0][:, 0]
    top = high.forward(middle)[0]
    last = np.concatenate(list(top[-1]), 1)
    ratio = logits / (found["y"][range(3), [0, 2, 1]] + 1e-6 * np.sign(logits))
    r = last * weights["v"][:, [0, 2, 1]].T * ratio[:, None]
    r_top = np.zeros(top.shape)
    r_top[-1] = np.stack([r[:, :H], r[:, H:]])
    expected = low.relevance(x.swapaxes(0, 1), [high.relevance(middle, [r_top])["x"][:, None]])["x"]
    near(found["relevance.x"], expected.swapaxes(0, 1), 2e-5)


def test_a_thousand_steps_cost_no_more_nodes() -> None:
    short, long = (onnxlrp.compile(network(n, size=16), "epsilon") for n in (10, 1000))
    assert len(short.graph.node) == len(long.graph.node)
    assert abs(short.ByteSize() - long.ByteSize()) < 100
    found = run(long, x=data(2, 1000, I))
    assert np.isfinite(found["relevance.x"]).all()
    near(run(short, x=data(2, 10, I))["relevance.x"], lrp(network(size=16), {"x": data(2, 10, I)})["relevance.x"], 1e-6)


def test_weights_are_stored_once() -> None:
    """The step's graph reads its matrix from the outer one."""
    model = network(size=64)
    assert onnxlrp.compile(model, "epsilon").ByteSize() < 1.05 * model.ByteSize() + 60_000


@pytest.mark.parametrize("options", [{"bake": True}, {"optimize": False}, {"canonize": False}, {"checks": True}], ids=str)
def test_options_of_the_compiler_change_nothing(options: dict[str, Any]) -> None:
    model, x = network(), data(2, T, I)
    near(lrp(model, {"x": x}, **options)["relevance.x"], relevance(model, x), 1e-6)


@pytest.mark.parametrize("dtype", [10, 11])
def test_other_float_types(dtype: int) -> None:
    """A float16 or float64 model is computed in float32."""
    model, x = network(), data(2, T, I)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    for t in model.graph.initializer:
        if t.data_type == 1:
            t.CopyFrom(from_array(onnx.numpy_helper.to_array(t).astype(kind), t.name))
    for face in (*model.graph.input, *model.graph.output):
        face.type.tensor_type.elem_type = dtype
    near(lrp(model, {"x": x.astype(kind)})["relevance.x"], relevance(network(), x), 1e-5 if dtype == 11 else 0.05)


# ------------------------------------------------------------------------------------------------------------------ rules


def rules(model: onnx.ModelProto, composite: Any) -> list[str]:
    """Rules of the recurrent nodes, in order."""
    return [repr(la.rule) for la in onnxlrp.inspect(model, composite) if la.op in GATES]


@pytest.mark.parametrize("preset", ["epsilon_plus_flat", "zplus", "flat", "gamma", "lrp_zero", "innvestigate_b"])
def test_presets_leave_recurrent_nodes_their_rule(preset: str) -> None:
    assert rules(network(), preset) == [repr(Epsilon())] * 2
    assert rules(network(), Composite(Epsilon(0.3), GlobalMap(Zero()), FirstLayerMap(ZBox(-1, 1)))) == [repr(Epsilon())] * 2


def test_recurrent_nodes_count_as_weighted_for_first_and_last() -> None:
    """The dense layer above an LSTM is no first layer."""
    plan = onnxlrp.inspect(network(), "epsilon_plus_flat")
    assert [repr(la.rule) for la in plan if la.op == "Gemm"] == [repr(Epsilon())]


@pytest.mark.parametrize("op", list(GATES))
def test_rules_with_parameters(op: str) -> None:
    """By type or name: another ε, Zero, a bias that is left out of the sums."""
    case = next(c for c in CASES if c.op == op and c.active)
    for rule, options in (
        (Epsilon(0.3), {"epsilon": 0.3}),
        (Zero(), {"epsilon": 1e-9}),
        (Epsilon(0.01, bias="ignore"), {"epsilon": 0.01, "bias": False}),
    ):
        feeds = {**case.feeds(), "relevance_out": case.given()}
        found = lrp(case.model(), feeds, Composite(GlobalTypeMap({op: rule})), init="given")
        for name in case.feeds():
            near(found[f"relevance.{name}"], case.expected(**options)[name], 2e-5)


def test_relative_epsilon() -> None:
    """ε·RMS over everything but the batch: steps and features."""
    w, r = data(1, H, I, seed=1), np.zeros((1, H, H), np.float32)
    body = f"""
        t = Transpose<perm=[1,0,2]>(x)
        h, last = RNN<hidden_size={H}>(t, w, r)
        y = Transpose<perm=[2,1,0,3]>(h)
    """
    model = net(body, f"float[N,T,{I}] x", f"float[N,1,T,{H}] y", w=w, r=r)
    x, given = data(N, T, I), data(N, 1, T, H, seed=1)
    rule = Composite(GlobalTypeMap({"RNN": Epsilon(0.1, relative=True)}))
    found = lrp(model, {"x": x, "relevance_out": given}, rule, init="given")
    z = x.astype(np.float64) @ w[0].T
    step = 0.1 * np.sqrt(np.mean(z * z, (1, 2), keepdims=True)) + 1e-9
    near(found["relevance.x"], x * ((given[:, 0] / (z + np.where(z >= 0, step, -step))) @ w[0]), 1e-5)


def test_stop_and_pass() -> None:
    model, x = network(), data(2, T, I)
    with pytest.raises(onnxlrp.RuleMismatch, match=r"node 'b' \(LSTM\).*Pass"):
        onnxlrp.compile(model, Composite(NameMap({"b": Pass()})))
    assert not relevance(model, x, Composite(NameMap({"b": Stop()}))).any()


def test_a_rule_that_splits_weights_by_sign_does_not_fit() -> None:
    with pytest.raises(onnxlrp.RuleMismatch, match=r"ZPlus\(\) does not fit node 'a' \(LSTM, recurrent\).*default is Epsilon"):
        onnxlrp.inspect(network(), Composite(GlobalTypeMap({"LSTM": ZPlus()})))


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("LSTM", functions("Sigmoid", "Tanh", "Gelu"), "activations .*Gelu.* are not 3 of"),
        ("LSTM", functions("Sigmoid", "Tanh"), "activations .*are not 3 of"),
        ("LSTM", functions("Sigmoid", "Affine", "Tanh"), "what scales its Affine"),
        ("GRU", functions("Sigmoid", "ThresholdedRelu"), "what scales its ThresholdedRelu"),
        ("RNN", functions("relu"), "activations .*relu.* are not 1 of"),
        ("RNN", functions("LeakyRelu"), "what scales its LeakyRelu"),
        ("RNN", functions("Tanh", "Elu", alpha=[0.5], **BOTH), "what scales its Elu"),
    ],
)
def test_activations_that_cannot_be_told(op: str, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxlrp.UnsupportedOp, match=f"node '{op.lower()}'.*{message}"):
        onnxlrp.compile(Case(op, attrs=attrs).model())


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_weight_that_depends_on_the_input_is_refused(index: int) -> None:
    model = Case("GRU").model()
    node = model.graph.node[0]
    name = node.input[index]
    model.graph.node.insert(0, helper.make_node("ReduceSum", ["x"], ["total"], "total", keepdims=0))
    model.graph.node.insert(1, helper.make_node("Mul", [name, "total"], ["scaled"], "scaled"))
    node = next(n for n in model.graph.node if n.op_type == "GRU")
    node.input[index] = "scaled"
    with pytest.raises(onnxlrp.UnsupportedOp, match=f"node 'gru'.*input {index} 'scaled' depends on the explained input"):
        onnxlrp.compile(model)


# --------------------------------------------------------------------------------------------------------------- networks

SHARED = Path(__file__).parents[2] / "shared"
NETWORKS = (
    "lstm.ts",
    "lstm.dyn",
    "gru.ts",
    "gru.dyn",
    "rnn_tanh.ts",
    "rnn_tanh.dyn",
    "keras_bilstm.tf2onnx",
    "keras_bilstm.kexport",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_several_exporters(name: str) -> None:
    reference = SHARED / "zoo_refs" / f"{name}.epsilon.npz"
    if not reference.exists():
        pytest.skip(f"{reference.name} is not there: the folder with reference data is missing")
    known = np.load(reference)
    feeds = {k[3:]: known[k] for k in known.files if k.startswith("in:")}
    found = lrp(str(SHARED / "zoo" / f"{name}.onnx"), feeds)
    for key in (k for k in known.files if k.startswith("relevance:")):
        near(found[f"relevance.{key[10:]}"], known[key], 1e-5)


def test_a_quantised_lstm_is_the_lstm_that_it_stands_for() -> None:
    """com.microsoft's DynamicQuantizeLSTM: W (D,I,4H) and R (D,H,4H) as codes; outputs differ by the rounding of states."""
    rng = np.random.default_rng(0)
    codes = {n: rng.integers(-127, 128, (1, k, 20)).astype(np.int8) for n, k in (("W", 3), ("R", 5))}
    more = {"Ws": np.float32([0.004]), "Wz": np.int8([0]), "Rs": np.float32([0.004]), "Rz": np.int8([0])}
    body = "y = com.microsoft.DynamicQuantizeLSTM<hidden_size=5>(x, W, R, , , , , , Ws, Wz, Rs, Rz)"
    shapes = ("float[T,N,3] x", "float[T,1,N,5] y")
    quantised = net(body, *shapes, domains=', "com.microsoft" : 1', **codes, **more)
    w, r = (np.float32(0.004) * codes[n].astype(np.float32).transpose(0, 2, 1) for n in ("W", "R"))
    plain = net("y = LSTM<hidden_size=5>(x, W, R)", *shapes, W=w, R=r)
    feed = {"x": data(4, 2, 3), "relevance_out": data(4, 1, 2, 5, seed=1)}
    ours, theirs = (run(onnxlrp.compile(m, "epsilon", init="given"), **feed) for m in (quantised, plain))
    near(ours["relevance.x"], theirs["relevance.x"])
    near(ours["y"], run(quantised, x=feed["x"])["y"], 3e-2)
    assert "computed as an LSTM" in onnxlrp.inspect(quantised).footer()
