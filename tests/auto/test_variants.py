"""Layers behind a normalization with a few large channels are balanced where that pays."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import QuantizedModel, Recipe, quantize
from calibrant.recipe import Layer, Rule, Settings

CHANNELS = 32


def network() -> onnx.ModelProto:
    """Three channels of a normalization are far above the rest; a product and a residual sum read it."""
    rng = np.random.default_rng(0)
    gamma = np.abs(rng.normal(1, 0.2, CHANNELS))
    gamma[:3] *= 60
    values = {
        "gamma": gamma,
        "beta": np.zeros(CHANNELS),
        "w": rng.normal(size=(CHANNELS, CHANNELS)) / gamma[:, None],
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "n"], ["y"], name="sum"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, CHANNELS])
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, CHANNELS]) for n in ("m", "y")
    ]
    weights = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(recipe: Recipe) -> QuantizedModel:
    x = np.random.default_rng(1).normal(size=(32, 4, CHANNELS)).astype(np.float32)
    return quantize(network(), {"x": x}, recipe)


def sqnr(result: QuantizedModel) -> float:
    return float(result.summary["quality"]["outputs"]["m"]["sqnr_db"])


def muls(result: QuantizedModel) -> int:
    return sum(n.op_type == "Mul" for n in result.deploy.graph)


def test_auto_balances_what_no_layer_before_can_take():
    plain, auto = quantized(Recipe(equalize="off")), quantized(Recipe())
    assert muls(plain) == 0
    assert muls(auto) == 1
    assert auto.summary["passes"]["balanced"] == [{"tensor": "n", "layers": ["product"]}]
    assert sqnr(auto) > sqnr(plain) + 6


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_a_rule_balances_a_layer_with_its_strength(strength):
    rule = Rule(Layer("product"), Settings(balance=strength))
    recipe = Recipe(equalize="off", rules=(rule,))
    asked, plain = quantized(recipe), quantized(replace(recipe, rules=()))
    assert muls(asked) == 1
    assert sqnr(asked) > sqnr(plain) + 3
