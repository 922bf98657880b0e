"""Values and shapes of a graph that is being rewritten, computed when they are asked for and only as far as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from .constants import producer
from .facts import is_float
from .order import captures, depends, sort
from .sizes import RANDOM, Partial, derive, value_of

__all__ = ["Known"]

Shape = list[Any] | None


class Known:
    """What is known of the tensors of one graph. Nothing behind a node may be asked for before the node has its final form.

    stale: operators behind which recorded shapes are forgotten, because the nodes will be others.
    """

    def __init__(self, graph: gs.Graph, stale: Sequence[str]) -> None:
        self.values: dict[str, Partial] = {}
        self.before: dict[str, Shape] = {}  # what was recorded for tensors behind stale operators
        self.tried: set[str] = set()  # nothing more will be known of these
        self.domains = [d for d in graph.import_domains or () if d.domain not in ("", "ai.onnx")]
        self.runs = 0
        for node in graph.nodes:
            if node.op in stale or any(name in self.before for name in depends(node)):
                for t in node.outputs:
                    self.before[t.name], t.shape = t.shape, None

    def value(self, t: gs.Tensor) -> np.ndarray | None:
        """The value of a tensor that depends on constants and known sizes only; None for others."""
        self._settle([t], lambda: self._is_sure(t))
        found = self.values.get(t.name) or value_of(t)
        return found.value if found is not None and found.all else None

    def size(self, t: gs.Tensor, axis: int) -> int | None:
        """Size of one axis; None where it is not known."""
        self._settle([t], lambda: not vague(t))
        size = t.shape[axis] if t.shape is not None and -len(t.shape) <= axis < len(t.shape) else None
        return size if isinstance(size, int) else None

    def same(self, new: gs.Tensor, old: gs.Tensor) -> None:
        """`new` is another name for `old`."""
        new.shape, new.dtype = old.shape, old.dtype if new.dtype is None else new.dtype
        if old.name in self.values:
            self.values[new.name] = self.values[old.name]

    def recall(self, node: gs.Node) -> None:
        """A stale operator stays after all: the shapes recorded for it hold."""
        for t in node.outputs:
            t.shape = self.before.get(t.name)

    def complete(self, graph: gs.Graph) -> None:
        """Infer all shapes that are missing; where there is nothing to infer, what was recorded holds."""
        self.tried.clear()
        missing = [t for n in graph.nodes for t in n.outputs if t.name and t.shape is None]
        self._settle(missing, lambda: all(t.shape is not None for t in missing))
        outputs = {t.name for t in graph.outputs}
        for t in (t for n in graph.nodes for t in n.outputs):
            recorded = self.before.get(t.name)
            if t.shape is None:
                t.shape = recorded
            elif t.name in outputs and recorded is not None and len(recorded) == len(t.shape):
                t.shape = [d if isinstance(d, int) else r for d, r in zip(t.shape, recorded, strict=True)]

    def origin(self, t: gs.Tensor) -> str:
        """What an unknown value depends on, as the end of a sentence."""
        for crossing in (False, True):  # rather the values of an input than its size
            seen, stack = set(), [t]
            while stack:
                t = stack.pop()
                if not t.name or t.name in seen or isinstance(t, gs.Constant):
                    continue
                seen.add(t.name)
                node = producer(t)
                if node is None:
                    size = f"depends on the size of the input '{t.name}' (input_shapes= may give it)"
                    return size if crossing else f"depends on the input '{t.name}'"
                if node.op in RANDOM:
                    return "depends on random numbers"
                if not self._is_sure(t) and (crossing or node.op not in ("Shape", "Size")):
                    stack += reads(node)
        return "is not known"

    # ------------------------------------------------------------------------------------------------------ computing

    def _settle(self, goals: Sequence[gs.Tensor], reached: Callable[[], bool]) -> None:
        """Find out about the goals, until `reached` or nothing new comes; from vague shapes on, or else from behind them."""
        for behind in (False, True):
            nodes, more = self._cone(goals, behind), True
            while nodes and more:
                for node in nodes:
                    self._learn(node)
                if reached() and not behind:
                    return
                more = self._infer(nodes)
            if behind:
                self.tried.update(t.name for n in nodes for t in n.outputs)

    def _cone(self, goals: Iterable[gs.Tensor], behind: bool) -> list[gs.Node]:
        """Nodes on which the goals depend, in order, back to what is known already; behind: in full."""
        nodes: dict[int, gs.Node] = {}
        seen, stack = set(), list(goals)
        while stack:
            t = stack.pop()
            node = producer(t)
            if not t.name or t.name in seen or node is None or self._is_leaf(t, behind):
                continue
            seen.add(t.name)
            if id(node) not in nodes:
                nodes[id(node)] = node
                stack += reads(node)
        return sort(list(nodes.values()))

    def _is_sure(self, t: gs.Tensor) -> bool:
        value = self.values.get(t.name)
        return value is not None and value.all

    def _is_leaf(self, t: gs.Tensor, behind: bool) -> bool:
        """Nothing behind this tensor tells more of it; of float tensors of two axes and more, the shape tells enough."""
        if isinstance(t, gs.Constant) or t.name in self.tried or self._is_sure(t):
            return True
        return t.shape is not None and not (behind and vague(t)) and len(t.shape) > 1 and is_float(t)

    def _learn(self, node: gs.Node) -> None:
        """Values of a node's outputs."""
        if not all(self._is_sure(t) for t in node.outputs if t.name):
            made = derive(node, [self.values.get(t.name) or value_of(t) for t in node.inputs])
            self.values.update({t.name: m for t, m in zip(node.outputs, made or (), strict=False) if t.name})

    def _infer(self, nodes: Sequence[gs.Node]) -> bool:
        """Shape inference of these nodes alone, by the newest opset: newer operators are written out later.

        Returns whether more is known than before.
        """
        rest = [n for n in nodes if not all(self._is_sure(t) for t in n.outputs if t.name)]
        open_ones = {t.name: t for n in rest for t in n.outputs if t.name and vague(t)}
        if not open_ones:
            return False
        try:
            inferred = shape_inference.infer_shapes(self._model(rest), data_prop=True).graph.value_info
        except Exception:
            return False
        self.runs += 1
        symbols = {d for n in rest for t in reads(n) for d in t.shape or ()}

        def symbol(name: str) -> str | None:
            """Inference numbers the sizes that it does not know anew in each run; names of two runs must differ."""
            return f"unk__{self.runs}_{name[5:]}" if name.startswith("unk__") and name not in symbols else name or None

        found = False
        for info in inferred:
            kind = info.type.tensor_type
            if info.name not in open_ones or not kind.HasField("shape"):
                continue
            t, before = open_ones[info.name], open_ones[info.name].shape
            t.shape = [d.dim_value if d.HasField("dim_value") else symbol(d.dim_param) for d in kind.shape.dim]
            if t.dtype is None and kind.elem_type:  # bfloat16 as graphsurgeon has it: by its number
                brain = kind.elem_type == onnx.TensorProto.BFLOAT16
                t.dtype = kind.elem_type if brain else onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if before is None or vague(t) < sum(map(nameless, before)):
                found = True
            else:
                t.shape = before
        return found

    def _model(self, nodes: Sequence[gs.Node]) -> onnx.ModelProto:
        """Nodes as a model: what they read from outside is an input, or an initializer where its value is known."""
        made = {t.name for n in nodes for t in n.outputs}
        outside = {t.name: t for n in nodes for t in reads(n) if t.name and t.name not in made}
        values = {name: v for name, t in outside.items() if (v := self.values.get(name) or value_of(t)) is not None and v.all}
        graph = onnx.helper.make_graph(
            [OnnxExporter.export_node(n) for n in nodes],
            "part",
            [OnnxExporter.export_value_info_proto(t, False) for name, t in outside.items() if name not in values],
            [],
            [onnx.numpy_helper.from_array(v.value, name) for name, v in values.items()],
        )
        standard = onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version())
        return onnx.helper.make_model(graph, opset_imports=[standard, *self.domains])


def nameless(size: Any) -> bool:
    """Whether a size is unknown, or a name that shape inference made up for it."""
    return size is None or str(size).startswith("unk__")


def vague(t: gs.Tensor) -> int:
    """How much of a tensor's shape is unknown."""
    return 100 if t.shape is None else sum(map(nameless, t.shape))


def reads(node: gs.Node) -> list[gs.Tensor]:
    """Tensors that a node reads, those that its subgraphs capture included."""
    return [*node.inputs, *captures(node)]
