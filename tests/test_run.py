"""The runtime: inputs are checked, results are complete, a compiled file explains without its model."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, near, net, ops, small, weight
from models_for_tests import run as run_bare
from PIL import Image

import onnxlrp
from onnxlrp import Explainer, InputError
from onnxlrp.doctor import examine, random_inputs
from onnxlrp.heatmap import colorize, heatmap, plane
from onnxlrp.inputs import read_input
from onnxlrp.rows import free_memory
from onnxlrp.session import run

MODELS = Path(__file__).parents[1] / "models"
CNN, MLP, FLAX = (MODELS / f"digits_{name}.onnx" for name in ("cnn", "mlp", "flax"))
DIGIT = np.load(MODELS / "digit.npy")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(CNN, "epsilon_plus_flat", layers=["pool", 5])


def test_explanation_is_complete(explainer: Explainer) -> None:
    explanation = explainer(DIGIT)
    assert explanation.relevance.shape == DIGIT.shape
    assert explanation.relevance.dtype == np.float32
    assert list(explanation.relevances) == ["image"]
    assert explanation.output.argmax() == 3
    assert explanation.target is not None
    assert explanation.target.tolist() == [3]
    assert set(explanation.layers) == {"pool", "block.conv2"}
    assert explanation.layers[2] is explanation.layers["pool"]
    assert explanation.initial[0, 3] == pytest.approx(explanation.output[0, 3])
    assert explanation.ratio == pytest.approx(explanation.relevance.sum() / explanation.output.max(), rel=1e-5)
    with pytest.raises(KeyError, match="no relevance of layer"):
        explanation.layers["fc"]


@pytest.mark.parametrize("model", [CNN, MLP, FLAX], ids=["cnn", "mlp", "flax"])
def test_batch_is_its_rows(model: Path) -> None:
    explainer = Explainer(model, "epsilon_plus")
    shape = [d if isinstance(d, int) else 5 for d in explainer.inputs[explainer.required[0]].shape]
    x = np.random.default_rng(0).random(shape, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random inputs conserve less
        whole = explainer(x, target=[0, 1, 2, 3, -1])
        rows = [explainer(x[i : i + 1], target=t) for i, t in enumerate([0, 1, 2, 3, -1])]
    found = np.concatenate([r.relevance for r in rows])
    np.testing.assert_allclose(whole.relevance, found, rtol=0, atol=1e-5 * np.abs(found).max())
    assert whole.target is not None
    assert whole.target.tolist() == [t for r in rows if r.target is not None for t in r.target.tolist()]


def test_compiled_file_explains_without_the_model(tmp_path: Path, explainer: Explainer) -> None:
    path = tmp_path / "digits.lrp.onnx"
    onnxlrp.save(onnxlrp.compile(CNN, "epsilon_plus_flat", checks=True), path)
    compiled = Explainer(path)
    assert np.array_equal(compiled(DIGIT).relevance, Explainer(CNN, "epsilon_plus_flat", checks=True)(DIGIT).relevance)
    near(compiled(DIGIT).relevance, explainer(DIGIT).relevance, 1e-6)  # diagnostics keep some rewrites from applying
    assert [b.name for b in compiled(DIGIT).conservation] == [b.name for b in explainer(DIGIT).conservation]
    with pytest.raises(onnxlrp.CompositeError, match="compiled already"):
        Explainer(path, "epsilon")


def test_compiled_without_checks_says_so(tmp_path: Path) -> None:
    path = tmp_path / "digits.lrp.onnx"
    onnxlrp.save(onnxlrp.compile(CNN), path)
    with pytest.raises(InputError, match="checks=True"):
        _ = Explainer(path)(DIGIT).conservation


def test_conservation_balances(explainer: Explainer) -> None:
    books = explainer(DIGIT).conservation
    assert [b.index for b in books] == list(range(9))
    for b in books:
        assert abs(b.dropped) <= 1e-5 * abs(b.arrived), b
    first, last = books[0], books[-1]
    assert last.arrived == pytest.approx(explainer(DIGIT).initial.sum(), rel=1e-6)
    assert first.sent == pytest.approx(explainer(DIGIT).relevance.sum(), rel=1e-5)


BAD_INPUTS = {
    "nan": (np.full((1, 1, 8, 8), np.nan, np.float32), "NaN"),
    "infinite": (np.full((1, 1, 8, 8), np.inf, np.float32), "infinite"),
    "shape": (np.zeros((1, 1, 9, 8), np.float32), "must have the shape"),
    "no batch axis": (np.zeros((1, 8, 8), np.float32), r"x\[None\]"),
    "no batch axis, another size": (np.zeros((1, 7, 8), np.float32), "got 1×7×8$"),
    "unknown name": ({"pixels": DIGIT}, "no input called 'pixels'"),
    "missing": ({}, "'image' is missing"),
    "no rows": (np.zeros((0, 1, 8, 8), np.float32), "no rows"),
    "text": (np.full((1, 1, 8, 8), "a"), "got text"),
    "complex": (np.zeros((1, 1, 8, 8), np.complex64), "got complex numbers"),
    "objects": (np.full((1, 1, 8, 8), None), "got objects"),
    "beyond float32": (np.full((1, 1, 8, 8), 1e300), "too large for float32"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_named(explainer: Explainer, name: str) -> None:
    x, text = BAD_INPUTS[name]
    with pytest.raises(InputError, match=text) as caught:
        explainer(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [10, -2, 1.5, [0, 1], [[1]], "3"])
def test_bad_target_is_named(explainer: Explainer, target: object) -> None:
    with pytest.raises(InputError, match="target"):
        explainer(DIGIT, target=target)  # type: ignore[arg-type]


def test_a_target_out_of_range_names_the_classes(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"^target 10: the model has the classes 0 to 9$"):
        explainer(np.repeat(DIGIT, 2, 0), target=[3, 10])


def test_float64_and_integers_are_taken(explainer: Explainer) -> None:
    assert np.array_equal(explainer(DIGIT.astype(np.float64)).relevance, explainer(DIGIT).relevance)
    assert np.isfinite(explainer((DIGIT > 0.5).astype(np.uint8)).relevance).all()


def test_unknown_provider_lists_what_there_is() -> None:
    with pytest.raises(InputError, match="CPUExecutionProvider"):
        Explainer(CNN, providers="quantum")


def test_bias_that_absorbs_everything_warns() -> None:
    with pytest.warns(UserWarning, match="initial relevance"):
        Explainer(CNN, "epsilon")(np.zeros_like(DIGIT))


def test_box_bounds_that_are_left_show_in_the_books() -> None:
    inside = Explainer(CNN, "epsilon_gamma_box(low=0, high=1)")(DIGIT).conservation
    outside = Explainer(CNN, "epsilon_gamma_box(low=0, high=0.5)").quietly(DIGIT).conservation
    assert inside[0].outside == 0
    assert outside[0].outside == int((DIGIT > 0.5).sum())


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("model", [CNN, FLAX], ids=["cnn", "flax"])
def test_inputs_outside_the_bounds_warn(model: Path, checks: bool) -> None:
    explainer = Explainer(model, "epsilon_gamma_box(low=0, high=0.5)", checks=checks)
    x = DIGIT.reshape([d if isinstance(d, int) else 1 for d in explainer.inputs[explainer.required[0]].shape])
    with pytest.warns(UserWarning, match=rf"layer \d+ '.*': {int((x > 0.5).sum())} inputs .* ZBox\(0, 0.5\)"):
        explainer(x)
    explainer(x / 2)
    explainer.quietly(x)


def test_conservation_needs_neither_the_file_nor_the_proto(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CNN.read_bytes())
    proto = onnx.load(CNN)
    explanations = [Explainer(path)(DIGIT), Explainer(proto)(DIGIT)]
    path.unlink()
    proto.Clear()
    for explanation in explanations:
        assert len(explanation.conservation) == 9


def test_threads_share_one_explainer_with_checks() -> None:
    explainer = Explainer(CNN, "epsilon_plus_flat")
    explanations = [explainer(DIGIT) for _ in range(4)]
    filters = list(warnings.filters)
    threads = [threading.Thread(target=lambda e=e: e.conservation) for e in explanations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(e.conservation) == 9 for e in explanations)
    assert warnings.filters == filters


@pytest.mark.parametrize("lost", ["onnxlrp.interface", "onnxlrp.plan"])
def test_file_of_another_version_is_refused(lost: str) -> None:
    model = onnxlrp.compile(CNN)
    for prop in model.metadata_props:
        prop.key = "other" if prop.key == lost else prop.key
    with pytest.raises(onnxlrp.InvalidModel, match="another version"):
        Explainer(model)


@pytest.mark.parametrize("name", ["relu", "max_pool2d"])
def test_inner_tensor_can_be_explained(name: str) -> None:
    explanation = Explainer(CNN, output=name).quietly(DIGIT)
    assert name not in explanation.outputs
    assert explanation.output.shape == explanation.initial.shape
    assert explanation.target is not None
    np.testing.assert_array_equal(explanation.target, explanation.output.argmax(1))


def test_heatmap_of_a_row_that_is_not_there(explainer: Explainer) -> None:
    with pytest.raises(InputError, match="row 9 does not exist, the batch has 1"):
        explainer(DIGIT).heatmap(row=9)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_respect_the_umask(tmp_path: Path, explainer: Explainer) -> None:
    before = os.umask(0o027)
    try:
        for name in ("out.npz", "out.png"):
            explainer(DIGIT).save(tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_save_to_a_folder_leaves_nothing(tmp_path: Path, explainer: Explainer) -> None:
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        explainer(DIGIT).save(tmp_path / "out.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def read(path: Path, channels: int = 1) -> np.ndarray:
    """A file as the input of a model of 8×8 pictures."""

    class Declared:
        shape = ("batch", channels, 8, 8)

    return read_input(path, {"image": Declared()})["image"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_16_bits_keep_their_range(tmp_path: Path, channels: int) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey * 1000).save(tmp_path / "deep.png")
    x = read(tmp_path / "deep.png", channels)
    assert x.shape == (1, channels, 8, 8)
    np.testing.assert_allclose(x, np.broadcast_to(grey * (1000 / 65535), x.shape), rtol=1e-5)
    Image.fromarray((grey * 4).astype(np.uint8)).save(tmp_path / "flat.png")
    np.testing.assert_allclose(read(tmp_path / "flat.png", channels)[0, 0], grey * (4 / 255), rtol=1e-5)


def test_arrays_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DIGIT)
    np.savez(tmp_path / "y.npz", DIGIT)
    names = {"x.npy": "a.npz", "y.npz": "b.npy"}
    for name, other in names.items():
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        (tmp_path / f"upper{Path(name).suffix.upper()}").write_bytes((tmp_path / name).read_bytes())
    for file in sorted(tmp_path.iterdir()):
        assert np.array_equal(read(file), DIGIT), file


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", DIGIT)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-40])
    (tmp_path / "short.png").write_bytes((MODELS / "digit.png").read_bytes()[:60])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "folder.npy").mkdir()
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tiff")
    texts = {
        "cut.npz": "could not be read", "short.png": "could not be read", "text.npy": "is not a .npy file",
        "folder.npy": "is a folder", "objects.npy": "Python objects", "float.tiff": "16 bits", "no.npy": "no such file",
    }  # fmt: skip
    for name, text in texts.items():
        with pytest.raises(InputError, match=text) as caught:
            read(tmp_path / name)
        assert "pickle" not in str(caught.value)


def test_save(tmp_path: Path, explainer: Explainer) -> None:
    explanation = explainer(DIGIT, target=5)
    explanation.save(tmp_path / "out.npz")
    explanation.save(tmp_path / "out.png", size=64)
    with np.load(tmp_path / "out.npz") as saved:
        assert np.array_equal(saved["relevance.image"], explanation.relevance)
        assert saved["target"].tolist() == [5]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (64, 64)
    with pytest.raises(InputError, match=r"\.npz or \.png"):
        explanation.save(tmp_path / "out.txt")
    with pytest.raises(InputError, match="does not exist"):
        explanation.save(tmp_path / "nowhere" / "out.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npz", "out.png"]


def test_heatmap_is_symmetric_about_zero() -> None:
    assert colorize(np.array([-1.0, 0.0, 1.0])).tolist() == [[0, 0, 255], [255, 255, 255], [255, 0, 0]]
    picture = heatmap(np.array([[2.0, -1.0]]), size=1)
    assert np.asarray(picture).tolist() == [[[255, 0, 0], [128, 128, 255]]]


@pytest.mark.parametrize(
    ("shape", "result"),
    [((3, 4, 5), (4, 5)), ((4, 5, 3), (4, 5)), ((32, 4, 4), (4, 4)), ((4, 5), (4, 5)), ((64,), (8, 8)), ((7,), (1, 7))],
)
def test_plane(shape: tuple[int, ...], result: tuple[int, int]) -> None:
    r = np.random.default_rng(0).standard_normal(shape)
    assert plane(r).shape == result
    assert plane(r).sum() == pytest.approx(r.sum())


# batches ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each run."""
    found: list[int] = []

    def spy(session: Any, names: Any, feed: Mapping[str, np.ndarray], device: str) -> Any:
        found.append(len(next(iter(feed.values()))))
        return run(session, names, feed, device)

    monkeypatch.setattr("onnxlrp.run.run", spy)
    return found


@pytest.mark.parametrize("targets", [None, 2, [0, 1, 2, 3, -1]], ids=["largest", "one", "per row"])
@pytest.mark.parametrize(
    "more", [{}, {"layers": ["pool"], "checks": True}, {"init": "given"}], ids=["plain", "checks", "given"]
)
def test_a_batch_in_parts_is_the_batch(parts: list[int], more: dict[str, Any], targets: Any) -> None:
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    feed, target = {"image": x}, targets
    if "init" in more:
        feed, target = {"image": x, "relevance_out": np.eye(10, dtype=np.float32)[:5]}, None
    whole = Explainer(CNN, "epsilon", batch_size=5, **more).quietly(feed, target)
    split = Explainer(CNN, "epsilon", batch_size=2, **more).quietly(feed, target)
    assert parts == [5, 2, 2, 1]
    pairs = [(split.relevance, whole.relevance), (split.output, whole.output), (split.initial, whole.initial)]
    for a, b in [*pairs, (split.ratio, whole.ratio), *((split.layers[k], whole.layers[k]) for k in whole.layers)]:
        near(a, b, 1e-6)
    assert np.array_equal(split.target, whole.target)  # type: ignore[arg-type]
    for a, b in zip(split.conservation, whole.conservation, strict=True):
        assert (a.index, a.nonfinite, a.outside) == (b.index, b.nonfinite, b.outside)
        near([a.arrived, a.sent, a.bias, a.epsilon], [b.arrived, b.sent, b.bias, b.epsilon], 1e-5)


def test_masks_are_cut_along_the_batch_or_stay_whole(parts: list[int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((5, 1, 8, 8), np.float32)
    explainer = Explainer(CNN, "epsilon", conditions=["pool"], batch_size=2)
    for shape in ((1, 1, 1, 1), (5, 1, 1, 1), (1, 32, 4, 4)):
        feed = {"image": x, "mask.max_pool2d": rng.random(shape, np.float32)}
        whole = Explainer(CNN, "epsilon", conditions=["pool"]).quietly(feed)
        near(explainer.quietly(feed).relevance, whole.relevance, 1e-6)
    assert parts == [2, 2, 1, 5] * 3 or parts == [5, 2, 2, 1] * 3


SHARED = """
    z = MatMul(x, s)
    y = Mul(z, g)
"""
TWO = "float[N,3] x, float[3,4] s"


def test_an_input_without_a_batch_axis_stays_whole() -> None:
    model = net(SHARED, TWO, g=np.float32(2))
    feed = {"x": data(5, 3), "s": data(3, 4, seed=1)}
    options: dict[str, Any] = {"composite": "epsilon", "explain": ["x"]}
    near(Explainer(model, batch_size=2, **options).quietly(feed).relevance, Explainer(model, **options).quietly(feed).relevance)
    with pytest.raises(InputError, match=r"batch_size: 's' does not have the batch as its first axis"):
        Explainer(model, "epsilon", batch_size=2)(feed)


MIXING = {
    "mean of the batch": "m = ReduceMean<keepdims=1>(x, zero)\n z = Sub(x, m)\n y = MatMul(z, w)",
    "softmax over the batch": "z = MatMul(x, w)\n y = Softmax<axis=0>(z)",
    "rows by rows": "t = Transpose<perm=[1,0]>(x)\n p = MatMul(x, t)\n q = MatMul(p, x)\n y = MatMul(q, w)",
    "sum along the batch": "c = CumSum(x, zero0)\n y = MatMul(c, w)",
    "normed along the batch": "z = LpNormalization<axis=0, p=2>(x)\n y = MatMul(z, w)",
}


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_depend_on_each_other_are_never_split_unasked(
    parts: list[int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("onnxlrp.rows.SMALL", 0)
    monkeypatch.setattr("onnxlrp.rows.free_memory", lambda: 1)
    constants = {"zero": np.asarray([0]), "zero0": np.asarray(0), "w": data(3, 4, seed=1)}
    used = {k: v for k, v in constants.items() if f"{k})" in MIXING[name] or f", {k}" in MIXING[name]}
    Explainer(net(MIXING[name], "float[N,3] x", "float[N,4] y", **used), "epsilon").quietly(data(5, 3))
    assert parts == [5]


@pytest.mark.parametrize(("free", "found"), [(10**12, [5]), (0, [1] * 5), (None, [5])], ids=["room", "none", "unknown"])
def test_batches_are_split_where_memory_is_short(
    parts: list[int], monkeypatch: pytest.MonkeyPatch, free: int | None, found: list[int]
) -> None:
    monkeypatch.setattr("onnxlrp.rows.SMALL", 0)
    monkeypatch.setattr("onnxlrp.rows.free_memory", lambda: free)
    for model in (CNN, FLAX):
        parts.clear()
        explainer = Explainer(model, "epsilon")
        explainer.quietly(np.ones([d if isinstance(d, int) else 5 for d in explainer.inputs[explainer.required[0]].shape]))
        assert parts == found


def test_memory_of_a_row_is_the_forward_pass() -> None:
    face = json.loads({p.key: p.value for p in onnxlrp.compile(small()).metadata_props}["onnxlrp.interface"])
    assert face["rows"]["memory"] == {"N": 4 * 6 * 5 * 2 + 4 * 3 * 2 * 2 + 4}  # conv, relu; pool, flatten; gemm
    assert face["rows"]["independent"]
    free = free_memory()
    assert free is None or free > 2**20


def test_batch_size_of_a_fixed_batch_and_of_nothing() -> None:
    model = net("y = MatMul(x, w)", "float[2,3] x", "float[2,4] y", w=data(3, 4))
    with pytest.raises(InputError, match="no input of the model has a free first axis"):
        Explainer(model, "epsilon", batch_size=1)(data(2, 3))
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="batch_size must be a positive integer"):
            Explainer(model, "epsilon", batch_size=wrong)  # type: ignore[arg-type]


def test_relevance_that_is_not_finite_warns() -> None:
    explainer = Explainer(net("y = MatMul(x, w)", "float[N,3] x", w=np.full((3, 4), 1e38, np.float32)), "epsilon")
    explainer(data(2, 3, low=0.5) / 100)
    with pytest.warns(UserWarning, match="not finite"):
        explainer(data(2, 3, low=0.5) * 100)


# ranges ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [(0, 1), {"x": (0, 1)}, {"x": (0.0, float("inf"))}])
def test_a_range_saves_what_cannot_occur_and_changes_nothing_inside(ranges: Any) -> None:
    x = data(3, 3, 6, 5, low=0)
    free, known = (onnxlrp.compile(small(), "zplus", optimize=False, **more) for more in ({}, {"input_ranges": ranges}))
    assert ops(known).count("Conv") < ops(free).count("Conv")
    assert ops(known).count("ConvTranspose") < ops(free).count("ConvTranspose")
    a, b = run_bare(free, x=x), run_bare(known, x=x)
    assert np.array_equal(a["relevance.x"], b["relevance.x"])
    assert np.array_equal(a["y"], b["y"])


def test_an_input_outside_its_range_warns() -> None:
    model = net("y = MatMul(x, w)", "float[N,3] x", w=data(3, 4, low=0.1))
    explainer, x = Explainer(model, "zplus", input_ranges={"x": (0, 1)}), data(2, 3, low=0.1)
    explainer(x)
    x[0, :2] = (-0.5, 3)
    with pytest.warns(UserWarning, match=r"input 'x': 2 values lie outside the range \[0, 1\]"):
        explainer(x)


def test_an_unnamed_batch_is_split_when_asked(parts: list[int]) -> None:
    x = np.random.default_rng(0).random((5, 64), np.float32)
    whole, split = Explainer(MLP, "epsilon").quietly(x), Explainer(MLP, "epsilon", batch_size=2).quietly(x)
    assert parts == [5, 2, 2, 1]
    near(split.relevance, whole.relevance, 1e-6)
    assert np.array_equal(split.outputs["label"], whole.outputs["label"])


def test_check_knows_ranges() -> None:
    explainer = Explainer(small(), "zplus", input_ranges=(0.25, 0.5))
    drawn = random_inputs(explainer)["x"]
    assert drawn.min() >= 0.25
    assert drawn.max() <= 0.5
    assert not any("outside the range" in f for f in examine(explainer, {"x": drawn}).findings)
    assert any("outside the range [0.25, 0.5]" in f for f in examine(explainer, {"x": drawn + 1}).findings)


BAD_RANGES: dict[str, tuple[Any, type[onnxlrp.Error], str]] = {
    "crossed": ({"x": (1, 0)}, onnxlrp.CompositeError, "low <= high"),
    "NaN": ({"x": (0, float("nan"))}, onnxlrp.CompositeError, "low <= high"),
    "one number": ({"x": 1}, onnxlrp.CompositeError, "must be"),
    "three numbers": ((0, 1, 2), onnxlrp.CompositeError, "must be"),
    "text": ({"x": "ab"}, onnxlrp.CompositeError, "must be"),
    "nothing left": ({"x": (float("inf"), float("inf"))}, onnxlrp.CompositeError, "low <= high"),
    "unknown": ({"z": (0, 1)}, InputError, "float inputs are x"),
}


@pytest.mark.parametrize("name", BAD_RANGES)
def test_bad_range_is_named(name: str) -> None:
    ranges, kind, text = BAD_RANGES[name]
    with pytest.raises(kind, match=text) as caught:
        onnxlrp.compile(small(), input_ranges=ranges)
    assert "\n" not in str(caught.value)


def test_a_plain_range_needs_one_float_input() -> None:
    with pytest.raises(InputError, match="2 float inputs"):
        onnxlrp.compile(net(SHARED, TWO, g=np.float32(2)), input_ranges=(0, 1))


@pytest.mark.parametrize(("x", "y"), [("float[N,4] x", "float[N] y"), ("float[4] x", "float[3] y")])
def test_an_output_that_is_its_own_initial_relevance_is_kept(x: str, y: str) -> None:
    """Without an axis of classes relevance starts at the whole output, which stays one."""
    wide = y == "float[3] y"
    explainer = onnxlrp.Explainer(net("y = MatMul(x, w)", x, y, w=weight(4, 3) if wide else weight(4, 1)[:, 0]), "epsilon")
    explanation = explainer(data(4) if wide else data(2, 4))
    assert list(explanation.outputs) == ["y"]
    np.testing.assert_array_equal(explanation.initial, explanation.output)
