"""Models of many frameworks and exporters, where the checkout has them beside it (`../shared/zoo`): slow, run with -m slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from test_references import error

import onnxlrp
from onnxlrp import Explainer
from onnxlrp.doctor import examine

SHARED = Path(__file__).parents[2] / "shared"
ZOO, REFS = SHARED / "zoo", SHARED / "zoo_refs"
needs_zoo = pytest.mark.skipif(not REFS.is_dir(), reason="the models (../shared/zoo, zoo_refs) are not beside this checkout")
STATUS = json.loads((REFS / "status.json").read_text()) if REFS.is_dir() else {}
FILES = {m["name"]: m["file"] for m in json.loads((ZOO / "manifest.json").read_text())} if ZOO.is_dir() else {}
MANIFEST = json.loads((ZOO / "manifest.json").read_text()) if ZOO.is_dir() else []


REFUSED = {"hand_if"}  # its condition depends on the input


def compiled_or_refused(path: Path, preset: str) -> onnx.ModelProto:
    """A compiled model; skips for those that are refused rightly, by a message that names the node."""
    try:
        return onnxlrp.compile(path, preset)
    except onnxlrp.UnsupportedOp as refused:
        if path.stem not in REFUSED or "node '" not in str(refused):
            raise
        pytest.skip(str(refused).split("; to get past")[0])


def assert_books_balance(path: Path, preset: str, feed: dict[str, np.ndarray]) -> None:
    """arrived = sent + bias + ε at every layer: exact book-keeping in the place of a map that rounding decides."""
    books = Explainer(path, preset, checks=True).quietly(feed).conservation
    scale = max(abs(b.arrived) for b in books)
    assert scale > 0
    for b in books:
        assert abs(b.dropped) <= 1e-3 * max(scale, abs(b.bias), abs(b.epsilon)), b


@needs_zoo
@pytest.mark.slow
def test_zoo_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints which models are explained, and for the others the node that has no reading."""
    lines = {name: reading(ZOO / file) for name, file in sorted(FILES.items())}
    explained = sum(line.endswith("layers") for line in lines.values())
    with capsys.disabled():
        print("\n".join(["", *(f"{name:30} {line}" for name, line in lines.items()), f"{explained} of {len(lines)} explained"]))
    assert explained
    assert all("node '" in line or line.endswith("layers") for line in lines.values())


def reading(path: Path) -> str:
    """How many layers are explained, or which node is not read."""
    try:
        return f"{len(onnxlrp.inspect(path))} layers"
    except onnxlrp.UnsupportedOp as refused:
        return str(refused).split("; to get past")[0][:150]


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, with the convolutions that round as the reference's do.

    onnxruntime's layout optimisation sums in another order; a unit within that rounding (1e-6) of a ReLU's kink then
    flips, which Epsilon turns into 1e-3 … 1e-2 of a map. That is the runtime's rounding, not the compiler's formula.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, s in STATUS.items() if s.get("presets")] or ["none"])
def test_zoo_model_matches_its_reference(name: str) -> None:
    """Compiles, gives the model's own outputs, and the reference's relevance; or names the node that it cannot read."""
    worst = {}
    for preset, info in STATUS[name]["presets"].items():
        compiled = compiled_or_refused(ZOO / FILES[name], preset)
        reference = np.load(REFS / info["file"])
        feed = {k[3:]: reference[k] for k in reference.files if k.startswith("in:")}
        found = run(compiled, feed)
        for key in [k for k in reference.files if k.startswith("relevance:")]:
            r = found[f"relevance.{key[10:]}"]
            assert np.isfinite(r).all()
            if info["well_conditioned"]:
                worst[f"{preset} {key}"] = error(r, reference[key])
        if not info["well_conditioned"]:
            assert_books_balance(ZOO / FILES[name], preset, feed)
    # on attention models the place where ε is added moves Epsilon results by 1e-4 … 3e-3
    bound = 3e-3 if '"softmax"' in plan_of(compiled) else 1e-3
    assert all(v <= bound for v in worst.values()), worst


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES) or ["none"])
def test_zoo_model_keeps_its_outputs(name: str) -> None:
    """The compiled graph's own outputs equal the model's, and its file is hardly larger than the model's."""
    path = ZOO / FILES[name]
    compiled = compiled_or_refused(path, "epsilon_plus_flat")
    data = np.load(path.with_suffix(".npz"))
    feed = {k[3:]: data[k] for k in data.files if k.startswith("in:")}
    found = run(compiled, feed)
    own = run_model(path, feed)
    for key, y in own.items():
        if isinstance(y, np.ndarray) and y.dtype.kind == "f":
            # a float16 file rounds every sum to 11 bits where the compiled one computes in float32; a dynamically quantised
            # LSTM rounds its state to 8 bits at every step, and is read (and computed) as the LSTM that it stands for
            coarse = {"fp16": 2e-3, "lstm.ts.int8_dynamic": 3e-2}
            bound = next((v for k, v in coarse.items() if name.endswith(k)), 1e-5)
            assert error(found[key].astype(np.float64), y.astype(np.float64)) <= bound
    weights = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*") if p.suffix != ".npz")
    assert compiled.ByteSize() <= 1.05 * weights + 200_000 + 2_000 * len(compiled.graph.node)


def run_model(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's own outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def feed_of(name: str, rows: int = 1) -> dict[str, np.ndarray]:
    """The stored input, its rows scaled by 1, 0.9, 0.8, … so that they differ (integers stay)."""
    data = np.load((ZOO / FILES[name]).with_suffix(".npz"))
    feed = {}
    for key in (k for k in data.files if k.startswith("in:")):
        x = data[key][:1] if rows > 1 else data[key]
        scaled = [x * (1 - 0.1 * i) if x.dtype.kind == "f" else x for i in range(rows)]
        feed[key[3:]] = np.concatenate(scaled).astype(x.dtype)
    return feed


SYMBOLIC = [  # a dynamic quantisation takes its range over the whole batch: its rows are not independent in the model itself
    m["name"]
    for m in MANIFEST
    if all(not isinstance(s[0][0], int) for s in m["inputs"].values()) and "int8_dynamic" not in m["name"]
]


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", SYMBOLIC or ["none"])
def test_rows_of_a_batch_are_independent(name: str) -> None:
    """Three rows at once give what each gives alone."""
    compiled = compiled_or_refused(ZOO / FILES[name], "epsilon_plus")
    feed = feed_of(name, 3)
    keys = [o.name for o in compiled.graph.output if o.name.startswith("relevance.")]
    together = run(compiled, feed)
    alone = [run(compiled, {k: x[i : i + 1] for k, x in feed.items()}) for i in range(3)]
    for key in keys:
        assert error(together[key], np.concatenate([one[key] for one in alone])) <= 1e-4


PAIRS = sorted(n.removesuffix(".dyn") for n in FILES if n.endswith(".dyn") and f"{n.removesuffix('.dyn')}.ts" in FILES)
RELATED = {  # a file, its float32 parent, and how alike their relevances must be
    **{n: (n.removesuffix(".fp16"), 0.999) for n in FILES if n.endswith(".fp16")},
    **{n: (n.rsplit(".int8", 1)[0], 0.98) for n in FILES if ".int8" in n},
}


def relevance_by_place(compiled: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Relevances in the order of the inputs: exporters name embeddings in their own ways."""
    return [v for k, v in run(compiled, feed).items() if k.startswith("relevance.")]


def plan_of(compiled: onnx.ModelProto) -> str:
    return next(p.value for p in compiled.metadata_props if p.key == "onnxlrp.plan")


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gamma"])
@pytest.mark.parametrize("name", PAIRS or ["none"])
def test_two_exporters_one_relevance(name: str, preset: str) -> None:
    """torch's two exporters write different graphs of one network; its relevance is one (where ε does not decide it)."""
    known = [k for n in ("ts", "dyn") if (k := STATUS.get(f"{name}.{n}", {}).get("presets", {}).get(preset))]
    if not all(k["well_conditioned"] for k in known):
        pytest.skip("what ε and rounding decide differs between any two graphs")
    old, new = (compiled_or_refused(ZOO / FILES[f"{name}.{n}"], preset) for n in ("ts", "dyn"))
    feed = feed_of(f"{name}.ts")
    ours, theirs = relevance_by_place(old, feed), relevance_by_place(new, feed)
    assert len(ours) == len(theirs) > 0
    noise = 5 * sum(k["noise"] for k in known)  # what rounding the weights to float32 alone changes
    if ('"recurrent"' in plan_of(old)) != ('"recurrent"' in plan_of(new)):  # one of them unrolled: ε stands in other places
        if preset != "epsilon":
            pytest.skip("rules of dense layers reach only the file whose recurrence is unrolled")
        cases = [k for n in ("ts", "dyn") for k in STATUS[f"{name}.{n}"]["presets"].values()]
        noise = max([noise, *(k["sensitivity"] for k in cases)])
    assert max(error(a, b) for a, b in zip(ours, theirs, strict=True)) <= max(1e-4, noise)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_plus_flat"])
@pytest.mark.parametrize("name", [n for n, (parent, _) in RELATED.items() if parent in FILES] or ["none"])
def test_low_precision_explains_as_its_parent(name: str, preset: str) -> None:
    parent, least = RELATED[name]
    small, whole = (compiled_or_refused(ZOO / FILES[n], preset) for n in (name, parent))
    feed = feed_of(name)
    declared = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in whole.graph.input}
    ours = relevance_by_place(small, feed)
    theirs = relevance_by_place(whole, {k: x.astype(declared[k]) for k, x in feed.items()})
    for a, b in zip(ours, theirs, strict=True):
        flat = np.ptp(b) <= 1e-5 * np.abs(b).max()  # Flat on a dense layer: the same everywhere
        assert np.ptp(a) <= 1e-5 * np.abs(a).max() if flat else np.corrcoef(a.ravel(), b.ravel())[0, 1] > least


SPELLINGS = {
    "bert.ts": ["bert_eager.ts", "bert_eager.dyn", "bert_eager.ts.ortopt"],
    "llama_cls.ts": ["llama_cls.dyn.ortopt"],
    "vit.ts": ["vit.dyn.ortopt"],
}


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), [(a, b) for a, others in SPELLINGS.items() for b in others])
def test_spellings_of_one_transformer(one: str, other: str) -> None:
    """Attention written out or fused, by torch or by onnxruntime's optimiser: different graphs, one relevance."""
    feed = feed_of(one)
    (a,), (b,) = (relevance_by_place(onnxlrp.compile(ZOO / FILES[n], "attn_lrp"), feed) for n in (one, other))
    assert error(b, a) <= 1e-4


def named(report: Any, finding: str) -> bool:
    return any(f"layer {b.index} " in finding for b in report.books)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES) or ["none"])
def test_check_finds_nothing_or_names_the_layer(name: str) -> None:
    """`onnxlrp check`: exit 0, or 1 with the layer that absorbs relevance and why."""
    try:
        explainer = Explainer(ZOO / FILES[name], "epsilon_plus", checks=True)
    except onnxlrp.UnsupportedOp as refused:
        if name not in REFUSED:
            raise
        pytest.skip(str(refused).split("; to get past")[0])
    report = examine(explainer, feed_of(name))
    if report.findings:
        assert any(named(report, f) for f in report.findings), report.findings
        assert any(word in f for f in report.findings for word in ("bias", "ε", "drop", "outside", "finite"))
