"""One transformer block in many spellings, and its AttnLRP and CP-LRP relevance written out in numpy, float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from models_for_tests import data, net, weight

Array = np.ndarray
D, H, E, F = 8, 4, 4, 10  # model width, heads, width of a head, width of the MLP
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Block:
    """A spelling. spelled: MatMul, Gemm or Einsum; scale: Mul, Div or both (on q and k by the root); mask: "", where,
    lowest (Where with finfo.min) or add; guard: NaN behind the softmax becomes 0; kv: heads of keys and values; norm:
    layer, rms or none; mlp: gelu, swiglu or glu; by_shape: heads are split by a Shape that the graph computes.
    """

    spelled: str = "MatMul"
    scale: str = "Mul"
    mask: str = ""
    guard: bool = False
    kv: int = H
    norm: str = "layer"
    mlp: str = "gelu"
    rope: bool = False
    bias: bool = True
    by_shape: bool = False

    def weights(self) -> dict[str, Array]:
        inner, kv = H * E, self.kv * E
        shapes = {"wq": (D, inner), "wk": (D, kv), "wv": (D, kv), "wo": (inner, D), "w1": (D, F), "w2": (F, D), "w3": (D, F)}
        found = {name: weight(*shape, seed=30 + i) for i, (name, shape) in enumerate(shapes.items())}
        for i, (name, shape) in enumerate(shapes.items()):
            found["b" + name[1]] = data(shape[1], seed=50 + i) / 4 * np.float32(self.bias)
        found |= {"gamma": data(D, seed=60, low=0.5), "beta": data(D, seed=61) / 4 * np.float32(self.bias)}
        return found

    def constants(self, length: int) -> dict[str, Array]:
        """What the text needs besides the weights."""
        angle = np.arange(length)[:, None] / 3.0 ** (np.arange(E) % (E // 2))
        found: dict[str, Array] = {
            "heads": np.array([0, 0, H, E]), "kv_heads": np.array([0, 0, self.kv, E]), "flat": np.array([0, 0, H * E]),
            "repeat": np.array([1, 1, H // self.kv, 1, 1]), "merged": np.array([0, H, -1, E]), "two": np.array([2]),
            "scale": np.float32(1 / math.sqrt(E)), "unscale": np.float32(math.sqrt(E)), "root": np.float32(E**-0.25),
            "cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32), "minf": np.float32(-np.inf),
            "half": np.array([E // 2]), "whole": np.array([E]), "nil": np.array([0]), "last": np.array([-1]),
            "rows": np.array([-1, D]), "rms": np.float32(1e-5), "square": np.float32(2), "none": np.float32(0),
            "unit": np.float32(1), "lowest": np.float32(LOWEST), "d_axis": np.array([-1]),
            "first": np.array([1]), "tail": np.array([H, E]), "start": np.array([0]),
        }  # fmt: skip
        return found

    def body(self, x: str = "x", out: str = "y") -> str:
        """The nodes; a mask is called `allowed` (bool, N,1,T,T or broadcast) or `added` (float)."""
        lines = [
            *self.project(x),
            *self.rotated(),
            *self.attend(),
            f"h = Add({x}, o)",
            *self.normed(),
            *self.feed(),
            f"{out} = Add(h, m)",
        ]
        return "\n".join(lines)

    def dense(self, x: str, name: str, out: str) -> list[str]:
        """x w + b."""
        if self.spelled == "Gemm":
            width = {"q": H * E, "k": self.kv * E, "v": self.kv * E, "o": D, "1": F, "2": D, "3": F}[name]
            return [
                f"{out}_r = Reshape({x}, rows_{name})", f"{out}_g = Gemm({out}_r, w{name}, b{name})",
                f"{out}_s = Shape<end=2>({x})", f"{out}_w = Constant<value_ints=[{width}]>()",
                f"{out}_c = Concat<axis=0>({out}_s, {out}_w)", f"{out} = Reshape({out}_g, {out}_c)",
            ]  # fmt: skip
        return [f"{out}_m = MatMul({x}, w{name})", f"{out} = Add(b{name}, {out}_m)"]

    def project(self, x: str) -> list[str]:
        lines = []
        for name in "qkv":
            target = "heads" if name == "q" else "kv_heads"
            if self.spelled == "Einsum":
                lines += [f'{name}0 = Einsum<equation="ntd,dhe->nthe">({x}, we{name})', f"{name}1 = Add({name}0, be{name})"]
            elif self.by_shape:
                lines += [
                    *self.dense(x, name, f"{name}0"), f"{name}_s = Shape({x})", f"{name}_n = Slice({name}_s, start, two)",
                    f"{name}_c = Concat<axis=0>({name}_n, tail)", f"{name}1 = Reshape({name}0, {name}_c)",
                ]  # fmt: skip
            else:
                lines += [*self.dense(x, name, f"{name}0"), f"{name}1 = Reshape({name}0, {target})"]
            if self.spelled != "Einsum":
                lines += [f"{name}2 = Transpose<perm=[0,2,1,3]>({name}1)"]
                if name != "q" and self.kv != H:
                    lines += [
                        f"{name}3 = Unsqueeze({name}2, two)",
                        f"{name}4 = Expand({name}3, repeat)",
                        f"{name}5 = Reshape({name}4, merged)",
                    ]
                else:
                    lines += [f"{name}5 = Identity({name}2)"]
        return lines

    def rotated(self) -> list[str]:
        """x cos + rotate_half(x) sin."""
        lines = []
        for t in "qk" if self.rope else "":
            lines += [
                f"{t}_a = Slice({t}5, nil, half, last)", f"{t}_b = Slice({t}5, half, whole, last)", f"{t}_n = Neg({t}_b)",
                f"{t}_r = Concat<axis=-1>({t}_n, {t}_a)", f"{t}_x = Mul({t}5, cos)", f"{t}_y = Mul({t}_r, sin)",
                f"{t}6 = Add({t}_x, {t}_y)",
            ]  # fmt: skip
        return lines

    def attend(self) -> list[str]:
        q, k, v = ("q1", "k1", "v1") if self.spelled == "Einsum" else ("q6", "k6", "v5") if self.rope else ("q5", "k5", "v5")
        lines = []
        if self.scale == "both":
            lines += [f"qs = Mul({q}, root)", f"ks = Mul({k}, root)"]
            q, k = "qs", "ks"
        if self.spelled == "Einsum":
            lines += [f's0 = Einsum<equation="nthe,nshe->nhts">({q}, {k})']
        else:
            lines += [f"kt = Transpose<perm=[0,1,3,2]>({k})", f"s0 = MatMul({q}, kt)"]
        lines += [{"Mul": "s1 = Mul(s0, scale)", "Div": "s1 = Div(s0, unscale)", "both": "s1 = Identity(s0)"}[self.scale]]
        s = {"": "s1", "where": "Where(allowed, s1, minf)", "lowest": "Where(allowed, s1, lowest)", "add": "Add(s1, added)"}[
            self.mask
        ]
        lines += ["scores = Identity(s1)"] if s == "s1" else [f"scores = {s}"]
        lines += ["probs = Softmax<axis=-1>(scores)"]
        p = "probs"
        if self.guard:
            lines += ["nan = IsNaN(probs)", "guarded = Where(nan, none, probs)"]
            p = "guarded"
        if self.spelled == "Einsum":
            return [
                *lines,
                f'c0 = Einsum<equation="nhts,nshe->nthe">({p}, {v})',
                'o0 = Einsum<equation="nthe,hed->ntd">(c0, weo)',
                "o = Add(o0, bo)",
            ]
        lines += [f"c0 = MatMul({p}, {v})", "c1 = Transpose<perm=[0,2,1,3]>(c0)", "c2 = Reshape(c1, flat)"]
        return [*lines, *self.dense("c2", "o", "o")]

    def normed(self) -> list[str]:
        if self.norm == "layer":
            return ["n = LayerNormalization<axis=-1, epsilon=0.00001>(h, gamma, beta)"]
        if self.norm == "rms":
            return ["n0 = Pow(h, square)", "n1 = ReduceMean(n0, d_axis)", "n2 = Add(n1, rms)", "n3 = Sqrt(n2)",
                    "n4 = Div(unit, n3)", "n5 = Mul(h, n4)", "n = Mul(n5, gamma)"]  # fmt: skip
        return ["n = Identity(h)"]

    def feed(self) -> list[str]:
        lines = self.dense("n", "1", "f1")
        if self.mlp == "gelu":
            lines += ["e0 = Div(f1, g_root)", "e1 = Erf(e0)", "e2 = Add(e1, unit)", "e3 = Mul(f1, e2)", "a = Mul(e3, g_half)"]
        else:
            lines += self.dense("n", "3", "f3")
            lines += (
                ["sg = Sigmoid(f1)", "si = Mul(f1, sg)", "a = Mul(si, f3)"]
                if self.mlp == "swiglu"
                else ["sg = Sigmoid(f1)", "a = Mul(sg, f3)"]
            )
        return [*lines, *self.dense("a", "2", "m")]

    def initializers(self, length: int = 5) -> dict[str, Any]:
        w, c = self.weights(), self.constants(length)
        extra = {"g_root": np.float32(math.sqrt(2)), "g_half": np.float32(0.5)}
        for name in "qkv":
            heads = H if name == "q" else self.kv
            extra |= {f"we{name}": w[f"w{name}"].reshape(D, heads, E), f"be{name}": w[f"b{name}"].reshape(heads, E)}
        extra["weo"] = w["wo"].reshape(H, E, D)
        for name in "qkvo123":
            extra[f"rows_{name}"] = np.array([-1, w[f"w{name}"].shape[0]])
        return {**w, **c, **extra}

    def used(self, text: str, length: int = 5) -> dict[str, Any]:
        """The initializers that a text names."""
        words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
        return {name: value for name, value in self.initializers(length).items() if name in words}

    def model(self, batch: Any = "N", length: Any = 5, **options: Any) -> onnx.ModelProto:
        """x (N,T,D), and the mask, to y (N,T,D)."""
        given = {"": "", "add": f", float[{batch},1,{length},{length}] added"}.get(
            self.mask, f", bool[{batch},1,{length},{length}] allowed"
        )
        text, size = self.body(), length if isinstance(length, int) else 5
        x = f"float[{batch},{length},{D}] x{given}"
        return net(text, x, f"float[{batch},{length},{D}] y", **{**self.used(text, size), **options})


# the twin -------------------------------------------------------------------------------------------------------------


def stab(z: Array) -> Array:
    return z + np.where(z >= 0, 1e-6, -1e-6)


def share(parts: list[Array], r: Array, z: Array) -> list[Array]:
    """r_i = x_i r / stab(z)."""
    return [p * r / stab(z) for p in parts]


def dense_back(x: Array, w: Array, b: Array, r: Array) -> Array:
    return np.asarray(x * np.einsum("ntk,dk->ntd", r / stab(np.einsum("ntd,dk->ntk", x, w) + b), w))


def rotate(x: Array) -> Array:
    return np.concatenate([-x[..., E // 2 :], x[..., : E // 2]], -1)


def back_rotate(r: Array) -> Array:
    """Adjoint of the copies in `rotate`, relevance through the sign unchanged."""
    return np.concatenate([r[..., E // 2 :], r[..., : E // 2]], -1)


def twin(block: Block, x: Array, r: Array, mask: Array | None = None, law: str = "attn") -> dict[str, Array]:
    """y and the relevance of x, with that of scores, probs, q and k on the way; law: attn or cp."""
    w = {k: v.astype(np.float64) for k, v in block.weights().items()}
    n, t, _ = x.shape
    x, r, times = x.astype(np.float64), r.astype(np.float64), H // block.kv

    def heads(name: str) -> Array:
        z = np.einsum("ntd,dk->ntk", x, w["w" + name]) + w["b" + name]
        return z.reshape(n, t, -1, E).transpose(0, 2, 1, 3)

    def joined(r: Array) -> Array:
        return r.transpose(0, 2, 1, 3).reshape(n, t, -1)

    q, k, v = heads("q"), *(np.repeat(heads(name), times, 1) for name in "kv")
    cos, sin = (block.constants(t)[name].astype(np.float64) for name in ("cos", "sin"))
    turned = [a * cos + rotate(a) * sin if block.rope else a for a in (q, k)]
    inner = np.einsum("nhte,nhse->nhts", *turned)
    scaled = inner / math.sqrt(E)
    scores = scaled
    if mask is not None:
        scores = scaled + mask if block.mask == "add" else np.where(mask, scaled, -np.inf if block.mask == "where" else LOWEST)
    with np.errstate(invalid="ignore"):
        power = np.exp(scores - scores.max(-1, keepdims=True))
        probs = power / power.sum(-1, keepdims=True)
    if block.guard:
        probs = np.where(np.isnan(probs), 0, probs)
    context = np.einsum("nhts,nhse->nhte", probs, v)
    flat = joined(context)
    o = flat @ w["wo"] + w["bo"]
    h = x + o
    if block.norm == "layer":
        mu, sigma = h.mean(-1, keepdims=True), np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        normed = (h - mu) / sigma * w["gamma"] + w["beta"]
    else:
        normed = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * w["gamma"] if block.norm == "rms" else h
    f1, f3 = (normed @ w["w" + i] + w["b" + i] for i in "13")
    sigmoid = 1 / (1 + np.exp(-f1))
    gate = {"swiglu": f1 * sigmoid, "glu": sigmoid}.get(block.mlp)
    a = gate * f3 if gate is not None else f1 * np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))(f1)
    m = a @ w["w2"] + w["b2"]
    y = h + m
    # backwards
    r_h, r_m = share([h, m], r, y)
    r_a = dense_back(a, w["w2"], w["b2"], r_m)
    if gate is None:
        r_n = dense_back(normed, w["w1"], w["b1"], r_a)
    else:
        first = 0.0 if law == "cp" and block.mlp == "glu" else 0.5
        r_n = dense_back(normed, w["w1"], w["b1"], first * r_a) + dense_back(normed, w["w3"], w["b3"], (1 - first) * r_a)
    if block.norm == "layer":
        u = w["gamma"] / sigma * r_n / stab(normed)
        r_h = r_h + h * (u - u.mean(-1, keepdims=True))
    else:
        r_h = r_h + r_n
    r_x, r_o = share([x, o], r_h, h)
    r_c = dense_back(flat, w["wo"], w["bo"], r_o).reshape(n, t, H, E).transpose(0, 2, 1, 3)
    s = r_c / stab(context)
    part = 1.0 if law == "cp" else 0.5
    r_v = part * v * np.einsum("nhts,nhte->nhse", probs, s)
    r_probs = (1 - part) * probs * np.einsum("nhte,nhse->nhts", s, v)
    taken = 0.0 if law == "cp" else 1.0
    finite = np.isfinite(scores)
    safe = np.where(finite, scores, 0)
    r_scores = taken * safe * (r_probs - probs * r_probs.sum(-1, keepdims=True))
    r_scaled = r_scores
    if mask is not None:
        r_scaled = scaled * r_scores / stab(safe) if block.mask == "add" else np.where(mask, r_scores, 0)
        r_scaled = np.where(finite, r_scaled, 0)
    s = r_scaled / stab(inner)
    if block.scale == "both":
        s = r_scaled / stab(scaled) / math.sqrt(E)
    r_q = 0.5 * turned[0] * np.einsum("nhts,nhse->nhte", s, turned[1])
    r_k = 0.5 * turned[1] * np.einsum("nhts,nhte->nhse", s, turned[0])
    if block.rope:
        out = []
        for z, r_z in ((q, r_q), (k, r_k)):
            first, second = share([z * cos, rotate(z) * sin], r_z, z * cos + rotate(z) * sin)
            out.append(first + back_rotate(second))
        r_q, r_k = out
    for name, part_r in (("q", r_q), ("k", r_k), ("v", r_v)):
        if name != "q":
            part_r = part_r.reshape(n, block.kv, times, t, E).sum(2)
        r_x = r_x + dense_back(x, w["w" + name], w["b" + name], joined(part_r))
    return {"y": y, "x": r_x, "probs": r_probs, "scores": r_scores, "q": r_q, "k": r_k, "v": r_v}
