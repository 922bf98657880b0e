"""What is known of small tensors before any input is: sizes, counters, conditions. `derive` computes one node of it.

Of a shape with symbols some sizes are known, and so are copies of these and what is computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from .opsets import OPSET

__all__ = ["RANDOM", "Partial", "derive", "fold_sizes", "known", "value_of"]

LIMIT = 1024  # elements of a tensor that is followed
RANDOM = frozenset("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli".split())
Array = np.ndarray

# operators that copy their first input, whatever its values are; the other inputs say which values go where
COPIES = frozenset("Gather GatherElements Slice Squeeze Unsqueeze Reshape Flatten Transpose Expand Tile Identity Split".split())
ELEMENTWISE = frozenset(
    ("Cast Add Sub Mul Div Mod Min Max Neg Abs Floor Ceil Equal Less LessOrEqual Greater GreaterOrEqual Not Xor Where").split()
)
GROWING = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1, "OneHot": 1}  # the input that says to which size
ABSORBING = {"And": False, "Or": True}  # False And x is False, whatever x is


@dataclass(frozen=True)
class Partial:
    """Values of a tensor, and which of them are sure; the others are arbitrary."""

    value: Array
    sure: Array

    @property
    def all(self) -> bool:
        return bool(self.sure.all())


def known(value: Any) -> Partial:
    """A value of which everything is sure."""
    value = np.asarray(value)
    return Partial(value, np.ones(value.shape, bool))


def value_of(t: gs.Tensor) -> Partial | None:
    """A small constant."""
    small = isinstance(t, gs.Constant) and not isinstance(t.dtype, int) and np.prod(t.shape, dtype=np.int64) <= LIMIT
    return known(t.values) if small and np.dtype(t.dtype).kind in "biuf" else None


def derive(node: gs.Node, xs: Sequence[Partial | None]) -> list[Partial] | None:
    """Outputs of a node from what is known of its inputs, None where nothing is."""
    if (node.domain or "") != "" or node.op in RANDOM or any(isinstance(a, gs.Graph) for a in node.attrs.values()):
        return None
    if node.op in ("Shape", "Size"):
        return _sizes(node)
    if node.op in ABSORBING:
        xs = [x or _unsure(t) for x, t in zip(xs, node.inputs, strict=True)]
    if any(x is None and t.name for x, t in zip(xs, node.inputs, strict=True)):
        return None
    given = [x for x in xs if x is not None]
    whole = all(x.all for x in given)
    copies = node.op == "Concat" or (node.op in COPIES and all(x.all for x in given[1:]))
    if not (whole or copies or node.op in ELEMENTWISE or node.op in ABSORBING):
        return None
    made = _run(node, [None if x is None else x.value for x in xs])
    if made is None or whole:
        return None if made is None else [known(m) for m in made]
    if copies:  # a value is as sure as the one that it is a copy of
        first = len(xs) if node.op == "Concat" else 1
        moved = _run(node, [None if x is None else x.sure if i < first else x.value for i, x in enumerate(xs)])
        return None if moved is None else [Partial(m, s.astype(bool)) for m, s in zip(made, moved, strict=True)]
    sure = np.logical_and.reduce(np.broadcast_arrays(*(x.sure for x in given)))
    value = made[0]
    if node.op in ABSORBING:
        end = ABSORBING[node.op]
        decided = np.logical_or.reduce(np.broadcast_arrays(*(x.sure & (x.value == end) for x in given)))
        value, sure = np.where(decided, end, value), sure | decided
    return [Partial(value, sure)]


def _unsure(t: gs.Tensor) -> Partial | None:
    """A truth value of which only the shape is known."""
    if t.shape is None or not all(isinstance(d, int) for d in t.shape) or np.prod(t.shape, dtype=np.int64) > LIMIT:
        return None
    return Partial(np.zeros(t.shape, bool), np.zeros(t.shape, bool))


def _sizes(node: gs.Node) -> list[Partial] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    sure = np.asarray([isinstance(d, int) for d in shape], bool)
    sizes = np.asarray([d if isinstance(d, int) else 1 for d in shape], np.int64)
    if node.op == "Size":
        return [Partial(np.asarray(sizes.prod()), np.asarray(sure.all()))]
    part = slice(node.attrs.get("start", 0), node.attrs.get("end"))
    return [Partial(sizes[part], sure[part])]


def _run(node: gs.Node, values: Sequence[Array | None]) -> list[Array] | None:
    """The node on these values, by the standard's reference implementation; None where it has none or makes too much."""
    from onnx.reference import ReferenceEvaluator  # 0.1 s, which few models need

    grown = values[GROWING[node.op]] if node.op in GROWING else None
    if grown is not None and np.prod(np.maximum(np.abs(grown.astype(np.float64)), 1)) > LIMIT:
        return None
    names = [t.name for t in node.inputs]
    proto = OnnxExporter.export_node(node)
    inputs, outputs = (
        [onnx.helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(f) if n] for f in (names, proto.output)
    )
    graph = onnx.helper.make_graph([proto], "node", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    try:
        with np.errstate(all="ignore"):
            made = ReferenceEvaluator(model).run(None, {n: v for n, v in zip(names, values, strict=True) if n})
    except Exception:
        return None
    made = [np.asarray(m) for m in made]
    return made if all(m.size <= LIMIT and m.dtype.kind in "biuf" for m in made) else None


def fold_sizes(nodes: Iterable[gs.Node], replace: Callable[[gs.Tensor, gs.Constant], None]) -> None:
    """Replace what follows from the known sizes among the shapes: `Gather(Shape(x), 1)` of x (batch, 3, 8, 8) by 3."""
    found: dict[str, Partial] = {}
    for node in nodes:
        if node.op not in ("Shape", "Size") and not any(t.name in found for t in node.inputs):
            continue
        made = derive(node, [found[t.name] if t.name in found else value_of(t) for t in node.inputs])
        for t, m in zip([t for t in node.outputs if t.name], made or (), strict=False):
            if m.all and t.outputs:
                replace(t, gs.Constant(f"{t.name}/value", np.ascontiguousarray(m.value) if m.value.ndim else m.value))
            elif not m.all:
                found[t.name] = m
