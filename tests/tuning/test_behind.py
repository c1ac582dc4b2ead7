"""Activations observed behind rounded weights: the worked example, and that the setting decides."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.numerics import QuantSpec, dequantize
from calibrant.numerics import quantize as on_grid
from calibrant.recipe import AlgorithmChoice, AllNodes, Calibration, Recipe, Rule, Settings
from calibrant.stats import TensorStats
from tests.models import Weights, build, normal
from tests.road import quantize


def kernel() -> np.ndarray:
    w = np.full((1, 1, 3, 3), 0.3, np.float32)
    w[0, 0, 1, 1] = 1.0
    return w


def network():
    weights = {"w1": kernel(), "w2": Weights(4).conv(1, 1)}
    return build(
        """net (float[N,1,8,8] x) => (float[N,1,8,8] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            relu1 = Relu (conv1)
            y = Conv <pads = [1,1,1,1]> (relu1, w2)
        }""",
        weights,
        normal(1, 8, 8),
    )


def recipe(behind: str) -> Recipe:
    rules = (
        Rule(
            AllNodes(),
            Settings(activation=AlgorithmChoice("max"), weight=AlgorithmChoice("arq")),
        ),
    )
    return Recipe(
        rules=rules,
        target="layers-only",
        calibration=Calibration(exact=True, behind=behind),  # type: ignore[arg-type]
        equalize="off",
        bias_correction="off",
    )


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    padded = np.pad(x[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    rows, columns = x.shape[2:]
    parts = [
        w[0, 0, i, j] * padded[:, i : i + rows, j : j + columns]
        for i in range(3)
        for j in range(3)
    ]
    return np.maximum(np.sum(parts, axis=0), 0).astype(np.float32)


def test_the_second_layers_range_comes_from_the_first_layers_rounded_kernel() -> None:
    model, feeds = network()
    data = [feeds(batch=8, seed=1)]
    w = kernel()
    p = algorithms.weight("arq")(w, QuantSpec(bits=8, symmetric=True, axis=0))
    rounded = dequantize(on_grid(w, p), p)
    assert not np.array_equal(rounded, w)
    for behind, used in (("weights", rounded), ("float", w)):
        result = quantize(model, data, recipe(behind))
        second = next(d for d in result.plan.activations if d.tensor == "relu1")
        seen = TensorStats.exact(convolved(data[0]["x"], used))
        expected = algorithms.activation("max")(seen, second.spec)
        np.testing.assert_allclose(
            result.params.activations[second.id].scale, expected.scale, rtol=2e-6
        )
    scales = [
        float(quantize(model, data, recipe(b)).params.activations["relu1"].scale)
        for b in ("weights", "float", "auto")
    ]
    assert scales[0] != pytest.approx(scales[1], rel=1e-4)
    assert scales[2] == scales[1]  # the algorithm is not open, so `auto` is the float model
