"""The unit of an input makes no difference: scaling it, and the first weights by the inverse, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import Array, Feeds, Model, Weights, build, normal
from tests.road import batches, outputs, quantize, sqnr_db


@dataclass(frozen=True)
class Case:
    """A network whose first layers read the input `x`.

    Args:
        model: It, and its feeds.
        first: Initializers that `x` is multiplied with.
    """

    model: Model
    first: tuple[str, ...]


def convolutions() -> Case:
    """A Conv, a depthwise one and a MatMul; channels of very different size."""
    w = Weights(50)
    spread = np.array([1, 0.5, 0.01, 1, 0.2, 3, 0.1, 1], np.float32).reshape(-1, 1, 1, 1)
    weights = {
        "w1": w.conv(8, 3) * spread,
        "b1": w.vector(8),
        "w2": w.conv(8, 1),
        "b2": w.vector(8),
    }
    text = """net (float[N,3,8,8] x) => (float[N,5] y) {
        conv = Conv <pads = [1,1,1,1]> (x, w1, b1)
        act = Relu (conv)
        depth = Conv <group = 8> (act, w2, b2)
        pool = GlobalAveragePool (depth)
        flat = Flatten (pool)
        y = MatMul (flat, w3)
    }"""
    return Case(build(text, weights | {"w3": w.dense(8, 5)}, normal(3, 8, 8)), ("w1",))


def two_readers() -> Case:
    """A Gemm with transB, and a MatMul with an Add, of uneven input channels: balancing is tried."""
    w = Weights(51)
    weights = {
        "w1": w.dense(12, 16, 16),
        "b1": w.vector(12),
        "w2": w.dense(16, 12),
        "b2": w.vector(12),
    }

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        x = np.random.default_rng(seed).normal(size=(batch, 16)).astype(np.float32)
        x[:, 3] *= 30
        return {"x": x}

    text = """net (float[N,16] x) => (float[N,12] y) {
        fc = Gemm <transB = 1> (x, w1, b1)
        product = MatMul (x, w2)
        other = Add (product, b2)
        y = Sub (fc, other)
    }"""
    return Case(build(text, weights, feeds), ("w1", "w2"))


def depthwise_first() -> Case:
    """A depthwise Conv on the input, then a ConvTranspose."""
    w = Weights(52)
    weights = {"w1": w.conv(4, 1), "b1": w.vector(4), "w2": w.conv(4, 3, 2), "b2": w.vector(3)}
    text = """net (float[N,4,8,8] x) => (float[N,3,12,12] y) {
        depth = Conv <group = 4> (x, w1, b1)
        act = Relu (depth)
        y = ConvTranspose <strides = [2,2]> (act, w2, b2)
    }"""
    return Case(build(text, weights, normal(4, 8, 8)), ("w1",))


CASES = {f.__name__: f for f in (convolutions, two_readers, depthwise_first)}
WIDE = Settings(activation_bits=16)
RECIPES = {
    "default": Recipe(),
    "onnxruntime": Recipe(target="onnxruntime"),
    "horizon-like": Recipe(target="horizon-like"),
    "16 bits": Recipe((Rule(AllNodes(), WIDE),)),
    "all 16 bits": Recipe((Rule(AllNodes(), replace(WIDE, weight_bits=16)),)),
    "by channel": Recipe((Rule(AllNodes(), Settings(activation_per_channel=True)),)),
    "one scale": Recipe((Rule(AllNodes(), Settings(weight_per_channel=False)),)),
    "kl": Recipe((Rule(AllNodes(), Settings(activation=AlgorithmChoice("kl"))),)),
    "balanced": Recipe((Rule(AllNodes(), Settings(balance=0.5)),)),
}


def in_unit(case: Case, unit: float) -> Model:
    """Return the network for an input that is `unit` times as large."""
    model, feeds = case.model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in case.first:
            w = (numpy_helper.to_array(tensor) / unit).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))

    def scaled(**which: Any) -> dict[str, Array]:
        return {n: (x * unit).astype(np.float32) for n, x in feeds(**which).items()}

    return changed, scaled


def run(
    model: onnx.ModelProto, feeds: Feeds, recipe: Recipe
) -> tuple[QuantizedModel, list[Array]]:
    result = quantize(model, batches(feeds), recipe)
    return result, outputs(result.deploy, feeds(batch=16, seed=9))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wanted", RECIPES)
@settings(max_examples=2)
@given(st.integers(-60, 60))
def test_a_power_of_two_changes_no_bit(name: str, wanted: str, octaves: int) -> None:
    case = CASES[name]()
    before, y = run(*case.model, RECIPES[wanted])
    after, again = run(*in_unit(case, 2.0**octaves), RECIPES[wanted])
    for layer, p in before.params.layers.items():
        np.testing.assert_array_equal(p.values, after.params.layers[layer].values)
    for key, q in before.params.activations.items():
        np.testing.assert_array_equal(q.zero_point, after.params.activations[key].zero_point)
    assert before.summary["decisions"] == after.summary["decisions"]
    for a, b in zip(y, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("unit", [1e-6, 1e6, 2.0**17 / 3, 1e-12, 1e20])
@pytest.mark.parametrize("wanted", ["default", "onnxruntime", "16 bits"])
def test_any_unit_is_as_good(wanted: str, unit: float) -> None:
    case = convolutions()
    reached = []
    for model, feeds in (case.model, in_unit(case, unit)):
        result, y = run(model, feeds, RECIPES[wanted])
        reached.append(sqnr_db(outputs(model, feeds(batch=16, seed=9)), y))
        assert not [w for w in result.summary["warnings"] if "became" in w]
    assert reached[1] > reached[0] - 0.5


def test_a_vendors_rule_for_tiny_scales_is_a_wish_of_the_recipe() -> None:
    model, feeds = in_unit(convolutions(), 1e6)
    recipe = Recipe(tiny_scales="one", equalize="off", bias_correction="off")
    result, _ = run(model, feeds, recipe)
    assert not result.params.layers["conv"].values.any()
    assert (result.params.layers["conv"].weight.scale == 1).all()
    (warning,) = [w for w in result.summary["warnings"] if "'w1' of layer 'conv' became 0" in w]
    assert "Channels 0, 1, 2, 3, 4, 5, 6, 7 of" in warning
    kept, _ = run(model, feeds, replace(recipe, tiny_scales="kept"))
    assert kept.params.layers["conv"].values.any()


def test_a_channel_that_one_scale_rounds_to_zero_is_named() -> None:
    w = Weights(53)
    weight = w.dense(8, 4)
    weight[:, 2] *= 1e-6
    model, feeds = build(
        "net (float[N,8] x) => (float[N,4] y) { y = MatMul (x, w) }", {"w": weight}, normal(8)
    )
    one = Recipe((Rule(AllNodes(), Settings(weight_per_channel=False)),))
    (warning,) = [
        w for w in quantize(model, batches(feeds), one).summary["warnings"] if "became 0" in w
    ]
    assert warning.startswith("Channels 2 of weight 'w' of layer 'y' became 0")
    assert not [w for w in quantize(model, batches(feeds)).summary["warnings"] if "became" in w]


@pytest.mark.parametrize(("size", "named"), [(1e-30, False), (1e-6, True)])
def test_a_dead_channel_is_not_named_and_a_lost_one_is(size: float, named: bool) -> None:
    """Training with decay leaves numbers such as 1e-38, whose bias needs a wider step; nothing is lost with them."""
    w = Weights(54)
    weight, bias = w.dense(8, 4), w.vector(4)
    weight[:, 2] *= size
    bias[2] = 1e9 * size / 1e-6 if named else 1.0
    model, feeds = build(
        "net (float[N,8] x) => (float[N,4] y) { y = Gemm (x, w, b) }",
        {"w": weight, "b": bias},
        normal(8),
    )
    said = [w for w in quantize(model, batches(feeds)).summary["warnings"] if "became 0" in w]
    assert bool(said) == named
