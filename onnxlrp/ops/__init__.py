"""The operators, one topic per file. An operator is a function `View -> Reading` registered with its kind.

Operators know no rule; they make nodes only through `View.e`, the emitter.
"""

from . import arith, conv, dense, einsum, measures, moves, norm, pointwise, pool, reduce, scatter, select  # noqa: F401  (importing registers the operators)
from .registry import OPS, Op, View

__all__ = ["OPS", "Op", "View"]
