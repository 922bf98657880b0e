"""The documentation is true: its Python runs, its links and commands exist, its pictures are those that a tool draws."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxlrp.cli import cli

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))
doc_pictures = importlib.import_module("doc_pictures")
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = [
    (page.name, index, block)
    for page in PAGES
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize(("page", "index", "block"), BLOCKS, ids=[f"{page}-{index}" for page, index, _ in BLOCKS])
def test_python_block_runs(page: str, index: int, block: str, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for name in re.findall(r"^onnxlrp (\w+)", text, re.MULTILINE):
        assert name in cli.commands, name


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f"  - {page.name}\n" not in menu] == []


# pictures -----------------------------------------------------------------------------------------------------------

SHOWN = [(p.name, *found) for p in PAGES for found in re.findall(r"!\[(.*?)\]\((.*?)\)", p.read_text(encoding="utf-8"))]
WITH_PICTURES = "index tutorial pictures composites report starts evaluation concepts gradients transformers".split()


@pytest.mark.parametrize(("page", "alt", "target"), SHOWN, ids=[f"{page}-{target}" for page, _, target in SHOWN])
def test_a_picture_on_a_page_is_there_named_and_made_by_the_tool(page: str, alt: str, target: str) -> None:
    assert (ROOT / "docs" / target).is_file()
    assert len(alt.split()) > 3, "the alternative text is what a blind reader gets"
    assert target.removeprefix("pictures/") in doc_pictures.PICTURES


def test_pictures_are_shown_and_small() -> None:
    files = list((ROOT / "docs" / "pictures").iterdir())
    assert {f"pictures/{f.name}" for f in files} == {target for _, _, target in SHOWN}
    assert max(f.stat().st_size for f in files) <= 250_000
    assert sum(f.stat().st_size for f in files) <= 1_500_000
    assert {f"{name}.md" for name in WITH_PICTURES} <= {page for page, _, _ in SHOWN}


@pytest.mark.parametrize("name", sorted(doc_pictures.PICTURES))
def test_a_picture_is_legible_on_a_dark_page(name: str) -> None:
    with Image.open(ROOT / "docs" / "pictures" / name) as picture:
        assert "transparency" not in picture.info
        pixels = np.asarray(picture.convert("RGB"))
    edge = np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3), pixels[:, :8].reshape(-1, 3)])
    assert (edge == 255).all()


# removal.png is matplotlib's, report.png and web.png are a browser's: other versions of them draw other pixels
@pytest.mark.parametrize("name", sorted(set(doc_pictures.PICTURES) - {"removal.png", "report.png", "web.png"}))
def test_a_picture_shows_what_the_code_draws_now(name: str) -> None:
    made = Image.open(io.BytesIO(doc_pictures.finished(doc_pictures.PICTURES[name]())))
    with Image.open(ROOT / "docs" / "pictures" / name) as kept:
        assert made.size == kept.size
        old, new = (np.asarray(p.convert("RGB").reduce(8)).astype(int) for p in (kept, made))
    assert np.abs(old - new).max() <= 24, "out of date: run python tools/doc_pictures.py"  # letters may differ a little


def test_curves_of_an_evaluation_are_drawn() -> None:
    pytest.importorskip("matplotlib", reason='a plot needs matplotlib: pip install "onnxlrp[plot]"')
    pixels = np.asarray(doc_pictures.removal())
    assert pixels.shape[1] > pixels.shape[0] > 500
    for panel in (pixels[:480, :660], pixels[:480, 660:], pixels[480:, :660], pixels[480:, 660:]):
        assert (panel == (0, 114, 178)).all(-1).sum() > 300  # the first composite's curve


def test_networks_written_by_hand_show_what_their_weights_say() -> None:
    pressure, flow = doc_pictures.pulses()[0].relevance[0]
    assert pressure[50:70].sum() > 0 > pressure[140:190].sum()
    assert flow[100:125].sum() > 0
    assert np.abs(flow[130:]).max() < 0.02 * flow.max()
    found, names = doc_pictures.flat_price()
    x, y = found.inputs["x"][0].astype(np.float64), found.output.item()
    weights = np.array([0.9, 0.35, -0.7, 0.3, 0.2, -0.4, 0.1, 0.05])
    by_hand = x * weights * np.where(weights > 0, 1 + 0.6, 0.8 + 0.6)  # all three hidden units are on: y is linear here
    np.testing.assert_allclose(found.relevance[0], by_hand, rtol=1e-4)
    assert len(names) == len(x)
    assert by_hand.sum() == pytest.approx(y, rel=1e-5)
    ball = doc_pictures.balls().relevance[0, 0]
    assert np.unravel_index(ball.argmax(), ball.shape) == (3, 8, 8)
    assert np.unravel_index(ball.argmin(), ball.shape) == (6, 16, 16)


def test_sentences_are_those_on_record() -> None:
    found = doc_pictures.sentences()
    assert [score for score, _ in found] == ["0.6312", "0.5634", "0.1889", "0.0230"]
    assert found[1][1][2:5] == [("noodles", 0.17), (",", 0.01), ("not", -0.006)]
    assert [len(tokens) for _, tokens in found] == [7, 7, 7, 9]


DEFECTS = {
    "none": ("![a b](pictures/a.png)", {"a.png": 9}, ""),
    "missing": ("![a b](pictures/a.png)", {}, "a.png is missing"),
    "orphan": ("![a b](pictures/a.png)", {"a.png": 9, "b.png": 9}, "b.png is made by nothing"),
    "not shown": ("no picture", {"a.png": 9}, "no page shows docs/pictures/a.png"),
    "of another": ("![a b](pictures/a.png) ![c](c.png)", {"a.png": 9}, "page.md shows c.png, which is not made here"),
    "no text": ("![ ](pictures/a.png)", {"a.png": 9}, "page.md shows pictures/a.png without alternative text"),
    "large": ("![a b](pictures/a.png)", {"a.png": 250_001}, "a.png has 250,001 bytes"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_check_finds(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, files, expected = DEFECTS[case]
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "pictures").mkdir()
    for name, size in files.items():
        (tmp_path / "pictures" / name).write_bytes(b"0" * size)
    found = doc_pictures.problems(tmp_path, ["a.png"])
    assert len(found) == bool(expected)
    assert expected in "".join(found)
    monkeypatch.setattr(doc_pictures, "problems", lambda: found)
    monkeypatch.setattr(sys, "argv", ["doc_pictures.py", "--check"])
    if not expected:
        doc_pictures.main()
        return
    with pytest.raises(SystemExit) as end:
        doc_pictures.main()
    assert end.value.code == found[0]  # a text: it is printed, and the exit code is 1


def test_without_a_browser_the_screenshot_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "report.png").write_bytes(b"kept")
    monkeypatch.setattr(doc_pictures, "DOCS", tmp_path)
    monkeypatch.setattr(doc_pictures.shutil, "which", lambda _: None)
    doc_pictures.make(["report.png"])
    assert "there is no Chromium" in capsys.readouterr().out
    assert (tmp_path / "pictures" / "report.png").read_bytes() == b"kept"
