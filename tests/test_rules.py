"""Every rule on every linear operator against the dense float64 reference; the rules of maxima and activations; hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
import reference
from _pytest.mark import ParameterSet
from cases import CASES, Case, K, X, row
from helpers import Array, error, explain, flat, nodes_of, run, shared

import onnxlrp
from onnxlrp import (
    AlphaBeta,
    Average,
    BetaSmooth,
    CompositeError,
    DeconvNet,
    Epsilon,
    Flat,
    Gamma,
    GeneralizedGamma,
    GlobalTypeMap,
    GuidedBackprop,
    Rule,
    RuleMismatch,
    TieSplit,
    WinnerTakesAll,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    maximum,
    mean,
    minimum,
    relu,
    where,
)  # fmt: skip
from onnxlrp.emit import Emit
from onnxlrp.linear import Share, Term, neg, pos

BY_ID = {c.id: c for c in CASES}
LINEAR_CASES = [c for c in CASES if c.kind in ("WEIGHTED", "LINEAR", "SUM", "AFFINE") and c.single]


@dataclass(frozen=True)
class Spec:
    """A rule, its name in reference.py and its fields there; box: low and high by shape, for ZBox."""

    id: str
    make: Callable[..., Rule]
    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    box: str = ""
    policies: Sequence[str] = ("split", "ignore", "full")


SPECS = [
    Spec("Zero", Zero, "Zero", policies=["split", "ignore"]),
    Spec("Epsilon", Epsilon, "Epsilon", policies=["split", "ignore"]),
    Spec("Epsilon(.1)", partial(Epsilon, 0.1), "Epsilon", {"epsilon": 0.1}),
    Spec("Epsilon(.1,relative)", partial(Epsilon, 0.1, relative=True), "Epsilon", {"epsilon": 0.1, "relative": True}),
    Spec("Epsilon(.1,relative,unsigned)", partial(Epsilon, 0.1, relative=True, signed=False), "Epsilon",
         {"epsilon": 0.1, "relative": True, "signed": False}),
    Spec("Epsilon(9,unsigned)", partial(Epsilon, 9.0, signed=False), "Epsilon", {"epsilon": 9.0, "signed": False}),
    Spec("Gamma", Gamma, "Gamma"),
    Spec("Gamma(2)", partial(Gamma, 2.0), "Gamma", {"gamma": 2.0}),
    Spec("GeneralizedGamma", GeneralizedGamma, "GeneralizedGamma"),
    Spec("ZPlus", ZPlus, "ZPlus"),
    Spec("AlphaBeta(2,1)", AlphaBeta, "AlphaBeta", policies=["split", "ignore"]),
    Spec("AlphaBeta(1,0)", partial(AlphaBeta, 1.0, 0.0), "AlphaBeta", {"alpha": 1.0, "beta": 0.0}),
    Spec("ZBox scalar", ZBox, "ZBox", box="scalar"),
    Spec("ZBox channel", ZBox, "ZBox", box="channel"),
    Spec("ZBox array", ZBox, "ZBox", box="array"),
    Spec("WSquare", WSquare, "WSquare", policies=["split", "square"]),
    Spec("Flat", Flat, "Flat", policies=["split"]),
]  # fmt: skip


@cache
def matrices(case: Case) -> list[tuple[list[int] | None, Array, Array]]:
    """(rows, W, b): one per row of the batch, or one for the whole where an active input is not batched."""
    if all(case.batched(case.inputs[n]) for n in case.active):
        return [([i], *case.matrix([i])) for i in (0, 1)]
    return [(None, *case.matrix())]


def box(case: Case, spec: Spec) -> dict[str, Array]:
    """low and high of ZBox as the rule is given them."""
    shape = case.inputs[case.active[0]].shape
    sizes = {"scalar": (), "channel": shape[1:2], "array": shape[1:]}[spec.box]
    rng = np.random.default_rng(1)
    return {"low": -3 - rng.uniform(size=sizes), "high": 2.5 + rng.uniform(size=sizes)}


def fits(case: Case, spec: Spec) -> bool:
    """What has a meaning: bounds are those of one input, and RMS needs the batch axis to be one."""
    x = case.inputs[case.active[0]]
    if case.op == "DFT" and spec.name in ("WSquare", "Flat"):
        return False  # the spectrum of the constant 1 is 0 but for one bin: all denominators are rounding
    if spec.box:
        channels = spec.box == "scalar" or (case.batched(x) and len(case.active) == 1 and x.ndim > 1)
        return channels and case.op != "Sub"  # the term of a subtrahend is -x
    return not spec.fields.get("relative") or matrices(case)[0][0] is not None


def has_bias(case: Case) -> bool:
    return bool(matrices(case)[0][2].any())


def variants(spec: Spec, case: Case) -> list[str]:
    return list(spec.policies) if has_bias(case) else ["split"]


def rule_of(case: Case, spec: Spec, bias: str) -> Rule:
    return spec.make(**(box(case, spec) if spec.box else {}), bias=bias)


SIGNS = {"signed": None, "non-negative": "", "proved non-negative": "Relu"}  # -> the operator before the node


def given(case: Case, sign: str) -> tuple[str | None, dict[str, Array]]:
    """What stands before the node, and the values of its active inputs."""
    if sign == "signed":
        return None, {n: case.inputs[n] for n in case.active}
    # non-negative, with exact zeros
    return ("Relu" if sign.startswith("proved") else case.before), {
        n: np.where(case.inputs[n] > 1.5, 0, np.abs(case.inputs[n])).astype(np.float32) for n in case.active
    }


def dense_relevance(
    case: Case, spec: Spec, bias: str, values: Mapping[str, Array], seed: int = 0
) -> tuple[Array, dict[str, Array], list[float]]:
    """r, the relevance per active input, and Σ r_x by the book, from the reference.

    r is random, but small where a denominator is the small difference of large terms: there rounding decides.
    """
    weightless = case.kind in ("LINEAR", "SUM")
    rs, found, sums = [], [], []
    for index, (rows, W, b) in enumerate(matrices(case)):
        x = flat([v[rows] if rows is not None else v for v in (values[n] for n in case.active)]).astype(np.float64)
        options = {**spec.fields, "bias": bias, "weightless": weightless, "mask": None if weightless else W != 0}
        if spec.box:
            shape = case.inputs[case.active[0]].shape
            options |= {k: bounds(v, shape[1:] if rows else shape, x.size) for k, v in box(case, spec).items()}
        minus = W.sum(1) < 0 if case.op == "Sub" else np.zeros(x.shape, bool)  # a subtrahend is the term -x
        if case.op == "Sub":
            x, W = np.where(minus, -x, x), np.abs(W)
        rng = np.random.default_rng(seed + index)
        r = (rng.normal(size=b.shape) * steadiness(spec, x, W, b, options) ** 2).astype(np.float32)
        found.append(reference.relevance(spec.name, x, W, b, r, **options))
        sums.append(reference.bookkeeping(spec.name, x, W, b, r, **options))
        rs.append(r)
    y = run(case.model(), case.feeds())["y"]
    r = np.reshape(rs, y.shape)
    if len(found) == 1 and matrices(case)[0][0] is None:
        ends = np.cumsum([values[n].size for n in case.active])[:-1]
        parts = [p.reshape(values[n].shape) for n, p in zip(case.active, np.split(found[0], ends), strict=True)]
    else:
        ends = np.cumsum([values[n][0].size for n in case.active])[:-1]
        split = [np.split(f, ends) for f in found]
        parts = [np.reshape([s[i] for s in split], values[n].shape) for i, n in enumerate(case.active)]
    return r, dict(zip(case.active, parts, strict=True)), sums


def steadiness(spec: Spec, x: Array, W: Array, b: Array, options: Mapping[str, Any]) -> Array:
    """Per output, how large its smallest denominator (and its value) is, relative to the terms that it is the sum of.

    Weights are as exact as the largest one: where only others of less than 1 % meet an input, rounding decides, too.
    """
    o = dict(options)
    policy, stab = o.pop("bias"), {k: o.pop(k) for k in ("epsilon", "relative", "signed") if k in o}
    w, present = reference.weight(W, o.pop("weightless"), o.pop("mask"))
    y = x @ (w * present) + b
    out = np.abs(y) / (np.abs(x) @ np.abs(w * present) + np.abs(b) + 1e-30)
    for _, terms, split in reference.SHARES[spec.name](x, w, b, **o):
        q, bias = terms * present, reference.policy(spec.name, policy, b, split)
        size = np.abs(q).sum(0) + np.abs(bias)
        size = np.where(size > 0, np.maximum(size, 0.01 * np.max(np.abs(q), initial=0)), 0)
        ratio = np.abs(reference.stab(q.sum(0) + bias, **stab)) / np.maximum(size, 1e-30)
        out = np.minimum(out, np.where(size > 0, ratio, 1))
    return out


def bounds(value: Array, shape: tuple[int, ...], size: int) -> Array:
    """A bound laid out as the flattened input."""
    if value.ndim == 0:
        return np.full(size, float(value))
    lined = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
    return np.broadcast_to(lined, shape).ravel()


TYPES = {"Upsample": "Resize", "Gemm": "Dense", "MatMul": "Dense"}  # a Gemm with transA is explained as a MatMul


def compiled(case: Case, rule: Any, before: str | None = None, op: str = "", **options: Any) -> onnx.ModelProto:
    """The case with a rule on its operator alone."""
    types = GlobalTypeMap({op or TYPES.get(case.op, case.op): rule})
    return onnxlrp.compile(case.model(before=before), onnxlrp.Composite(types), explain=case.active, init="given", **options)


def relevances(case: Case, found: Mapping[str, Array]) -> dict[str, Array]:
    return {n: found[f"relevance.{n}"] for n in case.active}


def some_by_default(cases: Sequence[Case], each: int = 4) -> list[ParameterSet]:
    """The first cases of every operator, and those of the operators with a weight; the others are slow tests."""
    seen = Counter[str]()
    out = []
    for case in cases:
        seen[case.op] += 1
        slow = seen[case.op] > each and case.kind != "WEIGHTED"
        out.append(pytest.param(case, id=case.id, marks=[pytest.mark.slow] if slow else []))
    return out


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.id)
@pytest.mark.parametrize("case", some_by_default(LINEAR_CASES))
def test_rule_equals_the_dense_reference(case: Case, spec: Spec):
    """Each input's relevance and the sum of all, for signed, non-negative and proved non-negative inputs and every bias."""
    if not fits(case, spec):
        return
    for sign, bias in product(SIGNS, variants(spec, case)):
        before, values = given(case, sign)
        model = compiled(case, rule_of(case, spec, bias), before)
        r, expected, sums = dense_relevance(case, spec, bias, values)
        found = relevances(case, run(model, {**case.feeds(before, **values), "relevance_out": r}))
        a, b = flat(list(found.values())), flat(list(expected.values()))
        assert error(a, b) < 1e-5, f"{sign}, bias={bias!r}"
        assert abs(a.astype(np.float64).sum() - sum(sums)) <= 1e-5 * np.abs(b).sum(), f"Σ r, {sign}, bias={bias!r}"


def test_every_rule_and_policy_is_used():
    """The filters above leave every rule a weighted, a weightless, a summing and an affine case."""
    for spec in SPECS:
        kinds = {c.kind for c in LINEAR_CASES if fits(c, spec)}
        assert kinds == {"WEIGHTED", "LINEAR", "SUM", "AFFINE"}, spec.id
    assert {c.kind for c in LINEAR_CASES if has_bias(c)} == {"WEIGHTED", "SUM", "AFFINE", "LINEAR"}


# ------------------------------------------------------------------------------------------------ properties of rules

TYPICAL = [
    BY_ID[i]
    for i in (
        "Conv-2-D_stride_pads", "ConvTranspose-2-D_groups", "Gemm-transB", "MatMul-batched_bias", "Add-frozen",
        "Sum-three_broadcast", "AveragePool-pads_included", "Resize-linear_axes", "BatchNormalization-2-D",
    )
]  # fmt: skip
typical = pytest.mark.parametrize("case", TYPICAL, ids=str)


def relevance(case: Case, rule: Any, r: Array, before: str | None = None, feeds: Any = None, **options: Any) -> Array:
    """Relevance of the active inputs as one vector, runtime optimisations off: bits can be compared."""
    feeds = case.feeds(before) if feeds is None else feeds
    model = compiled(case, rule, before, optimize=False, **options)
    return flat(list(relevances(case, run(model, {**feeds, "relevance_out": r}, optimise=False)).values()))


def some_r(case: Case, seed: int = 0) -> Array:
    y = run(case.model(), case.feeds())["y"]
    return np.random.default_rng(seed).uniform(0.5, 1.5, y.shape).astype(np.float32) * y


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.id)
@typical
def test_relevance_is_linear_in_r(case: Case, spec: Spec):
    if not fits(case, spec):
        return
    model, feeds = compiled(case, rule_of(case, spec, "split")), case.feeds()
    r, s = some_r(case), some_r(case, 1)
    of_r, of_s, of_both = (
        flat(list(relevances(case, run(model, {**feeds, "relevance_out": v})).values())) for v in (r, s, r - 2 * s)
    )
    assert np.max(np.abs(of_r - 2 * of_s - of_both)) < 1e-5 * np.max(np.abs(flat([of_r, of_s])))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.id)
@pytest.mark.parametrize("before", ["", "Relu"], ids=["signed", "proved non-negative"])
@typical
def test_shortcuts_change_no_bit(case: Case, spec: Spec, before: str, monkeypatch: pytest.MonkeyPatch):
    """The emitter that shares, drops and folds nothing gives the same bits."""
    if not fits(case, spec):
        return
    rule = rule_of(case, spec, "split")
    smart = relevance(case, rule, some_r(case), before)
    count = len(compiled(case, rule, before, optimize=False).graph.node)
    monkeypatch.setattr("onnxlrp.outputs.Emit", partial(Emit, smart=False))
    plain = relevance(case, rule, some_r(case), before)
    if case.kind == "AFFINE":  # read as x · w + b, which rounds otherwise than the node
        assert error(smart, plain) < 5e-5
    else:
        np.testing.assert_array_equal(smart, plain)
    assert len(compiled(case, rule, before, optimize=False).graph.node) >= count


SAME = [
    ("AlphaBeta(1,0) = ZPlus", AlphaBeta(1.0, 0.0), ZPlus()),
    ("Gamma(0) = Epsilon", Gamma(0.0), Epsilon()),
    ("Epsilon(1e-9) = Zero", Epsilon(1e-9), Zero()),
    ("WSquare ignores b", WSquare(), WSquare(bias="ignore")),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), [s[1:] for s in SAME], ids=[s[0] for s in SAME])
@typical
def test_special_cases_of_rules(case: Case, left: Rule, right: Rule):
    np.testing.assert_array_equal(relevance(case, left, some_r(case)), relevance(case, right, some_r(case)))


@typical
def test_generalized_gamma_of_0_is_epsilon(case: Case):
    left, right = (relevance(case, rule, some_r(case)) for rule in (GeneralizedGamma(0.0), Epsilon()))
    assert error(left, right) < 1e-5


@typical
def test_large_gamma_is_zplus(case: Case):
    """w + γw⁺ over its sum tends to w⁺ over its sum where x >= 0 (and where some w is positive)."""
    before, values = given(case, "proved non-negative")
    feeds, r = case.feeds(before, **values), np.abs(some_r(case))
    for rows, W, b in matrices(case):
        x = flat([v[rows] if rows is not None else v for v in values.values()])
        some = (x @ np.maximum(W, 0) + np.maximum(b, 0) > 0.01).astype(np.float32)
        if rows is None:
            r *= some.reshape(r.shape)
        else:
            r[rows] *= some.reshape(r[rows].shape)
    gamma, zplus = (relevance(case, rule, r, before, feeds) for rule in (Gamma(1e6), ZPlus()))
    assert error(gamma, zplus) < 1e-4


def test_convolutions_behind_a_relu_are_counted():
    """ZPlus costs one convolution each way where the input is proved non-negative, two where its sign is open."""
    case = BY_ID["Conv-2-D"]
    counts = {
        before: tuple(nodes_of(compiled(case, ZPlus(), before, optimize=False), op) for op in ("Conv", "ConvTranspose"))
        for before in ("", "Relu")
    }
    assert counts == {"": (3, 2), "Relu": (2, 1)}
    assert nodes_of(compiled(case, Epsilon(), "", optimize=False), "Conv") == 1  # z is the forward output


COSTS = [  # rule, convolutions including the model's own, transposed convolutions; on x >= 0
    (Epsilon(), 1, 1), (Zero(), 1, 1), (ZPlus(), 2, 1), (Gamma(), 2, 1), (GeneralizedGamma(), 3, 2), (AlphaBeta(), 3, 2),
    (AlphaBeta(1.0, 0.0), 2, 1), (WSquare(), 2, 1), (Flat(), 2, 1),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "convs", "transposed"), COSTS, ids=[repr(c[0]) for c in COSTS])
def test_cost_on_non_negative_inputs(rule: Rule, convs: int, transposed: int):
    model = compiled(BY_ID["Conv-2-D"], rule, "Relu", optimize=False)
    assert (nodes_of(model, "Conv"), nodes_of(model, "ConvTranspose")) == (convs, transposed)


# ------------------------------------------------------------------------------------------------------- custom rules


class MyGamma(Rule):
    def modify_parameters(self, p):
        return p + 0.25 * relu(p)


class SplitHooks(Rule):
    """Gamma again, by the two finer hooks."""

    def modify_weight(self, w):
        return w + 0.25 * relu(w)

    def modify_bias(self, b):
        return b + 0.25 * maximum(b, 0.0)


class ByLayer(Rule):
    """Gamma again, by the hook that sees the whole layer."""

    def modify_layer(self, layer):
        up = MyGamma().modify_parameters
        return replace(layer, w=up(layer.w), b=layer.b if layer.b.is_zero else up(layer.b))


class OwnShares(Rule):
    """AlphaBeta(2, 1) by its shares."""

    def shares(self):
        return (
            Share((Term(pos, pos), Term(neg, neg)), bias=pos, coef=2.0),
            Share((Term(pos, neg), Term(neg, pos)), bias=neg, coef=-1.0),
        )


class Unsigned(Rule):
    def modify_denominator(self, z):
        return z + 9.0


class NoBias(Rule):
    def modify_bias(self, b):
        return b * 0


class Constant(Rule):
    """Flat by the hooks of input and parameters."""

    def modify_input(self, x):
        return where(x >= 0, 1.0, 1.0)

    def modify_weight(self, w):
        return where(w > 0, 1.0, 1.0)

    def modify_bias(self, b):
        return b * 0


class GradientTimesInput(Rule):
    def backward(self, node, r, absorbed):
        return tuple(x * c for x, c in zip(node.xs, node.derivative(*r), strict=True))


CUSTOM = [
    (MyGamma(), Gamma(0.25)), (SplitHooks(), Gamma(0.25)), (ByLayer(), Gamma(0.25)), (OwnShares(), AlphaBeta()),
    (Unsigned(), Epsilon(9.0, signed=False)), (NoBias(), Epsilon(bias="ignore")), (Constant(), Flat()),
]  # fmt: skip


@pytest.mark.parametrize(("mine", "builtin"), CUSTOM, ids=[type(c[0]).__name__ for c in CUSTOM])
@pytest.mark.parametrize("before", ["", "Relu"], ids=["signed", "proved non-negative"])
@typical
def test_custom_rule_equals_the_builtin_bit_for_bit(case: Case, before: str, mine: Rule, builtin: Rule):
    r = some_r(case)
    np.testing.assert_array_equal(relevance(case, mine, r, before), relevance(case, builtin, r, before))


def test_overridden_backward():
    case = BY_ID["Conv-2-D_stride_pads"]
    r = some_r(case)
    expected = case.inputs["x"].ravel() * (case.jacobian() @ r.ravel())
    assert error(relevance(case, GradientTimesInput(), r), expected) < 1e-5


class OneBody(Rule):
    """Every function that hooks may use, once."""

    def modify_parameters(self, p):
        return where(p > 0.5, maximum(p, 0.1), minimum(p, 0.3)) / (1.0 + abs(p)) - p**2

    def modify_input(self, x):
        return self.modify_parameters(x) - mean(x)


def test_one_body_serves_weights_and_activations():
    case = BY_ID["Gemm-plain"]
    x, w, b = (case.values[n].astype(np.float64) for n in ("x", "c", "c2"))

    def body(p: Array) -> Array:
        return np.where(p > 0.5, np.maximum(p, 0.1), np.minimum(p, 0.3)) / (1 + np.abs(p)) - p**2

    xt, wt = body(x) - x.mean(), body(w)
    r = np.ones((2, 4), np.float32)
    expected = xt * (r / reference.stab(xt @ wt + body(b)) @ wt.T)
    assert error(relevance(case, OneBody(), r), expected.ravel()) < 1e-5


class Wide(Rule):
    def modify_weight(self, w):
        return w * np.ones(4)


class WideScalar(Rule):
    def modify_denominator(self, z):
        return z + np.float64(1e-6)


class Truth(Rule):
    def modify_input(self, x):
        return x if x > 0 else -x


class Incompatible(Rule):
    def is_compatible(self, layer):
        return False


@pytest.mark.parametrize(
    ("rule", "kind", "text"),
    [
        (Wide(), CompositeError, "promote float32 to float64"),
        (WideScalar(), CompositeError, "promote float32 to float64"),
        (Truth(), CompositeError, "no truth value"),
        (Incompatible(), RuleMismatch, r"node 'node' \(Gemm\): rule Incompatible\(\)"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Rule) else "",
)
def test_errors_of_custom_rules(rule: Rule, kind: type[Exception], text: str):
    with pytest.raises(kind, match=text):
        compiled(BY_ID["Gemm-plain"], rule)


# -------------------------------------------------------------------------------------------- maxima and activations


def window_lists(case: Case) -> list[list[int]]:
    """Per output of a maximum, the flat positions that it looks at, in order."""
    x, node = case.inputs["x"], case.nodes[0]
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    at = np.arange(x.size).reshape(x.shape)
    if node.op_type != "MaxPool":
        given_axes = case.values["c"].tolist() if "c" in case.values else range(2 if "Global" in node.op_type else 0, x.ndim)
        axes = sorted(a % x.ndim for a in given_axes) if not attrs.get("noop_with_empty_axes") else []
        rest = [a for a in range(x.ndim) if a not in axes]
        return at.transpose(rest + axes).reshape(-1, int(np.prod([x.shape[a] for a in axes]))).tolist()
    outs = run(case.model(), case.feeds())["y"].shape
    kernel, n = attrs["kernel_shape"], x.ndim - 2
    strides, dilations = attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n)
    begin = attrs.get("pads", [0] * 2 * n)[:n]
    lists = []
    for out in np.ndindex(*outs):
        lines = [
            [p for k in range(kernel[i]) if 0 <= (p := out[2 + i] * strides[i] - begin[i] + k * dilations[i]) < x.shape[2 + i]]
            for i in range(n)
        ]
        lists.append([int(at[(*out[:2], *place)]) for place in product(*lines)])
    return lists


MAXIMA = [c for c in CASES if c.kind == "SELECT" and "SAME" not in c.id]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("case", MAXIMA, ids=str)
def test_maxima(case: Case, ties: bool):
    """WinnerTakesAll: the first of equals. TieSplit: equal parts. Average: a linear rule on the mean over the window."""
    x = case.inputs["x"]
    if ties:
        x = np.random.default_rng(3).integers(0, 3, x.shape).astype(np.float32)
    windows, feeds = window_lists(case), case.feeds(x=x)
    y = run(case.model(), feeds)["y"]
    r = np.random.default_rng(4).integers(-9, 10, y.shape).astype(np.float32)
    sign = -1 if case.op == "ReduceMin" else 1
    flat_x, flat_r = sign * x.ravel().astype(np.float64), r.ravel().astype(np.float64)

    def found(rule: Rule) -> Array:
        return run(compiled(case, rule), {**feeds, "relevance_out": r})["relevance.x"].ravel()

    np.testing.assert_array_equal(found(WinnerTakesAll()), reference.winner(flat_x, windows, flat_r))
    assert error(found(TieSplit()), reference.tie_split(flat_x, windows, flat_r)) < 1e-6
    chosen = np.zeros((x.size, len(windows)))
    averaged = np.zeros((x.size, len(windows)))
    for k, window in enumerate(windows):
        chosen[window[int(np.argmax(flat_x[window]))], k] = 1
        averaged[window, k] = 1 / len(window)
    none = np.zeros(len(windows))
    for rule, matrix in ((Epsilon(0.1), chosen), *([(Average(Epsilon(0.1)), averaged)] if "dilation" not in case.id else [])):
        expected = reference.relevance("Epsilon", x.ravel(), matrix, none, flat_r, epsilon=0.1, weightless=True)
        assert error(found(rule), expected) < 1e-5, repr(rule)


def test_average_of_a_dilated_maximum_is_refused():
    with pytest.raises(RuleMismatch, match=r"node 'node' \(MaxPool\): rule Average\(Epsilon\(1e-06\)\)"):
        compiled(BY_ID["MaxPool-dilation"], Average())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (DeconvNet(), lambda x, r: np.maximum(r, 0)),
        (GuidedBackprop(), lambda x, r: np.maximum(r, 0) * (x > 0)),
        (BetaSmooth(3.0), lambda x, r: r / (1 + np.exp(-3.0 * x.astype(np.float64)))),
        (onnxlrp.Pass(), lambda x, r: r),
        (onnxlrp.Stop(), lambda x, r: 0 * r),
        (onnxlrp.Gradient(), lambda x, r: r * (x > 0)),
    ],
    ids=lambda v: repr(v) if isinstance(v, Rule) else "",
)
def test_activation_rules(rule: Rule, expected: Callable[[Array, Array], Array]):
    case = BY_ID["Relu-signed"]
    x = case.inputs["x"].copy()
    x[0, 0, :2] = 0  # neither above nor below
    r = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    found = run(compiled(case, rule), {**case.feeds(x=x), "relevance_out": r})["relevance.x"]
    assert error(found, expected(x, r)) < 1e-6


def test_uniform_splits_products_that_are_zero():
    """Half of r to each factor, also where the product is 0."""
    case = row("Mul", "zeros", X(2, 3), X(2, 3))
    zeros = np.zeros((2, 3), np.float32)
    r = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = run(compiled(case, onnxlrp.Uniform()), {**case.feeds(x=zeros), "relevance_out": r})
    for name in ("x", "x2"):
        np.testing.assert_array_equal(found[f"relevance.{name}"], r / 2)


# --------------------------------------------------------------------------------------- the bugs of other programs

SEED_CASES = "a_issue273 b_neg_nobias c_neg_bias d_pos_nobias e_pos_bias f_no_positive g_no_negative h_conv_neg_bias".split()
RIGHT = [  # column, rule, columns of programs that got it wrong
    ("alphabeta/a1b0", AlphaBeta(1.0, 0.0), ["prefix", "half", "relunegx", "innv"]),
    ("alphabeta/a2b1", AlphaBeta(2.0, 1.0), ["prefix", "half", "relunegx", "innv"]),
    ("alphabeta_nobias/a1b0", AlphaBeta(1.0, 0.0, bias="ignore"), []),
    ("alphabeta_nobias/a2b1", AlphaBeta(2.0, 1.0, bias="ignore"), []),
    ("zplus", ZPlus(), ["zplus_fast"]),
    ("zplus_nobias", ZPlus(bias="ignore"), []),
]


@pytest.mark.parametrize(("column", "rule", "wrong"), RIGHT, ids=[c[0] for c in RIGHT])
@pytest.mark.parametrize("name", SEED_CASES)
def test_seed_cases(name: str, column: str, rule: Rule, wrong: list[str]):
    """Negative inputs and biases: the right values, and not those of four well-known bugs."""
    data = np.load(shared("data/seed_cases.npz"))
    x, W, b, R, right = (data[f"{name}/{key}"] for key in ("x", "W", "b", "R", column))
    case = row("Gemm", name, X(*x.shape), K(W), K(b))
    feeds = {"x": x.astype(np.float32)}
    found = explain(case.model(), onnxlrp.Composite(rule), feeds, R)["relevance.x"]
    assert error(found, right) < 1e-5
    for other in wrong:
        key = other if "zplus" in other else column.replace("alphabeta", f"alphabeta_{other}")
        if error(right, data[f"{name}/{key}"]) > 1e-3 or error(data[f"{name}/{key}"], right) > 1e-3:
            assert error(found, data[f"{name}/{key}"]) > 1e-4, f"this is what {other} computes"
