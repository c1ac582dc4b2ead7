"""Every layer's error is told by its causes, and the shares add up."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.diagnose import rank
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigValueError
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.runtime.downstream import Whole
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store
from tests.models import NETS
from tests.road import every_net


def rows(found: calibrant.Attribution) -> dict[str, Any]:
    return {row.name: row for row in found.layers}


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize("name", every_net(but=()))
def test_shares_add_up_to_all_of_the_error(name: str, target: str) -> None:
    model, feeds = NETS[name]()
    found = calibrant.attribution(model, feeds(batch=4, seed=1), Recipe(target=target))
    assert found.layers
    for row in found.layers:
        for o in (row.origin, *row.parts.values()):
            if o.sqnr_db == math.inf:
                continue
            born = o.activations + o.weights + o.bias
            assert o.born == pytest.approx(born)
            assert o.arrived + o.born == pytest.approx(1, abs=1e-6)
        if row.channels:
            assert 0 < sum(row.channels.values()) <= 1 + 1e-9


@pytest.mark.parametrize("recipe", [None, Recipe(bias_correction="on")])
@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "depthwise_leaky", "gemm_mlp"])
def test_the_error_is_that_of_the_quantized_model(name: str, recipe: Recipe | None) -> None:
    model, feeds = NETS[name]()
    x = feeds(batch=6, seed=1)
    found = calibrant.attribution(model, x, recipe, samples=None)
    solution = solve(Store(model, x), recipe or rank.PLAIN).solution
    base = emit_simulated(solution.model, solution.plan, solution.params)
    outputs = [v.name or "" for v in solution.model.graph.outputs]
    truth, mine = (Whole.of(m, outputs, [x]).values[0] for m in (solution.model, base))
    for row in found.layers:
        y, q = (v[row.output].astype(np.float64) for v in (truth, mine))
        error = float(((q - y) ** 2).sum())
        if error == 0:
            continue
        wanted = 10 * math.log10(float((y * y).sum()) / error)
        assert row.origin.sqnr_db == pytest.approx(wanted, abs=0.05)


def test_the_first_layer_has_no_error_that_arrived() -> None:
    model, feeds = NETS["residual"]()
    first, *others = calibrant.attribution(model, feeds(batch=4, seed=1)).layers
    assert first.origin.arrived == 0
    assert first.origin.born == pytest.approx(1)
    assert all(row.origin.arrived != 0 for row in others)


def test_causes_are_named() -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=8, seed=1)
    narrow = Settings(
        activation=AlgorithmChoice.of("fixed", {"low": -0.02, "high": 0.02}),
    )
    clipped = rank.PLAIN.with_rules(Rule(Layer("conv2"), narrow))
    assert rows(calibrant.attribution(model, x, clipped))["conv2"].origin.cause == (
        "activation_clipping"
    )
    few = rank.PLAIN.with_rules(
        Rule(AllNodes(), Settings(activation_bits=16)),
        Rule(Layer("conv2"), Settings(weight_bits=4)),
    )
    origin = rows(calibrant.attribution(model, x, few))["conv2"].origin
    assert origin.cause == "weight_rounding"
    assert origin.weights > 0.9


def test_the_channel_that_is_spoiled_is_named() -> None:
    model, feeds = NETS["residual"]()
    node = next(n for n in model.graph.node if n.name == "conv2")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    w = onnx.numpy_helper.to_array(tensor).copy()
    w[3, 0, 0, 0] = 60 * np.abs(w).max()
    tensor.CopyFrom(onnx.numpy_helper.from_array(w, tensor.name))
    wide = rank.PLAIN.with_rules(Rule(AllNodes(), Settings(activation_bits=16)))
    row = rows(calibrant.attribution(model, feeds(batch=8, seed=1), wide))["conv2"]
    assert next(iter(row.channels)) == 3
    assert row.channels[3] > 0.9


def test_memory_limit_and_json_change_nothing() -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=9, seed=1)
    one = calibrant.attribution(model, x)
    other = calibrant.attribution(model, x, memory_bytes=1)
    assert json.loads(one.json()) == json.loads(other.json())
    content = json.loads(one.json())
    energies = [row["energy"] for row in content["layers"]]
    assert energies == sorted(energies, reverse=True)
    with pytest.raises(ConfigValueError, match="samples is 0"):
        calibrant.attribution(model, x, samples=0)
