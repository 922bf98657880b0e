"""What one direction of an LSTM, GRU or RNN computes, for all steps at once, and what a step back through it is.

Once its gates are frozen a step is linear in what it was given, and so is its derivative: both ways back are a `Sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..linear import Transform
from ..tensor import Tensor, where
from .gate_functions import Activation
from .over_time import over_time

__all__ = ["CELLS", "Cell", "Sweep", "Track", "delayed", "matmul"]


def matmul(x: Tensor, m: Tensor) -> Tensor:
    """x m, with x (…,K) and a matrix m (K,J)."""
    assert x.shape is not None
    assert m.shape is not None
    return x.emit.op("MatMul", x, m, shape=(*x.shape[:-1], m.shape[1]))


def by(x: Tensor, m: Tensor) -> Tensor:
    """x mᵀ, with a matrix m (J,K)."""
    return matmul(x, m.emit.transpose(m, [1, 0]))


def delayed(t: Tensor, first: Tensor) -> Tensor:
    """t (T,N,H) one step later, after first (N,H)."""
    e = t.emit
    start = e.op("Unsqueeze", first, e.ints(0), shape=(1, *(first.shape or ())))
    return e.op("Concat", start, e.slice(t, 0, 0, -1), shape=t.shape, axis=0)


@dataclass(frozen=True)
class Track:
    """One direction of a node, its steps in the order in which they run: time, then batch, then features.

    x (T,N,I); h, before (T,N,H): the hidden state after and before every step; w (G·H,I); r (G·H,H); wb, rb (G·H) and
    p (3·H), or ZERO; first (N,H): the first cell; valid (T,N,1): steps before the end of a row, None when all are.
    flag: input_forget, linear_before_reset.
    """

    x: Tensor
    h: Tensor
    before: Tensor
    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    p: Tensor
    first: Tensor
    valid: Tensor | None
    functions: Sequence[Activation]
    size: int
    flag: bool

    def rows(self, m: Tensor, start: int, end: int) -> Tensor:
        """Gates start … end-1 of a weight, a bias, or the peepholes."""
        size = self.size
        return m if m.is_zero else m.emit.slice(m, 0, start * size, end * size, (end - start) * size)

    def parts(self, z: Tensor, count: int) -> list[Tensor]:
        """The gates of a sum (T,N,count·H)."""
        assert z.shape is not None
        sizes = z.emit.ints(*[self.size] * count)
        return z.emit.ops("Split", z, sizes, shapes=[(*z.shape[:-1], self.size)] * count, axis=2)

    def masked(self, t: Tensor, otherwise: float = 0.0) -> Tensor:
        """t, and a constant after the end of a row."""
        return t if self.valid is None else where(self.valid, t, otherwise)

    @property
    def idle(self) -> Tensor:
        """1 after the end of a row: what arrives there is handed to the step before as it is."""
        e = self.x.emit
        return e.zero if self.valid is None else self.masked(e.zeros_like(self.h), 1.0)

    def denominator(self, stab: Transform, z: Tensor) -> Tensor:
        """stab(z), which may ask for the batch axis of z."""
        z.batch = 1 if self.x.batch == 1 else None
        return stab(z)


class Part(NamedTuple):
    """What arrives at sums of a step: for each of their gates h, c or m, named by a letter, times a factor; rows of W or R."""

    spread: str
    factor: Tensor
    rows: Tensor

    def arriving(self, of: Mapping[str, Tensor], factor: Tensor) -> Tensor:
        """The letters side by side, times the factor (of one step, or of all)."""
        first = of[self.spread[0]]
        if len(self.spread) > 1:
            assert first.shape is not None
            shape = (*first.shape[:-1], None)
            first = first.emit.op("Concat", *(of[k] for k in self.spread), shape=shape, axis=first.rank - 1)
        return first * factor


Kept = Callable[[Mapping[str, Tensor], Tensor], list[Tensor]]  # (h and c of all steps, s) -> relevance, element by element


def nothing(of: Mapping[str, Tensor], s: Tensor) -> list[Tensor]:
    """No relevance is kept."""
    return []


@dataclass(frozen=True)
class Sweep:
    """The way back through one step, from what arrives at h and c in all to what arrives at h' and c' before it:

    c += through ⊙ h    m = again R    h' = scale_h ⊙ m + keep_h ⊙ h + reset R    c' = keep_c ⊙ c    x: scale_x ⊙ (into W)

    into, again, reset: what arrives at the sums before activation, for the input, the recurrence, and a reset gate.
    scale_x, scale_h: x and h for relevance, ONE for a derivative. bias, epsilon: the relevance that they keep.
    """

    into: Part
    again: Part
    scale_x: Tensor
    scale_h: Tensor
    keep_h: Tensor
    keep_c: Tensor
    through: Tensor
    reset: Part | None = None
    bias: Kept = nothing
    epsilon: Kept = nothing

    @property
    def stacked(self) -> str:
        """What the input's part needs of every step."""
        return "".join(k for k in "hcm" if k in self.into.spread)

    def elements(self) -> list[Tensor]:
        """What a step reads beside what arrives at its output."""
        reset = self.into.factor.emit.zero if self.reset is None else self.reset.factor
        return [self.again.factor, self.scale_h, self.keep_h, self.keep_c, self.through, reset]

    def step(self, states: list[Tensor], elements: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """(h, and c of an LSTM; what arrives at the output, elements()) -> (h', c'; in all, what is stacked)."""
        given, again, scale, keep_h, keep_c, through, reset = elements
        of = {"h": states[0] + given}
        if len(states) > 1:
            of["c"] = states[1] + of["h"] * through
        m = matmul(self.again.arriving(of, again), self.again.rows)
        back = m * scale + of["h"] * keep_h
        if self.reset is not None:
            of["m"] = m
            back = back + matmul(self.reset.arriving(of, reset), self.reset.rows)
        return [back, *(of["c"] * keep_c for _ in states[1:])], [of[k] for k in self.stacked]


class Lstm:
    """i, o, f = F(z + P ⊙ c)    g = G(z_g)    c = f ⊙ c' + i ⊙ g    h = o ⊙ H(c), with z = W x + R h' + b, c' and h' before."""

    states = "hc"

    def __init__(self, t: Track) -> None:
        self.t = t
        self.linear = by(t.x, t.w) + by(t.before, t.r)
        self.z = t.parts(self.linear + (t.wb + t.rb), 4)
        self.peepholes = [t.rows(t.p, k, k + 1) for k in range(3)]
        self.g = t.functions[1](self.z[3])
        self.c = self.cells()
        self.before = delayed(self.c, t.first)
        self.i, self.f = self.gates(self.z[0], self.z[2], self.before)

    def gates(self, z_i: Tensor, z_f: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """i and f; coupled, f is 1 - i."""
        act = self.t.functions[0]
        z_i = z_i + before * self.peepholes[0]
        return act(z_i), act.complement(z_i) if self.t.flag else act(z_f + before * self.peepholes[2])

    def cells(self) -> Tensor:
        """c after every step; through peepholes its gates depend on the one before."""

        def alone(states: list[Tensor], elements: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            f, new = elements
            c = states[0] * f + new
            return [c], [c]

        def peeping(states: list[Tensor], elements: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            i, f = self.gates(elements[0], elements[1], states[0])
            c = states[0] * f + i * elements[2]
            return [c], [c]

        if not self.t.p.is_zero:
            return over_time(self.t.x.emit, peeping, [self.t.first], [self.z[0], self.z[2], self.g])[1]
        i, f = self.gates(self.z[0], self.z[2], self.t.first.emit.zero)
        return over_time(self.t.x.emit, alone, [self.t.first], [f, i * self.g])[1]

    def relevance(self, stab: Transform, bias: Transform) -> Sweep:
        """h hands on to c, c gives in proportion to f ⊙ c' and i ⊙ g, g hands on to its sum, which gives to x and h'."""
        t, e = self.t, self.c.emit
        b = bias(t.wb + t.rb)
        z = t.parts(self.linear + b, 4)[3]
        below, under = t.denominator(stab, self.c), t.denominator(stab, z)
        into = t.masked(self.i * self.g / below / under)
        gap = t.masked((below - self.c) / below)
        return Sweep(
            Part("c", into, t.rows(t.w, 3, 4)), Part("c", into, t.rows(t.r, 3, 4)), t.x, t.before,
            e.zero, t.masked(self.f * self.before / below, 1.0), e.one,
            bias=lambda of, s: [s * t.rows(b, 3, 4)],
            epsilon=lambda of, s: [of["c"] * gap, s * (under - z)],
        )  # fmt: skip

    def derivative(self) -> Sweep:
        """Back through time, gates included."""
        t, e, (act, g, h) = self.t, self.c.emit, self.t.functions
        before, (p_i, p_o, p_f) = self.before, self.peepholes
        z_i, z_o, z_f = (z + c * p for z, c, p in zip(self.z, (before, self.c, before), (p_i, p_o, p_f), strict=False))
        at_i = (self.g - before if t.flag else self.g) * act.slope(z_i)
        at_f = e.zeros_like(before) if t.flag else before * act.slope(z_f)
        at_o = h(self.c) * act.slope(z_o)
        factors = (at_i, at_o, at_f, self.i * g.slope(self.z[3]))
        shape = (*(self.c.shape or ())[:-1], 4 * t.size)
        factor = t.masked(e.op("Concat", *factors, shape=shape, axis=2))
        through = act(z_o) * h.slope(self.c) + at_o * p_o
        keep_c = self.f + at_i * p_i + at_f * p_f
        return Sweep(
            Part("chcc", factor, t.w), Part("chcc", factor, t.r), e.one, e.one,
            t.idle, t.masked(keep_c, 1.0), t.masked(through),
        )  # fmt: skip


class Gru:
    """z, r = F(sums)    n = G(W x + r ⊙ (R h' + b) or R (r ⊙ h') + b)    h = (1 - z) ⊙ n + z ⊙ h', with h' before."""

    states = "h"

    def __init__(self, t: Track) -> None:
        self.t = t
        act, g = t.functions
        x = by(t.x, t.w)
        gates = [by(t.before, t.rows(t.r, 0, 2)), t.rows(t.wb, 0, 2) + t.rows(t.rb, 0, 2)]
        z_x, r_x, self.x = t.parts(x, 3)
        z_h, r_h = t.parts(gates[0] + gates[1], 2)
        self.sums = [z_x + z_h, r_x + r_h]
        self.z, self.r = (act(s) for s in self.sums)
        self.open = act.complement(self.sums[0])
        self.gated = t.before if t.flag else self.r * t.before
        self.u = by(self.gated, t.rows(t.r, 2, 3))
        self.sum = self.candidate(t.wb, t.rb)
        self.n = g(self.sum)

    def bias(self, wb: Tensor, rb: Tensor) -> Tensor:
        """What biases add to the candidate's sum."""
        inner = self.t.rows(rb, 2, 3)
        return self.t.rows(wb, 2, 3) + (self.r * inner if self.t.flag else inner)

    def candidate(self, wb: Tensor, rb: Tensor) -> Tensor:
        """The candidate's sum with these biases."""
        return self.x + (self.r * self.u if self.t.flag else self.u) + self.bias(wb, rb)

    def relevance(self, stab: Transform, bias: Transform) -> Sweep:
        """h gives in proportion to (1 - z) ⊙ n and z ⊙ h', n hands on to its sum, which gives to x and h'."""
        t, e = self.t, self.x.emit
        wb, rb = bias(t.wb), bias(t.rb)
        z, b = self.candidate(wb, rb), self.bias(wb, rb)
        below, under = t.denominator(stab, t.h), t.denominator(stab, z)
        into = t.masked(self.open * self.n / below / under)
        gap = t.masked((below - t.h) / below)
        again = into * self.r if t.flag else into
        return Sweep(
            Part("h", into, t.rows(t.w, 2, 3)), Part("h", again, t.rows(t.r, 2, 3)), t.x, self.gated,
            t.masked(self.z * t.before / below, 1.0), e.zero, e.zero,
            bias=lambda of, s: [s * b],
            epsilon=lambda of, s: [of["h"] * gap, s * (under - z)],
        )  # fmt: skip

    def derivative(self) -> Sweep:
        """Back through time, gates included."""
        t, e, (act, g) = self.t, self.x.emit, self.t.functions
        at_z = (t.before - self.n) * act.slope(self.sums[0])
        at_n = self.open * g.slope(self.sum)
        at_r = act.slope(self.sums[1]) * (at_n * (self.u + t.rows(t.rb, 2, 3)) if t.flag else t.before)
        keep = t.masked(self.z, 1.0)

        def beside(*parts: Tensor) -> Tensor:
            shape = (*(self.x.shape or ())[:-1], len(parts) * t.size)
            return t.masked(e.op("Concat", *parts, shape=shape, axis=2))

        into = beside(at_z, at_r, at_n)
        if t.flag:
            again = Part("hhh", beside(at_z, at_r, at_n * self.r), t.r)
            return Sweep(Part("hhh", into, t.w), again, e.one, e.one, keep, e.zero, e.zero)
        again = Part("h", t.masked(at_n), t.rows(t.r, 2, 3))
        reset = Part("hm", beside(at_z, at_r), t.rows(t.r, 0, 2))
        return Sweep(Part("hmh", into, t.w), again, e.one, self.r, keep, e.zero, e.zero, reset)


class Rnn:
    """h = F(W x + R h' + b), with h' before."""

    states = "h"

    def __init__(self, t: Track) -> None:
        self.t = t
        self.linear = by(t.x, t.w) + by(t.before, t.r)

    def relevance(self, stab: Transform, bias: Transform) -> Sweep:
        """h hands on to its sum, which gives to x and h'."""
        t, e = self.t, self.linear.emit
        b = bias(t.wb + t.rb)
        z = self.linear + b
        under = t.denominator(stab, z)
        into = t.masked(1.0 / under)
        return Sweep(
            Part("h", into, t.w), Part("h", into, t.r), t.x, t.before, t.idle, e.zero, e.zero,
            bias=lambda of, s: [s * b],
            epsilon=lambda of, s: [s * (under - z)],
        )  # fmt: skip

    def derivative(self) -> Sweep:
        """Back through time."""
        t, e = self.t, self.linear.emit
        factor = t.masked(t.functions[0].slope(self.linear + (t.wb + t.rb)))
        return Sweep(Part("h", factor, t.w), Part("h", factor, t.r), e.one, e.one, t.idle, e.zero, e.zero)


Cell = Lstm | Gru | Rnn
CELLS: Mapping[str, type[Lstm] | type[Gru] | type[Rnn]] = {"LSTM": Lstm, "GRU": Gru, "RNN": Rnn}
