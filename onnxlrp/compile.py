"""The compiler, one call per pass: read this file first."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx

from . import presets
from .backward import backward
from .composites import Composite, CompositeLike, resolve
from .constants import finish
from .facts import Facts, analyse
from .graph import ModelSource, Source, load, to_proto
from .groups import units
from .head import find_head
from .interface import runtime_facts
from .labels import KEYS
from .normalize import normalize
from .optimize import bake_constants, speed_up
from .outputs import Interface, Request, expose, forward, open_inputs
from .plan import Plan, assign
from .portable import to_portable
from .precision import check_precision, to_half
from .ranges import InputRanges, ranges_of
from .shared import check_shared
from .version import __version__

__all__ = ["compile", "inspect"]


_paused: list[bool] = []  # for every compilation under way: whether the collector was on before the first
_pausing = threading.Lock()


@contextmanager
def collecting_later() -> Iterator[None]:
    """Without Python's garbage collector: its searches of a growing graph cost more than the work on 10,000 nodes.

    The last of the compilations that run at the same time, in several threads, turns it on again.
    """
    with _pausing:
        _paused.append(_paused[0] if _paused else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _pausing:
            if _paused.pop() and not _paused:
                gc.enable()


@collecting_later()
def compile(
    model: ModelSource,
    composite: CompositeLike = "epsilon_plus",
    *,
    output: str | None = None,
    explain: Sequence[str] | None = None,
    init: str = "logit",
    layers: Sequence[str | int] = (),
    conditions: Sequence[str | int] = (),
    canonize: bool = True,
    checks: bool = False,
    bake: bool = False,
    optimize: bool = True,
    precision: str = "fp32",
    portable: bool = False,
    shared_forward: bool = False,
    class_axis: int | None = None,
    position: int | tuple[int, ...] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    input_ranges: InputRanges = None,
) -> onnx.ModelProto:
    """A self-contained ONNX model that computes the model's outputs and the relevance of its inputs.

    model: path, bytes or ModelProto. composite: preset name, preset with arguments as text, Composite, list with one
    rule per layer, or {node name: rule}. output, class_axis, position: where relevance starts. explain: tensors where
    it ends. init: "logit" (the explained value), "one", or "given" (an input `relevance_out`). layers: layers or
    tensors whose relevance is an output too. conditions: those that get an input `mask.<tensor>`. canonize: fold and
    group first. checks: add an output with diagnostics. bake: store modified weights instead of computing them at
    load. optimize: rewrites of the backward part that are equal up to rounding. precision: "fp32", or "fp16": convolutions
    and matrix products in float16, for GPUs. portable: operators that WebGPU and reduced mobile builds of onnxruntime have;
    `onnxlrp.portable.gaps` lists what is left. input_shapes: {input: shape}. input_ranges: {input: (low, high)}, or the pair
    for an only float input: what rules may rely on; an Explainer warns of inputs outside. shared_forward: one row of inputs
    may have many rows of target, relevance_out and masks, and of relevance, through one forward pass.
    Raises InvalidModel, UnsupportedOp, RuleMismatch, CompositeError, each naming the node and the remedy.
    """
    check_precision(precision)
    chosen = resolve(composite, presets.parse)
    request = Request(init, tuple(layers), tuple(conditions), checks, position, chosen.times_input, chosen.derivative)
    keep = [k for k in (*layers, *conditions, *(explain or ())) if isinstance(k, str)]
    source, facts, plan = prepare(model, chosen, request, output, explain, keep, canonize, class_axis, input_shapes)
    ranges = ranges_of(source.graph, input_ranges)
    emit = forward(source, facts, ranges, shared_forward)
    face = open_inputs(emit, plan, facts, request)
    assert face.seed is not None
    if shared_forward:
        check_shared(source.graph, plan, facts)
    found, books = backward(emit, plan, facts, face.seed, face.masks)
    graph = expose(emit, source, plan, facts, request, face, found, books)
    if optimize:
        speed_up(graph, emit.shapes())
    if precision == "fp16":
        to_half(graph)
    if portable:
        to_portable(graph)
    if bake:
        bake_constants(graph)
    known = runtime_facts(source.graph, graph, facts, plan, face, request, ranges) | {"shared": shared_forward}
    if shared_forward:  # rows of relevance are no rows of the inputs
        known["rows"] |= {"independent": False, "stuck": face.seed.name}
    props = properties(plan, face, request, [b.step.layer for b in books], known) | {"onnxlrp.precision": precision}
    props |= {"onnxlrp.portable": "1"} if portable else {}
    props |= {key: source.props[key] for key in KEYS if key in source.props}  # the names of the classes
    return to_proto(graph, source.metadata, props, face.defaults, source.types)


@collecting_later()
def inspect(
    model: ModelSource,
    composite: CompositeLike = "epsilon_plus",
    *,
    output: str | None = None,
    explain: Sequence[str] | None = None,
    init: str = "logit",
    canonize: bool = True,
    class_axis: int | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> Plan:
    """The plan without compiling: which rule every layer gets, and why. Arguments and errors as for `compile`."""
    chosen = resolve(composite, presets.parse)
    request = Request(init, derivative=chosen.derivative)
    return prepare(model, chosen, request, output, explain, list(explain or ()), canonize, class_axis, input_shapes)[2]


def prepare(
    model: ModelSource,
    composite: Composite,
    request: Request,
    output: str | None,
    explain: Sequence[str] | None,
    keep: Sequence[str],
    canonize: bool,
    class_axis: int | None,
    input_shapes: Mapping[str, Sequence[int | str]] | None,
) -> tuple[Source, Facts, Plan]:
    """load, normalize, analyse, assign."""
    source = load(model, input_shapes)
    keep = [*keep, *([output] if output is not None else [])]
    normalize(source, keep, canonize)
    head = find_head(source.graph, output, class_axis)
    finish(source, head.tensor)
    kept = {*keep, head.tensor, *(o.name for o in source.graph.outputs)}
    facts = analyse(source.graph, units(source.graph, kept, canonize), head.tensor, explain)
    init = "one" if request.derivative and request.init == "logit" else request.init
    return source, facts, assign(source, composite, facts, head, init)


def properties(
    plan: Plan, face: Interface, request: Request, rows: Sequence[int | None], known: Mapping[str, Any]
) -> dict[str, str]:
    """metadata_props of the compiled model; `onnxlrp.interface` tells the runtime which output is what."""
    assert face.seed is not None
    shape, axis = face.seed.shape, plan.head.class_axis
    classes = shape[axis] if shape is not None and axis is not None else None
    interface = {
        "initial": face.seed.name,
        "target": face.target,
        "relevance": face.relevance,
        "layers": face.layers,
        "tokens": face.tokens,
        "checks": face.checks,
        "check_layers": list(rows),
        "class_axis": axis,
        "classes": classes if isinstance(classes, int) else None,
        "conserves": not (request.derivative or request.times_input),
        "times_input": request.times_input,
        **known,
    }
    return {
        "onnxlrp.version": __version__,
        "onnxlrp.composite": plan.composite,
        "onnxlrp.plan": plan.to_json(),
        "onnxlrp.explained": json.dumps(plan.explained),
        "onnxlrp.output": plan.head.output,
        "onnxlrp.init": plan.init,
        "onnxlrp.interface": json.dumps(interface),
    }
