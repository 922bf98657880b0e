"""Symbolic tensors of the compiled graph: what hooks of rules compute with. Arithmetic is emitted by `Emit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .errors import CompositeError
from .intervals import Interval

if TYPE_CHECKING:
    from .emit import Emit

__all__ = [
    "Dim", "Operand", "Shape", "Tensor", "broadcast", "fixed", "maximum", "mean", "minimum", "numpy_type", "relu", "spelled",
    "where",
]  # fmt: skip

Dim = int | str | None
Shape = tuple[Dim, ...] | None


class Tensor:
    """A symbolic tensor of the compiled graph: supports arithmetic, knows dtype, shape (as far as it is) and range."""

    __array_ufunc__ = None  # numpy scalars and arrays on the left defer to the operators below

    def __init__(
        self, emit: Emit, var: gs.Tensor | None, dtype: Any, shape: Shape, span: Interval, value: np.ndarray | None = None
    ) -> None:
        self.emit, self.dtype, self.shape, self.span, self.value = emit, np.dtype(dtype), shape, span, value
        self.batch: int | None = None  # the model's batch axis, where it is known
        self.zeros: tuple[str, ...] = ()  # tensors that are 0 only where this one is (zeros.py)
        self.stabilized: tuple[Tensor, Operand] | None = None  # (z, step): this is z + step where z >= 0, else z - step
        self._var = var

    @property
    def var(self) -> gs.Tensor:
        """The graph's own tensor; a computed constant enters the graph when it is first needed there."""
        if self._var is None:
            assert self.value is not None
            self._var = self.emit.constant(self.value)
        return self._var

    @property
    def name(self) -> str:
        return str(self.var.name)

    @property
    def rank(self) -> int:
        assert self.shape is not None, f"rank of {self.name} asked for, but unknown"
        return len(self.shape)

    @property
    def is_zero(self) -> bool:
        """The absent thing: scalar constant 0."""
        return self.value is not None and self.value.ndim == 0 and not self.value.any()

    @property
    def is_one(self) -> bool:
        return self.value is not None and self.value.ndim == 0 and self.value == 1

    @property
    def nonneg(self) -> bool:
        return self.span.low >= 0 and self.emit.smart

    @property
    def nonpos(self) -> bool:
        return self.span.high <= 0 and self.emit.smart

    def __repr__(self) -> str:
        return f"<{self.value if self._var is None else self.name} {self.dtype} {self.shape}>"

    def __add__(self, other: Operand) -> Tensor:
        return self.emit.add(self, self.emit.lift(other, self))

    def __radd__(self, other: Operand) -> Tensor:
        return self.emit.add(self.emit.lift(other, self), self)

    def __sub__(self, other: Operand) -> Tensor:
        return self.emit.sub(self, self.emit.lift(other, self))

    def __rsub__(self, other: Operand) -> Tensor:
        return self.emit.sub(self.emit.lift(other, self), self)

    def __mul__(self, other: Operand) -> Tensor:
        return self.emit.mul(self, self.emit.lift(other, self))

    def __rmul__(self, other: Operand) -> Tensor:
        return self.emit.mul(self.emit.lift(other, self), self)

    def __truediv__(self, other: Operand) -> Tensor:
        return self.emit.div(self, self.emit.lift(other, self))

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self.emit.div(self.emit.lift(other, self), self)

    def __pow__(self, other: Operand) -> Tensor:
        return (
            self * self
            if isinstance(other, int) and other == 2
            else self.emit.elementwise("Pow", self, self.emit.lift(other, self))
        )

    def __neg__(self) -> Tensor:
        return self.emit.elementwise("Neg", self)

    def __abs__(self) -> Tensor:
        return self if self.nonneg else self.emit.elementwise("Abs", self)

    # A comparison gives a tensor, and numpy arrays declare their own reflected ones: the type checker sees an overlap.
    def __ge__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return self.emit.elementwise("GreaterOrEqual", self, self.emit.lift(other, self), dtype=bool)

    def __gt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return self.emit.elementwise("Greater", self, self.emit.lift(other, self), dtype=bool)

    def __le__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return self.emit.elementwise("LessOrEqual", self, self.emit.lift(other, self), dtype=bool)

    def __lt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return self.emit.elementwise("Less", self, self.emit.lift(other, self), dtype=bool)

    def __bool__(self) -> bool:
        raise CompositeError("a symbolic tensor has no truth value while compiling; use onnxlrp.where(condition, a, b)")


Operand = Tensor | float | int | np.ndarray


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.emit.pos(x)


def maximum(x: Tensor, y: Operand) -> Tensor:
    """Element-wise maximum."""
    return x.emit.elementwise("Max", x, x.emit.lift(y, x))


def minimum(x: Tensor, y: Operand) -> Tensor:
    """Element-wise minimum."""
    return x.emit.elementwise("Min", x, x.emit.lift(y, x))


def where(condition: Tensor, x: Operand, y: Operand) -> Tensor:
    """x where the condition holds, else y."""
    e = condition.emit
    like = x if isinstance(x, Tensor) else y if isinstance(y, Tensor) else e.one
    return e.elementwise("Where", condition, e.lift(x, like), e.lift(y, like), dtype=like.dtype)


def mean(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Mean over `axes` (all by default), axes kept."""
    return x.emit.reduce("ReduceMean", x, list(range(x.rank)) if axes is None else axes)


def fixed(sizes: Sequence[Dim] | None) -> list[int] | None:
    """The sizes when all of them are known, else None."""
    if sizes is None:
        return None
    known = [d for d in sizes if isinstance(d, int)]
    return known if len(known) == len(sizes) else None


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Shape of a broadcast; None where it is not known."""
    if any(s is None for s in shapes):
        return None
    rank = max(len(s) for s in shapes if s is not None)
    columns = zip(*[(1,) * (rank - len(s)) + tuple(s) for s in shapes if s is not None], strict=True)
    return tuple(_merge(c) for c in columns)


def _merge(sizes: Sequence[Dim]) -> Dim:
    known = [d for d in sizes if d != 1]
    if not known:
        return 1
    fixed = [d for d in known if isinstance(d, int)]
    if fixed:
        return fixed[0]
    return known[0] if len(set(known)) == 1 else None


def numpy_type(t: gs.Tensor) -> Any:
    """dtype of a tensor; graphsurgeon names types that numpy has not (bfloat16) by their number in ONNX."""
    return onnx.helper.tensor_dtype_to_np_dtype(t.dtype) if t.dtype and isinstance(t.dtype, int) else t.dtype or np.float32


def spelled(value: np.ndarray) -> str:
    """Type and values of a constant, short enough for a name."""
    text = "x".join(f"{v:g}" for v in value.ravel()[:8]) if value.size <= 8 else f"{value.size}"
    return f"{value.dtype.name}_{text}" if value.size else f"{value.dtype.name}_empty"
