"""Operators that are written out in others before anything else looks at the graph: one function per operator.

newer.py: standard operators that opset 18 lacks, or has in a form that hides what they do. ml.py: those of domain
ai.onnx.ml. quantized.py: those on codes of 8 bits and fewer. microsoft.py: those that onnxruntime fuses. groups.py knows
the spelled forms again where they are explained as one operator.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from ..opsets import OPSET
from ..order import bodies
from ..unsupported import check_opset
from . import attention, fused_attention, microsoft, ml, newer, quantized, recurrent
from .writer import EXPANSIONS, Writer

# importing a topic registers its expansions
__all__ = [
    "EXPANSIONS", "attention", "expand", "fused_attention", "microsoft", "ml", "newer", "quantized", "recurrent",
]  # fmt: skip


def expand(graph: gs.Graph) -> bool:
    """Write out the nodes of the table, in place, once: what is written may be in it again. Returns whether there was one.

    A node whose ranks are not known yet waits while others are written out: theirs are inferred afterwards.
    Raises UnsupportedOp for what is newer than the opset that is written and not in the table.
    """
    nodes: list[gs.Node] = []
    waiting: list[UnsupportedOp] = []
    changed = False
    for node in graph.nodes:
        for body in bodies(node):
            changed |= expand(body)
        write, w, written = EXPANSIONS.get((node.domain or "", node.op)), Writer(node), None
        try:
            written = write(w) if write is not None else None
        except UnsupportedOp as error:
            waiting.append(error)
            for made in w.made:  # nothing of it may stay among the users of its inputs
                made.inputs, made.outputs = [], []
        changed |= written is not None
        nodes += [node] if written is None else w.finish(written)
    if waiting and not changed:
        raise waiting[0]
    graph.nodes[:] = nodes
    if not changed:
        check_opset(nodes, OPSET)
    return changed
