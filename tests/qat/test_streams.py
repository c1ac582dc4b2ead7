"""A step of a stream is trained on: the inputs share no axis of samples, and the state goes through an LSTM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch", reason="training needs torch")

from calibrant import qat
from calibrant.qat.samples import read_samples

RNG = np.random.default_rng(0)


def _constant(name, *shape):
    return numpy_helper.from_array(RNG.normal(0, 0.5, shape).astype(np.float32), name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["gain"], ["g"], to=1),
        helper.make_node("Mul", ["a", "g"], ["m"]),
        helper.make_node("Unsqueeze", ["m", "one"], ["t"]),
        helper.make_node("LSTM", ["t", "wx", "wh", "b", "", "h", "c"], ["", "hn", "cn"], hidden_size=6),
        helper.make_node("MatMul", ["hn", "v"], ["y"]),
    ]  # fmt: skip
    inputs: list[tuple[str, list[str | int]]] = [
        ("x", ["time", 8]),
        ("h", [1, 1, 6]),
        ("c", [1, 1, 6]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs),
            helper.make_tensor_value_info("gain", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in [("y", [1, 1, 3]), ("hn", [1, 1, 6]), ("cn", [1, 1, 6])]
        ],
        [
            _constant("w", 8, 4),
            _constant("wx", 1, 24, 4),
            _constant("wh", 1, 24, 6),
            _constant("b", 1, 48),
            _constant("v", 6, 3),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    path = tmp_path / "stream.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_feed_is_a_sample_and_a_step(model: Path) -> None:
    r = np.random.default_rng(1)
    data = {
        "x": r.normal(0, 1, (12, 5, 8)).astype(np.float32),
        "h": r.normal(0, 0.3, (12, 1, 1, 6)).astype(np.float32),
        "c": r.normal(0, 0.3, (12, 1, 1, 6)).astype(np.float32),
        "gain": np.full(12, 2),
    }
    samples = read_samples(model, data)
    assert (len(samples), samples.batch_size(8)) == (12, 1)
    shapes = {tuple(map(len, inputs)) for _, inputs, _ in samples.in_order(1, ["x", "h"])}
    assert shapes == {(5, 1)}
    trainable = qat.prepare(model, data)
    weights = {n for n, _ in trainable.module.named_parameters()}
    assert {"learned.wx", "learned.wh", "learned.b"} <= weights
    fitted = qat.fit(trainable, data, epochs=1)
    assert fitted is not None
    result = trainable.convert()
    assert min(o["sqnr_db"] for o in result.summary["quality"]["outputs"].values()) > 20
