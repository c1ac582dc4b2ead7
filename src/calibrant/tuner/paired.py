"""Score models sample by sample, beside the float model: what a model loses is the mean of differences.

Samples are looked at in random order, always the same one. A share of them is held out: the search never sees it, so what is
lost there tells whether the model was tuned to the rest.

    loss = mean over samples of (float model's score - model's score)          the other way round where less is better

A sample that is hard for one model is hard for the other, so differences vary less than scores do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.task_metrics import BatchMetric
from calibrant.data.batch import AnyArray, Batch, InputInfo
from calibrant.data.open import Batches, open_data
from calibrant.errors import ModelError
from calibrant.runtime.inputs import input_infos
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact, saturation_note
from calibrant.runtime.session import infer, open_session
from calibrant.tuner.certain import Certainty

__all__ = ["Paired", "Seen", "interval"]

Floats = npt.NDArray[np.float64]

#: Samples that are held in memory to be shuffled, at most [bytes]; more are looked at as they come.
MEMORY_BYTES = 2**30

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
        data: As `open_data` takes it, references beside the inputs.
        metric: A mean over samples.
        original: The float model.
        runtime: Where models run.
        batch_size: Samples in a batch.
        preprocess: File that says how stored samples become inputs.
        holdout: Share of the samples that the search does not see.
        confidence: That an early answer is right; None for certain ones alone.
        notes: What is to be said of the data.
    """

    data: Any = field(repr=False)
    metric: BatchMetric
    original: ir.Model = field(repr=False)
    runtime: Runtime
    batch_size: int | None = None
    preprocess: Any = None
    holdout: float = 0.0
    confidence: float | None = 0.99
    notes: list[str] = field(default_factory=list)
    shuffled: bool = False
    reference: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    _inputs: list[InputInfo] = field(default_factory=list)
    _batches: Sequence[Batch] | Batches = field(default=(), repr=False)

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
        if not self.shuffled or self.holdout == 0:
            return self.count
        assert isinstance(self._batches, list)
        ends = np.cumsum([b.size for b in self._batches])
        return int(ends[np.argmin(np.abs(ends - (1 - self.holdout) * self.count))])

    @property
    def divisible(self) -> bool:
        """Whether single samples can be looked at: they are held in memory, and the model takes any number of them."""
        fixed = any(
            len(i.dims) and isinstance(i.dims[0], int) and i.dims[0] > 1 for i in self._inputs
        )
        return self.shuffled and (not fixed or any(b.whole for b in self._batches))

    def open(self, known: Floats | None = None) -> Floats:
        """Read the data, score the float model, and return what it scored sample by sample (samples,).

        Args:
            known: What it scored in an earlier run; it is not run again.

        Raises:
            DataError: The data or its references do not fit.
            ModelError: The float model does not run.
        """
        session = open_session(self.original, runtime=self.runtime)
        self._inputs = input_infos(session, self.original)
        batches = open_data(
            self.data, self._inputs, batch_size=self.batch_size, preprocess=self.preprocess
        )
        self._batches = _shuffled(batches) or batches
        self.shuffled = self._batches is not batches
        self.reference = known if known is not None else self.run(self.original).values
        self.notes += [n for n in batches.notes if n not in self.notes]
        if not self.shuffled:
            self.notes.append(
                "The evaluation data does not fit into memory, so it is looked at in its own order: no share is held out, and "
                "evaluations end early only where that is certain."
            )
        return self.reference

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
        notes = known.notes if known is not None else ()
        answer: bool | None = None
        session = open_session(
            model, runtime=self.runtime, integers=kernels_are_exact(self.runtime)
        )
        for batch in self._from(done, end):
            outputs = self._answers(session, batch)
            sums, terms = self.metric.of_samples(outputs, batch.extras, str(batch))
            found.append(sums / terms)
            if done == 0 and model is not self.original:
                said = saturation_note(model, batch.feeds, outputs, runtime=self.runtime)
                notes += (said,) if said is not None else ()
            if test is not None:
                answer = test.add(self.gains(found[-1], done))
            done += len(found[-1])
            if answer is not None:
                break
        return Seen(np.concatenate(found) if found else np.zeros(0), answer, notes)

    def at(self, model: ir.Model, indices: Sequence[int]) -> Floats:
        """Score a model on some samples (samples,).

        Args:
            model: The model.
            indices: Which samples, in rising order.
        """
        session = open_session(
            model, runtime=self.runtime, integers=kernels_are_exact(self.runtime)
        )
        found = []
        for start, end in _runs(indices):
            for batch in self._from(start, end):
                sums, terms = self.metric.of_samples(
                    self._answers(session, batch), batch.extras, str(batch)
                )
                found.append(sums / terms)
        return np.concatenate(found) if found else np.zeros(0)

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
        return Certainty(self.tuned, limit, self.confidence if self.shuffled else None)

    def _from(self, start: int, end: float) -> Iterator[Batch]:
        """Yield samples from one index to another."""
        done = 0
        for batch in self._batches:
            first, last = max(start - done, 0), min(end - done, batch.size)
            done += batch.size
            if first < last:
                yield batch if (first, last) == (0, batch.size) else batch.part(first, int(last))
            if done >= end:
                return

    def _answers(self, session: Any, batch: Batch) -> dict[str, AnyArray]:
        names = [o.name for o in session.get_outputs()]
        feeds = {i.name: batch.feeds[i.name] for i in session.get_inputs()}
        try:
            values = infer(session, names, feeds)
        except ModelError:
            if batch.size == 1 or batch.whole:
                raise
            parts = [self._answers(session, batch.part(i, i + 1)) for i in range(batch.size)]
            return {n: np.concatenate([p[n] for p in parts]) for n in names}
        return dict(zip(names, map(np.asarray, values), strict=True))


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


def _shuffled(batches: Batches) -> list[Batch] | None:
    """Return all batches with their samples in random order; None where they do not fit into memory."""
    held: list[Batch] = []
    size = 0
    if batches.once:
        return None
    for batch in batches:
        held.append(batch)
        size += sum(x.nbytes for x in (*batch.feeds.values(), *batch.extras.values()))
        if size > MEMORY_BYTES:
            return None
    rng = np.random.default_rng(0)
    if any(b.whole for b in held) or any(
        b.feeds[n].shape[1:] != held[0].feeds[n].shape[1:] for b in held for n in b.feeds
    ):
        return [held[i] for i in rng.permutation(len(held))]
    order = rng.permutation(sum(b.size for b in held))
    feeds = {
        n: x if n in held[0].shared else np.concatenate([b.feeds[n] for b in held])[order]
        for n, x in held[0].feeds.items()
    }
    extras = {n: np.concatenate([b.extras[n] for b in held])[order] for n in held[0].extras}
    whole = replace(held[0], feeds=feeds, extras=extras, size=len(order), files=())
    starts = np.cumsum([0, *(b.size for b in held)])
    return [whole.part(int(a), int(b)) for a, b in itertools.pairwise(starts)]
