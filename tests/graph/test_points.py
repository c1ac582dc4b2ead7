"""Where quantizers stand on targets with a wide accumulator: generic and layers-only."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant.graph import targets
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from tests.models import NETS, Array, Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import edges, points, prepared

W = Weights(0)


def placed(graph: str, weights: dict[str, Array] | None = None, target: str = "generic") -> object:
    """Points of a network (float[N,3,16,16] x) => (float[N,4,16,16] y) with 1x1 convolutions."""
    values = {"w1": W.conv(4, 3, 1), "w2": W.conv(4, 4, 1), "w3": W.conv(4, 4, 1)}
    text = f"net (float[N,3,16,16] x) => (float[N,4,16,16] y) {{ {graph} }}"
    used = {n: v for n, v in (values | (weights or {})).items() if n in text}
    return edges(points(prepared(build(text, used, IMAGE)), target))


@pytest.mark.parametrize(
    "function",
    [
        "b = Relu (a)",
        "b = LeakyRelu <alpha = 0.1> (a)",
        "gate = Sigmoid (a) b = Mul (a, gate)",
        "b = HardSwish (a)",
        "b = Clip (a, low, high)",
        "b = PRelu (a, slope)",
        "b = Tanh (a)",
        "b = Elu (a)",
    ],
)
def test_nothing_is_quantized_between_a_convolution_and_its_activation_function(
    function: str,
) -> None:
    values = {
        "low": np.array(0, dtype=np.float32),
        "high": np.array(6, dtype=np.float32),
        "slope": np.full((4, 1, 1), 0.1, dtype=np.float32),
    }
    found = placed(f"a = Conv (x, w1) {function} y = Conv (b, w2)", values)
    assert found == {"x": {"a:0"}, "b": {"y:0"}}


def test_a_folded_normalization_leaves_no_quantizer_behind() -> None:
    model = prepared(NETS["conv_bn_relu"]())
    fuse_batchnorm(model)
    assert edges(points(model)) == {
        "x": {"conv1:0"},
        "relu1": {"conv2:0"},
        "relu2": {"conv3:0"},
        "flat": {"y:0"},
    }


def test_a_residual_sum_is_quantized_once_where_convolutions_read_it() -> None:
    assert edges(points(prepared(NETS["residual"]()))) == {
        "x": {"conv0:0"},
        "relu0": {"conv1:0"},
        "relu1": {"conv2:0"},
        "relu2": {"conv3:0"},
        "relu3": {"conv4:0"},
    }


def test_a_concat_is_quantized_once_behind_it() -> None:
    found = edges(points(prepared(NETS["concat_branches"]())))
    assert found == {"x": {"conv1:0", "conv2:0"}, "join": {"y:0"}}


def test_two_layers_that_read_one_tensor_share_its_quantizer() -> None:
    found = placed("a = Conv (x, w1) b = Conv (a, w2) c = Conv (a, w3) y = Add (b, c)")
    assert found == {"x": {"a:0"}, "a": {"b:0", "c:0"}}


def test_tensors_that_are_moved_share_their_range_with_what_they_are_moved_from() -> None:
    model = prepared(
        build(
            """net (float[N,3,16,16] x) => (float[N,4,64] y, float[N,4,16,16] z) {
                a = Conv (x, w1)
                m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
                r = Reshape (m, shape)
                t = Transpose <perm = [0,2,1]> (r)
                v = MatMul (t, w4)
                y = Transpose <perm = [0,2,1]> (v)
                z = Conv (a, w2)
            }""",
            {
                "w1": W.conv(4, 3, 1),
                "w2": W.conv(4, 4, 1),
                "w4": W.dense(4, 4),
                "shape": np.array([0, 4, 64]),
            },
            IMAGE,
        )
    )
    found = points(model)
    assert edges(found) == {"x": {"a:0"}, "a": {"z:0"}, "t": {"v:0"}}
    assert {p.tensor: p.root for p in found.activations} == {"x": "x", "a": "a", "t": "a"}


def test_layers_only_quantizes_average_pooling_too_and_shares_nothing() -> None:
    model = prepared(NETS["pools"]())
    found = points(model, "layers-only")
    assert edges(found)["relu2"] == {"avg1:0"}
    assert "relu2" not in edges(points(model))
    assert all(p.root == p.tensor for p in found.activations)


@pytest.mark.parametrize("name", ["attention_where", "attention_add"])
def test_in_attention_only_products_are_quantized_and_no_mask(name: str) -> None:
    found = points(prepared(NETS[name]()))
    assert edges(found) == {
        "h": {"ids_q:0", "ids_k:0", "v1:0"},
        "q": {"product:0"},
        "k": {"product:1"},
        "v": {"mix:1"},
        "weight": {"mix:0"},
        "mix2": {"out:0"},
        "norm": {"fc1:0"},
        "gelu": {"fc2:0"},
    }


def test_a_softmax_output_has_a_range_of_its_own_behind_moves_too() -> None:
    found = {
        p.tensor: p.fixed_range for p in points(prepared(NETS["attention_where"]())).activations
    }
    assert found["weight"] == (0.0, 1.0)
    assert all(v is None for t, v in found.items() if t != "weight")
    moved = points(
        prepared(
            build(
                """net (float[N,8,8] x) => (float[N,8,8] y) {
                    s = Sigmoid (x)
                    t = Transpose <perm = [0,2,1]> (s)
                    y = MatMul (t, x)
                }""",
                {},
                normal(8, 8),
            )
        )
    )
    assert {p.tensor: p.fixed_range for p in moved.activations} == {"x": None, "t": (0.0, 1.0)}


def test_padding_ends_a_fixed_range() -> None:
    model = build(
        """net (float[N,3,16,16] x) => (float[N,4,18,18] y) {
            a = Conv (x, w1)
            s = Sigmoid (a)
            p = Pad (s, pads, five)
            y = Conv (p, w2)
        }""",
        {
            "w1": W.conv(4, 3, 1),
            "w2": W.conv(4, 4, 1),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "five": np.array(5, dtype=np.float32),
        },
        IMAGE,
    )
    found = {p.tensor: p.fixed_range for p in points(prepared(model)).activations}
    assert found == {"x": None, "p": None}


def test_token_ids_and_embeddings_are_left_alone() -> None:
    found = edges(points(prepared(NETS["attention_add"]())))
    assert not {"ids", "mask", "table"} & set(found)


def test_a_convolution_inside_a_body_has_no_point() -> None:
    found = points(prepared(NETS["if_subgraph"]()))
    assert edges(found) == {"x": {"conv1:0"}}
    assert [layer.node for layer in found.layers] == ["conv1"]


def test_a_product_of_one_tensor_with_itself_is_quantized_on_both_sides() -> None:
    model = build(
        "net (float[N,4,4] x) => (float[N,4,4] y) { y = MatMul (x, x) }", {}, normal(4, 4)
    )
    assert edges(points(prepared(model))) == {"x": {"y:0", "y:1"}}


def test_a_constant_on_the_left_is_the_weight() -> None:
    model = build(
        "net (float[N,8,4] x) => (float[N,6,4] y) { y = MatMul (w1, x) }",
        {"w1": W.dense(6, 8)},
        normal(8, 4),
    )
    found = points(prepared(model))
    assert edges(found) == {"x": {"y:1"}}
    (layer,) = found.layers
    assert (layer.weight, layer.weight_input, layer.axis) == ("w1", 0, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_types_are_quantized_as_float32(dtype: type[np.floating]) -> None:
    name = {np.float16: "float16", np.float64: "double"}[dtype]
    model = build(
        f"net ({name}[N,24] x) => ({name}[N,8] y) {{ y = MatMul (x, w1) }}",
        {"w1": W.dense(24, 8).astype(dtype)},
        normal(24),
    )
    found = points(prepared(model))
    assert edges(found) == {"x__float32": {"y:0"}}
    assert [layer.node for layer in found.layers] == ["y"]


def test_nodes_and_single_inputs_can_stay_in_float() -> None:
    model = prepared(NETS["attention_where"]())
    without = points(model, enabled=lambda node, index: (node.name, index) != ("product", 1))
    assert "k" not in edges(without)
    assert "q" in edges(without)
    none = points(model, enabled=lambda node, index: node.name != "product")
    assert not {"q", "k"} & set(edges(none))


def test_further_inputs_are_quantized_where_they_carry_activations() -> None:
    model = prepared(NETS["residual"]())
    found = points(model, extra_inputs=(("add1", 1), ("conv1", 0), ("conv1", 1)))
    assert edges(found)["conv2"] == {"add1:1"}
    assert edges(found)["relu0"] == {"conv1:0"}
    assert "w1" not in edges(found)


def test_points_come_in_the_order_of_the_graph() -> None:
    model = prepared(NETS["residual"]())
    order = [v.name for v in model.graph.inputs] + [n.outputs[0].name for n in model.graph]
    found = [p.tensor for p in points(model).activations]
    assert found == sorted(found, key=order.index)


def test_one_scale_a_channel_in_front_of_depthwise_is_for_devices_that_know_it() -> None:
    able = [name for name in targets.names() if targets.get(name).channel_scales]
    assert able == ["generic", "openvino"]
