"""`onnxlrp check`: runs an explanation with diagnostics and says which layer absorbs relevance, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from .explanation import Books, LayerBooks
from .run import TYPES, Explainer

__all__ = ["Report", "examine", "random_inputs"]

SHARE = 0.05  # of the initial relevance: what a layer may keep before it is named
RATIO = (0.5, 2.0)


@dataclass(frozen=True)
class Report:
    """What was found: the books of every layer, Σ relevance ÷ Σ initial relevance, and one sentence per finding."""

    books: Books
    ratio: float
    findings: tuple[str, ...]
    scale: float

    def to_dict(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "findings": list(self.findings), "layers": [asdict(b) for b in self.books]}

    def table(self) -> Table:
        """One row per layer."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("#", "layer", "rule", "Σ arrived", "Σ sent", "bias", "ε", "dropped", ""):
            table.add_column(title, justify="left" if title in ("layer", "rule", "") else "right", no_wrap=True)
        for b in self.books:
            numbers = [f"{v:.4g}" for v in (b.arrived, b.sent)] + [self._share(v) for v in (b.bias, b.epsilon, b.dropped)]
            marks = [f"{b.nonfinite} not finite"] * (b.nonfinite > 0) + [f"{b.outside} outside"] * (b.outside > 0)
            table.add_row(str(b.index), b.name, b.rule, *numbers, ", ".join(marks))
        return table

    def _share(self, value: float) -> str:
        part = value / self.scale if self.scale else 0.0
        return "" if abs(part) < 5e-5 else f"{part:.2%}"

    def verdict(self) -> str:
        """Findings, or that there are none."""
        head = f"Σ relevance ÷ Σ initial relevance: {self.ratio:.4g}"
        return "\n".join([head, *(f"• {f}" for f in self.findings)] if self.findings else [head, "nothing is off"])


def examine(explainer: Explainer, feed: Mapping[str, np.ndarray]) -> Report:
    """Explain once with diagnostics. Relevance that bias or ε takes is correct; it is named when it decides the sum."""
    explanation = explainer.quietly(dict(feed))
    books = explanation.conservation
    with np.errstate(all="ignore"):
        initial = float(np.sum(explanation.initial, dtype=np.float64))
        found = float(np.sum([r.sum(dtype=np.float64) for r in explanation.relevances.values()]))
    ratio = found / initial if initial else float("nan")
    findings = explainer.left_ranges(explanation.inputs) + [text for b in books for text in b.complaints()]
    if explainer.conserves and not RATIO[0] <= ratio <= RATIO[1]:
        findings.append(f"Σ relevance is {ratio:.3g} times the initial relevance, outside {RATIO[0]} to {RATIO[1]}")
        findings += _absorbed(books, initial) if initial else []
    return Report(books, ratio, tuple(findings), initial)


CAUSES = {"bias": "its bias", "epsilon": "ε", "dropped": "gates, masks or rules that drop relevance"}


def _absorbed(books: Books, initial: float) -> list[str]:
    """What took the relevance, over all layers, and the layers that took most of it."""
    totals = {cause: float(np.nansum([getattr(b, cause) for b in books])) / initial for cause in CAUSES}
    out = [
        f"of all layers together, {part:.1%} of it goes to {CAUSES[cause].replace('its bias', 'biases')}"
        for cause, part in totals.items()
        if abs(part) > SHARE
    ]
    first, *others = sorted(books, key=_kept, reverse=True)[:3]
    return out + [_keeper(b, initial) for b in (first, *(o for o in others if _kept(o) > SHARE * abs(initial)))]


def _kept(b: LayerBooks) -> float:
    value = max(abs(getattr(b, cause)) for cause in CAUSES)
    return value if np.isfinite(value) else np.inf


def _keeper(b: LayerBooks, initial: float) -> str:
    cause = max(CAUSES, key=lambda c: abs(getattr(b, c)))
    part, named = getattr(b, cause) / initial, f"layer {b.index} '{b.name}' ({b.rule})"
    if cause == "dropped" and b.rule.startswith("SoftmaxTaylor"):
        return f"{named}: {part:.1%} of the initial relevance is dropped by the rule, which does not conserve the sum"
    return f"{named}: {part:.1%} of the initial relevance goes to {CAUSES[cause]}"


def random_inputs(explainer: Explainer, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal random floats, within a range that was given, and small integers; declared shapes, free axes of size 1."""
    rng = np.random.default_rng(seed)
    feed = {}
    for name in explainer.required:
        declared = explainer.inputs[name]
        dtype = np.dtype(TYPES.get(declared.type, np.float32))
        shape = [d if isinstance(d, int) else 1 for d in declared.shape]
        values = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
        feed[name] = values.clip(*explainer.ranges.get(name, (None, None))).astype(dtype)
    return feed
