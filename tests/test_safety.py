"""Files that lie, run code, or reach elsewhere are refused in one line; nothing uses the network or is half-written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import onnxlrp
from onnxlrp import Explainer, npy, text
from onnxlrp.data import open_data
from onnxlrp.errors import Error, InputError, InvalidModel
from onnxlrp.evaluate import evaluate
from onnxlrp.external import check_external
from onnxlrp.graph import save
from onnxlrp.inputs import read_input
from onnxlrp.task import Settings

ROOT = Path(__file__).parent.parent
CNN, DIGIT = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digit.npy"


class Face:
    shape = ("n", 1, 8, 8)
    type = "tensor(float)"


WANTED = {"image": Face()}


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def refused(read: Callable[[], object], match: str) -> None:
    """It raises one line, and takes no memory to do so."""
    tracemalloc.start()
    try:
        with pytest.raises(Error, match=match) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- what runs


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickles_are_not_opened(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "sprung"
    objects = np.array([Trap(trap)], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, objects, allow_pickle=True)
    refused(lambda: read_input(tmp_path / name, WANTED), "Python objects")
    refused(lambda: open_data(tmp_path / name, WANTED), "Python objects")
    assert not trap.exists()
    with np.load(tmp_path / name, allow_pickle=True) if name == "x.npz" else contextlib.nullcontext() as archive:
        archive["arr_0"] if archive else np.load(tmp_path / name, allow_pickle=True)
    assert trap.exists()  # the trap works


def test_a_pickle_by_another_name_is_no_array(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(lambda: read_input(tmp_path / "x.npy", WANTED), "is not a .npy file")
    assert not (tmp_path / "sprung").exists()


def test_zarr_with_pickled_objects(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="Zarr is read by zarr")
    store = tmp_path / "x.zarr"
    store.mkdir()
    described = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None, "order": "C",
        "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (store / ".zarray").write_text(json.dumps(described))
    (store / "0").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(lambda: open_data(store, WANTED), "Python objects")
    assert not (tmp_path / "sprung").exists()


def test_pictures_that_are_programs_are_not_started(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "x.png") as opened:
        assert opened.format == "EPS"  # which Pillow hands to Ghostscript
    refused(lambda: read_input(tmp_path / "x.png", WANTED), "no picture of a format that is known")


# ------------------------------------------------------------------------------------------------------ what is large


def declared(*shape: int, values: int = 64) -> bytes:
    """A .npy whose header declares float32 values of a shape, with so many behind it."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(4 * values)


@pytest.mark.parametrize("shape", [(10**6, 1, 8, 8), (2**40, 2**40), (-1, 8), (2**63, 0), (2, 1, 8, 8)])
def test_headers_that_declare_more_than_there_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(declared(*shape))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", declared(*shape))
    for name in ("x.npy", "x.npz"):
        refused(lambda n=name: read_input(tmp_path / n, WANTED), "declares")
        refused(lambda n=name: open_data(tmp_path / n, WANTED), "declares")
    (tmp_path / "x.npz").unlink()
    source = open_data(tmp_path, WANTED)
    assert "declares" in source.read(0, 1).unreadable[0]


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros((20_000, 1, 8, 8), np.float32)  # 5 MB in 5 kB
    np.savez_compressed(tmp_path / "x.npz", image=zeros)
    np.savez(tmp_path / "plain.npz", image=zeros)
    assert (tmp_path / "x.npz").stat().st_size < 50_000
    assert len(open_data(tmp_path / "x.npz", WANTED)) == 20_000
    monkeypatch.setattr(npy, "MOST", 1_000_000)
    for read in (read_input, open_data):
        refused(lambda r=read: r(tmp_path / "x.npz", WANTED), "unpacks to 5,120,000 bytes")
    assert len(open_data(tmp_path / "plain.npz", WANTED)) == 20_000


def test_archives_that_lie_about_their_size(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", image=np.zeros((4, 1, 8, 8), np.float32))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # uncompressed size in the directory
    data[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(data)
    for read in (read_input, open_data):
        refused(lambda r=read: r(tmp_path / "x.npz", WANTED), r"declares 4,294,967,294 bytes")


def png(width: int, height: int) -> bytes:
    """A PNG of so many pixels that has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_pictures_of_absurd_sizes(tmp_path: Path, side: int, quiet: bool) -> None:
    """10,000² is where Pillow warns, 20,000² where it refuses; both are, whether warnings are errors or not."""
    (tmp_path / "x.png").write_bytes(png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        refused(lambda: read_input(tmp_path / "x.png", WANTED), f"has {side * side:,} pixels")
        reason = open_data(tmp_path, WANTED).read(0, 1).unreadable[0]
    assert f"has {side * side:,} pixels" in reason


def test_truncated_pictures(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("x.png", "x.jpg", "x.tiff", "x.webp", "x.gif", "x.bmp"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for share in (0.1, 0.5, 0.9):
            (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
            refused(lambda n=name: read_input(tmp_path / n, WANTED), "could not be read")
    assert len(open_data(tmp_path, WANTED).read(0, 6).unreadable) == 6


def test_zarr_with_absurd_chunks(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="Zarr is read by zarr")
    zarr.create_array(tmp_path / "x.zarr", shape=(2**40, 1, 8, 8), chunks=(2**30, 1, 8, 8), dtype="f4")
    refused(lambda: open_data(tmp_path / "x.zarr", WANTED), "write it again with smaller ones")


# ----------------------------------------------------------------------------------------------- what lies elsewhere


def reaching(location: str) -> onnx.ModelProto:
    """y = x · w with w in a file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 64], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", str(64 * 64 * 4))):
        w.external_data.add(key=key, value=value)
    faces = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", faces[:1], faces[1:], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder for models; a file beside it; a link to that and a file of its own in it."""
    inside = tmp_path / "models"
    inside.mkdir()
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32).tobytes()
    (tmp_path / "secret.bin").write_bytes(weights)
    (inside / "own.bin").write_bytes(weights)
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    return inside


@pytest.mark.parametrize("location", ["link.bin", "../secret.bin", "sub/../../secret.bin", "ABSOLUTE"])
@pytest.mark.parametrize("where", ["initializer", "attribute", "compiled"])
def test_external_data_stays_in_the_models_folder(folders: Path, location: str, where: str) -> None:
    location = str(folders.parent / "secret.bin") if location == "ABSOLUTE" else location
    path = folders / "x.onnx"
    model = reaching("own.bin")
    path.write_bytes(model.SerializeToString())
    if where == "compiled":
        model = onnxlrp.compile(path, "epsilon")
    (weight,) = [t for t in model.graph.initializer if t.dims == [64, 64]]
    if where == "compiled":
        weight.ClearField("raw_data")
    weight.CopyFrom(TensorProto(name=weight.name, dims=weight.dims, data_type=1, data_location=1,
                                external_data=reaching(location).graph.initializer[0].external_data))  # fmt: skip
    if where == "attribute":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        InvalidModel, match="external data in .* cannot be read" if where == "attribute" else "lies outside"
    ) as caught:
        Explainer(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidModel, match="lies outside"):
        check_external(path)


@pytest.mark.parametrize("odd", [False, True])
def test_external_data_is_found_wherever_it_is(folders: Path, odd: bool) -> None:
    """In initializers (also behind data of their own), attributes, bodies, functions and sparse tensors."""

    def names(place: str) -> TensorProto:
        return reaching(place).graph.initializer[0]

    def constant(place: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], ["c"], value=names(place))

    def sparse(place: str) -> onnx.SparseTensorProto:
        return onnx.SparseTensorProto(values=names(place), indices=onnx.numpy_helper.from_array(np.arange(2)), dims=[2])

    body = helper.make_graph([constant("own.bin")], "b", [], [], [names("own.bin")])
    function = helper.make_function("f", "F", [], ["c"], [constant("own.bin")], [helper.make_opsetid("", 17)])

    def build(bad: int) -> bytes:
        place = ["own.bin"] * 6
        if bad >= 0:
            place[bad] = "../secret.bin"
        model = reaching("own.bin")
        model.graph.initializer.append(names(place[0]))
        model.graph.initializer[-1].raw_data = bytes(100_000)
        model.graph.node.append(constant(place[1]))
        body.node[0].CopyFrom(constant(place[2]))
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body))
        body.node[0].CopyFrom(constant("own.bin"))
        function.node[0].CopyFrom(constant(place[3]))
        model.functions.append(function)
        model.graph.sparse_initializer.append(sparse(place[4]))
        model.graph.node.append(helper.make_node("Constant", [], ["s"], sparse_value=sparse(place[5])))
        # an unknown field of a kind that is no longer written, which parsers pass over
        return (b"\x9b\x06\x9c\x06" if odd else b"") + model.SerializeToString()

    path = folders / "x.onnx"
    path.write_bytes(build(-1))
    check_external(path)
    for bad in range(6):
        path.write_bytes(build(bad))
        with pytest.raises(InvalidModel, match="lies outside"):
            check_external(path)


def test_external_data_in_the_models_folder_is_read(folders: Path) -> None:
    (folders / "x.onnx").write_bytes(reaching("own.bin").SerializeToString())
    assert Explainer(folders / "x.onnx", "epsilon")(np.ones((1, 64), np.float32)).relevance.shape == (1, 64)


# --------------------------------------------------------------------------------------------------------- network

NO_NETWORK = """
import socket
def refuse(*_, **__):
    raise AssertionError("the network was used")
for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
import runpy, sys
try:
    socket.getaddrinfo("localhost", 80)
    sys.exit("the network was not closed")
except AssertionError:
    pass
sys.argv[0] = "onnxlrp"
runpy.run_module("onnxlrp", run_name="__main__")
"""


@pytest.mark.parametrize(
    "command",
    [
        ["compile", CNN, "-o", "out.onnx"],
        ["explain", CNN, DIGIT, "-o", "out.png"],
        ["report", CNN, DIGIT, "-o", "out.html"],
    ],
    ids=lambda command: command[0],
)
def test_nothing_uses_the_network(tmp_path: Path, command: list[Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = (tmp_path / command[-1]).read_bytes()
    assert written
    if command[0] == "report":  # nor does the page that it writes
        page = written.decode()
        assert not any(f'{at}="{scheme}' in page for at in ("src", "href") for scheme in ("http:", "https:", "//"))
        assert "@import" not in page


# -------------------------------------------------------------------------------------------------------- half-written


def written_compiled(path: Path) -> None:
    save(onnxlrp.compile(CNN), path)


def written_explanation(path: Path) -> None:
    Explainer(CNN)(np.load(DIGIT)).save(path)


def written_page(path: Path) -> None:
    text.save_html(path, "<p>new</p>")


def written_plot(path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")
    found = evaluate(CNN, np.load(DIGIT), ["epsilon"], settings=Settings(steps=2, resamples=10))
    found.plot(path)


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("x.onnx", written_compiled), ("x.npz", written_explanation), ("x.png", written_explanation), ("x.html", written_page),
        ("plot.png", written_plot),
    ],
)  # fmt: skip
def test_outputs_are_complete_or_untouched(
    tmp_path: Path, name: str, writer: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there stays until the whole of the new is on the disk, and stays for good when that fails."""
    path = tmp_path / name
    path.write_text("old")
    plain, seen = os.replace, []

    def replace(source: Any, target: Any) -> None:
        seen.append((Path(source).stat().st_size, path.read_text()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((OSError, InputError), match="No space left"):
        writer(path)
    assert [text for _, text in seen] == ["old"]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [name]
    monkeypatch.setattr(os, "replace", plain)
    writer(path)
    assert path.stat().st_size == seen[0][0]
