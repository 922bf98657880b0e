"""Every operator: its adjoint, where it moves relevance, and that the compiled file computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
import reference
from cases import CASES, Case, K, X
from helpers import Array, Runner, error, flat, run

import onnxlrp
from onnxlrp import Composite, Epsilon
from onnxlrp.errors import UnsupportedOp
from onnxlrp.ops import OPS

every_case = pytest.mark.parametrize("case", CASES, ids=str)
INTERNAL = {"Affine", "QuantizeDequantize"}  # groups of nodes, tested where they are made


@cache
def jacobian(case: Case) -> Array:
    return case.jacobian()


@cache
def shown(case: Case) -> Array:
    """The output of the model itself."""
    return run(case.model(), case.feeds())["y"]


def random_r(case: Case, whole: bool = False) -> Array:
    """Relevance of the output, signed; whole: integers."""
    y = shown(case)
    rng = np.random.default_rng(len(case.id))
    r = rng.integers(-9, 10, y.shape) if whole else rng.normal(size=y.shape)
    return r.astype(np.float32)


def compiled(case: Case, composite: object, sizes: str = "batch", **options: object) -> onnx.ModelProto:
    return onnxlrp.compile(case.model(sizes), composite, explain=case.active, **options)


def relevances(case: Case, found: dict[str, Array]) -> Array:
    return flat([found[f"relevance.{n}"] for n in case.active])


def test_every_operator_has_a_case():
    found = {n.op_type for c in CASES for n in c.nodes} | {c.op for c in CASES}
    assert set(OPS) - found == INTERNAL


def test_case_ids_are_unique():
    assert len({c.id for c in CASES}) == len(CASES)


@pytest.mark.parametrize("sizes", ["static", "batch", "symbolic"])
@every_case
def test_gradient_is_the_transposed_jacobian(case: Case, sizes: str):
    """<J d, s> == <d, Jᵀ s> in every direction d: Gradient gives what the dense Jacobian gives."""
    if sizes == "symbolic" and case.symbolic is not True:
        with pytest.raises(UnsupportedOp, match=str(case.symbolic)):
            compiled(case, "gradient", sizes)
        return
    s = random_r(case)
    expected = jacobian(case) @ s.ravel().astype(np.float64)
    for before in {case.before, ""}:
        model = onnxlrp.compile(case.model(sizes, before), "gradient", explain=case.active, init="given")
        found = run(model, {**case.feeds(before), "relevance_out": s})
        assert error(relevances(case, found), expected) < (2e-6 if case.linear else 1e-3), f"behind {before or 'the input'}"


def moved(case: Case, r: Array) -> Array:
    return jacobian(case) @ r.ravel().astype(np.float64)


def passed(case: Case, r: Array) -> Array:
    (x,) = (case.inputs[n] for n in case.active)
    return reference.sum_to(r, x.shape)


def scaled(case: Case, r: Array) -> Array:
    (x,) = (case.inputs[n] for n in case.active)
    (factor,) = (v for n, v in case.values.items() if n not in case.active)
    return reference.sum_to(np.where(factor == 0, 0, r), x.shape)


def multiplied(case: Case, r: Array) -> Array:
    a, b = (case.values[n].astype(np.float64) for n in case.nodes[0].input)
    if case.op == "Mul":
        parts = reference.uniform_mul(a, b, r)
    elif b.ndim == 1:
        left, right = reference.uniform_matmul(a, b[:, None], r[:, None])
        parts = left, right[:, 0]
    else:
        parts = reference.uniform_matmul(a, b, r)
    return flat(parts) if len(case.active) == 2 else parts[0] + parts[1]


def divided(case: Case, r: Array) -> Array:
    top, bottom = (case.inputs[n] for n in case.active)
    return flat([reference.sum_to(r, top.shape), np.zeros(bottom.shape)])


def normed(case: Case, r: Array) -> Array:
    """x ⊙ (t − mean t), t = γ/σ r / stab(y), with σ frozen."""
    x = case.values["x"].astype(np.float64)

    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in case.nodes[0].attribute}
    shape = x.shape
    if case.op == "GroupNormalization":
        x, axes = x.reshape(shape[0], 3, -1), (2,)
    elif case.op == "InstanceNormalization":
        axes = tuple(range(2, x.ndim))
    elif case.op == "MeanVarianceNormalization":
        axes = tuple(attrs.get("axes", (0, 2, 3)))
    else:
        axes = tuple(range(attrs.get("axis", -1) % x.ndim, x.ndim))
    epsilon = attrs.get("epsilon", 0.0 if case.op.startswith("Mean") else float(case.values.get("eps", 1e-5)))
    inverse = np.broadcast_to(1 / np.sqrt(x.var(axes, keepdims=True) + epsilon), x.shape).reshape(shape)
    gamma = case.values.get("g", case.values.get("s", case.values.get("c", np.float64(1))))
    if case.op == "InstanceNormalization":
        gamma = gamma.reshape(-1, *[1] * (len(shape) - 2))
    y, w = shown(case).astype(np.float64), gamma * inverse
    t = w * r / reference.stab(y, 1e-6)
    centre = np.broadcast_to(t.reshape(x.shape).mean(axes, keepdims=True), x.shape).reshape(shape)

    return x.reshape(shape) * (t - centre)


def measured(case: Case, r: Array) -> Array:
    """p r / stab(Σ p), p the part of each element."""
    x = case.values["x"].astype(np.float64)
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in case.nodes[0].attribute}
    if case.op == "LpPool":
        p = np.abs(x) ** attrs.get("p", 2)
        node = onnx.helper.make_node("LpPool", ["x"], ["y"], **{**attrs, "p": 1})
        windows = replace(case, nodes=(node,), linear=True, args={"x": K(np.ones_like(x))})
        taps = replace(windows, args={"x": X(*x.shape, kind="positive")}).matrix()[0]
        return p.ravel() * (taps @ (r.ravel() / reference.stab(p.ravel() @ taps, 1e-6)))
    axes = tuple(int(a) for a in case.values["c"]) if "c" in case.values else tuple(range(2, x.ndim))
    whole = np.expand_dims(r, axes) if r.ndim < x.ndim else r
    parts = {
        "ReduceL1": np.abs(x), "ReduceLogSum": x, "ReduceProd": np.ones_like(x) / np.prod([x.shape[a] for a in axes]),
        "ReduceLogSumExp": np.exp(x) / np.exp(x).sum(axes, keepdims=True),
    }  # fmt: skip
    p = parts.get(case.op, x * x)
    return p * whole / reference.stab(p.sum(axes, keepdims=True), 1e-6)


EXPECTED: dict[str, Callable[[Case, Array], Array]] = {
    "MOVE": moved, "CHOICE": moved, "POINTWISE": passed, "AFFINE": passed, "FROZEN_NORM": passed, "SCALE": scaled,
    "PRODUCT": multiplied, "RATIO": divided, "NORM": normed, "REDUCE": measured,
}  # fmt: skip
BY_RULES = {"WEIGHTED", "LINEAR", "SUM", "SELECT"}  # what test_rules.py judges


def test_every_kind_is_judged():
    assert {c.kind for c in CASES} == set(EXPECTED) | BY_RULES


@pytest.mark.parametrize("case", [c for c in CASES if c.kind in EXPECTED and c.single], ids=str)
def test_relevance_goes_where_the_value_came_from(case: Case):
    """The default of the kinds that know no weight: integers come back exactly, so nothing is lost or doubled."""
    r = random_r(case, whole=True)
    found = relevances(case, run(compiled(case, "epsilon", init="given"), {**case.feeds(), "relevance_out": r}))
    expected = np.ravel(EXPECTED[case.kind](case, r.astype(np.float64)))
    if case.op in ("MatMul", "Einsum") or case.kind in ("NORM", "REDUCE"):
        assert error(found, expected) < 1e-5
    else:
        np.testing.assert_array_equal(found, expected)


SCALED = [c for c in CASES if c.before and c.op in ("Add", "Sub", "Mul", "Div", "BatchNormalization")]
# the contract passes Sub, Mul, Div of the input by any constant, but Add only with one number per channel
TABLES = {"Add-constant": "SUM", "Add-constant_is_larger": "SUM", "Sub-from_constant": "SUM", "Sub-from_scalar": "SUM"}
TABLES |= {"Div-of_constant": "POINTWISE", **{c.id: "AFFINE" for c in SCALED if c.kind == "AFFINE"}}


@pytest.mark.parametrize("case", SCALED, ids=str)
def test_input_scaling_passes(case: Case):
    """A constant shift or scale of a graph input is preprocessing; of anything else it is a node of the network."""
    inside, first = (onnxlrp.inspect(case.model(before=b), explain=case.active).steps[-1].kind.name for b in (None, ""))
    assert (inside, first) == (case.kind, TABLES.get(case.id, "SCALING"))
    r = random_r(case, whole=True)
    model = onnxlrp.compile(case.model(before=""), init="given")
    found = relevances(case, run(model, {**case.feeds(""), "relevance_out": r}))
    if first != "SUM":
        np.testing.assert_array_equal(found, np.ravel(passed(case, r)))


@every_case
def test_compiled_file(case: Case):
    """Valid, equal to the model forward, the same with runtime optimisations off, and independent along the batch."""
    # a generous ε: where z is next to 0 the rule amplifies rounding, which is not the point here
    model = compiled(case, Composite(Epsilon(0.1)), init="given")
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx.ml"}
    r, feeds = random_r(case), case.feeds()
    found = run(model, {**feeds, "relevance_out": r})
    plain = run(model, {**feeds, "relevance_out": r}, optimise=False)
    assert error(found["y"], shown(case)) < 1e-6
    for name in found:
        assert error(found[name], plain[name]) < 2e-5, name
    if any(case.batched(v) for v in case.inputs.values()):
        runner = Runner(model)
        for rows in ([0], [1], [1, 0, 0, 1, 0]):
            some = runner({**case.feeds(rows=rows), "relevance_out": r[rows]})
            for name, value in some.items():
                of_batch = name == "y" or case.batched(case.inputs[name.removeprefix("relevance.")])
                if of_batch:
                    assert error(value, found[name][rows]) < 2e-5, f"{name}, rows {rows}"
