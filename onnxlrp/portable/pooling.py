"""The second output of MaxPool, which no WebGPU provider computes: where the maximum of each window was.

x (N,C,*S), y (N,C,*O), K positions in a window. Channels count as rows: (N·C,1,*S). Of several maxima the first one of the
window's positions in row-major order wins, as in onnxruntime.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..constants import producer
from .rewriter import FLOAT, Rewriter, Size, values_of

__all__ = ["indices", "winners"]

LOWEST = float(np.finfo(np.float32).min)


@dataclass
class Pool:
    """A MaxPool with two outputs: its tensors, geometry and, once they are made, what its windows hold (N·C,K,*O)."""

    name: str
    x: gs.Tensor
    y: gs.Tensor
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]
    columns: gs.Tensor | None = None
    first: gs.Tensor | None = None

    @classmethod
    def of(cls, node: gs.Node) -> Pool:
        """The geometry of a node, with the room behind the input that ceil_mode may use."""
        a, kernel = node.attrs, [int(k) for k in node.attrs["kernel_shape"]]
        n = len(kernel)
        pads, strides = list(a.get("pads", [0] * 2 * n)), list(a.get("strides", [1] * n))
        over = [s - 1 if a.get("ceil_mode", 0) else 0 for s in strides]
        end = [p + o for p, o in zip(pads[n:], over, strict=True)]
        gaps = list(a.get("dilations", [1] * n))
        return cls(node.name, node.inputs[0], node.outputs[0], kernel, strides, gaps, pads[:n], end)

    @property
    def rank(self) -> int:
        """Axes of a window."""
        return len(self.kernel)

    @property
    def offsets(self) -> list[tuple[int, ...]]:
        """How far each position of a window is from its first one."""
        steps = [[d * i for i in range(k)] for k, d in zip(self.kernel, self.dilations, strict=True)]
        return list(itertools.product(*steps))

    def inner(self, g: Rewriter) -> list[Size]:
        """How far apart neighbours along each axis are in the flat input."""
        sizes = [g.dim(self.x, a) for a in range(2, self.rank + 2)]
        return [g.product(f"{self.name}/stride", sizes[a + 1 :]) for a in range(self.rank)]

    def plane(self, name: str, t: gs.Tensor, like: gs.Tensor, g: Rewriter) -> gs.Tensor:
        """t in the layout (N·C,1,*spatial) of x or y."""
        return g.reshape(name, t, -1, 1, *(g.dim(like, a) for a in range(2, self.rank + 2)))


def indices(node: gs.Node, g: Rewriter) -> bool:
    """MaxPool with one output; its second one as places in x, for those who do not get along with `winners`.

    place = plane · ∏S + Σ_a (o_a · stride_a − pad_a + offset_a[argmax over the window]) · ∏S_{b>a}.
    """
    if len(node.outputs) < 2 or not node.outputs[1].name:
        return False
    known = len(g.shape_of(node.inputs[0]) or ()) > 2 and g.type_of(node.inputs[0]) == FLOAT
    if not known or node.attrs.get("storage_order", 0) or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    pool, place = Pool.of(node), node.outputs[1]
    g.pools[place.name] = pool
    attrs = {k: v for k, v in node.attrs.items() if k != "storage_order"}
    g.op("MaxPool", node.name, pool.x, out=pool.y, **attrs)
    readers = [u for reader in place.outputs for u in (reader.outputs[0].outputs if _flattens(reader) else [reader])]
    if place.name not in g.kept and all(_routed(u, pool) for u in readers):
        return True
    _write_places(pool, place, g)
    return True


def winners(node: gs.Node, g: Rewriter) -> bool:
    """Relevance r of y at the first maximum of each window, zero elsewhere, added up where windows overlap, as a vector.

    A transposed convolution with K kernels, each of which is 1 at one position of the window, of r at the winning
    positions and 0 at the others.
    """
    maker = producer(node.inputs[1])
    at = maker.inputs[0] if maker is not None and _flattens(maker) else node.inputs[1]
    pool = g.pools.get(at.name)
    if pool is None or not _routed(node, pool):
        return False
    name, n, count = node.name, pool.rank, len(pool.offsets)
    r = pool.plane(f"{name}/rows", node.inputs[2], pool.y, g)
    part = g.op("Where", f"{name}/won", _first(pool, g), r, g.constant(0, np.float32))
    each = g.constant(np.eye(count).reshape(count, 1, *pool.kernel), np.float32)
    geometry = {"kernel_shape": pool.kernel, "strides": pool.strides, "dilations": pool.dilations}
    full = g.op("ConvTranspose", f"{name}/spread", part, each, **geometry)
    if any(s > 1 for s in pool.strides):  # rows that no window reached
        behind = g.ints(*[0] * (n + 4), *(s - 1 for s in pool.strides))
        full = g.op("Pad", f"{name}/whole", full, behind, g.constant(0, np.float32))
    axes = range(2, n + 2)
    ends = [g.calculate("Add", f"{name}/end", g.dim(pool.x, a), b) for a, b in zip(axes, pool.begin, strict=True)]
    inside = g.op("Slice", f"{name}/inside", full, g.ints(*pool.begin), g.vector(f"{name}/ends", ends), g.ints(*axes))
    g.op("Reshape", f"{name}/line", inside, g.ints(-1), out=node.outputs[0])
    return True


def _flattens(node: gs.Node) -> bool:
    """Whether it is a Reshape to a vector."""
    sizes = values_of(node.inputs[1]) if node.op == "Reshape" else None
    return sizes is not None and sizes.tolist() == [-1]


def _routed(node: gs.Node, pool: Pool) -> bool:
    """Whether it adds to a vector of zeros, at places of a pool that a transposed convolution of one or two axes reaches."""
    if node.op != "ScatterElements" or pool.rank > 2 or node.attrs.get("reduction", "none") != "add":
        return False
    blank = values_of(node.inputs[0])
    return node.attrs.get("axis", 0) == 0 and blank is not None and not blank.any()


def _columns(pool: Pool, g: Rewriter) -> gs.Tensor:
    """What each window holds, (N·C,K,*O): for each position of the window, x from there on in steps of the stride."""
    if pool.columns is not None:
        return pool.columns
    name, n = pool.name, pool.rank
    x = pool.plane(f"{name}/rows", pool.x, pool.x, g)
    if any(pool.begin) or any(pool.end):
        pads = g.ints(0, 0, *pool.begin, 0, 0, *pool.end)
        x = g.op("Pad", f"{name}/padded", x, pads, g.constant(LOWEST, np.float32))
    axes = range(2, n + 2)
    reach: list[Size] = []
    for a, s in zip(axes, pool.strides, strict=True):
        before = g.calculate("Mul", f"{name}/last", g.calculate("Sub", f"{name}/windows", g.dim(pool.y, a), 1), s)
        reach.append(g.calculate("Add", f"{name}/reach", before, 1))
    parts = []
    for offset in pool.offsets:
        ends = [g.calculate("Add", f"{name}/end", r, o) for r, o in zip(reach, offset, strict=True)]
        stop = g.vector(f"{name}/ends", ends)
        parts.append(g.op("Slice", f"{name}/taken", x, g.ints(*offset), stop, g.ints(*axes), g.ints(*pool.strides)))
    pool.columns = g.op("Concat", f"{name}/windows", *parts, axis=1)
    return pool.columns


def _first(pool: Pool, g: Rewriter) -> gs.Tensor:
    """Where each window has its first maximum, bool (N·C,K,*O): hits weigh K, K−1, …, 1, and the heaviest one counts."""
    if pool.first is None:
        name, count = pool.name, len(pool.offsets)
        hit = g.op("Equal", f"{name}/hit", _columns(pool, g), pool.plane(f"{name}/most", pool.y, pool.y, g))
        weights = g.constant(np.arange(count, 0, -1).reshape(1, count, *[1] * pool.rank), np.float32)
        score = g.op("Mul", f"{name}/score", g.op("Cast", f"{name}/one", hit, to=FLOAT), weights)
        best = g.op("ReduceMax", f"{name}/best", score, g.ints(1), keepdims=1)
        pool.first = g.op("Equal", f"{name}/first", score, best)
    return pool.first


def _write_places(pool: Pool, place: gs.Tensor, g: Rewriter) -> None:
    """The formula of `indices`."""
    name, n, inner = pool.name, pool.rank, pool.inner(g)
    best = g.op("ArgMax", f"{name}/argmax", _columns(pool, g), axis=1, keepdims=1)
    total: Any = None
    for a in range(n):
        moved = g.op("Gather", f"{name}/moved", g.constant([o[a] for o in pool.offsets], np.int64), best, axis=0)
        start = g.op("Mul", f"{name}/start", g.arange(f"{name}/window", g.dim(pool.y, a + 2)), g.ints(pool.strides[a]))
        laid = g.reshape(f"{name}/along", start, *[1] * (a + 2), -1, *[1] * (n - a - 1))
        at = g.op("Add", f"{name}/at", moved, g.op("Sub", f"{name}/from", laid, g.ints(pool.begin[a])))
        at = g.op("Mul", f"{name}/step", at, g.integer(inner[a]))
        total = at if total is None else g.op("Add", f"{name}/place", total, at)
    rows = g.product(f"{name}/planes", [g.dim(pool.x, 0), g.dim(pool.x, 1)])
    volume = g.calculate("Mul", f"{name}/volume", inner[0], g.dim(pool.x, 2))
    plane = g.op("Mul", f"{name}/plane", g.arange(f"{name}/row", rows), g.integer(volume))
    total = g.op("Add", f"{name}/everywhere", total, g.reshape(f"{name}/upright", plane, -1, *[1] * (n + 1)))
    g.reshape(f"{name}/places", total, *(g.dim(pool.y, a) for a in range(n + 2)), out=place)
