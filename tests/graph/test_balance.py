"""Balancing changes nothing that a model computes, and follows the vendor's formula."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.errors import ConfigValueError, DataError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.balance import balance, balance_factors, weight_magnitudes
from calibrant.runtime.session import open_session

RNG = np.random.default_rng(0)

#: Operator, input shape, weight shape, attributes, input channels.
LAYERS = {
    "conv": ("Conv", (2, 6, 5, 5), (8, 6, 3, 3), {}, 6),
    "grouped conv": ("Conv", (2, 6, 5, 5), (8, 3, 3, 3), {"group": 2}, 6),
    "depthwise conv": ("Conv", (2, 6, 5, 5), (6, 1, 3, 3), {"group": 6}, 6),
    "conv transpose": ("ConvTranspose", (2, 6, 5, 5), (6, 4, 3, 3), {}, 6),
    "gemm": ("Gemm", (2, 6), (6, 4), {}, 6),
    "gemm, transposed": ("Gemm", (2, 6), (4, 6), {"transB": 1}, 6),
    "matmul": ("MatMul", (2, 3, 6), (6, 4), {}, 6),
}


def one_layer(name: str) -> ir.Model:
    op, shape, weight, attributes, _ = LAYERS[name]
    w = numpy_helper.from_array(RNG.normal(size=weight).astype(np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return prepare(load(model))


@pytest.mark.parametrize("name", LAYERS)
def test_a_balanced_layer_computes_the_same_from_a_divided_input(name):
    model = one_layer(name)
    channels = LAYERS[name][4]
    magnitudes = weight_magnitudes(model.graph.node("layer"))
    assert magnitudes is not None
    assert magnitudes.shape == (channels,)
    feed = {"x": RNG.normal(size=LAYERS[name][1]).astype(np.float32)}
    before = open_session(model).run(None, feed)[0]
    factors = RNG.uniform(0.1, 10, channels)
    balance(model, "x", ["layer"], factors)
    assert [n.op_type for n in model.graph] == ["Mul", LAYERS[name][0]]
    np.testing.assert_allclose(
        open_session(model).run(None, feed)[0], before, rtol=1e-4, atol=1e-4
    )
    after = weight_magnitudes(model.graph.node("layer"))
    np.testing.assert_allclose(after, magnitudes * factors, rtol=1e-5)


def test_the_vendors_worked_example():
    f = balance_factors([4.0, 0.0, 9.0], [0.5, 2.0, 4.0], 0.5)  # ascend.md 8
    np.testing.assert_allclose(f, [2.82842708, 3.0, 1.5], rtol=1e-7)


def test_channels_that_are_zero():
    assert balance_factors([0.0, 4.0], [0.0, 1.0]).tolist() == [1.0, 2.0]
    assert balance_factors([3.0, 4.0], [0.0, 1.0]).tolist() == [1.5, 2.0]
    assert balance_factors([0.0, 0.0], [1.0, 2.0]).tolist() == [1.0, 1.0]
    assert balance_factors([1.0, 2.0], [0.0, 0.0]).tolist() == [1.0, 1.0]


def test_strengths_and_shapes_that_are_refused():
    with pytest.raises(ConfigValueError, match=r"0\.9; it lies in \[0\.2, 0\.8\]"):
        balance_factors([1.0], [1.0], 0.9)
    with pytest.raises(DataError, match="2 activation channels and 1 weight channels"):
        balance_factors([1.0, 1.0], [1.0])
