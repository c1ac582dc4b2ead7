"""What was seen of each quantized tensor and each weight, small enough for a page: bars, ranges, channels.

A range is judged by the histogram alone, as the algorithms do it:

    sqnr = 10 log10( sum n x**2 / sum n (x - fake_quantize(x))**2 )      [dB],  over values x seen n times
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from calibrant.choose import choose_for_each
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.plan import ActivationDecision, Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.recipe import AlgorithmChoice
from calibrant.report.evidence.spread import Bars, Boxes, bars_of, boxes_of, short
from calibrant.solution import Solution
from calibrant.stats import TensorStats

__all__ = [
    "DISTRIBUTIONS_FILE",
    "Distributions",
    "Range",
    "TensorSeen",
    "WeightSeen",
    "distributions_of",
    "shown_channels",
]

DISTRIBUTIONS_FILE = "distributions.json"

#: Algorithms whose range is shown beside the chosen one.
CANDIDATES = ("min-max", "percentile", "mse", "kl")

#: Channels that are shown of all tensors together, and of one at the most and at the least: a page has to open at once.
ALL_CHANNELS, MOST_CHANNELS, LEAST_CHANNELS = 20_000, 64, 8


@dataclass(frozen=True, slots=True)
class Range:
    """A range that a tensor could have.

    Args:
        algorithm: What chose it.
        low: Lowest value that the grid has.
        high: Highest value that the grid has.
        sqnr_db: Of the tensor on this grid, by its histogram [dB].
        clipped: Share of the values beyond the range by more than half a step.
        chosen: The one that was taken.
    """

    algorithm: str
    low: float
    high: float
    sqnr_db: float
    clipped: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class TensorSeen:
    """A quantized activation.

    Args:
        tensor: Its name.
        count: Values that were seen.
        nonfinite: Values that were not finite.
        bars: Their histogram.
        ranges: The chosen range first, then those of other algorithms; of a tensor with a range for each channel, the
            outermost ends.
        by_channel: Each channel has a range of its own.
        channels: Channels, on a few samples; None where they were not looked at.
    """

    tensor: str
    count: int
    nonfinite: int
    bars: Bars
    ranges: tuple[Range, ...]
    by_channel: bool
    channels: Boxes | None = None


@dataclass(frozen=True, slots=True)
class WeightSeen:
    """A quantized weight.

    Args:
        layer: The node.
        weight: Its name.
        shape: Its shape.
        before: Histogram of the weight in float, between the outermost values of both.
        after: Histogram of what the integers stand for, in the same bars.
        sqnr_db: Of the weight [dB].
        largest_error: Largest difference between the two.
        zeros: Share of the weights that became 0 although they were not.
        channels: Output channels of the weight in float; None where there are none.
        limits: For each channel that is shown, the largest magnitude that its grid has.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    before: Bars
    after: Bars
    sqnr_db: float
    largest_error: float
    zeros: float
    channels: Boxes | None = None
    limits: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Distributions:
    """All that was seen.

    Args:
        tensors: Activations, in graph order.
        weights: Weights, in graph order.
        samples: Samples that channels of activations were looked at on; 0 where they were not.
        notes: What could not be measured, and why.
    """

    tensors: tuple[TensorSeen, ...] = ()
    weights: tuple[WeightSeen, ...] = ()
    samples: int = 0
    notes: tuple[str, ...] = ()

    def with_channels(self, found: Mapping[str, Boxes], samples: int) -> Distributions:
        """Return them with the channels of activations."""
        tensors = tuple(replace(t, channels=found.get(t.tensor)) for t in self.tensors)
        return replace(self, tensors=tensors, samples=samples)


def distributions_of(solution: Solution, statistics: Mapping[str, TensorStats]) -> Distributions:
    """Return what was seen of a solution's tensors and weights.

    Args:
        solution: What was decided.
        statistics: What was seen of each tensor; those without are left out.
    """
    most = shown_channels(solution.plan)
    others = _others(solution.plan, statistics)
    tensors: dict[str, TensorSeen] = {}
    for d in solution.plan.activations:
        seen = statistics.get(d.tensor)
        if seen is None or not seen.count or d.tensor in tensors:
            continue
        tensors[d.tensor] = _tensor(
            d, seen, solution.params.activations[d.id], others.get(d.id, {})
        )
    weights = tuple(_weight(solution, w, most) for w in solution.plan.weights)
    return Distributions(tuple(tensors.values()), weights)


def shown_channels(plan: Plan) -> int:
    """Return how many channels of a tensor are shown."""
    tensors = len(plan.activations) + len(plan.weights)
    return max(LEAST_CHANNELS, min(MOST_CHANNELS, ALL_CHANNELS // max(1, tensors)))


def _others(
    plan: Plan, statistics: Mapping[str, TensorStats]
) -> dict[str, dict[str, QuantParams]]:
    """Return what other algorithms choose, by quantizer and algorithm; quantizers with one scale alone."""
    open_ones = tuple(
        d
        for d in plan.activations
        if d.fixed_range is None
        and d.spec.axis is None
        and d.tensor in statistics
        and statistics[d.tensor].count
    )
    plans = [
        replace(
            plan,
            activations=tuple(replace(d, algorithm=AlgorithmChoice(name)) for d in open_ones),
        )
        for name in CANDIDATES
    ]
    chosen = choose_for_each(plans, statistics)
    found: dict[str, dict[str, QuantParams]] = {}
    for name, params in zip(CANDIDATES, chosen, strict=True):
        for key, p in params.items():
            found.setdefault(key, {})[name] = p
    return found


def _tensor(
    d: ActivationDecision,
    seen: TensorStats,
    params: QuantParams,
    others: Mapping[str, QuantParams],
) -> TensorSeen:
    values, counts = seen.points()
    name = "fixed range" if d.fixed_range is not None else d.algorithm.name
    by_channel = params.axis is not None
    chosen = _range(name, params, values, counts, chosen=True)
    ranges = [chosen]
    for algorithm, p in others.items():
        if algorithm != name:
            ranges.append(_range(algorithm, p, values, counts, chosen=False))
    bars = bars_of(values, counts, between=(seen.min, seen.max))
    return TensorSeen(d.tensor, seen.count, seen.nonfinite, bars, tuple(ranges), by_channel)


def _range(
    name: str,
    params: QuantParams,
    values: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    *,
    chosen: bool,
) -> Range:
    low, high = float(params.range[0].min()), float(params.range[1].max())
    half = (
        float(params.scale.max()) / 2
    )  # what is nearer to an end than that is rounded, not clipped
    beyond = float(counts[(values < low - half) | (values > high + half)].sum() / counts.sum())
    if params.axis is not None:
        return Range(name, short(low), short(high), math.nan, beyond, chosen)
    error = values - fake_quantize(values, params)
    db = _db(float((counts * values**2).sum()), float((counts * error**2).sum()))
    return Range(name, short(low), short(high), short(db), short(beyond), chosen)


def _weight(solution: Solution, w: WeightDecision, most: int) -> WeightSeen:
    x = float_weight(solution.model, solution.plan, w, solution.params.activations)
    layer = solution.params.layers[w.layer]
    y = layer.floats
    between = (float(min(x.min(), y.min())), float(max(x.max(), y.max()))) if x.size else None
    error = x.astype(np.float64) - y
    db = _db(float(np.square(x, dtype=np.float64).sum()), float(np.square(error).sum()))
    lost = float(((x != 0) & (y == 0)).mean()) if x.size else 0.0
    boxes = boxes_of(x, w.channel_axis, most) if w.channel_axis is not None and x.ndim else None
    return WeightSeen(
        w.layer,
        w.weight,
        tuple(x.shape),
        bars_of(x, between=between),
        bars_of(y, between=between),
        short(db),
        short(float(np.abs(error).max())) if error.size else 0.0,
        short(lost),
        boxes,
        _limits(layer.weight, boxes),
    )


def _limits(params: QuantParams, boxes: Boxes | None) -> tuple[float, ...]:
    """Return the largest magnitude on the grid of each channel that is shown."""
    if boxes is None:
        return ()
    ends = np.abs(params.range[1])
    each = ends.reshape(-1)
    shown = [b.channel for b in boxes.shown]
    return tuple(short(float(each[c] if each.size > 1 else each[0])) for c in shown)


def _db(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
