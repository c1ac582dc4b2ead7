"""The noise that a layer is expected to have is about that of its rounding."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.tuning.expected import expected_noise
from tests.models import Model, build, normal
from tests.road import batches, quantize


def noise_of(w: np.ndarray, x: np.ndarray, *, per_channel: bool) -> float:
    """Return the noise of `x @ w` over its power, as it is. w (inputs, outputs), x (samples, inputs)."""
    tops = np.abs(w).max(axis=0 if per_channel else None)
    step = np.broadcast_to(tops / 127, w.shape[1])
    rounded = np.rint(w / step) * step
    unit = x.max() / 255
    y, z = x @ w, (np.rint(x / unit) * unit) @ rounded
    return float(((z - y) ** 2).sum() / (y**2).sum())


@pytest.mark.parametrize("per_channel", [False, True])
@given(spread=st.floats(1.0, 300.0), seed=st.integers(0, 100))
def test_it_is_near_the_noise_that_there_is(
    spread: float, seed: int, *, per_channel: bool
) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, np.log(spread), 64))
    x = np.abs(rng.normal(size=(400, 64))) * sizes
    w = rng.normal(size=(64, 32)) / rng.permutation(sizes)[:, None]
    found = expected_noise(
        w[None, :, :, None],
        x.max(axis=0),
        (x**2).mean(axis=0),
        input_steps=255,
        weight_steps=127,
        per_channel=per_channel,
    )
    there = noise_of(w, x, per_channel=per_channel)
    assert abs(10 * np.log10(found / there)) < 6


def test_groups_have_weights_and_inputs_of_their_own() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 3, 4, 9))
    x, energy = rng.uniform(1, 2, 6), rng.uniform(0.1, 0.4, 6)
    noise = partial(expected_noise, input_steps=255, weight_steps=127, per_channel=True)
    both = noise(w, x, energy)
    signal = [(energy[g * 3 : g * 3 + 3] * (w[g] ** 2).sum((1, 2))).sum() for g in (0, 1)]
    top = np.full(3, x.max())
    each = [noise(w[g : g + 1], top, energy[g * 3 : g * 3 + 3]) for g in (0, 1)]
    assert both == pytest.approx(np.dot(each, signal) / sum(signal))


def two_layers(factor: float) -> Model:
    """Return a network one of whose inner channels is so many times as large as the others, and counts as much as they do."""
    rng = np.random.default_rng(3)
    sizes = np.ones(16)
    sizes[0] = factor
    return build(
        "net (float[N,24] x) => (float[N,8] y) { h = Gemm (x, w, b) r = Relu (h) y = Gemm (r, v, c) }",
        {
            "w": (np.sign(rng.normal(size=(24, 16))) * sizes).astype(np.float32),
            "b": np.zeros(16, np.float32),
            "c": np.zeros(8, np.float32),
            "v": (np.sign(rng.normal(size=(16, 8))) / sizes[:, None]).astype(np.float32),
        },
        normal(24),
    )


@pytest.mark.parametrize(("factor", "tried"), [(1, False), (30, True)])
def test_channels_are_made_even_where_that_is_expected_to_be_worth_it(
    factor: float, *, tried: bool
) -> None:
    model, feeds = two_layers(factor)
    decisions = quantize(model, batches(feeds)).summary["decisions"]
    assert any("equalized" in d["name"] for d in decisions) == tried
    assert decisions  # the algorithm is tried in any case
