"""Operators of domain ai.onnx.ml, which scikit-learn's converter writes, in standard operators.

The formulas are those of onnxruntime's kernels, also where the standard says less (a classifier with one score). What
`unread` names a reason against stays as it is: it runs in the forward part, and relevance does not pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .writer import Write, Writer, Written, expansion

__all__ = ["INERT_ML", "KINDS_ML", "UNSUPPORTED_ML", "unread"]

DOMAIN = "ai.onnx.ml"
TREE = "because a tree is piecewise constant: nothing flows through its thresholds"
UNSUPPORTED_ML = {"TreeEnsemble": TREE, "TreeEnsembleClassifier": TREE, "TreeEnsembleRegressor": TREE}
INERT_ML = {
    "Binarizer": "because a comparison with a threshold lets nothing through",
    "CastMap": "because it reads a dictionary, which carries no relevance",
    "CategoryMapper": "because a table of categories lets nothing through",
    "DictVectorizer": "because it reads a dictionary, which carries no relevance",
    "LabelEncoder": "because a table of keys and values lets nothing through",
    "OneHotEncoder": "because a comparison with every category lets nothing through",
    "ZipMap": "because it makes a dictionary, which carries no relevance; at the end of a model it is stripped",
}
KINDS_ML = {
    "ArrayFeatureExtractor": "move",
    "FeatureVectorizer": "move",
    "Imputer": "move",
    "LinearClassifier": "linear, with a weight",
    "LinearRegressor": "linear, with a weight",
    "Normalizer": "normalization (factor frozen); MAX: ratio",
    "SVMClassifier": "linear, with a weight; POLY, SIGMOID: two, pointwise in between; RBF: not supported",
    "SVMRegressor": "linear, with a weight; POLY, SIGMOID: two, pointwise in between; RBF: not supported",
    "Scaler": "input scaling; inside the network sum and scale, or normalization (affine)",
}
KERNELS = ("LINEAR", "POLY", "SIGMOID")
WAVERING = 1e-3  # from here on, what an SVM in float32 says is no longer what it has learned
TRANSFORMS = {"NONE": "Identity", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}


def unread(node: Any) -> str | None:
    """Why a node of this domain that was not written out has no reading, 'because ...'; None for other domains."""
    if node.domain != DOMAIN:
        return None
    against = UNSUPPORTED_ML.get(node.op) or INERT_ML.get(node.op) or _against(Writer(node))
    return against or "because its attributes and the shapes of its inputs do not fit together"


def _against(w: Writer) -> str | None:
    """What of a node is not covered although its operator is."""
    op, post, kernel = w.node.op, w.attr("post_transform", "NONE"), w.attr("kernel_type", "LINEAR")
    if kernel == "RBF":
        return "because the kernel RBF measures a distance to every support vector, which is no sum over the features"
    if kernel not in KERNELS:
        return f"because the kernel {kernel} is not known"
    if w.attr("prob_a", []):
        return "because its probabilities are found by an iteration; train it without them (probability=False)"
    if w.attr("one_class", 0):
        return "because one_class=1 leaves only the sign of the score"
    if post not in TRANSFORMS and op != "SVMRegressor":  # which has the attribute, and ignores it
        return f"because no rule reads the post_transform {post}; export the raw scores (NONE)"
    if op.startswith("SVM") and (m := machine(w)) is not None and (off := wavering(w, m)) > WAVERING:
        return (
            f"because in float32 its sums over the support vectors cancel, which takes its scores there off by {off:.1%}; "
            "scale the features before training"
        )
    vague = next((t for t in w.node.inputs if t.name and (t.dtype is None or t.shape is None)), None)
    return None if vague is None else f"because the type or rank of '{vague.name}' is unknown (input_shapes= may help)"


def ml(name: str) -> Callable[[Write], Write]:
    """Register what writes out an operator of this domain; it is not asked where there is something against the node."""

    def register(write: Write) -> Write:
        def careful(w: Writer) -> Written:
            return None if _against(w) else write(w)

        return expansion(name, DOMAIN)(careful)

    return register


# ------------------------------------------------------------------------------------------------- attributes and inputs


def numbers(w: Writer, name: str, dtype: Any = np.float32) -> Any:
    """An attribute as a vector; empty when it is absent."""
    return np.asarray(w.attr(name, []), dtype)


def labels(w: Writer) -> Any:
    """Names of the classes: text (an array of objects) or int64."""
    texts = [t.decode() if isinstance(t, bytes) else t for t in w.attr("classlabels_strings", [])]
    return np.asarray(texts, object) if texts else numbers(w, "classlabels_ints", np.int64)


def as_float(w: Writer, x: gs.Tensor) -> gs.Tensor:
    """x as float32, in which these operators compute."""
    return x if np.dtype(x.dtype) == np.float32 else w("Cast", x, dtype=np.float32, to=int(onnx.TensorProto.FLOAT))


def rows(w: Writer, x: gs.Tensor) -> gs.Tensor:
    """x as float32 (N,C); a vector (C) is one row."""
    y = as_float(w, x)
    return w("Unsqueeze", y, w.ints(0)) if len(x.shape) == 1 else y


def fits(x: gs.Tensor, features: int) -> bool:
    """Whether x is a vector or a table of that many features, as far as its shape is known."""
    return len(x.shape) in (1, 2) and (not isinstance(x.shape[-1], int) or x.shape[-1] == features)


def dense(w: Writer, x: gs.Tensor, weight: Any, bias: Any = None) -> gs.Variable:
    """x weightᵀ + bias with weight (K,C), bias (K). The node of the dense layer carries the operator's name."""
    b = None if bias is None else w.constant(bias)
    y = w("Gemm", x, w.constant(weight), b, transB=1)
    for node in w.made:
        node.name = f"{node.name}/inner" if node.name == w.node.name else node.name
    w.made[-1].name = w.node.name
    return y


def transformed(w: Writer, z: gs.Variable) -> gs.Variable:
    """Scores (N,K) after post_transform."""
    op = TRANSFORMS[w.attr("post_transform", "NONE")]
    return z if op == "Identity" else w(op, z, **({"axis": 1} if op == "Softmax" else {}))


# -------------------------------------------------------------------------------------------------------- preprocessing


@ml("Scaler")
def scaler(w: Writer) -> Written:
    """(x − offset) · scale, per feature (last axis) or with one value for all."""
    x, offset, scale = w.need(0), numbers(w, "offset"), numbers(w, "scale")
    if offset.size != scale.size or not scale.size or (offset.size > 1 and len(x.shape) > 2):
        return None
    y = as_float(w, x)
    y = w("Sub", y, w.constant(offset)) if np.any(offset) else y
    return w("Mul", y, w.constant(scale)) if np.any(scale != 1) else y


@ml("Normalizer")
def normalizer(w: Writer) -> Written:
    """x / Σ|x|, x / √Σx² or x / max x of every row; a row whose divisor is 0 stays. The maximum is signed, as in the kernel."""
    x, norm = w.need(0), w.attr("norm", "MAX")
    if len(x.shape) > 2 or norm not in ("L1", "L2", "MAX"):
        return None
    x = as_float(w, x)
    if norm != "MAX":
        return w("LpNormalization", x, axis=-1, p=int(norm[1]))
    top = w("ReduceMax", x, w.ints(-1), keepdims=1)
    empty = w("Equal", top, 0.0, dtype=bool)
    return w("Div", x, w("Where", empty, w.constant(1.0), top, dtype=np.float32))


@ml("Imputer")
def imputer(w: Writer) -> Written:
    """Where x is the value to be replaced (often NaN), the constant of its feature: relevance arriving there ends in it."""
    x = w.need(0)
    kind = {np.dtype(np.float32): "float", np.dtype(np.int64): "int64"}.get(np.dtype(x.dtype))
    filling = numbers(w, f"imputed_value_{kind}s", x.dtype)
    if kind is None or not filling.size or len(x.shape) > 2:
        return None
    if filling.size != x.shape[-1] and isinstance(x.shape[-1], int):
        filling = filling[:1]  # so does the kernel
    gap = w.attr(f"replaced_value_{kind}")
    missing = w("IsNaN", x, dtype=bool) if np.isnan(gap) else w("Equal", x, gap, dtype=bool)
    return w("Where", missing, w.constant(filling, x.dtype), x, dtype=x.dtype)


@ml("Binarizer")
def binarizer(w: Writer) -> Written:
    """1 where x > threshold, else 0."""
    x = w.need(0)
    above = w("Greater", x, w.constant(w.attr("threshold", 0.0), x.dtype), dtype=bool)
    return w("Cast", above, dtype=x.dtype, to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))))


@ml("FeatureVectorizer")
def feature_vectorizer(w: Writer) -> Written:
    """Concat of the inputs (N,d) as float32, each cut or filled up with zeros to its inputdimensions."""
    xs, sizes = list(w.node.inputs), [int(d) for d in w.attr("inputdimensions", [])]
    if len(xs) != len(sizes) or any(len(x.shape) > 2 or not isinstance(x.shape[-1], int) for x in xs):
        return None
    parts = []
    for x, size in zip(xs, sizes, strict=True):
        part, have = rows(w, x), int(x.shape[-1])
        if have > size:
            part = w("Slice", part, w.ints(0), w.ints(size), w.ints(1))
        elif have < size:
            part = w("Pad", part, w.ints(0, 0, 0, size - have), mode="constant")
        parts.append(part)
    return w("Concat", *parts, axis=1)


@ml("ArrayFeatureExtractor")
def array_feature_extractor(w: Writer) -> Written:
    """Gather along the last axis by a flat list of indices; of a vector, the result has a leading axis of size 1."""
    x, index = w.need(0), w.need(1)
    flat = w.ints(*np.ravel(index.values).tolist()) if isinstance(index, gs.Constant) else w("Reshape", index, w.ints(-1))
    y = w("Gather", x, flat, axis=-1)
    count = index.values.size if isinstance(index, gs.Constant) else None
    w.node.outputs[0].shape = [*(x.shape[:-1] or [1]), count]  # the converter declares another one for some classifiers
    return w("Unsqueeze", y, w.ints(0)) if len(x.shape) == 1 else y


# --------------------------------------------------------------------------------------------------------- linear models


@ml("LinearRegressor")
def linear_regressor(w: Writer) -> Written:
    """x coefficientsᵀ + intercepts; with one target, the kernel leaves post_transform out."""
    x, targets = w.need(0), int(w.attr("targets", 1))
    weight, bias = numbers(w, "coefficients"), numbers(w, "intercepts")
    if not weight.size or weight.size % targets or not fits(x, weight.size // targets):
        return None
    y = dense(w, rows(w, x), weight.reshape(targets, -1), bias if bias.size == targets else None)
    return transformed(w, y) if targets > 1 else y


@ml("LinearClassifier")
def linear_classifier(w: Writer) -> Written:
    """The label of the largest score, and the scores x coefficientsᵀ + intercepts after post_transform.

    With one score z and two labels, the second label is that of z > 0, and the scores are written by `pair`.
    """
    x, names = w.need(0), labels(w)
    weight, bias = numbers(w, "coefficients"), numbers(w, "intercepts")
    count = bias.size
    if not count or weight.size % count or not fits(x, weight.size // count) or (count > 1 and len(names) < count):
        return None
    z = dense(w, rows(w, x), weight.reshape(count, -1), bias)
    if count > 1:
        return named(w, names, w("ArgMax", z, dtype=np.int64, axis=1, keepdims=0)), transformed(w, z)
    both = w("Concat", w("Neg", z), z, axis=1)
    label = w("ArgMax", both, dtype=np.int64, axis=1, keepdims=0)
    if len(names) != 2:
        return named(w, np.asarray(["0", "1"], object) if names.dtype == object else np.arange(2), label), z
    return named(w, names, label), pair(w, z, w("Sub", 1.0, z))


def pair(w: Writer, z: gs.Variable, other: gs.Variable) -> gs.Variable:
    """Two columns from one score: (σ(−z), σ(z)) for LOGISTIC, else (other, z)."""
    if w.attr("post_transform", "NONE") != "LOGISTIC":
        return w("Concat", other, z, axis=1)
    return w("Sigmoid", w("Concat", w("Neg", z), z, axis=1))


def named(w: Writer, names: Any, index: gs.Variable) -> gs.Variable:
    """Names of the classes by index, int64 or strings."""
    return w("Gather", w.constant(names, names.dtype), index, axis=0)


# ------------------------------------------------------------------------------------------------ support vector machines


class Machine(NamedTuple):
    """Scores Σ_s combine_ks K(x, vectors_s) + rho_k: combine (K,S), vectors (S,C), rho (K)."""

    combine: Any
    vectors: Any
    rho: Any


def machine(w: Writer) -> Machine | None:
    """An SVM with support vectors; None when it has none, or its attributes do not fit together."""
    coefficients, vectors, rho = (numbers(w, name) for name in ("coefficients", "support_vectors", "rho"))
    if w.node.op == "SVMRegressor":
        counts = numbers(w, "n_supports", np.int64).reshape(-1)
        pairs = [(0, 1)]
    else:
        counts = numbers(w, "vectors_per_class", np.int64)
        pairs = [(i, j) for i in range(len(counts)) for j in range(i + 1, len(counts))]
    total, rest = int(counts.sum()), max(len(counts) - 1, 1)
    if not total or vectors.size % total or coefficients.size < rest * total or rho.size < len(pairs):
        return None
    coefficients = coefficients[: rest * total].reshape(rest, total)
    table = coefficients if len(counts) == 1 else np.zeros((len(pairs), total), np.float32)
    ends = np.cumsum(counts)
    for row, (i, j) in zip(table, pairs if len(counts) > 1 else (), strict=False):
        for k, other in ((i, j - 1), (j, i)):  # a class's coefficients against the others lie in rows that leave it out
            span = slice(ends[k] - counts[k], ends[k])
            row[span] = coefficients[other, span]
    return Machine(table, vectors.reshape(total, -1), rho[: len(pairs)])


def kernel(w: Writer) -> tuple[str, float, float, float]:
    """The function's name, γ, c and d of K: x·v, (γ x·v + c)^d or tanh(γ x·v + c)."""
    name = w.attr("kernel_type", "LINEAR")
    given = [1.0, 0.0, 1.0] if name == "LINEAR" else [*numbers(w, "kernel_params").tolist(), 0.0, 0.0, 0.0]
    return name, given[0], given[1], given[2]


def wavering(w: Writer, m: Machine) -> float:
    """How far float32 takes the scores of some support vectors from their exact values, relative to the largest."""
    name, gamma, constant, degree = kernel(w)
    found = []
    for kind in (np.float32, np.float64):
        combine, vectors, rho = (t.astype(kind) for t in m)
        inner = kind(gamma) * (vectors[:: len(vectors) // 64 + 1] @ vectors.T) + kind(constant)
        with np.errstate(all="ignore"):
            inner = np.tanh(inner) if name == "SIGMOID" else inner**degree
            found.append((inner @ combine.T + rho).astype(np.float64))
    return float(np.max(np.abs(found[0] - found[1])) / max(np.max(np.abs(found[1])), 1e-30))


def scores(w: Writer, m: Machine) -> gs.Variable:
    """The scores of an SVM. LINEAR: one dense layer, since the sums commute; else one on either side of the function."""
    x, (name, gamma, constant, degree) = rows(w, w.need(0)), kernel(w)
    wide = m.vectors.astype(np.float64)
    if name == "LINEAR":
        return dense(w, x, m.combine.astype(np.float64) @ wide, m.rho)
    inner = dense(w, x, gamma * wide, np.full(len(wide), constant) if constant else None)
    return dense(w, w("Tanh", inner) if name == "SIGMOID" else w("Pow", inner, degree), m.combine, m.rho)


@ml("SVMRegressor")
def svm_regressor(w: Writer) -> Written:
    """The score; without support vectors, x·coefficients + rho."""
    x, m, coefficients, rho = w.need(0), machine(w), numbers(w, "coefficients"), numbers(w, "rho")
    if not coefficients.size or not rho.size or (m is None and w.attr("n_supports", 0)):
        return None
    if not fits(x, coefficients.size if m is None else m.vectors.shape[1]):
        return None
    return dense(w, rows(w, x), coefficients.reshape(1, -1), rho[:1]) if m is None else scores(w, m)


@ml("SVMClassifier")
def svm_classifier(w: Writer) -> Written:
    """One score per pair of classes i < j, positive for i; the label wins most pairs.

    Of two classes, the label's score is z for the first and −z for the second. Without support vectors, one score per class.
    """
    x, names, m = w.need(0), labels(w), machine(w)
    classes, counts = len(names), numbers(w, "vectors_per_class", np.int64)
    if m is None:
        coefficients, rho = numbers(w, "coefficients"), numbers(w, "rho")
        if counts.sum() or classes < 3 or coefficients.size % classes or not rho.size:
            return None  # with two classes and no vectors, the kernel's label is not that of the larger score
        if not fits(x, coefficients.size // classes):
            return None
        z = dense(w, rows(w, x), coefficients.reshape(classes, -1), np.full(classes, rho[0]))
        return named(w, names, w("ArgMax", z, dtype=np.int64, axis=1, keepdims=0)), transformed(w, z)
    if len(counts) != classes or classes < 2 or not fits(x, m.vectors.shape[1]):
        return None
    z = scores(w, m)
    if classes > 2:
        return named(w, names, votes(w, z, classes)), transformed(w, z)
    both = w("Concat", z, w("Neg", z), axis=1)
    label = w("ArgMax", both, dtype=np.int64, axis=1, keepdims=0, select_last_index=1)
    other = w("Neg", z) if w.attr("post_transform", "NONE") == "NONE" else w("Sub", 1.0, z)
    return named(w, names, label), pair(w, z, other)


def votes(w: Writer, z: gs.Variable, classes: int) -> gs.Variable:
    """Index of the class that wins most pairs, the first one of equals: a comparison, which no relevance passes."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    won, default = np.zeros((classes, len(pairs))), np.zeros(classes)
    for column, (i, j) in zip(won.T, pairs, strict=True):
        column[i], column[j] = 1, -1
        default[j] += 1
    wins = w("Cast", w("Greater", z, 0.0, dtype=bool), dtype=np.float32, to=int(onnx.TensorProto.FLOAT))
    count = w("Gemm", wins, w.constant(won), w.constant(default), transB=1)
    whole = w("Cast", count, dtype=np.int32, to=int(onnx.TensorProto.INT32))
    return w("ArgMax", whole, dtype=np.int64, axis=1, keepdims=0)
