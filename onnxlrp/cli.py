"""The command line: parses, calls, prints. Exit codes: 0 done, 1 a check failed, 2 wrong usage or bad input."""

from __future__ import annotations

import ast
import json
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from . import doctor, presets
from .compile import compile as compile_model
from .compile import inspect as inspect_model
from .errors import CompositeError, Error, InputError
from .explanation import Explanation, writable
from .graph import over_limit, save
from .inputs import Preprocessing, read_input
from .plan import show_shape
from .run import Explainer
from .support import support
from .version import __version__

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])


LONG = 64  # entries of a list that --json prints in full


def out(width: int | None = None) -> Console:
    """Standard output, as wide as it needs to be when it is not a terminal."""
    if not sys.stdout.isatty():
        width = 10_000
    return Console(width=width, soft_wrap=not sys.stdout.isatty(), highlight=False)


def show(table: Table, optional: Sequence[str] = ()) -> None:
    """Print a table; on a narrow terminal without its optional columns, and then in long lines: no name is ever cut."""
    room, wide = out().width, Console(width=10_000)
    if wide.measure(table).maximum > room:
        table.columns = [c for c in table.columns if c.header not in optional]
    out(max(room, wide.measure(table).maximum)).print(table, crop=False)


def composite(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A preset as text, refused here with the names that there are."""
    if value is not None:
        try:
            presets.parse(value)
        except CompositeError as error:
            known = f"; known are {', '.join(presets.PRESETS)}" if "is not a preset" in str(error) else ""
            raise CompositeError(f"{error}{known}") from error
    return value


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


def numbers(_: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    """`0.5` or `0.485,0.456,0.406`."""
    try:
        return tuple(float(v) for v in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers", param=param) from error


def options_of(*groups: list[Callable[[F], F]]) -> Callable[[F], F]:
    """Apply groups of click options."""

    def apply(command: F) -> F:
        for option in reversed([o for group in groups for o in group]):
            command = option(command)
        return command

    return apply


HEAD: list[Callable[[F], F]] = [
    click.option(
        "--composite",
        "-c",
        callback=composite,
        help=f"Preset (default: epsilon_plus), also with arguments: 'epsilon_gamma_box(low=-3, high=3)'. "
        f"Presets: {', '.join(presets.PRESETS)}.",
    ),
    click.option("--output", help="Model output to explain (default: the first)."),
    click.option("--explain", multiple=True, metavar="TENSOR", help="Tensor to explain (default: every float input)."),
    click.option("--init", type=click.Choice(["logit", "one", "given"]), help="Initial relevance (default: logit)."),
    click.option("--canonize/--no-canonize", default=None, help="Fold batch norms and group patterns first (default: yes)."),
    click.option("--class-axis", type=int, help="Axis of the classes in the explained tensor."),
    click.option("--input-shapes", multiple=True, callback=shapes, metavar="NAME=1,3,8,8", help="Fix an input's shape."),
]
BUILD: list[Callable[[F], F]] = [
    click.option("--layers", multiple=True, metavar="LAYER", help="Layer (name, index) or tensor whose relevance to output."),
    click.option("--position", callback=literal, help="Explain one position of the output: 3, or '(3, 4)'."),
    click.option("--checks/--no-checks", default=None, help="Add an output with diagnostics."),
    click.option("--bake/--no-bake", default=None, help="Store modified weights instead of computing them at load."),
    click.option("--optimize/--no-optimize", default=None, help="Speed up the backward part (default: yes)."),
]
MASKS: list[Callable[[F], F]] = [
    click.option("--conditions", multiple=True, metavar="LAYER", help="Layer or tensor that gets a mask input."),
]
RUN: list[Callable[[F], F]] = [
    click.option("--provider", help="cpu (default), cuda, or an onnxruntime provider."),
    click.option("--threads", type=click.IntRange(0), default=0, help="Threads of onnxruntime (default: all)."),
    click.option("--scale", type=float, default=255.0, help="Pictures: pixels are divided by this (default: 255)."),
    click.option("--mean", callback=numbers, help="Pictures: subtracted after scaling, one value or one per channel."),
    click.option("--std", callback=numbers, help="Pictures: divided by after --mean."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), default=None, help="Pictures: layout of the model's input."),
]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, so that the library's defaults hold for the others."""
    return {
        k: list(v) if isinstance(v, tuple) and k != "position" else v for k, v in options.items() if v not in (None, (), {})
    }


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxlrp")
def cli() -> None:
    """See why a network answered as it did: Layer-wise Relevance Propagation for any ONNX model."""


@cli.command()
@click.argument("model", type=click.Path())
@options_of(HEAD)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def inspect(model: str, as_json: bool, **options: Any) -> None:
    """The layer table: index, name, operator, shapes, rule, and what decided it."""
    plan = inspect_model(model, **given(options))
    if as_json:
        click.echo(plan.to_json())
        return
    show(plan.table(), optional=("input", "output"))
    out().print(plan.footer(), markup=False)


@cli.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--out", "target", required=True, type=click.Path(), help="File to write.")
@options_of(HEAD, BUILD, MASKS)
def compile(model: str, target: str, **options: Any) -> None:
    """Write a second ONNX model that computes the outputs and the relevance of the inputs."""
    if Path(target).suffix != ".onnx":
        raise InputError(f"{target}: a compiled model is written as .onnx")
    writable(Path(target))
    compiled = compile_model(model, **given(options))
    save(compiled, target)
    names = ", ".join(o.name for o in compiled.graph.output)
    size, data = Path(target).stat().st_size, Path(f"{target}.data")
    apart = f" and {data.stat().st_size:,} in {data.name}" if over_limit(compiled) else ""
    click.echo(f"{target}: {len(compiled.graph.node)} nodes, {size:,} bytes{apart}; outputs {names}")


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="INPUT", type=click.Path())
@click.option("-o", "--out", "target", type=click.Path(), help="File to write: .npz (all arrays) or .png (heat-map).")
@click.option("--target", "-t", "classes", type=int, multiple=True, help="Class to explain (default: the largest output).")
@options_of(HEAD, BUILD, RUN)
@click.option("--size", type=click.IntRange(1), help="Heat-map: pixels of the shorter side.")
@click.option("--cmap", help="Heat-map: bwr (default), or any matplotlib colormap (needs onnxlrp[plot]).")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def explain(
    model: str,
    data: str,
    target: str | None,
    classes: tuple[int, ...],
    size: int | None,
    cmap: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain one input (.npy, .npz or a picture). MODEL may be compiled already."""
    picture = {k: v for k, v in (("size", size), ("cmap", cmap)) if v is not None}
    if target is not None:
        if Path(target).suffix not in (".npz", ".png"):
            raise InputError(f"{target}: explanations are written as .npz or .png")
        writable(Path(target))
    if picture and not (target or "").endswith(".png"):
        raise click.UsageError(f"--{next(iter(picture))} is for heat-maps: add -o heat.png")
    explainer, feed = prepare(model, data, options)
    explanation = explainer(feed, target=list(classes) or None)
    if target is not None:
        explanation.save(target, **picture)
    if as_json:
        click.echo(json.dumps(summary(explanation)))
        return
    console = out()
    console.print(f"composite {composite_line(explainer.plan['composite'])}", markup=False)
    table = scores(explanation) if explainer.plan["class_axis"] == 1 else None
    if table is not None:
        show(table)
    else:
        console.print(explained(explainer, explanation), markup=False)
    for name, r in explanation.relevances.items():
        console.print(f"relevance of {name}: {show_shape(r.shape)}, sum {r.sum():.6g}", markup=False)
    console.print(f"Σ relevance ÷ initial relevance: {', '.join(f'{v:.4g}' for v in explanation.ratio[:8])}", markup=False)
    rows = len(np.atleast_1d(next(iter(explanation.relevances.values()))))
    only = f" (the picture shows row 0 of {rows}; .npz keeps all)" if (target or "").endswith(".png") and rows > 1 else ""
    console.print(f"written: {target}{only}" if target else "nothing written; -o heat.png or -o out.npz keeps it", markup=False)


def composite_line(text: str) -> str:
    """A composite's text, and what its preset says of itself, in one line."""
    lines = [line.strip() for line in text.removeprefix("Composite").strip().split("\n")]
    first = lines[0]  # the name, or the default rule of a composite without one
    preset = presets.PRESETS.get(first.split("(")[0])
    said = ((preset.__doc__ or "") if preset is not None else "").strip().split("\n")[0].split("   ")[0]
    return f"{first}: {said}" if said else first


def prepare(model: str, data: str, options: dict[str, Any]) -> tuple[Explainer, dict[str, np.ndarray]]:
    """An explainer, and the input file read as its inputs want it."""
    how = Preprocessing(options.pop("scale"), options.pop("mean"), options.pop("std"), options.pop("layout") or "")
    if how.scale == 0:
        raise InputError("--scale must not be 0")
    provider, threads = options.pop("provider"), options.pop("threads")
    explainer = Explainer(model, providers=provider, threads=threads, **given(options))
    wanted = {name: explainer.inputs[name] for name in explainer.required}
    return explainer, read_input(data, wanted, how)


def summary(explanation: Explanation) -> dict[str, Any]:
    """An explanation without its arrays."""
    return {
        "target": None if explanation.target is None else listed(explanation.target),
        "relevance": {k: {"shape": list(v.shape), "sum": float(v.sum())} for k, v in explanation.relevances.items()},
        "ratio": listed(explanation.ratio),
    }


def listed(values: np.ndarray) -> Any:
    """The values; of many their shape and the first ones."""
    if values.size <= LONG:
        return values.tolist()
    return {"shape": list(values.shape), "first": values.ravel()[:LONG].tolist()}


def scores(explanation: Explanation) -> Table | None:
    """The largest outputs of the first row, the explained class marked; None when the output is no list of scores."""
    y = explanation.output
    if not isinstance(y, np.ndarray) or y.ndim != 2 or y.shape != explanation.initial.shape or y.dtype.kind != "f":
        return None
    if explanation.target is None or explanation.target.ndim != 1:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("class", explanation.output_name + (f" (row 0 of {len(y)})" if len(y) > 1 else ""), ""):
        table.add_column(title, justify="right" if title != "" else "left", no_wrap=True)
    target = int(explanation.target[0])
    order = [int(i) for i in np.argsort(-y[0])[:5]]
    for i in order if target in order else [*order[:4], target]:
        table.add_row(str(i), f"{y[0, i]:.4f}", "← explained" if i == target else "")
    return table


def explained(explainer: Explainer, explanation: Explanation) -> str:
    """What the relevance of the first row starts from, in words."""
    name, tensor = explanation.output_name, explainer.plan["explained_tensor"]
    what = f"output {name}" if tensor == name else f"{tensor}, behind output {name}"
    initial, axis, target = explanation.initial, explainer.plan["class_axis"], explanation.target
    if target is None or axis is None:
        given = explainer.plan["init"] == "given"
        return f"explains {'the relevance given for' if given else 'every value of'} {what} ({show_shape(initial.shape)})"
    first, classes, at = (initial, target, axis) if axis == 0 else (initial[0], target[0], axis - 1)
    used = np.argwhere((first != 0).any(axis=at))
    if classes.size == 1 or len(used) == 1:
        where = tuple(int(i) for i in used[0]) if classes.size > 1 else ()
        place = f" at position {', '.join(map(str, where))}" if where else ""
        return f"explains class {int(classes[where] if where else classes.ravel()[0])}{place} of {what}: {first.sum():.4f}"
    return f"explains {classes.size} positions of {what}, class axis {axis}; --position (of a model not compiled yet) picks one"


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="[INPUT]", type=click.Path(), required=False)
@options_of(HEAD, RUN)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(model: str, data: str | None, as_json: bool, **options: Any) -> None:
    """Conservation per layer, bias and ε shares, non-finite values; exit 1 when something is off.

    A MODEL that is compiled already must have been compiled with --checks.
    """
    report = doctor.examine(*prepare(model, data, options)) if data else doctor.examine(*prepare_random(model, options))
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        show(report.table())
        out().print(report.verdict(), markup=False)
    if report.findings:
        sys.exit(1)


def prepare_random(model: str, options: dict[str, Any]) -> tuple[Explainer, dict[str, np.ndarray]]:
    """An explainer and random inputs of its shapes."""
    for name in ("scale", "mean", "std", "layout"):
        options.pop(name)
    provider, threads = options.pop("provider"), options.pop("threads")
    explainer = Explainer(model, providers=provider, threads=threads, **given(options))
    return explainer, doctor.random_inputs(explainer)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def ops(as_json: bool) -> None:
    """Every operator that is known: what it does with relevance, its groups, its default rule."""
    rows = support()
    if as_json:
        click.echo(json.dumps([vars(r) for r in rows]))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("operator", "kind", "groups", "default rule", ""):
        table.add_column(title, no_wrap=True)
    for r in rows:
        name = f"{r.domain}.{r.op}" if r.domain else r.op
        table.add_row(name, " / ".join(r.kinds), ", ".join(r.groups), " / ".join(r.rules), r.note)
    show(table)


def main() -> None:
    """Run the command line; anything that goes wrong on purpose is one line and exit code 2."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `onnxlrp inspect model.onnx | head` ends without a word
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    try:
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except (Error, OSError) as error:
        fail(str(error))
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "onnxlrp"
        fail(f"{error.format_message()} (see {where} --help)")
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted")
    except MemoryError:
        fail("out of memory; try a smaller batch")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    click.echo(f"onnxlrp: {' '.join(message.split())}", err=True)
    sys.exit(2)
