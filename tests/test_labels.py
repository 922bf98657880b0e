"""Names of classes: read from every form they come in, shown by the commands, refused in one line where they do not fit."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxlrp import Explainer
from onnxlrp.cli import main
from onnxlrp.errors import InputError
from onnxlrp.explanation import Explanation
from onnxlrp.labels import class_name, labels_of, read_labels
from onnxlrp.wording import labels_for
from tests.models_for_tests import data, net, run, weight

NAMES = ["cat", "a dog, brown", "[bold]bird"]
FILES = {
    "lines.txt": "cat\na dog, brown\n[bold]bird\n\n",
    "windows.txt": "\ufeffcat\r\n  a dog,\tbrown \r\n[bold]bird",
    "list.json": json.dumps(NAMES),
    "mapping.json": json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]}),
    "config.json": json.dumps({"architectures": ["X"], "id2label": dict(enumerate(NAMES)), "label2id": {"cat": 0}}),
    "imagenet_class_index.json": json.dumps({i: [f"n0{i}", name] for i, name in enumerate(NAMES)}),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(FILES[name].encode())
    assert read_labels(file, 3) == read_labels(str(file), 3) == read_labels(file, None) == NAMES


def test_lists_mappings_and_text() -> None:
    assert read_labels(NAMES, 3) == read_labels({2: NAMES[2], 1: NAMES[1], 0: NAMES[0]}, 3) == NAMES
    assert read_labels(" a, b\t c ,d", 3) == ["a", "b c", "d"]
    assert read_labels(json.dumps(NAMES), 3) == NAMES
    assert read_labels("like pasta", 1) == ["like pasta"]
    assert read_labels(["\x1b[31mred\n", "0"], 2) == ["[31mred", "0"]
    long = [f"class-{i}" for i in range(1000)]  # longer than a file's name may be
    assert read_labels(",".join(long), 1000) == long


WRONG: dict[str, tuple[str | Sequence[str] | Mapping[object, str], str]] = {
    "too few": ("a,b", r"'a,b': 2 names, but the model has 3 classes"),
    "too many": (["a"] * 4, "4 names, but the model has 3 classes"),
    "no file": ("names.txt", "there is no file names.txt"),
    "empty name": ("a,,c", r"class 1 has no name \(the model has 3 classes\)"),
    "gap": ({0: "a", 1: "b", 3: "d"}, r"class 2 has no name.*the model has 3 classes"),
    "twice": ({0: "a", "0": "b", 1: "c"}, r"class 0 has .*several.*the model has 3 classes"),
    "keys": ({"a": "b"}, r"keys are not the numbers of classes.*the model has 3 classes"),
    "no JSON": ('["a", "b"', "is neither JSON nor one name per line"),
    "no names": ("[1.5, null, true]", "class 0 has no name"),
    "nested": ("[" * 100_000, "is n"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_names_the_count(what: str) -> None:
    source, said = WRONG[what]
    with pytest.raises(InputError, match=said):
        read_labels(source, 3)


def test_files_that_are_no_names(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    for content, said in ((b"\xff\xfe\x00", "could not be read as text"), (b"{", "neither JSON"), (b"", "0 names, but the")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_labels(file, 3)
    with pytest.raises(InputError, match="1 name, but the model has 1000 classes"):
        read_labels("cat", 1000)


CARRIED = {
    "names": repr(dict(enumerate(NAMES))),  # as ultralytics writes it
    "labels": json.dumps(NAMES),
    "classes": json.dumps(NAMES),
    "id2label": json.dumps(dict(enumerate(NAMES))),
}


@pytest.mark.parametrize("key", CARRIED)
def test_names_within_the_model(key: str) -> None:
    assert labels_of({key: CARRIED[key], "stride": "32"}, 3) == NAMES
    assert labels_of({key: CARRIED[key]}, 84) == []  # a detector: boxes beside the classes
    assert labels_of({key: CARRIED[key], "names": "not { a list"}, 3) == (NAMES if key != "names" else [])


def test_metadata_without_names() -> None:
    for text in ("", "3", "'abc'", "__import__('os').abort()", "(" * 5000, "{0: 'a', 1: ['b'], 2: {}}"):
        assert labels_of({"names": text}, 3) == []
    assert labels_of({}, 3) == []


def test_class_name() -> None:
    assert [class_name(NAMES, i) for i in (0, 3, -1)] == ["cat (0)", "3", "-1"]
    assert class_name([], 0) == "0"


# commands -------------------------------------------------------------------------------------------------------------

MODEL = net("f = Flatten(x)\ny = MatMul(f, w)", "float[N,1,4,4] x", "float[N,3] y", w=weight(16, 3))
X = data(3, 1, 4, 4)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.onnx; named.onnx, which has names of its own; x.npy, a batch of three."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL, "model.onnx")
    named = onnx.ModelProto()
    named.CopyFrom(MODEL)
    named.metadata_props.add(key="names", value=CARRIED["names"])
    onnx.save(named, "named.onnx")
    np.save("x.npy", X)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxlrp", *arguments, "-c", "lrp_zero"])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def winners() -> list[int]:
    """The largest output of each row, as onnxruntime has it."""
    return [int(c) for c in run(MODEL, x=X)["y"].argmax(1)]


@pytest.mark.parametrize(("model", "more"), [("model", ("--labels", "A,B,C")), ("named", ()), ("named", ("--labels", "A,B,C"))])
def test_explain(
    model: str, more: Sequence[str], files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, top = ["A", "B", "C"] if more else NAMES, winners()
    assert command(monkeypatch, "explain", f"{model}.onnx", "x.npy", *more) == 0
    said = capsys.readouterr().out
    rows = [line.strip() for line in said.splitlines() if line.strip().startswith(tuple(names))]
    y = run(MODEL, x=X)["y"][0]
    assert [row.split(")")[0] + ")" for row in rows] == [f"{names[i]} ({i})" for i in np.argsort(-y)]
    assert rows[0].endswith("← explained")
    assert [f"{y[i]:.4f}" in row for i, row in zip(np.argsort(-y), rows, strict=True)] == [True] * 3
    assert command(monkeypatch, "explain", f"{model}.onnx", "x.npy", "--json", *more) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["label"]) == (top, [names[i] for i in top])


def test_explain_without_names_has_numbers(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "explain", "model.onnx", "x.npy", "--json") == 0
    assert "label" not in json.loads(capsys.readouterr().out)


def test_captions_of_a_grid(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    plain = Explanation.heatmap

    def heatmap(self: Explanation, **options: Any) -> Image.Image:
        asked.append(options.get("captions"))
        return plain(self, **options)

    monkeypatch.setattr(Explanation, "heatmap", heatmap)
    for model, grid in (("named", "2,0"), ("named", "all"), ("model", "all")):
        assert command(monkeypatch, "explain", f"{model}.onnx", "x.npy", "-o", "g.png", "--grid", grid) == 0
    words = [f"row {i}: {NAMES[c]} ({c})" for i, c in enumerate(winners())]
    assert asked == [[words[2], words[0]], words, None]


@pytest.mark.parametrize("row", [0, 2])
def test_report_names_the_class_of_its_row(
    row: int, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "report", "named.onnx", "x.npy", "-o", "r.html", "--row", str(row)) == 0
    c, y = winners()[row], run(MODEL, x=X)["y"][row]
    what = f"“{NAMES[c]}” (class {c}) of output y: {y[c]:.4f}"
    assert f"explains {what}\n" in capsys.readouterr().out
    page = (files / "r.html").read_text("utf-8")
    assert f"Why {what}" in page
    heads = re.findall(r'<th scope="row">([^<]*) \((\d)\)</th>', page)
    assert heads == [(NAMES[i], str(i)) for i in np.argsort(-y)]


def test_report_of_a_text_has_one_row(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save("t.json")
    body = "e = Gather(table, ids)\nh = ReduceMean<keepdims=0>(e, one)\ny = MatMul(h, v)"
    onnx.save(net(body, "int64[N,T] ids", table=data(3, 4), v=weight(4, 2), one=np.array([1])), "text.onnx")
    asked = ("report", "text.onnx", "--text", "good film", "--tokenizer", "t.json", "-o", "r.html", "--labels", "for,against")
    assert command(monkeypatch, *asked) == 0
    assert re.search("explains “(for|against)” ", capsys.readouterr().out)
    (files / "r.html").unlink()
    assert command(monkeypatch, *asked, "--row", "0") == 2
    assert "--row is for INPUT" in capsys.readouterr().err
    assert not (files / "r.html").exists()
    assert command(monkeypatch, "explain", *asked[1:6], "-o", "e.html", *asked[8:]) == 0
    assert re.search("explains “(for|against)” ", (files / "e.html").read_text("utf-8"))


@pytest.mark.parametrize("verb", ["explain", "report"])
def test_wrong_names_are_one_line_and_leave_nothing(
    verb: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = "out.html" if verb == "report" else "out.npz"
    assert command(monkeypatch, verb, "named.onnx", "x.npy", "-o", target, "--labels", "A,B") == 2
    said = capsys.readouterr().err
    assert said == "onnxlrp: labels 'A,B': 2 names, but the model has 3 classes\n"
    assert not (files / target).exists()


@pytest.mark.parametrize("verb", ["explain", "report"])
@pytest.mark.parametrize("labels", ["A,B", "none.txt", "x.npy"])
def test_wrong_names_are_refused_before_the_model_runs(
    verb: str, labels: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quietly(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(Explainer, "quietly", quietly)
    target = "o.html" if verb == "report" else "o.npz"
    assert command(monkeypatch, verb, "model.onnx", "x.npy", "-o", target, "--labels", labels) == 2
    said = capsys.readouterr().err
    assert said.startswith("onnxlrp: labels")
    assert said.count("\n") == 1


def test_a_class_may_be_named(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for index, name in enumerate(NAMES):
        assert command(monkeypatch, "explain", "named.onnx", "x.npy", "-t", name, "--json") == 0
        assert json.loads(capsys.readouterr().out)["target"] == [index] * 3
    assert command(monkeypatch, "report", "model.onnx", "x.npy", "-t", "B", "--labels", "A,B,C", "-o", "r.html") == 0
    assert "explains “B” (class 1)" in capsys.readouterr().out
    for model, more, expected in (
        ("named", ("-t", "catt"), "target 'catt': no class is called so; did you mean 'cat'?"),
        ("model", ("-t", "cat"), "target 'cat' is no number, and the classes have no names"),
        ("model", ("-t", "A", "--labels", "A,B,A"), "target 'A': the classes 0 and 2 are called so"),
        ("model", ("-t", "99"), "target 99: the model has the classes 0 to 2"),
    ):
        assert command(monkeypatch, "explain", f"{model}.onnx", "x.npy", *more) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("\n") == 1


def test_a_compiled_file_keeps_the_names(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "compile", "named.onnx", "-o", "c.onnx") == 0
    monkeypatch.setattr(sys, "argv", ["onnxlrp", "explain", "c.onnx", "x.npy", "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["label"] == [NAMES[c] for c in winners()]
    kept = {p.key: p.value for p in onnx.load("c.onnx").metadata_props}
    assert kept["names"] == CARRIED["names"]


def test_names_for_what_has_no_classes() -> None:
    explainer = Explainer(net("y = Relu(x)", "float[N,3] x", "float[N,3] y"), "lrp_zero", init="given")
    e = explainer.quietly({"x": data(1, 3), "relevance_out": data(1, 3)})
    assert labels_for(explainer, e, None, {"names": CARRIED["names"]}) == []
    with pytest.raises(InputError, match="output y is not explained by class"):
        labels_for(explainer, e, "a,b,c", {})
