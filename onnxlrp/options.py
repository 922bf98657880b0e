"""Options that commands share: what they are called, how their text is read, what is wrong with it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, TypeVar

import click

from . import presets
from .errors import CompositeError
from .preprocessing import KEYS, pair
from .starts import MAKERS, Start
from .starts import parse as parse_start

__all__ = [
    "BUILD",
    "HEAD",
    "LABELS",
    "LAYERS",
    "MAKE",
    "MASKS",
    "POSITION",
    "PREPARE",
    "RANGES",
    "READ",
    "ROW",
    "RUN",
    "SESSION",
    "START",
    "TARGET",
    "TARGETS",
    "given",
    "options_of",
]

F = TypeVar("F", bound=Callable[..., Any])


def composite(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str | None:
    """A preset as text, refused here where it is none, or not the only one."""
    if len(values) > 1:
        raise CompositeError(
            f"--composite: one composite here, not {' and '.join(values)}; `onnxlrp report --compare A,B` and "
            "`onnxlrp evaluate -c A,B` take several"
        )
    for value in values:
        presets.parse(value)
    return values[0] if values else None


def one_class(_: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """The number of a class, or a name, which the labels will tell."""
    try:
        return None if value is None else int(value)
    except ValueError:
        return value


def classes(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int | str | None, ...]:
    """As `one_class`, each."""
    return tuple(one_class(context, param, value) for value in values)


def literal(_: click.Context, param: click.Parameter, value: str | None) -> Any:
    """`position=3` or `position=(3, 4)`; layer names stay text."""
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise click.BadParameter(f"{value!r} is not a number or a tuple of numbers", param=param) from error


def shapes(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, list[int | str]] | None:
    """`image=1,3,224,224` to {"image": [1, 3, 224, 224]}."""
    found: dict[str, list[int | str]] = {}
    for value in values:
        name, _sep, sizes = value.rpartition("=")
        if not name or not sizes:
            raise click.BadParameter(f"{value!r} is not NAME=SIZE,SIZE,...", param=param)
        found[name] = [int(s) if s.isdecimal() else s for s in map(str.strip, sizes.split(","))]
        wrong = [s for s in found[name] if s == 0 or (isinstance(s, str) and not s.isidentifier())]
        if wrong:
            raise click.BadParameter(f"{value!r}: {wrong[0]!r} is neither a size (1, 2, ...) nor a name (batch)", param=param)
    return found or None


def spans(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, list[float]] | list[float] | None:
    """`image=0,1` to {"image": [0, 1]}; `0,1` alone to [0, 1]."""
    found: dict[str, list[float]] = {}
    for value in values:
        name, sep, pair = value.rpartition("=")
        try:
            low, high = map(float, pair.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not NAME=LOW,HIGH", param=param) from error
        if not name and (sep or len(values) > 1):
            raise click.BadParameter(f"{value!r} lacks a name: NAME=LOW,HIGH", param=param)
        found[name] = [low, high]
    return found.get("", found) or None


def begin(_: click.Context, __: click.Parameter, value: str | None) -> Start | None:
    """`contrast:3,5` to a Start."""
    return None if value is None else parse_start(value)


def numbers(_: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """`0.5` or `0.485,0.456,0.406`."""
    try:
        return tuple(float(v) for v in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers", param=param) from error


def size(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`224` or `224x320` to (height, width)."""
    try:
        return None if value is None else pair(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not HEIGHTxWIDTH, such as 224x224", param=param) from error


def options_of(*groups: list[Callable[[F], F]]) -> Callable[[F], F]:
    """Apply groups of click options."""

    def apply(command: F) -> F:
        for option in reversed([o for group in groups for o in group]):
            command = option(command)
        return command

    return apply


READ: list[Callable[[F], F]] = [
    click.option("--output", help="Model output to explain (default: the first)."),
    click.option("--class-axis", type=int, help="Axis of the classes in the explained tensor."),
    click.option("--canonize/--no-canonize", default=None, help="Fold batch norms and group patterns first (default: yes)."),
    click.option("--input-shapes", multiple=True, callback=shapes, metavar="NAME=1,3,8,8", help="Fix an input's shape."),
]
HEAD: list[Callable[[F], F]] = [
    click.option(
        "--composite",
        "-c",
        multiple=True,
        callback=composite,
        help=f"Preset (default: epsilon_plus), also with arguments: 'epsilon_gamma_box(low=-3, high=3)'. {presets.LISTED}.",
    ),
    click.option("--explain", multiple=True, metavar="TENSOR", help="Tensor to explain (default: every float input)."),
    click.option("--init", type=click.Choice(["logit", "one", "given"]), help="Initial relevance (default: logit)."),
    *READ,
]
POSITION: list[Callable[[F], F]] = [
    click.option("--position", callback=literal, help="Explain one position of the output: 3, or '(3, 4)'."),
]
LAYERS: list[Callable[[F], F]] = [
    click.option("--layers", multiple=True, metavar="LAYER", help="Layer (name, index) or tensor whose relevance to output."),
]
MAKE: list[Callable[[F], F]] = [
    click.option("--bake/--no-bake", default=None, help="Store modified weights instead of computing them at load."),
    click.option("--optimize/--no-optimize", default=None, help="Speed up the backward part (default: yes)."),
    click.option("--precision", help="fp32 (default), or fp16: products in float16, for GPUs."),
    click.option("--portable", is_flag=True, default=None, help="Only operators that WebGPU and mobile builds have."),
]
BUILD: list[Callable[[F], F]] = [
    *LAYERS,
    *POSITION,
    click.option("--checks/--no-checks", default=None, help="Add an output with diagnostics."),
    *MAKE,
    click.option("--shared-forward", is_flag=True, default=None, help="Many targets or masks for one input row, one forward."),
]
LABELS: list[Callable[[F], F]] = [
    click.option(
        "--labels", metavar="FILE|NAME,NAME", help="Names of the classes: a file by line, JSON (config.json) or a list."
    ),
]
LARGEST = "(default, or -1: the largest output)"
TARGETS: list[Callable[[F], F]] = [
    click.option(
        "--target", "-t", "classes", multiple=True, callback=classes, metavar="CLASS",
        help=f"Class to explain, its number or name {LARGEST}; several: one per row.",
    ),
]  # fmt: skip
TARGET: list[Callable[[F], F]] = [
    click.option(
        "--target", "-t", "classes", callback=one_class, metavar="CLASS",
        help=f"Class to explain, its number or name {LARGEST}.",
    ),
]  # fmt: skip
ROW: list[Callable[[F], F]] = [
    click.option("--row", type=click.IntRange(0), help="Row of INPUT to explain alone, from 0 (default: all rows)."),
]
MASKS: list[Callable[[F], F]] = [
    click.option("--conditions", multiple=True, metavar="LAYER", help="Layer or tensor that gets a mask input."),
]
RANGES: list[Callable[[F], F]] = [
    click.option(
        "--input-range",
        "input_ranges",
        multiple=True,
        callback=spans,
        metavar="NAME=LOW,HIGH",
        help="Range of an input that rules may rely on; LOW,HIGH for an only float input.",
    ),
]
SESSION: list[Callable[[F], F]] = [
    click.option("--provider", help="cpu (default), cuda, or an onnxruntime provider."),
    click.option("--threads", type=click.IntRange(0), default=0, help="Threads of onnxruntime (default: all)."),
]
PREPARE: list[Callable[[F], F]] = [
    click.option(
        "--preprocess", metavar="FILE", type=click.Path(), help=f"YAML or JSON with {', '.join(KEYS)}; options here win."
    ),
    click.option(
        "--input-size", callback=size, metavar="HxW", help="Pictures: stretched to this (default: what the model takes)."
    ),
    click.option("--resize", type=click.IntRange(1), help="Pictures: the shorter side made this long, then --crop."),
    click.option("--crop", callback=size, metavar="HxW", help="Pictures: the middle cut out (default: what the model takes)."),
    click.option("--scale", type=float, help="Pixels are divided by this (default: 255), values of arrays where it is given."),
    click.option("--mean", callback=numbers, help="Subtracted after scaling, one value or one per channel."),
    click.option("--std", callback=numbers, help="Divided by after --mean."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), default=None, help="Pictures: layout of the model's input."),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), default=None, help="Pictures: their order (default: rgb)."),
]
RUN: list[Callable[[F], F]] = [
    *SESSION,
    click.option("--batch-size", type=click.IntRange(1), help="Rows per run at most (default: as many as memory allows)."),
    *PREPARE,
]
START: list[Callable[[F], F]] = [
    click.option(
        "--start", callback=begin, metavar="KIND:…", help=f"Start of relevance: {', '.join(MAKERS)}, such as contrast:3,5."
    ),
]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, so that the library's defaults hold for the others."""
    return {
        k: list(v) if isinstance(v, tuple) and k != "position" else v for k, v in options.items() if v not in (None, (), {})
    }
