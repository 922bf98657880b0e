"""Rows per second of `onnxlrp run`, and how much of its time is not spent in onnxruntime.

python tools/throughput.py                                   # the digits, batch 1 to 256, one thread and two
python tools/throughput.py --network mobilenet_v2 --rows 256
python tools/throughput.py --engine ray --actors 2 --threads 1
python tools/throughput.py --render a.json b.json --page docs/run.md

Each line: the whole run, from a Parquet file to Zarr, once it has begun, and onnxruntime alone on the same batches in the
same session with as many at once, one after the other, both in one process. outside = 1 - alone ÷ run.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from onnxlrp.inputs import Preprocessing
from onnxlrp.jobs.begin import Request, begin
from onnxlrp.jobs.cluster import on_ray
from onnxlrp.jobs.finish import finish
from onnxlrp.jobs.manifest import Job, claimed
from onnxlrp.jobs.worker import Worker

ROOT = Path(__file__).parents[1]
REPEATS = 3


def data(network: str, rows: int, folder: Path) -> tuple[Path, Path]:
    """A model's file, and a Parquet file of inputs: a digit with noise, or noise."""
    rng = np.random.default_rng(0)
    if network == "digits":
        model = ROOT / "models" / "digits_cnn.onnx"
        x = np.repeat(np.load(ROOT / "models" / "digit.npy"), rows, 0)
        x = np.clip(x + rng.normal(0, 0.05, x.shape), 0, 1).astype(np.float32)
    else:
        model = folder / f"{network}.onnx"
        onnx.save(networks.NETWORKS[network](), model)
        x = rng.standard_normal((rows, 3, 224, 224), np.float32)
    path = folder / "data.parquet"
    groups = max(1, 2**24 // x[0].nbytes)
    pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x)}), path, row_group_size=groups)
    return model, path


def alone(worker: Worker, rows: int) -> float:
    """Seconds that onnxruntime takes for the same batches, as many at once."""
    batch, names = worker.batch, [o.name for o in worker.explainer.session.get_outputs()]
    starts = range(0, min(rows, 8 * batch), batch)
    feeds = [worker.explainer.feed(worker.source.read(at, min(at + batch, rows)).feed) for at in starts]
    turns = [feeds[i % len(feeds)] for i in range(-(-rows // batch))]
    with ThreadPoolExecutor(worker.threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(lambda feed: worker.explainer.session.run(names, feed), turns):
            pass
        return time.perf_counter() - begun


def cell(arguments: argparse.Namespace, model: Path, path: Path, batch: int, threads: int, folder: Path) -> dict[str, Any]:
    """One line: medians of both, each measured in turn with the other."""
    runs, bare = [], []
    for repeat in range(REPEATS):
        job = Job(folder / f"{batch}-{threads}-{repeat}.zarr")
        request = Request(
            model=str(model), data=str(path), format="zarr", composite=arguments.composite, options={}, target=None,
            start=None, how=Preprocessing(), columns={}, picture={}, provider="cpu", threads=threads, batch=batch,
        )  # fmt: skip
        with claimed(job):
            worker = begin(job, request, resume=False)
            bare.append(alone(worker, arguments.rows))
            ray = arguments.engine == "ray"
            engine = partial(on_ray, job, str(path), arguments.actors, threads) if ray else worker.run
            runs.append(finish(job, engine, worker.store.finish).seconds)
    run, only = float(np.median(runs)), float(np.median(bare))
    about = {"network": arguments.network, "engine": arguments.engine, "actors": arguments.actors, "rows": arguments.rows}
    return {**about, "batch": batch, "threads": threads, "rate": arguments.rows / run, "alone": arguments.rows / only,
            "outside": 1 - only / run}  # fmt: skip


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, path = data(arguments.network, arguments.rows, folder)
        for threads in arguments.threads:
            for batch in arguments.batch:
                yield cell(arguments, model, path, batch, threads, folder)


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table of the docs."""
    head = "| network | engine | batch | threads | rows/s | onnxruntime alone | outside |\n|---|---|--:|--:|--:|--:|--:|"
    rows = []
    for r in lines:
        engine = f"Ray, {r['actors']} actors" if r["engine"] == "ray" else "local"
        share = "" if r["engine"] == "ray" else f"{max(r['outside'], 0):.0%}"
        rows.append(
            f"| {r['network']} | {engine} | {r['batch']} | {r['threads']} | {r['rate']:,.1f} | {r['alone']:,.1f} | {share} |"
        )
    return "\n".join([head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="digits", choices=["digits", *networks.NETWORKS])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--composite", default="epsilon_plus")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--render", type=Path, nargs="+", help="put the tables of these files into --page")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    if arguments.render:
        table = markdown([line for file in arguments.render for line in json.loads(file.read_text())])
        pattern = r"(<!-- begin: throughput -->\n).*?(<!-- end: throughput -->)"
        page = arguments.page.read_text()
        arguments.page.write_text(re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", page, flags=re.DOTALL))
        return
    lines = []
    for line in measured(arguments):
        lines.append(line)
        print(markdown([line]).splitlines()[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
