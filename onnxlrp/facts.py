"""Analyses: what is proved about tensors. Intervals per operator here; activity, batch axis and head per graph.

Nothing is assumed that is not proved: an operator without a row has an unbounded result.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .constants import constants_of
from .errors import CompositeError, UnsupportedOp
from .graph import depends

if TYPE_CHECKING:
    from .groups import Unit

__all__ = ["INERT", "Facts", "Interval", "analyse", "interval", "scaled_inputs"]

INF = float("inf")
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


class Interval(NamedTuple):
    """low <= every element <= high (NaN aside)."""

    low: float = -INF
    high: float = INF

    @classmethod
    def of(cls, value: np.ndarray) -> Interval:
        """Range of a constant."""
        if value.size == 0 or value.dtype.kind not in "fiub":
            return cls()
        low, high = float(value.min()), float(value.max())
        return cls() if np.isnan(low) or np.isnan(high) else cls(low, high)

    @property
    def sign(self) -> Interval:
        """What survives rounding: non-negative, non-positive, or nothing."""
        return Interval(0.0 if self.low >= 0 else -INF, 0.0 if self.high <= 0 else INF)

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def plus(self, other: Interval) -> Interval:
        return Interval(self.low if other.low >= 0 else -INF, self.high if other.high <= 0 else INF).sign

    def times(self, other: Interval) -> Interval:
        a, b = self.sign, other.sign
        if (a.low == 0 and b.low == 0) or (a.high == 0 and b.high == 0):
            return Interval(0.0, INF)
        return Interval(-INF, 0.0) if (a.low == 0 and b.high == 0) or (a.high == 0 and b.low == 0) else Interval()


class Ranged(Protocol):
    """Anything with a range and, when constant, a value."""

    span: Interval
    value: np.ndarray | None


Rule = Callable[[Sequence[Any], Mapping[str, Any]], Interval]


def _keep(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    return xs[0].span


def _sign(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign


def _union(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out = xs[0].span
    for x in xs[1:]:
        out = out.union(x.span)
    return out


def _sum(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out = xs[0].span.sign
    for x in xs[1:]:
        out = out.plus(x.span.sign)
    return out


def _product(xs: Sequence[Any], _: Mapping[str, Any]) -> Interval:
    if len(xs) == 2 and xs[0] is xs[1]:
        return Interval(0.0, INF)
    out: Interval = xs[0].span.times(xs[1].span)
    return out


def _quotient(xs: Sequence[Any], _: Mapping[str, Any]) -> Interval:
    # x / ±0 is an infinity of either sign
    below = xs[1].span
    return _product(xs, {}) if below.low > 0 or below.high < 0 or xs[0] is xs[1] else Interval()


def _opt(xs: Sequence[Ranged | None], index: int) -> Ranged | None:
    return xs[index] if len(xs) > index else None


def _affine(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    out, bias = xs[0].span.times(xs[1].span), _opt(xs, 2)
    return out if bias is None else out.plus(bias.span.sign)


def _gemm(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return _affine(xs, attrs) if attrs.get("alpha", 1.0) > 0 and attrs.get("beta", 1.0) >= 0 else Interval()


def _fixed(low: float, high: float) -> Rule:
    return lambda xs, attrs: Interval(low, high)


def _clip(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    low, high = xs[0].span
    below, above = _opt(xs, 1), _opt(xs, 2)
    if below is not None and below.value is not None and below.value.size == 1:
        low, high = (max(v, float(below.value.ravel()[0])) for v in (low, high))
    if above is not None and above.value is not None and above.value.size == 1:
        low, high = (min(v, float(above.value.ravel()[0])) for v in (low, high))
    unknown = (below is not None and below.value is None) or (above is not None and above.value is None)
    return Interval() if unknown else Interval(low, high)


def _pad(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    if attrs.get("mode", "constant") != "constant":
        return xs[0].span
    value = _opt(xs, 2)
    return xs[0].span.union(Interval(0.0, 0.0) if value is None else value.span)


def _pow(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    value = xs[1].value
    n = float(value.ravel()[0]) if value is not None and value.size == 1 else None
    even = n is not None and n % 2 == 0
    return Interval(0.0, INF) if even or xs[0].span.low > 0 or (xs[0].span.low == 0 and (n or -1) > 0) else Interval()


def _cast(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign if attrs.get("to") in FLOATS else Interval()  # integers wrap around


def _leaky(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    return xs[0].span.sign if attrs.get("alpha", 0.01) >= 0 else Interval()


def _resize(xs: Sequence[Ranged], attrs: Mapping[str, Any]) -> Interval:
    beyond = attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"  # puts extrapolation_value there
    return xs[0].span.sign if attrs.get("mode", "nearest") in ("nearest", "linear") and not beyond else Interval()


def _abs(xs: Sequence[Ranged], _: Mapping[str, Any]) -> Interval:
    low, high = xs[0].span
    return Interval(max(0.0, low, -high), max(-low, high))


# operator -> range of the first output from the ranges of the inputs; bounds survive exact operators, signs survive rounding
INTERVALS: dict[str, Rule] = {
    **dict.fromkeys(
        ("Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather GatherElements GatherND "
    "Expand Tile MaxPool GlobalMaxPool ReduceMax ReduceMin DepthToSpace SpaceToDepth Compress "
    "ReverseSequence TopK").split(), _keep),
    **dict.fromkeys("AveragePool GlobalAveragePool ReduceMean ReduceSum CumSum LRN".split(), _sign),
    **dict.fromkeys("Tanh Softsign Erf Atan Sinh Asinh".split(), _sign),
    **dict.fromkeys(["Concat", "Max", "Min"], _union),
    **dict.fromkeys(["Add", "Sum", "Mean"], _sum),
    "Mul": _product, "Div": _quotient, "Cast": _cast, "Trilu": lambda xs, _: xs[0].span.union(Interval(0.0, 0.0)),
    **dict.fromkeys(["Conv", "ConvTranspose", "MatMul"], _affine),
    **dict.fromkeys("Exp Sqrt Softplus ReduceL1 ReduceL2 ReduceSumSquare LpPool GlobalLpPool".split(), _fixed(0.0, INF)),
    **dict.fromkeys(["Sigmoid", "HardSigmoid", "Softmax", "Hardmax"], _fixed(0.0, 1.0)),
    "Relu": lambda xs, _: Interval(max(0.0, xs[0].span.low), max(0.0, xs[0].span.high)),
    "Neg": lambda xs, _: Interval(-xs[0].span.high, -xs[0].span.low),
    "Sub": lambda xs, _: xs[0].span.sign.plus(Interval(-xs[1].span.high, -xs[1].span.low).sign),
    "Where": lambda xs, _: xs[1].span.union(xs[2].span),
    "Gemm": _gemm, "Clip": _clip, "Pad": _pad, "Pow": _pow, "LeakyRelu": _leaky, "Resize": _resize, "Abs": _abs,
}  # fmt: skip


def interval(op: str, attrs: Mapping[str, Any], xs: Sequence[Ranged | None]) -> Interval:
    """Proved range of a node's first output; absent inputs are None."""
    return INTERVALS[op](xs, attrs) if op in INTERVALS and xs and xs[0] is not None else Interval()


# ---------------------------------------------------------------------------------------------------- analyses of a graph

LOOK_THROUGH = frozenset("Transpose Reshape Cast Squeeze Unsqueeze Identity Flatten".split())


def scaled_inputs(graph: gs.Graph, names: Collection[str]) -> set[str]:
    """Tensors that are an explained graph input shifted and scaled by constants (INPUT SCALING), the inputs included."""
    fixed = constants_of(graph)
    scaled = {t.name for t in graph.inputs} & set(names)
    for node in graph.nodes:
        hits = [i for i, t in enumerate(node.inputs) if t.name in scaled]
        if node.op in LOOK_THROUGH and hits == [0]:
            scaled.add(node.outputs[0].name)
        elif node.op in ("Add", "Sub", "Mul", "Div") and len(hits) == 1:
            other = node.inputs[1 - hits[0]]
            by_any = node.op == "Mul" or (node.op in ("Sub", "Div") and hits == [0])
            along = [d for d in (other.shape or ()) if d != 1]
            if other.name in fixed and (by_any or (node.op == "Add" and len(along) <= 1)):
                scaled.add(node.outputs[0].name)
        elif node.op == "BatchNormalization" and hits == [0]:
            scaled.add(node.outputs[0].name)  # the same shift and scale in one operator; its own kind passes it too
    return scaled


# nothing flows through these: shapes, comparisons, logic, integers, random numbers
INERT = frozenset(
    (
        "Shape Size ArgMax ArgMin Equal Greater GreaterOrEqual Less LessOrEqual Not And Or Xor BitShift "
        "BitwiseAnd BitwiseOr BitwiseNot BitwiseXor NonZero IsNaN IsInf RandomNormal RandomNormalLike "
        "RandomUniform RandomUniformLike Multinomial Bernoulli Constant ConstantOfShape Range EyeLike OneHot "
        "Sign Floor Ceil Round Unique NonMaxSuppression"
    ).split()
)
INDEX_MOVES = frozenset(
    ("Cast Identity Reshape Squeeze Unsqueeze Flatten Slice Split Gather Concat Transpose Expand Tile Add Sub").split()
)


COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@dataclass(frozen=True)
class Facts:
    """What is known about a model with a chosen head and chosen explained tensors.

    path: units that carry relevance, in order. active: tensors on it, which the explained ones reach through float operators.
    scaled: see scaled_inputs. batch: axis that the model's batch axis has become, per tensor.
    """

    explained: tuple[str, ...]
    path: tuple[Unit, ...]
    active: frozenset[str]
    scaled: frozenset[str]
    batch: Mapping[str, int]


def analyse(graph: gs.Graph, units: Sequence[Unit], head: str, explain: Sequence[str] | None) -> Facts:
    """Raises UnsupportedOp when nothing that could be explained reaches the head, CompositeError for unknown names."""
    tensors = {t.name for u in graph.nodes for t in (*u.inputs, *u.outputs)} | {t.name for t in graph.inputs}
    if explain is not None:
        for name in explain:
            if name not in tensors:
                near = difflib.get_close_matches(name, tensors, 3)
                raise CompositeError(f"explain: no tensor is called '{name}'; near are {', '.join(near) or 'none'}")
        candidates = list(explain)
    else:
        candidates = [t.name for t in graph.inputs if is_float(t)] + embeddings(graph)
    explained = tuple(c for c in candidates if head in reach(units, [c]))
    if not explained or (explain is not None and len(explained) < len(candidates)):
        lost = [c for c in candidates if c not in explained]
        names = ", ".join(f"'{n}'" for n in lost) or "any float input or embedding"
        raise UnsupportedOp(
            f"output '{head}' does not depend on {names} through operators that carry relevance{dead_end(units, lost, head)}; "
            "name another output (output=) or another tensor to explain (explain=)"
        )
    active = reach(units, explained)
    needed, path = {head}, []
    for unit in reversed(units):
        used = active.intersection(depends(unit))
        outs = {t.name for t in unit.outputs if t.name in active}
        if used and outs & needed and not outs <= set(explained):
            path.append(unit)
            needed |= used
    behind = [c for c in explained if c not in needed]
    if behind:
        raise CompositeError(
            f"explain: '{behind[0]}' reaches '{head}' only through other explained tensors, where relevance ends; "
            "ask for those with layers= instead"
        )
    active &= {*explained, *(t.name for u in path for t in u.outputs)}
    return Facts(
        explained,
        tuple(reversed(path)),
        frozenset(active),
        frozenset(scaled_inputs(graph, explained)),
        batch_axes(graph, explained),
    )


def dead_end(units: Sequence[Unit], names: Sequence[str], head: str) -> str:
    """The node at which the way from the explained tensors to the head ends, for an error message."""
    active, leads = reach(units, names), {head}
    end = None
    for unit in reversed(units):
        if any(t.name in leads for t in unit.outputs):
            leads |= set(depends(unit))
            if any(n in active for n in depends(unit)) and not any(t.name in active for t in unit.outputs):
                end = unit
    return f": it ends at node '{end.name}' ({end.op})" if end is not None else ""


def is_float(t: gs.Tensor) -> bool:
    """float16, float32 or float64; an unknown type counts, so that nothing is lost silently."""
    try:
        return t.dtype is None or np.dtype(t.dtype).kind == "f"
    except TypeError:
        return True


def reach(units: Sequence[Unit], names: Sequence[str]) -> set[str]:
    """Tensors that these reach through operators that carry relevance."""
    active = set(names)
    for unit in units:
        if unit.op not in INERT and any(name in active for name in depends(unit)):
            active |= {t.name for t in unit.outputs if t.name and is_float(t)}
    return active


def embeddings(graph: gs.Graph) -> list[str]:
    """Outputs of Gathers that look an integer input up in a constant table; of a quantised table, after DequantizeLinear.

    An index stays one through moves, offsets and casts, and where a flag switches it (index · flag, the wrap-around of
    negative indices); what comparisons or CumSum make of an input, such as positions from a mask, is none.
    """
    fixed = constants_of(graph)
    index = {t.name for t in graph.inputs if not is_float(t)}
    flags: set[str] = set()
    codes: set[str] = set()  # rows of a quantised table
    out = []
    for node in graph.nodes:
        made = {t.name for t in node.outputs if t.name and not is_float(t)}
        looked_up = node.op == "Gather" and node.inputs[0].name in fixed and node.inputs[1].name in index
        if (looked_up and not made) or (node.op == "DequantizeLinear" and node.inputs[0].name in codes):
            out.append(node.outputs[0].name)
        elif node.op in INDEX_MOVES and any(t.name in index for t in node.inputs):
            index |= made
            codes |= made if looked_up or any(t.name in codes for t in node.inputs) else set()
        elif node.op in COMPARISONS or (node.op in ("Not", "Cast") and node.inputs[0].name in flags):
            flags |= made
        elif node.op == "Mul" and len([t for t in node.inputs if t.name in index]) == 1:
            index |= made if all(x.name in index | flags for x in node.inputs) else set()
    return out


def batch_axes(graph: gs.Graph, explained: Sequence[str] = ()) -> dict[str, int]:
    """Axis of each tensor that is the model's batch axis: axis 0 of the inputs, traced as far as it can be.

    An input of fixed size on axis 0 is shared by the batch when other inputs leave theirs open, or explained ones differ.
    """
    front = {t.name: t.shape[0] for t in graph.inputs if t.shape}
    batches = [d for d in front.values() if not isinstance(d, int)] or [d for t, d in front.items() if t in explained]
    axes = {name: 0 for name, d in front.items() if not batches or d in batches}
    for node in graph.nodes:
        source = next((t for t in node.inputs if t.name in axes), None)
        if source is None or source.shape is None:
            continue
        for t in node.outputs:
            axis = _batch_after(node, source, axes[source.name], t)
            if axis is not None and t.name:
                axes[t.name] = axis
    return axes


def _batch_after(node: gs.Node, x: gs.Tensor, axis: int, y: gs.Tensor) -> int | None:
    if y.shape is None or x.shape is None:
        return None
    rank = len(x.shape)
    if node.op == "Transpose":
        return list(node.attrs.get("perm") or range(rank)[::-1]).index(axis)
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        before = [d for d in x.shape[:axis] if d != 1]
        for a, size in enumerate(y.shape):
            ahead = [d for d in y.shape[:a] if d != 1]
            if size == x.shape[axis] and ahead == before:
                return a
        # (b, …) -> (b?, …): the batch axis stays in front when the rest keeps its number of elements
        rest_x, rest_y = x.shape[1:], y.shape[1:]
        fixed = all(isinstance(d, int) for d in (*rest_x, *rest_y))
        return 0 if axis == 0 and fixed and rest_y and np.prod(rest_x) == np.prod(rest_y) else None
    if node.op == "Resize":
        return axis if _keeps(node, axis, rank) or y.shape[axis] == x.shape[axis] else None
    if node.op.startswith(("Reduce", "Arg")) and len(y.shape) < rank:
        given = node.inputs[1].values.tolist() if len(node.inputs) > 1 and hasattr(node.inputs[1], "values") else None
        gone = [int(a) % rank for a in given or ()]
        return None if given is None or axis in gone else axis - sum(a < axis for a in gone)
    grown = len(y.shape) - rank
    if node.op == "Gemm":
        return 0 if node.inputs[0].name == x.name and axis == 0 and not node.attrs.get("transA", 0) else None
    if node.op == "MatMul":  # batch axes align on the right; the contracted axis is gone
        summed = rank - 1 if node.inputs[0].name == x.name else max(rank - 2, 0)
        if any(t.shape is None for t in node.inputs) or rank == 1 or axis == summed:
            return None
        vector = any(len(t.shape) == 1 for t in node.inputs)
        return axis - (axis > summed) if vector else axis + grown
    if node.op in ("Shape", "Size", "GatherND", "OneHot", "NonZero"):
        return None
    if node.op == "Gather":
        at, size = int(node.attrs.get("axis", 0)) % rank, len(node.inputs[1].shape or ())
        from_data = node.inputs[0].name == x.name and axis != at and node.inputs[1].shape is not None
        from_index = node.inputs[1].name == x.name and node.inputs[0].shape is not None
        if from_index:
            return axis + int(node.attrs.get("axis", 0)) % len(node.inputs[0].shape)
        return (axis if axis < at else axis - 1 + size) if from_data else None
    if node.op == "Concat" and int(node.attrs["axis"]) % rank == axis:
        return None
    return axis + grown if 0 <= axis + grown < len(y.shape) and y.shape[axis + grown] == x.shape[axis] else None


def _keeps(node: gs.Node, axis: int, rank: int) -> bool:
    """Whether a Resize is told to leave an axis as it is: it is not among its axes, or its scale is 1."""
    axes = [a % rank for a in node.attrs.get("axes", range(rank))]
    if axis not in axes:
        return True
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    known = np.ravel(scales.values) if isinstance(scales, gs.Constant) else ()
    return len(known) > 0 and bool(known[axes.index(axis)] == 1)
