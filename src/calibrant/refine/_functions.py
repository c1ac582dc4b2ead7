"""Activation functions that a layer's rounding is learned with: the value, and the slope where it is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FUNCTIONS"]

Array = npt.NDArray[Any]  # float32


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
