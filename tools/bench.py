"""Measures explanations side by side: the model's forward, our graph, zennit, captum, and onnx2torch + zennit.

    python tools/bench.py                                              # a few cells, minutes
    python tools/bench.py --network resnet50 vgg16 --composite all --batch 1 8 --threads 1 2 --out results
    python tools/bench.py --render a.json b.json --out results         # the table of several runs, later files win
    python tools/bench.py --render a.json b.json --page docs/cost.md   # put it into the page

Every cell runs in a process of its own and every peak of memory in another. `--out results` writes results.json after
each cell (adding to what is there) and results.md. Peers need the extra `bench`; without it their columns say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnxruntime as ort
import report
from bounds import bound
from cell import open_session, reason
from rich.console import Console

import onnxlrp

HERE = Path(__file__).parent
BOX = "epsilon_gamma_box(low=-5, high=5)"  # the inputs are normal
ALL = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", BOX]
TRANSFORMERS = {"vit_b", "bert_base"}
# How torch's threads wait decides by a factor of two: zennit with two threads on idle cores is fastest with ACTIVE and slowest
# with PASSIVE; with anything else running it is the other way round. Written beside the numbers, never set here.
WAITING = os.environ.get("OMP_WAIT_POLICY", "default")
console = Console(stderr=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(networks.NETWORKS), default=["mlp", "resnet50"])
    parser.add_argument("--composite", nargs="+", help="presets, or all; default epsilon_plus_flat, attn_lrp for transformers")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=10, help="pairs of a comparison, at most")
    parser.add_argument("--time-limit", type=float, default=60, help="seconds for the pairs of a cell; one pair at least")
    parser.add_argument(
        "--peers", nargs="*", choices=["zennit", "captum", "onnx2torch"], default=["zennit", "captum", "onnx2torch"]
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--bake", action="store_true", help="compile with bake=True as well, for its time to load")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--render", nargs="+", type=Path, help="only make the table of these JSON files")
    parser.add_argument("--page", type=Path, help="put the table between the marks of this Markdown page")
    return parser.parse_args()


def chosen(network: str, asked: list[str] | None) -> list[str]:
    """The presets for a network."""
    if asked is None or asked == ["all"]:
        everything = ALL if asked else ["epsilon_plus_flat"]
        return ["attn_lrp"] if network in TRANSFORMERS else everything
    return asked


def child(script: str, *words: object) -> str:
    """Output of a tool in a process of its own. Raises RuntimeError with its last line."""
    done = subprocess.run([sys.executable, HERE / script, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"killed by signal {-done.returncode}" if done.returncode < 0 else last)
    return done.stdout


def weigh(path: Path) -> int:
    """Bytes of a model with the data beside it."""
    return sum(f.stat().st_size for f in path.parent.glob(f"{path.name}*"))


def loading(own: Path, ours: Path, pairs: int = 3) -> dict[str, float]:
    """Seconds to open our graph and the model itself, median of pairs."""
    times: list[list[float]] = []
    for _ in range(pairs):
        pair = []
        for path in (own, ours):
            start = time.perf_counter()
            open_session(path, 1)
            pair.append(time.perf_counter() - start)
        times.append(pair)
    return {
        "own_s": statistics.median(a for a, _ in times), "ours_s": statistics.median(b for _, b in times),
        "ratio": statistics.median(b / a for a, b in times),
    }  # fmt: skip


def graph_facts(model: onnx.ModelProto, own: Path, ours: Path, composite: str, bake: bool) -> dict[str, Any]:
    """Compiles to `ours`; time of it, sizes, nodes, loading, bound."""

    def made(**options: Any) -> tuple[onnx.ModelProto, float]:
        start = time.perf_counter()
        compiled = onnxlrp.compile(model, composite, **options)
        return compiled, time.perf_counter() - start

    compiled, spent = made()
    onnxlrp.save(compiled, ours)
    facts: dict[str, Any] = {
        "compile_s": spent, "bound": bound(model, composite), "size": weigh(ours) / weigh(own),
        "nodes": len(compiled.graph.node), "own_nodes": len(model.graph.node), "load": loading(own, ours),
    }  # fmt: skip
    if bake:
        baked, spent = made(bake=True)
        path = ours.with_name("baked.onnx")
        onnxlrp.save(baked, path)
        facts["baked"] = {"compile_s": spent, "size": weigh(path) / weigh(own), "load": loading(own, path)}
    return facts


def peaks(own: Path, ours: Path, x: Path, composite: str, threads: int, zennit: bool) -> dict[str, Any]:
    """Megabytes of the forward, of our graph and of zennit, one explanation each."""
    found: dict[str, Any] = {}

    def take(name: str, *words: object) -> None:
        try:
            found[name] = float(child("peak.py", *words))
        except RuntimeError as error:
            found[f"{name}_reason"] = reason(error)

    take("own", "run", own, x, threads)
    take("ours", "run", ours, x, threads)
    if zennit:
        props = {p.key: p.value for p in onnx.load(ours, load_external_data=False).metadata_props}
        (start,), pack = json.loads(props["onnxlrp.explained"]), ours.with_name("twin.pt")
        take("twin", "twin", own, start, x, pack)
        if found.pop("twin", None):
            take("zennit", "zennit", pack, composite, threads)
            pack.unlink()
    return found


def cell(
    folder: Path, own: Path, ours: Path, x: Path, composite: str, threads: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """Times of a cell; what was measured before a crash is kept."""
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    spec = {
        "model": str(own), "compiled": str(ours), "x": str(x), "composite": composite, "threads": threads, "out": str(out),
        "peers": asked.peers, "repeats": asked.repeats, "time_limit": asked.time_limit,
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    try:
        child("cell.py", folder / "spec.json")
        crash = ""
    except RuntimeError as error:
        crash = reason(error)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"reason": crash}
    for name in asked.peers:
        found.setdefault("peers", {}).setdefault(name, {"reason": crash})
    return found


def measure(asked: argparse.Namespace, results: dict[str, Any]) -> None:
    """Runs what was asked for; `results` grows and is written after each cell."""
    for network in asked.network:
        model = networks.NETWORKS[network]()
        with tempfile.TemporaryDirectory() as name:
            folder, x = Path(name), Path(name) / "x.npy"
            own, ours = folder / "own.onnx", folder / "ours.onnx"
            onnxlrp.save(model, own)
            for composite in chosen(network, asked.composite):
                graph = report.key(network, composite)
                try:
                    with console.status(f"compile {graph}"):
                        results["graphs"][graph] = graph_facts(model, own, ours, composite, asked.bake)
                except Exception as error:  # one preset that fails must not end a run of hours
                    lost = [report.key(graph, batch, threads) for batch in asked.batch for threads in asked.threads]
                    results["cells"] |= {name: {"reason": reason(error)} for name in lost}
                    continue
                for batch in asked.batch:
                    np.save(x, networks.sample(model, batch))
                    measure_batch(asked, results, folder, own, ours, x, network, composite, batch)


def measure_batch(
    asked: argparse.Namespace, results: dict[str, Any], folder: Path, own: Path, ours: Path, x: Path, network: str,
    composite: str, batch: int,
) -> None:  # fmt: skip
    row = report.key(network, composite, batch)
    if not asked.no_memory:
        with console.status(f"memory of {row}"):
            results["memory"][row] = peaks(own, ours, x, composite, asked.threads[0], "zennit" in asked.peers)
    for threads in asked.threads:
        cell_key = report.key(network, composite, batch, threads)
        with console.status(f"time of {cell_key}"):
            results["cells"][cell_key] = cell(folder, own, ours, x, composite, threads, asked)
        console.print(report.terminal({**results, "cells": {cell_key: results["cells"][cell_key]}}))
        write(asked.out, results)


def write(out: Path | None, results: dict[str, Any]) -> None:
    if out is not None:
        out.with_suffix(".json").write_text(json.dumps(results, indent=1))
        out.with_suffix(".md").write_text(report.markdown(results))


def insert(page: Path, table: str) -> None:
    """Replaces the table of a Markdown page."""
    text = page.read_text(encoding="utf-8")
    begin, end = "<!-- begin: table -->\n", "<!-- end: table -->"
    page.write_text(text[: text.index(begin) + len(begin)] + table + text[text.index(end) :], encoding="utf-8")


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "python": platform.python_version(),
        "onnxruntime": ort.__version__, "onnxlrp": onnxlrp.__version__, "OMP_WAIT_POLICY": WAITING,
    }  # fmt: skip


def main() -> None:
    asked = arguments()
    known = asked.render or [f for f in [asked.out and asked.out.with_suffix(".json")] if f and f.exists()]
    results = report.merged([json.loads(f.read_text()) for f in known])
    if not asked.render:
        results["machine"] = machine()
        measure(asked, results)
    write(asked.out, results)
    if asked.page is not None:
        insert(asked.page, report.markdown(results))
    print(report.markdown(results), end="")


if __name__ == "__main__":
    main()
