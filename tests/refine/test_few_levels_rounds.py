"""Rounds of refinement choose levels by what a layer answers, and keep none that answer worse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.choose import choose_activations, choose_layers
from calibrant.data.batch import Batch
from calibrant.graph.load import load, prepare
from calibrant.numerics import dequantize, fake_quantize
from calibrant.plan import Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.refine.few_levels import refine_levels
from calibrant.runtime.observe import observe
from tests.models import NETS, Array, Model, Weights, build
from tests.road import outputs, quantize

W = Weights(0)
CHANNELS = 12
#: Input channels from loud to quiet.
GAIN = np.geomspace(30, 0.03, CHANNELS).astype(np.float32)


def uneven(layer: str, shape: tuple[int, ...], weight: Array, y: str) -> Model:
    """One layer whose input channels are far from even, without a mean."""
    return build(
        f"net (float[N,{','.join(map(str, shape))}] x) => (float[N,{y}] y) {{ y = {layer} (x, w) }}",
        {"w": weight},
        lambda batch, seed: {
            "x": np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)
            * (GAIN[:, None, None] if len(shape) == 3 else GAIN)
        },
    )


LAYERS: dict[str, tuple[Model, str]] = {
    "conv": (
        uneven("Conv <pads = [1,1,1,1]>", (CHANNELS, 6, 6), W.conv(16, CHANNELS), "16,6,6"),
        "conv",
    ),
    "gemm": (uneven("Gemm", (CHANNELS,), W.dense(CHANNELS, 40), "40"), "in first"),
    "gemm, transposed": (
        uneven("Gemm <transB = 1>", (CHANNELS,), W.dense(CHANNELS, 40).T.copy(), "40"),
        "in last",
    ),
    "matmul": (uneven("MatMul", (5, CHANNELS), W.dense(CHANNELS, 40), "5,40"), "in first"),
}


def rules(rounds: int, levels: int = 16, **more: Any) -> Recipe:
    choice = AlgorithmChoice.of("nuq", {"levels": levels, "rounds": rounds})
    return Recipe(
        rules=(Rule(AllNodes(), Settings(weight=choice, **more)),),
        bias_correction="off",
        equalize="off",
    )


def chosen(
    made: Model, rounds: int, **more: Any
) -> tuple[ir.Model, Plan, Parameters, list[dict[str, Array]]]:
    """Resolve and choose, as the pipeline does before it refines."""
    model, feeds = made
    loaded = prepare(load(model))
    plan = resolve(rules(rounds, **more), loaded)
    data = [feeds(batch=16, seed=seed) for seed in range(4)]
    batches = [Batch(f, {}, 0, 16, "data") for f in data]
    statistics = observe(loaded, plan.observed_tensors, batches)
    params = Parameters(choose_activations(plan, statistics), choose_layers(plan, loaded))
    return loaded, plan, params, data


def weight_of(model: ir.Model, plan: Plan) -> Array:
    const = model.graph.initializers[plan.weights[0].weight].const_value
    assert const is not None
    return np.asarray(const.numpy())


def codebook_by_hand(
    model: ir.Model, plan: Plan, params: Parameters, data: list[dict[str, Array]], form: str
) -> tuple[int, ...]:
    """The levels of the first round, with loops and the inputs the layer gets."""
    from calibrant.algorithms._kmeans import codebook

    w = weight_of(model, plan)
    layer = params.layers[plan.weights[0].layer]
    (activation,) = [d for d in plan.activations if d.tensor == "x"]
    x = fake_quantize(
        np.concatenate([d["x"] for d in data]), params.activations[activation.id]
    ).astype(np.float64)
    axis = 1 if form == "conv" else x.ndim - 1
    moment = np.mean(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) ** 2, axis=1)
    mass = np.zeros(256)
    keep = None
    for place in np.ndindex(*w.shape):
        out = place[layer.weight.axis] if layer.weight.axis is not None else 0
        scale = float(np.atleast_1d(layer.weight.scale)[out if layer.weight.scale.size > 1 else 0])
        q = int(np.clip(np.rint(w[place] / np.float32(scale)), -128, 127))
        mass[q + 128] += scale**2 * moment[place[0] if form == "in first" else place[1]]
        keep = 0 if q == 0 else keep
    return codebook(mass, 16, keep=keep)


def output_error(model: ir.Model, plan: Plan, layer: Any, data: list[dict[str, Array]]) -> float:
    """Mean squared error of the layer's output on the float input, with ONNX Runtime."""
    changed = model.clone()
    name = plan.weights[0].weight
    value = changed.graph.initializers[name]
    value.const_value = ir.tensor(dequantize(layer.values, layer.weight), name=name)
    pairs = [(outputs(model, d)[0], outputs(changed, d)[0]) for d in data]
    return float(np.mean([np.mean((a - b).astype(np.float64) ** 2) for a, b in pairs]))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_the_first_round_weighs_each_weight_by_what_it_meets(name: str, per_channel: bool) -> None:
    made, form = LAYERS[name]
    model, plan, params, data = chosen(made, 1, weight_per_channel=per_channel)
    refined, report = refine_levels(model, plan, params, data)
    (entry,) = report
    assert entry.kept
    assert entry.after < 0.8 * entry.before
    before, after = (p.layers[plan.weights[0].layer] for p in (params, refined))
    assert after.levels == codebook_by_hand(model, plan, params, data, form)
    assert after.levels != before.levels
    assert set(np.unique(after.values)) <= set(after.levels or ())
    # the report says what ONNX Runtime answers with either weight (but for the rounding of the input)
    errors = [output_error(model, plan, layer, data) for layer in (before, after)]
    assert [entry.before, entry.after] == pytest.approx(errors, rel=0.02)


def test_no_round_no_change() -> None:
    model, plan, params, data = chosen(LAYERS["conv"][0], 0)
    assert not plan.refines_levels
    refined, report = refine_levels(model, plan, params, data)
    assert report == []
    assert refined.layers[plan.weights[0].layer] is params.layers[plan.weights[0].layer]


def test_levels_that_answer_worse_are_not_kept() -> None:
    """A large mean makes all errors of an output add up, which the masses leave out."""
    w = W.conv(16, CHANNELS)

    def feeds(batch: int, seed: int) -> dict[str, Array]:
        x = np.random.default_rng(seed).normal(size=(batch, CHANNELS, 6, 6))
        return {"x": (50 + x * GAIN[:, None, None]).astype(np.float32)}

    text = "net (float[N,12,6,6] x) => (float[N,16,4,4] y) { y = Conv (x, w) }"
    found = []
    for seed in range(6):
        w = Weights(seed).conv(16, CHANNELS)
        model, plan, params, data = chosen(build(text, {"w": w}, feeds), 1)
        refined, report = refine_levels(model, plan, params, data)
        name = plan.weights[0].layer
        for entry in report:
            assert entry.kept == (entry.after < entry.before)
            same = refined.layers[name] is params.layers[name]
            assert same != entry.kept
        found += [entry.kept for entry in report]
    assert not all(found)


def test_inputs_that_say_nothing_count_ones() -> None:
    model, plan, params, data = chosen(LAYERS["conv"][0], 1)
    silent = [{"x": np.zeros_like(d["x"])} for d in data]
    refined, report = refine_levels(model, plan, params, silent)
    assert [e.kept for e in report] in ([], [False])  # nothing is heard, so nothing gets better
    assert refined.layers[plan.weights[0].layer] is params.layers[plan.weights[0].layer]


def summary(made: Model, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    model, feeds = made
    result = quantize(model, [feeds(batch=8, seed=s) for s in range(4)], recipe)
    return result.summary, {n: layer.levels for n, layer in result.params.layers.items()}


def test_further_rounds_start_from_the_codebooks_of_the_last_one() -> None:
    made = NETS["residual"]()
    levels = {}
    for rounds in (0, 1, 2, 5):
        said, levels[rounds] = summary(made, rules(rounds))
        entries = said["passes"]["levels_refined"]
        assert {e["round"] for e in entries} <= set(range(1, rounds + 1))
        assert all(e["kept"] == (e["after"] < e["before"]) for e in entries)
        by_round = [[e["kept"] for e in entries if e["round"] == n] for n in range(1, rounds + 1)]
        # a round in which nothing is kept is the last one
        ended = next((i for i, kept in enumerate(by_round) if not any(kept)), rounds)
        assert all(kept == [] for kept in by_round[ended + 1 :])
    assert levels[0] != levels[1]
    assert levels[1] != levels[2]


def test_layers_have_rounds_of_their_own() -> None:
    one = AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 1})
    none = AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 0})
    from calibrant.recipe import Layer

    base = rules(0)
    recipe = replace(
        base,
        rules=(
            Rule(AllNodes(), Settings(weight=none)),
            Rule(Layer("conv1"), Settings(weight=one)),
        ),
    )
    said, _ = summary(NETS["residual"](), recipe)
    assert {e["layer"] for e in said["passes"]["levels_refined"]} == {"conv1"}


def test_scales_by_channel_that_are_folded_into_the_weight() -> None:
    """The weight that has levels is then the folded one, and the layer reads the common scale."""
    made, _ = LAYERS["conv"]
    model, feeds = made
    choice = AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 1})
    settings = Settings(weight=choice, activation_per_channel=True)
    recipe = Recipe(rules=(Rule(AllNodes(), settings),), bias_correction="off", equalize="off")
    data = [feeds(batch=16, seed=s) for s in range(4)]
    result = quantize(model, data, recipe)
    entries = result.summary["passes"]["levels_refined"]
    assert all(e["after"] < e["before"] for e in entries if e["kept"])
    (layer,) = result.params.layers.values()
    assert layer.levels is not None
    assert set(np.unique(layer.values)) <= set(layer.levels)
    float_y, y = outputs(model, data[0])[0], outputs(result.deploy, data[0])[0]
    noise = float(np.mean((float_y - y) ** 2) / np.mean(float_y**2))
    assert noise < 0.02
