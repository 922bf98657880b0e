"""What the runtime must know of a compiled graph, so that it opens the file without reading its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .facts import Facts
from .intervals import Interval
from .outputs import Interface, Request
from .plan import Plan
from .rows import rows_of

__all__ = ["runtime_facts"]

STILL = frozenset("Identity Cast Transpose Reshape Flatten Squeeze Unsqueeze".split())  # the values stay as they are


def runtime_facts(
    model: gs.Graph,
    graph: gs.Graph,
    facts: Facts,
    plan: Plan,
    face: Interface,
    request: Request,
    ranges: Mapping[str, Interval],
) -> dict[str, Any]:
    """Entries of `onnxlrp.interface`. model: what was read; graph: what was made of it.

    value: how the initial relevance follows from the explained output ("logit", "one"), or "given", or "" where the graph
    must be asked. inner: the explained tensor within the model. gaps: whether NaN in an input stands for a missing value.
    """
    assert face.seed is not None
    shown = {o.name for o in model.outputs}
    made = {t.name for n in graph.nodes for t in n.outputs}
    head, given = plan.head, request.init == "given"
    init = "one" if request.derivative and request.init == "logit" else request.init
    # attention masks choose positions of outputs of rank 3
    plain = head.tensor == head.output and request.position is None and head.rank != 3 and _is_float32(model, head.tensor)
    return {
        "value": "given" if given else init if plain else "",
        "inner": head.output if head.output not in shown and head.output in made else "",
        "gaps": any(n.op == "IsNaN" for n in graph.nodes),
        "boxes": _boxes(model, plan),
        "ranges": {name: [v if np.isfinite(v) else None for v in span] for name, span in ranges.items()},
        "rows": rows_of(model, facts, face, [head.output, head.tensor], given),
    }


def _is_float32(model: gs.Graph, name: str) -> bool:
    return any(o.name == name and o.dtype is not None and o.dtype == np.float32 for o in model.outputs)


def _boxes(model: gs.Graph, plan: Plan) -> list[dict[str, Any]]:
    """The bounds of rules between numbers whose layer reads an input's values as they are, with that input."""
    before = {n.outputs[0].name: n.inputs[0].name for n in model.nodes if n.op in STILL}
    inputs = {t.name for t in model.inputs}
    found = []
    for layer in plan:
        box, name = layer.rule.bounds, layer.input
        while box is not None and name not in inputs and name in before:
            name = before[name]
        if box is not None and name in inputs:
            row = {"index": layer.index, "name": layer.name, "tensor": name, "rule": repr(layer.rule)}
            found.append({**row, "low": box[0], "high": box[1]})
    return found
