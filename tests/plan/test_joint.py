"""Tensors that an Add brings together share one range."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import Recipe, quantize


def residual_network():
    """Two residual blocks whose stream grows, and a layer behind them."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(x, out, scale=1.0):
        w = (rng.normal(size=(4, 4, 3, 3)) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"{out}_w"))
        nodes.append(helper.make_node("Conv", [x, f"{out}_w"], [out], name=out, pads=[1, 1, 1, 1]))

    conv("x", "stem")
    conv("stem", "a")
    nodes.append(helper.make_node("Add", ["a", "stem"], ["sum_a"], name="add_a"))
    nodes.append(helper.make_node("Relu", ["sum_a"], ["relu_a"], name="relu_a"))
    conv("relu_a", "b")
    nodes.append(helper.make_node("Add", ["b", "relu_a"], ["sum_b"], name="add_b"))
    conv("sum_b", "head")
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])
    out = helper.make_tensor_value_info("head", TensorProto.FLOAT, ["N", 4, 8, 8])
    graph = helper.make_graph(nodes, "residual", [image], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("target", ["generic", "layers-only", "onnxruntime"])
def test_joint_gives_the_residual_stream_one_range(target):
    data = {"x": np.random.default_rng(1).normal(size=(16, 4, 8, 8)).astype(np.float32)}
    stream = ("stem", "relu_a", "sum_b")
    ranges = {}
    for joint in (False, True):
        result = quantize(
            residual_network(), data, Recipe(target=target, joint=joint, equalize="off")
        )
        params = result.params.activations
        ranges[joint] = {(float(params[t].scale), int(params[t].zero_point)) for t in stream}
        assert result.summary["quality"]["outputs"]["head"]["sqnr_db"] > 10
        others = {float(params["x"].scale)}
        assert not others & {scale for scale, _ in ranges[joint]}
    assert len(ranges[False]) == 3
    assert len(ranges[True]) == 1
