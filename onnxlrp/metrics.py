"""Numbers that say how good relevance maps are: the formulas, in numpy, without a model of their own.

A map is judged by regions: squares of positions with all of their channels. x: samples (N, ...). labels: the region of
each value of a sample, (...), 0 to R - 1. ranks (N, R): the place of each region in a sample's order, 0 for the most
relevant. forward: rows to scores (rows, C).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import InputError

__all__ = [
    "aopc",
    "auc",
    "baseline_values",
    "bootstrap",
    "curves",
    "max_sensitivity",
    "pooled",
    "ranking",
    "regions",
    "spearman",
]

Array = np.ndarray
Forward = Callable[[Array], Array]


# ------------------------------------------------------------------------------------------------------------- regions


def regions(shape: tuple[int, ...], size: int, channels: int | None) -> Array:
    """Label of each value of a sample: blocks of `size` along every axis but the channels', which a block has all of.

    shape: of a sample. channels: its channel axis, or None. Blocks at the far border may be smaller.
    """
    label = np.zeros((1,) * len(shape), np.int64)
    for axis, n in enumerate(shape):
        if axis != channels:
            block = np.arange(n) // size
            along = [1] * len(shape)
            along[axis] = n
            label = label * (int(block[-1]) + 1) + block.reshape(along)
    return np.ascontiguousarray(np.broadcast_to(label, shape))


def pooled(maps: Array, labels: Array) -> Array:
    """R_r = Σ_{i in r} R_i: relevance of each region, (N, R) from (N, ...)."""
    flat, count = labels.ravel(), int(labels.max()) + 1
    return np.stack([np.bincount(flat, m.ravel().astype(np.float64), count) for m in maps])


def ranking(scores: Array, rng: np.random.Generator) -> Array:
    """ranks (N, R): 0 for a row's largest score, R - 1 for its smallest; equal scores in random order.

    Random, as the border of a picture that gets no relevance would otherwise be flipped from the top left.
    """
    order = np.stack([np.lexsort((rng.random(len(s)), -s)) for s in scores])
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks


def baseline_values(x: Array, kind: str | float, channels: int | None, rng: np.random.Generator) -> Array:
    """What a removed value becomes, of x's shape: a number; "mean" of the sample, per channel; "uniform" noise within
    the range of all samples (Samek et al. 2017). Raises InputError."""
    if kind == "mean":
        axes = tuple(a for a in range(1, x.ndim) if channels is None or a != channels + 1)
        return np.broadcast_to(x.mean(axes, keepdims=True), x.shape)
    if kind == "uniform":
        return np.asarray(rng.uniform(x.min(), x.max(), x.shape), x.dtype)
    try:
        value = float(kind)
    except ValueError as error:
        raise InputError(f"baseline is a number, mean or uniform, got {kind!r}") from error
    if not np.isfinite(value):
        raise InputError(f"baseline must be finite, got {kind!r}")
    return np.full_like(x, value)


# -------------------------------------------------------------------------------------------------------------- curves


def curves(forward: Forward, x: Array, base: Array, labels: Array, ranks: Array, counts: Array, rows: int) -> Array:
    """f(x^(k)) for each k in counts, (N, K, C): x^(k) is x with the k regions of lowest rank replaced by base.

    Pixel flipping of Bach et al. 2015, region perturbation of Samek et al. 2017. With R - 1 - ranks for ranks the least
    relevant go first. rows: made at a time.
    """
    jobs = [(i, k) for i in range(len(x)) for k in counts]
    found = []
    for start in range(0, len(jobs), rows):
        part = jobs[start : start + rows]
        at = np.array([i for i, _ in part])
        gone = ranks[at] < np.array([k for _, k in part])[:, None]
        found.append(forward(np.where(gone[:, labels], base[at], x[at])))
    flat = np.concatenate(found)
    return flat.reshape(len(x), len(counts), *flat.shape[1:])


def aopc(curve: Array) -> Array:
    """1/(L+1) Σ_{k=0..L} (f(x^(0)) - f(x^(k))) per sample, (N,) from (N, L+1).   Samek et al. 2017, eq. 12."""
    return np.asarray((curve[:, :1] - curve).mean(axis=1))


def auc(curve: Array, fractions: Array) -> Array:
    """∫₀¹ f dp by the trapezoidal rule per sample, (N,); p: the fraction removed or inserted.   Petsiuk et al. 2018."""
    return np.asarray(((curve[:, 1:] + curve[:, :-1]) / 2 * np.diff(fractions)).sum(axis=1))


# --------------------------------------------------------------------------------------------------- maps against maps


def spearman(a: Array, b: Array) -> Array:
    """ρ = correlation of the ranks, equal values at their mean rank, per sample: (N,) from two (N, R).

    0 where a map is constant: its order says nothing of the other's.
    """
    p, q = (_centred_ranks(v) for v in (a, b))
    scale = np.sqrt((p**2).sum(1) * (q**2).sum(1))
    return np.asarray(np.divide((p * q).sum(1), scale, out=np.zeros(len(p)), where=scale > 0))


def _centred_ranks(values: Array) -> Array:
    found = np.empty(values.shape)
    for row, v in zip(found, values, strict=True):
        _, inverse, count = np.unique(v, return_inverse=True, return_counts=True)
        row[:] = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return np.asarray(found - found.mean(axis=1, keepdims=True))


def max_sensitivity(
    explain: Forward, x: Array, maps: Array, radius: float, count: int, limits: tuple[float, float], rng: np.random.Generator
) -> Array:
    """max_{|y-x| <= r} ‖Φ(y) - Φ(x)‖ / ‖Φ(x)‖ per sample, over `count` draws y = x + U(-r, r).   Yeh et al. 2019, eq. 3.

    Divided by the norm of the map, so that methods of different scale compare. maps: Φ(x), (N, ...). limits: y is
    clipped to them, so that it stays within the range that rules may rely on.
    """
    worst = np.zeros(len(x))
    size = np.linalg.norm(maps.reshape(len(x), -1).astype(np.float64), axis=1)
    for _ in range(count):
        y = (x + rng.uniform(-radius, radius, x.shape)).clip(*limits).astype(x.dtype)
        change = np.linalg.norm((explain(y).astype(np.float64) - maps).reshape(len(x), -1), axis=1)
        with np.errstate(divide="ignore"):
            worst = np.maximum(worst, np.divide(change, size, out=np.zeros(len(x)), where=change > 0))
    return worst


# ---------------------------------------------------------------------------------------------------------- confidence


def bootstrap(values: Array, resamples: int, seed: int) -> tuple[float, float, float]:
    """Mean over samples and its 95 % interval: percentiles of the means of `resamples` draws with replacement (Efron 1979).

    The same seed draws the same samples, so that differences of two methods can be drawn, too. NaN for one sample's.
    """
    mean, n = float(values.mean()), len(values)
    if n < 2 or not np.isfinite(values).all():
        return mean, float("nan"), float("nan")
    draws = values[np.random.default_rng(seed).integers(0, n, (resamples, n))].mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return mean, float(low), float(high)
