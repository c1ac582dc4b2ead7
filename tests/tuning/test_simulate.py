"""One session for many parameters gives what a session for each would.

Biases whose rounding nobody sees stay floats in it, so values differ by what a half of such a step makes of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibrant.analysis.simulate import Simulator
from calibrant.choose import choose_parameters, with_algorithm
from calibrant.data.batch import Batch
from calibrant.emit.qdq import emit_simulated
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, Recipe
from calibrant.runtime.measure import run
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import Runtime
from tests.models import NETS
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


def test_another_bias_or_weight_is_another_session() -> None:
    model = prepared(NETS["residual"]()[0])
    feed = NETS["residual"]()[1](batch=4, seed=2)
    plan = resolve(Recipe(), model)
    seen = observe(model, plan.observed_tensors, [Batch(feed, {}, 0, 4, "test", ())])
    params = choose_parameters(plan, model, seen)
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
