"""The parts of a run on Ray Data: one session per actor. Ray starts a dead actor again and gives it its part once more."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .manifest import Job, Part
from .worker import Worker

__all__ = ["on_ray"]


class _Actor:
    """One session; parts come as rows of one number."""

    def __init__(self, out: str, data: str, threads: int) -> None:
        self.job = Job(Path(out))
        self.worker = Worker.open(self.job, data, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = self.job.parts
        return {"facts": [json.dumps(facts) for facts in self.worker.run([parts[i] for i in batch["part"]])]}


def on_ray(job: Job, data: str, actors: int, threads: int, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """The facts of each part, as they are done. On several machines the paths must lead to the same files on all of them.

    With RAY_ADDRESS set, the cluster there, else one on this machine for as long as this takes. Raises InputError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "onnxlrp[ray]"') from error
    left = [{"part": part.index} for part in parts]
    if not left:
        return
    ours = not ray.is_initialized()
    if ours:
        # a processor for the task that hands out parts: actors that hold them all would wait for it for ever
        cpus: dict[str, Any] = {"num_cpus": actors * threads + 1, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if "RAY_ADDRESS" in os.environ else cpus))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        table = ray.data.from_items(left, override_num_blocks=len(left)).map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(left))),
            fn_constructor_args=(str(job.out.resolve()), os.path.abspath(data), threads),
            num_cpus=threads,
            num_gpus=1 if job.manifest["run"]["provider"] == "cuda" else 0,
        )
        for found in table.iter_rows():
            yield json.loads(found["facts"])
    finally:
        if ours:
            ray.shutdown()
