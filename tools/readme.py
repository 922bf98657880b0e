"""Keeps what the README shows true: regenerates its tables, printed plans and picture; prints its commands for CI.

python tools/readme.py            # rewrite the generated parts
python tools/readme.py --check    # exit 1 when they are out of date
python tools/readme.py --command test
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import onnxlrp
from onnxlrp.support import to_markdown

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "models" / "digit_explained.png"
MODEL = ROOT / "models" / "digits_cnn.onnx"
SHOWN = ("epsilon", "epsilon_plus", "epsilon_gamma_box(low=0, high=1)", "gradient_x_input")


def generated() -> dict[str, str]:
    """Text of each generated part, by name."""
    plan = f"```text\n{onnxlrp.inspect(MODEL, 'epsilon_plus_flat')}\n```"
    presets = "\n".join(
        f"- `{name}`: {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in onnxlrp.presets.PRESETS.items()
    )
    return {"plan": plan, "operators": to_markdown(), "presets": presets}


def updated(text: str) -> str:
    """The README with its generated parts made anew."""
    for name, body in generated().items():
        pattern = rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)"
        text, count = re.subn(pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"README.md has no part called {name}")
    return text


def command(name: str) -> str:
    """The one line of the README that stands behind `<!-- command: name -->`."""
    found = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README.read_text())
    if found is None:
        raise SystemExit(f"README.md has no command called {name}")
    return found[1]


def picture() -> Image.Image:
    """The digit, and its heat-map under several composites."""
    digit = np.load(ROOT / "models" / "digit.npy")
    side, gap, top = 200, 12, 26
    sheet = Image.new("RGB", ((side + gap) * (len(SHOWN) + 1) - gap, side + top), "white")
    draw = ImageDraw.Draw(sheet)
    tiles = [("input", Image.fromarray(np.uint8(255 - digit[0, 0] * 255)).convert("RGB"))]
    tiles += [(name.split("(")[0], onnxlrp.Explainer(MODEL, name)(digit).heatmap()) for name in SHOWN]
    for i, (caption, tile) in enumerate(tiles):
        sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (i * (side + gap), top))
        draw.text((i * (side + gap), 4), caption, fill="black", font_size=16)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--command")
    arguments = parser.parse_args()
    if arguments.command:
        print(command(arguments.command))
        return
    old = README.read_text()
    new = updated(old)
    if arguments.check:
        sys.exit("README.md is out of date: run python tools/readme.py" if old != new else 0)
    README.write_text(new)
    picture().save(PICTURE)


if __name__ == "__main__":
    main()
