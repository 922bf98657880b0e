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
from helpers import Array, Runner, error, flat, nodes_of, run
from models_for_tests import data, lrp, near, net

import onnxlrp
from onnxlrp import Composite, Epsilon, GlobalTypeMap
from onnxlrp.errors import UnsupportedOp
from onnxlrp.expansions import EXPANSIONS
from onnxlrp.facts import INERT
from onnxlrp.ops import OPS
from onnxlrp.unsupported import UNSUPPORTED

every_case = pytest.mark.parametrize("case", CASES, ids=str)
RECURRENT = {"LSTM", "GRU", "RNN"}  # test_recurrent.py
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
    assert set(OPS) - found == INTERNAL | RECURRENT


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


def won(case: Case, r: Array) -> Array:
    """All of it to each winner, whatever its weight."""
    return (np.abs(jacobian(case)) > 1e-3) @ r.ravel().astype(np.float64)


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
    elif case.op == "Einsum":
        (equation,) = (x.s.decode() for x in case.nodes[0].attribute)
        s = np.ravel(r / reference.stab(np.einsum(equation, a, b), 1e-6))
        maps = [
            reference.dense(lambda u: np.einsum(equation, u, b), a.shape),
            reference.dense(lambda u: np.einsum(equation, a, u), b.shape),
        ]
        parts = [x * (W @ s).reshape(x.shape) / 2 for x, (W, _) in zip((a, b), maps, strict=True)]
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


def softmaxed(case: Case, r: Array) -> Array:
    """x ⊙ (r − y Σ r); for its logarithm x ⊙ (s − p Σ s), s = r / stab(y), p = exp y."""
    x, y = case.values["x"].astype(np.float64), -shown(case).astype(np.float64)
    axis = next((a.i for a in case.nodes[0].attribute), -1)
    if case.op == "LogSoftmax":
        s = r / reference.stab(y, 1e-6)
        return x * (s - np.exp(y) * s.sum(axis, keepdims=True))
    return x * (r - y * r.sum(axis, keepdims=True))


EXPECTED: dict[str, Callable[[Case, Array], Array]] = {
    "MOVE": moved, "CHOICE": won, "POINTWISE": passed, "AFFINE": passed, "FROZEN_NORM": passed, "SCALE": scaled,
    "PRODUCT": multiplied, "RATIO": divided, "NORM": normed, "SOFTMAX": softmaxed, "REDUCE": measured,
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
    if case.op in ("MatMul", "Einsum") or case.kind in ("NORM", "REDUCE", "SOFTMAX"):
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


# ------------------------------------------------------------------------------------------- what carries no relevance

ELSEWHERE = "If Loop Scan ConvInteger DequantizeLinear MatMulInteger"  # unrolled, or read in their float form
RENAMED = "Scatter Upsample"  # by the standard, which converts them


def test_every_operator_of_the_standard_is_accounted_for():
    """Read, written out, inert, or refused with a reason: nothing is left to chance."""
    standard = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.since_version <= 26}
    written = {name for domain, name in EXPANSIONS if domain == ""}
    known = set(OPS) | INERT | written | set(UNSUPPORTED) | set(f"{ELSEWHERE} {RENAMED}".split())
    assert standard - known == set()
    assert set(UNSUPPORTED) & (set(OPS) | INERT) == set()


PLACES = {  # places that the input decides itself: y, the same with the places given, their values
    "grid": ("g = Tanh(x)  t = Transpose<perm=[0,2,3,1]>(g)  p = Mul(t, s)  z = GridSample(x, p)  y = GlobalAveragePool(z)",
             "p", [2, 4, 5, 2]),
    "regions": ("r = GlobalMaxPool(x)  f = Reshape(r, two)  p = Concat<axis=1>(low, f)  "
                "z = RoiAlign<output_height=2, output_width=3>(x, p, owners)  y = GlobalAveragePool(z)", "p", [2, 4]),
    "regions, maximum": ("r = GlobalMaxPool(x)  f = Reshape(r, two)  b = Cast<to=1>(owners)  c = Reshape(b, one)  "
                         "p = Concat<axis=1>(c, low, f)  z = MaxRoiPool<pooled_shape=[2,2]>(x, p)  y = GlobalAveragePool(z)",
                         "p", [2, 5]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_places_are_signals(name: str):
    """A grid or a region that the input decides gets no relevance: the same as when it is given."""
    body, place, shape = PLACES[name]
    constants = {"s": np.float32(0.8), "two": np.int64([-1, 2]), "one": np.int64([-1, 1]), "low": np.zeros((2, 2), np.float32),
                 "owners": np.int64([0, 1])}  # fmt: skip
    made = net(body.replace("  ", "\n"), "float[2,2,4,5] x", "float[2,2,1,1] y", **constants)
    made.graph.output.append(onnx.helper.make_tensor_value_info(place, 1, shape))
    x = data(2, 2, 4, 5, seed=3) * 2
    (note,) = onnxlrp.inspect(made, output="y").notes
    assert f"looks where '{place}' says" in note
    found = lrp(made, {"x": x}, output="y", init="one")
    line = next(part for part in body.split("  ") if "GridSample" in part or "Roi" in part)
    given = net(f"{line}\ny = GlobalAveragePool(z)", "float[2,2,4,5] x, float[{}] p".format(",".join(map(str, shape))),
                "float[2,2,1,1] y", **constants)  # fmt: skip
    expected = lrp(given, {"x": x, "p": found[place]}, explain=["x"], init="one")
    near(found["y"], expected["y"])
    near(found["relevance.x"], expected["relevance.x"])
    assert np.abs(expected["relevance.x"]).sum() > 0


REFUSED = {
    "only the grid": ("y = GridSample(c, x)", "float[1,4,5,2] x", "ends at node 'y' .GridSample", {"c": data(1, 2, 4, 5)}),
    "only the regions": ("y = MaxRoiPool<pooled_shape=[1,1]>(c, x)", "float[1,5] x", "ends at node 'y' .MaxRoiPool",
                         {"c": data(1, 2, 4, 5)}),
    "determinant": ("y = Det(x)", "float[N,3,3] x", "node 'y': operator Det .* because a determinant", {}),
    "loss": ("y = SoftmaxCrossEntropyLoss(x, t)", "float[N,3] x, int64[N] t", "because a loss is no answer", {}),
    "loss of log-likelihoods": ("y = NegativeLogLikelihoodLoss(x, t)", "float[N,3] x, int64[N] t", "name its logits", {}),
    "sequence": ("s = SplitToSequence<axis=1>(x)\ny = SequenceAt(s, i)", "float[2,3] x, int64 i", "only known at run time", {}),
    "hard maximum": ("y = Hardmax(x)", "float[N,3] x", "ends at node 'y' .Hardmax", {}),
    "dilated blocks": ("y = Col2Im<dilations=[2]>(x, i, b)", "float[1,6,3] x", "mixes channels",
                       {"i": np.int64([7]), "b": np.int64([3])}),
    "blocks at run time": ("y = Col2Im(x, i, b)", "float[1,6,5] x, int64[1] b", "block_shape is computed",
                           {"i": np.int64([7])}),
    "half a spectrum too long": ("y = DFT<inverse=1, onesided=1>(x, n)", "float[1,6,2] x", "has 6 bins, dft_length 8 needs 5",
                                 {"n": np.int64(8)}),
    "divisor": ("y = Mod<fmod=1>(x, x)", "float[3] x", "its divisor depends on the explained input", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_node_and_reason(name: str):
    body, x, said, constants = REFUSED[name]
    model = net(body, x, "float y", **constants)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedOp, match=said):
        onnxlrp.compile(model)


def test_newer_operators_are_refused_wherever_they_stand():
    """A file of opset 18 cannot hold them, on the way of relevance or not."""
    body = 'm = RegexFullMatch<pattern="a">(t)  w = Cast<to=1>(m)  y = Mul(x, w)'
    model = net(body, "float[N] x, string[N] t", "float[N] y", opset=20)
    with pytest.raises(UnsupportedOp, match="node 'm': operator RegexFullMatch does not exist in opset 18"):
        onnxlrp.compile(model, explain=["x"])


@pytest.mark.parametrize("case", [c for c in CASES if c.op == "STFT"], ids=str)
def test_epsilon_through_a_written_out_stft_is_that_of_one_linear_layer(case: Case):
    W, b = case.matrix()
    r = random_r(case)
    model = compiled(case, Composite(GlobalTypeMap({"DFT": Epsilon(0.1)})), init="given")
    found = relevances(case, run(model, {**case.feeds(), "relevance_out": r}))
    x = flat([case.inputs[n] for n in case.active])
    assert error(found, reference.relevance("Epsilon", x, W, b, r.ravel(), epsilon=0.1)) < 1e-5


@pytest.mark.parametrize(("how", "parts", "bins", "exact"), [
    ("inverse=0", 2, 4096, np.fft.fft), ("inverse=1", 2, 4096, np.fft.ifft), ("onesided=1", 1, 2049, np.fft.rfft),
])  # fmt: skip
def test_long_transforms_go_through_the_operator(how: str, parts: int, bins: int, exact: Callable[[Array], Array]):
    """Beyond the table of cosines: <DFT(x), s> == <x, adjoint of s>, with numpy's transform."""
    model = net(f"y = DFT<axis=1, {how}>(x)", f"float[1,4096,{parts}] x", f"float[1,{bins},2] y")
    x, s = data(1, 4096, parts), data(1, bins, 2, seed=1)
    derivative = onnxlrp.compile(model, "gradient", init="given")
    assert nodes_of(derivative, "MatMul") == 0
    found = run(derivative, {"x": x, "relevance_out": s})["relevance.x"]
    z = exact(x[0].astype(np.float64) @ ([1] if parts == 1 else [1, 1j]))
    forward, back = np.sum(z.real * s[0, :, 0] + z.imag * s[0, :, 1]), np.sum(found * x.astype(np.float64))
    assert abs(forward - back) < 1e-5 * np.linalg.norm(z) * np.linalg.norm(s)
