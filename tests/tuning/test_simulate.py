"""One session for many parameters gives what a session for each would.

Biases whose rounding nobody sees stay floats in it, so values differ by what a half of such a step makes of them.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.analysis.simulate import Simulator
from calibrant.choose import Known, choose_parameters, with_algorithm
from calibrant.data.batch import Batch
from calibrant.emit.qdq import emit_simulated
from calibrant.plan import Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.recipe import AlgorithmChoice, Recipe
from calibrant.runtime.measure import run
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.built import Made
from calibrant.tuning.forms import Form
from tests.models import NETS, Array
from tests.road import TARGETS, every_net, prepared, sqnr_db


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", every_net())
def test_parameters_that_differ_in_scales_share_a_session(name: str, target: str) -> None:
    model = prepared(NETS[name]())
    feed = NETS[name]()[1](batch=4, seed=2)
    plan = resolve(Recipe(target=target), model)
    seen = observe(model, plan.observed_tensors, [Batch(feed, {}, 0, 4, "test", ())])
    outputs = tuple(v.name or "" for v in model.graph.outputs if v.producer() is not None)
    simulator = Simulator(model, outputs, Runtime(threads=1))
    for algorithm in ("min-max", "percentile", "min-max"):
        tried = with_algorithm(plan, AlgorithmChoice(algorithm))
        params = choose_parameters(tried, model, seen)
        found = simulator.simulate(tried, params, [feed])
        expected = run(
            emit_simulated(model, tried, params),
            [feed],
            runtime=Runtime(threads=1),
            integers=False,
        )
        pairs = [(expected[0][o], found[0][o]) for o in outputs if found[0][o].dtype.kind == "f"]
        assert sqnr_db(*map(list, zip(*pairs, strict=True))) > 30
    assert simulator.opened == 1


def residual() -> tuple[ir.Model, dict[str, Array], Plan, Parameters]:
    """Return a network, four samples, and what a default recipe chooses on them."""
    given, make = NETS["residual"]()
    model, feed = prepared(given), make(batch=4, seed=2)
    plan = resolve(Recipe(), model)
    seen = observe(model, plan.observed_tensors, [Batch(feed, {}, 0, 4, "test", ())])
    return model, feed, plan, choose_parameters(plan, model, seen)


def test_another_bias_or_weight_is_another_session() -> None:
    model, feed, plan, params = residual()
    outputs = tuple(v.name or "" for v in model.graph.outputs)
    simulator = Simulator(model, outputs, Runtime(threads=1))
    layer = plan.weights[0].layer
    chosen = params.layers[layer]
    bias = np.full(chosen.values.shape[0], 3.0, np.float32)
    changes = (replace(chosen, bias=bias), replace(chosen, stored=chosen.values // 2))
    found = []
    for changed in (chosen, *changes, replace(chosen, stored=chosen.values.copy())):
        other = replace(params, layers={**params.layers, layer: changed})
        found.append(simulator.simulate(plan, other, [feed])[0][outputs[0]])
        expected = run(
            emit_simulated(model, plan, other), [feed], runtime=Runtime(threads=1), integers=False
        )
        assert sqnr_db([expected[0][outputs[0]]], [found[-1]]) > 30
    assert simulator.opened == 3
    assert (found[0] != found[1]).any()
    assert (found[0] != found[2]).any()


def test_a_channel_of_zeros_is_the_same_at_every_scale() -> None:
    model, feed, plan, params = residual()
    simulator = Simulator(model, tuple(v.name or "" for v in model.graph.outputs), Runtime())
    layer = plan.weights[0].layer
    chosen = params.layers[layer]
    empty = replace(
        chosen, stored=np.where(np.arange(len(chosen.stored)) == 1, 0, chosen.stored.T).T
    )
    for channel in (1, 1, 0):
        scale = chosen.weight.scale.copy()
        scale[channel] *= 2
        changed = replace(empty, weight=replace(chosen.weight, scale=scale))
        other = replace(params, layers={**params.layers, layer: changed})
        simulator.simulate(plan, replace(params, layers={**params.layers, layer: empty}), [feed])
        simulator.simulate(plan, other, [feed])
        assert simulator.opened == (1 if channel == 1 else 2)


def test_one_session_serves_both_halves_of_a_network_whose_biases_ask_for_other_scales() -> None:
    """A dead channel with a bias: what its weight's scale has to be depends on the range of the input."""
    model = prepared(NETS["residual"]()[0])
    plan = resolve(Recipe(), model)
    w = next(w for w in plan.weights if w.bias is not None and w.spec.axis == 0)
    weight, bias = (model.graph.initializers[n] for n in (w.weight, w.bias or ""))
    assert weight.const_value is not None
    assert bias.const_value is not None
    dead, loud = weight.const_value.numpy().copy(), bias.const_value.numpy().copy()
    dead[0] *= 1e-9
    loud[0] = 5.0
    weight.const_value, bias.const_value = ir.tensor(dead), ir.tensor(loud)
    make = NETS["residual"]()[1]
    feeds = [{n: x * size for n, x in make(batch=4, seed=2).items()} for size in (1, 3)]
    halves = [
        observe(model, plan.observed_tensors, [Batch(f, {}, 0, 4, "test", ())]) for f in feeds
    ]
    apart = [choose_parameters(plan, model, seen).layers[w.layer].weight.scale for seen in halves]
    assert apart[0][0] != apart[1][0]
    simulator = Simulator(model, tuple(v.name or "" for v in model.graph.outputs), Runtime())
    folds = Mock(apart_from=lambda feed: halves[1 - feed % 2])
    made = Made(Form("plain", model, plan), Recipe(), model, plan, folds, simulator, Known())
    for algorithm in ("min-max", "mse"):
        for params, feed in zip(made.params(algorithm), feeds, strict=True):
            assert params.layers[w.layer].weight.scale[0] >= max(s[0] for s in apart)
            (found,) = simulator.simulate(plan, params, [feed])
            exact = emit_simulated(model, plan, params)
            (expected,) = run(exact, [feed], runtime=Runtime(), integers=False)
            for name, x in expected.items():
                assert sqnr_db([x], [found[name]]) > 50  # biases stay floats there
    assert simulator.opened == 1
