"""Sequences of known length leave no sequence behind; the twins are written without them."""

from __future__ import annotations

import numpy as np
import pytest
from models_for_tests import data, lrp, near, net, run
from test_control import INTS, ONE, Twin, W, assert_twins, branches, loop, spell

import onnxlrp
from onnxlrp import UnsupportedOp

TWINS = {
    "append in a loop, then stack": Twin(
        f"""e = SequenceEmpty()
            v, q = Loop(i2, , x, e)<{loop(
              "F a, seq(F) l", "F o, seq(F) m", "h = MatMul(a, w)  o = Relu(h)  m = SequenceInsert(l, o)")}>
            z = ConcatFromSequence<axis=1, new_axis=1>(q)  y = ReduceSum<keepdims=0>(z, one)""",
        "h0 = MatMul(x, w)  o0 = Relu(h0)  h1 = MatMul(o0, w)  o1 = Relu(h1)  y = Add(o0, o1)",
        {"one": ONE},
    ),
    "insert, erase, at, length": Twin(
        f"""a = Relu(x)  b = MatMul(x, w)  q = SequenceConstruct(a, b)  r = SequenceInsert(q, x, i0)  s = SequenceErase(r, last)
            t = Identity(s)  n = SequenceLength(t)  c = Equal(n, i2)  h = SequenceAt(t, last)
            y = If(c)<{branches("F u", "u = MatMul(h, w)", "F v", "v = Neg(h)")}>""",
        "a = Relu(x)  y = MatMul(a, w)",
        {"last": np.int64(-1)},
    ),
    "the last one erased by default": Twin(
        "a = Relu(x)  b = MatMul(x, w)  q = SequenceConstruct(b, a)  r = SequenceErase(q)  y = ConcatFromSequence<axis=1>(r)",
        "y = MatMul(x, w)",
    ),
    "over the parts of a tensor": Twin(
        f"""q = SplitToSequence<axis=1, keepdims=0>(x)  n = SequenceLength(q)  zeros = Sub(x, x)
            z0 = ReduceSum<keepdims=0>(zeros, one)
            y = Loop(n, , z0)<{loop("F a", "F o", "p = SequenceAt(q, i)  m = MatMul(p, w)  t = Tanh(m)  o = Add(a, t)")}>""",
        "zeros = Sub(x, x)  z0 = ReduceSum<keepdims=0>(zeros, one)  "
        + "  ".join(f"p{i} = Gather<axis=1>(x, i{i})  m{i} = MatMul(p{i}, w)  t{i} = Tanh(m{i})  z{i + 1} = Add(z{i}, t{i})"
                    for i in range(3)) + "  y = Identity(z3)",
        {"one": ONE},
        x="float[N,3,6] x",
    ),
    "parts of given sizes": Twin(
        """q = SplitToSequence<axis=1>(x, sizes)  r = SplitToSequence<axis=1>(x, four)
           a = SequenceAt(q, i1)  b = SequenceAt(r, i0)
           s = SequenceAt(r, i1)  z = SequenceConstruct(b, a, s)  y = ConcatFromSequence<axis=1>(z)""",
        "q0, a = Split<axis=1>(x, sizes)  b, s = Split<axis=1>(x, halves)  y = Concat<axis=1>(b, a, s)",
        {"sizes": np.int64([2, 4]), "four": np.int64(4)},
        y="float[N,10] y",
        more={"halves": np.int64([4, 2])},
    ),
    "keepdims counts for a size of 1, as torch writes unbind": Twin(
        """q = SplitToSequence<axis=1, keepdims=0>(x, i1)  a = SequenceAt(q, i2)  u = Unsqueeze(a, one)  s = Relu(u)
           r = SplitToSequence<axis=1, keepdims=0>(x, sizes)  b = SequenceAt(r, i1)  y = Mul(s, b)""",
        "p = Gather<axis=1>(x, at)  s = Relu(p)  b = Gather<axis=1>(x, one)  y = Mul(s, b)",
        {"one": ONE, "sizes": np.int64([1] * 6)},
        y="float[N,1] y",
        more={"at": ONE * 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["N", 3])
@pytest.mark.parametrize("name", TWINS)
def test_relevance_is_that_of_the_twin(name: str, batch: int | str) -> None:
    assert_twins(TWINS[name], batch)


def test_a_sequence_may_still_be_an_output() -> None:
    body = "a = Relu(x)  b = MatMul(a, w)  q = SequenceConstruct(a, b)  y = SequenceAt(q, i1)"
    model, x = net(body, spell("F x"), spell("F y, seq(F) q"), w=W, **INTS), data(2, 6)
    found, wanted = lrp(model, {"x": x}), run(model, x=x)
    for mine, own in zip([found["y"], *found["q"]], [wanted["y"], *wanted["q"]], strict=True):
        near(mine, own)


def test_a_sequence_in_a_loop_that_stays() -> None:
    body = f"""s = ReduceSum<keepdims=0>(x)  c = Greater(s, f0)  h = MatMul(x, w)  y = Relu(h)  e = SequenceEmpty()
        v, q = Loop(i3, c, h, e)<{loop("F a, seq(F) l", "F o, seq(F) m", "o = Relu(a)  m = SequenceInsert(l, o)")}>
        n = SequenceLength(q)"""
    model = net(spell(body), spell("F x"), spell("F y, F v, int64 n"), w=W, f0=np.float32(0), **INTS)
    for sign in (1, -1):
        x = sign * np.abs(data(2, 6))
        found = lrp(model, {"x": x})
        for key, value in run(model, x=x).items():
            near(found[key], value)


def test_a_sequence_of_unknown_length_is_refused_by_name() -> None:
    body = "q = SplitToSequence(x)  h = SequenceAt(q, i1)  y = MatMul(h, w)"
    model = net(body, spell("F x"), "float[1,6] y", w=W, **INTS)
    with pytest.raises(UnsupportedOp, match="node 'q': operator SplitToSequence"):
        onnxlrp.compile(model)
