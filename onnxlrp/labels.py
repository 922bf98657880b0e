"""Names of classes: from a file, a list, or what the model's file says of itself."""

from __future__ import annotations

import ast
import difflib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["KEYS", "class_index", "class_name", "labels_of", "read_labels"]

KEYS = ("names", "id2label", "labels", "classes")  # of metadata_props: ultralytics, Hugging Face, and others


def read_labels(source: str | os.PathLike[str] | Sequence[str] | Mapping[Any, str], count: int | None) -> list[str]:
    """One name per class, in the order of the classes.

    source: a text file with one name per line; a JSON file with a list, or with {"0": name, ...}, alone or as the
    id2label of a config.json; the text `name,name`; or the list or mapping itself. count: of the model's classes, None
    where it is not known. Raises InputError, which names the count.
    """
    what, found = "labels", source
    if isinstance(source, (str, os.PathLike)):
        what, found = f"labels {_short(source)}", _source(source)
    names = _listed(found, what, count)
    if count is not None and len(names) != count:
        raise InputError(f"{what}: {_many(len(names), 'name')}, but {_model(count)}")
    return names


def labels_of(model_metadata: Mapping[str, str], count: int | None) -> list[str]:
    """The names that a model's metadata_props carry for this many classes; [] where there are none that fit.

    Known are lists and mappings, in JSON or as Python prints them, of `names`, `id2label`, `labels`, `classes`. The names
    of a detector do not fit its output, which has boxes beside the classes: [].
    """
    return next((names for key in KEYS if (names := _carried(model_metadata.get(key, ""), count))), [])


def class_name(labels: Sequence[str], index: int) -> str:
    """`cat (3)`; the number alone of a class that has no name."""
    return f"{labels[index]} ({index})" if 0 <= index < len(labels) else str(index)


def class_index(labels: Sequence[str], name: str) -> int:
    """The class that is called so. Raises InputError where none or several are."""
    found = [i for i, label in enumerate(labels) if label == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"target '{name}': the classes {' and '.join(map(str, found))} are called so: give the number")
    if not labels:
        raise InputError(f"target '{name}' is no number, and the classes have no names: --labels gives them")
    near = difflib.get_close_matches(name, labels, 1)
    raise InputError(f"target '{name}': no class is called so" + (f"; did you mean '{near[0]}'?" if near else ""))


def _carried(text: str, count: int | None) -> list[str]:
    try:
        return read_labels(_literal(text), count)
    except InputError:
        return []


def _source(source: str | os.PathLike[str]) -> Any:
    """A list or a mapping, not looked at yet."""
    text = os.fspath(source)
    if not os.path.isfile(text):  # Path.is_file raises for a long list of names
        if not isinstance(source, str) or ("," not in text and Path(text).suffix in (".txt", ".json", ".names", ".csv")):
            raise InputError(f"labels: there is no file {text}")
        return _literal(text) if text.lstrip()[:1] in ("[", "{") else text.split(",")
    try:
        content = Path(text).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels: {text} could not be read as text") from error
    if content.lstrip()[:1] in ("[", "{"):
        return _literal(content, text)
    return content.rstrip().splitlines()


def _literal(text: str, what: str = "") -> Any:
    """JSON, or what Python prints of a list or a dict."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise InputError(f"labels: {what or _short(text)} is neither JSON nor one name per line") from error
    except RecursionError as error:
        raise InputError(f"labels: {what or _short(text)} is nested too deeply") from error
    return found


def _listed(found: Any, what: str, count: int | None) -> list[str]:
    """A list of names out of a list, or of a mapping from the number of a class. Raises InputError."""
    if isinstance(found, Mapping) and isinstance(found.get("id2label"), Mapping):
        found = found["id2label"]
    if isinstance(found, Mapping):
        try:
            by_class = {int(key): value for key, value in found.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: its keys are not the numbers of classes, 0, 1, ...{_hint(count)}") from error
        missing = next((i for i in range(len(by_class)) if i not in by_class), None)
        if missing is not None or len(by_class) != len(found):
            raise InputError(f"{what}: class {missing or 0} has no name, or several{_hint(count)}")
        found = [by_class[i] for i in range(len(by_class))]
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise InputError(f"{what}: neither a list of names nor a mapping from classes to names{_hint(count)}")
    return [_name(value, i, what, count) for i, value in enumerate(found)]


def _name(value: Any, index: int, what: str, count: int | None) -> str:
    """One line without control characters; of [id, name], as ImageNet's class index has it, the name."""
    if isinstance(value, (list, tuple)) and value:
        value = value[-1]
    text = str(value) if isinstance(value, (str, int)) else ""
    name = "".join(c for c in " ".join(text.split()) if unicodedata.category(c) != "Cc")
    if not name:
        raise InputError(f"{what}: class {index} has no name{_hint(count)}")
    return name


def _short(source: str | os.PathLike[str]) -> str:
    text = " ".join(os.fspath(source).split())
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 'es' if thing.endswith('s') else 's'}"


def _model(count: int) -> str:
    return f"the model has {_many(count, 'class')}"


def _hint(count: int | None) -> str:
    return "" if count is None else f" ({_model(count)})"
