"""The fake-quant model: float arithmetic, one function call a quantizer, scales in sight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.emit.fake_quant import DOMAIN, FUNCTION
from calibrant.numerics import dequantize, fake_quantize
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from tests.models import NETS, build, normal
from tests.models.convolution import IMAGE
from tests.road import TARGETS, batches, outputs, quantize, quantized


def calls(model: ir.Model) -> list[ir.Node]:
    return [n for n in model.graph if (n.domain, n.op_type) == (DOMAIN, FUNCTION)]


@pytest.mark.parametrize("target", TARGETS)
def test_one_call_a_quantizer_and_everything_else_is_the_float_model(target: str) -> None:
    result = quantized("residual", target)
    made = result.fake_quant
    assert len(calls(made)) == len(result.plan.activations) + len(result.plan.weights)
    others = [n.op_type for n in made.graph if n.domain == ""]
    assert sorted(others) == sorted(["Conv"] * 5 + ["Relu"] * 4 + ["Add"] * 2)
    assert list(made.functions) == [(DOMAIN, FUNCTION, "")]
    assert made.ir_version >= 8


@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (8, True), (16, False)])
def test_a_call_computes_fake_quantize(bits: int, symmetric: bool) -> None:
    """Far beyond the range, on the borders, and between two steps."""
    model = build(
        "net (float[N,24] x) => (float[N,24] y) { y = MatMul (x, w) }",
        {"w": np.eye(24, dtype=np.float32)},
        normal(24),
    )
    settings = Settings(activation_bits=bits, activation_symmetric=symmetric, weight_bits=16)
    recipe = Recipe(rules=(Rule(AllNodes(), settings),), bias_correction="off")
    result = quantize(model[0], batches(model[1]), recipe)
    (p,) = result.params.activations.values()
    x = np.linspace(-100, 100, 240, dtype=np.float32).reshape(10, 24)
    x[0] = np.arange(24) * p.scale / 2
    (layer,) = result.params.layers.values()
    expected = fake_quantize(x, p) @ dequantize(layer.values, layer.weight)
    found = outputs(result.fake_quant, {"x": x}, optimize=False)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_scales_stand_in_the_graph_beside_their_tensor() -> None:
    result = quantized("conv_transpose", "generic")
    for call in calls(result.fake_quant):
        source, scale, zero = call.inputs
        assert source is not None
        assert scale is not None
        assert zero is not None
        assert scale.const_value is not None
        assert scale.name in (f"{call.name.removesuffix('__fake_quantize')}__scale",)  # type: ignore[union-attr]
        if source.const_value is not None:  # a weight: its values are on the grid already
            w, s = source.const_value.numpy(), scale.const_value.numpy()
            np.testing.assert_allclose(w / s, np.rint(w / s), atol=1e-3)
    by_layer = {d.layer: d for d in result.plan.weights}
    scales = result.fake_quant.graph.initializers
    assert scales["y__weight__scale"].shape == ir.Shape([1, by_layer["y"].spec.axis and 2, 1, 1])


def test_corrected_biases_stand_in_both_models() -> None:
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds), Recipe(bias_correction="on"))
    layer = next(n for n, p in result.params.layers.items() if p.bias is not None)
    bias = result.params.layers[layer].bias
    assert bias is not None
    value = result.fake_quant.graph.node(layer).inputs[2]
    assert value is not None
    assert value.const_value is not None
    node = result.deploy.graph.node(layer).inputs[2]
    assert node is not None
    producer = node.producer()
    assert producer is not None
    q, s = (v.const_value.numpy() for v in producer.inputs[:2])  # type: ignore[union-attr]
    np.testing.assert_allclose(q * s, bias, atol=float(s.max()))
    np.testing.assert_allclose(value.const_value.numpy(), q * s, rtol=1e-6)


def test_a_bias_is_given_to_a_layer_that_has_none_where_it_is_corrected() -> None:
    weights = {"w": np.full((4, 3, 1, 1), 0.3, dtype=np.float32)}
    model = build(
        "net (float[N,3,16,16] x) => (float[N,4,16,16] y) { y = Conv (x, w) }", weights, IMAGE
    )
    settings = Settings(weight_bits=4, weight_per_channel=False)
    recipe = Recipe(rules=(Rule(AllNodes(), settings),), bias_correction="on")
    shifted = [{"x": f["x"] + 5} for f in batches(model[1])]
    result = quantize(model[0], shifted, recipe)
    corrected = result.params.layers["y"].bias is not None
    assert corrected == (len(result.fake_quant.graph.node("y").inputs) == 3)
    assert corrected == (len(result.deploy.graph.node("y").inputs) == 3)
