"""`onnxlrp check`: runs an explanation with diagnostics: what is wrong, in which layer, how bad it is, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from .explanation import Books
from .findings import Finding, counted, diagnose, named, severe
from .run import TYPES, Explainer
from .session import open_session, staged

__all__ = ["Report", "examine", "random_inputs"]


@dataclass(frozen=True)
class Report:
    """What was found: the books of every layer, Σ relevance ÷ Σ initial relevance, and the diagnoses.

    conserves: whether the sums are to agree, which those of derivatives, for example, need not. scale: the initial sum.
    on: what was explained, in words.
    """

    books: Books
    ratio: float
    diagnoses: tuple[Finding, ...]
    scale: float
    conserves: bool
    on: str = ""

    @property
    def findings(self) -> tuple[str, ...]:
        """One sentence per diagnosis that is more than a note: layer, what, remedy."""
        return tuple(str(f) for f in self.diagnoses if f.severity != "note")

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: None in its place."""
        layers = [{k: _number(v) for k, v in asdict(b).items()} for b in self.books]
        diagnoses = [asdict(f) for f in self.diagnoses]
        on = {"on": self.on} if self.on else {}
        return {**on, "ratio": _number(self.ratio), "findings": list(self.findings), "diagnoses": diagnoses, "layers": layers}

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
        """Findings with their remedies, the worst first, or that there are none."""
        sums = "" if self.conserves else " (this explanation need not conserve it)"
        lines = [self.on] * bool(self.on) + [f"Σ relevance ÷ Σ initial relevance: {self.ratio:.4g}{sums}"]
        for f in self.diagnoses:
            lines += [f"• {f.severity}: {f.where}: {f.what}", f"    → {f.remedy}"]
        count = len(self.findings)
        return "\n".join([*lines, f"{count} finding{'s' * (count > 1)}" if count else "nothing is off"])


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def examine(explainer: Explainer, feed: Mapping[str, np.ndarray], target: Sequence[int] | None = None, on: str = "") -> Report:
    """Explain once with diagnostics. Relevance that bias or ε takes is correct; it is a finding when it decides the sum.

    target: as for a call of the explainer. on: what the input is, for the report.
    """
    explanation = explainer.quietly(dict(feed), target)
    books = explanation.conservation
    with np.errstate(all="ignore"):
        initial = float(np.sum(explanation.initial, dtype=np.float64))
        found = float(np.sum([r.sum(dtype=np.float64) for r in explanation.relevances.values()]))
    ratio = found / initial if initial else float("nan")
    worst = explainer.worst_ratio(explanation)
    diagnoses = [severe(text) for text in explainer.left_ranges(explanation.inputs)]
    if any(b.nonfinite for b in books) and (cause := not_finite_forward(explainer, explanation.inputs)):
        diagnoses.append(cause)
    diagnoses += diagnose(books, explanation.initial, worst, explainer.conserves)
    diagnoses.sort(key=lambda f: ("severe", "moderate", "note").index(f.severity))
    return Report(books, ratio, tuple(diagnoses), initial, worst is not None or math.isnan(ratio), on)


def not_finite_forward(explainer: Explainer, feed: Mapping[str, np.ndarray]) -> Finding | None:
    """The first layer whose own output is not finite on this input, before any rule; None where all are."""
    model = explainer.model
    made = {name for node in model.graph.node for name in node.output}
    layers = [row for row in explainer.plan["layers"] if row["tensor"] in made]
    names = [row["tensor"] for row in layers]
    with staged(model, sorted(set(names) - {o.name for o in model.graph.output})) as place:
        session = open_session(place, ["CPUExecutionProvider"], 0)
    for row, value in zip(layers, session.run(names, dict(feed)), strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            what = f"the model itself computes {counted(int(np.sum(~np.isfinite(value))))} not finite here, on this input"
            remedy = "no rule can mend that: look at the input, and at a logarithm or a division of 0 or numbers beyond float32"
            return Finding(named(row["index"], row["name"], row["rule"]), what, remedy, "severe")
    return None


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
