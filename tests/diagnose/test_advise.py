"""What is wrong with a network is named first, and what mends it gains what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.diagnose import rank
from calibrant.diagnose.advice.keep import LEAST_DB
from calibrant.errors import ConfigValueError
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from tests.models import NETS, sabotaged

PLAIN = rank.PLAIN
KEPT = Recipe((Rule(AllNodes(), Settings(activation=AlgorithmChoice("from-model"))),))
ONNXRUNTIME = replace(PLAIN, target="onnxruntime")


def advice(net: Any, recipe: Recipe = PLAIN, **options: Any) -> calibrant.Advice:
    model, feeds = net
    return calibrant.advise(model, feeds(batch=32, seed=1), recipe=recipe, **options)


@pytest.mark.parametrize("recipe", [PLAIN, ONNXRUNTIME], ids=["generic", "onnxruntime"])
def test_hostile_channels_are_named_first(recipe: Recipe) -> None:
    found = advice(sabotaged.hostile_channels(), recipe)
    assert found.culprits[0].cause == "range"
    assert set(found.culprits[0].layers) & {"conv2", "conv3"}
    first = found.steps[0]
    assert first.cause == "range"
    assert first.gain_db > 6
    assert set(first.layers) <= {"conv2", "conv3"}
    if len(first.layers) == 1:
        assert "2 of 16 channels hold the range" in first.what


def test_a_clipped_activation_is_named_first() -> None:
    narrow = Settings(activation=AlgorithmChoice.of("fixed", {"low": -0.05, "high": 0.05}))
    recipe = PLAIN.with_rules(Rule(Layer("conv3"), narrow))
    found = advice(NETS["residual"](), recipe)
    assert found.culprits[0].layers[0] == "conv3"
    assert found.culprits[0].cause == "clipping"
    first = found.steps[0]
    assert first.layers == ("conv3",)
    assert first.cause == "clipping"
    assert first.move == "algorithm"
    assert first.gain_db > 6


@pytest.mark.parametrize("value", [-1e9, -1e4])
def test_a_mask_is_named_first(value: float) -> None:
    recipe = replace(PLAIN, target="horizon-like")
    found = advice(sabotaged.masked_scores(value), recipe)
    assert [f.cause for f in found.findings] == ["mask"]
    assert found.findings[0].word == "certain"
    first = found.steps[0]
    assert first.cause == "mask"
    assert "placed" in first.layers
    assert first.gain_db > 6


def test_a_coarse_weight_is_named_first() -> None:
    recipe = PLAIN.with_rules(Rule(Layer("conv3"), Settings(weight_bits=4)))
    found = advice(NETS["residual"](), recipe)
    assert found.culprits[0].layers == ("conv3",)
    assert found.culprits[0].kind == "weight"
    first = found.steps[0]
    assert first.layers == ("conv3",)
    assert first.cause == "rounding"
    assert first.gain_db > 3


def wrong(x: dict[str, Any], how: str) -> dict[str, Any]:
    return {
        "x": {
            "0 to 255": x["x"] * 255,
            "twice": (x["x"] - 0.45) / 0.225,
            "colours": np.ascontiguousarray(x["x"][:, ::-1]),
        }[how]
    }


@pytest.mark.parametrize("how", ["0 to 255", "twice"])
def test_wrong_calibration_data_is_named_first(how: str) -> None:
    model, _ = NETS["residual"]()
    feeds = sabotaged.smooth_images()
    found = calibrant.advise(
        model,
        wrong(feeds(batch=32, seed=1), how),
        recipe=PLAIN,
        evaluation=feeds(batch=48, seed=2),
    )
    assert found.findings[0].cause == "data"
    first = found.steps[0]
    assert first.cause == "data"
    assert first.gain_db > 1


def test_gains_are_those_of_the_recipes() -> None:
    model, feeds = sabotaged.hostile_channels()
    x = feeds(batch=32, seed=1)
    found = calibrant.advise(model, x, recipe=PLAIN, samples=32)
    bench = calibrant.Bench(model, x)
    before = bench.score(bench.solve(found.recipe))
    for step in found.steps[:3]:
        after = bench.score(bench.solve(step.recipe))
        assert after.db - before.db == pytest.approx(step.gain_db, abs=2.0)


def test_steps_are_in_order_and_none_loses() -> None:
    found = advice(NETS["depthwise_leaky"](), Recipe(target="onnxruntime"))
    gains = [s.gain_db for s in found.steps]
    assert gains == sorted(gains, reverse=True)
    assert all(g >= LEAST_DB for g in gains)
    content = found.content()
    assert set(content["steps"][0]) >= {"layers", "cause", "gain_db", "recipe"}
    calibrant.load_recipe(content["steps"][0]["recipe"])


def test_a_good_network_has_no_findings() -> None:
    found = advice(NETS["residual"](), minutes=0.2)
    assert found.findings == ()


def test_the_metric_is_told() -> None:
    model, _ = NETS["conv_bn_relu"]()
    feeds = sabotaged.smooth_images()
    x = feeds(batch=48, seed=2)
    labels = np.arange(48) % 10
    found = calibrant.advise(
        model,
        feeds(batch=32, seed=1),
        recipe=PLAIN,
        evaluation={**x, "labels": labels},
        metric="top1",
    )
    assert set(found.metric) == {"float", "now"}
    assert all(s.metric is not None for s in found.steps[:3])


def test_arguments_are_checked() -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=4, seed=1)
    for options, message in (
        ({"samples": 0}, "samples is 0"),
        ({"minutes": 0}, "minutes is 0"),
        ({"metric": "top1"}, "needs evaluation data"),
        (
            {"recipe": KEPT},
            "keeps the scales",
        ),
    ):
        with pytest.raises(ConfigValueError, match=message):
            calibrant.advise(model, x, **options)


def test_samples_are_not_judged_by_ranges_that_they_gave() -> None:
    """One sample is larger than all others: ranges without it clip it, which 16 bits cannot mend."""
    model, feeds = NETS["residual"]()
    data = {n: np.array(x) for n, x in feeds(batch=16, seed=1).items()}
    for x in data.values():
        x[6] *= 30
    wide = Settings(activation=AlgorithmChoice("max"), activation_bits=16, weight_bits=16)
    recipe = PLAIN.with_rules(Rule(AllNodes(), wide))
    unseen = calibrant.advise(model, data, recipe=recipe, minutes=0.01)
    seen = calibrant.advise(model, data, recipe=recipe, minutes=0.01, evaluation=data)
    assert unseen.score_db < 30
    assert seen.score_db > 50
