"""A node that leaves an output out: the recurrent layer gives its last state alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibrant

RNG = np.random.default_rng(0)


def _constant(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.normal(0, 0.5, shape).astype(np.float32), name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product, an LSTM without its first output, and a product of its last state and its cell."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="before"),
        helper.make_node("Transpose", ["a"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "wx", "wh"], ["", "h", "c"], name="lstm", hidden_size=6),
        helper.make_node("Add", ["h", "c"], ["s"]),
        helper.make_node("Squeeze", ["s", "axes"], ["q"]),
        helper.make_node("MatMul", ["q", "v"], ["y"], name="behind"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            _constant("w", 4, 4),
            _constant("wx", 1, 24, 4),
            _constant("wh", 1, 24, 6),
            _constant("v", 6, 3),
            numpy_helper.from_array(np.array([0]), "axes"),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(0, 1, (24, 5, 4)).astype(np.float32)}


def test_it_is_compared_by_the_outputs_that_it_gives(
    model: Path, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    quantized = calibrant.quantize(model, data, latency=False)
    quantized.save(tmp_path / "run")
    report = calibrant.compare(model, tmp_path / "run" / "deploy.onnx", data)
    assert {layer.name for layer in report.layers} >= {"before", "lstm", "behind"}


def test_where_no_precision_is_enough_the_answer_is_the_float_model(
    model: Path, data: dict[str, np.ndarray]
) -> None:
    """The recurrent layer is in float anyway, so nobody has to ask for that."""
    result = calibrant.tune(model, data, require="min 1", allow="int8,float32", moves="none")
    assert result.met
    assert result.result.summary["layers"]["quantized"] == 0
