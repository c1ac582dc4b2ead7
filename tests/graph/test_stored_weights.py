"""Weights that a file stores as integers are float weights to whoever quantizes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import calibrant
from calibrant.errors import ModelError
from calibrant.graph.load import load
from calibrant.runtime.measure import compare, run

STORED = """<ir_version: 8, opset_import: ["" : 13]>
stored (float[n, 8] x) => (float[n, 3] y) {
    zero = Constant <value = int8[6] {0, 0, 0, 0, 0, 0}> ()
    w = DequantizeLinear <axis = 1> (integers, scale, zero)
    a = MatMul (x, w)
    r = Relu (a)
    y = MatMul (r, v)
}"""

BLOCKS = """<ir_version: 10, opset_import: ["" : 21]>
blocks (float[n, 8] x) => (float[n, 6] y) {{
    w = DequantizeLinear <axis = {axis}, block_size = {block}> (integers, scale, zero)
    y = MatMul (x, w)
}}"""


def stored() -> onnx.ModelProto:
    r = np.random.default_rng(0)
    model = parser.parse_model(STORED)
    given: dict[str, np.ndarray] = {
        "integers": r.integers(-127, 127, (8, 6)).astype(np.int8),
        "scale": np.geomspace(0.001, 0.1, 6).astype(np.float32),
        "v": r.normal(0, 0.4, (6, 3)).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(x, n) for n, x in given.items())
    return model


def test_they_are_quantized_as_others():
    x = {"x": np.random.default_rng(1).normal(0, 1, (32, 8)).astype(np.float32)}
    result = calibrant.quantize(stored(), x, latency=False)
    assert result.summary["layers"]["quantized"] == 2
    assert any("stored as integers" in n["message"] for n in result.summary["notes"])
    right, found = (run(m, [x], integers=False) for m in (stored(), result.deploy))
    assert compare(right, found)[0].sqnr_db > 35


@pytest.mark.parametrize(("axis", "block"), [(0, 4), (1, 3)])
def test_each_block_has_its_scale(axis, block):
    r = np.random.default_rng(2)
    shape = [8, 6]
    shape[axis] //= block
    model = parser.parse_model(BLOCKS.format(axis=axis, block=block))
    given: dict[str, np.ndarray] = {
        "integers": r.integers(0, 255, (8, 6)).astype(np.uint8),
        "scale": r.uniform(0.001, 0.1, shape).astype(np.float32),
        "zero": r.integers(100, 150, shape).astype(np.uint8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(x, n) for n, x in given.items())
    x = {"x": r.normal(0, 1, (4, 8)).astype(np.float32)}
    right, found = (run(m, [x], integers=False)[0]["y"] for m in (model, load(model)))
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    assert not any(n.op_type == "DequantizeLinear" for n in load(model).graph)


def test_a_model_whose_activations_are_quantized_is_refused():
    model = stored()
    pair = [
        helper.make_node("QuantizeLinear", ["x", "step"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step"], ["d"]),
    ]
    matmul = next(n for n in model.graph.node if n.op_type == "MatMul")
    matmul.input[0] = "d"
    nodes = [*pair, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor("step", TensorProto.FLOAT, [], [0.03]))
    with pytest.raises(ModelError, match="already quantized"):
        calibrant.quantize(model, {"x": np.ones((4, 8), np.float32)})
