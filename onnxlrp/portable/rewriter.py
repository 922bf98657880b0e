"""What replacements are written with: nodes in order, names, sizes that are numbers where they are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..additions import Additions
from ..constants import producer
from ..inference import types_and_shapes
from ..order import captured

__all__ = ["BOOL", "FLOAT", "INT64", "TYPES", "Rewriter", "Size", "values_of"]

BOOL, FLOAT, INT64 = int(TensorProto.BOOL), int(TensorProto.FLOAT), int(TensorProto.INT64)
SMALL = 64  # elements up to which a constant is read for its values
Size: TypeAlias = int | gs.Tensor  # a number, or an int64 vector of one element


class Rewriter(Additions):
    """A graph whose nodes are copied one by one, some of them as others. kept: names that are read from outside of it."""

    def __init__(self, graph: gs.Graph) -> None:
        super().__init__(graph, "portable")
        self.types, self.shapes = types_and_shapes(gs.export_onnx(graph, do_type_check=False))
        self.kept = {o.name for o in graph.outputs} | {name for n in graph.nodes for name in captured(n)}
        self.pools: dict[str, Any] = {}  # second output of a MaxPool -> what is known of it
        self._dims: dict[tuple[str, int], gs.Tensor] = {}

    def numbers(self, value: Any, like: gs.Tensor) -> gs.Constant:
        """A constant of the type of another tensor."""
        return self.constant(value, TYPES[self.types[like.name]])

    # ---------------------------------------------------------------------------------------------------------- facts

    def type_of(self, t: gs.Tensor) -> int:
        """Element type as in TensorProto; 0 where it is unknown."""
        return self.types.get(t.name, 0)

    def shape_of(self, t: gs.Tensor) -> tuple[int | None, ...] | None:
        """Sizes, None for those that are not known; None where the rank is not known either."""
        return self.shapes.get(t.name)

    def dim(self, t: gs.Tensor, axis: int) -> Size:
        """Size of an axis of a tensor of known rank."""
        shape = self.shapes[t.name]
        known = shape[axis]
        if known is not None:
            return known
        key = (t.name, axis % len(shape))
        if key not in self._dims:
            sizes = self.op("Shape", f"{t.name}/shape", t)
            self._dims[key] = self.op("Gather", f"{t.name}/size", sizes, self.ints(key[1]), axis=0)
        return self._dims[key]

    # ------------------------------------------------------------------------------------------------------- integers

    def integer(self, size: Size) -> gs.Tensor:
        """A size as int64 vector of one element."""
        return self.ints(size) if isinstance(size, int) else size

    def calculate(self, op: str, name: str, a: Size, b: Size) -> Size:
        """Add, Sub, Mul or Div of sizes."""
        if isinstance(a, int) and isinstance(b, int):
            return {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": a // (b or 1)}[op]
        if isinstance(b, int) and b == (0 if op in ("Add", "Sub") else 1):
            return a
        return self.op(op, name, self.integer(a), self.integer(b))

    def product(self, name: str, sizes: Sequence[Size]) -> Size:
        """All sizes multiplied."""
        total: Size = math.prod(s for s in sizes if isinstance(s, int))
        for size in sizes:
            total = total if isinstance(size, int) else self.calculate("Mul", name, size, total)
        return total

    def vector(self, name: str, sizes: Sequence[Size]) -> gs.Tensor:
        """Sizes as one int64 vector."""
        if all(isinstance(s, int) for s in sizes):
            return self.ints(*(s for s in sizes if isinstance(s, int)))
        return self.op("Concat", name, *(self.integer(s) for s in sizes), axis=0)

    def arange(self, name: str, stop: Size) -> gs.Tensor:
        """0, 1, … stop − 1 as int64."""
        if isinstance(stop, int) and stop <= SMALL:
            return self.constant(np.arange(stop), np.int64)
        end = self.constant(stop, np.int64) if isinstance(stop, int) else self.op("Squeeze", f"{name}/end", stop)
        return self.op("Range", name, self.constant(0, np.int64), end, self.constant(1, np.int64))

    def reshape(self, name: str, t: gs.Tensor, *sizes: Size, out: gs.Tensor | None = None) -> gs.Tensor:
        """t in other sizes, one of which may be -1."""
        literal = {} if -1 in [s for s in sizes if isinstance(s, int)] else {"allowzero": 1}
        return self.op("Reshape", name, t, self.vector(f"{name}/sizes", sizes), out=out, **literal)

    def flat(self, name: str, t: gs.Tensor) -> gs.Tensor:
        """t as a vector."""
        return t if len(self.shape_of(t) or ()) == 1 else self.op("Reshape", name, t, self.ints(-1))


TYPES: Mapping[int, Any] = {FLOAT: np.float32, INT64: np.int64, BOOL: np.bool_, int(TensorProto.FLOAT16): np.float16,
                            int(TensorProto.INT32): np.int32}  # fmt: skip


def values_of(t: gs.Tensor) -> np.ndarray | None:
    """What a small constant holds, or one that was expanded; None for everything else."""
    if isinstance(t, gs.Constant) and math.prod(t.shape) <= SMALL:
        return np.asarray(t.values)
    maker = producer(t)
    if maker is not None and maker.op == "Expand":  # in other sizes, the same values
        return values_of(maker.inputs[0])
    return None
