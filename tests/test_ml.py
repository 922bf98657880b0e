"""Operators of domain ai.onnx.ml: outputs as the runtime's own kernels have them, relevance as numpy has it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, run, session
from onnx import TensorProto, helper

import onnxlrp
from onnxlrp import Composite, Epsilon, NameMap, ZPlus
from onnxlrp.expansions.ml import INERT_ML, KINDS_ML, UNSUPPORTED_ML
from onnxlrp.facts import INERT

F, I, D, I32, S = (getattr(TensorProto, t) for t in ("FLOAT", "INT64", "DOUBLE", "INT32", "STRING"))
ML = "ai.onnx.ml"
X = data(5, 4, seed=3)
W, B = data(3, 4, seed=4), data(3, seed=5)
TEXTS, NUMBERS = ["low", "middle", "high"], [7, -2, 40]


def ml(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node of the domain, called after its first output."""
    plain = {k: np.ravel(v).tolist() if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
    return helper.make_node(op, inputs.split(), outputs.split(), outputs.split()[0], domain=ML, **plain)


def std(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), outputs.split()[0], **attrs)


def model(
    nodes: list[onnx.NodeProto], x: Any = (F, ["N", 4]), constants: dict[str, Any] | None = None, **outputs: Any
) -> onnx.ModelProto:
    """x -> outputs (name: element type, or its type and shape); the type of a sequence of maps is `dict`."""
    faces = []
    for name, kind in outputs.items():
        kind, shape = kind if isinstance(kind, tuple) else (kind, None)
        faces.append(
            helper.make_value_info(name, helper.make_sequence_type_proto(helper.make_map_type_proto(*shape)))
            if kind is dict
            else helper.make_tensor_value_info(name, kind, shape)
        )
    weights = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", *x)], faces, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(ML, 3)], ir_version=8)


def same(found: Any, own: Any) -> None:
    """Labels to the bit, numbers to 1e-5 of the largest; dictionaries by their entries."""
    if isinstance(own, list):
        assert [list(row) for row in found] == [list(row) for row in own]
        near([list(row.values()) for row in found], [list(row.values()) for row in own])
    elif own.dtype.kind == "f":
        assert found.dtype == own.dtype
        near(np.nan_to_num(found, nan=1e9), np.nan_to_num(own, nan=1e9))
    else:
        assert found.dtype == own.dtype
        assert np.array_equal(found, own)


def explained(m: onnx.ModelProto, x: np.ndarray, composite: Any = "epsilon", **options: Any) -> dict[str, Any]:
    """Outputs of the compiled model, after checking that the model's own are the original's and standard operators do."""
    target = options.pop("target", None)
    compiled = onnxlrp.compile(m, composite, **options)
    found = run(compiled, x=x, **({} if target is None else {"target": np.int64([target])}))
    for name, own in run(m, x=x).items():
        same(found[name], own)
    left = {n.op_type for n in compiled.graph.node if n.domain}
    assert left <= {"ZipMap"}
    assert (ML in [o.domain for o in compiled.opset_import]) == bool(left)
    return found


def dense(x: np.ndarray, w: np.ndarray, z: np.ndarray, r: np.ndarray) -> np.ndarray:
    """R_i = x_i Σ_k w_ki r_k / stab(z_k), in float64."""
    x, w, z, r = (np.asarray(t, np.float64) for t in (x, w, z, r))
    return np.asarray(x * ((r / (z + np.where(z >= 0, 1e-6, -1e-6))) @ w))


def of_winner(z: np.ndarray, target: int | None = None) -> np.ndarray:
    """z at the target class, by default the largest one's, 0 elsewhere."""
    hit = np.arange(z.shape[1]) == (z.argmax(1)[:, None] if target is None else target)
    return np.where(hit, z, 0)


Z = X @ W.T + B


# --------------------------------------------------------------------------------------------------------- linear models


def classifier(post: str = "NONE", texts: bool = False, x: str = "x", w: Any = W, b: Any = B, **attrs: Any) -> onnx.NodeProto:
    named = {"classlabels_strings": TEXTS[: len(b)]} if texts else {"classlabels_ints": NUMBERS[: len(b)]}
    attrs = {**named, **attrs}
    return ml("LinearClassifier", x, "label scores", coefficients=w, intercepts=b, post_transform=post, **attrs)


@pytest.mark.parametrize("target", [None, 0, 1, 2])
@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_classifier(post: str, texts: bool, target: int | None) -> None:
    m = model([classifier(post, texts)], label=S if texts else I, scores=F)
    wanted = dense(X, W, Z, of_winner(Z, target))
    for output in ("label", "scores"):
        near(explained(m, X, output=output, target=target)["relevance.x"], wanted, 1e-4)
        stripped = {"NONE": (), "SOFTMAX": ("Softmax",), "LOGISTIC": ("Sigmoid",)}[post]
        assert onnxlrp.inspect(m, output=output).head.stripped == (("ArgMax",) if output == "label" else stripped)


def test_the_dense_layer_carries_the_name_of_the_operator() -> None:
    m = model([classifier("SOFTMAX")], label=I, scores=F)
    assert [(la.name, la.op) for la in onnxlrp.inspect(m)] == [("label", "Gemm")]
    assert onnxlrp.inspect(m, Composite(Epsilon(), NameMap({"label": ZPlus()})))[0].rule == ZPlus()


@pytest.mark.parametrize("x", [[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[-2, 3, 0, 0]], [[2, 2, 2, 2]]], ids=str)
def test_the_first_of_equal_scores_gives_the_label(x: Any) -> None:
    w = np.float32([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    m = model([classifier(w=w, b=np.zeros(3, np.float32))], label=I, scores=F)
    explained(m, np.float32(x))


ONE = X[:, :1] * np.float32([[1], [-1], [0], [1], [1]])  # one of the scores is 0


@pytest.mark.parametrize("names", [{"classlabels_ints": [4, 9]}, {"classlabels_strings": ["no", "yes"]}, {}], ids=str)
@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_one_score_for_two_classes(post: str, names: dict[str, Any]) -> None:
    """The label is that of (−z, z), the first one at 0; scores are (1 − z, z), or their Sigmoid."""
    x, w = np.hstack([ONE, X[:, 1:] * 0]), np.float32([[2, 1, 1, 1]])
    node = ml("LinearClassifier", "x", "label scores", coefficients=w, intercepts=[0.0], post_transform=post, **names)
    m = model([node], label=S if "classlabels_strings" in names else I, scores=F)
    z = x @ w.T
    both = np.hstack([-z, z])
    for target in (None, 0, 1):
        start = of_winner(both, target).sum(1, keepdims=True)  # −z passes to z as it is
        near(explained(m, x, target=target)["relevance.x"], dense(x, w, z, start), 1e-4)
    if names and post == "LOGISTIC":
        for target in (0, 1):
            near(explained(m, x, output="scores", target=target)["relevance.x"], (2 * target - 1) * x * w, 1e-4)


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("bias", [True, False], ids=["intercepts", "no intercepts"])
def test_linear_regressor(post: str, targets: int, bias: bool) -> None:
    w, b = W[:targets], B[:targets] * bias
    node = ml(
        "LinearRegressor", "x", "y", coefficients=w, targets=targets, post_transform=post, **({"intercepts": b} if bias else {})
    )
    m, z = model([node], y=F), X @ w.T + b
    near(explained(m, X)["relevance.x"], dense(X, w, z, of_winner(z)), 1e-4)


@pytest.mark.parametrize(
    "node", [classifier("SOFTMAX"), ml("Scaler", "x", "scores", offset=[1.0], scale=[2.0])], ids=["dense", "scaler"]
)
def test_a_vector_is_one_row(node: onnx.NodeProto) -> None:
    m = model([node], (F, [4]), **({"label": I} if node.op_type == "LinearClassifier" else {}), scores=F)
    assert explained(m, X[0])["relevance.x"].shape == (4,)


# -------------------------------------------------------------------------------------------------------- preprocessing

OFFSET, SCALE = data(4, seed=6), data(4, seed=7, low=0.5)
SCALED = (X - OFFSET) * SCALE
SCALER = ml("Scaler", "x", "s", offset=OFFSET, scale=SCALE)


def gaps() -> np.ndarray:
    x = X.copy()
    x[0, 1] = x[2, 3] = x[4, 0] = np.nan
    return x


GAPS = gaps()
FILLED = np.where(np.isnan(GAPS), OFFSET, GAPS)
NAN = float("nan")


def imputer(to: str, values: Any, gap: float) -> onnx.NodeProto:
    return ml("Imputer", "x", to, imputed_value_floats=values, replaced_value_float=gap)


class Pipe(NamedTuple):
    """Nodes from x to s, which a classifier reads; the values at s; the features that carry relevance, x itself."""

    nodes: list[onnx.NodeProto]
    s: np.ndarray
    x: np.ndarray = X
    passes: Any = 1.0


def columns(to: str, *parts: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    """Columns 0 and 2, 3, 1 of x, each through a node from `c<i>` to `d<i>`, put together again."""
    nodes = []
    for i, node in enumerate(parts):
        nodes += [ml("ArrayFeatureExtractor", f"x k{i}", f"c{i}"), node or std("Identity", f"c{i}", f"d{i}")]
    return [*nodes, std("Concat", " ".join(f"d{i}" for i in range(len(parts))), to, axis=1)]


def scaler(i: int, features: list[int]) -> onnx.NodeProto:
    return ml("Scaler", f"c{i}", f"d{i}", offset=OFFSET[features], scale=SCALE[features])


KEYS = {"k0": np.int64([0, 2]), "k1": np.int64([3]), "k2": np.int64([[1]])}
ORDER = [0, 2, 3, 1]
BACK = np.argsort(ORDER)
PARTLY = np.stack([SCALED[:, 0], SCALED[:, 2], X[:, 3], X[:, 1]], 1)
PIPES = {
    "Scaler": Pipe([SCALER], SCALED),
    "Scaler, one value": Pipe([ml("Scaler", "x", "s", offset=[2.0], scale=[3.0])], (X - 2) * 3),
    "Scaler, offset 0": Pipe([ml("Scaler", "x", "s", offset=[0.0] * 4, scale=SCALE)], X * SCALE),
    "Scaler that does nothing": Pipe([ml("Scaler", "x", "s", offset=[0.0], scale=[1.0])], X),
    "Imputer": Pipe([imputer("s", OFFSET, NAN)], FILLED, GAPS, ~np.isnan(GAPS)),
    "Imputer, one value": Pipe([imputer("s", [3.0], NAN)], np.where(np.isnan(GAPS), 3, GAPS), GAPS, ~np.isnan(GAPS)),
    "Imputer of zeros": Pipe([imputer("s", OFFSET, 0.0)], FILLED, np.nan_to_num(GAPS), ~np.isnan(GAPS)),
    "Imputer, Scaler": Pipe([imputer("i", OFFSET, NAN), ml("Scaler", "i", "s", offset=OFFSET / 2, scale=SCALE)],
                            (FILLED - OFFSET / 2) * SCALE, GAPS, ~np.isnan(GAPS)),
    "columns": Pipe(columns("s", scaler(0, [0, 2]), scaler(1, [3]), scaler(2, [1])), SCALED[:, ORDER]),
    "columns, two as they are": Pipe(columns("s", scaler(0, [0, 2]), None, None), PARTLY),
    "columns, Scaler": Pipe([*columns("t", None, None, None), ml("Scaler", "t", "s", offset=OFFSET, scale=SCALE)],
                            (X[:, ORDER] - OFFSET) * SCALE),
    "columns, columns": Pipe([*columns("t", scaler(0, [0, 2]), None, None), ml("ArrayFeatureExtractor", "t all", "s")], PARTLY),
    "Normalizer L1": Pipe([ml("Normalizer", "x", "s", norm="L1")], X / np.abs(X).sum(1, keepdims=True)),
    "Normalizer L2": Pipe([ml("Normalizer", "x", "s", norm="L2")], X / np.sqrt((X**2).sum(1, keepdims=True))),
    "Normalizer MAX": Pipe([ml("Normalizer", "x", "s", norm="MAX")], X / X.max(1, keepdims=True)),
    "FeatureVectorizer": Pipe([ml("FeatureVectorizer", "x", "s", inputdimensions=[4])], X),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPES)
def test_relevance_is_that_of_the_original_features(name: str) -> None:
    """Scaling passes: feature i gets s_i w_i, wherever it lies in s; a missing value gets nothing."""
    nodes, s, x, passes = PIPES[name]
    m = model([*nodes, classifier("SOFTMAX", x="s")], constants={**KEYS, "all": np.arange(4)}, label=I, scores=F)
    z = s @ W.T + B
    r = dense(s, W, z, of_winner(z))
    r = r[:, BACK] if name.startswith("columns") else r
    found = explained(m, x)["relevance.x"]
    near(found, r * passes, 1e-4)
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizer_of_odd_rows(norm: str) -> None:
    """Rows of zeros stay, and the maximum is signed: with negative rows it turns them around, as the kernel does."""
    x = np.float32([[0, 0, 0, 0], [-1, -2, -4, -3], [0, -1, 0, -1], [1e-3, 0, 0, 0]])
    m = model([ml("Normalizer", "x", "y", norm=norm)], y=F)
    found = explained(m, x)
    near(found["relevance.x"], of_winner(found["y"]))


def test_several_inputs_are_put_together() -> None:
    """FeatureVectorizer cuts the first, fills the second up with zeros."""
    node = ml("FeatureVectorizer", "x h", "y", inputdimensions=[3, 6])
    m = model([std("Neg", "x", "h"), node], y=F)
    found = explained(m, X, target=1)
    near(found["relevance.x"], of_winner(X, 1))
    near(explained(m, X, target=4)["relevance.x"], of_winner(-X, 1))


def test_rows_picked_at_run_time() -> None:
    nodes = [
        std("ArgMax", "x", "a", axis=1, keepdims=0),
        std("Slice", "a zero one", "k"),
        ml("ArrayFeatureExtractor", "x k", "y"),
    ]
    m = model(nodes, constants={"zero": np.int64([0]), "one": np.int64([1])}, y=F)
    best = X[0].argmax()
    near(explained(m, X)["relevance.x"], of_winner(X, best))


TYPES = {"int64": (I, np.int64), "int32": (I32, np.int32), "float64": (D, np.float64)}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("first", ["Scaler", "LinearClassifier", "Normalizer", "FeatureVectorizer"])
def test_other_types_of_input(first: str, kind: str) -> None:
    """Floats of 64 bits are explained; integers are not, but what they are cast to is, as if it were the input."""
    before = {
        "Scaler": [SCALER], "LinearClassifier": [], "Normalizer": [ml("Normalizer", "x", "s", norm="L2")],
        "FeatureVectorizer": [ml("FeatureVectorizer", "x", "s", inputdimensions=[4])],
    }[first]  # fmt: skip
    m = model([*before, classifier("SOFTMAX", x="s" if before else "x")], (TYPES[kind][0], ["N", 4]), label=I, scores=F)
    x = np.round(X * 5).astype(TYPES[kind][1])
    plain = model([*before, classifier("SOFTMAX", x="s" if before else "x")], label=I, scores=F)
    wanted = explained(plain, x.astype(np.float32))["relevance.x"]
    if kind == "float64":
        near(explained(m, x)["relevance.x"], wanted)
        return
    with pytest.raises(onnxlrp.UnsupportedOp, match=r"any float input.*explain=.*such as") as caught:
        onnxlrp.compile(m)
    name = str(caught.value).split("such as '")[1].split("'")[0]
    near(explained(m, x, explain=[name])[f"relevance.{name}"], wanted)


def test_integers_with_gaps() -> None:
    imputer = ml("Imputer", "x", "i", imputed_value_int64s=[8], replaced_value_int64=-1)
    m = model([imputer, classifier(x="i")], (I, ["N", 4]), label=I, scores=F)
    x = np.int64([[1, -1, 3, 4], [-1, 0, -1, 2]])
    assert np.abs(explained(m, x, explain=["label/Cast_0"])["relevance.label/Cast_0"]).max() > 0


def test_missing_values_may_be_given_where_the_model_fills_them() -> None:
    nodes, _, x, passes = PIPES["Imputer, Scaler"]
    filled = model([*nodes, classifier(x="s")], label=I, scores=F)
    r = onnxlrp.Explainer(filled, "epsilon").quietly(x).relevance
    assert np.isfinite(r).all()
    assert np.array_equal(r != 0, passes)
    with pytest.raises(onnxlrp.InputError, match="NaN or infinite"):
        onnxlrp.Explainer(model([SCALER, classifier(x="s")], label=I, scores=F), "epsilon")(x)
    with pytest.raises(onnxlrp.InputError, match="NaN or infinite"):
        onnxlrp.Explainer(filled, "epsilon")(np.where(np.isnan(x), np.inf, x))


def test_texts_as_inputs() -> None:
    """A table of categories next to numbers: the numbers are explained, and the encoded categories when asked for."""
    encode = [ml("OneHotEncoder", "c", "o", cats_strings=["a", "b"], zeros=1), std("Reshape", "o k", "e")]
    m = model([*encode, std("Concat", "x e", "s", axis=1), classifier(w=np.hstack([W, W[:, :2]]), x="s")],
              constants={"k": np.int64([-1, 2])}, label=I, scores=F)  # fmt: skip
    m.graph.input.append(helper.make_tensor_value_info("c", S, ["N", 1]))
    c = np.asarray([["a"], ["b"], ["b"], ["z"], ["a"]], object)
    hot = np.float32(c == np.asarray([["a", "b"]], object))
    s, w = np.hstack([X, hot]), np.hstack([W, W[:, :2]])
    z = s @ w.T + B
    wanted = dense(s, w, z, of_winner(z))
    for options, names in (({}, ["x"]), ({"explain": ["x", "e"]}, ["x", "e"])):
        found = run(onnxlrp.compile(m, "epsilon", **options), x=X, c=c)
        near(np.hstack([found[f"relevance.{n}"] for n in names]), wanted[:, : 4 if len(names) == 1 else 6], 1e-4)
    assert np.array_equal(found["label"], run(m, x=X, c=c)["label"])


# ------------------------------------------------------------------------------------------------- what nothing passes

ENCODERS = {
    "Binarizer": ml("Binarizer", "x", "e", threshold=0.3),
    "OneHotEncoder": ml("OneHotEncoder", "x", "o", cats_int64s=[0, 1]),
    "LabelEncoder": ml("LabelEncoder", "x", "e", keys_floats=[0.0, 1.0], values_floats=[3.0, 5.0], default_float=1.0),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_inert_operators(name: str) -> None:
    """Relevance passes by them; where they are all there is, the error names the node."""
    encode = [ENCODERS[name], *([std("ReduceSum", "o two", "e", keepdims=0)] if name == "OneHotEncoder" else [])]
    constants = {"two": np.int64([2])}
    m = model([*encode, std("Concat", "x e", "s", axis=1), std("MatMul", "s v", "y")],
              constants={**constants, "v": np.vstack([W.T, W.T])}, y=(F, ["N", 3]))  # fmt: skip
    x = np.round(X)
    compiled = onnxlrp.compile(m, "epsilon")
    found, own = run(compiled, x=x), run(m, x=x)["y"]
    near(found["y"], own)
    near(found["relevance.x"], dense(x, W, own, of_winner(own)), 1e-4)
    alone = model([*encode, std("MatMul", "e w", "y")], constants={**constants, "w": W.T}, y=(F, ["N", 3]))
    where = "e/Greater_0" if name == "Binarizer" else "o" if name == "OneHotEncoder" else "e"
    with pytest.raises(onnxlrp.UnsupportedOp, match=f"it ends at node '{where}'"):
        onnxlrp.compile(alone)


def test_every_operator_of_the_domain_has_a_kind() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ML}
    tables = (KINDS_ML, UNSUPPORTED_ML, INERT_ML)
    assert set().union(*tables) == known
    assert sum(map(len, tables)) == len(known)
    assert set(INERT_ML) <= INERT
    assert all(text.startswith("because ") for text in {**UNSUPPORTED_ML, **INERT_ML}.values())


# ------------------------------------------------------------------------------------------------ support vector machines

V = data(6, 4, seed=8)
C1, C2 = data(1, 6, seed=9), data(2, 6, seed=10)
PARAMETERS = [0.3, 0.7, 3.0]
KERNEL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LINEAR": lambda k: k,
    "POLY": lambda k: (0.3 * k + 0.7) ** 3,
    "SIGMOID": lambda k: np.tanh(0.3 * k + 0.7),
}


def through_kernel(kernel: str, combine: np.ndarray, r: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Two dense layers with the function in between; one for LINEAR."""
    if kernel == "LINEAR":
        return dense(X, combine.astype(np.float64) @ V, z, r)
    inner = 0.3 * (X.astype(np.float64) @ V.T) + 0.7
    return dense(X, 0.3 * V, inner, dense(KERNEL[kernel](X.astype(np.float64) @ V.T), combine, z, r))


@pytest.mark.parametrize("kernel", KERNEL)
def test_svm_regressor(kernel: str) -> None:
    attrs = {"kernel_type": kernel, "kernel_params": PARAMETERS, "rho": [0.4], "post_transform": "LOGISTIC"}
    m = model([ml("SVMRegressor", "x", "y", support_vectors=V, n_supports=6, coefficients=C1, **attrs)], y=F)
    z = KERNEL[kernel](X.astype(np.float64) @ V.T) @ C1.T + 0.4
    near(explained(m, X)["relevance.x"], through_kernel(kernel, C1, z, z), 1e-4)


def test_svm_regressor_without_support_vectors() -> None:
    m = model([ml("SVMRegressor", "x", "y", coefficients=W[0], kernel_params=PARAMETERS, rho=[0.4])], y=F)
    z = X @ W[:1].T + 0.4
    near(explained(m, X)["relevance.x"], dense(X, W[:1], z, z), 1e-4)


def svc(kernel: str, counts: list[int], combine: np.ndarray, post: str = "NONE", **attrs: Any) -> onnx.NodeProto:
    names = {} if "classlabels_strings" in attrs else {"classlabels_ints": NUMBERS[: len(counts)]}
    own = {**names, "rho": B[: len(counts) * (len(counts) - 1) // 2], "support_vectors": V}
    own |= {"vectors_per_class": counts, "coefficients": combine, "kernel_type": kernel, "kernel_params": PARAMETERS}
    return ml("SVMClassifier", "x", "label scores", **{**own, "post_transform": post, **attrs})


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("kernel", KERNEL)
def test_svm_of_two_classes(kernel: str, post: str) -> None:
    """A positive score speaks for the first class."""
    m = model([svc(kernel, [2, 4], C1, post)], label=I, scores=F)
    z = KERNEL[kernel](X.astype(np.float64) @ V.T) @ C1.T + B[0]
    for target in (None, 0, 1):
        start = of_winner(np.hstack([z, -z]), target).sum(1, keepdims=True)
        near(explained(m, X, target=target)["relevance.x"], through_kernel(kernel, C1, start, z), 1e-4)
    if post != "SOFTMAX":
        near(explained(m, X, output="scores", target=1)["relevance.x"], through_kernel(kernel, C1, z, z), 1e-4)


def test_a_score_of_zero_is_the_second_class() -> None:
    node = svc("LINEAR", [3, 3], np.zeros_like(C1), rho=[0.0])
    explained(model([node], label=I, scores=F), X)


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("kernel", KERNEL)
def test_svm_of_three_classes(kernel: str, post: str, texts: bool) -> None:
    """One score per pair is explained; the label, a vote between pairs, is not."""
    m = model(
        [svc(kernel, [1, 3, 2], C2, post, **({"classlabels_strings": TEXTS} if texts else {}))],
        label=S if texts else I,
        scores=F,
    )
    table = np.zeros((3, 6))
    table[0, :1], table[0, 1:4] = C2[0, :1], C2[0, 1:4]
    table[1, :1], table[1, 4:] = C2[1, :1], C2[0, 4:]
    table[2, 1:4], table[2, 4:] = C2[1, 1:4], C2[1, 4:]
    z = KERNEL[kernel](X.astype(np.float64) @ V.T) @ table.T + B
    for target in (None, 0, 1, 2):
        found = explained(m, X, output="scores", target=target)
        near(found["relevance.x"], through_kernel(kernel, table, of_winner(z, target), z), 1e-4)
    with pytest.raises(onnxlrp.UnsupportedOp, match=r"output 'label' is (int64|object), and no scores.*label, scores"):
        onnxlrp.compile(m)


def test_svm_without_support_vectors() -> None:
    node = ml(
        "SVMClassifier", "x", "label scores", classlabels_ints=NUMBERS, coefficients=W, rho=[0.2], kernel_params=PARAMETERS
    )
    z = X @ W.T + np.float32(0.2)
    for output in ("label", "scores"):
        m = model([node], label=I, scores=F)
        near(explained(m, X, output=output)["relevance.x"], dense(X, W, z, of_winner(z)), 1e-4)


# -------------------------------------------------------------------------------------------------------------- refusals

TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_values": [0.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
LEAVES = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 1.0]}
SVC2 = {"classlabels_ints": NUMBERS[:2], "coefficients": W[:2], "rho": [0.2], "kernel_params": PARAMETERS}
SIGNS = np.float32([1, -1, 1, -1, 1, -1])
REFUSED = {
    "tree": (ml("TreeEnsembleClassifier", "x", "label scores", classlabels_int64s=[0, 1], **TREE, **LEAVES), "piecewise"),
    "RBF": (svc("RBF", [2, 4], C1), "kernel RBF measures a distance"),
    "unknown kernel": (svc("LAPLACE", [2, 4], C1), "kernel LAPLACE is not known"),
    "probabilities": (svc("LINEAR", [2, 4], C1, prob_a=[-1.0], prob_b=[0.0]), "probability=False"),
    "PROBIT": (classifier("PROBIT"), "post_transform PROBIT; export the raw scores"),
    "SOFTMAX_ZERO": (classifier("SOFTMAX_ZERO"), "post_transform SOFTMAX_ZERO; export the raw scores"),
    "SOFTMAX_ZERO of an SVM": (svc("LINEAR", [1, 3, 2], C2, "SOFTMAX_ZERO"), "post_transform SOFTMAX_ZERO"),
    "two classes without vectors": (ml("SVMClassifier", "x", "label scores", **SVC2), "do not fit together"),
    "sums that cancel": (svc("LINEAR", [2, 4], SIGNS, support_vectors=V * 1e-4 + 1000), "scale the features"),
    "too many features": (classifier(w=data(3, 5)), "do not fit together"),
}


@pytest.mark.parametrize("output", ["label", "scores"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, output: str) -> None:
    """One line that names the node, the operator and the reason, at the end of the model and inside it."""
    node, reason = REFUSED[name]
    m = model([node], label=I, scores=F)
    inside = model([node, std("Relu", "scores", "y")], y=F)
    for each, options in ((m, {"output": output}), (inside, {})):
        with pytest.raises(
            onnxlrp.UnsupportedOp, match=f"node 'label': operator ai.onnx.ml::{node.op_type}.*because.*{reason}"
        ) as caught:
            onnxlrp.compile(each, **options)
        assert "\n" not in str(caught.value)


TARGETS = {"n_targets": 1, "target_treeids": [0], "target_nodeids": [1], "target_ids": [0], "target_weights": [1.0]}
SVR = {"support_vectors": V, "n_supports": 6, "coefficients": C1, "kernel_params": PARAMETERS, "rho": [0.1]}
REGRESSORS = {
    "tree": (ml("TreeEnsembleRegressor", "x", "y", **TREE, **TARGETS), "piecewise constant"),
    "RBF": (ml("SVMRegressor", "x", "y", kernel_type="RBF", **SVR), "kernel RBF"),
    "one class": (ml("SVMRegressor", "x", "y", one_class=1, **SVR), "sign"),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_what_is_refused_as_a_regressor(name: str) -> None:
    node, reason = REGRESSORS[name]
    with pytest.raises(onnxlrp.UnsupportedOp, match=f"node 'y'.*{node.op_type}.*because.*{reason}"):
        onnxlrp.compile(model([node], y=F))


def test_an_input_of_unknown_rank() -> None:
    m = model([std("Reshape", "x k", "s"), classifier(x="s")], (F, ["N", 4]), label=I, scores=F)
    m.graph.input.append(helper.make_tensor_value_info("k", I, ["K"]))
    with pytest.raises(onnxlrp.UnsupportedOp, match=r"node 'label'.*rank of 's' is unknown \(input_shapes= may help\)"):
        onnxlrp.compile(m)
    assert len(onnxlrp.inspect(m, input_shapes={"k": [2]})) == 2


# ------------------------------------------------------------------------------------------------- the end of the model


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_a_dictionary_of_probabilities(texts: bool) -> None:
    """What the converter writes by default: label, Normalizer, ZipMap. The dictionaries stay, the scores are explained."""
    key = {"classlabels_strings": TEXTS} if texts else {"classlabels_int64s": NUMBERS}
    nodes = [classifier("SOFTMAX", texts), ml("Normalizer", "scores", "p", norm="L1"), ml("ZipMap", "p", "d", **key)]
    value = helper.make_tensor_type_proto(F, [])
    m = model(nodes, label=S if texts else I, d=(dict, (S if texts else I, value)))
    for output in ("label", "d"):
        near(explained(m, X, output=output)["relevance.x"], dense(X, W, Z, of_winner(Z)), 1e-4)
    assert onnxlrp.inspect(m, output="d").head.stripped == ("ZipMap", "LpNormalization", "Softmax")


def one_vs_rest() -> onnx.ModelProto:
    """One classifier of two scores per class, the second columns put together."""
    nodes = []
    for k in range(3):
        node = classifier("LOGISTIC", w=np.stack([-W[k], W[k]]), b=np.stack([-B[k], B[k]]))
        node.output[:] = [f"label{k}", f"scores{k}"]
        node.name = f"class{k}"
        nodes += [node, std("Slice", f"scores{k} one two one", f"p{k}")]
    nodes += [std("Concat", "p0 p1 p2", "p", axis=1), std("LpNormalization", "p", "scores", axis=1, p=1)]
    nodes += [std("ArgMax", "p", "a", axis=1), ml("ArrayFeatureExtractor", "names a", "n"), std("Reshape", "n flat", "label")]
    constants = {"one": np.int64([1]), "two": np.int64([2]), "flat": np.int64([-1]), "names": np.asarray(TEXTS, object)}
    return model(nodes, constants=constants, label=S, scores=F)


@pytest.mark.parametrize("output", ["label", "scores"])
def test_one_classifier_per_class(output: str) -> None:
    m = one_vs_rest()
    assert onnxlrp.inspect(m, output=output).head.stripped[-1] == "Sigmoid"
    near(explained(m, X, output=output)["relevance.x"], dense(X, W, Z, of_winner(Z)), 1e-4)


def test_a_label_that_a_table_translates() -> None:
    nodes = [classifier(), ml("LabelEncoder", "label", "name", keys_int64s=NUMBERS, values_strings=TEXTS)]
    found = onnxlrp.compile(model(nodes, name=S), "epsilon")
    near(run(found, x=X)["relevance.x"], dense(X, W, Z, of_winner(Z)), 1e-4)
    assert np.array_equal(run(found, x=X)["name"], np.asarray(TEXTS, object)[Z.argmax(1)])


SPELLED = "n = Mul(z, minus)\ne = Exp(n)\nd = Add(e, one)\np = Reciprocal(d)\n"
GUARD = """t = ReduceSum(p, last)
a = Cast<to=9>(t)
c = Not(a)
f = Cast<to=1>(c)
q = Add(p, f)
g = Mul(f, three)
u = Add(t, g)
y = Div(q, u)"""
HEADS = {
    "sigmoid": SPELLED + "y = Identity(p)",
    "sigmoid with Div": "n = Neg(z)\ne = Exp(n)\nd = Add(one, e)\ny = Div(one, d)",
    "shares of a sigmoid": SPELLED + GUARD,
    "softmax": "m = ReduceMax(z, last)\ns = Sub(z, m)\np = Exp(s)\nt = ReduceSum(p, last)\ny = Div(p, t)",
    "softmax without its maximum": "p = Exp(z)\nt = ReduceSum(p, last)\ny = Div(p, t)",
    "exp of a log softmax": "m = ReduceLogSumExp<keepdims=0>(z, last)\nk = Reshape(m, column)\ns = Sub(z, k)\ny = Exp(s)",
}
CONSTANTS = {"w": W.T, "b": B, "last": np.int64([1]), "column": np.int64([-1, 1])}
CONSTANTS |= {"minus": np.float32(-1), "one": np.float32(1), "three": np.float32(3)}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_spelled_out(name: str) -> None:
    body = f"h = MatMul(x, w)\nz = Add(h, b)\n{HEADS[name]}"
    m = net(body, "float[N,4] x", "float[N,3] y", **CONSTANTS)
    near(explained(m, X)["relevance.x"], dense(X, W, Z, of_winner(Z)), 1e-4)


def test_only_shares_of_the_same_values_are_looked_through() -> None:
    """A ratio of two things is no distribution, and an exponential without its sum is explained itself."""
    for tail in ("p = Sigmoid(z)\nt = ReduceSum(z, last)\ny = Div(p, t)", "y = Exp(z)"):
        m = net(f"h = MatMul(x, w)\nz = Add(h, b)\n{tail}", "float[N,4] x", "float[N,3] y", **CONSTANTS)
        assert onnxlrp.inspect(m).head.tensor == "y"


def test_a_spelled_sigmoid_inside_the_network_passes() -> None:
    body = "z = MatMul(x, w)\nn = Neg(z)\ne = Exp(n)\nd = Add(one, e)\np = Div(one, d)\ny = MatMul(p, v)"
    v = data(3, 2, seed=2)
    m = net(body, "float[N,4] x", "float[N,2] y", v=v, **CONSTANTS)
    p = 1 / (1 + np.exp(-(X @ W.T)))
    near(explained(m, X)["relevance.x"], dense(X, W, X @ W.T, dense(p, v.T, p @ v, of_winner(p @ v))), 1e-4)
    step, best = 1e-3, (p @ v).argmax(1)
    slope = run(onnxlrp.compile(m, "gradient"), x=X)["relevance.x"]
    for i in range(4):
        up, down = (run(m, x=X + s * np.float32(np.eye(4)[i]))["y"][range(5), best] for s in (step, -step))
        near(slope[:, i], (up - down) / (2 * step), 1e-2)


# --------------------------------------------------------------------------------------------------- files as they come


def test_an_output_of_another_shape_than_declared() -> None:
    """The converter declares (N,2) for the one column that it picks."""
    nodes = [classifier(w=W[:2], b=B[:2]), ml("ArrayFeatureExtractor", "scores k", "y")]
    m = model(nodes, constants={"k": np.int64(1)}, y=(F, ["N", 2]))
    near(explained(m, X)["relevance.x"], dense(X, W[1:2], Z[:, 1:2], Z[:, 1:2]), 1e-4)


def test_a_domain_that_is_imported_twice() -> None:
    m = model([ml("Normalizer", "x", "y", norm="MAX")], y=F)
    m.opset_import.insert(0, helper.make_opsetid("", 17))
    compiled = onnxlrp.compile(m)
    assert [(o.domain, o.version) for o in compiled.opset_import] == [("", 18)]
    session(compiled)


def test_batches_of_any_size() -> None:
    m = model([SCALER, classifier("SOFTMAX", x="s")], label=I, scores=F)
    s = session(onnxlrp.compile(m, "epsilon"))
    whole = s.run(["relevance.x"], {"x": X})[0]
    for n in range(5):
        near(s.run(["relevance.x"], {"x": X[n : n + 1]})[0], whole[n : n + 1])
