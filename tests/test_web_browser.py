"""The page in a browser: what is drawn or given is explained as in Python, with keys too, on a phone, from any folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxlrp import Explainer
from onnxlrp.heatmap import colorize
from onnxlrp.inputs import read_input
from onnxlrp.pictures.colors import blend
from tests.browser import CHROMIUM, Browser, browser, served
from tests.models_for_tests import net, weight
from tests.web_cases import CNN, MODELS, NO_WEB, RULES, WEB, export

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
    pytest.mark.skipif(not WEB.is_dir(), reason=NO_WEB),
]
THREE = [(0.3, 0.2), (0.45, 0.12), (0.62, 0.15), (0.68, 0.28), (0.6, 0.42), (0.48, 0.47), (0.62, 0.53), (0.7, 0.67),
         (0.62, 0.82), (0.45, 0.87), (0.3, 0.8)]  # fmt: skip
LABELS = "zero,one,two,three,four,five,six,seven,eight,nine"
NAMES = ["age", "<b>height</b>", "weight"]
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
ROLES = ("button", "radio", "slider", "combobox", "checkbox", "spinbutton", "ColorWell", "textbox")
Array = np.ndarray


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages in it, each a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "deep").mkdir()
    export(CNN, folder / "deep" / "digits", "--compare", ",".join(RULES), "--labels", LABELS)
    model = net("y = MatMul(x, w)", "float[N,3] x", "float[N,2] y", w=weight(3, 2))
    onnx.save(model, folder / "table.onnx")
    export(folder / "table.onnx", folder / "table", "-c", "epsilon", "--names", ",".join(NAMES))
    colour = net("c = Conv<pads=[1,1,1,1]>(x, v)\nf = Flatten(c)\nm = MatMul(f, w)\ny = Softmax(m)", "float[N,3,12,16] x",
                 "float[N,40] y", v=weight(2, 3, 3, 3), w=weight(384, 40))  # fmt: skip
    onnx.save(colour, folder / "colour.onnx")
    export(folder / "colour.onnx", folder / "colour", "-c", "lrp_zero", "--mean", "0.485,0.456,0.406", "--std", "0.2,0.3,0.25")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as url:
        yield url


@pytest.fixture
def digits(page: Browser, address: str) -> Iterator[Browser]:
    """The digits page, opened anew; it leaves nothing in the console."""
    show(page, f"{address}/deep/digits/")
    yield page
    assert page.console == []


def show(page: Browser, url: str, **how: Any) -> None:
    page.console.clear()
    page.requests.clear()
    page.go(url, **how)
    page.until("window.onnxlrp?.ready && !onnxlrp.busy")


def rest(page: Browser) -> None:
    page.until("!onnxlrp.busy")


def last(page: Browser) -> dict[str, Any]:
    """What the page explained last: rule, target, and arrays."""
    rest(page)
    script = """JSON.stringify({...onnxlrp.last, ...Object.fromEntries(["pixels", "input", "scores", "relevance"].map(
        (name) => [name, Array.from(onnxlrp.last[name] ?? [])]))})"""
    found: dict[str, Any] = json.loads(page.run(script))
    return {k: np.asarray(v) if isinstance(v, list) else v for k, v in found.items()}


def as_python(found: dict[str, Any], model: Path, shape: tuple[int, ...], asked: int | None = None) -> None:
    """Scores and relevance are those of Python for what the page fed, to 1e-5."""
    x = found["input"].astype(np.float32).reshape(shape)
    e = Explainer(model, found["rule"]).quietly(x, target=asked)
    np.testing.assert_allclose(found["scores"], e.output.ravel(), rtol=0, atol=1e-5)
    assert e.target is not None
    assert found["target"] == e.target[0]
    np.testing.assert_allclose(found["relevance"], e.relevance.ravel(), rtol=0, atol=1e-5)


def colours(page: Browser, shape: tuple[int, int]) -> Array:
    """What the heat-map's canvas shows."""
    script = """(() => {{ const pen = new OffscreenCanvas({1}, {0}).getContext("2d", {{ willReadFrequently: true }});
        pen.drawImage(document.querySelector("#heat"), 0, 0);
        return Array.from(pen.getImageData(0, 0, {1}, {0}).data); }})()"""
    return np.reshape(page.run(script.format(*shape)), (*shape, 4))[..., :3]


def lead(page: Browser) -> str:
    return str(page.run("document.querySelector('#lead').textContent"))


def give(page: Browser, file: Path) -> None:
    """Choose a file, as the button does."""
    before = page.run("window.onnxlrp.last")
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    field = page.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.run("window.onnxlrp.last = null")
    page.send("DOM.setFileInputFiles", files=[str(file)], nodeId=field)
    page.until("window.onnxlrp.last")
    assert before != page.run("window.onnxlrp.last")


def key(page: Browser, name: str, modifiers: int = 0) -> None:
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, modifiers=modifiers)


# digits --------------------------------------------------------------------------------------------------------------


def test_a_drawn_three(digits: Browser) -> None:
    assert lead(digits) == "–"
    digits.stroke("#sketch", THREE)
    found = last(digits)
    assert (found["target"], found["rule"], lead(digits)) == (3, "epsilon_plus", "three")
    assert len(set(found["pixels"])) > 5
    np.testing.assert_array_equal(found["input"].astype(np.float32), found["pixels"].astype(np.float32) / np.float32(255))
    as_python(found, CNN, (1, 1, 8, 8))
    r = found["relevance"].reshape(8, 8)
    np.testing.assert_array_equal(colours(digits, (8, 8)), colorize(r / np.abs(r).max()))
    digits.click("input[value=overlay]")
    under = np.repeat(found["pixels"].reshape(8, 8, 1), 3, -1)
    np.testing.assert_array_equal(colours(digits, (8, 8)), blend(r / np.abs(r).max(), under))
    digits.until("document.querySelector('#said').textContent.startsWith('Answer three, ')")


def test_class_and_rule_are_switched(digits: Browser) -> None:
    digits.stroke("#sketch", THREE)
    digits.click("#classes li:nth-child(6) button")
    found = last(digits)
    assert found["target"] == 5
    as_python(found, CNN, (1, 1, 8, 8), 5)
    assert digits.run("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.innerText).join()").startswith("five")
    assert digits.run("document.querySelector('#h-map').textContent") == "Relevance for five"
    for i, rule in enumerate(RULES):
        digits.run(f"(() => {{ const s = document.querySelector('#rule'); s.value = {i + 1};"
                   "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
        found = last(digits)
        assert found["rule"] == rule
        as_python(found, CNN, (1, 1, 8, 8), 5)
    digits.click("#largest")
    assert last(digits)["target"] == 3
    as_python(last(digits), CNN, (1, 1, 8, 8))


def test_eraser_undo_clear_and_invert(digits: Browser) -> None:
    digits.stroke("#sketch", THREE)
    drawn = last(digits)["pixels"]
    digits.click("input[value=eraser]")
    digits.stroke("#sketch", THREE[:4])
    erased = last(digits)["pixels"]
    assert erased.sum() < drawn.sum()
    digits.click("#undo")
    np.testing.assert_array_equal(last(digits)["pixels"], drawn)
    digits.click("#invert")
    np.testing.assert_allclose(last(digits)["pixels"], 255 - drawn, atol=1)  # of what is drawn, then made smaller
    digits.click("#undo")
    digits.click("#clear")
    rest(digits)
    assert digits.run("onnxlrp.last") is None
    assert (lead(digits), digits.run("document.querySelector('#hint').hidden")) == ("–", False)
    key(digits, "z", modifiers=2)
    np.testing.assert_array_equal(last(digits)["pixels"], drawn)


def test_a_finger_draws(digits: Browser) -> None:
    left, top, width, height = digits.box("#sketch")
    for kind, places in (("touchStart", THREE[:1]), *[("touchMove", [p]) for p in THREE[1:]], ("touchEnd", [])):
        at = [{"x": left + x * width, "y": top + y * height} for x, y in places]
        digits.send("Input.dispatchTouchEvent", type=kind, touchPoints=at)
    assert last(digits)["target"] == 3


def test_keys_alone_will_do(digits: Browser) -> None:
    """Every control has a name and can be reached; arrows draw."""
    nodes = digits.send("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n["name"]["value"]) for n in nodes if not n["ignored"] and n["role"]["value"] in ROLES]
    assert {role for role, _ in named} >= {"button", "radio", "slider", "combobox", "checkbox"}
    assert all(name for _, name in named), named
    reached: list[str] = []
    for _ in range(40):
        digits.send("Input.dispatchKeyEvent", type="rawKeyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(str(digits.run("document.activeElement.id || document.activeElement.tagName")))
    assert {"sketch", "width", "clear", "invert", "choose", "largest", "rule"} <= set(reached), reached
    digits.run("document.querySelector('#sketch').focus()")
    for name in ("ArrowDown", "ArrowDown", "ArrowRight"):
        key(digits, name)
    bright = last(digits)["pixels"].reshape(8, 8)
    assert bright[4, 4] > 100  # from the middle down and to the right
    assert bright[:3].max() == 0
    assert digits.run("document.querySelector('#cursor').getClientRects().length") == 1


def test_given_pictures_are_read_as_in_python(digits: Browser, tmp_path: Path) -> None:
    """Chosen, dropped, pasted; the numbers are Python's to the last bit, of the right size or not."""
    wanted = {"image": type("Face", (), {"shape": (1, 1, 8, 8), "type": "tensor(float)"})()}
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (61, 47, 3), np.uint8)).save(tmp_path / "noise.png")
    for file in (MODELS / "digit.png", tmp_path / "noise.png"):
        give(digits, file)
        found = last(digits)
        np.testing.assert_array_equal(found["input"].astype(np.float32), read_input(file, wanted)["image"].ravel())
        as_python(found, CNN, (1, 1, 8, 8))
    for event in ("paste", "drop"):
        digits.click("#clear")
        rest(digits)
        bytes_ = list((MODELS / "digit.png").read_bytes())
        digits.run(f"""(() => {{ const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from({bytes_})], "d.png", {{ type: "image/png" }}));
            document.dispatchEvent("{event}" === "paste" ? new ClipboardEvent("paste", {{ clipboardData: data }})
                : new DragEvent("drop", {{ dataTransfer: data }})); }})()""")
        digits.until("onnxlrp.last")
        assert last(digits)["target"] == 3
    (tmp_path / "no.png").write_text("no picture")
    root = digits.send("DOM.getDocument")["root"]["nodeId"]
    field = digits.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    digits.send("DOM.setFileInputFiles", files=[str(tmp_path / "no.png")], nodeId=field)
    digits.until("document.querySelector('#state').textContent === 'no.png is no picture that the browser can read.'")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_all(page: Browser, address: str, dark: bool) -> None:
    """Nothing sticks out; text stands out from its ground by 4.5 to 1 or more."""
    show(page, f"{address}/deep/digits/", width=390, height=844, dark=dark)
    page.stroke("#sketch", THREE)
    assert last(page)["target"] == 3
    assert page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    names = ("page", "panel", "ink", "quiet", "accent", "on")
    script = "JSON.stringify({names}.map((n) => getComputedStyle(document.documentElement).getPropertyValue('--' + n)))"
    tones = dict(zip(names, json.loads(page.run(script.replace("{names}", json.dumps(names)))), strict=True))
    for ground, text in (("page", "ink"), ("page", "quiet"), ("panel", "ink"), ("accent", "on")):
        assert contrast(tones[ground], tones[text]) >= 4.5, (ground, text)
    assert page.console == []


def test_a_stroke_is_where_the_pointer_was(page: Browser, address: str) -> None:
    """In a low window, where the board is not as wide as its column, and after a picture of other proportions."""
    drawn = []
    for width, height in ((1280, 1000), (820, 430), (390, 500)):
        show(page, f"{address}/deep/digits/", width=width, height=height)
        page.stroke("#sketch", THREE)
        drawn.append(last(page)["pixels"])
        _, _, wide, high = page.box("#sketch")
        assert high < 0.75 * height
        assert wide == pytest.approx(high, abs=1)
    assert np.abs(drawn[1] - drawn[0]).mean() < 2
    assert np.abs(drawn[2] - drawn[0]).mean() < 2


def contrast(a: str, b: str) -> float:
    """WCAG's ratio of two colours #rgb or #rrggbb."""
    lights = []
    for colour in (a, b):
        digits_ = colour.strip().lstrip("#")
        digits_ = "".join(2 * d for d in digits_) if len(digits_) == 3 else digits_
        c = np.array([int(digits_[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        lights.append(float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_with_threads_where_the_server_isolates_the_page(page: Browser, site: Path) -> None:
    with served(site, ISOLATED) as url:
        show(page, f"{url}/deep/digits/index.html")
        assert page.run("crossOriginIsolated")
        page.stroke("#sketch", THREE)
        as_python(last(page), CNN, (1, 1, 8, 8))
        assert {request.split("/deep/digits/")[0] for request in page.requests if not request.startswith("data:")} == {url}
    assert page.console == []


# other models --------------------------------------------------------------------------------------------------------


def test_a_table_has_fields_and_bars(page: Browser, address: str, site: Path) -> None:
    show(page, f"{address}/table/")
    assert page.run("[...document.querySelectorAll('tbody th')].map((t) => t.textContent)") == NAMES
    for i, value in enumerate((1.5, -2, 0.25)):
        page.run(f"f{i}.value = '{value}'; f{i}.dispatchEvent(new Event('input'))")
    found = last(page)
    np.testing.assert_array_equal(found["input"], [1.5, -2, 0.25])
    as_python(found, site / "table.onnx", (1, 3))
    bars = page.run("[...document.querySelectorAll('.signed i')].map((b) => [b.className, parseFloat(b.style.width)])")
    r = found["relevance"]
    assert [side for side, _ in bars] == ["against" if v < 0 else "for" for v in r]
    np.testing.assert_allclose([width for _, width in bars], 50 * np.abs(r) / np.abs(r).max(), atol=1e-3)
    page.run("f1.value = ''; f1.dispatchEvent(new Event('input'))")
    rest(page)
    assert (lead(page), page.run("onnxlrp.last")) == ("–", None)
    assert page.console == []


def test_colours_of_forty_classes(page: Browser, address: str, site: Path, tmp_path: Path) -> None:
    """Eight rows in the order of the scores; the sum of the channels; mean and std as in Python."""
    show(page, f"{address}/colour/")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)).save(tmp_path / "x.png")
    give(page, tmp_path / "x.png")
    found = last(page)
    as_python(found, site / "colour.onnx", (1, 3, 12, 16))
    r = found["relevance"].reshape(3, 12, 16).sum(0)
    np.testing.assert_array_equal(colours(page, (12, 16)), colorize(r / np.abs(r).max()))
    shown = page.run("[...document.querySelectorAll('#classes .name')].map((n) => n.textContent)")
    assert shown == [str(i) for i in np.argsort(-found["scores"], kind="stable")[:8]]
    assert page.run("document.querySelector('#classes .value').textContent").endswith(" %")
    assert page.console == []
