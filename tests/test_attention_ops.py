"""Attention and rotary operators: outputs are those of the original in onnxruntime, derivatives those of its outputs."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from attention_cases import CASES, I32, I64, JOINT, JOINTS, PAST, Case, X, Y, apart, grouped, joint, standard, turned
from helpers import Runner, shared
from models_for_tests import data, lrp, near, net, run
from node_data import Case as NodeCase
from node_data import Session, cases

import onnxlrp
import onnxlrp.expansions.attention
import onnxlrp.expansions.fused_attention
from onnxlrp.errors import UnsupportedOp
from onnxlrp.graph import load, to_proto
from onnxlrp.normalize import normalize


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in standard operators of opset 18."""
    source = load(model)
    normalize(source)
    out = to_proto(source.graph, source.metadata, {}, None, source.types)
    assert not any(n.domain for n in out.graph.node)
    assert {o.version for o in out.opset_import if o.domain == ""} == {18}
    assert all(onnx.defs.has(n.op_type, 18, "") for n in out.graph.node)
    return out


def same(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, with −∞ in the same places."""
    there = np.isfinite(wanted)
    assert np.all(found[~there] == wanted[~there])
    near(np.where(there, found, 0), np.where(there, wanted, 0), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_runtimes(name: str) -> None:
    case = CASES[name]
    feeds, found = case.feeds(), Runner(written_out(case.model()), optimise=False)(case.feeds())
    wanted = run(case.model(case.same), **feeds)
    assert set(found) == set(wanted)
    for output, value in wanted.items():
        same(found[output], value)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.floats])
def test_derivatives_are_those_of_the_outputs(name: str) -> None:
    """Σ r · (y(x + h u) - y(x - h u)) / 2h, from onnxruntime's kernel, is Σ (Jᵀr) · u."""
    case, h = CASES[name], 1e-2
    feeds, names = case.feeds(), case.floats
    y = run(case.model(case.same), **feeds)["y"]
    r = np.asarray(np.random.default_rng(7).choice([-1, 1], y.shape), np.float32)
    got = lrp(case.model(), {**feeds, "relevance_out": r}, "gradient", explain=names, output="y", init="given")
    u = {n: data(*feeds[n].shape, seed=40 + i) for i, n in enumerate(names)}
    ahead, back = (run(case.model(case.same), **{**feeds, **{n: feeds[n] + s * u[n] for n in names}})["y"] for s in (h, -h))
    slope = np.sum(r * (ahead.astype(np.float64) - back)) / (2 * h)
    parts = [np.sum(got[f"relevance.{n}"].astype(np.float64) * u[n]) for n in names]
    size = np.sqrt(sum(np.sum(got[f"relevance.{n}"].astype(np.float64) ** 2) for n in names))
    assert size > 0
    assert abs(sum(parts) - slope) <= 3e-3 * size


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16."""
    for face in (*model.graph.input, *model.graph.output):
        if face.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            face.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for t in model.graph.initializer:
        value = onnx.numpy_helper.to_array(t)
        if value.dtype == np.float32:
            t.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), t.name))
    return model


HALF = (
    "Attention-23: boolean mask of run time, causal", "Attention: bias and mask", "MultiHeadAttention: past, unidirectional=1",
    "GroupQueryAttention: decoding, window", "GroupQueryAttention: sink", ": rotary of a part", ": embedding",
)  # fmt: skip


@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    case = CASES[name]
    given = {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in case.feeds().items()}
    found, wanted = run(written_out(in_half(case.model())), **given), run(case.model(), **case.feeds())
    for output, value in wanted.items():
        near(found[output].astype(np.float32), value, 5e-3)


def of_nodes() -> list[NodeCase]:
    return [c for c in cases().values() if c.op in ("Attention", "RotaryEmbedding") and c.base == c.name]


@pytest.mark.parametrize("case", of_nodes(), ids=lambda c: c.name)
def test_node_tests_of_onnx(case: NodeCase) -> None:
    found = Session(written_out(case.model))(case.feeds)
    for output, value in zip(case.model.graph.output, case.expected, strict=True):
        same(found[output.name].astype(np.float64), value.astype(np.float64), case.tolerance)


# what the graph looks like ---------------------------------------------------------------------------------------------------


def test_a_mask_of_known_size_is_a_constant() -> None:
    x = "float[2,4,3,6] q, float[2,2,5,6] k, float[2,2,5,5] v"
    model = written_out(net("y = Attention<is_causal=1>(q, k, v)", x, "float[2,4,3,5] y", opset=23, ir=11))
    assert [n.op_type for n in model.graph.node] == [
        "Mul", "Gather", "Transpose", "MatMul", "Where", "Softmax", "Gather", "MatMul",
    ]  # fmt: skip


def test_the_projection_of_a_fused_attention_is_a_layer_of_its_name() -> None:
    plan = onnxlrp.inspect(JOINTS["plain"].model(), "epsilon", explain=["x"])
    assert [s.unit.op for s in plan.steps if s.unit.name == "y"] == ["MatMul"]


def test_a_node_waits_for_the_rank_of_what_is_written_out_before_it() -> None:
    body = """
        n = com.microsoft.SkipLayerNormalization(x, x, g)
        h = com.microsoft.MultiHeadAttention<num_heads=2>(n, n, n)
        y = com.microsoft.Attention<num_heads=2, unidirectional=1>(h, w, b)
    """
    model, x = net(body, X, Y, domains=', "com.microsoft" : 1', g=data(6, low=0.5), **JOINT), data(2, 3, 6)
    wanted = run(model, x=x)["y"]
    near(lrp(model, {"x": x}, "epsilon", explain=["x"])["y"], wanted)
    near(lrp(in_half(model), {"x": x.astype(np.float16)}, "epsilon", explain=["x"])["y"].astype(np.float32), wanted, 5e-3)


def test_a_row_that_sees_nothing_has_derivatives() -> None:
    mask = np.zeros((3, 5), np.float32)
    mask[1] = -np.inf
    case = standard(inputs="q, k, v, m", m=mask)
    feeds = {**case.feeds(), "relevance_out": data(2, 4, 3, 5)}
    for composite in ("gradient", "epsilon"):
        found = lrp(case.model(), feeds, composite, explain=["q", "k", "v"], init="given")
        assert all(np.all(np.isfinite(r)) for r in found.values())
        assert np.all(found["relevance.q"][:, :, 1] == 0)
        assert np.all(found["y"][:, :, 1] == 0)


# relevance -------------------------------------------------------------------------------------------------------------------

SPELLED = """
    a = MatMul(x, w)
    j = Add(a, b)
    q1, k1, v1 = Split<axis=-1, num_outputs=3>(j)
    q2 = Reshape(q1, apart)
    k2 = Reshape(k1, apart)
    v2 = Reshape(v1, apart)
    q = Transpose<perm=[0,2,1,3]>(q2)
    k = Transpose<perm=[0,2,3,1]>(k2)
    v = Transpose<perm=[0,2,1,3]>(v2)
    t = MatMul(q, k)
    u = Mul(t, scale)
    m = Add(u, mask)
    p = Softmax<axis=-1>(m)
    o = MatMul(p, v)
    o2 = Transpose<perm=[0,2,1,3]>(o)
    y = Reshape(o2, joint)
"""


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "gradient"])
def test_relevance_of_a_fused_attention_is_that_of_its_parts(composite: str) -> None:
    keeps = I32([[1, 1, 0], [0, 1, 1]])
    mask = np.where(np.tril(np.ones((3, 3), bool)), np.where(keeps[:, None, None], 0, -1e4), -np.inf).astype(np.float32)
    parts = {"apart": I64([0, 0, 2, 3]), "joint": I64([0, 0, 6]), "scale": np.float32(3**-0.5), "mask": mask}
    fused, plain = joint("unidirectional=1", "x, w, b, m", m=keeps).model(), net(SPELLED, X, Y, **JOINT, **parts)
    feeds = {"x": data(2, 3, 6, seed=2), "relevance_out": data(2, 3, 6, seed=3)}
    found, wanted = (lrp(m, feeds, composite, explain=["x"], init="given")["relevance.x"] for m in (fused, plain))
    near(found, wanted, 1e-5)
    assert np.abs(found).max() > 0


# refusals --------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "a mask of one column": (standard(inputs="q, k, v, m", m=data(3, 1)), "has one column"),
    "past_sequence_length": (joint("", "x, w, b, , p, , l", X + PAST, l=I32(2)), "its input 6 'l' is not supported"),
    "rotations": (joint("do_rotary=1"), "do_rotary"),
    "a mask of another length": (joint("", "x, w, b, m", "float[2,3,6] x", m=I32([3] * 8)), "length 8 for 2 rows"),
    "cache_indirection": (apart("", "q, k, v, b, , , , , , i", i=I32([[[0]]])), "its input 9 'i' is not supported"),
    "queries packed in three axes": (apart("", "x", "float[B,S,18] x"), "its input 1 is missing"),
    "a quantized cache": (grouped('k_quant_type="PER_TENSOR"'), "quantized cache"),
    "a cache that slides": (grouped("sliding_window_cache=1, local_window_size=2"), "slides"),
    "norms of queries": (grouped("", "q, k, v, , , l, t, , , , , , , , g, g", g=data(16)), "its input 14 'g'"),
    "packed batches": (turned("<is_packed_batching=1>", "B,2,S,6"), "is_packed_batching"),
    "another operator": (Case("y = @SparseAttention<num_heads=2>(x, w)", X, Y, JOINT), "com.microsoft::SparseAttention"),
    "an unknown rank": (
        Case("h = @LongformerAttention(x); y = @MultiHeadAttention<num_heads=2>(h, h, h)", X, Y),
        "rank of 'h'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_written_out_is_refused_by_name(name: str) -> None:
    case, said = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=re.escape(said)) as refused:
        onnxlrp.compile(case.model(), "epsilon", explain=[case.model().graph.input[0].name])
    assert re.match(r"node '[yh]'", str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_scores_that_are_not_written_out_are_refused_where_they_are_used() -> None:
    case = grouped("qk_output=1")
    model = case.model(case.body.replace("y, nk, nv", "y, nk, nv, qk"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("qk", onnx.TensorProto.FLOAT, None))
    with pytest.raises(UnsupportedOp, match="its output 3 'qk' is not known"):
        onnxlrp.compile(model, "epsilon", explain=["q"])


# files -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert_eager.ts.ortopt", "vit.dyn.ortopt", "llama_cls.dyn.ortopt"])
def test_files_that_onnxruntime_optimised(name: str) -> None:
    model, wanted = onnx.load(shared(f"zoo/{name}.onnx")), np.load(shared(f"zoo/{name}.npz"))
    assert any(n.domain == "com.microsoft" for n in model.graph.node)
    found = run(written_out(model), **{k[3:]: wanted[k] for k in wanted if k.startswith("in:")})
    for output, value in found.items():
        near(value, wanted[f"out:{output}"])
