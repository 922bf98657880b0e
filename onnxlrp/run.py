"""The runtime: `Explainer` runs a compiled graph, `Explanation` holds what came out. numpy in, numpy out."""

from __future__ import annotations

import json
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort

from .compile import compile as compile_model
from .composites import CompositeLike
from .errors import CompositeError, InputError, InvalidModel
from .explanation import Books, Explanation, LayerBooks, Layers, outside_text
from .graph import ModelSource, over_limit, read, read_whole, save
from .outputs import CHECKS
from .validity import one_line
from .version import __version__

if TYPE_CHECKING:
    pass

__all__ = ["TYPES", "Explainer"]

Array = np.ndarray
STILL = frozenset("Identity Cast Transpose Reshape Flatten Squeeze Unsqueeze".split())  # the values stay as they are
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Explainer:
    """Compiles a model (unless it is compiled already) and explains inputs.

        explainer = Explainer("model.onnx", composite="epsilon_plus_flat")
        explanation = explainer(x, target=3)

    providers: None (CPU), "cpu", "cuda", or onnxruntime provider names. threads: of onnxruntime, 0 for all.
    Other keywords are those of `compile`. Raises what `compile` raises, and InputError.
    """

    def __init__(
        self,
        model: ModelSource,
        composite: CompositeLike | None = None,
        *,
        providers: str | Sequence[str] | None = None,
        threads: int = 0,
        **options: Any,
    ) -> None:
        source, folder = read(model)
        props = {p.key: p.value for p in source.metadata_props}
        self._again: dict[str, Any] | None = None
        if "onnxlrp.version" in props:
            if composite is not None or options:
                given = ["composite"] * (composite is not None) + list(options)
                raise CompositeError(f"the model is compiled already: {', '.join(given)} must be given when compiling it")
            source = read_whole(model)
        else:
            chosen = "epsilon_plus" if composite is None else composite
            # kept for `conservation`, which must not depend on the file or on what the caller does to a ModelProto
            kept = model if folder else read_whole(model) if isinstance(model, onnx.ModelProto) else source
            self._again = {"model": kept, "composite": chosen, "providers": providers, "threads": threads, **options}
            source = compile_model(kept, chosen, **options)
            props = {p.key: p.value for p in source.metadata_props}
        self.model = source
        self._gaps = any(n.op_type == "IsNaN" for n in source.graph.node)
        self.plan, self._face = _descriptions(props)
        inner = self.plan["output"]
        shown = {o.name for o in source.graph.output}
        self._inner = inner if inner not in shown and any(inner in n.output for n in source.graph.node) else None
        extra = [self._face["initial"], *([self._inner] if self._inner else [])]
        source.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in extra)
        self.session = open_session(source, providers, threads)
        del source.graph.output[-len(extra) :]
        self.conserves = bool(self._face["conserves"])
        self._checked: Explainer | None = self if self._face["checks"] else None
        self._lock = threading.Lock()
        self.required = [i.name for i in self.session.get_inputs()]
        optional = self.session.get_overridable_initializers()  # target and masks
        self.inputs = {i.name: i for i in (*self.session.get_inputs(), *optional)}
        self._boxes = [] if self._face["checks"] else _boxes(source, self._face["boxes"], self.required)

    def __call__(self, x: Any, target: int | Sequence[int] | None = None) -> Explanation:
        """Explain a batch: an array for the model's one input, or {input: array} (masks and relevance_out included)."""
        explanation = self.quietly(x, target)
        for text in self._complaints(explanation):
            warnings.warn(text, stacklevel=2)
        return explanation

    def quietly(self, x: Any, target: int | Sequence[int] | None = None) -> Explanation:
        """As a call, without its warnings."""
        feed = self._feed(x, target)
        try:
            values = self.session.run(None, feed)
        except Exception as error:
            raise InputError(f"onnxruntime could not run the model on this input: {one_line(error)}") from error
        found = dict(zip([o.name for o in self.session.get_outputs()], values, strict=True))
        initial = found.pop(self._face["initial"])
        inner = found.pop(self._inner) if self._inner else None
        checks = found.pop(self._face["checks"], None) if self._face["checks"] else None
        relevances = {t: found.pop(o) for t, o in self._face["relevance"].items()}
        layers = {t: found.pop(o) for t, o in self._face["layers"].items()}
        tokens = {t: found.pop(o) for t, o in self._face.get("tokens", {}).items()}
        books = (lambda: self._books(checks)) if checks is not None else lambda: self._check_again(feed)
        return Explanation(
            relevances, found, self._targets(feed, found.get(self.plan["output"], inner), initial),
            Layers(layers, self.plan["layers"]), initial, _ratio(relevances, initial), self.plan["output"], feed, books, inner,
            tokens,
        )  # fmt: skip

    # inputs ----------------------------------------------------------------------------------------------------------

    def _feed(self, x: Any, target: int | Sequence[int] | None) -> dict[str, Array]:
        if isinstance(x, Mapping):
            given = dict(x)
        elif len(self.required) == 1:
            given = {self.required[0]: x}
        else:
            raise InputError(f"the model has several inputs: give a dict with {', '.join(self.required)}")
        unknown = [name for name in given if name not in self.inputs]
        if unknown:
            raise InputError(f"the model has no input called '{unknown[0]}'; inputs are {', '.join(self.inputs)}")
        missing = [name for name in self.required if name not in given]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing; the model needs {', '.join(self.required)}")
        feed = {name: check_array(name, value, self.inputs[name], self._gaps) for name, value in given.items()}
        if target is not None:
            feed[self._face["target"]] = self._target(target, feed)
        return feed

    def _target(self, target: int | Sequence[int], feed: Mapping[str, Array]) -> Array:
        if not self._face["target"]:
            raise InputError("this explanation takes no target: it starts from every value, or from a given relevance")
        value = np.atleast_1d(np.asarray(target))
        if value.dtype.kind not in "iu" or value.ndim != 1:
            raise InputError(f"target must be an integer or a sequence of integers, got {target!r}")
        classes = self._face["classes"]
        if value.min(initial=0) < -1 or (classes is not None and value.max(initial=0) >= classes):
            raise InputError(f"target {target!r} is outside [-1, {classes if classes is not None else 'number of classes'})")
        rows = next((len(v) for n, v in feed.items() if n in self.required and v.ndim), 1)
        if len(value) not in (1, rows):
            raise InputError(f"target has {len(value)} entries, the batch {rows} rows")
        return value.astype(np.int64)

    # results ---------------------------------------------------------------------------------------------------------

    def _targets(self, feed: Mapping[str, Array], scores: Any, initial: Array) -> Array | None:
        axis = self._face["class_axis"]
        if axis is None or not self._face["target"]:
            return None
        asked = feed.get(self._face["target"], np.asarray([-1]))
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.shape != initial.shape:
            scores = np.abs(initial)
        best = scores.argmax(axis)
        return np.where(asked.reshape(-1, *[1] * (best.ndim - 1)) < 0, best, asked.reshape(-1, *[1] * (best.ndim - 1)))

    def _complaints(self, explanation: Explanation) -> list[str]:
        """What a caller should hear of: values that are not finite, inputs outside a rule's bounds, relevance that is lost."""
        feed, ratio = explanation.inputs, explanation.ratio
        found = []
        if self._face["checks"]:
            found += [text for b in explanation.conservation for text in b.complaints()]
        for box in self._boxes:
            count = _beyond(feed[box["tensor"]], box["low"], box["high"])
            found += [outside_text(box["index"], box["name"], count, box["rule"])] if count else []
        masked = any(name in feed for name in self.inputs if name not in (*self.required, self._face["target"]))
        if not all(np.isfinite(a).all() for a in explanation.relevances.values()):
            found.append("the relevance has values that are not finite; `onnxlrp check` names the layer")
        elif self.conserves and not masked and not np.all((ratio >= 0.5) & (ratio <= 2)):
            worst = ratio[np.abs(np.log(np.maximum(ratio, 1e-30))).argmax()]
            found.append(
                f"Σ relevance is {worst:.3g} times the initial relevance (outside 0.5 to 2): biases or ε absorb it; "
                "explanation.conservation and `onnxlrp check` name the layers"
            )
        return found

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
                    )
                )  # fmt: skip
        return Books(books)

    def _check_again(self, feed: Mapping[str, Array]) -> Books:
        if self._again is None and self._checked is None:
            raise InputError("this file was compiled without diagnostics; compile it with checks=True (--checks)")
        with self._lock:
            if self._checked is None:
                self._checked = Explainer(**{**(self._again or {}), "checks": True})
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


def _boxes(model: onnx.ModelProto, boxes: Sequence[Mapping[str, Any]], inputs: Sequence[str]) -> list[Mapping[str, Any]]:
    """The boxes between numbers whose layer reads an input's values as they are, with that input as `tensor`."""
    before = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in STILL} if boxes else {}
    found: list[Mapping[str, Any]] = []
    for box in boxes:
        name = box["tensor"]
        while name not in inputs and name in before:
            name = before[name]
        if name in inputs:
            found.append({**box, "tensor": name})
    return found


def _beyond(x: Array, low: float, high: float) -> int:
    """How many values lie outside."""
    if not x.size or (x.min() >= low and x.max() <= high):
        return 0
    return int(np.count_nonzero((x < low) | (x > high)))


def _ratio(relevances: Mapping[str, Array], initial: Array) -> Array:
    """Σ relevance ÷ Σ initial relevance, per row where rows can be told apart."""

    def per_row(a: Array) -> Array:
        return a.sum(axis=tuple(range(1, a.ndim)), dtype=np.float64) if a.ndim else a.reshape(1).astype(np.float64)

    rows = initial.shape[0] if initial.ndim else 1
    with np.errstate(all="ignore"):
        if all(a.ndim and len(a) == rows for a in relevances.values()):
            return np.asarray(np.sum([per_row(a) for a in relevances.values()], axis=0) / per_row(initial))
        total = np.sum([a.sum(dtype=np.float64) for a in relevances.values()])
        return np.atleast_1d(np.asarray(total / initial.sum(dtype=np.float64)))


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
        hint = "; add the batch axis: x[None]" if len(shape) == array.ndim + 1 else ""
        raise InputError(f"input '{name}' must have the shape {sizes}, got {got}{hint}")
    if array.ndim and not len(array) and shape[0] != 0:
        raise InputError(f"input '{name}' has no rows: there is nothing to explain")
    with np.errstate(over="ignore"):
        taken = np.ascontiguousarray(array, wanted) if array.ndim else array.astype(wanted)
    if taken.dtype != array.dtype and wanted.kind == "f" and not np.isfinite(taken).all():
        raise InputError(f"input '{name}' has values that are too large for {wanted}")
    return taken


TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip


def open_session(model: onnx.ModelProto, providers: str | Sequence[str] | None, threads: int) -> ort.InferenceSession:
    """A session on a ModelProto; over 2 GB by way of a temporary file. Raises InputError for an unknown provider."""
    asked = ["cpu"] if providers is None else [providers] if isinstance(providers, str) else list(providers)
    names = [PROVIDERS.get(p.lower(), p) for p in asked]
    available = ort.get_available_providers()
    for name in names:
        if name not in available:
            hint = "; `pip install onnxruntime-gpu` in the place of onnxruntime brings it" if "CUDA" in name else ""
            raise InputError(f"provider '{name}' is not available here; available are {', '.join(available)}{hint}")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # onnxruntime warns of every overridable initializer, such as `target`
    options.intra_op_num_threads = threads
    try:
        if not over_limit(model):
            return ort.InferenceSession(model.SerializeToString(), options, providers=names)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save(model, path)
            return ort.InferenceSession(str(path), options, providers=names)
    except Exception as error:
        raise InvalidModel(f"onnxruntime cannot load the compiled model: {one_line(error)}") from error
