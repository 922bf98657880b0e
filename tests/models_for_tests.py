"""Small models written as text, and what runs them: `net("h = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(h)", w=...)`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxlrp

HEAD = '<ir_version: {ir}, opset_import: ["" : {opset}{domains}]> g ({x}) => ({y})'


def data(*shape: int, seed: int = 0, low: float | None = None) -> np.ndarray:
    """Normal float32 numbers, or uniform ones from `low` to 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) if low is None else rng.uniform(low, 1, shape)
    return np.asarray(x, np.float32)


def weight(*shape: int, seed: int = 1) -> np.ndarray:
    """Normal float32 numbers, small enough that a deep net neither vanishes nor explodes."""
    fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return data(*shape, seed=seed) / np.float32(np.sqrt(max(fan, 1)))


def net(
    body: str,
    x: str = "float[N,3,6,5] x",
    y: str = "float[N,4] y",
    *,
    opset: int = 18,
    ir: int = 8,
    domains: str = "",
    functions: str = "",
    **constants: Any,
) -> onnx.ModelProto:
    """A model from the text of its nodes, one a line; a node is called after its first output unless it has a name."""
    head = HEAD.format(ir=ir, opset=opset, x=x, y=y, domains=domains)
    model = onnx.parser.parse_model(f"{head} {{\n{body}\n}}\n{functions}")
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def session(model: onnx.ModelProto | str) -> ort.InferenceSession:
    """A bare onnxruntime session, silent."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | str, **feeds: Any) -> dict[str, np.ndarray]:
    """Outputs by name."""
    s = session(model)
    names = [o.name for o in s.get_outputs()]
    return dict(zip(names, s.run(names, dict(feeds)), strict=True))


def lrp(
    model: Any, feeds: Mapping[str, Any], composite: Any = "epsilon", *, target: Any = None, **options: Any
) -> dict[str, np.ndarray]:
    """Compile and run: outputs and relevances by name."""
    more = {} if target is None else {"target": np.asarray(target, np.int64)}
    return run(onnxlrp.compile(model, composite, **options), **feeds, **more)


def relevance(model: Any, x: np.ndarray, composite: Any = "epsilon", **options: Any) -> np.ndarray:
    """relevance.x of a model with one input called x."""
    return lrp(model, {"x": x}, composite, **options)["relevance.x"]


def near(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Equal up to tolerance · max |b|."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    scale = max(float(np.max(np.abs(b), initial=0)), 1e-12)
    worst = float(np.max(np.abs(a.astype(np.float64) - b), initial=0)) / scale
    assert worst <= tolerance, f"differs by {worst:.2g} of the largest value {scale:.3g}"


def ops(model: onnx.ModelProto) -> list[str]:
    """Operators of a model, in order."""
    return [n.op_type for n in model.graph.node]


CONSTANTS = {
    "w": weight(4, 3, 3, 3, seed=1),
    "b": data(4, seed=2) / 4,
    "v": weight(24, 4, seed=3),
    "c": data(4, seed=4) / 4,
}


def small(opset: int = 18, **options: Any) -> onnx.ModelProto:
    """conv 4 – relu – max pool – flatten – gemm 4, on x (N,3,6,5)."""
    body = """
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        r = Relu(h)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        f = Flatten(p)
        y = Gemm(f, v, c)
    """
    return net(body, opset=opset, **{**CONSTANTS, **options})


def vgg11(width: int = 2, size: int = 32) -> onnx.ModelProto:
    """VGG-11 with few channels: eight 3×3 convolutions with ReLU, five pools, flatten, three dense layers."""
    lines, constants, t, channels, count = [], {}, "x", 3, 0
    for step in [1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"]:
        if step == "M":
            lines.append(f"p{count} = MaxPool<kernel_shape=[2,2], strides=[2,2]>({t})")
            t = f"p{count}"
            continue
        count, outs = count + 1, width * int(step)
        constants |= {f"w{count}": weight(outs, channels, 3, 3, seed=count), f"b{count}": data(outs, seed=count) / 9}
        lines.append(f"conv{count} = Conv<pads=[1,1,1,1]>({t}, w{count}, b{count})")
        lines.append(f"relu{count} = Relu(conv{count})")
        t, channels = f"relu{count}", outs
    lines.append(f"flat = Flatten({t})")
    t = "flat"
    for i, outs in enumerate([12, 12, 10], 1):
        constants |= {f"v{i}": weight(channels, outs, seed=20 + i), f"c{i}": data(outs, seed=30 + i) / 9}
        lines.append(f"fc{i} = Gemm({t}, v{i}, c{i})")
        t, channels = f"fc{i}", outs
        if i < 3:
            lines.append(f"relu_fc{i} = Relu(fc{i})")
            t = f"relu_fc{i}"
    lines.append(f"y = Identity({t})")
    return net("\n".join(lines), f"float[N,3,{size},{size}] x", "float[N,10] y", **constants)
