"""KL, SYMKL and JSD: against a literal reading of docs/explanation/algorithms/kl.md, and what they are for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.algorithms._divergence import search
from calibrant.algorithms.activations.kl_merge import _least_divergence
from calibrant.numerics import QuantSpec
from calibrant.numerics.metrics import jsd, kl, symkl
from calibrant.stats import TensorStats
from tests.strategies import distributions

NAMES = {"kl": kl, "symkl": symkl, "jsd": jsd}
DATA = distributions(2000, seed=4)


def literal(x, divergence, symmetric, bins):
    """Quantize each value and spread each level by hand, candidate after candidate."""
    x = x.astype(np.float64)
    top = np.abs(x).max() if symmetric else max(x.max(), 0.0)
    low = -top if symmetric else min(x.min(), 0.0)
    edges = np.linspace(low, top if symmetric else x.max(), bins + 1)
    p, _ = np.histogram(x, edges)
    found = []
    for i in range(61):
        r = float(np.float32(0.7 + i * 0.01))
        s = r * top / 127 if symmetric else (r * top - low) / 255
        offset = 0 if symmetric else -128 - np.rint(low / s)
        values, counts = np.unique(
            ((np.rint(x / s) + offset).clip(-128, 127) - offset) * s, return_counts=True
        )
        q = np.zeros(bins)
        for value, count in zip(values, counts, strict=True):
            a, b = max(value - s / 2, edges[0]), min(value + s / 2, edges[-1])
            if a >= b:
                q[0 if value < edges[0] else -1] += count
                continue
            part = (np.minimum(edges[1:], b) - np.maximum(edges[:-1], a)).clip(0) / (b - a)
            q += count * part
        found.append((float(divergence(p + 1e-4, q + 1e-4)), s))
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_literal_reading(name, symmetric):
    spec = QuantSpec(symmetric=symmetric)
    for shape in ("normal", "shifted", "laplace", "relu", "lognormal", "bimodal", "silu"):
        found = literal(DATA[shape], NAMES[name], symmetric, 150)
        p = algorithms.activation(name)(TensorStats.exact(DATA[shape]), spec)
        least = min(loss for loss, _ in found)
        chosen = min(found, key=lambda pair: abs(pair[1] - float(p.scale)))
        assert chosen[1] == pytest.approx(float(p.scale), rel=1e-5), shape
        assert chosen[0] == pytest.approx(least, rel=1e-6), shape


def test_zero_point_is_that_of_the_scale():
    x = DATA["normal"]
    p = algorithms.activation("kl")(TensorStats.of(x), QuantSpec())
    assert int(p.zero_point) == -128 - round(float(x.min() / p.scale))


@pytest.mark.parametrize("name", NAMES)
def test_options_change_the_result(name):
    stats = TensorStats.of(np.append(DATA["normal"], np.float32(6)))
    chosen = algorithms.activation(name)(stats, QuantSpec()).scale
    for options in (
        {"bins": 20},
        {"start_ratio": 1.2},
        {"end_ratio": 0.75},
        {"step_ratio": 0.29},
        {"max_percentile": 0.9},
    ):
        other = algorithms.activation(name, **options)(stats, QuantSpec()).scale
        assert other != chosen, options


@pytest.mark.parametrize("name", NAMES)
def test_bins_choose_as_values_do(name):
    """To 5e-5 nats: a candidate's divergence turns on where single values fall, so a relative bound
    on losses of 1e-6 says nothing."""
    seen = []

    def divergence(p, q):
        seen.append(NAMES[name](p, q))
        return seen[-1]

    options: Any = algorithms.activation(name)
    for shape, x in distributions(60_000, seed=6).items():
        if shape == "constant":
            continue
        for symmetric in (True, False):
            spec = QuantSpec(symmetric=symmetric)
            for stats in (TensorStats.exact(x), TensorStats.of(x)):
                search(stats, spec, options, divergence)
            exact, binned = seen[-2:]
            assert exact[np.argmin(binned)] <= exact.min() * 1.001 + 5e-5, shape


# ---------------------------------------------------------------------------------- kl-merge


def threshold(x, **options):
    p = algorithms.activation("kl-merge", **options)(TensorStats.of(x), QuantSpec(symmetric=True))
    return float(p.scale) * 127


def test_merged_bins_clip_outliers_of_a_gaussian():
    rng = np.random.default_rng(0)
    x = np.append(rng.normal(size=10**6), np.full(10, 100.0)).astype(np.float32)
    assert threshold(x) < 10


def test_merged_bins_keep_uniform_data():
    x = np.random.default_rng(0).uniform(-1, 1, 10**5).astype(np.float32)
    assert threshold(x) == pytest.approx(np.abs(x).max(), rel=0.02)


def literal_merge(x, bins, groups=128):
    """The formula of docs/explanation/algorithms/kl-merge.md with arrays, candidate after candidate."""
    magnitude = np.abs(x.astype(np.float64))
    width = np.quantile(magnitude, 0.9999) / bins
    n = math.ceil(magnitude.max() / width)
    counts = np.bincount((magnitude / width).astype(int).clip(0, n - 1), minlength=n).astype(float)
    counts[0] = min(counts[0], counts[1])
    found = []
    for i in range(groups, n + 1):
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        for g in range(groups):
            part = slice(g * i // groups, (g + 1) * i // groups)
            filled = counts[part] > 0
            if filled.any():
                q[part][filled] = counts[part].sum() / filled.sum()
        found.append((float(kl(p + 1e-12, q + 1e-12)), min((i + 0.5) * width, magnitude.max())))
    return found


@pytest.mark.parametrize("shape", ["normal", "laplace", "relu", "lognormal", "bimodal"])
def test_merged_bins_are_the_literal_reading(shape):
    x = distributions(3000, seed=8)[shape]
    found = literal_merge(x, 256)
    chosen = threshold(x, bins=256)
    least = min(loss for loss, _ in found)
    nearest = min(found, key=lambda pair: abs(pair[1] - chosen))
    assert nearest[1] == pytest.approx(chosen, rel=1e-4)
    assert nearest[0] == pytest.approx(least, rel=1e-4, abs=1e-9)


def merged_divergence(counts, i, groups):
    """KL(P || Q) of the first `i` bins by its definition, both smoothed as the bins of no count need."""
    p = counts[:i].copy()
    p[-1] += counts[i:].sum()
    ends = [g * i // groups for g in range(groups + 1)]
    q = np.zeros(i)
    for a, b in itertools.pairwise(ends):
        filled = counts[a:b] > 0
        q[a:b][filled] = counts[a:b].sum() / max(filled.sum(), 1)
    return float(kl(p + 1e-12, q + 1e-12))


@pytest.mark.parametrize("groups", [8, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", sorted(DATA))
def test_what_is_given_up_on_the_way_is_not_the_best(shape, groups):
    magnitude = np.abs(DATA[shape].astype(np.float64))
    for bins in (200, 1000):
        counts = np.histogram(magnitude, bins)[0].astype(np.float64)
        tried = np.arange(groups, bins + 1)
        every = np.array([merged_divergence(counts, i, groups) for i in tried])
        found = every[_least_divergence(counts, groups) - groups]
        assert found == pytest.approx(every.min(), rel=1e-6, abs=1e-12)


def test_the_larger_of_two_equal_thresholds_is_taken():
    counts = np.ones(20)  # evenly filled bins lose nothing by merging
    assert _least_divergence(counts, 8) == 20
    assert _least_divergence(np.append(counts, np.zeros(4)), 8) == 24


def test_a_grid_with_and_one_without_offset_share_the_threshold():
    stats = TensorStats.of(DATA["normal"])
    algorithm = algorithms.activation("kl-merge")
    low, high = algorithm(stats, QuantSpec(symmetric=False)).range
    alone = float(algorithm(TensorStats.of(DATA["normal"]), QuantSpec(symmetric=True)).scale) * 127
    assert float(algorithm(stats, QuantSpec(symmetric=True)).scale) * 127 == alone
    assert max(-float(low), float(high)) == pytest.approx(alone, rel=0.02)


def test_options_of_merged_bins_change_the_result():
    x = DATA["cauchy"]
    assert len({threshold(x, bins=b) for b in (129, 512, 1024)}) > 1
    assert threshold(x, max_bins=1024) != threshold(x)


def test_sixteen_bits_are_left_alone():
    p = algorithms.activation("kl-merge")(TensorStats.of(DATA["normal"]), QuantSpec(16, True))
    assert float(p.scale) == pytest.approx(np.abs(DATA["normal"]).max() / 32767, rel=1e-6)
