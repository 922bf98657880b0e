"""If, Loop and Scan as far as they are known when compiling: the taken branch in the place of an If, a loop unrolled.

What is not known stays in the forward part, and is an error where relevance would have to pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import finish, producer
from .graph import Source
from .order import levels
from .rewriting import Nodes, Rewriter, Shared
from .sequences import SEQUENCES, write_sequence
from .weights import Weight

__all__ = ["CONTROL", "LIMIT", "unroll"]

CONTROL = ("If", "Loop", "Scan")
STALE = (*CONTROL, "SequenceAt", "SequenceLength", "ConcatFromSequence")
LIMIT = 100_000  # nodes that are written in all
ENDLESS = int(np.iinfo(np.int64).max)


def unroll(source: Source) -> None:
    """Write out all control flow that is known, in place; `source.kept` says of the rest why it is not."""
    graph = source.graph
    if not any(n.op in STALE for n in graph.nodes):
        return
    work = Unroller(source)
    graph.nodes[:] = work.walk(list(graph.nodes))
    for node in (n for g in levels(graph) if g is not graph for n in g.nodes):
        node.name = work.node_name(node.name or node.op)
    share_weights(graph)
    work.sweep(graph)
    work.known.complete(graph)
    finish(source)


class Unroller(Rewriter):
    """One call of `unroll`."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, STALE)
        self.kept = source.kept

    def walk(self, nodes: Nodes) -> Nodes:
        """The nodes, in order, with all that is known written out."""
        write = {"If": self.write_if, "Loop": self.write_loop, "Scan": self.write_scan}
        out: Nodes = []
        for node in nodes:
            standard = (node.domain or "") == ""
            if standard and node.op in write:
                out += write[node.op](node)
            else:
                out += write_sequence(self, node) if standard and node.op in SEQUENCES else [node]
        return out

    def write_if(self, node: gs.Node) -> Nodes:
        """The branch that is taken."""
        t = node.inputs[0]
        condition = self.known.value(t)
        if condition is None:
            why = f"its condition '{t.name}' {self.known.origin(t)}, so which branch explains the answer"
            return self.keep(node, f"{why} is not known when compiling", "with the branch taken")
        body = node.attrs["then_branch" if np.ravel(condition)[0] else "else_branch"]
        if self.count + len(body.nodes) > LIMIT:
            return self.keep(node, too_much(0, body), "with the branch taken")
        made, results = self.copy(node, body, node.name, {}, {})
        return self.deliver(node, self.walk(made), results)

    def write_loop(self, node: gs.Node) -> Nodes:
        """body(i, condition, carried …) -> condition, carried …, a row of each scan output; while i < M and condition."""
        body, carried = node.attrs["body"], list(node.inputs[2:])
        limits: list[int] = []
        for t, what, default in zip(node.inputs[:2], ("trip count", "condition"), (ENDLESS, True), strict=False):
            value = self.known.value(t) if t.name else np.asarray(default)
            if value is None:
                why = f"its {what} '{t.name}' {self.known.origin(t)}, so how often it runs is not known when compiling"
                return self.keep(node, why, "unrolled")
            limits.append(int(np.ravel(value)[0]))
        most, goes_on = limits[0], bool(limits[1])
        if goes_on and hands_on(body) and most * max(len(body.nodes), 1) > LIMIT - self.count:
            return self.keep(node, too_much(most, body), "unrolled")
        first = 1 + len(carried)
        columns: list[list[gs.Tensor]] = [[] for _ in body.outputs[first:]]
        made: Nodes = []
        shared: Shared = {}
        i, start = 0, self.count
        while i < most and goes_on:
            given = [self.scalar(node, body.inputs[0], np.int64(i)), self.scalar(node, body.inputs[1], np.True_), *carried]
            rows = self.iteration(node, body, i, given, made, shared)
            i += 1
            if rows is None:
                return self.undo(node, made, start, too_much(i, body))
            carried = rows[1:first]
            for column, row in zip(columns, rows[first:], strict=True):
                column.append(row)
            condition = self.known.value(rows[0]) if i < most else np.False_
            if condition is None:
                why = f"whether it goes on after iteration {i} {self.known.origin(rows[0])}, so how often it runs"
                return self.undo(node, made, start, f"{why} is not known when compiling")
            goes_on = bool(np.ravel(condition)[0])
        stacks = [self.stack(node, made, c, t, 0) for c, t in zip(columns, body.outputs[first:], strict=True)]
        return self.deliver(node, made, [*carried, *stacks])

    def write_scan(self, node: gs.Node) -> Nodes:
        """body(states …, an element of each scan input) -> states …, an element of each scan output."""
        body, count = node.attrs["body"], int(node.attrs["num_scan_inputs"])
        states, sequences = list(node.inputs[:-count]), list(node.inputs[-count:])
        into = [node.attrs.get(f"scan_input_{k}") or [0] * count for k in ("axes", "directions")]
        columns: list[list[gs.Tensor]] = [[] for _ in body.outputs[len(states) :]]
        out = [node.attrs.get(f"scan_output_{k}") or [0] * len(columns) for k in ("axes", "directions")]
        sizes = [self.known.size(x, axis) for x, axis in zip(sequences, into[0], strict=True)]
        length = next((size for size in sizes if size is not None), None)
        if length is None:
            why = f"its number of steps is the size of '{sequences[0].name}' along axis {into[0][0]}"
            return self.keep(node, f"{why}, which is not known when compiling (input_shapes= may give it)", "unrolled")
        if length * max(len(body.nodes), 1) > LIMIT - self.count:
            return self.keep(node, too_much(length, body), "unrolled")
        made: Nodes = []
        shared: Shared = {}
        start = self.count
        parts = []
        for x, axis, backwards in zip(sequences, *into, strict=True) if length else ():
            elements = self.split(node, made, x, axis, [1] * length, squeeze=True)
            parts.append(elements[::-1] if backwards else elements)
        for i in range(length):
            rows = self.iteration(node, body, i, [*states, *(p[i] for p in parts)], made, shared)
            if rows is None:
                return self.undo(node, made, start, too_much(length, body))
            states = rows[: len(states)]
            for column, row in zip(columns, rows[len(states) :], strict=True):
                column.append(row)
        stacks = [
            self.stack(node, made, column[::-1] if backwards else column, t, axis)
            for column, t, axis, backwards in zip(columns, body.outputs[len(states) :], *out, strict=True)
        ]
        return self.deliver(node, made, [*states, *stacks])

    def iteration(
        self, node: gs.Node, body: gs.Graph, i: int, given: Sequence[gs.Tensor], made: Nodes, shared: Shared
    ) -> list[gs.Tensor] | None:
        """Append one copy of a body; its outputs, or None when it would be too much."""
        if self.count + max(len(body.nodes), 1) > LIMIT:
            return None
        inputs = {t.name: g for t, g in zip(body.inputs, given, strict=True)}
        nodes, results = self.copy(node, body, f"{node.name}/{i}", inputs, shared)
        made += self.walk(nodes)
        return results

    def scalar(self, node: gs.Node, like: gs.Tensor, value: Any) -> gs.Constant:
        """The iteration number, or the condition: a scalar, or one value along one axis, as the body declares it."""
        return self.constant(f"{node.name}/{like.name.lstrip('/')}", np.asarray(value).reshape([1] * len(like.shape or ())))

    def stack(self, node: gs.Node, made: Nodes, column: list[gs.Tensor], like: gs.Tensor, axis: int) -> gs.Tensor:
        """The elements of a scan output along a new axis; of no elements, an empty tensor, where unknown sizes are 0."""
        base = f"{node.name}/{like.name.lstrip('/')}"
        if column:
            return self.join(base, made, column, like.dtype, axis, stack=True)
        sizes = [d if isinstance(d, int) else 0 for d in like.shape or ()]
        sizes.insert(axis if axis >= 0 else axis + len(sizes) + 1, 0)
        return self.constant(base, np.zeros(sizes, like.dtype or np.float32))

    def keep(self, node: gs.Node, why: str, remedy: str) -> Nodes:
        """The node stays as it is."""
        self.known.recall(node)
        self.kept[node.name] = f"{why}; cut the model there (output=, explain=) or export it {remedy}"
        return [node]

    def undo(self, node: gs.Node, made: Nodes, start: int, why: str) -> Nodes:
        """Take back what was written of a loop."""
        self.drop(made)
        self.count = start
        return self.keep(node, why, "unrolled")


def hands_on(body: gs.Graph) -> bool:
    """Whether a loop's condition is the one it was given, so that nothing but the trip count ends it."""
    t = body.outputs[0]
    while (node := producer(t)) is not None and node.op in ("Identity", "Cast"):
        t = node.inputs[0]
    return bool(t.name == body.inputs[1].name)


def too_much(iterations: int, body: gs.Graph) -> str:
    if iterations == ENDLESS:
        return "nothing ends it"
    nodes = f"{len(body.nodes):,} nodes"
    count = f"{iterations:,} iterations of {nodes}" if iterations else nodes
    return f"{count} would be more than the {LIMIT:,} that are written out in all"


def share_weights(graph: gs.Graph) -> None:
    """Large weights that subgraphs capture are handed in by an Identity: only the outermost graph stores weights."""
    shared: dict[str, gs.Variable] = {}
    nodes: Nodes = []
    for inner in (n for g in levels(graph) if g is not graph for n in g.nodes):
        for i, t in enumerate(inner.inputs):
            if isinstance(t, Weight):
                if t.name not in shared:
                    shared[t.name] = gs.Variable(f"{t.name}/captured", t.dtype, t.shape)
                    nodes.append(gs.Node("Identity", f"{t.name}/captured", {}, [t], [shared[t.name]]))
                inner.inputs[i] = shared[t.name]
    graph.nodes[:0] = nodes
