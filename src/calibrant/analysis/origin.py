"""Where the error of a tensor comes from: energies of the steps of a walk, added up over samples.

A walk leads from what a layer gives in the float model to what it gives in the quantized one, one step for each cause. The
steps v add up to the error e of the tensor, and so do their energies, taken as

    share of v = sum v e / sum e**2            sum of all shares = 1

A share is below 0 where a cause cancels what others do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.parts import Part

__all__ = ["CAUSES", "Origin", "Tally"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: Causes in the order of the walk: the error that arrived, and what is born here.
CAUSES = (
    "arrived",
    "activation_clipping",
    "activation_rounding",
    "weight_clipping",
    "weight_rounding",
    "bias",
)


#: Channels that are named.
WORST_CHANNELS = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the error of a tensor comes from, in shares of its energy, which add up to 1 (all 0 where there is no error).

    Args:
        sqnr_db: SQNR of the tensor in the quantized model [dB].
        arrived: Came with what the layer reads.
        born: Is made here: the sum of those below.
        activation_clipping: Values beyond the range of the grid of an input.
        activation_rounding: Steps of that grid.
        weight_clipping: Weights beyond the range of their grid.
        weight_rounding: Steps of that grid.
        bias: The bias as it is added: rounded, or corrected.
    """

    sqnr_db: float
    arrived: float
    born: float
    activation_clipping: float
    activation_rounding: float
    weight_clipping: float
    weight_rounding: float
    bias: float

    @property
    def activations(self) -> float:
        """What quantizing the inputs makes."""
        return self.activation_clipping + self.activation_rounding

    @property
    def weights(self) -> float:
        """What quantizing the weight makes."""
        return self.weight_clipping + self.weight_rounding

    @property
    def cause(self) -> str:
        """The largest share of what is born here."""
        return max(CAUSES[1:], key=lambda name: getattr(self, name))


@dataclass(slots=True, eq=False)
class Tally:
    """Energies of one tensor, added up over samples.

    Args:
        part: What is looked at of it; None for all.
        axis: Axis of its channels; None where it has none.
    """

    part: Part | None = None
    axis: int | None = None
    signal: float = 0.0
    error: float = 0.0
    steps: Floats | float = 0.0
    _channels: Floats | None = None
    _signals: Floats | None = None

    def add(self, truth: Array, walk: Sequence[tuple[int, Array]], steps: int) -> None:
        """Add the walk of one feed; where the float model is not finite, nothing is said.

        Args:
            truth: What the float layer gives, where the walk begins.
            walk: Which step is gone, and what the layer gives after it; the very same array where that changes nothing.
                Step 0 is what arrived, and comes first.
            steps: How many steps there are; one may be gone more than once, or never.
        """
        from calibrant.numerics.step_sums import ends_sums, step_sum

        self._add_channels(truth, walk)
        take = _all if self.part is None else self.part.take
        y, end = _flat(take(truth)), _flat(take(walk[-1][1]))
        signal, error = ends_sums(y, end)
        found, before, last = np.zeros(steps), y, truth
        for place, value in walk:
            if value is not last:
                after = _flat(take(value))
                found[place] += step_sum(before, after, y, end)
                before, last = after, value
        self.signal += signal
        self.error += error
        self.steps = self.steps + found

    def _add_channels(self, truth: Array, walk: Sequence[tuple[int, Array]]) -> None:
        """Add up the energy of what is born, channel by channel."""
        from calibrant.numerics.step_sums import channel_sums

        if self.axis is None or truth.ndim < 2:
            return
        axis = self.axis % truth.ndim
        shape = math.prod(truth.shape[:axis]), truth.shape[axis], -1
        if not truth.size:
            shape = 0, truth.shape[axis], 0
        arrived, y, end = (
            np.ascontiguousarray(x).reshape(shape) for x in (walk[0][1], truth, walk[-1][1])
        )
        found, signals = channel_sums(arrived, y, end)
        same = self._channels is not None and self._channels.shape == found.shape
        self._channels = self._channels + found if same else found
        self._signals = self._signals + signals if same else signals

    @property
    def channels(self) -> dict[int, float]:
        """The channels that most of what is born here is born in, and the share of each, largest first."""
        if self._channels is None or not self._channels.sum() > 0:
            return {}
        shares = self._channels / self._channels.sum()
        worst = np.argsort(-shares, kind="stable")[:WORST_CHANNELS]
        return {int(c): float(shares[c]) for c in worst if shares[c] > 0}

    @property
    def lost_channels(self) -> float:
        """The mean over channels of the energy of what is born, over the channel's own: near 1 where most of them are rounded away.

        A channel counts up to 1. Whoever reads the tensor weighs channels in its own way: what is small beside others may matter as much.
        """
        if self._channels is None or self._signals is None or not self._signals.sum() > 0:
            return 0.0
        alive = self._signals > 0
        shares = self._channels[alive] / self._signals[alive]
        return float(np.minimum(shares, 1.0).mean())

    @property
    def shares(self) -> list[float]:
        """Share of each step, in their order; all 0 where there is no error."""
        steps = np.atleast_1d(self.steps)
        return [float(s / self.error) if self.error else 0.0 for s in steps]

    @property
    def sqnr_db(self) -> float:
        """SQNR of the tensor [dB]."""
        if self.error == 0:
            return math.inf
        ratio = self.signal / self.error
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf if ratio == 0 else math.nan

    @property
    def origin(self) -> Origin:
        """The shares."""
        if self.error == 0:
            return Origin(math.inf, *[0.0] * 7)
        arrived, *born = self.shares
        return Origin(self.sqnr_db, arrived, sum(born), *born)


def _all(x: Array) -> Array:
    return x


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(-1)
