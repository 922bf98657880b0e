"""A torch twin of an ONNX model, made of the modules that zennit and captum know, each with weights of its own.

Modules are registered in the order of the graph, so that zennit finds each BatchNorm behind its convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

__all__ = ["Cat", "Twin", "freeze"]


@dataclass
class Step:
    """A node, or several that torch has one module for."""

    op: str
    inputs: list[str]
    output: str
    attrs: dict[str, Any]


class Cat(nn.Module):
    """Concatenation as a module: what stands between a convolution and the BatchNorm of something wider."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.dim)


def filled(module: nn.Module, **values: Tensor | None) -> nn.Module:
    """The module with these weights."""
    for name, value in values.items():
        if value is not None:
            own = isinstance(getattr(module, name), nn.Parameter)
            setattr(module, name, nn.Parameter(value, requires_grad=False) if own else value)
    return module


def conv(a: dict[str, Any], w: Tensor, b: Tensor | None = None) -> nn.Module:
    pads = a.get("pads", [0] * 4)
    assert pads[:2] == pads[2:], "torch pads alike on both sides"
    group, size = a.get("group", 1), a["kernel_shape"]
    made = nn.Conv2d(w.shape[1] * group, len(w), size, a["strides"], pads[:2], 1, group, b is not None, device="meta")
    return filled(made, weight=w, bias=b)


def conv_transpose(a: dict[str, Any], w: Tensor, b: Tensor | None = None) -> nn.Module:
    made = nn.ConvTranspose2d(*w.shape[:2], a["kernel_shape"], a["strides"], bias=b is not None, device="meta")
    return filled(made, weight=w, bias=b)


def linear(w: Tensor, b: Tensor | None) -> nn.Module:
    return filled(nn.Linear(w.shape[1], len(w), b is not None, device="meta"), weight=w, bias=b)


def batch_norm(a: dict[str, Any], scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> nn.Module:
    """ε within the variance: zennit's merged BatchNorm has variance 1 and would still divide by sqrt(1 + ε)."""
    variance = var + a.get("epsilon", 1e-5)
    return filled(nn.BatchNorm2d(len(scale), eps=0.0), weight=scale, bias=shift, running_mean=mean, running_var=variance)


def layer_norm(a: dict[str, Any], scale: Tensor, shift: Tensor) -> nn.Module:
    return filled(nn.LayerNorm(len(scale), eps=a.get("epsilon", 1e-5)), weight=scale, bias=shift)


def max_pool(a: dict[str, Any]) -> nn.Module:
    return nn.MaxPool2d(a["kernel_shape"], a["strides"], a["pads"][:2])


# attributes and constant operands to a module
MODULES: dict[str, Callable[..., nn.Module]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": lambda a, w, b=None: linear(w if a.get("transB") else w.T.contiguous(), b),
    "Linear": lambda a, w, b: linear(w.T.contiguous(), b),
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "MaxPool": max_pool,
    "AveragePool": lambda a: nn.AvgPool2d(a["kernel_shape"], a["strides"], a["pads"][:2]),
    "GlobalAveragePool": lambda a: nn.AdaptiveAvgPool2d(1),
    "Relu": lambda a: nn.ReLU(),
    "Clip": lambda a, low, high: nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(float(low), float(high)),
    "Gelu": lambda a: nn.GELU(),
    "Concat": lambda a: Cat(a["axis"]),
}
# attributes and operands to a tensor
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "MatMul": lambda a, x, y: x @ y,
    "Flatten": lambda a, x: x.flatten(1),
    "Reshape": lambda a, x, to: x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(to.tolist())]),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Softmax": lambda a, x: x.softmax(a["axis"]),
    "Gather": lambda a, x, i: x.select(a["axis"], int(i)),
    "ReduceSum": lambda a, x, axes: x.sum(axes.tolist(), keepdim=bool(a.get("keepdims", 1))),
}


def read(model: onnx.ModelProto) -> list[Step]:
    """The nodes, with MatMul and bias as one Linear and the five nodes of x Φ(x) as one Gelu."""
    constant = {t.name for t in model.graph.initializer}
    steps = [
        Step(n.op_type, list(n.input), n.output[0], {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute})
        for n in model.graph.node
    ]
    made = {s.output: s for s in steps}
    users: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            users.setdefault(name, []).append(step)
    gone: list[Step] = []
    for step in steps:
        last = users.get(step.output, [step])[0]
        if step.op == "MatMul" and step.inputs[1] in constant and last.op == "Add" and constant & set(last.inputs):
            bias = next(name for name in last.inputs if name in constant)
            last.op, last.inputs = "Linear", [*step.inputs, bias]
            gone.append(step)
        elif step.op == "Erf":
            scaled = made[step.inputs[0]]
            mixed = users[last.output][0]
            half = users[mixed.output][0]
            assert [scaled.op, last.op, mixed.op, half.op] == ["Div", "Add", "Mul", "Mul"]
            half.op, half.inputs = "Gelu", scaled.inputs[:1]
            gone += [scaled, step, last, mixed]
    lost = {id(s) for s in gone}
    return [s for s in steps if id(s) not in lost]


class Twin(nn.Module):
    """The model from tensor `start` (an input, or an embedding) to its output. add: makes the module of x + y."""

    def __init__(self, model: onnx.ModelProto, start: str, add: Callable[[], nn.Module]) -> None:
        super().__init__()
        weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        steps = [s for s in read(model) if s.output != start]
        self.start, self.end = start, model.graph.output[0].name
        self.constants: dict[str, Tensor] = {}
        self.steps: list[tuple[str, str, dict[str, Any], list[str], str, list[str]]] = []
        last = {name: i for i, s in enumerate(steps) for name in s.inputs if name not in weights}
        for i, step in enumerate(steps):
            active = [name for name in step.inputs if name not in weights]
            key, inputs = "", step.inputs
            if step.op == "Add" and len(active) == 2:
                key = self.register(i, step.op, add())
            elif step.op in MODULES:
                own = [torch.tensor(weights[name]) for name in step.inputs if name in weights]
                key, inputs = self.register(i, step.op, MODULES[step.op](step.attrs, *own)), active
            else:
                self.constants |= {name: torch.tensor(weights[name]) for name in inputs if name in weights}
            done = [name for name in dict.fromkeys(active) if last[name] == i]
            self.steps.append((key, step.op, step.attrs, inputs, step.output, done))
        self.eval()
        freeze(self)

    def register(self, index: int, op: str, module: nn.Module) -> str:
        key = f"{op.lower()}{index}"
        self.add_module(key, module)
        return key

    def forward(self, x: Tensor) -> Tensor:
        values = {**self.constants, self.start: x}
        for key, op, attrs, inputs, output, done in self.steps:
            arguments = [values[name] for name in inputs]
            values[output] = self._modules[key](*arguments) if key else FUNCTIONS[op](attrs, *arguments)
            del arguments
            for name in done:  # as a variable that is assigned anew would be
                del values[name]
        return values[self.end]


def freeze(module: nn.Module) -> nn.Module:
    """Without gradients of the weights, which no relevance needs."""
    for p in module.parameters():
        p.requires_grad = False
    return module


def entry(model: onnx.ModelProto, start: str, x: np.ndarray) -> np.ndarray:
    """What the twin reads: x, or its embedding where relevance ends there."""
    node = next((n for n in model.graph.node if n.output[0] == start), None)
    if node is None:
        return x
    assert node.op_type == "Gather", f"{start} is no embedding"
    table = next(t for t in model.graph.initializer if t.name == node.input[0])
    return np.ascontiguousarray(onnx.numpy_helper.to_array(table)[x])


def one_hot_logit(y: np.ndarray) -> np.ndarray:
    """The initial relevance of a compiled graph: the largest value along the class axis 1, zero elsewhere."""
    best = np.expand_dims(y.argmax(1), 1)
    out = np.zeros_like(y)
    np.put_along_axis(out, best, np.take_along_axis(y, best, 1), 1)
    return out


def near(y: np.ndarray, reference: np.ndarray) -> float:
    """max |y − reference| ÷ max |reference|, infinite where the shapes differ."""
    return float(np.abs(y - reference).max() / np.abs(reference).max()) if y.shape == reference.shape else math.inf
