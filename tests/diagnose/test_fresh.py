"""Gains are told on samples that did not choose the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from calibrant.analysis.better import Comparison
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import Score
from calibrant.data.batch import Batch
from calibrant.diagnose import rank
from calibrant.diagnose.advice.fresh import apart, kept_of
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.trials import Trials
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.tuning.bench import Bench
from tests.models import NETS

BEFORE, NOW = Score(10.0, {"y": 10.0}), Score(9.0, {"y": 9.0})


def probe(samples: int, feed: int) -> Probe:
    sizes = [(i, min(feed, samples - i)) for i in range(0, samples, feed)]
    batches = [Batch({"x": np.zeros((n, 1), np.float32)}, {}, i, n, "") for i, n in sizes]
    none = [dict[str, np.ndarray]()] * len(batches)
    return Probe(batches, batches, True, none, (), none)


@pytest.mark.parametrize(("samples", "feed"), [(64, 6), (64, 8), (32, 4), (16, 2), (11, 1)])
def test_samples_that_choose_do_not_tell(samples: int, feed: int) -> None:
    choosing, others = apart(probe(samples, feed), 8)
    assert others is not None
    assert not {b.first for b in choosing.small} & {b.first for b in others.small}
    assert choosing.samples >= min(8, samples // 2) - feed
    assert others.samples >= 5


@pytest.mark.parametrize(("samples", "feed"), [(8, 1), (64, 64)])
def test_all_choose_where_too_few_are_left(samples: int, feed: int) -> None:
    choosing, others = apart(probe(samples, feed), 8)
    assert others is None
    assert choosing.samples >= 8


@dataclass
class Fresh:
    """Answers with a gain and its noise for each recipe."""

    gains: dict[str, tuple[float, float]]

    def compared(self, recipe: Recipe) -> tuple[Score, Comparison]:
        gain, noise = self.gains[recipe.target]
        score = Score(9 + gain, {"y": 9 + gain})
        return score, Comparison(gain > noise, True, gain, noise, {}, (), 16, "")


def step(name: str, gain: float, price: int = 0, units: int = 1) -> tuple[Tried, Score]:
    recipe = Recipe(target=name)
    tried = Tried(("conv",), "range", "", "", name, price, "", recipe, Recipe(), units)
    return tried, Score(10 + gain, {"y": 10 + gain})


def shown(*steps: tuple[Tried, Score], **gains: tuple[float, float]) -> list[tuple[str, float]]:
    kept = kept_of(steps, BEFORE, Fresh(gains), NOW)  # type: ignore[arg-type]
    return [(tried.move, round(gain, 6)) for tried, _, gain in kept]


def test_the_gain_that_is_told_is_that_on_other_samples() -> None:
    assert shown(step("a", 4.0), a=(1.9, 0.5)) == [("a", 1.9)]


def test_a_gain_within_its_noise_is_not_shown() -> None:
    assert shown(step("a", 1.1), a=(0.3, 0.4)) == []
    assert shown(step("a", 1.1), a=(-0.2, 0.1)) == []


def test_a_step_that_stood_behind_one_that_fell_is_looked_at() -> None:
    """The dearer one gains hardly more than the cheap one where steps are chosen."""
    steps = step("cheap", 3.0), step("dear", 3.5, price=3)
    assert shown(*steps, cheap=(3.0, 1.0), dear=(3.5, 1.0)) == [("cheap", 3.0)]
    assert shown(*steps, cheap=(0.2, 1.0), dear=(3.2, 1.0)) == [("dear", 3.2)]


def test_scales_by_channel_are_judged_on_samples_that_they_do_not_come_from() -> None:
    """Each channel is large in samples of its own: a scale for each, from the other half, clips it."""
    model, feeds = NETS["residual"]()
    x = np.array(feeds(batch=16, seed=1)["x"])
    for i in (6, 7, 9):
        x[i, i % x.shape[1]] *= 31
    bench = Bench(model, {"x": x})
    ranges = Settings(activation=AlgorithmChoice("max"))
    recipe = rank.PLAIN.with_rules(Rule(AllNodes(), ranges))
    solved = bench.found(recipe)
    assert solved.probe is not None
    trials = Trials(bench.store, solved.probe, solved, seen=True)
    channels = Rule(AllNodes(), Settings(activation_per_channel=True))
    score, comparison = trials.compared(recipe.with_rules(channels))
    assert score.db < trials.of(solved).db - 10
    assert comparison.gain_db < 0
