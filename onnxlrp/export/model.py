"""The compiled model that an export starts from, and its inputs as a server wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx

from ..compile import compile as compile_model
from ..errors import CompositeError, InvalidModel
from ..graph import ModelSource, read_whole
from ..session import metadata

__all__ = ["compiled", "interface", "require", "without_input"]


def compiled(model: ModelSource, options: Mapping[str, Any]) -> onnx.ModelProto:
    """The model compiled with the options that were given, or as it is when it was compiled already.

    Raises what `compile` raises, and CompositeError for options that come too late.
    """
    if "onnxlrp.version" not in metadata(model):
        return compile_model(model, **options)
    if options:
        raise CompositeError(f"the model is compiled already: {', '.join(options)} must be given when compiling it")
    return read_whole(model)


def interface(model: onnx.ModelProto) -> dict[str, Any]:
    """What a compiled model says of its inputs and outputs. Raises InvalidModel."""
    try:
        found: dict[str, Any] = json.loads(metadata(model)["onnxlrp.interface"])
    except (KeyError, ValueError) as error:
        raise InvalidModel("the compiled model lost its metadata: compile the original model again") from error
    return found


def require(model: onnx.ModelProto, name: str, batch: str) -> None:
    """Make an input with a default one that every run must give, with the batch as its only axis; in place."""
    kept = [t for t in model.graph.initializer if t.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    (given,) = [i for i in model.graph.input if i.name == name]
    given.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(dim_param=batch)]))


def without_input(model: onnx.ModelProto, name: str) -> None:
    """Let an input with a default be that default always; in place."""
    kept = [i for i in model.graph.input if i.name != name]
    del model.graph.input[:]
    model.graph.input.extend(kept)
