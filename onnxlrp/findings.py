"""What is wrong with an explanation, where, how bad it is and what to do: read from the books of its layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .explanation import Books, LayerBooks, outside_text

__all__ = ["Finding", "counted", "diagnose", "judgeable", "named", "off", "severe"]

Array = np.ndarray
SHARE = 0.05  # of the initial relevance: what a layer may keep before it is named
RATIO = (0.5, 2.0)  # of Σ relevance ÷ Σ initial relevance: outside, the map does not stand for the output
GROWTH = 100.0  # times Σ |initial relevance|: of Σ |relevance|, then 99 % of it cancels
NAMED = 3  # layers at most for one cause


@dataclass(frozen=True)
class Finding:
    """One diagnosis; its text is `where: what; remedy`.

    severity: "severe" (do not read the map), "moderate" (it stands for a part of the output), "note" (correct as it is).
    """

    where: str
    what: str
    remedy: str
    severity: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


def severe(text: str) -> Finding:
    """A sentence `where: what; remedy` as a finding."""
    where, _, rest = text.partition(": ")
    what, _, remedy = rest.rpartition("; ")
    return Finding(where, what, remedy, "severe")


def judgeable(initial: Array, value: str) -> bool:
    """Whether Σ relevance ÷ Σ initial relevance tells anything: not for a contrast, whose sums cancel."""
    return value != "given" or not initial.min(initial=0) < 0 < initial.max(initial=0)


def off(ratio: Array) -> Array:
    """Rows whose sum is outside RATIO; NaN is."""
    return np.asarray(~((ratio >= RATIO[0]) & (ratio <= RATIO[1])))


def diagnose(books: Books, initial: Array, ratio: float | None, conserves: bool = True) -> list[Finding]:
    """Findings from the worst on.

    ratio: Σ relevance ÷ Σ initial relevance; None where it is not to be judged. conserves: False for derivatives, whose
    size says nothing either.
    """
    found = [severe(outside_text(b.index, b.name, b.outside, b.rule)) for b in books if b.outside]
    if broken := [b for b in books if b.nonfinite]:
        return [_not_finite(broken), *found]
    size = float(np.abs(initial).sum(dtype=np.float64))
    if not size:
        what = "is 0 everywhere, and so is the map"
        return [*found, Finding("the initial relevance", what, 'choose another target, or init="one"', "severe")]
    dead = [b for b in books if b.sent_l1 == 0 and b.arrived_l1 > SHARE * size and not b.rule.startswith("Stop")]
    found += [_dead(b, size) for b in dead] + (_grown(books, size) if conserves else [])
    if ratio is None:
        return found
    total = float(np.sum(initial, dtype=np.float64)) or size
    parts = [(getattr(b, cause) / total, b, cause) for b in books if b not in dead for cause in CAUSES]
    parts.sort(key=lambda p: -abs(p[0]))
    much = [p for p in parts[:NAMED] if abs(p[0]) > SHARE]
    if not off(np.array(ratio)):
        return found + [_keeper(*p, "note") for p in much]
    named_parts = much or ([] if dead else parts[:1])
    return [*found, _unbalanced(books, ratio, total), *(_keeper(*p, "moderate") for p in named_parts)]


def counted(count: int) -> str:
    """`1 value that is`, `3 values that are`."""
    return f"{count} value that is" if count == 1 else f"{count} values that are"


def named(index: int, name: str, rule: str) -> str:
    """What a layer is called in a finding."""
    return f"layer {index} '{name}' ({rule})"


def _layer(b: LayerBooks) -> str:
    return named(b.index, b.name, b.rule)


def _not_finite(broken: list[LayerBooks]) -> Finding:
    """The origin alone, which is the uppermost layer; what lies below has it from there."""
    origin, below = broken[-1], len(broken) - 1
    what = f"sends {counted(origin.nonfinite)} not finite"
    what += f", and so do{'es' * (below == 1)} {below} layer{'s' * (below > 1)} below" if below else ""
    remedy = (
        "a division by 0, or a number beyond float32: a larger ε in its rule, such as Epsilon(1e-4), or ZPlus; where the "
        "model itself has such values, mend the input"
    )
    return Finding(_layer(origin), what, remedy, "severe")


def _dead(b: LayerBooks, size: float) -> Finding:
    what = f"sends no relevance on: {b.arrived_l1 / size:.1%} of the initial relevance ends here"
    remedy = (
        "none of its inputs contributes: they are 0 (dead units, an input scaled wrongly), or of the sign that the rule leaves "
        "out; check the preprocessing, or try Epsilon there"
    )
    return Finding(_layer(b), what, remedy, "severe")


def _grown(books: Books, size: float) -> list[Finding]:
    """Values of both signs that cancel: the layer that blows them up most, from the output to the first beyond GROWTH."""
    over = [b for b in books if b.sent_l1 > GROWTH * size]
    if not over:
        return []
    above = [b for b in books if b.arrived_l1 and b.index >= over[-1].index]
    worst = max(above, key=lambda b: b.sent_l1 / b.arrived_l1)
    most = max(b.sent_l1 for b in over) / size
    what = f"blows relevance up {worst.sent_l1 / worst.arrived_l1:.3g} times, the most of those that bring Σ |relevance| to "
    what += f"{most:.3g} times the initial relevance: nearly all of it cancels"
    remedy = "outputs near 0 are divided by: ZPlus or Gamma there (epsilon_plus), or a larger ε"
    return [Finding(_layer(worst), what, remedy, "severe")]


CAUSES = {"bias": "biases", "epsilon": "ε", "dropped": "rules, gates and masks"}


def _unbalanced(books: Books, ratio: float, total: float) -> Finding:
    """The sum is off, and what all layers together keep."""
    parts = {said: sum(getattr(b, cause) for b in books) / total for cause, said in CAUSES.items()}
    kept = ", ".join(
        f"{said} {'take' if part > 0 else 'add'} {abs(part):.1%}" for said, part in parts.items() if abs(part) > SHARE
    )
    what = f"Σ relevance is {ratio:.3g} times the initial relevance, outside {RATIO[0]:g} to {RATIO[1]:g}"
    return Finding("the whole map", f"{what} ({kept})" if kept else what, "look at the layers named here first", "moderate")


def _keeper(part: float, b: LayerBooks, cause: str, severity: str) -> Finding:
    """A layer that keeps, or adds, a part of the initial relevance, and why."""
    share = f"{abs(part):.1%} of the initial relevance"
    if cause == "bias":
        what = f"{share} goes to its bias" if part > 0 else f"its bias adds {share}"
        return Finding(_layer(b), what, 'correct, but the map lacks it: bias="ignore" in its rule leaves biases out', severity)
    if cause == "epsilon":
        what = f"{share} goes to ε" if part > 0 else f"ε adds {share}"
        return Finding(_layer(b), what, "outputs near 0: a smaller ε, or ZPlus or Gamma there", severity)
    return Finding(_layer(b), f"{share} is dropped" if part > 0 else f"{share} is added", _dropping(b.rule), severity)


def _dropping(rule: str) -> str:
    if rule.startswith("SoftmaxTaylor"):
        return "the rule expands the softmax and does not conserve the sum: cp_lrp sends nothing through it"
    if rule.startswith(("Gradient", "GuidedBackprop", "DeconvNet", "BetaSmooth")):
        return "the rule is a derivative, which conserves no sum: Pass() there does"
    if rule.startswith("Stop"):
        return "the rule means it: Pass() there sends it on"
    return "it goes to constants, gates or masked positions: correct where they carry part of the answer"
