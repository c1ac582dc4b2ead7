"""Small things that several searches share."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

__all__ = ["check_ratios", "constant", "ratios", "times", "within"]


def ratios(start: float, end: float, step: float) -> npt.NDArray[np.float32]:
    """Return the ratios of a search, float32.

    Their number is ceil((end - start) / step) in float64 and sensitive to rounding: 0.7 to 1.3 by 0.01
    gives 61.

    Source: docs/explanation/algorithms/ifmr.md.
    """
    n = math.ceil((end - start) / step)
    return (start + np.arange(n) * step).astype(np.float32)


def times(ratio: npt.NDArray[np.float32], bound: np.float32) -> npt.NDArray[np.float32]:
    """Return bounds, float32; one beyond the largest float32 is that."""
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float32] = np.clip(ratio * bound, -largest, largest)
    return found


def check_ratios(start: float, end: float, step: float) -> None:
    """Refuse a search that has no candidate, or so many that it would not end.

    Raises:
        ConfigValueError: Not 0 < start < end, or the step does not fit.
    """
    if not start < end:
        raise ConfigValueError(
            f"The search goes from {start} to {end}; the first is the smaller one."
        )
    if not (end - start) / 100_000 <= step <= (end - start) * (1 + 1e-9):
        raise ConfigValueError(
            f"The search step is {step}; from {start} to {end} it is at most {end - start:.6g} and at "
            "least a hundred thousandth of that."
        )


def within(stats: TensorStats, threshold: float, spec: QuantSpec) -> QuantParams:
    """Return the parameters of the range [-threshold, threshold], less what does not occur of it."""
    if spec.symmetric:
        return QuantParams.from_range(-threshold, threshold, spec)
    return QuantParams.from_range(max(stats.min, -threshold), min(stats.max, threshold), spec)


def constant(value: float, spec: QuantSpec) -> QuantParams:
    """Return the parameters for data that is all one value; it lies on the grid.

    Source: docs/explanation/algorithms/ifmr.md.
    """
    return QuantParams.from_range(min(value, 0.0), max(value, 0.0), spec)
