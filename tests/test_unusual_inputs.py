"""Inputs and weights that few models have: texts, caches that are empty at first, weights that a file holds sparsely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibrant
from calibrant.errors import DataError
from calibrant.graph.load import load

RNG = np.random.default_rng(0)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.normal(0, 0.5, shape).astype(np.float32), name)


def _input(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _made(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _sqnr_db(result: calibrant.QuantizedModel, name: str) -> float:
    return float(result.summary["quality"]["outputs"][name]["sqnr_db"])


def test_texts(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["words"],
            ["ids"],
            domain="ai.onnx.ml",
            keys_strings=["on", "off"],
            values_int64s=[1, 2],
            default_int64=0,
        ),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    inputs = [_input("words", TensorProto.STRING, "n")]
    outputs = [_input("y", TensorProto.FLOAT, "n", 3)]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [_weight("table", 3, 8), _weight("w", 8, 3)]
    )
    words = ["on", "off", "dim", "on"] * 4
    np.savez(tmp_path / "calib.npz", words=np.array(words))
    for data in ({"words": np.array(words, dtype=object)}, tmp_path / "calib.npz"):
        assert _sqnr_db(calibrant.quantize(_made(graph), data, latency=False), "y") > 30
    with pytest.raises(DataError):
        calibrant.quantize(_made(graph), {"words": np.arange(16)}, latency=False)


def test_a_cache_that_is_empty_before_the_first_step() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"]),
        helper.make_node("Concat", ["past", "k"], ["present"], axis=1),
        helper.make_node("ReduceMean", ["present"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["y"]),
    ]
    inputs = [
        _input("x", TensorProto.FLOAT, "n", "time", 8),
        _input("past", TensorProto.FLOAT, "n", "past_time", 8),
    ]
    outputs = [
        _input("y", TensorProto.FLOAT, "n", 3),
        _input("present", TensorProto.FLOAT, "n", "all", 8),
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [_weight("w", 8, 8), _weight("v", 8, 3)]
    )
    x = RNG.normal(0, 1, (16, 4, 8)).astype(np.float32)
    data = {"x": x, "past": np.zeros((16, 0, 8), np.float32)}
    assert _sqnr_db(calibrant.quantize(_made(graph), data, latency=False), "y") > 25
    with pytest.raises(DataError, match="sample counts"):
        calibrant.quantize(_made(graph), {"x": x, "past": data["past"][:0]}, latency=False)


@pytest.mark.parametrize("places", [[1, 5, 9], [[0, 1], [1, 2], [3, 0]]])
def test_weights_that_are_held_sparsely(
    places: list[int] | list[list[int]], tmp_path: Path
) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = (
        [_input("x", TensorProto.FLOAT, "n", 4)],
        [_input("y", TensorProto.FLOAT, "n", 3)],
    )
    graph = helper.make_graph([node], "g", inputs, outputs)
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    indices = numpy_helper.from_array(np.array(places), "w_indices")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 3]))
    model = _made(graph)
    onnx.save(model, tmp_path / "sparse.onnx")
    wanted = np.zeros((4, 3), np.float32)
    wanted[0, 1], wanted[1, 2], wanted[3, 0] = 1, 2, 3
    for given in (model, tmp_path / "sparse.onnx"):
        held = load(given).graph.initializers["w"].const_value
        assert held is not None
        assert np.array_equal(held.numpy(), wanted)
    assert len(model.graph.sparse_initializer) == 1
    data = {"x": RNG.normal(0, 1, (16, 4)).astype(np.float32)}
    assert _sqnr_db(calibrant.quantize(model, data, latency=False), "y") > 30
