"""One cell of the benchmark in a process of its own: our graph against the model's forward, then each peer against our graph.

Two are timed one after the other, in turn first, so that a drift of the machine's speed cancels in the ratio of each pair.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

__all__ = ["compare", "measure", "open_session", "reason"]

PAUSE = 0.02  # seconds: worker threads of one library spin for a while after a run, and would slow the other one down
BLOCK = 0.05  # seconds: shorter runs are timed several at once


def open_session(path: str | Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads of an idle session spin by default, and halve the speed of the other one: each is measured as if it were alone.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def used() -> float:
    """CPU seconds that all other processes took so far, and that a hypervisor took from this machine; nan where unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()


def seconds(run: Callable[[], Any], count: int = 1) -> float:
    """Mean of `count` runs."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def compare(a: Callable[[], Any], b: Callable[[], Any], repeats: int, limit: float) -> dict[str, Any]:
    """Milliseconds of a and b, median, min and max of b ÷ a over pairs; at least one pair, none begun after `limit` seconds.

    others: share of the machine's cores that was not idle and not ours. Two threads of torch that wait for each other
    get up to ten times slower when another process takes one of their cores: such a ratio says nothing.
    """
    start, before_us = time.perf_counter(), used()
    counts = [max(1, round(BLOCK / seconds(run))) for run in (a, b)]  # the first runs, which also warm up
    pairs: list[tuple[float, float]] = []
    while not pairs or (len(pairs) < repeats and time.perf_counter() - start < limit):
        if len(pairs) % 2:
            after = seconds(b, counts[1])
            pairs.append((seconds(a, counts[0]), after))
        else:
            before = seconds(a, counts[0])
            pairs.append((before, seconds(b, counts[1])))
    others = (used() - before_us) / ((time.perf_counter() - start) * (os.cpu_count() or 1))
    ratios = [after / before for before, after in pairs]
    first, second = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    return {
        "first_ms": first, "second_ms": second, "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios),
        "pairs": len(pairs), "others": None if math.isnan(others) else max(others, 0.0),
    }  # fmt: skip


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def measure(spec: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
    """Times of one network, preset, batch and number of threads; `keep` gets the result as it grows."""
    x, threads = np.load(spec["x"]), spec["threads"]
    own, ours = (open_session(spec[key], threads) for key in ("model", "compiled"))
    props = ours.get_modelmeta().custom_metadata_map
    ((start, relevance),) = json.loads(props["onnxlrp.interface"])["relevance"].items()
    output = own.get_outputs()[0].name
    feed = {own.get_inputs()[0].name: x}
    (plain,) = own.run([output], feed)
    y, r = ours.run([output, relevance], feed)
    best = np.expand_dims(y.argmax(1), 1)
    initial = np.zeros_like(y)
    np.put_along_axis(initial, best, np.take_along_axis(y, best, 1), 1)
    given = float(initial.sum(dtype=np.float64))
    limit = spec["time_limit"] / (1 + len(spec["peers"]))

    def explain() -> Any:
        return ours.run([output, relevance], feed)

    result = compare(lambda: own.run(None, feed), explain, spec["repeats"], limit)
    result |= {"sum": float(r.sum(dtype=np.float64)) / given, "output": float(np.abs(y - plain).max() / np.abs(plain).max())}
    result["peers"] = {}
    keep(result)
    for name in spec["peers"]:
        try:
            import peers
            import torch

            torch.set_num_threads(threads)
            other = peers.PEERS[name](peers.Task(spec["model"], spec["composite"], start, x, y, initial))
            found = other()
            row = {
                "difference": float(np.abs(found - r).max() / np.abs(r).max()),
                "sum": float(found.sum(dtype=np.float64)) / given,
            }
            row |= compare(explain, other, spec["repeats"], limit)
        except Exception as error:  # whatever a peer does is a result
            row = {"reason": reason(error)}
        other = None
        result["peers"][name] = row
        keep(result)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    specification = json.loads(Path(sys.argv[1]).read_text())
    measure(specification, lambda found: Path(specification["out"]).write_text(json.dumps(found)) and None)
