"""Forward-preserving rewrites: the same outputs (up to rounding) in fewer spellings. One function per rewrite.

What only needs another *reading* (GELU spelled out, MatMul + bias) is grouped in groups.py and not rewritten.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .constants import Maker, constants_of, finish, fold_constants, only_user, producer, widen
from .control import unroll
from .errors import UnsupportedOp
from .expansions import expand
from .folds import fold_back, fold_forward, merge_affine
from .graph import Source
from .quantization import float_products, grids, refuse_other_codes, write_out_quantization
from .transposes import cancel_transposes

__all__ = ["normalize"]

WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")


def normalize(source: Source, keep: Collection[str] = (), canonize: bool = True) -> None:
    """Apply the rewrites, in place. keep: tensors that the caller wants to see, which no fold may remove.

    canonize=False leaves out what changes the layers (folds); what the readings rely on is always done.
    """
    graph = source.graph
    unroll(source)
    if any(n.op == "DynamicQuantizeLSTM" for n in graph.nodes):
        source.notes.append("DynamicQuantizeLSTM is computed as an LSTM: outputs differ by what rounding its states changes")
    while expand(graph):  # types and shapes behind what was written out may be what the next one waits for
        finish(source)
    widen(source)
    kept, known = {*keep, *(o.name for o in graph.outputs)}, grids(graph)
    fold_constants(source)
    if float_products(graph, kept):
        known |= grids(graph)
        finish(source)
        fold_constants(source)
    folds = (fold_back, cancel_transposes, merge_pad, merge_affine, fold_forward) if canonize else ()
    for rewrite in (simplify_gemm, resolve_auto_pad, *folds, partial(write_out_quantization, known=known), refuse_other_codes):
        rewrite(graph, kept)
        finish(source)


def simplify_gemm(graph: gs.Graph, kept: Collection[str]) -> None:
    """alpha and beta into the constants; a Gemm whose weight is not constant, or A transposed, becomes MatMul and Add."""
    fixed = constants_of(graph)
    for node in [n for n in graph.nodes if n.op == "Gemm"]:
        make = Maker(graph, f"{node.name}/gemm")
        a, b = node.inputs[0], node.inputs[1]
        c = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        alpha, beta = (node.attrs.pop(k, 1.0) for k in ("alpha", "beta"))
        simple = not node.attrs.get("transA", 0) and b.name in fixed and (c is None or c.name in fixed)
        if c is not None and beta != 1:
            c = make.op("Mul", c, make.constant(np.float32(beta)))
        if simple:
            if alpha != 1:
                b = make.op("Mul", b, make.constant(np.float32(alpha)))
            node.attrs.pop("transA", None)
            node.inputs = [a, b] if c is None else [a, b, c]
            continue
        if node.attrs.pop("transA", 0):
            a = make.op("Transpose", a, perm=[1, 0])
        if node.attrs.pop("transB", 0):
            b = make.op("Transpose", b, perm=[1, 0])
        if alpha != 1:
            b = make.op("Mul", b, make.constant(np.float32(alpha)))
        node.attrs.clear()
        node.op = "MatMul"
        node.inputs = [a, b]
        if c is not None:
            out, inner = node.outputs[0], gs.Variable(f"{node.name}/product", node.outputs[0].dtype, node.outputs[0].shape)
            node.outputs[0] = inner
            graph.nodes.append(gs.Node("Add", f"{node.name}/bias", {}, [inner, c], [out]))


def resolve_auto_pad(graph: gs.Graph, kept: Collection[str]) -> None:
    """auto_pad and output_shape become pads; where the size is only known at run time, a Pad node before a Conv."""
    for node in [n for n in graph.nodes if n.op in WINDOWED]:
        mode = node.attrs.pop("auto_pad", "NOTSET")
        wanted = node.attrs.pop("output_shape", None)
        if mode in ("NOTSET", "") and wanted is None:
            continue
        x = node.inputs[0]
        kernel = node.attrs.get("kernel_shape") or [int(d) for d in node.inputs[1].shape[2:]]
        n = len(kernel)
        strides, gaps = node.attrs.get("strides", [1] * n), node.attrs.get("dilations", [1] * n)
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
        sizes: list[Any] = list(x.shape[2:]) if x.shape is not None else [None] * n
        if mode == "VALID":
            node.attrs["pads"] = [0] * 2 * n
            continue
        if node.op == "ConvTranspose":
            _pads_of_transpose(node, mode, wanted, sizes, strides, extent)
        elif all(isinstance(d, int) for d in sizes):
            total = [max((-(-d // s) - 1) * s + k - d, 0) for d, s, k in zip(sizes, strides, extent, strict=True)]
            node.attrs["pads"] = _halves(total, mode)
        elif all(s == 1 for s in strides):
            node.attrs["pads"] = _halves([k - 1 for k in extent], mode)
        elif node.op == "Conv":
            _pad_at_run_time(graph, node, mode, strides, extent)
        else:
            raise UnsupportedOp(
                f"node '{node.name}' ({node.op}): auto_pad={mode} with strides over axes of unknown size; "
                f"fix them with input_shapes={{...}}"
            )


def _halves(total: list[int], mode: str) -> list[int]:
    """Split paddings into begin and end; SAME_UPPER puts the odd one at the end."""
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if mode != "SAME_LOWER" else large + small


def _pads_of_transpose(node: gs.Node, mode: str, wanted: Any, sizes: list[Any], strides: list[int], extent: list[int]) -> None:
    more = node.attrs.get("output_padding", [0] * len(extent))
    if wanted is None:
        total = [k - s + o for k, s, o in zip(extent, strides, more, strict=True)]  # out = in * stride
    elif all(isinstance(d, int) for d in sizes):
        wanted = wanted[-len(extent) :]
        total = [s * (d - 1) + o + k - w for s, d, o, k, w in zip(strides, sizes, more, extent, wanted, strict=True)]
    else:
        raise UnsupportedOp(f"node '{node.name}' (ConvTranspose): output_shape over axes of unknown size; use input_shapes=")
    if any(t < 0 for t in total):
        if wanted is not None:
            node.attrs["output_padding"] = [o + max(-t, 0) for o, t in zip(more, total, strict=True)]
        total = [max(t, 0) for t in total]
    node.attrs["pads"] = _halves(total, "SAME_UPPER" if mode == "SAME_UPPER" else "SAME_LOWER")


def _pad_at_run_time(graph: gs.Graph, node: gs.Node, mode: str, strides: list[int], extent: list[int]) -> None:
    make, n, x = Maker(graph, f"{node.name}/auto_pad"), len(strides), node.inputs[0]

    def ints(values: list[int]) -> gs.Constant:
        return make.constant(np.asarray(values, np.int64))

    def node_of(op: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Tensor:
        out = gs.Variable(make.name(op), np.int64)
        graph.nodes.append(gs.Node(op, out.name, attrs, list(inputs), [out]))
        return out

    size = node_of("Shape", x, start=2)
    steps = node_of("Div", node_of("Sub", size, ints([1] * n)), ints(strides))  # ceil(in / stride) - 1
    need = node_of("Sub", node_of("Add", node_of("Mul", steps, ints(strides)), ints(extent)), size)
    total = node_of("Max", need, ints([0] * n))
    small = node_of("Div", total, ints([2] * n))
    large = node_of("Sub", total, small)
    halves = [large, small] if mode == "SAME_LOWER" else [small, large]
    pads = node_of("Concat", ints([0, 0]), halves[0], ints([0, 0]), halves[1], axis=0)
    padded = gs.Variable(f"{node.name}/padded", x.dtype, [*x.shape[:2], *[None] * n] if x.shape is not None else None)
    graph.nodes.append(gs.Node("Pad", padded.name, {"mode": "constant"}, [x, pads], [padded]))
    node.inputs[0] = padded
    node.attrs["pads"] = [0] * 2 * n


def merge_pad(graph: gs.Graph, kept: Collection[str]) -> None:
    """A zero Pad of spatial axes directly before a Conv, or before the Transpose to channels-first, becomes its padding."""
    for node in [n for n in graph.nodes if n.op == "Conv"]:
        x = node.inputs[0]
        turn = producer(x) if only_user(x, kept) is node else None
        turn = turn if turn is not None and turn.op == "Transpose" and "perm" in turn.attrs else None
        reader, t = (node, x) if turn is None else (turn, turn.inputs[0])
        pad = producer(t)
        if pad is None or pad.op != "Pad" or only_user(t, kept) is not reader or t.shape is None:
            continue
        given = [c for c in pad.inputs[1:] if c.name]
        if pad.attrs.get("mode", "constant") != "constant" or not all(isinstance(c, gs.Constant) for c in given):
            continue
        if len(pad.inputs) > 2 and pad.inputs[2].name and np.any(pad.inputs[2].values):
            continue
        rank, pads = len(t.shape), [int(p) for p in pad.inputs[1].values]
        axes = [int(a) % rank for a in pad.inputs[3].values] if len(pad.inputs) > 3 and pad.inputs[3].name else range(rank)
        full = np.zeros((2, rank), int)
        full[:, list(axes)] = np.reshape(pads, (2, -1))
        if turn is not None:
            full = full[:, turn.attrs["perm"]]
        if full[:, :2].any() or (full < 0).any():
            continue
        border = full[:, 2:].ravel().tolist()
        own = node.attrs.get("pads", [0] * len(border))
        node.attrs["pads"] = [a + b for a, b in zip(own, border, strict=True)]
        reader.inputs[0] = pad.inputs[0]
        if turn is not None:
            x.shape = None
