"""Quantised models read as float: products of codes in real units, and the way to codes and back as float arithmetic.

QuantizeLinear and DequantizeLinear together are x up to rounding; relevance passes them as one unit (groups.py). What
the runtime computes with integer kernels is rounded here as these kernels round, so that outputs stay equal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .constants import constants_of, only_user, producer, replace_tensor
from .errors import UnsupportedOp
from .expansions.quantized import KERNEL, NARROW, PLAIN, dequantized
from .expansions.writer import Writer
from .integer_kernels import MOVES, Grid, grid_of, maker, mean_in_order, round_to_codes, snap

__all__ = ["FAKE_QUANT", "float_products", "grids", "refuse_other_codes", "write_out_quantization"]

FAKE_QUANT = "/fake_quantize"
QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")
FLOAT = onnx.TensorProto.FLOAT


def grids(graph: gs.Graph) -> dict[str, Grid]:
    """Grids of the constants that DequantizeLinear makes, by name, before folding makes plain constants of them."""
    found: dict[str, Grid] = {}
    for node in graph.nodes:
        scale = node.inputs[1] if node.op == "DequantizeLinear" else None
        if isinstance(scale, gs.Constant) and isinstance(node.inputs[0], gs.Constant) and len(scale.shape) < 2:
            grid = Grid(np.asarray(scale.values, np.float32), int(node.attrs.get("axis", 1)))
            found |= {node.outputs[0].name: grid, f"{node.outputs[0].name}/value": grid}
    return found


# -------------------------------------------------------------------------------------------------- products of codes


def float_products(graph: gs.Graph, kept: Collection[str]) -> bool:
    """MatMulInteger, ConvInteger, then Cast, then Mul by the scales: MatMul, Conv of x̂ = (q − z) s in real units.

    Where no such Mul follows, both scales are 1. Returns whether there was one.
    """
    fixed = constants_of(graph)
    nodes = [n for n in graph.nodes if n.op in ("MatMulInteger", "ConvInteger") and not n.domain]
    for node in nodes:
        w, scales, end = Writer(node), None, node
        cast = only_user(node.outputs[0], kept)
        if cast is not None and _to_float(cast):
            mul = only_user(cast.outputs[0], kept)
            scales = _scales(node, cast, mul, fixed) if mul is not None and mul.op == "Mul" else None
            end = cast if scales is None else mul
        pair = scales or (np.float32(1), np.float32(1))
        y = _product(w, *(s if isinstance(s, gs.Tensor) else w.constant(s) for s in pair))
        if end is node:  # integers are asked for, too
            for user in [n for n in node.outputs[0].outputs if _to_float(n)]:
                user.inputs[0] = y
            y = w("Cast", y, dtype=np.int32, to=onnx.TensorProto.INT32)
        else:
            outputs = list(end.outputs)
            end.outputs.clear()
            node.outputs = outputs
        at = next(i for i, n in enumerate(graph.nodes) if n is node)
        graph.nodes[at : at + 1] = w.finish(y)
    return bool(nodes)


def _to_float(node: gs.Node) -> bool:
    return bool(node.op == "Cast" and node.attrs.get("to") == FLOAT)


def _product(w: Writer, scale: gs.Tensor, other: gs.Tensor) -> gs.Tensor:
    """MatMul or Conv of the dequantised operands."""
    node, zero = w.node, w.input(2)
    if zero is not None and zero.shape and np.prod([d if isinstance(d, int) else 2 for d in zero.shape]) != 1:
        raise UnsupportedOp(
            f"node '{node.name}' ({node.op}): a zero point per row of the first operand; quantise it with one per tensor"
        )
    x = dequantized(w, w.need(0), scale, zero)
    weight = dequantized(w, w.need(1), other, w.input(3), 0 if node.op == "ConvInteger" else -1)
    y = w(node.op.removesuffix("Integer"), x, weight, **node.attrs)
    w.made[-1].name = node.name
    return y


def _scales(node: gs.Node, cast: gs.Node, mul: gs.Node, fixed: Collection[str]) -> tuple[Any, Any] | None:
    """Scales of the two operands from the factor of the Mul: their product, or a constant one."""
    factor = mul.inputs[1] if mul.inputs[0] is cast.outputs[0] else mul.inputs[0]
    product, source = producer(factor), _source(node.inputs[0])
    own = source.inputs[1] if source is not None and source.op == "QuantizeLinear" else None
    scale: Any
    rest: Any
    if isinstance(factor, gs.Constant):
        scale = np.asarray(own.values, np.float32).reshape(()) if isinstance(own, gs.Constant) else np.float32(1)
        rest = np.asarray(factor.values / scale, np.float32)
    elif product is not None and product.op == "Mul":
        mine = [source is not None and (t is own or producer(t) is source) for t in product.inputs]
        i = mine.index(True) if any(mine) else 0 if product.inputs[0].name not in fixed else 1
        scale, rest = product.inputs[i], product.inputs[1 - i]
        if scale.shape is None or len(scale.shape) > 0:
            return None
        rest = np.asarray(rest.values) if isinstance(rest, gs.Constant) else rest
    else:
        return None
    if not isinstance(rest, np.ndarray):
        return (scale, rest) if rest.shape is not None and len(rest.shape) == 0 else None
    behind = len(node.inputs[1].shape) - 1 if node.op == "ConvInteger" else 1  # place of the channels, from the right
    if rest.size > 1 and (rest.ndim < behind or rest.shape[-behind] != rest.size):
        return None
    return scale, rest.reshape(-1 if rest.size > 1 else ())


def _source(t: gs.Tensor) -> Any:
    """The node that made codes which were only moved since; None where there is none."""
    node = producer(t)
    while node is not None and node.op in MOVES:
        node = producer(node.inputs[0])
    return node if node is not None and node.op in QUANTIZERS else None


# ------------------------------------------------------------------------------------------------ to codes and back


@dataclass(frozen=True)
class Codes:
    """What codes mean: x = (q − zero) · scale, per tensor, along `axis`, or per `block` of it."""

    scale: gs.Tensor
    zero: gs.Tensor | None
    axis: int
    block: int

    @classmethod
    def of(cls, node: gs.Node) -> Codes:
        zero = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        return cls(node.inputs[1], zero, int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0)))

    @property
    def fixed(self) -> bool:
        """Whether scale and zero point are constants."""
        return isinstance(self.scale, gs.Constant) and (self.zero is None or isinstance(self.zero, gs.Constant))

    @property
    def single(self) -> bool:
        """Whether there is one scale."""
        return self.scale.shape is not None and int(np.prod([d if isinstance(d, int) else 2 for d in self.scale.shape])) == 1

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal meanings."""
        parts = [t.values.tobytes() if isinstance(t, gs.Constant) else t and t.name for t in (self.scale, self.zero)]
        return (*parts, self.axis, self.block)

    def laid(self, t: gs.Tensor | None, x: gs.Tensor) -> np.ndarray:
        """Scale or zero point as float32, laid out against x."""
        value = np.asarray(t.values, np.float32) if t is not None else np.zeros((), np.float32)
        if value.size == 1:
            return value.reshape(())
        axis = self.axis % len(x.shape)
        if self.block:
            return np.repeat(value, self.block, axis)[(slice(None),) * axis + (slice(int(x.shape[axis])),)]
        return value.reshape(-1, *[1] * (len(x.shape) - axis - 1))


def write_out_quantization(graph: gs.Graph, kept: Collection[str], known: Mapping[str, Grid]) -> None:
    """QuantizeLinear, DequantizeLinear as float arithmetic, clip(round(x/s), low − z, high − z) · s, with the same rounding.

    The runtime would otherwise fuse some of the pairs into integer kernels and not those that the backward part also
    reads, so that the outputs differed from the model's by a quantisation step. What moves codes in between moves x.
    known: grids of constants (see `grids`).
    """
    floats = Floats(graph, known)
    for node in [n for n in graph.nodes if n.op == "DequantizeLinear"]:
        floats.replace(node, kept)
    for node in list(graph.nodes):
        if node.inputs and node.inputs[0].name in floats.scales and len(node.inputs) > 1:
            snap(graph, node, floats.scales[node.inputs[0].name], floats.known.get(node.inputs[1].name))
    for node in [n for n in graph.nodes if n.op in ("ArgMax", "ArgMin")]:
        source = _source(node.inputs[0])
        x = floats.of(node.inputs[0], Codes.of(source)) if source is not None and len(source.inputs) > 1 else None
        node.inputs[0] = node.inputs[0] if x is None else x


def refuse_other_codes(graph: gs.Graph, kept: Collection[str]) -> None:
    """Raises UnsupportedOp for what is left of codes that opset 18 does not have."""
    for node in graph.nodes:
        pair = {"QuantizeLinear": node.outputs, "DequantizeLinear": node.inputs}.get(node.op)
        if pair and ({"block_size", "output_dtype"} & node.attrs.keys() or (pair[0].dtype or np.uint8) not in PLAIN):
            raise UnsupportedOp(
                f"node '{node.name}' ({node.op}): codes of a type or layout that opset 18 does not have, and no "
                "pair of QuantizeLinear and DequantizeLinear; export with 8-bit codes"
            )


class Floats:
    """Float twins of tensors that hold codes. known: grids of tensors, which grow with what is written out."""

    def __init__(self, graph: gs.Graph, known: Mapping[str, Grid]) -> None:
        self.graph, self.fixed, self.known = graph, constants_of(graph), dict(known)
        self.made: dict[tuple[Any, ...], gs.Tensor] = {}
        self.scales: dict[str, gs.Tensor] = {}  # of twins whose scale is found at run time
        self.outputs: set[str] = set()  # of DequantizeLinear nodes, which twins have become
        self.names: set[str] = set()
        nodes = [n for n in graph.nodes if n.op == "QuantizeLinear"]
        self.kernels = any(n.name.endswith(KERNEL) for n in nodes)  # integer operators were in the file
        self.readers = {n.outputs[0].name: [max(len(d.outputs[0].outputs), 1) for d in n.outputs[0].outputs] for n in nodes}

    def replace(self, node: gs.Node, kept: Collection[str]) -> None:
        """Let the float form of a DequantizeLinear take its place, where its codes come from a QuantizeLinear."""
        out = node.outputs[0]
        x = self.of(node.inputs[0], Codes.of(node), node.name)
        if x is None:
            return
        node.outputs.clear()
        node.inputs.clear()
        if x.name in self.outputs:  # the same values under another name
            replace_tensor(out, x)
            if out.name in kept:
                self.graph.nodes.append(gs.Node("Identity", node.name, {}, [x], [out]))
            return
        self.outputs.add(out.name)
        self.inherit(x, [out])
        replace_tensor(x, out)
        writer = x.inputs[0]
        writer.outputs = [out if t is x else t for t in writer.outputs]
        self.made |= {key: out for key, t in self.made.items() if t is x}

    def of(self, q: gs.Tensor, codes: Codes, name: str = "") -> gs.Tensor | None:
        """What the codes q mean, as a float tensor; None where they come from elsewhere than a QuantizeLinear."""
        key = (q.name, *codes.key)
        node = producer(q)
        if key not in self.made:
            if node is None or q.name in self.fixed:
                return None
            if node.op in QUANTIZERS and q is node.outputs[0]:
                made = self.rounded(node, codes, name or q.name)
            else:
                made = self.moved(node, q, codes) if node.op in MOVES and codes.single else None
            if made is None:
                return None
            self.made[key] = made
        return self.made[key]

    def moved(self, node: gs.Node, q: gs.Tensor, codes: Codes) -> gs.Tensor | None:
        """The node on the float twins of its codes."""
        places, inputs = MOVES[node.op], list(node.inputs)
        if all(inputs[i].name in self.fixed for i in places or range(len(inputs)) if i < len(inputs)):
            return None  # rows of a quantised table: it stays small
        if len([t for t in node.outputs if t.name and t.outputs]) > 1 and node.op != "Split":
            return None
        for i in range(len(inputs)) if places is None else places:
            if i < len(inputs) and inputs[i].name:
                twin = self.of(inputs[i], codes) or (self.constant(inputs[i], codes) if inputs[i].name in self.fixed else None)
                if twin is None:
                    return None
                inputs[i] = twin
        if node.op == "Pad" and (len(inputs) < 3 or not inputs[2].name):  # the code 0
            zero = codes.zero.dtype if codes.zero is not None else np.uint8
            code = gs.Constant(f"{node.name}/code", np.zeros((), zero))
            inputs[2:3] = [self.constant(code, codes)]
        outputs = [gs.Variable(f"{t.name}/float", np.float32, t.shape) for t in node.outputs]
        self.graph.nodes.append(gs.Node(node.op, node.name, dict(node.attrs), inputs, outputs))
        node.name = f"{node.name}/codes"
        self.made |= {(t.name, *codes.key): twin for t, twin in zip(node.outputs, outputs, strict=True)}
        self.inherit(inputs[(places or (0,))[0]], outputs)
        return outputs[[t is q for t in node.outputs].index(True)]

    def inherit(self, x: gs.Tensor, others: Sequence[gs.Tensor]) -> None:
        """The others hold values of x."""
        for facts in (self.known, self.scales):
            facts.update({t.name: facts[x.name] for t in others if x.name in facts})

    def constant(self, q: gs.Tensor, codes: Codes) -> gs.Tensor:
        """Constant codes: DequantizeLinear, which the runtime folds."""
        name = self.free(f"{q.name}/float")
        out = gs.Variable(name, np.float32, q.shape)
        given = [q, codes.scale, *([codes.zero] if codes.zero is not None else [])]
        self.graph.nodes.append(gs.Node("DequantizeLinear", name, {}, given, [out]))
        return out

    def free(self, name: str) -> str:
        """The name, with a number when it is taken."""
        base, count = name, 0
        while name in self.names:
            count += 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name

    def rounded(self, node: gs.Node, codes: Codes, name: str) -> gs.Tensor | None:
        """clip(round(x/s), low − z, high − z) · s for constants; (q − z) · s of the codes where the scale depends on x."""
        x, own = node.inputs[0], Codes.of(node) if node.op == "QuantizeLinear" else None
        base = self.free(name) + FAKE_QUANT
        if x.name in self.fixed:
            return None
        if own is None or not (own.fixed and codes.fixed):
            return self.frozen(node.outputs[0], codes, base) if codes.single else None
        if x.shape is None and not (own.single and codes.single):
            return None
        scale, zero = own.laid(own.scale, x), own.laid(own.zero, x)
        low, high = limits(node)
        steps = self.to_codes(node, scale, zero)
        if np.all(zero == zero.ravel()[0]):
            steps.append(("Clip", (low - zero.ravel()[0], high - zero.ravel()[0])))
        else:
            steps += [("Add", zero), ("Clip", (low, high)), ("Sub", zero)]
        if np.any(zero != codes.laid(codes.zero, x)):
            steps.append(("Add", zero - codes.laid(codes.zero, x)))
        out = self.chain(base, x, [*steps, ("Mul", codes.laid(codes.scale, x))])
        if codes.single:
            self.known[out.name] = Grid(codes.laid(codes.scale, x), integer=self.integer(node))
        return out

    def integer(self, node: gs.Node) -> bool:
        """Whether the runtime hands the codes of a QuantizeLinear to integer kernels: unsigned ones, or made so.

        It makes int8 unsigned where one operator reads them, and has no kernels that mix the two.
        """
        return self.kernels or node.outputs[0].dtype == np.uint8 or sum(self.readers[node.outputs[0].name]) == 1

    def to_codes(self, node: gs.Node, scale: np.ndarray, zero: np.ndarray) -> list[tuple[str, Any]]:
        """round(x / scale) of a QuantizeLinear, as the integer kernel that makes its codes does it."""
        x = node.inputs[0]
        before, _ = maker(x)
        if before is None or not self.integer(node):
            return round_to_codes(x, scale, zero, {})
        unsigned = 0 if self.kernels or node.outputs[0].dtype != np.int8 else 128
        grid = grid_of(before.inputs[0], self.known) if before.op == "AveragePool" else None
        if grid is not None and grid.integer:
            mean_in_order(self.graph, before)
        return round_to_codes(x, scale, zero + np.float32(unsigned), self.known)

    def frozen(self, q: gs.Tensor, codes: Codes, base: str) -> gs.Tensor:
        """(q − zero) · scale, with what depends on x only through its range left as it is."""

        def op(kind: str, name: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Tensor:
            out = gs.Variable(name, np.float32, q.shape if kind != "Cast" or inputs[0] is q else ())
            self.graph.nodes.append(gs.Node(kind, name, attrs, list(inputs), [out]))
            return out

        t = op("Cast", f"{base}/Cast", q, to=FLOAT)
        if codes.zero is not None:
            t = op("Sub", f"{base}/Sub", t, op("Cast", f"{base}/zero", codes.zero, to=FLOAT))
        x = op("Mul", base, t, codes.scale)
        self.scales[x.name] = codes.scale
        return x

    def chain(self, base: str, x: gs.Tensor, steps: Sequence[tuple[str, Any]]) -> gs.Tensor:
        """Nodes one after the other, the last of them called `base`."""
        for i, (op, operand) in enumerate(steps):
            name = base if i == len(steps) - 1 else f"{base}/{op}_{i}"
            values = () if operand is None else operand if op == "Clip" else (operand,)
            others = [gs.Constant(f"{name}/{k}", np.asarray(v, np.float32)) for k, v in enumerate(values)]
            out = gs.Variable(name, np.float32, x.shape)
            self.graph.nodes.append(gs.Node(op, name, {}, [x, *others], [out]))
            x = out
        return x


def limits(node: gs.Node) -> tuple[int, int]:
    """Least and greatest code of a QuantizeLinear."""
    if node.attrs.get("output_dtype") in NARROW:
        return NARROW[node.attrs["output_dtype"]]
    kind = node.outputs[0].dtype
    known = np.iinfo(kind) if kind is not None and np.dtype(kind).kind in "iu" else np.iinfo(np.uint8)
    return int(known.min), int(known.max)
