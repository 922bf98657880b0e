"""`onnxlrp export`: its commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import BUILD, HEAD, MASKS, RANGES, given, options_of
from .model import compiled
from .web.command import web

__all__ = ["export"]


@click.group("export")
def export() -> None:
    """Write a model that explains itself for a server, a phone or a web page. MODEL may be compiled already."""


@export.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--out", "folder", required=True, type=click.Path(), help="Model repository; it may hold other models.")
@click.option("--name", help="The model's name in it (default: that of the file).")
@click.option("--add-version", is_flag=True, help="Add the next version to a model that is there, if nothing else changes.")
@click.option("--max-batch", type=click.IntRange(0), default=16, help="Rows per run, of merged requests; 0: one by one (16).")
@click.option("--delay-us", "delay", type=click.IntRange(0), default=500, help="How long a request waits for others (500 µs).")
@click.option("--instances", type=click.IntRange(1), default=1, help="Copies of the session, per GPU with --gpu (1).")
@click.option("--gpu", is_flag=True, help="Run on GPUs.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of onnxruntime in each instance (default: all).")
@click.option("--no-target", "target", flag_value=False, default=True, help="Always explain the predicted class.")
@click.option("--warmup", is_flag=True, help="Run once, on zeros, before the first request.")
@click.option("--independent-rows", "independent", is_flag=True, help="Merge requests even if rows could not be followed.")
@options_of(HEAD, BUILD, RANGES, MASKS)
def triton(
    model: str,
    folder: str,
    name: str | None,
    add_version: bool,
    max_batch: int,
    delay: int,
    instances: int,
    gpu: bool,
    threads: int,
    target: bool,
    warmup: bool,
    independent: bool,
    **options: Any,
) -> None:
    """Write a model repository for NVIDIA Triton: NAME/config.pbtxt and NAME/1/model.onnx."""
    from .triton import Service, check_place, export_triton

    name = Path(model).stem if name is None else name
    check_place(folder, name, add_version)
    how = Service(max_batch, delay, instances, gpu, threads, target, warmup, independent)
    click.echo(export_triton(compiled(model, given(options)), folder, name, how, add_version))


@export.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--out", "target", required=True, type=click.Path(), help="The .ort file to write.")
@click.option("--ops-config", "operators", type=click.Path(), help="Write the list of operators for a minimal build too.")
@options_of(HEAD, BUILD, RANGES, MASKS)
def ort(model: str, target: str, operators: str | None, **options: Any) -> None:
    """Write the model in onnxruntime's ORT format, for phones and minimal builds."""
    from .ort import check_files, export_ort

    check_files(target, operators)
    export_ort(compiled(model, given(options)), target, operators)
    also = f"\n{operators}: its operators and types" if operators is not None else ""
    click.echo(f"{target}: {Path(target).stat().st_size:,} bytes{also}")


export.add_command(web)
