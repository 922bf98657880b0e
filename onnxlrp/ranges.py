"""Ranges of inputs that a caller promises: proved intervals for the compiler, warnings where an input leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from .errors import CompositeError, InputError
from .facts import is_float
from .intervals import Interval

__all__ = ["InputRanges", "range_text", "ranges_of"]

Range = Sequence[float]
InputRanges = Mapping[str, Range] | Range | None


def ranges_of(graph: gs.Graph, ranges: InputRanges) -> dict[str, Interval]:
    """{input: Interval}, rounded to the input's type. A plain pair belongs to the only float input.

    Raises InputError for a name that is no float input, CompositeError for what is no pair low <= high.
    """
    if ranges is None:
        return {}
    inputs = {t.name: t for t in graph.inputs if is_float(t)}
    known = ", ".join(inputs) or "none"
    if not isinstance(ranges, Mapping):
        if len(inputs) != 1:
            raise InputError(f"input_ranges: the model has {len(inputs)} float inputs: give {{name: (low, high)}} with {known}")
        ranges = {next(iter(inputs)): ranges}
    for name in ranges:
        if name not in inputs:
            raise InputError(f"input_ranges names '{name}', which is not a float input; float inputs are {known}")
    return {name: _interval(name, inputs[name], pair) for name, pair in ranges.items()}


def _interval(name: str, t: gs.Tensor, pair: Range) -> Interval:
    wrong = CompositeError(f"input_ranges: the range of '{name}' must be (low, high) with low <= high, got {pair!r}")
    try:
        low, high = (float(v) for v in pair)
    except (TypeError, ValueError) as error:
        raise wrong from error
    if not low <= high or low == np.inf or high == -np.inf:
        raise wrong
    kind = np.dtype(t.dtype).type if isinstance(t.dtype, (type, np.dtype)) else np.float32
    with np.errstate(over="ignore"):  # a bound beyond the type is none
        return Interval(float(kind(low)), float(kind(high)))


def range_text(name: str, count: int, low: float, high: float) -> str:
    return (
        f"input '{name}': {count} values lie outside the range [{low:g}, {high:g}] that rules rely on; "
        "compile with its real range (input_ranges)"
    )
