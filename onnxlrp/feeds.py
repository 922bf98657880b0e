"""What a caller gives: arrays checked against the declared inputs, targets, and values outside the ranges relied on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InputError
from .explanation import outside_text
from .ranges import range_text
from .validity import one_line

__all__ = ["TYPES", "Feeds", "check_array", "known_classes", "lacks_batch"]

Array = np.ndarray

TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip


class Feeds:
    """The inputs of a session, as far as checking what is fed needs them: asked of the runtime once, not at every call."""

    def __init__(self, inputs: Mapping[str, Any], required: Sequence[str], face: Mapping[str, Any]) -> None:
        self.inputs, self.required, self.face = inputs, required, face
        self.axes = {name: list(i.shape) if "tensor" in i.type else [] for name, i in inputs.items()}
        self.types = {name: np.dtype(TYPES.get(i.type, "O")) for name, i in inputs.items()}
        self.ranges = [
            (name, -math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in face["ranges"].items()
        ]
        self.boxes = [] if face["checks"] else [b for b in face["boxes"] if b["tensor"] in required]

    def feed(self, x: Any, target: int | Sequence[int] | None) -> dict[str, Array]:
        """{input: array} from what a caller gave. Raises InputError."""
        if isinstance(x, Mapping):
            given = x
        elif len(self.required) == 1:
            given = {self.required[0]: x}
        else:
            raise InputError(f"the model has several inputs: give a dict with {', '.join(self.required)}")
        for name in given:
            if name not in self.inputs:
                raise InputError(f"the model has no input called '{name}'; inputs are {', '.join(self.inputs)}")
        for name in self.required:
            if name not in given:
                raise InputError(f"input '{name}' is missing; the model needs {', '.join(self.required)}")
        feed = {name: self._checked(name, value) for name, value in given.items()}
        if target is not None:
            feed[self.face["target"]] = self._target(target, feed)
        return feed

    def _checked(self, name: str, value: Any) -> Array:
        """What is right already, which a glance shows, or what `check_array` makes of it."""
        kind, axes = self.types[name], self.axes[name]
        if type(value) is np.ndarray and value.dtype == kind and kind.kind in "fiub" and value.size and value.ndim == len(axes):
            fits = all(d == n or type(d) is not int for d, n in zip(axes, value.shape, strict=True))
            # NaN and infinities reach the extremes
            if fits and (kind.kind != "f" or (math.isfinite(value.min()) and math.isfinite(value.max()))):
                return value if value.flags.c_contiguous else np.ascontiguousarray(value)
        return check_array(name, value, self.inputs[name], self.face["gaps"])

    def _target(self, target: int | Sequence[int], feed: Mapping[str, Array]) -> Array:
        if not self.face["target"]:
            raise InputError("this explanation takes no target: it starts from every value, or from a given relevance")
        classes = self.face["classes"]
        if type(target) is int and classes is not None and -1 <= target < classes:
            return np.array([target], np.int64)
        value = np.atleast_1d(np.asarray(target))
        if value.dtype.kind not in "iu" or value.ndim != 1:
            raise InputError(f"target must be an integer or a sequence of integers, got {target!r}")
        wrong = value[(value < -1) | (value >= (math.inf if classes is None else classes))]
        if wrong.size:
            raise InputError(f"target {wrong[0]}: {known_classes(classes)}")
        rows = next((len(v) for n, v in feed.items() if n in self.required and v.ndim), 1)
        if len(value) not in (1, rows) and not (rows == 1 and self.face.get("shared")):
            raise InputError(f"target has {len(value)} entries, the batch {rows} rows")
        return value.astype(np.int64)

    def left_ranges(self, feed: Mapping[str, Array]) -> list[str]:
        """One sentence per input with values outside its range (input_ranges)."""
        found = []
        for name, low, high in self.ranges:
            count = _beyond(feed[name], low, high)
            found += [range_text(name, count, low, high)] if count else []
        return found

    def left_boxes(self, feed: Mapping[str, Array]) -> list[str]:
        """One sentence per rule whose bounds an input leaves; none where the diagnostics count them."""
        found = []
        for box in self.boxes:
            count = _beyond(feed[box["tensor"]], box["low"], box["high"])
            found += [outside_text(box["index"], box["name"], count, box["rule"])] if count else []
        return found


def _beyond(x: Array, low: float, high: float) -> int:
    """How many values lie outside."""
    if not x.size or (x.min() >= low and x.max() <= high):
        return 0
    return int(np.count_nonzero((x < low) | (x > high)))


def known_classes(count: int | None) -> str:
    """What a target may be, in words. count: of the classes, None where it is not known."""
    if count is None:
        return "classes count from 0 (-1: the largest output)"
    return "the model has one class, 0" if count == 1 else f"the model has the classes 0 to {count - 1}"


def lacks_batch(sizes: Sequence[int], shape: Sequence[Any]) -> bool:
    """Whether an array of these sizes is one row of an input of this shape, without the first axis."""
    row = list(shape[1:])
    return (
        len(shape) == len(sizes) + 1
        and (shape[0] == 1 or not isinstance(shape[0], int))
        and all(d == n or not isinstance(d, int) for d, n in zip(row, sizes, strict=True))
    )


def check_array(name: str, value: Any, declared: Any, gaps: bool = False) -> Array:
    """An array of the declared type and shape, without NaN unless the model fills such gaps. Raises InputError."""
    wanted = np.dtype(TYPES.get(declared.type, "O"))
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input '{name}': not an array: {one_line(error)}") from error
    if wanted.kind == "O":
        return array
    if array.dtype.kind not in "fiub":
        what = {"c": "complex numbers", "O": "objects", "U": "text", "S": "text"}.get(array.dtype.kind, str(array.dtype))
        raise InputError(f"input '{name}' must be {wanted}, got {what}")
    if array.dtype.kind == "f" and wanted.kind in "iu":
        raise InputError(f"input '{name}' must be {wanted}, got {array.dtype}")
    finite = np.isfinite(array) | (np.isnan(array) if gaps else False) if array.dtype.kind == "f" else np.True_
    if not np.all(finite):
        bad = int(np.sum(~finite))
        raise InputError(f"input '{name}' has {bad} value(s) that are NaN or infinite")
    shape = declared.shape
    fits = len(shape) == array.ndim and all(not isinstance(d, int) or d == n for d, n in zip(shape, array.shape, strict=True))
    if not fits:
        sizes = "×".join(str(d) if d is not None else "?" for d in shape)
        got = "×".join(map(str, array.shape)) or "a scalar"
        hint = "; add the batch axis: x[None]" if lacks_batch(array.shape, shape) else ""
        raise InputError(f"input '{name}' must have the shape {sizes}, got {got}{hint}")
    if array.ndim and not len(array) and shape[0] != 0:
        raise InputError(f"input '{name}' has no rows: there is nothing to explain")
    with np.errstate(over="ignore"):
        taken = np.ascontiguousarray(array, wanted) if array.ndim else array.astype(wanted)
    if taken.dtype != array.dtype and wanted.kind == "f" and not np.isfinite(taken).all():
        raise InputError(f"input '{name}' has values that are too large for {wanted}")
    return taken
