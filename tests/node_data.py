"""The node tests that the onnx package ships, and what runs a model: onnxruntime, or onnx's reference implementation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from node_laws import move, select
from node_table import TABLE
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# float types, and the rounding of each that a relevance may carry
FLOATS = {TensorProto.FLOAT: 2e-5, TensorProto.DOUBLE: 2e-5, TensorProto.FLOAT16: 5e-3, TensorProto.BFLOAT16: 5e-2}
INTEGERS = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)} | {TensorProto.BOOL}
WRITTEN_OUT = 1e-4  # rounding of a case that writes an operator out in others
NEWEST_IR = 13  # of onnxruntime


def elements(face: onnx.ValueInfoProto) -> int:
    """Element type of a tensor, 0 of anything else."""
    return face.type.tensor_type.elem_type if face.type.HasField("tensor_type") else 0


def plain(value: Any) -> Any:
    """TensorProto and numpy scalars as arrays; lists stay lists."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@dataclass(repr=False)
class Case:
    """A node test. node: the operator that it is about, which a case called …_expanded writes out in others."""

    name: str
    model: onnx.ModelProto
    given: list[Any]
    expected: list[Any]
    rtol: float
    atol: float
    node: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    remark: str = ""

    @property
    def base(self) -> str:
        """Name of the case that this one writes out; its own name where it writes out none."""
        return self.name.split("_expanded")[0]

    @property
    def op(self) -> str:
        return str(self.node.op_type)

    @cached_property
    def feeds(self) -> dict[str, Any]:
        return {i.name: v for i, v in zip(self.model.graph.input, self.given, strict=True)}

    @property
    def floats(self) -> list[str]:
        """Names of the float inputs."""
        return [i.name for i in self.model.graph.input if elements(i) in FLOATS]

    @property
    def outputs(self) -> list[str]:
        """Names of the float outputs."""
        return [o.name for o in self.model.graph.output if elements(o) in FLOATS]

    @cached_property
    def tolerance(self) -> float:
        faces = [*self.model.graph.input, *self.model.graph.output]
        return max([FLOATS.get(elements(f), 0.0) for f in faces] + [WRITTEN_OUT * (self.base != self.name)])

    @cached_property
    def original(self) -> Any:
        """The model in onnxruntime, or else in the reference implementation of onnx."""
        try:
            session = Session(self.model)
            session(self.feeds)
            return session
        except Exception as error:  # whatever a runtime says to a model that it cannot run
            return Reference(self.model, str(error))

    def choices(self) -> list[tuple[str, ...]]:
        """Which inputs are explained together: the operator's data first, then other choices."""
        row = TABLE.get(self.op)
        if row is None:
            return [tuple(self.floats)]
        names, floats, out = list(self.node.input), self.floats, []
        for positions in (range(len(names)) if row.data is None else row.data, *row.more):
            chosen = tuple(names[i] for i in positions if i < len(names) and names[i] in floats)
            if chosen and chosen not in out:
                out.append(chosen)
        return out


@cache
def cases() -> dict[str, Case]:
    """All node tests by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
    out: dict[str, Case] = {}
    for c in loaded:
        given, expected = ([plain(v) for v in values] for values in c.data_sets[0])
        out[c.name] = Case(c.name, c.model, given, expected, c.rtol, c.atol)
    for case in out.values():
        case.node = out[case.base].model.graph.node[0]
        row = TABLE.get(case.op)
        if row is not None and row.law in (move, select) and case.base == case.name and not case.choices():
            in_float(case)
    return out


def in_float(case: Case) -> None:
    """Copies and maxima of integers become those of float32: what is tried is where values go, not what they are."""
    positions = TABLE[case.op].data
    names = list(case.node.input)
    data = set(names) if positions is None else {names[i] for i in positions}
    graph = case.model.graph
    kinds = {elements(i) for i in graph.input if i.name in data}
    if not kinds <= INTEGERS:
        return
    for i, face in enumerate(graph.input):
        if face.name in data:
            face.type.tensor_type.elem_type = TensorProto.FLOAT
            case.given[i] = case.given[i].astype(np.float32)
    for i, face in enumerate(graph.output):
        if i == 0 or case.op == "Split":  # further outputs of the others are positions
            face.type.tensor_type.elem_type = TensorProto.FLOAT
            case.expected[i] = case.expected[i].astype(np.float32)
    case.remark = "with float32 in the place of its integers"


class Session:
    """A model in onnxruntime; bfloat16, which it takes from no array, through casts. Raises whatever it raises."""

    def __init__(self, model: onnx.ModelProto) -> None:
        model = copy.deepcopy(model)
        model.ir_version = min(model.ir_version, NEWEST_IR)
        self.names = [o.name for o in model.graph.output]
        self.half = {f.name for f in (*model.graph.input, *model.graph.output) if elements(f) == TensorProto.BFLOAT16}
        for face in [i for i in model.graph.input if i.name in self.half]:
            model.graph.node.insert(0, helper.make_node("Cast", [f"{face.name}/wide"], [face.name], to=TensorProto.BFLOAT16))
            widen(face)
        for face in [o for o in model.graph.output if o.name in self.half]:
            model.graph.node.append(helper.make_node("Cast", [face.name], [f"{face.name}/wide"], to=TensorProto.FLOAT))
            widen(face)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name for i in self.session.get_inputs()}

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = {f"{k}/wide" if k in self.half else k: v.astype(np.float32) if k in self.half else v for k, v in feeds.items()}
        found = self.session.run(None, {k: v for k, v in given.items() if k in self.inputs})
        kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
        return {n: v.astype(kind) if n in self.half else v for n, v in zip(self.names, found, strict=True)}


def widen(face: onnx.ValueInfoProto) -> None:
    face.name = f"{face.name}/wide"
    face.type.tensor_type.elem_type = TensorProto.FLOAT


class Reference:
    """A model in onnx's reference implementation. why: what onnxruntime said."""

    def __init__(self, model: onnx.ModelProto, why: str) -> None:
        self.evaluator, self.why = ReferenceEvaluator(model), why

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return dict(zip(self.evaluator.output_names, self.evaluator.run(None, dict(feeds)), strict=True))


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def similar(case: Case, found: Sequence[Any], expected: Sequence[Any]) -> str:
    """What differs, by the comparison of onnx's own test suite; empty when nothing does."""
    from onnx.backend.test.runner import Runner

    try:
        Runner.assert_similar_outputs(expected, found, case.rtol, case.atol)
    except (AssertionError, TypeError) as error:
        return one_line(error)[:300]
    return ""
