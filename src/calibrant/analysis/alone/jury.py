"""What the outputs of a changed model are off by: sums over samples, part by part, that can be added up and written down.

The sums of two groups of samples are added; a metric of several samples is then the mean of those of each, the SQNR that of
all at once, as in `analysis.compare`. Positions where the float model is not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.metric import SQNR, RankedBy
from calibrant.analysis.judge import says_something
from calibrant.analysis.metrics import MEASURES, measure_all
from calibrant.analysis.parts import Part, parts_of
from calibrant.errors import ConfigRuntimeError, ConfigValueError
from calibrant.numerics.finite import finite_pairs

__all__ = ["Jury", "Sums", "added", "means"]

Array = npt.NDArray[Any]

#: Part of an output -> name of a sum -> the sum.
Sums = dict[str, dict[str, float]]

_SAMPLES, _SIGNAL, _ERROR, _OWN, _PERFECT = "samples", "signal", "error", "own", "perfect"


@dataclass(frozen=True, slots=True, eq=False)
class Jury:
    """Which tensors are compared, in which parts, and by what.

    Args:
        parts: Parts by tensor.
        metric: The user's own metric is measured beside those that always are.
        rows: Whether the rows of a tensor may be samples.
    """

    parts: Mapping[str, tuple[Part, ...]]
    metric: RankedBy
    rows: bool

    @classmethod
    def of(
        cls,
        model: ir.Model,
        reference: Sequence[Mapping[str, Array]],
        metric: RankedBy,
        *,
        rows: bool,
    ) -> Jury:
        """Find the parts of what a float model answers.

        Raises:
            ConfigRuntimeError: No output says anything.
        """
        names = [n for n in reference[0] if says_something([r[n] for r in reference])]
        if not names:
            raise ConfigRuntimeError(
                "There is no output to compare: the model's outputs are integers, or the same for every value. Cut the "
                "model before what makes them so."
            )
        parts = {n: parts_of(model, n, [r[n] for r in reference]) for n in names}
        return cls(parts, metric, rows)

    def sums(self, truth: Mapping[str, Array], mine: Mapping[str, Array], samples: int) -> Sums:
        """Compare the outputs of one feed; those that are missing equal the float model's.

        Args:
            truth: The float model's.
            mine: The changed model's.
            samples: How many samples the feed holds.
        """
        found: Sums = {}
        for name, parts in self.parts.items():
            a, b = np.asarray(mine.get(name, truth[name])), np.asarray(truth[name])
            for part in parts:
                total = found[part.name] = dict.fromkeys(self._names(), 0.0)
                for x, y in self._samples(part, a, b, samples):
                    for key, value in self._one(x, y).items():
                        total[key] += value
        return found

    def _names(self) -> tuple[str, ...]:
        own = (_OWN, _PERFECT) if self.metric.function is not None else ()
        return (_SAMPLES, _SIGNAL, _ERROR, *MEASURES, *own)

    def _samples(
        self, part: Part, mine: Array, truth: Array, samples: int
    ) -> Iterator[tuple[Array, Array]]:
        if mine.shape != truth.shape:  # it depends on values how many there are
            yield mine, truth
            return
        x, y = part.take(mine), part.take(truth)
        if self.rows and samples > 1 and y.shape[:1] == (samples,):
            yield from zip(x, y, strict=True)
        else:
            yield x, y

    def _one(self, mine: Array, truth: Array) -> dict[str, float]:
        if mine.shape != truth.shape:
            return {**dict.fromkeys(self._names(), math.nan), _SAMPLES: 1.0}
        y, x = finite_pairs(truth, mine)
        if not np.size(y):
            perfect = {n: m.perfect for n, m in MEASURES.items()}
            own = dict.fromkeys((_OWN, _PERFECT), 0.0) if self.metric.function else {}
            return {_SAMPLES: 1.0, _SIGNAL: 0.0, _ERROR: 0.0, **perfect, **own}
        found = measure_all(x, y)
        y64, x64 = np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            found |= {_SIGNAL: float((y64 * y64).sum()), _ERROR: float(((x64 - y64) ** 2).sum())}
        if self.metric.function is not None:
            found |= {_OWN: self._own(x, y), _PERFECT: self._own(y, y)}
        return {_SAMPLES: 1.0, **found}

    def _own(self, mine: Array, truth: Array) -> float:
        assert self.metric.function is not None
        try:
            return float(self.metric.function(mine, truth))
        except Exception as e:  # the user's code may raise anything
            raise ConfigValueError(
                f"Metric '{self.metric.name}' failed on outputs of shape {np.shape(truth)}: {type(e).__name__}: {e}."
            ) from e


def added(one: Sums, other: Sums) -> Sums:
    """Return the sums of both groups of samples."""
    return {p: {k: v + other[p][k] for k, v in one[p].items()} for p in one}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of one part by name; with a metric of the user's own also `own` and `perfect`."""
    n = sums[_SAMPLES]
    found = {k: sums[k] / n for k in (*MEASURES, _OWN, _PERFECT) if k in sums}
    signal, error = sums[_SIGNAL], sums[_ERROR]
    if error == 0:
        found[SQNR] = math.inf
    elif not math.isfinite(error):
        found[SQNR] = math.nan
    else:
        found[SQNR] = 10 * math.log10(signal / error) if signal > 0 else -math.inf
    return found
