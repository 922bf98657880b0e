"""Fourier transforms: linear. A complex number is a last axis of two, a real one a last axis of one."""

from __future__ import annotations

import math

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, where
from .registry import View, op
from .sample import f, real

LARGE = 2048  # longest transform whose adjoint is a table of cosines; twice that where the runtime's own is less exact


def _refuse(v: View) -> str | None:
    """A one-sided spectrum must be half of the whole: the runtime mixes the bins of any other."""
    x, length = v.x(0), v.x(1)
    if not (v.attr("inverse") and v.attr("onesided")) or length is None or x is None or x.shape is None:
        return None
    bins = x.shape[int(v.attr("axis", 1))]
    if length.value is None or not isinstance(bins, int):
        return "whether its spectrum is half as long as its dft_length is only known at run time"
    half = int(length.value.ravel()[0]) // 2 + 1
    return None if bins == half else f"its spectrum has {bins} bins, dft_length {length.value.ravel()[0]} needs {half}"


@op("DFT", Kind.LINEAR, refuse=_refuse)
def dft(v: View) -> Reading:
    """y_k = Σ_n x_n exp(∓2πi nk/L), divided by L when inverse; adjoint: the transposed sums of real and imaginary parts."""
    e, x, y = v.e, v.need(0), v.y
    axis = int(v.attr("axis", 1)) % x.rank
    inverse, onesided = bool(v.attr("inverse")), bool(v.attr("onesided"))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.op("DFT", e.expand_like(xs[0], x), v.x(1), shape=y.shape, **v.node.attrs) + b

    def back(s: Tensor) -> Tensor:
        length = v.x(1)
        if length is None:  # one-sided spectra are of another length than the signal
            length = e.dim(x if onesided and not inverse else y, axis)
        return _adjoint(s, x, axis, length, inverse, onesided)

    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [back(w * s)]))


def _adjoint(s: Tensor, x: Tensor, axis: int, length: Tensor, inverse: bool, onesided: bool) -> Tensor:
    """x̄ with <DFT(x), s> = <x, x̄>. length: L, to which x was cut or padded along the axis."""
    e = s.emit
    assert s.shape is not None
    assert x.shape is not None
    size = int(length.value.ravel()[0]) if length.value is not None else 0
    length = e.ints(size) if size else e.reshape(e.cast(length, np.int64), 1)
    exact = size > 0 and math.log2(size).is_integer()  # the runtime errs by 1e-6 for powers of 2, by 1e-3 for other lengths
    if size > (LARGE if exact else 2 * LARGE) and x.shape[axis] == size and not (inverse and onesided):
        # Fᴴ s = L F⁻¹ s, with zeros where a one-sided spectrum ends
        full = e.op("DFT", s, e.array(size, np.int64), shape=s.shape, axis=axis, inverse=int(not inverse))
        scaled = full * (1 / size if inverse else float(size))
        return e.op("Slice", scaled, e.ints(0), e.dim(x, -1), e.ints(-1), shape=x.shape)
    others = [a for a in range(s.rank - 1) if a != axis]
    order = [*others, axis, s.rank - 1]
    rest = tuple(s.shape[a] for a in others)
    flat = e.reshape_to(e.transpose(s, order), e.concat([*(e.dim(s, a) for a in others), e.ints(-1)]), (*rest, None))
    table = _table(e.dim(s, axis), e.dim(s, -1), length, e.dim(x, axis), e.dim(x, -1), inverse, onesided)
    out = e.op("MatMul", flat, table, shape=(*rest, None))
    moved = e.reshape_to(out, e.concat([e.dim(x, a) for a in order]), tuple(x.shape[a] for a in order))
    return e.transpose(moved, np.argsort(order).tolist())


def _table(bins: Tensor, made: Tensor, length: Tensor, points: Tensor, parts: Tensor, inverse: bool, onesided: bool) -> Tensor:
    """The transform as a real matrix, transposed: (bins · made, points · parts), made and parts 1 (real) or 2 (complex)."""
    e = bins.emit
    out, into = e.reshape(e.arange(bins), -1, 1), e.arange(points)
    turns = real(f("Mod", out * into, length)) / real(length)
    side = turns - f("Round", turns)
    off = abs(side)  # in this form both are exactly 0 where they should be: a denominator may be the sum of such terms
    cosine = f("Sin", (0.25 - off) * (2 * math.pi))
    sine = f("Sign", side) * f("Sin", f("Min", off, 0.5 - off) * (2 * math.pi))
    used = into < length
    scale = 1.0 / real(length) if inverse else e.one
    if inverse and onesided:  # the half that was left out is the mirror image of the bins between 0 and L/2
        twice = 2 * into
        used = twice <= length
        single = e.elementwise("Or", e.elementwise("Equal", into, e.array(0, np.int64), dtype=bool),
                               e.elementwise("Equal", twice, length, dtype=bool), dtype=bool)  # fmt: skip
        scale = scale * where(single, 1.0, 2.0)
    scale = where(used, scale, 0.0)
    cosine, sine = cosine * scale, (sine if inverse else -sine) * scale
    rows = [e.op("Concat", *(e.op("Unsqueeze", t, e.ints(1, 3), shape=(None, 1, None, 1)) for t in pair),
                 shape=(None, 1, None, 2), axis=3) for pair in ((cosine, -sine), (sine, cosine))]  # fmt: skip
    whole = e.op("Concat", *rows, shape=(None, 2, None, 2), axis=1)
    cut = e.op("Slice", whole, e.ints(0, 0), e.concat([made, parts]), e.ints(1, 3), shape=(None,) * 4)
    return e.reshape_to(cut, e.concat([bins * made, points * parts]), (None, None))
