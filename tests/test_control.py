"""If, Loop and Scan: outputs as onnxruntime computes the original, relevance as in a twin written out by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import shared
from models_for_tests import data, lrp, near, net, run, weight

import onnxlrp
from onnxlrp import Composite, Epsilon, NameMap, Pass, Stop, UnsupportedOp, control
from onnxlrp.control import unroll
from onnxlrp.graph import load
from onnxlrp.known import Known

W, B, ONE = weight(6, 6), data(6, seed=4) / 4, np.int64([1])
INTS = {"i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2), "i3": np.int64(3), "i6": np.int64(6), "i7": np.int64(7)}


@dataclass(frozen=True)
class Twin:
    """A model with control flow, and the same written out; F stands for float[N,6]. more: what only the twin has."""

    body: str
    plain: str
    constants: dict[str, Any] = field(default_factory=dict)
    x: str = "F x"
    y: str = "F y"
    more: dict[str, Any] = field(default_factory=dict)


def spell(text: str, batch: int | str = "N") -> str:
    return re.sub(r"\bF\b", "float[N,6]", text).replace("[N", f"[{batch}")


def loop(carried: str, results: str, steps: str) -> str:
    """The body of a Loop whose condition c -> d is handed on unless the steps say otherwise."""
    ends = "" if " d = " in f" {steps}" else "d = Identity(c)"
    return f"body = b (int64 i, bool c, {carried}) => (bool d, {results}) {{ {steps} {ends} }}"


def branches(results: str, then: str, others: str, other: str) -> str:
    return f"then_branch = t () => ({results}) {{ {then} }}, else_branch = e () => ({others}) {{ {other} }}"


WIDER = "o = Concat<axis=1>(v, v)  s = Shape(o)  n = Gather(s, i1)  d = Less(n, k)"
INNER = "body = bb (int64 ii, bool cc, F vv) => (bool dd, F oo) { aa = Add(vv, k)  oo = Relu(aa)  dd = Identity(cc) }"
RELU_OR_NEG = branches("F a", "a = Relu(h)", "F b", "b = Neg(h)")
TWINS = {
    "if, condition a constant": Twin(
        f"h = MatMul(x, w)  y = If(no)<{RELU_OR_NEG}>", "h = MatMul(x, w)  y = Neg(h)", {"no": False}
    ),
    "if, condition of shape [1] computed": Twin(
        f"h = MatMul(x, w)  c = Not(no)  y = If(c)<{RELU_OR_NEG}>", "h = MatMul(x, w)  y = Relu(h)", {"no": np.array([False])}
    ),
    "if, on a known size beside a symbolic one": Twin(
        f"h = MatMul(x, w)  s = Shape(h)  n = Gather(s, i1)  c = Equal(n, i6)  y = If(c)<{RELU_OR_NEG}>",
        "h = MatMul(x, w)  y = Relu(h)",
    ),
    "if, on a slice of a shape, in int32": Twin(
        f"""h = MatMul(x, w)  s = Shape(h)  s32 = Cast<to=6>(s)  n = Slice(s32, one, two)  q = Squeeze(n)  m = Mul(q, q)
            c = Greater(m, k)  y = If(c)<{RELU_OR_NEG}>""",
        "h = MatMul(x, w)  y = Neg(h)",
        {"one": ONE, "two": ONE * 2, "k": np.int32(36)},
    ),
    "if, on something that only a reduction tells": Twin(
        f"h = MatMul(x, w)  m = ReduceMax<keepdims=0>(k)  c = Greater(m, f)  y = If(c)<{RELU_OR_NEG}>",
        "h = MatMul(x, w)  y = Neg(h)",
        {"k": B, "f": np.float32(9)},
    ),
    "if, results that are an initializer, from outside, the same twice": Twin(
        """h = MatMul(x, w)
           p, q, r, s = If(yes)<
             then_branch = t () => (F a, float[6] k, F u, F v) <float[6] k = {1,-2,3,-4,5,-6}>
               { a = Relu(h)  u = Identity(h)  v = Identity(a) },
             else_branch = e () => (F a2, float[6] k2, F u2, F v2) <float[6] k2 = {1,2,3,4,5,6}>
               { a2 = Neg(h)  u2 = Identity(h)  v2 = Identity(h) }>
           ps = Add(p, s)  qs = Mul(ps, q)  y = Add(qs, r)""",
        "h = MatMul(x, w)  a = Relu(h)  as = Add(a, a)  ak = Mul(as, k)  y = Add(ak, h)",
        {"yes": True},
        more={"k": np.float32([1, -2, 3, -4, 5, -6])},
    ),
    "if in an if": Twin(
        "h = MatMul(x, w)  y = If(yes)<" + branches(
            "F a",
            f"""g = Add(h, k)  s = Shape(g)  n = Gather(s, i1)  l = Less(n, i7)
                a = If(l)<{branches("F aa", "aa = Relu(g)", "F ab", "ab = Neg(g)")}>""",
            "F b",
            "b = Neg(h)",
        ) + ">",
        "h = MatMul(x, w)  g = Add(h, k)  y = Relu(g)",
        {"yes": True, "k": B},
    ),
    "loop, a counted one": Twin(
        f"y = Loop(i2, yes, x)<{loop('F v', 'F o', 'm = MatMul(v, w)  o = Relu(m)')}>",
        "m0 = MatMul(x, w)  v0 = Relu(m0)  m1 = MatMul(v0, w)  y = Relu(m1)",
        {"yes": True},
    ),
    "loop, iteration number and condition of shape [1], condition handed on as it is": Twin(
        """y = Loop(n, , x)<body = b (int64[1] i, bool[1] c, F v) => (bool[1] c, F o)
             { f = Cast<to=1>(i)  a = Add(v, f)  m = MatMul(a, w)  o = Relu(m) }>""",
        "a0 = Add(x, f0)  m0 = MatMul(a0, w)  v0 = Relu(m0)  a1 = Add(v0, f1)  m1 = MatMul(a1, w)  y = Relu(m1)",
        {"n": ONE * 2},
        more={"f0": np.float32([0]), "f1": np.float32([1])},
    ),
    "loop over the columns, with scan outputs": Twin(
        f"""s = Shape<start=1>(x)  n = Squeeze(s)
            e, z = Loop(n, , x)<{loop("F v", "F o, float[N] r", "p = Gather<axis=1>(v, i)  r = Relu(p)  o = Add(v, k)")}>
            y = Transpose<perm=[1,0]>(z)""",
        "  ".join(
            f"r{i} = Gather<axis=1>(v{i}, c{i})  q{i} = Relu(r{i})  u{i} = Unsqueeze(q{i}, zero)  v{i + 1} = Add(v{i}, k)"
            for i in range(6)
        ).replace("v0", "x") + "  z = Concat<axis=0>(u0, u1, u2, u3, u4, u5)  y = Transpose<perm=[1,0]>(z)",
        {"k": B},
        more={"zero": ONE * 0, **{f"c{i}": np.int64(i) for i in range(6)}},
    ),
    "loop, while a counter is small": Twin(
        f"""c0 = Less(start, end)  j, y = Loop(most, c0, start, x)<{loop(
            "float j0, F v", "float j1, F o", "j1 = Add(j0, step)  d = Less(j1, end)  m = MatMul(v, w)  o = Relu(m)")}>""",
        "m0 = MatMul(x, w)  v0 = Relu(m0)  m1 = MatMul(v0, w)  y = Relu(m1)",
        {"start": np.float32(0), "step": np.float32(1.5), "end": np.float32(3), "most": np.int64(2**63 - 1)},
    ),
    "loop, while a tensor is narrow": Twin(
        f"z = Loop( , , x)<{loop('float[N,A] v', 'float[N,C] o', WIDER)}>  y = ReduceSum(z, one)",
        "a = Concat<axis=1>(x, x)  z = Concat<axis=1>(a, a)  y = ReduceSum(z, one)",
        {"one": ONE, "k": np.int64(20)},
        y="float[N,1] y",
    ),
    "loop of no iterations": Twin(
        f"""h = MatMul(x, w)
            v, r = Loop(i0, yes, h)<{loop("F v0", "F o, float[2,6] r0", "o = Neg(v0)  r0 = Identity(k)")}>
            s = ReduceSum<keepdims=0>(r)  y = Add(v, s)""",
        "h = MatMul(x, w)  y = Identity(h)",
        {"yes": True, "k": data(2, 6)},
    ),
    "loop, one round before a condition that depends on x": Twin(
        f"y = Loop(i1, , x)<{loop('F v', 'F o', 'o = MatMul(v, w)  s = ReduceSum<keepdims=0>(o)  d = Greater(s, f)')}>",
        "y = MatMul(x, w)",
        {"f": np.float32(0)},
    ),
    "loop with an if on the iteration number": Twin(
        f"""y = Loop(i3, , x)<{loop("F v", "F o", f'''m = MatMul(v, w)  r = Mod(i, i2)  e = Equal(r, i0)
              o = If(e)<{branches("F a", "a = Relu(m)", "F g", "g0 = Add(m, k)  g = Tanh(g0)")}>''')}>""",
        """m0 = MatMul(x, w)  v0 = Relu(m0)  m1 = MatMul(v0, w)  g1 = Add(m1, k)  v1 = Tanh(g1)  m2 = MatMul(v1, w)
           y = Relu(m2)""",
        {"k": B},
    ),
    "loop in a loop, of as many rounds as the outer one has done": Twin(
        f"""y = Loop(i2, , x)<{loop("F v", "F o", f'''m = MatMul(v, w)
              o = Loop(i, , m)<{INNER}>''')}>""",
        "m0 = MatMul(x, w)  m1 = MatMul(m0, w)  a = Add(m1, k)  y = Relu(a)",
        {"k": B},
    ),
    "loop that hands a tensor on and swaps two": Twin(
        f"""p, q, t, u = Loop(i2, , x, x, w, k)<{loop(
              "F a, F e, float[6,6] g, float[6] m", "F o, F a, float[6,6] g, float[6] m", "f = MatMul(e, g)  o = Add(f, m)")}>
            z = MatMul(q, t)  y = Add(z, p)""",
        "f = MatMul(x, w)  q = Add(f, k)  z = MatMul(q, w)  y = Add(z, q)",
        {"k": B},
    ),
}  # fmt: skip


def scan(axis: int, back: int, out: int, out_back: int) -> Twin:
    """A recurrent layer with all that Scan can say about directions; the twin is written step by step."""
    steps, state = [], "h0"
    for n, i in enumerate(range(3)[::-1] if back else range(3)):
        steps.append(f"r{n} = Gather<axis={axis}>(x, i{i})  m{n} = MatMul({state}, w)  a{n} = Add(m{n}, r{n})")
        steps.append(f"h{n + 1} = Tanh(a{n})  p{n} = Relu(a{n})  u{n} = Unsqueeze(p{n}, at)")
        state = f"h{n + 1}"
    rows = [f"u{n}" for n in range(3)][:: -1 if out_back else 1]
    body = f"""h0 = ReduceSum<keepdims=0>(x, axis)
        h, z = Scan<num_scan_inputs=1, scan_input_axes=[{axis}], scan_input_directions=[{back}],
                    scan_output_axes=[{out}], scan_output_directions=[{out_back}],
                    body = b (F v, F r) => (F o, F p) {{ m = MatMul(v, w)  a = Add(m, r)  o = Tanh(a)  p = Relu(a) }}>(h0, x)
        y = MatMul(z, k)"""
    plain = (
        f"h0 = ReduceSum<keepdims=0>(x, axis)  {' '.join(steps)}  z = Concat<axis={out}>({', '.join(rows)})  y = MatMul(z, k)"
    )
    x = "float[N,3,6] x" if axis in (1, -2) else "float[N,6,3] x"
    return Twin(body, plain, {"axis": np.int64([axis]), "k": weight(6, 2)}, x, "float[A,C,2] y", more={"at": np.int64([out])})


TWINS |= {f"scan {kind}": scan(*kind) for kind in [(1, 0, 1, 0), (1, 1, 1, 0), (-2, 0, 0, 1), (2, 1, 1, 1)]}


def pair(case: Twin, batch: int | str = "N") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model and its twin."""
    body, plain, x, y = (spell(t, batch) for t in (case.body, case.plain, case.x, case.y))
    constants = {"w": W, **INTS, **case.constants}
    return net(body, x, y, **constants), net(plain, x, y, **constants, **case.more)


def assert_twins(case: Twin, batch: int | str) -> None:
    """Outputs are the model's, relevance is the twin's, and no control flow is left."""
    model, twin = pair(case, batch)
    sizes = [int(d) for d in re.findall(r"\d+", spell(case.x)[5:])]
    compiled = onnxlrp.compile(model, "epsilon")
    for n in (1, 3) if batch == "N" else (int(batch),):
        x = data(n, *sizes, seed=n)
        found, wanted = run(compiled, x=x), lrp(twin, {"x": x})
        for key, y in run(model, x=x).items():
            near(found[key], y)
        near(found["relevance.x"], wanted["relevance.x"])
        assert np.abs(wanted["relevance.x"]).max() > 0
    left = {"If", "Loop", "Scan", "SequenceAt", "SequenceInsert", "SequenceConstruct", "SplitToSequence", "ConcatFromSequence"}
    assert not left & {n.op_type for n in compiled.graph.node}


@pytest.mark.parametrize("batch", ["N", 1, 3])
@pytest.mark.parametrize("name", TWINS)
def test_relevance_is_that_of_the_twin(name: str, batch: int | str) -> None:
    assert_twins(TWINS[name], batch)


def retyped(model: onnx.ModelProto, kind: type) -> onnx.ModelProto:
    """The model with all its float32 in another type."""
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))

    def change(graph: onnx.GraphProto) -> None:
        for v in (*graph.input, *graph.output):
            v.type.tensor_type.elem_type = {1: code}.get(v.type.tensor_type.elem_type, v.type.tensor_type.elem_type)
        for t in (t for t in graph.initializer if t.data_type == 1):
            t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(kind), t.name))
        for body in (a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH):
            change(body)

    other = onnx.ModelProto()
    other.CopyFrom(model)
    change(other.graph)
    return other


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float16, 1e-2), (np.float64, 1e-5)])
@pytest.mark.parametrize(
    "name", ["if in an if", "loop with an if on the iteration number", "loop of no iterations", "scan (1, 1, 1, 0)"]
)
def test_bodies_of_other_float_types(name: str, kind: type, tolerance: float) -> None:
    model, twin = pair(TWINS[name])
    x = data(2, 3, 6) if "scan" in name else data(2, 6)
    found = lrp(retyped(model, kind), {"x": x.astype(kind)})
    near(found["y"], run(retyped(model, kind), x=x.astype(kind))["y"], tolerance)
    near(found["relevance.x"], lrp(twin, {"x": x})["relevance.x"], tolerance)


# ------------------------------------------------------------------------------------------------ older and newer opsets

OLD = (
    "u = Unsqueeze<axes=[0]>(h)  m = ReduceMean<axes=[-1], keepdims=1>(u)  q = Sub(u, m)  r = Squeeze<axes=[0]>(q)  "
    "l = Slice<axes=[1], starts=[0], ends=[3]>(r)  g = Slice<axes=[1], starts=[3], ends=[6]>(r)  j = Concat<axis=1>(g, l)"
)
NEW = "g = Gelu(h)  r = RMSNormalization(g, ones)  s = Swish(r)  j = Add(s, g)"
ONES = {"ones": np.ones(6, np.float32)}


@pytest.mark.parametrize(("opset", "ir", "text", "constants"), [(9, 4, OLD, {}), (24, 11, NEW, ONES)])
@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_bodies_of_other_opsets(opset: int, ir: int, text: str, constants: dict[str, Any], kind: str) -> None:
    if kind == "Loop":
        names = [part.split()[0] for part in text.split("  ")]
        second = re.sub(rf"\b({'|'.join(['h', *names])})\b", r"\1\1", text)
        body = f"y = Loop(i2, , x)<{loop('F v', 'F o', f'h = MatMul(v, w)  {text}  o = Identity(j)')}>"
        plain = f"h = MatMul(x, w)  {text}  hh = MatMul(j, w)  {second}  y = Identity(jj)"
    else:
        body = f"h = MatMul(x, w)  y = If(yes)<{branches('F o', f'{text}  o = Identity(j)', 'F z', 'z = Neg(h)')}>"
        plain = f"h = MatMul(x, w)  {text}  y = Identity(j)"
    constants = {"w": W, "yes": True, "i2": np.int64(2), **constants}
    model, twin = (net(spell(t), spell("F x"), spell("F y"), opset=opset, ir=ir, **constants) for t in (body, plain))
    x = data(3, 6)
    found, wanted = lrp(model, {"x": x}), lrp(twin, {"x": x})
    if opset < 24:  # onnxruntime has no kernels for newer ones
        near(found["y"], run(model, x=x)["y"])
    near(found["y"], wanted["y"])
    near(found["relevance.x"], wanted["relevance.x"])


def test_resize_of_the_old_opsets_in_a_branch() -> None:
    """The converter forgets how Upsample laid out its positions, in bodies too."""
    body = """h = Relu(x)  y = If(yes)<
        then_branch = t () => (float[N,1,4,6] a) <float[4] s = {1,1,2,2}> { a = Upsample<mode="nearest">(h, s) },
        else_branch = e () => (float[N,1,4,6] b) <float[4] z = {1,1,2,2}> { b = Upsample<mode="linear">(h, z) }>"""
    model = net(body, "float[N,1,2,3] x", "float[N,1,4,6] y", opset=9, ir=4, yes=True)
    x = data(2, 1, 2, 3)
    found = lrp(model, {"x": x}, init="one")
    near(found["y"], run(model, x=x)["y"])
    near(found["y"], np.maximum(x, 0).repeat(2, 2).repeat(2, 3))


SCAN8 = """h0 = ReduceSum<axes=[1], keepdims=0>(x)
    h, z = Scan<num_scan_inputs=1, directions=[1], body = b (float[6] v, float[6] r) => (float[6] o, float[6] p)
        { u = Unsqueeze<axes=[0]>(r)  m = MatMul(u, w)  s = Squeeze<axes=[0]>(m)  o = Add(v, s)  p = Tanh(o) }>( , h0, x)
    t = ReduceSum<axes=[1], keepdims=0>(z)  y = Add(t, h)"""


def test_scan_of_opset_8_runs_over_a_batch() -> None:
    model = net(SCAN8, "float[N,3,6] x", spell("F y"), opset=8, ir=4, w=W)
    steps = "  ".join(
        f"r{i} = Gather<axis=1>(x, i{i})  s{i} = MatMul(r{i}, w)  h{3 - i} = Add(h{2 - i}, s{i})  p{i} = Tanh(h{3 - i})"
        for i in (2, 1, 0)
    )
    plain = f"h0 = ReduceSum<axes=[1], keepdims=0>(x)  {steps}  q = Add(p2, p1)  t = Add(q, p0)  y = Add(t, h3)"
    twin = net(plain, "float[N,3,6] x", spell("F y"), opset=8, ir=4, w=W, **INTS)
    for n in (1, 2):
        x = data(n, 3, 6, seed=n)
        found = lrp(model, {"x": x}, input_shapes={"x": [n, 3, 6]})
        near(found["y"], run(model, x=x)["y"])
        near(found["relevance.x"], lrp(twin, {"x": x})["relevance.x"])
    with pytest.raises(UnsupportedOp, match=r"node 'h' .*number of steps is the size of 'h0' along axis 0.*input_shapes="):
        onnxlrp.compile(model)
    body = f"{SCAN8}  k = Relu(x)"  # beside the path it may stay
    model = net(body, "float[N,3,6] x", "float[N,3,6] k, float[N,6] y", opset=8, ir=4, w=W)
    for n in (1, 2):
        x = data(n, 3, 6, seed=n)
        near(lrp(model, {"x": x})["y"], run(model, x=x)["y"])
    model = net(SCAN8.replace("( ,", "(k,"), "float[2,3,6] x, int64[2] k", "float[2,6] y", opset=8, ir=4, w=W)
    with pytest.raises(UnsupportedOp, match=r"node 'h' \(Scan\): sequence lengths of opset 8"):
        onnxlrp.compile(model)


# ---------------------------------------------------------------------------------------------------- what is not known

GREATER = "s = ReduceSum<keepdims=0>(x)  c = Greater(s, f0)"
MATMUL = loop("F v", "F o", "o = MatMul(v, w)")
END = "is not known when compiling; cut the model there (output=, explain=) or export it"
REFUSED = {
    "condition of an if": (
        f"{GREATER}  h = MatMul(x, w)  y = If(c)<{RELU_OR_NEG}>",
        f"(If): its condition 'c' depends on the input 'x', so which branch explains the answer {END} with the branch taken",
    ),
    "size of the batch": (
        f"s = Shape<end=1>(x)  n = Squeeze(s)  y = Loop(n, , x)<{MATMUL}>",
        "(Loop): its trip count 'n' depends on the size of the input 'x' (input_shapes= may give it), "
        f"so how often it runs {END} unrolled",
    ),
    "condition before a loop": (
        f"{GREATER}  y = Loop(i3, c, x)<{MATMUL}>",
        f"(Loop): its condition 'c' depends on the input 'x', so how often it runs {END} unrolled",
    ),
    "condition in a loop": (
        "y = Loop(i3, , x)<" + loop(
            "F v", "F o", "o = MatMul(v, w)  s = ReduceSum<keepdims=0>(o)  e = Less(i, i1)  g = Greater(s, f0)  d = Or(e, g)"
        ) + ">",
        f"(Loop): whether it goes on after iteration 2 depends on the input 'x', so how often it runs {END} unrolled",
    ),
    "random condition": (
        f"r = RandomUniform<shape=[1]>()  c = Greater(r, f0)  h = MatMul(x, w)  y = If(c)<{RELU_OR_NEG}>",
        f"(If): its condition 'c' depends on random numbers, so which branch explains the answer {END} with the branch taken",
    ),
    "no end": (f"y = Loop( , , x)<{MATMUL}>", "(Loop): nothing ends it; cut the model there"),
    "too many rounds": (
        f"y = Loop(million, , x)<{MATMUL}>",
        "(Loop): 1,000,000 iterations of 2 nodes would be more than the 100,000 that are written out in all; cut",
    ),
    "steps of a scan": (
        "y = Scan<num_scan_inputs=1, body = b (float[6] v) => (float[6] o) { o = Relu(v) }>(x)",
        "(Scan): its number of steps is the size of 'x' along axis 0, which is not known when compiling (input_shapes= may",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name: str) -> None:
    body, words = REFUSED[name]
    constants = {"w": W, "f0": np.float32(0), "million": np.int64(10**6), **INTS}
    model = net(spell(body), spell("F x"), spell("F y"), **constants)
    with pytest.raises(UnsupportedOp) as refused:
        onnxlrp.compile(model)
    assert str(refused.value).startswith(f"node 'y' {words}")
    assert "\n" not in str(refused.value)
    with pytest.raises(UnsupportedOp):  # relevance cannot pass unchanged through what is not known
        onnxlrp.compile(model, Composite(Epsilon(), NameMap({"y": Pass()})))
    stopped = onnxlrp.compile(model, Composite(Epsilon(), NameMap({"y": Stop()})))
    if name not in ("no end", "too many rounds"):
        assert not run(stopped, x=data(2, 6))["relevance.x"].any()


def test_the_shared_example_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"node 'If_2' \(If\): its condition 'c' depends on the input 'x', so which branch"):
        onnxlrp.compile(shared("zoo/hand_if.onnx"))


KEPT = f"""
    {GREATER}
    h = MatMul(x, w)
    g = Mul(h, k)
    y = Relu(g)
    p = If(c)<{
    branches(
        "F a", "a0 = MatMul(x, w)  a = Add(a0, h)", "F b", "t0 = Shape(g)  b0 = Expand(k, t0)  b1 = Sub(b0, y)  b = Neg(b1)"
    )
}>
    q = MatMul(p, w)
    r, z = Loop(i3, , h)<{
    loop(
        "F v",
        "F o, F u",
        f'''
        m = MatMul(v, w)  o = Relu(m)  n = ReduceSum<keepdims=0>(o)  d = Greater(n, f0)
        u = If(d)<{branches("F ta", "ta = Add(m, h)", "F tb", "tb = Neg(m)")}>''',
    )
}>
    j, l = Scan<num_scan_inputs=1, body = sb (float[6] v1, float[6] x1) => (float[6] o1, float[6] p1)
        {{ o1 = Add(v1, x1)  p1 = Relu(o1) }}>(k, x)
    aa = Loop(i2, , h)<{
    loop(
        "F v2",
        "F o2",
        f'''m2 = MatMul(v2, w)  n2 = ReduceSum<keepdims=0>(m2)  c2 = Greater(n2, f0)
        o2 = If(c2)<{branches("F tc", "tc = Add(m2, h)", "F td", "td = Neg(m2)")}>''',
    )
}>
"""
OUTPUTS = "F y, F p, F q, F r, float[T,N,6] z, float[6] j, F l, F aa"


@pytest.mark.parametrize("options", [{}, {"bake": True}, {"canonize": False}])
@pytest.mark.parametrize(("kind", "tolerance"), [(np.float32, 1e-5), (np.float16, 4e-3), (np.float64, 1e-5)])
def test_what_is_not_known_stays_beside_the_path(kind: type, tolerance: float, options: dict[str, Any]) -> None:
    constants = {"w": W, "k": data(6, seed=9), "f0": np.float32(0), **INTS}
    model = retyped(net(spell(KEPT), spell("F x"), spell(OUTPUTS), **constants), kind)
    compiled = onnxlrp.compile(model, "epsilon", **options)
    assert sorted(n.op_type for n in compiled.graph.node if n.op_type in control.CONTROL) == ["If", "If", "If", "Loop", "Scan"]
    plain = net(spell("h = MatMul(x, w)  g = Mul(h, k)  y = Relu(g)"), spell("F x"), spell("F y"), **constants)
    for n, sign in [(1, 1), (1, -1), (3, 1), (3, -1)]:
        x = np.asarray(sign * np.abs(data(n, 6, seed=n)), kind)
        found = run(compiled, x=x)
        for key, y in run(model, x=x).items():
            assert found[key].dtype == y.dtype
            near(found[key], y, tolerance)
        near(found["relevance.x"], lrp(plain, {"x": x.astype(np.float32)}, **options)["relevance.x"], tolerance)


@pytest.mark.parametrize(
    ("opset", "ir", "text"), [(9, 4, OLD), (21, 10, "g = Gelu(h)  r = Gelu(g)  j = LayerNormalization(r, ones)")]
)
def test_bodies_that_stay_are_brought_to_the_opset(opset: int, ir: int, text: str) -> None:
    body = f"""sum = ReduceSum<keepdims=0>(x)  c = Greater(sum, f0)  h = MatMul(x, w)  y = Relu(h)
        p = If(c)<{branches("F o", f"{text}  o = Identity(j)", "F b", "b = Neg(h)")}>"""
    model = net(spell(body), spell("F x"), spell("F y, F p"), opset=opset, ir=ir, w=W, f0=np.float32(0), **ONES)
    for sign in (1, -1):
        x = sign * np.abs(data(2, 6))
        found = lrp(model, {"x": x})
        for key, y in run(model, x=x).items():
            near(found[key], y)


@pytest.mark.parametrize("bake", [False, True])
def test_weights_that_a_body_captures_are_stored_once(bake: bool) -> None:
    body = f"""{GREATER}  h = MatMul(x, w)  y = Relu(h)
        p = If(c)<{branches("float[N,64] a", "a0 = MatMul(x, w)  a = MatMul(a0, v)", "float[N,64] b", "b = MatMul(h, v)")}>"""
    constants = {"w": weight(64, 64), "v": weight(64, 64, seed=5), "f0": np.float32(0)}
    model = net(body, "float[N,64] x", "float[N,64] y, float[N,64] p", **constants)
    compiled = onnxlrp.compile(model, "epsilon", bake=bake)
    assert compiled.ByteSize() < model.ByteSize() + 10_000 + bake * 20_000  # a transposed weight, when it is stored
    for sign in (1, -1):
        x = sign * np.abs(data(2, 64))
        for key, y in run(model, x=x).items():
            near(run(compiled, x=x)[key], y)


def test_the_limit_counts_nodes_and_what_is_over_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LIMIT", 12)
    few, many = (loop("F v", "F o", f"o = MatMul(v, w)  d = Less(i, {end})") for end in ("i2", "i7"))
    body = f"y = Loop(most, , x)<{few}>  h = Relu(x)  z = Loop(most, , h)<{many}>"
    model = net(spell(body), spell("F x"), spell("F y, F z"), w=W, most=np.int64(100), **INTS)
    compiled, x = onnxlrp.compile(model, "epsilon"), data(2, 6)
    assert [n.op_type for n in compiled.graph.node].count("Loop") == 1
    for key, y in run(model, x=x).items():
        near(run(compiled, x=x)[key], y)
    with pytest.raises(UnsupportedOp, match=r"node 'z' \(Loop\): 4 iterations of 2 nodes would be more than the 12 that"):
        onnxlrp.compile(model, "epsilon", output="z")


# --------------------------------------------------------------------------------------------------- names and structure


def test_names_start_with_the_control_flow_node_and_weights_are_shared() -> None:
    model, _ = pair(TWINS["loop with an if on the iteration number"])
    assert [layer.name for layer in onnxlrp.inspect(model, "epsilon")] == ["y/0/MatMul_0", "y/1/MatMul_0", "y/2/MatMul_0"]
    compiled = onnxlrp.compile(model, "epsilon")
    names = [n.name for n in compiled.graph.node]
    assert "y/1/If_3/Tanh_1" in names
    assert len(set(names)) == len(names)
    assert [t.name for t in compiled.graph.initializer].count("w") == 1


def test_what_no_round_changes_is_computed_once() -> None:
    steps = "t = Transpose<perm=[1,0]>(w)  a = Mul(x, k)  m = MatMul(v, t)  o = Add(m, a)"
    source = load(net(spell(f"y = Loop(i3, , x)<{loop('F v', 'F o', steps)}>"), spell("F x"), spell("F y"), w=W, k=B, **INTS))
    unroll(source)
    count = {op: sum(n.op == op for n in source.graph.nodes) for op in ("Transpose", "Mul", "MatMul", "Add")}
    assert count == {"Transpose": 1, "Mul": 1, "MatMul": 3, "Add": 3}


def test_constants_of_the_same_name_in_sibling_bodies() -> None:
    branch = "{name}_branch = {name} () => (F {name}o) <float[6] k = {{{values}}}> {{ {name}o = Add(v, k) }}"
    one, two = (branch.format(name=n, values=v) for n, v in [("then", "1,2,3,4,5,6"), ("else", "6,-5,4,-3,2,-1")])
    steps = f"s = Mod(i, i2)  e = Equal(s, i0)  o = If(e)<{one}, {two}>"
    model = net(spell(f"y = Loop(i2, , x)<{loop('F v', 'F o', steps)}>"), spell("F x"), spell("F y"), **INTS)
    x = data(2, 6)
    near(lrp(model, {"x": x})["y"], x + np.float32([7, -3, 7, 1, 7, 5]))


def test_module_paths_of_the_exporter_reach_the_copies() -> None:
    model, _ = pair(TWINS["if, condition a constant"])
    scope, node = "pkg.torch.onnx.name_scopes", model.graph.node[1]
    node.metadata_props.add(key=scope, value="['', 'head', 'head.choice', 'If']")
    for path in ("head.choice", "head.minus"):
        source = load(model)
        unroll(source)
        assert source.scope(source.graph.nodes[1]) == path
        branch = next(a.g for a in node.attribute if a.name == "else_branch")
        branch.node[0].metadata_props.add(key=scope, value="['', 'head', 'head.minus', 'Neg']")


def test_control_flow_in_a_local_function() -> None:
    function = """<domain: "own", opset_import: ["" : 18]> pick (v, flag) => (o) {
        o = If(flag)<then_branch = t () => (a) { a = Relu(v) }, else_branch = e () => (b) { b = Neg(v) }> }"""
    model = net(spell("h = MatMul(x, w)  p = own.pick(h, yes)  y = own.pick(p, no)"), spell("F x"), spell("F y"),
                domains=', "own" : 1', functions=function, w=W, yes=True, no=False)  # fmt: skip
    twin = net(spell("h = MatMul(x, w)  p = Relu(h)  y = Neg(p)"), spell("F x"), spell("F y"), w=W)
    x = data(2, 6)
    found, wanted = lrp(model, {"x": x}), lrp(twin, {"x": x})
    near(found["y"], wanted["y"])
    near(found["relevance.x"], wanted["relevance.x"])


def test_a_softmax_at_the_end_of_a_branch_is_stripped() -> None:
    body = f"h = MatMul(x, w)  y = If(yes)<{branches('F a', 'a = Softmax(h)', 'F b', 'b = Neg(h)')}>"
    assert onnxlrp.inspect(net(spell(body), spell("F x"), spell("F y"), w=W, yes=True)).head.stripped == ("Softmax",)


# ------------------------------------------------------------------------------------------------------------------ speed


def chain(count: int) -> onnx.ModelProto:
    """Ifs on a size that is only known when the If before is written out, as torch exports squeeze."""
    lines = []
    for i in range(count):
        lines.append(f"v{i} = Unsqueeze({f'h{i}' if i else 'x'}, one)  s{i} = Shape(v{i})  g{i} = Gather(s{i}, one)")
        squeeze = branches(f"F a{i}", f"a{i} = Squeeze(v{i}, one)", f"float[N,1,6] b{i}", f"b{i} = Identity(v{i})")
        lines.append(f"c{i} = Equal(g{i}, one)  h{i + 1} = If(c{i})<{squeeze}>")
    return net(spell("\n".join([*lines, f"y = MatMul(h{count}, w)"])), spell("F x"), spell("F y"), w=W, one=ONE)


def grow(rounds: int) -> onnx.ModelProto:
    """A Loop that ends when a counter of sizes is large enough."""
    steps = "m = MatMul(v, w)  o = Relu(m)  s = Shape(o)  g = Gather(s, one)  j1 = Add(j, g)  d = Less(j1, end)"
    body = f"k, y = Loop( , , zero, x)<{loop('int64[1] j, F v', 'int64[1] j1, F o', steps)}>"
    return net(spell(body), spell("F x"), spell("F y"), w=W, one=ONE, zero=ONE * 0, end=ONE * 6 * rounds)


def test_ifs_in_a_row_wait_for_each_other() -> None:
    x, twin = data(3, 6), net("y = MatMul(x, w)", spell("F x"), spell("F y"), w=W)
    near(lrp(chain(5), {"x": x})["relevance.x"], lrp(twin, {"x": x})["relevance.x"])


def looked_at(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many nodes are looked at to write a model out: by shape inference and for their values."""
    seen = 0
    for name in ("_model", "_learn"):
        original = getattr(Known, name)

        def counting(self: Known, what: Any, original: Any = original) -> Any:
            nonlocal seen
            seen += len(what) if isinstance(what, list) else 1
            return original(self, what)

        monkeypatch.setattr(Known, name, counting)
    source = load(model)
    unroll(source)
    monkeypatch.undo()
    assert not source.kept
    return seen


@pytest.mark.parametrize("batch", ["N", "?"])
@pytest.mark.parametrize("make", [chain, grow])
def test_work_is_linear(make: Any, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [make(n) for n in (10, 40)]
    for model in models if batch == "?" else ():
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    few, many = (looked_at(model, monkeypatch) for model in models)
    assert few < many < 4.5 * few
