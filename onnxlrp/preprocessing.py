"""How a picture becomes numbers: a description in options, or in a small YAML or JSON file."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .validity import one_line

__all__ = ["KEYS", "Preprocessing", "pair", "preprocessing_of"]

KEYS = ("size", "resize", "crop", "scale", "mean", "std", "layout", "channels")
LARGEST = 1_000_000  # bytes of a description


@dataclass(frozen=True)
class Preprocessing:
    """(pixel / scale - mean) / std, of a picture brought to the size that the model takes.

    size: (height, width) to which a picture is stretched, where the model leaves it open (default: the model's).
    resize, crop: in its place, the shorter side is made `resize` pixels long, then the middle (height, width) is cut out
    (default: the model's size). scale: None divides pixels by 255, and arrays by nothing. mean, std: one value, or one per
    channel in the order of `channels` (rgb or bgr). layout: nchw or nhwc, of the model's input ("": from its shape).
    """

    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    layout: str = ""
    size: tuple[int, int] | None = None
    resize: int | None = None
    crop: tuple[int, int] | None = None
    channels: str = "rgb"

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be."""
        if self.scale is not None and not (self.scale and math.isfinite(self.scale)):
            raise InputError(f"scale must be a number other than 0, got {self.scale}")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise InputError("mean and std must be finite")
        if any(v == 0 for v in self.std):
            raise InputError("std must not be 0")
        if self.size is not None and (self.resize or self.crop):
            raise InputError("size stretches a picture; resize and crop keep its proportions: give one or the other")

    @property
    def divisor(self) -> float:
        """Of a picture's pixels."""
        return 255.0 if self.scale is None else self.scale

    @property
    def of_values(self) -> bool:
        """Whether it says anything of the values of arrays."""
        return self.scale is not None or bool(len(self.mean) or len(self.std))

    @property
    def of_pictures(self) -> str:
        """The first option given that is for pictures alone, "" for none."""
        named = {"size": self.size, "resize": self.resize, "crop": self.crop, "channels": self.channels != "rgb"}
        return next((name for name, value in named.items() if value), "")

    def for_values(self) -> Preprocessing:
        """What arrays share with the pictures beside them."""
        return Preprocessing(self.scale, self.mean, self.std, self.layout)

    def values(self, x: np.ndarray, divisor: float, axis: int | None) -> np.ndarray:
        """(x / divisor - mean) / std in float32; axis: of the channels, None for no such axis. Raises InputError."""
        out: np.ndarray = np.asarray(x, np.float32) / np.float32(divisor)
        for values, what, apply in ((self.mean, "mean", np.subtract), (self.std, "std", np.divide)):
            if not len(values):
                continue
            if len(values) != 1 and (axis is None or len(values) != out.shape[axis]):
                count = f"{out.shape[axis]} channels" if axis is not None else "no axis of channels"
                raise InputError(f"{what} has {len(values)} values, the input {count}")
            shape = [len(values) if axis is not None and i == axis % out.ndim else 1 for i in range(out.ndim)]
            apply(out, np.asarray(values, np.float32).reshape(shape), out=out)
        return out

    def in_words(self, what: str) -> str:
        """`pixels ÷ 255, no mean or std (--mean, --std)`. what: pixels, or the values of arrays."""
        divisor = self.divisor if what == "pixels" else self.scale or 1.0
        said = [
            f"{what} ÷ {divisor:g}" if divisor != 1 else f"{what} from 0 to 255" if what == "pixels" else f"{what} as they are"
        ]
        for sign, name, values in (("−", "mean", self.mean), ("÷", "std", self.std)):
            said += [f"{sign} {name} ({', '.join(f'{v:g}' for v in values)})"] if len(values) else []
        missing = [name for name, values in (("mean", self.mean), ("std", self.std)) if not len(values)]
        if missing:
            said.append(f"no {' or '.join(missing)} ({', '.join(f'--{name}' for name in missing)})")
        return ", ".join(said)

    def channel_axis(self, shape: Sequence[Any]) -> int | None:
        """Axis of the channels in the shape (N, C, H, W) or (N, H, W, C) of a model's input, None without one."""
        return None if len(shape) != 4 else 3 if self.channels_last(shape) else 1

    def channels_last(self, shape: Sequence[Any]) -> bool:
        """Whether an input (N, ?, ?, ?) is (N, H, W, C): layout says, or a size of 1, 3 or 4 at the end alone."""
        guess = len(shape) == 4 and shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4)
        return self.layout == "nhwc" or (not self.layout and guess)


def preprocessing_of(options: dict[str, Any]) -> Preprocessing:
    """Takes the options of `options.PREPARE` out of `options`: the keys of the file `preprocess`, under those given.

    Raises InputError.
    """
    found = described(options.pop("preprocess", None))
    named = {key: options.pop("input_size" if key == "size" else key, None) for key in KEYS}  # --size is of heat-maps
    given = {key: value for key, value in named.items() if value not in (None, (), "")}
    if "size" in given:  # the line's way to a size takes the place of the file's
        found = {key: value for key, value in found.items() if key not in ("resize", "crop")}
    elif "resize" in given or "crop" in given:
        found.pop("size", None)
    return Preprocessing(**{**found, **given})


def described(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """What a description says, {} without one; keys are those of `KEYS`. Raises InputError."""
    if path is None:
        return {}
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file" if not file.is_dir() else f"{file} is a folder; give a file in it")
    if file.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise InputError(f"{file}: a description of the preprocessing is .yaml or .json")
    if file.stat().st_size > LARGEST:
        raise InputError(f"{file} is too large for a description of the preprocessing")
    try:
        text = file.read_text(encoding="utf-8")
        raw = json.loads(text) if file.suffix.lower() == ".json" else _yaml(text)
    except ValueError as error:
        raise InputError(f"{file} could not be read: {one_line(error)}") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{file} must hold a line per key, such as `scale: 255`; keys are {', '.join(KEYS)}")
    unknown = [str(key) for key in raw if key not in KEYS]
    if unknown:
        raise InputError(f"{file}: '{unknown[0]}' is not known; keys are {', '.join(KEYS)}")
    return {key: _read(file, key, value) for key, value in raw.items() if value is not None}


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError('.yaml needs PyYAML: pip install "onnxlrp[run]", or write the same as .json') from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _read(file: Path, key: str, value: Any) -> Any:
    """A key's value as the option of its name reads it. Raises InputError."""
    listed = [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    try:
        if key in ("size", "crop"):
            return pair(value if isinstance(value, str) else "x".join(f"{v:d}" for v in listed))
        if key == "resize" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if key == "scale" and not isinstance(value, (str, bool)):
            return float(value)
        if key in ("mean", "std") and not isinstance(value, (str, Mapping)):
            return tuple(float(v) for v in listed)
        if (key, value) in [("layout", "nchw"), ("layout", "nhwc"), ("channels", "rgb"), ("channels", "bgr")]:
            return value
    except (TypeError, ValueError):
        pass
    wanted = {"size": "224 or [224, 224] (height, width)", "resize": "a number of pixels", "scale": "a number"}
    wanted |= {"crop": wanted["size"], "layout": "nchw or nhwc", "channels": "rgb or bgr"}
    raise InputError(f"{file}: {key} is {reprlib.repr(value)}; it must be {wanted.get(key, 'a number or a list of numbers')}")


def pair(text: str) -> tuple[int, int]:
    """`224` or `224x320` to (height, width). Raises ValueError."""
    sizes = [int(part) for part in text.lower().split("x")]
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise ValueError(f"{text!r} is not HEIGHTxWIDTH")
    return sizes[0], sizes[-1]
