"""Convolution peepholes: the form of an adjoint that the runtime computes fastest. x (N,C,*S), w (M,C/group,*k)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .scope import Scope, fold_shape, source

__all__ = ["box_filter", "flip", "join", "split_forward", "symmetric"]

# A stride-1 adjoint as a Conv uses the runtime's blocked layout: 1.2 to 2.4 times as fast where it has output channels
# to block, slower where it has few (3 channels: 0.6 times).
WIDE = 16
BACK = int(np.iinfo(np.int32).min)  # the end of a Slice that goes backwards to the first element


def flip(node: gs.Node, g: Scope) -> None:
    """ConvTranspose(s, w), stride 1  =  Conv(s, w with channels swapped and taps reversed), pads := extent - 1 - pads.

    Depthwise, also strided: zeros are put between the elements of s first.
    """
    w, shape = node.inputs[1], fold_shape(node.inputs[1])
    if shape is None or "output_shape" in node.attrs:
        return
    attrs = settings(node, len(shape) - 2)
    group, steps = attrs["group"], attrs["strides"]
    depthwise = group == shape[0] and shape[1] == 1 and group > 1
    strided = any(s != 1 for s in steps)
    if not depthwise and (group != 1 or shape[1] < WIDE or strided):
        return
    kernel, pads, n = shape[2:], attrs["pads"], len(shape) - 2
    extents = [(k - 1) * d for k, d in zip(kernel, attrs["dilations"], strict=True)]
    more = [p - (s - 1) for p, s in zip(attrs["output_padding"], steps, strict=True)]
    mirrored = [*(e - p for e, p in zip(extents, pads[:n], strict=True)),
                *(e - p + m for e, p, m in zip(extents, pads[n:], more, strict=True))]  # fmt: skip
    s = spread_out(node, steps, g) if strided else node.inputs[0]
    if s is None or min(mirrored) < 0:
        return
    if any(k > 1 for k in kernel):
        back, axes = g.constant([-1] * n), g.constant(range(2, n + 2))
        w = g.make(node, "reversed", "Slice", w, back, g.constant([BACK] * n), axes, back)
    if not depthwise:
        w = g.make(node, "swapped", "Transpose", w, perm=[1, 0, *range(2, n + 2)])
    form = {"kernel_shape": list(kernel), "strides": [1] * n, "dilations": list(attrs["dilations"]), "group": group}
    g.become(node, "Conv", [s, w, *node.inputs[2:]], **form, pads=mirrored)


def spread_out(node: gs.Node, steps: list[int], g: Scope) -> gs.Variable | None:
    """s with step - 1 zeros behind every element; None where its sizes are not known."""
    shape, n = g.shape(node.inputs[0]), len(steps)
    if shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    sizes = [int(d) * step for d, step in zip(shape[2:], steps, strict=True) if isinstance(d, int)]
    mask = np.zeros(sizes, np.float32)
    mask[tuple(slice(None, None, step) for step in steps)] = 1
    scales = g.constant([1.0, 1.0, *steps], np.float32)
    wide = g.make(node, "repeated", "Resize", node.inputs[0], gs.Variable.empty(), scales, mode="nearest",
                  coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    return g.make(
        node, "spread", "Mul", wide, g.constant(mask.reshape(1, 1, *sizes), np.float32), shape=(*shape[:2], *sizes[:n])
    )


def settings(node: gs.Node, n: int) -> dict[str, Any]:
    """Group, strides, dilations, pads and output_padding of a convolution over n axes, those that are left out too."""
    known = {"group": 1, "strides": [1] * n, "dilations": [1] * n, "pads": [0] * 2 * n, "output_padding": [0] * n}
    return known | {k: v for k, v in node.attrs.items() if k in known}


def box_filter(node: gs.Node, g: Scope) -> None:
    """Aᵀ(s; 1): every input channel gets the sum over the output channels, spread by one kernel of ones."""
    ones = source(node.inputs[1], "Expand")
    shape, out = g.shape(node.inputs[1]), g.shape(node.outputs[0])
    if ones is None or not _is_one(ones.inputs[0]) or shape is None or node.attrs.get("group", 1) != 1 or out is None:
        return
    if not all(isinstance(d, int) for d in shape) or math.prod(int(d) for d in shape[:2] if isinstance(d, int)) == 1:
        return
    total = g.make(node, "channels", "ReduceSum", node.inputs[0], g.constant([1]), keepdims=1)
    kernel = g.constant(np.ones((1, 1, *(int(d) for d in shape[2:] if isinstance(d, int)))), np.float32)
    box = g.make(node, "box", "ConvTranspose", total, kernel, **node.attrs)
    g.become(node, "Expand", [box, g.constant([1, shape[1], *[1] * (len(shape) - 2)])])


def _is_one(t: gs.Tensor) -> bool:
    return isinstance(t, gs.Constant) and math.prod(t.shape) == 1 and float(np.asarray(t.values).ravel()[0]) == 1


def join(node: gs.Node, g: Scope) -> None:
    """Conv(x₁, w₁, b) + Conv(x₂, w₂)  =  Conv([x₁; x₂], [w₁; w₂], b): the sum stays in the kernel's registers."""
    first, second = (source(t, "Conv") if g.only(t) else None for t in node.inputs)
    if first is None or second is None or first.attrs != second.attrs or first.attrs.get("group", 1) != 1:
        return
    biases = [b for b in map(bias_of, (first, second)) if b is not None]
    if len(biases) > 1 or any(fold_shape(conv.inputs[1]) is None for conv in (first, second)):
        return
    x, w = (
        g.make(node, role, "Concat", first.inputs[i], second.inputs[i], axis=1) for i, role in enumerate(("inputs", "weights"))
    )
    g.become(node, "Conv", [x, w, *biases], **first.attrs)


def symmetric(node: gs.Node, g: Scope) -> None:
    """Unequal pads before and after: zeros are added to x, or cut from the adjoint, by an operator of their own.

    CUDA's convolutions take equal pads alone; with others the runtime copies everything to the CPU and back.
    """
    pads, n = node.attrs.get("pads", []), len(node.attrs.get("pads", [])) // 2
    before, after = pads[:n], pads[n:]
    if before == after:
        return
    axes = g.constant(range(2, n + 2))
    if node.op == "Conv":
        x = g.make(node, "padded", "Pad", node.inputs[0], g.constant(pads), g.constant(0.0, np.float32), axes, mode="constant")
        g.become(node, "Conv", [x, *node.inputs[1:]], **{**node.attrs, "pads": [0] * 2 * n})
        return
    full = g.make(node, "full", "ConvTranspose", *node.inputs, **{**node.attrs, "pads": [0] * 2 * n})
    ends = [-p if p else np.iinfo(np.int64).max for p in after]
    g.become(node, "Slice", [full, g.constant(before), g.constant(ends), axes])


def split_forward(node: gs.Node, g: Scope) -> None:
    """Conv(x, w, b)  =  Conv(x, w⁺, b⁺) + Conv(x, w⁻, b⁻), where a rule computes both: the third one is saved.

    No denominator comes from the sum, which is the layer's output, off by what rounding its larger part costs.
    """
    low = source(node.inputs[1], "Min")
    if low is None:
        return
    for own in g.users(node.inputs[0]):
        if own.name.startswith("lrp/") or not alike(own, node) or own.inputs[1] is not low.inputs[0]:
            continue
        for high in g.users(node.inputs[0]):
            up = source(high.inputs[1], "Relu") if high is not own and alike(high, node) else None
            if up is not None and up.inputs[0] is low.inputs[0] and halves(bias_of(own), bias_of(high), bias_of(node)):
                g.become(own, "Add", [high.outputs[0], node.outputs[0]])
                return


def alike(a: gs.Node, b: gs.Node) -> bool:
    """Whether two nodes are convolutions of one geometry."""
    return a.op == b.op == "Conv" and settings(a, 0) == settings(b, 0) and len(a.inputs) > 1 and len(b.inputs) > 1


def halves(b: gs.Tensor | None, up: gs.Tensor | None, low: gs.Tensor | None) -> bool:
    """Whether up = b⁺ and low = b⁻; also where there is no bias at all."""
    if b is None or up is None or low is None:
        return b is up is low
    if isinstance(up, gs.Constant) and isinstance(low, gs.Constant) and isinstance(b, gs.Constant):  # short ones are folded
        return np.array_equal(up.values, np.maximum(b.values, 0)) and np.array_equal(low.values, np.minimum(b.values, 0))
    made = [source(up, "Relu"), source(low, "Min")]
    return all(m is not None and m.inputs[0] is b for m in made)


def bias_of(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
