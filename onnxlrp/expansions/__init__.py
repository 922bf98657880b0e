"""Operators that are written out in others before anything else looks at the graph: one function per operator.

newer.py: standard operators that opset 18 lacks, or has in a form that hides what they do. groups.py knows the spelled
forms again where they are explained as one operator.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from . import newer
from .writer import EXPANSIONS, Writer

__all__ = ["EXPANSIONS", "expand", "newer"]


def expand(graph: gs.Graph) -> bool:
    """Write out every node of the table, in place, until none is left. Returns whether there was one."""
    changed = False
    while True:
        nodes: list[gs.Node] = []
        for node in graph.nodes:
            write = EXPANSIONS.get((node.domain or "", node.op))
            w = Writer(node)
            written = write(w) if write is not None else None
            nodes += [node] if written is None else w.finish(written)
        if len(nodes) == len(graph.nodes) and all(a is b for a, b in zip(nodes, graph.nodes, strict=True)):
            return changed
        changed = True
        graph.nodes[:] = nodes
