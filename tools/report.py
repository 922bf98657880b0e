"""The table of the benchmark from its results, as Markdown and on the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

__all__ = ["key", "markdown", "merged", "terminal"]

TITLES = (
    "network", "preset", "batch", "threads", "forward ms", "ours ms (forwards)", "bound", "ours ÷ bound", "zennit ÷ ours",
    "captum ÷ ours", "onnx2torch + zennit ÷ ours", "memory ÷ zennit", "size", "compile s", "load",
)  # fmt: skip
TEXT = 2  # columns that are text
NONE = "–"
IDLE = 0.05  # of the cores: a comparison during which other processes took more is marked


def key(*parts: object) -> str:
    """Key of a result: network|preset|batch|threads, or the first of these."""
    return "|".join(map(str, parts))


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of several runs as one; of what is in several, the last."""
    out: dict[str, Any] = {"machine": {}, "graphs": {}, "memory": {}, "cells": {}}
    for part in parts:
        for name in out:
            out[name] = {**out[name], **part.get(name, {})}
    return out


class Notes(dict[str, int]):
    """Numbers the reasons, each once."""

    def mark(self, text: str) -> str:
        return f"[{self.setdefault(text, len(self) + 1)}]"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def total(value: float) -> str:
    """A conserved sum to three places; one that is not, by its magnitude."""
    return f"Σ {value:.3f}" if abs(value) < 10 else f"Σ {value:.0e}"


def spread(row: dict[str, Any]) -> str:
    return f"{number(row['min'])}–{number(row['max'])}"


def disturbed(row: dict[str, Any], notes: Notes) -> str:
    """A mark on what was measured while other processes were busy."""
    busy = (row.get("others") or 0) > IDLE
    return f" {notes.mark(f'NOT VALID: other processes took more than {IDLE:.0%} of the cores meanwhile')}" if busy else ""


def peer(row: dict[str, Any] | None, notes: Notes, name: str) -> str:
    """Ratio (min–max; difference; Σ), or the note that says why there is none."""
    if row is None:
        return NONE
    if "reason" in row:
        return notes.mark(f"{name}: {row['reason']}")
    return f"{number(row['ratio'])} ({spread(row)}; {row['difference']:.0e}; {total(row['sum'])}){disturbed(row, notes)}"


def memory(row: dict[str, Any], notes: Notes) -> str:
    """Ours ÷ zennit (megabytes of ours; of the forward)."""
    if "ours" not in row:
        return notes.mark(f"memory: {row['ours_reason']}") if "ours_reason" in row else NONE
    own = f"; {row['own']:.0f}" if "own" in row else ""
    lost = next((row[k] for k in ("twin_reason", "zennit_reason") if k in row), None)
    ratio = (
        number(row["ours"] / row["zennit"]) if "zennit" in row else notes.mark(f"memory of zennit: {lost}") if lost else NONE
    )
    return f"{ratio} ({row['ours']:.0f} MB{own})"


def load(graph: dict[str, Any]) -> str:
    baked = f"; baked {number(graph['baked']['load']['ratio'])}" if "baked" in graph else ""
    return f"{number(graph['load']['ratio'])} ({number(graph['load']['ours_s'])} s{baked})"


def line(name: str, cell: dict[str, Any], results: dict[str, Any], notes: Notes) -> list[str]:
    """The cells of a row."""
    network, preset, batch, threads = name.split("|")
    graph, kept = results["graphs"].get(key(network, preset)), results["memory"].get(key(network, preset, batch), {})
    first = [network, preset.split("(")[0], batch, threads]
    if "reason" in cell or graph is None:
        return [*first, notes.mark(f"{name}: {cell.get('reason', 'not compiled')}"), *[NONE] * (len(TITLES) - 5)]
    peers = cell["peers"]
    if cell["output"] > 1e-5:
        first[-1] += notes.mark(f"{name}: our graph's output differs from the model's by {cell['output']:.0e}")
    return [
        *first,
        number(cell["first_ms"]),
        f"{number(cell['second_ms'])} ({number(cell['ratio'])}, {spread(cell)}; {total(cell['sum'])}){disturbed(cell, notes)}",
        number(graph["bound"]),
        number(cell["ratio"] / graph["bound"]),
        peer(peers.get("zennit"), notes, "zennit"),
        peer(peers.get("captum"), notes, "captum"),
        peer(peers.get("onnx2torch"), notes, "onnx2torch + zennit"),
        memory(kept, notes),
        f"{graph['size']:.3f} ({graph['own_nodes']} → {graph['nodes']} nodes)",
        number(graph["compile_s"]),
        load(graph),
    ]


def order(name: str) -> tuple[int, int]:
    batch, threads = name.split("|")[2:]
    return int(threads), int(batch)


def lines(results: dict[str, Any]) -> tuple[list[list[str]], Notes]:
    """Rows in the order networks and presets were measured in; within these by threads and batch."""
    notes = Notes()
    pairs = list(dict.fromkeys(name.rsplit("|", 2)[0] for name in results["cells"]))
    names = sorted(results["cells"], key=lambda n: (pairs.index(n.rsplit("|", 2)[0]), order(n)))
    return [line(name, results["cells"][name], results, notes) for name in names], notes


def markdown(results: dict[str, Any]) -> str:
    """The aligned table, what its columns mean, and the reasons."""
    rows, notes = lines(results)
    widths = [max(len(r[i]) for r in (TITLES, *rows)) for i in range(len(TITLES))]

    def text(cells: Any) -> str:
        padded = (c.ljust(w) if i < TEXT else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < TEXT else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    said = [f"{number}. {reason}" for reason, number in notes.items()]
    legend = (
        "Ratios are medians of pairs (min–max). Of a peer: time ÷ ours (min–max; max |difference| ÷ max |r|; Σ relevance ÷ "
        "initial relevance). Bound: the multiply-adds that the rules need, in forwards. Memory: peak of ours ÷ peak of zennit "
        "(ours; the forward), each in a process of its own. Size and load: ours ÷ the model's."
    )
    return (
        "\n".join([text(TITLES), text(rule), *map(text, rows), "", legend, f"Measured on: {where}.", "", *said]).rstrip() + "\n"
    )


def terminal(results: dict[str, Any]) -> Table:
    """A row a cell, as a table with a column for each value."""
    rows, notes = lines(results)
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for row in rows:
        for title, value in zip(TITLES, row, strict=True):
            table.add_row(title, value)
    for said, mark in notes.items():
        table.add_row(f"[{mark}]", said)
    return table
