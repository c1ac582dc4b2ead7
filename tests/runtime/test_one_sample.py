"""A model that takes one sample at a time, although its inputs leave the batch open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibrant
from calibrant.errors import ModelError
from calibrant.runtime.inputs import input_infos, model_inputs

RNG = np.random.default_rng(0)


def _model(rows: list[int | str]) -> onnx.ModelProto:
    """A Reshape inside has the batch of 1 that the exporter worked with."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, rows)],
        [
            numpy_helper.from_array(RNG.normal(0, 0.3, (8, 6)).astype(np.float32), "w"),
            numpy_helper.from_array(RNG.normal(0, 0.3, (6, 3)).astype(np.float32), "v"),
            numpy_helper.from_array(np.array([1, 5, 6]), "shape"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


DATA = {"x": np.random.default_rng(1).normal(0, 1, (12, 5, 8)).astype(np.float32)}


def test_it_gets_one_sample_at_a_time(tmp_path: Path) -> None:
    model = _model([1, "seq", 3])
    result = calibrant.quantize(model, DATA, latency=False)
    assert result.summary["quality"]["outputs"]["y"]["sqnr_db"] > 25
    shape = result.deploy.graph.inputs[0].shape
    assert shape is not None
    assert str(shape[0]) == "batch"  # the interface stays as it was
    assert calibrant.sensitivity(model, DATA).layers
    assert calibrant.compare(model, result, DATA).layers


def test_a_session_says_the_same() -> None:
    model = _model([1, "seq", 3])
    session = ort.InferenceSession(model.SerializeToString())
    assert [i.shape for i in input_infos(session)] == [(1, "seq", 8)]
    assert [i.shape for i in model_inputs(ir.from_proto(model))] == [(1, "seq", 8)]


def test_where_its_outputs_do_not_tell_the_error_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="give a batch size of 1"):
        calibrant.quantize(_model(["batch", "seq", 3]), DATA, latency=False)
    assert calibrant.quantize(_model(["batch", "seq", 3]), DATA, latency=False, batch_size=1)
