"""What the three training scripts share: the data split, and the checked way a model file is written."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SEED = 0
HERE = Path(__file__).resolve().parent


def load_split() -> tuple[Floats, Floats, Labels, Labels]:
    """Return x_train, x_test, y_train, y_test; x is [n, 64] with values 0..1 (raw / 16)."""
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16.0).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(x, labels, test_size=0.25, random_state=0, stratify=labels)
    return x_train, x_test, y_train.astype(np.int64), y_test.astype(np.int64)


def strip_paths(model: onnx.ModelProto) -> None:
    """Drop what exporters record about the machine they ran on (stack traces, doc strings); keep module scopes."""
    model.doc_string = ""
    model.graph.doc_string = ""
    for holder in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        holder.doc_string = ""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if "scope" in entry.key or "class_hierarchy" in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def write_checked(model: onnx.ModelProto, name: str, output: str, x: Floats, expected: Floats, y: Labels) -> None:
    """Check the model against the framework's own output on the test digits, then put the file next to the scripts."""
    strip_paths(model)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    for batch in (1, 5):  # a batch dimension that is not really symbolic fails here
        assert session.run([output], {feed: x[:batch]})[0].shape == (batch, 10)
    got = session.run([output], {feed: x})[0]
    difference = float(np.abs(got - expected).max())
    right = int((got.argmax(axis=1) == y).sum())
    print(f"held-out accuracy: {right}/{len(y)} = {right / len(y):.2%}")
    print(f"max abs difference, onnxruntime - framework: {difference:.2e}")
    assert difference < 1e-4
    # Written under another name first: a reader never sees half a file.
    temporary = HERE / f".{name}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, HERE / name)
    print(f"{name}: {len(data)} bytes")
