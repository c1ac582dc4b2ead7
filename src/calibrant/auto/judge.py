"""Say how far outputs are from those of the float model, as a search asks.

The metric of several samples is the mean over them; of several outputs the worst counts, or the mean. Outputs
that are not floating point numbers, or the same for every sample, say nothing and are left out.

Source: horizon.md 1.5, 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.auto.probe import Probe
from calibrant.errors import ConfigRuntimeError
from calibrant.numerics.metrics import Metric, get_metric
from calibrant.recipe import Note, Search

__all__ = ["Judge", "Verdict"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one candidate reached.

    Args:
        score: The metric of the worst output, or the mean over outputs.
        mean: The mean over outputs, which decides between equal scores.
        outputs: The metric of each output.
    """

    score: float
    mean: float
    outputs: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The samples of a search, and what the float model answers to them.

    Args:
        metric: The distance.
        aggregate: `worst` or `mean` over outputs.
        feeds: Inputs.
        reference: The float model's outputs, those that count.
        rows: For each feed, whether its rows are samples.
        notes: What to say of the samples.
    """

    metric: Metric
    aggregate: str
    feeds: list[dict[str, Array]]
    reference: list[dict[str, Array]]
    rows: bool
    notes: tuple[Note, ...]

    @classmethod
    def of(cls, search: Search, probe: Probe) -> Judge:
        """Take the first samples of a probe.

        Raises:
            ConfigRuntimeError: No output can be compared.
        """
        feeds: list[dict[str, Array]] = []
        reference: list[dict[str, Array]] = []
        left = search.samples
        for batch, outputs in zip(probe.small, probe.reference, strict=True):
            if left <= 0:
                break
            part = slice(0, left) if probe.free else slice(None)
            feeds.append({n: np.ascontiguousarray(x[part]) for n, x in batch.feeds.items()})
            cut = probe.free and all(np.shape(x)[:1] == (batch.size,) for x in outputs.values())
            reference.append({n: x[part] if cut else x for n, x in outputs.items()})
            left -= min(left, batch.size)
        names = [n for n in reference[0] if _says_something([r[n] for r in reference])]
        if not names:
            raise ConfigRuntimeError(
                "The search has no output to compare: the model's outputs are integers, or the same for every "
                "value. Cut the model before what makes them so."
            )
        notes: tuple[Note, ...] = ()
        if left > 0:
            notes = (
                Note(
                    "search",
                    f"The search is to look at {search.samples} samples; the calibration data (or what is kept of "
                    f"it) has {search.samples - left}, and these are taken.",
                    honoured=True,
                ),
            )
        return cls(
            get_metric(search.metric),
            search.aggregate,
            feeds,
            [{n: r[n] for n in names} for r in reference],
            probe.free,
            notes,
        )

    @property
    def names(self) -> list[str]:
        """Outputs that count."""
        return list(self.reference[0])

    def judge(self, outputs: Sequence[Mapping[str, Array]]) -> Verdict:
        """Compare outputs, one mapping a feed; those that are missing equal the float model's."""
        scores = {}
        for name in self.names:
            values = [
                self.metric.perfect if name not in out else self.metric.measure(a, b)
                for ref, out in zip(self.reference, outputs, strict=True)
                for a, b in self._samples(ref[name], out.get(name, ref[name]))
            ]
            scores[name] = float(np.mean(values))
        listed = list(scores.values())
        worst = listed[self.metric.worst_first(listed)[0]]
        mean = float(np.mean(listed))
        return Verdict(mean if self.aggregate == "mean" else worst, mean, scores)

    def better(self, one: Verdict, than: Verdict) -> bool:
        """Whether a verdict is strictly better than another."""
        if one.score == than.score or (math.isnan(one.score) and math.isnan(than.score)):
            return self.metric.better(one.mean, than.mean)
        return self.metric.better(one.score, than.score)

    def _samples(self, a: Array, b: Array) -> list[tuple[Array, Array]]:
        if not self.rows or a.ndim == 0 or a.shape != b.shape:
            return [(a, b)]
        return list(zip(a, b, strict=True))


def _says_something(values: Sequence[Array]) -> bool:
    if not all(np.asarray(x).dtype.kind == "f" and np.size(x) for x in values):
        return False
    first = np.ravel(values[0])[0]
    return any(bool((x != first).any()) for x in values)
