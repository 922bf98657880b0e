"""Activations of recurrent nodes: the functions that the standard allows there, and how a node's attributes name them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_graphsurgeon as gs

from ..tensor import Tensor, maximum, minimum, where
from .pointwise import SLOPES
from .registry import View

__all__ = ["Activation", "activations"]

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
SCALED = {"Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1}  # alpha, beta
AGREED = {"LeakyRelu": (0.01, 0.0), "HardSigmoid": (0.2, 0.5), "Elu": (1.0, 0.0)}  # the standard's and the runtime's
NAMES = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", *SCALED)


@dataclass(frozen=True)
class Activation:
    """y = f(x), with x first clipped to [-clip, clip]."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    clip: float | None = None

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the operator of this name."""
        known = {"alpha": self.alpha, "beta": self.beta} if self.name == "HardSigmoid" else {"alpha": self.alpha}
        return known if self.name in SCALED else {}

    def clipped(self, x: Tensor) -> Tensor:
        """x within the bounds."""
        return x if self.clip is None else minimum(maximum(x, -self.clip), self.clip)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.clipped(x)
        if self.name == "Affine":
            return x * self.alpha + self.beta
        if self.name == "ScaledTanh":
            return x.emit.op("Tanh", x * self.beta, shape=x.shape) * self.alpha
        return x.emit.op(self.name, x, shape=x.shape, **self.attrs)

    def complement(self, x: Tensor) -> Tensor:
        """1 - y; of a sigmoid its value at -x, which keeps the digits that 1 - y loses near 1."""
        return self(-x) if self.name == "Sigmoid" else 1.0 - self(x)

    def slope(self, x: Tensor) -> Tensor:
        """dy/dx; 0 where x is clipped."""
        inner = self.clipped(x)
        if self.name == "Affine":
            out = x.emit.ones_like(x) * self.alpha
        elif self.name == "ScaledTanh":
            t = x.emit.op("Tanh", inner * self.beta, shape=x.shape)
            out = (1.0 - t * t) * (self.alpha * self.beta)
        else:
            view = View(gs.Node(self.name, attrs=self.attrs), (), x.emit)
            out = SLOPES[self.name](view, inner, replace(self, clip=None)(inner))
        return out if self.clip is None else where(abs(x) < self.clip, out, 0.0)


def activations(v: View) -> list[list[Activation]] | str:
    """The activations of each direction, or why they are not read.

    Scaling values are consumed in order by the functions that take any. The runtime's RNN reads them by direction
    instead, without defaults, and knows no other spelling of the names. What an LSTM's cell goes through is not clipped.
    """
    rnn, count = v.node.op == "RNN", len(DEFAULTS[v.node.op])
    directions = 2 if v.attr("direction") == "bidirectional" else 1
    given = [n.decode() if isinstance(n, bytes) else str(n) for n in v.attr("activations") or ()]
    given = given[:directions] if rnn else given or [*DEFAULTS[v.node.op]] * directions
    spelled = {n if rnn else n.lower(): n for n in NAMES}
    names = [spelled.get(n if rnn else n.lower(), "") for n in given]
    if len(names) != count * directions or not all(names):
        return f"its activations ({', '.join(given)}) are not {count * directions} of {', '.join(NAMES)}"
    lists = [list(v.node.attrs.get(f"activation_{k}") or ()) for k in ("alpha", "beta")]
    clip, out = v.node.attrs.get("clip"), []
    for i, name in enumerate(names):
        scales = [0.0, 0.0]
        for k in range(SCALED.get(name, 0)):
            other = rnn and (not lists[k] or (i > 0 and SCALED.get(names[0], 0) <= k))
            if other or (not lists[k] and name not in AGREED):
                return f"runtimes do not agree on what scales its {name}: give activation_alpha and activation_beta for each"
            scales[k] = float(lists[k].pop(0)) if lists[k] else AGREED[name][k]
        out.append(Activation(name, scales[0], scales[1], None if clip is None or i % count == 2 else float(clip)))
    return [out[d * count : (d + 1) * count] for d in range(directions)]
