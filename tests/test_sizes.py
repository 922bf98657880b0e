"""What is known of sizes without knowing all of them, against onnxruntime on several inputs."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, run, weight

import onnxlrp
from onnxlrp import order
from onnxlrp.graph import load
from onnxlrp.known import Known

SIZES = """
    s = Shape(x)               last = Shape<start=-2>(x)      n = Size(x)               c32 = Cast<to=6>(s)
    a = Gather(s, i1)          b = Gather(s, i0)              both = Gather(s, i31)     f = Cast<to=1>(s)
    sl = Slice(s, i1v, big)    rev = Slice(s, i3v, low, i0v, minus)                     p = Mul(s, s)
    u = Unsqueeze(a, i0v)      q = Squeeze(u)                 j = Concat<axis=0>(u, s, seven)
    r = Reshape(j, two3)       t = Transpose(r)               e = Expand(a, i31)        ne = Neg(s)
    d = Div(minus7, sl)        m = Mod(s, two)                k = Min(s, nine, two)     g2 = Gather(sp1, i0v)
    eq = Equal(s, three)       gt = Greater(s, zero)          lt = Less(both, two)      lt4 = Less(s, zero)
    an = And(eq, gt)           orr = Or(eq, lt4)              nt = Not(eq)              w = Where(eq, s, two4)
    sp1, sp2 = Split<axis=0>(s, sizes)                        v = Gather(s, i1v)        ti = Tile(v, two1)
    rp = ReduceProd<keepdims=0>(v)
"""
CONSTANTS = {
    "i0": np.int64(0), "i1": np.int64(1), "i0v": np.int64([0]), "i1v": np.int64([1]), "i3v": np.int64([3]),
    "i31": np.int64([3, 1]), "minus": np.int64([-1]), "big": np.int64([2**63 - 1]), "low": np.int64([-(2**62)]),
    "seven": np.int64([7]), "two3": np.int64([2, 3]), "minus7": np.int64([-7]), "two": np.int64(2), "three": np.int64(3),
    "zero": np.int64(0), "nine": np.int64([9, 1, 9, 3]), "two4": np.int64([2] * 4), "sizes": np.int64([3, 1]),
    "two1": np.int64([2]),
}  # fmt: skip
NEVER_SURE = ("Min", "Greater", "Less", "And", "Or", "Div", "Mod")  # equal for all sizes, which only a range would tell


def model_of_sizes() -> tuple[onnx.ModelProto, list[str]]:
    cells = [c for line in SIZES.strip().splitlines() for c in re.split(r"\s{3,}", line.strip())]
    names = [n for cell in cells for n in cell.split(" =")[0].split(", ")]
    model = net(SIZES, "float[N,3,M,5] x", ", ".join(f"int64 {n}" for n in names), **CONSTANTS)
    order.sort_proto(model.graph)
    for value in model.graph.output:
        value.CopyFrom(onnx.helper.make_empty_tensor_value_info(value.name))
    types = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
    for value in model.graph.output:
        value.CopyFrom(types[value.name])
    return model, names


def test_sure_values_are_what_onnxruntime_finds_for_every_size() -> None:
    model, names = model_of_sizes()
    truths = [run(model, x=np.zeros(size, np.float32)) for size in [(1, 3, 1, 5), (2, 3, 4, 5), (3, 3, 3, 5)]]
    source = load(model)
    known, partly = Known(source.graph, ()), 0
    tensors = {t.name: (t, n) for n in source.graph.nodes for t in n.outputs}
    for name in names:
        t, node = tensors[name]
        known.value(t)
        found = known.values[name]
        for truth in truths:
            assert (found.value.shape, found.value.dtype) == (truth[name].shape, truth[name].dtype), name
            assert np.array_equal(found.value[found.sure], truth[name][found.sure]), name
        same = np.logical_and.reduce([truths[0][name] == truth[name] for truth in truths])
        assert node.op in NEVER_SURE or np.array_equal(found.sure, same), name
        partly += bool(0 < found.sure.sum() < found.sure.size)
    assert partly > 10


@pytest.mark.parametrize("pick", ["n = Gather(s, one)", "n = Slice(s, onev, twov)", "q = Mul(s, onev)  n = Gather(q, one)"])
def test_known_sizes_beside_a_symbolic_batch_are_folded(pick: str) -> None:
    """A size of x (N,6) is a number, whatever the batch is; what needs the batch stays."""
    body = f"h = MatMul(x, w)  s = Shape(h)  {pick}  f = Cast<to=1>(n)  g = Sqrt(f)  y = Div(h, g)  b = Gather(s, zero)"
    constants = {"w": weight(6, 6), "one": np.int64(1), "zero": np.int64(0), "onev": np.int64([1]), "twov": np.int64([2])}
    compiled = onnxlrp.compile(net(body, "float[N,6] x", "float[N,6] y, int64 b", **constants), "epsilon")
    assert "Sqrt" not in [n.op_type for n in compiled.graph.node]
    x = data(3, 6)
    near(run(compiled, x=x)["y"], x @ constants["w"] / np.sqrt(6))
    assert run(compiled, x=x)["b"] == 3


def test_a_large_constant_is_not_written_out_on_the_way() -> None:
    """A mask of 4 million zeros is no size."""
    body = "s = Shape(x)  n = Gather(s, one)  z = ConstantOfShape(big)  y = Mul(x, two)"
    model = net(body, "float[N,6] x", "float[N,6] y", one=np.int64(1), big=np.int64([2048, 2048]), two=np.float32(2))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, [2048, 2048]))
    known = Known((source := load(model)).graph, ())
    assert known.value(next(n for n in source.graph.nodes if n.op == "ConstantOfShape").outputs[0]) is None
