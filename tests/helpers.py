"""What the tests of operators and rules share: running a model, compiling and running it, comparing arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

import onnxlrp

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


def run(model: onnx.ModelProto, feeds: Feeds, optimise: bool = True) -> dict[str, Array]:
    """All outputs of a model, by name."""
    return Runner(model, optimise)(feeds)


class Runner:
    """One session, run as often as wanted. optimise: whether onnxruntime may rewrite the graph."""

    def __init__(self, model: onnx.ModelProto, optimise: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(feeds)), strict=True))


def explain(
    model: onnx.ModelProto, composite: Any, feeds: Feeds, r: Array | None = None, optimise: bool = True, **options: Any
) -> dict[str, Array]:
    """Outputs of the compiled model; r: the relevance of the explained output, by default its own value."""
    if r is not None:
        options["init"] = "given"
        feeds = {**feeds, "relevance_out": r.astype(np.float32)}
    return run(onnxlrp.compile(model, composite, **options), feeds, optimise)


def error(found: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """max|Δ| / max|reference|; max|Δ| where the reference is 0 everywhere."""
    found, reference = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    assert found.shape == reference.shape, f"shape {found.shape} instead of {reference.shape}"
    if reference.size == 0:
        return 0.0
    return float(np.max(np.abs(found - reference)) / (np.max(np.abs(reference)) or 1.0))


def nodes_of(model: onnx.ModelProto, op: str) -> int:
    """How many nodes of this operator a model has."""
    return sum(n.op_type == op for n in model.graph.node)


def shared(name: str) -> Path:
    """A file of the shared folder next to the repository; the test is skipped where it is missing."""
    path = Path(__file__).parents[2] / "shared" / name
    if not path.exists():
        pytest.skip(f"{name} is not there: the shared folder with reference data is missing")
    return path


def flat(arrays: Sequence[Array]) -> Array:
    """Several arrays as one vector."""
    return np.concatenate([np.ravel(a) for a in arrays]) if arrays else np.zeros(0)
