"""Local errors: each layer alone, its own input and weight quantized, with float values before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibrant.choose import choose_parameters
from calibrant.data.batch import Batch
from calibrant.emit.layers_alone import emit_layers_alone
from calibrant.numerics import fake_quantize
from calibrant.plan import resolve
from calibrant.recipe import Recipe
from calibrant.refine.local_bias import (
    correct_by_local_errors,
    joined,
    local_errors,
)
from calibrant.runtime.observe import observe
from tests.models import NETS, Array, Weights, build, normal
from tests.road import every_net, outputs, prepared


def gemm():
    weights = {"w": Weights(2).dense(6, 5), "b": Weights(3).vector(5)}
    return build("net (float[N,6] x) => (float[N,5] y) { y = Gemm (x, w, b) }", weights, normal(6))


def made(net, target: str = "generic"):
    model = prepared(net)
    feeds = [net[1](batch=8, seed=s) for s in range(4)]
    plan = resolve(Recipe(target=target), model)
    seen = observe(
        model,
        plan.observed_tensors,
        [Batch(f, {}, 0, 8, "test", ()) for f in feeds],
    )
    return model, plan, choose_parameters(plan, model, seen), feeds


def test_the_error_is_the_mean_difference_of_the_layer_alone() -> None:
    model, plan, params, feeds = made(gemm())
    found, new = local_errors(model, plan, params, feeds)
    assert new == 1.0
    w = plan.weights[0]
    p = params.activations[plan.activations[0].id]
    float_w = model.graph.initializers[w.weight].const_value.numpy()
    for row, feed in zip(found.errors[w.layer].error, feeds, strict=True):
        x: Array = feed["x"]
        alone = fake_quantize(x, p) @ params.layers[w.layer].floats
        np.testing.assert_allclose(row, (x @ float_w - alone).mean(axis=0), atol=1e-5)


def test_a_kept_correction_moves_the_bias_by_the_mean_error() -> None:
    model, plan, params, feeds = made(gemm())
    shifted = params.layers[plan.weights[0].layer]
    off = replace(shifted, stored=shifted.values + 2)  # weights that are all too large
    params = replace(params, layers={plan.weights[0].layer: off})
    feeds = [{"x": f["x"] + 3} for f in feeds]  # inputs with a mean
    found, _ = local_errors(model, plan, params, feeds)
    better, report = correct_by_local_errors(model, params, found)
    layer = plan.weights[0].layer
    assert [c.kept for c in report] == [True]
    before = model.graph.initializers[plan.weights[0].bias].const_value.numpy()
    moved = better.layers[layer].bias - before
    np.testing.assert_allclose(moved, found.errors[layer].error.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", every_net())
def test_twins_change_nothing_of_the_float_model(name: str) -> None:
    net = NETS[name]()
    model, plan, params, feeds = made(net)
    both, twins = emit_layers_alone(
        model, plan, params, [w.layer for w in plan.weights if not w.compensation]
    )
    assert set(twins) == {w.layer for w in plan.weights}
    for a, b in zip(outputs(model, feeds[0]), outputs(both, feeds[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_errors_of_equal_parameters_are_measured_once() -> None:
    model, plan, params, feeds = made(NETS["residual"]())
    known: dict = {}
    _, first = local_errors(model, plan, params, feeds, known=known)
    _, second = local_errors(model, plan, params, feeds, known=known)
    assert (first, second) == (1.0, 0.0)


def test_positions_that_are_not_finite_are_left_out() -> None:
    model, plan, params, feeds = made(gemm())
    broken = [{"x": f["x"].copy()} for f in feeds]
    broken[1]["x"][2] = np.nan
    kept = [feeds[0], {"x": np.delete(feeds[1]["x"], 2, axis=0)}, *feeds[2:]]
    found, _ = local_errors(model, plan, params, broken)
    wanted, _ = local_errors(model, plan, params, kept)
    layer = plan.weights[0].layer
    np.testing.assert_allclose(
        found.errors[layer].error, wanted.errors[layer].error, rtol=1e-4, atol=1e-6
    )
    assert found.errors[layer].power == pytest.approx(wanted.errors[layer].power, rel=0.1)


@pytest.mark.parametrize("count", [4, 3])
def test_errors_of_two_halves_are_those_of_all_feeds(count: int) -> None:
    model, plan, params, feeds = made(NETS["residual"]())
    feeds = feeds[:count]
    whole, even, odd = (
        local_errors(model, plan, params, some)[0] for some in (feeds, feeds[::2], feeds[1::2])
    )
    both = joined(even, odd)
    for name, measured in whole.errors.items():
        np.testing.assert_array_equal(both.errors[name].error, measured.error)
        assert both.errors[name].power == pytest.approx(measured.power)
