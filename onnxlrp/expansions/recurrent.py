"""Recurrent nodes in the one layout that runtimes have kernels for."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .writer import Writer, Written, expansion


@expansion("LSTM GRU RNN")
def time_first(w: Writer) -> Written:
    """layout=1 (batch first) becomes Transposes around layout=0; Y gets a name where the model does not ask for it.

    X (N,T,I) -> (T,N,I); initial_h, initial_c (N,D,H) -> (D,N,H); Y (T,D,N,H) -> (N,T,D,H); Y_h, Y_c (D,N,H) -> (N,D,H).
    """
    node = w.node
    if not node.attrs.pop("layout", 0):
        if not node.outputs[0].name:  # the way back reads every hidden state
            node.outputs[0] = gs.Variable(f"{node.name}/Y", node.inputs[0].dtype)
        return None
    inputs = [w.input(i) for i in range(len(node.inputs))]
    for i in (0, 5, 6):
        if i < len(inputs) and inputs[i] is not None:
            inputs[i] = w("Transpose", inputs[i], perm=[1, 0, 2])
    outs = w.outputs(node.op, *inputs, dtypes=(None,) * len(node.outputs), **node.attrs)
    w.made[-1].name = node.name
    perms = ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2])
    return tuple(w("Transpose", t, perm=perm) for t, perm in zip(outs, perms, strict=False))
