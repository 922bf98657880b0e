"""Peepholes: each fires on a row made for it, not on one that its guard refuses, and agrees with the plain emission."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from models_for_tests import data, near, net, run, weight

import onnxlrp

HEAD = "g = GlobalAveragePool({0})\n y = Flatten(g)"


Shapes = dict[str, tuple[int, ...]]
W: Shapes = {"w": (4, 3, 3, 3), "b": (4,)}


class Row(NamedTuple):
    """A network, a preset, what the name of a node ends with when the peephole fired, and whether it should."""

    body: str
    composite: str
    role: str
    fires: bool = True
    x: str = "float[N,3,9,7] x"
    shapes: Shapes = W
    y: str = "float[N,4] y"


CONV = "h = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b)\n r = Relu(h)\n" + HEAD.format("r")
RESIDUAL = """
    a = Relu(x)
    h = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a, w, b)
    s = Add(h, a)
    r = Relu(s)
    k = Conv<kernel_shape=[3,3]>(r, v, c)
    q = Relu(k)
""" + HEAD.format("q")
RESIDUAL_SHAPES = {"w": (3, 3, 3, 3), "b": (3,), "v": (4, 3, 3, 3), "c": (4,)}
BEHIND = "a = Relu(x)\n h = Conv<kernel_shape=[3,3]>(a, w, b)\n r = Relu(h)\n" + HEAD.format("r")
DEPTHWISE = "h = Conv<kernel_shape=[3,3], group=4, pads=[1,1,1,1], strides=[{0},{0}]>(x, w, b)\n r = Relu(h)\n" + HEAD.format(
    "r"
)
DEPTH = {"w": (4, 1, 3, 3), "b": (4,)}
UNEQUAL = "h = Conv<kernel_shape=[3,3], pads=[0,1,2,0], strides=[{0},{0}]>(x, w, b)\n r = Relu(h)\n" + HEAD.format("r")
UP = """
    a = Relu(x)
    h = ConvTranspose<kernel_shape=[3,3], strides=[{0},{0}]>(a, w, b)
    r = Relu(h)
""" + HEAD.format("r")
UP_SHAPES: Shapes = {"w": (3, 17, 3, 3), "b": (17,)}
DENSE = "y = Gemm<transB=1>(x, w, b)"
DENSE_SHAPES: Shapes = {"w": (4, 5), "b": (4,)}
BOX = "epsilon_gamma_box(low=-3, high=4)"

ROWS = {
    "factor": Row(RESIDUAL, "epsilon", "/sum", shapes=RESIDUAL_SHAPES),
    "factor, nothing in common": Row(CONV, "epsilon", "/sum", False),
    "factor, AlphaBeta": Row(BEHIND, "epsilon_alpha2_beta1", "/sum"),
    "scaled": Row(BEHIND, "epsilon_alpha2_beta1", "/scaled_by_2"),
    "scaled, no factor": Row(BEHIND, "epsilon_plus", "/scaled_by_2", False),
    "sign free": Row(RESIDUAL, "epsilon", "/size", shapes=RESIDUAL_SHAPES),
    "sign free, signs proved": Row(RESIDUAL, "epsilon_plus", "/size", False, shapes=RESIDUAL_SHAPES),
    "box filter": Row(CONV, "epsilon_plus_flat", "/box"),
    "box filter, 1-D": Row(
        "h = Conv<kernel_shape=[3], strides=[2]>(x, w, b)\n r = Relu(h)\n" + HEAD.format("r"), "flat", "/box",
        x="float[N,3,9] x", shapes={"w": (4, 3, 3), "b": (4,)},
    ),
    "box filter, groups": Row(DEPTHWISE.format(1), "flat", "/box", False, "float[N,4,9,7] x", DEPTH),
    "denominators at load, Flat": Row(CONV, "epsilon_plus_flat", "/one"),
    "denominators at load, WSquare": Row(CONV, "w_square", "/one"),
    "denominators at load, ZBox": Row(CONV, BOX, "/one"),
    "denominators at load, unknown sizes": Row(CONV, "w_square", "/one", False, "float[N,3,A,B] x", W),
    "denominators at load, dense": Row(DENSE, "w_square", "/one", x="float[N,5] x", shapes=DENSE_SHAPES),
    "epsilon in the bias": Row(BEHIND, "epsilon_plus", "/bias"),
    "epsilon in the bias, none there": Row(BEHIND.replace(", b)", ")"), "epsilon_plus", "/bias", shapes={"w": (4, 3, 3, 3)}),
    "epsilon in the bias, z is the output": Row(CONV, "epsilon", "/bias", False),
    "narrow": Row(CONV, BOX, "/low"),
    "narrow, dense": Row(DENSE, "tutorial_mlp", "/low", x="float[N,5] x", shapes=DENSE_SHAPES),
    "narrow, one bound is 0": Row(CONV, "epsilon_gamma_box(low=0, high=4)", "/low", False),
    "join": Row(CONV, "epsilon_plus", "/inputs"),
    "join, one sign": Row(BEHIND, "epsilon_plus", "/inputs", False),
    "join, groups": Row(DEPTHWISE.format(1), "epsilon_plus", "/inputs", False, "float[N,4,9,7] x", DEPTH),
    "depthwise": Row(DEPTHWISE.format(1), "epsilon", "/reversed", x="float[N,4,9,7] x", shapes=DEPTH),
    "depthwise, strided": Row(DEPTHWISE.format(2), "epsilon", "/spread", x="float[N,4,9,8] x", shapes=DEPTH),
    "depthwise, strided, unknown sizes": Row(DEPTHWISE.format(2), "epsilon", "/spread", False, "float[N,4,A,B] x", DEPTH),
    "unequal pads": Row(UNEQUAL.format(1), "epsilon", "/padded", shapes={"w": (4, 17, 3, 3), "b": (4,)}, x="float[N,17,9,7] x"),
    "unequal pads, strided": Row(UNEQUAL.format(2), "epsilon", "/full"),
    "equal pads": Row(CONV, "epsilon_plus", "/padded", False),
    "a model's own ConvTranspose": Row(UP.format(1), "epsilon_plus", "/swapped", shapes=UP_SHAPES, y="float[N,17] y"),
    "a model's own strided one": Row(UP.format(2), "epsilon_plus", "/swapped", False, shapes=UP_SHAPES, y="float[N,17] y"),
}  # fmt: skip


def sizes(row: Row) -> tuple[int, ...]:
    known = {"A": 9, "B": 7}
    return tuple(known.get(d, 0) or int(d) for d in row.x.partition("[")[2].partition("]")[0].split(",")[1:])


@pytest.mark.parametrize("name", ROWS)
def test_fires_where_it_should_and_agrees(name: str) -> None:
    row = ROWS[name]
    constants = {k: weight(*shape, seed=i + 1) for i, (k, shape) in enumerate(row.shapes.items())}
    model = net(row.body, row.x, row.y, **constants)
    plain, fast = (onnxlrp.compile(model, row.composite, optimize=o) for o in (False, True))
    fired = [n.name for n in fast.graph.node if n.name.endswith(row.role)]
    assert bool(fired) == row.fires, [n.name for n in fast.graph.node]
    assert not [n.name for n in plain.graph.node if n.name.endswith(row.role) and row.fires]
    for batch, low in ((1, None), (3, None), (2, 0.0)):
        x = data(batch, *sizes(row), seed=batch, low=low)
        expected, found = run(plain, x=x), run(fast, x=x)
        for output in expected:
            near(found[output], expected[output])


def test_alpha_beta_spares_the_layers_own_convolution() -> None:
    """x >= 0: z⁺ and z⁻ are computed, and the output is their sum; where x has either sign, nothing is spared."""
    for body, own in ((BEHIND, False), (CONV, True)):
        model = net(body, "float[N,3,9,7] x", **{k: weight(*s, seed=i + 1) for i, (k, s) in enumerate(W.items())})
        fast = onnxlrp.compile(model, "epsilon_alpha2_beta1")
        kept = [n for n in fast.graph.node if n.op_type == "Conv" and not n.name.startswith("lrp/")]
        assert bool(kept) == own
        x = data(2, 3, 9, 7)
        near(run(fast, x=x)["y"], run(model, x=x)["y"])


def test_a_layer_whose_output_is_asked_for_keeps_it() -> None:
    model = net(BEHIND, "float[N,3,9,7] x", **{k: weight(*s, seed=i + 1) for i, (k, s) in enumerate(W.items())})
    plain, fast = (onnxlrp.compile(model, "epsilon_alpha2_beta1", layers=["h", "a"], optimize=o) for o in (False, True))
    x = np.asarray(data(2, 3, 9, 7))
    expected, found = run(plain, x=x), run(fast, x=x)
    assert {"relevance.r", "relevance.a", "relevance.x"} <= set(expected)  # a layer is what its activation gives
    for output in expected:
        near(found[output], expected[output])
