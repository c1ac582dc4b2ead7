"""Files for TensorRT keep the rules of its documentation on explicit quantization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.graph.ops import weight_axis
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS, Array, Weights, build
from tests.models.convolution import IMAGE
from tests.road import batches, edges, every_net, outputs, points, prepared, quantize, sqnr_db

W = Weights(0)
PLAIN = Recipe(target="tensorrt", equalize="off", bias_correction="off")
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def made(name: str, recipe: Recipe = PLAIN) -> QuantizedModel:
    model, feeds = NETS[name]()
    return quantize(model, batches(feeds, count=2), recipe)


def linear(model: ir.Model) -> Iterator[tuple[ir.Node, Array, Array]]:
    """Yield every QuantizeLinear and DequantizeLinear with its scale and zero point."""
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = (v.const_value.numpy() for v in node.inputs[1:])  # type: ignore[union-attr]
            yield node, scale, zero_point


def dequantized(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


@pytest.mark.parametrize("name", every_net())
def test_quantization_is_symmetric_in_int8(name: str) -> None:
    asymmetric = Rule(AllNodes(), Settings(activation_symmetric=False), "here")
    for recipe in (PLAIN, PLAIN.with_rules(asymmetric)):
        result = made(name, recipe)
        for _, _, zero_point in linear(result.deploy):
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
    told = [n for n in result.plan.notes if n.where == "here"]
    assert [n.message for n in told] == [
        "Target 'tensorrt' knows no zero point: activations keep zero point 0."
    ]


@pytest.mark.parametrize("name", every_net())
def test_activations_have_one_scale_and_weights_one_a_channel(name: str) -> None:
    nodes = {n.name: n for n in prepared(NETS[name]()).graph}
    for node, scale, _ in linear(made(name).deploy):
        if node.op_type == "QuantizeLinear":
            assert scale.ndim == 0
        elif node.inputs[0] is not None and node.inputs[0].const_value is not None:
            layer = next(iter(node.outputs[0].uses())).node
            axis = weight_axis(nodes[layer.name])
            assert scale.ndim == (axis is not None)
            if axis is not None:
                assert node.attributes["axis"].as_int() == axis


@pytest.mark.parametrize("name", every_net())
def test_inputs_of_weighted_operators_are_quantized_and_biases_are_not(name: str) -> None:
    for node in made(name).deploy.graph:
        if node.op_type not in WEIGHTED:
            continue
        for value in node.inputs[:2]:
            assert dequantized(value) is not None
        for value in node.inputs[2:]:
            assert value is None or dequantized(value) is None


@pytest.mark.parametrize("name", every_net())
def test_no_output_of_a_weighted_operator_is_quantized_for_an_addition(name: str) -> None:
    for node in made(name).deploy.graph:
        if node.op_type != "Add":
            continue
        for value in node.inputs:
            pair = dequantized(value)
            quantize_node = pair.inputs[0].producer() if pair and pair.inputs[0] else None
            source = quantize_node.inputs[0] if quantize_node is not None else None
            layer = source.producer() if source is not None else None
            assert layer is None or layer.op_type not in WEIGHTED or len(source.uses()) > 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", every_net())
def test_models_are_valid_and_near_the_float_model(name: str) -> None:
    model, feeds = NETS[name]()
    result = made(name, Recipe(target="tensorrt"))
    onnx.checker.check_model(ir.to_proto(result.deploy), full_check=True)
    feed = feeds(batch=4, seed=99)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed, optimize=False)) > 20


def placed(graph: str) -> dict[str, set[str]]:
    """Edges of a network x[N,3,H,W] => y whose weights w1 and w2 keep three channels."""
    text = f"net (float[N,3,16,16] x) => (float[N,C,H,W] y) {{ {graph} }}"
    values: dict[str, Array] = {f"w{i}": W.conv(3, 3, 1) for i in (1, 2, 3)}
    used = {n: v for n, v in values.items() if n in text}
    return edges(points(prepared(build(text, used, IMAGE)), "tensorrt"))


def test_the_residual_input_alone_is_quantized() -> None:
    graph = "c = Conv (x, w1) t = Add (c, x) r = Relu (t) y = Conv (r, w2)"
    assert placed(graph) == {"x": {"c:0", "t:1"}, "r": {"y:0"}}


def test_of_two_layers_one_runs_the_addition() -> None:
    graph = "c = Conv (x, w1) d = Conv (x, w3) t = Add (c, d) y = Conv (t, w2)"
    assert placed(graph) == {"x": {"c:0", "d:0"}, "d": {"t:1"}, "t": {"y:0"}}


def test_an_addition_without_a_layer_before_it_stays_in_float() -> None:
    assert placed("s = Relu (x) t = Add (s, x) y = Conv (t, w2)") == {"t": {"y:0"}}


def test_a_sum_that_is_read_in_float_stays_in_float() -> None:
    assert placed("c = Conv (x, w1) y = Add (c, x)") == {"x": {"c:0"}}


def test_a_range_by_definition_has_zero_point_0_too() -> None:
    result = made("attention_where")
    fixed = [a for a in result.plan.activations if a.fixed_range is not None]
    assert fixed
    for decision in fixed:
        p = result.params.activations[decision.id]
        assert not p.zero_point.any()
        assert p.scale == pytest.approx(1 / 127, rel=1e-5)
