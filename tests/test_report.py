"""The report page: its numbers are the Explanation's, names are text, nothing comes from outside; a browser shows it."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxlrp
from onnxlrp import Composite, Epsilon, Explainer, Flat, NameMap, text
from onnxlrp.cli import main
from onnxlrp.errors import CompositeError, InputError
from onnxlrp.heatmap import heatmap
from onnxlrp.inputs import Preprocessing
from onnxlrp.report import Entry, View, chosen_layers, judge, render
from onnxlrp.report.command import composites
from tests.browser import CHROMIUM, FLAGS
from tests.models_for_tests import data, net, run, weight

MODELS = Path(__file__).parents[1] / "models"
CNN, DIGIT = MODELS / "digits_cnn.onnx", MODELS / "digit.npy"
VOID = {"meta", "link", "input", "img", "wbr"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text within); refuses tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        inside: list[str] = []
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.found.append((tag, {name: value or "" for name, value in attrs}, inside))
        if tag not in VOID:
            self.open.append((tag, inside))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, inside in self.open:
            inside.append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        """(attributes, text) of every element of this tag and these attributes."""
        wanted = {name.rstrip("_"): value for name, value in wanted.items()}
        return [(a, "".join(t)) for name, a, t in self.found if name == tag and wanted.items() <= a.items()]


def values(part: str) -> list[float]:
    """The full values of the numbers in a piece of HTML, in its order."""
    return [float(v) for v in re.findall(r'<data value="([^"]+)"', part)]


def section(page: str, key: str) -> str:
    return page.split(f'<section id="{key}"')[1].split("</section>")[0]


def picture(source: str) -> np.ndarray:
    assert source.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))))


@pytest.fixture(scope="module")
def digit() -> tuple[Explainer, Any, list[Entry], str]:
    """The trained network on a digit, its explanation, two composites beside it, the page."""
    x = np.load(DIGIT)
    layers = chosen_layers(onnxlrp.inspect(CNN, "epsilon_plus_flat"))
    explainer = Explainer(CNN, "epsilon_plus_flat", layers=layers, checks=True)
    explanation = explainer(x)
    others = [(name, Explainer(CNN, name)) for name in ("epsilon_gamma_box(low=0, high=1)", "gradient")]
    compare = [Entry.of(other, other.quietly(explanation.inputs), name) for name, other in others]
    compare.insert(0, Entry.of(explainer, explanation, score=judge(CNN, explainer, explanation)))
    return explainer, explanation, compare, render(explainer, explanation, compare=compare, title="digits", source="digit.npy")


def test_numbers_are_those_of_the_explanation(digit: Any) -> None:
    _, e, compare, page = digit
    for b in e.conservation:
        (row,) = re.findall(rf'<tr data-layer="{b.index}">.*?</tr>', page)
        assert values(row) == [b.arrived, b.sent, b.bias, b.epsilon, b.dropped]
        assert f'<th scope="row">{b.name}</th>' in row
    assert len(re.findall("<tr data-layer", page)) == len(e.conservation) == 9
    order = np.argsort(-e.output[0])[:5]
    assert values(section(page, "relevance"))[0] == np.abs(e.relevance[0].astype(float).sum(0)).max()
    assert values(section(page, "relevance"))[1:] == [float(v) for v in e.output[0, order]]
    assert values(page)[0] == e.ratio[0]
    assert values(section(page, "layers")) == [float(r[0].sum(dtype=float)) for r in e.layers.values()]
    r, other = e.relevance.ravel().astype(float), compare[1].explanation.relevance.ravel().astype(float)
    first, one, faithful, ratio, cosine, gradient = _sheet_numbers(page)
    assert one == pytest.approx(1, rel=1e-12)
    assert (first, faithful, ratio) == (e.ratio[0], compare[0].faithful, compare[1].explanation.ratio[0])
    assert cosine == pytest.approx(r @ other / np.sqrt((r @ r) * (other @ other)), rel=1e-12)
    g = compare[2].explanation.relevance.ravel().astype(float)
    assert gradient == pytest.approx(r @ g / np.sqrt((r @ r) * (g @ g)), rel=1e-12)


def _sheet_numbers(page: str) -> list[float]:
    """Of each composite Σ ÷ initial, where it conserves, and the cosine, but for the page's own."""
    return [v for card in section(page, "composites").split("<dl>")[1:] for v in values(card.split("</dl>")[0])]


def test_plan_names_every_layer_and_why(digit: Any) -> None:
    explainer, _, _, page = digit
    rows = re.findall(r"<tr>(.*?)</tr>", section(page, "plan"))[1:]
    assert len(rows) == len(explainer.plan["layers"])
    for row, la in zip(rows, explainer.plan["layers"], strict=True):
        cells = [html.unescape(re.sub("<.*?>", "", c)) for c in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row)]
        assert [cells[i] for i in (0, 1, 2, 5, 6)] == [str(la["index"]), la["name"], la["op"], la["rule"], la["why"]]


def test_pictures_are_the_heat_maps_and_the_input(digit: Any) -> None:
    _, e, compare, page = digit
    sources = [a["src"] for a, _ in Page(page).all("img")]
    shown = [picture(s) for s in sources]
    np.testing.assert_array_equal(shown[0], np.round(255 * e.inputs["image"][0, 0]))
    np.testing.assert_array_equal(shown[1], shown[0])  # beneath the relevance
    maps = [e.relevance, *(c.explanation.relevance for c in compare), *e.layers.values()]
    assert len(shown) == 2 + len(maps)
    for found, r in zip(shown[2:], maps, strict=True):
        np.testing.assert_array_equal(found, np.asarray(heatmap(r[0].sum(0), size=r.shape[-1])))


def test_faithfulness_is_the_area_between_two_curves(digit: Any) -> None:
    _, e, compare, _ = digit
    x, r, c = e.inputs["image"], e.relevance.ravel(), int(e.target[0])
    aopc = []
    for order in (np.argsort(-r), np.argsort(r)):
        rows = np.repeat(x.reshape(1, -1), 17, axis=0)
        for k, row in enumerate(rows):
            row[order[: 4 * k]] = 0  # 64 pixels in 16 steps
        y = run(str(CNN), image=rows.reshape(17, *x.shape[1:]))["logits"][:, c].astype(float)
        aopc.append(np.mean(y[0] - y))
    assert compare[0].faithful == pytest.approx(aopc[0] - aopc[1], rel=1e-5)
    assert aopc[0] - aopc[1] > 0.1
    explainer = Explainer(CNN, "epsilon")
    assert judge(CNN, explainer, explainer.quietly(np.zeros((1, 1, 8, 8), np.float32))) is None  # nothing to remove


def test_layers_are_the_last_of_each_resolution() -> None:
    plan = onnxlrp.inspect(CNN)
    assert [plan[i].name for i in chosen_layers(plan)] == ["conv2", "block.conv2"]
    assert chosen_layers(onnxlrp.inspect(MODELS / "digits_mlp.onnx")) == []


def accessible(page: str) -> Page:
    """Landmarks, one title, names for pictures, fields and regions, headers for columns and rows; nothing from outside."""
    found = Page(page)
    for tag in ("main", "header", "nav", "footer", "h1", "title", "dialog", "script", "style"):
        assert len(found.all(tag)) == 1, tag
    assert found.all("html", lang="en")
    assert found.all("meta", name="viewport")
    assert all("alt" in a for a, _ in found.all("img"))
    assert all(a.get("aria-label") for a, _ in found.all("input"))
    assert all(a.get("aria-label") and a["tabindex"] == "0" for a, _ in found.all("div", role="region"))
    assert all(a.get("scope") in ("col", "row") for a, _ in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    ids = [a["id"] for _, a, _ in found.found if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, a, _ in found.found:
        assert not [n for n in a if n.startswith("on")], (tag, a)
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            where = a.get(name, "data:")
            assert where.startswith("data:") or where[1:] in ids, (tag, where)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"https?://", page)
    return found


def test_page_is_accessible_and_needs_nothing_else(digit: Any) -> None:
    found = accessible(digit[3])
    assert [a["href"] for a, _ in found.all("a")] == ["#main", *(f"#{a['id']}" for a, _ in found.all("section"))]
    assert "prefers-color-scheme: dark" in digit[3]


def luminance(colour: str) -> float:
    colour = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_contrast_of_text_in_light_and_dark(digit: Any) -> None:
    style = Page(digit[3]).all("style")[0][1]
    for scheme in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))
        for name in ("ink", "quiet", "accent", "for", "against"):
            low, high = sorted(luminance(colours[c]) for c in (name, "page"))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, scheme)


HOSTILE = ['<script>alert("1")</script>', '"><img src=x onerror=alert(2)>', "a&amp;b'c"]


def test_names_from_the_model_are_text() -> None:
    model = net("h = MatMul(x, w)\nk = Relu(h)\ny = MatMul(k, v)", "float[N,4] x", w=weight(4, 5), v=weight(5, 3))
    for node, name in zip(model.graph.node, HOSTILE, strict=True):
        node.name = name
    rename = {"x": HOSTILE[1], "y": HOSTILE[0], "h": HOSTILE[2]}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = rename.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = rename[value.name]
    explainer = Explainer(model, "epsilon", layers=[0], checks=True)
    e = explainer.quietly(data(1, 4))
    both = [Entry.of(explainer, e), Entry.of(explainer, e, HOSTILE[1])]
    page = render(explainer, e, compare=both, title=HOSTILE[0], source=HOSTILE[1], view=View(names=[*HOSTILE, "d"]))
    found = accessible(page)
    assert not found.all("img", src="x")
    assert found.all("h1")[0][1] == HOSTILE[0]
    heads = [said for _, said in found.all("th", scope="row")]
    assert set(HOSTILE) <= set(heads)
    assert HOSTILE[1] in [said for _, said in found.all("h3")]


def test_table_has_signed_bars_by_name_strongest_first() -> None:
    names = [f"f{i}" for i in range(9)]
    explainer = Explainer(net("y = MatMul(x, w)", "float[N,9] x", "float[N,3] y", w=weight(9, 3)), "lrp_zero", checks=True)
    e = explainer(data(2, 9), 1)
    page = render(explainer, e, compare=[Entry.of(explainer, e), Entry.of(explainer, e, "again")], view=View(names=names))
    r, x = e.relevance[0].astype(float), e.inputs["x"][0]
    order = np.argsort(-np.abs(r))
    mine = section(page, "relevance")
    assert re.findall(r'<th scope="row">(f\d)</th>', mine) == [names[i] for i in order]
    assert values(mine)[:18] == [float(v) for i in order for v in (x[i], r[i])]
    assert re.findall('<rect class="(for|against)"', mine) == ["for" if r[i] > 0 else "against" for i in order]
    assert re.findall(r'<th scope="row">(f\d)</th>', section(page, "composites")) == [names[i] for i in order] * 2
    assert "row 0 of 2 is shown" in page
    accessible(page)
    with pytest.raises(InputError, match="2 names for the 9 features of 'x'"):
        render(explainer, e, view=View(names=["a", "b"]))


@pytest.mark.parametrize("turned", [False, True])
def test_series_is_a_curve_on_its_relevance(turned: bool) -> None:
    shape = (30, 2) if turned else (2, 30)
    model = net("f = Flatten(x)\ny = MatMul(f, w)", f"float[N,{shape[0]},{shape[1]}] x", "float[N,3] y", w=weight(60, 3))
    explainer = Explainer(model, "lrp_zero", checks=True)
    e = explainer.quietly(data(1, *shape, seed=3))
    x, page = e.inputs["x"], render(explainer, e, view=View(names=["left", "right"], kind="series"))
    assert re.findall("<figcaption>(.*?),", page) == ["left", "right"]
    r = (e.relevance[0].T if turned else e.relevance[0]).astype(float)
    grounds = [picture(s) for s in re.findall(r'<image href="([^"]+)"', page)]
    assert [g.shape for g in grounds] == [(1, 30, 3)] * 2
    np.testing.assert_array_equal(np.vstack(grounds), np.asarray(heatmap(r, size=2)))
    assert values(section(page, "relevance"))[:2] == [r[0].sum(), r[1].sum()]
    curves = [[float(p.split(",")[1]) for p in points.split()] for points in re.findall('points="([^"]+)"', page)]
    for curve, channel in zip(curves, x[0].T if turned else x[0], strict=True):
        np.testing.assert_allclose(np.corrcoef(curve, channel)[0, 1], -1, atol=1e-3)  # upwards is less on a screen
    accessible(page)


@pytest.mark.parametrize("last", [False, True])
def test_colours_are_what_they_were_before_mean_and_std(last: bool) -> None:
    shape = (5, 4, 3) if last else (3, 5, 4)
    model = net("f = Flatten(x)\ny = MatMul(f, w)", f"float[N,{','.join(map(str, shape))}] x", w=weight(60, 4))
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = ((colours / 255 - mean) / std).astype(np.float32)
    explainer = Explainer(model, "epsilon", checks=True)
    e = explainer.quietly(x[None] if last else x.transpose(2, 0, 1)[None])
    page = render(explainer, e, view=View(how=Preprocessing(255, mean, std)))
    shown = [picture(a["src"]) for a, _ in Page(page).all("img")]
    np.testing.assert_array_equal(shown[0], colours)
    np.testing.assert_array_equal(shown[2], np.asarray(heatmap(e.relevance[0].sum(-1 if last else 0), size=4)))


def test_text_shows_its_tokens() -> None:
    table, v = data(6, 4, seed=1), weight(4, 3)
    model = net("e = Gather(table, ids)\nh = ReduceMean<keepdims=0>(e, one)\ny = MatMul(h, v)", "int64[N,T] ids",
                "float[N,3] y", table=table, v=v, one=np.array([1]))  # fmt: skip
    explainer = Explainer(model, "epsilon", checks=True)
    e = explainer.quietly(np.array([[1, 2, 5]]))
    tokens = [text.Token("[CLS]", "[CLS]", special=True), text.Token("a", "a", " "), text.Token("<b>", "<b>", " ")]
    page = render(explainer, e, compare=[Entry.of(explainer, e), Entry.of(explainer, e, "again")], view=View(tokens=tokens))
    r = text.relevance_per_token(e, (1, 3))[0]
    titles = [a["title"] for a, _ in accessible(page).all("span") if "title" in a]
    assert titles == [f"{t.name}: {n:+.4g}" for t, n in zip(tokens, r, strict=True)] * 3
    rows = re.findall(r'<td class="num">(\d)</td><th scope="row"(?: class=special)?>(.*?)</th>', section(page, "relevance"))
    order = np.argsort(-np.abs(r))
    assert rows == [(str(i), html.escape(tokens[i].name)) for i in order]
    assert values(section(page, "relevance"))[-3:] == [float(r[i]) for i in order]
    unread = render(explainer, e)  # ids without a tokenizer: a bar a position
    assert sorted(values(section(unread, "relevance"))[:3]) == sorted(float(n) for n in r)


def test_padding_is_no_token_of_the_table() -> None:
    table = data(6, 4, seed=1)
    model = net("e = Gather(table, ids)\nh = ReduceMean<keepdims=0>(e, one)\ny = MatMul(h, v)", "int64[N,T] ids",
                "float[N,3] y", table=table, v=weight(4, 3), one=np.array([1]))  # fmt: skip
    explainer = Explainer(model, "epsilon", checks=True)
    tokens = [text.Token("a", "a"), text.Token("[PAD]", "[PAD]", " ", special=True, padding=True)]
    page = section(render(explainer, explainer.quietly(np.array([[1, 0]])), view=View(tokens=tokens)), "relevance")
    assert re.findall(r'<td class="num">(\d)</td><th scope="row">(.*?)</th>', page) == [("0", "a")]


@pytest.mark.parametrize("row", [0, 2])
def test_a_row_of_a_batch_is_shown_as_if_alone(row: int) -> None:
    """But for the books, which are those of all rows."""
    x = np.concatenate([np.load(DIGIT), data(2, 1, 8, 8, seed=5) ** 2]).astype(np.float32)

    def page(batch: np.ndarray, at: int) -> str:
        explainer = Explainer(CNN, "lrp_zero", layers=["pool"], checks=True)
        e = explainer.quietly(batch, [3, 5, 1][row] if len(batch) == 1 else [3, 5, 1])
        score = judge(CNN, explainer, e, row=at)
        other = Explainer(CNN, "gradient_x_input").quietly(e.inputs)
        return render(explainer, e, compare=[Entry.of(explainer, e, score=score), Entry.of(explainer, other, "b", score)],
                      view=View(row=at))  # fmt: skip

    many, alone = page(x, row), page(x[row : row + 1], 0)
    for key in ("relevance", "composites", "layers"):
        found, wanted = values(section(many, key)), values(section(alone, key))
        assert len(found) == len(wanted) > 0
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(values(many)[0], values(alone)[0], rtol=1e-4)
    assert f"row {row} of 3 is shown" in many
    assert "is shown" not in alone
    for one, two in zip(Page(many).all("img"), Page(alone).all("img"), strict=True):
        assert np.abs(picture(one[0]["src"]).astype(int) - picture(two[0]["src"])).max() <= 1
    heads = [Page(p).all("p", class_="lead")[0][1] for p in (many, alone)]
    assert heads[0] == heads[1]
    assert f"class {[3, 5, 1][row]} of" in heads[0]


@pytest.mark.parametrize(("size", "axis"), [(5, None), (5, 0), (3, 0)])
def test_without_a_batch_all_of_the_input_is_shown(size: int, axis: int | None) -> None:
    body = "r = Unsqueeze(x, ax)\nm = MatMul(r, w)\ny = Squeeze(m, ax)"
    model = net(body, f"float[{size}] x", "float[3] y", w=weight(size, 3), ax=np.array([0]))
    explainer = Explainer(model, "lrp_zero", checks=True, class_axis=axis)
    e = explainer.quietly(data(size))
    page = render(explainer, e)
    r = e.relevance.astype(float)
    order = np.argsort(-np.abs(r))
    assert values(section(page, "relevance"))[1::2] == [float(r[i]) for i in order]
    with pytest.raises(InputError, match="row 1 does not exist: the input has 1 row, only row 0"):
        render(explainer, e, view=View(row=1))


def test_classes_have_the_names_that_were_given(digit: Any) -> None:
    explainer, e, _, _ = digit
    labels = [*HOSTILE, "<i>three</i>", *"456789"]
    page = render(explainer, e, view=View(labels=labels))
    found = accessible(page)
    order = np.argsort(-e.output[0])[:5]
    heads = [
        said for _, said in Page(section(page, "relevance").split("<table>")[1].split("</table>")[0]).all("th", scope="row")
    ]
    assert heads == [f"{labels[i]} ({i})" for i in order]
    assert found.all("p", class_="lead")[0][1].startswith("Why “<i>three</i>” (class 3) of output logits: ")
    assert not found.all("i")


def test_not_finite_is_said() -> None:
    explainer = Explainer(
        net("l = Log(x)\ny = MatMul(l, w)", "float[N,4] x", "float[N,3] y", w=weight(4, 3)), "epsilon", checks=True
    )
    e = explainer.quietly(np.array([[0, 1, 2, 3]], np.float32))
    page = render(explainer, e)
    accessible(page)
    assert "not finite" in section(page, "relevance")
    assert ">not finite<" in section(page, "conservation")
    assert ">nan<" not in page


COMPOSITES = {
    "epsilon": ["epsilon"],
    "epsilon_plus, gamma": ["epsilon_plus", "gamma"],
    "epsilon_gamma_box(low=0, high=1),flat": ["epsilon_gamma_box(low=0, high=1)", "flat"],
    "flat,flat,w_square": ["flat", "w_square"],
}


@pytest.mark.parametrize("given", COMPOSITES)
def test_commas_in_brackets_belong_to_the_preset(given: str) -> None:
    assert composites(given) == COMPOSITES[given]


@pytest.mark.parametrize("given", ["", "flat,", "flat,nothing", "epsilon_gamma_box(low=0, high=1", "flat)("])
def test_lists_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(CompositeError):
        composites(given)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxlrp", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    more = ("--compare", "epsilon_plus,epsilon_gamma_box(low=0, high=1),flat", "--layers", "pool", "--layers", "1", "-t", "5")
    assert command(monkeypatch, CNN, MODELS / "digit.png", "-o", out, *more) == 0
    assert "explains class 5 of output logits" in capsys.readouterr().out
    page = out.read_text("utf-8")
    found = accessible(page)
    titles = [said.removesuffix(" this page") for _, said in found.all("h3")]
    assert titles == ["epsilon_plus", "epsilon_gamma_box(low=0, high=1)", "flat", "pool", "conv2"]
    assert "class 5 of output logits" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_command_takes_one_row_where_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fixed batch axis of 1: the row is cut out before the run, and it is that row."""
    model = onnx.load(CNN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    x = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "r.html"
    wanted = Explainer(CNN, "epsilon").quietly(x)
    for row in (0, 2):
        more = ["--row", row] if row else []
        assert command(monkeypatch, tmp_path / "fixed.onnx", tmp_path / "x.npy", "-o", out, "-c", "epsilon", *more) == 0
        said = capsys.readouterr().out
        assert said.splitlines()[0] == f"input x.npy: row {row} of 4"
        assert f"explains class {wanted.target[row]} of output logits: {wanted.initial[row].sum():.4f}" in said
        page = out.read_text("utf-8")
        assert f"<dd>x.npy: row {row} of 4</dd>" in page
        assert values(page.split('id="ratio">')[1])[0] == pytest.approx(wanted.ratio[row], abs=1e-4)
    assert command(monkeypatch, tmp_path / "fixed.onnx", tmp_path / "x.npy", "-o", out, "--row", 4) == 2
    assert "row 4 does not exist: the input has 4 rows, 0 to 3" in capsys.readouterr().err


def test_command_says_what_was_done_to_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert command(monkeypatch, CNN, MODELS / "digit.png", "-o", out, "--mean", "0.5") == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.endswith("pixels ÷ 255, − mean (0.5), no std (--std)")
    assert f"<dd>{said.removeprefix('input ')}</dd>" in out.read_text("utf-8")


def test_command_explains_one_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(net("y = Conv<pads=[1,1,1,1]>(x, w)", y="float[N,4,6,5] y", w=weight(4, 3, 3, 3)), tmp_path / "s.onnx")
    np.save(tmp_path / "x.npy", data(1, 3, 6, 5))
    out = tmp_path / "r.html"
    assert command(monkeypatch, tmp_path / "s.onnx", tmp_path / "x.npy", "-o", out, "--position", "(2, 3)", "-t", "1") == 0
    assert "class 1 at position 2, 3 of output y" in accessible(out.read_text("utf-8")).all("p")[0][1]
    assert command(monkeypatch, tmp_path / "s.onnx", tmp_path / "x.npy", "-o", out, "--compare", "flat") == 0
    page = out.read_text("utf-8")
    assert "30 positions of output y" in page
    assert "faithfulness" not in section(page, "composites")


def test_command_on_a_compiled_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, checks in (("bare", False), ("checked", True)):
        onnxlrp.save(onnxlrp.compile(CNN, "epsilon", checks=checks), tmp_path / f"{name}.onnx")
        assert command(monkeypatch, tmp_path / f"{name}.onnx", DIGIT, "-o", tmp_path / f"{name}.html") == 0
        page = (tmp_path / f"{name}.html").read_text("utf-8")
        assert ("compiled without diagnostics" in section(page, "conservation")) != checks
    for more in (("--layers", "pool"), ("--compare", "flat")):
        assert command(monkeypatch, tmp_path / "bare.onnx", DIGIT, "-o", tmp_path / "no.html", *more) == 2
        assert "compiled already" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()


BAD: dict[str, tuple[object, ...]] = {
    "a report is written as .html": (CNN, DIGIT, "-o", "r.png"),
    "does not exist": (CNN, DIGIT, "-o", "nowhere/r.html"),
    "no such file": (CNN, "none.npy", "-o", "r.html"),
    "unknown preset 'flap'": (CNN, DIGIT, "-o", "r.html", "--compare", "flat,flap"),
    "give either INPUT": (CNN, "-o", "r.html"),
    "'no_layer'": (CNN, DIGIT, "-o", "r.html", "--layers", "no_layer"),
    "target 12": (CNN, DIGIT, "-o", "r.html", "-t", "12"),
    "3 names for the 64 features": (CNN, DIGIT, "-o", "r.html", "--names", "a,b,c"),
    "row 1 does not exist: the input has 1 row": (CNN, DIGIT, "-o", "r.html", "--row", "1"),
    "-1 is not in the range x>=0": (CNN, DIGIT, "-o", "r.html", "--row", "-1"),
    "2 names, but the model has 10 classes": (CNN, DIGIT, "-o", "r.html", "--labels", "a,b"),
    "--names is for": (CNN, DIGIT, "-o", "r.html", "--names", "a,b,c", "--kind", "image"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_usage_is_one_line_and_leaves_nothing(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *BAD[said]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# in a browser --------------------------------------------------------------------------------------------------------

DRIVER = """<script>
const say = {}, one = (q) => document.querySelector(q), frame = one("iframe");
frame.onload = () => {
  const page = frame.contentDocument, pick = (q) => page.querySelector(q);
  say.ready = page.documentElement.dataset.ready;
  say.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  if (pick("button.zoom")) {
    pick("button.zoom").click();
    say.opened = pick("dialog").open; say.enlarged = page.querySelectorAll("dialog img").length;
    pick("dialog form button").click();
    say.closed = !pick("dialog").open;
    const mix = pick(".mix input"); mix.value = 60; mix.dispatchEvent(new Event("input"));
    say.mix = frame.contentWindow.getComputedStyle(pick(".under")).opacity;
  }
  const field = pick("#plan .filter");
  if (field) {
    field.value = "flat()"; field.dispatchEvent(new Event("input"));
    say.rows = [...page.querySelectorAll("#plan tbody tr")].filter((r) => r.getClientRects().length).length;
  }
  const apart = (e) => !e.nextElementSibling
    || e.getBoundingClientRect().bottom <= e.nextElementSibling.getBoundingClientRect().top + 1;
  say.apart = [...page.querySelectorAll(".card > *, section > *, main > *")].every(apart);
  say.focusable = [...page.querySelectorAll("a, button, input, [tabindex='0']")].every((e) => e.tabIndex === 0);
  document.title = JSON.stringify(say);
};
</script>"""


def browse(page: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """What the driver found in the page, shown in a frame of this width, and what the browser's console said."""
    file = folder / "driver.html"
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{frame}{DRIVER}", "utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    log = "--enable-logging=stderr"
    done = subprocess.run([*command, log, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    title = html.unescape(done.stdout.split("<title>")[1].split("</title>")[0])
    return json.loads(title), "\n".join(line for line in done.stderr.split("\n") if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
@pytest.mark.parametrize("width", [1200, 360])
def test_in_a_browser(digit: Any, width: int, tmp_path: Path) -> None:
    """Cards of pictures; dialog, slider."""
    said, console = browse(digit[3], tmp_path, width)
    assert console == ""
    assert said == {
        "ready": "yes", "overflow": 0, "opened": True, "enlarged": 1, "closed": True, "mix": "0.6", "apart": True,
        "focusable": True,
    }  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_long_tables_are_filtered_in_a_browser(tmp_path: Path) -> None:
    body = "\n".join(f"h{i + 1} = MatMul(h{i}, w)" for i in range(14)) + "\ny = Relu(h14)"
    model = net(body, "float[N,1,7,7] h0", "float[N,1,7,7] y", w=weight(7, 7))
    one = Composite(Epsilon(), NameMap({"h3": Flat()}))
    explainer = Explainer(model, one, checks=True)
    page = render(explainer, explainer.quietly(data(1, 1, 7, 7)))
    said, console = browse(page, tmp_path, 390)
    assert console == ""
    assert (said["rows"], said["overflow"], said["apart"]) == (1, 0, True)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_curves_in_a_browser(tmp_path: Path) -> None:
    explainer = Explainer(net("f = Flatten(x)\ny = MatMul(f, w)", "float[N,3,40] x", w=weight(120, 4)), "epsilon", checks=True)
    e = explainer.quietly(data(1, 3, 40))
    page = render(explainer, e, compare=[Entry.of(explainer, e), Entry.of(explainer, e, "again")])
    said, console = browse(page, tmp_path, 390)
    assert console == ""
    assert (said["ready"], said["overflow"], said["apart"]) == ("yes", 0, True)
