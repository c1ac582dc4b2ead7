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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.data.digests import data_digest, text_digest
from calibrant.graph.digest import digest
from calibrant.runtime.runtime import Runtime
from calibrant.tuner.divided import said_of
from calibrant.tuner.evaluator import Score
from calibrant.tuner.journal import Journal
from calibrant.tuner.looks import Looks
from calibrant.tuner.paired import UNSHUFFLED
from calibrant.tuner.requirement import loss_of
from calibrant.tuner.samples import Samples
from calibrant.tuner.settling import Compared, Settled, Settles

__all__ = ["ByCorpus", "bootstrap", "values_of_draws"]

#: How often samples are drawn again.
DRAWS = 500


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
    own: bool = False
    paired: None = None
    _reference: list[Any] = field(default_factory=list, repr=False)
    _seen: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    _values: dict[int, list[float]] = field(default_factory=dict, repr=False)

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        return self.metric.higher_is_better

    @property
    def runtime(self) -> Runtime:
        """Where models run."""
        return self.samples.runtime

    @property
    def settling(self) -> Settles:
        """Itself: what each sample contributes is known."""
        return self

    def looks(self, reference: float) -> Looks | None:
        """Return None: no few samples say what the value of all is."""

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

    def settle(
        self,
        journal: Journal,
        key: str,
        shown: str,
        cost: float | None,
        deploy: Callable[[], ir.Model],
    ) -> Settled:
        """Return what a model reaches on all samples, those held out too (`tuner.settling`)."""
        key = text_digest(key, "all samples")
        known = journal.get(key)
        if known is None:
            start = time.perf_counter()
            whole, held = self.compare(deploy())
            known = {"all": asdict(whole), "held": asdict(held) if held is not None else None}
            journal.put(key, "full", shown, known, time.perf_counter() - start)
        rest = _read(known["held"]) if known["held"] is not None else None
        return Settled(_read(known["all"]), rest, rest.samples if rest is not None else 0)

    def compare(self, model: ir.Model) -> tuple[Compared, Compared | None]:
        """Compare a model with the float model on all samples, and on those held out; None where there are none."""
        self._open()
        tuned = self._tuned
        seen, _ = self._run(model, 0, tuned)
        rest, _ = self._run(model, tuned, len(self._reference))
        held = self._compared(rest, self._reference[tuned:]) if rest else None
        return self._compared([*seen, *rest], self._reference), held

    def _compared(self, mine: Sequence[Any], reference: Sequence[Any]) -> Compared:
        better = self.higher_is_better
        score = self.metric.value(mine)
        loss = loss_of(score, self.metric.value(reference), higher_is_better=better)
        draws = bootstrap(self.metric, mine, self._drawn(reference))
        if draws is not None and not better:
            draws = -draws[1], -draws[0]
        return Compared(len(mine), score, loss, draws)

    def _drawn(self, reference: Sequence[Any]) -> list[float]:
        """Return the float model's values of all draws, of as many samples as these are; found once."""
        count = len(reference)
        if count not in self._values:
            self._values[count] = values_of_draws(self.metric, reference)
        return self._values[count]

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


def values_of_draws(metric: CorpusMetric, given: Sequence[Any]) -> list[float]:
    """Return the value of each of `DRAWS` draws; of equally many samples they draw the same ones.

    Args:
        metric: The metric.
        given: What each sample contributes.
    """
    count = len(given)
    rng = np.random.default_rng(0)
    return [metric.value([given[i] for i in rng.integers(0, count, count)]) for _ in range(DRAWS)]


def bootstrap(
    metric: CorpusMetric, mine: Sequence[Any], reference: Sequence[float]
) -> tuple[float, float] | None:
    """Return between which values (reference - mine) lies, with 95 % confidence.

    Args:
        metric: The metric.
        mine: What each sample contributes for one model.
        reference: Values of the float model's draws, of the same samples (`values_of_draws`).

    Returns:
        Both ends; None where samples say nothing: fewer than two, no difference, or no value of some draw.
    """
    if len(mine) < 2:
        return None
    found = np.array(reference) - np.array(values_of_draws(metric, mine))
    if not np.isfinite(found).all() or np.ptp(found) == 0:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _read(said: Mapping[str, Any]) -> Compared:
    """Return what is in the journal."""
    ends = said["interval"]
    interval = (float(ends[0]), float(ends[1])) if ends is not None else None
    return Compared(said["samples"], said["score"], said["loss"], interval)


_NOTE = (
    "{name} is no mean over samples: each evaluation takes all samples that the search sees, and intervals come from drawing "
    "samples again."
)
