"""What an evaluation found: numbers with confidence intervals, ranked, as a table, as JSON and as curves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from .errors import InputError
from .explanation import writable

__all__ = ["Estimate", "Evaluation", "Scores"]

Array = np.ndarray

COLUMNS = {
    "gap": "gap ↑", "aopc_morf": "MoRF ↑", "aopc_lerf": "LeRF ↓", "insertion": "insertion ↑", "deletion": "deletion ↓",
    "max_sensitivity": "sensitivity ↓", "randomization": "ρ randomised → 0",
}  # fmt: skip
PLOTS = {
    "morf": "output, most relevant removed first", "lerf": "output, least relevant removed first",
    "deletion": "deletion: probability, most relevant removed first", "insertion": "insertion: most relevant put back first",
}  # fmt: skip
PICTURES = (".png", ".pdf", ".svg")
# told apart by the colour-blind (Okabe & Ito 2008, and two more)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5e4fa2")
STYLES = ("-", "-.", ":")


@dataclass(frozen=True)
class Estimate:
    """Mean over samples, and its 95 % interval (NaN for one sample's); values: one per sample."""

    mean: float
    low: float
    high: float
    values: Array = field(repr=False)

    def __str__(self) -> str:
        spread = (self.high - self.low) / 2
        return f"{self.mean:.3g}" + (f" ±{spread:.2g}" if np.isfinite(spread) else "")

    def to_dict(self) -> dict[str, Any]:
        return {k: v if np.isfinite(v) else None for k, v in (("mean", self.mean), ("low", self.low), ("high", self.high))}


@dataclass
class Scores:
    """One composite: its maps, its values by metric, its curves (N, L+1), seconds per sample.

    randomized: (lowest randomised layer, ρ), from the top down. chance: whether the interval of the gap's difference to
    that of random relevance includes 0 or lies below; None for one sample.
    """

    name: str
    maps: Array = field(repr=False)
    values: dict[str, Estimate]
    curves: dict[str, Array] = field(repr=False)
    seconds: float | None = None
    randomized: list[tuple[str, Estimate]] = field(default_factory=list)
    chance: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "composite": self.name,
            "no_better_than_random": self.chance,
            "seconds_per_sample": self.seconds,
            **{key: value.to_dict() for key, value in self.values.items()},
            "randomized_from_the_top_to": [{"layer": layer, **rho.to_dict()} for layer, rho in self.randomized],
            "curves": {key: curve.mean(axis=0).tolist() for key, curve in self.curves.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """Composites, the best first. fractions: removed (or put back) at each point of the curves. seconds: of a sample's
    forward pass in the plain model."""

    ranking: tuple[Scores, ...]
    fractions: Array
    seconds: float
    samples: int
    baseline: str

    def __getitem__(self, name: str) -> Scores:
        for scores in self.ranking:
            if scores.name == name:
                return scores
        raise KeyError(f"'{name}' was not evaluated; evaluated were {', '.join(s.name for s in self.ranking)}")

    @classmethod
    def of(cls, found: Sequence[Scores], baseline: str, fractions: Array, seconds: float) -> Evaluation:
        """Ranked by the mean gap, the largest first."""
        order = sorted(found, key=lambda s: (-s.values["gap"].mean, s.name == baseline))
        return cls(tuple(order), fractions, seconds, len(found[0].maps), baseline)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; curves are means over samples."""
        return {
            "samples": self.samples,
            "forward_seconds_per_sample": self.seconds,
            "fractions": self.fractions.tolist(),
            "ranking": [s.to_dict() for s in self.ranking],
        }

    def table(self) -> Table:
        """One row per composite: mean ± half of the interval; ms per sample."""
        keys = [key for key in COLUMNS if any(key in s.values for s in self.ranking)]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("#", "composite", *(COLUMNS[key] for key in keys), "ms"):
            table.add_column(title, justify="left" if title == "composite" else "right", no_wrap=True)
        for place, s in enumerate(self.ranking, 1):
            cells = [str(s.values[key]) if key in s.values else "–" for key in keys]
            table.add_row(str(place), s.name, *cells, "–" if s.seconds is None else f"{1000 * s.seconds:.3g}")
        return table

    def layers_table(self) -> Table | None:
        """ρ as more layers get random weights, from the top; None where all of them did at once."""
        shown = [s for s in self.ranking if len(s.randomized) > 1]
        if not shown:
            return None
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("random weights from the top to", no_wrap=True)
        for s in shown:
            table.add_column(f"ρ {s.name}", justify="right", no_wrap=True)
        for i, (layer, _) in enumerate(shown[0].randomized):
            table.add_row(layer, *(str(s.randomized[i][1]) for s in shown))
        return table

    def footer(self) -> str:
        """What was measured on, and which composites are no better than chance."""
        count = f"{self.samples} samples; ±: half of the 95 % interval" if self.samples > 1 else "1 sample: no intervals"
        lines = [f"{count}; a forward pass takes {1000 * self.seconds:.3g} ms per sample"]
        poor = [s.name for s in self.ranking if s.chance]
        return "\n".join(lines + [f"no better than random relevance here: {', '.join(poor)}"] * bool(poor))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Curves with their intervals, as .png, .pdf or .svg. Complete or not at all. Raises InputError."""
        target = plot_target(path)
        figure = _figure(self)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
                file = Path(folder) / target.name
                figure.savefig(file, dpi=120)
                os.replace(file, target)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def plot_target(path: str | os.PathLike[str]) -> Path:
    """Where a plot can be written. Raises InputError, before anything is computed."""
    target = Path(path)
    if target.suffix.lower() not in PICTURES:
        raise InputError(f"{target}: plots are written as {', '.join(PICTURES)}")
    writable(target)
    if find_spec("matplotlib") is None:
        raise InputError("a plot needs matplotlib: pip install 'onnxlrp[plot]'")
    return target


def _figure(evaluation: Evaluation) -> Any:
    """Four panels: output and probability, most and least relevant first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    for panel, (key, title) in zip(figure.subplots(2, 2).flat, PLOTS.items(), strict=True):
        p = 1 - evaluation.fractions[::-1] if key == "insertion" else evaluation.fractions
        for i, s in enumerate(evaluation.ranking):
            chance = s.name == evaluation.baseline
            colour = "#777777" if chance else COLOURS[i % len(COLOURS)]
            style = "--" if chance else STYLES[i // len(COLOURS) % len(STYLES)]
            curve = s.curves[key]
            mean, spread = curve.mean(axis=0), 1.96 * curve.std(axis=0) / np.sqrt(len(curve))
            panel.plot(p, mean, color=colour, linestyle=style, label=s.name)
            panel.fill_between(p, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("share of the regions")
    figure.axes[0].legend(fontsize=8)
    return figure
