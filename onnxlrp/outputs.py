"""The face of the compiled graph: forward part, extra inputs (target, masks, given relevance) and outputs."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from .backward import Books, Relevances
from .emit import Emit
from .errors import CompositeError
from .facts import Facts
from .graph import Source
from .head import initial_relevance
from .intervals import Interval
from .opsets import OPSET
from .order import live
from .plan import Plan
from .tensor import Shape, Tensor, where

__all__ = ["CHECKS", "Interface", "Request", "expose", "forward", "open_inputs", "resolve_tensor"]

CHECKS = ("arrived", "sent", "bias", "epsilon", "nonfinite", "outside", "arrived_l1", "sent_l1")


@dataclass(frozen=True)
class Request:
    """What a caller asked of `compile` beyond the rules; fields as its arguments."""

    init: str = "logit"
    layers: Sequence[str | int] = ()
    conditions: Sequence[str | int] = ()
    checks: bool = False
    position: int | tuple[int, ...] | None = None
    times_input: bool = False
    derivative: bool = False

    def __post_init__(self) -> None:
        if self.init not in ("logit", "one", "given"):
            raise CompositeError(f"init must be 'logit', 'one' or 'given', got {self.init!r}")


@dataclass
class Interface:
    """Inputs that the compiled graph has beside the model's own."""

    inputs: list[gs.Variable] = field(default_factory=list)
    defaults: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    seed: Tensor | None = None
    relevance: dict[str, str] = field(default_factory=dict)  # explained tensor -> output
    layers: dict[str, str] = field(default_factory=dict)  # tensor asked for -> output
    tokens: dict[str, str] = field(default_factory=dict)  # embedding -> output with its relevance per token
    target: str = ""
    checks: str = ""


def forward(source: Source, facts: Facts, ranges: Mapping[str, Interval] | None = None, shared: bool = False) -> Emit:
    """The model itself as the first part of the compiled graph. ranges: of inputs, as far as they are known."""
    graph, e = source.graph, Emit(shared=shared)
    e.reserve([n.name for n in graph.nodes] + [t.name for n in graph.nodes for t in (*n.inputs, *n.outputs) if t.name])
    e.reserve([t.name for t in graph.inputs])
    for t in graph.inputs:
        e.adopt(t, (ranges or {}).get(t.name))
    for node in graph.nodes:
        e.forward(node, [e.adopt(t) if t.name else None for t in node.inputs])
    for name, axis in facts.batch.items():
        if name in e.tensors:
            e.tensors[name].batch = axis
    return e


def resolve_tensor(key: str | int, plan: Plan, facts: Facts, what: str) -> str:
    """A layer's name or index to its output tensor; a tensor name stays. Raises CompositeError."""
    try:
        layer = plan.layer(key)
    except CompositeError as error:
        raise CompositeError(f"{what}: {error}") from error
    name = layer.output if layer is not None else str(key)
    if name not in facts.active:
        near = difflib.get_close_matches(name, [la.name for la in plan] + sorted(facts.active), 3)
        raise CompositeError(
            f"{what}: '{key}' is no layer and no tensor that carries relevance; near are {', '.join(near) or 'none'}"
        )
    return name


def open_inputs(e: Emit, plan: Plan, facts: Facts, request: Request) -> Interface:
    """Create target, relevance_out and mask inputs, and the initial relevance."""
    face, head = Interface(), plan.head
    y = e.tensors[head.tensor]

    def add(name: str, dtype: type, shape: Shape, default: np.ndarray | None) -> Tensor:
        var = gs.Variable(free(e, name), dtype, list(shape or ()))
        face.inputs.append(var)
        if default is not None:
            face.defaults[var.name] = default
        return e.adopt(var)

    target = given = None
    if request.init == "given":
        given = add("relevance_out", np.float32, y.shape, None)
    elif head.class_axis is not None:
        target = add("target", np.int64, ("targets",), np.asarray([-1], np.int64))
        face.target = target.name
    for key in request.conditions:
        name = resolve_tensor(key, plan, facts, "conditions")
        shape = e.tensors[name].shape
        if shape is None:
            raise CompositeError(f"conditions: the rank of '{name}' is unknown; give input_shapes=")
        free_axes = tuple(f"mask_{i}" for i in range(len(shape)))
        face.masks[name] = add(f"mask.{name}", np.float32, free_axes, np.ones((1,) * len(shape), np.float32))
    with e.scope("initial_relevance"):
        init = "one" if request.derivative and request.init == "logit" else request.init
        face.seed = initial_relevance(e, head, init, target, given, request.position)
    return face


def free(e: Emit, name: str) -> str:
    """The name, with `_` appended (and a warning) while the model has it already."""
    wanted = name
    while name in e._names:
        name += "_"
    if name != wanted:
        warnings.warn(f"the model already has a tensor called '{wanted}'; the compiled graph uses '{name}'", stacklevel=2)
    e.reserve([name])
    return name


def expose(
    e: Emit, source: Source, plan: Plan, facts: Facts, request: Request, face: Interface, found: Relevances, books: list[Books]
) -> gs.Graph:
    """The compiled graph: the model's outputs, relevance of explained tensors and layers, diagnostics."""
    outputs: list[gs.Tensor] = [e.tensors[o.name].var for o in source.graph.outputs]
    for out, own in zip(outputs, source.graph.outputs, strict=True):
        out.dtype, out.shape = own.dtype, own.shape
    asked = [resolve_tensor(k, plan, facts, "layers") for k in request.layers]
    for name in dict.fromkeys([*facts.explained, *asked]):
        r, x = found.collect(name), e.tensors[name]
        if request.times_input and name in facts.explained:
            r = r * e.cast(x, np.float32)
        r = e.zeros_like(e.cast(x, np.float32)) if r.is_zero else r
        outputs.append(publish(e, r, f"relevance.{name}", x.shape))
        (face.relevance if name in facts.explained else face.layers)[name] = outputs[-1].name
        if name in facts.tokens and x.shape is not None and len(x.shape) > 1:
            outputs.append(publish(e, e.reduce("ReduceSum", r, [-1], keepdims=False), f"relevance_tokens.{name}", x.shape[:-1]))
            face.tokens[name] = outputs[-1].name
    if request.checks:
        outputs.append(publish(e, diagnostics(e, books), "checks", (len(books), len(CHECKS))))
        face.checks = outputs[-1].name
    graph = gs.Graph(live(e.nodes, outputs), [], outputs, opset=OPSET, name=source.graph.name or "onnxlrp")
    graph.inputs = [e.tensors[t.name].var for t in source.graph.inputs] + face.inputs
    used = {"", *domains(graph.nodes)}
    graph.import_domains = [d for d in source.graph.import_domains or () if d.domain in used]
    return graph


def publish(e: Emit, r: Tensor, name: str, shape: Shape) -> gs.Variable:
    """A graph output of this name."""
    var = gs.Variable(free(e, name), np.float32, list(shape) if shape is not None else None)
    e.nodes.append(gs.Node("Identity", f"lrp/{name}", {}, [r.var], [var]))
    return var


def diagnostics(e: Emit, books: list[Books]) -> Tensor:
    """One row per step: Σ relevance arrived, sent, taken by bias, by ε; non-finite values; inputs outside a rule's range;
    Σ |relevance| arrived and sent.
    """
    rows = []
    for book in books:
        with e.scope(f"{book.step.unit.name}/checks"):
            sent = [r for r in book.sent if not r.is_zero]
            outside = [n for x in book.xs[:1] if (n := book.step.rule.outside(x)) is not None]
            bad = [_sum(where(finite(r), 0.0, 1.0)) for r in sent]
            sums = ([_sum(r) for r in book.arrived], [_sum(r) for r in sent], [f() for f in book.absorbed.bias],
                    [f() for f in book.absorbed.epsilon], bad, outside,
                    [_l1(r) for r in book.arrived], [_l1(r) for r in sent])  # fmt: skip
            cells = [e.reshape(t if not t.is_zero else e.zero, 1, 1) for t in (e.total(s) for s in sums)]
            rows.append(e.op("Concat", *cells, shape=(1, len(CHECKS)), axis=1))
    return e.op("Concat", *rows, shape=(len(rows), len(CHECKS)), axis=0)


def _sum(x: Tensor) -> Tensor:
    return x.emit.op("ReduceSum", x, shape=(), keepdims=0)


def _l1(x: Tensor) -> Tensor:
    return x.emit.op("ReduceL1", x, shape=(), keepdims=0)


def finite(x: Tensor) -> Tensor:
    """Whether |x| is a number below infinity."""
    return abs(x) < float("inf")


def domains(nodes: Sequence[gs.Node]) -> Iterator[str]:
    """Domains of the operators, those in subgraphs included."""
    for node in nodes:
        yield node.domain or ""
        for body in node.attrs.values():
            if isinstance(body, gs.Graph):
                yield from domains(body.nodes)
