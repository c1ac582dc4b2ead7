"""What tensors are off by, in the metrics of the vendor's tool: of each sample, then over samples, then over tensors.

A metric of several samples is the mean of those of each (of decibels, of those that are finite; inf where all samples
agree). Of several tensors the worst one counts. Positions where the float model is not finite are left out. Tensors of
integers, and those that are the same throughout, are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.judge import says_something
from calibrant.errors import ConfigRuntimeError, ConfigValueError
from calibrant.numerics.finite import finite_pairs
from calibrant.numerics.metrics import Metric, get_metric

__all__ = ["Distances", "asked_metrics", "one_metric", "per_sample"]

Array = npt.NDArray[Any]

#: Tensor -> figure -> number; the form in which figures are kept in a journal.
Figures = dict[str, dict[str, float]]


def asked_metrics(metrics: str | Sequence[str]) -> tuple[Metric, ...]:
    """Return metrics by name, each once; the first one orders.

    Raises:
        ConfigValueError: An unknown name, or none.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise ConfigValueError("There is no metric; name one or several.")
    return tuple(get_metric(n) for n in dict.fromkeys(names))


def one_metric(metric: str) -> Metric:
    """Return the only metric of an argument that takes one."""
    if not isinstance(metric, str):
        raise ConfigValueError(
            f"metric is {metric!r}; it is one name, such as 'cosine-similarity'."
        )
    return get_metric(metric)


def per_sample(
    metric: Metric, truth: Array, mine: Array, samples: int, *, rows: bool
) -> list[float]:
    """Return a metric for each sample of a feed; one number where samples cannot be told apart."""
    a, b = np.asarray(truth), np.asarray(mine)
    if a.shape != b.shape:  # it depends on values how many there are
        return [math.nan]
    if rows and samples > 1 and a.shape[:1] == (samples,):
        return [_one(metric, x, y) for x, y in zip(a, b, strict=True)]
    return [_one(metric, a, b)]


def _one(metric: Metric, truth: Array, mine: Array) -> float:
    y, x = finite_pairs(truth, mine)
    return metric.measure(y, x) if np.size(y) else metric.perfect


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Which tensors are compared, and by what.

    Args:
        metrics: The first one orders.
        tensors: Names.
        rows: Whether the rows of a tensor may be samples.
    """

    metrics: tuple[Metric, ...]
    tensors: tuple[str, ...]
    rows: bool

    @classmethod
    def of(
        cls,
        metrics: Sequence[Metric],
        truth: Sequence[Mapping[str, Array]],
        *,
        rows: bool,
    ) -> Distances:
        """Leave out tensors that say nothing.

        Raises:
            ConfigRuntimeError: None is left.
        """
        names = [n for n in truth[0] if says_something([t[n] for t in truth])]
        if not names:
            raise ConfigRuntimeError(
                "There is no output to compare: those of the model are integers, or the same for every value. Name "
                "another place to compare at with output_node."
            )
        return cls(tuple(metrics), tuple(names), rows)

    def figures(
        self, truth: Mapping[str, Array], mine: Mapping[str, Array], samples: int, first: int
    ) -> Figures:
        """Return sums over the samples of one feed.

        Args:
            truth: The float model's tensors.
            mine: The same of the changed model.
            samples: How many samples the feed holds.
            first: Number of its first sample.
        """
        found: Figures = {}
        for name in self.tensors:
            sums: dict[str, float] = {}
            for place, metric in enumerate(self.metrics):
                values = per_sample(metric, truth[name], mine[name], samples, rows=self.rows)
                counted = [v for v in values if not math.isinf(v) or v != metric.perfect]
                sums[metric.name] = sum(counted)
                sums[f"{metric.name} counted"] = float(len(counted))
                sums[f"{metric.name} of"] = float(len(values))
                if place == 0:
                    worst = metric.worst_first(values)[0]
                    sums["worst"], sums["sample"] = values[worst], float(first + worst)
            found[name] = sums
        return found

    def added(self, one: Figures, other: Figures) -> Figures:
        """Return the sums of both groups of samples."""
        if not one:
            return other
        found: Figures = {}
        for name, sums in one.items():
            more = other[name]
            total = {k: v + more[k] for k, v in sums.items()}
            worse = self.metrics[0].worst_first([sums["worst"], more["worst"]])[0]
            chosen = (sums, more)[worse]
            total["worst"], total["sample"] = chosen["worst"], chosen["sample"]
            found[name] = total
        return found

    def values(self, figures: Figures) -> dict[str, float]:
        """Return each metric by name, of the worst tensor."""
        found = {}
        for metric in self.metrics:
            each = [self.value(metric, sums) for sums in figures.values()]
            found[metric.name] = each[metric.worst_first(each)[0]]
        return found

    def value(self, metric: Metric, sums: Mapping[str, float]) -> float:
        """Return a metric of one tensor, over all samples."""
        counted = sums[f"{metric.name} counted"]
        if not counted:
            return metric.perfect
        if math.isinf(metric.perfect):
            return sums[metric.name] / counted
        return sums[metric.name] / sums[f"{metric.name} of"]

    def worst_sample(self, figures: Figures) -> int:
        """Return the number of the sample that is worst by the first metric."""
        rows = list(figures.values())
        return int(rows[self.metrics[0].worst_first([r["worst"] for r in rows])[0]]["sample"])
