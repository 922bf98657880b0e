"""What a node reads, subgraphs included, and topological order without recursion."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx
import onnx_graphsurgeon as gs

from .errors import InvalidModel

__all__ = ["bodies", "captured", "captures", "depends", "levels", "live", "proto_levels", "reads", "sort", "sort_proto"]


def bodies(node: gs.Node) -> list[gs.Graph]:
    """Subgraphs of a node."""
    return [v for v in node.attrs.values() if isinstance(v, gs.Graph)]


def captures(node: gs.Node) -> Iterator[gs.Tensor]:
    """Tensors that nodes of a node's subgraphs read and that are not made there."""
    for body in bodies(node):
        own = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        yield from (t for n in body.nodes for t in (*n.inputs, *captures(n)) if t.name and t.name not in own)


def levels(graph: gs.Graph) -> Iterator[gs.Graph]:
    """A graph and its subgraphs, the outermost first."""
    level = [graph]
    while level:
        yield from level
        level = [body for g in level for n in g.nodes for body in bodies(n)]


def proto_levels(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`levels` for a GraphProto."""
    level = [graph]
    while level:
        yield from level
        attributes = [a for g in level for n in g.node for a in n.attribute]
        level = [b for a in attributes for b in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)]


def depends(node: gs.Node) -> Iterator[str]:
    """Names a node reads: its inputs, and what its subgraphs capture from outside."""
    yield from (t.name for t in node.inputs if t.name)
    yield from captured(node)


def captured(node: gs.Node) -> set[str]:
    """Names that a node's subgraphs take from the surrounding graph."""
    names: set[str] = set()
    for body in bodies(node):
        own = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        read = {name for n in body.nodes for name in depends(n)} | {t.name for t in body.outputs}
        names |= {n for n in read - own if n}
    return names


def live(nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> list[gs.Node]:
    """Nodes that the outputs need, in order."""
    needed = {o.name for o in outputs}
    kept = []
    for node in reversed(nodes):
        if any(t.name in needed for t in node.outputs if t.name):
            needed |= set(depends(node))
            kept.append(node)
    return kept[::-1]


def sort(nodes: list[gs.Node]) -> list[gs.Node]:
    """Stable topological order, without recursion. Raises InvalidModel on a cycle."""
    return [nodes[i] for i in _order([[t.name for t in n.outputs] for n in nodes], [list(depends(n)) for n in nodes])]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a NodeProto reads, its subgraphs included."""
    yield from node.input
    for a in node.attribute:
        for body in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
            own = {t.name for t in (*body.input, *body.initializer)} | {o for n in body.node for o in n.output}
            yield from (x for n in body.node for x in reads(n) if x not in own)
            yield from (o.name for o in body.output if o.name not in own)


def sort_proto(graph: onnx.GraphProto) -> None:
    """`sort` for a GraphProto, in place."""
    nodes = list(graph.node)
    order = _order([list(n.output) for n in nodes], [list(reads(n)) for n in nodes])
    if order != list(range(len(nodes))):
        del graph.node[:]
        graph.node.extend(nodes[i] for i in order)


def _order(writes: list[list[str]], reads: list[list[str]]) -> list[int]:
    producer: dict[str, int] = {}
    for i, names in enumerate(writes):
        for name in names:
            if name and producer.setdefault(name, i) != i:
                raise InvalidModel(f"two nodes compute '{name}'; a tensor has one source")
    waiting, users = [0] * len(writes), [[] for _ in writes]  # type: list[int], list[list[int]]
    for i, names in enumerate(reads):
        for p in {producer[n] for n in names if n in producer}:
            users[p].append(i)
            waiting[i] += 1
    ready = [i for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(i := heapq.heappop(ready))
        for user in users[i]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(writes):
        stuck = next(i for i, count in enumerate(waiting) if count)
        raise InvalidModel(f"the graph has a cycle through the node that computes '{writes[stuck][0]}'")
    return order
