"""The node tests that the onnx package ships: outputs as expected, relevance by each operator's law (node_laws.py).

Three cases of each operator by default, all of them with -m slow. tests/node_cases.md lists what is not explained.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from node_data import Case, cases
from node_laws import Array
from node_sweep import Failure, Refused, check_law, explain, inapplicable, judge, listed, report, versions
from node_table import INERT, TABLE, TRAINING

LIST = Path(__file__).with_name("node_cases.md")
OPERATORS = sorted({*TABLE, *INERT, *TRAINING})
FEW = 3


@cache
def expected() -> dict[str, str]:
    """Status of the cases that are not explained, from the list; it is of one version of onnx and of onnxruntime."""
    text = LIST.read_text()
    if versions() not in text:
        pytest.skip(f"{LIST.name} is of other versions than: {versions()}")
    return listed(text)


def of(op: str) -> list[Case]:
    """Cases of an operator; written-out ones last."""
    return sorted((c for c in cases().values() if c.op == op), key=lambda c: c.base != c.name)


def judged(some: list[Case]) -> None:
    """No case fails, and none is refused that was explained when the list was made."""
    verdicts = [judge(c.name) for c in some]
    failed = [f"{v.case}: {v.reason}" for v in verdicts if v.status == "failed"]
    assert not failed, "\n".join(failed)
    lost = [f"{v.case}: {v.status} {v.reason}" for v in verdicts if v.status != "explained" and v.case not in expected()]
    assert not lost, "explained before:\n" + "\n".join(lost)


@pytest.mark.parametrize("op", OPERATORS)
def test_few_cases(op: str) -> None:
    every = of(op)
    chosen = [c for c in every if not inapplicable(c)][: FEW - 1] + every[-1:]
    judged(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPERATORS)
def test_every_case(op: str) -> None:
    judged(of(op))


@pytest.mark.slow
def test_every_case_of_other_operators() -> None:
    judged([c for c in cases().values() if c.op not in OPERATORS])


@pytest.mark.slow
def test_list_is_up_to_date() -> None:
    expected()
    verdicts = [judge(name) for name in cases()]
    assert report(verdicts) == LIST.read_text(), "run python tools/node_cases.py"


def test_every_operator_with_float_data_is_in_a_table() -> None:
    assert {c.op for c in cases().values() if not inapplicable(c)} <= {*TABLE}


def disturbed(relevance: Array, amount: float) -> Array:
    """One element, the largest, off by this part of it."""
    out = relevance.copy()
    at = np.unravel_index(np.argmax(np.abs(out)), out.shape)
    out[at] += amount * (np.abs(out[at]) or 1.0)
    return out


@pytest.mark.parametrize("op", sorted(op for op, row in TABLE.items() if row.law is not None))
def test_law_notices_a_wrong_element(op: str) -> None:
    for case in of(op):
        if case.base != case.name or inapplicable(case) or case.tolerance > 1e-3:
            continue
        names, output = case.choices()[0], case.outputs[0]
        try:
            found = explain(case, names, output)
        except (Refused, Failure):
            continue
        if not found.relevance[names[0]].size:
            continue
        check_law(case, names, output, found)
        for name in names:
            wrong = {**found.relevance, name: disturbed(found.relevance[name], 1e-3)}
            with pytest.raises(Failure, match="law"):
                check_law(case, names, output, replace(found, relevance=wrong))
        return
    pytest.skip("no case of it is explained")
