"""A metric that layers are ranked by: one of `analysis.metrics`, or a function of the user's own.

A score becomes a loss, which is 0 where the outputs are the float model's and grows from there:

    loss = 10**(-sqnr_db / 10)               for `sqnr_db`: energy of the error over energy of the signal
    loss = abs(score - perfect)              for all others, `perfect` being what equal outputs give

Losses can be divided by a cost, decibels cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from calibrant.analysis.metrics import MEASURES
from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import ConfigValueError, did_you_mean

__all__ = ["SQNR", "MetricLike", "RankedBy", "ranked_by"]

#: The metric that is taken over all samples at once.
SQNR = "sqnr_db"

MetricFunction = Callable[[npt.ArrayLike, npt.ArrayLike], float]
MetricLike = str | MetricFunction


@dataclass(frozen=True, slots=True)
class RankedBy:
    """A metric, and how its scores become losses.

    Args:
        name: As reports call it.
        function: The user's own function (mine, truth) -> number, or None.
        higher_is_better: Its direction; None where only its values can tell.
    """

    name: str
    function: MetricFunction | None = None
    higher_is_better: bool | None = None

    def loss(self, score: float, perfect: float) -> float:
        """Return the loss; inf where the score is NaN."""
        if math.isnan(score):
            return math.inf
        if self._is_sqnr:
            if math.isinf(score):
                return 0.0 if score > 0 else math.inf
            return float(10 ** (-score / 10))
        if score == perfect:
            return 0.0
        if math.isinf(perfect):
            return -score if perfect > 0 else score
        return abs(score - perfect)

    def score(self, loss: float, perfect: float, near: float) -> float:
        """Return the score of a loss.

        Args:
            loss: The loss.
            perfect: What equal outputs give.
            near: A score on the same side of it.
        """
        if not math.isfinite(loss):
            return near
        if self._is_sqnr:
            return -10 * math.log10(loss) if loss > 0 else math.inf
        if math.isinf(perfect):
            return -loss if perfect > 0 else loss
        return perfect + math.copysign(loss, near - perfect)

    @property
    def _is_sqnr(self) -> bool:
        return self.name == SQNR and self.function is None


def ranked_by(metric: MetricLike) -> RankedBy:
    """Return a metric by its name, as `module:function`, or as the function itself.

    Raises:
        ConfigValueError: An unknown name, or a function that cannot be imported.
    """
    if isinstance(metric, str) and metric in MEASURES:
        return RankedBy(metric, None, MEASURES[metric].higher_is_better)
    if isinstance(metric, str):
        if not is_function_name(metric):
            raise ConfigValueError(
                f"Unknown metric '{metric}'. Known: {', '.join(MEASURES)}, or a function of yours as module:function."
                + did_you_mean(metric, MEASURES)
            )
        function: Any = import_function(metric, what="Metric", error=ConfigValueError)
        return RankedBy(metric, function, getattr(function, "higher_is_better", None))
    if not callable(metric):
        raise ConfigValueError(
            f"The metric is a {type(metric).__name__}; it is a name, module:function, or a function (mine, truth)."
        )
    module, name = getattr(metric, "__module__", ""), getattr(metric, "__qualname__", repr(metric))
    return RankedBy(f"{module}:{name}", metric, getattr(metric, "higher_is_better", None))
