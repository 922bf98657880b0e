"""The networks of the benchmark, with random He weights, written as ONNX node by node. x (N,3,224,224) unless it says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NETWORKS", "sample"]

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


class Writer:
    """Writes a graph node by node; a call adds a node and gives the name of its output."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op.lower()}{len(self.nodes)}", **attrs))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normal(self, *shape: int, scale: float) -> str:
        return self.constant(self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1, bias: bool = True) -> str:
        fan = inputs // group * kernel * kernel
        weight = self.normal(outputs, inputs // group, kernel, kernel, scale=(2 / fan) ** 0.5)
        pads = [0] * 4 if kernel == stride else [kernel // 2] * 4
        more = [self.normal(outputs, scale=0.1)] if bias else []
        return self("Conv", x, weight, *more, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)

    def batch_norm(self, x: str, width: int, scale: float = 1.0) -> str:
        vary = (1 + self.rng.standard_normal(width, np.float32) * 0.05, self.rng.standard_normal(width, np.float32) * 0.1)
        vectors = (scale * vary[0], vary[1], vary[1], vary[0] ** 2)
        return self("BatchNormalization", x, *(self.constant(v) for v in vectors), epsilon=1e-5)

    def dense(self, x: str, inputs: int, outputs: int, gain: float = 2.0) -> str:
        weight = self.normal(outputs, inputs, scale=(gain / inputs) ** 0.5)
        return self("Gemm", x, weight, self.normal(outputs, scale=0.1), transB=1)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A dense layer on (N,T,inputs), as torch writes it."""
        product = self("MatMul", x, self.normal(inputs, outputs, scale=0.5 / inputs**0.5))
        return self("Add", product, self.normal(outputs, scale=0.1))

    def layer_norm(self, x: str, width: int) -> str:
        return self("LayerNormalization", x, self.constant(np.ones(width)), self.constant(np.zeros(width)), axis=-1)

    def pool(self, x: str, kernel: int, stride: int, pad: int = 0, op: str = "MaxPool") -> str:
        return self(op, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def model(self, name: str, y: str, size: list[int], out: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """The model with input x (batch, *size) and output y (batch, *out)."""
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info("x", kind, ["batch", *size])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", *out])], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def mlp(width: int = 2048) -> onnx.ModelProto:
    """784 - 2048 - 2048 - 2048 - 10 with ReLU, x (N,784)."""
    g = Writer()
    x, inputs = "x", 784
    for _ in range(3):
        x, inputs = g("Relu", g.dense(x, inputs, width)), width
    return g.model("mlp", g.dense(x, width, 10), [784], [10])


def vgg16(classes: int = 1000) -> onnx.ModelProto:
    """Simonyan & Zisserman 2014, configuration D."""
    g = Writer()
    x, channels = "x", 3
    for width in VGG16:
        if isinstance(width, int):
            x, channels = g("Relu", g.conv(x, channels, width, 3)), width
        else:
            x = g.pool(x, 2, 2)
    x = g("Flatten", x)
    x = g("Relu", g.dense(x, 512 * 7 * 7, 4096))
    x = g("Relu", g.dense(x, 4096, 4096))
    return g.model("vgg16", g.dense(x, 4096, classes), [3, 224, 224], [classes])


def resnet50(classes: int = 1000) -> onnx.ModelProto:
    """He et al. 2015, stride in the 3x3 convolution (v1.5), BatchNorm as exported for inference."""
    g = Writer()

    def unit(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, scale: float = 1.0) -> str:
        return g.batch_norm(g.conv(x, inputs, outputs, kernel, stride, bias=False), outputs, scale)

    x, channels = g.pool(g("Relu", unit("x", 3, 64, 7, 2)), 3, 2, 1), 64
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            h = g("Relu", unit(x, channels, width, 1))
            h = g("Relu", unit(h, width, width, 3, stride))
            h = unit(h, width, 4 * width, 1, scale=0.5)
            x = unit(x, channels, 4 * width, 1, stride) if not block else x
            x, channels = g("Relu", g("Add", h, x)), 4 * width
    x = g("Flatten", g("GlobalAveragePool", x))
    return g.model("resnet50", g.dense(x, channels, classes, 1.0), [3, 224, 224], [classes])


def mobilenet_v2(classes: int = 1000) -> onnx.ModelProto:
    """Sandler et al. 2018: inverted residuals with ReLU6."""
    g = Writer()
    low, high = g.constant(0), g.constant(6)

    def unit(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1, act: bool = True) -> str:
        x = g.batch_norm(g.conv(x, inputs, outputs, kernel, stride, group, bias=False), outputs)
        return g("Clip", x, low, high) if act else x

    x, channels = unit("x", 3, 32, 3, 2), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, width, depth, first in stages:
        for block in range(depth):
            stride, inner = first if not block else 1, channels * expand
            h = unit(x, channels, inner, 1) if expand > 1 else x
            h = unit(unit(h, inner, inner, 3, stride, inner), inner, width, 1, act=False)
            x, channels = (g("Add", x, h) if stride == 1 and channels == width else h), width
    x = g("Flatten", g("GlobalAveragePool", unit(x, channels, 1280, 1)))
    return g.model("mobilenet_v2", g.dense(x, 1280, classes, 1.0), [3, 224, 224], [classes])


def densenet121(classes: int = 1000, growth: int = 32) -> onnx.ModelProto:
    """Huang et al. 2016: every layer reads all that came before it in its block, BatchNorm and ReLU first."""
    g = Writer()
    x = g("Relu", g.batch_norm(g.conv("x", 3, 64, 7, 2, bias=False), 64))
    x, channels = g.pool(x, 3, 2, 1), 64
    for stage, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            h = g.conv(g("Relu", g.batch_norm(x, channels)), channels, 4 * growth, 1, bias=False)
            h = g.conv(g("Relu", g.batch_norm(h, 4 * growth)), 4 * growth, growth, 3, bias=False)
            x, channels = g("Concat", x, h, axis=1), channels + growth
        if stage < 3:
            x = g.conv(g("Relu", g.batch_norm(x, channels)), channels, channels // 2, 1, bias=False)
            x, channels = g.pool(x, 2, 2, op="AveragePool"), channels // 2
    x = g("Flatten", g("GlobalAveragePool", g("Relu", g.batch_norm(x, channels))))
    return g.model("densenet121", g.dense(x, channels, classes, 1.0), [3, 224, 224], [classes])


def unet(width: int = 32, depth: int = 4, classes: int = 2) -> onnx.ModelProto:
    """Ronneberger et al. 2015 with padding: x (N,3,224,224) to (N,2,224,224)."""
    g = Writer()

    def double(x: str, inputs: int, outputs: int) -> str:
        return g("Relu", g.conv(g("Relu", g.conv(x, inputs, outputs, 3)), outputs, outputs, 3))

    kept, x, channels = [], double("x", 3, width), width
    for _ in range(depth):
        kept.append(x)
        x, channels = double(g.pool(x, 2, 2), channels, 2 * channels), 2 * channels
    for skip in reversed(kept):
        weight = g.normal(channels, channels // 2, 2, 2, scale=(2 / channels) ** 0.5)
        bias = g.normal(channels // 2, scale=0.1)
        x = g("ConvTranspose", x, weight, bias, kernel_shape=[2, 2], strides=[2, 2])
        x, channels = double(g("Concat", skip, x, axis=1), channels, channels // 2), channels // 2
    return g.model("unet", g.conv(x, channels, classes, 1), [3, 224, 224], [classes, 224, 224])


def block(g: Writer, x: str, width: int, heads: int, tokens: int, first: bool) -> str:
    """A transformer block on (N,tokens,width); first: norms before attention and MLP (ViT), not after (BERT)."""
    split, join = g.constant([0, tokens, heads, width // heads], np.int64), g.constant([0, tokens, width], np.int64)
    scale, half, one, root = (g.constant(v) for v in ((width // heads) ** -0.5, 0.5, 1, 2**0.5))
    h = g.layer_norm(x, width) if first else x
    q, k, v = (g("Reshape", g.linear(h, width, width), split) for _ in range(3))
    q, v = (g("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 2, 3, 1])), scale)
    mixed = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    x = g("Add", g.linear(g("Reshape", mixed, join), width, width), x)
    x = x if first else g.layer_norm(x, width)
    h = g.linear(g.layer_norm(x, width) if first else x, width, 4 * width)
    h = g("Mul", g("Mul", h, g("Add", g("Erf", g("Div", h, root)), one)), half)
    x = g("Add", g.linear(h, 4 * width, width), x)
    return x if first else g.layer_norm(x, width)


def vit_b(layers: int = 12, width: int = 768, heads: int = 12, classes: int = 1000) -> onnx.ModelProto:
    """Dosovitskiy et al. 2020, ViT-B/16: 196 patches and a class token."""
    g = Writer()
    x = g.conv("x", 3, width, 16, 16)
    x = g("Transpose", g("Reshape", x, g.constant([0, width, 196], np.int64)), perm=[0, 2, 1])
    token = g("Add", g("ReduceSum", x, g.constant([1], np.int64), keepdims=1), g.normal(1, 1, width, scale=0.1))
    x = g("Add", g("Concat", token, x, axis=1), g.normal(197, width, scale=0.1))
    for _ in range(layers):
        x = block(g, x, width, heads, 197, first=True)
    y = g("Gather", g.layer_norm(x, width), g.constant(0, np.int64), axis=1)
    return g.model("vit_b", g.dense(y, width, classes, 1.0), [3, 224, 224], [classes])


def bert_base(layers: int = 12, width: int = 768, heads: int = 12, tokens: int = 128, words: int = 30522) -> onnx.ModelProto:
    """Devlin et al. 2018: token ids x (N,128) to two classes."""
    g = Writer()
    table = g("Gather", g.normal(words, width, scale=0.5), "x")
    x = g.layer_norm(g("Add", table, g.normal(tokens, width, scale=0.5)), width)
    for _ in range(layers):
        x = block(g, x, width, heads, tokens, first=False)
    y = g("Gather", x, g.constant(0, np.int64), axis=1)
    return g.model("bert_base", g.dense(y, width, 2, 1.0), [tokens], [2], TensorProto.INT64)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__: make for make in (mlp, vgg16, resnet50, mobilenet_v2, densenet121, unet, vit_b, bert_base)
}


def sample(model: onnx.ModelProto, batch: int, seed: int = 1) -> np.ndarray:
    """A random batch for the model's input."""
    rng = np.random.default_rng(seed)
    tensor = model.graph.input[0].type.tensor_type
    sizes = [batch, *(d.dim_value for d in tensor.shape.dim[1:])]
    if tensor.elem_type == TensorProto.INT64:
        return rng.integers(0, 30522, sizes)
    return rng.standard_normal(sizes, np.float32)
