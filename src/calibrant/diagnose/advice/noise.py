"""What a quantizer makes of its values: how much is clipped and how much rounded, from statistics, and what holds its range.

With x the values, c(x) clipped to the ends of the grid and q(x) on the grid,

    clipping = sum (x - c(x))**2        rounding = sum (c(x) - q(x))**2        relative to sum x**2

Where the largest value lies far beyond nearly all others, these few hold the range, and all others get few steps of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.held import OUTLIERS, SPREAD, TAIL, few_channels
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.affine import within
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.folding import float_weight
from calibrant.plan.parameters import Parameters
from calibrant.stats import TensorStats

__all__ = ["Noise", "activation_noise", "holding", "weight_noise"]


@dataclass(frozen=True, slots=True)
class Noise:
    """What a quantizer makes of its values.

    Args:
        clipping: Energy of what is clipped, over that of the values.
        rounding: Energy of what is rounded, over that of the values.
        largest: Largest magnitude.
        tail: Magnitude that all but one in 10,000 values stay below.
        holders: Channels that hold the range, where few do.
        channels: How many channels there are; 0 where that is not known.
        end: The end of the grid that lies farther from 0; 0 where channels have their own.
    """

    clipping: float = 0.0
    rounding: float = 0.0
    largest: float = 0.0
    tail: float = 0.0
    holders: tuple[int, ...] = ()
    channels: int = 0
    end: float = 0.0

    @property
    def energy(self) -> float:
        """Both together."""
        return self.clipping + self.rounding

    @property
    def has_outliers(self) -> bool:
        """Whether a few values hold the range."""
        return self.tail > 0 and self.largest > OUTLIERS * self.tail

    @property
    def is_unused(self) -> bool:
        """Whether the values take a small part of the range."""
        return 0 < SPREAD * self.largest < self.end

    @property
    def cause(self) -> str:
        """`clipping`, `rounding`, or `range`: rounding, since few channels or values hold the range, or nothing does."""
        if self.clipping > self.rounding:
            return "clipping"
        held = self.holders or self.has_outliers or self.is_unused
        return "range" if held else "rounding"


def activation_noise(stats: TensorStats, params: QuantParams) -> Noise:
    """Return what a quantizer makes of an activation, from its statistics."""
    kinds: list[tuple[TensorStats, QuantParams]] = [(stats, params)]
    if params.axis is not None:
        each = stats.of_channels(params.axis)
        kinds = [(s, _channel(params, i)) for i, s in enumerate(each)]
    clipped = rounded = energy = 0.0
    for found, p in kinds:
        x, count = found.points()
        if not len(x):
            continue
        c = within(x, p).astype(np.float64)
        q = fake_quantize(x, p).astype(np.float64)
        clipped += float((count * (x - c) ** 2).sum())
        rounded += float((count * (c - q) ** 2).sum())
        energy += float((count * x * x).sum())
    if not energy > 0:
        return Noise()
    x, count = stats.points()
    end = max(float(np.abs(e).max()) for e in params.range) if params.axis is None else 0.0
    return Noise(clipped / energy, rounded / energy, *_ends(np.abs(x), count), end=end)


def weight_noise(model: ir.Model, plan: Plan, params: Parameters, weight: WeightDecision) -> Noise:
    """Return what a quantizer makes of a weight."""
    chosen = params.layers[weight.layer]
    x = float_weight(model, plan, weight, params.activations).astype(np.float64)
    energy = float((x * x).sum())
    if not energy > 0:
        return Noise()
    c = within(x, chosen.weight).astype(np.float64)
    clipped, off = float(((x - c) ** 2).sum()), chosen.floats.astype(np.float64) - c
    found = Noise(clipped / energy, float((off * off).sum()) / energy, *_ends(np.abs(x).ravel()))
    axis = weight.channel_axis
    if weight.spec.axis is not None or axis is None or x.ndim < 2:
        return found
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return holding(found, np.abs(x).max(axis=others))


def holding(noise: Noise, magnitudes: npt.NDArray[Any]) -> Noise:
    """Return the noise with the channels that hold the range, where these are few.

    Args:
        noise: Of the tensor.
        magnitudes: (channels,) largest magnitude of each.
    """
    few = few_channels(magnitudes)
    return _with(noise, few, len(magnitudes))


def _with(noise: Noise, holders: tuple[int, ...], channels: int) -> Noise:
    return replace(noise, holders=holders, channels=channels)


def _ends(x: npt.NDArray[Any], count: npt.NDArray[Any] | None = None) -> tuple[float, float]:
    """Return the largest magnitude, and what all but one in 10,000 stay below."""
    order = np.argsort(x)
    weights = count[order] if count is not None else np.ones(len(x))
    below = np.cumsum(weights)
    place = int(np.searchsorted(below, TAIL * below[-1]))
    return float(x[order[-1]]), float(x[order[min(place, len(x) - 1)]])


def _channel(params: QuantParams, index: int) -> QuantParams:
    return QuantParams(params.scale[index], params.zero_point[index], params.dtype)
