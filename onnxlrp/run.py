"""The runtime: `Explainer` runs a compiled graph, `Explanation` holds what came out. numpy in, numpy out."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from .compile import compile as compile_model
from .composites import CompositeLike
from .errors import CompositeError, InputError, InvalidModel
from .explanation import Books, Explanation, LayerBooks, Layers
from .external import check_external
from .feeds import TYPES, Feeds
from .findings import diagnose, judgeable, off
from .graph import ModelSource, read, read_whole
from .outputs import CHECKS
from .rows import joined, part_size, parts
from .session import keep, metadata, open_session, providers_of, run, staged
from .starts import StartLike, begin, forward_part, named
from .validity import one_line
from .version import __version__

__all__ = ["TYPES", "Explainer"]

Array = np.ndarray


class Explainer:
    """Compiles a model (unless it is compiled already) and explains inputs.

        explainer = Explainer("model.onnx", composite="epsilon_plus_flat")
        explanation = explainer(x, target=3)

    providers: None (CPU), "cpu", "cuda", or onnxruntime provider names. threads: of onnxruntime, 0 for all.
    batch_size: rows per run at most; None: large batches are split where their rows are known to be independent and all
    of them would take more than a quarter of the memory that is free. Either way the caller gets one Explanation.
    Other keywords are those of `compile`. Raises what `compile` raises, and InputError.
    """

    def __init__(
        self,
        model: ModelSource,
        composite: CompositeLike | None = None,
        *,
        providers: str | Sequence[str] | None = None,
        threads: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size must be a positive integer or None, got {batch_size!r}")
        names = providers_of(providers)
        self._batch_size, self._threads, self._providers = batch_size, threads, names
        self._lock = threading.Lock()
        self._forward: tuple[ort.InferenceSession, Feeds] | None = None  # for `scores`
        props, proto = metadata(model), None
        self._again: Callable[..., onnx.ModelProto] | None = None  # compiles once more; options may be added
        self._source: Callable[..., onnx.ModelProto] = partial(read_whole, model)
        if "onnxlrp.version" not in props:
            proto = self._compiled(model, "epsilon_plus" if composite is None else composite, options)
            props = metadata(proto)
        elif composite is not None or options:
            given = ["composite"] * (composite is not None) + list(options)
            raise CompositeError(f"the model is compiled already: {', '.join(given)} must be given when compiling it")
        self.plan, self._face = _descriptions(props)
        self._inner = self._face["inner"] or None
        extra = [] if self._face["value"] else [self._face["initial"]]
        extra += [self._inner] if self._inner else []
        if proto is None and isinstance(model, (str, os.PathLike)) and not extra:
            check_external(model)
            self.session = open_session(os.fspath(model), names, threads)
        else:
            stage = staged(read_whole(model) if proto is None else proto, extra)
            del proto
            with stage as place:
                self.session = open_session(place, names, threads)
        self._checked: Explainer | None = self if self._face["checks"] else None
        self._outputs = [o.name for o in self.session.get_outputs()]
        self.conserves = bool(self._face["conserves"])
        self.required = [i.name for i in self.session.get_inputs()]
        optional = self.session.get_overridable_initializers()  # target and masks
        self.inputs = {i.name: i for i in (*self.session.get_inputs(), *optional)}
        self._feeds = Feeds(self.inputs, self.required, self._face)
        self.ranges = {name: (low, high) for name, low, high in self._feeds.ranges}  # of inputs, that rules rely on
        self.left_ranges, self.left_boxes = self._feeds.left_ranges, self._feeds.left_boxes
        self._masks = frozenset(self.inputs) - {*self.required, self._face["target"]}
        faces = (*self.inputs.values(), *self.session.get_outputs())
        numbers = all(f.type in TYPES for f in faces)  # text, sequences and maps cannot be bound
        self._device = "cuda" if numbers and self.session.get_providers()[0].startswith("CUDA") else ""

    def _compiled(self, model: ModelSource, composite: CompositeLike, options: Mapping[str, Any]) -> onnx.ModelProto:
        """Compile, and keep what compiling once more takes: for `conservation`, and for `model`."""
        source, folder = read(model)
        kept = keep(model, bool(folder))
        self._again = self._source = lambda **more: compile_model(kept(), composite, **{**options, **more})
        return compile_model(model if folder else source, composite, **options)

    @property
    def model(self) -> onnx.ModelProto:
        """The compiled model. It is not kept: this reads, or compiles, it again."""
        return self._source()

    @property
    def face(self) -> Mapping[str, Any]:
        """What the compiled file says of its inputs and outputs (`onnxlrp.interface` of its metadata)."""
        return self._face

    def __call__(
        self,
        x: Any,
        target: int | Sequence[int] | None = None,
        start: StartLike | Sequence[StartLike] | None = None,
    ) -> Explanation:
        """Explain a batch: an array for the model's one input, or {input: array} (masks and relevance_out included).

        start: what makes relevance_out of the output (`onnxlrp.starts`), with init="given"; a list has one per row, or
        several for one row. It takes a forward pass first, in a session of its own that the first one opens.
        """
        explanation = self.quietly(x, target, start)
        for text in self.complaints(explanation):
            warnings.warn(text, stacklevel=2)
        return explanation

    def feed(
        self,
        x: Any,
        target: int | Sequence[int] | None = None,
        start: StartLike | Sequence[StartLike] | None = None,
    ) -> dict[str, Array]:
        """What a call with these arguments feeds to the graph, checked. Raises InputError."""
        return self._feeds.feed(x if start is None else begin(self, x, start), target)

    def scores(self, x: Any) -> Array:
        """The explained tensor on x, such as the logits behind a softmax: the forward part alone.

        The first call opens a session for it, with the weights once more in memory: a run of the compiled graph would
        compute the backward part too, whichever outputs are asked for. Raises InputError.
        """
        tensor = self.plan["explained_tensor"]
        with self._lock:
            if self._forward is None:
                with staged(forward_part(self.model, tensor), [tensor]) as place:
                    session = open_session(place, self._providers, self._threads)
                inputs = {i.name: i for i in session.get_inputs()}
                self._forward = session, Feeds(inputs, list(inputs), {**self._face, "ranges": {}, "boxes": []})
        session, feeds = self._forward
        found = named(x, [name for name in self.required if name != self._face["initial"]])
        feed = feeds.feed({name: v for name, v in found.items() if name in feeds.inputs or name not in self.inputs}, None)
        scores: Array = self._values(session, [tensor], feed, feeds.axes)[0]
        return scores.astype(np.float32, copy=False)

    def quietly(
        self,
        x: Any,
        target: int | Sequence[int] | None = None,
        start: StartLike | Sequence[StartLike] | None = None,
    ) -> Explanation:
        """As a call, without its warnings."""
        face, feed = self._face, self.feed(x, target, start)
        found = dict(zip(self._outputs, self._values(self.session, self._outputs, feed, self._feeds.axes), strict=True))
        given = None if face["value"] else found.pop(face["initial"])
        inner = found.pop(self._inner) if self._inner else None
        checks = found.pop(face["checks"]) if face["checks"] else None
        relevances = {t: found.pop(o) for t, o in face["relevance"].items()}
        layers = {t: found.pop(o) for t, o in face["layers"].items()}
        tokens = {t: found.pop(o) for t, o in face["tokens"].items()}
        scores = found.get(self.plan["output"], inner)
        targets, initial = self._start(feed, scores, feed[face["initial"]] if face["value"] == "given" else given)
        books = partial(self._books, checks) if checks is not None else partial(self._check_again, feed)
        return Explanation(
            relevances, found, targets, Layers(layers, self.plan["layers"]), initial, ratio_of(relevances, initial),
            self.plan["output"], feed, books, inner, tokens,
        )  # fmt: skip

    # running ---------------------------------------------------------------------------------------------------------

    def _values(
        self, session: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, Array], axes: Mapping[str, Sequence[Any]]
    ) -> Sequence[Any]:
        """The outputs of a run, or of several that each take a part of the rows. axes: as for `part_size`."""
        rows = self._face["rows"]
        rows = {**rows, "inputs": [name for name in rows["inputs"] if name in feed]}
        asked = self._batch_size
        size = 0 if asked is None and self._device else part_size(rows, feed, axes, asked)  # a device's own memory
        try:
            if not size:
                return run(session, names, feed, self._device)
            found = [run(session, names, f, self._device) for f in parts(rows, feed, size, self._face["target"])]
        except Exception as error:
            raise InputError(f"onnxruntime could not run the model on this input: {one_line(error)}") from error
        return joined(found, names, size, self._face["checks"])

    # results ---------------------------------------------------------------------------------------------------------

    def _start(self, feed: Mapping[str, Array], scores: Any, given: Array | None) -> tuple[Array | None, Array]:
        """The class explained, per row and position, and the initial relevance: computed here unless the graph gave it."""
        axis, how = self._face["class_axis"], self._face["value"]
        if axis is None or not self._face["target"]:
            return None, given if given is not None else scores if how == "logit" else np.ones_like(scores)
        if given is not None and not (
            isinstance(scores, np.ndarray) and scores.dtype.kind == "f" and scores.shape == given.shape
        ):
            scores = np.abs(given)
        targets: Array = scores.argmax(axis)
        if (asked := feed.get(self._face["target"])) is not None:
            asked = asked.reshape(-1, *[1] * (targets.ndim - 1))
            targets = np.where(asked < 0, targets, asked)
        if given is not None:
            return targets, given
        at = np.expand_dims(targets, axis)
        hit = np.arange(scores.shape[axis]).reshape(-1, *[1] * (scores.ndim - axis - 1)) == at
        return targets, np.where(hit, scores if how == "logit" else np.float32(1), np.float32(0))

    def complaints(self, explanation: Explanation) -> list[str]:
        """What a caller should hear of: values that are not finite, inputs outside a range relied on, lost relevance.

        With checks=True the layers are named; without, the sums alone are known.
        """
        feed = explanation.inputs
        found = self._feeds.left_ranges(feed) + self._feeds.left_boxes(feed)
        if self._face["checks"]:
            named = diagnose(explanation.conservation, explanation.initial, self.worst_ratio(explanation), self.conserves)
            return found + [str(f) for f in named if f.severity != "note"]
        ratio = explanation.ratio
        if len(explanation.relevances) == 1 and not off(ratio).any():
            return found  # a sum over each row that is finite has no term that is not
        if not all(np.isfinite(a).all() for a in explanation.relevances.values()):
            found.append("the relevance has values that are not finite; `onnxlrp check` names the layer and the remedy")
        elif (worst := self.worst_ratio(explanation)) is not None and off(np.array(worst)):
            found.append(
                f"Σ relevance is {worst:.3g} times the initial relevance (outside 0.5 to 2): biases or ε absorb it, or a rule "
                "drops it; `onnxlrp check` and checks=True name the layers and the remedy"
            )
        return found

    def worst_ratio(self, explanation: Explanation) -> float | None:
        """Σ relevance ÷ Σ initial relevance of the row where it is farthest from 1; None where it tells nothing."""
        conserving = self.conserves and self._masks.isdisjoint(explanation.inputs)
        if not (conserving and judgeable(explanation.initial, self._face["value"])):
            return None  # a derivative, a condition that drops relevance by intent, a contrast whose sums cancel
        told = explanation.ratio[~np.isnan(explanation.ratio)]  # no row of nothing, whose sums are 0 ÷ 0
        return float(told[np.abs(np.log(np.maximum(told, 1e-30))).argmax()]) if told.size else None

    def _books(self, checks: Array) -> Books:
        rows: dict[int, list[Array]] = {}
        for layer, row in zip(self._face["check_layers"], checks, strict=True):
            if layer is not None:
                rows.setdefault(layer, []).append(row)
        at = {name: i for i, name in enumerate(CHECKS)}
        books = []
        for layer in self.plan["layers"]:
            steps = rows.get(layer["index"])
            if steps:
                total = np.sum(steps, axis=0)
                books.append(
                    LayerBooks(
                        layer["index"], layer["name"], layer["rule"], float(steps[-1][at["arrived"]]),
                        float(steps[0][at["sent"]]), float(total[at["bias"]]), float(total[at["epsilon"]]),
                        int(total[at["nonfinite"]]), int(total[at["outside"]]),
                        float(steps[-1][at["arrived_l1"]]), float(steps[0][at["sent_l1"]]),
                    )
                )  # fmt: skip
        return Books(books)

    def _check_again(self, feed: Mapping[str, Array]) -> Books:
        if self._again is None and self._checked is None:
            raise InputError("this file was compiled without diagnostics; compile it with checks=True (--checks)")
        with self._lock:
            if self._checked is None:
                assert self._again is not None
                again = partial(self._again, checks=True)
                how = (self._providers, self._threads, self._batch_size)
                self._checked = Explainer(again(), providers=how[0], threads=how[1], batch_size=how[2])
                self._checked._source = again  # not the ModelProto with its weights
        return self._checked.quietly(dict(feed)).conservation


def _descriptions(props: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan and the interface of a compiled model. Raises InvalidModel."""
    try:
        return json.loads(props["onnxlrp.plan"]), json.loads(props["onnxlrp.interface"])
    except (KeyError, ValueError) as error:
        raise InvalidModel(
            f"the model was compiled by another version of onnxlrp ({props['onnxlrp.version']}, this is {__version__}), "
            "or lost its metadata since: compile the original model again"
        ) from error


def ratio_of(relevances: Mapping[str, Array], initial: Array) -> Array:
    """Σ relevance ÷ Σ initial relevance, per row where rows can be told apart."""
    rows = initial.shape[0] if initial.ndim else 1
    with np.errstate(all="ignore"):
        if all(a.ndim and len(a) == rows for a in relevances.values()):
            total: Any = 0
            for a in relevances.values():
                total = total + _per_row(a)
            return np.asarray(total / _per_row(initial))
        total = np.sum([a.sum(dtype=np.float64) for a in relevances.values()])
        return np.atleast_1d(np.asarray(total / initial.sum(dtype=np.float64)))


def _per_row(a: Array) -> Array:
    out: Array = np.add.reduce(a.reshape(len(a) if a.ndim else 1, -1), axis=1, dtype=np.float64)
    return out
