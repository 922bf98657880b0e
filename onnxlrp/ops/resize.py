"""Resize: interpolation along each axis in turn, y = x ×₁ M₁ ×₂ M₂ …, or copies of the nearest pixel.

M is what the operator itself makes of an identity matrix, so that every mode, rounding and policy is the runtime's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor
from .registry import View, op


def _kind(v: View) -> Kind:
    return Kind.MOVE if v.attr("mode") == "nearest" else Kind.LINEAR


@op("Resize", _kind, kinds=(Kind.MOVE, Kind.LINEAR))
def resize(v: View) -> Reading:
    """y = x ×₁ M₁ ×₂ M₂ … (+ extrapolation_value where tf_crop_and_resize looks outside); adjoint: Mᵀ along each axis."""
    e, x, y = v.e, v.need(0), v.y
    others = [v.x(i) for i in range(1, len(v.node.inputs))]
    axes = [int(a) % x.rank for a in v.attr("axes", range(x.rank))]
    inside = {k: a for k, a in v.node.attrs.items() if k != "extrapolation_value"}

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * e.op("Resize", e.expand_like(xs[0], x), *others, shape=y.shape, **inside) + b

    def back(s: Tensor) -> Tensor:
        for position, axis in enumerate(axes):
            if not _unchanged(v, x, y, position, axis):
                s = _times(s, _matrix(v, x, y, axes, position), axis, x)
        return s

    if _kind(v) is Kind.MOVE:
        return v.move(x, back)
    b = e.zero
    if _crops(v) and v.attr("extrapolation_value"):
        b = e.op("Resize", e.zeros_like(x), *others, shape=y.shape, **v.node.attrs)
    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, b, y, apply, lambda s, w: [back(w * s)]))


def _crops(v: View) -> bool:
    return bool(v.attr("coordinate_transformation_mode") == "tf_crop_and_resize")


def _keeps_ratio(v: View) -> bool:
    """Whether sizes are only bounds: the axes are scaled alike."""
    return v.attr("keep_aspect_ratio_policy") != "stretch" and _scales(v) is None


def _scales(v: View) -> Tensor | None:
    t = v.x(2)
    return None if t is None or (t.value is not None and t.value.size == 0) else t


def _unchanged(v: View, x: Tensor, y: Tensor, position: int, axis: int) -> bool:
    scales = _scales(v)
    if _crops(v):
        return False
    if scales is not None and scales.value is not None:
        return bool(scales.value[position] == 1)
    return x.shape is not None and y.shape is not None and x.shape[axis] == y.shape[axis] and x.shape[axis] is not None


def _matrix(v: View, x: Tensor, y: Tensor, axes: Sequence[int], position: int) -> Tensor:
    """(in, out) interpolation matrix along one axis: the operator on an image (1, in, other, in), the same in each column.

    other: 1, grown to 2 so that the runtime does not take a crop without a scale for nothing to do; where the aspect ratio
    is kept, the axis that decides the scale.
    """
    e, axis = v.e, axes[position]
    size, out = (t.shape[axis] if t.shape is not None else None for t in (x, y))
    n = e.dim(x, axis)
    square = e.op("Expand", e.zero, e.concat([n, n]), shape=(size, size))
    eye = e.op("Unsqueeze", e.op("EyeLike", square, shape=(size, size)), e.ints(0, 2), shape=(1, size, 1, size))
    roi, scales = v.x(1), _scales(v)

    def pick(t: Tensor, at: int) -> Tensor:
        return e.op("Gather", t, e.ints(at), shape=(1,), axis=0) if t.value is None else e.array(t.value[[at]], t.dtype)

    def pair(a: Tensor, b: Tensor) -> Tensor:
        return e.op("Concat", a, b, shape=(2,), axis=0)

    if roi is not None and _crops(v):
        zero, one = e.array([0.0]), e.array([1.0])
        roi = e.op("Concat", zero, pick(roi, position), one, pick(roi, len(axes) + position), shape=(4,), axis=0)
    else:
        roi = None
    attrs: dict[str, Any] = {k: a for k, a in v.node.attrs.items() if k != "extrapolation_value"}
    attrs["axes"] = [2, 3]
    if scales is not None:
        made = e.op("Resize", eye, roi, pair(e.array([2.0]), pick(scales, position)), shape=(1, size, 2, out), **attrs)
    elif not _keeps_ratio(v):
        made = e.op("Resize", eye, roi, None, pair(e.ints(2), e.dim(y, axis)), shape=(1, size, 2, out), **attrs)
    else:
        other, bound = _decisive(v, x, axes)
        eye = e.op("Expand", eye, e.concat([e.ints(1, 1), other, e.ints(1)]), shape=(1, size, None, size))
        made = e.op("Resize", eye, roi, None, pair(bound, pick(v.need(3), position)), shape=(1, size, None, out), **attrs)
    first = e.op("Gather", made, e.array(0, np.int64), shape=(1, size, out), axis=2)
    return e.op("Squeeze", first, e.ints(0), shape=(size, out))


def _decisive(v: View, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Size of the axis that decides the common scale, and the bound that it is given."""
    e = v.e
    sizes, bounds = e.dims(x, axes), v.need(3)
    ratios = e.cast(bounds, np.float32) / e.cast(sizes, np.float32)
    arg = "ArgMin" if v.attr("keep_aspect_ratio_policy") == "not_larger" else "ArgMax"
    at = e.op(arg, ratios, shape=(1,), dtype=np.int64, axis=0)
    return e.op("Gather", sizes, at, shape=(1,), axis=0), e.op("Gather", bounds, at, shape=(1,), axis=0)


def _times(s: Tensor, matrix: Tensor, axis: int, x: Tensor) -> Tensor:
    """Contract axis `axis` of s (length out) with a matrix (in, out)."""
    e, rank = s.emit, s.rank
    assert s.shape is not None
    assert x.shape is not None
    shape = (*s.shape[:axis], x.shape[axis], *s.shape[axis + 1 :])
    if axis == rank - 2:
        return e.op("MatMul", matrix, s, shape=shape)
    order: Sequence[int] = [a for a in range(rank) if a != axis] + [axis]
    turned = e.transpose(s, order)
    assert turned.shape is not None
    product = e.op("MatMul", turned, e.swap(matrix), shape=(*turned.shape[:-1], x.shape[axis]))
    return e.transpose(product, np.argsort(order).tolist())
