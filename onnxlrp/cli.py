"""The command line: parses, calls, prints. Exit codes: 0 done, 1 a check failed, 2 wrong usage or bad input."""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from . import doctor
from .compile import compile as compile_model
from .compile import inspect as inspect_model
from .errors import Error, InputError
from .evaluate_command import EVALUATE, LEGEND, evaluation
from .explanation import writable
from .export.command import export
from .graph import over_limit, save
from .jobs.command import run
from .options import BUILD, HEAD, LABELS, MASKS, POSITION, RANGES, ROW, RUN, START, TARGET, TARGETS, given, options_of
from .pictures.options import PICTURE, picture_options
from .plan import show_shape
from .portable import gaps
from .prepare import Prepared, numbered, opened, prepare
from .presets import PRESETS, described
from .report.command import PAGE, write
from .session import metadata
from .starts import Start
from .support import support
from .text_command import TextRequest, explain_text
from .version import __version__
from .wording import captioned, composite_line, explained, labels_for, names_before, presets_table, scores, summary, written

__all__ = ["main"]


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, commands=[export, run])
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
@options_of(HEAD, BUILD, RANGES, MASKS)
def compile(model: str, target: str, **options: Any) -> None:
    """Write a second ONNX model that computes the outputs and the relevance of the inputs."""
    if Path(target).suffix != ".onnx":
        raise InputError(f"{target}: a compiled model is written as .onnx")
    writable(Path(target))
    compiled = compile_model(model, **given(options))
    save(compiled, target)
    names = ", ".join(o.name for o in compiled.graph.output)
    optional = {t.name for t in compiled.graph.initializer}
    fed = ", ".join(i.name + " (optional)" * (i.name in optional) for i in compiled.graph.input)
    size, data = Path(target).stat().st_size, Path(f"{target}.data")
    apart = f" and {data.stat().st_size:,} in {data.name}" if over_limit(compiled) else ""
    click.echo(f"{target}: {len(compiled.graph.node)} nodes, {size:,} bytes{apart}; inputs {fed}; outputs {names}")
    for gap in gaps(compiled) if options["portable"] else ():
        click.echo(f"left as it is: {gap}")


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="[INPUT]", type=click.Path(), required=False)
@click.option("--text", "texts", multiple=True, help="Text to explain, in the place of INPUT; several make a batch.")
@click.option("--tokenizer", type=click.Path(), help="The tokenizer.json of --text (needs onnxlrp[text]).")
@click.option("-o", "--out", "target", type=click.Path(), help="File to write: .npz (arrays), .png (heat-map), .html (text).")
@options_of(TARGETS, ROW, LABELS, HEAD, BUILD, RANGES, RUN, PICTURE, START)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def explain(
    model: str,
    data: str | None,
    texts: tuple[str, ...],
    tokenizer: str | None,
    target: str | None,
    classes: tuple[int | str, ...],
    row: int | None,
    labels: str | None,
    start: Start | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain one input (.npy, .npz, a picture) or text. MODEL may be compiled already."""
    if bool(texts) == (data is not None) or bool(texts) != (tokenizer is not None):
        raise click.UsageError("give either INPUT, a file, or --text together with --tokenizer")
    if target is not None:
        known = (".npz", ".html") if texts else (".npz", ".png")
        if Path(target).suffix not in known:
            raise InputError(f"{target}: explanations{' of text' if texts else ''} are written as {' or '.join(known)}")
        writable(Path(target))
    picture = picture_options(options, target)
    if data is None:
        if start is not None:
            raise click.UsageError("--start is for INPUT files, not for --text")
        if row is not None:
            raise click.UsageError("--row is for INPUT, a file, not for --text")
        asked = TextRequest(texts, str(tokenizer), target, classes, labels, metadata(model))
        explain_text(opened(model, options), asked, None if as_json else out())
        return
    if start is not None:
        if classes or options["position"] is not None or options["init"] not in (None, "given"):
            raise click.UsageError("--start says where relevance starts: leave out --target, --position and --init")
        options["init"] = None if "onnxlrp.version" in metadata(model) else "given"
    ready = prepare(model, data, options, begun=start is not None)
    ready = ready.whole() if row is None else ready.at(row)
    explainer = ready.explainer
    names = names_before(explainer, labels, metadata(model))
    explanation = explainer(ready.feed, target=numbered(classes, names), start=start)
    names = labels_for(explainer, explanation, labels, metadata(model))
    if target is not None:
        explanation.save(target, **captioned(explanation, picture, names))
    if as_json:
        click.echo(json.dumps(summary(explanation, names) | ({"input": ready.source} if ready.done else {})))
        return
    console = out()
    if ready.said:
        console.print(ready.said, markup=False)
    console.print(f"composite {composite_line(explainer.plan['composite'])}", markup=False)
    if start is not None:
        console.print(f"start {start.text}", markup=False)
    table = scores(explanation, names) if explainer.plan["class_axis"] == 1 else None
    if table is not None:
        show(table)
    else:
        console.print(explained(explainer, explanation, labels=names), markup=False)
    for name, r in explanation.relevances.items():
        console.print(f"relevance of {name}: {show_shape(r.shape)}, sum {r.sum():.6g}", markup=False)
    console.print(f"Σ relevance ÷ initial relevance: {', '.join(f'{v:.4g}' for v in explanation.ratio[:8])}", markup=False)
    console.print(written(explanation, target, picture), markup=False)


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="[INPUT]", type=click.Path(), required=False)
@options_of(TARGET, ROW, HEAD, RANGES, RUN)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(model: str, data: str | None, classes: int | str | None, row: int | None, as_json: bool, **options: Any) -> None:
    """Conservation per layer, bias and ε shares, non-finite values; exit 1 when something is off.

    A MODEL that is compiled already must have been compiled with --checks.
    """
    if data:
        ready = prepare(model, data, options)
        ready = ready.whole() if row is None else ready.at(row)
    elif row is not None:
        raise click.UsageError("--row is for INPUT, a file")
    else:
        explainer = opened(model, options)
        ready = Prepared(explainer, doctor.random_inputs(explainer), "")
    names = names_before(ready.explainer, None, metadata(model))
    chosen = None if classes is None else numbered([classes], names)
    said = ready.said if data else "on random input (give INPUT for a real one)"
    report = doctor.examine(ready.explainer, ready.feed, chosen, said)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        show(report.table())
        out().print(report.verdict(), markup=False)
    if report.findings:
        sys.exit(1)


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="[INPUT]", type=click.Path(), required=False)
@options_of(PAGE, LABELS, HEAD, POSITION, RANGES, RUN)
def report(model: str, data: str | None, **options: Any) -> None:
    """Write one HTML page that explains an input: relevance, composites side by side, layers, conservation, plan."""
    click.echo(write(model, data, options))


@cli.command()
@click.argument("model", type=click.Path())
@click.argument("data", metavar="DATA", type=click.Path())
@options_of(EVALUATE)
@click.option("--json", "as_json", is_flag=True, help="Print scores, intervals and curves as JSON.")
def evaluate(model: str, data: str, plot: str | None, as_json: bool, **options: Any) -> None:
    """Rank composites by what removing what they call relevant does to the output; random relevance is the baseline.

    DATA: a folder of pictures or .npy, a .npy, .npz, Parquet or Zarr, as `onnxlrp run` reads them; `target` in it has the
    classes. Rows that cannot be read are left out.
    """
    with Console(stderr=True).status("reading") as status:
        found, notes = evaluation(model, data, status.update, options)
    for note in notes:
        click.echo(note, err=True)
    if plot is not None:
        found.plot(plot)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    for table in (found.table(), found.layers_table()):
        if table is not None:
            show(table, optional=("MoRF ↑", "LeRF ↓"))
    out().print(f"{LEGEND}\n{found.footer()}" + (f"\nwritten: {plot}" if plot is not None else ""), markup=False)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def presets(as_json: bool) -> None:
    """Every preset for --composite: its rules, and for what networks it is."""
    if as_json:
        found = {name: described(name) for name in PRESETS}
        click.echo(json.dumps([{"preset": name, "rules": rules, "for": what} for name, (rules, what) in found.items()]))
        return
    out().print(presets_table())


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
