"""Samples of an evaluation out of a data set: all of them, or some evenly spread; those that cannot be read left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from .data import Rows, open_data
from .errors import InputError
from .feeds import TYPES
from .graph import ModelSource, read
from .preprocessing import Preprocessing
from .task import Declared

__all__ = ["Samples", "float_input", "read_samples"]

Array = np.ndarray
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


@dataclass(frozen=True)
class Samples:
    """x: (N, ...). target: (N,) where the data has one. notes: what was left out, in words."""

    x: Array
    target: Array | None
    notes: list[str]


def float_input(model: ModelSource, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, Declared]:
    """{name: type and shape} of a model's only input. input_shapes: in the place of its own. Raises InputError."""
    proto, _ = read(model)
    weights = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    if len(inputs) != 1:
        held = f"several: {', '.join(i.name for i in inputs)}" if inputs else "none"
        raise InputError(f"evaluate changes one float input; the model has {held}")
    (face,) = inputs
    kind = face.type.tensor_type
    if not kind.HasField("shape") or kind.elem_type not in onnx.helper.get_all_tensor_dtypes():
        raise InputError(f"evaluate changes a float input (batch, ...); '{face.name}' has no such shape")
    dtype = NAMES.get(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), "another type")
    own = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
    return {face.name: Declared(dtype, list((input_shapes or {}).get(face.name, own)))}


def read_samples(path: str, wanted: Mapping[str, Declared], how: Preprocessing, most: int) -> Samples:
    """Up to `most` rows of a data set as `onnxlrp run` reads it, evenly spread over it. Raises InputError."""
    data = open_data(path, wanted, how)
    count = len(data)
    if count <= most:
        parts = [data.read(0, count)]
        notes = list(data.notes)
    else:
        parts = [data.read(i, i + 1) for i in (k * count // most for k in range(most))]
        notes = [*data.notes, f"{most:,} of {count:,} rows, evenly spread; --samples takes more"]
    bad = [f"{part.ids[i]}: {why}" for part in parts for i, why in part.unreadable.items()]
    tried = min(count, most)
    if len(bad) == tried:
        raise InputError(f"{path}: no row can be read; the first: {bad[0] if bad else 'there is none'}")
    if bad:
        notes.append(f"{len(bad):,} of {tried:,} rows could not be read and are left out; the first: {bad[0]}")
    (name,) = wanted
    return Samples(np.concatenate([p.feed[name] for p in parts if len(p.good)]), _targets(parts), notes)


def _targets(parts: Sequence[Rows]) -> Array | None:
    found = [p.target for p in parts if p.target is not None and len(p.good)]
    return np.concatenate(found) if found else None
