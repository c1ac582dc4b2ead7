"""Algorithms of someone else travel the whole road: what they can do counts, and not what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pytest

import calibrant
from calibrant import algorithms
from calibrant.algorithms import RoundingProblem, _registry
from calibrant.algorithms.options import options
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, outputs, quantize


@options
class FlipOnce:
    """Round each weight the other way where that lowers the error of its output, one input after another."""

    def __call__(self, values: Any, spec: QuantSpec) -> QuantParams:
        return algorithms.weight("max")(values, spec)

    def learn(self, problem: RoundingProblem) -> np.ndarray:
        exact = problem.weight / problem.scale
        low, high = problem.dtype.qmin, problem.dtype.qmax
        steps = np.clip(np.rint(exact), low, high)
        best = problem.errors(steps)  # (groups, out)
        for k in range(steps.shape[2]):
            tried = steps.copy()
            tried[:, :, k] += np.where(exact[:, :, k] > steps[:, :, k], 1, -1)
            tried = np.clip(tried, low, high)
            error = problem.errors(tried)
            better = error < best
            steps[better], best = tried[better], np.minimum(error, best)
        return steps


@options
class OffTheGrid(FlipOnce):
    """Answer with what is no weight on the grid."""

    def learn(self, problem: RoundingProblem) -> np.ndarray:
        return problem.weight / problem.scale


@options
class PowersOfTwo:
    """Keep 0 and powers of two, or even steps where the inputs are known.

    Args:
        rounds: Rounds of refinement.
        more: Levels beside them.
        storage: How the weight is stored.
    """

    rounds: int = 1
    more: tuple[int] = (-128,)
    storage: Literal["int8", "indices"] = "int8"

    def __call__(self, values: Any, spec: QuantSpec) -> QuantParams:
        return algorithms.weight("max")(values, spec)

    def codebook(self, values: np.ndarray, weights: np.ndarray | None = None) -> tuple[int, ...]:
        powers = [1, 2, 4, 8, 16, 32, 64]
        if weights is not None:  # what inputs a weight meets is known: steps of one size
            powers = [16, 32, 48, 64, 80, 96, 112]
        return tuple(sorted([0, *powers, *(-p for p in powers), *self.more]))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    algorithms.names()  # all of ours first
    with mock.patch.dict(_registry._registered["weight"]):
        algorithms.register_weight("flip-once")(FlipOnce)
        algorithms.register_weight("off-the-grid")(OffTheGrid)
        algorithms.register_weight("powers-of-two")(PowersOfTwo)
        yield


def quantized(name: str, net: str = "gemm_mlp", bits: int = 8, **more: Any) -> QuantizedModel:
    model, feeds = NETS[net]()
    settings = Settings(
        weight=AlgorithmChoice.of(name, more),
        weight_bits=bits,
        activation=AlgorithmChoice("min-max"),
        activation_bits=16 if bits == 4 else 8,
    )
    recipe = Recipe((Rule(AllNodes(), settings),), bias_correction="off", equalize="off")
    return quantize(model, batches(feeds), recipe)


def db(result: QuantizedModel) -> float:
    return float(result.summary["quality"]["outputs"]["y"]["sqnr_db"])


def test_a_rounding_is_learned() -> None:
    nearest, learned = quantized("max", bits=4), quantized("flip-once", bits=4)
    assert db(learned) > db(nearest) + 1
    report = learned.summary["passes"]["rounding_learned"]
    assert {entry["layer"] for entry in report} == set(learned.params.layers)
    assert all(entry["learned"] < entry["nearest"] for entry in report)


def test_what_is_no_weight_on_the_grid_is_refused() -> None:
    with pytest.raises(ConfigValueError, match=r"'off-the-grid' learned no weight.* in \[-8, 7\]"):
        quantized("off-the-grid", bits=4)


@pytest.mark.parametrize("storage", ["int8", "indices"])
def test_a_codebook_is_kept_and_refined(storage: str) -> None:
    result = quantized("powers-of-two", storage=storage)
    assert result.summary["passes"]["levels_refined"]
    layers = result.summary["size"]["few_levels"]["layers"]
    assert {layer["layer"] for layer in layers} == set(result.params.layers)
    assert {layer["stored"] for layer in layers} == {storage}
    for layer in result.params.layers.values():
        assert layer.levels is not None
        assert set(np.unique(layer.values)) <= set(layer.levels)
    kept = {e["layer"] for e in result.summary["passes"]["levels_refined"] if e["kept"]}
    moved = {name for name, x in result.params.layers.items() if x.levels and x.levels[-1] == 112}
    assert kept == moved
    assert kept


def test_levels_that_no_device_has_are_refused() -> None:
    message = r"'powers-of-two' keeps the levels \[-64.*, 64, 64\]; a weight keeps 16 or 32"
    with pytest.raises(ConfigValueError, match=message):
        quantized("powers-of-two", more=(64,))


def test_a_layer_that_cannot_keep_levels_has_the_whole_grid() -> None:
    result = quantized("powers-of-two", net="grouped")
    plan = result.plan
    whole = [w for w in plan.weights if w.codebook is None]
    assert whole
    assert {w.algorithm.name for w in whole} == {"arq"}


@pytest.mark.parametrize(
    ("name", "more"),
    [("flip-once", {}), ("powers-of-two", {}), ("powers-of-two", {"storage": "indices"})],
)
def test_a_record_builds_the_same_model(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    result = quantized(name, **more)
    result.save(tmp_path / "out")
    model, feeds = NETS["gemm_mlp"]()
    again = calibrant.quantize_from_record(model, tmp_path / "out" / "record.txt")
    feed = feeds(batch=4, seed=9)
    for a, b in zip(outputs(result.deploy, feed), outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)
