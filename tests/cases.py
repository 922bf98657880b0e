"""The operators, one row per case: a tiny model around one node, at opset 18 unless said otherwise.

X active input, F frozen float input, C random constant, K given constant, G given (integer) input, None absent. Shapes
are ragged on purpose. Axis 0 of size BATCH is the batch axis, unless the row says batch=False.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import onnx
from helpers import Array, Runner, flat
from onnx import helper
from onnx.numpy_helper import from_array
from reference import dense

BATCH = 2
INT_MAX = 2**63 - 1


class Arg(NamedTuple):
    """An input of a node: its role, and how its values are made."""

    role: str
    make: Callable[[np.random.Generator], Array]


class Again(NamedTuple):
    """The same tensor as an earlier input."""

    index: int


def _values(shape: Sequence[int], kind: str, rng: np.random.Generator) -> Array:
    """Random float32. Signed values keep away from 0, distinct ones from each other: no kink is near."""
    size = int(np.prod(shape))
    flat_values = {
        "signed": lambda: rng.choice([-1, 1], size) * rng.uniform(0.1, 2, size),
        "positive": lambda: rng.uniform(0.2, 2, size),
        "unit": lambda: rng.choice([-1, 1], size) * rng.uniform(0.1, 0.85, size),
        "above": lambda: rng.uniform(1.2, 3, size),
        "distinct": lambda: rng.permutation(np.arange(size) - size / 3) * (4 / max(size, 1)),
    }[kind]()
    return flat_values.reshape(shape).astype(np.float32)


def X(*shape: int, kind: str = "signed") -> Arg:
    return Arg("active", partial(_values, shape, kind))


def F(*shape: int, kind: str = "signed") -> Arg:
    return Arg("frozen", partial(_values, shape, kind))


def C(*shape: int, kind: str = "signed") -> Arg:
    return Arg("constant", partial(_values, shape, kind))


def K(value: Any, dtype: Any = np.float32) -> Arg:
    return Arg("constant", lambda rng: np.asarray(value, dtype))


def I(*values: int) -> Arg:  # noqa: E743 (an int64 vector)
    return K(values, np.int64)


def G(value: Any, dtype: Any = np.int64) -> Arg:
    return Arg("frozen", lambda rng: np.asarray(value, dtype))


@dataclass(frozen=True, eq=False)
class Case:
    """A row. before: an operator put between the graph's inputs and the node, for readings that depend on it.

    symbolic: True when the file also compiles with every size unknown, else what the refusal says. single: the node is
    explained as one node (a Gemm whose bias is no constant is explained as a product and a sum).
    """

    id: str
    op: str
    nodes: tuple[onnx.NodeProto, ...]
    args: Mapping[str, Arg]
    opset: int = 18
    before: str = ""
    batch: bool = True
    symbolic: bool | str = True
    linear: bool = False
    single: bool = True

    def __str__(self) -> str:
        return self.id

    @property
    def kind(self) -> str:
        """The kind of the node, as OPERATORS.md has it."""
        count = sum(name in self.active for n in self.nodes if n.op_type == self.op for name in n.input)
        modes = [a.s.decode() for n in self.nodes for a in n.attribute if a.name == "mode"]
        if self.op in ("Mul", "MatMul", "Gemm", "Einsum") and count == 2:
            return "PRODUCT"
        if self.op == "Einsum" and len(self.args) == 1:
            return "LINEAR"
        if self.op.startswith("Scatter"):
            how = next((a.s.decode() for n in self.nodes for a in n.attribute if a.name == "reduction"), "none")
            return {"none": "MOVE", "add": "SUM"}.get(how, "CHOICE")
        if self.op in ("Resize", "Upsample", "GridSample"):
            return "MOVE" if modes == ["nearest"] else "LINEAR"
        if self.op == "RoiAlign":
            return "CHOICE" if modes == ["max"] else "LINEAR"
        if self.op == "Div":
            return "RATIO" if count == 2 else "SCALE" if self.nodes[0].input[0] in self.active else "POINTWISE"
        return KINDS.get(self.op, "POINTWISE")

    @cached_property
    def values(self) -> dict[str, Array]:
        """What the arguments are, by name; the same in every run."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return {name: arg.make(rng) for name, arg in self.args.items()}

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """Values of the active and the frozen inputs of the node."""
        return {n: self.values[n] for n, a in self.args.items() if a.role != "constant"}

    @property
    def active(self) -> list[str]:
        return [n for n, a in self.args.items() if a.role == "active"]

    def model(self, sizes: str = "batch", before: str | None = None) -> onnx.ModelProto:
        """sizes: "static", "batch" (axis 0 of unknown size) or "symbolic" (every axis). before: as the field."""
        before = self.before if before is None else before
        graph_inputs = []
        for name, value in self.inputs.items():
            source = f"{name}_in" if before and name in self.active else name
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph_inputs.append(helper.make_tensor_value_info(source, kind, self._dims(name, value, sizes)))
        nodes = [helper.make_node(before, [f"{n}_in"], [n], name=f"before_{n}") for n in self.active if before]
        constants = [from_array(self.values[n], n) for n, a in self.args.items() if a.role == "constant"]
        y = helper.make_empty_tensor_value_info("y")
        y.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        graph = helper.make_graph([*nodes, *self.nodes], "case", graph_inputs, [y], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        rounded_up = any(a.name == "ceil_mode" for n in self.nodes for a in n.attribute)  # inference counts too many windows
        return model if rounded_up else onnx.shape_inference.infer_shapes(model)

    def _dims(self, name: str, value: Array, sizes: str) -> list[int | str]:
        dims: list[int | str] = list(value.shape)
        if sizes == "symbolic" and value.dtype == np.float32:
            dims = [f"{name}_{axis}" for axis in range(value.ndim)]
        if self.batched(value) and sizes != "static":
            dims[0] = "N"
        return dims

    def batched(self, value: Array) -> bool:
        return self.batch and value.ndim > 0 and value.shape[0] == BATCH

    def feeds(self, before: str | None = None, rows: Sequence[int] | None = None, **changed: Array) -> dict[str, Array]:
        """Graph inputs, such that the node sees its `inputs` (or `changed`); rows: which entries of the batch."""
        before = self.before if before is None else before
        undo = {"Neg": np.negative}.get(before, lambda v: v)
        out = {}
        for name, value in {**self.inputs, **changed}.items():
            chosen = value[list(rows)] if rows is not None and self.batched(self.inputs[name]) else value
            wrapped = before and name in self.active
            out[f"{name}_in" if wrapped else name] = undo(chosen) if wrapped else chosen
        return out

    def forward(self, rows: Sequence[int] | None = None) -> Callable[[Array], Array]:
        """The node as a function of its active inputs as one vector."""
        runner = Runner(self.model("batch", ""))
        shapes = [self.feeds("", rows)[n].shape for n in self.active]
        ends = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

        def apply(x: Array) -> Array:
            parts = np.split(np.ravel(x).astype(np.float32), ends)
            given = {n: p.reshape(s) for n, p, s in zip(self.active, parts, shapes, strict=True)}
            return runner({**self.feeds("", rows), **given})["y"]

        return apply

    def matrix(self, rows: Sequence[int] | None = None) -> tuple[Array, Array]:
        """W (J,K), b (K,) of a linear node with respect to its active inputs."""
        size = flat([self.feeds("", rows)[n] for n in self.active]).size
        W, b = dense(self.forward(rows), (size,))
        return np.where(np.abs(W) < 1e-6, 0, W) if self.op == "DFT" else W, b  # its kernel leaves 1e-7 where 0 belongs

    def jacobian(self) -> Array:
        """dy/dx (J,K): the matrix of a linear node, else central differences (exact for piecewise linear nodes)."""
        if self.linear:
            return self.matrix()[0]
        apply, step = self.forward(), 2.0**-7
        x = flat([self.inputs[n] for n in self.active]).astype(np.float64)
        units = np.eye(x.size) * step
        return np.stack([(apply(x + u).astype(np.float64) - apply(x - u)).ravel() / (2 * step) for u in units])


def row(
    op: str, what: str, *args: Arg | Again | None, then: Sequence[tuple[str, Arg]] = (), outputs: int = 1,
    shown: int = 0, opset: int = 18, before: str = "", batch: bool = True, symbolic: bool | str = True,
    linear: bool | None = None, single: bool = True, **attrs: Any,
) -> Case:  # fmt: skip
    """A case of one node, followed by binary nodes of `then`; `shown`: which of the `outputs` is the model's."""
    table: dict[str, Arg] = {}
    count = {"active": 0, "frozen": 0, "constant": 0}

    def name(arg: Arg | None) -> str:
        if arg is None:
            return ""
        letter = {"active": "x", "frozen": "f", "constant": "c"}[arg.role]
        count[arg.role] += 1
        text = letter if count[arg.role] == 1 else f"{letter}{count[arg.role]}"
        table[text] = arg
        return text

    names: list[str] = []
    for arg in args:
        names.append(names[arg.index] if isinstance(arg, Again) else name(arg))
    made = [f"part_{i}" if outputs > 1 and i != shown else "z" for i in range(outputs)]
    nodes = [helper.make_node(op, names, made, name="node", **attrs)]
    for i, (other, *operands) in enumerate(then):
        nodes.append(
            helper.make_node(
                other, [nodes[-1].output[shown if i == 0 else 0], *map(name, operands)], [f"z{i}"], name=f"then_{i}"
            )
        )
    last = nodes[-1]
    last.output[shown if last.op_type == op and len(nodes) == 1 else 0] = "y"
    linear = op in LINEAR if linear is None else linear
    return Case(f"{op}-{what}".replace(" ", "_"), op, tuple(nodes), table, opset, before, batch, symbolic, linear, single)


def graph(op: str, what: str, lines: str, linear: bool = False, single: bool = True, **args: Arg) -> Case:
    """A case of several nodes: one `y = Op(a, b)` a line, without attributes; `op` names what is tested."""
    nodes = []
    for line in lines.strip().split("\n"):
        target, call = (s.strip() for s in line.split("="))
        kind, operands = call.rstrip(")").split("(")
        made = [t.strip() for t in target.split(",")]
        nodes.append(helper.make_node(kind, [o.strip() for o in operands.split(",")], made, name=f"node_{made[0]}"))
    return Case(f"{op}-{what}".replace(" ", "_"), op, tuple(nodes), args, linear=linear, single=single)


KINDS = {
    op: kind
    for kind, ops in {
        "WEIGHTED": "Conv ConvTranspose Gemm MatMul Einsum",
        "AFFINE": "BatchNormalization",
        "SUM": "Add Sub Sum Mean",
        "LINEAR": "CumSum AveragePool GlobalAveragePool ReduceMean ReduceSum Resize Upsample GridSample RoiAlign Col2Im DFT "
        "STFT AffineGrid DeformConv",
        "SELECT": "MaxPool GlobalMaxPool ReduceMax ReduceMin",
        "MOVE": "GatherElements GatherND Scatter ScatterElements ScatterND Compress ReverseSequence Trilu CenterCropPad "
        "MaxUnpool Reshape Flatten Squeeze Unsqueeze Identity Dropout Transpose Slice Split Concat Gather Pad Expand Tile "
        "DepthToSpace SpaceToDepth Where TensorScatter",
        "SCALE": "Mul",
        "SOFTMAX": "Softmax LogSoftmax",
        "NORM": "LayerNormalization InstanceNormalization GroupNormalization MeanVarianceNormalization",
        "FROZEN_NORM": "RMSNormalization LpNormalization LRN",
        "REDUCE": "CumProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp ReduceProd LpPool GlobalLpPool",
        "CHOICE": "Max Min TopK MaxRoiPool",
    }.items()
    for op in ops.split()
}
CURVED = ("SELECT", "SCALE", "NORM", "FROZEN_NORM", "REDUCE", "CHOICE")
LINEAR = frozenset({op for op, kind in KINDS.items() if kind not in CURVED} | {"Cast", "Neg"})

NO_SIZE = "auto_pad=.* over axes of unknown size"

CONVOLUTIONS = [
    row("Conv", "1-D", X(2, 3, 7), C(4, 3, 3), C(4)),
    row("Conv", "1-D stride pads", X(2, 3, 8), C(4, 3, 3), C(4), strides=[3], pads=[2, 1]),
    row("Conv", "2-D", X(2, 3, 6, 5), C(4, 3, 3, 2), C(4)),
    row("Conv", "2-D no bias", X(2, 3, 6, 5), C(4, 3, 3, 2), pads=[1, 0, 1, 1]),
    row("Conv", "2-D 1x1 stride", X(2, 3, 6, 5), C(4, 3, 1, 1), C(4), strides=[2, 2]),
    row("Conv", "2-D stride pads", X(2, 3, 7, 6), C(4, 3, 3, 2), C(4), strides=[2, 3], pads=[1, 0, 0, 1]),
    row("Conv", "2-D stride leftover", X(2, 2, 8, 9), C(3, 2, 3, 2), C(3), strides=[3, 4], pads=[0, 1, 0, 0]),
    row("Conv", "2-D dilation", X(2, 3, 7, 6), C(4, 3, 3, 2), C(4), dilations=[2, 3], pads=[1, 2, 2, 0], strides=[1, 2]),
    row("Conv", "2-D groups", X(2, 4, 5, 6), C(6, 2, 3, 2), C(6), group=2, pads=[1, 1, 1, 0], kernel_shape=[3, 2]),
    row("Conv", "2-D depthwise", X(2, 3, 6, 5), C(6, 1, 3, 3), C(6), group=3, strides=[2, 1], pads=[1, 1, 1, 1]),
    row("Conv", "3-D", X(2, 2, 4, 5, 3), C(3, 2, 2, 3, 2), C(3), strides=[2, 1, 1], pads=[1, 0, 0, 0, 1, 1]),
    row("Conv", "SAME_UPPER", X(2, 3, 7, 6), C(4, 3, 3, 2), C(4), auto_pad="SAME_UPPER", strides=[2, 2]),
    row("Conv", "SAME_LOWER", X(2, 3, 7, 6), C(4, 3, 4, 2), C(4), auto_pad="SAME_LOWER", strides=[3, 2]),
    row("Conv", "SAME_LOWER stride 1", X(2, 3, 7, 6), C(4, 3, 4, 2), C(4), auto_pad="SAME_LOWER"),
    row("Conv", "VALID", X(2, 3, 7, 6), C(4, 3, 3, 2), C(4), auto_pad="VALID", strides=[2, 1]),
    row("Conv", "computed weight", X(2, 3, 5, 4), F(4, 3, 2, 3), C(4), pads=[0, 1, 0, 1], kernel_shape=[2, 3]),
    row("ConvTranspose", "1-D", X(2, 3, 5), C(3, 4, 3), C(4), strides=[2]),
    row("ConvTranspose", "2-D", X(2, 3, 4, 3), C(3, 4, 3, 2), C(4)),
    row("ConvTranspose", "2-D no bias", X(2, 3, 4, 3), C(3, 4, 3, 2), pads=[1, 0, 1, 1]),
    row("ConvTranspose", "2-D stride pads", X(2, 3, 4, 3), C(3, 4, 3, 2), C(4), strides=[2, 3], pads=[1, 0, 0, 1]),
    row("ConvTranspose", "2-D output_padding", X(2, 3, 4, 3), C(3, 4, 3, 3), C(4), strides=[2, 3], pads=[1, 1, 1, 1],
        output_padding=[1, 2]),
    row("ConvTranspose", "2-D groups", X(2, 4, 4, 3), C(4, 3, 3, 2), C(6), group=2, strides=[2, 1]),
    row("ConvTranspose", "2-D dilation", X(2, 2, 4, 3), C(2, 3, 3, 2), C(3), dilations=[2, 1], strides=[1, 2]),
    row("ConvTranspose", "2-D stride over kernel", X(2, 2, 3, 4), C(2, 3, 2, 1), C(3), strides=[3, 2]),
    row("ConvTranspose", "3-D", X(2, 2, 3, 2, 3), C(2, 3, 2, 2, 2), C(3), strides=[2, 1, 1], pads=[1, 0, 0, 0, 1, 0]),
    row("ConvTranspose", "SAME_UPPER", X(2, 3, 4, 3), C(3, 4, 3, 3), C(4), auto_pad="SAME_UPPER", strides=[2, 2]),
    row("ConvTranspose", "SAME_LOWER", X(2, 3, 4, 3), C(3, 4, 3, 3), C(4), auto_pad="SAME_LOWER", strides=[2, 2]),
    row("ConvTranspose", "VALID", X(2, 3, 4, 3), C(3, 4, 3, 2), C(4), auto_pad="VALID", strides=[2, 1]),
    row("ConvTranspose", "output_shape", X(2, 3, 4, 3), C(3, 4, 3, 3), C(4), strides=[2, 2], output_shape=[8, 6],
        symbolic="output_shape over axes of unknown size"),
]  # fmt: skip

DENSE = [
    row("Gemm", "plain", X(2, 5), C(5, 4), C(4)),
    row("Gemm", "no C", X(2, 5), C(5, 4)),
    row("Gemm", "transB", X(2, 5), C(4, 5), C(4), transB=1),
    row("Gemm", "alpha beta", X(2, 5), C(5, 4), C(4), alpha=0.5, beta=-1.5),
    row("Gemm", "alpha negative transB", X(2, 5), C(4, 5), C(1, 4), alpha=-0.75, transB=1),
    row("Gemm", "beta 0", X(2, 5), C(5, 4), C(4), beta=0.0),
    row("Gemm", "transA", X(5, 3), C(5, 4), C(4), transA=1, batch=False),
    row("Gemm", "transA transB alpha", X(5, 3), C(4, 5), C(3, 4), transA=1, transB=1, alpha=2.0, batch=False, single=False),
    row("Gemm", "C scalar", X(2, 5), C(5, 4), K(0.7)),
    row("Gemm", "C one", X(2, 5), C(5, 4), C(1)),
    row("Gemm", "C column", X(3, 5), C(5, 4), C(3, 1), batch=False),
    row("Gemm", "C matrix", X(3, 5), C(5, 4), C(3, 4), batch=False),
    row("Gemm", "frozen left", C(3, 5), X(5, 4), C(4), batch=False, single=False),
    row("Gemm", "frozen input right", X(2, 5), F(5, 4), C(4), alpha=0.5, single=False),
    row("Gemm", "both active", X(3, 5), X(5, 4), C(4), alpha=0.5, batch=False, linear=False, single=False),
    row("Gemm", "active C", X(2, 5), C(5, 4), X(2, 4), single=False),
    row("MatMul", "2-D", X(2, 5), C(5, 4)),
    row("MatMul", "2-D bias", X(2, 5), C(5, 4), then=[("Add", C(4))]),
    row("MatMul", "batched", X(2, 3, 5), C(5, 4)),
    row("MatMul", "batched bias", X(2, 3, 5), C(5, 4), then=[("Add", C(4))]),
    row("MatMul", "4-D", X(2, 3, 4, 5), C(3, 5, 2)),
    row("MatMul", "broadcast batch of the weight", X(2, 1, 4, 5), C(3, 5, 2)),
    row("MatMul", "broadcast lead of the weight", X(4, 5), C(3, 5, 2), batch=False),
    row("MatMul", "left", C(4, 3), X(2, 3, 5)),
    row("MatMul", "left broadcast", C(3, 4, 5), X(2, 1, 5, 4)),
    row("MatMul", "1-D left", X(5), C(5, 4), batch=False),
    row("MatMul", "1-D left of a batch", X(5), C(3, 5, 4), batch=False),
    row("MatMul", "1-D right", C(4, 5), X(5), batch=False),
    row("MatMul", "1-D right of a batch", C(3, 4, 5), X(5), batch=False),
    row("MatMul", "1-D weight", X(2, 3, 5), C(5)),
    row("MatMul", "1-D weight left", C(3), X(2, 3, 5)),
    row("MatMul", "1-D both", X(5), C(5), batch=False),
    row("MatMul", "frozen input", X(2, 3, 5), F(2, 5, 4)),
    graph("MatMul", "computed operand", "g = Neg(f)\ny = MatMul(x, g)", True, x=X(2, 3, 5), f=F(5, 4)),
    row("MatMul", "product", X(2, 3, 5), X(2, 5, 4), linear=False),
    row("MatMul", "product broadcast", X(2, 1, 3, 5), X(4, 5, 4), linear=False, batch=False),
    row("MatMul", "product 1-D", X(3, 5), X(5), linear=False, batch=False),
    row("MatMul", "self", X(3, 3), Again(0), linear=False, batch=False),
    row("BatchNormalization", "2-D", X(2, 3, 4, 5), C(3), C(3), C(3), C(3, kind="positive"), before="Neg"),
    row("BatchNormalization", "epsilon 1-D", X(2, 3), C(3), C(3), C(3), C(3, kind="positive"), epsilon=0.1, before="Neg"),
]  # fmt: skip

SUMS = [
    row("Add", "two", X(2, 3, 4), X(2, 3, 4)),
    row("Add", "two broadcast right", X(2, 3, 4), X(3, 1)),
    row("Add", "two broadcast left", X(4), X(2, 3, 4)),
    row("Add", "two broadcast both", X(2, 1, 4), X(3, 1)),
    row("Add", "two size 1", X(2, 1, 4), X(2, 3, 4)),
    row("Add", "frozen", X(2, 3, 4), F(2, 3, 4)),
    row("Add", "frozen left", F(3, 1), X(2, 3, 4)),
    row("Add", "frozen is larger", X(3, 1), F(3, 4), batch=False),
    row("Add", "constant", X(2, 3, 4), C(3, 4), before="Neg"),
    row("Add", "constant is larger", X(3, 1), C(2, 3, 4), before="Neg", batch=False),
    row("Add", "itself", X(2, 3, 4), Again(0)),
    row("Sub", "two", X(2, 3, 4), X(2, 3, 4)),
    row("Sub", "two broadcast", X(2, 1, 4), X(3, 1)),
    row("Sub", "constant", X(2, 3, 4), C(3, 4), before="Neg"),
    row("Sub", "from constant", C(3, 4), X(2, 3, 4), before="Neg"),
    row("Sub", "from scalar", K(1.0), X(2, 3, 4), before="Neg"),
    row("Sum", "one", X(2, 3, 4)),
    row("Sum", "three broadcast", X(2, 3, 4), X(4), X(3, 1)),
    row("Sum", "frozen between", X(2, 3, 4), F(3, 4), X(2, 1, 4)),
    row("Mean", "two", X(2, 3, 4), X(2, 3, 4)),
    row("Mean", "three broadcast frozen", X(2, 3, 4), C(3, 1), X(4)),
]

PRODUCTS = [
    row("Mul", "two", X(2, 3, 4), X(2, 3, 4)),
    row("Mul", "two broadcast", X(2, 1, 4), X(3, 1)),
    row("Mul", "two broadcast left", X(4), X(2, 3, 4)),
    row("Mul", "itself", X(2, 3, 4), Again(0)),
    row("Mul", "constant", X(2, 3, 4), C(3, 4), before="Neg"),
    row("Mul", "constant left larger", C(2, 3, 4), X(3, 1), before="Neg", batch=False),
    row("Mul", "mask", X(2, 3, 4), K([0, 1, -2, 0]), before="Neg"),
    row("Mul", "frozen input", X(2, 3, 4), F(2, 3, 4)),
    row("Mul", "scalar", K(2.0), X(2, 3, 4), before="Neg"),
    row("Div", "constant", X(2, 3, 4), C(3, 4), before="Neg"),
    row("Div", "constant is larger", X(3, 1), C(2, 3, 4), before="Neg", batch=False),
    row("Div", "frozen input", X(2, 3, 4), F(2, 3, 1)),
    row("Div", "of constant", C(3, 4), X(2, 3, 4, kind="above"), before="Neg"),
    row("Div", "of frozen input", F(2, 3, 4), X(3, 1, kind="above"), batch=False),
    row("Div", "two", X(2, 3, 4), X(2, 3, 4, kind="above")),
    row("Div", "two broadcast", X(3, 1), X(2, 3, 4, kind="above")),
]

D = partial(X, kind="distinct")
POOLS = [
    row("MaxPool", "1-D", D(2, 3, 9), kernel_shape=[3]),
    row("MaxPool", "2-D", D(2, 3, 6, 5), kernel_shape=[2, 2], strides=[2, 2]),
    row("MaxPool", "overlapping pads", D(2, 3, 6, 5), kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 1]),
    row("MaxPool", "ceil_mode", D(2, 3, 6, 8), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    row("MaxPool", "ceil_mode pads", D(2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 0, 0], ceil_mode=1),
    row("MaxPool", "ceil_mode window left out", D(2, 3, 8, 6), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    row("MaxPool", "ceil_mode pads left out", D(2, 3, 5, 5), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1],
        ceil_mode=1),
    row("MaxPool", "dilation", D(2, 3, 7, 6), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2]),
    row("MaxPool", "dilation ceil_mode", D(2, 3, 8, 7), kernel_shape=[3, 2], dilations=[2, 1], strides=[2, 3], ceil_mode=1),
    row("MaxPool", "3-D", D(2, 2, 4, 5, 3), kernel_shape=[2, 3, 2], strides=[1, 2, 1], pads=[1, 0, 0, 0, 1, 0]),
    row("MaxPool", "SAME_UPPER", D(2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER",
        symbolic=NO_SIZE),
    row("MaxPool", "SAME_LOWER stride 1", D(2, 3, 7, 6), kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    row("AveragePool", "1-D", X(2, 3, 9), kernel_shape=[3], strides=[2]),
    row("AveragePool", "2-D", X(2, 3, 6, 5), kernel_shape=[2, 3]),
    row("AveragePool", "pads", X(2, 3, 6, 5), kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 1]),
    row("AveragePool", "pads included", X(2, 3, 6, 5), kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 1],
        count_include_pad=1),
    row("AveragePool", "ceil_mode", X(2, 3, 6, 8), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    row("AveragePool", "ceil_mode pads", X(2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 0, 0], ceil_mode=1),
    row("AveragePool", "ceil_mode window left out", X(2, 3, 8, 6), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    row("AveragePool", "ceil_mode pads included", X(2, 3, 7, 6), kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 0],
        ceil_mode=1, count_include_pad=1, single=False),
    row("AveragePool", "3-D", X(2, 2, 4, 5, 3), kernel_shape=[2, 3, 2], strides=[1, 2, 1], pads=[1, 0, 0, 0, 1, 0]),
    row("AveragePool", "SAME_UPPER", X(2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER",
        symbolic=NO_SIZE),
    row("AveragePool", "SAME_LOWER", X(2, 3, 7, 6), kernel_shape=[2, 3], auto_pad="SAME_LOWER", count_include_pad=1),
    row("AveragePool", "VALID", X(2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="VALID"),
    row("GlobalAveragePool", "1-D", X(2, 3, 5)),
    row("GlobalAveragePool", "2-D", X(2, 3, 4, 5)),
    row("GlobalMaxPool", "2-D", D(2, 3, 4, 5)),
    row("GlobalMaxPool", "3-D", D(2, 3, 2, 3, 2)),
]  # fmt: skip

REDUCTIONS = [
    row(op, what, make(2, 3, 4, 5), *axes, **attrs)
    for op, make in (("ReduceMean", X), ("ReduceSum", X), ("ReduceMax", D), ("ReduceMin", D))
    for what, axes, attrs in (
        ("last", [I(-1)], {}),
        ("flat", [I(2)], {"keepdims": 0}),
        ("two axes", [I(3, 1)], {"keepdims": 0}),
        ("two axes kept", [I(1, -1)], {}),
        ("noop", [], {"noop_with_empty_axes": 1}),
    )
] + [
    row(op, "all", make(3, 4), batch=False, keepdims=keep)
    for op, make, keep in (("ReduceMean", X, 0), ("ReduceSum", X, 1), ("ReduceMax", D, 1), ("ReduceMin", D, 0))
]


def pointwise(op: str, what: str = "", *more: Arg, kind: str = "signed", **options: Any) -> Case:
    return row(op, what or kind, X(2, 3, 5, kind=kind), *more, **options)


def scaled(what: str, low: float, high: float, op: str, *more: Arg, **attrs: Any) -> Case:
    """A pointwise case on values of [low, high]."""
    x = Arg("active", lambda rng: rng.uniform(low, high, (2, 3, 5)).astype(np.float32))
    return row(op, what, x, *more, **attrs)


NEGATED = [("Mul", K(-1.0))]  # a Sigmoid at the very end would be left out of the explanation
POINTWISE = [
    pointwise("Relu"), pointwise("LeakyRelu"), pointwise("LeakyRelu", "alpha", alpha=0.3),
    pointwise("PRelu", "scalar", C(1)), pointwise("PRelu", "channel", C(3, 1)), pointwise("PRelu", "full", C(3, 5)),
    pointwise("ThresholdedRelu", "alpha", alpha=0.4), pointwise("Elu"), pointwise("Elu", "alpha", alpha=1.7),
    pointwise("Selu"), pointwise("Selu", "alpha gamma", alpha=1.2, gamma=0.8), pointwise("Celu"),
    pointwise("Celu", "alpha", alpha=2.0),
    pointwise("Gelu", opset=20), pointwise("Gelu", "tanh", opset=20, approximate="tanh"),
    pointwise("Swish", opset=24), pointwise("Swish", "alpha", opset=24, alpha=1.5), pointwise("Mish"),
    pointwise("Clip", "both", K(-0.73), K(1.11)), pointwise("Clip", "low", K(-0.73)), pointwise("Clip", "none"),
    row("Clip", "high", X(2, 3, 5), None, K(0.77)),
    pointwise("Shrink"), pointwise("Shrink", "hard", lambd=0.69), pointwise("Shrink", "soft", lambd=0.6, bias=0.4),
    row("Pow", "exponent is larger", X(3, 1, kind="positive"), K([[2.0, 3.0, 1.0, 0.5]]), batch=False),
    pointwise("Pow", "2", K(2.0)), pointwise("Pow", "3", K(3.0)), pointwise("Pow", "int", K(3, np.int64)),
    pointwise("Pow", "half", K(0.5), kind="positive"), pointwise("Pow", "channel", K([[2.0], [3.0], [1.0]])),
    pointwise("Sigmoid", "inside", then=NEGATED), pointwise("HardSigmoid"),
    scaled("wide", -6, 6, "HardSigmoid", alpha=0.25, beta=0.4), pointwise("HardSwish"), scaled("wide", -6, 6, "HardSwish"),
    pointwise("Tanh"), pointwise("Softplus"), pointwise("Softsign"), pointwise("Erf"), pointwise("Exp"),
    pointwise("Log", kind="positive"), pointwise("Sqrt", kind="positive"), pointwise("Reciprocal", kind="above"),
    pointwise("Abs"), pointwise("Neg"), pointwise("Sin"), pointwise("Cos"), pointwise("Tan", kind="unit"),
    pointwise("Asin", kind="unit"), pointwise("Acos", kind="unit"), pointwise("Atan"), pointwise("Sinh"), pointwise("Cosh"),
    pointwise("Asinh"), pointwise("Acosh", kind="above"), pointwise("Atanh", kind="unit"),
    pointwise("Cast", "float", to=onnx.TensorProto.FLOAT), row("Mod", "scalar", X(2, 3, 5), K(0.75), fmod=1),
    row("Mod", "signs", X(2, 3, 5), K([0.6, -0.9, 1.3, -2.5, 7.0]), fmod=1),
]  # fmt: skip
SPELLED = [
    graph("Gelu", "erf spelled", "a = Div(x, s)\ne = Erf(a)\ni = Add(e, one)\nm = Mul(x, i)\ny = Mul(m, half)",
          x=X(2, 3, 5), s=K(2**0.5), one=K(1.0), half=K(0.5)),
    graph("Gelu", "erf half first", "h = Mul(x, half)\na = Mul(x, s)\ne = Erf(a)\ni = Add(e, one)\ny = Mul(h, i)",
          x=X(2, 3, 5), s=K(0.5**0.5), one=K(1.0), half=K(0.5)),
    graph("Gelu", "tanh spelled", "p = Pow(x, three)\nq = Mul(p, c)\na = Add(x, q)\nb = Mul(a, s)\nt = Tanh(b)\n"
          "i = Add(t, one)\nh = Mul(x, half)\ny = Mul(h, i)",
          x=X(2, 3, 5), three=K(3.0), c=K(0.044715), s=K((2 / np.pi) ** 0.5), one=K(1.0), half=K(0.5)),
    graph("Swish", "sigmoid", "s = Sigmoid(x)\ny = Mul(x, s)", x=X(2, 3, 5)),
    graph("Swish", "sigmoid left scaled", "a = Mul(x, k)\ns = Sigmoid(a)\ny = Mul(s, x)", x=X(2, 3, 5), k=K(1.7)),
    graph("HardSwish", "hard sigmoid", "s = HardSigmoid(x)\ny = Mul(x, s)", x=X(2, 3, 5)),
    graph("HardSwish", "clip", "a = Add(x, k)\nc = Clip(a, low, high)\nm = Mul(x, c)\ny = Div(m, six)",
          x=X(2, 3, 5), k=K(3.0), low=K(0.0), high=K(6.0), six=K(6.0)),
    graph("Mish", "softplus", "s = Softplus(x)\nt = Tanh(s)\ny = Mul(x, t)", x=X(2, 3, 5)),
]  # fmt: skip

MOVES = [
    row("Reshape", "minus one", X(2, 3, 4, 5), I(0, -1)),
    row("Reshape", "zeros", X(2, 3, 4, 5), I(0, 0, 20)),
    row("Reshape", "full", X(3, 4, 5), I(4, 15), batch=False),
    row("Reshape", "allowzero", X(3, 4, 5), I(5, -1), batch=False, allowzero=1),
    row("Reshape", "to scalar", X(1, 1), I(), batch=False),
    row("Reshape", "dynamic", X(2, 3, 4), G([-1, 6]), batch=False),
    row("Flatten", "default", X(2, 3, 4, 5)),
    row("Flatten", "axis 0", X(3, 4, 5), batch=False, axis=0),
    row("Flatten", "axis 2", X(2, 3, 4, 5), batch=False, axis=2),
    row("Flatten", "axis -1", X(2, 3, 4, 5), batch=False, axis=-1),
    row("Squeeze", "axis", X(2, 1, 4, 1), I(1)),
    row("Squeeze", "two axes", X(2, 1, 4, 1), I(-1, 1)),
    row("Squeeze", "all", X(3, 1, 4, 1), batch=False, symbolic="unknown rank"),
    row("Unsqueeze", "axes", X(2, 3, 4), I(-1, 1)),
    row("Identity", "plain", X(2, 3, 4)),
    row("Dropout", "plain", X(2, 3, 4)),
    row("Dropout", "ratio", X(2, 3, 4), K(0.3), K(False, bool)),
    row("Transpose", "default", X(3, 4, 5), batch=False),
    row("Transpose", "perm", X(2, 3, 4, 5), perm=[0, 2, 3, 1]),
    row("Transpose", "cycle", X(3, 4, 5), batch=False, perm=[1, 2, 0]),
    row("Slice", "one axis", X(2, 3, 6, 5), I(1), I(4), I(2)),
    row("Slice", "several axes", X(2, 3, 6, 5), I(1, -4), I(5, -1), I(2, 3)),
    row("Slice", "axes left out", X(3, 6), I(1, 2), I(3, 5), batch=False),
    row("Slice", "INT_MAX", X(2, 3, 6, 5), I(2), I(INT_MAX), I(2)),
    row("Slice", "step 2", X(2, 3, 6, 5), I(1), I(6), I(2), I(2)),
    row("Slice", "step -1", X(2, 3, 6, 5), I(-1), I(-INT_MAX - 1), I(2), I(-1)),
    row("Slice", "steps mixed", X(2, 3, 7, 5), I(5, 0), I(0, INT_MAX), I(-2, 3), I(-2, 3)),
    row("Slice", "beyond the end", X(2, 3, 6), I(-100), I(100), I(2)),
    row("Slice", "dynamic starts", X(2, 3, 6), G([2]), I(5), I(2)),
    row("Slice", "dynamic steps", X(2, 3, 6), I(1), G([6]), I(2), G([2])),
    row("Slice", "batch axis", X(4, 3), I(1), I(3), I(0), batch=False),
    row("Split", "equal, one shown", X(2, 6, 4), axis=1, num_outputs=3, outputs=3, shown=1),
    row("Split", "unequal, one shown", X(2, 6, 4), I(1, 3, 2), axis=1, outputs=3, shown=2),
    row("Split", "uneven", X(2, 3, 7), axis=-1, num_outputs=3, outputs=3, shown=2),
    graph("Split", "two used", "a, b, d = Split(x, sizes)\nt = Transpose(d)\ny = MatMul(a, t)", single=False,
          x=X(5, 4), sizes=I(1, 3, 1)),
    row("Concat", "two", X(2, 3, 4), X(2, 2, 4), axis=1),
    row("Concat", "frozen between", X(2, 3, 4), F(2, 1, 4), X(2, 2, 4), axis=1),
    row("Concat", "constant", C(3, 4), X(2, 4), axis=0, batch=False),
    row("Concat", "itself", X(2, 3, 4), Again(0), axis=-1),
    row("Gather", "vector", X(2, 5, 4), I(3, 0), axis=1),
    row("Gather", "repeated negative", X(2, 5, 4), I(-1, 2, -1, 4), axis=1),
    row("Gather", "scalar", X(2, 5, 4), K(3, np.int64), axis=1),
    row("Gather", "2-D indices", X(2, 5, 4), K([[0, 3, 3], [1, -2, 0]], np.int64), axis=-1),
    row("Gather", "axis 0 int32", X(5, 4), K([1, 1, 3], np.int32), batch=False),
    row("Gather", "dynamic", X(2, 5, 4), G([2, 2, 0]), axis=1, batch=False),
    row("Gather", "dynamic scalar", X(2, 5), G(3), axis=1, batch=False),
    row("Pad", "constant", X(2, 3, 4), I(0, 1, 0, 0, 2, 1)),
    row("Pad", "value", X(2, 3, 4), I(0, 1, 0, 0, 0, 1), K(0.7)),
    row("Pad", "negative", X(2, 3, 6), I(0, 1, -2, 0, 0, -1)),
    row("Pad", "axes", X(2, 3, 4), I(1, 2), None, I(-1)),
    row("Pad", "axes two", X(2, 3, 4, 5), I(1, 2, 0, -1), K(0.0), I(3, 1)),
    row("Pad", "edge", X(2, 3, 4), I(0, 1, 2, 0, 0, 1), mode="edge"),
    row("Pad", "reflect", X(2, 3, 4), I(0, 1, 2, 0, 0, 3), mode="reflect"),
    row("Pad", "dynamic", X(2, 3, 4), G([0, 1, 0, 0, 2, 1]), batch=False),
    row("Expand", "axis", X(2, 3, 1), I(1, 1, 4)),
    row("Expand", "lead", X(3, 1), I(2, 1, 4), batch=False),
    row("Expand", "nothing", X(3, 4), I(1, 1), batch=False),
    row("Expand", "dynamic", X(3, 1), G([2, 1, 4]), batch=False),
    row("Tile", "one axis", X(2, 3, 4), I(1, 3, 1)),
    row("Tile", "two axes", X(3, 4), I(2, 3), batch=False),
    row("Tile", "dynamic", X(3, 4), G([2, 3]), batch=False),
    row("DepthToSpace", "DCR", X(2, 12, 3, 2), blocksize=2),
    row("DepthToSpace", "CRD", X(2, 12, 3, 2), blocksize=2, mode="CRD"),
    row("SpaceToDepth", "2", X(2, 3, 4, 6), blocksize=2),
    row("Where", "left", K([[True], [False], [True]], bool), X(2, 3, 4), C(3, 4)),
    row("Where", "right", K([True, False, False, True], bool), K(-1.0), X(2, 3, 4)),
    row("Where", "both", K([True, False, False, True], bool), X(2, 3, 4), X(2, 3, 4)),
    row("Where", "both broadcast", K([[True], [False], [True]], bool), X(4), X(2, 1, 4)),
    row("Where", "condition is larger", G(np.eye(3, 4) > 0, bool), X(4), X(3, 1), batch=False),
]  # fmt: skip

NEAREST, LINEAR_MODE, CUBIC = {"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"}
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
CORNERS = {"coordinate_transformation_mode": "align_corners"}
TORCH = {"coordinate_transformation_mode": "pytorch_half_pixel"}
RESIZES = [
    row("Resize", "nearest up", X(2, 3, 4, 3), None, K([1, 1, 2, 3]), **NEAREST),
    row("Resize", "nearest asymmetric floor", X(2, 3, 4, 3), None, K([1, 1, 2, 2]), **NEAREST, **ASYMMETRIC,
        nearest_mode="floor"),
    row("Resize", "nearest down", X(2, 3, 6, 5), None, K([1, 1, 0.5, 0.6]), **NEAREST),
    row("Resize", "nearest sizes", X(2, 3, 4, 3), None, None, I(2, 3, 7, 5), **NEAREST, batch=False),
    row("Resize", "nearest 1-D", X(2, 3, 4), None, K([1, 1, 2.5]), **NEAREST, **ASYMMETRIC),
    row("Resize", "linear up", X(2, 3, 4, 3), None, K([1, 1, 2, 3]), **LINEAR_MODE),
    row("Resize", "linear down", X(2, 3, 6, 5), None, K([1, 1, 0.5, 0.6]), **LINEAR_MODE),
    row("Resize", "linear sizes", X(2, 3, 4, 3), None, None, I(2, 3, 7, 5), **LINEAR_MODE, **TORCH, batch=False),
    row("Resize", "linear align_corners", X(2, 3, 4, 3), None, K([1, 1, 2, 2]), **LINEAR_MODE, **CORNERS),
    row("Resize", "linear align_corners sizes", X(2, 3, 4, 3), None, None, I(2, 3, 6, 3), **LINEAR_MODE, **CORNERS,
        batch=False),
    row("Resize", "linear asymmetric", X(2, 3, 4, 3), None, K([1, 1, 2, 2]), **LINEAR_MODE, **ASYMMETRIC),
    row("Resize", "linear 1-D", X(2, 3, 4), None, K([1, 1, 2]), **LINEAR_MODE),
    row("Resize", "linear 3-D", X(2, 2, 3, 2, 3), None, K([1, 1, 2, 1, 1.5]), **LINEAR_MODE),
    row("Resize", "linear axes", X(2, 3, 4, 3), None, K([2, 1.5]), **LINEAR_MODE, axes=[2, 3]),
    row("Resize", "linear axes sizes", X(2, 3, 4, 3), None, None, I(7, 5), **LINEAR_MODE, axes=[-2, -1]),
    row("Resize", "cubic up", X(2, 3, 4, 3), None, K([1, 1, 2, 2]), **CUBIC),
    row("Resize", "cubic sizes", X(2, 3, 5, 4), None, None, I(2, 3, 7, 6), **CUBIC, batch=False, cubic_coeff_a=-0.5),
    row("Resize", "cubic align_corners", X(2, 3, 5, 4), None, K([1, 1, 2, 1]), **CUBIC, **CORNERS),
    row("Upsample", "nearest", X(2, 3, 4, 3), K([1, 1, 2, 2]), opset=9, mode="nearest"),
    row("Upsample", "linear", X(2, 3, 4, 3), K([1, 1, 2, 2]), opset=9, mode="linear"),
    row("Upsample", "opset 7", X(2, 3, 4, 3), opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]),
]  # fmt: skip

HALF, OLD, CROP = (
    {"coordinate_transformation_mode": c} for c in ("half_pixel_symmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize")
)
ANTIALIAS = {"antialias": 1}
MODES = {"nearest": NEAREST, "linear": LINEAR_MODE, "cubic": CUBIC}
# part of the middle axes, and more than the last one holds
REGION = K([0, 0, 0.2, -0.3, 1, 1, 0.9, 1.4])
RESIZES += [
    row("Resize", f"nearest {scale} {how}", X(2, 2, 6, 5), None, K([1, 1, *scales]), **NEAREST, **kind, nearest_mode=how)
    for scale, scales, kind in (("up", [2, 2.5], {}), ("down", [0.5, 0.6], {}), ("down asymmetric", [0.34, 0.8], ASYMMETRIC))
    for how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
] + [
    row("Resize", f"{mode} crop", X(2, 2, 5, 6), REGION, None, I(2, 2, 4, 7), **how, **CROP, batch=False,
        extrapolation_value=0.7)
    for mode, how in MODES.items()
] + [
    row("Resize", f"{mode} crop axes", X(2, 2, 5, 6), K([0.1, 0.3, 1.3, 0.8]), K([1, 1.5]), **how, **CROP, axes=[2, 3])
    for mode, how in MODES.items()
] + [
    row("Resize", f"{mode} {policy} {sizes[0]}", X(2, 2, 5, 4), None, None, I(*sizes), **how, axes=[2, 3],
        keep_aspect_ratio_policy=policy)
    for mode, how in MODES.items()
    for policy, sizes in (("not_larger", [9, 7]), ("not_smaller", [8, 5]), ("not_smaller", [3, 3]))
    if (mode, sizes) != ("nearest", [3, 3])
] + [
    row("Resize", f"{mode} symmetric {what}", X(2, 2, 5, 4), None, K([1, 1, *scales]), **how, **HALF)
    for mode, how in MODES.items()
    for what, scales in (("up", [1.5, 2.3]), ("down", [0.7, 0.6]))
] + [
    row("Resize", f"{mode} antialias {what}", X(2, 2, 7, 6), None, K([1, 1, *scales]), **how, **ANTIALIAS)
    for mode, how in (("linear", LINEAR_MODE), ("cubic", CUBIC))
    for what, scales in (("up", [1.5, 2.3]), ("down", [0.5, 0.4]))
] + [
    row("Resize", "cubic exclude_outside", X(2, 2, 5, 4), None, K([1, 1, 1.6, 2]), **CUBIC, exclude_outside=1),
    row("Resize", "cubic antialias exclude_outside", X(2, 2, 7, 6), None, K([1, 1, 0.6, 0.5]), **CUBIC, **ANTIALIAS,
        exclude_outside=1),
    row("Resize", "cubic down", X(2, 2, 7, 6), None, K([1, 1, 0.6, 0.5]), **CUBIC),
    row("Resize", "cubic 2-D", X(5, 4), None, K([1.6, 2]), **CUBIC, batch=False),
    row("Resize", "linear channels last", X(2, 4, 3, 2), None, K([1, 2, 1.5, 1]), **LINEAR_MODE),
    row("Resize", "linear 2-D crop", X(5, 4), K([0.2, 0, 0.8, 1.2]), K([1.6, 2]), **LINEAR_MODE, **CROP, batch=False),
    row("Resize", "linear sizes at run time", X(2, 3, 4, 3), None, None, G([2, 3, 7, 5]), **LINEAR_MODE, batch=False),
    row("Resize", "nearest sizes at run time", X(2, 3, 4, 3), None, None, G([7, 2]), **NEAREST, axes=[2, 3], batch=False),
    row("Resize", "linear scales at run time", X(2, 3, 4, 3), None, G([1, 1, 1.5, 2], np.float32), **LINEAR_MODE, batch=False),
    row("Resize", "linear region at run time", X(2, 3, 4, 3), G([0, 0, 0.1, 0.3, 1, 1, 0.8, 1.2], np.float32), None,
        I(2, 3, 7, 5), **LINEAR_MODE, **CROP, batch=False),
    row("Resize", "linear bounds at run time", X(2, 3, 4, 3), None, None, G([7, 4]), **LINEAR_MODE, axes=[2, 3],
        keep_aspect_ratio_policy="not_larger", batch=False),
    row("Resize", "nearest of TensorFlow", X(2, 3, 4, 3), K([]), K([1, 1, 1.5, 2]), **NEAREST, **OLD, opset=11),
    row("Resize", "linear 3-D crop", X(1, 2, 3, 4, 3), K([0, 0, 0.1, 0, 0.3, 1, 1, 0.8, 1.2, 0.9]), None, I(1, 2, 4, 3, 5),
        **LINEAR_MODE, **CROP, batch=False),
    row("Resize", "nearest 3-D", X(2, 2, 3, 2, 3), None, K([1, 1, 2, 0.5, 1.5]), **NEAREST),
    row("Resize", "nearest batch and channels", X(2, 3, 2), None, K([1.5, 2, 1]), **NEAREST, batch=False),
]  # fmt: skip


def points(*shape: int) -> Arg:
    """A sampling grid: twice the same point, the corners, a point far outside, the others anywhere near the image."""

    def make(rng: np.random.Generator) -> Array:
        grid = rng.uniform(-1.3, 1.3, shape).astype(np.float32)
        flat_grid = grid.reshape(-1, shape[-1])
        flat_grid[1], flat_grid[2], flat_grid[3] = flat_grid[0], -1, 1
        flat_grid[4] = [-3.7, 5.2, 2.9][: shape[-1]]
        return grid

    return Arg("frozen", make)


REGIONS = [[0, 0, 3, 4], [1.3, 0.7, 5.2, 6.9], [-3, -2, 2, 3], [4, 4, 9, 9], [2, 2, 2.3, 2.2], [0.2, 0.1, 11, 13], [3, 3, 1, 1]]
OWNERS = [0, 1, 1, 0, 0, 1, 0]
ROIS = [K(REGIONS), K(OWNERS, np.int64)]
SAMPLES = [
    row("GridSample", f"{mode} {padding}{' aligned' * align}", X(2, 3, 4, 5), points(2, 3, 4, 2), mode=mode,
        padding_mode=padding, align_corners=align)
    for mode in ("bilinear", "bicubic", "nearest")
    for padding in ("zeros", "border", "reflection")
    for align in (0, 1)
] + [
    row("GridSample", f"3-D {mode} {padding}{' aligned' * align}", X(2, 2, 3, 4, 2), points(2, 2, 1, 3, 3), mode=mode,
        padding_mode=padding, align_corners=align)
    for mode, padding, align in (("bilinear", "zeros", 0), ("bilinear", "reflection", 1), ("bilinear", "border", 0),
                                 ("nearest", "zeros", 1), ("nearest", "reflection", 0))
] + [
    row("GridSample", "defaults", X(2, 3, 4, 5), points(2, 3, 4, 2)),
    row("GridSample", "opset 20 linear", X(2, 3, 4, 5), points(2, 3, 4, 2), opset=20, mode="linear"),
    row("GridSample", "opset 20 cubic", X(2, 3, 4, 5), points(2, 3, 4, 2), opset=20, mode="cubic", padding_mode="border"),
    row("GridSample", "opset 22 3-D", X(2, 2, 3, 4, 2), points(2, 2, 1, 3, 3), opset=22, padding_mode="border"),
    row("GridSample", "one row", X(2, 3, 1, 5), points(2, 3, 4, 2), mode="bilinear", padding_mode="reflection"),
] + [
    row("RoiAlign", f"{frame} ratio {ratio}{' scaled' * (scale != 1)}", X(2, 3, 7, 6), *ROIS, batch=False,
        output_height=3, output_width=2, sampling_ratio=ratio, spatial_scale=scale, coordinate_transformation_mode=frame)
    for frame in ("half_pixel", "output_half_pixel")
    for ratio, scale in ((0, 1.0), (0, 0.5), (1, 1.0), (2, 0.7))
] + [
    row("RoiAlign", f"max {frame} ratio {ratio}", D(2, 1, 5, 4), K(REGIONS[:3]), K(OWNERS[:3], np.int64), batch=False,
        output_height=2, output_width=2, sampling_ratio=ratio, coordinate_transformation_mode=frame, mode="max", linear=False)
    for frame, ratio in (("half_pixel", 0), ("half_pixel", 2), ("output_half_pixel", 1))
] + [
    row("RoiAlign", "regions at run time", X(2, 3, 7, 6), F(4, 4, kind="positive"), G([0, 1, 1, 0]), batch=False,
        output_height=2, output_width=2, spatial_scale=2.5),
    row("RoiAlign", "opset 10", X(2, 3, 7, 6), *ROIS, batch=False, opset=10, output_height=2, output_width=3),
    row("MaxRoiPool", "plain", D(2, 3, 7, 6), K([[o, *r] for o, r in zip(OWNERS, REGIONS, strict=True)]), batch=False,
        pooled_shape=[3, 2]),
    row("MaxRoiPool", "scaled", D(2, 3, 7, 6), K([[o, *r] for o, r in zip(OWNERS, REGIONS, strict=True)]), batch=False,
        pooled_shape=[2, 3], spatial_scale=0.6),
]  # fmt: skip

SIGNALS = [
    row("DFT", f"{what} {'inverse' * inverse}{'one-sided' * onesided}", X(2, 5, 3, parts), axis=axis, inverse=inverse,
        onesided=onesided)
    for what, parts, axis in (("real", 1, 1), ("complex", 2, 2), ("real axis -2", 1, -2), ("complex axis -3", 2, -3))
    for inverse, onesided in ((0, 0), (1, 0), (0, 1), (1, 1))
    if not onesided or inverse == (parts == 2)
] + [
    row("DFT", f"to {n} {what}", X(2, 6, parts), K(n, np.int64), **how)
    for n in (4, 9)
    for what, parts, how in (("real", 1, {}), ("complex", 2, {"inverse": 1}), ("one-sided", 1, {"onesided": 1}))
] + [
    row("DFT", "inverse one-sided odd", X(2, 5, 2), K(9, np.int64), inverse=1, onesided=1,
        symbolic="only known at run time"),
    row("DFT", "batch axis", X(4, 3, 2), axis=0, batch=False),
    row("DFT", "vector", X(5, 2), axis=0, batch=False),
    row("DFT", "longer at run time", X(2, 6, 2), G(8), batch=False, single=False),
    row("DFT", "shorter at run time", X(2, 6, 3, 1), G(5), onesided=1, batch=False, single=False),
    row("DFT", "opset 20", X(2, 4, 5, 2), opset=20),
    row("DFT", "opset 20 axis", X(2, 4, 5, 1), None, K(1, np.int64), opset=20, onesided=1),
    row("STFT", "window", X(2, 13, 1), K(3, np.int64), C(5), onesided=1, single=False),
    row("STFT", "frame length", X(2, 13, 1), K(4, np.int64), None, K(6, np.int64), onesided=1, single=False),
    row("STFT", "both", X(2, 13, 1), K(2, np.int64), C(5), K(5, np.int64), onesided=0, single=False),
    row("STFT", "complex", X(2, 11, 2), K(5, np.int64), C(4), onesided=0, single=False),
    row("STFT", "step at run time", X(2, 13, 1), G(3), F(5), onesided=1, batch=False, single=False),
    row("STFT", "no channel axis", X(2, 13), K(3, np.int64), C(5), onesided=1, single=False),
    row("Col2Im", "plain", X(2, 12, 6), I(4, 3), I(2, 2)),
    row("Col2Im", "stride pads dilation", X(2, 12, 9), I(6, 5), I(2, 3), strides=[2, 1], pads=[1, 0, 0, 2], dilations=[2, 2]),
    row("Col2Im", "1-D", X(2, 6, 4), I(7), I(3), strides=[2], pads=[1, 1]),
    row("Col2Im", "3-D", X(2, 16, 4), I(3, 2, 3), I(2, 2, 2)),
    row("Col2Im", "size at run time", X(2, 12, 6), G([4, 3]), I(2, 2), batch=False),
]  # fmt: skip

UNSIZED = "axis of unknown size"
WRITTEN_OUT = [
    row("CumProd", "plain", X(2, 5, 3), K(1, np.int64), opset=26, symbolic=UNSIZED, single=False),
    row("CumProd", "exclusive", X(2, 3, 4), K(-1, np.int64), opset=26, exclusive=1, symbolic=UNSIZED, single=False),
    row("CumProd", "reverse", X(2, 6), K(1, np.int64), opset=26, reverse=1, symbolic=UNSIZED, single=False),
    row("CumProd", "reverse exclusive", X(2, 6), K(1, np.int64), opset=26, exclusive=1, reverse=1, symbolic=UNSIZED,
        single=False),
    row("CumProd", "one", X(2, 1), K(1, np.int64), opset=26, symbolic=UNSIZED, single=False),
    row("TensorScatter", "cache", X(2, 3, 6, 4), F(2, 3, 2, 4), G([1, 3]), opset=24, single=False),
    row("TensorScatter", "update", C(2, 3, 6, 4), X(2, 3, 2, 4), K([0, 4], np.int64), opset=24, batch=False, single=False),
    row("TensorScatter", "circular", X(2, 6, 4), X(2, 3, 4), G([1, 5]), opset=24, mode="circular", axis=1, single=False),
    row("TensorScatter", "from the start", X(2, 6, 4), X(2, 3, 4), opset=24, axis=-2, single=False),
    row("AffineGrid", "2-D", X(2, 2, 3), I(2, 3, 4, 5), opset=20, batch=False, single=False),
    row("AffineGrid", "3-D aligned", X(2, 3, 4), I(2, 1, 3, 2, 4), opset=20, align_corners=1, batch=False, single=False),
    row("AffineGrid", "size at run time", X(2, 2, 3), G([2, 3, 4, 5]), opset=20, batch=False, single=False),
    row("DeformConv", "plain", X(2, 3, 5, 6), C(4, 3, 3, 2), F(2, 12, 3, 5), opset=19, single=False),
    row("DeformConv", "everything", X(2, 4, 5, 6), C(6, 2, 2, 3), F(2, 24, 3, 4), C(6), F(2, 12, 3, 4), opset=22, group=2,
        offset_group=2, strides=[2, 1], pads=[1, 0, 1, 2], dilations=[2, 2], single=False),
    row("DeformConv", "mask", X(2, 2, 4, 4), F(3, 2, 2, 2), F(2, 8, 3, 3), None, X(2, 4, 3, 3), opset=19, batch=False,
        single=False, linear=False, symbolic="weights of known size"),
]  # fmt: skip

SPELLED_LAYER_NORM = """
    m = ReduceMean(x, axes)
    d = Sub(x, m)
    p = {square}
    v = ReduceMean(p, axes)
    w = Add(v, eps)
    s = Sqrt(w)
    {normalised}
    h = Mul(n, g)
    y = Add(h, b)
"""
LAYER_NORM_ARGS = {"x": X(2, 3, 8), "axes": I(-1), "eps": K(1e-3), "two": K(2.0), "one": K(1.0), "g": C(8), "b": C(8)}


def layer_norm(what: str, square: str, normalised: str) -> Case:
    text = SPELLED_LAYER_NORM.format(square=square, normalised=normalised)
    return graph("LayerNormalization", what, text, **{k: v for k, v in LAYER_NORM_ARGS.items() if k in text.replace(",", " ")})


# Mul keeps them from being left out as the end of the model
SOFTMAXES = [
    row("Softmax", "last axis", X(2, 3, 5), then=[("Mul", K(-1.0))], linear=False),
    row("Softmax", "axis 1", X(2, 3, 5), then=[("Mul", K(-1.0))], linear=False, axis=1),
    row("LogSoftmax", "last axis", X(2, 3, 5), then=[("Mul", K(-1.0))], linear=False),
    row("LogSoftmax", "axis 1", X(2, 3, 5), then=[("Mul", K(-1.0))], linear=False, axis=1),
]

NORMS = [
    row("LayerNormalization", "last", X(2, 3, 8), C(8), C(8)),
    row("LayerNormalization", "axis 1", X(2, 3, 4), C(3, 4), C(3, 4), axis=1),
    row("LayerNormalization", "no bias", X(2, 3, 8), C(8), epsilon=1e-2),
    layer_norm("Mul Div", "Mul(d, d)", "n = Div(d, s)"),
    layer_norm("Pow Reciprocal", "Pow(d, two)", "i = Reciprocal(s)\n    n = Mul(d, i)"),
    layer_norm("Pow one over", "Pow(d, two)", "i = Div(one, s)\n    n = Mul(i, d)"),
    row("InstanceNormalization", "1-D", X(2, 3, 7), C(3), C(3)),
    row("InstanceNormalization", "2-D", X(2, 3, 4, 5), C(3), C(3), epsilon=1e-2),
    graph("GroupNormalization", "spelled", """
        a = Reshape(x, to)
        i = InstanceNormalization(a, one, zero)
        c = Reshape(i, back)
        d = Mul(c, s)
        y = Add(d, t)
    """, x=X(2, 6, 3, 4), to=I(0, 3, -1), one=K(np.ones(3)), zero=K(np.zeros(3)), back=I(0, 6, 3, 4), s=C(6, 1, 1),
        t=C(1, 6, 1, 1)),
    row("MeanVarianceNormalization", "default", X(2, 3, 4, 5), batch=False),
    row("MeanVarianceNormalization", "axes", X(2, 3, 4, 5), axes=[1, 2, 3]),
    graph("RMSNormalization", "spelled", """
        p = Mul(x, x)
        m = ReduceMean(p, axes)
        v = Add(m, eps)
        s = Sqrt(v)
        i = Reciprocal(s)
        n = Mul(x, i)
        y = Mul(g, n)
    """, x=X(2, 3, 8), axes=I(-1), eps=K(1e-3), g=C(8)),
    row("LpNormalization", "l2", X(2, 3, 5)),
    row("LpNormalization", "l1 axis 1", X(2, 3, 5), axis=1, p=1),
    row("LRN", "odd", X(2, 5, 3, 4), size=3, alpha=0.6, beta=0.8, bias=1.5),
    row("LRN", "wide", X(2, 5, 3, 4), size=5, alpha=0.9),
]  # fmt: skip

MEASURES = [
    row(op, what, X(2, 3, 4, 5, kind=kind), axes)
    for kind, ops in (("signed", "ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"), ("positive", "ReduceLogSum ReduceProd"))
    for op in ops.split()
    for what, axes in (("last", I(-1)), ("two axes", I(1, 3)))
] + [
    row("ReduceL2", "flat", X(2, 3, 5), I(1), keepdims=0),
    row("LpPool", "p 2", X(2, 3, 6, 5), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    row("LpPool", "p 1", X(2, 3, 7), kernel_shape=[3], strides=[2], p=1),
    row("LpPool", "p 3", X(2, 2, 4, 4), kernel_shape=[2, 2], p=3),
    row("GlobalLpPool", "p 2", X(2, 3, 4, 5)),
]  # fmt: skip

CHOICES = [
    row(op, what, *args)
    for op in ("Max", "Min")
    for what, args in (
        ("two", [D(2, 3, 4), D(2, 3, 4)]),
        ("frozen", [D(2, 3, 4), C(4)]),
        ("broadcast", [X(2, 3, 4), X(3, 1), X(2, 1, 4)]),
        ("one", [D(2, 3, 4)]),
    )
] + [
    row("TopK", "largest", D(2, 3, 6), I(3), outputs=2),
    row("TopK", "smallest axis 1", D(2, 5, 3), I(2), outputs=2, axis=1, largest=0, sorted=0),
]

TABLES = [
    row("GatherElements", "axis 1", X(2, 3, 4), G(np.array([[[0, 2, -1, 1]], [[2, 2, 0, 0]]])), axis=1, batch=False),
    row("GatherND", "plain", X(3, 4, 2), K([[0, 1], [2, 3], [0, 1]], np.int64), batch=False),
    row("GatherND", "batch_dims", X(2, 4, 3), G(np.array([[[1]], [[3]]])), batch_dims=1, batch=False),
    row("Compress", "axis", X(2, 5, 3), K([True, False, True, True, False], bool), axis=1),
    row("Compress", "flat", X(3, 4), K([True, False, True, True, False], bool), batch=False),
    row("ReverseSequence", "rows", X(4, 2, 3), K([3, 1], np.int64), batch=False),
    row("Trilu", "upper", X(2, 4, 5)),
    row("Trilu", "lower k", X(2, 4, 5), K(1, np.int64), upper=0),
    row("CenterCropPad", "both", X(2, 5, 3), I(2, 6), axes=[1, 2]),
    row("MaxUnpool", "2x2", X(1, 1, 2, 2), K([[[[0, 3], [9, 14]]]], np.int64), kernel_shape=[2, 2], strides=[2, 2],
        batch=False),
    row("ScatterElements", "data", X(3, 4), K([[1, 0, 2, 1]], np.int64), C(1, 4), batch=False),
    row("ScatterElements", "updates", C(3, 4), K([[1, 0, 2, 1]], np.int64), X(1, 4), batch=False),
    row("ScatterElements", "both axis 1", X(3, 4), K([[1, 0], [2, 3]], np.int64), X(2, 2), axis=1, batch=False),
    row("ScatterElements", "add", X(3, 4), K([[1, 0], [2, 2]], np.int64), X(2, 2), axis=1, reduction="add", batch=False),
    row("ScatterND", "both", X(4, 3), K([[1], [3]], np.int64), X(2, 3), batch=False),
    row("ScatterND", "add data", X(4, 3), K([[1], [1]], np.int64), C(2, 3), reduction="add", batch=False),
    row("ScatterElements", "max", D(3, 4), K([[1, 0], [2, 2], [3, 3]], np.int64), D(3, 2), axis=1, reduction="max", batch=False,
        linear=False),
    row("ScatterElements", "min of updates", C(3, 4), K([[1, 0, 1, 2], [1, 2, 0, 0]], np.int64), D(2, 4), reduction="min",
        batch=False, linear=False),
    row("ScatterElements", "max of data", D(3, 4), K([[1, 0, 1, 2], [1, 2, 0, 0]], np.int64), C(2, 4), reduction="max",
        batch=False, linear=False),
    row("ScatterND", "max", D(4, 3), G([[1], [3], [1]]), D(3, 3), reduction="max", batch=False, linear=False),
    row("ScatterND", "min of elements", D(4, 3), K([[1, 2], [3, 0], [1, 2]], np.int64), D(3), reduction="min", batch=False,
        linear=False),
    row("Scatter", "opset 9", X(3, 4), K([[1, 0], [2, 3]], np.int64), X(2, 2), opset=9, axis=1, batch=False),
    row("CumSum", "plain", X(2, 3, 4), K(1, np.int64)),
    row("CumSum", "exclusive reverse", X(2, 3, 4), K(-1, np.int64), exclusive=1, reverse=1),
    row("Einsum", "dense", X(2, 3, 5), C(5, 4), equation="bij,jk->bik"),
    row("Einsum", "implicit", X(2, 5), C(5, 4), equation="ij,jk"),
    row("Einsum", "ellipsis", X(2, 3, 5), C(4, 5), equation="...j,kj->...k"),
    row("Einsum", "frozen left", C(4, 5), X(2, 5, 3), equation="kj,bji->bik"),
    row("Einsum", "summed letter", X(2, 3, 5), C(5), equation="bij,j->b"),
    row("Einsum", "two active", X(2, 3, 5), X(2, 5, 4), equation="bij,bjk->bik", linear=False),
    row("Einsum", "one operand", X(2, 3, 5), equation="bij->bj"),
    row("Einsum", "diagonal", X(2, 4, 4), equation="bii->bi"),
    row("Einsum", "trace", X(4, 4), equation="ii->", batch=False),
    row("Einsum", "diagonal implicit", X(3, 3, 4), equation="iij", batch=False),
    row("Einsum", "three times", X(3, 3, 3), equation="iii->i", batch=False),
    row("Einsum", "diagonal of an ellipsis", X(2, 3, 4, 4), equation="...ii->...i"),
    row("Einsum", "weight times diagonal", X(2, 4, 4), C(4, 3), equation="bii,ij->bij"),
    row("Einsum", "diagonal of the weight", X(2, 5), C(5, 5), equation="bi,ii->bi"),
    row("Einsum", "diagonals of two", X(2, 4, 4), X(2, 3, 3), equation="bii,bjj->bij", linear=False),
]  # fmt: skip

CASES = [
    *CONVOLUTIONS, *DENSE, *SUMS, *PRODUCTS, *POOLS, *REDUCTIONS, *POINTWISE, *SPELLED, *MOVES, *RESIZES, *NORMS, *MEASURES,
    *SOFTMAXES, *CHOICES, *TABLES, *SAMPLES, *SIGNALS, *WRITTEN_OUT,
]  # fmt: skip
