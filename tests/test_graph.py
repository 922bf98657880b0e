"""The file format: whatever is brought is read; what is written is complete, small, and keeps names."""

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_for_tests import CONSTANTS, data, lrp, near, net, ops, relevance, run, session, small, weight

import onnxlrp
from onnxlrp.graph import load, scope_of
from onnxlrp.inference import infer_shapes

X = data(2, 3, 6, 5)

# ---------------------------------------------------------------------------------------------------------------- load


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return relevance(small(), X)


def test_path_bytes_and_proto_give_the_same(tmp_path: Path) -> None:
    model = small()
    onnx.save(model, tmp_path / "m.onnx")
    texts = {
        onnxlrp.compile(source).SerializeToString()
        for source in (model, model.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    }
    assert len(texts) == 1


@pytest.mark.parametrize("options", [{}, {"canonize": False}, {"layers": ["h"], "conditions": ["r"], "checks": True}], ids=str)
def test_the_model_given_is_untouched(options: dict) -> None:
    model = small()
    before = model.SerializeToString(deterministic=True)
    onnxlrp.compile(model, "epsilon_plus_flat", **options)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [*range(7, 18), *range(19, 24)])
def test_opsets_up_and_down(opset: int, expected: np.ndarray) -> None:
    model = small(opset)
    compiled = onnxlrp.compile(model, "epsilon")
    assert [o.version for o in compiled.opset_import if o.domain == ""] == [18]
    out = run(compiled, x=X)
    near(out["y"], run(small(), x=X)["y"])
    near(out["relevance.x"], expected)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11])
def test_old_spellings_are_converted(opset: int) -> None:
    """Axes, pads and ratios that were attributes once."""
    body = """
        e = Unsqueeze<axes=[0]>(x)
        s = Squeeze<axes=[0]>(e)
        d = Dropout<ratio=0.3>(s)
        m = ReduceMean<axes=[2,3], keepdims=0>(d)
        y = Gemm(m, v)
    """
    # an opset-7 Gemm needs its C
    model = net(body.replace("Gemm(m, v)", "Gemm(m, v, c)"), opset=opset, v=weight(3, 4), c=CONSTANTS["c"])
    out = lrp(model, {"x": X})
    near(out["y"], X.mean((2, 3)) @ weight(3, 4) + CONSTANTS["c"])
    assert np.abs(out["relevance.x"]).max() > 0


def test_ir_3_initializers_among_the_inputs_are_constants(expected: np.ndarray) -> None:
    model = small(8)
    model.ir_version = 3
    for t in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    compiled = onnxlrp.compile(model, "epsilon")
    assert [i.name for i in compiled.graph.input] == ["x", "target"]
    near(run(compiled, x=X)["relevance.x"], expected)


def test_unsorted_nodes(expected: np.ndarray) -> None:
    model = small()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    near(relevance(model, X), expected)


def test_local_functions_are_inlined(expected: np.ndarray) -> None:
    body = """
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        p = my.relu_pool(h)
        f = Flatten(p)
        y = Gemm(f, v, c)
    """
    functions = """
        <domain: "my", opset_import: ["" : 18]> relu_pool (a) => (o) {
            r = Relu(a)
            o = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        }
    """
    near(relevance(net(body, domains=', "my" : 1', functions=functions, **CONSTANTS), X), expected)


def test_wrong_recorded_shapes_are_ignored(expected: np.ndarray) -> None:
    model = small()
    for name, shape in {"h": [1, 9, 9], "r": [2, 2], "f": [1]}.items():
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    near(relevance(model, X), expected)


def test_external_data(tmp_path: Path, expected: np.ndarray) -> None:
    onnx.save(
        small(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="m.bin",
        size_threshold=0,
    )
    assert (tmp_path / "m.bin").stat().st_size > 500
    compiled = onnxlrp.compile(tmp_path / "m.onnx", "epsilon")
    (tmp_path / "m.bin").unlink()
    near(run(compiled, x=X)["relevance.x"], expected)


def test_nodes_without_a_name_get_one(expected: np.ndarray) -> None:
    model = small()
    for node in model.graph.node:
        node.name = ""
    plan = onnxlrp.inspect(model, "epsilon")
    assert [la.name for la in plan] == ["Conv_0", "MaxPool_2", "Flatten_3", "Gemm_4"]
    near(relevance(model, X, {"Conv_0": onnxlrp.Epsilon()}), expected)


def test_nodes_of_the_same_name_are_told_apart() -> None:
    model = small()
    for node in model.graph.node:
        node.name = "n"
    assert [la.name for la in onnxlrp.inspect(model)] == ["n", "n_2", "n_3", "n_4"]


@pytest.mark.parametrize(
    ("recorded", "scope"),
    [("['', 'encoder', 'encoder.0', 'relu']", "encoder.0"), ("['', 'relu']", ""), ("[]", ""), ("not a list", "")],
)
def test_scope(recorded: str, scope: str) -> None:
    assert scope_of({"pkg.torch.onnx.name_scopes": recorded}) == scope


def test_both_spellings_of_the_standard_domain(expected: np.ndarray) -> None:
    model = small()
    for node in model.graph.node:
        node.domain = "ai.onnx"
    near(relevance(model, X), expected)
    model.opset_import[0].domain = "ai.onnx"
    near(relevance(model, X), expected)


def test_outputs_that_are_inputs_or_constants_stay() -> None:
    body, k = "y = Neg(x)\nz = Add(y, k)", data(2, 4, seed=2)
    model = net(body, "float[N,4] x", "float[N,4] z, float[N,4] x, float[2,4] k", k=k)
    x = data(2, 4)
    out = lrp(model, {"x": x})
    near(out["x"], x, 0)
    near(out["k"], k, 0)
    near(out["z"], k - x, 0)
    assert np.abs(out["relevance.x"]).max() > 0


def test_sequences_and_maps_may_be_outputs() -> None:
    """Left alone where they are not explained; a ZipMap is stripped."""
    body = (
        "z = MatMul(x, w)\np = Softmax(z)\nm = ai.onnx.ml.ZipMap<classlabels_int64s=[7,8,9,5]>(p)\ns = SequenceConstruct(z, p)"
    )
    model = net(body, "float[N,3] x", "float[N,4] m, seq(float[N,4]) s", domains=', "ai.onnx.ml" : 3', w=weight(3, 4))
    row = onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, []))
    model.graph.output[0].CopyFrom(onnx.helper.make_value_info("m", onnx.helper.make_sequence_type_proto(row)))
    x = data(2, 3)
    compiled = onnxlrp.compile(model, "epsilon")
    assert compiled.graph.output[0] == model.graph.output[0]
    out, wanted = run(compiled, x=x), run(model, x=x)
    assert out["m"] == wanted["m"]
    near(out["s"][0], wanted["s"][0])
    plain = net("z = MatMul(x, w)", "float[N,3] x", "float[N,4] z", w=weight(3, 4))
    near(out["relevance.x"], relevance(plain, x))


def test_input_shapes_replace_the_recorded_ones() -> None:
    source = load(small(), {"x": [np.int64(2), 3, 6, 5]})
    assert source.graph.inputs[0].shape == [2, 3, 6, 5]
    assert next(n for n in source.graph.nodes if n.name == "h").outputs[0].shape == [2, 4, 6, 5]


def test_symbolic_axes_stay_symbolic_and_serve_every_batch() -> None:
    body = "h = Conv<pads=[1,1,1,1]>(x, w, b)\n m = GlobalAveragePool(h)\n f = Flatten(m)\n y = Gemm(f, v)"
    model = net(body, "float[N,3,H,W] x", w=CONSTANTS["w"], b=CONSTANTS["b"], v=weight(4, 4))
    compiled = onnxlrp.compile(model)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in compiled.graph.input}
    assert shapes["x"] == ["N", 3, "H", "W"]
    s = session(compiled)
    for shape in ((1, 3, 4, 4), (5, 3, 7, 3)):
        x = data(*shape)
        rows = [s.run(["relevance.x"], {"x": row[None]})[0] for row in x]
        near(s.run(["relevance.x"], {"x": x})[0], np.concatenate(rows))


# ---------------------------------------------------------------------------------------------------------------- save


def test_save_writes_a_file_that_runs(tmp_path: Path, expected: np.ndarray) -> None:
    path = tmp_path / "m.lrp.onnx"
    onnxlrp.save(onnxlrp.compile(small(), "epsilon"), path)
    near(run(str(path), x=X)["relevance.x"], expected)
    assert os.listdir(tmp_path) == ["m.lrp.onnx"]


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def torn(model: onnx.ModelProto, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        onnxlrp.save(small(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_save_over_the_limit_uses_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnxlrp.compile(net("y = MatMul(x, w)", "float[N,64] x", "float[N,20] y", w=weight(64, 20)), "epsilon")
    size = model.ByteSize()
    x, path = data(2, 64), tmp_path / "m.onnx"
    wanted = run(model, x=x)["relevance.x"]
    monkeypatch.setattr("onnxlrp.graph.LIMIT", 1)
    for _ in range(2):  # the second time over the first
        onnxlrp.save(model, path)
        assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < size - 3000  # w is 5120 bytes
    near(run(str(path), x=x)["relevance.x"], wanted, 0)
    near(run(model, x=x)["relevance.x"], wanted, 0)  # onnx.save alone takes the weights out of the caller's model


def test_save_into_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(onnxlrp.InputError, match=r"folder .*nowhere does not exist"):
        onnxlrp.save(small(), tmp_path / "nowhere" / "m.onnx")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------ contents


def test_metadata_scopes_are_kept_and_stack_traces_dropped() -> None:
    model = small()
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'block.{node.name}', 'call']")
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/someone/secret.py"')
        node.metadata_props.add(key="pkg.torch.onnx.fx_node", value="%relu : [num_users=1]")
    plan = onnxlrp.inspect(model)
    assert [la.name for la in plan] == ["block.h", "block.p", "block.f", "block.y"]
    compiled = onnxlrp.compile(model, onnxlrp.Composite(onnxlrp.NameMap({"block.h": onnxlrp.Flat()})))
    assert b"secret" not in compiled.SerializeToString()
    assert b"num_users" not in compiled.SerializeToString()
    scopes = {n.name: {p.key: p.value for p in n.metadata_props} for n in compiled.graph.node}
    assert scopes["h"] == {"pkg.torch.onnx.name_scopes": "['', 'block.h', 'call']"}


def test_model_metadata() -> None:
    props = {p.key: p.value for p in onnxlrp.compile(small(), "epsilon_plus", init="one").metadata_props}
    assert props["onnxlrp.version"] == onnxlrp.__version__
    assert props["onnxlrp.composite"].startswith("Composite epsilon_plus\n  default → Epsilon(1e-06)")
    assert props["onnxlrp.explained"] == '["x"]'
    assert props["onnxlrp.output"] == "y"
    assert props["onnxlrp.init"] == "one"
    assert '"rule": "ZPlus()"' in props["onnxlrp.plan"]


@pytest.mark.parametrize("taken", ["relevance.x", "target", "checks", "mask.r"])
def test_a_name_that_the_model_has_already(taken: str, expected: np.ndarray) -> None:
    model = small()
    renamed = {"h": taken}
    for node in model.graph.node:
        node.input[:] = [renamed.get(n, n) for n in node.input]
        node.output[:] = [renamed.get(n, n) for n in node.output]
    with pytest.warns(UserWarning, match=f"already has a tensor called '{taken}'; the compiled graph uses '{taken}_'"):
        compiled = onnxlrp.compile(model, "epsilon", checks=True, conditions=["r"])
    faces = {v.name for v in (*compiled.graph.input, *compiled.graph.output)}
    assert f"{taken}_" in faces
    assert taken not in faces
    near(run(compiled, x=X)["relevance.x_" if taken == "relevance.x" else "relevance.x"], expected)


def test_a_model_input_called_target(expected: np.ndarray) -> None:
    model = small()
    model.graph.input[0].name = "target"
    model.graph.node[0].input[0] = "target"
    with pytest.warns(UserWarning, match="'target_'"):
        compiled = onnxlrp.compile(model, "epsilon")
    near(run(compiled, target=X)["relevance.target"], expected)


def test_node_and_tensor_names_are_unique_and_stable() -> None:
    first, second = (onnxlrp.compile(small(), "epsilon_alpha2_beta1_flat", checks=True) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    names = [n.name for n in first.graph.node]
    assert len(set(names)) == len(names)
    assert {n.name for n in small().graph.node} <= set(names)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon_alpha2_beta1_flat", "gamma", "w_square", "epsilon_gamma_box(low=-1, high=1)"]
)
def test_weights_are_not_stored_twice(composite: str, dtype: type) -> None:
    kind = "float" if dtype == np.float32 else "float16"
    body = """
        h = Conv<pads=[1,1,1,1]>(x, w)
        n = BatchNormalization(h, s, b, m, q)
        r = Relu(n)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        d = Gemm(f, v, b)
        g = Relu(d)
        y = MatMul(g, u)
    """
    size = 256
    constants = {
        "w": weight(size, 96, 3, 3), "s": data(size, low=0.5), "b": data(size), "m": data(size), "q": data(size, low=0.5),
        "v": weight(size, size), "u": weight(size, 4),
    }  # fmt: skip
    constants = {k: v.astype(dtype) for k, v in constants.items()}
    model = net(body, f"{kind}[N,96,4,4] x", f"{kind}[N,4] y", **constants)
    compiled = onnxlrp.compile(model, composite)
    nodes = len(compiled.graph.node)
    assert compiled.ByteSize() <= 1.05 * model.ByteSize() + 200_000 + 2_000 * nodes
    assert sum(t.ByteSize() for t in compiled.graph.initializer) <= 1.02 * model.ByteSize() + 20_000  # the sharper bound


def chain(length: int, reverse: bool = False) -> onnx.ModelProto:
    model = net("y = Relu(x)", "float[N,4] x", "float[N,4] y", one=np.float32(1.5))
    nodes = []
    for i in range(length):
        a, b = f"t{i}" if i else "x", f"t{i + 1}" if i < length - 1 else "y"
        op = ("Relu", "Add", "Mul", "Tanh")[i % 4]
        nodes.append(onnx.helper.make_node(op, [a, "one"] if op in ("Add", "Mul") else [a], [b], f"n{i}"))
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes) if reverse else nodes)
    return model


def test_a_long_chain_is_compiled_without_recursion_in_linear_time() -> None:
    seconds = []
    for length in (750, 3000):
        model = chain(length, reverse=True)
        start = time.process_time()
        compiled = onnxlrp.compile(model, "epsilon")
        seconds.append(time.process_time() - start)
    assert len(ops(compiled)) > 3000
    assert seconds[1] < 9 * seconds[0] + 1  # 4 when linear, 16 when quadratic


@pytest.mark.parametrize("where", ["constant", "initializer"])
@pytest.mark.parametrize("layout", ["flat", "per axis"])
def test_sparse_constants(where: str, layout: str) -> None:
    w = np.zeros((3, 4), np.float32)
    w[0, 1], w[2, 3] = 1.5, -2
    at = np.asarray([1, 11]) if layout == "flat" else np.asarray([[0, 1], [2, 3]])
    parts = (onnx.numpy_helper.from_array(np.asarray([1.5, -2], np.float32), "w"), onnx.numpy_helper.from_array(at, "at"))
    sparse = onnx.helper.make_sparse_tensor(*parts, [3, 4])
    model = net("y = MatMul(x, w)", "float[N,3] x", "float[N,4] y")
    if where == "constant":
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    dense = net("y = MatMul(x, w)", "float[N,3] x", "float[N,4] y", w=w)
    near(relevance(model, data(2, 3)), relevance(dense, data(2, 3)), 0)


def test_sizes_that_inference_invents_in_two_runs_have_two_names() -> None:
    """Equal names are equal sizes, for the compiler and for the runtime's buffers."""
    model = net(
        "a = my.Thing(x)\nb = Reshape(x, s)\ny = Add(a, b)", "float[N,4] x, int64[2] s", "float y", domains=', "my" : 1'
    )
    known = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["unk__0", 4])
    model.graph.value_info.append(known)
    shapes = {v.name: [d.dim_param for d in v.type.tensor_type.shape.dim] for v in infer_shapes(model).graph.value_info}
    assert shapes["a"][0] == "unk__0"
    assert "unk__0" not in shapes["b"]
    assert len(set(shapes["b"])) == 2
