"""Reading models: what is not one is refused in a sentence; what is one is prepared without change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from calibrant.errors import ModelError
from calibrant.graph.load import load, prepare, unsupported_subgraphs
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from tests.models import (
    NETS,
    OPSETS,
    Array,
    Weights,
    build,
    convolution,
    normal,
    structure,
    with_external_data,
)
from tests.models.convolution import IMAGE
from tests.road import every_net, op_types, outputs, prepared, sqnr_db

W = Weights(0)


# ------------------------------------------------------------------------------------------------ load


def test_a_path_a_proto_and_a_model_in_memory_load_alike(tmp_path: Path) -> None:
    model, feeds = convolution.residual()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    feed = feeds()
    for source in (path, str(path), model, ir.from_proto(model)):
        np.testing.assert_array_equal(outputs(load(source), feed)[0], outputs(model, feed)[0])


def test_external_data_is_found_beside_the_file(tmp_path: Path) -> None:
    model, feeds = convolution.residual()
    loaded = load(with_external_data(model, tmp_path))
    assert isinstance(loaded.graph.initializers["w1"].const_value, ir.ExternalTensor)
    for made in (loaded, prepare(loaded)):
        np.testing.assert_array_equal(outputs(made, feeds())[0], outputs(model, feeds())[0])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'.*no\.onnx' does not exist"):
        load(tmp_path / "no.onnx")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'.*e\.onnx' is empty"):
        load(write(tmp_path / "e.onnx", b""))


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is no model\n" * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"PK\x03\x04" + bytes(99),
    ],
    ids=["text", "image", "archive"],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"'.*m\.onnx' is not an ONNX"):
        load(write(tmp_path / "m.onnx", content))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    data = convolution.residual()[0].SerializeToString()
    with pytest.raises(ModelError, match=r"'.*m\.onnx'"):
        load(write(tmp_path / "m.onnx", data[: int(len(data) * share)]))


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = with_external_data(convolution.residual()[0], tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load(path)


def test_external_data_that_is_truncated(tmp_path: Path) -> None:
    path = with_external_data(convolution.residual()[0], tmp_path)
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"'.*weights\.bin'.*ends before tensor 'w2'"):
        load(path)


def test_a_model_that_breaks_a_rule_of_onnx() -> None:
    model, _ = convolution.residual()
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(ModelError, match=r"not a valid ONNX model.*nobody"):
        load(model)


def test_a_model_without_operators() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([], "g", [x], [x]))
    with pytest.raises(ModelError, match="The model has no operators"):
        load(model)


def test_a_model_that_is_quantized_already(tmp_path: Path) -> None:
    model, _ = structure.already_quantized()
    path = tmp_path / "q.onnx"
    onnx.save(model, path)
    for source in (model, path):
        with pytest.raises(ModelError, match=r"already quantized: node 'xq' is a QuantizeLinear"):
            load(source)


def test_a_map_of_labels_is_refused_with_the_way_out() -> None:
    """Converters of classifiers put a ZipMap behind the scores."""
    scores = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_map_type_proto(TensorProto.INT64, scores)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[n,3] x) => (float[n,3] p) { p = Softmax (x) }'
    )
    kind = helper.make_sequence_type_proto(maps)
    model.graph.output.append(helper.make_value_info("z", kind))
    model.graph.node.append(
        helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    with pytest.raises(ModelError, match=r"output 'z' is a map .*zipmap"):
        load(model)


def test_an_output_of_unknown_rank_is_accepted() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 24])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    w = numpy_helper.from_array(W.dense(24, 4), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = normal(24)()
    np.testing.assert_array_equal(outputs(prepared(model), feed)[0], feed["x"] @ W_of(model, "w"))


def W_of(model: onnx.ModelProto, name: str) -> Array:  # noqa: N802  a weight, as in formulas
    (found,) = [i for i in model.graph.initializer if i.name == name]
    return numpy_helper.to_array(found)


# --------------------------------------------------------------------------------------------- prepare


@pytest.mark.parametrize("name", every_net())
def test_preparation_keeps_the_outputs_and_the_original(name: str) -> None:
    model, feeds = NETS[name]()
    original = load(model)
    before = ir.to_proto(original).SerializeToString()
    made = prepare(original)
    feed = feeds(seed=3)
    assert sqnr_db(outputs(model, feed), outputs(made, feed)) > 110
    for graph in made.graphs():
        for value in list(graph.initializers.values()):
            value.name = f"{value.name}__renamed"
    assert ir.to_proto(original).SerializeToString() == before


@pytest.mark.parametrize("name", every_net())
def test_every_node_and_value_has_a_name_of_its_own(name: str) -> None:
    made = prepared(NETS[name]())
    names = [n.name for n in made.graph.all_nodes()]
    assert all(names)
    assert len(set(names)) == len(names)


def test_names_that_the_model_has_are_kept_and_others_speak() -> None:
    assert [n.name for n in prepared(NETS["conv_bn_relu"]()).graph][:2] == ["conv1", "bn1"]
    assert [n.name for n in prepared(NETS["unnamed_nodes"]()).graph] == [
        "Conv_a",
        "Relu_b",
        "Conv_y",
    ]
    model, _ = convolution.residual()
    for node in model.graph.node:
        node.name = "same"
    names = [n.name for n in prepared(model).graph]
    assert names[:3] == ["same", "same_1", "same_2"]


def test_constants_and_weights_in_another_layout_become_initializers() -> None:
    made = prepared(NETS["constant_weight"]())
    assert op_types(made) == ["MatMul", "Relu", "MatMul"]
    weights = [n.inputs[1] for n in made.graph if n.op_type == "MatMul"]
    assert all(w is not None and w.is_initializer() for w in weights)


def test_half_precision_weights_that_are_cast_become_float32() -> None:
    half = W.dense(24, 8).astype(np.float16)
    model = build(
        "net (float[N,24] x) => (float[N,8] y) { w = Cast <to = 1> (h) y = MatMul (x, w) }",
        {"h": half},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul"]
    weight = made.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), half.astype(np.float32))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("w = Reshape (v, to)", np.array([24, 8])),
        ("w = Squeeze (v, to)", np.array([0])),
        ("u = Unsqueeze (v, to) w = Squeeze (u, both)", np.array([0])),
    ],
)
def test_weights_that_are_reshaped_become_initializers(text: str, value: Array) -> None:
    model, feeds = build(
        f"net (float[N,24] x) => (float[N,8] y) {{ {text} y = MatMul (x, w) }}",
        {"v": W.dense(24, 8)[None], "to": value}
        | ({"both": np.array([0, 1])} if "both" in text else {}),
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul"]
    np.testing.assert_array_equal(outputs(made, feeds())[0], outputs(model, feeds())[0])


def test_dropout_goes() -> None:
    model = build(
        "net (float[N,24] x) => (float[N,8] y) { d = Dropout (x) y = MatMul (d, w) }",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    assert op_types(prepared(model)) == ["MatMul"]


def test_functions_are_inlined() -> None:
    weights = ", ".join(f"{v:.4f}" for v in W.conv(4, 3).ravel())
    text = f"""
        <ir_version: 9, opset_import: ["" : 17, "local" : 1]>
        net (float[N,3,16,16] x) => (float[N,4,14,14] y) {{
            k = Constant <value = float[4,3,3,3] {{{weights}}}> ()
            y = local.block (x, k)
        }}
        <domain: "local", opset_import: ["" : 17]>
        block (a, w) => (o) {{ c = Conv (a, w) o = Relu (c) }}
    """
    model = onnx.parser.parse_model(text)
    made = prepared(model)
    assert op_types(made) == ["Conv", "Relu"]
    np.testing.assert_array_equal(outputs(made, IMAGE())[0], outputs(model, IMAGE())[0])


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs_too_are_weights(ir_version: int) -> None:
    model, feeds = convolution.residual()
    reference = outputs(model, feeds())
    for i in model.graph.initializer:
        info = helper.make_tensor_value_info(i.name, i.data_type, i.dims)
        model.graph.input.append(info)
    model.ir_version = ir_version
    made = prepared(model)
    assert [v.name for v in made.graph.inputs] == ["x"]
    np.testing.assert_array_equal(outputs(made, feeds())[0], reference[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(value: float) -> None:
    weight = W.dense(24, 8)
    weight[3, 3] = value
    model = build(
        "net (float[N,24] x) => (float[N,8] y) { y = MatMul (x, w1) }", {"w1": weight}, normal(24)
    )
    with pytest.raises(
        ModelError, match=r"'w1', which node 'y' \(MatMul\) reads, holds NaN or Inf"
    ):
        prepared(model)


def test_a_mask_of_minus_infinity_is_no_mistake() -> None:
    prepared(NETS["attention_where"]())


def test_nodes_with_bodies_are_listed() -> None:
    assert unsupported_subgraphs(prepared(NETS["if_subgraph"]())) == ["y"]
    assert unsupported_subgraphs(prepared(NETS["residual"]())) == []


# ---------------------------------------------------------------------------------------------- opsets


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("to", [13, WIDE_OPSET])
def test_a_raised_opset_computes_the_same(opset: int, to: int) -> None:
    model, feeds = structure.of_opset(opset)
    before = model.SerializeToString()
    made = prepare(raise_opset(load(model), to))
    assert main_opset(made) == max(opset, to)
    assert made.ir_version >= (10 if to == WIDE_OPSET else 8)
    assert sqnr_db(outputs(model, feeds()), outputs(made, feeds())) > 110
    assert model.SerializeToString() == before


def one_node(op: str, opset: int, inits: dict[str, Array], **attributes: Any) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, ["x", *inits], ["y"], **attributes)
    tensors = [numpy_helper.from_array(v, n) for n, v in inits.items()]
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def scales(factor: float) -> dict[str, Array]:
    return {"s": np.array([1, 1, factor, factor], dtype=np.float32)}


OLD = {
    "softmax": one_node("Softmax", 9, {}, axis=1),
    "logsoftmax": one_node("LogSoftmax", 9, {}),
    "pad": one_node("Pad", 9, {}, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0),
    "slice": one_node("Slice", 9, {}, axes=[2], starts=[1], ends=[5]),
    "unsqueeze": one_node("Unsqueeze", 9, {}, axes=[0]),
    "reduce sum": one_node("ReduceSum", 9, {}, axes=[1], keepdims=0),
    "clip": one_node("Clip", 9, {}, max=1.0),
    "upsample 7": one_node("Upsample", 7, {}, scales=[1.0, 1.0, 2.0, 2.0]),
    "average pool": one_node("AveragePool", 7, {}, kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
} | {
    f"{op} {mode} {factor}": one_node(op, opset, scales(factor), mode=mode)
    for op, opset, factors in (("Upsample", 9, (2.0, 3.0)), ("Resize", 10, (0.4, 0.75, 1.5, 2.0)))
    for mode in ("nearest", "linear")
    for factor in factors
}


@pytest.mark.parametrize("name", OLD)
def test_operators_of_old_opsets_keep_their_meaning(name: str) -> None:
    feed = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    reference = ort.InferenceSession(OLD[name].SerializeToString()).run(None, feed)
    assert sqnr_db(reference, outputs(prepared(OLD[name]), feed)) > 100


@pytest.mark.parametrize(("opset", "version"), [(17, 10), (21, 10), (23, 11)])
def test_a_file_of_a_newer_format_than_it_needs_runs(opset: int, version: int) -> None:
    """A writer stamps its own version on every file, and a runtime that is older refuses it."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=14)
    held = ir.from_proto(given)
    assert load(given).ir_version == load(held).ir_version == version
    assert held.ir_version == 14
