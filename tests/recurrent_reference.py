"""LSTM, GRU and RNN written a second time, one row and one step after the other, in float64, importing nothing of onnxlrp.

The forward pass follows the ONNX standard, the relevance Arras et al. 2017 and 2019: a gate gets nothing, a sum and a
linear map give in proportion (Epsilon), an activation hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
FUNCTIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "Elu": lambda x, a, b: np.where(x >= 0, x, a * (np.exp(x) - 1)),
    "Softsign": lambda x, a, b: x / (1 + abs(x)),
    "Softplus": lambda x, a, b: np.log(1 + np.exp(x)),
}
ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
BETA = ("Affine", "ScaledTanh", "HardSigmoid")
KNOWN = {"LeakyRelu": (0.01, 0.0), "HardSigmoid": (0.2, 0.5), "Elu": (1.0, 0.0)}


@dataclass
class Step:
    """What one step of one row computed. z: the sum before the activation that carries relevance, its parts beside it."""

    time: int
    x: Array
    h: Array  # before the step
    z: Array
    bias: Array
    recurrent: Array  # (k, j): what h_j contributes to z_k is recurrent[k, j] h_j
    kept: Array | None = None  # the part of the new state that is the old one's; None: the state is only the new part
    new: Array | None = None


@dataclass
class Row:
    """One row in one direction: its steps and its last states."""

    steps: list[Step]
    h: Array
    c: Array


@dataclass
class Cell:
    """A recurrent node in numpy: x (T,N,I), w (D,G·H,I), r (D,G·H,H), b (D,2·G·H), p (D,3·H), h0 and c0 (D,N,H)."""

    op: str
    w: Array
    r: Array
    b: Array | None = None
    p: Array | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("w", "r", "b", "p"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else np.asarray(value, np.float64))

    @property
    def size(self) -> int:
        return self.r.shape[2]

    @property
    def directions(self) -> int:
        return self.w.shape[0]

    def functions(self) -> list[list[Callable[[Array], Array]]]:
        """The activations of each direction; scaling values are consumed in order by those that take any."""
        names = self.attrs.get("activations") or DEFAULTS[self.op] * self.directions
        alphas, betas = (list(self.attrs.get(f"activation_{k}", ())) for k in ("alpha", "beta"))
        out = []
        for name in names:
            name = next(n for n in FUNCTIONS if n.lower() == name.lower())
            a, b = KNOWN.get(name, (0.0, 0.0))
            a = alphas.pop(0) if name in ALPHA and alphas else a
            b = betas.pop(0) if name in BETA and betas else b
            out.append(lambda x, f=FUNCTIONS[name], a=a, b=b: f(x, a, b))
        each = len(DEFAULTS[self.op])
        return [out[d * each : (d + 1) * each] for d in range(self.directions)]

    def clip(self, z: Array) -> Array:
        limit = self.attrs.get("clip")
        return z if limit is None else np.clip(z, -limit, limit)

    def row(self, d: int, x: Array, times: Sequence[int], h: Array, c: Array) -> Row:
        """One direction of one row: x (T,I), the times in the order in which they are read."""
        act, n = self.functions()[d], self.size
        w, r = (m[d].reshape(GATES[self.op], n, -1) for m in (self.w, self.r))
        b = np.zeros((2, GATES[self.op], n)) if self.b is None else self.b[d].reshape(2, GATES[self.op], n)
        p = np.zeros((3, n)) if self.p is None else self.p[d].reshape(3, n)
        steps = []
        for t in times:
            z = [w[g] @ x[t] + r[g] @ h + b[0, g] + b[1, g] for g in range(len(w))]
            if self.op == "RNN":
                steps.append(Step(t, x[t], h, z[0], b[0, 0] + b[1, 0], r[0]))
                h = act[0](self.clip(z[0]))
            elif self.op == "GRU":
                update, reset = (act[0](self.clip(z[g])) for g in (0, 1))
                if self.attrs.get("linear_before_reset"):
                    bias, recurrent = b[0, 2] + reset * b[1, 2], reset[:, None] * r[2]
                else:
                    bias, recurrent = b[0, 2] + b[1, 2], r[2] * reset[None, :]
                total = w[2] @ x[t] + recurrent @ h + bias
                new = (1 - update) * act[1](self.clip(total))
                steps.append(Step(t, x[t], h, total, bias, recurrent, update * h, new))
                h = update * h + new
            else:
                i = act[0](self.clip(z[0] + p[0] * c))
                f = 1 - i if self.attrs.get("input_forget") else act[0](self.clip(z[2] + p[2] * c))
                new = i * act[1](self.clip(z[3]))
                steps.append(Step(t, x[t], h, z[3], b[0, 3] + b[1, 3], r[3], f * c, new))
                c = f * c + new
                h = act[0](self.clip(z[1] + p[1] * c)) * act[2](c)
        return Row(steps, h, c)

    def rows(self, x: Array, lens: Array | None, h0: Array | None, c0: Array | None) -> list[list[Row]]:
        """[direction][row]."""
        lens = np.full(x.shape[1], x.shape[0]) if lens is None else lens
        none = np.zeros((self.directions, x.shape[1], self.size))
        h0, c0 = (none if s is None else np.asarray(s, np.float64) for s in (h0, c0))
        x = np.asarray(x, np.float64)
        return [
            [
                self.row(d, x[:, i], range(length)[:: -1 if self.backwards(d) else 1], h0[d, i], c0[d, i])
                for i, length in enumerate(lens)
            ]
            for d in range(self.directions)
        ]

    def backwards(self, d: int) -> bool:
        return d == 1 or self.attrs.get("direction") == "reverse"

    def forward(self, x: Array, lens: Array | None = None, h0: Array | None = None, c0: Array | None = None) -> list[Array]:
        """Y (T,D,N,H), Y_h and Y_c (D,N,H); 0 after the end of a row."""
        y = np.zeros((len(x), self.directions, x.shape[1], self.size))
        last_h, last_c = np.zeros((2, *y.shape[1:]))
        for d, rows in enumerate(self.rows(x, lens, h0, c0)):
            for i, row in enumerate(rows):
                for step, after in zip(row.steps, [*row.steps[1:], row], strict=False):
                    y[step.time, d, i] = after.h
                if row.steps:
                    last_h[d, i], last_c[d, i] = row.h, row.c
        return [y, last_h, last_c][: 3 if self.op == "LSTM" else 2]

    def relevance(
        self,
        x: Array,
        given: Sequence[Array | None],
        lens: Array | None = None,
        h0: Array | None = None,
        c0: Array | None = None,
        epsilon: float = 1e-6,
        bias: bool = True,
    ) -> dict[str, Any]:
        """Relevance of x, h0, c0 from that of Y, Y_h, Y_c; what biases and ε keep. bias=False: it is no part of z.

        size: Σ |relevance| over everything that was handed on, the measure of what rounding may do to a sum.
        """
        out: dict[str, Any] = {
            "x": np.zeros(x.shape),
            "h0": np.zeros((self.directions, x.shape[1], self.size)),
            "c0": np.zeros((self.directions, x.shape[1], self.size)),
            "bias": 0.0,
            "epsilon": 0.0,
            "size": sum(float(abs(r).sum()) for r in given if r is not None),
        }
        for d, rows in enumerate(self.rows(x, lens, h0, c0)):
            for i, row in enumerate(rows):
                r_y, r_h, r_c = (
                    None if i_ >= len(given) or given[i_] is None else given[i_][..., d, i, :].astype(np.float64)
                    for i_ in range(3)
                )
                if not row.steps:
                    continue
                h = np.zeros(self.size) if r_h is None else r_h
                c = np.zeros(self.size) if r_c is None else r_c
                for step in row.steps[::-1]:
                    h = h if r_y is None else h + r_y[step.time]
                    h, c = self.back(step, d, i, h, c, out, epsilon, bias)
                out["h0"][d, i], out["c0"][d, i] = h, c
        return out

    def back(
        self, s: Step, d: int, i: int, h: Array, c: Array, out: dict[str, Any], epsilon: float, bias: bool
    ) -> tuple[Array, Array]:
        """Relevance of the states before a step from that of those after it; x's, biases' and ε's go to `out`."""
        lstm, to_state = self.op == "LSTM", np.zeros(self.size)
        r = c + h if lstm else h  # h = o ⊙ tanh(c): the gate o gets nothing
        if s.kept is not None:
            total = s.kept + s.new
            ratio = r / stab(total, epsilon)
            out["epsilon"] += float(np.sum(ratio * (stab(total, epsilon) - total)))
            r, to_state = s.new * ratio, s.kept * ratio
        b = s.bias if bias else 0 * s.bias
        total = s.z - s.bias + b
        ratio = r / stab(total, epsilon)
        w = self.w[d].reshape(GATES[self.op], self.size, -1)[-1]
        for k in range(self.size):
            out["x"][s.time, i] += w[k] * s.x * ratio[k]
            out["bias"] += float(b[k] * ratio[k])
            out["size"] += float(abs(ratio[k]) * (abs(b[k]) + abs(w[k] * s.x).sum() + abs(s.recurrent[k] * s.h).sum()))
        out["epsilon"] += float(np.sum(ratio * (stab(total, epsilon) - total)))
        through = sum((s.recurrent[k] * s.h * ratio[k] for k in range(self.size)), np.zeros(self.size))
        return (through, to_state) if lstm else (through + to_state, c)


def stab(z: Array, epsilon: float) -> Array:
    """z + ε if z ≥ 0 else z − ε."""
    return np.where(z >= 0, z + epsilon, z - epsilon)
