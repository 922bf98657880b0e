"""Gemm and MatMul. A MatMul may carry a bias as its third input (see groups.py)."""

from __future__ import annotations

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor
from .registry import View, op


@op("Gemm", Kind.WEIGHTED, "Dense", "Linear")
def gemm(v: View) -> Reading:
    """y = x w + b, w transposed where transB says so. alpha, beta, transA are 1, 1, 0 after normalisation."""
    x, w, b = v.need(0), v.need(1), v.opt(2)
    e, y, trans = v.e, v.y, int(v.attr("transB", 0))

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        shape = (xs[0].shape[0] if xs[0].shape else None, y.shape[1] if y.shape else None)
        return e.op("Gemm", xs[0], w, None if b.is_zero else b, shape=shape, **v.node.attrs)

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        return [e.op("Gemm", s, w, shape=x.shape, transB=1 - trans)]

    return v.linear(Kind.WEIGHTED, LinearMap((x,), w, b, y, apply, adjoint))


def matmul_kind(v: View) -> Kind:
    return Kind.PRODUCT if v.is_active(0) and v.is_active(1) else Kind.WEIGHTED


def operand(v: View, index: int, b: Tensor) -> LinearMap:
    """MatMul as linear in operand `index` (0: x w, 1: w x), the other one its weight; batch axes broadcast."""
    x, w = v.need(index), v.need(1 - index)
    e, y = v.e, v.y

    def product(x: Tensor, w: Tensor) -> Tensor:
        return e.op("MatMul", x, w, shape=y.shape) if index == 0 else e.op("MatMul", w, x, shape=y.shape)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        z = product(xs[0], w)
        return z if b.is_zero else e.op("Add", z, b, shape=y.shape)

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        # 1-D operands are what the standard makes of them: a row on the left, a column on the right
        if x.rank == 1 or w.rank == 1:
            return [_vector_adjoint(s, x, w, index)]
        other = e.swap(w)
        lead = max(s.rank, other.rank) - 2
        sizes = (x.shape or (None, None))[-2:]
        shape = (*(s.shape[:lead] if s.shape and s.rank - 2 == lead else (None,) * lead), *sizes)
        c = e.op("MatMul", s, other, shape=shape) if index == 0 else e.op("MatMul", other, s, shape=shape)
        return [e.unbroadcast(c, x)]

    return LinearMap((x,), w, b, y, apply, adjoint)


def _vector_adjoint(s: Tensor, x: Tensor, w: Tensor, index: int) -> Tensor:
    """Adjoint of a MatMul with a 1-D operand: lift both to matrices, use the matrix form, drop the axis again."""
    e = s.emit

    def lift(t: Tensor, axis: int) -> Tensor:
        shape = (*t.shape[:axis], 1, *t.shape[axis:]) if t.shape is not None else None
        return e.op("Unsqueeze", t, e.ints(axis), shape=shape)

    x2 = lift(x, 0 if index == 0 else 1) if x.rank == 1 else x
    w2 = lift(w, 1 if index == 0 else 0) if w.rank == 1 else w
    left, right = (x, w) if index == 0 else (w, x)
    if left.rank == 1:
        s = lift(s, s.rank - (0 if right.rank == 1 else 1))
    if right.rank == 1:
        s = lift(s, s.rank)
    other = e.swap(w2)
    assert s.shape is not None
    assert x2.shape is not None
    lead = max(s.rank, other.rank) - 2
    shape = (*(s.shape[:lead] if s.rank - 2 == lead else (None,) * lead), *x2.shape[-2:])
    c = e.op("MatMul", s, other, shape=shape) if index == 0 else e.op("MatMul", other, s, shape=shape)
    return e.reshape_like(e.unbroadcast(c, x2), x)


@op("MatMul", matmul_kind, "Dense", "Linear", kinds=(Kind.WEIGHTED, Kind.PRODUCT), data=(0, 1))
def matmul(v: View) -> Reading:
    """y = x w (+ b) with a frozen operand, or a product of two active ones with each operand as the other's weight."""
    if matmul_kind(v) is Kind.PRODUCT:
        maps = (operand(v, 0, v.e.zero), operand(v, 1, v.e.zero))
        return v.reading(Kind.PRODUCT, (v.need(0), v.need(1)), maps=maps)
    return v.linear(Kind.WEIGHTED, operand(v, v.actives()[0], v.opt(2)))
