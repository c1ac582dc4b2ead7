"""ADA: a scale that clips a little, with rounding that is learned afterwards (`refine.learned_rounding`).

The scale is that of the least divergence between the weights and what 2**bits - 1 levels keep of them. Of
512 bins on [-m, m], m = max |w|, i are cut off at each side, i = 0 … 19:

    p     = the bins left, with the mass cut off at the first and last
    q     = p in 2**bits - 1 groups, the mass of each spread evenly over its bins that are not empty
    KL    = sum p ln(p / q), both smoothed and normalised
    scale = (m - i * 2 m / 512) / 2**(bits - 1)

Equal divergences take the widest range. A weight that is zero has scale 1.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (AdaRound), ICML 2020; the scale
and the schedule as in docs/explanation/algorithms/weight-ada.md.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import RoundingProblem, register_weight
from calibrant.algorithms._adaround import learn
from calibrant.algorithms._weight import near_one, rows
from calibrant.algorithms.options import Positive, Ratio, options
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.params import smallest_scale

FloatArray = npt.NDArray[np.float64]

_BINS = 512
_CUTS = 20
_SMALL = 1e-4  # what an empty bin gets


@register_weight("ada")
@options
class Ada:
    """Learn for each weight whether it is rounded up or down, by what its layer answers.

    Args:
        iterations: Steps of the optimisation; 0 rounds to nearest.
        regularization: Weight of the term that drives each rounding to up or down.
        beta_range: Exponent of that term at the start and at the end; the first is larger.
        warm_start: Part of the steps in which that term is off.
    """

    iterations: Annotated[int, Field(ge=0, le=1_000_000)] = 10000
    regularization: Ratio = 0.01
    beta_range: tuple[Positive, Positive] = (20.0, 2.0)
    warm_start: Ratio = 0.2

    def __post_init__(self) -> None:
        if self.beta_range[0] <= self.beta_range[1]:
            raise ValueError(
                f"beta_range is {list(self.beta_range)}; it goes from a larger to a smaller number"
            )

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Return a scale for the tensor, or for each index of `spec.axis`."""
        w = np.atleast_2d(rows(values, spec))
        w, exponent = near_one(w)
        least = np.ldexp(smallest_scale(spec), -exponent)
        scale = np.array([_scale(*row, spec) for row in zip(w, least, strict=True)], np.float32)
        scale = np.where(scale == 0, np.float32(1), np.ldexp(scale, exponent))
        if spec.axis is None:
            scale = scale.reshape(())
        return QuantParams(scale, np.zeros(scale.shape, np.int32), spec.dtype, spec.axis)

    def learn(self, problem: RoundingProblem) -> npt.NDArray[np.float32]:
        """Return the weight on its grid, each value rounded up or down (`algorithms._adaround`)."""
        return learn(
            problem,
            iterations=self.iterations,
            regularization=self.regularization,
            beta_range=self.beta_range,
            warm_start=self.warm_start,
        )


def _scale(w: npt.NDArray[np.float32], smallest: np.float32, spec: QuantSpec) -> float:
    """Return the scale of a row near 1; 0 where it is below the smallest there is."""
    largest = float(np.abs(w).max())
    half = 1 << (spec.bits - 1)
    if largest / half < smallest:
        return 0.0
    counts = np.histogram(w, bins=_BINS, range=(-largest, largest))[0].astype(np.float64)
    divergences = [_divergence(counts, cut, 2 * half - 1) for cut in range(_CUTS)]
    cut = int(np.argmin(divergences))
    return (largest - cut * 2 * largest / _BINS) / half


def _divergence(counts: FloatArray, cut: int, groups: int) -> float:
    """Divergence between the bins that are left and their groups."""
    p = counts[cut : counts.size - cut].copy()
    p[0] += counts[:cut].sum()
    p[-1] += counts[counts.size - cut :].sum()
    if p.size <= groups:  # a group is a bin at most
        return 0.0 if cut == 0 else np.inf
    starts = np.ceil(np.arange(groups) * (p.size / groups)).astype(np.int64)
    mass = np.add.reduceat(p, starts)
    occupied = np.add.reduceat((p > 0).astype(np.float64), starts)
    of_bin = np.searchsorted(starts, np.arange(p.size), side="right") - 1
    q = np.where(p > 0, mass[of_bin] / np.maximum(occupied[of_bin], 1), 0.0)
    p, q = _smooth(p), _smooth(q)
    some = p > 0  # q is above zero there as well
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def _smooth(x: FloatArray) -> FloatArray:
    empty = x == 0
    share = _SMALL * empty.sum() / max(1, (~empty).sum())
    return x if share >= 1 else np.where(empty, _SMALL, x + share)
