"""IFMR against the specification's worked examples and a literal reading of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.algorithms._distribution import percentile_rank
from calibrant.algorithms._search import ratios
from calibrant.numerics import QuantSpec
from calibrant.stats import TensorStats
from tests.strategies import distributions

X = np.array([-1, 0, 1, 2, 3, 4, 10], dtype=np.float32)


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(0.7, 1.3, 0.01, 61), (0.3, 1.7, 0.01, 140), (0.8, 1.2, 0.02, 20), (0.7, 1.3, 0.05, 13)],
)
def test_number_of_candidates(start, end, step, count):
    assert ratios(start, end, step).shape == (count,)
    assert ratios(start, end, step).dtype == np.float32


@pytest.mark.parametrize(("n", "rank"), [(10, 1), (999_999, 1), (1_000_001, 2), (2_000_000, 2)])
def test_percentile_rank(n, rank):
    assert percentile_rank(n, 0.999999) == rank


def test_percentile_one_is_the_extreme():
    assert percentile_rank(10**9, 1.0) == percentile_rank(10**9, 1 - 1e-8) == 1


def test_worked_examples():
    ifmr = algorithms.activation("ifmr")
    p = ifmr(TensorStats.exact(X), QuantSpec(symmetric=True))
    assert (float(p.scale), int(p.zero_point)) == (float(np.float32(0.1)), 0)
    p = ifmr(TensorStats.exact(X), QuantSpec(symmetric=False))
    assert float(p.scale) == pytest.approx(0.0454901941, rel=1e-8)
    assert int(p.zero_point) == -106
    assert p.range == pytest.approx((-1.00078428, 10.5992155), rel=1e-7)


def test_worked_example_with_percentiles():
    ifmr = algorithms.activation(
        "ifmr", search_range=(0.5, 1.5), search_step=0.1, max_percentile=0.8, min_percentile=0.8
    )
    p = ifmr(TensorStats.exact(X), QuantSpec(bits=4, symmetric=True))
    assert float(p.scale) == pytest.approx(0.8, rel=1e-7)
    p = ifmr(TensorStats.exact(X), QuantSpec(bits=4, symmetric=False))
    assert float(p.scale) == pytest.approx(0.373333335, rel=1e-8)
    assert int(p.zero_point) == -8


@pytest.mark.parametrize(
    ("x", "symmetric", "asymmetric"),
    [
        (np.zeros(5), (1, 0), (1, -128)),
        (np.full(5, 3.0), (3 / 127, 0), (3 / 255, -128)),
        (np.full(5, -3.0), (3 / 128, 0), (3 / 255, 127)),
        (np.array([-1.0, -2.0, -4.0]), (4 / 128, 0), (4 / 255, 127)),
        (np.array([1e-10, -1e-10]), (1, 0), (1, -128)),
        (np.array([2.0]), (2 / 127, 0), (2 / 255, -128)),
    ],
)
@pytest.mark.parametrize("repeat", [1, 20_000])
def test_degenerate_inputs(x, symmetric, asymmetric, repeat):
    ifmr = algorithms.activation("ifmr")
    stats = TensorStats.of(np.tile(x, repeat))
    for flag, (scale, offset) in ((True, symmetric), (False, asymmetric)):
        p = ifmr(stats, QuantSpec(symmetric=flag, tiny_to_one=True))
        assert float(p.scale) == np.float32(scale)
        assert int(p.zero_point) == offset


def literal(x, spec, start, end, step, percentile):
    """Read docs/explanation/algorithms/ifmr.md aloud: unsorted values, float32, one candidate after the other."""
    n = x.size
    k = 1 if 1.0 - percentile < 1.192092896e-07 else n - int(percentile * n)
    ordered = np.sort(x)
    max0, min0 = max(np.float32(0), ordered[n - k]), min(np.float32(0), ordered[k - 1])
    best = (np.float64(math.inf), np.float32(0))
    for i in range(math.ceil((end - start) / step)):
        r = np.float32(start + i * step)
        if spec.symmetric:
            levels = 2 ** (spec.bits - 1) - (0 if abs(max0) < abs(min0) else 1)
            c = r * max(abs(max0), abs(min0))
            s, low = c / np.float32(levels), -c
        else:
            c = r * max0
            s, low = (c - min0) / np.float32(2**spec.bits - 1), min0
        s = np.float32(1) if s < np.float32(1.192092896e-07) else s
        z = np.rint(np.clip(x, low, c) / s) * s
        loss = np.mean((z - x).astype(np.float64) ** 2)
        if loss < best[0]:
            best = (loss, s)
    s = best[1]
    offset = 0 if spec.symmetric else -int(np.rint(min0 / s)) - 2 ** (spec.bits - 1)
    return s, offset


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("options", [(0.7, 1.3, 0.01, 0.999999), (0.3, 1.7, 0.05, 0.99)])
def test_exact_mode_is_the_literal_reading(bits, symmetric, options):
    start, end, step, percentile = options
    ifmr = algorithms.activation(
        "ifmr",
        search_range=(start, end),
        search_step=step,
        max_percentile=percentile,
        min_percentile=percentile,
    )
    spec = QuantSpec(bits=bits, symmetric=symmetric)
    for name, x in distributions(2000).items():
        scale, offset = literal(x, spec, *options)
        p = ifmr(TensorStats.exact(x), spec)
        assert float(p.scale) == pytest.approx(float(scale), rel=1e-6), name
        assert int(p.zero_point) == offset, name


def test_options_change_the_result():
    x = distributions(2000)["laplace"]
    default = algorithms.activation("ifmr")(TensorStats.of(x), QuantSpec()).scale
    for options in (
        {"search_range": (1.1, 1.3)},
        {"search_range": (0.7, 0.75)},
        {"search_step": 0.25},
        {"max_percentile": 0.99},
        {"min_percentile": 0.99},
    ):
        assert (
            algorithms.activation("ifmr", **options)(TensorStats.of(x), QuantSpec()).scale
            != default
        )
