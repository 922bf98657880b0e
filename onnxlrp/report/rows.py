"""One row of an explanation, as an explanation of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..explanation import Explanation
from ..inputs import missing_row
from ..run import Explainer

__all__ = ["one_row", "rows_of"]

Array = np.ndarray


def rows_of(explainer: Explainer, explanation: Explanation) -> int:
    """N of a batch; 1 where there is none: the output's first axis is that of its classes, or no input has as many rows."""
    count = len(explanation.initial) if explanation.initial.ndim else 1
    shared = any(r.ndim and len(r) == count for r in explanation.relevances.values())
    return count if shared and explainer.plan["class_axis"] != 0 else 1


def one_row(explainer: Explainer, explanation: Explanation, row: int) -> Explanation:
    """The arrays of one row, each still with its first axis, of size 1; its books remain those of all rows.

    An array that has no rows, such as an input that all of them share, is kept whole. Raises InputError.
    """
    rows = rows_of(explainer, explanation)
    if not 0 <= row < rows:
        raise missing_row(row, rows)

    def mine(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or not values.ndim:
            return values
        if rows > 1 and len(values) == rows:
            return values[row : row + 1]
        return values if len(values) == 1 else values[None]

    def each(found: Mapping[str, Array]) -> dict[str, Array]:
        return {name: mine(values) for name, values in found.items()}

    parts: dict[str, Any] = {key: each(getattr(explanation, key)) for key in ("relevances", "layers", "inputs", "tokens")}
    if rows > 1:  # what starts relevance has the rows that were counted
        names = ("initial", "target", "ratio", "_inner")
        parts |= {key: mine(getattr(explanation, key)) for key in names} | {"outputs": each(explanation.outputs)}
    return replace(explanation, **parts)
