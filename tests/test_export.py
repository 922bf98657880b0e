"""Exports give the compiled model's numbers, under the rules of the runtimes that load them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import onnxlrp
from onnxlrp import Explainer, graph
from onnxlrp.cli import cli
from onnxlrp.errors import CompositeError, Error, InputError
from onnxlrp.export.ort import export_ort
from onnxlrp.export.triton import Service, export_triton

ROOT = Path(__file__).parents[1]
CNN, DIGIT, PAGE = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digit.npy", ROOT / "docs" / "serving.md"
FLAT = "epsilon_plus_flat"
Array = np.ndarray


def call(*arguments: object) -> str:
    """What a command prints. Raises what it raises."""
    done = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


ALL, BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def session_of(path: Path, level: ort.GraphOptimizationLevel = ALL) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 3, level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rows(count: int) -> Array:
    """Different digits: the one that there is, shifted and dimmed."""
    x = np.load(DIGIT)
    return np.concatenate([np.roll(x, i, 3) * np.float32(1 - 0.1 * i) for i in range(count)])


# -------------------------------------------------------------------------------------------------- Triton's schema


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's own protobuf classes; from their file, for the package around them wants gRPC."""
    try:
        found = importlib.metadata.distribution("tritonclient")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritonclient is not installed: Triton's schema is not checked")
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", found.locate_file("tritonclient/grpc/model_config_pb2.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(schema: ModuleType, place: Path) -> Any:
    """config.pbtxt, by Triton's schema: an unknown field or value raises."""
    from google.protobuf import text_format

    return text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def refusals(config: Any, schema: ModuleType, session: ort.InferenceSession) -> list[str]:
    """Why Triton's onnxruntime backend would refuse the model: its ValidateInputs, ValidateOutputs, CompareDimsSupported.

    Stricter in one point: sizes of inputs must be the model's exactly, as it asks of outputs.
    """
    needed = {i.name: i for i in session.get_inputs()}
    extra = {i.name: i for i in session.get_overridable_initializers()}
    given = {o.name: o for o in session.get_outputs()}
    types = {
        "tensor(float)": "TYPE_FP32",
        "tensor(int64)": "TYPE_INT64",
        "tensor(int32)": "TYPE_INT32",
        "tensor(string)": "TYPE_STRING",
    }
    found = []
    if len(needed) != sum(not i.optional for i in config.input):
        found.append("number of inputs")
    for what, ports, known in (("input", config.input, needed | extra), ("output", config.output, given)):
        for port in ports:
            if what == "input" and port.optional and (config.max_batch_size or port.name not in extra):
                found.append(f"{port.name}: optional")
            declared = known[port.name]
            if schema.DataType.Name(port.data_type) != types[declared.type]:
                found.append(f"{port.name}: type")
            dims = [*(port.reshape.shape if port.HasField("reshape") else port.dims)]
            if not port.dims or any(d == 0 or d < -1 for d in port.dims):
                found.append(f"{port.name}: dims")
            sizes = [d if isinstance(d, int) else -1 for d in declared.shape]
            if sizes != ([-1, *dims] if config.max_batch_size else dims) and not (sizes == [] and set(dims) == {1}):
                found.append(f"{port.name}: shape {sizes}, configured {dims}")
    return found


def table() -> onnx.ModelProto:
    """Two inputs, odd names, and a score per row that has no axis but the batch."""
    rng = np.random.default_rng(0)
    w = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], rng.standard_normal(12).astype(np.float32))
    nodes = [
        helper.make_node("Add", ['a "x"', "b\\ü"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["logits"]),
        helper.make_node("ReduceSum", ["logits", "axes"], ["score"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ('a "x"', "b\\ü")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])]
    outputs += [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])]
    made = helper.make_graph(nodes, "table", inputs, outputs, [w, axes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def coupled() -> onnx.ModelProto:
    """Rows that are centred over the batch: an answer depends on who else asks."""
    w = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.arange(12, dtype=np.float32))
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    made = helper.make_graph(nodes, "coupled", [x], [y], [w, axes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def token() -> onnx.ModelProto:
    """A learned token beside each row, as many times as there are rows: independent, which the compiler does not see."""
    rng = np.random.default_rng(0)
    weights = {"c": rng.standard_normal((1, 1)), "w": rng.standard_normal((5, 3))}
    constants = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    constants += [onnx.numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("one", 1))]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "one"], ["size"], axis=0),
        helper.make_node("Expand", ["c", "size"], ["cs"]),
        helper.make_node("Concat", ["x", "cs"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    made = helper.make_graph(nodes, "token", [x], [y], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


CASES: list[tuple[str, Any, dict[str, Any], Service, int]] = [
    ("plain", CNN, {}, Service(), 16),
    (
        "layers",
        CNN,
        {"layers": ["pool"], "precision": "fp32"},
        Service(max_batch=5, delay=0, instances=2, gpu=True, threads=3),
        5,
    ),
    ("one row", CNN, {}, Service(max_batch=1), 1),
    ("no target", CNN, {}, Service(target=False, warmup=True), 16),
    ("given", CNN, {"init": "given"}, Service(max_batch=2), 2),
    ("masks", CNN, {"conditions": ["pool"]}, Service(), 16),
    ("two inputs", table(), {}, Service(warmup=True), 16),
    ("one by one", CNN, {"conditions": ["pool"]}, Service(max_batch=0), 0),
    ("no target, one by one", CNN, {}, Service(max_batch=0, target=False), 0),
    ("checks", CNN, {"checks": True}, Service(), 0),
    ("fixed", CNN, {"input_shapes": {"image": [2, 1, 8, 8]}}, Service(warmup=True), 0),
    ("coupled", coupled(), {}, Service(), 0),
    ("shared", CNN, {"shared_forward": True}, Service(independent=True), 0),
    ("not followed", token(), {}, Service(), 0),
    ("vouched for", token(), {}, Service(independent=True), 16),
]


@pytest.mark.parametrize(("model", "options", "how", "batch"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_config_is_what_triton_admits(
    model: Any, options: dict[str, Any], how: Service, batch: int, schema: ModuleType, tmp_path: Path
) -> None:
    said = export_triton(onnxlrp.compile(model, **options), tmp_path / "repository", "m", how)
    place = tmp_path / "repository" / "m"
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*")) == ["1", "1/model.onnx", "config.pbtxt"]
    config, session = parsed(schema, place), session_of(place / "1" / "model.onnx")
    onnx.checker.check_model(onnx.load(place / "1" / "model.onnx"))
    assert refusals(config, schema, session) == []
    assert (config.name, config.backend, config.max_batch_size) == ("m", "onnxruntime", batch)
    assert ("not merged" in said) == (batch == 0 and how.max_batch > 0)
    assert [o.name for o in config.output] == [o.name for o in session.get_outputs()]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (how.instances, group.KIND_GPU if how.gpu else group.KIND_CPU)
    assert config.HasField("dynamic_batching") == (batch > 1)
    if batch > 1:
        assert config.dynamic_batching.max_queue_delay_microseconds == how.delay
        sizes = list(config.dynamic_batching.preferred_batch_size)
        assert sizes == sorted(sizes)
        assert 1 < sizes[0] <= sizes[-1] == batch
    threads = {k: p.string_value for k, p in config.parameters.items()}
    assert threads == ({"intra_op_thread_count": str(how.threads)} if how.threads else {})
    named = [i.name for i in config.input]
    assert ("target" in named) == (how.target and options.get("init") != "given")
    assert ("mask.max_pool2d" in named) == ("conditions" in options and batch == 0)
    assert ("left at their defaults" in said) == ("conditions" in options and batch > 0)
    assert len(config.model_warmup) == how.warmup
    for warm in config.model_warmup:
        asked = {i.name: (i.data_type, [*i.dims], True) for i in config.input if not i.optional}
        assert {n: (i.data_type, [*i.dims], i.zero_data) for n, i in warm.inputs.items()} == asked
        assert warm.batch_size == (1 if batch else 0)


# ------------------------------------------------------------------------------------------------- a simulated server


def serve(config: Any, session: ort.InferenceSession, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Responses to requests that are merged into one run: joined, reshaped, run, reshaped, split; as the batcher does it."""
    counts = [len(next(iter(r.values()))) for r in requests]
    assert sum(counts) <= config.max_batch_size
    feed = {}
    for port in config.input:
        whole = np.concatenate([r[port.name] for r in requests])
        assert whole.shape[1:] == tuple(d if d > 0 else n for d, n in zip(port.dims, whole.shape[1:], strict=True))
        feed[port.name] = whole.reshape(len(whole), *port.reshape.shape) if port.HasField("reshape") else whole
    names = [o.name for o in config.output]
    found = session.run(names, feed)
    ends = np.cumsum(counts)[:-1]
    shaped = [a.reshape(len(a), *o.dims) if o.HasField("reshape") else a for a, o in zip(found, config.output, strict=True)]
    parts = [np.split(a, ends) for a in shaped]
    return [dict(zip(names, [p[i] for p in parts], strict=True)) for i in range(len(requests))]


def close(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_merged_requests_get_the_answers_of_single_ones(schema: ModuleType, tmp_path: Path) -> None:
    compiled = onnxlrp.compile(CNN, FLAT, layers=["pool"])
    explainer = Explainer(compiled)
    export_triton(onnxlrp.compile(CNN, FLAT, layers=["pool"]), tmp_path, "digits", Service())
    config, session = parsed(schema, tmp_path / "digits"), session_of(tmp_path / "digits" / "1" / "model.onnx")
    x, targets = rows(6), [[-1, 3], [7], [-1, -1, 0]]
    cuts = np.split(x, [2, 3])
    requests = [{"image": c, "target": np.array(t)[:, None]} for c, t in zip(cuts, targets, strict=True)]
    for image, asked, response in zip(cuts, targets, serve(config, session, requests), strict=True):
        for i, target in enumerate(asked):
            alone = explainer(image[i : i + 1], target=None if target < 0 else target)
            close(response["logits"][i : i + 1], alone.output)
            close(response["relevance.image"][i : i + 1], alone.relevance)
            close(response["relevance.max_pool2d"][i : i + 1], alone.layers["pool"])


def test_merged_requests_of_two_inputs_and_a_score_per_row(schema: ModuleType, tmp_path: Path) -> None:
    export_triton(onnxlrp.compile(table(), "epsilon"), tmp_path, "table", Service(target=False))
    config, session = parsed(schema, tmp_path / "table"), session_of(tmp_path / "table" / "1" / "model.onnx")
    rng, explainer = np.random.default_rng(1), Explainer(table(), "epsilon")
    requests = [{n: rng.standard_normal((k, 4)).astype(np.float32) for n in ('a "x"', "b\\ü")} for k in (1, 3)]
    for request, response in zip(requests, serve(config, session, requests), strict=True):
        alone = explainer(dict(request))
        for name in request:
            close(response[f"relevance.{name}"], alone.relevances[name])
        close(response["score"], alone.outputs["score"][:, None])


def test_merged_requests_to_rows_that_the_caller_vouches_for(schema: ModuleType, tmp_path: Path) -> None:
    onnx.save(token(), tmp_path / "token.onnx")
    said = call("export", "triton", tmp_path / "token.onnx", "-o", tmp_path / "r", "--independent-rows", "-c", "epsilon")
    assert "up to 16 rows per run" in said
    config, session = parsed(schema, tmp_path / "r" / "token"), session_of(tmp_path / "r" / "token" / "1" / "model.onnx")
    rng, explainer = np.random.default_rng(2), Explainer(token(), "epsilon")
    requests = [
        {"x": rng.standard_normal((k, 4)).astype(np.float32), "target": np.full((k, 1), t)} for k, t in ((2, -1), (1, 0))
    ]
    for request, response in zip(requests, serve(config, session, requests), strict=True):
        close(response["relevance.x"], explainer(request["x"], target=request["target"][:, 0]).relevance)


def test_requests_without_a_target_mean_the_predicted_class(tmp_path: Path) -> None:
    """Where requests are not merged, target stays optional; without it altogether, nothing else is meant."""
    wanted = Explainer(CNN, FLAT)(rows(3)).relevance
    for name, how in (("a", Service(max_batch=0)), ("b", Service(max_batch=0, target=False)), ("c", Service(target=False))):
        export_triton(onnxlrp.compile(CNN, FLAT), tmp_path, name, how)
        session = session_of(tmp_path / name / "1" / "model.onnx")
        close(session.run(["relevance.image"], {"image": rows(3)})[0], wanted)


# ------------------------------------------------------------------------------------------------------ the repository


def test_command_writes_versions_beside_other_models(tmp_path: Path) -> None:
    compiled = tmp_path / "c.onnx"
    call("compile", CNN, "-o", compiled, "-c", FLAT)
    common = ("-o", tmp_path / "r", "--max-batch", "8", "--delay-us", "100", "--instances", "2", "--threads", "1")
    assert "digits_cnn: version 1, up to 8 rows per run" in call("export", "triton", CNN, *common, "-c", FLAT)
    assert "other: version 1" in call("export", "triton", compiled, "--name", "other", *common)
    kept = (tmp_path / "r" / "digits_cnn" / "1" / "model.onnx").read_bytes()
    with pytest.raises(InputError, match="exists: choose another --name, or add a version"):
        call("export", "triton", CNN, *common)
    assert "version 2" in call("export", "triton", CNN, *common, "-c", "epsilon", "--add-version")
    assert "version 3" in call("export", "triton", CNN, *common, "-c", "gamma", "--add-version")
    with pytest.raises(InputError, match="not what this model needs"):
        call("export", "triton", CNN, *common, "--no-target", "--add-version")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["digits_cnn", "other"]
    assert sorted(p.name for p in (tmp_path / "r" / "digits_cnn").iterdir()) == ["1", "2", "3", "config.pbtxt"]
    assert (tmp_path / "r" / "digits_cnn" / "1" / "model.onnx").read_bytes() == kept


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxlrp.export.triton.save", full)
    with pytest.raises(InputError, match="No space left"):
        call("export", "triton", CNN, "-o", tmp_path)
    monkeypatch.setattr("onnxlrp.export.ort._list_operators", full)
    with pytest.raises(InputError, match="No space left"):
        call("export", "ort", CNN, "-o", tmp_path / "m.ort", "--ops-config", tmp_path / "m.config")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "LIMIT", 10_000)
    export_triton(onnxlrp.compile(CNN, FLAT), tmp_path, "m", Service())
    assert sorted(p.name for p in (tmp_path / "m" / "1").iterdir()) == ["model.onnx", "model.onnx.data"]
    feed = {"image": rows(2), "target": np.array([-1, 5])}
    found = session_of(tmp_path / "m" / "1" / "model.onnx").run(["relevance.image"], feed)[0]
    close(found, Explainer(CNN, FLAT)(rows(2), target=[-1, 5]).relevance)
    with pytest.raises(InputError, match="up to 2 GB"):
        export_ort(onnxlrp.compile(CNN, FLAT), tmp_path / "m.ort")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("triton", CNN, "-o", "{}", "--name", "../up"), "cannot name a model"),
        (("triton", CNN, "-o", "{}", "--name", ""), "cannot name a model"),
        (("triton", CNN, "-o", "{}/no/where"), "it is no folder"),
        (("triton", CNN, "-o", DIGIT), "it is no folder"),
        (("triton", CNN, "-o", ROOT, "--name", "tests", "--add-version"), "no model of a repository"),
        (("triton", "{}/absent.onnx", "-o", "{}"), "no such file"),
        (("ort", CNN, "-o", "{}/m.onnx"), "written as .ort"),
        (("ort", CNN, "-o", "{}/m.ort", "--ops-config", "{}/m.ort"), "its operators to another file"),
        (("ort", CNN, "-o", "{}/no/m.ort"), "does not exist"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(Error, match=re.escape(message)) as caught:
        call("export", *(str(a).replace("{}", str(tmp_path)) for a in arguments))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_sequence_is_nothing_for_triton(tmp_path: Path) -> None:
    model = table()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["logits"], ["all"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, None))
    with pytest.raises(InputError, match=r"'all' is a seq\(tensor\(float\)\): Triton's onnxruntime takes and gives"):
        export_triton(onnxlrp.compile(model, "epsilon"), tmp_path, "m", Service())
    assert list(tmp_path.iterdir()) == []


def test_warm_up_needs_sizes_and_options_come_in_time(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 4])
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(InputError, match="free axes: fix them"):
        export_triton(onnxlrp.compile(model), tmp_path, "m", Service(warmup=True))
    onnx.save(onnxlrp.compile(CNN), tmp_path / "c.onnx")
    with pytest.raises(CompositeError, match="compiled already: composite must be given when compiling"):
        call("export", "triton", tmp_path / "c.onnx", "-o", tmp_path, "-c", FLAT)
    assert [p.name for p in tmp_path.iterdir()] == ["c.onnx"]


# ------------------------------------------------------------------------------------------------------------- the page


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_protocol_example_is_an_exchange_with_the_model(schema: ModuleType, tmp_path: Path) -> None:
    """Open Inference Protocol: the page's request, given to its model, is answered by the page's response."""
    export_triton(onnxlrp.compile(CNN, FLAT), tmp_path, "digits", Service())
    config, session = parsed(schema, tmp_path / "digits"), session_of(tmp_path / "digits" / "1" / "model.onnx")
    request, response = map(json.loads, blocks("json"))
    types = {"FP32": np.float32, "INT64": np.int64}
    ports = {p.name: p for p in (*config.input, *config.output)}
    assert [i["name"] for i in request["inputs"]] == [i.name for i in config.input]
    for tensor in (*request["inputs"], *response["outputs"]):
        assert f"TYPE_{tensor['datatype']}" == schema.DataType.Name(ports[tensor["name"]].data_type)
        assert tensor["shape"] == [1, *ports[tensor["name"]].dims]
        assert len(tensor["data"]) == np.prod(tensor["shape"])
    given = {i["name"]: np.array(i["data"], types[i["datatype"]]).reshape(i["shape"]) for i in request["inputs"]}
    assert np.array_equal(given["image"], np.load(DIGIT))
    (found,) = serve(config, session, [given])
    assert [o["name"] for o in response["outputs"]] == [o["name"] for o in request["outputs"]]
    for tensor in response["outputs"]:
        np.testing.assert_allclose(found[tensor["name"]].ravel(), tensor["data"], rtol=0, atol=0.0006)
    assert (response["model_name"], response["id"]) == (config.name, request["id"])


def test_kserve_manifest_names_what_was_exported() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: the manifest is not read")
    (text,) = blocks("yaml")
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = manifest["spec"]["predictor"]["model"]
    assert (model["modelFormat"]["name"], model["protocolVersion"]) == ("triton", "v2")


def test_configuration_on_the_page_is_what_is_written(tmp_path: Path) -> None:
    (command,) = re.findall(r"^onnxlrp export triton (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    arguments = command.replace("repository", str(tmp_path)).replace("models/", f"{ROOT}/models/").split()
    call("export", "triton", *arguments)
    (written,) = blocks("protobuf")
    assert (tmp_path / "digits" / "config.pbtxt").read_text(encoding="utf-8") == written


# ----------------------------------------------------------------------------------------------------------- ORT format


@pytest.mark.parametrize("options", [{}, {"layers": ["pool"], "checks": True}, {"init": "given"}, {"conditions": ["pool"]}])
def test_ort_format_gives_equal_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    """To the bit those of the .onnx rewritten at the same level, and those of the .onnx as it is run to 1e-6 of its largest."""
    compiled = onnxlrp.compile(CNN, FLAT, **options)
    onnx.save(compiled, tmp_path / "m.onnx")
    export_ort(compiled, tmp_path / "m.ort")
    assert (tmp_path / "m.ort").read_bytes()[4:8] == b"ORTM"
    first, second = session_of(tmp_path / "m.onnx"), session_of(tmp_path / "m.ort")
    basic = session_of(tmp_path / "m.onnx", BASIC)
    for ports in ("get_inputs", "get_overridable_initializers", "get_outputs"):
        assert [(p.name, p.type) for p in getattr(second, ports)()] == [(p.name, p.type) for p in getattr(first, ports)()]
    assert second.get_modelmeta().custom_metadata_map == first.get_modelmeta().custom_metadata_map
    rng = np.random.default_rng(0)
    for count in (1, 3):
        feed = {"image": rows(count)}
        if "init" in options:
            feed["relevance_out"] = rng.standard_normal((count, 10)).astype(np.float32)
        feeds = [feed] if "init" in options else [feed, {**feed, "target": np.array([5])}, {**feed, "target": np.arange(count)}]
        if "conditions" in options:
            feeds.append({**feed, "mask.max_pool2d": (np.arange(32) < 9).astype(np.float32).reshape(1, 32, 1, 1)})
        for each in feeds:
            for found, wanted, same in zip(*(s.run(None, each) for s in (second, first, basic)), strict=True):
                assert np.array_equal(found, same)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * max(1, np.abs(wanted).max()))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # onnxruntime's own tool leaves the file to be closed by Python
def test_ort_operators_are_those_of_the_file(tmp_path: Path) -> None:
    """Against the same graph, saved as .onnx: its operators, of ONNX alone; and no word on standard error."""
    said = call("export", "ort", CNN, "-o", tmp_path / "m.ort", "--ops-config", tmp_path / "m.config", "-c", FLAT)
    assert f"m.ort: {(tmp_path / 'm.ort').stat().st_size:,} bytes" in said
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    ort.InferenceSession(onnxlrp.compile(CNN, FLAT).SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "basic.onnx").graph.node
    lines = (tmp_path / "m.config").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# operators and types of m.ort"
    listed = set()
    for line in lines[1:]:
        domain, _, operators = line.split(";", 2)
        assert domain == "ai.onnx"
        listed |= set(re.findall(r"(?:^|,)([A-Z]\w+)", re.sub(r"\{.*?\}\}", "", operators)))
    assert listed == {n.op_type for n in nodes}
    assert {n.domain for n in nodes} == {""}
