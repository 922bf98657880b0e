"""The screenshot of docs/web.md: the page that its command writes, with a digit drawn on it in a browser."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
SIZE = (1180, 720)  # pixels of the window
ARCS = (((0.48, 0.32), 0.18, (-150, 75)), ((0.47, 0.67), 0.2, (-75, 150)))  # of a 3: middle, radius, from and to degrees


def three() -> list[tuple[float, float]]:
    """Points of a 3, as shares of the side."""
    points: list[tuple[float, float]] = []
    for (x, y), radius, (begin, end) in ARCS:
        angles = np.radians(np.linspace(begin, end, 24))
        points += [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]
    return points


def web() -> Image.Image | None:
    """The page as a browser shows it; None without a Chromium, or without onnxruntime-web."""
    sys.path.append(str(ROOT))
    tests = importlib.import_module("tests.browser")
    modules = Path(os.environ.get("ONNXLRP_NODE_MODULES", ROOT / "node_modules"))
    if tests.CHROMIUM is None or not (modules / "onnxruntime-web").is_dir():
        return None
    line = re.search(r"^onnxlrp (export web .+)$", (ROOT / "docs" / "web.md").read_text("utf-8"), re.MULTILINE)
    assert line is not None, "docs/web.md has no command"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page"
        arguments = [str(page) if a == page.name else a for a in shlex.split(line[1])]
        runtime = ["--runtime", str(modules / "onnxruntime-web")]
        subprocess.run([sys.executable, "-m", "onnxlrp", *arguments, *runtime], cwd=ROOT, check=True, capture_output=True)
        with tests.served(page) as url, tests.browser(Path(folder) / "user") as shown:
            shown.go(url, *SIZE)
            shown.until("window.onnxlrp?.ready && !onnxlrp.busy")
            shown.stroke("#sketch", three())
            shown.until("onnxlrp.last && !onnxlrp.busy")
            shown.screenshot(Path(folder) / "web.png", whole=False)
        with Image.open(io.BytesIO((Path(folder) / "web.png").read_bytes())) as picture:
            return picture.convert("RGB")
