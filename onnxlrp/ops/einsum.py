"""Einsum: any equation with explicit or implicit output and ellipsis, linear in each operand."""

from __future__ import annotations

import string

from ..facts import subscripts
from ..linear import Kind, LinearMap, Reading
from ..tensor import Tensor
from .registry import View, op


def letters(v: View) -> tuple[list[str], str]:
    """Letters of each operand and of the output."""
    return subscripts(str(v.attr("equation")), [v.need(i).rank for i in range(len(v.node.inputs))])


def _refuse(v: View) -> str | None:
    unknown = any(v.x(i) is None or v.need(i).shape is None for i in range(len(v.node.inputs)))
    return "the rank of an operand is unknown" if unknown else None


def off_diagonal(v: View) -> tuple[list[str], str, list[tuple[str, Tensor]]]:
    """`letters` with no letter twice in an operand, and the identity matrices that pick the diagonals: bii -> bij,ij."""
    e, (terms, out) = v.e, letters(v)
    free = iter(c for c in string.ascii_letters if c not in "".join(terms))
    apart, eyes = [], []
    for i, term in enumerate(terms):
        x, spelled = v.need(i), ""
        for axis, letter in enumerate(term):
            if letter in spelled:
                n = e.dim(x, axis)
                size = x.shape[axis] if x.shape is not None else None
                square = e.op("Expand", e.zero, e.concat([n, n]), shape=(size, size))
                fresh = next(free)
                eyes.append((letter + fresh, e.op("EyeLike", square, shape=(size, size))))
                letter = fresh
            spelled += letter
        apart.append(spelled)
    return apart, out, eyes


def einsum_kind(v: View) -> Kind:
    if len(v.node.inputs) == 1:
        return Kind.LINEAR
    return Kind.WEIGHTED if len(v.actives()) == 1 else Kind.PRODUCT


@op("Einsum", einsum_kind, "Dense", "Linear", kinds=(Kind.WEIGHTED, Kind.PRODUCT, Kind.LINEAR), data=None, refuse=_refuse)
def einsum(v: View) -> Reading:
    """y = Σ Π operands: linear in each active operand with the others as its weight."""
    maps = tuple(operand(v, i) for i in v.actives())
    if len(maps) == 1:
        return v.linear(einsum_kind(v), maps[0])
    return v.reading(Kind.PRODUCT, tuple(m.xs[0] for m in maps), maps=maps)


def operand(v: View, index: int) -> LinearMap:
    """The equation as linear in one operand; its weight is the next operand, the remaining ones stay as they are."""
    e, y = v.e, v.y
    terms, out, eyes = off_diagonal(v)
    operands = [v.need(i) for i in range(len(terms))]
    x, weight = operands[index], (index + 1) % len(terms)
    w = operands[weight] if len(terms) > 1 else e.one

    def product(letters: str, parts: dict[int, tuple[str, Tensor]], scale: Tensor) -> Tensor:
        factors = [*parts.values(), *eyes]
        equation = ",".join(t for t, _ in factors) + "->" + letters
        z = e.op("Einsum", *(t for _, t in factors), shape=(None,) * len(letters), equation=equation)
        return scale * z if len(terms) == 1 else z

    def with_weight(w: Tensor) -> dict[int, tuple[str, Tensor]]:
        return {i: (terms[i], w if i == weight and len(terms) > 1 else t) for i, t in enumerate(operands)}

    def apply(xs: tuple[Tensor, ...], w: Tensor, b: Tensor) -> Tensor:
        z = product(out, {**with_weight(w), index: (terms[index], e.expand_like(xs[0], x))}, w)
        z.shape = y.shape
        return z + b

    def adjoint(s: Tensor, w: Tensor) -> list[Tensor]:
        parts = {**with_weight(w), index: (out, s)}
        known = set("".join(t for t, _ in (*parts.values(), *eyes)))
        kept = "".join(c for c in terms[index] if c in known)  # letters of x alone were summed: spread evenly
        c = product(kept, parts, w)
        lost = [a for a, letter in enumerate(terms[index]) if letter not in known]
        return [c if not lost else e.op("Unsqueeze", c, e.ints(*lost), shape=(None,) * len(terms[index]))]

    return LinearMap((x,), w, e.zero, y, apply, adjoint)
