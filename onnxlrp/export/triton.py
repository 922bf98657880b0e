"""A model repository for NVIDIA Triton Inference Server: NAME/config.pbtxt and NAME/1/model.onnx.

How Triton's onnxruntime backend decides what is written here (its src/onnxruntime.cc, ModelInstanceState::ValidateInputs):
- An optional input must be an initializer that may be overridden, and is refused where max_batch_size is above 0: requests
  that are merged into one batch must all give it. So `target` is a required input of shape [batch] where rows are batched,
  -1 for the class that the model predicts, and optional, as in the compiled file, where they are not.
- With max_batch_size above 0 every input and output must lead with a free axis. The sizes that the configuration gives
  outputs must be those that onnxruntime reports, -1 for free ones: they are asked of a session here, not read from the file.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ..errors import InputError
from ..graph import save
from ..session import open_session, staged
from .model import interface, require, without_input

__all__ = ["Service", "check_place", "export_triton"]

TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float": "FP32", "double": "FP64",
    "string": "STRING",
}  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Service:
    """How the server runs the model. max_batch: rows per run, 0 for requests that are never merged.

    delay: microseconds that a request waits for others. instances: copies of the session. threads: of onnxruntime in each,
    0 for all. target: whether requests name the class. warmup: run once, on zeros, before the first request. independent:
    the caller's word that rows of a batch do not influence each other, where the compiler could not follow them.
    """

    max_batch: int = 16
    delay: int = 500
    instances: int = 1
    gpu: bool = False
    threads: int = 0
    target: bool = True
    warmup: bool = False
    independent: bool = False


@dataclass(frozen=True)
class Face:
    """An input or output as onnxruntime reports it: sizes of its axes, -1 for free ones."""

    name: str
    kind: str
    shape: tuple[int, ...]
    optional: bool = False


def export_triton(model: onnx.ModelProto, folder: str | os.PathLike[str], name: str, how: Service, again: bool = False) -> str:
    """Write folder/name with the compiled model, which is changed; says what was written, and what to know of it.

    again: add the next version to a model that is there with the same configuration. A version appears complete or not at
    all. Raises InputError.
    """
    place = check_place(folder, name, again)
    inputs, outputs, how, notes = prepared(model, how)
    text = configuration(name, inputs, outputs, how)
    version = following(place, text) if place.exists() else 1
    _write(model, place, version, text)
    batches = f"up to {how.max_batch} rows per run" if how.max_batch else "one request per run (max_batch_size 0)"
    return "\n".join([f"{place}: version {version}, {batches}", *notes])


def check_place(folder: str | os.PathLike[str], name: str, again: bool) -> Path:
    """Where the model belongs. Raises InputError, before there is anything to write, where it cannot be written."""
    if not NAME.fullmatch(name):
        raise InputError(f"'{name}' cannot name a model: letters, digits, _ . - and no folder (--name)")
    root = Path(folder)
    place = root / name
    if not root.parent.is_dir() or (root.exists() and not root.is_dir()):
        raise InputError(f"cannot write {root}: it is no folder, nor can it be made in {root.parent}")
    if place.exists() and not again:
        raise InputError(f"{place} exists: choose another --name, or add a version to it (--add-version)")
    return place


def following(place: Path, text: str) -> int:
    """The number of the next version of a model whose configuration is `text`. Raises InputError."""
    try:
        there = (place / "config.pbtxt").read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{place} is no model of a repository: it has no config.pbtxt that can be read") from error
    if there != text:
        raise InputError(f"{place}/config.pbtxt is not what this model needs, and versions share one: choose another --name")
    return 1 + max((int(p.name) for p in place.iterdir() if p.name.isdecimal()), default=0)


def _write(model: onnx.ModelProto, place: Path, version: int, text: str) -> None:
    """A temporary folder first, renamed when it is complete: Triton may be watching."""
    try:
        place.parent.mkdir(exist_ok=True)
        parent = place if version > 1 else place.parent
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{place.name}.") as made:
            whole = Path(made) / place.name
            (whole / str(version)).mkdir(parents=True)
            save(model, whole / str(version) / "model.onnx")
            if version > 1:
                os.rename(whole / str(version), place / str(version))
                return
            (whole / "config.pbtxt").write_text(text, encoding="utf-8")
            os.rename(whole, place)
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror or error}") from error


# --------------------------------------------------------------------------------------------------------- the model


def prepared(model: onnx.ModelProto, how: Service) -> tuple[list[Face], list[Face], Service, list[str]]:
    """Inputs and outputs to declare, the service as far as the model allows it, and what to know. Changes the model."""
    known = interface(model)
    target, rows = known["target"], known["rows"]
    if target and not how.target:
        without_input(model, target)
    inputs, outputs = faces_of(model)
    why = unbatched(inputs, outputs, known, how) if how.max_batch else ""
    if why or not how.max_batch:
        return inputs, outputs, replace(how, max_batch=0), [f"requests are not merged into batches: {why}"] if why else []
    if target and how.target:
        (first,) = [i for i in model.graph.input if i.name == rows["inputs"][0]]
        require(model, target, first.type.tensor_type.shape.dim[0].dim_param)
        inputs = [replace(f, shape=(-1,), optional=False) if f.name == target else f for f in inputs]
    left = [f.name for f in inputs if f.optional]
    notes = [f"left at their defaults, for batches have no optional inputs: {', '.join(left)}"] if left else []
    return [f for f in inputs if not f.optional], outputs, how, notes


def faces_of(model: onnx.ModelProto) -> tuple[list[Face], list[Face]]:
    """Inputs, those with defaults last, and outputs. Raises InputError for what Triton has no type for."""
    with staged(model, []) as place:
        session = open_session(place, ["CPUExecutionProvider"], 1)
    given = [(i, False) for i in session.get_inputs()] + [(i, True) for i in session.get_overridable_initializers()]

    def face(port: Any, optional: bool = False) -> Face:
        kind = TYPES.get(port.type.removeprefix("tensor(").removesuffix(")"))
        if kind is None:
            raise InputError(f"'{port.name}' is a {port.type}: Triton's onnxruntime takes and gives {', '.join(TYPES)} tensors")
        return Face(port.name, kind, tuple(d if isinstance(d, int) else -1 for d in port.shape), optional)

    return [face(*each) for each in given], [face(o) for o in session.get_outputs()]


def unbatched(inputs: Sequence[Face], outputs: Sequence[Face], known: Mapping[str, Any], how: Service) -> str:
    """Why requests must not share a run, or "" where they may."""
    for f in (*(i for i in inputs if not i.optional), *outputs):
        if f.shape[:1] != (-1,):
            return f"'{f.name}' of shape {list(f.shape)} does not lead with a free batch axis"
    if known["shared"]:
        return "with a shared forward pass, rows of relevance are no rows of the inputs"
    if known["rows"]["independent"] or how.independent:
        return ""
    return "rows of a batch are not known to be independent (--independent-rows says that they are)"


# ----------------------------------------------------------------------------------------------------- config.pbtxt


def configuration(name: str, inputs: Sequence[Face], outputs: Sequence[Face], how: Service) -> str:
    """The model's ModelConfig in protobuf's text format. Raises InputError."""
    parts = [
        f'name: {_quoted(name)}\nbackend: "onnxruntime"\nmax_batch_size: {how.max_batch}\n',
        *(_port("input", f, how.max_batch > 0) for f in inputs),
        *(_port("output", f, how.max_batch > 0) for f in outputs),
        f"instance_group {{\n  kind: {'KIND_GPU' if how.gpu else 'KIND_CPU'}\n  count: {how.instances}\n}}\n",
    ]
    if how.max_batch > 1:
        sizes = sorted({n for n in (how.max_batch // 4, how.max_batch // 2, how.max_batch) if n > 1})
        parts.append(f"dynamic_batching {{\n  preferred_batch_size: {sizes}\n  max_queue_delay_microseconds: {how.delay}\n}}\n")
    if how.threads:
        parts.append(f'parameters {{\n  key: "intra_op_thread_count"\n  value {{ string_value: "{how.threads}" }}\n}}\n')
    if how.warmup:
        parts.append(_warmup(inputs, how.max_batch > 0))
    return "".join(parts)


def _port(what: str, f: Face, batched: bool) -> str:
    dims, reshape = _dims(f, batched)
    lines = [f"name: {_quoted(f.name)}", f"data_type: TYPE_{f.kind}", f"dims: {dims}"]
    lines += ["reshape { shape: [ ] }"] * reshape + ["optional: true"] * f.optional
    return f"{what} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _dims(f: Face, batched: bool) -> tuple[list[int], bool]:
    """Sizes without the batch axis, and whether the [1] of a request becomes no axis at all: dims must not be empty."""
    dims = list(f.shape[1:] if batched else f.shape)
    return dims or [1], batched and not dims


def _warmup(inputs: Sequence[Face], batched: bool) -> str:
    """One run on zeros. Raises InputError where the model does not say their shape."""
    lines = []
    for f in (f for f in inputs if not f.optional):
        dims, _ = _dims(f, batched)
        if -1 in dims:
            raise InputError(f"input '{f.name}' of shape {list(f.shape)} has free axes: fix them (--input-shapes) to warm up")
        value = f"data_type: TYPE_{f.kind} dims: {dims} zero_data: true"
        lines.append(f"  inputs {{\n    key: {_quoted(f.name)}\n    value {{ {value} }}\n  }}\n")
    return f'model_warmup {{\n  name: "zeros"\n  batch_size: {int(batched)}\n' + "".join(lines) + "}\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
