"""Sequences whose length is known: what is taken from them is read where it was put in, so that no sequence is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from .rewriting import Nodes, Rewriter

__all__ = ["SEQUENCES", "write_sequence"]


def write_sequence(w: Rewriter, node: gs.Node) -> Nodes:
    """Nodes in the place of a sequence operator. What makes a sequence stays, for outputs and for what is not known."""
    return SEQUENCES[node.op](w, node)


def make(w: Rewriter, node: gs.Node) -> Nodes:
    """SequenceConstruct, SequenceEmpty."""
    w.lists[node.outputs[0].name] = list(node.inputs)
    return [node]


def edit(w: Rewriter, node: gs.Node) -> Nodes:
    """SequenceInsert, SequenceErase; at the end when no position is given."""
    items, at = list(w.lists.get(node.inputs[0].name) or ()), position(w, node, 2 if node.op == "SequenceInsert" else 1)
    if node.inputs[0].name not in w.lists or at is None:
        return [node]
    if node.op == "SequenceInsert":
        items.insert(at if len(node.inputs) > 2 else len(items), node.inputs[1])
    elif -len(items) <= at < len(items):
        del items[at if len(node.inputs) > 1 else -1]
    w.lists[node.outputs[0].name] = items
    return [node]


def at(w: Rewriter, node: gs.Node) -> Nodes:
    """SequenceAt: the element itself."""
    items, index = w.lists.get(node.inputs[0].name), position(w, node, 1)
    if items is None or index is None or not -len(items) <= index < len(items):
        return [node]
    return w.deliver(node, [], [w.current(items[index])])


def length(w: Rewriter, node: gs.Node) -> Nodes:
    """SequenceLength."""
    items = w.lists.get(node.inputs[0].name)
    return [node] if items is None else w.deliver(node, [], [w.constant(f"{node.name}/value", np.int64(len(items)))])


def split(w: Rewriter, node: gs.Node) -> Nodes:
    """SplitToSequence: a Split. onnxruntime heeds keepdims for a scalar size of 1, too, and torch counts on it."""
    x, axis = node.inputs[0], int(node.attrs.get("axis", 0))
    size = w.known.size(x, axis)
    parts = w.known.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else np.asarray(1)
    if parts is None or (parts.ndim == 0 and size is None):
        return [node]
    step = int(parts) if parts.ndim == 0 else 0
    sizes = [min(step, size - i) for i in range(0, size, step)] if step and size is not None else [int(p) for p in parts]
    made: Nodes = []
    squeeze = step == 1 and not node.attrs.get("keepdims", 1)
    w.lists[node.outputs[0].name] = w.split(node, made, x, axis, sizes, squeeze)
    return [node, *made]


def join(w: Rewriter, node: gs.Node) -> Nodes:
    """ConcatFromSequence: a Concat."""
    items = [w.current(t) for t in w.lists.get(node.inputs[0].name, ())]
    if not items:
        return [node]
    made: Nodes = []
    stack = bool(node.attrs.get("new_axis", 0))
    whole = w.join(f"{node.name}/whole", made, items, node.outputs[0].dtype, int(node.attrs["axis"]), stack)
    return w.deliver(node, made, [whole])


def alias(w: Rewriter, node: gs.Node) -> Nodes:
    """Identity of a sequence."""
    if node.inputs[0].name in w.lists:
        w.lists[node.outputs[0].name] = w.lists[node.inputs[0].name]
    return [node]


def position(w: Rewriter, node: gs.Node, index: int) -> int | None:
    """A position among the inputs; 0 when it is absent, None when it is not known."""
    if len(node.inputs) <= index or not node.inputs[index].name:
        return 0
    value = w.known.value(node.inputs[index])
    return None if value is None else int(np.ravel(value)[0])


SEQUENCES: dict[str, Callable[[Rewriter, gs.Node], Nodes]] = {
    "SequenceConstruct": make, "SequenceEmpty": make, "SequenceInsert": edit, "SequenceErase": edit, "SequenceAt": at,
    "SequenceLength": length, "SplitToSequence": split, "ConcatFromSequence": join, "Identity": alias,
}  # fmt: skip
