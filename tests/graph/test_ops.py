"""The table of operators: weights, their axes, biases, and the spellings of types."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.errors import ConfigValueError
from calibrant.graph.ops import (
    bias_of,
    is_depthwise,
    matches_type,
    weight_axis,
    weight_index,
)
from tests.models import NETS, Array, Weights, build, normal
from tests.road import prepared

W = Weights(0)


def node(name: str, net: str) -> ir.Node:
    return prepared(NETS[net]()).graph.node(name)


@pytest.mark.parametrize(
    ("net", "name", "index", "axis"),
    [
        ("conv_bn_relu", "conv1", 1, 0),
        ("depthwise_leaky", "depth1", 1, 0),
        ("conv_transpose", "up1", 1, 1),
        ("conv_transpose", "y", 1, 1),
        ("gemm_mlp", "fc1", 1, 0),
        ("gemm_mlp", "fc2", 1, 1),
        ("gemm_scaled", "y", 1, 1),
        ("matmul_mlp", "fc1", 1, 1),
        ("attention_where", "product", None, None),
        ("residual", "relu0", None, None),
    ],
)
def test_weight_and_output_axis(net: str, name: str, index: int | None, axis: int | None) -> None:
    found = node(name, net)
    assert (weight_index(found), weight_axis(found)) == (index, axis)


def product(left: str, right: str, **weights: Array) -> ir.Node:
    text = f"net (float[N,8,8] x) => (float[A,B,C] y) {{ y = MatMul ({left}, {right}) }}"
    return prepared(build(text, weights, normal(8, 8))).graph.node("y")


def test_axes_of_products_with_constants() -> None:
    assert weight_axis(product("w", "x", w=W.dense(4, 8))) == 0
    assert weight_axis(product("x", "w", w=W.dense(8, 4))) == 1
    assert weight_axis(product("x", "w", w=W.dense(8, 4)[None])) is None


def test_a_bias_stands_in_the_layer_or_in_the_add_behind_it() -> None:
    def place(net: str, name: str) -> tuple[str, int] | None:
        found = bias_of(node(name, net))
        return (found[0].name or "", found[1]) if found else None

    assert place("residual", "conv1") == ("conv1", 2)
    assert place("gemm_mlp", "fc1") == ("fc1", 2)
    assert place("gemm_mlp", "fc2") is None
    assert place("matmul_mlp", "fc1") == ("bias1", 1)
    assert place("matmul_mlp", "fc3") == ("y", 0)
    assert place("matmul_mlp", "fc2") is None  # the Add behind it has no constant
    assert place("residual", "relu0") is None


def test_a_bias_of_one_number_is_none_of_the_layer() -> None:
    model = build(
        "net (float[N,8] x) => (float[N,4] y) { a = MatMul (x, w) y = Add (a, b) }",
        {"w": W.dense(8, 4), "b": np.array(1, dtype=np.float32)},
        normal(8),
    )
    assert bias_of(prepared(model).graph.node("a")) is None


def test_depthwise_means_filters_for_each_channel_alone() -> None:
    assert is_depthwise(node("depth1", "depthwise_leaky"))
    assert not is_depthwise(node("conv1", "depthwise_leaky"))
    assert not is_depthwise(node("conv2", "grouped"))


@pytest.mark.parametrize(
    ("spelling", "net", "matched"),
    [
        ("Conv", "depthwise_leaky", {"conv1", "depth1", "point1", "depth2", "y"}),
        ("Conv2d", "depthwise_leaky", {"conv1", "depth1", "point1", "depth2", "y"}),
        ("Conv1d", "depthwise_leaky", set()),
        ("Conv2D", "depthwise_leaky", {"conv1", "point1", "y"}),
        ("DepthwiseConv2dNative", "depthwise_leaky", {"depth1", "depth2"}),
        ("Convolution", "residual", {"conv0", "conv1", "conv2", "conv3", "conv4"}),
        ("ConvTranspose2d", "conv_transpose", {"up1", "y"}),
        ("Deconvolution", "conv_transpose", {"up1", "y"}),
        ("Linear", "matmul_mlp", {"fc1", "fc2", "fc3"}),
        ("InnerProduct", "gemm_mlp", {"fc1", "fc2", "y"}),
        ("Linear", "attention_where", {"ids_q", "ids_k", "v1", "out", "fc1", "fc2"}),
        ("Eltwise", "residual", {"add1", "y"}),
        ("Relu", "residual", {"relu0", "relu1", "relu2", "relu3"}),
        ("Erf", "residual", set()),
    ],
)
def test_types_match_in_the_spelling_of_every_framework(
    spelling: str, net: str, matched: set[str]
) -> None:
    graph = prepared(NETS[net]()).graph
    assert {n.name for n in graph if matches_type(n, spelling)} == matched


def test_a_type_that_nobody_has_is_an_error_with_a_near_name() -> None:
    with pytest.raises(ConfigValueError, match=r"'Convv2d'.*Did you mean 'Conv2d'"):
        matches_type(node("conv1", "residual"), "Convv2d")
