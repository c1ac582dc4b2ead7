"""Learn for every weight of one layer whether to round up or down.

    w^   = scale * clip(floor(w / scale) + h(a), qmin, qmax)
    h(a) = clip(1.2 sigmoid(a) - 0.1, 0, 1)
    loss = mean over rows of |f(x w^ + b) - y|**2  +  reg * sum (1 - |2 h - 1|**beta)

`a` starts where h is the part of w / scale behind the point. The second term is off during warm-up; then its
exponent falls from a large one, which leaves all but the undecided alone, to a small one, which decides.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.algorithms._problem import RoundingProblem

__all__ = ["learn"]

Array = npt.NDArray[Any]  # float32

#: Rows of a step; with the outputs of many positions in a sample, a few hundred stand for 32 samples.
STEP_ROWS = 512

LEARNING_RATE = 1e-3
_DECAY = (0.9, 0.999)
_STRETCH, _SHIFT = np.float32(1.2), np.float32(-0.1)


def learn(
    problem: RoundingProblem,
    *,
    iterations: int,
    regularization: float,
    beta_range: tuple[float, float],
    warm_start: float,
) -> Array:
    """Return the weight on its grid, (groups, out, K), rounded as learned.

    Rows of a step are drawn with a fixed seed, so that the same problem has the same answer.
    """
    scaled = problem.weight / problem.scale
    floor = np.floor(scaled)
    part = np.clip((scaled - floor - _SHIFT) / _STRETCH, 1e-4, 1 - 1e-4)
    a = np.log(part / (1 - part)).astype(np.float32)
    first, second = np.zeros_like(a), np.zeros_like(a)
    rng = np.random.default_rng(0)
    rows = problem.x.shape[1]
    qmin, qmax = np.float32(problem.dtype.qmin), np.float32(problem.dtype.qmax)
    warm = warm_start * iterations
    for t in range(iterations):
        sigmoid = 1 / (1 + np.exp(-a))
        h = np.clip(_STRETCH * sigmoid + _SHIFT, 0, 1)
        inside = (h > 0) & (h < 1)
        steps = floor + h
        within = (steps >= qmin) & (steps <= qmax)
        chosen = (
            rng.integers(0, rows, STEP_ROWS)
            if rows > STEP_ROWS
            else np.arange(rows, dtype=np.int64)
        )
        gradient = _slope(problem, np.clip(steps, qmin, qmax), chosen) * problem.scale * within
        if t >= warm:
            beta = _beta(t, warm, iterations, beta_range)
            away = 2 * h - 1
            gradient -= (
                np.float32(2 * regularization * beta)
                * np.sign(away)
                * np.abs(away) ** np.float32(beta - 1)
            )
        gradient *= _STRETCH * sigmoid * (1 - sigmoid) * inside
        first += np.float32(1 - _DECAY[0]) * (gradient - first)
        second += np.float32(1 - _DECAY[1]) * (gradient * gradient - second)
        rate = LEARNING_RATE * math.sqrt(1 - _DECAY[1] ** (t + 1)) / (1 - _DECAY[0] ** (t + 1))
        a -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))
    up = np.clip(_STRETCH / (1 + np.exp(-a)) + _SHIFT, 0, 1) >= 0.5
    rounded: Array = np.clip(floor + up, qmin, qmax).astype(np.float32)
    return rounded


def _slope(problem: RoundingProblem, steps: Array, chosen: npt.NDArray[np.int64]) -> Array:
    """Derivative of the mean squared error by the weight, (groups, out, K)."""
    x = problem.x[:, chosen]
    z = x @ (steps * problem.scale).transpose(0, 2, 1) + problem.bias
    values, slope = problem.function(z)
    d = (values - problem.y[:, chosen]) * slope * np.float32(2 / chosen.size)
    return d.transpose(0, 2, 1) @ x


def _beta(t: int, warm: float, iterations: int, beta_range: tuple[float, float]) -> float:
    """Half a cosine from the first exponent to the last."""
    start, end = beta_range
    gone = (t - warm) / max(1.0, iterations - warm)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * gone))
