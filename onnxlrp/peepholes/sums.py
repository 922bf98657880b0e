"""Element-wise peepholes: fewer passes over memory. Each docstring is its algebra."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .scope import Scope, fold_shape, number, source

__all__ = ["epsilon_in_bias", "factor", "narrow", "one_batch", "scaled", "sign_free", "unexpanded"]


def factor(node: gs.Node, g: Scope) -> None:
    """x a ± x b  =  x (a ± b). Where b is an adjoint through a constant weight, its sign goes there and the sum is an Add."""
    first, second = (source(t, "Mul") if g.only(t) else None for t in node.inputs)
    if first is None or second is None or first is second:
        return
    common = [x for x in first.inputs if not isinstance(x, gs.Constant) and any(x is y for y in second.inputs)]
    if not common:
        return
    rest = [other_of(p, common[0]) for p in (first, second)]
    op = node.op
    if op == "Sub" and scale_weight(rest[1], g.constant(-1.0, "float32"), g):
        op = "Add"
    shape = g.shape(rest[0]) if g.like(*rest) else None
    g.become(node, "Mul", [common[0], g.make(node, "sum", op, *rest, shape=shape)])


def other_of(product: gs.Node, x: gs.Tensor) -> gs.Tensor:
    """The factor beside x."""
    return product.inputs[1 if product.inputs[0] is x else 0]


def scaled(node: gs.Node, g: Scope) -> None:
    """α (x ⊙ Aᵀ(s; w))  =  x ⊙ Aᵀ(s; α w)."""
    factors = [t for t in node.inputs if number(t) is not None]
    others = [t for t in node.inputs if number(t) is None]
    if len(factors) != 1 or not g.only(others[0]):
        return
    inner = source(others[0], "Mul")
    if inner is not None and any(scale_weight(c, factors[0], g) for c in inner.inputs):
        g.become(node, "Mul", inner.inputs)


def scale_weight(c: gs.Tensor, by: gs.Tensor, g: Scope) -> bool:
    """Multiply the constant weight of the adjoint that makes c, if nothing else reads c."""
    conv = source(c, "ConvTranspose") if g.only(c) else None
    if conv is None or fold_shape(conv.inputs[1]) is None:
        return False
    w = g.make(conv, f"scaled_by_{number(by):g}", "Mul", conv.inputs[1], by)
    g.become(conv, conv.op, [conv.inputs[0], w, *conv.inputs[2:]], **conv.attrs)
    return True


def sign_free(node: gs.Node, g: Scope) -> None:
    """z t / stab(z)  =  t |z| / (|z| + ε): no comparison, and a quotient that does not wait for t."""
    product, d = source(node.inputs[0], "Mul"), source(node.inputs[1], "Add")
    if product is None or d is None or not g.only(node.inputs[0]):
        return
    z, step = d.inputs[0], signless_step(d)
    if step is None or not any(x is z for x in product.inputs):
        return
    t, below = other_of(product, z), node.inputs[1]
    if step is not d.inputs[1]:
        z = g.make(node, "size", "Abs", z, shape=g.shape(z))
        below = g.make(node, "grown", "Add", z, step, shape=g.shape(z))
    g.become(node, "Mul", [g.make(node, "part", "Div", z, below, shape=g.shape(z)), t])


def signless_step(d: gs.Node) -> gs.Tensor | None:
    """ε of z + ε, z >= 0, or of z + Where(z >= 0, ε, -ε); None for other sums."""
    if (number(d.inputs[1]) or 0) > 0:
        return d.inputs[1]
    step = source(d.inputs[1], "Where")
    if step is None:
        return None
    chosen = source(step.inputs[0], "GreaterOrEqual")
    return step.inputs[1] if chosen is not None and chosen.inputs[0] is d.inputs[0] and number(chosen.inputs[1]) == 0 else None


def unexpanded(node: gs.Node, g: Scope) -> None:
    """x ∘ Expand(v, shape of x)  =  x ∘ v."""
    for i in (0, 1):
        grown, other = source(node.inputs[i], "Expand"), node.inputs[1 - i]
        if grown is not None and isinstance(grown.inputs[0], gs.Constant) and g.like(node.inputs[i], other):
            if node.op == "Mul" and number(grown.inputs[0]) == 1:
                g.become(node, "Identity", [other])
                return
            inputs = [other, grown.inputs[0]] if i else [grown.inputs[0], other]
            g.become(node, node.op, inputs)
            return


def one_batch(node: gs.Node, g: Scope) -> None:
    """A(Expand(v, shape of x)) ∘ r  =  A(Expand(v, [1, …])) ∘ r: a constant that is computed once, at load."""
    grown = source(node.inputs[0], "Expand")
    if grown is None or not isinstance(grown.inputs[0], gs.Constant) or fold_shape(node.inputs[1]) is None:
        return
    shape = g.shape(node.inputs[0])
    if shape is None or isinstance(shape[0], int) or not all(isinstance(d, int) for d in shape[1:]):
        return
    if broadcasts(node.outputs[0], shape[0], g):
        sizes = g.constant([1, *shape[1:]])
        one = g.make(node, "one", "Expand", grown.inputs[0], sizes, shape=(1, *shape[1:]))
        g.become(node, node.op, [one, *node.inputs[1:]], **node.attrs)


WIDENING = frozenset("Add Sub Mul Div".split())


def broadcasts(t: gs.Tensor, batch: object, g: Scope) -> bool:
    """Whether all readers combine t with a tensor that has the whole batch, at once or after steps with constants."""
    if t.name in g.kept:
        return False
    for user in g.users(t):
        if user.op not in WIDENING:
            return False
        others = [x for x in user.inputs if x is not t]
        shape = g.shape(others[0]) if others else None
        full = shape is not None and shape[:1] == (batch,) and shape == g.shape(user.outputs[0])
        alone = bool(others) and isinstance(others[0], gs.Constant)
        if not full and not (alone and broadcasts(user.outputs[0], batch, g)):
            return False
        own = source(others[0], "Conv", "Gemm") if full else None
        if own is not None and source(own.inputs[0], "Expand") is not None:
            return False  # the other one is such a constant itself
    return True


def epsilon_in_bias(node: gs.Node, g: Scope) -> None:
    """Conv(x, w, b) + ε  =  Conv(x, w, b + ε)."""
    for t, step in (node.inputs, node.inputs[::-1]):
        conv = source(t, "Conv")
        if conv is None or number(step) is None or not g.only(t):
            continue
        shape = fold_shape(conv.inputs[1])
        if shape is None:
            continue
        if len(conv.inputs) > 2 and conv.inputs[2].name:
            b = g.make(node, "bias", "Add", conv.inputs[2], step)
        else:
            b = g.make(node, "bias", "Expand", step, g.constant(shape[:1]))
        g.become(node, "Conv", [*conv.inputs[:2], b], **conv.attrs)
        return


def narrow(node: gs.Node, g: Scope) -> None:
    """x Aᵀ(s; w) − l Aᵀ(s; w⁺) − h Aᵀ(s; w⁻)  =  (x − l) Aᵀ(s; w⁺) + (x − h) Aᵀ(s; w⁻), because w = w⁺ + w⁻."""
    inner = source(node.inputs[0], "Sub") if g.only(node.inputs[0]) else None
    if inner is None:
        return
    found = [source(t, "Mul") if g.only(t) else None for t in (inner.inputs[0], inner.inputs[1], node.inputs[1])]
    pairs = [_through_weight(p) for p in found if p is not None]
    if len(pairs) != 3 or any(p is None for p in pairs):
        return
    (x, whole), (low, up), (high, down) = (p for p in pairs if p is not None)
    made = [source(up.inputs[1], "Relu"), source(down.inputs[1], "Min")]
    parts_of_w = all(m is not None and m.inputs[0] is whole.inputs[1] for m in made)
    if not parts_of_w or any(c.op != whole.op or c.inputs[0] is not whole.inputs[0] for c in (up, down)):
        return
    shape = g.shape(x)
    parts = [
        g.make(node, role, "Mul", g.make(node, f"{role}_distance", "Sub", x, bound, shape=shape), c.outputs[0], shape=shape)
        for role, bound, c in (("low", low, up), ("high", high, down))
    ]
    g.become(node, "Add", parts)


def _through_weight(product: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
    """(x, adjoint) of x ⊙ Aᵀ(s; w)."""
    for x, c in (product.inputs, product.inputs[::-1]):
        adjoint = source(c, "ConvTranspose", "Gemm", "MatMul")
        if adjoint is not None:
            return x, adjoint
    return None
