"""How large the tensors of a model are, by what it says of its shapes, and how many samples that allows to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.graph.values import values_by_name
from calibrant.plan import Plan

__all__ = ["affordable_samples", "feeds_of", "measured_feeds", "scored_feeds", "values_a_sample"]

#: Options are judged on at most so many samples of the probe …
SCORE_SAMPLES = 16
#: … and on more where all observed values of all samples stay below this.
SCORE_VALUES = 16_000_000

#: The finished model is measured on so many at least, and on so many where tensors are large.
MEASURED_SAMPLES, LEAST_MEASURED_SAMPLES = 16, 8

#: Samples that are fewer where the tensors of all of them have more values than this.
AFFORDABLE_VALUES = 64_000_000


def affordable_samples(
    model: ir.Model, tensors: Sequence[str], batch: int, *, most: int, least: int
) -> int:
    """Return how many samples a look at a model can afford: `most`, fewer of large tensors, but `least`.

    Args:
        model: The model.
        tensors: What is looked at in it.
        batch: Samples in a batch, where its shapes name a number.
        most: Where tensors are small, or the model does not say how large they are.
        least: Where they are large.
    """
    values = values_a_sample(model, tensors, batch)
    many = most if values is None else int(AFFORDABLE_VALUES / max(1.0, values))
    return min(most, max(least, many))


def values_a_sample(model: ir.Model, tensors: Sequence[str], batch: int) -> float | None:
    """Return how many values the tensors have for each sample; None where the model does not say."""
    values, total = values_by_name(model.graph), 0.0
    for tensor in tensors:
        shape = values[tensor].shape
        if shape is None or not len(shape) or not all(isinstance(d, int) for d in shape[1:]):
            return None
        first = shape[0] if isinstance(shape[0], int) else batch
        total += first * math.prod(int(d) for d in shape[1:] if isinstance(d, int)) / max(1, batch)
    return total


def feeds_of(probe: Probe, samples: int) -> int:
    """Return how many feeds, from the first on, hold so many samples."""
    total = 0
    for count, batch in enumerate(probe.small, 1):
        total += batch.size
        if total >= samples:
            return count
    return len(probe.small)


def scored_feeds(model: ir.Model, plan: Plan, probe: Probe) -> int:
    """Return how many feeds of the probe scoring can afford."""
    values = values_a_sample(model, plan.observed_tensors, probe.small[0].size)
    most = SCORE_SAMPLES if values is None else int(SCORE_VALUES / max(1.0, values))
    return max(2, feeds_of(probe, max(SCORE_SAMPLES, most)))  # one of each half


def measured_feeds(model: ir.Model, plan: Plan, probe: Probe) -> int:
    """Return how many feeds of the probe the finished model is measured on."""
    size, most, least = probe.small[0].size, MEASURED_SAMPLES, LEAST_MEASURED_SAMPLES
    few = affordable_samples(model, plan.observed_tensors, size, most=most, least=least)
    return scored_feeds(model, plan, probe) if few == most else max(2, feeds_of(probe, few))
