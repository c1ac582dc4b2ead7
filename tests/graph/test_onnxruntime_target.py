"""Where quantizers stand for ONNX Runtime, and that its optimizer makes integer kernels of them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from tests.models import NETS, Array, Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import (
    batches,
    edges,
    optimized,
    outputs,
    points,
    prepared,
    quantize,
    quantized,
    sqnr_db,
)

W = Weights(0)
PLAIN = Recipe(target="onnxruntime", equalize="off", bias_correction="off")

#: Network -> the operators that ONNX Runtime has to make of it, beside moves and float operators.
KERNELS = {
    "conv_bn_relu": {"QLinearConv": 3, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    "depthwise_leaky": {"QLinearConv": 5, "QLinearLeakyRelu": 4},
    "residual": {"QLinearConv": 5, "QLinearAdd": 2},
    "conv_transpose": {"QLinearConv": 1, "ConvTranspose": 2},
    "grouped": {"QLinearConv": 3},
    "pools": {
        "QLinearConv": 3,
        "QLinearAveragePool": 1,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    },
    "resize": {"QLinearConv": 2, "Resize": 1},
    "activations": {"QLinearConv": 6, "QLinearSigmoid": 2, "QLinearMul": 1, "PRelu": 1, "Tanh": 1},
    "shared_weight": {"QLinearConv": 2, "QLinearAdd": 1},
    "concat_branches": {"QLinearConv": 3, "QLinearConcat": 1},
    "gemm_mlp": {"QGemm": 3},
    "matmul_mlp": {"MatMulIntegerToFloat": 3},
    "opset9": {"QLinearConv": 1, "QGemm": 1, "Softmax": 1},
}
#: Float operators that vanish or become integer kernels there.
GONE = {
    "Conv",
    "Relu",
    "Clip",
    "BatchNormalization",
    "Gemm",
    "MatMul",
    "LeakyRelu",
    "Add",
    "Concat",
}
#: … but for the Add behind a stack of products that answers in float, and the Relu behind a float ConvTranspose.
LEFT = {"matmul_mlp": {"Add"}, "conv_transpose": {"Relu"}}


@pytest.mark.parametrize("name", KERNELS)
def test_whole_chains_become_integer_kernels(name: str, tmp_path: Path) -> None:
    model, feeds = NETS[name]()
    found = Counter(optimized(quantize(model, batches(feeds, count=2), PLAIN).deploy, tmp_path))
    assert {op: found[op] for op in KERNELS[name]} == KERNELS[name]
    assert set(found) & GONE == LEFT.get(name, set())


@pytest.mark.parametrize("name", ["attention_where", "attention_add"])
def test_attention_runs_its_products_in_integers(name: str, tmp_path: Path) -> None:
    found = Counter(optimized(quantized(name, "onnxruntime").deploy, tmp_path))
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 8
    assert not found["MatMul"]


def test_activations_are_unsigned_and_weights_signed() -> None:
    deploy = quantized("residual", "onnxruntime").deploy
    for node in deploy.graph:
        if node.op_type == "QuantizeLinear":
            assert node.inputs[2] is not None
            assert node.inputs[2].dtype == ir.DataType.UINT8
        if node.op_type == "Conv":
            weight = node.inputs[1]
            assert weight is not None
            dequantize = weight.producer()
            assert dequantize is not None
            assert dequantize.inputs[0] is not None
            assert dequantize.inputs[0].dtype == ir.DataType.INT8


def test_a_residual_block_is_quantized_at_every_tensor_once() -> None:
    assert edges(points(prepared(NETS["residual"]()), "onnxruntime")) == {
        "x": {"conv0:0"},
        "relu0": {"-> conv0", "conv1:0", "add1:0"},
        "relu1": {"-> conv1", "conv2:0"},
        "conv2": {"-> conv2", "add1:1"},
        "relu2": {"-> add1", "conv3:0", "y:1"},
        "relu3": {"-> conv3", "conv4:0"},
        "conv4": {"-> conv4", "y:0"},
        "y": {"-> y"},
    }


def test_operators_without_an_integer_kernel_stay_in_float() -> None:
    found = edges(points(prepared(NETS["conv_transpose"]()), "onnxruntime"))
    assert found == {"x": {"conv1:0"}, "relu1": {"-> conv1"}}


def test_no_tensor_is_quantized_twice() -> None:
    for name in ("residual", "pools", "concat_branches", "activations", "depthwise_leaky"):
        deploy = quantized(name, "onnxruntime").deploy
        for node in deploy.graph:
            if node.op_type == "QuantizeLinear":
                assert node.inputs[0] is not None
                before = node.inputs[0].producer()
                assert before is None or before.op_type != "DequantizeLinear"


def test_an_output_that_is_quantized_keeps_its_name() -> None:
    deploy = quantized("residual", "onnxruntime").deploy
    (output,) = deploy.graph.outputs
    assert output.name == "y"
    producer = output.producer()
    assert producer is not None
    assert producer.op_type == "DequantizeLinear"


def road(graph: str, weights: dict[str, Array], output: str = "float[N,4,16,16] y") -> ir.Model:
    """Quantize a network on (float[N,3,16,16] x), check it against the float one, and return it."""
    values = {"w1": W.conv(4, 3, 1), "w2": W.conv(4, 4, 1)} | weights
    text = f"net (float[N,3,16,16] x) => ({output}) {{ {graph} }}"
    model, feeds = build(text, {n: v for n, v in values.items() if n in text}, IMAGE)
    deploy = quantize(model, batches(feeds, count=2), PLAIN).deploy
    feed = feeds(batch=4, seed=9)
    assert sqnr_db(outputs(model, feed), outputs(deploy, feed)) > 25
    return deploy


PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def test_a_pad_with_minus_infinity_stays_in_float_and_out_of_every_range() -> None:
    deploy = road(
        """a = Conv (x, w1)
        p = Pad (a, pads, inf)
        m = MaxPool <kernel_shape = [3,3]> (p)
        y = Conv (m, w2)""",
        {"pads": PADS, "inf": np.array(-np.inf, dtype=np.float32)},
    )
    (pad,) = [n for n in deploy.graph if n.op_type == "Pad"]
    assert not any(n.op_type == "QuantizeLinear" for n in pad.successors())


def test_a_pad_with_zeros_stays_in_the_chain() -> None:
    deploy = road(
        "a = Conv (x, w1) p = Pad (a, pads) y = Conv (p, w2)",
        {"pads": PADS},
        "float[N,4,18,18] y",
    )
    (pad,) = [n for n in deploy.graph if n.op_type == "Pad"]
    assert [n.op_type for n in pad.successors()] == ["QuantizeLinear"]


def test_indices_of_a_max_pooling_are_not_quantized() -> None:
    """The values may differ by a step, so that another index wins: only the types are compared."""
    text = """net (float[N,3,16,16] x) => (float[N,4,8,8] y, int64[N,4,8,8] i) {
        a = Conv (x, w1)
        y, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
    }"""
    model, feeds = build(text, {"w1": W.conv(4, 3, 1)}, IMAGE)
    deploy = quantize(model, batches(feeds, count=2), PLAIN).deploy
    assert [v.dtype for v in deploy.graph.outputs] == [ir.DataType.FLOAT, ir.DataType.INT64]
    found = outputs(deploy, feeds())
    assert found[1].dtype == np.int64


def test_every_output_of_a_split_is_quantized() -> None:
    deploy = road(
        """a = Conv (x, w1)
        s, t = Split <axis = 1> (a, sizes)
        u = Relu (t)
        y = Concat <axis = 1> (s, u)""",
        {"sizes": np.array([2, 2])},
    )
    (split,) = [n for n in deploy.graph if n.op_type == "Split"]
    assert [n.op_type for n in split.successors()] == ["QuantizeLinear", "QuantizeLinear"]


def test_an_activation_function_inside_a_body_is_not_fused_into_the_layer_outside() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,3,16,16] y) {
        a = Conv (x, w1)
        m = ReduceMean <keepdims = 0> (x)
        g = Greater (m, zero)
        y = If (g) <
            then_branch = yes () => (float[N,3,16,16] t) { t = Relu (a) },
            else_branch = no () => (float[N,3,16,16] u) { u = Neg (x) }
        >
    }"""
    model, feeds = build(
        text, {"w1": W.conv(3, 3, 1), "zero": np.array(0, dtype=np.float32)}, IMAGE
    )
    found = edges(points(prepared(model), "onnxruntime"))
    assert found == {"x": {"a:0"}, "a": {"-> a"}}
    x = feeds()["x"]
    deploy = quantize(model, [{"x": np.abs(x)}, {"x": -np.abs(x)}], PLAIN).deploy
    for feed in ({"x": np.abs(x)}, {"x": -np.abs(x)}):
        assert sqnr_db(outputs(model, feed), outputs(deploy, feed)) > 25


@pytest.mark.parametrize("attributes", ["alpha = 0.5", "alpha = 0.5, transB = 1", "beta = 3.0"])
def test_a_scaled_gemm_computes_the_same_in_integer_kernels(attributes: str) -> None:
    shape = (8, 24) if "transB" in attributes else (24, 8)
    model, feeds = build(
        f"net (float[N,24] x) => (float[N,8] y) {{ y = Gemm <{attributes}> (x, w1, b1) }}",
        {"w1": W.dense(*shape, 24), "b1": W.vector(8)},
        lambda batch=4, seed=0: {
            "x": np.random.default_rng(seed).normal(size=(batch, 24)).astype(np.float32)
        },
    )
    deploy = quantize(model, batches(feeds), PLAIN).deploy
    plain = outputs(deploy, feeds(seed=9), optimize=False)
    assert sqnr_db(plain, outputs(deploy, feeds(seed=9))) > 60


#: Products with something added: the shape of x, the network, and the operators that ONNX Runtime has to make of it.
PRODUCTS = {
    "matrices": ("N,24", "m = MatMul (x, w1) y = Add (m, b1)", {"QGemm": 1}),
    "the bias first": ("N,24", "m = MatMul (x, w1) y = Add (b1, m)", {"QGemm": 1}),
    "an activation behind": (
        "N,24",
        "m = MatMul (x, w1) a = Add (m, b1) y = Relu (a)",
        {"QGemm": 1, "Relu": 1},
    ),
    "two in a row": (
        "N,24",
        "m = MatMul (x, w1) a = Add (m, b1) r = Relu (a) n = MatMul (r, w2) y = Add (n, b2)",
        {"QGemm": 2},
    ),
    "without a bias": ("N,24", "y = MatMul (x, w1)", {"MatMulIntegerToFloat": 1}),
    "a residual branch": (
        "N,24",
        "m = MatMul (x, w1) a = Add (m, b1) n = MatMul (x, w1) y = Add (n, a)",
        {"QGemm": 2, "Add": 1},
    ),
    "one number": ("N,24", "m = MatMul (x, w1) y = Add (m, number)", {"QGemm": 1, "Add": 1}),
    "a row for each sample": (
        "4,24",
        "m = MatMul (x, w1) y = Add (m, rows)",
        {"QGemm": 1, "Add": 1},
    ),
    "the product is read twice": (
        "N,24",
        "m = MatMul (x, w1) a = Add (m, b1) y = Add (a, m)",
        {"QGemm": 1, "Add": 2},
    ),
    "a stack": ("N,6,24", "m = MatMul (x, w1) y = Add (m, b1)", {}),
    "a stack of known size": ("4,6,24", "m = MatMul (x, w1) y = Add (m, b1)", {}),
    "a stack of stacks": ("N,2,6,24", "m = MatMul (x, w1) y = Add (m, b1)", {}),
    "a stack, two in a row": (
        "N,6,24",
        "m = MatMul (x, w1) a = Add (m, b1) r = Relu (a) n = MatMul (r, w2) y = Add (n, b2)",
        {},
    ),
}
#: Operators that compute products of integers.
INTEGER_PRODUCTS = {"QGemm", "MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul"}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("bias_correction", ["off", "on"])
def test_a_product_with_something_added_runs_in_integers(
    name: str, bias_correction: Literal["off", "on"], tmp_path: Path
) -> None:
    shape, graph, kernels = PRODUCTS[name]
    sizes = [int(n) for n in shape.split(",")[1:]]
    values = {
        "w1": W.dense(24, 16),
        "w2": W.dense(16, 8),
        "b1": W.vector(16),
        "b2": W.vector(8),
        "number": np.array(0.3, np.float32),
        "rows": W.dense(4, 16),
    }
    out = ",".join([shape.split(",")[0], *map(str, sizes[:-1]), "8" if "w2" in graph else "16"])
    model, feeds = build(
        f"net (float[{shape}] x) => (float[{out}] y) {{ {graph} }}",
        {n: v for n, v in values.items() if n in graph},
        normal(*sizes),
    )
    result = quantize(
        model, batches(feeds, count=16, size=4), replace(PLAIN, bias_correction=bias_correction)
    )
    found = Counter(optimized(result.deploy, tmp_path))
    assert {op: found[op] for op in kernels} == kernels
    assert sum(found[op] for op in INTEGER_PRODUCTS) == graph.count("MatMul")
    assert not found["MatMul"]
    assert not found["Gemm"]
    feed = feeds(batch=4, seed=9)
    float_output, fast = outputs(model, feed), outputs(result.deploy, feed)
    assert sqnr_db(float_output, fast) > 25
    assert sqnr_db(outputs(result.deploy, feed, optimize=False), fast) > 40
    assert [v.name for v in result.deploy.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("act", "algorithm"),
    [
        *itertools.product(["Relu (c)", "Clip (c, zero, six)"], ["mse", "min-max", "percentile"]),
        (
            "Relu (c)",
            "kl",
        ),  # it may choose a range wider than the values, outside of what a Clip lets through
    ],
)
def test_what_lies_inside_the_grid_vanishes_into_the_quantizer(
    act: str, algorithm: str, tmp_path: Path
) -> None:
    values = {"w1": W.conv(8, 3) * 4, "w2": W.conv(4, 8, 1)}
    values |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    graph = f"c = Conv <pads = [1,1,1,1]> (x, w1) a = {act} y = Conv (a, w2)"
    model, feeds = build(
        f"net (float[N,3,16,16] x) => (float[N,4,16,16] y) {{ {graph} }}",
        {n: v for n, v in values.items() if n in graph},
        IMAGE,
    )
    recipe = replace(
        PLAIN, rules=(Rule(AllNodes(), Settings(activation=AlgorithmChoice(algorithm))),)
    )
    found = Counter(optimized(quantize(model, batches(feeds, count=2), recipe).deploy, tmp_path))
    assert found["QLinearConv"] == 2
    assert not found["Relu"] + found["Clip"]


@pytest.mark.parametrize("shape", ["N,24", "N,6,24", "4,6,24"])
def test_the_bias_of_a_product_that_does_not_fit_is_not_saturated(shape: str) -> None:
    """One scale for the weight, and a bias of 1e9: its channel sits at one end of Tanh, the others do not notice."""
    bias = W.vector(16)
    bias[3] = 1e9
    sizes = [int(n) for n in shape.split(",")[1:]]
    out = ",".join([shape.split(",")[0], *map(str, sizes[:-1]), "16"])
    model, feeds = build(
        f"net (float[{shape}] x) => (float[{out}] y) {{ m = MatMul (x, w1) a = Add (m, b1) y = Tanh (a) }}",
        {"w1": W.dense(24, 16), "b1": bias},
        normal(*sizes),
    )
    recipe = replace(PLAIN, rules=(Rule(AllNodes(), Settings(weight_per_channel=False)),))
    deploy = quantize(model, batches(feeds, count=16, size=4), recipe).deploy
    feed = feeds(batch=4, seed=9)
    for optimize in (True, False):
        assert sqnr_db(outputs(model, feed), outputs(deploy, feed, optimize=optimize)) > 25
