"""Where a model file says that its weights lie: looked up without reading the weights that are in it.

onnxruntime opens such files by itself, and up to version 1.20 wherever they lie: links, `..` and absolute paths included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto

from .session import varint
from .weights import check_files

__all__ = ["check_external"]

GRAPH, FUNCTION = 7, 25  # field numbers of ModelProto
NODE, INITIALIZER, SPARSE = 1, 5, 15  # of GraphProto
EXTERNAL_DATA = 13  # of TensorProto


class Odd(Exception):
    """Bytes that are not spelled as protobuf writes them; a whole parse decides."""


def check_external(path: str | os.PathLike[str]) -> None:
    """Raises InvalidModel for external data that is outside the folder of a model file, missing or too short."""
    try:
        with open(path, "rb") as file:
            found = list(_model(file))
    except Odd:
        try:
            model = onnx.load(os.fspath(path), load_external_data=False)
            found = [*_of_graphs([model.graph]), *_of_nodes(node for f in model.functions for node in f.node)]
        except Exception:  # no message at all: whoever opens it says so
            return
    except OSError:
        return
    check_files(found, str(Path(path).parent), str(path))


def _model(file: BinaryIO) -> Iterator[TensorProto]:
    """The external tensors of a model, as stubs."""
    for number, end in _fields(file, os.fstat(file.fileno()).st_size):
        if number == GRAPH:
            yield from _graph(file, end)
        elif number == FUNCTION:
            yield from _of_nodes(_parsed(onnx.FunctionProto, file, end).node)


def _graph(file: BinaryIO, stop: int) -> Iterator[TensorProto]:
    for number, end in _fields(file, stop):
        if number == NODE:
            yield from _of_nodes([_parsed(onnx.NodeProto, file, end)])
        elif number == SPARSE:
            sparse = _parsed(onnx.SparseTensorProto, file, end)
            yield from _external([sparse.values, sparse.indices])
        elif number == INITIALIZER:
            stub = TensorProto(data_location=TensorProto.EXTERNAL)
            for inner, inner_end in _fields(file, end):
                if inner == EXTERNAL_DATA:
                    stub.external_data.append(_parsed(onnx.StringStringEntryProto, file, inner_end))
            yield from _external([stub])


def _fields(file: BinaryIO, stop: int) -> Iterator[tuple[int, int]]:
    """(number, end) of the fields that have a length, the file being at their first byte; others are passed over."""
    while file.tell() < stop:
        tag = varint(file) or 0
        kind = tag & 7
        if kind == 0:
            varint(file)
            continue
        size = {1: 8, 5: 4}.get(kind, varint(file) if kind == 2 else None)
        end = file.tell() + (-1 if size is None else size)
        if size is None or end > stop:
            raise Odd
        if kind == 2:
            yield tag >> 3, end
        file.seek(end)


def _parsed(kind: Any, file: BinaryIO, end: int) -> Any:
    try:
        return kind.FromString(file.read(end - file.tell()))
    except Exception as error:
        raise Odd from error


def _of_graphs(graphs: Iterable[onnx.GraphProto]) -> Iterator[TensorProto]:
    for graph in graphs:
        yield from _external(graph.initializer)
        yield from _external([t for s in graph.sparse_initializer for t in (s.values, s.indices)])
        yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Those in attributes, and in the bodies of If, Loop and Scan."""
    for a in (a for node in nodes for a in node.attribute):
        yield from _external([a.t, *a.tensors, a.sparse_tensor.values, a.sparse_tensor.indices])
        yield from _of_graphs([*([a.g] if a.HasField("g") else []), *a.graphs])


def _external(tensors: Iterable[TensorProto]) -> Iterator[TensorProto]:
    """Those that name a file, whether or not they say that it holds their data."""
    for t in tensors:
        if any(entry.key == "location" for entry in t.external_data):
            stub = TensorProto(name=t.name, data_location=TensorProto.EXTERNAL)
            stub.external_data.extend(t.external_data)
            yield stub
