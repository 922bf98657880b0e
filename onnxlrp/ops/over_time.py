"""A recursion over time as one Scan: the step is written once, whatever the number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from ..emit import Emit
from ..opsets import OPSET
from ..tensor import Tensor

__all__ = ["over_time"]

# (states, elements) -> (new states, what is stacked)
Step = Callable[[list[Tensor], list[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor]]]


class Body(Emit):
    """Builds the graph of one step; tensors of the outer graph are captured by name, so they may not be initializers."""

    def __init__(self, outer: Emit) -> None:
        super().__init__(outer.smart)
        self._scope, self._names = f"{outer._scope}/step", outer._names  # no name may hide one of the outer graph

    def face(self, t: Tensor, role: str) -> Tensor:
        """An input of the graph, like t; the file does not say of what shape."""
        made = self.adopt(gs.Variable(self.unique(f"{self._scope}/{role}"), t.dtype))
        made.shape = t.shape
        return made

    def result(self, t: Tensor, taken: Sequence[Tensor]) -> Tensor:
        """An output of the graph: made here, and none of those that are taken."""
        own = any(t.var is o for n in self.nodes for o in n.outputs)
        t = t if own and not any(t is o for o in taken) else self.op("Identity", t, shape=t.shape)
        t.var.dtype = t.dtype
        return t


def over_time(
    e: Emit, step: Step, states: Sequence[Tensor], elements: Sequence[Tensor], backwards: bool = False
) -> list[Tensor]:
    """The last states, then what every step stacks, for steps along axis 0 of the elements.

    ZERO and ONE among the elements stay what they are. backwards: from the last step to the first; stacks keep their order.
    """
    body = Body(e)
    into = [body.face(t, "state") for t in states]
    held = {i: body.face(_element(t), "element") for i, t in enumerate(elements) if not (t.is_zero or t.is_one)}
    new, stacked = step(into, [held.get(i, t) for i, t in enumerate(elements)])
    outputs: list[Tensor] = []
    for t in (*new, *stacked):
        outputs.append(body.result(t, outputs))
    graph = gs.Graph(
        body.nodes, [t.var for t in (*into, *held.values())], [t.var for t in outputs], name=body._scope, opset=OPSET
    )
    rows = [elements[i] for i in held]
    steps = rows[0].shape[0] if rows[0].shape is not None else None
    shapes = [t.shape for t in states] + [None if t.shape is None else (steps, *t.shape) for t in stacked]
    way = int(backwards)
    return e.ops(
        "Scan", *states, *rows, shapes=shapes, dtypes=[t.dtype for t in outputs], body=graph, num_scan_inputs=len(rows),
        scan_input_directions=[way] * len(rows), scan_output_directions=[way] * len(stacked),
    )  # fmt: skip


def _element(t: Tensor) -> Tensor:
    """What one step sees of t."""
    assert t.shape is not None
    return Tensor(t.emit, t.var, t.dtype, t.shape[1:], t.span)
