"""Conv and ConvTranspose, any rank: x (N,C,*S), w (M,C/group,*k), b (M), y (N,M,*O). Padding is explicit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..emit import Emit
from ..linear import Kind, LinearMap, Reading
from ..tensor import Dim, Tensor
from .registry import View, op


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window: kernel, strides, dilations, pads before and after, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, v: View, kernel: Sequence[int]) -> Window:
        n = len(kernel)
        pads = v.attr("pads", [0] * 2 * n)
        steps, gaps = v.attr("strides", [1] * n), v.attr("dilations", [1] * n)
        return cls(tuple(kernel), tuple(steps), tuple(gaps), tuple(pads[:n]), tuple(pads[n:]))

    @property
    def extent(self) -> list[int]:
        """Input positions that a window spans."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def attrs(self, pads: bool = True) -> dict[str, Any]:
        shape = {"kernel_shape": list(self.kernel), "strides": list(self.strides), "dilations": list(self.dilations)}
        return {**shape, "pads": [*self.begin, *self.end]} if pads else shape


def spread(e: Emit, s: Tensor, w: Tensor, window: Window, like: Tensor, group: int, channels: Dim) -> Tensor:
    """Adjoint of a strided window sum: s (N,M,*O) back to the layout of `like` (N,C,*S) through w (M,C/group,*k)."""
    assert like.shape is not None
    spatial, rank = like.shape[2:], len(window.kernel)
    outs = s.shape[2:] if s.shape is not None else (None,) * rank
    shape = (s.shape[0] if s.shape else None, channels, *spatial)
    step1 = all(step == 1 for step in window.strides)
    known = all(isinstance(d, int) for d in (*spatial, *outs))
    if step1 or known:
        more: dict[str, Any] = {}
        if not step1:  # rows that the forward pass left over at the end, or (ceil_mode) went beyond
            sizes = zip(spatial, window.begin, window.end, outs, window.strides, window.extent, strict=True)
            left = [int(i) + b + a - ((int(o) - 1) * step + ext) for i, b, a, o, step, ext in sizes]
            window = replace(window, end=tuple(a + max(-n, 0) for a, n in zip(window.end, left, strict=True)))
            more = {"output_padding": [max(n, 0) for n in left]} if any(n > 0 for n in left) else {}
        return e.op("ConvTranspose", s, w, shape=shape, group=group, **window.attrs(), **more)
    full = e.op("ConvTranspose", s, w, shape=(*shape[:2], *[None] * rank), group=group, **window.attrs(pads=False))
    full = e.pad(full, [0] * (rank + 2), [0, 0, *[step - 1 for step in window.strides]])
    starts = e.ints(*window.begin)
    ends = e.op("Add", starts, e.dims(like, range(2, rank + 2)), shape=(rank,), dtype=np.int64)
    return e.op("Slice", full, starts, ends, e.ints(*range(2, rank + 2)), shape=shape)


def channelwise(b: Tensor, rank: int) -> Tensor:
    """(M) -> (M,1,…,1): broadcasts against (N,M,*S)."""
    return b.emit.reshape(b, -1, *[1] * (rank - 2), shape=(b.shape[0] if b.shape else None, *[1] * (rank - 2)))


@op("Conv", Kind.WEIGHTED, "Convolution", "Linear")
def conv(v: View) -> Reading:
    """y = Conv(x, w) + b; adjoint: ConvTranspose with the same weight, pads, strides, dilations and group."""
    x, w, b = v.need(0), v.need(1), v.opt(2)
    e, y, group = v.e, v.y, int(v.attr("group", 1))
    assert x.shape is not None
    window = Window.of(v, kernel_of(w, v))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        shape = (xs[0].shape[0], *y.shape[1:]) if xs[0].shape and y.shape else y.shape
        return e.op("Conv", xs[0], w, None if b.is_zero else b, shape=shape, **v.node.attrs)

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        return [spread(e, s, w, window, x, group, x.shape[1] if x.shape else None)]

    return v.linear(Kind.WEIGHTED, LinearMap((x,), w, b, y, apply, adjoint, lambda b: channelwise(b, x.rank)))


def kernel_of(w: Tensor, v: View) -> list[int]:
    """Kernel size from the attribute or the weight."""
    if "kernel_shape" in v.node.attrs:
        return list(v.node.attrs["kernel_shape"])
    assert w.shape is not None
    return [int(d) for d in w.shape[2:] if isinstance(d, int)]


@op("ConvTranspose", Kind.WEIGHTED, "Convolution", "Linear")
def conv_transpose(v: View) -> Reading:
    """y = ConvTranspose(x, w (C,M/group,*k)) + b; adjoint: Conv with the same weight."""
    x, w, b = v.need(0), v.need(1), v.opt(2)
    e, y, group = v.e, v.y, int(v.attr("group", 1))
    window = Window.of(v, kernel_of(w, v))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        shape = (xs[0].shape[0], *y.shape[1:]) if xs[0].shape and y.shape else y.shape
        return e.op("ConvTranspose", xs[0], w, None if b.is_zero else b, shape=shape, **v.node.attrs)

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        # output_padding appends outputs that a Conv of stride > 1 passes over, so it needs no counterpart
        return [e.op("Conv", s, w, shape=x.shape, group=group, **window.attrs())]

    return v.linear(Kind.WEIGHTED, LinearMap((x,), w, b, y, apply, adjoint, lambda b: channelwise(b, x.rank)))
