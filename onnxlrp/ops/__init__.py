"""The operators, one topic per file. An operator is a function `View -> Reading` registered with its kind.

Operators know no rule; they make nodes only through `View.e`, the emitter.
"""

from . import (
    arith,
    conv,
    dense,
    einsum,
    measures,
    moves,
    norm,
    pointwise,
    pool,
    recurrent,
    reduce,
    regions,
    resize,
    sample,
    scatter,
    select,
    signal,
    softmax,
)
from .registry import OPS, Op, View

# importing a topic registers its operators
__all__ = [
    "OPS", "Op", "View", "arith", "conv", "dense", "einsum", "measures", "moves", "norm", "pointwise", "pool", "recurrent",
    "reduce", "regions", "resize", "sample", "scatter", "select", "signal", "softmax",
]  # fmt: skip
