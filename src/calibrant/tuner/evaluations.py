"""Evaluate models against a requirement: as few samples as it takes to be certain, each answer kept in the journal.

Where a score is a mean over samples, a trial is looked at beside the float model, sample by sample: a few samples first, then
the rest of those that the search may see, until it is certain whether the requirement is met. The model that is chosen is run
on all samples, those held out too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import CalibrantError, ConfigError, ConfigValueError, ModelError
from calibrant.tuner.each import Each, check_pairs
from calibrant.tuner.evaluator import Evaluator, Score
from calibrant.tuner.journal import Journal
from calibrant.tuner.looks import Looks
from calibrant.tuner.paired import PRECHECK, Paired, Seen
from calibrant.tuner.requirement import loss_of
from calibrant.tuning.questions import Reached

__all__ = ["Counts", "Evaluations", "HeldOut", "Verdict"]

Deploy = Callable[[], ir.Model]
Floats = npt.NDArray[np.float64]

NAN = (
    "An evaluation returned NaN, and its trial counts as not met (the score of these trials is nan): the model's outputs are not finite, "
    "or the evaluation divides by nothing."
)

#: What is said of trials whose evaluation fails: they are not in the journal.
TRIED_AGAIN = "A run that goes on from this folder tries it again."


@dataclass(slots=True)
class Counts:
    """What was evaluated, answers of earlier runs with the same journal among it.

    Args:
        full: Passes over all evaluation samples that the search sees; the float model's counts as one.
        partial_samples: Samples of evaluations that ended early, of those held out, and samples that some quantized model, or
            a layer alone, was run on without labels.
        precheck_samples: First samples of trials that ended with them, and samples that tell trials apart, of each model that
            was looked at on them alone.
        passes: What the runs without labels amount to, in samples through the whole model.
    """

    full: int = 0
    partial_samples: int = 0
    precheck_samples: int = 0
    passes: float = 0.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the chosen model lost on the samples that the search did not see.

    Args:
        samples: How many.
        loss: Mean loss of score.
        interval: Between which values the loss on all such samples lies, with 95 % confidence; None where they do not say.
        models: Quantized models that were run on them, until one was chosen.
        shown: How many of them the search has looked at, after a model had lost too much there: those in which one scored other
            than the float model. Where it is not 0, the loss says less of samples that nobody has seen.
    """

    samples: int
    loss: float
    interval: tuple[float, float] | None
    models: int = 1
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the chosen model reaches on all samples.

    Args:
        reached: Score, loss, and whether the requirement is met.
        interval: Between which values its loss on all such samples lies, with 95 % confidence; None where scores are no
            means over samples.
        held_out: What it lost on samples that the search did not see; None where there are none.
    """

    reached: Reached
    interval: tuple[float, float] | None = None
    held_out: HeldOut | None = None


@dataclass(slots=True, eq=False)
class Evaluations:
    """Evaluates models.

    Args:
        evaluator: Scores models.
        journal: What is known already.
        reference: The float model's score.
        allowed: How much worse a score may be.
        several: Name -> (the float model's score, how much worse it may be), where there are several scores. A loss is then the
            largest of each score's own loss over what is allowed of it, `reference` is 0 and `allowed` 1.
        each: The float model's scores by sample, where an evaluation of the user's own gives them.
    """

    evaluator: Evaluator
    journal: Journal
    reference: float
    allowed: float
    several: Mapping[str, tuple[float, float]] | None = None
    each: Each | None = None
    counts: Counts = field(default_factory=Counts)
    notes: list[str] = field(default_factory=list)
    failed: CalibrantError | None = None
    _looks: Looks | None = field(default=None, init=False)
    _settled: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Ask who looks at models."""
        self._looks = self.evaluator.looks(self.reference) if self.several is None else None

    @property
    def float_score(self) -> float | dict[str, float]:
        """What the float model scores."""
        if self.several is None:
            return self.reference
        return {n: score for n, (score, _) in self.several.items()}

    @property
    def above_float(self) -> tuple[str, ...]:
        """Scores of which more is required than the float model has; `score` where there is one without a name."""
        if self.several is None:
            return ("score",) if self.allowed < 0 else ()
        return tuple(n for n, (_, allowed) in self.several.items() if allowed < 0)

    def reach(
        self,
        key: str,
        shown: str,
        deploy: Deploy,
        cost: Callable[[ir.Model], float | None] = lambda _: None,
    ) -> Reached:
        """Return what a model reaches; one that cannot be scored does not meet the requirement, which is noted.

        Args:
            key: Digest of all that the answer depends on.
            shown: What is evaluated, for people who read the journal.
            deploy: Returns the model.
            cost: Returns what it costs, where that is measured.
        """
        known = self.journal.get(key)
        paired = self.evaluator.paired
        start = time.perf_counter()
        answer: dict[str, Any]
        try:
            if known is not None and paired is None:
                self.counts.full += 1
                self._learn(key, known)
                found = Score(float(known["score"]), 0, several=known.get("several"))
                return self._reached(found, known["cost"])
            if paired is None:
                self.counts.full += 1
                model = deploy()
                found = self.evaluator.score(model)
                self._note(found.notes)
                check_pairs(found.each, self.each.reference if self.each is not None else None)
                spent = cost(model)
                answer = {"score": found.value, "several": found.several, "look": found.look}
                answer["each"] = found.each
                self._learn(key, answer)
                reached = self._reached(found, spent)
            else:
                model_or_none, seen = self._seen(paired, known, deploy)
                self._learn(key, {"values": seen.values})
                reached = self._of_pairs(paired, seen, known["cost"] if known else None)
                if model_or_none is None:
                    return reached
                spent = cost(model_or_none) if known is None else known["cost"]
                reached = self._of_pairs(paired, seen, spent)
                answer = {
                    "score": reached.score,
                    "values": seen.values.tolist(),
                    "seen": len(seen.values),
                }
        except (ConfigError, ModelError) as e:
            self.failed = e
            again = f" {TRIED_AGAIN}" if self.journal.path is not None else ""
            self._note([f"An evaluation failed, and its trial counts as not met: {e}{again}"])
            return Reached(math.nan, math.inf, False)
        taken = time.perf_counter() - start
        self.journal.put(key, "full", shown, {**answer, "cost": spent, "seconds": taken}, taken)
        return reached

    def _learn(self, key: str, said: Mapping[str, Any]) -> None:
        if self._looks is not None:
            self._looks.learn(key, said)

    @property
    def looks(self) -> bool:
        """Whether models can be looked at on few samples, and that says something."""
        return self._looks is not None and self._looks.ready

    @property
    def glances(self) -> float:
        """How many looks take as many samples as one evaluation; 0 where models cannot be looked at."""
        return self._looks.cheaper if self._looks is not None and self._looks.ready else 0.0

    def glance(self, key: str, shown: str, deploy: Deploy) -> float | None:
        """Return what a model loses on all samples, as far as few of them say it.

        Args:
            key: Digest of all that the answer depends on, but for the samples.
            shown: What is looked at, for people who read the journal.
            deploy: Returns the model.

        Returns:
            The loss; None where models cannot be looked at on few samples, or that says nothing yet.
        """
        if self._looks is None or not self._looks.ready:
            return None
        known: dict[str, float] = self.journal.get(key) or {}
        start = time.perf_counter()
        try:
            looked = self._looks.at(known, deploy)
        except (ConfigError, ModelError) as e:
            self.failed = e
            self._note([f"A model could not be looked at, and counts as not met: {e}"])
            return math.inf
        self.counts.precheck_samples += looked.samples
        if dict(looked.known) != known:
            self.journal.put(key, "glance", shown, dict(looked.known), time.perf_counter() - start)
        return looked.loss

    def settle(self, key: str, shown: str, reached: Reached, deploy: Deploy) -> Verdict:
        """Return what a model reaches on all samples, those held out too.

        Args:
            key: As for `reach`.
            shown: As for `reach`.
            reached: What `reach` said.
            deploy: Returns the model.
        """
        settling = self.evaluator.settling or self.each
        if settling is None or math.isnan(reached.score):
            return Verdict(reached)
        if reached.free:
            return Verdict(reached, (0.0, 0.0))  # the float model itself
        found = settling.settle(self.journal, key, shown, reached.cost, deploy)
        self._note(found.notes)
        if key not in self._settled:
            self.counts.partial_samples += found.further
            self._settled.add(key)
        final = self._reached(Score(found.whole.score, found.whole.samples), reached.cost)
        held = found.held
        if held is None:
            return Verdict(final, found.whole.interval)
        seen = self._looks.shown if self._looks is not None else 0
        rest = HeldOut(held.samples, held.loss, held.interval, len(self._settled), seen)
        return Verdict(final, found.whole.interval, rest)

    @property
    def shows(self) -> bool:
        """Whether looks see what was held out and went wrong, so that they tell what is lost on all samples."""
        return self._looks is not None and self._looks.shown_to

    def can_show(self, key: str) -> bool:
        """Whether looks can see samples that were held out, by a model that was run on all that the search sees.

        Args:
            key: As for `reach`.
        """
        known, paired = self.journal.get(key), self.evaluator.paired
        if self._looks is None or paired is None or not paired.divisible or known is None:
            return False
        seen = key in self._settled or int(known["seen"]) >= paired.tuned
        return paired.tuned < paired.count and seen

    def show(self, key: str) -> None:
        """Let looks see those of the samples held out in which a model that was settled scores other than the float model."""
        self._learn(key, self.journal.get(key))

    def _seen(
        self, paired: Paired, known: dict[str, Any] | None, deploy: Deploy
    ) -> tuple[ir.Model | None, Seen]:
        """Look at samples until it is certain; return the model where it was run, and what was seen."""
        test = paired.certainty(self.allowed)
        seen = Seen(np.zeros(0))
        if known is not None:  # what the search saw before, and only then what was run later
            values, before = np.array(known["values"])[: paired.tuned], int(known["seen"])
            for end in (min(before, len(values)), len(values)):
                more, at = values[len(seen.values) : end], len(seen.values)
                if seen.answer is None and len(more):
                    said = test.add(paired.gains(more, at)) if test is not None else None
                    seen = Seen(values[:end], said)
        model: ir.Model | None = None
        first = min(PRECHECK, paired.tuned)
        for end in (first, paired.tuned):
            if seen.answer is None and len(seen.values) < end:
                model = model if model is not None else deploy()
                seen = paired.run(model, known=seen, until=end, test=test)
        self._note(seen.notes)
        looked = len(seen.values)
        if looked >= paired.tuned:
            self.counts.full += 1
        elif looked <= first:
            self.counts.precheck_samples += looked
        else:
            self.counts.partial_samples += looked
        return model, seen

    def _of_pairs(self, paired: Paired, seen: Seen, cost: float | None) -> Reached:
        loss = float(paired.losses(seen.values).mean())
        if len(seen.values) >= paired.tuned or seen.answer is None:
            return self._reached(Score(self._score(loss), len(seen.values)), cost)
        return Reached(self._score(loss), loss, seen.answer, cost=cost)

    def _score(self, loss: float) -> float:
        return self.reference - loss if self.evaluator.higher_is_better else self.reference + loss

    def _reached(self, found: Score, cost: float | None) -> Reached:
        if found.several is not None or self.several is not None:
            return self._of_several(found.several or {}, cost)
        value = found.value
        if math.isnan(value):
            self._note([NAN])
        better = self.evaluator.higher_is_better
        loss = loss_of(value, self.reference, higher_is_better=better)
        loss = math.inf if math.isnan(loss) else loss
        met = loss <= self.allowed + self._rounding
        return Reached(value, loss, met, cost=cost, energy=not self.evaluator.labelled)

    def _of_several(self, scores: Mapping[str, float], cost: float | None) -> Reached:
        """Return what is reached where each of several scores has a limit of its own."""
        wanted = self.several or {}
        if set(scores) != set(wanted):
            raise ConfigValueError(
                f"The evaluation gives {', '.join(scores) or 'one score'} for a quantized model, and "
                f"{', '.join(wanted) or 'one score'} for the float model; each evaluation gives the same scores."
            )
        if any(math.isnan(v) for v in scores.values()):
            self._note([NAN])
        better = self.evaluator.higher_is_better
        shares = {}
        for name, (reference, allowed) in wanted.items():
            loss = loss_of(scores[name], reference, higher_is_better=better)
            size = abs(reference) if math.isfinite(reference) else 0.0
            least = max(
                abs(allowed), 1e-6 * max(size, 1e-6)
            )  # of a drop of 0, something is a share
            share = (loss - allowed) / least + 1
            shares[name] = math.inf if math.isnan(share) else share
        worst = max(shares, key=lambda n: shares[n])
        return Reached(
            scores[worst], shares[worst], shares[worst] <= 1 + 1e-9, cost=cost, scores=dict(scores)
        )

    @property
    def _rounding(self) -> float:
        """What two equal scores may differ by, written in float64 [units of the score]."""
        size = abs(self.reference)
        return 1e-12 * max(1.0, size) if math.isfinite(size) else 0.0

    def _note(self, notes: Any) -> None:
        self.notes += [n for n in notes if n not in self.notes]
