"""Score models with a metric that is no mean over samples: always on all samples, paired with the float model by drawing again.

What a sample contributes is kept (`analysis.tasks.corpus`), for the float model f and a model m. Loss and interval are those of
both models on the same samples:

    loss(S)    = value(f, S) - value(m, S)                                     the other way round where less is better
    interval   = 2.5 % and 97.5 % of loss(S_1), …, loss(S_500), each S_i as many samples, drawn at random with replacement

A sample that is hard for one model is hard for the other, and both are drawn together. No bound says after a few samples what
such a value will be on all, so no evaluation ends early, and no few samples tell trials apart. Nor is the value of all samples the
mean of those of two shares, so none is held out unless it is asked for.

Sources: Efron, Tibshirani, "An introduction to the bootstrap", 1993, section 13.3 (the interval of percentiles); Koehn,
"Statistical significance tests for machine translation evaluation", EMNLP 2004 (both systems on the same draws).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.graph.digest import digest
from calibrant.runtime.runtime import Runtime
from calibrant.tuner.digests import data_digest
from calibrant.tuner.divided import said_of
from calibrant.tuner.evaluator import Score
from calibrant.tuner.paired import UNSHUFFLED
from calibrant.tuner.samples import Samples

__all__ = ["ByCorpus", "Compared", "bootstrap"]

#: How often samples are drawn again.
DRAWS = 500


@dataclass(frozen=True, slots=True)
class Compared:
    """A model beside the float model, on some samples.

    Args:
        samples: How many.
        score: Its value on them.
        loss: What it lost.
        interval: Between which values the loss on all such samples lies, with 95 % confidence; None where they do not say.
    """

    samples: int
    score: float
    loss: float
    interval: tuple[float, float] | None


@dataclass(slots=True, eq=False)
class ByCorpus:
    """A metric of a whole set of samples, on data with references.

    Args:
        samples: The data.
        metric: The metric.
        name: Its name.
    """

    samples: Samples
    metric: CorpusMetric
    name: str
    labelled: bool = True
    paired: None = None
    _reference: list[Any] = field(default_factory=list, repr=False)
    _seen: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        return self.metric.higher_is_better

    @property
    def runtime(self) -> Runtime:
        """Where models run."""
        return self.samples.runtime

    def digest(self) -> str:
        """Return a text that is another one where scores may come out otherwise."""
        reading = (self.samples.batch_size, self.samples.preprocess, self.samples.holdout)
        said = repr((self.name, reading, self.runtime.provider))
        return f"{said} {data_digest(self.samples.data)}"

    def score(self, model: ir.Model) -> Score:
        """Score a model on the samples that the search sees, and the float model on all.

        The score is the float model's on all samples, less what the model loses on those that the search sees.
        """
        self._open()
        reference, tuned = self.metric.value(self._reference), self._tuned
        if model is self.samples.original:
            return Score(reference, len(self._reference), (_NOTE.format(name=self.name),))
        mine, notes = self._run(model, 0, tuned)
        value, before = self.metric.value(mine), self.metric.value(self._reference[:tuned])
        if math.isfinite(before) and math.isfinite(reference):
            value = reference + (value - before)
        return Score(value, tuned, (*self.samples.notes, *notes, _NOTE.format(name=self.name)))

    def compare(self, model: ir.Model) -> tuple[Compared, Compared | None]:
        """Compare a model with the float model on all samples, and on those held out; None where there are none."""
        self._open()
        tuned = self._tuned
        seen, _ = self._run(model, 0, tuned)
        rest, _ = self._run(model, tuned, len(self._reference))
        held = self._compared(rest, self._reference[tuned:]) if rest else None
        return self._compared([*seen, *rest], self._reference), held

    def _compared(self, mine: Sequence[Any], reference: Sequence[Any]) -> Compared:
        score = self.metric.value(mine)
        loss = self._sign * (self.metric.value(reference) - score)
        draws = bootstrap(self.metric, mine, reference)
        interval = (self._sign * draws[0], self._sign * draws[1]) if draws is not None else None
        ordered = (min(interval), max(interval)) if interval is not None else None
        return Compared(len(mine), score, loss, ordered)

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    @property
    def _tuned(self) -> int:
        return self.samples.tuned(len(self._reference))

    def _open(self) -> None:
        if not self._reference:
            self.samples.open()
            if not self.samples.shuffled:
                self.samples.notes.append(UNSHUFFLED)
            self._reference, _ = self._run(self.samples.original, 0, math.inf)

    def _run(self, model: ir.Model, start: int, end: float) -> tuple[list[Any], Sequence[str]]:
        """Return what each sample contributes, and what is to be said of it."""
        if start >= end:
            return [], ()
        key = f"{digest(model)} {start} {end}"
        notes: list[str] = []
        if key not in self._seen:
            said = said_of(self.samples, model, self.metric, [(start, end)], notes)
            self._seen[key] = [x for batch in said for x in batch]
        return self._seen[key], notes


def bootstrap(
    metric: CorpusMetric, mine: Sequence[Any], reference: Sequence[Any]
) -> tuple[float, float] | None:
    """Return between which values (reference - mine) lies, with 95 % confidence.

    Args:
        metric: The metric.
        mine: What each sample contributes for one model.
        reference: The same for the float model, of the same samples.

    Returns:
        Both ends; None where samples say nothing: fewer than two, no difference, or no value of some draw.
    """
    count = len(mine)
    if count < 2:
        return None
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(0, count, count)
        first = metric.value([reference[i] for i in drawn])
        found.append(first - metric.value([mine[i] for i in drawn]))
    if not np.isfinite(found).all() or np.ptp(found) == 0:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


_NOTE = (
    "{name} is no mean over samples: each evaluation takes all samples that the search sees, and intervals come from drawing "
    "samples again."
)
