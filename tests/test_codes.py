"""Codes that opset 18 does not have: blocks, 16 bits, 4 bits and fewer, packed weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import onnx
import pytest
from models_for_tests import data, lrp, near, net, run, weight
from onnx import TensorProto, helper
from test_quantized import DOMAIN, M, codes

import onnxlrp
from onnxlrp.errors import UnsupportedOp

INT4 = TensorProto.INT4, TensorProto.UINT4


def tensor(name: str, values: np.ndarray, kind: int) -> onnx.TensorProto:
    """An initializer of a type that numpy does not have."""
    return helper.make_tensor(name, kind, values.shape, values.ravel().tolist())


def newer(body: str, x: str = "float[N,6] x", y: str = "float[N,4] y", opset: int = 21, **constants: Any) -> onnx.ModelProto:
    """A model of a newer opset; a constant may be a TensorProto."""
    plain = {k: v for k, v in constants.items() if not isinstance(v, onnx.TensorProto)}
    model = net(body.replace("; ", "\n"), x, y, opset=opset, ir=10, **plain)
    model.graph.initializer.extend(v for v in constants.values() if isinstance(v, onnx.TensorProto))
    return model


W4, Z4 = codes(6, 4, bits=4, seed=1), codes(3, 4, bits=3, seed=2)
S4 = data(3, 4, low=0.2, seed=3) / 9
U4 = W4.astype(np.uint8) % 16
WEIGHTS = {
    "int4": ("v = DequantizeLinear(w, s)", {"w": tensor("w", W4, INT4[0]), "s": np.float32(0.1)}, W4 * np.float32(0.1)),
    "uint4 with a zero point": (
        "v = DequantizeLinear(w, s, z)",
        {"w": tensor("w", U4, INT4[1]), "s": np.float32(0.1), "z": tensor("z", np.asarray(7), INT4[1])},
        (U4.astype(np.float32) - 7) * np.float32(0.1),
    ),
    "int4 per column": ("v = DequantizeLinear<axis=1>(w, s)", {"w": tensor("w", W4, INT4[0]), "s": S4[0]}, W4 * S4[0]),
    "int4 per row, axis < 0": (
        "v = DequantizeLinear<axis=-2>(w, s)",
        {"w": tensor("w", W4, INT4[0]), "s": np.tile(S4[:, 0], 2)},
        W4 * np.tile(S4[:, :1], (2, 1)),
    ),
    "int4 in blocks": (
        "v = DequantizeLinear<axis=0, block_size=2>(w, s, z)",
        {"w": tensor("w", W4, INT4[0]), "s": S4, "z": tensor("z", Z4, INT4[0])},
        (W4 - np.repeat(Z4, 2, 0)) * np.repeat(S4, 2, 0),
    ),
    "int8 in blocks": (
        "v = DequantizeLinear<axis=0, block_size=2>(w, s, z)",
        {"w": W4, "s": S4, "z": Z4},
        (W4 - np.repeat(Z4, 2, 0)) * np.repeat(S4, 2, 0),
    ),
    "int8 in uneven blocks": (
        "v = DequantizeLinear<axis=0, block_size=4>(w, s)",
        {"w": W4, "s": S4[:2]},
        W4 * np.repeat(S4[:2], 4, 0)[:6],
    ),
    "int16": (
        "v = DequantizeLinear(w, s, z)",
        {"w": codes(6, 4, kind=np.int16, bits=15), "s": np.float32(1e-4), "z": np.int16(300)},
        (codes(6, 4, kind=np.int16, bits=15) - np.float32(300)) * np.float32(1e-4),
    ),
    "uint16 per column": (
        "v = DequantizeLinear<axis=1>(w, s, z)",
        {"w": codes(6, 4, kind=np.uint16, bits=15), "s": S4[0] / 99, "z": np.full(4, 9000, np.uint16)},
        (codes(6, 4, kind=np.uint16, bits=15) - np.float32(9000)) * (S4[0] / 99),
    ),
    "int8 as ever": (
        "v = DequantizeLinear(w, s, z)",
        {"w": W4, "s": np.float32(0.1), "z": np.int8(3)},
        (W4 - np.float32(3)) * np.float32(0.1),
    ),
    "int4 in a Constant": ("v = DequantizeLinear(w, s)", {"s": np.float32(0.1)}, W4 * np.float32(0.1)),
}


def weighted(name: str) -> onnx.ModelProto:
    body, constants, _ = WEIGHTS[name]
    model = newer(f"{body}; y = MatMul(x, v)", **constants)
    if name == "int4 in a Constant":
        node = helper.make_node("Constant", [], ["w"], value=tensor("w", W4, INT4[0]), name="w")
        model.graph.node.insert(0, node)
    return model


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_on_other_codes(name: str) -> None:
    model, x = weighted(name), data(3, 6)
    plain = net("y = MatMul(x, v)", "float[N,6] x", "float[N,4] y", v=WEIGHTS[name][2].astype(np.float32))
    out, wanted = (lrp(m, {"x": x}, "zplus", target=[1]) for m in (model, plain))
    near(out["y"], wanted["y"], 1e-6)
    near(out["relevance.x"], wanted["relevance.x"], 1e-5)
    if "uneven" not in name:
        near(out["y"], helpers.run(model, {"x": x}, optimise=False)["y"], 1e-6)  # optimised, x is rounded to 8 bits


def test_four_bits_from_a_file(tmp_path: Path) -> None:
    """Weights that lie in a file of their own."""
    values, path = codes(64, 40, bits=4, seed=1), tmp_path / "model.onnx"
    model = newer(
        "v = DequantizeLinear(w, s); y = MatMul(x, v)",
        "float[N,64] x",
        "float[N,40] y",
        w=tensor("w", values, INT4[0]),
        s=np.float32(0.1),
    )
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    x = data(2, 64)
    near(run(onnxlrp.compile(path), x=x)["y"], x @ (values * np.float32(0.1)), 1e-6)


STEPS = {
    "int16": ("", {"s": np.float32(1e-4), "z": np.int16(-200)}),
    "uint16": ("", {"s": np.float32(1e-4), "z": np.uint16(20000)}),
    "int4": ("", {"s": np.float32(0.3), "z": tensor("z", np.asarray(-1), INT4[0])}),
    "uint4": ("", {"s": np.float32(0.3), "z": tensor("z", np.asarray(6), INT4[1])}),
    "int8 per column": ("axis=1", {"s": data(6, low=0.2) / 30, "z": np.arange(6, dtype=np.int8)}),
    "output_dtype": ("output_dtype=3", {"s": np.float32(0.02)}),
    "int8 in blocks": ("axis=1, block_size=2", {"s": data(3, 3, low=0.2) / 30, "z": codes(3, 3, bits=3)}),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_to_other_codes_and_back(name: str) -> None:
    attrs, constants = STEPS[name]
    z, there = ", z" if "z" in constants else "", f"<{attrs}>" if attrs else ""
    back = there if "axis" in attrs else ""
    between = "f = Flatten(q); g = Reshape(f, k)" if not back else "g = Identity(q)"
    body = f"h = Neg(x); q = QuantizeLinear{there}(h, s{z}); {between}; d = DequantizeLinear{back}(g, s{z}); y = Relu(d)"
    body = body if not back else body.replace("g = Identity(q); ", "").replace("(g, ", "(q, ")
    model = newer(body, "float[3,6] x", "float[3,6] y", **constants, **({} if back else {"k": np.int64([3, 6])}))
    x, r = data(3, 6), data(3, 6, seed=4)
    out = lrp(model, {"x": x, "relevance_out": r}, "epsilon", init="given")
    if name not in ("int4", "uint4"):  # no kernel of the CPU moves these
        near(out["y"], run(model, x=x)["y"], 1e-6)
    near(out["relevance.x"], r, 1e-6)
    step = np.ravel(constants["s"]).max()
    if name not in ("int16", "uint16"):
        assert len(np.unique(out["y"])) > 2
        assert np.abs(out["y"] - np.maximum(-x, 0)).max() < 3  # clipped at most
    assert np.abs(out["y"] - np.maximum(-x, 0)).min() <= step


def test_runtimes_own_quantisers() -> None:
    """com.microsoft has 16 bits before opset 21."""
    body = f"h = Neg(x)\nq = {M}QuantizeLinear(h, s, z)\nd = {M}DequantizeLinear(q, s, z)\ny = MatMul(d, v)"
    model = net(body, "float[N,6] x", "float[N,4] y", domains=DOMAIN, s=np.float32(1e-4), z=np.uint16(30000), v=weight(6, 4))
    x = data(3, 6)
    out = lrp(model, {"x": x}, "epsilon", target=[1])
    near(out["y"], run(model, x=x)["y"], 1e-6)
    plain = net("h = Neg(x)\ny = MatMul(h, v)", "float[N,6] x", "float[N,4] y", v=weight(6, 4))
    near(out["relevance.x"], lrp(plain, {"x": x}, "epsilon", target=[1])["relevance.x"], 1e-2)


def test_float8_is_refused() -> None:
    kind = TensorProto.FLOAT8E4M3FN
    model = newer("v = DequantizeLinear(w, s); y = MatMul(x, v)", w=tensor("w", data(6, 4), kind), s=np.float32(0.1))
    with pytest.raises(UnsupportedOp, match="node 'v' \\(DequantizeLinear\\): its codes are FLOAT8E4M3FN, which opset 18"):
        onnxlrp.compile(model)


def test_codes_without_a_pair_are_refused() -> None:
    model = newer(
        "q = QuantizeLinear(x, s, z); y = MatMul(x, v)",
        y="float[N,4] y, int16[N,6] q",
        s=np.float32(1e-4),
        z=np.int16(0),
        v=weight(6, 4),
    )
    with pytest.raises(UnsupportedOp, match="node 'q' \\(QuantizeLinear\\): codes of a type or layout that opset 18"):
        onnxlrp.compile(model, output="y")


NBITS = {
    "4 bits": (4, 32, 16, {}),
    "4 bits, a rest": (4, 40, 16, {}),
    "4 bits, zero points": (4, 48, 16, {"zero": np.uint8}),
    "4 bits, zero points of a row by one": (4, 64, 16, {"zero": np.uint8, "flat": True}),
    "4 bits, float zero points": (4, 48, 16, {"zero": np.float32}),
    "8 bits": (8, 48, 16, {}),
    "8 bits, zero points": (8, 48, 16, {"zero": np.uint8}),
    "2 bits": (2, 64, 32, {}),
    "4 bits, a bias": (4, 32, 16, {"bias": True}),
}


@pytest.mark.parametrize("name", NBITS)
def test_matmul_nbits(name: str) -> None:
    bits, k, block, more = NBITS[name]
    n, blocks = 5, -(-k // block)
    w = np.random.default_rng(0).integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
    scales = data(n, blocks, low=0.2) / 9
    constants: dict[str, Any] = {"w": w, "s": scales}
    tail = ""
    if "zero" in more:
        packed = -(-blocks * bits // 8)
        kind = more["zero"]
        zeros = (
            np.random.default_rng(1).integers(0, 256, (n, packed)).astype(kind)
            if kind is np.uint8
            else data(n, blocks, seed=3) + 8
        )
        constants["z"] = zeros.ravel() if more.get("flat") else zeros
        tail = ", z"
    if "bias" in more:
        constants["b"] = data(n, seed=5)
        tail = ", , , b"
    body = f"y = {M}MatMulNBits<K={k}, N={n}, bits={bits}, block_size={block}>(x, w, s{tail})"
    model = net(body, f"float[2,3,{k}] x", f"float[2,3,{n}] y", domains=DOMAIN, **constants)
    x = data(2, 3, k)
    assert [s.unit.op for s in onnxlrp.inspect(model).steps] == ["MatMul"]
    out = lrp(model, {"x": x}, "epsilon", target=[1])
    near(out["y"], run(model, x=x)["y"], 1e-5)
    assert np.abs(out["relevance.x"]).max() > 0
    if "bias" not in more:
        near(out["relevance.x"].sum(2), out["y"][..., 1], 1e-4)


def test_matmul_nbits_stays_packed_and_refuses_g_idx() -> None:
    w, s = codes(64, 32, 16, kind=np.uint8, bits=8), data(64, 32, low=0.2) / 9
    body = f"y = {M}MatMulNBits<K=1024, N=64, bits=4, block_size=32>(x, w, s)"
    model = net(body, "float[2,1024] x", "float[2,64] y", domains=DOMAIN, w=w, s=s)
    assert onnxlrp.compile(model, "zplus").ByteSize() < model.ByteSize() + 20_000
    body = body.replace("w, s)", "w, s, , g)")
    model = net(body, "float[2,1024] x", "float[2,64] y", domains=DOMAIN, w=w, s=s, g=np.zeros(1024, np.int32))
    with pytest.raises(UnsupportedOp, match="node 'y' \\(MatMulNBits\\): weights reordered by g_idx"):
        onnxlrp.compile(model)


@pytest.mark.parametrize("zero", [True, False], ids=["zero points", "no zero points"])
@pytest.mark.parametrize("bits", [4, 8])
def test_gather_block_quantized(bits: int, zero: bool) -> None:
    table, scales = codes(9, 32 * bits // 8, kind=np.uint8, bits=8), data(9, 2, low=0.2) / 9
    constants = {
        "t": table,
        "s": scales,
        "v": weight(32, 4),
        **({"z": codes(9, 2 * bits // 8, kind=np.uint8, bits=8, seed=2)} if zero else {}),
    }
    attrs = f"bits={bits}, block_size=16, gather_axis=0, quantize_axis=1"
    body = f"e = {M}GatherBlockQuantized<{attrs}>(t, i, s{', z' if zero else ''})\ny = MatMul(e, v)"
    model = net(body, "int64[N,3] i", "float[N,3,4] y", domains=DOMAIN, **constants)
    i = np.int64([[1, 8, 0], [3, 3, 2]])
    out = lrp(model, {"i": i}, "epsilon", target=[1])
    near(out["y"], run(model, i=i)["y"], 1e-6)
    near(out["relevance.e"].sum(2), out["y"][..., 1], 1e-4)
