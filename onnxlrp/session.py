"""onnxruntime's side: opening a model with little memory, running it, and keeping the original within reach."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnxruntime as ort

from .errors import InputError, InvalidModel
from .graph import ModelSource, read_whole
from .validity import one_line
from .weights import weights_size, write_apart

__all__ = ["keep", "metadata", "open_session", "providers_of", "run", "staged", "varint"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
APART = 2**26  # bytes of weights above which a model in memory goes to the runtime by way of a file
METADATA = 14  # field number of metadata_props in ModelProto


def providers_of(providers: str | Sequence[str] | None) -> list[str]:
    """onnxruntime's names. Raises InputError for one that is not available."""
    asked = ["cpu"] if providers is None else [providers] if isinstance(providers, str) else list(providers)
    names = [PROVIDERS.get(p.lower(), p) for p in asked]
    available = ort.get_available_providers()
    for name in names:
        if name not in available:
            hint = "; `pip install onnxruntime-gpu` in the place of onnxruntime brings it" if "CUDA" in name else ""
            raise InputError(f"provider '{name}' is not available here; available are {', '.join(available)}{hint}")
    return names


@contextmanager
def staged(model: onnx.ModelProto, extra: Sequence[str]) -> Iterator[str | bytes]:
    """The model with more outputs, as what a session opens: bytes, or with large weights a file that the runtime maps.

    Of VGG-16 the peak is 1.9 GB so, 3.5 GB with the bytes and the ModelProto in memory. Nothing here refers to the
    model after the first step, so that a caller who does neither frees it before the session is opened.
    """
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in extra]
    if weights_size(model) <= APART:
        # messages that follow each other are one message, repeated fields joined: the caller's is not changed
        data = model.SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializeToString()
        del model
        yield data
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        light = write_apart(model, Path(folder) / "model.data")
        light.graph.output.extend(outputs)
        onnx.save(light, path)
        del model, light
        gc.collect()  # the compiler's graphs are full of cycles, and refer to the weights of what it read
        yield str(path)


def open_session(place: str | bytes, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    """A session on a file or on bytes. Raises InvalidModel."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # onnxruntime warns of every overridable initializer, such as `target`
    options.intra_op_num_threads = threads
    # Planning a run's memory ahead keeps a second block for it: ResNet-50, 8 rows: 2.9 GB with, 1.8 GB without, no faster.
    # What gave nothing is left out: denormals as zero (equal maps, same time), no spinning (slower on an idle machine),
    # no arena (slower), weights not packed (half the memory for VGG-16, but batches take 1.3 to 1.6 times as long).
    options.enable_mem_pattern = False
    # Planning which tensor takes over whose memory takes time with the square of the nodes, and the arena finds it anyway:
    # DenseNet-121, AlphaBeta, 2,768 nodes: opened in 0.6 s, 1.6 s with; as fast, as large.
    options.enable_mem_reuse = False
    try:
        return ort.InferenceSession(place, options, providers=list(providers))
    except Exception as error:
        raise InvalidModel(f"onnxruntime cannot load the compiled model: {one_line(error)}") from error


def run(session: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, np.ndarray], device: str = "") -> list[Any]:
    """Values of the named outputs. device: where inputs and outputs are bound, so that results alone are copied back."""
    if not device:
        found: list[Any] = session.run(names, feed)
        return found
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    copied: list[Any] = binding.copy_outputs_to_cpu()
    return copied


# ------------------------------------------------------------------------------------------------------- the original


def metadata(source: ModelSource) -> dict[str, str]:
    """metadata_props; of a file without reading its graph. {} for what is no model, which `read` will name."""
    if isinstance(source, bytes):
        source = onnx.load_model_from_string(source)
    if isinstance(source, onnx.ModelProto):
        return {p.key: p.value for p in source.metadata_props}
    found = {}
    try:
        with open(source, "rb") as file:
            while (tag := varint(file)) is not None:
                kind, size = tag & 7, 0
                if kind in (0, 2):
                    size = varint(file) or 0
                if tag >> 3 == METADATA and kind == 2:
                    entry = onnx.StringStringEntryProto.FromString(file.read(size))
                    found[entry.key] = entry.value
                elif kind in (1, 2, 5):
                    file.seek({1: 8, 2: size, 5: 4}[kind], os.SEEK_CUR)
                elif kind != 0:
                    return {}
    except Exception:  # not a file, not a message: whoever reads the whole of it says so
        return {}
    return found


def varint(file: BinaryIO) -> int | None:
    """A protobuf number, seven bits a byte, least first; None at the end of the file."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            break
    return value


class Opened:
    """A model file that is read again when it is asked for: it may be gone or replaced by then, but not overwritten."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.file = path, os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.file)
        self.stamp, self.lock = self._stamp(), threading.Lock()

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self.file)
        return found.st_size, found.st_mtime_ns

    def __call__(self) -> onnx.ModelProto:
        if self._stamp() != self.stamp:
            raise InvalidModel(f"{self.path} was overwritten since it was opened: make the Explainer again")
        with self.lock, os.fdopen(os.dup(self.file), "rb") as file:  # duplicates share one position
            file.seek(0)
            return onnx.load_model_from_string(file.read())


def keep(model: ModelSource, external: bool) -> Callable[[], ModelSource]:
    """How to get the model again, whatever becomes of a file's name or of a ModelProto, with no second copy of a file's
    weights. external: its data lies in other files, which must stay."""
    if isinstance(model, onnx.ModelProto):
        whole = read_whole(model)
        return lambda: whole
    if isinstance(model, bytes) or external:
        return lambda: model
    return Opened(model)
