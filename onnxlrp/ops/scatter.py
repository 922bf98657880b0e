"""Copies that follow a table of positions: gathers, scatters, selections of rows, triangles; and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor
from .moves import by_index, rerun
from .pool import fetch
from .registry import View, op


@op("GatherElements GatherND Compress ReverseSequence Trilu CenterCropPad", Kind.MOVE, "Reshaping")
def by_table(v: View) -> Reading:
    """Each output is one input element, or 0: the operator itself, on positions, says which."""
    x = v.need(0)
    return v.move(x, by_index(v, x, rerun(v)))


@op("MaxUnpool", Kind.MOVE, "Reshaping")
def max_unpool(v: View) -> Reading:
    """Values at given flat positions, zeros elsewhere: relevance is read at these positions."""
    x, at = v.need(0), v.need(1)
    return v.move(x, lambda r: fetch(r, at))


def _reduction(v: View) -> str | None:
    how = v.attr("reduction", "none")
    return None if how in ("none", "add") else f"reduction={how}"


def _scatter_kind(v: View) -> Kind:
    return Kind.SUM if v.attr("reduction", "none") == "add" else Kind.MOVE


@op("ScatterElements ScatterND", _scatter_kind, "Reshaping", kinds=(Kind.MOVE, Kind.SUM), data=(0, 2), refuse=_reduction)
def scatter_into(v: View) -> Reading:
    """data with updates written into it (relevance to whoever wrote last), or added to it (in proportion)."""
    e, y = v.e, v.y
    operands, actives = {0: v.need(0), 2: v.need(2)}, v.actives()
    xs = tuple(operands[i] for i in actives)

    def written(data: Tensor, updates: Tensor) -> Tensor:
        return e.op(v.node.op, data, v.need(1), updates, shape=y.shape, **v.node.attrs)

    if _scatter_kind(v) is Kind.SUM:
        others = {i: e.zeros_like(x) if i in actives else x for i, x in operands.items()}
        b = e.zero if len(actives) == 2 else written(others[0], others[2])

        def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
            given = {i: e.expand_like(x, operands[i]) for i, x in zip(actives, xs, strict=True)}
            zeros = {i: e.zeros_like(x) for i, x in operands.items()}
            return w * written(given.get(0, zeros[0]), given.get(2, zeros[2])) + b

        def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
            t = w * s
            gather = "GatherElements" if v.node.op == "ScatterElements" else "GatherND"
            axis: dict[str, Any] = {"axis": int(v.attr("axis", 0))} if gather == "GatherElements" else {}
            return [t if i == 0 else e.op(gather, t, v.need(1), shape=operands[2].shape, **axis) for i in actives]

        return v.linear(Kind.SUM, LinearMap(xs, e.one, b, y, apply, adjoint))

    def back(r: Tensor) -> tuple[Tensor, ...]:
        # positions of data count from 1, those of updates are 0 in the first run, and the other way round
        def places(i: int) -> Tensor:
            return by_index(v, operands[i], lambda t: written(*(t if i == k else zeros(k) for k in (0, 2))))(r)

        def zeros(k: int) -> Tensor:
            return e.cast(e.zeros_like(operands[k]), np.int64)

        return tuple(places(i) for i in actives)

    return v.reading(Kind.MOVE, xs, passed=back, vjp=back)


@op("CumSum", Kind.LINEAR)
def cum_sum(v: View) -> Reading:
    """Running sum along an axis; adjoint: the running sum from the other end."""
    e, x, y, axis = v.e, v.need(0), v.y, v.need(1)
    exclusive, reverse = int(v.attr("exclusive", 0)), int(v.attr("reverse", 0))

    def total(t: Tensor, reverse: int) -> Tensor:
        return e.op("CumSum", t, axis, shape=x.shape, exclusive=exclusive, reverse=reverse)

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        return w * total(e.expand_like(xs[0], x), reverse) + b

    return v.linear(Kind.LINEAR, LinearMap((x,), e.one, e.zero, y, apply, lambda s, w: [total(w * s, 1 - reverse)]))
