"""Concept relevance propagation: the relevance that passes through chosen channels of a layer.   Achtibat et al. 2023.

A concept is a channel of a layer's output. A condition {layer: channels} keeps relevance at that layer in these channels
and drops it in the others; several layers in one condition are conditions one after the other. Channels add up: the
relevances of all single channels of a layer sum to the unconditioned one, as far as all of it passes through that layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .composites import CompositeLike
from .errors import CompositeError, InputError
from .explanation import Explanation
from .graph import ModelSource
from .run import Explainer
from .session import open_session, providers_of, staged

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Concepts", "IndexedFeatures", "TopNFeatures"]

Array = np.ndarray
Key = str | int
Condition = Mapping[Key, Sequence[int]]


@dataclass(frozen=True, init=False)
class IndexedFeatures:
    """One condition per given channel; the same ones for every input."""

    indices: tuple[int, ...]

    def __init__(self, *indices: int) -> None:
        object.__setattr__(self, "indices", indices)

    def choose(self, r: Array) -> Array:
        """Channels (F,N) from relevance per channel (N,C)."""
        return np.repeat(np.asarray(self.indices, np.int64)[:, None], len(r), 1)


@dataclass(frozen=True)
class TopNFeatures:
    """One condition for each of the n channels with the largest summed relevance, for every input its own, largest first."""

    n: int

    def choose(self, r: Array) -> Array:
        """Channels (F,N) from relevance per channel (N,C)."""
        if not 0 < self.n <= r.shape[1]:
            raise InputError(f"TopNFeatures({self.n}): the layer has {r.shape[1]} channels")
        return np.argsort(-r, axis=1, kind="stable")[:, : self.n].T


class Concepts:
    """Explains through channels of chosen layers.

        concepts = Concepts("model.onnx", "epsilon_plus", layers=["conv3"])
        explanation = concepts(x, TopNFeatures(3))                    # rows: features, then inputs
        explanation = concepts(x, [{"conv3": [5]}, {"conv3": [5, 7]}])  # rows: conditions, then inputs

    layers: names, indices or tensors as for `compile(conditions=...)`. axis: of the channels in them. Other keywords are
    those of Explainer. A result has the row f · N + i for condition f and input i of N. All conditions of an input share one
    forward pass; in a network that does not allow it (`compile(shared_forward=True)` says why), each has its own.
    Raises what Explainer raises, and InputError.
    """

    def __init__(
        self,
        model: ModelSource,
        composite: CompositeLike | None = None,
        *,
        layers: Sequence[Key],
        axis: int = 1,
        **options: Any,
    ) -> None:
        if isinstance(layers, (str, int)) or not layers:
            raise InputError(f"layers must be a list of layers, got {layers!r}")
        known = {**options, "layers": list(layers), "conditions": list(layers)}
        try:
            self.explainer, self.shared = Explainer(model, composite, **{**known, "shared_forward": True}), True
        except CompositeError as error:
            if not str(error).startswith("shared_forward"):
                raise
            self.explainer, self.shared = Explainer(model, composite, **known), False
        self.layers, self.axis = tuple(layers), axis
        rows = self.explainer.plan["layers"]
        tensors = {key: row["tensor"] for row in rows for key in (row["index"], row["name"])}
        self.tensors: dict[Key, str] = {key: tensors.get(key, str(key)) for key in layers}
        self._threads = int(options.get("threads", 0))
        self._providers = providers_of(options.get("providers"))
        self._lock = threading.Lock()
        self._session: Any = None  # for activations

    def __call__(
        self, x: Any, features: IndexedFeatures | TopNFeatures | Sequence[Condition], target: int | Sequence[int] | None = None
    ) -> Explanation:
        """The explanation under every condition. features: of the first layer, or conditions that name their layers."""
        feed = self._feed(x)
        count = len(next(iter(feed.values())))
        if isinstance(features, (IndexedFeatures, TopNFeatures)):
            first = self.layers[0]
            chosen = features.choose(self.relevance_per_channel(feed, target)[first])
            conditions: list[dict[Key, Any]] = [{first: row[:, None]} for row in chosen]
        else:
            conditions = [{k: np.repeat(np.asarray(v, np.int64)[None], count, 0) for k, v in c.items()} for c in features]
        if not conditions:
            raise InputError("no features: give IndexedFeatures, TopNFeatures, or a list of conditions {layer: channels}")
        unknown = [k for c in conditions for k in c if k not in self.tensors]
        if unknown:
            raise InputError(f"condition on {unknown[0]!r}, which is none of layers={list(self.layers)}")
        shapes = self._shapes(feed, target)
        masks = {
            f"mask.{tensor}": np.stack([self._mask(shapes[key], c.get(key), count) for c in conditions])
            for key, tensor in self.tensors.items()
        }
        targets = [-1 if target is None else target] * count if target is None or isinstance(target, int) else [*target]
        if not self.shared:
            rows = {name: np.concatenate([a] * len(conditions)) for name, a in feed.items()}
            rows |= {name: m.reshape(-1, *m.shape[2:]) for name, m in masks.items()}
            return self.explainer.quietly(rows, None if target is None else targets * len(conditions))
        return woven(
            [
                self.explainer.quietly(
                    {name: a[i : i + 1] for name, a in feed.items()} | {name: m[:, i] for name, m in masks.items()},
                    None if target is None else targets[i : i + 1] * len(conditions),
                )
                for i in range(count)
            ]
        )

    def relevance_per_channel(self, x: Any, target: int | Sequence[int] | None = None) -> dict[Key, Array]:
        """Σ relevance over all but batch and channels, (N,C) per layer: how much each concept matters for each input."""
        found = self.explainer.quietly(self._feed(x), target)
        return {key: self._summed(self._layer(found, key)) for key in self.layers}

    def strongest(
        self, batches: Iterator[Any] | Sequence[Any], layer: Key, channel: int, n: int = 8, by: str = "relevance"
    ) -> tuple[Array, Array]:
        """Rows of a data set that maximise a concept, and their values, largest first: (n,) and (n,).

        by: "relevance" (Σ over positions, of the class predicted) or "activation" (the largest over positions). batches:
        what an Explainer takes, one after the other; rows count through all of them.
        """
        if by not in ("relevance", "activation"):
            raise InputError(f"by must be 'relevance' or 'activation', got {by!r}")
        if layer not in self.tensors:
            raise InputError(f"layer {layer!r} is none of layers={list(self.layers)}")
        found = []
        for batch in batches:
            values = self.relevance_per_channel(batch)[layer] if by == "relevance" else self._activation(batch, layer)
            if not 0 <= channel < values.shape[1]:
                raise InputError(f"channel {channel} is outside [0, {values.shape[1]}) of layer {layer!r}")
            found.append(values[:, channel])
        if not found:
            raise InputError("no batches: there is nothing to search")
        every = np.concatenate(found)
        best = np.argsort(-every, kind="stable")[:n]
        return best, every[best]

    def gallery(self, x: Any, layer: Key, channel: int, n: int = 8, by: str = "relevance", **style: Any) -> Image:
        """One sheet with the n inputs of x that maximise a concept: the relevance that passes through it, largest first.

        style: options of `Explanation.heatmap`, such as overlay="grey". Raises InputError.
        """
        rows, values = self.strongest([x], layer, channel, n, by)
        found = self({name: a[rows] for name, a in self._feed(x).items()}, [{layer: [channel]}])
        captions = [f"row {row}: {by} {value:.3g}" for row, value in zip(rows, values, strict=True)]
        return found.heatmap(grid="all", captions=captions, **style)

    # ------------------------------------------------------------------------------------------------------------------

    def _feed(self, x: Any) -> dict[str, Array]:
        given = x if isinstance(x, Mapping) else {self.explainer.required[0]: x}
        arrays = {name: np.asarray(a) for name, a in given.items()}
        if any(a.ndim == 0 for a in arrays.values()) or len({len(a) for a in arrays.values()}) != 1:
            raise InputError("concepts need inputs that share their first axis, the batch")
        return arrays

    def _layer(self, found: Explanation, key: Key) -> Array:
        r = cast(Mapping[Key, Array], found.layers)[key]  # by name, and by index as well
        if r.ndim <= self.axis:
            raise InputError(f"layer {key!r} of shape {r.shape} has no axis {self.axis}: name the axis of its channels")
        return r

    def _summed(self, r: Array) -> Array:
        out: Array = r.sum(tuple(a for a in range(1, r.ndim) if a != self.axis % r.ndim))
        return out

    def _shapes(self, feed: Mapping[str, Array], target: Any) -> dict[Key, tuple[int, ...]]:
        """Shape of each layer's relevance; free sizes are known after a run only."""
        one = {name: a[:1] for name, a in feed.items()}
        found = self.explainer.quietly(one, target if target is None or isinstance(target, int) else target[0])
        return {key: self._layer(found, key).shape for key in self.layers}

    def _mask(self, shape: tuple[int, ...], channels: Array | None, count: int) -> Array:
        """1 in the chosen channels (count, any number) of each row, else 0; 1 everywhere for None; (count, …, C, …)."""
        width = shape[self.axis]
        flat = np.full((count, width), channels is None, np.float32)
        if channels is not None:
            wrong = channels[(channels < 0) | (channels >= width)]
            if wrong.size:
                raise InputError(f"channel {wrong[0]} is outside [0, {width}) of the layer")
            np.put_along_axis(flat, channels, 1, axis=1)
        return flat.reshape([count if a == 0 else width if a == self.axis % len(shape) else 1 for a in range(len(shape))])

    def _activation(self, x: Any, layer: Key) -> Array:
        """Largest activation over positions, (N,C)."""
        (values,) = self._forward().run([self.tensors[layer]], self._feed(x))
        r = np.asarray(values)
        out: Array = r.max(tuple(a for a in range(1, r.ndim) if a != self.axis % r.ndim), initial=-np.inf) if r.ndim > 2 else r
        return out

    def _forward(self) -> Any:
        """A session that gives the layers' activations, opened once."""
        with self._lock:
            if self._session is None:
                with staged(self.explainer.model, list(self.tensors.values())) as place:
                    self._session = open_session(place, self._providers, self._threads)
            return self._session


def woven(found: Sequence[Explanation]) -> Explanation:
    """One explanation with the rows f · N + i from N with F rows each; what the forward pass gives has one row an input."""

    def each(pick: Callable[[Explanation], Mapping[str, Array]]) -> dict[str, Array]:
        return {name: weave([pick(e)[name] for e in found]) for name in pick(found[0])}

    def weave(parts: Sequence[Array]) -> Array:
        return np.stack(parts, 1).reshape(-1, *parts[0].shape[1:])

    first = found[0]
    layers = copy(first.layers)
    for name in layers:
        layers[name] = weave([e.layers[name] for e in found])
    return replace(
        first,
        relevances=each(lambda e: e.relevances),
        outputs={name: np.concatenate([e.outputs[name] for e in found]) for name in first.outputs},
        target=None if first.target is None else weave([e.target for e in found if e.target is not None]),
        layers=layers,
        initial=weave([e.initial for e in found]),
        ratio=weave([e.ratio for e in found]),
        inputs=each(lambda e: e.inputs),
        tokens=each(lambda e: e.tokens),
    )
