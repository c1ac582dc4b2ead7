"""Score models sample by sample, beside the float model: what a model loses is the mean of differences.

Samples are looked at in random order, always the same one. A share of them is held out: the search never sees it, so what is
lost there tells whether the model was tuned to the rest.

    loss = mean over samples of (float model's score - model's score)          the other way round where less is better

A sample that is hard for one model is hard for the other, so differences vary less than scores do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.task_metrics import BatchMetric
from calibrant.tuner.certain import Certainty
from calibrant.tuner.divided import said_of
from calibrant.tuner.journal import Journal
from calibrant.tuner.samples import Samples
from calibrant.tuner.settling import Compared, Settled

__all__ = ["Paired", "Seen", "interval"]

Floats = npt.NDArray[np.float64]

#: What is said of data that is looked at as it comes.
UNSHUFFLED = (
    "The evaluation data does not fit into memory, so it is looked at in its own order: no share is held out, and evaluations end "
    "early only where that is certain."
)

#: First samples of a trial; one that is hopeless ends with them.
PRECHECK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a model scored so far.

    Args:
        values: Mean of each sample, in the order of the run (samples,).
        answer: Whether it meets the requirement, where that is certain before all samples were seen.
        notes: What is to be said of it.
    """

    values: Floats
    answer: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Paired:
    """Scores models on labelled samples.

    Args:
        samples: The data.
        metric: A mean over samples.
        confidence: That an early answer is right; None for certain ones alone.
        reference: What the float model scored, sample by sample (samples,).
        margins: How far it is from another answer in each sample (samples,); None where nobody knows.
    """

    samples: Samples
    metric: BatchMetric
    confidence: float | None = 0.99
    reference: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    margins: Floats | None = field(default=None, repr=False)

    @property
    def width(self) -> float | None:
        """Largest difference between two scores of a sample; None where scores have no bounds."""
        bounds = self.metric.bounds
        return bounds[1] - bounds[0] if bounds is not None else None

    @property
    def count(self) -> int:
        """Samples in all."""
        return len(self.reference)

    @property
    def tuned(self) -> int:
        """Samples that the search sees: the first ones."""
        return self.samples.tuned(self.count)

    @property
    def divisible(self) -> bool:
        """Whether single samples can be looked at."""
        return self.samples.divisible

    @property
    def notes(self) -> list[str]:
        """What is to be said of the data."""
        return self.samples.notes

    def open(self, known: Floats | None = None, margins: Floats | None = None) -> Floats:
        """Read the data, score the float model, and return what it scored sample by sample (samples,).

        Args:
            known: What it scored in an earlier run; it is not run again.
            margins: How far it was from another answer there.

        Raises:
            DataError: The data or its references do not fit.
            ModelError: The float model does not run.
        """
        self.samples.open()
        if known is None:
            known, margins = self._of_float()
        self.reference, self.margins = known, margins
        if not self.samples.shuffled:
            self.notes.append(UNSHUFFLED)
        return self.reference

    def _of_float(self) -> tuple[Floats, Floats | None]:
        """Return what the float model scores sample by sample, and how far it is from another answer."""
        found, margins = [], []
        all_: list[tuple[int, float]] = [(0, math.inf)]
        said = said_of(self.samples, self.samples.original, self.metric, all_, margins=True)
        for (sums, terms), far in said:
            found.append(sums / terms)
            margins.append(far)
        known = [m for m in margins if m is not None]
        values = np.concatenate(found) if found else np.zeros(0)
        return values, np.concatenate(known) if known and len(known) == len(margins) else None

    def run(
        self,
        model: ir.Model,
        *,
        known: Seen | None = None,
        until: int | None = None,
        test: Certainty | None = None,
    ) -> Seen:
        """Score a model, on all samples or until it is certain whether it meets the requirement.

        Args:
            model: The model.
            known: What was seen of it before; its samples are not run again.
            until: Samples to end after.
            test: Says when it is certain; it is given gains in [0, 1], 0.5 for none.
        """
        found = [known.values] if known is not None and len(known.values) else []
        done = sum(map(len, found))
        end = until if until is not None else math.inf
        notes: list[str] = []
        answer: bool | None = None
        for sums, terms in said_of(self.samples, model, self.metric, [(done, end)], notes):
            found.append(sums / terms)
            if test is not None:
                answer = test.add(self.gains(found[-1], done))
            done += len(found[-1])
            if answer is not None:
                break
        before = known.notes if known is not None else ()
        return Seen(np.concatenate(found) if found else np.zeros(0), answer, (*before, *notes))

    def at(self, model: ir.Model, indices: Sequence[int]) -> Floats:
        """Score a model on some samples (samples,).

        Args:
            model: The model.
            indices: Which samples, in rising order.
        """
        found = []
        for sums, terms in said_of(self.samples, model, self.metric, _runs(indices)):
            found.append(sums / terms)
        return np.concatenate(found) if found else np.zeros(0)

    def settle(
        self,
        journal: Journal,
        key: str,
        shown: str,
        cost: float | None,
        deploy: Callable[[], ir.Model],
    ) -> Settled:
        """Return what a model reaches on all samples, those held out too (`tuner.settling`)."""
        known = journal.get(key)
        seen = Seen(np.array(known["values"])) if known is not None else Seen(np.zeros(0))
        looked = int(known["seen"]) if known is not None else 0
        if len(seen.values) < self.count:
            start = time.perf_counter()
            seen = self.run(deploy(), known=seen)
            answer = {**(known or {"cost": cost, "seen": 0}), "values": seen.values.tolist()}
            journal.put(key, "full", shown, answer, time.perf_counter() - start)
        losses = self.losses(seen.values)
        rest = self._compared(losses, self.tuned) if self.tuned < self.count else None
        return Settled(self._compared(losses, 0), rest, self.count - looked, seen.notes)

    def _compared(self, losses: Floats, start: int) -> Compared:
        loss, before = float(losses[start:].mean()), float(self.reference[start:].mean())
        score = before - loss if self.metric.higher_is_better else before + loss
        return Compared(len(losses) - start, score, loss, interval(losses[start:], self.width))

    def losses(self, values: Floats, start: int = 0) -> Floats:
        """Return what a model lost in each sample.

        Args:
            values: Its scores, of samples from `start` on.
            start: Index of the first.
        """
        mine = self.reference[start : start + len(values)]
        return mine - values if self.metric.higher_is_better else values - mine

    def gains(self, values: Floats, start: int = 0) -> Floats:
        """Return what a model gained in each sample as numbers in [0, 1]: 0.5 for nothing."""
        assert self.width is not None
        return np.asarray((1 - self.losses(values, start) / self.width) / 2)

    def certainty(self, allowed: float) -> Certainty | None:
        """Return a test of whether a model loses more than is allowed; None where scores have no bounds."""
        if self.width is None:
            return None
        limit = min(1.0, max(0.0, (1 - allowed / self.width) / 2))
        return Certainty(self.tuned, limit, self.confidence if self.samples.shuffled else None)


def interval(
    losses: Floats, width: float | None, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return between which values the mean loss of all such samples lies, from those that were seen.

    Student's t interval of the differences of pairs, with one more sample added that loses as much as a sample can, and one that
    gains as much. So an interval is never empty where no sample differs: of 600 equal samples it is 0.5 % wide on either side,
    about what the rule of three (3 / n) says.

    Sources: Student, "The probable error of a mean", Biometrika 6, 1908; the added samples after Agresti, Min, "Simple improved
    confidence intervals for comparing matched proportions", Statistics in Medicine 24, 2005, who add half of one each.

    Args:
        losses: Differences (samples,).
        width: Largest difference that a sample can have; None where nobody knows.
        confidence: Of the interval.

    Returns:
        Both ends; None where samples say nothing: a single one, or equal ones of a score without bounds.
    """
    from calibrant.numerics.student_t import t_quantile

    if width is not None:
        losses = np.append(losses, [width, -width])
    n = len(losses)
    spread = float(losses.std(ddof=1)) if n > 1 else 0.0
    if spread == 0:
        return None
    half = t_quantile((1 + confidence) / 2, n - 1) * spread / math.sqrt(n)
    mean = float(losses.mean())
    return mean - half, mean + half


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, behind the last) of each row of neighbours.

    Example:
        >>> _runs([2, 3, 7])
        [(2, 4), (7, 8)]
    """
    found: list[tuple[int, int]] = []
    for i in indices:
        if found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found
