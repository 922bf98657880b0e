"""The runtime: inputs are checked, results are complete, a compiled file explains without its model."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxlrp
from onnxlrp import Explainer, InputError
from onnxlrp.heatmap import colorize, heatmap, plane
from onnxlrp.inputs import read_input

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
    assert np.array_equal(compiled(DIGIT).relevance, explainer(DIGIT).relevance)
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
    ("shape", "result"), [((3, 4, 5), (4, 5)), ((4, 5, 3), (4, 5)), ((4, 5), (4, 5)), ((64,), (8, 8)), ((7,), (1, 7))]
)
def test_plane(shape: tuple[int, ...], result: tuple[int, int]) -> None:
    r = np.random.default_rng(0).standard_normal(shape)
    assert plane(r).shape == result
    assert plane(r).sum() == pytest.approx(r.sum())
