"""Columns of Arrow as arrays: lists of numbers without a copy, tensors, encoded pictures, numbers side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InputError
from ..inputs import BROKEN, Preprocessing, picture
from ..validity import one_line
from .check import Wanted, sizes_text

__all__ = ["is_number", "is_picture", "is_values", "numbers", "pictures", "side_by_side", "texts", "values"]

Array = np.ndarray


def is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: Any) -> bool:
    """Integers, floats, decimals, booleans; also in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
    )


def is_picture(kind: Any) -> bool:
    """Encoded pictures: binary, or a struct with a field `bytes` (as Hugging Face's data sets have it)."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_picture(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_values(kind: Any) -> bool:
    """Numbers, lists of them however deep, tensors."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    while is_list(kind):
        kind = kind.value_type
    return is_number(kind)


def numbers(column: Any, name: str, gaps: bool) -> Array:
    """A column of numbers (n,). Raises InputError for nulls, which are NaN where the model fills gaps."""
    if column.null_count and not (gaps and not pa.types.is_boolean(column.type)):
        raise InputError(f"'{name}' has {column.null_count} null value(s)")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def values(column: Any, name: str, want: Wanted, gaps: bool) -> Array:
    """Rows (n, ...) of a column of numbers, lists or tensors; flat lists in the input's shape. Raises InputError."""
    if column.null_count and not (gaps and is_number(column.type)):
        raise InputError(f"'{name}' is null")
    if isinstance(column, pa.FixedShapeTensorArray):
        kind = column.type
        stored = numbers(column.storage.flatten(), name, gaps).reshape(len(column), *kind.shape)
        return stored.transpose(0, *(i + 1 for i in kind.permutation)) if kind.permutation else stored
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    sizes = [len(column)]
    while is_list(column.type):
        sizes.append(_length(column, name))
        column = column.flatten()
    found = numbers(column, name, gaps).reshape(sizes)
    return found if len(sizes) == len(want.shape) else _in_shape(found, name, want)


def _length(column: Any, name: str) -> int:
    """That all lists have. Raises InputError where they differ or one is null."""
    if column.null_count:
        raise InputError(f"'{name}' has a null list")
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    lengths = np.diff(column.offsets.to_numpy())
    if (lengths != lengths[:1]).any():
        raise InputError(f"'{name}' has lists of different lengths, {lengths.min()} to {lengths.max()}")
    return int(lengths[0]) if len(lengths) else 0


def _in_shape(found: Array, name: str, want: Wanted) -> Array:
    """Flat rows (n, values), or numbers (n,), in the shape of the input's rows. Raises InputError."""
    row = want.row
    known = math.prod(n for n in row if n is not None)
    size = math.prod(found.shape[1:])
    free = row.count(None)
    if found.ndim > 2 or free > 1 or (size % known if free and known else size != known):
        raise InputError(f"'{name}' has rows of {sizes_text(found.shape[1:])}, input '{want.name}' takes {sizes_text(row)}")
    return found.reshape(len(found), *(size // known if n is None else n for n in row))


def pictures(column: Any, name: str, want: Wanted, how: Preprocessing) -> Array:
    """Rows (n, ...) of encoded pictures. Raises InputError."""
    if column.null_count:
        raise InputError(f"'{name}' is null")
    inner = column.field("bytes") if pa.types.is_struct(column.type) else column
    if inner.null_count:
        raise InputError(f"'{name}' has a path and no bytes: write the data set with its pictures in it")
    try:
        found = [picture(io.BytesIO(data.as_py()), "it", want.shape, how) for data in inner]
    except BROKEN as error:
        raise InputError(f"'{name}' is no picture that can be read: {one_line(error)}") from error
    return np.concatenate(found)


def side_by_side(get: Callable[[str], Any], names: Sequence[str], dtype: np.dtype[Any], gaps: bool) -> Array:
    """Columns of numbers as the features of a table (n, features), float64 where the input's type holds less."""
    columns = [numbers(get(name), name, gaps) for name in names]
    kinds = {c.dtype for c in columns}
    out = np.empty((len(columns[0]), len(columns)), kinds.pop() if len(kinds) == 1 else np.result_type(np.float64, dtype))
    for i, column in enumerate(columns):
        out[:, i] = column
    return out


def texts(column: Any, start: int) -> list[str]:
    """Ids as text; a null one is the row's number."""
    return [
        str(start + i) if v is None else v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else str(v)
        for i, v in enumerate(column.to_pylist())
    ]
