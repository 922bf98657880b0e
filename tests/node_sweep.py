"""Every node test that the onnx package ships, compiled, run, and judged by the laws of node_laws.py; and the list of it.

A verdict is "explained", "not applicable" or "unsupported" with a reason, or "failed", which no case may be.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnxruntime
from node_data import FLOATS, WRITTEN_OUT, Case, Reference, Session, attributes, cases, elements, one_line, plain, similar
from node_laws import Array, Node, Pair
from node_table import HEADS, INERT, NOISY, TABLE, TRAINING
from onnx import helper, numpy_helper

import onnxlrp

BEHIND = "onnxlrp_behind"
STATUSES = ("explained", "not applicable", "unsupported", "failed")


@dataclass(frozen=True)
class Verdict:
    """What became of a case. remarks: what else is to be known of one that is explained."""

    case: str
    op: str
    status: str
    reason: str = ""
    remarks: tuple[str, ...] = ()


class Failure(Exception):
    """The product is wrong."""


class Refused(Exception):
    """onnxlrp has an error for this."""


@dataclass
class Explained:
    """Relevances of one variant of a case, by input name. how: what had to be constant."""

    how: str
    outputs: dict[str, Any]
    r: Array
    relevance: dict[str, Array]


# compiling a case --------------------------------------------------------------------------------------------------------


def behind(case: Case, output: str) -> onnx.ModelProto:
    """The model with a Neg of one output as a further one: an operator that ends a model is left out otherwise."""
    model = copy.deepcopy(case.model)
    face = copy.deepcopy(next(o for o in model.graph.output if o.name == output))
    face.name = BEHIND
    model.graph.node.append(helper.make_node("Neg", [output], [BEHIND]))
    model.graph.output.append(face)
    return model


def constant(case: Case, model: onnx.ModelProto, keep: Sequence[str]) -> onnx.ModelProto:
    """The model with all tensor inputs but these turned into initializers."""
    model = copy.deepcopy(model)
    for face in [i for i in model.graph.input if elements(i) and i.name not in keep]:
        model.graph.input.remove(face)
        model.graph.initializer.append(numpy_helper.from_array(case.feeds[face.name], face.name))
    return model


def attempts(case: Case, model: onnx.ModelProto, explained: Sequence[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The case as it is, with its integer inputs constant, with all its other inputs constant."""
    yield "", model
    others = [i.name for i in model.graph.input if elements(i) and i.name not in explained]
    if any(name not in case.floats for name in others):
        yield "with its integer inputs constant", constant(case, model, case.floats)
    if any(name in case.floats for name in others):
        yield "with all its other inputs constant", constant(case, model, explained)


def explain(case: Case, names: tuple[str, ...], output: str) -> Explained:
    """Compile and run one variant. Raises Refused with onnxlrp's own error, Failure for any other."""
    end = case.op in HEADS and case.base == case.name
    said = ""
    for how, attempt in attempts(case, behind(case, output) if end else case.model, names):
        try:
            compiled = onnxlrp.compile(attempt, "epsilon", explain=names, output=BEHIND if end else output, init="given")
        except onnxlrp.Error as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            continue
        except Exception as error:
            raise Failure(f"compile raised {type(error).__name__}: {one_line(error)}") from error
        r = initial(case, output)
        try:
            found = Session(compiled)({**case.feeds, "relevance_out": r})
        except Exception as error:
            raise Failure(f"the compiled model does not run: {one_line(error)}") from error
        outputs = {o.name: found[o.name] for o in case.model.graph.output}
        return Explained(how, outputs, r, {name: found[f"relevance.{name}"] for name in names})
    raise Refused(said)


def initial(case: Case, output: str) -> Array:
    """Relevance of an output: integers that are not 0."""
    y = plain(case.expected[[o.name for o in case.model.graph.output].index(output)])
    rng = np.random.default_rng(crc32(case.base.encode()))
    r = np.asarray(rng.choice([-3, -2, -1, 1, 2, 3], np.shape(y)), np.float32)
    return np.where(np.abs(y) > 1e-3 * np.abs(y).max(), r, np.float32(0)) if case.op in NOISY else r


def refused(case: Case) -> bool:
    """Whether onnxlrp has an error for a case in which there is nothing to explain. Raises Failure for any other."""
    try:
        onnxlrp.compile(case.model, "epsilon")
    except onnxlrp.Error:
        return True
    except Exception as error:
        raise Failure(f"compile raised {type(error).__name__}: {one_line(error)}") from error
    return False


# judging it --------------------------------------------------------------------------------------------------------------


def inapplicable(case: Case) -> str:
    """Why there is nothing to explain; empty when there is."""
    kinds = [elements(i) for i in case.model.graph.input]
    if case.op in TRAINING:
        return "an optimizer of training"
    if case.op in INERT:
        return "inert: nothing flows through the operator"
    if not any(k in FLOATS for k in kinds):
        return "no float input" if all(kinds) else "no float tensor among its inputs, but a sequence or an optional"
    if not case.choices():
        return "its data is not float"
    return "" if case.outputs else "its outputs are not float tensors"


@cache
def judge(name: str) -> Verdict:
    """The verdict on one case."""
    case = cases()[name]
    why = inapplicable(case)
    try:
        if why:
            if not refused(case) and case.op in INERT:
                raise Failure("compiles, although nothing flows through the operator")
            return Verdict(name, case.op, "not applicable", why)
        remarks = dict.fromkeys(r for r in (case.remark, *explained(case)) if r)
        return Verdict(name, case.op, "explained", "", tuple(remarks))
    except Refused as error:
        return Verdict(name, case.op, "unsupported", str(error))
    except Failure as error:
        if isinstance(case.original, Reference) and "NOT_IMPLEMENTED" in str(error):
            return Verdict(name, case.op, "not applicable", "onnxruntime has no kernel for it")
        return Verdict(name, case.op, "failed", str(error))


def explained(case: Case) -> Iterator[str]:
    """Remarks. The first choice of inputs must be explained, and right; a further one right or refused."""
    first, *more = case.outputs
    variants = [(names, first) for names in case.choices()] + [(case.choices()[0], output) for output in more]
    for index, (chosen, output) in enumerate(variants):
        names = reaching(case, chosen, output) if TABLE[case.op].outputs or output != first else chosen
        what = f"{', '.join(names)} of {output}"
        try:
            found = explain(case, names, output)
            yield found.how
            yield check_forward(case, found)
            yield check_relevance(case, names, output, found)
        except Refused as error:
            if index == 0:
                raise
            yield f"not {what}: {error}"
        except Failure as error:
            raise Failure(f"{what}: {error}") from error


def reaching(case: Case, names: tuple[str, ...], output: str) -> tuple[str, ...]:
    """Those inputs on which an output depends, found by changing each."""
    before = np.asarray(case.original(case.feeds)[output])
    other = {n: np.asarray(case.feeds[n] + case.feeds[n] ** 2 + 1) for n in names}
    after = {n: np.asarray(case.original({**case.feeds, n: other[n]})[output]) for n in names}
    return tuple(n for n in names if not np.array_equal(before, after[n])) or names


def check_forward(case: Case, found: Explained) -> str:
    """The outputs are the expected ones. Returns a remark where onnxruntime's own differ from those, and ours agree."""
    mine = list(found.outputs.values())
    wrong = similar(case, mine, case.expected)
    if not wrong:
        return ""
    if isinstance(case.original, Session):
        own = list(case.original(case.feeds).values())
        if similar(case, own, case.expected) and not similar(case, mine, own):
            return "onnxruntime's own output differs from the expected one"
        if all(close(a, b) for a, b in zip(mine, own, strict=True)):
            return "outputs agree to 1e-5 of the largest, not each to 1e-7"
    raise Failure(f"forward: {wrong}")


def close(a: Any, b: Any) -> bool:
    """Equal up to 1e-5 of the largest value: what is promised of a compiled model."""
    same = isinstance(a, np.ndarray) and a.dtype == b.dtype and a.dtype.kind == "f" and a.shape == b.shape
    return same and bool(np.abs(a - b).max(initial=0) <= 1e-5 * np.abs(b).max(initial=0))


def check_relevance(case: Case, names: tuple[str, ...], output: str, found: Explained) -> str:
    """By the operator's law, or where it has none by the case that writes it out. Returns a remark."""
    written_out = case.base != case.name
    for name, r in found.relevance.items():
        if written_out and not np.all(np.isfinite(r)):
            raise Failure(f"relevance of '{name}' is not finite")
    row = TABLE[case.op]
    if row.law is not None and (row.outputs or output == case.model.graph.output[0].name):
        try:
            check_law(case, names, output, found)
        except Failure:
            if not written_out:
                raise
            return "explained by its parts, not by the law of the operator"
    elif not written_out:
        check_parts(case, names, output, found)
    return ""


def law(case: Case, names: tuple[str, ...], output: str, found: Explained) -> Iterator[Pair]:
    """The law of the operator, on the data of the case and the relevance that was found."""
    positions = {name: i for i, name in enumerate(case.node.input) if name}
    where = {i: name for name, i in positions.items()}

    def run(changed: Mapping[int, Array]) -> Array:
        feeds = {**case.feeds, **{where[i]: value for i, value in changed.items()}}
        return np.asarray(case.original(feeds)[output]).astype(np.float64)

    node = Node(
        op=case.op,
        attrs=attributes(case.node),
        inputs=[case.feeds.get(name) for name in case.node.input],
        active=tuple(sorted(positions[n] for n in names)),
        y=np.asarray(found.outputs[output]).astype(np.float64),
        r=found.r.astype(np.float64),
        found={positions[n]: found.relevance[n] for n in names},
        run=run,
    )
    of_operator = TABLE[case.op].law
    assert of_operator is not None
    return of_operator(node)


def check_law(case: Case, names: tuple[str, ...], output: str, found: Explained) -> None:
    """Raises Failure where the relevance does not obey the law of the operator."""
    with np.errstate(all="ignore"):
        for pair in law(case, names, output, found):
            if np.shape(pair.found) != np.shape(pair.law):
                raise Failure(f"law: {pair.what}: shape {np.shape(pair.found)} instead of {np.shape(pair.law)}")
            off = float(np.max(np.abs(np.asarray(pair.found, np.float64) - pair.law), initial=0))
            if not off <= case.tolerance * pair.scale:
                raise Failure(f"law: {pair.what}: off by {off:.3g} where {case.tolerance * pair.scale:.3g} is rounding")


def check_parts(case: Case, names: tuple[str, ...], output: str, found: Explained) -> None:
    """Raises Failure where the relevance is not that of a case that writes this one out."""
    for other in [c for c in cases().values() if c.base == case.name and c is not case]:
        try:
            parts = explain(other, names, output)
        except (Refused, Failure):
            continue
        for name in names:
            mine, theirs = (e.relevance[name].astype(np.float64) for e in (found, parts))
            off, largest = np.abs(mine - theirs).max(initial=0), np.abs(theirs).max(initial=0)
            if not off <= max(WRITTEN_OUT, case.tolerance) * largest:
                raise Failure(f"law: '{name}' is off by {off:.3g} of {largest:.3g} from the relevance of {other.name}")
        return
    raise Failure("law: none is written down, and no case that writes the operator out is explained")


# the list ----------------------------------------------------------------------------------------------------------------

HEAD = """\
# The node tests of the onnx package

onnx ships a test for every operator, type and attribute that a backend should run. Each is compiled here; the outputs of
the compiled model must be the expected ones and the relevance must obey the operator's law, worked out independently in
`tests/node_laws.py`. This list is made by `python tools/node_cases.py`, a test keeps it up to date.

{versions}

| | cases |
|---|---|
{counts}
"""


def versions() -> str:
    return f"With onnx {onnx.__version__} and onnxruntime {onnxruntime.__version__}."


def shortened(reason: str) -> str:
    """A reason without what differs between cases: numbers in names, the advice at the end."""
    reason = re.sub(r"; to get past it, put NameMap.*", "", reason)
    return re.sub(r"node '(\w+?)_\d+'", r"node (\1)", reason).replace("|", "\\|")


def report(verdicts: Sequence[Verdict]) -> str:
    """The list as Markdown: counts, then every case that is not plainly explained, by operator and reason."""
    counts = Counter(v.status for v in verdicts)
    lines = [f"| {status} | {counts[status]} |" for status in STATUSES] + [f"| all | {len(verdicts)} |"]
    parts = [HEAD.format(versions=versions(), counts="\n".join(lines))]
    for title, status in (("Unsupported", "unsupported"), ("Not applicable", "not applicable"), ("Failed", "failed")):
        chosen = [(v.op, shortened(v.reason), v.case) for v in verdicts if v.status == status]
        parts.append(section(title, chosen))
    remarked = [(v.op, shortened(r), v.case) for v in verdicts if v.status == "explained" for r in v.remarks]
    parts.append(section("Explained, with a remark", remarked))
    return "\n".join(p for p in parts if p)


def section(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """One line per operator and reason, with its cases."""
    groups: dict[tuple[str, str], list[str]] = {}
    for op, reason, name in rows:
        groups.setdefault((op, reason), []).append(name.removeprefix("test_"))
    lines = [f"- **{op}** ({len(names)}): {reason}  \n  {', '.join(names)}" for (op, reason), names in sorted(groups.items())]
    return f"## {title}\n\n" + "\n".join(lines) + "\n" if lines else ""


def listed(text: str) -> dict[str, str]:
    """Status of the cases that a list names; those that it does not name are explained."""
    out, status = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            status = line[3:].lower()
        elif line.startswith("  ") and status in STATUSES:
            out.update({f"test_{name}": status for name in line.strip().split(", ")})
    return out
