"""Copies that follow a table of positions: gathers, scatters, selections of rows, triangles; and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor, where
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
    return "reduction=mul" if v.attr("reduction", "none") == "mul" else None


def _scatter_kind(v: View) -> Kind:
    return {"add": Kind.SUM, "max": Kind.SELECT, "min": Kind.SELECT}.get(v.attr("reduction", "none"), Kind.MOVE)


@op(
    "ScatterElements ScatterND", _scatter_kind, "Reshaping",
    kinds=(Kind.MOVE, Kind.SUM, Kind.SELECT), data=(0, 2), refuse=_reduction,
)  # fmt: skip
def scatter_into(v: View) -> Reading:
    """data with updates written into it (relevance to whoever wrote last), or added to it, or the largest of both."""
    e, y = v.e, v.y
    operands, actives = {0: v.need(0), 2: v.need(2)}, v.actives()
    xs = tuple(operands[i] for i in actives)

    def written(data: Tensor, updates: Tensor) -> Tensor:
        return e.op(v.node.op, data, v.need(1), updates, shape=y.shape, **v.node.attrs)

    def read(t: Tensor) -> Tensor:
        """What lies where the updates go, in their layout."""
        gather = "GatherElements" if v.node.op == "ScatterElements" else "GatherND"
        axis: dict[str, Any] = {"axis": int(v.attr("axis", 0))} if gather == "GatherElements" else {}
        return e.op(gather, t, v.need(1), shape=operands[2].shape, **axis)

    if _scatter_kind(v) is Kind.SELECT:
        return _largest(v, operands, read)
    if _scatter_kind(v) is Kind.SUM:
        others = {i: e.zeros_like(x) if i in actives else x for i, x in operands.items()}
        b = e.zero if len(actives) == 2 else written(others[0], others[2])

        def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
            given = {i: e.expand_like(x, operands[i]) for i, x in zip(actives, xs, strict=True)}
            zeros = {i: e.zeros_like(x) for i, x in operands.items()}
            return w * written(given.get(0, zeros[0]), given.get(2, zeros[2])) + b

        def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
            t = w * s
            return [t if i == 0 else read(t) for i in actives]

        return v.linear(Kind.SUM, LinearMap(xs, e.one, b, y, apply, adjoint))

    def back(r: Tensor) -> tuple[Tensor, ...]:
        # positions of data count from 1, those of updates are 0 in the first run, and the other way round
        def places(i: int) -> Tensor:
            return by_index(v, operands[i], lambda t: written(*(t if i == k else zeros(k) for k in (0, 2))))(r)

        def zeros(k: int) -> Tensor:
            return e.cast(e.zeros_like(operands[k]), np.int64)

        return tuple(places(i) for i in actives)

    return v.reading(Kind.MOVE, xs, passed=back, vjp=back)


def _largest(v: View, operands: dict[int, Tensor], read: Callable[[Tensor], Tensor]) -> Reading:
    """y = max (min) of data and all updates of a place: relevance to the one that it is; data before updates on ties."""
    e, y, actives = v.e, v.y, v.actives()
    data, updates = operands[0], operands[2]

    def equal(a: Tensor, b: Tensor) -> Tensor:
        return e.elementwise("Equal", a, b, dtype=bool)

    def numbers(t: Tensor) -> Tensor:
        """0, 1, 2 … in a tensor's layout."""
        return e.reshape_to(e.arange(count(t)), e.shape_of(t), t.shape)

    def count(t: Tensor) -> Tensor:
        return e.reshape(e.op("Size", t, shape=(), dtype=np.int64), 1)

    def back(r: Tensor) -> tuple[Tensor, ...]:
        places, own, none = read(numbers(y)), numbers(updates), count(updates)
        kept, candidate = equal(data, y), where(equal(updates, read(y)), own, none)
        line = e.op("Expand", none, count(y), shape=(None,))
        flat = (e.reshape(t, -1) for t in (places, candidate))
        first = e.op("ScatterElements", line, *flat, shape=(None,), axis=0, reduction="min")
        won = equal(fetch(first, places), own)
        parts = {0: where(kept, r, 0.0), 2: where(won, read(where(kept, 0.0, r)), 0.0)}
        return tuple(parts[i] for i in actives)

    return v.reading(Kind.SELECT, tuple(operands[i] for i in actives), passed=back, vjp=back)


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
