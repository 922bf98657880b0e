"""LSTM, GRU, RNN by Arras et al. 2017: gates get nothing, sums and linear maps Epsilon, activations hand on.

Gates and hidden states of all steps are computed at once from the node's own output Y; only what truly recurs (a cell on
the way forward, relevance or derivative on the way back) runs step by step, in a Scan of a few small nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..linear import Absorbed, Kind, Reading, Transform
from ..tensor import Tensor, where
from .cells import CELLS, Cell, Sweep, Track, delayed, matmul
from .gate_functions import activations
from .over_time import over_time
from .registry import View, op

INPUTS = (0, 5, 6)  # X, initial_h, initial_c
BACKWARDS = -(2**31)


@dataclass(frozen=True)
class Directions:
    """A recurrent node, one direction at a time. X (T,N,I), Y (T,D,N,H), Y_h, Y_c, initial_h, initial_c (D,N,H)."""

    v: View

    @property
    def reverse(self) -> list[bool]:
        """Whether each direction runs backwards."""
        return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[str(self.v.attr("direction"))]

    def lengths(self) -> Tensor | None:
        """Steps of each row, int64 (N); None when all rows have all of them."""
        lengths = self.v.x(4)
        return None if lengths is None else self.v.e.cast(lengths, np.int64)

    def turned(self, t: Tensor, d: int) -> Tensor:
        """t (T,N,·) in the order of the steps of direction d, and back again: a reverse one starts at each row's own end."""
        e, lengths = self.v.e, self.lengths()
        if not self.reverse[d] or t.is_zero:
            return t
        if lengths is None:
            return e.op("Slice", t, e.ints(-1), e.ints(BACKWARDS), e.ints(0), e.ints(-1), shape=t.shape)
        return e.op("ReverseSequence", t, lengths, shape=t.shape, time_axis=0, batch_axis=1)

    def part(self, t: Tensor, d: int, axis: int = 0) -> Tensor:
        """What t holds for direction d; ZERO stays ZERO."""
        if t.is_zero:
            return t
        assert t.shape is not None
        e, shape = self.v.e, (*t.shape[:axis], *t.shape[axis + 1 :])
        if len(self.reverse) == 1:
            return e.op("Squeeze", t, e.ints(axis), shape=shape)
        return e.op("Gather", t, e.array(d, np.int64), shape=shape, axis=axis)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """(N,H) per direction as (D,N,H)."""
        e, shape = self.v.e, parts[0].shape or ()
        rows = [e.op("Unsqueeze", p, e.ints(0), shape=(1, *shape)) for p in parts]
        return rows[0] if len(rows) == 1 else e.op("Concat", *rows, shape=(len(rows), *shape), axis=0)

    def track(self, d: int) -> Track:
        """Everything that direction d reads."""
        v, e = self.v, self.v.e
        x, h = self.turned(v.need(0), d), self.turned(self.part(v.y, d, 1), d)
        assert x.shape is not None
        assert h.shape is not None
        valid, lengths, none = None, self.lengths(), e.op("Gather", h, e.array(0, np.int64), shape=h.shape[1:], axis=0)
        if lengths is not None:  # whatever fills up a row must not reach a sum, not even times 0
            steps = e.reshape(e.arange(e.dim(x, 0), x.shape[0]), -1, 1, 1, shape=(x.shape[0], 1, 1))
            valid = steps < e.reshape(lengths, 1, -1, 1, shape=(1, x.shape[1], 1))
            x = where(valid, x, 0.0)
        x.batch = v.need(0).batch
        first_h, first_c = (e.zeros_like(none) if v.x(i) is None else self.part(v.need(i), d) for i in INPUTS[1:])
        w, r, b, p = (self.part(v.opt(i), d) for i in (1, 2, 3, 7))
        size, chosen = int(v.attr("hidden_size")), activations(v)
        half = GATES[v.node.op] * size
        wb, rb = (b if b.is_zero else e.slice(b, 0, i * half, (i + 1) * half, half) for i in (0, 1))
        assert not isinstance(chosen, str)
        flag = bool(v.attr("input_forget" if v.node.op == "LSTM" else "linear_before_reset", 0))
        return Track(x, h, delayed(h, first_h), w, r, wb, rb, p, first_c, valid, chosen[d], size, flag)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Way = Callable[[Cell], Sweep]
Found = Mapping[int, Tensor]  # relevance by position of the input


def back(node: Directions, way: Way, given: Sequence[Tensor], absorbed: Absorbed | None = None) -> list[Tensor]:
    """What reaches the active inputs from what is given at Y, Y_h, Y_c, by the cell's relevance or derivative."""
    v = node.v
    found = [_one_way(node, d, way, given, absorbed) for d in range(len(node.reverse))]
    whole = {0: v.e.total([f[0] for f in found]), **{i: node.whole([f[i] for f in found]) for i in found[0] if i}}
    if absorbed is not None:
        frozen = [i for i in INPUTS if v.x(i) is not None and not v.is_active(i)]
        absorbed.bias.extend(partial(_sum, partial(_one, whole[i])) for i in frozen)
    return [whole[i] for i in v.actives()]


def _one_way(node: Directions, d: int, way: Way, given: Sequence[Tensor], absorbed: Absorbed | None) -> Found:
    """`back` for direction d: for the input of all steps, for the first hidden state, for the first cell."""
    t = node.track(d)
    e, cell = t.x.emit, CELLS[node.v.node.op](t)
    sweep = way(cell)
    arriving = t.masked(node.turned(node.part(given[0], d, 1), d)) if not given[0].is_zero else e.zero
    states = [_last(t, node.part(r, d)) for r in given[1 : 1 + len(cell.states)]]
    made = over_time(e, sweep.step, states, [arriving, *sweep.elements()], backwards=True)
    of = dict(zip(sweep.stacked, made[len(states) :], strict=True))
    s = sweep.into.arriving(of, sweep.into.factor)
    if absorbed is not None:
        absorbed.bias.append(partial(_sum, partial(sweep.bias, of, s)))
        absorbed.epsilon.append(partial(_sum, partial(sweep.epsilon, of, s)))
    x = node.turned(matmul(s, sweep.into.rows) * sweep.scale_x, d)
    return dict(zip(INPUTS, (x, *made[: len(states)]), strict=False))


def _last(t: Track, r: Tensor) -> Tensor:
    """What is given at a last state (N,H); nothing at that of a row without steps, which is a constant."""
    if r.is_zero or t.valid is None:
        return t.x.emit.zeros_like(t.first) if r.is_zero else r
    some = t.x.emit.op("Gather", t.valid, t.x.emit.array(0, np.int64), shape=(t.valid.shape or ())[1:], dtype=bool, axis=0)
    return where(some, r, 0.0)


def _one(t: Tensor) -> list[Tensor]:
    return [t]


def _sum(parts: Callable[[], list[Tensor]]) -> Tensor:
    """Σ over tensors and elements."""
    found = parts()
    return found[0].emit.total([p.emit.op("ReduceSum", p, shape=(), keepdims=0) for p in found])


def _refuse(v: View) -> str | None:
    """Activations or sizes that cannot be told."""
    said = activations(v)
    if isinstance(said, str):
        return said
    unknown = [t.name for t in v.node.inputs if t.name and t.shape is None]
    if unknown:
        return f"the rank of '{unknown[0]}' is unknown (input_shapes= may help)"
    return None if v.attr("hidden_size") else "its hidden_size is missing"


def _read(v: View) -> Reading:
    """h_t, c_t from x_t, h_{t-1}, c_{t-1}, as cells.py has it; relevance may arrive at Y, Y_h and Y_c."""
    node = Directions(v)

    def given(r: Sequence[Tensor]) -> list[Tensor]:
        arrived = iter(r)
        names = [o.name for o in v.node.outputs]
        return [next(arrived) if i < len(names) and names[i] in v.active else v.e.zero for i in range(3)]

    def inner(bias: Transform, stab: Transform, absorbed: Absorbed, *r: Tensor) -> tuple[Tensor, ...]:
        return tuple(back(node, lambda cell: cell.relevance(stab, bias), given(r), absorbed))

    def vjp(*r: Tensor) -> tuple[Tensor, ...]:
        return tuple(back(node, lambda cell: cell.derivative(), given(r)))

    return v.reading(Kind.RECURRENT, tuple(v.need(i) for i in v.actives()), inner=inner, vjp=vjp)


op("LSTM", Kind.RECURRENT, data=INPUTS, refuse=_refuse, outputs=None)(_read)
op("GRU RNN", Kind.RECURRENT, data=INPUTS[:2], refuse=_refuse, outputs=None)(_read)
