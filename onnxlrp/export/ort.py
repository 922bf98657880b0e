"""ORT format: the file of onnxruntime's mobile and reduced builds, which neither read .onnx nor rewrite graphs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import onnxruntime as ort

from ..errors import InputError, InvalidModel
from ..explanation import writable
from ..graph import over_limit
from ..session import staged
from ..validity import one_line

__all__ = ["check_files", "export_ort"]


def export_ort(model: onnx.ModelProto, path: str | os.PathLike[str], operators: str | os.PathLike[str] | None = None) -> None:
    """Write a compiled model in ORT format; operators: a file for onnxruntime's `--include_ops_by_config` too.

    Rewritten at level BASIC: constants, such as modified weights, are computed once and for all, for a minimal build would
    compute them at every run, and every operator is still one of ONNX, which any processor has. The levels above bring
    kernels of one processor or provider. Optional inputs and metadata are kept. Raises InputError, InvalidModel.
    """
    files = check_files(path, operators)
    if over_limit(model):
        raise InputError(f"{path}: ORT format holds models up to 2 GB, and this one is larger: serve it as .onnx")
    with ExitStack() as stack:
        made = [stack.enter_context(_placed(file)) for file in files]
        _convert(model, made[0])
        for file in made[1:]:
            _list_operators(made[0], file)


def check_files(path: str | os.PathLike[str], operators: str | os.PathLike[str] | None) -> list[Path]:
    """The files to write. Raises InputError, before there is anything to write, where they cannot be."""
    files = [Path(path)] if operators is None else [Path(path), Path(operators)]
    if files[0].suffix != ".ort" or len({f.absolute() for f in files}) < len(files):
        raise InputError(f"{path}: a model in ORT format is written as .ort, its operators to another file")
    for file in files:
        writable(file)
    return files


@contextmanager
def _placed(path: Path) -> Iterator[Path]:
    """Where to write a file that is to appear at `path`, complete or not at all. Raises InputError."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _convert(model: onnx.ModelProto, file: Path) -> None:
    """onnxruntime's own conversion: what a session saves that was asked for this format."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # of optional inputs, as for every session
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    options.add_session_config_entry("session.save_model_format", "ORT")
    with staged(model, []) as place:
        try:
            ort.InferenceSession(place, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InvalidModel(f"onnxruntime cannot convert the compiled model: {one_line(error)}") from error


def _list_operators(model: Path, file: Path) -> None:
    """The operators and types that a file in ORT format needs, one line per domain and opset."""
    from onnxruntime.tools.ort_format_model import create_config_from_models  # sets up logging of its own

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    create_config_from_models([model], file, enable_type_reduction=True)
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]  # temporary names
    file.write_text("\n".join([f"# operators and types of {model.name}", *lines, ""]), encoding="utf-8")
