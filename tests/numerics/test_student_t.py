"""Quantiles of Student's t against tables and against the density, integrated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibrant.numerics.student_t import t_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.95, 1, 6.3138),
        (0.975, 1, 12.7062),
        (0.95, 2, 2.9200),
        (0.95, 4, 2.1318),
        (0.99, 5, 3.3649),
        (0.95, 10, 1.8125),
        (0.975, 30, 2.0423),
        (0.95, 120, 1.6577),
        (0.5, 7, 0.0),
    ],
)
def test_tables(probability: float, freedom: int, quantile: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(quantile, abs=6e-5)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 31, 64, 400, 401])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.99])
def test_the_density_below_a_quantile(probability: float, freedom: int) -> None:
    t = np.linspace(0, t_quantile(probability, freedom), 200_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = (
        constant / math.sqrt(freedom * math.pi) * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
    )
    area = float(((density[1:] + density[:-1]) / 2 * np.diff(t)).sum())
    assert 0.5 + area == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0), (math.nan, 3)])
def test_what_is_out_of_range_is_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match=r"it (lies in|is at least)"):
        t_quantile(probability, freedom)
