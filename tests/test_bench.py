"""The benchmark: its bound by hand, its table, its torch twins (where torch is installed), and one small run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import data, net, session, weight

import onnxlrp

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.append(str(TOOLS))
bounds, networks, report = (importlib.import_module(name) for name in ("bounds", "networks", "report"))

CONV, CONV2, DENSE = 4 * 6 * 5 * 3 * 9, 5 * 6 * 5 * 4 * 9, 150 * 4  # multiply-adds of the layers of `small`
RULES = [
    # rule, x >= 0 and ReLU after, x >= 0, either sign and ReLU after, either sign
    (onnxlrp.Zero(), 2, 2, 2, 2),
    (onnxlrp.Epsilon(), 2, 2, 2, 2),
    (onnxlrp.ZPlus(), 3, 3, 5, 5),
    (onnxlrp.Gamma(), 3, 3, 3, 3),
    (onnxlrp.GeneralizedGamma(), 3, 5, 5, 9),
    (onnxlrp.AlphaBeta(2, 1), 4, 4, 8, 8),
    (onnxlrp.AlphaBeta(1, 0), 3, 3, 5, 5),
    (onnxlrp.ZBox(-1, 1), 3, 3, 3, 3),
    (onnxlrp.Flat(), 1, 1, 1, 1),
    (onnxlrp.WSquare(), 2, 2, 2, 2),
]


def small() -> onnx.ModelProto:
    """Two convolutions with ReLU and a dense layer on 3x6x5."""
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w)
        h = Relu(c)
        c2 = Conv<pads=[1,1,1,1]>(h, w2)
        h2 = Relu(c2)
        f = Flatten(h2)
        y = Gemm<transB=1>(f, v)"""
    return net(body, w=weight(4, 3, 3, 3), w2=weight(5, 4, 3, 3), v=weight(4, 150))


@pytest.mark.parametrize(("rule", "best", "positive", "rectified", "any_sign"), RULES, ids=lambda v: repr(v))
def test_evaluations(rule: onnxlrp.Rule, best: int, positive: int, rectified: int, any_sign: int) -> None:
    cases = [(True, True), (True, False), (False, True), (False, False)]
    assert [bounds.evaluations(rule, *case) for case in cases] == [best, positive, rectified, any_sign]


@pytest.mark.parametrize(
    ("composite", "first", "second", "dense"),
    [
        ("epsilon", 2, 2, 2),
        ("epsilon_plus", 5, 3, 2),
        ("epsilon_plus_flat", 1, 3, 2),
        ("epsilon_alpha2_beta1", 8, 4, 2),
        ("epsilon_gamma_box(low=-5, high=5)", 3, 3, 2),
        ("gamma", 5, 3, 5),
    ],
)
def test_bound_by_hand(composite: str, first: int, second: int, dense: int) -> None:
    by_hand = (first * CONV + second * CONV2 + dense * DENSE) / (CONV + CONV2 + DENSE)
    assert bounds.bound(small(), composite) == pytest.approx(by_hand)


def test_bound_of_attention() -> None:
    """q kᵀ of 7 tokens, 4 wide: 3 evaluations of 7·7·4; q and k are one dense layer each, the last maps 7 to 4."""
    body = """
        q = MatMul(x, a)
        k = MatMul(x, b)
        t = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, t)
        y = MatMul(s, c)"""
    model = net(body, "float[N,7,5] x", "float[N,7,4] y", a=weight(5, 4), b=weight(5, 4, seed=2), c=weight(7, 4))
    dense, product = 2 * 7 * 5 * 4 + 7 * 7 * 4, 7 * 7 * 4
    assert bounds.bound(model, "epsilon") == pytest.approx((2 * dense + 3 * product) / (dense + product))


def results(ratio: float) -> dict[str, Any]:
    """Results of one cell, as a run writes them."""
    pair = {"first_ms": 2.0, "second_ms": 2.0 * ratio, "ratio": ratio, "min": ratio, "max": ratio, "pairs": 3}
    peers = {"zennit": {**pair, "difference": 2e-6, "sum": 1.0}, "captum": {"reason": "no rules for it"}}
    cell = {**pair, "sum": 1.0, "output": 0.0, "peers": peers}
    load = {"own_s": 1.0, "ours_s": 2.0, "ratio": 2.0}
    graph = {"compile_s": 0.5, "bound": 2.0, "size": 1.0, "nodes": 9, "own_nodes": 4, "load": load}
    return {
        "machine": {"cores": 2}, "graphs": {"mlp|epsilon": graph},
        "memory": {"mlp|epsilon|1": {"own": 10.0, "ours": 20.0, "zennit": 40.0}}, "cells": {"mlp|epsilon|1|1": cell},
    }  # fmt: skip


def test_of_several_files_the_last_wins() -> None:
    other = results(5.0)
    other["cells"] = {"mlp|epsilon|8|1": other["cells"]["mlp|epsilon|1|1"]}
    merged = report.merged([results(3.0), results(4.0), other])
    assert {k: c["ratio"] for k, c in merged["cells"].items()} == {"mlp|epsilon|1|1": 4.0, "mlp|epsilon|8|1": 5.0}


def test_table() -> None:
    text = report.markdown(results(4.0))
    head, rule, row = (line.split("|") for line in text.splitlines()[:3])
    assert [len(c) for c in head] == [len(c) for c in rule] == [len(c) for c in row]
    cells = dict(zip([c.strip() for c in head], [c.strip() for c in row], strict=True))
    assert cells["ours ÷ bound"] == "2.00"
    assert cells["zennit ÷ ours"] == "4.00 (4.00–4.00; 2e-06; Σ 1.000)"
    assert cells["memory ÷ zennit"] == "0.50 (20 MB; 10)"
    assert cells["captum ÷ ours"] == "[1]"
    assert "1. captum: no rules for it" in text
    assert cells["onnx2torch + zennit ÷ ours"] == "–"


@pytest.mark.parametrize(("others", "marked"), [(0.04, False), (0.06, True), (None, False)])
def test_a_disturbed_ratio_is_marked(others: float | None, marked: bool) -> None:
    found = results(4.0)
    found["cells"]["mlp|epsilon|1|1"]["peers"]["zennit"]["others"] = others
    text = report.markdown(found)
    assert ("NOT VALID" in text) == marked
    assert ("Σ 1.000) [1]" in text) == marked


def test_a_run_writes_its_table(tmp_path: Path) -> None:
    command = [sys.executable, TOOLS / "bench.py", "--network", "mlp", "--composite", "epsilon_plus_flat", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--peers", "--no-memory", "--out", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    cell, graph = found["cells"]["mlp|epsilon_plus_flat|1|1"], found["graphs"]["mlp|epsilon_plus_flat"]
    inputs, rest = 784 * 2048, 2 * 2048 * 2048 + 2048 * 10
    assert graph["bound"] == pytest.approx((inputs + 2 * rest) / (inputs + rest))
    assert cell["ratio"] > 1
    assert cell["output"] <= 1e-5
    assert cell["sum"] == pytest.approx(1, abs=0.2)
    assert (tmp_path / "out.md").read_text() == done.stdout


TWINS = {
    "mlp": lambda: (networks.mlp(16), data(2, 784)),
    "unet": lambda: (networks.unet(2, 1), data(1, 3, 224, 224)),
    "mobilenet_v2": lambda: (networks.mobilenet_v2(5), data(1, 3, 224, 224)),
    "vit_b": lambda: (networks.vit_b(1, 8, 2, 5), data(1, 3, 224, 224)),
    "bert_base": lambda: (networks.bert_base(1, 8, 2, 128, 50), np.arange(256).reshape(2, 128) % 50),
}


@pytest.mark.parametrize("name", TWINS)
def test_twin_equals_the_model(name: str) -> None:
    torch = pytest.importorskip("torch", reason="the torch twin needs torch, of the extra `bench`")
    twin = importlib.import_module("twin")
    model, x = TWINS[name]()
    (y,) = session(model).run(None, {"x": x})
    start = model.graph.node[0].output[0] if x.dtype.kind == "i" else "x"
    plus = importlib.import_module("captum.attr._utils.custom_modules").Addition_Module
    made = twin.Twin(model, start, plus)
    found = made(torch.tensor(twin.entry(model, start, x))).numpy()
    assert twin.near(found, y) <= 1e-5
