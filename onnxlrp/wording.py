"""What the command line says of an explanation, in words, tables and JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from . import presets
from .explanation import Explanation
from .plan import show_shape
from .run import Explainer

__all__ = ["composite_line", "explained", "scores", "summary"]

LONG = 64  # entries of a list that --json prints in full


def composite_line(text: str) -> str:
    """A composite's text, and what its preset says of itself, in one line."""
    lines = [line.strip() for line in text.removeprefix("Composite").strip().split("\n")]
    first = lines[0]  # the name, or the default rule of a composite without one
    preset = presets.PRESETS.get(first.split("(")[0])
    said = ((preset.__doc__ or "") if preset is not None else "").strip().split("\n")[0].split("   ")[0]
    return f"{first}: {said}" if said else first


def summary(explanation: Explanation) -> dict[str, Any]:
    """An explanation without its arrays."""
    return {
        "target": None if explanation.target is None else listed(explanation.target),
        "relevance": {k: {"shape": list(v.shape), "sum": float(v.sum())} for k, v in explanation.relevances.items()},
        "ratio": listed(explanation.ratio),
    }


def listed(values: np.ndarray) -> Any:
    """The values; of many their shape and the first ones."""
    if values.size <= LONG:
        return values.tolist()
    return {"shape": list(values.shape), "first": values.ravel()[:LONG].tolist()}


def scores(explanation: Explanation) -> Table | None:
    """The largest outputs of the first row, the explained class marked; None when the output is no list of scores."""
    y = explanation.output
    if not isinstance(y, np.ndarray) or y.ndim != 2 or y.shape != explanation.initial.shape or y.dtype.kind != "f":
        return None
    if explanation.target is None or explanation.target.ndim != 1:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("class", explanation.output_name + (f" (row 0 of {len(y)})" if len(y) > 1 else ""), ""):
        table.add_column(title, justify="right" if title != "" else "left", no_wrap=True)
    target = int(explanation.target[0])
    order = [int(i) for i in np.argsort(-y[0])[:5]]
    for i in order if target in order else [*order[:4], target]:
        table.add_row(str(i), f"{y[0, i]:.4f}", "← explained" if i == target else "")
    return table


def explained(explainer: Explainer, explanation: Explanation, row: int = 0) -> str:
    """What the relevance of one row starts from, in words."""
    name, tensor = explanation.output_name, explainer.plan["explained_tensor"]
    what = f"output {name}" if tensor == name else f"{tensor}, behind output {name}"
    initial, axis, target = explanation.initial, explainer.plan["class_axis"], explanation.target
    if target is None or axis is None:
        given = explainer.plan["init"] == "given"
        return f"explains {'the relevance given for' if given else 'every value of'} {what} ({show_shape(initial.shape)})"
    first, classes, at = (initial, target, axis) if axis == 0 else (initial[row], target[row], axis - 1)
    used = np.argwhere((first != 0).any(axis=at))
    if classes.size == 1 or len(used) == 1:
        where = tuple(int(i) for i in used[0]) if classes.size > 1 else ()
        place = f" at position {', '.join(map(str, where))}" if where else ""
        return f"explains class {int(classes[where] if where else classes.ravel()[0])}{place} of {what}: {first.sum():.4f}"
    return f"explains {classes.size} positions of {what}, class axis {axis}; --position (of a model not compiled yet) picks one"
