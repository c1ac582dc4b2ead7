"""Is the mean of all samples below a limit? Said as soon as it is certain, sample by sample.

N samples x_i in [0, 1] are looked at in random order, none twice. Before the i-th, what is left has the mean

    m_i = (N m - x_1 - ... - x_(i-1)) / (N - i + 1)

if the mean of all is m. For rates l_i in [0, 1) and guesses g_i that are chosen before x_i is seen,

    M_t = exp( sum_i  l_i (x_i - m_i) - (x_i - g_i)^2 (-log(1 - l_i) - l_i) )

is then a supermartingale that starts at 1. It passes 1/a at any time with a probability of a at most (Ville's inequality), so
where it does, the mean is above m, whenever one looks. The same with 1 - x says that it is below.

Beside that, what no order of samples can change is certain: the rest can add no more than 1 a sample, and no less than 0.

Sources: Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
Statistics 49 (2), 2021 (the bound); Waudby-Smith, Ramdas, "Confidence sequences for sampling without replacement", NeurIPS
2020 (the means of what is left).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Certainty"]

Floats = npt.NDArray[np.float64]

#: Rates go up to this.
_FASTEST = 0.75


@dataclass(slots=True, eq=False)
class Certainty:
    """Whether the mean of all samples reaches a limit.

    Args:
        count: Samples in all.
        limit: The mean has to be this or more, in [0, 1].
        confidence: That an early answer is right, in (0, 1); None for certain ones alone.
    """

    count: int
    limit: float
    confidence: float | None = 0.99
    seen: int = 0
    total: float = 0.0
    _squares: float = 0.25
    _above: float = 0.0
    _below: float = 0.0
    answer: bool | None = field(default=None)

    def add(self, values: Floats) -> bool | None:
        """Look at more samples; return whether the mean reaches the limit, or None while nobody can say.

        Args:
            values: Next samples in [0, 1].
        """
        for x in values.tolist():
            if self.answer is None:
                self._one(x)
            self.seen += 1
            self.total += x
            if self.answer is None:
                self.answer = self._for_sure()
        return self.answer

    def _one(self, x: float) -> None:
        """Bet on one sample, and look whether enough was won."""
        if self.confidence is None:
            return
        threshold = math.log(1 / (1 - self.confidence))
        guess = (0.5 + self.total) / (1 + self.seen)
        variance = self._squares / (1 + self.seen)
        horizon = max(1.0, self.count / 4)
        rate = min(_FASTEST, math.sqrt(2 * threshold / (variance * horizon)))
        left = self.count - self.seen
        mean = (self.count * self.limit - self.total) / left
        price = (x - guess) ** 2 * (-math.log1p(-rate) - rate)
        self._above += rate * (x - mean) - price
        self._below += rate * (mean - x) - price
        self._squares += (x - guess) ** 2
        if self._above >= threshold:
            self.answer = True
        elif self._below >= threshold:
            self.answer = False

    def _for_sure(self) -> bool | None:
        """Return what the rest cannot change."""
        need = self.limit * self.count * (1 - 1e-12) - 1e-12
        if self.total >= need:
            return True
        if self.total + (self.count - self.seen) < need:
            return False
        return None
