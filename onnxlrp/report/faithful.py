"""How faithful the maps on a page are: one number a composite, for the one sample that the page shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError
from ..evaluate import faithfulness
from ..explanation import Explanation
from ..graph import ModelSource
from ..run import Explainer
from ..session import providers_of
from ..task import Settings, task_of

__all__ = ["judge"]

STEPS = 16  # of a curve, and regions along the shorter side of an image


def judge(
    model: ModelSource,
    explainer: Explainer,
    explanation: Explanation,
    providers: str | Sequence[str] | None = None,
    threads: int = 0,
    row: int = 0,
) -> Callable[[Explanation], float] | None:
    """gap = AOPC(most relevant first) - AOPC(least relevant first) of one row of an explanation, as `onnxlrp evaluate`.

    model: as it is, not compiled. Regions are removed in 16 steps, set to 0. None where that has no meaning: several
    inputs, inputs that are no floats, outputs that are no scores of classes.
    """
    target = explanation.target
    if len(explainer.required) != 1 or target is None or target.ndim != 1:
        return None
    name = explainer.required[0]
    x = explanation.inputs[name][row : row + 1]
    if name not in explanation.relevances:
        return None
    sides = sorted(x.shape[1:])[-2:] if x.ndim > 3 else [1]
    settings = Settings(region=max(1, min(sides) // STEPS), steps=STEPS, rows=STEPS, resamples=1)
    try:
        task = task_of(model, x, target[row : row + 1], settings, explainer, providers_of(providers), threads)
    except InputError:
        return None

    def gap(found: Explanation) -> float:
        r = found.relevances[name][row : row + 1]
        return float(faithfulness(task, r)[0]["gap"].values[0]) if np.isfinite(r).all() else float("nan")

    return gap
