"""What is proved about tensors: intervals that random runs never leave, activity, embeddings, input scaling, batch axis."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models_for_tests import data, lrp, near, net, relevance, run, session, weight

import onnxlrp
from onnxlrp.emit import Emit
from onnxlrp.facts import batch_axes, scaled_inputs
from onnxlrp.graph import load
from onnxlrp.intervals import INTERVALS, Interval
from onnxlrp.tensor import Tensor

# ------------------------------------------------------------------------------------------------------------ intervals

# Inputs of a node, after which constants follow; "x" is a drawn tensor of shape (2,4,4,6). None: no attributes.
UNARY = (
    "Identity Relu Neg Abs Tanh Softsign Erf Atan Sinh Asinh Exp Sqrt Softplus Sigmoid HardSigmoid Softmax Hardmax "
    "GlobalAveragePool GlobalMaxPool LeakyRelu"
)
SPELLED: dict[str, list[str]] = {
    **{op: [f"{op}(x)"] for op in UNARY.split()},
    "LeakyRelu": ["LeakyRelu<alpha=0.3>(x)", "LeakyRelu<alpha=-0.3>(x)"],
    "Reshape": ["Reshape(x, shape)"],
    "Flatten": ["Flatten(x)"],
    "Squeeze": ["Squeeze(x, none)"],
    "Unsqueeze": ["Unsqueeze(x, axes)"],
    "Transpose": ["Transpose<perm=[3,1,0,2]>(x)"],
    "Slice": ["Slice(x, one_, three_, axes)"],
    "Split": ["Split<axis=1>(x, halves)"],
    "Gather": ["Gather<axis=2>(x, index)"],
    "GatherElements": ["GatherElements<axis=0>(x, ids)"],
    "GatherND": ["GatherND(x, nd)"],
    "Expand": ["Expand(x, big)"],
    "Tile": ["Tile(x, twice)"],
    "Concat": ["Concat<axis=0>(x, z)"],
    "MaxPool": ["MaxPool<kernel_shape=[2,3], pads=[1,1,1,1]>(x)"],
    "AveragePool": ["AveragePool<kernel_shape=[2,3], pads=[1,1,1,1], count_include_pad=1>(x)"],
    "ReduceMax": ["ReduceMax(x, axes)"],
    "ReduceMin": ["ReduceMin(x, axes)"],
    "ReduceMean": ["ReduceMean(x, axes)"],
    "ReduceSum": ["ReduceSum(x, axes)"],
    "ReduceL1": ["ReduceL1(x, axes)"],
    "ReduceL2": ["ReduceL2(x, axes)"],
    "ReduceSumSquare": ["ReduceSumSquare(x, axes)"],
    "CumSum": ["CumSum(x, one)", "CumSum<exclusive=1, reverse=1>(x, one)"],
    "DepthToSpace": ["DepthToSpace<blocksize=2>(x)"],
    "SpaceToDepth": ["SpaceToDepth<blocksize=2>(x)"],
    "Compress": ["Compress<axis=1>(x, keep)"],
    "ReverseSequence": ["ReverseSequence<batch_axis=0, time_axis=1>(x, lens)"],
    "TopK": ["TopK(x, two_)", "TopK<largest=0>(x, two_)"],
    "Cast": ["Cast<to=1>(x)", "Cast<to=7>(x)", "Cast<to=2>(x)"],
    "LRN": ["LRN<size=3>(x)"],
    "Max": ["Max(x, z)", "Max(x, z, c)"],
    "Min": ["Min(x, z)", "Min(c, x)"],
    "Sum": ["Sum(x, z, c)"],
    "Mean": ["Mean(x, z)"],
    "Trilu": ["Trilu(x)", "Trilu<upper=0>(x, one)"],
    "Add": ["Add(x, z)", "Add(c, x)"],
    "Sub": ["Sub(x, z)", "Sub(c, x)"],
    "Mul": ["Mul(x, z)", "Mul(x, x)", "Mul(x, c)"],
    "Div": ["Div(x, z)", "Div(c, x)", "Div(x, x)"],
    "Conv": ["Conv<pads=[1,1,1,1]>(x, w, b)", "Conv(x, w)"],
    "ConvTranspose": ["ConvTranspose(x, w, b)"],
    "MatMul": ["MatMul(x, m)", "MatMul(x, t)"],
    "Gemm": ["Gemm(f, g, h)", "Gemm<alpha=-1.0>(f, g)", "Gemm<beta=-2.0>(f, g, h)"],
    "LpPool": ["LpPool<kernel_shape=[2,2]>(x)"],
    "GlobalLpPool": ["GlobalLpPool(x)"],
    "Where": ["Where(cond, x, z)"],
    "Clip": ["Clip(x, low, high)", "Clip(x, low)", "Clip(x, , high)", "Clip(x, high, low)"],
    "Pad": ["Pad(x, pads)", "Pad(x, pads, low)", 'Pad<mode="reflect">(x, pads)', "Pad(x, crop, , crop_axes)"],
    "Pow": ["Pow(x, two)", "Pow(x, three)", "Pow(x, half)", "Pow(x, c)"],
    "Resize": [
        "Resize(x, , scales)",
        'Resize<mode="linear">(x, , scales)',
        'Resize<mode="cubic">(x, , scales)',
        'Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=-7.0>(x, roi, scales)',
    ],
}
FIXED: dict[str, Any] = {
    "shape": np.int64([4, -1]),
    "none": np.int64([2]),
    "axes": np.int64([2]),
    "one_": np.int64([1]),
    "three_": np.int64([3]),
    "halves": np.int64([1, 3]),
    "index": np.int64([3, 0]),
    "ids": np.ones((1, 4, 4, 6), np.int64),
    "nd": np.int64([[1, 2], [0, 3]]),
    "big": np.int64([3, 1, 4, 4, 6]),
    "twice": np.int64([1, 2, 1, 1]),
    "keep": np.array([True, False, True]),
    "one": np.int64(1),
    "lens": np.int64([2, 4]),
    "two_": np.int64([2]),
    "cond": data(4, 6, seed=8) > 0,
    "low": np.float32(-0.3),
    "high": np.float32(0.4),
    "pads": np.int64([0, 1, 1, 0, 0, 0, 2, 1]),
    "crop": np.int64([-1, 1]),
    "crop_axes": np.int64([3]),
    "two": np.float32(2),
    "three": np.float32(3),
    "half": np.float32(0.5),
    "scales": np.float32([1, 1, 2.3, 1.6]),
    "roi": np.float32([0, 0, 0.2, 0.3, 1, 1, 1.4, 1.2]),
}
RANGES = [(-1, 1), (0, 1), (-1, 0), (0.5, 2), (-3, -0.5), (0, 0)]


def test_every_row_of_the_table_is_covered() -> None:
    assert set(INTERVALS) == set(SPELLED)


def drawn(shape: tuple[int, ...], span: tuple[float, float], seed: int) -> np.ndarray:
    """Uniform numbers whose extremes are the bounds, with exact zeros where they are allowed."""
    low, high = span
    x = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
    x.flat[0], x.flat[-1] = low, high
    if low <= 0 <= high:
        x.flat[1::7] = 0
    return x


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("text", [t for texts in SPELLED.values() for t in texts])
def test_intervals_are_sound(text: str) -> None:
    """The proved range of a node, given ranges of its inputs, holds for the output that onnxruntime computes."""
    op = text.split("(")[0].split("<")[0]
    text = text.replace("Squeeze(x, none)", "Squeeze(x1, none)")
    inputs = "float[2,4,4,6] x, float[2,4,4,6] z, float[2,4,1,6] x1, float[3,4] f"
    body = f"y = {text}"
    shapes = {"w": (4, 4, 3, 3), "b": (4,), "c": (4, 1), "m": (6, 5), "t": (2, 4, 6, 3), "g": (4, 5), "h": (5,)}
    model = net(body, inputs, "float y")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if text.startswith("Cast<"):
        model.graph.output[0].type.tensor_type.elem_type = int(text[8])
    if op in ("Split", "TopK"):
        model.graph.node[0].output.append("second")
    used = {n for n in model.graph.node[0].input if n}
    kept = [i for i in model.graph.input if i.name in used]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in sorted(used & set(FIXED)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(FIXED[name]), name))
    weights = {n: model.graph.input.add() for n in sorted(used & set(shapes))}
    for n, i in weights.items():
        i.CopyFrom(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shapes[n]))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(len(text))
    proved = 0
    for trial in range(40):
        spans = {i.name: RANGES[rng.integers(len(RANGES))] for i in model.graph.input}
        arrays = {
            i.name: drawn(tuple(d.dim_value for d in i.type.tensor_type.shape.dim), spans[i.name], trial)
            for i in model.graph.input
        }
        e = Emit()
        given = dict(arrays.items()) | {n: np.asarray(v) for n, v in FIXED.items()}
        made = {n: tensor(e, n, given[n], n in FIXED or n in weights) for n in used}
        xs = [made[n] if n else None for n in model.graph.node[0].input]
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
        attrs = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
        span = e.op(op, *xs, **attrs).span
        y = session.run(None, arrays)[0]
        y = y[~np.isnan(y)] if y.dtype.kind == "f" else y
        assert np.all((y >= span.low) & (y <= span.high)), f"{op} of {spans}: {y.min()}..{y.max()} outside {span}"
        proved += span != Interval()
    assert proved or "to=" in text or "alpha=-" in text or "beta=-" in text or "cubic" in text or "tf_crop" in text


def tensor(e: Emit, name: str, value: np.ndarray, constant: bool) -> Tensor:
    """A tensor of which the range is known, and the value when it is constant."""
    import onnx_graphsurgeon as gs

    span = Interval.of(value)
    return Tensor(e, gs.Variable(name), value.dtype, value.shape, span, value if constant else None)


def test_an_operator_without_a_row_proves_nothing() -> None:
    e = Emit()
    assert e.op("Det", tensor(e, "x", np.ones((2, 2), np.float32), False)).span == Interval()


def test_another_domain_proves_nothing_and_is_not_shared() -> None:
    """acme::Relu may be anything: not non-negative, and not the answer to a request for Relu."""
    model = net("y = acme.Relu(x)", "float[N,4] x", "float[N,4] y", domains=', "acme" : 1')
    source, e = load(model), Emit()
    x = e.adopt(source.graph.inputs[0])
    (y,) = e.forward(source.graph.nodes[0], [x])
    assert y.span == Interval()
    assert e.elementwise("Relu", x) is not y


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_keep_their_proved_ranges(seed: int) -> None:
    """Chains of operators: every tensor that the compiler proves non-negative or bounded is, for random inputs."""
    rng = np.random.default_rng(seed)
    lines, names = [], ["x"]
    plain = "Relu Neg Abs Sigmoid Tanh LeakyRelu Softplus Softmax Exp Sqrt Reciprocal"
    unary = [*(f"{op}({{}})" for op in plain.split()), "Clip({}, low, high)", "Mul({0}, {0})", "Div({0}, {0})"]
    binary = [
        "Div({}, {})",
        "Add({}, {})",
        "Sub({}, {})",
        "Mul({}, {})",
        "Max({}, {})",
        "Min({}, {})",
        "Conv<pads=[1,1,1,1]>({}, w, b)",
    ]
    for i in range(14):
        pick = rng.integers(len(unary) + len(binary))
        a, b = (names[k] for k in rng.integers(len(names), size=2))
        text = unary[pick].format(a) if pick < len(unary) else binary[pick - len(unary)].format(a, b)
        lines.append(f"t{i} = {text}")
        names.append(f"t{i}")
    outputs = ", ".join(f"float[N,3,4,5] {n}" for n in names[1:])
    model = net("\n".join(lines), "float[N,3,4,5] x", outputs, w=np.abs(weight(3, 3, 3, 3)), b=data(3, low=0),
                low=np.float32(-1), high=np.float32(2))  # fmt: skip
    source = load(model)
    e = Emit()
    for t in source.graph.inputs:
        e.adopt(t)
    for node in source.graph.nodes:
        e.forward(node, [e.adopt(t) if t.name else None for t in node.inputs])
    for scale in (0.1, 1, 10):
        for name, y in run(model, x=np.float32(scale) * data(2, 3, 4, 5, seed=seed)).items():
            span, y = e.tensors[name].span, y[~np.isnan(y)]
            assert np.all((y >= span.low) & (y <= span.high)), f"{name}: {y.min()}..{y.max()} outside {span}"


@pytest.mark.parametrize("value", [[1.0, 2, -3], [], [np.nan, 1], [np.inf, 0]], ids=str)
def test_range_of_a_constant(value: list[float]) -> None:
    span = Interval.of(np.float32(value))
    if not value or np.isnan(value).any():
        assert span == Interval()
    else:
        assert span == (min(value), max(value))


# ------------------------------------------------------------------------------------------------------------- activity


def plan_of(body: str, x: str, y: str, explain: Sequence[str] | None = None, **constants: Any) -> Any:
    return onnxlrp.inspect(net(body.replace("; ", "\n"), x, y, **constants), "epsilon", explain=explain)


def kinds(plan: Any) -> dict[str, str]:
    return {s.unit.name: s.kind.value for s in plan.steps}


MASKS = {
    "shape arithmetic": ("s = Shape(x); y = Reshape(x, s)", "float[N,4] x", {"y": "move"}),
    "comparison": ("g = Greater(x, z); c = Cast<to=1>(g); y = Mul(x, c)", "float[N,4] x", {"y": "scale"}),
    "frozen second input": ("y = Mul(x, m)", "float[N,4] x, float[N,4] m", {"y": "scale"}),
    "argmax": ("a = ArgMax<axis=1>(x); c = Cast<to=1>(a); y = Mul(x, c)", "float[N,4] x", {"y": "scale"}),
    "cast to integer and back": ("i = Cast<to=7>(x); c = Cast<to=1>(i); y = Sub(x, c)", "float[N,4] x", {"y": "sum"}),
    "active gate": (
        "a = MatMul(x, w); s = Sigmoid(a); r = Tanh(x); y = Mul(s, r)",
        "float[N,4] x",
        {"a": "linear, with a weight", "s": "pointwise", "r": "pointwise", "y": "product"},
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_only_float_operators_carry_relevance(name: str) -> None:
    body, x, wanted = MASKS[name]
    plan = plan_of("x = Neg(in); " + body, x.replace(" x", " in"), "float[N,4] y", ["in"], z=np.float32(0), w=weight(4, 4))
    found = kinds(plan)
    del found["x"]
    assert found == wanted


def test_dead_branches_are_not_on_the_path() -> None:
    plan = plan_of(
        "a = Neg(x); d = Det(m); e = Abs(a); y = Tanh(a)", "float[N,4] x, float[N,4,4] m", "float[N,4] y, float[N] d"
    )
    assert [s.unit.name for s in plan.steps] == ["a", "y"]


def test_explaining_an_intermediate_tensor_freezes_what_is_above() -> None:
    plan = plan_of("a = Neg(x); b = Tanh(x); y = Mul(a, b)", "float[N,4] x", "float[N,4] y", ["a"])
    assert kinds(plan) == {"y": "scale"}
    assert plan.explained == ("a",)


# ----------------------------------------------------------------------------------------------------------- embeddings

TABLE, POSITIONS = data(11, 6), data(5, 6, seed=3)
EMBEDDINGS: dict[str, tuple[str, list[str] | None]] = {
    "plain": ("e = Gather(table, ids); y = MatMul(e, w)", ["e"]),
    "cast": ("i = Cast<to=6>(ids); e = Gather(table, i); y = MatMul(e, w)", ["e"]),
    "slice, offset": (
        "i = Slice(ids, zero, five, one); j = Add(i, two); k = Sub(j, two); e = Gather(table, k); y = MatMul(e, w)",
        ["e"],
    ),
    "reshaped": ("i = Unsqueeze(ids, one); j = Squeeze(i, one); e = Gather(table, j); y = MatMul(e, w)", ["e"]),
    "scaled table": ("t = Mul(table, half); e = Gather(t, ids); y = MatMul(e, w)", ["e"]),
    "two tables": ("e = Gather(table, ids); f = Gather(table, ids); g = Add(e, f); y = MatMul(g, w)", ["e", "f"]),
    "positions by CumSum": (
        "n = NonZero(ids); o = Cast<to=7>(k1); c = CumSum(ids, axis); d = Mod(c, fives); p = Gather(positions, d); "
        "e = Gather(table, ids); g = Add(e, p); y = MatMul(g, w)",
        ["e"],
    ),
    "mask by comparison": (
        "q = Equal(ids, pad); i = Cast<to=7>(q); m = Gather(masks, i); e = Gather(table, ids); g = Add(e, m); y = MatMul(g, w)",
        ["e"],
    ),
    "constant positions": ("p = Gather(positions, range); e = Gather(table, ids); g = Add(e, p); y = MatMul(g, w)", ["e"]),
    "quantised table": (
        "t = DequantizeLinear(codes, scale); e = Gather(t, ids); y = MatMul(e, w)",
        ["e"],
    ),
    "quantised rows": (
        "q = Gather(codes, ids); e = DequantizeLinear(q, scale); y = MatMul(e, w)",
        ["e"],
    ),
}
TOKENS = {
    "table": TABLE,
    "positions": POSITIONS,
    "w": weight(6, 4),
    "zero": np.int64([0]),
    "five": np.int64([5]),
    "one": np.int64([1]),
    "two": np.int64(2),
    "axis": np.int64(1),
    "fives": np.int64(5),
    "pad": np.int64(0),
    "half": np.float32(0.5),
    "k1": np.float32(1),
    "masks": data(2, 6, seed=5),
    "range": np.arange(5),
    "codes": (TABLE * 20).astype(np.int8),
    "scale": np.float32(0.05),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(name: str) -> None:
    body, wanted = EMBEDDINGS[name]
    model = net(body.replace("; ", "\n"), "int64[N,5] ids", "float[N,5,4] y", **TOKENS)
    assert list(onnxlrp.inspect(model, "epsilon").explained) == wanted
    ids = np.random.default_rng(0).integers(0, 11, (2, 5))
    out = lrp(model, {"ids": ids}, "epsilon")
    near(out["y"], run(model, ids=ids)["y"])
    r = sum(out[f"relevance.{e}"] for e in wanted or ())
    assert r.shape == (2, 5, 6)
    assert np.abs(r).max() > 0


def test_float_input_and_embedding_are_both_explained() -> None:
    body = "e = Gather(table, ids)\ng = Add(e, x)\ny = MatMul(g, w)"
    model = net(body, "int64[N,5] ids, float[N,5,6] x", "float[N,5,4] y", table=TABLE, w=weight(6, 4))
    assert sorted(onnxlrp.inspect(model, "epsilon").explained) == ["e", "x"]


# -------------------------------------------------------------------------------------------------------- input scaling

PLANE, CHANNEL = data(3, 4, 5, low=0.5), data(3, 1, 1, low=0.5)
SCALING: dict[str, tuple[str, list[str]]] = {
    "mean and std": ("a = Sub(x, ch); b = Div(a, ch); y = Relu(b)", ["a", "b"]),
    "mean image": ("a = Sub(x, plane); b = Div(a, k); y = Relu(b)", ["a", "b"]),
    "divided by an image": ("a = Div(x, plane); b = Mul(plane, a); y = Relu(b)", ["a", "b"]),
    "scalar added": ("a = Add(x, k); b = Add(k, a); y = Relu(b)", ["a", "b"]),
    "channel added": ("a = Add(x, ch); y = Relu(a)", ["a"]),
    "through moves and casts": (
        "a = Mul(x, k); t = Transpose<perm=[0,2,3,1]>(a); c = Cast<to=11>(t); b = Div(t, v); y = Relu(b)",
        ["a", "b"],
    ),
    "constant made by nodes": ("e = Exp(k); a = Mul(x, e); y = Relu(a)", ["a"]),
    "position table is a sum": ("a = Add(x, plane); y = Relu(a)", []),
    "behind a position table": ("a = Add(x, plane); b = Mul(a, k); y = Relu(b)", []),
    "behind an activation": ("a = Relu(x); b = Mul(a, k); c = Sub(b, k); y = Relu(c)", []),
    "constant first": ("a = Sub(k, x); y = Relu(a)", []),
    "numerator": ("p = Div(k, x); y = Relu(p)", []),
    "both operands": ("a = Sub(x, x); y = Relu(a)", []),
    "the other input": ("a = Sub(x, z); y = Relu(a)", []),
    "behind a convolution": ("c = Conv(x, w); a = Mul(c, q); y = Relu(a)", []),
}


@pytest.mark.parametrize("name", SCALING)
def test_input_scaling(name: str) -> None:
    body, wanted = SCALING[name]
    constants = {
        "k": np.float32(1.7),
        "ch": CHANNEL,
        "plane": PLANE,
        "v": data(3, low=0.5),
        "w": weight(3, 3, 1, 1),
        "q": data(4, 5, low=0.5),
    }
    outputs = "float[N,A,B,C] y"
    model = net(body.replace("; ", "\n"), "float[N,3,4,5] x, float[N,3,4,5] z", outputs, **constants)
    plan = onnxlrp.inspect(model, "epsilon", explain=["x"])
    assert [s.unit.name for s in plan.steps if s.kind.value == "input scaling"] == wanted
    source = load(model)
    assert set(wanted) <= scaled_inputs(source.graph, ["x"])
    if wanted:  # relevance passes as it is
        x, r = data(2, 3, 4, 5, low=0.1), data(2, 3, 4, 5)
        if "Transpose" in body:
            r = r.transpose(0, 2, 3, 1)
        out = lrp(model, {"x": x, "z": x, "relevance_out": np.ascontiguousarray(r)}, init="given", explain=["x"])
        near(out["relevance.x"], r.transpose(0, 3, 1, 2) if "Transpose" in body else r)


def test_scaling_does_not_change_the_relevance_below() -> None:
    """Mean and std inside the model or outside: the first layer's input is explained the same."""
    inner = "h = Conv<pads=[1,1,1,1]>({}, w)\nr = Relu(h)\ny = GlobalAveragePool(r)"
    w, x = weight(4, 3, 3, 3), data(2, 3, 6, 5)
    scaled = net("a = Sub(x, m)\nb = Div(a, s)\n" + inner.format("b"), y="float[N,4,1,1] y", w=w, m=CHANNEL, s=2 * CHANNEL)
    plain = net(inner.format("x"), y="float[N,4,1,1] y", w=w)
    for composite in ("epsilon", "epsilon_plus", "epsilon_gamma_box(low=-3, high=3)"):
        near(relevance(scaled, x, composite), relevance(plain, (x - CHANNEL) / (2 * CHANNEL), composite))


def test_a_position_table_takes_its_share() -> None:
    model = net("a = Add(x, t)\ny = MatMul(a, w)", "float[N,5,6] x", "float[N,5,4] y", t=POSITIONS, w=weight(6, 4))
    x, r = data(2, 5, 6), data(2, 5, 4, seed=2)
    below = net("y = MatMul(a, w)", "float[N,5,6] a", "float[N,5,4] y", w=weight(6, 4))
    at_sum = lrp(below, {"a": x + POSITIONS, "relevance_out": r}, init="given")["relevance.a"]
    z = x + POSITIONS
    near(
        lrp(model, {"x": x, "relevance_out": r}, init="given")["relevance.x"], x * at_sum / (z + np.where(z >= 0, 1e-6, -1e-6))
    )


# ----------------------------------------------------------------------------------------------------------- batch axis

BATCH: dict[str, tuple[str, str, int | None]] = {
    "relu": ("y = Relu(x)", "float[N,3,4,5] y", 0),
    "transpose": ("y = Transpose<perm=[1,2,0,3]>(x)", "float[3,4,N,5] y", 2),
    "two transposes": ("a = Transpose<perm=[1,2,0,3]>(x); y = Transpose<perm=[2,0,1,3]>(a)", "float[N,3,4,5] y", 0),
    "default transpose": ("y = Transpose(x)", "float[5,4,3,N] y", 3),
    "flatten": ("y = Flatten(x)", "float[N,60] y", 0),
    "reshape with 0": ("y = Reshape(x, keep)", "float[N,12,5] y", 0),
    "reshape with -1": ("y = Reshape(x, last)", "float[N,3,20] y", 0),
    "merged into the batch": ("y = Reshape(x, merge)", "float[M,20] y", None),
    "unsqueeze": ("y = Unsqueeze(x, zero)", "float[1,N,3,4,5] y", 1),
    "unsqueeze, squeeze": ("a = Unsqueeze(x, zero); y = Squeeze(a, zero)", "float[N,3,4,5] y", 0),
    "mean over the rest": ("y = ReduceMean<keepdims=0>(x, rest)", "float[N] y", 0),
    "mean after a transpose": (
        "a = Transpose<perm=[1,0,2,3]>(x); y = ReduceMean<keepdims=0>(a, zero)",
        "float[N,4,5] y",
        0,
    ),
    "mean over the batch": ("y = ReduceMean<keepdims=0>(x, zero)", "float[3,4,5] y", None),
    "mean over the batch, kept": ("y = ReduceMean(x, zero)", "float[1,3,4,5] y", None),
    "matmul": ("y = MatMul(x, w)", "float[N,3,4,2] y", 0),
    "matmul from the left": ("a = Reshape(x, last); y = MatMul(u, a)", "float[N,2,20] y", 0),
    "matmul of a transpose": ("a = Reshape(x, flat); b = Transpose(a); y = MatMul(v, b)", "float[2,N] y", 1),
    "matmul against more axes": ("a = Reshape(x, last2); y = MatMul(a, w3)", "float[7,N,4] y", 1),
    "matmul that sums over the batch": ("a = Reshape(x, flat); y = MatMul(w4, a)", "float[2,60] y", None),
    "concat along the batch": ("y = Concat<axis=0>(x, x)", "float[M,3,4,5] y", None),
    "concat along another axis": ("y = Concat<axis=1>(x, x)", "float[N,6,4,5] y", 0),
    "gather along another axis, several": (
        "y = Gather<axis=0>(a, two)\n a = Transpose<perm=[1,0,2,3]>(x)",
        "float[2,2,N,4,5] y",
        2,
    ),
    "gather along another axis": ("y = Gather<axis=1>(x, one)", "float[N,4,5] y", 0),
    "gather of rows": ("y = Gather<axis=0>(x, one)", "float[3,4,5] y", None),
    "broadcast against more axes": ("y = Add(x, five)", "float[7,N,3,4,5] y", 1),
    "conv": ("y = Conv(x, k)", "float[N,2,4,5] y", 0),
}


@pytest.mark.parametrize("symbolic", [True, False], ids=["symbolic", "fixed"])
@pytest.mark.parametrize("name", BATCH)
def test_batch_axis(name: str, symbolic: bool) -> None:
    body, y, wanted = BATCH[name]
    constants = {
        "keep": np.int64([0, 12, 5]),
        "last": np.int64([-1, 3, 20]),
        "merge": np.int64([-1, 20]),
        "zero": np.int64([0]),
        "rest": np.int64([1, 2, 3]),
        "w": weight(5, 2),
        "u": weight(2, 3),
        "flat": np.int64([-1, 60]),
        "v": weight(2, 60),
        "last2": np.int64([-1, 60]),
        "w3": weight(7, 60, 4),
        "w4": weight(2, 3),
        "two": np.int64([[0, 1], [1, 2]]),
        "one": np.int64(1),
        "five": np.ones((7, 1, 1, 1, 1), np.float32),
        "k": weight(2, 3, 1, 1),
    }
    x = "float[N,3,4,5] x"
    if not symbolic:
        x, y = x.replace("N", "3"), y.replace("N", "3").replace("M", "9")
    graph = load(net(body.replace("; ", "\n"), x, y, **constants)).graph
    assert batch_axes(graph).get("y") == wanted


@pytest.mark.parametrize("spelling", ["plain", "transposed", "reshaped"])
def test_relative_epsilon_is_per_row(spelling: str) -> None:
    """Epsilon(relative=True) averages over everything but the batch axis, wherever that has moved."""
    bodies = {
        "plain": "y = MatMul(x, w)",
        "transposed": "a = Transpose<perm=[1,0,2]>(x)\nb = MatMul(a, w)\ny = Transpose<perm=[1,0,2]>(b)",
        "reshaped": "a = Reshape(x, four)\nb = MatMul(a, w)\ny = Reshape(b, three)",
    }
    constants = {"w": weight(6, 4), "four": np.int64([-1, 1, 5, 6]), "three": np.int64([-1, 5, 4])}
    model = net(bodies[spelling], "float[N,5,6] x", "float[N,5,4] y", **constants)
    x = data(3, 5, 6) * np.float32([[[1]], [[10]], [[0.1]]])
    rule = onnxlrp.Epsilon(0.25, relative=True)
    out = relevance(model, x, onnxlrp.Composite(rule))
    near(out, np.concatenate([relevance(model, row[None], onnxlrp.Composite(rule)) for row in x]))
    z = x @ weight(6, 4)
    step = 0.25 * np.sqrt((z**2).mean((1, 2), keepdims=True)) + 1e-9
    best = z * (z == z.max(-1, keepdims=True))
    near(out, x * ((best / (z + np.where(z >= 0, step, -step))) @ weight(6, 4).T))


def test_relative_epsilon_where_the_batch_axis_is_lost() -> None:
    model = net("a = Reshape(x, two)\nb = MatMul(a, w)\ny = Reshape(b, three)", "float[N,5,6] x", "float[N,5,4] y",
                w=weight(6, 4), two=np.int64([-1, 6]), three=np.int64([-1, 5, 4]))  # fmt: skip
    with pytest.raises(onnxlrp.RuleMismatch, match=r"node 'b' \(MatMul\).*batch axis"):
        onnxlrp.compile(model, onnxlrp.Composite(onnxlrp.Epsilon(0.25, relative=True)))


def test_explained_tensors_are_listed() -> None:
    model = net("y = Add(x, z)", "float[N,4] x, float[N,4] z", "float[N,4] y")
    props = {p.key: p.value for p in onnxlrp.compile(model, "epsilon").metadata_props}
    assert json.loads(props["onnxlrp.explained"]) == ["x", "z"]


def test_relevance_at_an_output_that_no_reading_knows() -> None:
    """The mean that a LayerNormalization gives beside its result: never a map of zeros."""
    scale = np.ones(6, np.float32)
    model = net("n, mean = LayerNormalization(x, s)\ny = Mul(n, mean)", "float[N,6] x", "float[N,6] y", s=scale)
    with pytest.raises(
        onnxlrp.UnsupportedOp, match=r"'n'.*relevance arrives at its output 1 'mean'.*NameMap\({'n': Stop\(\)}\)"
    ):
        onnxlrp.compile(model, "epsilon")
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["N", 1]))
    with pytest.raises(onnxlrp.UnsupportedOp, match=r"relevance arrives at its output 1 'mean'"):
        onnxlrp.compile(model, "epsilon", output="mean")


def test_bfloat16_is_computed_in_float32() -> None:
    kind = onnx.TensorProto.BFLOAT16
    model = net("h = MatMul(x, w)\ny = Relu(h)", "bfloat16[N,5] x", "bfloat16[N,4] y")
    w = onnx.helper.make_tensor("w", kind, [5, 4], weight(5, 4).ravel().tolist())
    model.graph.initializer.append(w)
    compiled = onnxlrp.compile(model, "epsilon")
    kinds = {o.name: o.type.tensor_type.elem_type for o in (*compiled.graph.input, *compiled.graph.output)}
    assert kinds == {"x": kind, "target": onnx.TensorProto.INT64, "y": kind, "relevance.x": onnx.TensorProto.FLOAT}
    x = onnx.helper.make_tensor("x", kind, [3, 5], data(3, 5).ravel().tolist())
    exact = [onnx.numpy_helper.to_array(t).astype(np.float32) for t in (x, w)]
    wanted = relevance(net("h = MatMul(x, w)\ny = Relu(h)", "float[N,5] x", w=exact[1]), exact[0])
    values = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(onnx.numpy_helper.to_array(x).view(np.uint16), kind)
    got = session(compiled).run_with_ort_values(["relevance.x"], {"x": values})[0].numpy()
    near(got, wanted)
