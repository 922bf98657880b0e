"""The only maker of nodes: symbolic tensors, interned emission, static or dynamic shape arithmetic.

Everything here is exact to the bit: a request may be answered with an equal value that costs less (the forward
output for `Conv(x, w, b)`, x for `pos(x)` of a tensor proved non-negative, ZERO for a product with ZERO), never with
another one. `Emit(smart=False)` switches the answers off, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .constants import RANDOM
from .errors import CompositeError
from .intervals import Interval, interval
from .tensor import Dim, Operand, Shape, Tensor, broadcast, numpy_type, spelled
from .weights import Weight
from .zeros import rectifies, zeros

__all__ = ["Emit"]

SMALL = 16  # constants up to this many elements are computed here; larger ones in the graph, where the runtime folds them


class Emit:
    """Builds the compiled graph. One per compilation."""

    def __init__(self, smart: bool = True, shared: bool = False) -> None:
        self.smart, self.shared = smart, shared  # shared: relevance may have many rows for one row of the forward pass
        self.nodes: list[gs.Node] = []
        self.tensors: dict[str, Tensor] = {}
        self._interned: dict[tuple[Any, ...], list[Tensor]] = {}
        self._constants: dict[tuple[Any, ...], gs.Constant] = {}
        self._names: dict[str, int] = {}  # taken names -> the last number tried
        self._rectified: dict[str, list[Tensor]] = {}  # z -> tensors of the model that are 0 wherever z <= 0
        self._scope = "lrp"
        self.zero = self._known(np.float32(0))
        self.one = self._known(np.float32(1))

    # ------------------------------------------------------------------------------------------------------- making

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names emitted inside start with lrp/<name>/."""
        outer, self._scope = self._scope, f"lrp/{name.strip('/')}"
        yield
        self._scope = outer

    def unique(self, name: str) -> str:
        """`name`, with a counter when it is taken; the name is taken afterwards."""
        base, count = name, self._names.get(name, 0)
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names[base] = count
        self._names.setdefault(name, 0)
        return name

    def reserve(self, names: Sequence[str]) -> None:
        """Names of the model, which no emitted tensor may take."""
        for name in names:
            self._names.setdefault(name, 0)

    def adopt(self, var: gs.Tensor, span: Interval | None = None) -> Tensor:
        """A tensor of the model that exists without a node of ours: a graph input or an initializer."""
        if var.name not in self.tensors:
            shape = tuple(d if isinstance(d, (int, str)) else None for d in var.shape) if var.shape is not None else None
            value = np.asarray(var.values) if isinstance(var, gs.Constant) else None
            if span is None:
                span = Interval.of(value) if value is not None else Interval()
            value = None if isinstance(var, Weight) else value  # read for its range, not kept
            self.tensors[var.name] = Tensor(self, var, numpy_type(var), shape, span, value)
        return self.tensors[var.name]

    def forward(self, node: gs.Node, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        """Append a node of the model as it is, under its own names; later equal requests get its outputs."""
        variables = [gs.Variable.empty() if t is None else t.var for t in inputs]
        outputs = [gs.Variable(o.name, o.dtype, o.shape, o.type) if o.name else gs.Variable.empty() for o in node.outputs]
        self.nodes.append(gs.Node(node.op, node.name, dict(node.attrs), variables, outputs, domain=node.domain))
        standard = (node.domain or "") in ("", "ai.onnx")
        span = interval(node.op, node.attrs, inputs) if standard else Interval()
        made = [self.adopt(o, span if i == 0 else Interval()) if o.name else self.zero for i, o in enumerate(outputs)]
        if standard and inputs and inputs[0] is not None and rectifies(node.op, node.attrs, inputs):
            self._rectified.setdefault(inputs[0].name, []).append(made[0])
        subgraphs = any(isinstance(v, gs.Graph) for v in node.attrs.values())
        if standard and not subgraphs and node.op not in RANDOM and node.op != "Dropout":
            self._interned.setdefault(self._key(node.op, inputs, node.attrs), made)
        return made

    def op(
        self, op: str, *inputs: Tensor | None, shape: Shape = None, dtype: Any = None, role: str = "", **attrs: Any
    ) -> Tensor:
        """One node with one output. shape: of the output, as far as it is known."""
        return self.ops(op, *inputs, shapes=[shape], dtypes=[dtype], role=role, **attrs)[0]

    def ops(
        self,
        op: str,
        *inputs: Tensor | None,
        shapes: Sequence[Shape],
        dtypes: Sequence[Any] = (),
        role: str = "",
        **attrs: Any,
    ) -> list[Tensor]:
        """One node with len(shapes) outputs."""
        key = self._key(op, inputs, attrs)
        found = self._interned.get(key, [])
        if found and (self.smart or len(found) < len(shapes)):
            return self._extend(found, shapes, dtypes)
        first = next((t for t in inputs if t is not None), self.one)
        kinds = [d if d is not None else first.dtype for d in (list(dtypes) + [None] * len(shapes))[: len(shapes)]]
        span = interval(op, attrs, inputs)
        name = self.unique(f"{self._scope}/{role or op}")
        outputs, made = [], []
        for i, (shape, dtype) in enumerate(zip(shapes, kinds, strict=True)):
            # Shapes stay out of the file: the checker would hold our hints against the runtime's view of odd graphs.
            outputs.append(gs.Variable(name if i == 0 else self.unique(name), None))
            made.append(Tensor(self, outputs[-1], dtype, shape, span if i == 0 else Interval()))
        made[0].zeros = zeros(op, inputs, made[0].shape)
        variables = [gs.Variable.empty() if t is None else t.var for t in inputs]
        self.nodes.append(gs.Node(op, name, attrs, variables, outputs))
        self._interned[key] = made
        return made

    def _extend(self, found: list[Tensor], shapes: Sequence[Shape], dtypes: Sequence[Any]) -> list[Tensor]:
        """The outputs of a node that exists, after asking it for more of them (MaxPool for its Indices)."""
        if len(found) < len(shapes):
            node = found[0].var.inputs[0]
            for shape, dtype in list(zip(shapes, dtypes, strict=True))[len(found) :]:
                var = gs.Variable(self.unique(f"{self._scope}/{node.op}"), None)
                node.outputs.append(var)
                found.append(Tensor(self, var, dtype, shape, Interval()))
        return found

    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors, as far as they are known."""
        made = [t for group in self._interned.values() for t in group if t.value is None]
        return {t.name: t.shape for t in (*self.tensors.values(), *made)}

    def _key(self, op: str, inputs: Sequence[Tensor | None], attrs: dict[str, Any]) -> tuple[Any, ...]:
        names = ["" if t is None else t.name for t in inputs]
        while names and not names[-1]:
            names.pop()
        frozen = tuple(sorted((k, str(v.tolist()) if isinstance(v, np.ndarray) else str(v)) for k, v in attrs.items()))
        return (op, tuple(names), frozen)

    # ---------------------------------------------------------------------------------------------------- constants

    def constant(self, value: np.ndarray, name: str = "") -> gs.Constant:
        """An initializer with this value; equal small ones are shared."""
        value = np.ascontiguousarray(value) if value.ndim else value
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants or name:
            text = name or f"lrp/const/{spelled(value)}"
            self._constants[key] = gs.Constant(self.unique(text), value)
        return self._constants[key]

    def array(self, value: Any, dtype: Any = np.float32, name: str = "") -> Tensor:
        """A constant tensor."""
        value = np.asarray(value, dtype)
        if value.size <= SMALL and not name:
            return self._known(value)
        return Tensor(self, self.constant(value, name), value.dtype, value.shape, Interval.of(value), value)

    def ints(self, *values: int) -> Tensor:
        """An int64 vector: shapes, axes, pads."""
        return self.array(values, np.int64)

    def _known(self, value: Any) -> Tensor:
        value = np.asarray(value)
        return Tensor(self, None, value.dtype, value.shape, Interval.of(value), value)

    def lift(self, value: Operand, like: Tensor) -> Tensor:
        """A Python number takes the tensor's type; an array must already have it."""
        if isinstance(value, Tensor):
            if value.dtype != like.dtype and value.dtype.kind == like.dtype.kind == "f":
                raise CompositeError(f"a hook mixes {value.dtype} and {like.dtype}; relevance is computed in {like.dtype}")
            return value
        if isinstance(value, (np.ndarray, np.generic)):
            if np.result_type(value.dtype, like.dtype) != like.dtype:
                raise CompositeError(
                    f"a hook would promote {like.dtype} to {np.result_type(value.dtype, like.dtype)}: "
                    f"give Python numbers or arrays of {like.dtype} (got {value.dtype})"
                )
            return self.array(value, like.dtype)
        return self._known(np.asarray(value, like.dtype))

    # -------------------------------------------------------------------------------------------------- elementwise

    def elementwise(self, op: str, *xs: Tensor, dtype: Any = None, **attrs: Any) -> Tensor:
        """A broadcasting node; folded here when all inputs are small constants."""
        if all(x.value is not None and x.value.size <= SMALL for x in xs) and op in FOLD and not attrs:
            return self._known(np.asarray(FOLD[op](*(x.value for x in xs)), dtype or xs[-1].dtype))
        shape = broadcast([x.shape for x in xs])
        return self.op(op, *xs, shape=shape, dtype=dtype or xs[-1].dtype, **attrs)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        if x.is_zero or y.is_zero:
            return y if x.is_zero else x
        return self.elementwise("Add", x, y)

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        if x.is_zero or y.is_zero:
            return x if y.is_zero else -y
        return self.elementwise("Sub", x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        if x.is_zero or y.is_zero:
            return self.zero
        if x.is_one or y.is_one:
            return y if x.is_one else x
        return self.elementwise("Mul", x, y)

    def div(self, x: Tensor, y: Tensor) -> Tensor:
        if x.is_zero or y.is_one:
            return x
        if y.stabilized is not None and (u := self.rectifier(x, y.stabilized[0])) is not None:
            z, step = y.stabilized  # where x is not 0, z is positive, and u = z if it came out of a ReLU
            y = (u if u.var.inputs[0].op == "Relu" else abs(z)) + step
        return self.elementwise("Div", x, y)

    def rectifier(self, x: Tensor, z: Tensor) -> Tensor | None:
        """A tensor that is 0 wherever z <= 0 and that proves x to be 0 there too."""
        if not self.smart or z.value is not None:
            return None
        return next((u for u in self._rectified.get(z.name, ()) if u.name in (x.name, *x.zeros)), None)

    def pos(self, x: Tensor) -> Tensor:
        """x⁺ = max(x, 0)."""
        if x.is_zero or (x.is_one) or x.nonneg:
            return x
        return self.zero if x.nonpos else self.elementwise("Relu", x)

    def neg(self, x: Tensor) -> Tensor:
        """x⁻ = min(x, 0)."""
        if x.is_zero or x.nonpos:
            return x
        return self.zero if x.is_one or x.nonneg else self.elementwise("Min", x, self.zero_like(x.dtype))

    def zero_like(self, dtype: Any) -> Tensor:
        return self._known(np.asarray(0, dtype))

    def total(self, xs: Sequence[Tensor]) -> Tensor:
        """Sum of tensors; ZERO for none."""
        out = self.zero
        for x in xs:
            out = out + x
        return out

    # ------------------------------------------------------------------------------------------------------- shapes

    def shape_of(self, x: Tensor) -> Tensor:
        """Shape of x as int64: constant when all of it is known, else a Shape node."""
        if x.shape is not None and all(isinstance(d, int) for d in x.shape):
            return self.array(list(x.shape), np.int64)
        return self.op("Shape", x, shape=(x.rank,) if x.shape is not None else (None,), dtype=np.int64)

    def dim(self, x: Tensor, axis: int) -> Tensor:
        """Size of one axis, int64 of shape [1]."""
        size = x.shape[axis] if x.shape is not None else None
        if isinstance(size, int):
            return self.ints(size)
        return self.op("Gather", self.shape_of(x), self.ints(axis), shape=(1,), dtype=np.int64, axis=0)

    def dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Sizes of several axes, int64 [len(axes)]."""
        sizes = [x.shape[a] for a in axes] if x.shape is not None else [None]
        if all(isinstance(d, int) for d in sizes):
            return self.array(sizes, np.int64)
        return self.op("Gather", self.shape_of(x), self.ints(*axes), shape=(len(axes),), dtype=np.int64, axis=0)

    def reshape(self, x: Tensor, *sizes: int | Tensor, shape: Shape = None) -> Tensor:
        """Reshape to sizes: ints (one may be -1) and [1]-shaped int64 tensors."""
        if len([s for s in sizes if isinstance(s, Tensor) and s.value is None]) == 1 and -1 not in sizes:
            sizes = tuple(-1 if isinstance(s, Tensor) and s.value is None else s for s in sizes)
        parts = [self.ints(s) if isinstance(s, int) else s for s in sizes]
        if shape is None:
            shape = tuple(int(p.value[0]) if p.value is not None and p.value[0] > 0 else None for p in parts)
        target = self.concat(parts) if parts else self.array(np.zeros(0), np.int64)
        return self.reshape_to(x, target, shape)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Concatenate int64 vectors."""
        if all(p.value is not None for p in parts):
            return self.array(np.concatenate([np.ravel(p.value) for p in parts if p.value is not None]), np.int64)
        return self.op("Concat", *parts, shape=(None,), dtype=np.int64, axis=0)

    def reshape_like(self, x: Tensor, like: Tensor) -> Tensor:
        """Reshape to the shape of another tensor of as many elements."""
        if x.shape == like.shape and x.shape is not None and sum(not isinstance(d, int) for d in x.shape) <= 1:
            return x
        if like.shape is not None and sum(not isinstance(d, int) for d in like.shape) == 1 and 0 not in like.shape:
            target = self.array([d if isinstance(d, int) else -1 for d in like.shape], np.int64)
        else:
            target = self.shape_of(like)
        return self.reshape_to(x, target, like.shape)

    def reshape_to(self, x: Tensor, target: Tensor, shape: Shape = None) -> Tensor:
        """Reshape to the sizes in an int64 vector; a size of 0 is one, where the operator would copy the input's."""
        literal = target.value is None or (0 in target.value and -1 not in target.value)
        more: dict[str, Any] = {"allowzero": 1} if literal else {}
        return self.op("Reshape", x, target, shape=shape, **more)

    def expand_like(self, x: Tensor, like: Tensor) -> Tensor:
        """Broadcast x to the shape of another tensor."""
        if x.shape is not None and x.shape == like.shape and all(d is not None for d in x.shape):
            return x
        return self.op("Expand", x, self.shape_of(like), shape=like.shape)

    def ones_like(self, x: Tensor) -> Tensor:
        return self.expand_like(self.one, x)

    def zeros_like(self, x: Tensor) -> Tensor:
        return self.expand_like(self._known(np.asarray(0, x.dtype)), x)

    def unbroadcast(self, s: Tensor, like: Tensor) -> Tensor:
        """Adjoint of broadcasting `like` to the shape of s: sum over the axes that were broadcast."""
        if s.is_zero or (s.shape == like.shape and s.shape is not None and None not in s.shape):
            return s
        if s.shape is None or like.shape is None:
            raise CompositeError(f"ranks of {s.name} and {like.name} must be known to sum over broadcast axes")
        lead = s.rank - like.rank
        known = [a for a in range(s.rank) if a < lead or (like.shape[a - lead] == 1 and s.shape[a] != 1)]
        if lead:
            s = self.reduce("ReduceSum", s, list(range(lead)), keepdims=False)
        known = [a - lead for a in known if a >= lead]
        s = self.reduce("ReduceSum", s, known) if known else s
        left = s.shape or (None,) * like.rank
        unsure = [a for a, own in enumerate(like.shape) if not isinstance(own, int) and left[a] != own]
        for axis in unsure:  # 1 or equal is decided by the data: split the axis into (times repeated, own size)
            own = self.dim(like, axis)
            sizes = [self.dim(s, a) for a in range(s.rank)]
            times = self.op("Div", sizes[axis], own, shape=(1,), dtype=np.int64)
            parts: list[int | Tensor] = [*sizes[:axis], times, own, *sizes[axis + 1 :]]
            split = self.reshape(s, *parts, shape=(None,) * (s.rank + 1))
            s = self.reduce("ReduceSum", split, [axis], keepdims=False)
            s.shape = like.shape[: axis + 1] + s.shape[axis + 1 :] if s.shape else None
        return s

    def reduce(self, op: str, x: Tensor, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """ReduceSum, ReduceMean, ReduceMax over axes."""
        if not axes:
            return x
        axes = [a % x.rank for a in axes]
        assert x.shape is not None
        shape = tuple(1 if a in axes else d for a, d in enumerate(x.shape) if keepdims or a not in axes)
        return self.op(op, x, self.ints(*axes), shape=shape, keepdims=int(keepdims))

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        perm = [int(p) for p in perm]
        if perm == list(range(len(perm))):
            return x
        return self.op("Transpose", x, shape=tuple(x.shape[p] for p in perm) if x.shape is not None else None, perm=perm)

    def swap(self, x: Tensor) -> Tensor:
        """Transpose of the last two axes."""
        return self.transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])

    def slice(self, x: Tensor, axis: int, start: int | Tensor, end: int | Tensor, size: Dim = None) -> Tensor:
        """x[start:end] along one axis."""
        assert x.shape is not None
        ends = [self.ints(v) if isinstance(v, int) else v for v in (start, end)]
        shape = tuple(size if a == axis % x.rank else d for a, d in enumerate(x.shape))
        return self.op("Slice", x, *ends, self.ints(axis), shape=shape)

    def pad(self, x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0, shape: Shape = None) -> Tensor:
        """Constant padding; negative counts crop."""
        if not any(before) and not any(after):
            return x
        if shape is None and x.shape is not None:
            shape = tuple(
                d + b + a if isinstance(d, int) else d if b == a == 0 else None
                for d, b, a in zip(x.shape, before, after, strict=True)
            )
        return self.op("Pad", x, self.ints(*before, *after), self.lift(value, x), shape=shape, mode="constant")

    def cast(self, x: Tensor, dtype: Any) -> Tensor:
        if x.dtype == np.dtype(dtype):
            return x
        return self.op("Cast", x, shape=x.shape, dtype=dtype, to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def arange(self, stop: Tensor, size: Dim = None) -> Tensor:
        """0, 1, … stop-1 as int64."""
        if stop.value is not None:
            return self.array(np.arange(int(stop.value.ravel()[0])), np.int64)
        scalar = self.op("Squeeze", stop, shape=(), dtype=np.int64)
        return self.op("Range", self.array(0, np.int64), scalar, self.array(1, np.int64), shape=(size,), dtype=np.int64)


FOLD: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Neg": np.negative, "Abs": np.abs,
    "Relu": lambda x: np.maximum(x, np.asarray(0, x.dtype)), "Max": np.maximum, "Min": np.minimum, "Where": np.where,
    "GreaterOrEqual": np.greater_equal, "Greater": np.greater, "Less": np.less, "LessOrEqual": np.less_equal,
    "Sqrt": np.sqrt, "Pow": np.power,
}  # fmt: skip
