"""Analyses of a graph: what carries relevance, which inputs are scaled, where the batch axis went."""

from __future__ import annotations

import difflib
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .constants import constants_of
from .errors import CompositeError, UnsupportedOp
from .order import depends

if TYPE_CHECKING:
    from .groups import Unit

__all__ = ["INERT", "Facts", "analyse", "scaled_inputs", "subscripts"]

LOOK_THROUGH = frozenset("Transpose Reshape Cast Squeeze Unsqueeze Identity Flatten".split())


def scaled_inputs(graph: gs.Graph, names: Collection[str]) -> set[str]:
    """Tensors that are an explained graph input shifted and scaled by constants (INPUT SCALING), the inputs included."""
    fixed = constants_of(graph)
    scaled = {*(t.name for t in graph.inputs), *cast_inputs(graph)} & set(names)
    for node in graph.nodes:
        hits = [i for i, t in enumerate(node.inputs) if t.name in scaled]
        if (node.op in LOOK_THROUGH and hits == [0]) or (hits and _table_move(node, scaled, fixed)):
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


def _table_move(node: gs.Node, scaled: Collection[str], fixed: Collection[str]) -> bool:
    """Whether a node picks or joins columns of a table (N,C), or puts a constant where one of its values is missing."""
    if node.outputs[0].shape is None or len(node.outputs[0].shape) != 2:
        return False
    if node.op == "Concat":
        return all(t.name in scaled or t.name in fixed or not t.inputs for t in node.inputs)
    if node.op == "Gather":
        return node.inputs[0].name in scaled and node.inputs[1].name in fixed
    if node.op != "Where" or not node.inputs[0].inputs or node.inputs[1].name not in fixed:
        return False
    test = node.inputs[0].inputs[0]
    return test.op in ("IsNaN", "Equal") and test.inputs[0] is node.inputs[2]


# nothing flows through these: shapes, comparisons, logic, integers, random numbers
INERT = frozenset(
    (
        "Shape Size ArgMax ArgMin Equal Greater GreaterOrEqual Less LessOrEqual Not And Or Xor BitShift "
        "BitwiseAnd BitwiseOr BitwiseNot BitwiseXor NonZero IsNaN IsInf RandomNormal RandomNormalLike "
        "RandomUniform RandomUniformLike Multinomial Bernoulli Constant ConstantOfShape Range EyeLike OneHot "
        "Sign Floor Ceil Round Unique NonMaxSuppression Hardmax BitCast SequenceLength OptionalHasElement "
        "QuantizeLinear DynamicQuantizeLinear "
        "HannWindow HammingWindow BlackmanWindow MelWeightMatrix ImageDecoder TfIdfVectorizer "
        "StringNormalizer StringConcat StringSplit RegexFullMatch "
        "Binarizer CastMap CategoryMapper DictVectorizer LabelEncoder OneHotEncoder ZipMap"  # of domain ai.onnx.ml
    ).split()
)
# inputs that carry relevance, where the others only say from where: sampling grids, regions of interest
CARRIERS = {"GridSample": (0,), "RoiAlign": (0,), "MaxRoiPool": (0,)}
INDEX_MOVES = frozenset(
    ("Cast Identity Reshape Squeeze Unsqueeze Flatten Slice Split Gather Concat Transpose Expand Tile Add Sub").split()
)


COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@dataclass(frozen=True)
class Facts:
    """What is known about a model with a chosen head and chosen explained tensors.

    path: units that carry relevance, in order. active: tensors on it, which the explained ones reach through float operators.
    needed: those of them that lead to the head.
    scaled: see scaled_inputs. batch: axis that the model's batch axis has become, per tensor. notes: for the plan.
    """

    explained: tuple[str, ...]
    path: tuple[Unit, ...]
    active: frozenset[str]
    needed: frozenset[str]
    scaled: frozenset[str]
    batch: Mapping[str, int]
    notes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()  # explained embeddings


def analyse(graph: gs.Graph, units: Sequence[Unit], head: str, explain: Sequence[str] | None) -> Facts:
    """Raises UnsupportedOp when nothing that could be explained reaches the head, CompositeError for unknown names."""
    tensors = {t.name for u in graph.nodes for t in (*u.inputs, *u.outputs)} | {t.name for t in graph.inputs}
    if isinstance(explain, str):
        raise CompositeError(f"explain takes a list of tensor names, got the text {explain!r}; write [{explain!r}]")
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
        casts = [c for c in cast_inputs(graph) if head in reach(units, [c])]
        hint = f", such as '{casts[0]}', the integer input as a float" if casts and explain is None else ""
        raise UnsupportedOp(
            f"output '{head}' does not depend on {names} through operators that carry relevance{dead_end(units, lost, head)}; "
            f"name another output (output=) or another tensor to explain (explain=){hint}"
        )
    active = reach(units, explained)
    needed, path = {head}, []
    for unit in reversed(units):
        used = active.intersection(carriers(unit))
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
        frozenset(active & needed),
        frozenset(scaled_inputs(graph, explained)),
        batch_axes(graph, explained),
        grid_notes(units, path, explained),
        tuple(t for t in explained if t in embeddings(graph)),
    )


def cast_inputs(graph: gs.Graph) -> list[str]:
    """Integer graph inputs as the floats that they are cast to."""
    integers = {t.name for t in graph.inputs if not is_float(t)}
    casts = [n for n in graph.nodes if n.op == "Cast" and n.inputs[0].name in integers]
    return [n.outputs[0].name for n in casts if is_float(n.outputs[0])]


def dead_end(units: Sequence[Unit], names: Sequence[str], head: str) -> str:
    """The node at which the way from the explained tensors to the head ends, for an error message."""
    active, leads = reach(units, names), {head}
    end = None
    for unit in reversed(units):
        if any(t.name in leads for t in unit.outputs):
            leads |= set(depends(unit))
            if any(n in active for n in depends(unit)) and not any(t.name in active and t.name in leads for t in unit.outputs):
                end = unit
    return f": it ends at node '{end.name}' ({end.op})" if end is not None else ""


def carriers(unit: Unit) -> list[str]:
    """Names of what a unit depends on and can send relevance to."""
    only = CARRIERS.get(unit.op)
    return list(depends(unit)) if only is None else [unit.inputs[i].name for i in only]


def grid_notes(units: Sequence[Unit], path: Sequence[Unit], explained: Sequence[str]) -> tuple[str, ...]:
    """What to tell of units that look where the explained tensors say."""
    looking = [u for u in reversed(path) if u.op in CARRIERS]
    touched = set(explained)
    for unit in units if looking else ():
        if any(name in touched for name in depends(unit)):
            touched |= {t.name for t in unit.outputs}
    return tuple(
        f"node '{u.name}' ({u.op}) looks where '{t.name}' says, which depends on the input: nothing goes back that way"
        for u in looking
        for i, t in enumerate(u.inputs)
        if t.name in touched and i not in CARRIERS[u.op]
    )


def is_float(t: gs.Tensor) -> bool:
    """float16, bfloat16, float32 or float64; an unknown type counts, so that nothing is lost silently."""
    if isinstance(t.dtype, int):  # a type that numpy has not: 8-bit floats and 4-bit integers are codes
        return t.dtype == onnx.TensorProto.BFLOAT16
    return t.dtype is None or np.dtype(t.dtype).kind == "f"


def reach(units: Sequence[Unit], names: Sequence[str]) -> set[str]:
    """Tensors that these reach through operators that carry relevance."""
    active = set(names)
    for unit in units:
        if unit.op not in INERT and any(name in active for name in carriers(unit)):
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
    if node.op == "Einsum":
        return _batch_after_einsum(node, x, axis)
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
    if node.op in ("Shape", "Size", "GatherND", "OneHot", "NonZero", "RoiAlign", "MaxRoiPool"):
        return None
    if node.op == "Col2Im":
        return 0 if axis == 0 else None
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


def _batch_after_einsum(node: gs.Node, x: gs.Tensor, axis: int) -> int | None:
    """Place in the output of the letter that stands for the batch axis."""
    if any(t.shape is None for t in node.inputs):
        return None
    terms, out = subscripts(str(node.attrs["equation"]), [len(t.shape) for t in node.inputs])
    letter = terms[[t is x for t in node.inputs].index(True)][axis]
    return out.index(letter) if letter in out else None


def subscripts(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Letters of each operand and the output of an Einsum; an ellipsis becomes capitals, an implicit output explicit."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    free = iter(c for c in string.ascii_uppercase if c not in text)
    widths = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    dots = "".join(next(free) for _ in range(max(widths)))
    if not arrow:
        used = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(c for c in set(used) if used.count(c) == 1))
    terms = [t.replace("...", dots[len(dots) - width :]) for t, width in zip(terms, widths, strict=True)]
    return terms, right.replace("...", dots)
