"""Large weights: they stay where the file has them, and every pass sees a stub of a few bytes in their place.

Checks, shape inference and copies of the graph then cost what the graph costs, and a model's weights are in memory once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor
from onnx_graphsurgeon.ir.tensor import LazyValues

from .errors import InvalidModel

__all__ = [
    "LARGE",
    "Text",
    "Weight",
    "check_files",
    "constant",
    "densify",
    "fill",
    "is_large",
    "keep_texts",
    "nbytes",
    "skeleton",
    "weights_size",
    "with_weights",
    "write_apart",
]

LARGE = 1024  # elements: above it, no shape or axis that inference or conversion would have to read
ALIGNED = 4096  # of offsets in it, so that a runtime can map it into memory


def is_large(t: TensorProto) -> bool:
    """Over LARGE elements."""
    return bool(math.prod(t.dims) > LARGE)


class Stored(LazyValues):
    """Values that are read when asked for, from the model's own TensorProto or its data file in `folder`."""

    def __init__(self, tensor: TensorProto, folder: str) -> None:
        stub = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="elsewhere")
        super().__init__(stub)
        self.source, self.folder = tensor, folder

    def proto(self) -> TensorProto:
        """The tensor with its data."""
        if self.source.data_location != TensorProto.EXTERNAL:
            return self.source
        whole = TensorProto()
        whole.CopyFrom(self.source)
        load_external_data_for_tensor(whole, self.folder)
        return whole

    def load(self) -> np.ndarray:
        try:
            return np.asarray(numpy_helper.to_array(self.proto()))
        except ValueError as error:
            raise InvalidModel(f"the data of weight '{self.source.name}' does not fit its shape: {error}") from error


class Weight(gs.Constant):
    """A large constant: `values` reads it anew each time and keeps nothing."""

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self._values.load())


class Text(gs.Constant):
    """A constant of strings: graphsurgeon can only write them as it read them, so that `values` keeps nothing here either."""

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self._values.load())


def constant(name: str, values: np.ndarray) -> gs.Constant:
    """A constant of any type, strings (an array of objects) included."""
    if values.dtype != object:
        return gs.Constant(name, values)
    return Text(name, LazyValues(numpy_helper.from_array(values, name)))


def keep_texts(graph: gs.Graph) -> None:
    """Put a Text in the place of every constant of strings, in place."""
    texts: dict[str, Text] = {}
    for node in graph.nodes:
        for i, t in enumerate(node.inputs):
            if isinstance(t, gs.Constant) and t.dtype == object and not isinstance(t, Weight):
                node.inputs[i] = texts.setdefault(t.name, Text(t.name, t._values))


def nbytes(t: gs.Constant) -> int:
    """Size of a constant's values, without reading them."""
    return int(t._values.nbytes)


def weights_size(model: onnx.ModelProto) -> int:
    """Bytes of the large weights, from their shapes."""
    item = {
        t: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(t)).itemsize for t in {w.data_type for w in model.graph.initializer}
    }
    return sum(math.prod(t.dims) * item[t.data_type] for t in model.graph.initializer if is_large(t))


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with typed inputs in the place of its large weights."""
    light, graph = onnx.ModelProto(), model.graph
    for name in ("ir_version", "producer_name", "producer_version"):
        setattr(light, name, getattr(model, name))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = graph.name or "graph"
    for name in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, name).extend(getattr(graph, name))
    declared = {i.name for i in graph.input}
    for t in graph.initializer:
        if is_large(t):
            if t.name not in declared:
                light.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
        else:
            light.graph.initializer.append(t)
    return light


def densify(model: onnx.ModelProto) -> None:
    """Write sparse constants out, in place: neither graphsurgeon nor most runtimes compute with them."""
    for t in model.graph.sparse_initializer:
        model.graph.initializer.append(_dense(t))
    del model.graph.sparse_initializer[:]
    for node in model.graph.node:
        for a in [a for a in node.attribute if a.name == "sparse_value" and node.op_type == "Constant"]:
            value = _dense(a.sparse_tensor)
            node.attribute.remove(a)
            node.attribute.append(onnx.helper.make_attribute("value", value))


def _dense(t: onnx.SparseTensorProto) -> TensorProto:
    """Zeros with the given values at flat positions, or at one position per axis."""
    values, at = numpy_helper.to_array(t.values), numpy_helper.to_array(t.indices)
    out = np.zeros(t.dims, values.dtype)
    out[np.unravel_index(at, out.shape) if at.ndim == 1 else tuple(at.T)] = values
    return numpy_helper.from_array(out, t.values.name)


def with_weights(graph: gs.Graph, whole: onnx.ModelProto, folder: str) -> None:
    """Put a Weight in the place of every input that stands for a large weight of `whole`, in place."""
    large = {t.name: t for t in whole.graph.initializer if is_large(t)}
    stubs = {t.name: Weight(t.name, Stored(large[t.name], folder)) for t in graph.inputs if t.name in large}
    for t in graph.inputs:
        for node in {id(n): n for n in t.outputs}.values() if t.name in stubs else ():
            node.inputs = [stubs[t.name] if x is t else x for x in node.inputs]
    graph.outputs = [stubs.get(t.name, t) for t in graph.outputs]
    graph.inputs = [t for t in graph.inputs if t.name not in stubs]


def fill(model: onnx.ModelProto, graph: gs.Graph) -> None:
    """Give the stubs of an exported graph their data, in place."""
    stored = {t.name: t._values for t in graph.tensors().values() if isinstance(t, Weight)}
    for t in model.graph.initializer:
        if t.name in stored:
            name = t.name
            t.CopyFrom(stored[name].proto())
            t.name = name


def check_files(tensors: Iterable[TensorProto], folder: str, model: str) -> None:
    """Raises InvalidModel for external data that is missing, too short or outside the model's folder."""
    sizes: dict[str, int] = {}
    for t in tensors:
        if t.data_location != TensorProto.EXTERNAL:
            continue
        info = ExternalDataInfo(t)
        if info.location not in sizes:
            path = Path(folder, info.location)
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise InvalidModel(f"{model}: its external data '{info.location}' lies outside the model's folder")
            if not path.is_file():
                raise InvalidModel(f"{model}: its external data is missing ({path}); it belongs beside the model")
            sizes[info.location] = path.stat().st_size
        end = (info.offset or 0) + (info.length or 0)
        if end > sizes[info.location]:
            raise InvalidModel(
                f"{model}: its external data is too short: '{t.name}' ends at byte {end:,} of {info.location}, "
                f"which has {sizes[info.location]:,}"
            )


def write_apart(model: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """Write the weights of a model into the file `data`; returns the model that refers to them, as it is to be saved."""
    light = skeleton(model)
    for name in ("domain", "model_version", "doc_string"):
        setattr(light, name, getattr(model, name))
    light.metadata_props.extend(model.metadata_props)
    light.graph.doc_string, light.graph.name = model.graph.doc_string, model.graph.name
    del light.graph.input[:], light.graph.initializer[:]
    light.graph.input.extend(model.graph.input)
    with data.open("wb") as file:
        for t in model.graph.initializer:
            if not is_large(t) or not t.HasField("raw_data"):
                light.graph.initializer.append(t)
                continue
            stub = light.graph.initializer.add(name=t.name, data_type=t.data_type, dims=t.dims)
            file.write(b"\0" * (-file.tell() % ALIGNED))
            start = file.tell()
            file.write(t.raw_data)
            stub.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", start), ("length", file.tell() - start)):
                stub.external_data.add(key=key, value=str(value))
    return light
