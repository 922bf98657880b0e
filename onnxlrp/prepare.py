"""What a command works on: an explainer, and an input file as its inputs want it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import one_at_a_time, picked, read_input, too_many, treatment
from .labels import class_index
from .options import given
from .preprocessing import preprocessing_of
from .run import Explainer

__all__ = ["Prepared", "numbered", "opened", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """An explainer, what to feed it, and what was done to the input, in words ("" for nothing)."""

    explainer: Explainer
    feed: dict[str, np.ndarray]
    file: str
    done: str = ""

    @property
    def said(self) -> str:
        """`input photo.png: 300 × 200 stretched to 96 × 96, …`, "" where the input is as it was."""
        return f"input {self.source}" if self.done else ""

    @property
    def source(self) -> str:
        """The file's name, and what was done to what it holds."""
        return f"{Path(self.file).name}: {self.done}" if self.done else Path(self.file).name

    @property
    def one_at_a_time(self) -> bool:
        """Whether the file has several rows, and the model takes one."""
        return one_at_a_time(self.feed, self.explainer.inputs)

    def whole(self) -> Prepared:
        """All rows. Raises InputError where they are more than the model takes."""
        too_many(self.feed, self.explainer.inputs, self.file)
        return self

    def at(self, row: int) -> Prepared:
        """One row alone. Raises InputError where there is none."""
        feed, count = picked(self.feed, self.explainer.inputs, row)
        done = [f"row {row} of {count}"] * (count > 1) + [self.done] * bool(self.done)
        return replace(self, feed=feed, done=", ".join(done))


def prepare(model: str, data: str, options: dict[str, Any], begun: bool = False) -> Prepared:
    """An explainer, and the input file read as its inputs want it. begun: relevance_out is made of the output."""
    how = preprocessing_of(options)
    explainer = _explainer(model, options)
    wanted = {name: explainer.inputs[name] for name in explainer.required if not (begun and name == explainer.face["initial"])}
    feed = read_input(data, wanted, how)
    return Prepared(explainer, feed, data, treatment(data, feed, wanted, how))


def opened(model: str, options: dict[str, Any]) -> Explainer:
    """An explainer without a picture's options."""
    preprocessing_of(options)
    return _explainer(model, options)


def _explainer(model: str, options: dict[str, Any]) -> Explainer:
    provider, threads = options.pop("provider"), options.pop("threads")
    return Explainer(model, providers=provider, threads=threads, **given(options))


def numbered(classes: Sequence[int | str], names: Sequence[str]) -> list[int] | None:
    """The numbers of classes that are given by number or name; None for none. Raises InputError for unknown names."""
    return [c if isinstance(c, int) else class_index(names, c) for c in classes] or None
