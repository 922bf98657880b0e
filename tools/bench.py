"""Time of the compiled graph ÷ time of the model itself, alternating in one process.

    python tools/bench.py                            # VGG-16, epsilon_plus_flat
    python tools/bench.py --composite epsilon gamma --repeats 20

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


def session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--composite", nargs="+", default=["epsilon_plus_flat"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    model = vgg()
    own = session(model, arguments.threads)
    x = np.random.default_rng(1).standard_normal((arguments.batch, 3, 224, 224)).astype(np.float32)
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
                run.run(None, {"x": x})
                pair.append(time.perf_counter() - start)
            times.append(pair)
        times = times[2:]
        ratios = [b / a for a, b in times]
        y, r = ours.run(None, {"x": x})
        print(
            f"VGG-16 {composite}: {statistics.median(ratios):.2f} forwards (min {min(ratios):.2f}, max {max(ratios):.2f}); "
            f"forward {statistics.median(a for a, _ in times) * 1e3:.0f} ms, explanation "
            f"{statistics.median(b for _, b in times) * 1e3:.0f} ms; compile {compiling:.1f} s, load {loading:.1f} s, "
            f"size × {compiled.ByteSize() / model.ByteSize():.3f}, Σr / logit {r.sum() / y.max(1).sum():.4f}"
        )


if __name__ == "__main__":
    main()
