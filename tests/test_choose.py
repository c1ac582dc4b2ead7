"""Statistics become parameters: shared ranges, fixed ranges, and algorithms as asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from calibrant import algorithms
from calibrant.choose import choose_activations, choose_layers, with_algorithm
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.plan import Plan, resolve
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.stats import TensorStats
from tests.models import NETS, Weights, build
from tests.models.convolution import IMAGE
from tests.road import prepared

W = Weights(0)


def shared() -> tuple[Plan, ir.Model]:
    """A tensor that a convolution reads, and what a MaxPool makes of it, which another one reads."""
    model = prepared(
        build(
            """net (float[N,3,16,16] x) => (float[N,4,8,8] y, float[N,4,16,16] z) {
                a = Conv (x, w)
                m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
                y = Conv (m, v)
                z = Conv (a, u)
            }""",
            {"w": W.conv(4, 3, 1), "v": W.conv(4, 4, 1), "u": W.conv(4, 4, 1)},
            IMAGE,
        )
    )
    return resolve(Recipe(), model), model


def stats(low: float, high: float) -> TensorStats:
    return TensorStats.of(np.linspace(low, high, 1000, dtype=np.float32))


def test_tensors_that_share_a_range_are_chosen_once_from_both() -> None:
    plan, _ = shared()
    seen = {"x": stats(-1, 1), "a": stats(-3, 2), "m": stats(0, 5)}
    found = choose_activations(plan, seen)
    assert found["a"] is found["m"]
    low, high = found["a"].range
    assert low == pytest.approx(-3, abs=0.05)
    assert high == pytest.approx(5, abs=0.05)


def test_auto_stands_for_the_whole_range() -> None:
    plan, _ = shared()
    seen = {t: stats(-1, 3) for t in ("x", "a", "m")}
    p = choose_activations(plan, seen)["x"]
    expected = QuantParams.from_range(-1, 3, QuantSpec())
    assert (p.scale, p.zero_point) == (expected.scale, expected.zero_point)


@pytest.mark.parametrize("name", algorithms.names()["activation"])
def test_every_activation_algorithm_can_be_chosen(name: str) -> None:
    plan, _ = shared()
    choice = AlgorithmChoice(name)
    normal = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    seen = {t: TensorStats.of(normal) for t in ("x", "a", "m")}
    direct = algorithms.activation(name)(seen["x"], QuantSpec())
    found = choose_activations(with_algorithm(plan, choice), seen)["x"]
    assert (found.scale, found.zero_point) == (direct.scale, direct.zero_point)


@pytest.mark.parametrize("name", algorithms.names()["weight"])
def test_every_weight_algorithm_can_be_chosen(name: str) -> None:
    model = prepared(NETS["residual"]())
    rule = Rule(AllNodes(), Settings(weight=AlgorithmChoice(name)))
    plan = resolve(Recipe(rules=(rule,)), model)
    found = choose_layers(plan, model)
    weight = model.graph.initializers["w1"].const_value
    assert weight is not None
    direct = algorithms.weight(name)(weight.numpy(), QuantSpec(symmetric=True, axis=0))
    np.testing.assert_array_equal(found["conv1"].weight.scale, direct.scale)


@pytest.mark.parametrize("spec", [QuantSpec(axis=1), QuantSpec(axis=1, symmetric=True)])
def test_grids_of_channels_that_are_made_at_once_are_those_of_each_alone(spec: QuantSpec) -> None:
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
    x *= np.float32(10.0) ** np.arange(-3, 2, dtype=np.float32)[:, None]
    x[:, 2] = 0  # a channel of zeros
    seen = TensorStats.of(x, by_channel=[1])
    decision = shared()[0].activations[0]
    one = replace(decision, spec=spec, algorithm=AlgorithmChoice("min-max"))
    plan = replace(shared()[0], activations=(one,))
    found = choose_activations(plan, {decision.tensor: seen})[decision.id]
    each = [
        QuantParams.from_range(c.min, c.max, replace(spec, axis=None)) for c in seen.of_channels(1)
    ]
    alive = [0, 1, 3, 4]
    np.testing.assert_array_equal(found.scale[alive], np.stack([p.scale for p in each])[alive])
    np.testing.assert_array_equal(found.zero_point, np.stack([p.zero_point for p in each]))
    assert found.scale[2] == found.scale[alive].min()


def test_a_plan_keeps_what_was_asked_for_where_auto_is_decided() -> None:
    plan, _ = shared()
    first, *others = plan.activations
    asked = replace(first, algorithm=AlgorithmChoice("max"))
    decided = with_algorithm(replace(plan, activations=(asked, *others)), AlgorithmChoice("mse"))
    assert [d.algorithm.name for d in decided.activations] == ["max", "mse", "mse"]
