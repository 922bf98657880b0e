"""The table of expansions and what writes the nodes of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from ..weights import constant

__all__ = ["EXPANSIONS", "Writer", "Written", "expansion"]

Written: TypeAlias = "gs.Tensor | tuple[gs.Tensor | None, ...] | None"  # the node's outputs in order; None: leave it as it is
Write = Callable[["Writer"], Written]
EXPANSIONS: dict[tuple[str, str], Write] = {}  # (domain, operator)


def expansion(names: str, domain: str = "") -> Callable[[Write], Write]:
    """Register what writes out one or more operators (names separated by blanks)."""

    def register(write: Write) -> Write:
        EXPANSIONS.update({(domain, name): write for name in names.split()})
        return write

    return register


class Writer:
    """Makes the nodes that replace one node; their names start with its name. Shapes are inferred afterwards."""

    def __init__(self, node: gs.Node) -> None:
        self.node = node
        self.made: list[gs.Node] = []
        self.constants = 0

    def __call__(self, op: str, *inputs: gs.Tensor | float | None, dtype: Any = None, **attrs: Any) -> gs.Variable:
        """A node with one output, of the type of its first input unless said otherwise."""
        return self.outputs(op, *inputs, dtypes=[dtype], **attrs)[0]

    def outputs(
        self, op: str, *inputs: gs.Tensor | float | None, dtypes: Sequence[Any] = (None,), **attrs: Any
    ) -> list[gs.Variable]:
        """A node with len(dtypes) outputs. A Python number takes the type of the first tensor among the inputs."""
        name = f"{self.node.name}/{op}_{len(self.made)}"
        like = next((x for x in inputs if isinstance(x, gs.Tensor)), None)
        own = like.dtype if like is not None and like.dtype is not None else np.float32
        operands = [
            gs.Variable.empty() if x is None else x if isinstance(x, gs.Tensor) else self.constant(x, own) for x in inputs
        ]
        made = [
            gs.Variable(name if i == 0 else f"{name}:{i}", own if dtype is None else dtype) for i, dtype in enumerate(dtypes)
        ]
        while operands and not operands[-1].name:
            operands.pop()
        self.made.append(gs.Node(op, name, attrs, operands, made))
        return made

    def constant(self, value: Any, dtype: Any = np.float32) -> gs.Constant:
        """An initializer of its own; bfloat16, which numpy lacks and graphsurgeon counts, as the float32 it is widened to."""
        self.constants += 1
        name = f"{self.node.name}/constant_{self.constants}"
        return constant(name, np.asarray(value, np.float32 if isinstance(dtype, int) else dtype))

    def ints(self, *values: int) -> gs.Constant:
        """An int64 vector: shapes, axes."""
        return self.constant(values, np.int64)

    def input(self, index: int) -> gs.Tensor | None:
        """Input by position; None when it is absent."""
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) and inputs[index].name else None

    def need(self, index: int) -> gs.Tensor:
        """Input that the operator cannot do without."""
        x = self.input(index)
        if x is None:
            raise UnsupportedOp(f"node '{self.node.name}' ({self.node.op}): its input {index} is missing")
        return x

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute, or what the operator's schema says when it is absent, or `default`."""
        given = self.node.attrs.get(name)
        if given is None and default is None and onnx.defs.has(self.node.op, self.node.domain or ""):
            known = onnx.defs.get_schema(self.node.op, self.node.domain or "").attributes.get(name)
            if known is not None and known.default_value.type:
                given = onnx.helper.get_attribute_value(known.default_value)
        given = default if given is None else given
        return given.decode() if isinstance(given, bytes) else given

    def rank(self, x: gs.Tensor) -> int:
        """Number of axes. Raises UnsupportedOp where it is unknown."""
        if x.shape is None:
            raise UnsupportedOp(
                f"node '{self.node.name}' ({self.node.op}): the rank of '{x.name}' is unknown (input_shapes= may help)"
            )
        return len(x.shape)

    def finish(self, written: gs.Tensor | tuple[gs.Tensor | None, ...]) -> list[gs.Node]:
        """Let what was written take the node's place: its outputs, its name, its nodes."""
        results = written if isinstance(written, tuple) else (written,)
        outputs = list(self.node.outputs)
        self.node.outputs.clear()
        self.node.inputs.clear()
        for i, (out, result) in enumerate(zip(outputs, results, strict=False)):
            if not out.name:
                continue
            if result is None:
                raise UnsupportedOp(f"node '{self.node.name}' ({self.node.op}): its output {i} '{out.name}' is not known")
            maker = next((n for n in self.made if any(t is result for t in n.outputs)), None)
            if maker is None:  # an input or a constant handed through
                self.made.append(maker := gs.Node("Identity", f"{self.node.name}/output_{i}", {}, [result], [out]))
            else:
                for user in list(result.outputs):
                    user.inputs = [out if t is result else t for t in user.inputs]
                maker.outputs = [out if t is result else t for t in maker.outputs]
            if i == 0 and all(n.name != self.node.name for n in self.made):
                maker.name = self.node.name
        return self.made
