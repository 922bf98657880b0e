"""The parts of a run on Ray Data: one session per actor. Ray starts a dead actor again and gives it its part once more."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import Error, InputError
from ..validity import one_line
from .manifest import Job, Part
from .worker import Worker

__all__ = ["on_ray"]


class _Actor:
    """One session; parts come as rows of one number. What is wrong with data or disk is told, not raised, as one line."""

    def __init__(self, out: str, data: str, threads: int) -> None:
        self.job, self.data, self.threads = Job(Path(out)), data, threads

    @cached_property
    def worker(self) -> Worker:
        return Worker.open(self.job, self.data, self.threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            found = list(self.worker.run([self.job.part(int(i)) for i in batch["part"]]))
        except Error as error:
            found = [{"error": str(error)}]
        except OSError as error:
            text = f"cannot write {self.job.out}: {error.strerror or error}; --resume goes on when that is mended"
            found = [{"error": text}]
        return {"facts": [json.dumps(facts) for facts in found]}


def on_ray(job: Job, data: str, actors: int, threads: int, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """The facts of each part, as they are done. On several machines the paths must lead to the same files on all of them.

    With RAY_ADDRESS set, the cluster there, else one on this machine for as long as this takes. Raises InputError.
    """
    left = [{"part": part.index} for part in parts]
    if not left:
        return
    with _connected(actors * threads + 1) as ray:  # one more, for the task that hands out parts: it would never be run
        rows: Any = None
        try:
            table = ray.data.from_items(left, override_num_blocks=len(left)).map_batches(
                _Actor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(left))),
                fn_constructor_args=(str(job.out.resolve()), os.path.abspath(data), threads),
                num_cpus=threads,
                num_gpus=1 if job.manifest["run"]["gpu"] else 0,
            )
            rows = iter(table.iter_rows())
            for found in rows:
                facts = json.loads(found["facts"])
                if "error" in facts:
                    raise InputError(facts["error"])
                yield facts
        except ray.exceptions.RayTaskError:
            raise  # a mistake of ours: with its traceback
        except ray.exceptions.RayError as error:
            raise InputError(f"Ray gave up: {one_line(error)}; --resume goes on when that is mended") from error
        finally:
            table = rows = None  # stops Ray Data's own thread, which a shutdown under its feet would crash
            gc.collect()


@contextmanager
def _connected(processors: int) -> Iterator[Any]:
    """Ray, started unless there is one. What it has to say goes to stderr: stdout is for what a program reads."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray  # deferred: an extra
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    with redirect_stdout(sys.stderr):
        if ours:
            here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": processors, "include_dashboard": False}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()
