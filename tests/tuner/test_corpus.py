"""Metrics that are no mean over samples: paired with the float model by drawing samples again, and never cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.registry import task_metric
from calibrant.demo import digits
from calibrant.tuner.corpus import bootstrap, values_of_draws
from calibrant.tuner.result import TuningResult


def answers() -> dict[str, Any]:
    """Return images, and what the float model answers with noise on it: a regression of ten targets."""
    image = digits.evaluation().image[:160]
    from calibrant.graph.load import load
    from calibrant.tuner.own_code import Runner

    scores = next(iter(Runner(load(digits.MODEL))({"image": image}).values()))
    noise = np.random.default_rng(0).normal(0, scores.std() / 2, scores.shape)
    return {"image": image, "labels": (scores + noise).astype(np.float32)}


def tuned(data: dict[str, Any], metric: str, require: str, **options: Any) -> TuningResult:
    calibration = {"image": digits.calibration().image[:64]}
    return calibrant.tune(digits.MODEL, calibration, (data, metric), require, **options)


@pytest.mark.slow
def test_a_metric_of_all_samples_is_tuned_to(tmp_path: Path) -> None:
    data = answers()
    result = tuned(data, "r2", "max-drop 2%", out=tmp_path, holdout=0.2)
    assert result.met
    told = calibrant.evaluate(result.result, data, "r2").value
    assert result.score == pytest.approx(told, abs=1e-9)
    assert result.float_score == pytest.approx(
        calibrant.evaluate(digits.MODEL, data, "r2").value, abs=1e-9
    )
    held = result.verdict.held_out
    assert held is not None
    assert held.samples == pytest.approx(32, abs=16)
    assert result.verdict.interval is not None
    low, high = result.verdict.interval
    assert low < result.verdict.reached.loss < high
    assert result.counts.precheck_samples == 0
    assert any("no mean over samples" in n for n in result.notes)
    again = tuned(data, "r2", "max-drop 2%", out=tmp_path, holdout=0.2)
    assert (again.score, again.verdict, again.raised) == (
        result.score,
        result.verdict,
        result.raised,
    )


@pytest.mark.slow
def test_less_is_better_of_an_error() -> None:
    result = tuned(answers(), "rmse", "max-drop 3%")
    assert result.met
    assert isinstance(result.float_score, float)
    assert isinstance(result.score, float)
    assert result.score <= 1.03 * result.float_score
    assert result.verdict.held_out is None


@pytest.mark.slow
def test_the_interval_holds_the_loss_as_often_as_it_says() -> None:
    """Drawn from a population whose loss is known, 95 % intervals hold it in most of 60 trials."""
    metric = task_metric("rmse")
    assert isinstance(metric, CorpusMetric)
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        shared, own = rng.standard_normal((2, 80))
        mine = [(float(x) ** 2, 1) for x in shared + 0.5 * own]
        reference = [(float(x) ** 2, 1) for x in shared]
        ends = bootstrap(metric, mine, values_of_draws(metric, reference))
        assert ends is not None
        held += ends[0] <= 1 - np.sqrt(1.25) <= ends[1]
    assert held >= 50


def test_equal_models_say_nothing_of_an_interval() -> None:
    metric = task_metric("rmse")
    assert isinstance(metric, CorpusMetric)
    same = [(1.0, 1), (2.0, 1)]
    assert bootstrap(metric, same, values_of_draws(metric, same)) is None
    assert bootstrap(metric, same[:1], values_of_draws(metric, same[1:])) is None
