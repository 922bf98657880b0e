"""The web page's files say what the page must know; JavaScript gives Python's numbers, with no browser yet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxlrp
from onnxlrp import Explainer
from onnxlrp.cli import main
from onnxlrp.errors import CompositeError, InputError, InvalidModel
from onnxlrp.export.web import Page, find_runtime, write_page
from onnxlrp.export.web.runtime import FILES
from onnxlrp.heatmap import colorize
from onnxlrp.inputs import picture
from onnxlrp.pictures.colors import blend
from onnxlrp.preprocessing import Preprocessing
from tests.models_for_tests import data, net, session, weight
from tests.web_cases import CNN, DIGIT, MODELS, MODULES, NO_WEB, NODE, RULES, WEB, export

PIXELS = Path(onnxlrp.__file__).parent / "export" / "web" / "pixels.js"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder that looks like the npm package."""
    package = tmp_path / "npm" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    for name in FILES:
        (package / "dist" / name).write_text(f"// {name}")
    return package


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "settings.json").read_text("utf-8"))
    return found


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def picture_net(*shape: object, classes: int = 4) -> onnx.ModelProto:
    return net("f = Flatten(x)\ny = MatMul(f, w)", f"float[N,{','.join(map(str, shape))}] x", f"float[N,{classes}] y",
               w=weight(int(np.prod([n for n in shape if isinstance(n, int)])), classes))  # fmt: skip


# files ---------------------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path, runtime: Path) -> None:
    said = export(CNN, tmp_path / "page", "--compare", ",".join(RULES), "--title", "A <b>", runtime=runtime)
    assert said.startswith(f"{tmp_path / 'page'}: 4 rules, ")
    files = {str(f.relative_to(tmp_path / "page")) for f in (tmp_path / "page").rglob("*") if f.is_file()}
    found = settings_of(tmp_path / "page")
    assert files == {
        "index.html", "style.css", "settings.json", "runtime/ort.js", "runtime/ort-wasm-simd-threaded.wasm",
        *(f"{name}.js" for name in ("app", "image", "table", "sketch", "pixels", "view")),
        *(rule["file"] for rule in found["rules"]),
    }  # fmt: skip
    assert (tmp_path / "page" / "runtime" / "ort.js").read_text() == "// ort.wasm.bundle.min.mjs"
    assert [rule["name"] for rule in found["rules"]] == ["epsilon_plus", *RULES]
    assert [rule["bytes"] for rule in found["rules"]] == [
        (tmp_path / "page" / rule["file"]).stat().st_size for rule in found["rules"]
    ]
    del found["rules"], found["version"]
    assert found == {
        "kind": "image", "input": "image", "shape": [1, 1, 8, 8], "layout": "nchw", "channels": 1, "bgr": False, "height": 8,
        "width": 8, "resize": None, "crop": False, "scale": 255.0, "mean": [0.0], "std": [1.0], "target": "target",
        "output": "logits", "classes": 10, "labels": [],
    }  # fmt: skip
    page = (tmp_path / "page" / "index.html").read_text("utf-8")
    assert "<h1>A &lt;b&gt;</h1>" in page
    assert sorted(f.name for f in tmp_path.iterdir()) == ["npm", "page"]


def test_nothing_comes_from_elsewhere(tmp_path: Path, runtime: Path) -> None:
    """Addresses are relative, so that any folder of any server will do, and the policy allows no other server."""
    export(CNN, tmp_path / "page", runtime=runtime)
    text = {f.name: f.read_text("utf-8") for f in (tmp_path / "page").iterdir() if f.is_file()}
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]+)"', text["index.html"])
    assert policy is not None
    allowed = {word for part in policy[1].split(";") for word in part.split()[1:]}
    assert allowed == {"'none'", "'self'", "'wasm-unsafe-eval'", "data:"}
    links = re.findall(r'(?:src|href)="([^"]+)"', text["index.html"])
    assert set(links) == {"data:,", "style.css", "app.js"}
    imports = {path for name in text for path in re.findall(r'from "([^"]+)"', text[name])}
    assert all(path.startswith("./") and (tmp_path / "page" / path).is_file() for path in imports), imports
    for name, content in text.items():
        assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", content.replace("http://localhost:8000", "")), name


def test_models_take_their_target_as_any_input(tmp_path: Path, runtime: Path) -> None:
    """JavaScript's onnxruntime has no optional inputs."""
    export(CNN, tmp_path / "page", "-c", "epsilon", runtime=runtime)
    (file,) = (tmp_path / "page" / "models").iterdir()
    opened, x = session(str(file)), np.load(DIGIT)
    assert [i.name for i in opened.get_inputs()] == ["image", "target"]
    assert opened.get_overridable_initializers() == []
    explainer = Explainer(CNN, "epsilon")
    for target, asked in ((-1, None), (5, 5)):
        logits, relevance = opened.run(["logits", "relevance.image"], {"image": x, "target": np.array([target])})
        e = explainer(x, target=asked)
        np.testing.assert_array_equal(logits, e.output)
        np.testing.assert_array_equal(relevance, e.relevance)


SHAPES: dict[tuple[object, ...], tuple[str, list[int]]] = {
    (3, 5, 4): ("nchw", [3, 5, 4]), (5, 4, 3): ("nhwc", [3, 5, 4]), (64,): ("nhwc", [1, 8, 8]), (4, 6, 7): ("nchw", [4, 6, 7]),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_settings_of_pictures(shape: tuple[object, ...], tmp_path: Path, runtime: Path) -> None:
    export(saved(tmp_path, picture_net(*shape)), tmp_path / "page", "--mean", "0.5", "--labels", "a,b,c,d", runtime=runtime)
    found = settings_of(tmp_path / "page")
    layout, (channels, height, width) = SHAPES[shape]
    assert (found["layout"], found["channels"], found["height"], found["width"]) == (layout, channels, height, width)
    assert (found["mean"], found["std"], found["shape"]) == ([0.5] * channels, [1.0] * channels, [1, *shape])
    assert found["labels"] == list("abcd")


def test_a_free_size_is_the_one_that_is_given(tmp_path: Path, runtime: Path) -> None:
    body = "g = GlobalAveragePool(x)\nf = Flatten(g)\ny = MatMul(f, w)"
    model = saved(tmp_path, net(body, "float[N,3,H,W] x", "float[N,4] y", w=weight(3, 4)))
    with pytest.raises(InputError, match=r"must know the size of input 'x' .*--input-shapes x=1"):
        export(model, tmp_path / "page", runtime=runtime)
    export(model, tmp_path / "page", "--resize", 40, "--crop", "32x30", "--channels", "bgr", runtime=runtime)
    found = settings_of(tmp_path / "page")
    assert (found["shape"], found["resize"], found["crop"], found["bgr"]) == ([1, 3, 32, 30], 40, True, True)


def test_settings_of_tables(tmp_path: Path, runtime: Path) -> None:
    model = saved(tmp_path, picture_net(3))
    export(model, tmp_path / "page", "--names", "age,height,weight", runtime=runtime)
    found = settings_of(tmp_path / "page")
    assert (found["kind"], found["shape"], found["names"]) == ("table", [1, 3], ["age", "height", "weight"])
    export(saved(tmp_path, picture_net(64)), tmp_path / "other", "--kind", "table", runtime=runtime)
    assert settings_of(tmp_path / "other")["names"][63] == "x[63]"


def test_labels_of_the_file(tmp_path: Path, runtime: Path) -> None:
    model = picture_net(1, 8, 8)
    model.metadata_props.add(key="names", value="{0: 'a', 1: 'b', 2: 'c', 3: '<i>'}")
    export(saved(tmp_path, model), tmp_path / "page", runtime=runtime)
    assert settings_of(tmp_path / "page")["labels"] == ["a", "b", "c", "<i>"]


def test_a_compiled_model_is_taken_as_it_is(tmp_path: Path, runtime: Path) -> None:
    onnxlrp.save(onnxlrp.compile(CNN, "epsilon_gamma_box(low=0, high=1)"), tmp_path / "c.onnx")
    export(tmp_path / "c.onnx", tmp_path / "page", runtime=runtime)
    assert [r["name"] for r in settings_of(tmp_path / "page")["rules"]] == ["epsilon_gamma_box(low=0, high=1)"]
    (file,) = (tmp_path / "page" / "models").iterdir()
    export(file, tmp_path / "again", runtime=runtime)
    assert (tmp_path / "again" / "models" / file.name).read_bytes() == file.read_bytes()
    for more in (("--compare", "flat"), ("-c", "flat"), ("--output", "logits")):
        with pytest.raises(CompositeError, match="compiled already"):
            export(tmp_path / "c.onnx", tmp_path / "no", *more, runtime=runtime)


# refusals ------------------------------------------------------------------------------------------------------------

CONV = "y = Conv<pads=[1,1,1,1]>(x, w)"
BAD: dict[str, tuple[onnx.ModelProto, tuple[object, ...]]] = {
    "is no such": (picture_net(3, 20), ()),
    "is no table": (picture_net(3, 5, 4), ("--kind", "table")),
    "is no picture of 1, 3 or 4 channels": (picture_net(2, 5, 6), ()),
    "more than 400": (picture_net(401), ()),
    "2 names for the 5 features": (picture_net(5), ("--names", "a,b")),
    "--names is for the features of a table": (picture_net(64), ("--names", "a,b")),
    "are for pictures": (picture_net(5), ("--mean", "1")),
    "3 names, but the model has 4 classes": (picture_net(3, 5, 4), ("--labels", "a,b,c")),
    "mean has 2 values, the picture 3 channels": (picture_net(3, 5, 4), ("--mean", "1,2")),
    "std must not be 0": (picture_net(3, 5, 4), ("--std", "0")),
    "shows one list of scores": (net(CONV, "float[N,3,6,5] x", "float[N,4,6,5] y", w=weight(4, 3, 3, 3)), ()),
    "the inputs a, b": (net("y = Add(a, b)", "float[N,4] a, float[N,4] b", "float[N,4] y"), ()),
    "takes 2: --input-shapes": (net("y = MatMul(x, w)", "float[2,4] x", "float[2,3] y", w=weight(4, 3)), ()),
    "is not explained": (net("h = Relu(x)\ny = MatMul(h, w)", "float[N,4] x", "float[N,3] y", w=weight(4, 3)),
                         ("--explain", "h")),
    "the inputs x, relevance_out": (picture_net(5), ("--init", "given")),
    "has the type int64": (net("e = Gather(t, x)\ny = ReduceMean<keepdims=0>(e, one)", "int64[N,4] x", "float[N,3] y",
                               t=data(6, 3), one=np.array([1])), ()),
    "unknown preset 'flap'": (picture_net(5), ("--compare", "flap")),
    "crop makes pictures 7": (picture_net(3, 5, 4), ("--crop", "7x7")),
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_what_a_page_cannot_show_is_one_line(
    said: str, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, more = BAD[said]
    file = saved(tmp_path, model)
    arguments = ["onnxlrp", "export", "web", file, "-o", tmp_path / "page", "--runtime", runtime, *more]
    monkeypatch.setattr(sys, "argv", [str(a) for a in arguments])
    with pytest.raises(SystemExit) as done:
        main()
    err = capsys.readouterr().err
    assert done.value.code == 2
    assert said in err
    assert err.count("\n") == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m.onnx", "npm"]


def test_a_folder_in_use_stays_as_it_is(tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, said in (
        ("page", "not empty"),
        ("file", "not a folder"),
        ("no/page", "does not exist"),
        ("page/..", "not empty"),
    ):
        with pytest.raises(InputError, match=said):
            export(CNN, tmp_path / name, runtime=runtime)
    assert (tmp_path / "page" / "mine.txt").read_text() == "mine"
    (tmp_path / "page" / "mine.txt").unlink()
    export(CNN, tmp_path / "page", runtime=runtime)  # an empty one is taken
    assert (tmp_path / "page" / "index.html").is_file()


def test_a_page_is_complete_or_not_there(tmp_path: Path) -> None:
    models = {"epsilon": onnxlrp.compile(CNN, "epsilon")}
    with pytest.raises(OSError, match="gone"):
        write_page(models, tmp_path / "page", Page("t"), {"ort.js": tmp_path / "gone"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_metadata_is_refused(tmp_path: Path, runtime: Path) -> None:
    model = onnxlrp.compile(CNN, "epsilon")
    kept = [p for p in model.metadata_props if p.key == "onnxlrp.version"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with pytest.raises(InvalidModel, match="lost its metadata"):
        export(saved(tmp_path, model), tmp_path / "page", runtime=runtime)


def test_where_the_runtime_is_looked_for(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"npm install onnxruntime-web.*--runtime DIR"):
        find_runtime(None)
    with pytest.raises(InputError, match=r"not found in elsewhere"):
        find_runtime("elsewhere")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho {runtime.parent}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent) + os.pathsep + os.defpath)
    assert find_runtime(None)["ort.js"] == runtime / "dist" / "ort.wasm.bundle.min.mjs"
    (here / "node_modules").mkdir()
    (here / "node_modules" / "onnxruntime-web").symlink_to(runtime)
    assert find_runtime(None)["ort.js"].parts[0] == "node_modules"
    (runtime / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(InputError, match=r"no dist/ort-wasm-simd-threaded.wasm, as onnxruntime-web 1.30 has"):
        find_runtime(None)


# JavaScript ----------------------------------------------------------------------------------------------------------


def node(script: str, given: Any, folder: Path) -> Any:
    """What a module prints as JSON; `given` is what it is given."""
    (folder / "in.json").write_text(json.dumps(given))
    head = 'import { readFileSync } from "node:fs";\nconst given = JSON.parse(readFileSync("in.json"));\n'
    (folder / "script.mjs").write_text(head + script)
    done = subprocess.run([str(NODE), "script.mjs"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RUN = """
const ort = await import(given.package);
const out = [];
ort.default.env.wasm.numThreads = 1;
for (const { file, x, shape, targets } of given.runs) {
  const session = await ort.default.InferenceSession.create(readFileSync(file), { executionProviders: [given.provider] });
  const image = new ort.default.Tensor("float32", Float32Array.from(x), shape);
  for (const t of targets) {
    const found = await session.run({ image, target: new ort.default.Tensor("int64", BigInt64Array.of(BigInt(t)), [1]) });
    out.push([Array.from(found.logits.data), Array.from(found["relevance.image"].data)]);
  }
}
process.stdout.write(JSON.stringify(out));
process.exit(0);
"""


@pytest.mark.skipif(NODE is None, reason="there is no Node here")
@pytest.mark.parametrize(("package", "provider"), [("onnxruntime-node", "cpu"), ("onnxruntime-web", "wasm")])
def test_runtimes_of_node_give_pythons_numbers(package: str, provider: str, tmp_path: Path, runtime: Path) -> None:
    entry = {"onnxruntime-node": "dist/index.js", "onnxruntime-web": "dist/ort.node.min.js"}[package]
    if not (MODULES / package / entry).is_file():
        pytest.skip(f"there is no {package} in ./node_modules or $ONNXLRP_NODE_MODULES")
    export(CNN, tmp_path / "page", "--compare", ",".join(RULES), runtime=runtime)
    x, targets = np.load(DIGIT), (-1, 5)
    files = [tmp_path / "page" / rule["file"] for rule in settings_of(tmp_path / "page")["rules"]]
    runs = [{"file": str(f), "x": x.ravel().tolist(), "shape": x.shape, "targets": targets} for f in files]
    given = {"package": (MODULES / package / entry).as_uri(), "provider": provider, "runs": runs}
    found = iter(node(RUN, given, tmp_path))
    for rule in ["epsilon_plus", *RULES]:
        explainer = Explainer(CNN, rule)
        for target in targets:
            logits, relevance = next(found)
            e = explainer(x, target=None if target < 0 else target)
            np.testing.assert_allclose(logits, e.output.ravel(), rtol=0, atol=1e-5)
            np.testing.assert_allclose(relevance, e.relevance.ravel(), rtol=0, atol=1e-5)


READ = """
import { channelsOf, normalized, sized } from "./pixels.mjs";
process.stdout.write(JSON.stringify(given.map(({ rgba, w, h, settings }) =>
  Array.from(normalized(sized(channelsOf(Uint8ClampedArray.from(rgba), settings.channels), w, h, settings), settings)))));
"""
TONES = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PICTURES: list[tuple[tuple[int, int], tuple[int, ...], Preprocessing]] = [
    ((8, 8), (1, 8, 8), Preprocessing()),
    ((96, 96), (1, 96, 96), Preprocessing()),
    ((300, 200), (1, 8, 8), Preprocessing(mean=(0.1307,), std=(0.3081,))),
    ((5, 4), (3, 5, 4), Preprocessing(**TONES)),
    ((37, 53), (3, 24, 30), Preprocessing(**TONES)),
    ((7, 6), (24, 30, 3), Preprocessing(scale=127.5, mean=(1,))),
    ((61, 40), (3, 24, 30), Preprocessing(resize=32, **TONES)),
    ((40, 61), (3, 25, 30), Preprocessing(resize=31, crop=(25, 30), channels="bgr", **TONES)),
    ((33, 30), (30, 25, 3), Preprocessing(crop=(30, 25), channels="bgr")),
    ((20, 20), (64,), Preprocessing(scale=16)),
]  # (height, width) of a picture, shape of the input


@pytest.mark.skipif(NODE is None, reason="there is no Node here")
def test_pictures_become_the_numbers_of_python(tmp_path: Path, runtime: Path) -> None:
    """To the last bit, resized by Pillow's algorithm."""
    (tmp_path / "pixels.mjs").write_text(PIXELS.read_text("utf-8"), "utf-8")
    given, wanted = [], []
    for i, ((height, width), shape, how) in enumerate(PICTURES):
        colours = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(colours).save(tmp_path / f"{i}.png")
        wanted.append(picture(tmp_path / f"{i}.png", "", (1, *shape), how))
        models = {"e": onnxlrp.compile(picture_net(*shape), "epsilon")}
        write_page(models, tmp_path / f"page{i}", Page("", how=how), find_runtime(str(runtime)))
        rgba = np.concatenate([colours, np.full((height, width, 1), 255, np.uint8)], -1)
        given.append({"rgba": rgba.ravel().tolist(), "w": width, "h": height, "settings": settings_of(tmp_path / f"page{i}")})
    for found, x in zip(node(READ, given, tmp_path), wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(found, np.float32), x.ravel())


COLOUR = """
import { painted, plane } from "./pixels.mjs";
const under = (i) => given.under[i];
process.stdout.write(JSON.stringify([
  Array.from(painted(given.values, 1)), Array.from(painted(given.values, 1, under)),
  ...["nchw", "nhwc"].map((layout) => Array.from(plane(given.values, { channels: 3, layout }))),
]));
"""


@pytest.mark.skipif(NODE is None, reason="there is no Node here")
def test_colours_are_those_of_python(tmp_path: Path) -> None:
    (tmp_path / "pixels.mjs").write_text(PIXELS.read_text("utf-8"), "utf-8")
    rng = np.random.default_rng(0)
    v, under = np.concatenate([np.linspace(-1, 1, 511), rng.normal(size=89)]), rng.integers(0, 256, (600, 3))
    bare, over, first, last = node(COLOUR, {"values": v.tolist(), "under": under.tolist()}, tmp_path)
    np.testing.assert_array_equal(np.reshape(bare, (-1, 4))[:, :3], colorize(v))
    np.testing.assert_array_equal(np.reshape(over, (-1, 4))[:, :3], blend(v, under))
    assert set(np.reshape(over, (-1, 4))[:, 3]) == {255}
    np.testing.assert_allclose(first, v.reshape(3, 200).sum(0), rtol=1e-12)
    np.testing.assert_allclose(last, v.reshape(200, 3).sum(1), rtol=1e-12, atol=1e-15)


@pytest.mark.skipif(not WEB.is_dir(), reason=NO_WEB)
def test_the_package_has_the_files(tmp_path: Path) -> None:
    export(MODELS / "digits_cnn.onnx", tmp_path / "page")
    assert (tmp_path / "page" / "runtime" / "ort-wasm-simd-threaded.wasm").read_bytes()[:4] == b"\0asm"
