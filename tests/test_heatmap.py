"""Pictures: every colour, length and place is calculated here again, pixel by pixel or by what is found where."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxlrp import Explainer, Explanation, InputError
from onnxlrp.cli import main
from onnxlrp.heatmap import Style, colorize, heatmap, kind_of, pictures, sheet

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.npy"
RED, BLUE, GREY, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (170, 170, 170), (0, 0, 0), (255, 255, 255)
RNG = np.random.default_rng(5)


def bwr(v: float) -> tuple[int, int, int]:
    """Red for 1, white for 0, blue for -1, and straight lines between them."""
    fade = round(255 * (1 - min(abs(v), 1)))
    return (255, fade, fade) if v > 0 else (fade, fade, 255)


def draw(relevance: np.ndarray, x: np.ndarray | None = None, **style: Any) -> np.ndarray:
    """The pixels of one row's picture."""
    found = pictures(relevance[None], [0], None if x is None else x[None], Style(**style))
    return np.asarray(found[0]).astype(int)


def columns(pixels: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return np.flatnonzero((pixels == color).all(-1).any(0))


def lines(pixels: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return np.flatnonzero((pixels == color).all(-1).any(1))


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return Explainer(CNN, "epsilon_plus_flat")(np.load(DIGIT))


def holding(explanation: Explanation, relevance: np.ndarray, x: np.ndarray | None = None) -> Explanation:
    """An explanation of this relevance, of the input x."""
    target = np.arange(len(relevance))
    inputs = {} if x is None else {"x": x}
    return replace(explanation, relevances={"x": relevance}, inputs=inputs, target=target)


# images -------------------------------------------------------------------------------------------------------------

REDUCE = {"sum": sum, "norm": lambda v: sum(a * a for a in v) ** 0.5, "abs-max": lambda v: max(abs(a) for a in v)}


@pytest.mark.parametrize("last", [False, True], ids=["CHW", "HWC"])
@pytest.mark.parametrize("reduce", [None, "sum", "norm", "abs-max"])
def test_every_pixel_of_an_image(reduce: str | None, last: bool) -> None:
    r = RNG.standard_normal((3, 4, 5))
    pixels = draw(r.transpose(1, 2, 0) if last else r, reduce=reduce, size=4)
    values = [[REDUCE[reduce or "sum"]([float(r[c, i, j]) for c in range(3)]) for j in range(5)] for i in range(4)]
    top = max(abs(v) for line in values for v in line)
    expected = np.array([[bwr(v / top) for v in line] for line in values])
    assert pixels.shape == (4, 5, 3)
    assert np.abs(pixels - expected).max() <= 1  # a half may be rounded either way


def test_without_options_an_explanation_is_drawn_as_before(explanation: Explanation) -> None:
    r = explanation.relevance[0, 0].astype(np.float64)
    expected = np.kron(colorize(r / np.abs(r).max()), np.ones((32, 32, 1), np.uint8))
    assert np.array_equal(np.asarray(explanation.heatmap()), expected)
    assert np.array_equal(np.asarray(heatmap(explanation.relevance[0])), expected)


def test_percentile_clips() -> None:
    r = np.arange(1.0, 102.0).reshape(1, 101) * np.where(np.arange(101) % 2, 1, -1)
    pixels = draw(r, size=1, kind="image", normalize=90)
    top = 91.0  # of 1, ..., 101: the 90 hundredths between them
    expected = np.array([[bwr(v / top) for v in r[0]]])
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[0, 91:] == np.array([RED if v > 0 else BLUE for v in r[0, 91:]])).all()
    assert tuple(pixels[0, 88]) not in (RED, BLUE)


def test_percentile_of_mostly_zeros_is_the_largest() -> None:
    r = np.zeros((5, 5))
    r[2, 2], r[0, 0] = 4.0, -2.0
    assert np.array_equal(draw(r, normalize=50), draw(r))


@pytest.mark.parametrize(("per", "halves"), [("row", 1.0), ("batch", 0.5)])
def test_normalisation_per_row_or_batch(per: str, halves: float) -> None:
    r = np.array([[[1.0, -2.0]], [[0.5, -1.0]]])
    drawn = pictures(r, [1], None, Style(size=1, per=per))
    assert len(drawn) == 1
    pixels = np.asarray(drawn[0]).astype(int)
    assert np.abs(pixels - np.array([[bwr(0.5 * halves), bwr(-halves)]])).max() <= 1


@pytest.mark.parametrize("cmap", ["seismic", "PiYG", "viridis"])
def test_colormaps_of_matplotlib_have_zero_in_the_middle(cmap: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    pixels = draw(np.array([[1.0, 0.0], [-4.0, 4.0]]), size=2, cmap=cmap)
    for (i, j), share in {(0, 0): 0.625, (0, 1): 0.5, (1, 0): 0.0, (1, 1): 1.0}.items():
        assert tuple(pixels[i, j]) == matplotlib.colormaps[cmap](share, bytes=True)[:3]


def test_overlay_shows_the_input_where_relevance_is_zero() -> None:
    x = np.array([[[0.0, 1.0, 0.5]], [[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.25]]])
    none, r = np.zeros((3, 1, 3)), np.zeros((3, 1, 3))
    r[0] = [[1.0, -1.0, 0.5]]
    assert draw(none, x, overlay="color", size=1).tolist() == [[[0, 0, 0], [255] * 3, [128, 0, 64]]]
    assert draw(none, x, overlay="grey", size=1).tolist() == [[[0, 0, 0], [255] * 3, [64, 64, 64]]]
    assert draw(r, x, overlay="color", size=1).tolist() == [[list(RED), list(BLUE), [191, 0, 32]]]
    assert draw(r, x, overlay="grey", size=1).tolist() == [[list(RED), list(BLUE), [159, 32, 32]]]


def test_overlay_over_white_is_the_plain_picture() -> None:
    r = RNG.standard_normal((6, 7))
    assert np.abs(draw(r, np.ones((6, 7)), overlay="grey") - draw(r)).max() <= 1


def test_overlay_of_inputs_of_other_shapes() -> None:
    grey = np.arange(64.0)
    assert np.array_equal(draw(0 * grey, grey, overlay="color", size=8)[..., 1].ravel(), np.round(grey * 255 / 63))
    rgba = RNG.random((5, 6, 4))
    rgba[0, 0, :3], rgba[0, 1, :3], rgba[..., 3] = 0, 1, 77.0  # opacity is no colour
    assert np.abs(draw(0 * rgba, rgba, overlay="color", size=5) - rgba[..., :3] * 255).max() <= 0.5 + 1e-9


# kinds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((3, 32, 32), "image"), ((32, 32, 3), "image"), ((1, 8, 8), "image"), ((28, 28), "image"), ((10, 20), "image"),
        ((64,), "image"), ((784,), "image"), ((4,), "table"), ((49,), "table"), ((65,), "table"), ((13,), "table"),
        ((1, 50), "series"), ((12, 1000), "series"), ((140, 2), "series"), ((1, 2), "image"), ((17, 100), "image"),
        ((1, 8, 16, 16), "volume"), ((16, 3, 8, 8), "volume"), ((), "image"),
    ],
)  # fmt: skip
def test_kind_is_told_from_the_shape(shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(shape) == kind


def test_kind_depends_on_what_is_known() -> None:
    r, x = RNG.standard_normal((2, 40)), RNG.standard_normal((2, 40))
    assert np.array_equal(draw(r), draw(r, kind="image"))  # no input: no curve
    assert np.array_equal(draw(r, x), draw(r, x, kind="series"))
    assert np.array_equal(draw(r, x, names=["a", "b"]), draw(r, x, kind="series", names=["a", "b"]))
    flat, names = RNG.standard_normal(64), [f"f{i}" for i in range(64)]
    assert np.array_equal(draw(flat), draw(flat, kind="image"))
    assert np.array_equal(draw(flat, names=names), draw(flat, kind="table", names=names))


# series -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["CT", "TC", "C1T"])
def test_a_curve_is_coloured_where_its_relevance_is(layout: str) -> None:
    steps, width = 101, 664
    x, r = np.zeros((2, steps)), np.zeros((2, steps))
    x[:, 50], x[:, 10] = 3.0, -1.0
    r[0, 45:56], r[1, 5:16] = 2.0, -2.0
    if layout != "CT":
        x, r = (a.T if layout == "TC" else a[:, None] for a in (x, r))
    pixels = draw(r, x, kind="series", size=width)
    assert pixels.shape[1] == width
    upper, lower = np.array_split(pixels, 2)
    pitch = (width - 64 - 8) / (steps - 1)
    for panel, color, other, first, last in ((upper, RED, BLUE, 45, 55), (lower, BLUE, RED, 5, 15)):
        assert not columns(panel, other).size
        found = columns(panel, color)
        assert abs(found.min() - (64 + 4 + (first - 0.5) * pitch)) <= 3
        assert abs(found.max() - (64 + 4 + (last + 0.5) * pitch)) <= 3
        grey = columns(panel, GREY)
        assert grey.min() <= 64 + 6
        assert grey.max() >= width - 7
    # 4 units from -1 to 3 over the panel's 94 pixels: the peak at 50 is 70.5 above the line through 0
    red = lines(upper, RED)
    assert abs((red.max() - red.min()) - 70.5) <= 4


def test_strong_relevance_has_more_colour_and_all_channels_share_it() -> None:
    x, r = np.zeros((2, 41)), np.ones((2, 41))
    x[:, 0] = 1.0
    r[1] = -0.5
    upper, lower = np.array_split(draw(r, x, size=400), 2)
    assert columns(upper, RED).size > 300
    assert columns(lower, (85, 85, 212)).size > 300  # halfway from grey to blue


def test_series_of_one_step_and_of_a_constant() -> None:
    assert columns(draw(np.ones((1, 1)), np.ones((1, 1)), kind="series"), RED).size
    flat = draw(np.ones(20), np.full(20, 7.0), kind="series", size=300)
    assert lines(flat, RED).size <= 4
    assert columns(flat, RED).size > 200


def test_one_strong_step_among_many_is_seen() -> None:
    r = np.full((1, 4000), -1e-3)
    r[0, 2000] = 1.0
    assert columns(draw(r, np.zeros((1, 4000)), kind="series", size=300), RED).size


# tables -------------------------------------------------------------------------------------------------------------


def bars_of(pixels: np.ndarray, rows: int) -> list[float]:
    """Signed lengths of the bars, by rows of the table."""
    found = []
    for line in np.array_split(pixels, rows):
        red, blue = columns(line, RED), columns(line, BLUE)
        assert not (red.size and blue.size)
        bar = red if red.size else -blue
        found.append(float(bar.size if red.size else -blue.size))
        assert bar.size == 0 or np.ptp(bar) == bar.size - 1  # in one piece
    return found


def test_bars_are_signed_and_sorted() -> None:
    r = np.array([0.5, -2.0, 0.0, 1.0, -0.25])
    pixels = draw(r, names=["a", "b", "c", "d", "e"])
    lengths = bars_of(pixels, 5)
    unit = -lengths[0] / 2
    assert unit > 50
    np.testing.assert_allclose(lengths, np.array([-2.0, 1.0, 0.5, -0.25, 0.0]) * unit, atol=0.51)
    first, second = np.array_split(pixels, 5)[:2]
    assert columns(first, BLUE).max() < columns(second, RED).min()  # two sides of zero


def test_the_rest_of_a_table_is_one_line() -> None:
    r = np.linspace(1, 2, 30)
    shown, fewer = draw(r), draw(r, most=3)
    assert shown.shape[0] == 21 * 22
    assert fewer.shape[0] == 4 * 22
    assert bars_of(fewer, 4)[3] == 0
    one, two, three = r.copy(), r.copy(), r.copy()
    one[0], two[5], three[0] = 0.5, r[5] - 0.5, 0.75  # the rest is lower by as much, by as much, by another amount
    assert np.array_equal(draw(one, most=3), draw(two, most=3))
    assert not np.array_equal(draw(one, most=3), draw(three, most=3))
    assert bars_of(draw(r[:3], size=500), 3)[0] > 0


def test_a_table_clips_at_full_colour() -> None:
    lengths = bars_of(draw(np.array([8.0, 4.0, -2.0, 1.0, 1.0]), normalize=50), 5)
    assert lengths[0] == lengths[1] == -lengths[2] == pytest.approx(2 * lengths[3], abs=1)


def test_names_change_only_their_place() -> None:
    r = np.array([3.0, -1.0])
    short, other = draw(r, names=["aa", "b"]), draw(r, names=["aa", "c"])
    assert not np.array_equal(short, other)
    assert bars_of(short, 2) == bars_of(other, 2)
    long = draw(r, names=["a" * 500, "b\n"])
    assert long.shape == short.shape
    assert bars_of(long, 2)[0] > 30  # a long name leaves room for bars


# volumes, grids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["CDHW", "DCHW", "DHWC", "DHW"])
def test_slices_are_images(layout: str) -> None:
    r = RNG.standard_normal((3, 30, 5, 6))
    r = {"CDHW": r, "DCHW": r.swapaxes(0, 1), "DHWC": r.transpose(1, 2, 3, 0), "DHW": r.sum(0)}[layout]
    pixels = draw(r, kind="volume", size=5, most=4)
    whole = (r if layout == "DHW" else r.sum(layout.index("C"))).astype(np.float64)
    top = np.abs(whole).max()
    for place, depth in enumerate((0, 10, 19, 29)):
        y, x = place // 2 * (5 + 24 + 12) + 24, place % 2 * (6 + 12)
        expected = np.array([[bwr(v / top) for v in line] for line in whole[depth]])
        assert np.abs(pixels[y : y + 5, x : x + 6] - expected).max() <= 1


def test_overlay_of_a_volume() -> None:
    x = RNG.random((1, 2, 4, 5))
    x[0, 0, 0, :2] = 0, 1
    pixels = draw(0 * x, x, overlay="grey", size=4)
    assert np.abs(pixels[24:28, 17:22, 2] - x[0, 1] * 255).max() <= 0.5 + 1e-9


def test_grid_holds_the_rows_pictures(explanation: Explanation) -> None:
    several = holding(explanation, RNG.standard_normal((5, 1, 4, 4)))
    whole = np.asarray(several.heatmap(grid="all", size=40))
    assert whole.shape == (2 * (40 + 24) + 12, 3 * 40 + 2 * 12, 3)
    for row in range(5):
        y, x = row // 3 * (40 + 24 + 12), row % 3 * (40 + 12)
        assert np.array_equal(whole[y + 24 : y + 64, x : x + 40], np.asarray(several.heatmap(row, size=40)))
        assert whole[y : y + 24, x : x + 40].min() < 128  # its caption
    assert whole[64 + 12 + 24 :, 2 * (40 + 12) :].min() == 255  # no sixth
    picked = several.heatmap(grid=[3, -5], size=40, per="batch", captions=["a", "b"])
    assert picked.size == (2 * 40 + 12, 64)
    top = np.abs(several.relevance).max()
    assert np.array_equal(np.asarray(picked)[24::10, ::10][:, :4], colorize(several.relevance[3, 0] / top))


def test_sheet_centres_nothing_and_keeps_sizes() -> None:
    tiles = [Image.new("RGB", size, color) for size, color in (((4, 6), "red"), ((8, 3), "blue"), ((2, 2), "black"))]
    pixels = np.asarray(sheet(tiles, columns=2))
    assert pixels.shape == (2 * 6 + 12, 2 * 8 + 12, 3)
    for (y, x), tile in zip(((0, 0), (0, 20), (18, 0)), tiles, strict=True):
        assert (pixels[y : y + tile.height, x : x + tile.width] == np.asarray(tile)).all()
    assert (pixels != 255).any(-1).sum() == 24 + 24 + 4


# what is refused ----------------------------------------------------------------------------------------------------

SQUARES, ELSEWHERE = np.ones((2, 5, 6, 6)), np.ones((2, 3, 6, 6))
REFUSED: dict[str, tuple[np.ndarray, np.ndarray | None, dict[str, Any], str]] = {
    "kind": (SQUARES, None, {"kind": "graph"}, "kind must be one of image, series, table, volume; got 'graph'"),
    "per": (SQUARES, None, {"per": None}, "per must be one of row, batch"),
    "reduce": (SQUARES, None, {"reduce": "mean"}, "reduce must be one of sum, norm, abs-max"),
    "percentile": (SQUARES, None, {"normalize": 0}, "percentile above 0"),
    "percentile 101": (SQUARES, None, {"normalize": 101.0}, "percentile above 0"),
    "normalize": (SQUARES, None, {"normalize": "min"}, "normalize must be 'max' or"),
    "size": (SQUARES, None, {"size": 0}, "size must be a positive integer"),
    "names as text": (SQUARES, None, {"names": "abc"}, "names must be a list"),
    "no input": (SQUARES, None, {"overlay": "grey"}, "overlay shows the model's input"),
    "input elsewhere": (SQUARES, ELSEWHERE, {"overlay": "grey"}, "overlay shows the model's input"),
    "five channels": (SQUARES, SQUARES, {"overlay": "color"}, "this one has 5: overlay 'grey'"),
    "input of NaN": (SQUARES, SQUARES * np.nan, {"overlay": "grey"}, "input to draw has values that are not finite"),
    "no curve": (np.ones((2, 40)), None, {"kind": "series"}, "a curve shows the model's input"),
    "curve of NaN": (np.ones((2, 40)), np.full((2, 40), np.inf), {"kind": "series"}, "not finite"),
    "overlay of a table": (np.ones((2, 5)), np.ones((2, 5)), {"overlay": "grey"}, "overlay is for the kind image or volume"),
    "names of an image": (SQUARES, None, {"kind": "image", "names": ["a"]}, "names is for the kind series or table"),
    "most of an image": (SQUARES, None, {"most": 3}, "most is for the kind table or volume"),
    "two names": (np.ones((2, 5)), None, {"names": ["a", "b"]}, "2 names were given for 5 features"),
    "narrow": (np.ones((2, 5)), None, {"size": 20}, "at least 200 pixels"),
    "volume": (np.ones((2, 5)), None, {"kind": "volume"}, "a volume needs a row of shape"),
    "series": (SQUARES, SQUARES, {"kind": "series"}, "a series needs a row of shape"),
    "image of rank 5": (np.ones((2, 1, 1, 1, 1, 1)), None, {}, "a heat-map needs one image"),
    "scalar rows": (np.ones(2), None, {}, "a heat-map needs one image"),
    "nothing": (np.ones((2, 0)), None, {}, "a picture needs values"),
    "NaN": (SQUARES * np.nan, None, {}, "not finite"),
    "grid": (SQUARES, None, {"grid": "some"}, "grid must be 'all' or a list"),
    "grid of one": (SQUARES, None, {"grid": [2]}, "row 2 does not exist, the batch has 2 rows"),
    "grid of none": (SQUARES, None, {"grid": []}, "no row to draw"),
    "captions": (SQUARES, None, {"captions": ["a"]}, "captions are for a grid"),
    "one caption": (SQUARES, None, {"grid": "all", "captions": ["a"]}, "1 captions were given for 2 pictures"),
    "giant": (SQUARES, None, {"grid": "all", "size": 9000}, "too large: take fewer rows"),
    "name": (SQUARES, None, {"name": "y"}, "'y' is not explained"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, explanation: Explanation) -> None:
    relevance, x, options, text = REFUSED[case]
    with pytest.raises(InputError, match=text.replace("(", r"\(")) as caught:
        holding(explanation, relevance, x).heatmap(**options)
    assert "\n" not in str(caught.value)


# on the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnxlrp", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield call


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    digit = np.load(DIGIT)
    np.save(tmp_path / "x.npy", np.concatenate([digit, digit[..., ::-1], digit * 0.5]))
    return tmp_path / "x.npy"


def test_explain_draws_what_heatmap_draws(digits: Path, tmp_path: Path, run: Any) -> None:
    made = Explainer(CNN)(np.load(digits))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        ("--overlay grey --normalize 95 --grid all", {"overlay": "grey", "normalize": 95.0, "grid": "all"}),
        ("--overlay color --per batch --cmap bwr --kind image", {"overlay": "color", "per": "batch"}),
        ("--grid 2,0 --reduce abs-max --size 80 --normalize max", {"grid": [2, 0], "reduce": "abs-max", "size": 80}),
        ("--kind table --most 5", {"kind": "table", "most": 5}),
    ]  # fmt: skip
    for line, options in cases:
        code, out, err = run("explain", CNN, digits, "-o", tmp_path / "heat.png", *line.split())
        assert (code, err) == (0, "")
        assert ("the picture shows row 0 of 3" in out) == ("grid" not in options)
        with Image.open(tmp_path / "heat.png") as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(made.heatmap(**options))), line


def test_names_by_comma_or_from_a_file(digits: Path, tmp_path: Path, run: Any) -> None:
    names = [f"a name of pixel {i}" for i in range(64)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    for value in (tmp_path / "names.txt", ",".join(names)):
        code, _, err = run("explain", CNN, digits, "-o", tmp_path / "heat.png", "--names", value)
        assert (code, err) == (0, "")
        with Image.open(tmp_path / "heat.png") as picture:
            expected = Explainer(CNN)(np.load(digits)).heatmap(names=names)
            assert np.array_equal(np.asarray(picture), np.asarray(expected))


WRONG = {
    "kind": (["--kind", "graph"], "graph"),
    "grid": (["--grid", "some"], "'some' is neither 'all' nor a list"),
    "grid row": (["--grid", "3"], "row 3 does not exist"),
    "normalize": (["--normalize", "most"], "'most' is neither 'max' nor a percentile"),
    "percentile": (["--normalize", "0"], "percentile above 0"),
    "names": (["--names", "a,b"], "2 names were given for 64 features"),
    "kind of option": (["--kind", "table", "--overlay", "grey"], "overlay is for the kind image or volume"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_write_nothing(case: str, digits: Path, tmp_path: Path, run: Any) -> None:
    options, text = WRONG[case]
    code, _, err = run("explain", CNN, digits, "-o", tmp_path / "heat.png", *options)
    assert code == 2
    assert text in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("option", [["--overlay", "grey"], ["--grid", "all"], ["--most", "3"]])
def test_picture_options_need_a_picture(option: list[str], digits: Path, tmp_path: Path, run: Any) -> None:
    code, _, err = run("explain", CNN, digits, "-o", tmp_path / "out.npz", *option)
    assert code == 2
    assert f"{option[0]} is for heat-maps: add -o heat.png" in err
