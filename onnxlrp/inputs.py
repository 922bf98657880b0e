"""Reading what a user explains: .npy, .npz and pictures, as the arrays that a model's inputs want."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import InputError
from .validity import one_line

__all__ = ["Preprocessing", "read_input"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
ARRAYS = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # and how such a file begins
BROKEN = (
    OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, UnidentifiedImageError,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes numbers: pixel / scale, minus mean, divided by std (per channel); layout nchw or nhwc."""

    scale: float = 255.0
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    layout: str = ""


def read_input(
    path: str | os.PathLike[str], wanted: Mapping[str, Any], how: Preprocessing | None = None
) -> dict[str, np.ndarray]:
    """{input: array} from a file. wanted: the model's required inputs, with `shape`. Raises InputError."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} is a folder; give a file in it" if file.is_dir() else f"{file}: no such file")
    suffix = file.suffix.lower()
    try:
        if suffix in ARRAYS:
            return _arrays(file, wanted)
        if suffix in PICTURES:
            name = _only(wanted, file)
            return {name: _picture(file, tuple(wanted[name].shape), how or Preprocessing())}
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{file} could not be read: {one_line(error)}") from error
    raise InputError(f"{file}: inputs are .npy, .npz or pictures ({', '.join(PICTURES)})")


def _only(wanted: Mapping[str, Any], file: Path) -> str:
    if len(wanted) != 1:
        raise InputError(f"{file} holds one array, the model has several inputs: give an .npz with {', '.join(wanted)}")
    return next(iter(wanted))


def _arrays(file: Path, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A .npy or .npz, told apart by what is in it."""
    with file.open("rb") as opened:
        if not opened.read(6).startswith(tuple(ARRAYS.values())):
            raise InputError(f"{file} is not a {file.suffix.lower()} file: numpy.save and numpy.savez write them")
        opened.seek(0)
        try:
            found = np.load(opened, allow_pickle=False)
            return {_only(wanted, file): found} if isinstance(found, np.ndarray) else _archive(file, found, wanted)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise InputError(f"{file} holds Python objects: save it as an array of numbers") from error


def _archive(file: Path, archive: Any, wanted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if len(wanted) == 1 and len(archive.files) == 1:
        return {next(iter(wanted)): archive[archive.files[0]]}
    missing = [name for name in wanted if name not in archive.files]
    if missing:
        raise InputError(f"{file} has no array called '{missing[0]}'; it has {', '.join(archive.files[:10]) or 'none'}")
    return {name: archive[name] for name in wanted}


def _picture(file: Path, shape: tuple[Any, ...], how: Preprocessing) -> np.ndarray:
    """A picture as a batch of one in the layout of the model's input (N, C, H, W), (N, H, W, C) or (N, H·W)."""
    last = how.layout == "nhwc" or (not how.layout and len(shape) == 4 and shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4))
    if len(shape) == 4:
        channels, height, width = (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])
    elif len(shape) == 2 and isinstance(shape[1], int) and round(shape[1] ** 0.5) ** 2 == shape[1]:
        channels, height, width = 1, round(shape[1] ** 0.5), round(shape[1] ** 0.5)
    else:
        raise InputError(f"{file} is a picture, but the model's input has the shape {shape}: give an .npy")
    channels = channels if isinstance(channels, int) else 3
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise InputError(f"{file} is a picture, but the model's input has {channels} channels: give an .npy")
    with Image.open(file) as opened:
        deep = opened.mode.startswith(("I", "F"))  # 16 bits and more: convert() would cut them off at 255
        picture = _deep(opened, file) if deep else opened.convert(modes[channels])
    if isinstance(height, int) and isinstance(width, int) and picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = _spread(np.asarray(picture), channels) if deep else np.asarray(picture, np.float32)
    x: np.ndarray = pixels.reshape(picture.height, picture.width, channels) / np.float32(how.scale)
    for values, what in ((how.mean, "mean"), (how.std, "std")):
        if len(values) not in (0, 1, channels):
            raise InputError(f"{what} has {len(values)} values, the picture {channels} channels")
    if any(v == 0 for v in how.std):
        raise InputError("std must not be 0")
    x = (x - np.asarray(how.mean or 0, np.float32)) / np.asarray(how.std or 1, np.float32)
    x = x[None] if last or len(shape) == 2 else x.transpose(2, 0, 1)[None]
    return np.ascontiguousarray(x.reshape(1, -1) if len(shape) == 2 else x, np.float32)


def _deep(opened: Image.Image, file: Path) -> Image.Image:
    """16 bits of grey as floats in the range of 8 bits, 0 to 255. Raises InputError for what has no such range."""
    grey = np.asarray(opened)
    if grey.dtype.kind == "f" or grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
        raise InputError(f"{file} is a picture of more than 16 bits, whose range is not known: give an .npy")
    return Image.fromarray(grey.astype(np.float32) / 257)


def _spread(grey: np.ndarray, channels: int) -> np.ndarray:
    """Grey (H, W) as (H, W, channels); the fourth is opaque."""
    x = np.repeat(grey[..., None], channels, axis=-1)
    x[..., 3:] = 255
    return x
