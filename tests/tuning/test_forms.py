"""Layers behind a normalization with a few large channels are balanced where that pays."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import QuantizedModel, Recipe, quantize
from calibrant.errors import DataError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.balance import balance_factors, weight_magnitudes
from calibrant.plan import resolve
from calibrant.recipe import AllNodes, Layer, Rule, Settings
from calibrant.tuning.forms import _balanceable

CHANNELS = 32


def network(*, even: bool = False) -> onnx.ModelProto:
    """Three channels of a normalization are far above the rest; a product and a residual sum read it.

    Args:
        even: It is one channel, 12 times as large, and all weights of the product are 1 or -1.
    """
    rng = np.random.default_rng(0)
    gamma = np.abs(rng.normal(1, 0.2, CHANNELS))
    if even:
        gamma[0] = 12
    else:
        gamma[:3] *= 60
    values = {
        "gamma": gamma,
        "beta": np.zeros(CHANNELS),
        "w": rng.normal(size=(CHANNELS, CHANNELS)) / gamma[:, None],
    }
    if even:
        values["w"] = np.sign(values["w"])
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


def quantized(recipe: Recipe, *, even: bool = False) -> QuantizedModel:
    x = np.random.default_rng(1).normal(size=(32, 4, CHANNELS)).astype(np.float32)
    return quantize(network(even=even), {"x": x}, recipe)


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


def test_auto_does_not_try_what_is_expected_to_be_worse() -> None:
    """With activations of 16 bits, all there is to lose is in weights, which balancing would make uneven."""
    fine = Recipe(rules=(Rule(AllNodes(), Settings(activation_bits=16)),))
    for recipe, even, tried in ((Recipe(), False, True), (fine, False, True), (fine, True, False)):
        names = [d["name"] for d in quantized(recipe, even=even).summary["decisions"]]
        assert any("balanced" in n for n in names) == tried


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_a_rule_balances_a_layer_with_its_strength(strength):
    rule = Rule(Layer("product"), Settings(balance=strength))
    recipe = Recipe(equalize="off", rules=(rule,))
    asked, plain = quantized(recipe), quantized(replace(recipe, rules=()))
    assert muls(asked) == 1
    assert sqnr(asked) > sqnr(plain) + 3


def test_what_a_rule_balances_is_no_candidate_for_balancing():
    model = prepare(load(network()))
    rule = Rule(Layer("product"), Settings(balance=0.2))
    found = [
        _balanceable(model, resolve(Recipe(rules=rules), model), exclude=set())
        for rules in ((), (rule,))
    ]
    assert found == [{"n": (-1, ("product",))}, {}]


def two_readers() -> onnx.ModelProto:
    """A convolution and a matrix product read one tensor, whose channels they have on axes 1 and 3."""
    rng = np.random.default_rng(0)
    values = {"v": rng.normal(size=(6, 6, 1, 1)), "w": rng.normal(size=(6, 6))}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], name="conv"),
        helper.make_node("MatMul", ["x", "w"], ["b"], name="product"),
    ]
    x, a, b = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 6, 4, 6]) for n in "xab")
    weights = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
    graph = helper.make_graph(nodes, "g", [x], [a, b], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_readers_with_channels_on_different_axes_have_factors_of_their_own():
    x = np.random.default_rng(1).normal(size=(32, 6, 4, 6)).astype(np.float32)
    x *= 10.0 ** np.linspace(-1, 1, 6).reshape(-1, 1, 1)
    recipe = Recipe(equalize="off", rules=(Rule(AllNodes(), Settings(balance=0.5)),))
    result = quantize(two_readers(), {"x": x}, recipe)
    model = load(two_readers())
    for layer, axis in (("conv", 1), ("product", 3)):
        seen = np.abs(np.moveaxis(x, axis, 0).reshape(6, -1)).max(axis=1)
        w = weight_magnitudes(model.graph.node(layer))
        assert w is not None
        np.testing.assert_allclose(
            result.params.balance[layer], balance_factors(seen, w), rtol=1e-6
        )


def test_a_layer_that_is_too_uneven_is_named():
    x = np.random.default_rng(1).normal(size=(32, 6, 4, 6)).astype(np.float32)
    x[:, 0] *= 1e30
    recipe = Recipe(equalize="off", rules=(Rule(Layer("conv"), Settings(balance=0.5)),))
    with pytest.raises(
        DataError, match=r"Layer 'conv' cannot be balanced: The balance factor of channel 0"
    ):
        quantize(two_readers(), {"x": x}, recipe)
