"""Draws the pictures that the pages of docs/ show, with onnxlrp itself.

python tools/doc_pictures.py            # make all of them anew; the screenshot needs a Chromium, else it stays as it is
python tools/doc_pictures.py --check    # exit 1 when a picture is missing, too large, not shown, or shown and not made here

PICTURES names every one. The digit is models/digit.npy; the networks for a curve, a table and a volume are written here,
with weights set by hand, so that it is known what their relevance must show.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont, ImageOps
from web_picture import web

from onnxlrp import Concepts, Explainer, Explanation, TopNFeatures, integrated_gradients, smoothgrad, starts
from onnxlrp.evaluate import Settings, evaluate
from onnxlrp.heatmap import colorize, sheet

Array = np.ndarray

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CNN = ROOT / "models" / "digits_cnn.onnx"
COMPOSITES = (
    "epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box(low=0, high=1)", "epsilon_alpha2_beta1",
    "gamma", "gradient_x_input",
)  # fmt: skip
SIDE, MARGIN, COLORS = 196, 12, 256  # pixels of a digit's side, of white around a picture; colours of a palette
LARGE, LARGEST, LARGEST_SUM = 150_000, 250_000, 1_500_000  # bytes: without a palette, of a picture, of all of them
WINDOW, PATIENCE = (1000, 1180), 120  # pixels of the page that is photographed; seconds that a browser may take
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
TOKEN = re.compile(r"(`[^`]+`|[^\s,]+) ([+−][\d.]+)")


# --------------------------------------------------------------------------------------------------------------- digits


def digit() -> Array:
    return np.asarray(np.load(ROOT / "models" / "digit.npy"))


def ink(x: Array) -> Image.Image:
    """One digit (1, 1, 8, 8) in [0, 1], black on white with a thin frame."""
    picture = Image.fromarray(np.uint8(255 - x[0, 0] * 255)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    ImageDraw.Draw(picture).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(200, 200, 200))
    return picture


def framed(picture: Image.Image) -> Image.Image:
    """A tile with a thin frame: maps are white where there is no relevance, and so is the page."""
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=(200, 200, 200))
    return picture


def tile(explanation: Explanation, row: int = 0, **style: Any) -> Image.Image:
    return framed(explanation.heatmap(row, size=SIDE, **style))


def in_rows(tiles: dict[str, Image.Image], columns: int = 4) -> Image.Image:
    return sheet(list(tiles.values()), list(tiles), columns=columns)


def first_map() -> Image.Image:
    """The digit, and what speaks for the 3 that it is and for the 5 that it is not."""
    both = Explainer(CNN, "epsilon_plus")(np.concatenate([digit()] * 2), target=[3, 5])
    return in_rows({"input": ink(digit()), "relevance of class 3": tile(both, 0), "relevance of class 5": tile(both, 1)})


def composites() -> Image.Image:
    maps = {name.split("(")[0]: tile(Explainer(CNN, name)(digit())) for name in COMPOSITES}
    return in_rows({"input": ink(digit()), **maps})


def overlay() -> Image.Image:
    found = Explainer(CNN, "epsilon_plus")(digit())
    tiles = {"input": ink(digit()), "relevance": tile(found), "overlay='grey'": tile(found, overlay="grey")}
    return in_rows({**tiles, "normalize=90": tile(found, normalize=90)})


def contrast() -> Image.Image:
    """Two classes, each by itself, and what speaks for one against the other."""
    begun = [starts.target(3), starts.target(8), starts.contrast(3, 8)]
    found = Explainer(CNN, "epsilon_plus", init="given")(digit(), start=begun)
    names = ("3", "8", "3 against 8")
    return in_rows({"input": ink(digit()), **{name: tile(found, row) for row, name in enumerate(names)}})


def channels() -> Image.Image:
    """The whole map, and those through the seven channels of a layer that matter most."""
    concepts = Concepts(CNN, "epsilon_plus", layers=["conv2"])
    r = concepts.relevance_per_channel(digit())["conv2"][0]
    found = concepts(digit(), TopNFeatures(7))
    best = np.argsort(-np.abs(r), kind="stable")[:7]
    tiles = {f"channel {c}: {r[c] / r.sum():.0%}": tile(found, row) for row, c in enumerate(best)}
    return in_rows({"all channels": tile(Explainer(CNN, "epsilon_plus")(digit())), **tiles})


def gradients() -> Image.Image:
    x, plain = digit(), Explainer(CNN, "gradient")
    presets = ("gradient_x_input", "guided_backprop", "excitation_backprop")
    averages = {"integrated gradients": integrated_gradients(plain, x), "SmoothGrad": smoothgrad(plain, x, noise=0.15, seed=0)}
    found = {"gradient": plain(x), **averages} | {name: Explainer(CNN, name).quietly(x) for name in presets}
    tiles = {"input": ink(x), **{name: tile(e) for name, e in found.items()}}
    return in_rows({**tiles, "epsilon_plus (LRP)": tile(Explainer(CNN, "epsilon_plus")(x))})


def removal() -> Image.Image:
    """What `Evaluation.plot` draws of the digit, moved about and with noise."""
    rng = np.random.default_rng(0)
    moved = np.concatenate([np.roll(digit(), s, (2, 3)) for s in (-1, 0, 1)] * 4)
    x = np.clip(moved + 0.05 * rng.standard_normal(moved.shape), 0, 1).astype(np.float32)
    chosen = ["epsilon", "epsilon_plus", "epsilon_gamma_box(low=0, high=1)"]
    found = evaluate(CNN, x, chosen, settings=Settings(noise=0, randomize="none"))
    with tempfile.TemporaryDirectory() as folder:
        found.plot(Path(folder) / "plot.png")
        with Image.open(Path(folder) / "plot.png") as picture:
            return picture.convert("RGB")


# ------------------------------------------------------------------------------------------------------ networks by hand


def network(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **weights: Array) -> onnx.ModelProto:
    """A model from x, of this shape, to y (1, 1)."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1))
    constants = [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "by_hand", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def detectors(x: Array, filters: Array, least: list[float], head: list[float]) -> Explanation:
    """y = head · mean over places of relu(filters ∗ x − least): how much of each filter is in x, explained by Epsilon."""
    nodes = [
        helper.make_node("Conv", ["x", "filters", "offset"], ["c"], name="filters", auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["y"], name="head"),
    ]
    model = network(nodes, x.shape, filters=filters, offset=-np.array(least), head=np.array(head)[:, None])
    return Explainer(model, "epsilon").quietly(x.astype(np.float32))


def pulses() -> tuple[Explanation, list[str]]:
    """Two channels; a pulse and a step speak for y, a ripple against it."""
    t, k = np.arange(240.0), np.arange(-7, 8)
    x = 0.04 * np.random.default_rng(0).standard_normal((1, 2, 240))
    x[0, 0] += np.exp(-(((t - 60) / 4) ** 2)) + 0.7 * np.cos(t * np.pi / 4) * np.exp(-(((t - 165) / 16) ** 2))
    x[0, 1] += 0.5 * np.tanh((t - 110) / 3) - 0.5 * np.tanh((t - 200) / 12)
    pulse, ripple = np.exp(-((k / 4) ** 2)), np.cos(k * np.pi / 4)
    filters = np.zeros((3, 2, 15))
    filters[0, 0], filters[1, 0], filters[2, 1] = pulse - pulse.mean(), ripple - ripple.mean(), np.tanh(k / 3)
    return detectors(x, filters, [0.5, 0.8, 1.5], [2.0, -1.0, 1.0]), ["pressure", "flow"]


def flat_price() -> tuple[Explanation, list[str]]:
    """A price from what a flat is, each in units of its usual spread; distance, age and noise lower it."""
    features = {
        "living area": (1.6, 0.9), "rooms": (0.8, 0.35), "distance to centre": (1.1, -0.7), "year built": (-1.2, 0.3),
        "balcony": (1.0, 0.2), "street noise": (0.7, -0.4), "floor": (-0.5, 0.1), "lift": (1.0, 0.05),
    }  # fmt: skip
    x = np.array([[value for value, _ in features.values()]], np.float32)
    effect = np.array([weight for _, weight in features.values()])
    first = np.stack([np.maximum(effect, 0), np.maximum(-effect, 0), effect], 1)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"], name="second"),
    ]
    model = network(nodes, x.shape, first=first, second=np.array([[1.0], [-0.8], [0.6]]))
    return Explainer(model, "epsilon")(x), list(features)


def balls() -> Explanation:
    """A volume with a bright ball, which speaks for y, and a dark one, which speaks against it."""
    z, y, x = np.indices((9, 24, 24))
    bright = np.exp(-(((z - 3) / 1.5) ** 2) - ((y - 8) / 2.5) ** 2 - ((x - 8) / 2.5) ** 2)
    dark = np.exp(-(((z - 6) / 1.5) ** 2) - ((y - 16) / 2.5) ** 2 - ((x - 16) / 2.5) ** 2)
    noise = 0.06 * np.random.default_rng(0).standard_normal(z.shape)
    k = np.indices((5, 5, 5)) - 2
    ball = np.exp(-(k**2).sum(0) / 4)
    ball -= ball.mean()
    return detectors((bright - dark + noise)[None, None], np.stack([ball, -ball])[:, None], [1.0, 1.0], [1.0, -0.8])


def series(width: int = 720) -> Image.Image:
    found, names = pulses()
    return found.heatmap(names=names, size=width)


def table(width: int = 720) -> Image.Image:
    found, names = flat_price()
    return found.heatmap(names=names, size=width)


def volume(side: int = 200) -> Image.Image:
    return balls().heatmap(size=side, overlay="grey")


def kinds() -> Image.Image:
    """One picture of each kind."""
    image = Explainer(CNN, "epsilon_plus")(digit()).heatmap(size=252, overlay="grey")
    tiles = {"image": image, "volume, slice by slice": balls().heatmap(size=112, overlay="grey", most=6)}
    return in_rows({**tiles, "series": series(400), "table": table(400)}, columns=2)


# ------------------------------------------------------------------------------------------------------- text and pages


def sentences() -> list[tuple[str, list[tuple[str, float]]]]:
    """(cosine, its tokens with their relevance) of each row that models/README.md records of the sentence encoder."""
    lines = (ROOT / "models" / "README.md").read_text("utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if TOKEN.search(line) and line.startswith("| 0.")]
    return [
        (score, [(name.strip("`"), float(r.replace("−", "-"))) for name, r in TOKEN.findall(text.replace("**", ""))])
        for score, text in rows
    ]


def words() -> Image.Image:
    """Sentences with their words on red or blue, as strong as |r| ÷ the largest of the sentence."""
    letters, small = ImageFont.load_default(21), ImageFont.load_default(15)
    found = sentences()
    whole = Image.new("RGB", (720, 34 + 42 * len(found)), "white")
    draw = ImageDraw.Draw(whole)
    draw.text((0, 14), "likeness to “A man is eating pasta.”, and which words make it", fill="black", font=small, anchor="lm")
    for line, (score, tokens) in enumerate(found):
        y = 34 + 42 * line + 20
        draw.text((0, y), score, fill=(90, 90, 90), font=letters, anchor="lm")
        colors = colorize(0.65 * np.array([r for _, r in tokens]) / max(abs(r) for _, r in tokens))
        lengths = [letters.getlength(word) for word, _ in tokens]
        gaps = [3 if word in ".,!?" else 10 for word, _ in tokens]
        at = 90 + np.cumsum(gaps) + np.cumsum([0, *lengths[:-1]])
        for x, length, color in zip(at, lengths, colors, strict=True):
            draw.rectangle((x - 1, y - 15, x + length + 1, y + 15), fill=tuple(color.tolist()))
        for x, (word, _) in zip(at, tokens, strict=True):
            draw.text((x, y), word, fill="black", font=letters, anchor="lm")
    return whole


def page() -> Image.Image | None:
    """The top of the page that the command in docs/report.md writes, as a browser shows it; None without a Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return None
    line = re.search(r"^onnxlrp (report .+)$", (DOCS / "report.md").read_text("utf-8"), re.MULTILINE)
    assert line is not None, "docs/report.md has no command"
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder) / "report.html", Path(folder) / "page.png"
        arguments = [str(html) if a == html.name else a for a in shlex.split(line[1])]
        subprocess.run([sys.executable, "-m", "onnxlrp", *arguments], cwd=ROOT, check=True, capture_output=True)
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
        own = [f"--user-data-dir={folder}/user", f"--screenshot={png}", f"--window-size={WINDOW[0]},{WINDOW[1]}"]
        command = [browser, *flags.split(), *own, html.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        with Image.open(png) as picture:
            return picture.convert("RGB")


# ------------------------------------------------------------------------------------------------------------- the tool

PICTURES: dict[str, Callable[[], Image.Image | None]] = {
    "kinds.png": kinds, "first_map.png": first_map, "composites.png": composites, "overlay.png": overlay,
    "series.png": series, "table.png": table, "volume.png": volume, "contrast.png": contrast, "channels.png": channels,
    "gradients.png": gradients, "removal.png": removal, "words.png": words, "report.png": page, "web.png": web,
}  # fmt: skip


def finished(picture: Image.Image) -> bytes:
    """A PNG with white around the picture, so that it is legible on a dark page; large ones get a palette."""
    whole = ImageOps.expand(picture, MARGIN, "white")
    data = encoded(whole)
    return data if len(data) <= LARGE else encoded(whole.quantize(COLORS, dither=Image.Dither.NONE))


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def shown(docs: Path = DOCS) -> list[tuple[Path, str, str]]:
    """(page, alternative text, target) of each picture on a page."""
    return [(p, alt, target) for p in sorted(docs.glob("*.md")) for alt, target in SHOWN.findall(p.read_text("utf-8"))]


def problems(docs: Path = DOCS, listed: Iterable[str] = PICTURES) -> list[str]:
    """What is wrong with the pictures of a folder of pages, one line each."""
    folder, names = docs / "pictures", set(listed)
    there = {p.name: p.stat().st_size for p in folder.iterdir()} if folder.is_dir() else {}
    on_pages = {target.removeprefix("pictures/") for _, _, target in shown(docs)}
    found = [f"docs/pictures/{name} is missing: run python tools/doc_pictures.py" for name in sorted(names - set(there))]
    found += [f"docs/pictures/{name} is made by nothing: remove it" for name in sorted(set(there) - names)]
    found += [f"no page shows docs/pictures/{name}" for name in sorted(names - on_pages)]
    found += [
        f"{p.name} shows {t}, which is not made here" for p, _, t in shown(docs) if t not in {f"pictures/{n}" for n in names}
    ]
    found += [f"{p.name} shows {target} without alternative text" for p, alt, target in shown(docs) if not alt.strip()]
    found += [f"docs/pictures/{name} has {size:,} bytes, over {LARGEST:,}" for name, size in there.items() if size > LARGEST]
    if sum(there.values()) > LARGEST_SUM:
        found.append(f"docs/pictures has {sum(there.values()):,} bytes, over {LARGEST_SUM:,}")
    return found


def make(names: Iterable[str]) -> None:
    (DOCS / "pictures").mkdir(exist_ok=True)
    for name in names:
        picture = PICTURES[name]()
        if picture is None:
            print(f"{name}: left as it is, there is no Chromium (or, for web.png, no onnxruntime-web) to make it with")
            continue
        target = DOCS / "pictures" / name
        target.write_bytes(finished(picture))
        print(f"{name}: {picture.width}×{picture.height}, {target.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("names", nargs="*", metavar="PICTURE", help="those to make (default: all)")
    arguments = parser.parse_args()
    if not arguments.check:
        if unknown := set(arguments.names) - set(PICTURES):
            parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(PICTURES)}")
        make(arguments.names or PICTURES)
    elif found := problems():
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
