"""Every node of the backward part has a kernel in onnxruntime's CUDA provider, so that none runs on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from cuda_kernels import DECIDING, missing
from helpers import shared

import onnxlrp
from onnxlrp.inference import infer_shapes
from onnxlrp.order import proto_levels

ZOO = Path(__file__).parents[2] / "shared" / "zoo"
COMPOSITES = ("epsilon_plus", "epsilon_gamma_box(low=-3, high=3)", "attn_lrp")
REFUSED = {"hand_if"}  # its condition depends on the data
NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}


def offenders(model: onnx.ModelProto) -> dict[str, str]:
    """Backward nodes without a kernel -> operator, type and reason; nodes that depend on constants only are folded at load."""
    graph = infer_shapes(model).graph
    types = {t.name: t.data_type for t in model.graph.initializer}
    constants = set(types) - {i.name for i in model.graph.input}
    found: dict[str, str] = {}
    for level in proto_levels(graph):
        types |= {t.name: t.data_type for t in level.initializer}
        types |= {v.name: v.type.tensor_type.elem_type for v in (*level.input, *level.output, *level.value_info)}
    for level in proto_levels(graph):
        constants |= {t.name for t in level.initializer if level is not graph}
        for node in level.node:
            if node.input and all(i in constants for i in node.input if i):
                constants |= set(node.output)
            elif node.domain == "" and (node.name.startswith("lrp/") or level is not graph):
                kind = NAMES.get(types.get(([*node.input, ""])[DECIDING.get(node.op_type, 0)], 0), "an unknown type")
                why = missing(node.op_type, kind)
                if why is not None:
                    found[node.name] = f"{node.op_type} of {kind}: {why}"
    return found


def test_a_missing_kernel_is_found() -> None:
    assert missing("Relu", "float") is missing("Where", "int64") is None
    assert missing("Col2Im", "float") == "no kernel"
    assert missing("Where", "bool") == "no kernel for bool"
    assert missing("Pad", "float", 20) == "no kernel for its version 19"


@pytest.mark.slow
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", sorted(p.stem for p in ZOO.glob("*.onnx")) or ["none"])
def test_backward_part_runs_on_the_gpu(name: str, composite: str) -> None:
    path = shared(f"zoo/{name}.onnx")
    if name in REFUSED:
        with pytest.raises(onnxlrp.UnsupportedOp):
            onnxlrp.compile(str(path), composite)
        return
    found = offenders(onnxlrp.compile(str(path), composite))
    assert not found, "\n".join(f"{node}: {why}" for node, why in found.items())
