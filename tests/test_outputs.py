"""Outputs that cannot be compared directly: labels, truths, sequences, inputs handed through."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import quantize
from calibrant.errors import ModelError

DATA = {"x": np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)}
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])


def network(*behind: onnx.NodeProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return a MatMul from x to y with nodes behind it."""
    w = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer"), *behind]
    graph = helper.make_graph(nodes, "g", [X], outputs, [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LABEL = helper.make_node("ArgMax", ["y"], ["label"], axis=1)
TRUTH = helper.make_node("Greater", ["y", "y"], ["truth"])
SEQUENCE = helper.make_node("SequenceConstruct", ["y"], ["list"])
LABEL_INFO = helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1])
TRUTH_INFO = helper.make_tensor_value_info("truth", TensorProto.BOOL, ["N", 4])
SEQUENCE_INFO = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "layers-only"])
@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (network(LABEL, outputs=[LABEL_INFO]), "label"),
        (network(TRUTH, outputs=[TRUTH_INFO]), "truth"),
        (network(SEQUENCE, outputs=[Y, SEQUENCE_INFO]), "list"),
    ],
    ids=["label", "truth", "sequence"],
)
def test_what_an_output_is_computed_from_is_measured_in_its_place(model, missing, target):
    from calibrant import Recipe

    result = quantize(model, DATA, Recipe(target=target))
    quality = result.summary["quality"]
    assert quality["not_compared"] == [missing]
    assert quality["outputs"]["y"]["sqnr_db"] > 30
    assert any(f"'{missing}' was not compared" in text for text in result.summary["warnings"])
    assert {v.name for v in result.deploy.graph.outputs} == {o.name for o in model.graph.output}


def test_an_output_that_is_an_input_is_handed_on():
    result = quantize(network(outputs=[Y, X]), DATA)
    assert [v.name for v in result.deploy.graph.outputs] == ["y", "x"]
    assert list(result.summary["quality"]["outputs"]) == ["y"]
    assert result.summary["quality"]["not_compared"] == []


def test_a_model_without_a_tensor_to_compare_is_refused():
    with pytest.raises(ModelError, match="no output that is a tensor"):
        quantize(network(SEQUENCE, outputs=[SEQUENCE_INFO]), DATA)


def test_layers_that_share_a_weight_share_its_integers():
    model = network(
        helper.make_node("MatMul", ["x", "w"], ["z"], name="twin"),
        outputs=[Y, helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
    )
    deploy = quantize(model, DATA).deploy
    integers = [v for v in deploy.graph.initializers.values() if v.shape == (8, 4)]
    assert len(integers) == 1
    assert len(integers[0].uses()) == 2


def test_operators_that_nobody_quantizes_are_said_to_stay_in_float():
    equation = helper.make_node("Einsum", ["y", "y"], ["e"], name="sum", equation="ij,ij->i")
    e = helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N"])
    left = quantize(network(equation, outputs=[e]), DATA).summary["layers"]["float"]
    assert [(f["layer"], f["op_type"]) for f in left] == [("sum", "Einsum")]


@pytest.mark.parametrize("model", [None, b"bytes", 3, ""])
def test_what_is_no_model_is_refused_in_a_sentence(model):
    with pytest.raises(ModelError, match=r"The model is a|path of the model is empty"):
        quantize(model, DATA)
