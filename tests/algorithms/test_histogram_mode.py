"""Choosing from bins costs at most 0.1 % of the algorithm's own loss, measured on the values."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.algorithms.activations import hfmg
from calibrant.numerics import QuantSpec, fake_quantize
from calibrant.stats import TensorStats
from tests.strategies import distributions

SIZE = 40_000
DATA = distributions(SIZE, seed=5)


def squared_error(x, params, spec):
    return np.mean((x - fake_quantize(x, params)) ** 2, dtype=np.float64)


def ifmr_loss(x, params, spec):
    """Loss of docs/explanation/algorithms/ifmr.md for a scale: no offset and no integer clamp."""
    s = np.float32(params.scale)
    low = min(x.min(), np.float32(0))
    if spec.symmetric:
        negative = max(x.max(), 0) < -low
        high = s * np.float32(spec.dtype.qmax + negative)
        low = -high
    else:
        high = low + s * np.float32(2**spec.bits - 1)
    return np.mean((np.rint(np.clip(x, low, high) / s) * s - x) ** 2, dtype=np.float64)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("name", "loss"), [("ifmr", ifmr_loss), ("mse", squared_error)])
def test_loss(name, loss, bits, symmetric):
    spec = QuantSpec(bits=bits, symmetric=symmetric)
    algorithm = algorithms.activation(name)
    for shape, x in DATA.items():
        exact = loss(x, algorithm(TensorStats.exact(x), spec), spec)
        binned = loss(x, algorithm(TensorStats.of(x), spec), spec)
        assert binned <= exact * 1.001, (shape, binned / exact)


@pytest.mark.parametrize("bits", [8, 16])
def test_loss_of_hfmg(bits):
    """The loss of docs/explanation/algorithms/hfmg.md on the histogram of the values, for the range chosen from bins."""
    for shape, x in DATA.items():
        if shape == "constant":
            continue
        histogram = hfmg._histogram(TensorStats.exact(x), 4096)
        ranges = [
            hfmg._search(make(x), 4096, QuantSpec(bits))
            for make in (TensorStats.exact, TensorStats.of)
        ]
        lower, upper = np.array(ranges).T
        exact, binned = hfmg._losses(histogram, lower, upper, 1 << bits)
        assert binned <= exact * 1.001, (shape, binned / exact)


def test_most_of_the_data_is_in_bins():
    assert sum(not TensorStats.of(x).is_exact for x in DATA.values()) >= 12
