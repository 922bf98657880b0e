"""Copying the nodes of subgraphs into the outermost graph: names, captured tensors, constants, results."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import producer, replace_tensor
from .graph import Source
from .known import Known
from .order import bodies, levels, live
from .sizes import RANDOM

__all__ = ["Nodes", "Rewriter", "Shared"]

Nodes = list[gs.Node]
Shared = dict[tuple[int, ...], list[gs.Tensor]]  # template and inputs of a copied node -> its outputs


class Rewriter:
    """Names that are taken, what is known, and how many nodes were written."""

    def __init__(self, source: Source, stale: Sequence[str]) -> None:
        self.metadata = source.metadata
        self.known = Known(source.graph, stale)
        self.lists: dict[str, list[gs.Tensor]] = {}  # elements of the sequences that are known
        self.renamed: dict[int, gs.Tensor] = {}  # tensors of ours that became an output of the node they were made for
        self.tensors: dict[str, gs.Tensor] = {t.name: t for t in source.graph.inputs}
        self.nodes: set[str] = set()
        self.tried: dict[str, int] = {}  # a name that is taken -> the last number tried
        self.count = 0
        self.dead: dict[int, gs.Node] = {}
        for graph in levels(source.graph):  # the outermost first: its tensors keep their names
            for node in graph.nodes:
                self.nodes.add(node.name)
                for t in (*graph.inputs, *node.inputs, *node.outputs):
                    self.tensors.setdefault(t.name, t)

    # --------------------------------------------------------------------------------------------------------- copying

    def copy(
        self, owner: gs.Node, body: gs.Graph, base: str, given: Mapping[str, gs.Tensor], shared: Shared
    ) -> tuple[Nodes, list[gs.Tensor]]:
        """A body's nodes for the outermost graph, under names that start with `base`, and its outputs.

        given: the body's inputs. shared: what copies of the same body may share, because it reads the same.
        """
        found: dict[str, gs.Tensor] = dict(given)
        made: Nodes = []
        around = self.metadata.get(owner.outputs[0].name, {})
        for index, node in enumerate(body.nodes):
            key = (id(node), *(id(self.place(t, found)) if t.name else 0 for t in node.inputs))
            alike = shared.get(key)
            if alike is None:
                for t in node.outputs:
                    if t.name:
                        found[t.name] = self.variable(f"{base}/{t.name.lstrip('/')}", t)
                        self.metadata[found[t.name].name] = self.metadata.get(t.name) or around
                name = self.node_name(f"{base}/{(node.name or f'{node.op}_{index}').lstrip('/')}")
                made.append(self.copy_node(node, name, found))
                if node.op not in RANDOM and not bodies(node):
                    shared[key] = list(made[-1].outputs)
            else:
                found.update({t.name: other for t, other in zip(node.outputs, alike, strict=True) if t.name})
        self.count += len(made)
        return made, [self.place(t, found) for t in body.outputs]

    def copy_node(self, node: gs.Node, name: str, found: MutableMapping[str, gs.Tensor]) -> gs.Node:
        attrs = {k: self.copy_graph(v, found) if isinstance(v, gs.Graph) else v for k, v in node.attrs.items()}
        inputs, outputs = ([self.place(t, found) for t in ts] for ts in (node.inputs, node.outputs))
        return gs.Node(node.op, name, attrs, inputs, outputs, domain=node.domain)

    def copy_graph(self, body: gs.Graph, found: MutableMapping[str, gs.Tensor]) -> gs.Graph:
        """A subgraph of a copied node: its own names stay, what it captures is replaced."""
        inner = ChainMap({}, found)
        faces = {t.name for t in (*body.inputs, *body.outputs)}
        for t in (*body.inputs, *(t for n in body.nodes for t in n.outputs if t.name)):
            inner[t.name] = gs.Variable(t.name, t.dtype, t.shape if t.name in faces else None, t.type)
        nodes = [self.copy_node(n, self.node_name(n.name or n.op), inner) for n in body.nodes]
        inputs, outputs = ([self.place(t, inner) for t in ts] for ts in (body.inputs, body.outputs))
        return gs.Graph(nodes, inputs, outputs, name=body.name, opset=body.opset, import_domains=body.import_domains)

    def place(self, t: gs.Tensor, found: Mapping[str, gs.Tensor]) -> gs.Tensor:
        """What a body's tensor is in the copy: made there, an initializer of the body, or a tensor from outside."""
        if not t.name:
            return gs.Variable.empty()
        if t.name in found:
            return found[t.name]
        return self.own(t) if isinstance(t, gs.Constant) else self.tensors.get(t.name, t)

    def own(self, t: gs.Constant) -> gs.Constant:
        """A constant of a body, shared by all copies; renamed where another tensor has its name."""
        if self.tensors.setdefault(t.name, t) is not t:
            t.name = self.free(t.name, self.tensors)
            self.tensors[t.name] = t
        return t

    def deliver(self, node: gs.Node, made: Nodes, results: Sequence[gs.Tensor]) -> Nodes:
        """Let the results be the node's outputs, by name; what is made elsewhere or asked for twice gets an Identity."""
        outputs, members = list(node.outputs), {id(n) for n in made}
        self.drop([node])
        for out, result in zip(outputs, results, strict=True):
            if not out.name:
                continue
            self.known.same(out, result)
            if result.name in self.lists:
                self.lists[out.name] = self.lists[result.name]
            result = self.current(result)
            maker = producer(result)
            if maker is None or id(maker) not in members or any(result is o for o in outputs):
                made.append(gs.Node("Identity", self.node_name(f"{node.name}/{out.name}"), {}, [result], [out]))
                continue
            self.renamed[id(result)] = out
            self.metadata[out.name] = self.metadata.get(result.name, {})
            maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is result)] = out
            replace_tensor(result, out)
        return made

    def current(self, t: gs.Tensor) -> gs.Tensor:
        """The tensor itself, or what it was renamed to."""
        while id(t) in self.renamed:
            t = self.renamed[id(t)]
        return t

    # -------------------------------------------------------------------------------------------------------- removing

    def drop(self, nodes: Nodes) -> None:
        """Nodes that are no longer used, those of their subgraphs included; `sweep` takes them out of the graph."""
        for node in nodes:
            self.dead[id(node)] = node
            for body in bodies(node):
                self.drop(body.nodes)
            node.outputs.clear()

    def sweep(self, graph: gs.Graph) -> None:
        """Drop what no output needs, and take dropped nodes out of the lists of their inputs' users, each list once.

        graphsurgeon would search them for every node, which is quadratic where a tensor has many users.
        """
        before, graph.nodes[:] = list(graph.nodes), live(graph.nodes, graph.outputs)
        kept = {id(n) for n in graph.nodes}
        self.drop([n for n in before if id(n) not in kept])
        touched = {id(t): t for n in self.dead.values() for t in n.inputs}
        for t in touched.values():
            list.__setitem__(t.outputs, slice(None), [n for n in t.outputs if id(n) not in self.dead])
        for node in self.dead.values():
            list.clear(node.inputs)

    # ---------------------------------------------------------------------------------------------------------- making

    def free(self, name: str, taken: Container[str]) -> str:
        """A name that is not taken."""
        base = name
        while name in taken:
            self.tried[base] = self.tried.get(base, 0) + 1
            name = f"{base}_{self.tried[base]}"
        return name

    def node_name(self, name: str) -> str:
        name = self.free(name, self.nodes)
        self.nodes.add(name)
        return name

    def variable(self, name: str, like: gs.Tensor) -> gs.Variable:
        name = self.free(name, self.tensors)
        self.tensors[name] = gs.Variable(name, like.dtype, None, getattr(like, "type", "tensor_type"))
        return self.tensors[name]

    def constant(self, name: str, value: Any) -> gs.Constant:
        name = self.free(name, self.tensors)
        self.tensors[name] = gs.Constant(name, np.asarray(value))
        return self.tensors[name]

    def add(
        self, made: Nodes, op: str, name: str, inputs: list[gs.Tensor], dtype: Any, count: int = 1, **attrs: Any
    ) -> list[gs.Tensor]:
        """Append a node of ours; its outputs."""
        outputs = [self.variable(name if count == 1 else f"{name}/{i}", gs.Variable("", dtype)) for i in range(count)]
        made.append(gs.Node(op, self.node_name(name), attrs, inputs, outputs))
        return outputs

    def split(
        self, node: gs.Node, made: Nodes, x: gs.Tensor, axis: int, sizes: Sequence[int], squeeze: bool
    ) -> list[gs.Tensor]:
        """Parts of x of these sizes along an axis; squeeze: without the axis."""
        base = f"{node.name}/{x.name.lstrip('/')}"
        pieces = [x]
        if len(sizes) > 1:
            parts = self.constant(f"{base}/sizes", np.asarray(sizes, np.int64))
            pieces = self.add(made, "Split", base, [x, parts], x.dtype, len(sizes), axis=axis)
        if not squeeze:
            return pieces
        at = self.constant(f"{base}/axis", np.asarray([axis], np.int64))
        return [self.add(made, "Squeeze", f"{base}/{i}", [p, at], x.dtype)[0] for i, p in enumerate(pieces)]

    def join(self, base: str, made: Nodes, column: Sequence[gs.Tensor], dtype: Any, axis: int, stack: bool) -> gs.Tensor:
        """Concatenation along an axis; stack: along a new one."""
        rows = list(column)
        if stack:
            at = self.constant(f"{base}/axis", np.asarray([axis], np.int64))
            rows = [self.add(made, "Unsqueeze", f"{base}/{i}", [t, at], t.dtype)[0] for i, t in enumerate(rows)]
        return self.add(made, "Concat", base, rows, dtype, axis=axis)[0]
