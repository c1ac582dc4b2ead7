"""What a layer is off by, added up sample by sample: constant memory, whatever the number of samples.

A metric of several samples is the mean of those of each sample; the worst sample is named. The SQNR is that of all samples
at once, as in the summary of a quantization: a mean over decibels would be that of the samples without an error. Where the
true model's values are not finite (a mask of -inf), there is nothing to compare, and they are left out.

Where an error comes from: with e the error of a layer's output and b what is left of it when the layer reads the true
model's tensors,

    born = sum b e / sum e**2,     arrived = 1 - born

so that both add up to the whole in energy. Above 1 the layer would make more error than it has: errors that arrive
cancel some of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.held import Held
from calibrant.analysis.metrics import MEASURES, measure_all, why_not
from calibrant.analysis.origin import Tally as Walked

__all__ = ["Born", "Digits", "Tally"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Born:
    """Which part of a layer's error is its own, and where that comes from.

    All but the last four are shares of the error's energy: they are 0 where there is no error, and else add up,

        arrived + share = 1         activations + weights + bias + other = clipping + rounding + bias + other = share

    and a share below 0 is of a cause that cancels what others do.

    Args:
        share: Is born in the layer.
        arrived: Came with what it reads.
        activations: Quantizers of activations: those of what it reads, and the one behind it where its readers share that.
        weights: The quantized weight.
        bias: The bias as it is added: rounded, or corrected.
        other: None of these; all of `share` where the quantizers of the layer could not be read.
        clipping: Of activations and weights, values beyond the ends of their grid.
        rounding: Of activations and weights, the steps of the grid.
        activation_clipping: Of activations, by clipping.
        activation_rounding: Of activations, by rounding.
        weight_clipping: Of weights, by clipping.
        weight_rounding: Of weights, by rounding.
        cause: What most of it comes from: `clipping`, `rounding`, `range` (rounding, since few channels or values hold the
            range, or the range is far wider than what is read), `mask` (the range holds a mask), `bias`, or `other`; empty where
            nothing is born.
        kind: Whether that is of an `activation` or a `weight`; empty for the other causes.
        energy: Energy of what is born, over that of the true tensor.
        sqnr_db: SQNR of the layer alone, reading the true model's tensors [dB].
        channels: Channels that most of what is born is born in, and the share of each, largest first.
    """

    share: float
    arrived: float
    activations: float
    weights: float
    bias: float
    other: float
    clipping: float
    rounding: float
    activation_clipping: float
    activation_rounding: float
    weight_clipping: float
    weight_rounding: float
    cause: str
    kind: str
    energy: float
    sqnr_db: float
    channels: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Digits:
    """How two tensors agree that should be equal.

    Args:
        values: How many were compared.
        mismatches: Those that differ by more than 10**-digits * (1 + abs truth).
        share: Mismatches over values.
        max_absolute_error: Largest absolute difference.
        max_relative_error: Largest relative difference, where the truth is not 0.
    """

    values: int
    mismatches: int
    share: float
    max_absolute_error: float
    max_relative_error: float


@dataclass(slots=True)
class Tally:
    """Sums over samples of one tensor.

    Args:
        metric: The metric that says which sample is worst.
        digits: Decimal digits that have to agree, or None.
    """

    metric: str
    digits: int | None = None
    samples: int = 0
    shape: tuple[int, ...] = ()
    reason: str = ""
    worst: str = ""
    _worst: float = -math.inf
    _sums: dict[str, float] = field(default_factory=dict)
    _moments: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))
    _energies: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))
    _error: float = 0.0
    _mismatches: int = 0
    _largest: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, sample: str, mine: Array, truth: Array, alone: Array | None = None) -> None:
        """Add a sample.

        Args:
            sample: Its name.
            mine: The tensor.
            truth: What it should be.
            alone: The tensor, where its layer reads what it should.
        """
        self.samples += 1
        self.shape = truth.shape
        said = np.isfinite(truth)
        if mine.size == truth.size and not said.all():
            mine, truth = mine.reshape(truth.shape)[said], truth[said]
            same = alone is not None and alone.size == said.size
            alone = alone.reshape(said.shape)[said] if same and alone is not None else None
        reason = why_not(mine, truth)
        if reason and not self.reason:
            self.reason = f"{sample}: {reason}"
        if mine.size != truth.size:
            found = dict.fromkeys(MEASURES, math.nan)
        else:
            found = measure_all(mine, truth)
            self._add_moments(mine, truth)
            self._add_digits(mine, truth)
            if alone is not None and alone.size == truth.size:
                self._add_energies(mine, truth, alone)
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._error += found["mean_square_error"] * truth.size
        badness = MEASURES[self.metric].ordered.badness(found[self.metric])
        if badness > self._worst or not self.worst:
            self._worst, self.worst = badness, sample

    def _add_moments(self, mine: Array, truth: Array) -> None:
        x, y = mine.astype(np.float64), truth.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            self._moments += [x.size, x.sum(), (x * x).sum(), y.sum(), (y * y).sum()]

    def _add_digits(self, mine: Array, truth: Array) -> None:
        if self.digits is None:
            return
        x, y = (v.astype(np.float64).reshape(-1) for v in (mine, truth))
        limit = 10.0**-self.digits
        same = np.isclose(x, y, rtol=limit, atol=limit, equal_nan=True)
        self._mismatches += int((~same).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = np.abs(x - y)
            relative = np.where(y != 0, difference / np.abs(y), 0)
        for i, values in enumerate((difference, relative)):
            self._largest[i] = max(
                self._largest[i], float(np.nan_to_num(values, nan=0.0).max(initial=0.0))
            )

    def _add_energies(self, mine: Array, truth: Array, alone: Array) -> None:
        y = truth.astype(np.float64).reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            error = mine.astype(np.float64).reshape(-1) - y
            own = alone.astype(np.float64).reshape(-1) - y
            pairs = ((y, y), (error, error), (own, own), (own, error))
            self._energies += [float((a * b).sum()) for a, b in pairs]

    # ----------------------------------------------------------------------------------- results

    @property
    def metrics(self) -> dict[str, float]:
        """Means over samples by metric, NaN where one sample's is; the SQNR over all samples at once."""
        if not self.samples:
            return dict.fromkeys(MEASURES, math.nan)
        found = {name: self._sums[name] / self.samples for name in MEASURES}
        found["sqnr_db"] = _sqnr_db(float(self._moments[4]), self._error)
        return found

    @property
    def standard_deviation(self) -> str:
        """Means and standard deviations of both over all samples, as `metrics.standard_deviation` writes them."""
        n, *sums = self._moments
        if not n:
            return "(nan;nan),(nan;nan)"
        texts = []
        for total, squares in (sums[:2], sums[2:]):
            mean = total / n
            texts.append(f"({mean:.3f};{math.sqrt(max(0.0, squares / n - mean * mean)):.3f})")
        return ",".join(texts)

    def born_by(self, walk: Walked | None, held: Mapping[str, Held] | None = None) -> Born | None:
        """Return which part of the error is the layer's own; None where that was not looked at.

        Args:
            walk: The walk of the layer, where its quantizers could be read.
            held: What is wrong with the range of its activations and its weight.
        """
        signal, error, own, both = self._energies.tolist()
        if not self._energies.any() and (walk is None or not walk.signal):
            return None
        alone = _sqnr_db(signal, own) if self._energies.any() else math.nan
        if walk is not None:
            arrived, a_clip, a_round, w_clip, w_round, bias, other = walk.shares
            energy = walk.error / walk.signal if walk.signal > 0 else math.inf
            channels = tuple(walk.channels.items())
        else:
            other = both / error if error else 0.0
            arrived, energy = 1 - other if error else 0.0, error / signal if signal else math.inf
            a_clip = a_round = w_clip = w_round = bias = 0.0
            channels = ()
        parts = {
            "activation_clipping": a_clip,
            "activation_rounding": a_round,
            "weight_clipping": w_clip,
            "weight_rounding": w_round,
            "bias": bias,
            "other": other,
        }
        share = sum(parts.values())
        largest = max(parts, key=lambda name: parts[name])
        cause, kind = _said(largest, held or {}) if parts[largest] > 0 else ("", "")
        return Born(
            share=share,
            arrived=arrived,
            activations=a_clip + a_round,
            weights=w_clip + w_round,
            clipping=a_clip + w_clip,
            rounding=a_round + w_round,
            cause=cause,
            kind=kind,
            energy=share * energy if share else 0.0,
            sqnr_db=alone,
            channels=channels,
            **parts,
        )

    @property
    def agreement(self) -> Digits | None:
        """How many values agree, where digits are asked for."""
        if self.digits is None:
            return None
        n = int(self._moments[0])
        share = self._mismatches / n if n else 0.0
        return Digits(n, self._mismatches, share, *self._largest)

    def failed(self, limits: Mapping[str, float | None]) -> tuple[str, ...]:
        """Return the metrics that are beyond their limits, or NaN."""
        found = self.metrics
        bad = [
            n
            for n, limit in limits.items()
            if limit is not None and not _passes(n, found[n], limit)
        ]
        if self._mismatches:
            bad.append("digits")
        return tuple(bad)


def _said(part: str, held: Mapping[str, Held]) -> tuple[str, str]:
    """Return the cause of a part of an error, and what it is of."""
    kind, _, cause = part.rpartition("_")
    wrong = held.get(kind, "")
    return (wrong if wrong == "mask" or (wrong and cause == "rounding") else cause), kind


def _sqnr_db(signal: float, error: float) -> float:
    if error == 0:
        return math.inf
    if not math.isfinite(error):
        return math.nan
    return 10 * math.log10(signal / error) if signal > 0 else -math.inf


def _passes(name: str, value: float, limit: float) -> bool:
    measure = MEASURES[name]
    return value > limit if measure.higher_is_better else value < limit
