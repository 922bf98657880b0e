"""What a node reads, subgraphs included, and topological order without recursion."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from .errors import InvalidModel

__all__ = ["captured", "depends", "sort", "sort_proto"]


def depends(node: gs.Node) -> Iterator[str]:
    """Names a node reads: its inputs, and what its subgraphs capture from outside."""
    yield from (t.name for t in node.inputs if t.name)
    yield from captured(node)


def captured(node: gs.Node) -> set[str]:
    """Names that a node's subgraphs take from the surrounding graph."""
    names: set[str] = set()
    for body in (v for v in node.attrs.values() if isinstance(v, gs.Graph)):
        own = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        read = {name for n in body.nodes for name in depends(n)} | {t.name for t in body.outputs}
        names |= {n for n in read - own if n}
    return names


def sort(nodes: list[gs.Node]) -> list[gs.Node]:
    """Stable topological order, without recursion. Raises InvalidModel on a cycle."""
    return [nodes[i] for i in _order([[t.name for t in n.outputs] for n in nodes], [list(depends(n)) for n in nodes])]


def sort_proto(graph: onnx.GraphProto) -> None:
    """`sort` for a GraphProto, in place."""

    def reads(node: onnx.NodeProto) -> Iterator[str]:
        yield from node.input
        for a in node.attribute:
            for body in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
                own = {i.name for i in body.input} | {o for n in body.node for o in n.output}
                yield from (x for n in body.node for x in reads(n) if x not in own)
                yield from (o.name for o in body.output if o.name not in own)

    nodes = list(graph.node)
    order = _order([list(n.output) for n in nodes], [list(reads(n)) for n in nodes])
    if order != list(range(len(nodes))):
        del graph.node[:]
        graph.node.extend(nodes[i] for i in order)


def _order(writes: list[list[str]], reads: list[list[str]]) -> list[int]:
    producer = {name: i for i, names in enumerate(writes) for name in names if name}
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
