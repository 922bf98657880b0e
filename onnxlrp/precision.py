"""Mixed precision: Conv, ConvTranspose, Gemm and MatMul in float16, everything else in float32. Made for GPUs.

    Σ_k x_ik w_kj  =  t_i l_j Σ_k (x_ik / t_i) (w_kj / l_j)     t_i = max_k |x_ik|,       l_j = max_k |w_kj| n / 2^15
    Σ_k s_ik w_kj  =  t_i Σ_k (s_ik l_k / t_i) (w_kj / l_k)     t_i = max_k |s_ik l_k|,   l_k = max_j |w_kj| n / 2^15

The first for products with activations, the second for adjoints: s = r / stab(z) is huge where z is small, which says
nothing when the weights of that z are small as well. n is how many numbers a product sums. The factors of a product are
at most 1 and 2^15 / n, so its sum is at most 2^15: float16 (largest number 65,504) cannot overflow, whatever the
input, and what it rounds to 0 is below 2^-24 of the largest factor. A row i is a sample (convolutions) or a vector of the
contracted axis (Gemm, MatMul), so rows stay independent. l is 1 where a stored weight is small enough as it is. Two
activations: l_j = Σ_k |w_kj| / 2^15. Grouped convolutions: one l.

Weights are stored in float16 where every channel keeps half precision in it; what rules make of them (w⁺, w²) is computed
in float32 from that, and rounded last. Large ones are rounded when the file is written: they are in memory once.

What stays float32: depthwise convolutions (they read more than they compute), with them the adjoint of average pooling,
products with a 1-D operand, those in subgraphs, Einsum and recurrent operators, biases, and tables that are only looked
up. Where a processor has no half arithmetic, as x86, onnxruntime computes the products in float32: right, but slower.

Error: 2^-11 per factor and product. Where it turns the sign of a z near 0 (a ReLU) or the winner of a maximum, the
relevance there moves, as it does for any other change of that size: Epsilon through many ReLUs, which is gradient × input,
and R / z with |z| far below Σ |x w| are no better in half than the weights' own rounding lets them be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper

from .additions import Additions
from .constants import producer
from .errors import CompositeError
from .inference import types_and_shapes
from .order import captured, depends
from .weights import Stored, Weight

__all__ = ["PRECISIONS", "check_precision", "to_half"]

PRECISIONS = ("fp32", "fp16")
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
TOP = 2.0**15  # no sum of products exceeds it; half of what float16 holds
TINY = 1e-30  # a row or a weight below it counts as 0
ROUNDED = 2.0**-10  # of a channel's weights may be lost to rounding: twice what rounding to 11 bits takes at most
EXACT = ("Relu", "Min", "Transpose", "Cast", "Identity")  # of a weight's values they make no new ones but 0


def check_precision(precision: str) -> None:
    """Raises CompositeError for an unknown precision."""
    if precision not in PRECISIONS:
        raise CompositeError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


class Halved(Stored):
    """A large weight that is rounded to float16 when it is read, so that it is in memory once."""

    def __init__(self, whole: Stored) -> None:
        source = whole.source
        super().__init__(TensorProto(name=source.name, data_type=HALF, dims=source.dims), whole.folder)
        self.whole = whole

    def load(self) -> np.ndarray:
        return _rounded(self.whole.load())

    def proto(self) -> TensorProto:
        return numpy_helper.from_array(self.load(), self.source.name)


class Product(NamedTuple):
    """A node that becomes half: position of its weight, which axes of x make a row, how its weight is scaled.

    across: axes of the weight under one factor (empty: all of them). swap: axes that lay that factor out as x's.
    summed: n, or 0 where the weight is an activation.
    """

    weight: int
    rows: tuple[int, ...]
    across: tuple[int, ...]
    swap: tuple[int, int] | None
    summed: int
    adjoint: bool


def to_half(graph: gs.Graph) -> None:
    """Compute the products of a compiled graph in float16, in place; outputs, inputs and names of tensors stay."""
    half = Half(graph)
    products = {id(n): p for n in graph.nodes if (p := half.read(n)) is not None}
    half.store([n.inputs[products[id(n)].weight] for n in graph.nodes if id(n) in products])
    for node in list(graph.nodes):
        if id(node) in products:
            half.product(node, products[id(node)])
        else:
            half.nodes.append(node)
    graph.nodes[:] = half.nodes


class Half(Additions):
    """What is known of a graph, and its new nodes in order."""

    def __init__(self, graph: gs.Graph) -> None:
        super().__init__(graph, "half")
        self.graph = graph
        self.types, self.shapes = types_and_shapes(gs.export_onnx(graph, do_type_check=False))
        self.fixed = _fixed(graph)
        self.limits: dict[str, float] = {}  # stored weight -> max |w|
        self.made: dict[tuple[Any, ...], tuple[gs.Tensor, gs.Tensor | None]] = {}  # weights in half
        self.rows: dict[tuple[Any, ...], tuple[gs.Tensor, gs.Tensor]] = {}  # activations and relevances in half

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, node: gs.Node) -> Product | None:
        """How a node is computed in half; None where it stays as it is."""
        fixed = [t.name in self.fixed for t in node.inputs[:2]]
        if node.domain not in ("", None) or node.op not in PRODUCTS or all(fixed):
            return None
        if any(self.types.get(t.name) != FLOAT or len(self.shapes.get(t.name, ())) < 2 for t in node.inputs[:2]):
            return None
        if node.op == "MatMul":
            return self._matmul(node, fixed)
        sizes = self.shapes[node.inputs[1].name]
        shape = [d for d in sizes if d]
        if not fixed[1] or len(shape) < len(sizes) or (node.op == "Gemm" and not _plain(node)):
            return None
        adjoint, rank = self._is_adjoint(node, 0), len(shape)
        turned = node.op == "Conv" or bool(node.op == "Gemm" and node.attrs.get("transB", 0))  # outputs are axis 0
        summed = math.prod(shape) // shape[0 if turned else 1]
        group = int(node.attrs.get("group", 1)) if node.op != "Gemm" else 1
        if shape[1] == 1 and (group > 1 or shape[0] == 1) and node.op != "Gemm":
            return None
        if group > 1:
            return Product(1, tuple(range(1, rank)), (), None, summed if turned else summed // group, False)
        kept = int(turned == adjoint)  # the axis that has a factor for each of its indices
        across = tuple(a for a in range(rank) if a != kept)
        return Product(1, tuple(range(1, rank)), across, None if kept else (0, 1), summed, adjoint)

    def _matmul(self, node: gs.Node, fixed: Sequence[bool]) -> Product | None:
        weight = 0 if fixed[0] else 1
        rows, along = ((-2,), -1) if weight == 0 else ((-1,), -2)  # what is summed: of x, of the weight
        if not any(fixed):
            return Product(1, rows, (along,), None, 0, False)
        size = self.shapes[node.inputs[weight].name][along]
        adjoint = self._is_adjoint(node, 1 - weight)
        across, swap = ((-3 - along,), (-2, -1)) if adjoint else ((along,), None)
        return Product(weight, rows, across, swap, size, adjoint) if size else None

    def _is_adjoint(self, node: gs.Node, x: int) -> bool:
        """Whether x is relevance, not an activation or a part of one."""
        maker = producer(node.inputs[x])
        return bool(
            node.name.startswith("lrp/")
            and node.inputs[x].name.startswith("lrp/")
            and (maker is None or maker.op not in ("Relu", "Min", "Neg", "Expand"))
        )

    # ------------------------------------------------------------------------------------------------------- weights

    def store(self, weights: Sequence[gs.Tensor]) -> None:
        """Keep what the weights are made of as float16, where float16 can hold it; everybody reads it through a Cast."""
        sources: dict[str, gs.Constant] = {}
        seen: set[str] = set()
        waiting = [t for t in weights if t.name in self.fixed]
        while waiting:
            t = waiting.pop()
            if t.name in seen:
                continue
            seen.add(t.name)
            if isinstance(t, gs.Constant) and len(t.shape) > 1:
                sources[t.name] = t
            waiting += producer(t).inputs if producer(t) is not None else ()
        captives = {name for n in self.graph.nodes for name in captured(n)}
        casts: dict[str, gs.Variable] = {}
        for name, t in sources.items():
            if t.dtype not in (np.float32, np.float16) or name in captives:
                continue
            values = t.values
            small = _rounded(values)
            if t.dtype == np.float16 or _holds(values, small):
                self.limits[name] = float(np.max(np.abs(small), initial=0))
            if t.dtype == np.float32 and name in self.limits:
                lazy = isinstance(t, Weight) and isinstance(t._values, Stored)
                kept = Weight(name, Halved(t._values)) if lazy else gs.Constant(name, small)
                casts[name] = self.op("Cast", f"{name}/float32", kept, to=FLOAT)
                self.shapes[casts[name].name] = self.shapes[name]
        for node in self.graph.nodes:
            for i, t in enumerate(node.inputs):
                if t.name in casts:
                    node.inputs[i] = casts[t.name]

    def limit(self, w: gs.Tensor) -> float:
        """max |w| of a weight that has no values but those of a stored one; infinite where that is not known."""
        if isinstance(w, gs.Constant):
            plain = w.name not in self.limits and math.prod(w.shape) == 1 and not w.values.any()
            return 0.0 if plain else self.limits.get(w.name, math.inf)
        node = producer(w)
        if node is None or node.op not in EXACT:
            return math.inf
        return max(self.limit(t) for t in node.inputs)

    def weight(self, w: gs.Tensor, p: Product) -> tuple[gs.Tensor, gs.Tensor | None]:
        """w / l in half, and l; None for l where w does as it is."""
        key = (w.name, p.across, p.swap, p.summed, p.adjoint)
        if key not in self.made:
            maker = producer(w)
            if p.adjoint or not p.summed or self.limit(w) * p.summed > TOP:
                self.made[key] = self._scaled(w, p)
            elif maker is not None and maker.op == "Cast" and maker.inputs[0].dtype == np.float16:
                self.made[key] = maker.inputs[0], None
            else:
                self.made[key] = self.op("Cast", f"{w.name}/float16", w, to=HALF), None
        return self.made[key]

    def _scaled(self, w: gs.Tensor, p: Product) -> tuple[gs.Tensor, gs.Tensor]:
        reduce, factor = ("ReduceMax", p.summed / TOP) if p.summed else ("ReduceSum", 1 / TOP)
        axes = [self.ints(*p.across)] if p.across else []
        most = self.op(reduce, f"{w.name}/most", self.op("Abs", f"{w.name}/size", w), *axes, keepdims=1)
        step = self.op("Mul", f"{w.name}/step", most, self.number(factor))
        scale = self.op("Max", f"{w.name}/scale", step, self.number(TINY))
        unit = self.op("Mul", f"{w.name}/unit", w, self.op("Reciprocal", f"{w.name}/per_scale", scale))
        if p.swap is not None:
            scale = self.op("Transpose", f"{w.name}/laid", scale, perm=_swapped(len(self.shapes[w.name]), p.swap))
        return self.op("Cast", f"{w.name}/float16", unit, to=HALF), scale

    # ------------------------------------------------------------------------------------------------------ products

    def product(self, node: gs.Node, p: Product) -> None:
        """Rewrite one node: factors in half, their product, its scale and its bias in float32."""
        x, y = node.inputs[1 - p.weight], node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        w, scale = self.weight(node.inputs[p.weight], p)
        if p.adjoint:
            x, scale = self.op("Mul", f"{node.name}/weighed", x, scale), None
        x, size = self.row(x, p.rows)
        small = gs.Variable(self.unique(f"{node.name}/product"), np.float16)
        node.inputs, node.outputs = [x, w] if p.weight else [w, x], [small]
        self.nodes.append(node)
        size = size if scale is None else self.op("Mul", f"{node.name}/scale", size, scale)
        z = self.op("Cast", f"{node.name}/float32", small, to=FLOAT)
        z = self.op("Mul", f"{node.name}/scaled", z, size, out=y if bias is None else None)
        if bias is not None:
            if node.op in ("Conv", "ConvTranspose"):
                bias = self.op("Reshape", f"{node.name}/bias", bias, self.ints(-1, *[1] * (len(p.rows) - 1)))
            self.op("Add", f"{node.name}/biased", z, bias, out=y)

    def row(self, x: gs.Tensor, axes: tuple[int, ...]) -> tuple[gs.Tensor, gs.Tensor]:
        """x / t in half, and t = max |x| over the axes."""
        key = (x.name, axes)
        if key not in self.rows:
            most = self.op("ReduceMax", f"{x.name}/most", self.op("Abs", f"{x.name}/size", x), self.ints(*axes), keepdims=1)
            size = self.op("Max", f"{x.name}/scale", most, self.number(TINY))
            unit = self.op("Div", f"{x.name}/unit", x, size)
            self.rows[key] = self.op("Cast", f"{x.name}/float16", unit, to=HALF), size
        return self.rows[key]

    def number(self, value: float) -> gs.Constant:
        """A float32 scalar."""
        return self.constant(value, np.float32)


def _swapped(rank: int, axes: tuple[int, int]) -> list[int]:
    """The permutation that exchanges two axes."""
    perm = list(range(rank))
    perm[axes[0]], perm[axes[1]] = perm[axes[1]], perm[axes[0]]
    return perm


def _rounded(values: np.ndarray) -> np.ndarray:
    """In float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float16)


def _holds(values: np.ndarray, small: np.ndarray) -> bool:
    """Whether rounding leaves every channel (of the first two axes) what it was, up to half precision."""
    sizes = np.abs(values)
    lost = np.abs(values - small.astype(np.float32))
    for axis in (0, 1):
        others = tuple(a for a in range(values.ndim) if a != axis)
        if (lost.sum(others, dtype=np.float64) > ROUNDED * sizes.sum(others, dtype=np.float64)).any():
            return False
    return bool(np.isfinite(small).all())


def _plain(gemm: gs.Node) -> bool:
    """Whether a Gemm is A B + C, or A Bᵀ + C."""
    return not gemm.attrs.get("transA", 0) and gemm.attrs.get("alpha", 1.0) == gemm.attrs.get("beta", 1.0) == 1.0


def _fixed(graph: gs.Graph) -> set[str]:
    """Names of what depends on constants only."""
    free = {t.name for t in graph.inputs}
    known = {t.name for n in graph.nodes for t in n.inputs if isinstance(t, gs.Constant)} - free
    for node in graph.nodes:
        if node.inputs and all(name in known for name in depends(node)):
            known |= {t.name for t in node.outputs}
    return known
