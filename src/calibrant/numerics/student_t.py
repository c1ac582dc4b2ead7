"""Quantiles of Student's t distribution: how far a mean of few values may lie from nothing by chance.

With v degrees of freedom and a = atan(t / sqrt v),

    P(|T| < t) = sin a (1 + 1/2 cos**2 a + 1*3/(2*4) cos**4 a + … + 1*3*…*(v-3)/(2*4*…*(v-2)) cos**(v-2) a)    v even
    P(|T| < t) = 2/pi (a + sin a (cos a + 2/3 cos**3 a + … + 2*4*…*(v-3)/(1*3*…*(v-2)) cos**(v-2) a))           v odd

Source: Abramowitz, Stegun, Handbook of Mathematical Functions, 1964, equations 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["t_quantile"]

#: From here on the normal distribution with one correction is exact to six digits.
_MANY = 400


def t_quantile(probability: float, freedom: int) -> float:
    """Return the t below which a share of the distribution lies.

    Args:
        probability: The share, in [0.5, 1).
        freedom: Degrees of freedom, at least 1: the number of values less one.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> round(t_quantile(0.95, 9), 3)
        1.833
    """
    if not 0.5 <= probability < 1:
        raise ValueError(f"probability is {probability}; it lies in [0.5, 1).")
    if freedom < 1:
        raise ValueError(f"freedom is {freedom}; it is at least 1.")
    if freedom > _MANY:
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    wanted = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halving the angle reaches the precision of a float
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return P(|T| < t) from the angle."""
    cos, odd = math.cos(angle), freedom % 2
    term = cos if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cos * cos
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
