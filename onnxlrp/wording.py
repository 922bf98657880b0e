"""What the command line says of an explanation, in words, tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from . import presets
from .errors import InputError
from .explanation import Explanation
from .labels import class_name, labels_of, read_labels
from .plan import show_shape
from .run import Explainer

__all__ = [
    "captioned",
    "composite_line",
    "explained",
    "labels_for",
    "names_before",
    "presets_table",
    "scores",
    "strongest",
    "summary",
    "written",
]

LONG = 64  # entries of a list that --json prints in full


def composite_line(text: str) -> str:
    """A composite's text, and what its preset says of itself, in one line."""
    lines = [line.strip() for line in text.removeprefix("Composite").strip().split("\n")]
    first = lines[0]  # the name, or the default rule of a composite without one
    preset = presets.PRESETS.get(first.split("(")[0])
    said = ((preset.__doc__ or "") if preset is not None else "").strip().split("\n")[0].split("   ")[0]
    return f"{first}: {said}" if said else first


def labels_for(
    explainer: Explainer, explanation: Explanation, asked: str | None, model_metadata: Mapping[str, str]
) -> list[str]:
    """The names of the explained output's classes: those asked for, else those in the model's file, else [].

    asked: as `read_labels` takes it. Raises InputError, also for names of an explanation that has no classes.
    """
    axis = explainer.plan["class_axis"]
    known = None if axis is None or explanation.target is None else int(explanation.initial.shape[axis])
    return names_before(explainer, asked, model_metadata, known)


def names_before(
    explainer: Explainer, asked: str | None, model_metadata: Mapping[str, str], count: int | None = None
) -> list[str]:
    """As `labels_for`, before the model has run. count: of the classes, None: as far as the compiled file says.

    Names in the model's file need their number to be known. Raises InputError.
    """
    face = explainer.face
    if face["class_axis"] is None or not face["target"]:
        if asked is not None:
            name = explainer.plan["output"]
            raise InputError(f"labels: output {name} is not explained by class, so there is nothing to name")
        return []
    count = face["classes"] if count is None else count
    if asked is not None:
        return read_labels(asked, count)
    return [] if count is None else labels_of(model_metadata, count)


def presets_table() -> Table:
    """Every preset: what it does, for what networks it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("preset", "for", "rules"):
        table.add_column(title, no_wrap=title == "preset")
    for name in presets.PRESETS:
        rules, networks = presets.described(name)
        table.add_row(name, networks, Text(" ".join(rules.split())))
    return table


def summary(explanation: Explanation, labels: Sequence[str] = ()) -> dict[str, Any]:
    """An explanation without its arrays."""
    target = explanation.target
    names = None if target is None or not labels else np.array(labels, object)[target]
    return {
        "target": None if target is None else listed(target),
        **({} if names is None else {"label": listed(np.asarray(names))}),
        "relevance": {k: {"shape": list(v.shape), "sum": float(v.sum())} for k, v in explanation.relevances.items()},
        "ratio": listed(explanation.ratio),
    }


def listed(values: np.ndarray) -> Any:
    """The values; of many their shape and the first ones."""
    if values.size <= LONG:
        return values.tolist()
    return {"shape": list(values.shape), "first": values.ravel()[:LONG].tolist()}


def strongest(explanation: Explanation, most: int = 5) -> list[int]:
    """The classes of the first row by their output, largest first, the explained one among them; [] without such scores."""
    if explanation.target is None or explanation.target.ndim != 1:
        return []
    y = explanation.output
    if not isinstance(y, np.ndarray) or y.ndim != 2 or y.shape != explanation.initial.shape or y.dtype.kind != "f":
        return []
    target = int(explanation.target[0])
    order = [int(i) for i in np.argsort(-y[0], kind="stable")[:most]]
    return order if target in order else [*order[: most - 1], target]


def scores(explanation: Explanation, labels: Sequence[str] = ()) -> Table | None:
    """The largest outputs of the first row, the explained class marked; None when the output is no list of scores."""
    order = strongest(explanation)
    if not order or explanation.target is None:
        return None
    y = explanation.output
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("class", explanation.output_name + (f" (row 0 of {len(y)})" if len(y) > 1 else ""), ""):
        table.add_column(title, justify="left" if title == "" or (title == "class" and labels) else "right", no_wrap=True)
    target = int(explanation.target[0])
    for i in order:
        table.add_row(Text(class_name(labels, i)), f"{y[0, i]:.4f}", "← explained" if i == target else "")
    return table


def captioned(explanation: Explanation, picture: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The options of `heatmap`, for a grid with captions that name the class of each row."""
    target, grid = explanation.target, picture.get("grid")
    if grid is None or not labels or target is None or target.ndim != 1:
        return picture
    rows = range(len(target)) if grid == "all" else grid
    captions = [f"row {i}: {class_name(labels, int(target[i]))}" if i < len(target) else f"row {i}" for i in rows]
    return {**picture, "captions": captions}


def written(explanation: Explanation, target: str | None, picture: Mapping[str, Any]) -> str:
    """Which file was written, and what its picture does not show."""
    if target is None:
        return "nothing written; -o heat.png or -o out.npz keeps it"
    rows = len(np.atleast_1d(next(iter(explanation.relevances.values()))))
    only = target.endswith(".png") and rows > 1 and "grid" not in picture
    return f"written: {target}" + (f" (the picture shows row 0 of {rows}; .npz keeps all)" if only else "")


def explained(explainer: Explainer, explanation: Explanation, row: int = 0, labels: Sequence[str] = ()) -> str:
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
        index = int(classes[where] if where else classes.ravel()[0])
        name = f"“{labels[index]}” (class {index})" if labels else f"class {index}"
        return f"explains {name}{place} of {what}: {first.sum():.4f}"
    return f"explains {classes.size} positions of {what}, class axis {axis}; --position (of a model not compiled yet) picks one"
