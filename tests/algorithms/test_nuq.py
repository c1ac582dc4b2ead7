"""Codebooks are optimal, keep what they must, and a weight takes its nearest level."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant import algorithms
from calibrant.algorithms._kmeans import GRID, codebook, occurrences
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.numerics import QuantSpec, quantize
from calibrant.numerics.levels import index_bits, indices, nearest_level, packed_bytes

SPEC = QuantSpec(bits=8, symmetric=True, axis=0)


def mass_of(counts: dict[int, float]) -> Any:
    mass = np.zeros(256)
    for value, count in counts.items():
        mass[value + 128] = count
    return mass


def loss(counts: dict[int, float], levels: tuple[int, ...]) -> float:
    """What a codebook loses, written down a second time."""
    return sum(m * min((q - c) ** 2 for c in levels) for q, m in counts.items())


@st.composite
def small(draw: st.DrawFn) -> tuple[dict[int, float], int, int | None]:
    """A few values within a window of the grid, a number of levels, and perhaps a value to keep."""
    start = draw(st.integers(-128, 116))
    window = range(start, start + 12)
    values = draw(st.lists(st.sampled_from(window), min_size=1, max_size=7, unique=True))
    masses = st.integers(1, 50) | st.floats(0.01, 50)
    counts = {v: draw(masses) for v in values}
    keep = draw(st.none() | st.sampled_from(sorted(values)))
    return counts, draw(st.integers(2, 4)), keep


@settings(max_examples=150, deadline=None)
@given(small())
def test_no_codebook_of_integers_loses_less(
    case: tuple[dict[int, float], int, int | None],
) -> None:
    counts, size, keep = case
    found = codebook(mass_of(counts), size, keep=keep)
    assert list(found) == sorted(set(found))
    assert len(found) == size
    assert -128 <= found[0] <= found[-1] <= 127
    assert keep is None or keep in found
    window = range(min(counts), max(counts) + 1)
    some = [
        c
        for c in itertools.combinations(window, min(size, len(window)))
        if keep is None or keep in c
    ]
    assert loss(counts, found) <= min(loss(counts, c) for c in some) * (1 + 1e-9) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 32]))
def test_no_single_level_can_be_moved_to_advantage(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    counts = {int(q): float(rng.integers(0, 40)) for q in GRID}
    found = codebook(mass_of(counts), size)
    least = loss(counts, found)
    for i, step in itertools.product(range(size), (-1, 1)):
        moved = (*found[:i], found[i] + step, *found[i + 1 :])
        assert loss(counts, moved) >= least - 1e-9


def test_worked_examples() -> None:
    # two heaps: each gets the rounded mean of its values, 1.25 and 21.5 -> a tie between 21 and 22
    assert codebook(mass_of({0: 1, 1: 1, 2: 2, 20: 1, 23: 1}), 2) == (1, 21)
    # three levels: the far pair is split, 9 + 0 against 1 for the near heap
    assert codebook(mass_of({0: 1, 1: 1, 2: 2, 20: 1, 23: 1}), 3) == (1, 20, 23)
    # 0 is kept, though 1 serves the heap better
    assert codebook(mass_of({0: 1, 1: 9, 2: 9, 20: 1}), 2) == (1, 20)
    assert codebook(mass_of({0: 1, 1: 9, 2: 9, 20: 1}), 2, keep=0) == (0, 20)
    # mass, not number, decides
    assert codebook(mass_of({-100: 1, 0: 1, 4: 1, 8: 1}), 2) == (-100, 4)
    assert codebook(mass_of({-100: 1, 0: 1, 4: 1, 8: 10_000}), 2) == (-100, 8)


def test_too_few_values_are_filled_up_with_their_neighbours() -> None:
    assert codebook(mass_of({0: 5, 64: 1}), 4) == (-1, 0, 1, 64)
    assert codebook(mass_of({127: 1, -128: 1}), 4) == (-128, -127, 126, 127)
    assert codebook(np.zeros(256), 3) == (-1, 0, 1)
    assert codebook(mass_of({5: 1}), 2, keep=0) == (0, 5)
    assert len(codebook(mass_of({7: 1}), 32)) == 32


def test_a_value_goes_to_its_nearest_level_and_a_tie_to_the_smaller_magnitude() -> None:
    values = np.array([-128, -6, -5, -3, 0, 2, 3, 5, 6, 127], dtype=np.int32)
    assert nearest_level(values, (-10, 0, 4, 8)).tolist() == [-10, -10, 0, 0, 0, 0, 4, 4, 4, 8]
    assert nearest_level(np.array([0], dtype=np.int32), (-2, 2)).tolist() == [-2]


def test_what_indices_take() -> None:
    levels = tuple(range(-8, 8))
    assert indices(np.array([-8, 7], dtype=np.int32), levels).tolist() == [0, 15]
    assert (index_bits(levels), index_bits(tuple(range(32)))) == (4, 5)
    assert packed_bytes(3, levels) == 2 + 16
    assert packed_bytes(8, tuple(range(32))) == 5 + 32


@pytest.mark.parametrize("size", [16, 32])
def test_one_codebook_serves_the_whole_layer(size: int) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 6, 3, 3)).astype(np.float32)
    w[rng.random(w.shape) < 0.3] = 0  # pruned
    algorithm = algorithms.weight("nuq", levels=size)
    assert isinstance(algorithm, algorithms.CodebookAlgorithm)
    params = algorithm(w, SPEC)
    np.testing.assert_array_equal(params.scale, algorithms.weight("arq")(w, SPEC).scale)
    q = quantize(w, params)
    levels = algorithm.codebook(q)
    assert levels == codebook(np.bincount(q.ravel() + 128, minlength=256), size, keep=0)
    kept = nearest_level(q, levels)
    assert len(levels) == size
    assert set(np.unique(kept)) <= set(levels)
    assert (kept[w == 0] == 0).all()
    assert algorithm.codebook(q) == levels


def test_zero_is_a_level_wherever_a_weight_is_zero() -> None:
    q = np.repeat(np.arange(40, 120, dtype=np.int32), 50)
    nuq = algorithms.weight("nuq", levels=16)
    assert isinstance(nuq, algorithms.CodebookAlgorithm)
    assert 0 not in nuq.codebook(q)
    assert 0 in nuq.codebook(np.append(q, np.int32(0)))
    # however little an error counts there
    masses = np.append(np.ones(q.size), 0.0)
    assert 0 in nuq.codebook(np.append(q, np.int32(0)), masses)


def test_masses_draw_levels_to_what_counts() -> None:
    q = np.tile(np.arange(-128, 128, dtype=np.int32), 2)
    masses = np.where(np.abs(q) < 20, 1000.0, 1.0)
    nuq = algorithms.weight("nuq", levels=16)
    assert isinstance(nuq, algorithms.CodebookAlgorithm)
    plain, drawn = nuq.codebook(q), nuq.codebook(q, masses)
    assert sum(abs(c) < 20 for c in drawn) > sum(abs(c) < 20 for c in plain)
    assert occurrences(q, masses).sum() == masses.sum()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"levels": 8},
            ConfigValueError,
            "'levels' of weight algorithm 'nuq' is 8; it is one of 16, 32",
        ),
        ({"levels": True}, ConfigValueError, "it is one of 16, 32"),
        ({"rounds": 6}, ConfigValueError, r"is 6; it is an integer in \[0, 5\]"),
        ({"rounds": 1.0}, ConfigTypeError, r"is 1\.0; it is an integer"),
        ({"storage": "int4"}, ConfigValueError, "one of 'int8', 'indices'"),
        ({"storage": "indices"}, ConfigValueError, "32 levels, whose indices have 5 bits"),
    ],
)
def test_options_that_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        algorithms.weight("nuq", **options)


def test_only_the_grid_of_eight_bits_has_levels() -> None:
    with pytest.raises(ConfigValueError, match="8-bit grid; 4 bits are asked for"):
        algorithms.weight("nuq")(np.ones((2, 2), np.float32), QuantSpec(bits=4, symmetric=True))


def test_a_codebook_takes_milliseconds() -> None:
    mass = np.random.default_rng(0).integers(1, 1000, 256)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        codebook(mass, 32, keep=0)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05
