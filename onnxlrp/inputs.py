"""Reading what a user explains: .npy, .npz and pictures, as the arrays that a model's inputs want."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from . import npy
from .errors import InputError
from .feeds import lacks_batch
from .preprocessing import Preprocessing
from .validity import one_line

__all__ = [
    "BROKEN",
    "PICTURES",
    "Preprocessing",
    "adapted",
    "missing_row",
    "one_at_a_time",
    "picked",
    "picture",
    "picture_size",
    "read_input",
    "too_many",
    "treatment",
]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")  # whatever the name says: others may start programs (PostScript)
MOST_PIXELS = 89_478_485  # Pillow's own bound, from which it warns: 256 MB of colours
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
BROKEN = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, IndexError, KeyError, NotImplementedError, OverflowError,
    zipfile.BadZipFile, zlib.error, struct.error, UnidentifiedImageError, *BOMBS,
)  # fmt: skip


def read_input(
    path: str | os.PathLike[str], wanted: Mapping[str, Any], how: Preprocessing | None = None
) -> dict[str, np.ndarray]:
    """{input: array} from a file. wanted: the model's required inputs, with `shape`. Raises InputError.

    An array that lacks nothing but the batch axis becomes a batch of one, as a picture does.
    """
    file, how = Path(path), how or Preprocessing()
    if not file.is_file():
        raise InputError(f"{file} is a folder; give a file in it" if file.is_dir() else f"{file}: no such file")
    suffix = file.suffix.lower()
    try:
        if suffix in npy.ARRAYS:
            held = {
                name: x[None] if lacks_batch(x.shape, wanted[name].shape) else x for name, x in _arrays(file, wanted).items()
            }
            return adapted(held, wanted, how, str(file))
        if suffix in PICTURES:
            name = _only(wanted, file)
            return {name: picture(file, str(file), tuple(wanted[name].shape), how)}
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
    found = npy.load(file)
    if isinstance(found, np.ndarray):
        return {_only(wanted, file): found}
    if len(wanted) == 1 and len(found) == 1:
        return {next(iter(wanted)): next(iter(found.values()))}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{file} has no array called '{missing[0]}'; it has {', '.join(list(found)[:10]) or 'none'}")
    return {name: found[name] for name in wanted}


def adapted(feed: dict[str, np.ndarray], wanted: Mapping[str, Any], how: Preprocessing, what: str) -> dict[str, np.ndarray]:
    """Arrays are taken as they are, unless scale, mean or std were given: then these apply, as to a picture's values.

    They are for the inputs of pictures, those of four axes, or for the only input of floats. Raises InputError.
    """
    if how.of_pictures:
        raise InputError(f"{what} holds arrays, and {how.of_pictures} is for pictures: leave it out")
    if not how.of_values:
        return feed
    floats = [name for name in feed if "float" in wanted[name].type or "double" in wanted[name].type]
    chosen = [name for name in floats if len(wanted[name].shape) == 4] or (floats if len(floats) == 1 else [])
    if not chosen:
        raise InputError(
            f"scale, mean and std are for an input of pictures (N, C, H, W), or an only one of floats; {what} has none"
        )
    out = dict(feed)
    for name in chosen:
        axis = how.channel_axis(wanted[name].shape) if feed[name].ndim == 4 else None
        out[name] = how.values(feed[name], how.scale or 1.0, axis)
    return out


# -------------------------------------------------------------------------------------------------------------- rows


def picked(feed: Mapping[str, np.ndarray], wanted: Mapping[str, Any], row: int) -> tuple[dict[str, np.ndarray], int]:
    """(one row alone, as a batch of one; how many there are). What has a single row is kept. Raises InputError."""
    counts = {name: len(x) for name, x in feed.items() if _by_rows(x, wanted[name].shape) and len(x) != 1}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"--row: inputs have {' and '.join(map(str, sorted(set(counts.values()))))} rows; rows need as many of each"
        )
    count = next(iter(counts.values()), 1)
    if row >= count:
        raise missing_row(row, count)
    return {name: x[row : row + 1] if name in counts else x for name, x in feed.items()}, count


def missing_row(row: int, count: int) -> InputError:
    """What to say of a row that an input of `count` rows does not have."""
    there = f"0 to {count - 1}" if count > 1 else "only row 0"
    return InputError(f"row {row} does not exist: the input has {count} row{'s' if count > 1 else ''}, {there}")


def _by_rows(x: np.ndarray, shape: Sequence[Any]) -> bool:
    """Whether the first axis is that of rows: left open by the model, or longer than the 1 that the model has there."""
    return bool(shape) and x.ndim == len(shape) and (not isinstance(shape[0], int) or _beyond(x, shape))


def _beyond(x: np.ndarray, shape: Sequence[Any]) -> bool:
    """Whether there are several rows for a model that takes one, each as it wants them."""
    return x.ndim > 0 and len(x) > 1 and tuple(shape[:1]) == (1,) and lacks_batch(x.shape[1:], shape)


def one_at_a_time(feed: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> bool:
    """Whether several rows are given to a model that takes one."""
    return any(_beyond(x, wanted[name].shape) for name, x in feed.items())


def too_many(feed: Mapping[str, np.ndarray], wanted: Mapping[str, Any], what: str) -> None:
    """Raises InputError for several rows where the model takes one at a time."""
    for name, x in feed.items():
        if _beyond(x, wanted[name].shape):
            raise InputError(
                f"{what} has {len(x)} rows, the model takes 1 row at a time: `onnxlrp run` explains all of them, --row N one"
            )


# ---------------------------------------------------------------------------------------------------------- pictures


def picture_size(shape: tuple[Any, ...], how: Preprocessing, what: str) -> tuple[int, int | None, int | None]:
    """(channels, height, width) of a picture for an input (N, C, H, W), (N, H, W, C) or (N, H·W); None where it is free.

    Raises InputError for another input, and for sizes that contradict the model's.
    """
    if len(shape) == 4:
        channels, height, width = (shape[3], shape[1], shape[2]) if how.channels_last(shape) else shape[1:]
    elif len(shape) == 2 and isinstance(shape[1], int) and round(shape[1] ** 0.5) ** 2 == shape[1]:
        channels, height, width = 1, round(shape[1] ** 0.5), round(shape[1] ** 0.5)
    else:
        raise InputError(f"{what} is a picture, but the model's input has the shape {shape}: give an .npy")
    channels = channels if isinstance(channels, int) else 3
    if channels not in (1, 3, 4):
        raise InputError(f"{what} is a picture, but the model's input has {channels} channels: give an .npy")
    if how.channels == "bgr" and channels == 1:
        raise InputError("channels=bgr is for pictures in colour; the model takes grey ones")
    for values, named in ((how.mean, "mean"), (how.std, "std")):
        if len(values) not in (0, 1, channels):
            raise InputError(f"{named} has {len(values)} values, the picture {channels} channels")
    asked = how.size or how.crop or (None, None)
    for declared, given, axis in ((height, asked[0], "high"), (width, asked[1], "wide")):
        if isinstance(declared, int) and given not in (None, declared):
            raise InputError(
                f"{'size' if how.size else 'crop'} makes pictures {given} pixels {axis}, the model takes {declared}"
            )
    free = [d if isinstance(d, int) else a for d, a in zip((height, width), asked, strict=True)]
    return channels, free[0], free[1]


def picture(file: Path | IO[bytes], what: str, shape: tuple[Any, ...], how: Preprocessing) -> np.ndarray:
    """A picture as a batch of one in the layout of the model's input (N, C, H, W), (N, H, W, C) or (N, H·W).

    It is turned upright where its EXIF data says how the camera was held, as every viewer does. Raises InputError, and
    `BROKEN` for what is no complete picture.
    """
    channels, height, width = picture_size(shape, how, what)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{opened.width * opened.height} pixels")
            upright = _upright(opened)
            deep = upright.mode.startswith(("I", "F"))  # 16 bits and more: convert() would cut them off at 255
            drawn = _deep(upright, what) if deep else upright.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    except UnidentifiedImageError as error:  # whose own text has an address in it
        raise InputError(f"{what} could not be read: no picture of a format that is known, or damaged") from error
    except BOMBS as error:
        count = re.search(r"(\d+) pixels", str(error))
        many = f"{int(count[1]):,}" if count else "too many"
        raise InputError(f"{what} has {many} pixels; over {MOST_PIXELS:,} are not read: make it smaller") from error
    drawn = _sized(drawn, height, width, how, what)
    pixels = _spread(np.asarray(drawn), channels) if deep else np.asarray(drawn, np.float32)
    pixels = pixels.reshape(drawn.height, drawn.width, channels)
    if how.channels == "bgr":
        pixels = pixels[..., [2, 1, 0, 3][:channels]]
    x = how.values(pixels, how.divisor, -1)
    if len(shape) == 2:
        return x.reshape(1, -1)
    return np.ascontiguousarray(x[None] if how.channels_last(shape) else x.transpose(2, 0, 1)[None])


def _upright(opened: Image.Image) -> Image.Image:
    """The picture, turned as its EXIF data says; as it is where that cannot be read."""
    opened.load()
    try:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return (ImageOps.exif_transpose(opened) if turned else opened) or opened
    except BROKEN:
        return opened


def treatment(
    path: str | os.PathLike[str], feed: Mapping[str, np.ndarray], wanted: Mapping[str, Any], how: Preprocessing
) -> str:
    """What was done to a file that was read, in words: size, scale, mean and std; "" for an array as it was."""
    file = Path(path)
    if file.suffix.lower() not in PICTURES:
        return how.in_words("values") if how.of_values else ""
    ((name, x),) = feed.items()
    shape = wanted[name].shape
    channels, height, width = picture_size(tuple(shape), how, str(file))
    if len(shape) == 4:
        height, width = x.shape[1:3] if how.channels_last(shape) else x.shape[2:]
    with Image.open(file, formats=FORMATS) as opened:
        size, grey = _upright_size(opened), channels == 1 and opened.mode[:1] not in ("1", "L", "I", "F")
    parts = [_resized(size, (width, height), how), *["made grey"] * grey]
    return ", ".join([*parts, *["in the order BGR"] * (how.channels == "bgr"), how.in_words("pixels")])


def _upright_size(opened: Image.Image) -> tuple[int, int]:
    """(width, height) as `_upright` has it, without the pixels."""
    try:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except BROKEN:
        turned = False
    return (opened.height, opened.width) if turned else (opened.width, opened.height)


def _resized(size: tuple[int, int], taken: tuple[int | None, int | None], how: Preprocessing) -> str:
    """What `_sized` did, in words. size and taken: (width, height) of the picture and of what the model got."""
    was, now = (f"{w} × {h}" for w, h in (size, taken))
    if how.resize is None and how.crop is None:
        return f"{was} (width × height) as it is" if size == taken else f"{was} (width × height) stretched to {now}"
    first = "" if how.resize is None else f"made {how.resize} along its shorter side, "
    return f"{was} (width × height) {first}the middle {now} cut out"


def _sized(drawn: Image.Image, height: int | None, width: int | None, how: Preprocessing, what: str) -> Image.Image:
    """The picture in the model's size: stretched to it, or its shorter side resized and the middle cut out."""
    if how.resize is None and how.crop is None:
        size = (width or drawn.width, height or drawn.height)
        return drawn if drawn.size == size else drawn.resize(size, Image.Resampling.BILINEAR)
    if how.resize is not None:
        # the longer side rounded down, as torchvision's Resize has it
        short, long = min(drawn.size), max(drawn.size)
        sides = how.resize, how.resize * long // short
        size = sides if drawn.width <= drawn.height else sides[::-1]
        drawn = drawn if drawn.size == size else drawn.resize(size, Image.Resampling.BILINEAR)
    w, h = width or drawn.width, height or drawn.height
    if w > drawn.width or h > drawn.height:
        got = f"{drawn.height}×{drawn.width}"
        raise InputError(f"{what}: {h}×{w} pixels cannot be cut out of {got} (height×width): give a larger resize")
    left, top = round((drawn.width - w) / 2), round((drawn.height - h) / 2)
    return drawn.crop((left, top, left + w, top + h))


def _deep(opened: Image.Image, what: str) -> Image.Image:
    """16 bits of grey as floats in the range of 8 bits, 0 to 255. Raises InputError for what has no such range."""
    grey = np.asarray(opened)
    if grey.dtype.kind == "f" or grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
        raise InputError(f"{what} is a picture of more than 16 bits, whose range is not known: give an .npy")
    return Image.fromarray(grey.astype(np.float32) / 257)


def _spread(grey: np.ndarray, channels: int) -> np.ndarray:
    """Grey (H, W) as (H, W, channels); the fourth is opaque."""
    x = np.repeat(grey[..., None], channels, axis=-1)
    x[..., 3:] = 255
    return x
