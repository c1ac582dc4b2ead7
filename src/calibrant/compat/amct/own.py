"""The classes that users of accuracy_based_auto_calibration derive their own from, and the two that take their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.diagnose.own_outputs import half_cosine
from calibrant.tuning.strategies.roll_back import BinarySearch, MetricEval

__all__ = [
    "AutoCalibrationEvaluatorBase",
    "AutoCalibrationStrategyBase",
    "BinarySearchStrategy",
    "CosineSimilaritySensitivity",
    "MseSensitivity",
    "SensitivityBase",
]

Array = npt.NDArray[Any]


class AutoCalibrationEvaluatorBase:
    """What an evaluator has to have; an object with these three methods is one, whatever it is derived from."""

    def calibration(self, model: Any) -> None:
        """Run a model on calibration data, batch by batch: `batch_num` of the configuration, or more."""
        raise NotImplementedError

    def evaluate(self, model: Any) -> Any:
        """Return how good a model is; any value that `metric_eval` understands."""
        raise NotImplementedError

    def metric_eval(self, original_metric: Any, new_metric: Any) -> MetricEval:
        """Return whether a model is good enough beside the original one, and what is lost."""
        raise NotImplementedError


class AutoCalibrationStrategyBase:
    """What a strategy has to have."""

    def initialize(self, ranking_info: dict[str, float]) -> None:
        """Take the ranking: layer -> similarity, smaller for layers that lose more."""
        raise NotImplementedError

    def update_quant_config(self, metric_eval: MetricEval) -> dict[str, Any]:
        """Take what the last configuration reached, and return the next one.

        Returns:
            `stop_flag`: it is the last; `roll_back_config`: layer -> True where it stays quantized.
        """
        raise NotImplementedError


class SensitivityBase:
    """What a sensitivity has to have."""

    def compare(self, data: Array, other: Array) -> float:
        """Return how like a layer's output in float (`data`) the quantized one (`other`) is; smaller where more is lost.

        Both are vectors: all values of a batch.
        """
        raise NotImplementedError


class BinarySearchStrategy(BinarySearch, AutoCalibrationStrategyBase):
    """The number of leading layers that go back to float, by halving."""


class CosineSimilaritySensitivity(SensitivityBase):
    """(1 + cosine) / 2."""

    def compare(self, data: npt.ArrayLike, other: npt.ArrayLike) -> float:
        """Return the similarity in [0, 1]."""
        return half_cosine(data, other)


class MseSensitivity(SensitivityBase):
    """The Euclidean distance over the length of the first axis: larger where more is lost.

    Layers are ranked by it from the largest down, since `larger_is_worse`.

    Args:
        do_normalization: Bring both outputs to [0, 1] first.
    """

    larger_is_worse = True

    def __init__(self, do_normalization: bool = False) -> None:
        """Keep the option."""
        self.do_normalization = do_normalization

    def compare(self, data: npt.ArrayLike, other: npt.ArrayLike) -> float:
        """Return the distance, in units of the outputs."""
        x, y = np.asarray(data), np.asarray(other)
        if self.do_normalization:
            x, y = _normalized(x), _normalized(y)
        return float(np.linalg.norm(x - y) / x.shape[0])


def _normalized(x: Array) -> Array:
    return np.asarray((x - x.min()) / (x.max() - x.min() + np.finfo(np.float32).eps))
