"""The figure for unseen samples: ranges from one half of the probe, outputs for the other."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.tuning import extent
from tests.models import NETS
from tests.road import batches, quantize


def test_an_outlier_that_was_seen_helps_the_seen_figure_alone() -> None:
    model, feeds = NETS["residual"]()
    data = batches(feeds)
    clipped = Recipe(
        rules=(Rule(AllNodes(), Settings(activation=AlgorithmChoice("max"))),),
        equalize="off",
        bias_correction="off",
    )
    calm = quantize(model, data, clipped).summary["quality"]
    data[0]["x"][0] *= 30  # in the even half alone, so the odd half does not know it
    wild = quantize(model, data, clipped).summary["quality"]
    assert calm["unseen_samples"] >= 16
    seen, part = wild["outputs"]["y"]["sqnr_db"], wild["outputs"]["y"]["parts"][0]["sqnr_db"]
    assert part < seen - 6
    near = calm["outputs"]["y"]
    assert abs(near["parts"][0]["sqnr_db"] - near["sqnr_db"]) < 4


def test_one_feed_says_nothing_of_unseen_samples() -> None:
    model, feeds = NETS["residual"]()
    one = [feeds(batch=1, seed=3)]
    quality = quantize(model, one).summary["quality"]
    assert quality["unseen_samples"] == 0
    assert "Nothing can be said" in quality["unseen"]
    assert np.isfinite(quality["outputs"]["y"]["sqnr_db"])


@pytest.mark.parametrize("large", [False, True])
def test_both_figures_come_from_few_samples_of_large_tensors(
    monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    if large:
        monkeypatch.setattr(extent, "AFFORDABLE_VALUES", 1)
    model, feeds = NETS["residual"]()
    quality = quantize(model, batches(feeds, count=16, size=2)).summary["quality"]
    assert quality["samples"] == (8 if large else 32)
    assert quality["unseen_samples"] == (8 if large else 16)
