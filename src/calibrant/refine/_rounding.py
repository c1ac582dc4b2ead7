"""Learn for every weight of one layer whether to round up or down.

    w^   = scale * clip(floor(w / scale) + h(a), qmin, qmax)
    h(a) = clip(1.2 sigmoid(a) - 0.1, 0, 1)
    loss = mean over rows of |f(x w^ + b) - y|**2  +  reg * sum (1 - |2 h - 1|**beta)

`a` starts where h is the part of w / scale behind the point. The second term is off during warm-up; then its
exponent falls from a large one, which leaves all but the undecided alone, to a small one, which decides.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020; ascend.md 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.dtype import IntType

__all__ = ["FUNCTIONS", "Problem", "learn"]

Array = npt.NDArray[Any]  # float32

#: Rows of a step; with the outputs of many positions in a sample, a few hundred stand for 32 samples.
STEP_ROWS = 512

LEARNING_RATE = 1e-3
_DECAY = (0.9, 0.999)
_STRETCH, _SHIFT = np.float32(1.2), np.float32(-0.1)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One layer.

    Args:
        x: (groups, rows, K) what the quantized model gives it.
        y: (groups, rows, out) what the float model makes of it, behind the activation function.
        weight: (groups, out, K).
        scale: Of the same shape.
        bias: (groups, 1, out).
        dtype: Grid.
        function: Activation function behind it: values -> (values, slope).
    """

    x: Array
    y: Array
    weight: Array
    scale: Array
    bias: Array
    dtype: IntType
    function: Callable[[Array], tuple[Array, Array]]

    def errors(self, steps: Array) -> npt.NDArray[np.float64]:
        """Mean squared error of each output channel, (groups, out), for a weight on its grid [y squared]."""
        total = np.zeros(self.weight.shape[:2])
        for start in range(0, self.x.shape[1], 4 * STEP_ROWS):
            part = slice(start, start + 4 * STEP_ROWS)
            z = self.x[:, part] @ (steps * self.scale).transpose(0, 2, 1) + self.bias
            d = self.function(z)[0] - self.y[:, part]
            total += np.einsum("gro,gro->go", d, d, dtype=np.float64)
        mean: npt.NDArray[np.float64] = total / self.y.shape[1]
        return mean


def learn(
    problem: Problem,
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


def _slope(problem: Problem, steps: Array, chosen: npt.NDArray[np.int64]) -> Array:
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


# ----------------------------------------------------------------------------------------- activation


def _identity(z: Array, _: dict[str, Any]) -> tuple[Array, Array]:
    return z, np.ones((), np.float32)


def _relu(z: Array, _: dict[str, Any]) -> tuple[Array, Array]:
    return np.maximum(z, 0), (z > 0).astype(np.float32)


def _leaky(z: Array, options: dict[str, Any]) -> tuple[Array, Array]:
    slope = np.where(z > 0, np.float32(1), np.float32(options["alpha"]))
    return z * slope, slope


def _clip(z: Array, options: dict[str, Any]) -> tuple[Array, Array]:
    low, high = options["min"], options["max"]
    return np.clip(z, low, high), ((z > low) & (z < high)).astype(np.float32)


def _sigmoid(z: Array, _: dict[str, Any]) -> tuple[Array, Array]:
    y = 1 / (1 + np.exp(-np.clip(z, -80, 80)))
    return y, y * (1 - y)


def _tanh(z: Array, _: dict[str, Any]) -> tuple[Array, Array]:
    y = np.tanh(z)
    return y, 1 - y * y


def _gelu(z: Array, _: dict[str, Any]) -> tuple[Array, Array]:
    below = (0.5 * (1 + _erf(z / np.float32(math.sqrt(2))))).astype(np.float32)
    density = np.exp(-0.5 * z * z) / np.float32(math.sqrt(2 * math.pi))
    return z * below, below + z * density


def _erf(x: Array) -> Array:
    """Error function to 2e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    powers = np.array([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592])
    series = np.polyval(np.append(powers, 0.0), t)
    erf: Array = (np.sign(x) * (1 - series * np.exp(-x * x))).astype(np.float32)
    return erf


#: Activation functions that a layer is learned with, by operator.
FUNCTIONS: dict[str, Callable[[Array, dict[str, Any]], tuple[Array, Array]]] = {
    "": _identity,
    "Relu": _relu,
    "LeakyRelu": _leaky,
    "PRelu": _leaky,
    "Clip": _clip,
    "Gelu": _gelu,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
}
