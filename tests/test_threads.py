"""Many threads on one Explainer get, to the bit, what one thread gets."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxlrp
from onnxlrp import Explainer, starts
from onnxlrp.compile import collecting_later
from onnxlrp.concepts import Concepts, TopNFeatures
from onnxlrp.gradients import integrated_gradients, smoothgrad
from onnxlrp.session import keep

CNN = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
THREADS, CALLS = 32, 100
STARTS = (starts.contrast(3, 5), starts.against_mean(3), starts.top(2), starts.target(7))
Array = np.ndarray


def image(thread: int, call: int) -> Array:
    """An input of this call alone, of one to three rows."""
    rng = np.random.default_rng([thread, call])
    return rng.random((1 + (thread + call) % 3, 1, 8, 8), np.float32)


def together(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """work(0), work(1), …, each in a thread of its own, all begun at the same moment."""
    gate = threading.Barrier(threads)

    def begun(thread: int) -> Any:
        gate.wait()
        return work(thread)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begun, range(threads)))


def same(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    """Equal to the bit, whatever the nesting."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        if isinstance(a, np.ndarray):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert a.tobytes() == b.tobytes()
        elif isinstance(a, (list, tuple)):
            same(a, b)
        else:
            assert a == b


def plain(explainer: Explainer) -> Callable[[int], list[Any]]:
    """100 calls of every kind that a graph with a target answers; the first opens what conservation needs."""

    def work(thread: int) -> list[Any]:
        found: list[Any] = []
        for call in range(CALLS):
            x = image(thread, call)
            target = (None, (thread + call) % 10, [(thread + i) % 10 for i in range(len(x))])[call % 3]
            explanation = explainer.quietly(x, target=target)
            found.append([explanation.relevance, explanation.output, explanation.target, explanation.layers["pool"]])
            found.append([explanation.initial, explanation.ratio, explainer.complaints(explanation)])
            if call % 10 == 0:
                found.append(list(explanation.conservation))
        return found

    return work


def begun(explainer: Explainer) -> Callable[[int], list[Any]]:
    """Calls that say where relevance starts; the first opens the forward part."""

    def work(thread: int) -> list[Any]:
        found: list[Any] = []
        for call in range(CALLS // 4):
            explanation = explainer.quietly(image(thread, call), start=STARTS[(thread + call) % len(STARTS)])
            found.append([explanation.relevance, explanation.output, explanation.initial])
        return found

    return work


def test_calls_targets_layers_and_conservation() -> None:
    one, shared = (Explainer(CNN, "epsilon_plus_flat", layers=["pool"], threads=1) for _ in range(2))
    wanted = [plain(one)(thread) for thread in range(THREADS)]
    same(together(plain(shared)), wanted)
    assert not np.array_equal(wanted[0][0][0], wanted[3][0][0])  # the threads did ask different things


def test_starts() -> None:
    one, shared = (Explainer(CNN, "epsilon", init="given", threads=1) for _ in range(2))
    same(together(begun(shared)), [begun(one)(thread) for thread in range(THREADS)])


@pytest.mark.filterwarnings("ignore:Σ relevance")  # noise is no digit: biases absorb much
def test_averages_and_concepts() -> None:
    """Sessions with threads of their own, too."""
    gradient, rule = Explainer(CNN, "gradient"), Explainer(CNN, "epsilon_plus")
    one, shared = (Concepts(CNN, "epsilon_plus", layers=["pool"]) for _ in range(2))

    def work(concepts: Concepts) -> Callable[[int], list[Any]]:
        def each(thread: int) -> list[Any]:
            x = image(thread, 0)
            return [
                integrated_gradients(gradient, x, steps=3, target=thread % 10).relevance,
                smoothgrad(rule, x, samples=3, seed=thread, target=thread % 10).relevance,
                concepts(x, TopNFeatures(2), target=thread % 10).relevance,
                *concepts.strongest([x], "pool", thread, 1, by="activation"),
            ]

        return each

    same(together(work(shared), 8), [work(one)(thread) for thread in range(8)])


def test_compiling() -> None:
    wanted = onnxlrp.compile(CNN).SerializeToString(deterministic=True)
    found = together(lambda _: onnxlrp.compile(CNN).SerializeToString(deterministic=True), 8)
    assert found == [wanted] * 8
    assert gc.isenabled()


def test_the_last_compilation_turns_the_collector_on() -> None:
    first, last = collecting_later(), collecting_later()
    with last:
        with first:
            assert not gc.isenabled()
        assert not gc.isenabled()
    first, last = collecting_later(), collecting_later()
    with ExitStack() as later:
        with first:
            later.enter_context(last)
        assert not gc.isenabled()
    assert gc.isenabled()


def test_reading_the_model_again() -> None:
    """One open file, read by all: `model`, conservation and start= go back to it."""
    again = keep(CNN, external=False)
    wanted = again()
    assert isinstance(wanted, onnx.ModelProto)
    assert together(lambda _: [again() == wanted for _ in range(CALLS)]) == [[True] * CALLS] * THREADS
