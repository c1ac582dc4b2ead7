"""Sums of a walk from one tensor to another, in one pass over them; imported on first use, for numba's sake."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.compiled import compiled

__all__ = ["channel_sums", "ends_sums", "step_sum"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@compiled
def step_sum(before: Array, after: Array, truth: Array, end: Array) -> float:
    """Return sum (after - before) * (end - truth), where the truth is finite.

    Args:
        before: Values in front of a step (values,).
        after: Values behind it (values,).
        truth: Where the walk begins (values,).
        end: Where it ends (values,).
    """
    total = 0.0
    for i in range(truth.size):
        y = np.float64(truth[i])
        if np.isfinite(y):
            total += (np.float64(after[i]) - np.float64(before[i])) * (np.float64(end[i]) - y)
    return total


@compiled
def ends_sums(truth: Array, end: Array) -> tuple[float, float]:
    """Return sum truth**2 and sum (end - truth)**2, where the truth is finite; both (values,)."""
    signal = error = 0.0
    for i in range(truth.size):
        y = np.float64(truth[i])
        if np.isfinite(y):
            e = np.float64(end[i]) - y
            signal += y * y
            error += e * e
    return signal, error


@compiled
def channel_sums(arrived: Array, truth: Array, end: Array) -> tuple[Floats, Floats]:
    """Return sum (end - arrived)**2 and sum truth**2 by channel, where the truth is finite.

    Args:
        arrived: Values behind the first step (outer, channels, inner).
        truth: Where the walk begins (outer, channels, inner).
        end: Where it ends (outer, channels, inner).
    """
    outer, channels, inner = truth.shape
    born, signal = np.zeros(channels), np.zeros(channels)
    for i in range(outer):
        for c in range(channels):
            lost = power = 0.0
            for k in range(inner):
                y = np.float64(truth[i, c, k])
                if np.isfinite(y):
                    e = np.float64(end[i, c, k]) - np.float64(arrived[i, c, k])
                    lost += e * e
                    power += y * y
            born[c] += lost
            signal[c] += power
    return born, signal
