"""HFMG against the specification's worked example and a literal reading of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats
from tests.strategies import distributions


def test_worked_example():
    stats = TensorStats.exact(np.linspace(-1, 2, 3001).astype(np.float32))
    hfmg = algorithms.activation("hfmg", bins=1024)
    p = hfmg(stats, QuantSpec(symmetric=True))
    assert float(p.scale) == pytest.approx(0.0157249626, rel=1e-8)
    p = hfmg(stats, QuantSpec(symmetric=False))
    assert float(p.scale) == pytest.approx(0.0117532173, rel=1e-8)
    assert int(p.zero_point) == -43


def test_a_negative_constant_has_127_steps():
    p = algorithms.activation("hfmg")(TensorStats.of(np.full(9, -3.0)), QuantSpec(symmetric=True))
    assert float(p.scale) == np.float32(3 / 127)


def literal_ranges(histogram):
    """Ascend.md 4.3, loop by loop."""
    nbins = histogram.size
    step = max(math.ceil(histogram.sum() / 100000), 1)
    min_bins = math.ceil(nbins / 4)
    left, right, found = 0, nbins - 1, []
    while right - left > min_bins:
        tl, acc = left, 0
        while tl < right and acc < step:
            acc += histogram[tl]
            tl += 1
        tr, acc = right, 0
        while tl < tr and acc < step:
            acc += histogram[tr]
            tr -= 1
        if (right - tr) >= (tl - left):
            right = tr
        else:
            left = tl
        found.append((left, right))
    return found


def literal_loss(histogram, left, right, width, n_dst):
    """Ascend.md 4.4, for all source bins at once."""
    d = width * (right - left + 1) / n_dst
    if d < 1.192092896e-07:
        return 0.0
    a = (np.arange(histogram.size) - left) * width
    b = a + width
    j0 = np.floor(a / d).clip(0, n_dst - 1)
    j1 = np.floor(b / d).clip(0, n_dst - 1)

    def f(p, q):
        return (q**3 - p**3) / 3

    def centre(j):
        return j * d + d / 2

    within = f(a - centre(j0), b - centre(j0))
    across = (
        f(a - centre(j0), d / 2) + (j1 - j0 - 1) * f(-d / 2, d / 2) + f(-d / 2, b - centre(j1))
    )
    return float((histogram / width * np.where(j0 == j1, within, across)).sum())


def literal(x, spec, nbins):
    lo, hi = x.min(), x.max()
    index = ((x - lo) / (hi - lo) * np.float32(nbins)).astype(np.int64).clip(0, nbins - 1)
    histogram = np.bincount(index, minlength=nbins)
    width = (float(hi) - float(lo)) / nbins
    ranges = literal_ranges(histogram)
    losses = [
        literal_loss(histogram, lo_bin, hi_bin, width, 2**spec.bits) for lo_bin, hi_bin in ranges
    ]
    left, right = ranges[int(np.argmin(losses))]
    return QuantParams.from_range(float(lo) + left * width, float(lo) + (right + 1) * width, spec)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_exact_mode_is_the_literal_reading(bits, symmetric):
    spec = QuantSpec(bits=bits, symmetric=symmetric)
    hfmg = algorithms.activation("hfmg", bins=1024)
    for name, x in distributions(1500).items():
        if name == "constant":
            continue
        expected = literal(x, spec, 1024)
        p = hfmg(TensorStats.exact(x), spec)
        assert float(p.scale) == pytest.approx(float(expected.scale), rel=1e-6), name
        assert p.zero_point == expected.zero_point, name


def test_several_batches_are_one():
    x = distributions(3000)["lognormal"]
    merged = TensorStats.exact(x[2000:]).merge(TensorStats.exact(x[:2000]))
    hfmg = algorithms.activation("hfmg")
    assert hfmg(merged, QuantSpec()).scale == hfmg(TensorStats.exact(x), QuantSpec()).scale


def test_bins_change_the_result():
    stats = TensorStats.of(distributions(3000)["laplace"])
    scales = {
        float(algorithms.activation("hfmg", bins=b)(stats, QuantSpec()).scale)
        for b in (1024, 2048, 4096, 8192)
    }
    assert len(scales) > 1
