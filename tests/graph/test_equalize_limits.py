"""How far equalization may take a channel: far where the weights in front of it make it quiet, little where the data does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibrant.graph.passes.equalize import GROW_LIMIT, SHRINK_LIMIT, limited

ALIVE = np.ones(64, dtype=bool)


@given(seed=st.integers(0, 2**32 - 1))
def test_weights_as_they_are_trained_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = np.exp(rng.normal(0, 2, 64))
    made_by = np.exp(rng.uniform(-1, 1, 64))
    assert np.array_equal(limited(f, ALIVE, made_by), limited(f, ALIVE))


@given(seed=st.integers(0, 2**32 - 1))
def test_channels_that_were_scaled_up_and_down_are_evened_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f, made_by = np.exp(rng.normal(0, 0.3, 64)), np.exp(rng.normal(0, 0.3, 64))
    scaled = 10 ** rng.uniform(0, 3, 64)
    wanted = limited(f, ALIVE, made_by)
    found = limited(f * scaled, ALIVE, made_by * scaled) / scaled
    found /= np.exp(np.log(found / wanted).mean())
    assert (np.abs(np.log(found / wanted)) < np.log(4)).all()
    blind = limited(f * scaled, ALIVE) / scaled
    blind /= np.exp(np.log(blind / wanted).mean())
    assert (np.abs(np.log(blind / wanted)) > np.log(4)).any()


def test_channels_that_no_weight_makes_keep_their_limits() -> None:
    f = np.geomspace(1e-4, 1e4, 64)
    found = limited(f, ALIVE, np.zeros(64))
    assert (found.min(), found.max()) == (1 / GROW_LIMIT, SHRINK_LIMIT)
