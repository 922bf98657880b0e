"""The files of onnxruntime-web that a page needs, found where npm puts them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ...errors import InputError

__all__ = ["FILES", "find_runtime"]

PACKAGE = "onnxruntime-web"
# {in the package: in the page}: the one is served as JavaScript by every server, whatever it knows of .mjs
FILES = {"ort.wasm.bundle.min.mjs": "ort.js", "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm"}


def find_runtime(folder: str | None) -> dict[str, Path]:
    """{name in the page: file} of the npm package: in `folder`, else in ./node_modules, else where `npm root` says.

    Raises InputError when the package, or a file of it, is not there.
    """
    places = [Path(folder)] if folder is not None else [Path("node_modules") / PACKAGE]
    if folder is None and not places[0].is_dir():
        places += [root / PACKAGE for root in _npm_root()]
    place = next((p for p in places if (p / "dist").is_dir()), None)
    remedy = f"`npm install {PACKAGE}` brings it; --runtime DIR names its folder (node_modules/{PACKAGE})"
    if place is None:
        raise InputError(f"{PACKAGE} was not found in {' or '.join(map(str, places))}: {remedy}")
    missing = next((name for name in FILES if not (place / "dist" / name).is_file()), None)
    if missing:
        raise InputError(f"{place} has no dist/{missing}, as {PACKAGE} 1.30 has: {remedy}")
    return {to: place / "dist" / name for name, to in FILES.items()}


def _npm_root() -> list[Path]:
    """The folder where npm installs packages for the working directory, if there is an npm to ask."""
    npm = shutil.which("npm")
    if npm is None:
        return []
    try:
        said = subprocess.run([npm, "root"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Path(said)] if said else []
