"""Initial relevance for graphs compiled with init="given": R = c ⊙ (y − reference), y the explained tensor.

    Explainer(model, init="given")(x, start=starts.contrast(3, 5))

c picks and weighs classes, per row and position. Derivatives (the presets of the gradient family) start from c itself.
Class -1 stands for the largest one. A function of y that returns an array of y's shape is a start too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .errors import InputError
from .feeds import known_classes
from .head import MASK

if TYPE_CHECKING:
    from .run import Explainer

__all__ = ["Start", "StartLike", "against_mean", "contrast", "parse", "reference", "region", "target", "top"]

Array = np.ndarray


@dataclass(frozen=True)
class Start:
    """R = c(y) ⊙ (y − reference). classes: those named, -1 for one that y decides; None: no class axis is needed."""

    text: str
    weigh: Callable[[Array], Array] = field(repr=False)  # y with the class axis last to c, of that shape
    classes: tuple[int, ...] | None = ()
    reference: float | Array = field(default=0.0, repr=False)

    def coefficients(self, y: Array, axis: int | None) -> Array:
        """c, of y's shape. Raises InputError for a class that is not there, or an output without a class axis."""
        if self.classes is None:
            return np.ones_like(y)
        if axis is None:
            raise InputError(f"{self.text}: the explained output has no class axis; name one when compiling (class_axis=)")
        for k in self.classes:
            if not -1 <= k < y.shape[axis]:
                raise InputError(f"{self.text}: {known_classes(y.shape[axis])}, not {k}")
        c: Array = np.moveaxis(self.weigh(np.moveaxis(y, axis, -1)), -1, axis)
        return c


StartLike = Start | str | Callable[[Array], Array]  # text as for `parse`


def target(k: int = -1) -> Start:
    """Σ R = y_k: one class, as `target=` does it; for lists of starts."""
    return Start(f"target({k})", lambda y: one_hot(y, largest(y, k)), (_whole("target", k),))


def contrast(a: int = -1, b: int = -1) -> Start:
    """Σ R = y_a − y_b: what speaks for class a against class b. b = -1: the largest class but a."""
    text = f"contrast({a}, {b})"
    classes = (_whole("contrast", a), _whole("contrast", b))
    if a == b != -1:
        raise InputError(f"{text}: a class has no contrast with itself")

    def weigh(y: Array) -> Array:
        if y.shape[-1] < 2:
            raise InputError(f"{text}: the output has a single class")
        first = one_hot(y, largest(y, a))
        second = one_hot(y, largest(np.where(first > 0, -np.inf, y), b))
        if (both := (first * second).any(-1)).any():
            raise InputError(f"{text}: class {b} is the largest one itself in {int(both.sum())} row(s) or position(s)")
        difference: Array = first - second
        return difference

    return Start(text, weigh, classes)


def against_mean(k: int = -1) -> Start:
    """Σ R = y_k − mean of the other classes."""

    def weigh(y: Array) -> Array:
        if y.shape[-1] < 2:
            raise InputError(f"against_mean({k}): the output has a single class")
        chosen, others = one_hot(y, largest(y, k)), y.shape[-1] - 1
        return np.where(chosen > 0, chosen, y.dtype.type(-1 / others))

    return Start(f"against_mean({k})", weigh, (_whole("against_mean", k),))


def top(k: int) -> Start:
    """Σ R = sum of the k largest classes."""
    if _whole("top", k) < 1:
        raise InputError(f"top({k}): a positive number of classes is needed")

    def weigh(y: Array) -> Array:
        if k > y.shape[-1]:
            raise InputError(f"top({k}): the output has {y.shape[-1]} classes")
        found, best = np.zeros_like(y), np.argsort(-y, axis=-1, kind="stable")[..., :k]
        np.put_along_axis(found, best, 1, axis=-1)
        return found

    return Start(f"top({k})", weigh)


def region(k: int = -1, box: Sequence[int] | None = None, point: Sequence[int] | None = None, mask: Any = None) -> Start:
    """Σ R = Σ y_k over positions: class k of a segmentation, or of a list of detections, where something is.

    One of: box (start of every position axis, then their stops; (top, left, bottom, right) of an image), point (one index
    per axis), mask (an array over the positions, or one per row; what is not 0 counts). k = -1: the class whose sum over
    these positions is the largest, per row.
    """
    if sum(v is not None for v in (box, point, mask)) != 1:
        raise InputError("region: give one of box, point and mask")
    text = f"region({k}, {'mask' if mask is not None else f'box={box}' if box is not None else f'point={point}'})"

    def weigh(y: Array) -> Array:
        where = _positions(text, y.shape[1:-1], box, point, mask)
        try:
            inside = np.broadcast_to(where, y.shape[:-1])
        except ValueError as error:
            raise InputError(f"{text}: shape {where.shape} does not fit the output's positions, {y.shape[1:-1]}") from error
        if not inside.any(tuple(range(1, inside.ndim))).all():
            raise InputError(f"{text}: it holds no position in some row")
        sums = np.where(inside[..., None], y, 0).sum(tuple(range(1, y.ndim - 1)))
        best = largest(sums, k).reshape(-1, *[1] * (y.ndim - 2))
        found: Array = one_hot(y, np.broadcast_to(best, y.shape[:-1])) * inside[..., None]
        return found

    return Start(text, weigh, (_whole("region", k),))


def _positions(text: str, sizes: tuple[int, ...], box: Any, point: Any, mask: Any) -> Array:
    """True at the positions of a box, a point or a mask. Raises InputError."""
    if mask is not None:
        return np.asarray(np.asarray(mask) != 0)
    try:
        ends = [int(v) for v in (box if box is not None else [*point, *(i + 1 for i in point)])]
    except (TypeError, ValueError) as error:
        raise InputError(f"{text}: positions are integers") from error
    n = len(sizes)
    if len(ends) != 2 * n or not n:
        raise InputError(f"{text}: the output has {n} position axes, of sizes {sizes}")
    pairs = list(zip(ends[:n], ends[n:], sizes, strict=True))
    if any(not 0 <= low < high <= size for low, high, size in pairs):
        raise InputError(f"{text}: it does not lie within the output's positions, {sizes}")
    where = np.zeros(sizes, bool)
    where[tuple(slice(low, high) for low, high, _ in pairs)] = True
    return where


def reference(value: float | Array, target: int | None = None) -> Start:
    """R = y − value, for regression: what moves the prediction away from a reference. target: one of several outputs.

    value: a number, or an array that broadcasts to the output's shape. Rules that share relevance out in proportion give
    the map of y times (y − value) ÷ y: the reference sets the map's size and sign, not where it lies.
    """
    try:
        level = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"reference: the value must be a number or an array, got {value!r}") from error
    if not np.isfinite(level).all():
        raise InputError("reference: the value must be finite")
    text = f"reference({value if level.ndim == 0 else 'array'}{'' if target is None else f', target={target}'})"
    if target is None:
        return Start(text, np.ones_like, None, level)
    return Start(text, lambda y: one_hot(y, largest(y, target)), (_whole("reference", target),), level)


MAKERS: Mapping[str, Callable[..., Start]] = {
    "target": target, "contrast": contrast, "against_mean": against_mean, "top": top, "region": region, "reference": reference,
}  # fmt: skip


def parse(text: str) -> Start:
    """`contrast:3,5`, `against_mean:3`, `top:2`, `region:1,(0,0,8,8)`, `reference:0.5` to a Start. Raises InputError."""
    name, _, rest = text.partition(":")
    try:
        arguments = ast.literal_eval(f"({rest},)") if rest.strip() else ()
        return MAKERS[name.strip()](*arguments)
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        known = ", ".join(f"{n}:…" for n in MAKERS)
        raise InputError(f"start '{text}' is none of {known}, with numbers separated by commas") from error


# ------------------------------------------------------------------------------------------------------------ arrays


def largest(y: Array, k: int) -> Array:
    """Class k, or the largest one for -1, of each row and position; y has the class axis last."""
    return np.argmax(y, -1) if k < 0 else np.full(y.shape[:-1], k)


def one_hot(y: Array, k: Array) -> Array:
    """1 at class k, of y's shape."""
    found: Array = (np.arange(y.shape[-1]) == k[..., None]).astype(y.dtype)
    return found


def _whole(name: str, k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise InputError(f"{name}: classes are integers, got {k!r}")
    return int(k)


def initial(start: StartLike, y: Array, axis: int | None, derivative: bool) -> Array:
    """The array for `relevance_out`, float32, of y's shape. Raises InputError."""
    start = parse(start) if isinstance(start, str) else start
    if not isinstance(start, Start):
        if not callable(start):
            raise InputError(f"start must come from onnxlrp.starts, or be a function of the output, got {start!r}")
        found = np.asarray(start(y))
        if found.shape != y.shape or found.dtype.kind not in "fiub":
            raise InputError(f"start: the function must return numbers of the shape {y.shape}, got {found.dtype} {found.shape}")
        return found.astype(np.float32)
    c = start.coefficients(y, axis)
    if derivative:
        return c
    try:
        level = np.broadcast_to(start.reference, y.shape)
    except ValueError as error:
        raise InputError(f"{start.text}: shape {np.shape(start.reference)} does not fit the output's, {y.shape}") from error
    made: Array = c * (y - level)
    return made


# ------------------------------------------------------------------------------------------------------------ feeds


def begin(explainer: Explainer, x: Any, start: StartLike | Sequence[StartLike]) -> dict[str, Any]:
    """The inputs of a run, `relevance_out` among them: y by the forward part alone, once for several starts of one row.

    A list has one start per row, or several for an input of one row, which is repeated unless the graph has a
    shared_forward. Raises InputError.
    """
    face = explainer.face
    seed, axis = face["initial"], face["class_axis"]
    if face["value"] != "given":
        raise InputError(f"start= needs a graph compiled with init='given'; this one has init='{explainer.plan['init']}'")
    feed = named(x, [name for name in explainer.required if name != seed])
    if seed in feed:
        raise InputError(f"give either start= or '{seed}', not both")
    y = explainer.scores(feed)
    derivative = not explainer.conserves
    if isinstance(start, str) or not isinstance(start, Sequence):
        return {**feed, seed: _unpadded(initial(start, y, axis, derivative), feed, axis)}
    rows = len(y) if y.ndim and axis != 0 else 0
    if not start or rows not in (1, len(start)):
        raise InputError(f"start has {len(start)} entries, the batch {rows or 'no'} rows")
    at = [0] * len(start) if rows == 1 else range(rows)
    made = [initial(s, y[i : i + 1], axis, derivative) for i, s in zip(at, start, strict=True)]
    if rows != len(start) and not face["shared"]:
        feed = repeated(explainer, feed, len(start))
    return {**feed, seed: _unpadded(np.concatenate(made), feed, axis)}


def named(x: Any, names: Sequence[str]) -> dict[str, Any]:
    """{input: array} from what a caller gave for these inputs."""
    if isinstance(x, Mapping):
        return dict(x)
    if len(names) != 1:
        raise InputError(f"the model has several inputs: give a dict with {', '.join(names)}")
    return {names[0]: x}


def repeated(explainer: Explainer, feed: Mapping[str, Any], times: int) -> dict[str, Any]:
    """The batch, `times` times one after the other. Raises InputError where rows cannot be added."""
    rows = explainer.face["rows"]
    fixed = [n for n in explainer.required if n != explainer.face["initial"] and n not in rows["inputs"]]
    if fixed and times > 1:
        raise InputError(f"input '{fixed[0]}' has no free first axis, so that the batch cannot be repeated {times} times")
    found = dict(feed)
    count = max((len(np.atleast_1d(feed[n])) for n in rows["inputs"] if n in feed), default=1)
    axes = {**dict.fromkeys([*rows["inputs"], explainer.face["target"]], 0), **rows["masks"]}
    for name, axis in axes.items():
        if name in feed and axis is not None and np.shape(feed[name])[axis] == count:  # else it holds for every row
            found[name] = np.concatenate([np.asarray(feed[name])] * times, axis)
    return found


def _unpadded(r: Array, feed: Mapping[str, Any], axis: int | None) -> Array:
    """Padding of a text is not explained, as where the graph itself starts."""
    mask = np.asarray(feed.get(MASK, 0))
    if r.ndim == 3 and axis == 2 and mask.shape == r.shape[:2] and not any(n.startswith("decoder_") for n in feed):
        return np.where(mask[..., None] != 0, r, np.float32(0))
    return r


def forward_part(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """The nodes and weights that `tensor` depends on, as a model with this one output. Raises InputError."""
    graph, needed, nodes = model.graph, {tensor}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= _read(node)
    if not any(tensor in n.output for n in nodes):
        raise InputError(f"the explained tensor '{tensor}' is not computed here; give relevance_out in the place of a start")
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend([t for t in graph.initializer if t.name in needed])
    part.graph.input.extend([t for t in graph.input if t.name in needed])
    return part


def _read(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, those of its subgraphs included."""
    bodies = [g for a in node.attribute for g in ([a.g] if a.HasField("g") else list(a.graphs))]
    return set(node.input).union(*(_read(n) for g in bodies for n in g.node)) - {""}
