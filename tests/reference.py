"""Every LRP rule for ONE linear layer and ONE sample, in dense matrix form: slow, float64, and obviously right.

The layer is z_k = Σ_j x_j W_jk + b_k, with x (J,), W (J,K), b (K,), and r (K,) the relevance of its outputs. A rule
says how large the contribution q_jk of input j to output k is; then r_j = Σ_k q_jk r_k / stab(Σ_i q_ik + b_k).
This file judges the compiler: it imports nothing of onnxlrp and uses the papers' (x_j w_jk)⁺, not x⁺w⁺ + x⁻w⁻.
`bookkeeping`, on the other hand, reads the table of shares, with x⁺, x⁻, w⁺, w⁻ apart, so the two check each other.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_] | None
Shares = Iterator[tuple[float, Array, Array]]  # (ρ, contributions q (J,K), bias (K,)), one per share


def pos(v: Array) -> Array:
    return np.maximum(v, 0.0)


def neg(v: Array) -> Array:
    return np.minimum(v, 0.0)


def stab(z: Array, epsilon: float = 1e-6, relative: bool = False, signed: bool = True) -> Array:
    """z + e if z ≥ 0 else z − e; e = ε, or ε·RMS(z) + 1e-9 when relative; z + e always when not signed."""
    e = epsilon * np.sqrt(np.mean(z**2)) + 1e-9 if relative else epsilon
    return np.where((z >= 0) | (not signed), z + e, z - e)


def epsilon_rule(x: Array, w: Array, b: Array) -> Shares:
    """q = x_j w_jk, bias b (Zero: the same, with ε = 1e-9). Bach 2015; relative: Montavon 2019 §10.2."""
    yield 1.0, x[:, None] * w, b


def gamma_rule(x: Array, w: Array, b: Array, gamma: float = 0.25) -> Shares:
    """q = x_j (w_jk + γ w_jk⁺), bias b + γ b⁺. Montavon 2019."""
    yield 1.0, x[:, None] * (w + gamma * pos(w)), b + gamma * pos(b)


def generalized_gamma(x: Array, w: Array, b: Array, gamma: float = 0.25) -> Shares:
    """z_k > 0: q = x_j w_jk + γ (x_j w_jk)⁺, bias b + γ b⁺; z_k < 0: the same with ⁻; z_k = 0: none. Andéol 2021.

    z is the layer's own output, its bias included whatever the policy. `relevance` does the gating."""
    for side in (pos, neg):
        yield 1.0, x[:, None] * w + gamma * side(x[:, None] * w), b + gamma * side(b)


def z_plus(x: Array, w: Array, b: Array) -> Shares:
    """q = (x_j w_jk)⁺, bias b⁺. Montavon 2017."""
    yield 1.0, pos(x[:, None] * w), pos(b)


def alpha_beta(x: Array, w: Array, b: Array, alpha: float = 2.0, beta: float = 1.0) -> Shares:
    """r_j = Σ_k (α (x_j w_jk)⁺ / Σ(…)⁺ − β (x_j w_jk)⁻ / Σ(…)⁻) r_k, bias b⁺ and b⁻. Bach 2015 eq. 60."""
    yield alpha, pos(x[:, None] * w), pos(b)
    yield -beta, neg(x[:, None] * w), neg(b)


def z_box(x: Array, w: Array, b: Array, low: npt.ArrayLike, high: npt.ArrayLike) -> Shares:
    """q = x_j w_jk − l_j w_jk⁺ − h_j w_jk⁻, no bias; l, h scalar or (J,). Montavon 2017."""
    lo, hi = (np.broadcast_to(np.asarray(bound, np.float64), x.shape)[:, None] for bound in (low, high))
    yield 1.0, x[:, None] * w - lo * pos(w) - hi * neg(w), np.zeros_like(b)


def w_square(x: Array, w: Array, b: Array) -> Shares:
    """q = w_jk², no bias. Montavon 2017."""
    yield 1.0, w**2, np.zeros_like(b)


def flat(x: Array, w: Array, b: Array) -> Shares:
    """q = 1 for every connection that exists, no bias. Lapuschkin 2019."""
    yield 1.0, np.ones_like(w), np.zeros_like(b)


SHARES: dict[str, Callable[..., Shares]] = {
    "Zero": epsilon_rule,
    "Epsilon": epsilon_rule,
    "Gamma": gamma_rule,
    "GeneralizedGamma": generalized_gamma,
    "ZPlus": z_plus,
    "AlphaBeta": alpha_beta,
    "ZBox": z_box,
    "WSquare": w_square,
    "Flat": flat,
}


def weight(W: Array, weightless: bool, mask: Mask) -> tuple[Array, Array]:
    """The layer as z_k = Σ_j x_j w_jk m_jk: a weight w that rules transform, and a fixed map m that they do not."""
    present = np.ones(W.shape) if mask is None else mask.astype(np.float64)
    return (np.ones(W.shape), W * present) if weightless else (W, present)


def gates(rule: str, z: Array, r: Array) -> list[Array]:
    """The part of r that each share passes on: all of it, but for GeneralizedGamma r where z > 0 and r where z < 0."""
    return [np.where(z > 0, r, 0.0), np.where(z < 0, r, 0.0)] if rule == "GeneralizedGamma" else [r, r]


def policy(rule: str, bias: str, b: Array, split: Array) -> Array:
    """The bias of a share: "split" as in the rule's formula, "ignore" none, "full" all of b, "square" b² (WSquare)."""
    if bias == "square" and rule != "WSquare":
        raise ValueError(f"bias='square' belongs to WSquare, not to {rule}")
    return {"split": split, "ignore": np.zeros_like(b), "full": b, "square": b**2}[bias]


def relevance(
    rule: str, x: Array, W: Array, b: Array, r: Array, *,
    bias: str = "split", weightless: bool = False, mask: Mask = None,
    epsilon: float | None = None, relative: bool = False, signed: bool = True, **fields: npt.ArrayLike,
) -> Array:  # fmt: skip
    """r_j = Σ_share ρ Σ_k q_jk gate(r)_k / stab(Σ_i q_ik + b_k).

    `weightless`: the layer's weight is the constant ONE (average pooling …), W is a map that no weight transform
    touches. `mask` (J,K): the connections that exist, all by default; one that exists may still weigh 0.
    """
    x, W, b, r = (np.asarray(v, np.float64) for v in (x, W, b, r))
    epsilon = (1e-9 if rule == "Zero" else 1e-6) if epsilon is None else epsilon
    w, m = weight(W, weightless, mask)
    r_x = np.zeros_like(x)
    gated = gates(rule, np.einsum("j,jk,jk->k", x, w, m) + b, r)
    for (rho, contributions, split), r_k in zip(SHARES[rule](x, w, b, **fields), gated, strict=False):
        q = contributions * m
        z = q.sum(axis=0) + policy(rule, bias, b, split)
        r_x += rho * np.einsum("jk,k->j", q, r_k / stab(z, epsilon, relative, signed))
    return r_x


RULES: dict[str, Callable[..., Array]] = {rule: partial(relevance, rule) for rule in SHARES}


def bookkeeping(
    rule: str, x: Array, W: Array, b: Array, r: Array, *,
    bias: str = "split", weightless: bool = False, mask: Mask = None,
    epsilon: float | None = None, relative: bool = False, signed: bool = True,
    gamma: float = 0.25, alpha: float = 2.0, beta: float = 1.0, low: npt.ArrayLike = 0.0, high: npt.ArrayLike = 0.0,
) -> float:  # fmt: skip
    """Σ_j r_j = Σ_share ρ Σ_k gate(r)_k (z_k − b_k) / stab(z_k), z_k − b_k = Σ_t σ_t A(x_t; w_t)_k, from the table."""
    x, W, b, r = (np.asarray(v, np.float64) for v in (x, W, b, r))
    epsilon = (1e-9 if rule == "Zero" else 1e-6) if epsilon is None else epsilon
    w, m = weight(W, weightless, mask)
    wide, narrow, no, one = w + gamma * pos(w), w + gamma * neg(w), np.zeros_like(b), np.ones_like(x)

    def A(u: npt.ArrayLike, v: Array) -> Array:
        return np.broadcast_to(np.asarray(u, np.float64), x.shape) @ (v * m)

    shares = {  # rule: (ρ, Σ_t σ_t A(x_t; w_t), bias), one per share
        "Zero": [(1.0, A(x, w), b)],
        "Epsilon": [(1.0, A(x, w), b)],
        "Gamma": [(1.0, A(x, wide), b + gamma * pos(b))],
        "GeneralizedGamma": [(1.0, A(pos(x), wide) + A(neg(x), narrow), b + gamma * pos(b)),
                             (1.0, A(pos(x), narrow) + A(neg(x), wide), b + gamma * neg(b))],
        "ZPlus": [(1.0, A(pos(x), pos(w)) + A(neg(x), neg(w)), pos(b))],
        "AlphaBeta": [(alpha, A(pos(x), pos(w)) + A(neg(x), neg(w)), pos(b)),
                      (-beta, A(pos(x), neg(w)) + A(neg(x), pos(w)), neg(b))],
        "ZBox": [(1.0, A(x, w) - A(low, pos(w)) - A(high, neg(w)), no)],
        "WSquare": [(1.0, A(one, w**2), no)],
        "Flat": [(1.0, A(one, np.ones_like(w)), no)],
    }  # fmt: skip
    total = 0.0
    for (rho, without_bias, split), r_k in zip(shares[rule], gates(rule, A(x, w) + b, r), strict=False):
        z = without_bias + policy(rule, bias, b, split)
        total += rho * float(np.sum(r_k * without_bias / stab(z, epsilon, relative, signed)))
    return total


def dense(apply: Callable[[Array], npt.ArrayLike], shape: Sequence[int]) -> tuple[Array, Array]:
    """b = apply(0), W[j] = apply(e_j) − b, everything flattened in C order.

    The `mask` of a convolution is `dense` of the same layer with every weight 1 and no bias, `!= 0`."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    b = np.asarray(apply(np.zeros(shape)), np.float64).ravel()
    return np.stack([np.asarray(apply(unit), np.float64).ravel() - b for unit in units]), b


def winner(x: Array, windows: Sequence[Sequence[int]], r: Array) -> Array:
    """Max-pooling, WinnerTakesAll: r_k goes to the first maximum of x (J,) over window k, a list of indices."""
    r_x = np.zeros(x.shape)
    for window, r_k in zip(windows, r, strict=True):
        r_x[window[int(np.argmax(x[list(window)]))]] += r_k  # argmax: the first of equals
    return r_x


def tie_split(x: Array, windows: Sequence[Sequence[int]], r: Array) -> Array:
    """Max-pooling, TieSplit: r_k goes in equal parts to the exact maxima of x (J,) over window k. lrp_toolbox."""
    r_x = np.zeros(x.shape)
    for window, r_k in zip(windows, r, strict=True):
        ties = [j for j in window if x[j] == max(x[i] for i in window)]
        for j in ties:
            r_x[j] += r_k / len(ties)
    return r_x


def sum_to(r: Array, shape: tuple[int, ...]) -> Array:
    """The relevance of an operand that was broadcast from `shape`: r summed over the broadcast axes."""
    while r.ndim > len(shape):
        r = r.sum(axis=0)
    for axis in (i for i, n in enumerate(shape) if n == 1):
        r = r.sum(axis=axis, keepdims=True)
    return r


def uniform_mul(a: Array, b: Array, r: Array) -> tuple[Array, Array]:
    """y = a ⊙ b, Uniform: r/2 to each, also where the product is 0."""
    return sum_to(r / 2, a.shape), sum_to(r / 2, b.shape)


def uniform_matmul(A: Array, B: Array, r: Array, eps: float = 1e-6) -> tuple[Array, Array]:
    """y_ik = Σ_j a_ij b_jk, Uniform: r_ij = ½ Σ_k a_ij b_jk s_ik, r_jk = ½ Σ_i a_ij b_jk s_ik, s = r / stab(y).

    A (…,I,J), B (…,J,K), r (…,I,K); leading axes broadcast. AttnLRP."""
    q = A[..., :, :, None] * B[..., None, :, :]  # (…,I,J,K)
    half = q * (r / stab(q.sum(axis=-2), eps))[..., :, None, :] / 2
    return sum_to(half.sum(axis=-1), A.shape), sum_to(half.sum(axis=-3), B.shape)
