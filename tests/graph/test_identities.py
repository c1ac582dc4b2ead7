"""Identities go where they are not needed, and outputs keep their names, their order and their values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibrant.recipe import Recipe
from tests.models import Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import batches, op_types, outputs, prepared, quantize, sqnr_db

W = Weights(7)
CONV = {"w": W.conv(4, 3)}

SEVERAL_NAMES = {
    "one value twice": "c = Conv (x, w) a = Relu (c) b = Identity (a)",
    "behind a value that is no output": "c = Conv (x, w) r = Relu (c) a = Identity (r) b = Identity (r)",
    "a chain": "c = Conv (x, w) r = Relu (c) i = Identity (r) a = Identity (i) j = Identity (a) b = Identity (j)",
    "the second first": "c = Conv (x, w) b = Relu (c) a = Identity (b)",
    "behind a dropout": "c = Conv (x, w) r = Relu (c) a = Dropout (r) b = Dropout (a)",
}


def names(model: onnx.ModelProto) -> list[str]:
    return [v.name for v in model.graph.output]


@pytest.mark.parametrize("case", SEVERAL_NAMES)
def test_outputs_of_one_value_keep_their_names_and_order(case: str) -> None:
    model, feeds = build(
        f"net (float[N,3,16,16] x) => (float[N,4,14,14] a, float[N,4,14,14] b) {{ {SEVERAL_NAMES[case]} }}",
        CONV,
        IMAGE,
    )
    made = prepared(model)
    assert [v.name for v in made.graph.outputs] == ["a", "b"]
    assert op_types(made) == ["Conv", "Relu", "Identity"]
    for one, other in zip(outputs(model, feeds()), outputs(made, feeds()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like", "layers-only"])
@pytest.mark.parametrize("case", SEVERAL_NAMES)
def test_a_quantized_model_has_all_names_of_a_value(case: str, target: str) -> None:
    model, feeds = build(
        f"net (float[N,3,16,16] x) => (float[N,4,14,14] a, float[N,4,14,14] b) {{ {SEVERAL_NAMES[case]} }}",
        CONV,
        IMAGE,
    )
    result = quantize(model, batches(feeds), Recipe(target=target))
    for made in (result.deploy, result.fake_quant):
        assert [v.name for v in made.graph.outputs] == ["a", "b"]
    feed = feeds(seed=9)
    found = outputs(result.deploy, feed, optimize=False)
    assert sqnr_db(outputs(model, feed), found) > 20
    np.testing.assert_array_equal(found[0], found[1])
    assert set(result.summary["quality"]["outputs"]) == {"a", "b"}


def test_an_input_and_a_constant_that_are_handed_out_keep_their_identity() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,8] y, float[N,24] same, float[24,8] weight) {
            y = MatMul (x, w) same = Identity (x) weight = Identity (w)
        }""",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul", "Identity", "Identity"]
    result = quantize(model, batches(feeds))
    feed = feeds(seed=5)
    found = dict(zip(names(model), outputs(result.deploy, feed), strict=True))
    np.testing.assert_array_equal(found["same"], feed["x"])
    np.testing.assert_array_equal(found["weight"], outputs(model, feed)[2])


def test_an_initializer_that_is_an_output_itself_stays_one() -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[N,8] y, float[24,8] w) { y = MatMul (x, w) }",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    result = quantize(model, batches(feeds))
    assert [v.name for v in result.deploy.graph.outputs] == ["y", "w"]
    feed = feeds(seed=5)
    np.testing.assert_array_equal(outputs(result.deploy, feed)[1], outputs(model, feed)[1])
    assert [d.layer for d in result.plan.weights] == ["y"]


def test_an_input_that_is_an_output_too_stays_one() -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[N,8] y, float[N,24] x) { y = MatMul (x, w) }",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    result = quantize(model, batches(feeds))
    assert [v.name for v in result.deploy.graph.outputs] == ["y", "x"]
    np.testing.assert_array_equal(outputs(result.deploy, feeds())[1], feeds()["x"])


def test_what_an_output_declares_of_its_shape_stays() -> None:
    model, _ = build(
        "net (float[N,3,16,16] x) => (float[N,4,14,14] y) { c = Conv (x, w) y = Identity (c) }",
        CONV,
        IMAGE,
    )
    (out,) = prepared(model).graph.outputs
    assert out.name == "y"
    assert [str(d) for d in out.shape or ()] == ["N", "4", "14", "14"]
