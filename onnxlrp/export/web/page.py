"""A folder with a page that explains in the browser: compiled models, what the page must know of them, the runtime."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import onnx

from ...errors import InputError
from ...graph import over_limit
from ...inputs import picture_size
from ...pictures.kinds import kind_of
from ...preprocessing import Preprocessing
from ...session import metadata
from ...version import __version__
from ...wording import composite_line
from ..model import interface, require

__all__ = ["KINDS", "Page", "write_page"]

KINDS = ("image", "table")
ASSETS = ("style.css", "app.js", "image.js", "table.js", "sketch.js", "pixels.js", "view.js")
CHANNELS = (1, 3, 4)
MOST = 400  # features that a form can have


@dataclass(frozen=True)
class Page:
    """What a page says and how it reads its input. kind: "image", "table", or "" for what the shape tells.

    labels: names of the classes; names: of a table's features.
    """

    title: str
    kind: str = ""
    how: Preprocessing = field(default_factory=Preprocessing)
    labels: Sequence[str] = ()
    names: Sequence[str] = ()


def write_page(
    models: Mapping[str, onnx.ModelProto], folder: str | os.PathLike[str], page: Page, runtime: Mapping[str, Path]
) -> int:
    """Write the page, complete or not at all; returns its bytes. models: {rule as the page calls it: compiled model}.

    runtime: of `find_runtime`. Raises InputError for models that a page cannot feed or show, and for a folder in use.
    """
    target = Path(folder)
    free(target)
    facts = settings(models, page)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        place = Path(made) / target.name
        (place / "models").mkdir(parents=True)
        (place / "runtime").mkdir()
        for rule, model in zip(facts["rules"], models.values(), strict=True):
            onnx.save(with_target(model), place / rule["file"])
            rule["bytes"] = (place / rule["file"]).stat().st_size
        for name, source in runtime.items():
            shutil.copyfile(source, place / "runtime" / name)
        for name in ASSETS:
            (place / name).write_text(_asset(name), "utf-8")
        (place / "settings.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), "utf-8")
        shown = _asset("page.html").replace("{version}", __version__).replace("{title}", html.escape(page.title))
        (place / "index.html").write_text(shown, "utf-8")
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        if target.is_dir():
            target.rmdir()  # empty; Windows does not rename onto a folder
        place.rename(target)
    return size


def free(folder: Path) -> None:
    """Raises InputError unless a folder of this name can be made: its parent is there, it is not, or is empty."""
    if not folder.absolute().parent.is_dir():
        raise InputError(f"cannot write {folder}: the folder {folder.parent} does not exist")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"cannot write {folder}: it is not a folder")
    if folder.absolute() == Path.cwd():
        raise InputError(f"cannot write {folder}: it is the working directory; name a folder in it")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"cannot write {folder}: it is not empty; name a new folder, or empty it")


def with_target(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with `target` as an input like any other: onnxruntime's JavaScript knows no optional inputs.

    onnxruntime-web refuses values for one, onnxruntime-node leaves them out without a word.
    """
    target, out = interface(model)["target"], onnx.ModelProto()
    out.CopyFrom(model)
    if target:
        require(out, target, "batch")
    return out


# what the page must know ---------------------------------------------------------------------------------------------


def settings(models: Mapping[str, onnx.ModelProto], page: Page) -> dict[str, Any]:
    """settings.json but for the sizes of the models. Raises InputError for what a page cannot feed or show."""
    if not models:
        raise InputError("a page needs a compiled model")
    rules = []
    for number, (name, model) in enumerate(models.items()):
        if over_limit(model):
            raise InputError("the model is larger than 2 GB, which no browser loads")
        props = metadata(model)
        face = interface(model)
        source = _input(model, face)
        rules.append(
            {
                "name": name,
                "says": composite_line(props["onnxlrp.composite"]).partition(": ")[2],
                "file": f"models/{number}-{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')[:60] or 'rule'}.onnx",
                "relevance": face["relevance"][source.name],
            }
        )
    plan = json.loads(props["onnxlrp.plan"])
    scores = next((o for o in model.graph.output if o.name == plan["output"]), None)
    shape = sizes(scores) if scores is not None else ()
    if scores is None or len(shape) != 2 or plan["class_axis"] not in (None, 1):
        what = f"has the shape {shape}" if scores is not None else "is none of the model's outputs"
        raise InputError(f"a page shows one list of scores (1, classes), but '{plan['output']}' {what}: --output names another")
    if page.labels and isinstance(shape[1], int) and len(page.labels) != shape[1]:
        raise InputError(f"{len(page.labels)} labels for the {shape[1]} classes of output '{scores.name}'")
    return {
        "version": __version__,
        "input": source.name,
        "target": face["target"],
        "output": scores.name,
        "classes": shape[1] if isinstance(shape[1], int) else None,
        "labels": list(page.labels),
        **(_table(source, page) if kind_of_page(source, page.kind) == "table" else _image(source, page)),
        "rules": rules,
    }


def sizes(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The shape; a symbolic axis by its name, or ""."""
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim)


def _input(model: onnx.ModelProto, face: Mapping[str, Any]) -> onnx.ValueInfoProto:
    """The one input that a visitor gives. Raises InputError."""
    optional = {i.name for i in model.graph.initializer} | {face["target"]}
    needed = [i for i in model.graph.input if i.name not in optional]
    if len(needed) != 1:
        raise InputError(f"a page feeds one picture or table, but the model has the inputs {', '.join(i.name for i in needed)}")
    source: onnx.ValueInfoProto = needed[0]
    if source.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(source.type.tensor_type.elem_type).lower()
        raise InputError(f"a page feeds float32, but input '{source.name}' has the type {kind}; text has no page")
    if source.name not in face["relevance"]:
        raise InputError(f"a page shows the relevance of input '{source.name}', which is not explained: leave out --explain")
    return source


def kind_of_page(source: onnx.ValueInfoProto, asked: str) -> str:
    """ "image" or "table". Raises InputError for shapes that are neither."""
    shape = sizes(source)
    if shape and shape[0] != 1 and isinstance(shape[0], int):
        raise InputError(f"a page feeds one row, but input '{source.name}' takes {shape[0]}: --input-shapes may make it 1")
    flat = [int(n) for n in shape[1:] if isinstance(n, int)]
    told = "image" if len(shape) == 4 else kind_of(flat) if len(shape) == 2 and flat else ""
    kind = asked or told
    if kind not in KINDS or not told or (kind == "table" and len(shape) != 2):
        fix = f"; --input-shapes {source.name}=1,... fixes its shape" if "" in shape or len(flat) < len(shape) - 1 else ""
        raise InputError(f"a page shows pictures and tables; input '{source.name}' {shape} is no {asked or 'such'}{fix}")
    return kind


def _table(source: onnx.ValueInfoProto, page: Page) -> dict[str, Any]:
    count = sizes(source)[1]
    assert isinstance(count, int)
    if count > MOST:
        raise InputError(f"a page has a field per feature, but input '{source.name}' has {count}, more than {MOST}")
    if page.names and len(page.names) != count:
        raise InputError(f"{len(page.names)} names for the {count} features of '{source.name}'")
    if page.how != Preprocessing():
        raise InputError("scale, mean, std and layout are for pictures, and the page shows a table: leave them out")
    return {"kind": "table", "shape": [1, count], "names": list(page.names) or [f"{source.name}[{i}]" for i in range(count)]}


def _image(source: onnx.ValueInfoProto, page: Page) -> dict[str, Any]:
    """Size, layout and preprocessing of a picture, as `onnxlrp.inputs` reads it. Raises InputError."""
    shape, how = sizes(source), page.how
    last = len(shape) == 2 or how.channels_last(shape)
    declared = 1 if len(shape) == 2 else shape[3 if last else 1]
    if (isinstance(declared, int) and declared not in CHANNELS) or (
        len(shape) == 2 and math.isqrt(int(shape[1])) ** 2 != shape[1]
    ):
        raise InputError(f"input '{source.name}' {shape} is no picture of 1, 3 or 4 channels")
    if page.names:
        raise InputError("--names is for the features of a table, and the page shows pictures: leave it out")
    channels, height, width = picture_size(shape, how, "what a page feeds")
    if height is None or width is None:
        name = source.name
        raise InputError(f"a page must know the size of input '{name}' {shape}: --input-shapes {name}=1,... fixes its shape")
    spread = {
        what: list(values) * (channels if len(values) == 1 else 1) or [default] * channels
        for what, values, default in (("mean", how.mean, 0.0), ("std", how.std, 1.0))
    }
    full = [1, height, width, channels] if last else [1, channels, height, width]
    return {
        "kind": "image", "shape": full if len(shape) == 4 else [1, height * width], "layout": "nhwc" if last else "nchw",
        "channels": channels, "bgr": how.channels == "bgr", "height": height, "width": width,
        "resize": how.resize, "crop": how.crop is not None, "scale": how.divisor, **spread,
    }  # fmt: skip


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
