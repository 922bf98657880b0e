"""Models of one attention operator each, as text: `test_attention_ops.py` runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from models_for_tests import data, net, weight

SIZES = {"B": 2, "S": 3, "L": 5, "P": 4}
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model with one such operator; `@` is the domain of onnxruntime's. same: what gives the same where it has no kernel."""

    body: str
    x: str
    y: str
    constants: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    same: str = ""
    opset: int = 18

    def model(self, body: str = "") -> onnx.ModelProto:
        """`;` parts the nodes."""
        text = (body or self.body).replace("@", "com.microsoft.").replace("<>", "").replace("; ", "\n")
        domains = ', "com.microsoft" : 1'
        return net(text, self.x, self.y, opset=self.opset, ir=11, domains=domains, **self.constants)

    def feeds(self) -> dict[str, np.ndarray]:
        """Random numbers for the inputs that are not given."""
        out = {}
        for i, face in enumerate(self.model().graph.input):
            dims = [d.dim_value or SIZES.get(d.dim_param, 0) for d in face.type.tensor_type.shape.dim]
            out[face.name] = np.asarray(self.given[face.name]) if face.name in self.given else data(*dims, seed=i)
        return out

    @property
    def floats(self) -> list[str]:
        faces = [i for i in self.model().graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
        return [i.name for i in faces]


def chosen(more: dict[str, Any], x: str) -> dict[str, Any]:
    """Takes out of the constants those that are inputs of the model."""
    return {n: more.pop(n) for n in re.findall(r"[\]2] (\w+)", x) if n in more}


I32, I64 = np.int32, np.int64

# standard operators ----------------------------------------------------------------------------------------------------------

Q4, Y4 = "float[B,4,S,6] q, float[B,2,L,6] k, float[B,2,L,5] v", "float[B,4,S,5] y"
Q3, Y3 = "float[B,S,24] q, float[B,L,12] k, float[B,L,10] v", "float[B,S,20] y"
HEADS = "q_num_heads=4, kv_num_heads=2"
PAST4 = ", float[B,2,P,6] pk, float[B,2,P,5] pv"
NEXT4 = ", float[B,2,T,6] nk, float[B,2,T,5] nv"


def named(y: str) -> str:
    """Outputs from their types."""
    return ", ".join(re.findall(r"\] (\w+)", y))


def standard(
    attrs: str = "", inputs: str = "q, k, v", x: str = Q4, y: str = Y4, same: str = "", opset: int = 23, **more: Any
) -> Case:
    """y = Attention<attrs>(inputs)."""
    given = chosen(more, x)
    body, other = (f"{named(y)} = Attention{text}" for text in (f"<{attrs}>({inputs})", same))
    return Case(body, x, y, more, given, same and other, opset)


UNSEEN = np.float32([[1, -np.inf] * 2 + [1], [-np.inf] * 5, [1] * 5])
SHORT = data(3, 4) > -1
ROTARY = {"c": data(9, 3), "s": data(9, 3, seed=4), "p": I64([[3, 1, 4], [0, 2, 8]])}
STANDARD = {
    "plain": standard(),
    "of three axes": standard(HEADS, x=Q3, y=Y3),
    "heads of unknown number": standard(x="float[B,H,S,6] q, float[B,G,L,6] k, float[B,G,L,5] v", y="float[B,H,S,5] y",
                                        q=data(2, 4, 3, 6), k=data(2, 2, 5, 6, seed=1), v=data(2, 2, 5, 5, seed=2)),
    "head size of unknown number": standard(x="float[B,2,S,D] q, float[B,2,L,D] k, float[B,2,L,5] v", y="float[B,2,S,5] y",
                                            q=data(2, 2, 3, 6), k=data(2, 2, 5, 6, seed=1)),
    "scale and softcap": standard("scale=0.3, softcap=0.7"),
    "causal": standard("is_causal=1"),
    "causal of three axes": standard(f"is_causal=1, {HEADS}", x=Q3, y=Y3),
    "float mask": standard(inputs="q, k, v, m", m=data(3, 5)),
    "float mask of run time": standard(inputs="q, k, v, m", x=f"{Q4}, float[B,1,S,L] m"),
    "boolean mask": standard(inputs="q, k, v, m", m=data(1, 4, 3, 5) > 0),
    "boolean mask of run time, causal": standard("is_causal=1", "q, k, v, m", f"{Q4}, bool[B,1,S,L] m", m=data(2, 1, 3, 5) > 0),
    "rows that see nothing": standard(inputs="q, k, v, m", m=UNSEEN > 0),
    "rows that see nothing, float": standard(inputs="q, k, v, m", m=UNSEEN),
    "past and present": Case("y, nk, nv = Attention<is_causal=1>(q, k, v, , pk, pv)", f"{Q4}{PAST4}",
                             f"{Y4}{NEXT4}", opset=23),
    "padded keys": standard("is_causal=1", "q, k, v, , , , n", f"{Q4}, int64[B] n", n=I64([2, 5]), opset=24),
    "padded keys, shorter mask": standard(
        "", "q, k, v, m, , , n", f"{Q4}, int64[B] n", n=I64([2, 3]), opset=24, m=SHORT,
        long=np.pad(SHORT, ((0, 0), (0, 1))), same="(q, k, v, long, , , n)"),
    "window": standard("left_window_size=1, right_window_size=2", opset=25, m=np.tril(np.triu(np.ones((3, 5), bool), -1), 2),
                       same="(q, k, v, m)"),
    "window behind a past": standard(
        "is_causal=1, left_window_size=2", "q, k, v, , pk, pv", f"{Q4}{PAST4}", f"{Y4}{NEXT4}", opset=25,
        m=np.triu(np.tril(np.ones((3, 9), bool), 4), 2), same="(q, k, v, m, pk, pv)"),
    **{f"scores, mode {mode}": Case(
        f"y, , , z = Attention<qk_matmul_output_mode={mode}, softcap=0.7>(q, k, v, m)", Q4, f"{Y4}, float[B,4,S,L] z",
        {"m": data(3, 5)}, opset=23) for mode in range(4)},
    "rotary": Case("y = RotaryEmbedding(x, c, s, p)", "float[B,2,S,6] x", "float[B,2,S,6] y", ROTARY, opset=23),
    "rotary of three axes": Case(
        "y = RotaryEmbedding<num_heads=2>(x, c, s, p)", "float[B,S,12] x", "float[B,S,12] y", ROTARY, opset=23),
    "rotary of a part, interleaved": Case(
        "y = RotaryEmbedding<num_heads=2, rotary_embedding_dim=6, interleaved=1>(x, c, s, p)",
        "float[B,S,20] x", "float[B,S,20] y", ROTARY, opset=23),
    "rotary without positions": Case(
        "y = RotaryEmbedding(x, c, s)", "float[B,2,S,6] x", "float[B,2,S,6] y",
        {"c": data(2, 3, 3), "s": data(2, 3, 3, seed=4)}, opset=23),
}  # fmt: skip

# Attention and MultiHeadAttention of com.microsoft ---------------------------------------------------------------------------

JOINT = {"w": weight(6, 18), "b": data(18, seed=5)}
X, Y, PAST, PRESENT = "float[B,S,6] x", "float[B,S,6] y", ", float[2,B,2,P,3] p", ", float[2,B,2,T,3] z"
UNIDIRECTIONAL = [f"unidirectional={u}" for u in (0, 1)]
RAW = {"1D": I32([2, 3]), "1D with starts": I32([2, 3, 0, 1]), "2D": I32([[1, 1, 0], [0, 1, 1]]),
       "3D": I32(data(2, 3, 3) > 0)}  # fmt: skip
LOWER = np.tril(np.ones((2, 1, 5, 5), I32))
MASK7 = I32([[1, 1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0]])


def joint(attrs: str = "", inputs: str = "x, w, b", x: str = X, y: str = Y, same: str = "", **more: Any) -> Case:
    """y = com.microsoft.Attention<num_heads=2, attrs>(inputs)."""
    given = chosen(more, x)
    body, other = (f"{named(y)} = @Attention<num_heads=2{', ' * bool(attrs)}{attrs}>({i})" for i in (inputs, same))
    return Case(body, x, y, {**JOINT, **more}, given, same and other)


JOINTS = {
    "plain": joint(),
    "scale": joint("scale=0.3"),
    "unidirectional": joint("unidirectional=1"),
    "values of another width": joint("qkv_hidden_sizes=[6, 6, 10]", y="float[B,S,10] y", w=weight(6, 22), b=data(22, seed=5)),
    "filter": joint("mask_filter_value=-5.0", "x, w, b, m", m=RAW["2D"]),
    **{f"mask {kind}, {u}": joint(u, "x, w, b, m", m=m) for kind, m in RAW.items() for u in UNIDIRECTIONAL},
    "mask that keeps nothing": joint("mask_filter_value=-90.0", "x, w, b, m", m=I32([[0, 0, 0], [0, 1, 1]])),
    "1D mask of run time": joint("", "x, w, b, m", f"{X}, int32[B] m", m=RAW["1D"]),
    "1D mask of unknown length": joint("", "x, w, b, m", f"{X}, int32[M] m", m=RAW["1D"]),
    "1D mask of unknown length with starts": joint("", "x, w, b, m", f"{X}, int32[M] m", m=RAW["1D with starts"]),
    "4D mask": joint("", "x, w, b, m", m=LOWER, n=LOWER[:, 0, :3, :3], same="x, w, b, n"),
    "bias and mask": joint("", "x, w, b, m, , a", m=RAW["2D"], a=data(1, 2, 3, 3)),
    "present": joint(y=Y + PRESENT),
    **{f"past, {u}": joint(u, "x, w, b, m, p", X + PAST, Y + PRESENT, m=MASK7) for u in UNIDIRECTIONAL},
}  # fmt: skip

QKV, KV4 = "float[B,S,6] q, float[B,L,6] k, float[B,L,6] v", "float[B,S,6] q, float[B,2,L,3] k, float[B,2,L,3] v"
KEPT = {"1D": I32([2, 5]), "2D": I32([[1, 1, 0, 1, 0], [1] * 5]), "3D": I32(data(2, 3, 5) > 0)}
BIAS, PAST_KV, NEXT = (
    {"b": data(18, seed=5)},
    ", float[B,2,P,3] pk, float[B,2,P,3] pv",
    ", float[B,2,T,3] nk, float[B,2,T,3] nv",
)
ONGOING = QKV.replace("L", "S") + PAST_KV
PACKED, KV5 = "float[B,S,2,3,3] x", "float[B,S,6] q, float[B,L,2,2,3] x"
PICK = [f"{t}5 = Gather<axis=3>(x, i{i}); {t} = Reshape({t}5, flat); " for i, t in enumerate("qkv")]
SEPARATE = {"flat": I64([0, 0, -1]), "i0": I64(0), "i1": I64(1), "i2": I64(2)}


def apart(attrs: str = "", inputs: str = "q, k, v, b", x: str = QKV, y: str = Y, same: str = "", **more: Any) -> Case:
    """y = com.microsoft.MultiHeadAttention<num_heads=2, attrs>(inputs)."""
    outputs = "y, , , qk" if "qk" in y else named(y)
    return Case(
        f"{outputs} = @MultiHeadAttention<num_heads=2{', ' * bool(attrs)}{attrs}>({inputs})", x, y, {**BIAS, **more}, same=same
    )


APART = {
    "plain": apart(inputs="q, k, v"),
    "bias": apart(),
    "values of another width": apart("scale=0.2", x=QKV.replace("6] v", "10] v"), y="float[B,S,10] y", b=data(22)),
    "self": apart(UNIDIRECTIONAL[1], "x, x, x, b", X),
    "crossed": apart(UNIDIRECTIONAL[1]),
    "keys laid out": apart(inputs="q, k, v", x=KV4),
    "keys laid out, crossed": apart(UNIDIRECTIONAL[1], "q, k, v, , m", KV4, m=KEPT["2D"]),
    **{f"mask {kind}, {u}": apart(u, "q, k, v, b, m", m=m) for kind, m in KEPT.items() for u in UNIDIRECTIONAL},
    **{f"bias of {shape}": apart("", "q, k, v, b, , a", a=data(*shape)) for shape in ((1, 1, 3, 5), (2, 2, 3, 5))},
    **{f"past, {u}": apart(u, "q, k, v, b, m, , pk, pv", ONGOING, Y + NEXT, m=MASK7) for u in UNIDIRECTIONAL},
    "past, crossed": apart(UNIDIRECTIONAL[1], "q, k, v, b, , , pk, pv", QKV + PAST_KV, Y + NEXT),
    "past and bias": apart("", "q, k, v, b, , a, pk, pv", ONGOING, Y + NEXT, a=data(1, 2, 3, 7)),
    "present": apart(y=Y + NEXT),
    "scores": apart("", "q, k, v, b, m", y=f"{Y}, float[B,2,S,L] qk", m=KEPT["2D"]),
    "packed": apart("", "x, , , b", PACKED, **SEPARATE,
                    same=f"{''.join(PICK)}y = @MultiHeadAttention<num_heads=2>(q, k, v, b)"),
    "packed keys": apart("", "q, x", KV5, same=f"{''.join(PICK[1:])}y = @MultiHeadAttention<num_heads=2>(q, k, v)",
                         **{**SEPARATE, "i1": I64(0), "i2": I64(1)}),
}  # fmt: skip

# GroupQueryAttention, RotaryEmbedding, EmbedLayerNormalization of com.microsoft ----------------------------------------------

TABLES = {"c": data(20, 8, seed=7), "s": data(20, 8, seed=8)}
GQ, NEW = "float[B,S,64] q, float[B,S,32] k, float[B,S,32] v", ", float[B,2,T,16] nk, float[B,2,T,16] nv"
CACHE, GY = ", float[B,2,P,16] pk, float[B,2,P,16] pv", "float[B,S,64] y"
ONE = {"x": (GQ + CACHE).replace("S", "1"), "y": GY.replace("S", "1") + NEW}
ALONE = {"x": (GQ + CACHE).replace("B", "1"), "y": (GY + NEW).replace("B", "1")}
CACHED = "q, k, v, pk, pv, l, t, c, s"


def grouped(attrs: str = "", inputs: str = "q, k, v, , , l, t", x: str = GQ, y: str = GY + NEW, **more: Any) -> Case:
    """y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, attrs>(inputs)."""
    more = {"l": I32([2, 2]), "t": np.asarray(3, I32), **TABLES, **more}
    given = chosen(more, x)
    options = "num_heads=4, kv_num_heads=2" + ", " * bool(attrs) + attrs
    return Case(f"y, nk, nv = @GroupQueryAttention<{options}>({inputs})", x, y, more, given)


GROUPED = {
    "prompt": grouped(),
    "scale and softcap": grouped("scale=0.3, softcap=0.7"),
    "rotary": grouped("do_rotary=1", "q, k, v, , , l, t, c, s"),
    "rotary, interleaved": grouped("do_rotary=1, rotary_interleaved=1", "q, k, v, , , l, t, c, s"),
    "rotary, positions of a prompt": grouped("do_rotary=1", "q, k, v, , , l, t, c, s, p", p=I64([[4, 5, 6], [2, 3, 4]])),
    "packed": grouped("do_rotary=1", "q, , , , , l, t, c, s", "float[B,S,128] q"),
    "rows of several lengths": grouped(l=I32([1, 2])),
    **{f"window of {n}": grouped(f"local_window_size={n}", l=I32([0, 2])) for n in (1, 2, 3)},
    "smooth softmax": grouped("smooth_softmax=1"),
    "sink": grouped("softcap=0.7, local_window_size=2", "q, k, v, , , l, t, , , , , h", h=data(4)),
    "not causal": grouped("causal=0", l=I32([1, 2])),
    "bias": grouped("softcap=0.7", "q, k, v, , , l, t, , , , a", a=data(2, 4, 3, 3)),
    "decoding": grouped("do_rotary=1", CACHED, **ONE, l=I32([4, 4]), t=I32(5)),
    "decoding rows of several lengths": grouped("do_rotary=1", CACHED, **ONE, l=I32([2, 4]), t=I32(5)),
    "decoding, larger cache": grouped(
        "do_rotary=1", CACHED, ONE["x"].replace("P", "9"), ONE["y"], l=I32([3, 5]), t=I32(6)),
    "decoding, window": grouped("do_rotary=1, local_window_size=2", CACHED, **ONE, l=I32([4, 4]), t=I32(5)),
    "decoding, positions": grouped("do_rotary=1", f"{CACHED}, p", **ONE, l=I32([4, 4]), t=I32(5), p=I64([[7], [9]])),
    "several at once": grouped("do_rotary=1", f"{CACHED}, , a", **ALONE, l=I32([6]), t=I32(7), a=data(1, 4, 3, 7)),
    "prompt with a cache": grouped("do_rotary=1", CACHED, GQ + CACHE),
    "prompt with a cache, rows of several lengths": grouped("do_rotary=1", CACHED, GQ + CACHE, l=I32([1, 2])),
    "lengths of run time": grouped("do_rotary=1", CACHED, f"{GQ}{CACHE}, int32[B] l, int32 t"),
}  # fmt: skip

PLACES = {**ROTARY, "o": I64([3])}
IDS = {"i": I32([[3, 1, 4], [0, 2, 10]]), "t": I32([[0, 1, 1], [0, 0, 1]]), "m": I32([[1, 1, 0], [0, 1, 2]])}
EMBED = {"k": data(11, 6), "n": data(7, 6, seed=1), "g": data(6, seed=3), "b": data(6, seed=4), "u": data(2, 6, seed=2),
         "r": I32([[2, 1, 0], [5, 6, 3]]), "r1": I32([[2, 1, 0]])}  # fmt: skip


def turned(attrs: str, x: str, places: str = "p") -> Case:
    """y = com.microsoft.RotaryEmbedding<attrs>(x, places, cos, sin)."""
    return Case(f"y = @RotaryEmbedding{attrs}(x, {places}, c, s)", f"float[{x}] x", f"float[{x}] y", PLACES)


def embedded(inputs: str, attrs: str = "", ids: str = "i t m") -> Case:
    """y, how many the mask keeps, and the sum."""
    x, y = ", ".join(f"int32[B,S] {n}" for n in ids.split()), f"{Y}, int32[B] many, float[B,S,6] sum"
    return Case(f"y, many, sum = @EmbedLayerNormalization{attrs}({inputs})", x, y, EMBED, IDS)


OTHERS = {
    "rotary": turned("", "B,2,S,6"),
    "rotary, interleaved": turned("<interleaved=1>", "B,2,S,6"),
    "rotary from a position on": turned("", "B,2,S,6", "o"),
    "rotary of three axes": turned("", "B,S,12"),
    "rotary of three axes from a position on": turned("", "B,S,12", "o"),
    "rotary of a part": turned("<num_heads=2, rotary_embedding_dim=6>", "B,S,20"),
    "rotary of a part, interleaved": turned("<num_heads=2, rotary_embedding_dim=6, interleaved=1>", "B,2,S,10"),
    "embedding": embedded("i, t, k, n, u, g, b", ids="i t"),
    "embedding with mask": embedded("i, t, k, n, u, g, b, m", "<epsilon=0.1>"),
    "embedding with positions": embedded("i, t, k, n, u, g, b, m, r"),
    "embedding with positions of all rows": embedded("i, t, k, n, u, g, b, m, r1"),
    "embedding without segments": embedded("i, , k, n, , g, b", ids="i"),
}
CASES = {
    f"{group}: {name}": case
    for group, table in {
        "Attention-23": STANDARD, "Attention": JOINTS, "MultiHeadAttention": APART, "GroupQueryAttention": GROUPED, "": OTHERS,
    }.items() for name, case in table.items()
}  # fmt: skip
