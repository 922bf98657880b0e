"""Time of the compiled graph ÷ time of the model itself, alternating in one process.

    python tools/bench.py                            # VGG-16, epsilon_plus_flat
    python tools/bench.py --composite epsilon gamma --repeats 20
    python tools/bench.py --network bert --composite attn_lrp

Ratios are medians of pairs measured one after the other, so that a drift of the machine's speed cancels.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import onnxlrp

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def vgg(layout: list[int | str] = VGG16, classes: int = 1000, hidden: int = 4096, size: int = 224) -> onnx.ModelProto:
    """A VGG with random He weights."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        weights.append(numpy_helper.from_array((rng.standard_normal(shape, np.float32) * np.float32(scale)), name))
        return name

    x, channels = "x", 3
    for i, width in enumerate(layout):
        if width == "M":
            nodes.append(helper.make_node("MaxPool", [x], [f"p{i}"], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2]))
            x, size = f"p{i}", size // 2
        else:
            inputs = [x, weight(f"w{i}", int(width), channels, 3, 3), weight(f"b{i}", int(width))]
            nodes.append(helper.make_node("Conv", inputs, [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
            x, channels = f"r{i}", int(width)
    nodes.append(helper.make_node("Flatten", [x], ["flat"], "flatten"))
    x, width = "flat", channels * size * size
    for i, out in enumerate((hidden, hidden, classes)):
        inputs = [x, weight(f"fw{i}", out, width), weight(f"fb{i}", out)]
        nodes.append(helper.make_node("Gemm", inputs, [f"f{i}"], f"fc{i}", transB=1))
        x, width = f"f{i}", out
        if i < 2:
            nodes.append(helper.make_node("Relu", [x], [f"fr{i}"], f"frelu{i}"))
            x = f"fr{i}"
    shape = ["batch", 3, 224, 224]
    graph = helper.make_graph(
        nodes, "vgg", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", classes])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class Text:
    """Writes a graph node by node; weights are random and small."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attrs))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape, np.float32) * np.float32(0.5 / np.sqrt(shape[0])))

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self("Add", self("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def norm(self, x: str, width: int) -> str:
        one, zero = (self.constant(np.full(width, v, np.float32)) for v in (1, 0))
        return self("LayerNormalization", x, one, zero, axis=-1, epsilon=1e-12)


def bert(layers: int = 12, width: int = 768, heads: int = 12, tokens: int = 128, words: int = 30522) -> onnx.ModelProto:
    """An encoder of BERT-base's size with random weights, as torch writes it: input_ids (N,T) to two classes."""
    g = Text()
    split, join = g.constant(np.int64([0, tokens, heads, width // heads])), g.constant(np.int64([0, tokens, width]))
    scale, half, one, root = (g.constant(np.float32(v)) for v in ((width // heads) ** -0.5, 0.5, 1, np.sqrt(2)))
    x = g.norm(g("Add", g("Gather", g.weight(words, width), "input_ids"), g.weight(tokens, width)), width)
    for _ in range(layers):
        q, k, v = (g("Reshape", g.dense(x, width, width), split) for _ in range(3))
        q, v = (g("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 2, 3, 1])), scale)
        mixed = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = g.norm(g("Add", g.dense(g("Reshape", mixed, join), width, width), x), width)
        h = g.dense(x, width, 4 * width)
        h = g("Mul", g("Mul", h, g("Add", g("Erf", g("Div", h, root)), one)), half)
        x = g.norm(g("Add", g.dense(h, 4 * width, width), x), width)
    y = g.dense(g("Gather", x, g.constant(np.int64(0)), axis=1), width, 2)
    graph = helper.make_graph(
        g.nodes, "bert", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", tokens])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", 2])], g.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--composite", nargs="+", default=["epsilon_plus_flat"])
    parser.add_argument("--network", choices=["vgg16", "bert"], default="vgg16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    model = vgg() if arguments.network == "vgg16" else bert()
    own = session(model, arguments.threads)
    rng = np.random.default_rng(1)
    if arguments.network == "vgg16":
        feed = {"x": rng.standard_normal((arguments.batch, 3, 224, 224)).astype(np.float32)}
    else:
        feed = {"input_ids": rng.integers(0, 30522, (arguments.batch, 128))}
    for composite in arguments.composite:
        start = time.perf_counter()
        compiled = onnxlrp.compile(model, composite)
        compiling = time.perf_counter() - start
        start = time.perf_counter()
        ours = session(compiled, arguments.threads)
        loading = time.perf_counter() - start
        times = []
        for _ in range(arguments.repeats + 2):
            pair = []
            for run in (own, ours):
                start = time.perf_counter()
                run.run(None, feed)
                pair.append(time.perf_counter() - start)
            times.append(pair)
        times = times[2:]
        ratios = [b / a for a, b in times]
        y, r = ours.run(None, feed)[:2]
        print(
            f"{arguments.network} {composite}: "
            f"{statistics.median(ratios):.2f} forwards (min {min(ratios):.2f}, max {max(ratios):.2f}); "
            f"forward {statistics.median(a for a, _ in times) * 1e3:.0f} ms, explanation "
            f"{statistics.median(b for _, b in times) * 1e3:.0f} ms; compile {compiling:.1f} s, load {loading:.1f} s, "
            f"size × {compiled.ByteSize() / model.ByteSize():.3f}, Σr / logit {r.sum() / y.max(1).sum():.4f}"
        )


if __name__ == "__main__":
    main()
