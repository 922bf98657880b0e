"""What each operator does with relevance, written down a second time, in numpy and float64, importing nothing of onnxlrp.

A law looks at one node: its inputs, its output y, the relevance r of y, and `run`, the node's own forward pass in
another implementation. It yields pairs of numbers that must agree: what was found, and what the law says. A linear map
is only ever asked for differences, m(v) = f(v ⊙ x) − f(0), with v one input element alone or a random half of them:
Σ_j v_j r_j must be Σ_k r_k m_k(v) / stab(z_k). Copies and maxima are run on numbered elements, so their laws are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from recurrent_reference import Cell

Array = npt.NDArray[Any]
ONE_HOTS, HALVES = 96, 4  # directions tried on a large input; a small one is tried element by element


@dataclass(frozen=True)
class Node:
    """One node with data. active: positions of the explained inputs; found: their relevance; run: {position: x} -> y."""

    op: str
    attrs: Mapping[str, Any]
    inputs: Sequence[Array | None]
    active: tuple[int, ...]
    y: Array
    r: Array
    found: Mapping[int, Array]
    run: Callable[[Mapping[int, Array]], Array]

    def x(self, i: int) -> Array:
        """Input i in float64."""
        value = self.inputs[i]
        assert value is not None
        return value.astype(np.float64)

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def joined(self, values: Mapping[int, Array]) -> Array:
        """Arrays of several inputs as one vector."""
        return np.concatenate([np.ravel(values[i]) for i in sorted(values)])

    def parted(self, vector: Array, positions: Sequence[int]) -> dict[int, Array]:
        """A vector laid out as the inputs at these positions, in their types."""
        out, start = {}, 0
        for i in positions:
            x = self.inputs[i]
            assert x is not None
            out[i] = vector[start : start + x.size].reshape(x.shape).astype(x.dtype)
            start += x.size
        return out


class Pair(NamedTuple):
    """What was found, what the law says, and how large an error counts as rounding (per unit of tolerance; 0: exact)."""

    what: str
    found: Array | float
    law: Array | float
    scale: float


Law = Callable[[Node], Iterator[Pair]]


def stab(z: Array, epsilon: float = 1e-6) -> Array:
    """z + ε if z ≥ 0 else z − ε."""
    return np.where(z >= 0, z + epsilon, z - epsilon)


def unbroadcast(r: Array, shape: tuple[int, ...]) -> Array:
    """r summed over the axes along which an operand of this shape was broadcast."""
    r = r.sum(tuple(range(r.ndim - len(shape))))
    return r.sum(tuple(a for a, d in enumerate(shape) if d == 1 and r.shape[a] != 1), keepdims=True).reshape(shape)


def equal(n: Node, **law: Array) -> Iterator[Pair]:
    """The relevance of whole inputs, element by element."""
    for name, value in law.items():
        i = int(name[1:])
        yield Pair(f"input {i}", n.found[i], value, max(float(np.abs(value).max(initial=0)), float(np.abs(n.r).max(initial=0))))


def attribute(n: Node, name: str, default: str) -> str:
    value = n.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


# linear maps -------------------------------------------------------------------------------------------------------------


def directions(size: int) -> Iterator[Array]:
    """Boolean vectors: single elements, and halves of all."""
    rng = np.random.default_rng(size)
    places = range(size) if size <= ONE_HOTS else sorted(rng.choice(size, ONE_HOTS, replace=False))
    for at in places:
        v = np.zeros(size, bool)
        v[at] = True
        yield v
    for _ in range(HALVES):
        yield rng.random(size) < 0.5


def proportional(
    n: Node, active: tuple[int, ...], whole: Array, part: Callable[[Array], Array], share: float
) -> Iterator[Pair]:
    """Σ_j v_j r_j = share Σ_k r_k part_k(v ⊙ x) / stab(whole_k) for every direction v."""
    x = n.joined({i: n.x(i) for i in active})
    found = n.joined({i: n.found[i].astype(np.float64) for i in active})
    s = share * n.r / stab(whole)
    largest = float(np.abs(found).max(initial=0))
    for v in directions(x.size):
        terms = s * part(n.run(n.parted(np.where(v, x, 0), active)))
        what = f"element {int(np.argmax(v))}" if v.sum() == 1 else "a half of the elements"
        # what is summed may be much larger than the sum: its rounding is that of its terms
        scale = max(largest, float(np.abs(found[v]).sum()), float(np.abs(terms).sum()))
        yield Pair(what, float(found[v].sum()), float(terms.sum()), scale)


def linear(n: Node, active: tuple[int, ...] | None = None, share: float = 1.0) -> Iterator[Pair]:
    """r_x = x ⊙ Jᵀ(r / stab(z)), z the output with its bias: LINEAR with and without a weight, SUM."""
    active = n.active if active is None else active
    none = n.run(n.parted(np.zeros(sum(n.x(i).size for i in active)), active))
    return proportional(n, active, n.y, lambda y: y - none, share)


def product(n: Node) -> Iterator[Pair]:
    """k active operands: each gets 1/k of what it gets as the only one."""
    for i in n.active:
        yield from linear(n, (i,), 1 / len(n.active))


def lp_pool(n: Node) -> Iterator[Pair]:
    """In proportion to |x|ᵖ, p of the attribute: the pool of a part, to the power of p, is that part's sum."""
    p = int(n.attrs.get("p", 2))
    return proportional(n, n.active, np.abs(n.y) ** p, lambda y: np.abs(y) ** p, 1.0)


# copies and maxima -------------------------------------------------------------------------------------------------------


def send(n: Node, source: Array) -> Iterator[Pair]:
    """r goes where source says: a number among the elements of the active inputs, or −1 for nowhere. Exact."""
    law = np.zeros(sum(n.x(i).size for i in n.active))
    np.add.at(law, source[source >= 0], n.r[source >= 0])
    for i, value in n.parted(law, n.active).items():
        yield Pair(f"input {i}", n.found[i], value, 0.0)


def move(n: Node) -> Iterator[Pair]:
    """The exact adjoint of the copy; what no active element wrote is lost. Elements are numbered in two digits."""
    size, base = sum(n.x(i).size for i in n.active), 128
    number = np.arange(size)
    low, more, high = (n.run(n.parted(d, n.active)) for d in (number % base, number % base + 1, number // base))
    copied = more - low == 1
    assert np.all(copied | (more == low)), f"{n.op} is no copy"
    return send(n, np.where(copied, high * base + low, -1).astype(int))


def select(n: Node) -> Iterator[Pair]:
    """To the winner, the first one on ties: the node is run on ranks in which the first of equal values is the best."""
    every = {"Max": range(len(n.inputs)), "Min": range(len(n.inputs)), "ScatterElements": (0, 2), "ScatterND": (0, 2)}
    operands = tuple(every.get(n.op, n.active))
    x = n.joined({i: n.x(i) for i in operands})
    smallest = n.op in ("Min", "ReduceMin") or attribute(n, "reduction", "none") == "min"
    smallest = smallest or (n.op == "TopK" and not n.attrs.get("largest", 1))
    order = np.lexsort((np.arange(x.size) * (1 if smallest else -1), x))
    rank = np.empty(x.size, int)
    rank[order] = np.arange(1, x.size + 1)
    best = n.run(n.parted(rank, operands))
    number = np.full(x.size + 1, -1)
    frozen = np.concatenate([np.full(n.x(i).size, i not in n.active) for i in operands])
    number[1:] = np.where(frozen[order], -1, (np.cumsum(~frozen) - 1)[order])
    return send(n, number[np.where((best >= 1) & (best <= x.size), best, 0).astype(int)])


# element by element ------------------------------------------------------------------------------------------------------


def winner(n: Node) -> Iterator[Pair]:
    """A maximum of weighted elements: each output's r to the one element that makes it smaller when it gets smaller."""
    x = n.x(0)
    law = np.zeros(x.size)
    owners = np.zeros(n.y.shape)
    base = n.run({})
    for at in range(x.size):
        less = np.ravel(x).copy()
        less[at] -= 1e-3 * abs(less[at])
        mine = n.run(n.parted(less, (0,))) != base
        owners += mine
        law[at] = n.r[mine].sum()
    assert np.all(owners <= 1), "several elements make one output"
    return equal(n, x0=law.reshape(x.shape))


def passing(n: Node) -> Iterator[Pair]:
    """POINTWISE, and norms whose factor is frozen: r, summed over what was broadcast."""
    (i,) = n.active
    return equal(n, **{f"x{i}": unbroadcast(n.r, n.x(i).shape)})


def scale(n: Node) -> Iterator[Pair]:
    """Mul or Div with one frozen operand: r where that is not 0 (a frozen denominator always passes)."""
    (i,) = n.active
    other = n.x(1 - i)
    zero = (other == 0) & (n.op == "Mul" or i == 1)
    return equal(n, **{f"x{i}": unbroadcast(np.where(zero, 0, n.r), n.x(i).shape)})


def multiply(n: Node) -> Iterator[Pair]:
    """Two active operands: r/2 to each, also where the product is 0."""
    return equal(n, **{f"x{i}": unbroadcast(n.r / 2, n.x(i).shape) for i in n.active})


def ratio(n: Node) -> Iterator[Pair]:
    """The numerator gets r, the denominator nothing."""
    return equal(n, x0=unbroadcast(n.r, n.x(0).shape), x1=np.zeros(n.x(1).shape))


# whole axes --------------------------------------------------------------------------------------------------------------


def softmax_of(x: Array, axes: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axes, keepdims=True, initial=-np.inf))
    return e / e.sum(axes, keepdims=True)


MEASURES: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "ReduceL1": lambda x, axes: np.abs(x),
    "ReduceL2": lambda x, axes: x**2,
    "ReduceSumSquare": lambda x, axes: x**2,
    "ReduceLogSum": lambda x, axes: x,
    "ReduceLogSumExp": softmax_of,
    "ReduceProd": lambda x, axes: np.full(x.shape, 1 / max(np.prod([x.shape[a] for a in axes]), 1)),
}


def reduce(n: Node) -> Iterator[Pair]:
    """r_x = p r / stab(Σ p), p the part that each element has in the whole."""
    x = n.x(0)
    given = np.ravel(n.inputs[1]) if n.has(1) else n.attrs.get("axes", ())
    every = () if n.attrs.get("noop_with_empty_axes", 0) else range(x.ndim)
    axes = tuple(int(a) % x.ndim for a in given) if len(given) else tuple(every)
    p = MEASURES[n.op](x, axes)
    whole = p.sum(axes, keepdims=True)
    return equal(n, x0=p * (n.r.reshape(whole.shape) / stab(whole)))


def factors(n: Node) -> Iterator[Pair]:
    """Equal parts to the factors of each product, as in ReduceProd. With a 2 among ones, the products that hold it are 2."""
    x = n.x(0)
    count = np.log2(n.run({0: np.full_like(n.inputs[0], 2)}))
    law = np.zeros(x.size)
    for at in range(x.size):
        ones = np.ones(x.size)
        ones[at] = 2
        law[at] = np.where(n.run(n.parted(ones, (0,))) == 2, n.r / np.maximum(count, 1), 0).sum()
    return equal(n, x0=law.reshape(x.shape))


def centred(n: Node, parts: tuple[int, ...], epsilon: float, gamma: Array) -> Array:
    """x ⊙ (t − mean t), t = γ/σ · r/stab(y); parts: a shape of x in which the last axis is normalised together."""
    x = n.x(0)
    deviation = np.sqrt(x.reshape(parts).var(-1, keepdims=True) + epsilon)
    t = (gamma * n.r / stab(n.y)).reshape(parts) / deviation
    return x * (t - t.mean(-1, keepdims=True)).reshape(x.shape)


def layer_norm(n: Node) -> Iterator[Pair]:
    """Over the axes from `axis` to the last."""
    shape = n.x(0).shape
    parts = (*shape[: n.attrs.get("axis", -1) % len(shape)], -1)
    return equal(n, x0=centred(n, parts, n.attrs.get("epsilon", 1e-5), n.x(1)))


def channel_norm(n: Node) -> Iterator[Pair]:
    """Instance and group normalisation: scale per channel (per group in opset 18), over groups of channels and space."""
    shape = n.x(0).shape
    gamma = np.repeat(n.x(1), shape[1] // n.x(1).size).reshape(-1, *[1] * (len(shape) - 2))
    parts = (shape[0], n.attrs.get("num_groups", shape[1]), -1)
    return equal(n, x0=centred(n, parts, n.attrs.get("epsilon", 1e-5), gamma))


def mean_variance_norm(n: Node) -> Iterator[Pair]:
    """Over the axes of the attribute: (x − μ)/(σ + 1e-9)."""
    x, axes = n.x(0), tuple(n.attrs.get("axes", (0, 2, 3)))
    t = n.r / stab(n.y) / (x.std(axes, keepdims=True) + 1e-9)
    return equal(n, x0=x * (t - t.mean(axes, keepdims=True)))


def softmax(n: Node) -> Iterator[Pair]:
    """r_x = x ⊙ (r − y Σ r) along the axis; before opset 13 along all axes from it on."""
    x, axis = n.x(0), n.attrs.get("axis", -1)
    return equal(n, x0=np.where(np.isneginf(x), 0, x) * (n.r - n.y * n.r.sum(axis, keepdims=True)))


def log_softmax(n: Node) -> Iterator[Pair]:
    """r_x = x ⊙ Jᵀ(r / stab(y)) with J = I − 1 pᵀ along the axis, p = exp y."""
    axis, s = n.attrs.get("axis", -1), n.r / stab(n.y)
    return equal(n, x0=n.x(0) * (s - np.exp(n.y) * s.sum(axis, keepdims=True)))


def recurrent(n: Node) -> Iterator[Pair]:
    """By Arras et al., step by step (recurrent_reference.py); the output is known by its values."""
    given = [n.x(i) if n.has(i) else None for i in range(8)]
    x, first = given[0], given[5:7]
    turned = bool(n.attrs.get("layout", 0))
    assert x is not None
    x = x.swapaxes(0, 1) if turned else x
    states = [s if s is None or not turned else s.swapaxes(0, 1) for s in first]
    attrs = {k: [a.decode() for a in v] if k == "activations" else v for k, v in n.attrs.items()}
    attrs |= {"direction": attribute(n, "direction", "forward")}
    cell = Cell(n.op, given[1], given[2], given[3], given[7], attrs)
    lens = None if given[4] is None else given[4].astype(int)
    back = (lambda t: np.moveaxis(t, -2, 0)) if turned else (lambda t: t)
    made = [back(y) for y in cell.forward(x, lens, *states)]
    which = next(i for i, y in enumerate(made) if y.shape == n.y.shape and np.allclose(y, n.y, atol=1e-5))
    r = np.moveaxis(n.r, 0, -2) if turned else n.r
    law = cell.relevance(x, [r if i == which else None for i in range(3)], lens, *states)
    r_x = law["x"].swapaxes(0, 1) if turned else law["x"]
    yield Pair("input 0", n.found[0], r_x, law["size"])


def scan(n: Node) -> Iterator[Pair]:
    """A running sum is linear. A running product halves r at each step: the last factor has r/2, the first two r/2ᵀ."""
    first, last = n.active
    summed = np.allclose(n.run(n.parted(np.zeros(n.x(first).size + n.x(last).size), n.active)), 0) and np.allclose(
        n.run({i: np.asarray(2 * n.x(i), np.float32) for i in n.active}), 2 * n.y
    )
    if summed:
        return linear(n)
    steps = len(n.x(last))
    halves = 0.5 ** np.arange(steps, 0, -1).reshape(-1, *[1] * n.r.ndim)
    return equal(n, **{f"x{first}": n.r * 0.5**steps, f"x{last}": n.r * halves})


# the table ---------------------------------------------------------------------------------------------------------------
