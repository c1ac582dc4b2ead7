"""Regression, ranks, images and segmentation by name, against computations from their definitions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.analysis.task_metrics import BatchMetric
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.registry import TASK_METRICS, about, task_metric
from calibrant.errors import ConfigTypeError, ConfigValueError, DataError

Array = np.ndarray[Any, Any]


def value(name: str, y: Array, reference: Array, parts: int = 2) -> float:
    """Return what a metric says of data that comes in several batches."""
    metric = task_metric(name)
    pieces = zip(np.array_split(y, parts), np.array_split(reference, parts), strict=True)
    batches = [({"y": a}, {"labels": b}) for a, b in pieces if len(a)]
    if isinstance(metric, BatchMetric):
        found = [metric.of_batch(o, r, "here") for o, r in batches]
        return sum(f for f, _ in found) / sum(n for _, n in found)
    return metric.value([x for o, r in batches for x in metric.of_samples(o, r, "here")])


def numbers(n: int, seed: int, ties: bool) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    draw = rng.integers(0, 4, (2, n)) if ties else rng.standard_normal((2, n))
    return draw[0].astype(np.float32), draw[1].astype(np.float32)


@given(n=st.integers(3, 30), seed=st.integers(0, 999), ties=st.booleans())
@settings(deadline=None, max_examples=25)
def test_regression_equals_the_definition(n: int, seed: int, ties: bool) -> None:
    y, r = numbers(n, seed, ties)
    errors = [(float(a) - float(b)) ** 2 for a, b in zip(y, r, strict=True)]
    assert value("rmse", y[:, None], r) == pytest.approx(math.sqrt(sum(errors) / n))
    middle = sum(map(float, r)) / n
    spread = sum((float(b) - middle) ** 2 for b in r)
    if spread:
        assert value("r2", y, r) == pytest.approx(1 - sum(errors) / spread, abs=1e-9)
    else:
        assert math.isnan(value("r2", y, r))


def ranks(x: Array) -> list[float]:
    return [sum(o < v for o in x) + (sum(o == v for o in x) - 1) / 2 for v in x]


@given(n=st.integers(3, 15), seed=st.integers(0, 999), ties=st.booleans())
@settings(deadline=None, max_examples=25)
def test_rank_correlations_equal_the_definition(n: int, seed: int, ties: bool) -> None:
    y, r = numbers(n, seed, ties)
    if len(set(y.tolist())) < 2 or len(set(r.tolist())) < 2:
        assert math.isnan(value("spearman", y, r))
        assert math.isnan(value("kendall", y, r))
        return
    expected = float(np.corrcoef(ranks(y), ranks(r))[0, 1])
    assert value("spearman", y, r) == pytest.approx(expected, abs=1e-9)
    same = other = only_y = only_r = 0
    for i, j in itertools.combinations(range(n), 2):
        a, b = np.sign(y[i] - y[j]), np.sign(r[i] - r[j])
        same, other = same + (a * b > 0), other + (a * b < 0)
        only_y, only_r = only_y + (a == 0 and b != 0), only_r + (b == 0 and a != 0)
    whole = same + other
    tau = (same - other) / math.sqrt((whole + only_y) * (whole + only_r))
    assert value("kendall", y, r) == pytest.approx(tau, abs=1e-9)


def test_of_several_targets_the_mean_counts() -> None:
    rng = np.random.default_rng(3)
    y, r = rng.standard_normal((20, 3)), rng.standard_normal((20, 3))
    for name in ("r2", "spearman", "kendall"):
        single = [value(name, y[:, i], r[:, i]) for i in range(3)]
        assert value(name, y, r) == pytest.approx(float(np.mean(single)))


@given(seed=st.integers(0, 999), last=st.booleans())
@settings(deadline=None, max_examples=25)
def test_mean_iou_equals_the_definition(seed: int, last: bool) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal((3, 4, 2, 5)), rng.integers(0, 4, (3, 2, 5))
    labels[rng.random(labels.shape) < 0.2] = 255
    best = scores.argmax(1)
    found = []
    for c in range(4):
        mine = {i for i in np.ndindex(labels.shape) if best[i] == c and labels[i] != 255}
        there = {i for i in np.ndindex(labels.shape) if labels[i] == c}
        if mine | there:
            found.append(len(mine & there) / len(mine | there))
    expected = sum(found) / len(found)
    given_ = scores.transpose(0, 2, 3, 1) if last else scores
    assert value("miou", given_, labels) == pytest.approx(expected)
    assert value("miou", best, labels) == pytest.approx(expected)
    assert value("miou", best[:, None], labels[:, None]) == pytest.approx(expected)
    assert value("miou,ignore=-1", given_, np.where(labels == 255, -1, labels)) == pytest.approx(
        expected
    )


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_image_metrics_equal_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r = rng.random((2, 3, 13, 12))
    y = r + rng.normal(0, 0.1, r.shape)
    error = float(((y - r) ** 2).mean())
    assert value("psnr,peak=1", y, r) == pytest.approx(10 * math.log10(1 / error))
    whole = float(r.max() - r.min())
    assert value("psnr", y, r) == pytest.approx(10 * math.log10(whole**2 / error))
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / 4.5)
    window /= window.sum()
    found = []
    for sample, channel, i, j in np.ndindex(2, 3, 3, 2):
        a, b = (x[sample, channel, i : i + 11, j : j + 11] for x in (y, r))
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        both = (window * (a - ma) * (b - mb)).sum()
        above = (2 * ma * mb + 1e-4) * (2 * both + 9e-4)
        found.append(above / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert value("ssim", y, r) == pytest.approx(float(np.mean(found)))
    last = (0, 2, 3, 1)
    assert value("ssim", y.transpose(last), r.transpose(last)) == pytest.approx(
        float(np.mean(found))
    )


def test_equal_images_are_infinitely_good() -> None:
    x = np.random.default_rng(0).random((2, 1, 12, 12))
    assert value("psnr", x, x) == math.inf
    assert value("ssim", x, x) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "y", "labels", "said"),
    [
        ("rmse", np.zeros((4, 2)), np.zeros((4, 3)), "shapes"),
        ("r2", np.zeros((4, 2, 2)), np.zeros((4, 2, 2)), "one number for each target"),
        ("spearman", np.zeros(4), np.array(list("abcd")), "not numbers"),
        ("miou", np.zeros((2, 3, 4, 4)), np.zeros((2, 8, 8), int), "expected are scores"),
        ("miou", np.zeros((2, 1, 4, 4)), np.zeros((2, 4, 4), int), "2 classes or more"),
        ("miou", np.zeros((2, 3, 4, 4)), np.full((2, 4, 4), 3), "classes run from 0 to 2"),
        ("miou", np.zeros((2, 3, 4, 4)), np.full((2, 4, 4), 0.5), "whole"),
        ("ssim", np.zeros((2, 1, 8, 8)), np.zeros((2, 1, 8, 8)), "11 or more"),
        ("cer", np.zeros((2, 5)), np.zeros((2, 5), int), "token numbers"),
        ("wer", np.zeros((2, 5), int), np.zeros((2, 5, 2), int), "expected are token numbers"),
    ],
)
def test_data_that_does_not_fit_is_refused(name: str, y: Array, labels: Array, said: str) -> None:
    with pytest.raises(DataError, match=said):
        value(name, y, labels)


def test_names_and_options_are_checked() -> None:
    for name in TASK_METRICS:
        what, _ = about(name)
        assert what.endswith(".")
        assert isinstance(task_metric(name), BatchMetric | CorpusMetric)
    with pytest.raises(ConfigValueError, match="Did you mean 'miou'"):
        task_metric("mious")
    with pytest.raises(ConfigValueError, match="Unknown option 'heads'"):
        task_metric("map,heads=yolox")
    with pytest.raises(ConfigValueError, match="one of 'corners', 'yolox'"):
        task_metric("map,head=ssd")
    with pytest.raises(ConfigTypeError, match="'peak' of metric 'psnr'"):
        task_metric("psnr,peak=high")
    with pytest.raises(ConfigValueError, match="no options"):
        task_metric("top1,k=3")
    with pytest.raises(ConfigValueError, match="name=value"):
        task_metric("psnr,255")
