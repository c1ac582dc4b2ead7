"""A score is the parts' together; a candidate is better only where that is clear, and no part pays for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.analysis.better import _pseudo_values, clearly_better
from calibrant.analysis.parts import Part
from calibrant.analysis.score import SampleScores, Score, sample_scores

Array = npt.NDArray[Any]

BOXES, SCORES = Part("y[..., 0:4]", ((2, ((0, 4),)),)), Part("y[..., 4]", ((2, ((4, 5),)),))
PARTS = {"y": (BOXES, SCORES)}


def detections(rng: np.random.Generator, samples: int = 16) -> Array:
    """Return boxes of 0 to 640 and scores of 0 to 1 (samples, 20, 5)."""
    y = rng.uniform(0, 640, (samples, 20, 5))
    y[..., 4] /= 640
    return y


def noisy(y: Array, boxes_db: float, scores_db: float, rng: np.random.Generator) -> Array:
    """Return detections with noise of this SQNR in each part."""
    out = y.copy()
    for part, db in ((slice(0, 4), boxes_db), (slice(4, 5), scores_db)):
        power = np.sqrt((y[..., part] ** 2).mean()) * 10 ** (-db / 20)
        out[..., part] += rng.normal(0, power, y[..., part].shape)
    return out


def scores(y: Array, *found: Array) -> list[SampleScores]:
    return [sample_scores([{"y": y}], [{"y": f}], PARTS, sizes=[len(y)]) for f in found]


def test_energies_by_sample_and_part() -> None:
    y = np.arange(20.0).reshape(2, 2, 5)
    (found,) = scores(y, y + 1)
    assert found.parts == ("y[..., 0:4]", "y[..., 4]")
    np.testing.assert_array_equal(found.error, [[8, 2], [8, 2]])
    np.testing.assert_array_equal(found.signal[0], [0 + 1 + 4 + 9 + 25 + 36 + 49 + 64, 16 + 81])
    whole = sample_scores([{"y": y}], [{"y": y + 1}], PARTS)
    np.testing.assert_array_equal(whole.error, [[16, 4]])


def test_the_mean_over_parts_shows_what_the_large_one_hides() -> None:
    rng = np.random.default_rng(0)
    y = detections(rng)
    (found,) = scores(y, noisy(y, 40, 0, rng))
    score = Score.of(found, metric=0.3)
    assert score.db == pytest.approx(20, abs=1)
    assert score.parts["y[..., 4]"] == pytest.approx(0, abs=1)
    assert score.metric == 0.3


def test_limits() -> None:
    y = detections(np.random.default_rng(0))
    perfect, broken, far = scores(y, y, np.where(y > 300, np.nan, y), y * 1e6)
    assert Score.of(perfect).parts == {"y[..., 0:4]": 120, "y[..., 4]": 120}
    assert Score.of(far).parts == {"y[..., 0:4]": -20, "y[..., 4]": -20}
    assert Score.of(broken).parts == {"y[..., 0:4]": -math.inf, "y[..., 4]": 120}
    assert Score.of(broken).db == -math.inf
    (other_shape,) = scores(y, y[:, :3])
    assert Score.of(other_shape).db == -math.inf


def test_constant_parts_are_named_and_do_not_count() -> None:
    y = detections(np.random.default_rng(0))
    y[..., 4] = 0.5
    (found,) = scores(y, y + 1)
    score = Score.of(found)
    assert score.constant == ("y[..., 4]",)
    assert list(score.parts) == ["y[..., 0:4]"]
    zeros = np.zeros((3, 20, 5))
    same, changed = (Score.of(s) for s in scores(zeros, zeros, zeros + 1))
    assert (same.db, changed.db) == (120, -20)
    assert same.constant == ("y[..., 0:4]", "y[..., 4]")


def test_masks_of_the_float_model_are_left_out() -> None:
    y = detections(np.random.default_rng(0))
    y[:, 3] = -np.inf
    (found,) = scores(y, np.where(np.isinf(y), -1e9, y + 1))
    np.testing.assert_allclose(found.error, [[19 * 4, 19]] * 16)


def test_samples_in_several_runs_are_the_same_as_in_one() -> None:
    rng = np.random.default_rng(0)
    y = detections(rng)
    out = noisy(y, 30, 20, rng)
    (whole,) = scores(y, out)
    runs = [slice(0, 3), slice(3, 16)]
    parts = [{"y": y[r]} for r in runs], [{"y": out[r]} for r in runs]
    split = sample_scores(*parts, PARTS, sizes=[3, 13])
    joined = SampleScores.joined([scores(y[r], out[r])[0] for r in runs])
    for found in (split, joined):
        np.testing.assert_array_equal(found.signal, whole.signal)
        np.testing.assert_array_equal(found.error, whole.error)
        assert Score.of(found) == Score.of(whole)


@pytest.mark.parametrize("sizes", [[16], None])
def test_a_missing_tensor_equals_the_float_one(sizes: list[int] | None) -> None:
    y = detections(np.random.default_rng(0))
    found = sample_scores([{"y": y}], [{}], PARTS, sizes=sizes)
    assert not found.error.any()


def test_tensors_without_rows_are_one_sample_a_run() -> None:
    parts = {"a": (Part("a"),), "b": (Part("b"),)}
    runs = [
        {"a": np.ones((4, 2)), "b": np.array(3.0)},
        {"a": np.zeros((4, 2)), "b": np.array(2.0)},
    ]
    found = sample_scores(runs, runs, parts, sizes=[4, 4])
    assert found.signal.tolist() == [[8, 9], [0, 4]]
    empty = sample_scores(
        [{"a": np.zeros((0, 2)), "b": np.array(3)}],
        [{"a": np.zeros((0, 2)), "b": np.array(3)}],
        parts,
    )
    assert Score.of(empty).db == 120


# ---------------------------------------------------------------------------------------- comparison


def test_a_clear_gain_in_all_parts_is_one() -> None:
    rng = np.random.default_rng(1)
    y = detections(rng, 24)
    better, simple = scores(y, noisy(y, 33, 23, rng), noisy(y, 30, 20, rng))
    found = clearly_better(better, simple)
    assert found.better
    assert found.gain_db == pytest.approx(3, abs=0.5)
    assert "+3." in found.reason or "+2." in found.reason
    back = clearly_better(simple, better)
    assert not back.better
    assert back.gain_db == pytest.approx(-found.gain_db)
    assert set(back.worse) == set(back.parts)
    assert not clearly_better(better, simple, margin_db=6).better


def test_a_spoiled_part_is_no_gain_elsewhere() -> None:
    rng = np.random.default_rng(2)
    y = detections(rng, 24)
    spoiled, simple = scores(y, noisy(y, 50, 15, rng), noisy(y, 30, 20, rng))
    found = clearly_better(spoiled, simple)
    assert found.gain_db > 5
    assert not found.better
    assert found.worse == ("y[..., 4]",)
    assert "'y[..., 4]' 5." in found.reason or "'y[..., 4]' 4." in found.reason


def sparse(error: Array, candidate: Array) -> tuple[SampleScores, SampleScores]:
    """Scores of a candidate and of a simpler setting, of which the errors of one part are known, sample by sample."""
    signal = np.full((len(error), 1), 1e3)
    one, other = (
        SampleScores(("y",), signal, e[:, None], np.zeros(1), np.ones(1))
        for e in (candidate, error)
    )
    return one, other


def test_a_part_is_lost_where_there_is_something_to_see() -> None:
    """A detector: 12 of 16 images are empty, and a gain there says nothing of the 4 others."""
    rng = np.random.default_rng(4)
    simple = np.where(np.arange(16) % 4 == 0, rng.uniform(1, 2, 16), rng.uniform(1e-4, 2e-4, 16))
    candidate = simple * np.where(np.arange(16) % 4 == 0, 2.0, 0.2)
    found = clearly_better(*sparse(simple, candidate))
    assert found.gain_db > 4
    assert not found.better
    assert found.worse == ("y",)
    assert "3.0" in found.reason or "2.9" in found.reason


def test_a_loss_that_is_only_probable_is_told_and_no_gain() -> None:
    simple = np.array([1.0, 1.2, 0.9, *np.linspace(1e-4, 2e-4, 13)])
    candidate = simple * np.array([2.2, 1.6, 0.7, *np.full(13, 0.2)])
    found = clearly_better(*sparse(simple, candidate))
    assert (found.better, found.worse, found.doubtful) == (False, (), ("y",))
    assert "probably loses over all samples: 'y'" in found.reason


def test_one_sample_is_no_proof_of_a_loss() -> None:
    """What one sample alone shows is not known of others, however much of all errors it has."""
    simple = np.array([100.0, *np.linspace(0.9, 1.1, 15)])
    candidate = simple * np.array([1.5, *np.full(15, 0.5)])
    found = clearly_better(*sparse(simple, candidate))
    assert not found.worse
    assert not found.doubtful


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=12),
)
def test_pseudo_values_are_those_of_the_jackknife(errors: list[tuple[float, float]]) -> None:
    one, other = (np.array(e)[:, None] for e in zip(*errors, strict=True))
    found = _pseudo_values(one, other)
    n = len(errors)
    whole = 10 * math.log10(other.sum() / one.sum())
    assert found.shape == one.shape
    assert found.mean() == pytest.approx(whole, abs=1e-6)
    if n > 1:
        left = [
            10 * math.log10(np.delete(other, i).sum() / np.delete(one, i).sum()) for i in range(n)
        ]
        variance = (n - 1) / n * sum((x - np.mean(left)) ** 2 for x in left)
        assert found.var(ddof=1) / n == pytest.approx(variance, rel=1e-6, abs=1e-9)


def test_what_is_sure_and_too_little_to_matter_is_no_loss() -> None:
    rng = np.random.default_rng(3)
    y = detections(rng, 24)
    simple = noisy(y, 30, 20, rng)
    candidate = simple.copy()
    candidate[..., :4] = noisy(y, 40, 20, rng)[..., :4]
    candidate[..., 4] = y[..., 4] + (simple - y)[..., 4] * 1.01
    assert clearly_better(*scores(y, candidate, simple)).better


def test_equal_candidates_are_not_better() -> None:
    rng = np.random.default_rng(4)
    y = detections(rng, 24)
    (simple,) = scores(y, noisy(y, 30, 20, rng))
    found = clearly_better(simple, simple)
    assert (found.better, found.can_say, found.gain_db) == (False, True, 0)


@pytest.mark.parametrize("samples", [6, 16, 64])
def test_of_two_equally_good_ones_neither_is_better(samples: int) -> None:
    rng = np.random.default_rng(5)
    taken = 0
    for _ in range(200):
        y = detections(rng, samples)
        a, b = scores(y, noisy(y, 30, 20, rng), noisy(y, 30, 20, rng))
        taken += clearly_better(a, b).better
    assert taken <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_of_few_samples_nothing_can_be_said(count: int) -> None:
    rng = np.random.default_rng(6)
    y = detections(rng, count)
    found = clearly_better(*scores(y, noisy(y, 50, 50, rng), noisy(y, 20, 20, rng)))
    assert (found.better, found.can_say, found.noise_db) == (False, False, math.inf)
    assert f"{count} sample" in found.reason


def test_copies_of_one_sample_are_one_sample() -> None:
    rng = np.random.default_rng(7)
    y = detections(rng, 1)
    good, bad = noisy(y, 50, 50, rng), noisy(y, 20, 20, rng)
    alike = scores(*(np.repeat(x, 30, axis=0) for x in (y, good, bad)))
    found = clearly_better(*alike)
    assert not found.can_say
    assert "30 samples are all alike" in found.reason
    two = scores(*(np.concatenate([np.repeat(x, 30, axis=0), x * 0.5]) for x in (y, good, bad)))
    assert "copies of 2" in clearly_better(*two).reason


def test_zeros_say_nothing() -> None:
    y = np.zeros((30, 20, 5))
    found = clearly_better(*scores(y, y, y + 1))
    assert (found.better, found.can_say) == (False, False)
    assert "one value throughout" in found.reason


def test_what_is_not_finite_is_the_worst() -> None:
    rng = np.random.default_rng(8)
    y = detections(rng, 2)
    nan, bad = scores(y, np.full_like(y, np.nan), y * 1e9)
    assert clearly_better(bad, nan).better
    assert not clearly_better(nan, bad).better
    assert not clearly_better(nan, nan).better
    assert "not finite" in clearly_better(nan, bad).reason


def test_a_perfect_candidate_has_a_finite_gain() -> None:
    rng = np.random.default_rng(9)
    y = detections(rng, 8)
    found = clearly_better(*scores(y, y, noisy(y, 30, 20, rng)))
    assert found.better
    assert math.isfinite(found.gain_db)


def test_other_samples_are_refused() -> None:
    y = detections(np.random.default_rng(0), 8)
    with pytest.raises(ValueError, match="same samples"):
        clearly_better(scores(y, y)[0], scores(y[:4], y[:4])[0])
    with pytest.raises(ValueError, match="joined"):
        SampleScores.joined([])


@given(st.floats(1e-20, 1e20), st.integers(0, 2**32 - 1))
def test_the_unit_of_an_output_makes_no_difference(unit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = detections(rng, 8)
    a, b = noisy(y, 30, 20, rng), noisy(y, 29, 21, rng)
    plain, scaled = (scores(*(x * u for x in (y, a, b))) for u in (1.0, unit))
    assert Score.of(scaled[0]).db == pytest.approx(Score.of(plain[0]).db)
    one, other = clearly_better(*plain), clearly_better(*scaled)
    assert other.gain_db == pytest.approx(one.gain_db, abs=1e-9)
    assert (one.better, one.worse) == (other.better, other.worse)
