"""Models that are fed by the feed, or with numbers beside their samples, go the whole road."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import calibrant
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from tests.models import Array, Model, Weights, build
from tests.road import outputs, quantize, sqnr_db


def recurrent() -> Model:
    """[time, 24] beside states of [1, 1, 8]: the inputs share no axis of samples."""
    w = Weights(5)
    weights = {
        "w": w.dense(24, 12),
        "one": np.array([1]),
        "wi": w.dense(32, 12)[None],
        "wr": w.dense(32, 8)[None],
    }

    def feeds(batch: int = 9, seed: int = 0) -> dict[str, Array]:
        x = np.random.default_rng(seed).normal(size=(batch, 24)).astype(np.float32)
        return {"x": x, "h": np.zeros((1, 1, 8), np.float32), "c": np.zeros((1, 1, 8), np.float32)}

    return build(
        """net (float[time,24] x, float[1,1,8] h, float[1,1,8] c) => (float[time,1,1,8] y, float[1,1,8] hn) {
            fc = MatMul (x, w)
            relu = Relu (fc)
            u = Unsqueeze (relu, one)
            y, hn, cn = LSTM <hidden_size = 8> (u, wi, wr, , , h, c)
        }""",
        weights,
        feeds,
    )


def scaled() -> Model:
    """A convolution and a layer behind it, between them a number of the caller's, and a switch."""
    w = Weights(6)
    weights = {"w1": w.conv(8, 3), "wf": w.dense(8 * 14 * 14, 4), "zero": np.float32(0)}

    def feeds(batch: int = 8, seed: int = 0) -> dict[str, Array]:
        x = np.random.default_rng(seed).normal(size=(batch, 3, 16, 16)).astype(np.float32)
        return {"rate": np.array(3), "x": x, "on": np.array(True)}

    return build(
        """net (int64 rate, float[n,3,16,16] x, bool on) => (float[n,4] y) {
            conv = Conv (x, w1)
            relu = Relu (conv)
            factor = Cast <to = 1> (rate)
            mul = Mul (relu, factor)
            chosen = Where (on, mul, zero)
            flat = Flatten (chosen)
            y = MatMul (flat, wf)
        }""",
        weights,
        feeds,
    )


CANDIDATES = tuple(Settings(activation=AlgorithmChoice(n)) for n in ("min-max", "mse"))
RECIPES = {
    "correction": Recipe(bias_correction="on", equalize="off"),
    "promotion": Recipe(promote=Promotion(count=1)),
    "rules": Recipe(rules=(Rule(AllNodes(), Settings(bias_samples=4)),)),
    "search": Recipe(
        rules=(Rule(AllNodes(), Settings(candidates=CANDIDATES)),), search=Search(samples=4)
    ),
    "layers": Recipe(
        rules=(Rule(AllNodes(), Settings(candidates=CANDIDATES)),),
        search=Search(samples=3, scope="layer"),
    ),
}


def data(feeds: Callable[..., dict[str, Array]], *, by_feed: bool) -> list[dict[str, Array]]:
    sizes = (9, 12, 7, 15, 10, 8) if by_feed else (8, 8, 8)
    return [feeds(batch=n, seed=k) for k, n in enumerate(sizes)]


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like"])
@pytest.mark.parametrize("make", [recurrent, scaled])
def test_every_target_quantizes_them(make: Callable[[], Model], target: str) -> None:
    model, feeds = make()
    by_feed = make is recurrent
    result = quantize(model, data(feeds, by_feed=by_feed), Recipe(target=target), per_node=True)
    assert result.summary["data"]["samples"] == (6 if by_feed else 24)
    assert result.summary["layers"]["quantized"] >= 1
    for size in (5, 21):
        feed = feeds(batch=size, seed=99)
        wanted, got = outputs(model, feed), outputs(result.deploy, feed, optimize=False)
        for a, b in zip(wanted, got, strict=True):
            assert a.shape == b.shape
            assert sqnr_db(a, b) > 20


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("make", [recurrent, scaled])
def test_what_looks_at_samples_looks_at_feeds(make: Callable[[], Model], name: str) -> None:
    model, feeds = make()
    result = quantize(model, data(feeds, by_feed=make is recurrent), RECIPES[name])
    assert all(q["sqnr_db"] > 15 for q in result.summary["quality"]["outputs"].values())


@pytest.mark.parametrize("make", [recurrent, scaled])
def test_random_values_stand_in_for_them(make: Callable[[], Model]) -> None:
    model, feeds = make()
    result = quantize(model, None, Recipe(calibration=Calibration(random=True)))
    assert outputs(result.deploy, feeds(batch=3))[0].shape[0] == 3


@pytest.mark.parametrize("make", [recurrent, scaled])
def test_they_can_be_evaluated(make: Callable[[], Model]) -> None:
    model, feeds = make()
    given = data(feeds, by_feed=make is recurrent)
    name = model.graph.output[0].name
    for feed in given:
        feed[name] = outputs(model, feed)[0]
    found = calibrant.evaluate(model, given, "mse")
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.samples == (6 if make is recurrent else 24)


def test_statistics_are_those_of_the_feeds_in_any_order() -> None:
    model, feeds = recurrent()
    given = data(feeds, by_feed=True)
    whole = calibrant.observe(model, given)
    parts = [calibrant.observe(model, given[a:b]) for a, b in ((4, 6), (0, 4))]
    merged = parts[0].merge(parts[1])
    for name in whole:
        assert whole[name] == merged[name]
    assert whole["x"].count == sum(f["x"].size for f in given)
