"""The file format: `load` (any model to a sorted opset-18 `gs.Graph`) and `save` (graph to ModelProto, atomically to disk).

onnx-graphsurgeon drops `metadata_props` and sorts recursively; both are handled here, so that no other module knows.
"""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import inliner
from onnx_graphsurgeon.logger import G_LOGGER

from .dialect import claim_norms, widen_codes
from .errors import InputError, InvalidModel, UnsupportedOp
from .inference import infer_shapes
from .opsets import spell_one_sided, to_opset, write_out_ceil_mode
from .order import levels, proto_levels, sort_proto
from .validity import check_inference, check_names, check_version, one_line
from .weights import check_files, densify, fill, keep_texts, skeleton, weights_size, with_weights, write_apart

__all__ = ["Source", "load", "over_limit", "read", "read_whole", "save", "scope_of", "to_proto"]

G_LOGGER.severity = G_LOGGER.CRITICAL  # what matters is raised; a library prints nothing
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
SCOPES = "pkg.torch.onnx.name_scopes"
PRIVATE = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # carry paths and source lines of other people
LIMIT = 2**31 - 2**20  # protobuf messages end at 2 GB; leave room for the graph itself

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass
class Source:
    """A loaded model: its graph, and what graphsurgeon would lose (node metadata, keyed by a node's first output)."""

    graph: gs.Graph
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)  # of inputs and outputs that are sequences, maps, ...
    kept: dict[str, str] = field(default_factory=dict)  # If, Loop, Scan that were not written out, and why
    props: dict[str, str] = field(default_factory=dict)  # metadata_props of the model

    def scope(self, node: Any) -> str:
        """Module path that torch's newer exporter recorded for a node, or an empty string."""
        return scope_of(self.metadata.get(node.outputs[0].name, {})) if node.outputs else ""


def scope_of(metadata: Mapping[str, str]) -> str:
    """`["", "encoder", "encoder.0", "relu"]` -> `encoder.0`: the last entry names the call, not a module."""
    try:
        scopes = [str(s) for s in ast.literal_eval(metadata.get(SCOPES, "[]"))]
    except (ValueError, SyntaxError):
        return ""
    return scopes[-2] if len(scopes) > 1 else ""


# ---------------------------------------------------------------------------------------------------------------- load


def read(source: ModelSource) -> tuple[onnx.ModelProto, str]:
    """A path, bytes or a ModelProto as a ModelProto, and the folder of its external data, if any. Raises InvalidModel.

    Large external weights stay in their files; a given ModelProto is not copied, and never changed.
    """
    name, folder = ("the model" if isinstance(source, (bytes, onnx.ModelProto)) else str(source)), ""
    try:
        if isinstance(source, onnx.ModelProto):
            model = source
        elif isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(os.fspath(source), load_external_data=False)
            folder = str(Path(source).parent)
    except FileNotFoundError as error:
        raise InvalidModel(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InvalidModel(f"{name} is a folder; give the .onnx file in it") from error
    except Exception as error:
        raise InvalidModel(f"{name} is not a complete ONNX file (truncated, or another format): {one_line(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise InvalidModel(f"{name} is not an ONNX model: it has no nodes and no outputs")
    if not model.graph.output:
        raise InvalidModel(f"{name} has no outputs, so there is nothing to explain: declare one in graph.output")
    absent = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if absent and not folder:
        raise InvalidModel(
            f"{name} has external data ('{absent[0]}' and {len(absent) - 1} more): give the model's path instead"
        )
    check_files(model.graph.initializer, folder, name)
    return model, folder if absent or _in_attributes(model.graph) else ""


def _in_attributes(graph: onnx.GraphProto) -> bool:
    """Whether a tensor in an attribute, or in a subgraph, is external."""
    found = False
    for a in (a for n in graph.node for a in n.attribute):
        found |= a.t.data_location == onnx.TensorProto.EXTERNAL
        for body in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
            found |= _in_attributes(body) or any(t.data_location == onnx.TensorProto.EXTERNAL for t in body.initializer)
    return found


def read_whole(source: ModelSource) -> onnx.ModelProto:
    """`read`, as a ModelProto of our own with all of its weights."""
    model, folder = read(source)
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    if folder:
        _load_external(model, folder)
    return model


def load(source: ModelSource, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> Source:
    """Any ONNX model as a checked, inlined, topologically sorted opset-18 graph with inferred shapes.

    input_shapes: replaces (symbolic) input shapes, {input: shape}. Raises InvalidModel, UnsupportedOp, InputError.
    """
    whole, folder = read(source)
    if any(p.key == "onnxlrp.version" for p in whole.metadata_props):
        raise InvalidModel("the model was compiled by onnxlrp already: explain it as it is, or compile the original again")
    check_version(whole)
    whole = widen_codes(whole, folder)
    model = skeleton(whole)
    if folder:
        _load_external(model, folder)
    densify(model)
    for node in (n for g in proto_levels(model.graph) for n in g.node):
        if node.domain == "com.microsoft.nchwc":
            raise UnsupportedOp(
                f"node '{node.name}' ({node.op_type}): the file was optimised by onnxruntime at level ALL for one processor; "
                "save it again at level BASIC or bring the original export"
            )
    if model.functions:
        model = inliner.inline_local_functions(model)
    _one_domain(model.graph)
    _one_import_each(model)
    claim_norms(model)
    if input_shapes:
        _set_input_shapes(model, input_shapes, {t.name for t in whole.graph.initializer})
    _drop_initializer_inputs(model)
    check_names(model)
    for body in proto_levels(model.graph):
        sort_proto(body)
    check_inference(model)
    nodes = [n for g in proto_levels(model.graph) for n in g.node if n.output]
    metadata = {n.output[0]: {p.key: p.value for p in n.metadata_props} for n in reversed(nodes)}
    for body in proto_levels(model.graph):
        spell_one_sided(body)
    model = to_opset(model)
    for body in proto_levels(model.graph):
        write_out_ceil_mode(body)
    model = infer_shapes(model)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        # a newer operator is written out later or refused by its node's name; an output's shape may be unknown
        if not any(known in str(error) for known in ("No Op registered for", "is deprecated in", "'shape' of 'type'")):
            raise InvalidModel(f"the model does not pass onnx.checker: {one_line(error)}") from error
    graph = gs.import_onnx(model)
    with_weights(graph, whole, folder)
    for index, node in enumerate(graph.nodes):
        node.name = node.name or f"{node.op}_{index}"
    _unique_node_names(graph)
    _compute_constant_outputs(graph)
    keep_texts(graph)
    faces = (*model.graph.input, *model.graph.output)
    types = {f.name: f.type for f in faces if f.type.WhichOneof("value") not in ("tensor_type", None)}
    for t in (t for g in levels(graph) for n in (g, *g.nodes) for t in (*n.inputs, *n.outputs)):
        if t.name in types or getattr(t, "type", "") == "optional_type":  # graphsurgeon cannot write these
            t.type, t.dtype, t.shape = "tensor_type", np.dtype(object) if t.name in types else None, None
    return Source(graph, metadata, types=types, props={p.key: p.value for p in whole.metadata_props})


def _load_external(model: onnx.ModelProto, folder: str) -> None:
    """Read external tensors into the model, those of a skeleton: shapes and axes may be among them."""
    try:
        onnx.load_external_data_for_model(model, folder)
    except Exception as error:
        raise InvalidModel(f"external data in {folder} cannot be read: {one_line(error)}") from error


def _one_domain(graph: onnx.GraphProto) -> None:
    """`ai.onnx` is another spelling of the standard domain."""
    for node in graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                _one_domain(body)


def _one_import_each(model: onnx.ModelProto) -> None:
    """Of several imports of a domain, which scikit-learn's converter writes, the newest."""
    newest: dict[str, int] = {}
    for opset in model.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        newest[domain] = max(opset.version, newest.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*each) for each in newest.items())


def _compute_constant_outputs(graph: gs.Graph) -> None:
    """An initializer that is an output at the same time becomes the output of an Identity."""
    for i, t in enumerate(graph.outputs):
        if isinstance(t, gs.Constant):
            name, out = t.name, gs.Variable(t.name, t.dtype, t.shape)
            t.name = f"{name}/value"
            graph.nodes.append(gs.Node("Identity", f"{name}/identity", {}, [t], [out]))
            graph.outputs[i] = out


def _set_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]], weights: set[str]) -> None:
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InputError(f"input_shapes names '{name}', which is not an input; inputs are {', '.join(inputs)}")
        dims = inputs[name].type.tensor_type.shape
        if len(dims.dim) not in (0, len(shape)):
            raise InputError(f"input_shapes gives '{name}' {len(shape)} axes, the model declares {len(dims.dim)}")
        del dims.dim[:]
        for size in shape:
            dims.dim.add(**({"dim_param": size} if isinstance(size, str) else {"dim_value": int(size)}))
    del model.graph.value_info[:]  # recorded with the old shapes


def _drop_initializer_inputs(model: onnx.ModelProto) -> None:
    """IR 3 lists every initializer among the inputs; they are constants for us and must not become explained inputs."""
    constants = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 8)


def _unique_node_names(graph: gs.Graph) -> None:
    seen: dict[str, int] = {}  # name -> next number to try: many nodes of one name stay linear
    for node in graph.nodes:
        base, count = node.name, seen.get(node.name, 0)
        while node.name in seen:
            count += 1
            node.name = f"{base}_{count}"
        seen[base] = count
        seen.setdefault(node.name, 0)


# ---------------------------------------------------------------------------------------------------------------- save


def to_proto(
    graph: gs.Graph,
    metadata: Mapping[str, Mapping[str, str]],
    props: Mapping[str, str],
    defaults: Mapping[str, np.ndarray] | None = None,
    types: Mapping[str, onnx.TypeProto] | None = None,
) -> onnx.ModelProto:
    """The finished graph as a checked ModelProto.

    metadata: per first output, what the source said about that node. props: model metadata.
    defaults: graph inputs that get an initializer of the same name, so that a caller may leave them out.
    types: of inputs and outputs that graphsurgeon cannot describe.
    """
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = 8
    for node in model.graph.node:
        for key, value in metadata.get(node.output[0], {}).items() if node.output else ():
            if key not in PRIVATE:
                node.metadata_props.add(key=key, value=value)
                model.ir_version = 10  # the first that knows node metadata
    for face in (*model.graph.input, *model.graph.output):
        if types and face.name in types:
            face.type.CopyFrom(types[face.name])
    for name, default in (defaults or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(default, name))
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(skeleton(model))
    fill(model, graph)
    return model


def over_limit(model: onnx.ModelProto) -> bool:
    """Whether a model is too large for one file. ByteSize would serialise it to find out."""
    return int(skeleton(model).ByteSize()) + weights_size(model) > LIMIT


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model so that `path` is either complete or untouched; over 2 GB the weights go to `path`.data."""
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        file, data = Path(folder) / target.name, Path(folder) / f"{target.name}.data"
        onnx.save(write_apart(model, data) if over_limit(model) else model, file)
        if data.exists():
            os.replace(data, target.parent / data.name)
        os.replace(file, target)
