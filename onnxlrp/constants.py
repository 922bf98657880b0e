"""What depends on no input: finding it, computing it, doing arithmetic on it; and the float type of the whole graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from .errors import InvalidModel
from .graph import Source
from .inference import infer_shapes
from .order import bodies, depends, levels, proto_levels, sort
from .sizes import RANDOM, fold_sizes
from .validity import one_line
from .weights import constant, fill, nbytes

__all__ = [
    "RANDOM", "Maker", "constants_of", "finish", "fold_constants", "is_static", "only_user", "producer", "replace_tensor",
    "widen",
]  # fmt: skip

SMALL = 16 * 1024  # bytes up to which a computed constant is stored instead of the nodes that compute it
FLOAT = onnx.TensorProto.FLOAT
WIDE = (np.dtype(np.float16), np.dtype(np.float64), onnx.TensorProto.BFLOAT16)
WIDE_TYPES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def finish(source: Source, head: str = "") -> None:
    """Sort, drop what neither an output nor the tensor `head` needs, and infer shapes of what is new."""
    graph = source.graph
    outputs = list(graph.outputs)
    graph.outputs = outputs + [t for n in graph.nodes for t in n.outputs if t.name == head and t not in outputs]
    graph.cleanup(remove_unused_graph_inputs=False, recurse_subgraphs=False)
    graph.outputs = outputs
    graph.nodes[:] = sort(list(graph.nodes))
    if all(t.shape is not None for n in graph.nodes for t in n.outputs if t.name):
        return
    inferred = infer_shapes(gs.export_onnx(graph, do_type_check=False)).graph
    known = {v.name: v for v in (*inferred.value_info, *inferred.output)}
    for node in graph.nodes:
        for t in node.outputs:
            if t.shape is None and t.name in known and known[t.name].type.tensor_type.HasField("shape"):
                kind = known[t.name].type.tensor_type
                t.shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
                if kind.elem_type == WIDE[2]:
                    t.dtype = WIDE[2]  # as graphsurgeon has it
                elif kind.elem_type:
                    t.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)


def constants_of(graph: gs.Graph) -> set[str]:
    """Names of tensors that depend on no graph input."""
    inputs = {t.name for t in graph.inputs}
    fixed: set[str] = {t.name for n in graph.nodes for t in n.inputs if isinstance(t, gs.Constant)} - inputs
    known: set[str] = set(fixed)
    for node in graph.nodes:
        if node.op not in RANDOM and not bodies(node) and all(name in known for name in depends(node)):
            known |= {t.name for t in node.outputs if t.name}
    return known


def fold_constants(source: Source) -> None:
    """Compute small tensors that depend on no input, shapes of known shape included, in one run of onnxruntime."""
    graph = source.graph
    fold_sizes(graph.nodes, replace_tensor)
    known = constants_of(graph)
    standard = ("", "ai.onnx", "ai.onnx.ml", None)
    inside = [n for n in graph.nodes if n.domain in standard and all(t.name in known for t in n.outputs if t.name)]
    members = {id(n) for n in inside}
    wanted = [
        t for n in inside for t in n.outputs
        if t.name and _bytes(t) <= SMALL and (t in graph.outputs or any(id(c) not in members for c in t.outputs))
    ]  # fmt: skip
    wanted = [t for t in wanted if t not in graph.outputs]
    if not wanted:
        return
    part = gs.Graph(inside, inputs=[], outputs=wanted, opset=graph.opset, import_domains=graph.import_domains)
    model = gs.export_onnx(part, do_type_check=False)
    model.ir_version = 10
    _prune(model)
    fill(model, part)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(None, {})
    except Exception as error:
        raise InvalidModel(f"the constant part of the model cannot be computed: {one_line(error)}") from error
    for t, value in zip(wanted, values, strict=True):
        if isinstance(value, np.ndarray):
            replace_tensor(t, constant(f"{t.name}/value", value))
    finish(source)


def _prune(model: onnx.ModelProto) -> None:
    """Keep only the nodes and initializers that the outputs need, so that big weights are not copied for nothing."""
    needed = {o.name for o in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= {n for a in node.attribute for g in proto_levels(a.g) for m in g.node for n in m.input} | set(node.input)
            nodes.append(node)
    initializers = [t for t in model.graph.initializer if t.name in needed]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(reversed(nodes))
    model.graph.initializer.extend(initializers)


def is_static(t: gs.Tensor) -> bool:
    return t.shape is not None and all(isinstance(d, int) for d in t.shape)


def _bytes(t: gs.Tensor) -> int:
    return int(np.prod(t.shape)) * 8 if is_static(t) else SMALL + 1 if t.shape is not None else SMALL


def replace_tensor(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old` read `new`."""
    for node in list(old.outputs):
        for i, t in enumerate(node.inputs):
            if t is old:
                node.inputs[i] = new


def widen(source: Source) -> None:
    """float16, bfloat16 and float64 become float32 inside; inputs and outputs keep their types, weights their storage."""
    graph = source.graph
    if not any(_wide(t) for n in graph.nodes for t in (*n.inputs, *n.outputs)):
        return
    casts: dict[str, gs.Variable] = {}
    new: list[gs.Node] = []
    _fence(graph, new)

    def cast(t: gs.Tensor) -> gs.Tensor:
        if t.name not in casts:
            casts[t.name] = gs.Variable(f"{t.name}/float32", np.float32, t.shape)
            new.append(gs.Node("Cast", f"{t.name}/to_float32", {"to": FLOAT}, [t], [casts[t.name]]))
        return casts[t.name]

    inputs = {t.name for t in graph.inputs}
    for node in [n for n in graph.nodes if not bodies(n)]:
        for i, t in enumerate(node.inputs):
            if _wide(t) and (isinstance(t, gs.Constant) or t.name in inputs):
                node.inputs[i] = cast(t)
        for key in ("to", "dtype"):
            if node.attrs.get(key) in WIDE_TYPES or _wide_dtype(node.attrs.get(key)):
                node.attrs[key] = FLOAT
        value = node.attrs.get("value")
        if isinstance(value, gs.Tensor) and _wide(value):
            node.attrs["value"] = gs.Constant(value.name, np.asarray(value.values, np.float32))
        for t in node.outputs:
            if _wide(t) and t not in graph.outputs:
                t.dtype = np.dtype(np.float32)
    for i, out in enumerate(graph.outputs):
        if _wide(out) and out.inputs:
            inner = gs.Variable(f"{out.name}/float32", np.float32, out.shape)
            producer = out.inputs[0]
            producer.outputs[[t is out for t in producer.outputs].index(True)] = inner
            replace_tensor(out, inner)
            new.append(gs.Node("Cast", f"{out.name}/to_model_type", {"to": _code(out)}, [inner], [graph.outputs[i]]))
    graph.nodes.extend(new)
    source.notes.append("the model computes in another float type than float32; onnxlrp computes it in float32")
    finish(source)


def _fence(graph: gs.Graph, new: list[gs.Node]) -> None:
    """A node with subgraphs keeps its float types: Casts (those back into them in `new`) around it."""
    made = {t.name for n in graph.nodes for t in n.outputs}
    back: dict[str, gs.Variable] = {}
    for node in [n for n in graph.nodes if bodies(n)]:
        for user in (node, *(n for b in bodies(node) for g in levels(b) for n in g.nodes)):
            for i, t in enumerate(user.inputs):
                if _wide(t) and t.name in made:
                    if t.name not in back:
                        back[t.name] = gs.Variable(f"{t.name}/for_subgraph", t.dtype, t.shape)
                        new.append(gs.Node("Cast", f"{t.name}/for_subgraph", {"to": _code(t)}, [t], [back[t.name]]))
                    user.inputs[i] = back[t.name]
        for i, t in enumerate(list(node.outputs)):
            if _wide(t):
                node.outputs[i] = gs.Variable(f"{t.name}/from_subgraph", t.dtype, t.shape)
                graph.nodes.append(gs.Node("Cast", f"{t.name}/from_subgraph", {"to": FLOAT}, [node.outputs[i]], [t]))


def _code(t: gs.Tensor) -> int:
    """Number of a tensor's type in the standard."""
    return int(t.dtype if isinstance(t.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype)))


def _wide_dtype(dtype: Any) -> bool:
    try:
        return dtype is not None and not isinstance(dtype, int) and np.dtype(dtype) in WIDE[:2]
    except TypeError:
        return False


def _wide(t: gs.Tensor) -> bool:
    return _wide_dtype(t.dtype) or (isinstance(t.dtype, int) and t.dtype == WIDE[2])


class Maker:
    """Adds arithmetic on constants to a graph: computed here when small, by nodes when not.

    base: what the names start with; no two makers of a graph may share it.
    """

    def __init__(self, graph: gs.Graph, base: str) -> None:
        self.graph, self.base, self.count = graph, base, 0

    def name(self, what: str) -> str:
        self.count += 1
        return f"{self.base}/{what}{self.count}"

    def constant(self, value: Any) -> gs.Constant:
        return gs.Constant(self.name("const"), np.asarray(value))

    def op(self, op: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Tensor:
        """A node, or its value when the operands are small constants."""
        plain = {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Div": np.divide}
        values = [np.asarray(t.values) for t in inputs if isinstance(t, gs.Constant) and nbytes(t) <= SMALL]
        if len(values) == len(inputs) and op in plain:
            # float64 in between: the folded parameters are as exact as float32 can hold
            wide = [v.astype(np.float64) for v in values]
            return self.constant(plain[op](*wide).astype(values[0].dtype))
        if len(values) == len(inputs) and op == "Reshape":
            return self.constant(values[0].reshape(values[1].tolist()))
        name = self.name(op)
        out = gs.Variable(name, inputs[0].dtype, _result(op, inputs) if op in (*plain, "Reshape", "Expand") else None)
        self.graph.nodes.append(gs.Node(op, name, attrs, list(inputs), [out]))
        return out

    def reshape(self, t: gs.Tensor, *sizes: int) -> gs.Tensor:
        return self.op("Reshape", t, self.constant(np.asarray(sizes, np.int64)))


def _result(op: str, inputs: Sequence[gs.Tensor]) -> list[int] | None:
    """Shape of what a Maker computes, where all shapes are known."""
    if not all(is_static(t) for t in inputs):
        return None
    if op in ("Reshape", "Expand"):
        sizes = [int(d) for d in inputs[1].values]
        total, known = int(np.prod(inputs[0].shape)), int(np.prod([d for d in sizes if d != -1]))
        return [total // max(known, 1) if d == -1 else d for d in sizes]
    return list(np.broadcast_shapes(*(tuple(t.shape) for t in inputs)))


def producer(t: gs.Tensor) -> Any:
    """The node that writes t; None for inputs and constants."""
    return t.inputs[0] if t.inputs else None


def only_user(t: gs.Tensor, kept: Collection[str]) -> Any:
    """The one node that carries t's relevance on; Shape does not count."""
    users = [n for n in t.outputs if n.op not in ("Shape", "Size")]
    return users[0] if len(users) == 1 and t.name not in kept and sum(x is t for x in users[0].inputs) == 1 else None
