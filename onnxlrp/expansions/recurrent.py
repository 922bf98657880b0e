"""Recurrent nodes in the one layout that runtimes have kernels for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .writer import Writer, Written, expansion

FLOAT = int(onnx.TensorProto.FLOAT)


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


@expansion("DynamicQuantizeLSTM", "com.microsoft")
def dynamic_quantize_lstm(w: Writer) -> Written:
    """LSTM with the weights that the codes stand for: W (D,I,4H), R (D,H,4H), scales (D) or (D,4H).

    The kernel also rounds x and every state to 8 bits: the outputs are those of the LSTM that was quantised.
    """

    def weight(codes: int, scale: int, zero: int) -> gs.Tensor:
        s, z = w.need(scale), w.need(zero)
        axes = w.ints(*([1, 2] if w.rank(s) == 1 else [1]))
        shift, factor = w("Unsqueeze", w("Cast", z, dtype=np.float32, to=FLOAT), axes), w("Unsqueeze", s, axes)
        real = w("Mul", w("Sub", w("Cast", w.need(codes), dtype=np.float32, to=FLOAT), shift), factor)
        return w("Transpose", real, perm=[0, 2, 1])

    others = [w.input(i) for i in range(3, 8)]
    weights = weight(1, 8, 9), weight(2, 10, 11)
    outs = w.outputs("LSTM", w.need(0), *weights, *others, dtypes=(None,) * len(w.node.outputs), **w.node.attrs)
    w.made[-1].name = w.node.name
    return tuple(outs)
