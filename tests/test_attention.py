"""Attention by AttnLRP and CP-LRP against the formulas in numpy (attention_blocks.py), masks, tokens, padding, plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from attention_blocks import LOWEST, Block, D, stab, twin
from helpers import error, explain, run
from models_for_tests import data, near, net, weight

import onnxlrp
from onnxlrp.doctor import examine
from onnxlrp.rules import Epsilon, GeneralizedGamma

Array = np.ndarray
N, T, V = 2, 5, 7

SPELLINGS = {
    "MatMul, scale by Mul": Block(),
    "scale by Div": Block(scale="Div"),
    "scale on q and k": Block(scale="both"),
    "Gemm": Block(spelled="Gemm"),
    "Einsum": Block(spelled="Einsum"),
    "Reshape by Shape": Block(by_shape=True),
    "mask by Where, −inf": Block(mask="where"),
    "mask by Where, finfo.min": Block(mask="lowest"),
    "mask by Add": Block(mask="add"),
    "IsNaN guard": Block(mask="where", guard=True),
    "grouped queries": Block(kv=2),
    "one key for all": Block(kv=1),
    "SwiGLU": Block(mlp="swiglu"),
    "GLU": Block(mlp="glu"),
    "RMSNorm": Block(norm="rms"),
    "rotary": Block(rope=True),
    "Llama": Block(rope=True, kv=2, norm="rms", mlp="swiglu", mask="add", bias=False),
}


def causal(n: int = N, t: int = T) -> Array:
    return np.broadcast_to(np.tril(np.ones((t, t), bool)), (n, 1, t, t)).copy()


def feeds(block: Block, allowed: Array, low: float = -np.inf) -> tuple[dict[str, Array], Array | None]:
    """What the model is given, and the mask for the twin."""
    n, t = len(allowed), allowed.shape[-1]
    x = {"x": data(n, t, D, seed=3)}
    if block.mask == "add":
        added = np.where(allowed, 0, low).astype(np.float32)
        return {**x, "added": added}, added
    return ({**x, "allowed": allowed}, allowed) if block.mask else (x, None)


def explained(block: Block, law: str, feed: dict[str, Array], r: Array, **options: Any) -> dict[str, Array]:
    """Outputs and relevances; r: that of y."""
    return explain(block.model(), f"{law}_lrp", feed, r, explain=["x"], **options)


@pytest.mark.parametrize("law", ["attn", "cp"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_block_in_every_spelling_is_its_formula(name: str, law: str) -> None:
    block, r = SPELLINGS[name], data(N, T, D, seed=9)
    feed, mask = feeds(block, causal())
    found, expected = explained(block, law, feed, r), twin(block, feed["x"], r, mask, law)
    near(found["y"], expected["y"], 1e-5)
    near(found["relevance.x"], expected["x"], 1e-4)


@pytest.mark.parametrize("law", ["attn", "cp"])
def test_finfo_min_added_is_a_mask_too(law: str) -> None:
    block, r = Block(mask="add"), data(N, T, D, seed=9)
    feed, mask = feeds(block, causal(), LOWEST)
    near(explained(block, law, feed, r)["relevance.x"], twin(block, feed["x"], r, mask, law)["x"], 1e-4)


@pytest.mark.parametrize("tensor", ["probs", "scores", "q5", "k5", "v5"])
def test_relevance_within_the_block_is_its_formula(tensor: str) -> None:
    block, r = Block(mask="where"), data(N, T, D, seed=9)
    feed, mask = feeds(block, causal())
    found = explained(block, "attn", feed, r, layers=[tensor])
    near(found[f"relevance.{tensor}"], twin(block, feed["x"], r, mask)[tensor.rstrip("5")], 1e-4)


# masks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["where", "add", "lowest"])
@pytest.mark.parametrize("law", ["attn", "cp"])
@pytest.mark.parametrize("checks", [False, True])
def test_a_masked_key_gets_exactly_nothing(spelling: str, law: str, checks: bool) -> None:
    block, r = Block(mask=spelling), data(N, T, D, seed=9)
    allowed = np.ones((N, 1, T, T), bool)
    allowed[:, :, :, 3] = False
    r[:, 3] = 0
    found = explained(block, law, feeds(block, allowed)[0], r, checks=checks)
    assert np.isfinite(found["relevance.x"]).all()
    assert np.all(found["relevance.x"][:, 3] == 0)
    assert np.abs(found["relevance.x"][:, 2]).max() > 1e-3
    assert not checks or np.isfinite(found["checks"]).all()


@pytest.mark.parametrize("spelling", ["where", "add"])
@pytest.mark.parametrize("preset", ["attn_lrp", "cp_lrp", "gradient", "gradient_x_input"])
def test_a_row_without_any_key_is_finite(preset: str, spelling: str) -> None:
    block, r = Block(mask=spelling, guard=True), data(N, T, D, seed=9)
    allowed = causal()
    allowed[1, :, 2] = False
    feed, mask = feeds(block, allowed)
    found = explain(block.model(), preset, feed, r, explain=["x"])["relevance.x"]
    assert np.isfinite(found).all()
    if preset.endswith("lrp"):
        near(found, twin(block, feed["x"], r, mask, preset.split("_")[0])["x"], 1e-4)


@pytest.mark.parametrize("spelling", ["lowest", "add"])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_a_row_of_finfo_min_is_finite(spelling: str, size: float) -> None:
    block, r = Block(mask=spelling), np.float32(size) * data(N, T, D, seed=9)
    allowed = causal()
    allowed[1, :, 2] = False
    found = explained(block, "attn", feeds(block, allowed, LOWEST)[0], r)
    assert np.isfinite(found["relevance.x"]).all()


# CP-LRP ---------------------------------------------------------------------------------------------------------------

HEAD = "p = ReduceMean<keepdims=0>(y0, first)\ny = MatMul(p, head)"


def classifier(block: Block, batch: Any = "N", length: Any = T) -> onnx.ModelProto:
    """x (N,T,D) to y (N,4): the block, the mean over T, a dense layer."""
    text, size = f"{block.body(out='y0')}\n{HEAD}", length if isinstance(length, int) else T
    return net(
        text, f"float[{batch},{length},{D}] x", f"float[{batch},4] y", **block.used(text, size), head=weight(D, 4, seed=70)
    )


@pytest.mark.parametrize(
    "block", [Block(norm="rms", bias=False, mlp="glu"), Block(norm="none", bias=False, rope=True, kv=2), Block(bias=False)]
)
def test_cp_lrp_conserves_without_biases(block: Block) -> None:
    x = data(N, T, D, seed=3)
    found = explain(classifier(block), "cp_lrp", {"x": x})
    near(found["relevance.x"].sum((1, 2)), found["y"].max(1), 1e-3)


def test_cp_lrp_gives_queries_and_keys_nothing() -> None:
    x = data(N, T, D, seed=3)
    found = explain(classifier(Block()), "cp_lrp", {"x": x}, layers=["q0", "k0", "v0"])
    assert not found["relevance.q0"].any()
    assert not found["relevance.k0"].any()
    assert np.abs(found["relevance.v0"]).max() > 1e-3


def test_a_gate_gets_nothing_and_two_gates_share() -> None:
    body = "g = Sigmoid(a)\n{b}\ny = Mul(g, c)"
    a, b = data(2, 3, seed=1), data(2, 3, seed=2)
    decided, relevances = {}, {}
    for name, line in {"one": "c = Relu(b)", "all": "c = Sigmoid(b)", "none": "c = Relu(b)"}.items():
        text = body.format(b=line) if name != "none" else "g = Tanh(a)\nc = Relu(b)\ny = Mul(g, c)"
        model = net(text, "float[N,3] a, float[N,3] b", "float[N,3] y")
        relevances[name] = explain(model, "cp_lrp", {"a": a, "b": b}, np.ones((2, 3)))
        decided[name] = next(la for la in onnxlrp.inspect(model, "cp_lrp") if la.op.startswith("Mul")).why
    assert not relevances["one"]["relevance.a"].any()
    near(relevances["one"]["relevance.b"], np.ones((2, 3)))
    for name in ("all", "none"):
        near(relevances[name]["relevance.a"], np.full((2, 3), 0.5))
        near(relevances[name]["relevance.b"], np.full((2, 3), 0.5))
        assert f"{name} of its operands a gate: as Uniform" in decided[name]
    assert "Uniform" not in decided["one"]


@pytest.mark.parametrize(
    "between", ["Identity(g)", "Transpose<perm=[0,1]>(g)", "Mul(g, two)", "Cast<to=1>(g)", "Unsqueeze(g, nil)"]
)
def test_a_gate_is_seen_through_moves_casts_and_scales(between: str) -> None:
    text = f"g = Sigmoid(a)\nh = {between}\nb1 = Relu(b)\ny0 = Mul(b1, h)\ny = Reshape(y0, flat)"
    words = {"two": np.float32(2), "nil": np.array([0]), "flat": np.array([-1, 3])}
    model = net(text, "float[N,3] a, float[N,3] b", "float[N,3] y", **{k: v for k, v in words.items() if k in text})
    found = explain(model, "cp_lrp", {"a": data(2, 3), "b": data(2, 3, seed=2)}, np.ones((2, 3)))
    assert not found["relevance.a"].any()
    near(found["relevance.b"], np.ones((2, 3)))


@pytest.mark.parametrize("spelled", ["MatMul", "Einsum"])
def test_value_only_gives_the_last_operand_everything(spelled: str) -> None:
    a, b, r = data(2, 3, 4, seed=1), data(2, 4, 5, seed=2), data(2, 3, 5, seed=3)
    product = "MatMul(a, b)" if spelled == "MatMul" else 'Einsum<equation="bij,bjk->bik">(a, b)'
    model = net(f"y = {product}", "float[2,3,4] a, float[2,4,5] b", "float[2,3,5] y")
    composite = onnxlrp.Composite(onnxlrp.GlobalTypeMap({"Product": onnxlrp.ValueOnly()}))
    found = explain(model, composite, {"a": a, "b": b}, r)
    assert not found["relevance.a"].any()
    near(found["relevance.b"], b * (a.swapaxes(1, 2) @ (r / stab(a.astype(np.float64) @ b))), 1e-5)


# AttnLRP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_node_but_the_softmax_conserves(name: str) -> None:
    block, r = SPELLINGS[name], data(N, T, D, seed=9)
    feed, _ = feeds(block, causal())
    model = block.model()
    books = explained(block, "attn", feed, r, checks=True)["checks"]
    steps = onnxlrp.inspect(model, "attn_lrp", explain=["x"], init="given").steps
    assert len(steps) == len(books)
    scale = np.abs(r).sum()
    for step, (arrived, sent, bias, epsilon, bad, *_) in zip(steps, books, strict=True):
        assert bad == 0
        if step.unit.op != "Softmax":
            assert abs(arrived - sent - bias - epsilon) < 1e-4 * scale, step.unit.name


def test_the_softmax_keeps_what_its_law_says() -> None:
    block, r = Block(mask="where"), data(N, T, D, seed=9)
    feed, _ = feeds(block, causal())
    found = explained(block, "attn", feed, r, layers=["probs", "scores"])
    model = block.model()
    for name in ("probs", "scores"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    y = run(model, feed)
    arrived, x = found["relevance.probs"].astype(np.float64), np.where(np.isfinite(y["scores"]), y["scores"], 0)
    law = x * (arrived - y["probs"] * arrived.sum(-1, keepdims=True))
    near(found["relevance.scores"], law, 1e-5)
    assert error(found["relevance.scores"].sum(-1), law.sum(-1)) < 1e-4
    assert abs(law.sum() - arrived.sum()) > 1e-2 * np.abs(arrived).sum()  # it does not conserve


def test_the_doctor_names_the_softmax() -> None:
    body = "s = MatMul(x, w)\np = Softmax<axis=-1>(s)\ny = MatMul(p, v)"
    model = net(body, "float[N,4] x", "float[N,3] y", w=4 * weight(4, 6), v=weight(6, 3, seed=2))
    report = examine(onnxlrp.Explainer(model, "attn_lrp"), {"x": data(1, 4)})
    assert not 0.5 <= report.ratio <= 2
    assert any("'p'" in text and "SoftmaxTaylor" in text for text in report.findings)


# tokens ---------------------------------------------------------------------------------------------------------------


def tokens(block: Block, head: str = "lm", mask: str = "N,T", length: str = "T", ids: str = "N,T") -> onnx.ModelProto:
    """ids and attention_mask through an embedding and a block to logits: (N,T,V), or (N,4) by the mean of marked tokens."""
    first = ["x = Gather(table, ids)", "am = Cast<to=9>(attention_mask)", "allowed = Unsqueeze(am, mask_axes)"]
    end = {
        "lm": ["y = MatMul(y0, head)"],
        "mean": ["af = Cast<to=1>(attention_mask)", "au = Unsqueeze(af, last)", "yk = Mul(y0, au)",
                 "ys = ReduceSum<keepdims=0>(yk, first)",
                 "n_of = ReduceSum<keepdims=1>(af, first)", "p = Div(ys, n_of)", "y = MatMul(p, head)"],
    }[head]  # fmt: skip
    text = "\n".join([*first, block.body(out="y0"), *end])
    shape = "N,4" if head == "mean" else f"N,{length},{V}"
    return net(
        text, f"int64[{ids}] ids, int64[{mask}] attention_mask", f"float[{shape}] y", **block.used(text),
        table=data(11, D, seed=80), mask_axes=np.array([1, 2]), head=weight(D, 4 if head == "mean" else V, seed=81),
    )  # fmt: skip


IDS = np.array([[1, 4, 2, 7, 3], [5, 5, 8, 0, 0]])
RIGHT = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
MASKED = Block(mask="where")


def test_relevance_per_token_is_the_sum_over_the_embedding() -> None:
    explainer = onnxlrp.Explainer(tokens(MASKED), "attn_lrp")
    found = explainer({"ids": IDS, "attention_mask": RIGHT})
    assert found.relevance.shape == (N, T, D)
    assert list(found.tokens) == ["x"]
    near(found.tokens["x"], found.relevance.sum(-1))
    assert "relevance_tokens.x" in [o.name for o in explainer.model.graph.output]


@pytest.mark.parametrize("head", ["lm", "mean"])
@pytest.mark.parametrize("law", ["attn", "cp"])
@pytest.mark.parametrize("by_shape", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_padding_gets_no_relevance(head: str, law: str, by_shape: bool, flip: bool) -> None:
    mask = RIGHT[:, ::-1] if flip else RIGHT
    model = tokens(replace(MASKED, by_shape=by_shape), head)
    found = explain(model, f"{law}_lrp", {"ids": IDS, "attention_mask": np.ascontiguousarray(mask)})["relevance_tokens.x"]
    assert np.all(found[mask == 0] == 0)
    assert np.all(found[mask == 1] != 0)


def only(rows: list[tuple[int, int]], logits: Array) -> Array:
    """The largest logit at these (row, position), 0 elsewhere."""
    r = np.zeros_like(logits)
    for n, t in rows:
        c = logits[n, t].argmax()
        r[n, t, c] = logits[n, t, c]
    return r


@pytest.mark.parametrize(
    ("mask", "position", "at"),
    [
        (RIGHT, -1, [(0, 4), (1, 2)]),
        (RIGHT, (-1,), [(0, 4), (1, 2)]),
        (RIGHT[:, ::-1], -1, [(0, 4), (1, 4)]),
        (np.array([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]), -1, [(0, 3), (1, 1)]),
        (RIGHT, 2, [(0, 2), (1, 2)]),
        (RIGHT, 3, [(0, 3)]),
        (RIGHT, -2, [(0, 3)]),
        (RIGHT, None, [*((0, t) for t in range(5)), *((1, t) for t in range(3))]),
    ],
)
def test_positions_count_marked_tokens_only(mask: Array, position: Any, at: list[tuple[int, int]]) -> None:
    model, feed = tokens(MASKED), {"ids": IDS, "attention_mask": np.ascontiguousarray(mask)}
    found = explain(model, "attn_lrp", feed, position=position)
    given = explain(model, "attn_lrp", feed, only(at, found["y"]))
    near(found["relevance.x"], given["relevance.x"], 1e-5)


def test_a_row_that_is_all_padding_gets_nothing_at_the_last_position() -> None:
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    model = tokens(Block(mask="where", guard=True))
    found = explain(model, "attn_lrp", {"ids": IDS, "attention_mask": mask}, position=-1)["relevance.x"]
    assert np.isfinite(found).all()
    assert not found[1].any()


def padded_sum(mask: str) -> onnx.ModelProto:
    """An output of T positions that reads the sum of a mask of another name for its length."""
    body = """
        x = Gather(table, ids)
        m = Cast<to=1>(attention_mask)
        c = ReduceSum<keepdims=1>(m, first)
        u = Unsqueeze(c, last)
        h = Add(x, u)
        y = MatMul(h, head)
    """
    return net(body, f"int64[N,T] ids, int64[{mask}] attention_mask", f"float[N,T,{V}] y", table=data(11, D, seed=80),
               first=np.array([1]), last=np.array([-1]), head=weight(D, V, seed=81))  # fmt: skip


@pytest.mark.parametrize(("mask", "size"), [("N,S", 3), ("N,S", 7), ("N,3", 3)])
@pytest.mark.parametrize("position", [None, -1])
def test_a_mask_of_another_length_is_left_alone(mask: str, size: int, position: int | None) -> None:
    """The mask marks memory tokens, the output has T positions."""
    model = padded_sum(mask)
    feed = {"ids": IDS, "attention_mask": np.tile([1, 0, 0, 0, 0, 0, 0], (N, 1))[:, :size]}
    at = [(n, t) for n in range(N) for t in range(T)] if position is None else [(0, 4), (1, 4)]
    found = explain(model, "attn_lrp", feed, position=position)
    given = explain(model, "attn_lrp", feed, only(at, found["y"]))
    near(found["relevance.x"], given["relevance.x"], 1e-5)


@pytest.mark.parametrize(("position", "at"), [(None, [(0, 0), (0, 1), (1, 0), (1, 1)]), (-1, [(0, 1), (1, 1)])])
def test_a_mask_whose_length_has_another_name(position: int | None, at: list[tuple[int, int]]) -> None:
    """Exporters name the axes of each input anew: what counts is the length when the model runs."""
    feed = {"ids": IDS, "attention_mask": np.tile([1, 1, 0, 0, 0], (N, 1))}
    model = padded_sum("N,S")
    found = explain(model, "attn_lrp", feed, position=position)
    near(found["relevance.x"], explain(model, "attn_lrp", feed, only(at, found["y"]))["relevance.x"], 1e-5)


# a vision transformer, half precision, open sizes ---------------------------------------------------------------------


def vit() -> onnx.ModelProto:
    """pixels (N,3,8,8): patches 4×4 by a convolution, positions, a block, the mean, a classifier."""
    block = Block()
    first = """
        c = Conv<kernel_shape=[4,4], strides=[4,4]>(pixels, patch)
        t0 = Reshape(c, grid)
        t1 = Transpose<perm=[0,2,1]>(t0)
        x = Add(t1, where)
    """
    text = f"{first}{block.body(out='y0')}\n{HEAD}"
    return net(
        text, "float[N,3,8,8] pixels", "float[N,4] y", **block.used(text, 4), patch=weight(D, 3, 4, 4),
        grid=np.array([0, D, -1]),
        where=data(4, D, seed=2) / 2, head=weight(D, 4, seed=70),
    )  # fmt: skip


def test_the_plan_of_attn_lrp_vit() -> None:
    plan = onnxlrp.inspect(vit(), "attn_lrp_vit")
    rules = {la.name: la.rule for la in plan if la.kind == "linear, with a weight"}
    gamma, epsilon = GeneralizedGamma(), Epsilon()
    expected = {
        "c": gamma,
        "q0_m": epsilon,
        "k0_m": epsilon,
        "v0_m": epsilon,
        "o_m": epsilon,
        "f1_m": gamma,
        "m_m": gamma,
        "y": epsilon,
    }
    assert rules == expected
    found = explain(vit(), "attn_lrp_vit", {"pixels": data(N, 3, 8, 8)})["relevance.pixels"]
    assert np.isfinite(found).all()


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 number, input and output a float16."""
    half = onnx.ModelProto.FromString(model.SerializeToString())
    for t in half.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT:
            t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16), t.name))
    for t in (*half.graph.input, *half.graph.output):
        if t.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            t.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return half


@pytest.mark.parametrize("law", ["attn", "cp"])
def test_half_precision_is_close_to_single(law: str) -> None:
    model, x, r, allowed = Block(mask="where").model(), data(N, T, D, seed=3), data(N, T, D, seed=9), causal()
    half = halved(model)
    full = explain(model, f"{law}_lrp", {"x": x, "allowed": allowed}, r, explain=["x"])["relevance.x"]
    found = explain(half, f"{law}_lrp", {"x": x.astype(np.float16), "allowed": allowed}, r, explain=["x"])["relevance.x"]
    assert np.isfinite(found).all()
    assert np.corrcoef(found.ravel(), full.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    "name", ["MatMul, scale by Mul", "Gemm", "Einsum", "Reshape by Shape", "mask by Where, −inf", "grouped queries"]
)
def test_batch_and_length_stay_open(name: str) -> None:
    block = SPELLINGS[name]
    compiled = onnxlrp.compile(block.model("N", "T"), "attn_lrp", explain=["x"], init="given")
    for n, t in ((1, 5), (3, 9)):
        feed, mask = feeds(block, causal(n, t))
        r = data(n, t, D, seed=9)
        found = run(compiled, {**feed, "relevance_out": r})
        near(found["relevance.x"], twin(block, feed["x"], r, mask)["x"], 1e-4)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_softmax_spelled_out_is_a_softmax(shifted: bool, axis: int) -> None:
    top = "m = ReduceMax(s, a)\nd = Sub(s, m)\ne = Exp(d)" if shifted else "e = Exp(s)"
    frame = "s = MatMul(x, w)\n{}\ny = MatMul(p, v)"
    sizes, weights = ("float[N,4,6] x", "float[N,4,3] y"), {"w": weight(6, 5, seed=90), "v": weight(5, 3, seed=91)}
    spelled = net(frame.format(f"{top}\nt = ReduceSum(e, a)\np = Div(e, t)"), *sizes, a=np.array([axis]), **weights)
    plain = net(frame.format(f"p = Softmax<axis={axis}>(s)"), *sizes, **weights)
    feed = {"x": data(2, 4, 6, seed=92)}
    for preset in ("attn_lrp", "cp_lrp", "gradient"):
        ours, theirs = (explain(m, preset, feed, data(2, 4, 3, seed=93)) for m in (spelled, plain))
        near(ours["y"], theirs["y"])
        near(ours["relevance.x"], theirs["relevance.x"], 1e-4)
    assert [la.op for la in onnxlrp.inspect(spelled)] == [la.op for la in onnxlrp.inspect(plain)]
