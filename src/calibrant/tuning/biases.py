"""Correct biases: as rules ask it, and where it makes the outputs better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.analysis.better import Comparison
from calibrant.analysis.parts import Part
from calibrant.analysis.probe import Probe
from calibrant.analysis.score import SampleScores, Score
from calibrant.analysis.simulate import Simulator, is_light
from calibrant.findings import Trial
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.recipe import Note, Recipe
from calibrant.refine.bias_by_rule import RuleCorrection, correct_by_rule
from calibrant.refine.bias_correction import Correction, correct_bias
from calibrant.refine.local_bias import (
    LocalErrors,
    Twins,
    correct_by_local_errors,
    joined,
    local_errors,
)
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.driver import drive
from calibrant.tuning.judged import judged
from calibrant.tuning.store import Store
from calibrant.tuning.strategies.biases import biases
from calibrant.tuning.strategies.ranges import Verdict

__all__ = ["Biases", "affordable", "corrected", "corrected_by_rules", "judges"]

#: Biases are corrected on at least so many samples of the probe …
CORRECTION_SAMPLES = 12
#: … and on more where the largest observed tensor of all samples stays below this.
CORRECTION_VALUES = 8_000_000

#: Ways to correct biases beside leaving them.
WAYS = ("walked", "local")

#: A walk that gains so much beyond the noise is taken without a look at local errors, which costs a tenth of all the
#: rest [dB].
ENOUGH_DB = 1.5


@dataclass(frozen=True, slots=True)
class Biases:
    """What became of biases.

    Args:
        way: How they were corrected.
        report: Layer by layer.
        trials: What was tried.
    """

    way: str = "off"
    report: tuple[Correction, ...] = ()
    trials: tuple[Trial, ...] = ()


def corrected_by_rules(
    model: ir.Model, plan: Plan, params: Parameters, probe: Probe, runtime: Runtime = CPU
) -> tuple[Parameters, tuple[RuleCorrection, ...], tuple[Note, ...]]:
    """Correct the biases for which rules ask it.

    Returns:
        New parameters, a report, and a note where there are fewer samples than asked for.
    """
    most = plan.bias_samples
    if most == 0:
        return params, (), ()
    feeds, sizes = probe.one_by_one(most)
    params, report = correct_by_rule(model, plan, params, feeds, sizes, runtime=runtime)
    if sum(sizes) >= most:
        return params, tuple(report), ()
    message = (
        f"Biases are to be corrected from {most} samples; the calibration data (or what is kept of it) has "
        f"{sum(sizes)}, and these are taken."
    )
    return params, tuple(report), (Note("bias correction", message, honoured=True),)


def affordable(statistics: Mapping[str, TensorStats], samples: int) -> int:
    """Return for how many samples the tensors between two layers can be held at once.

    Args:
        statistics: What was seen.
        samples: Of so many samples.
    """
    largest = max((s.count for s in statistics.values()), default=0) / max(1, samples)
    return max(CORRECTION_SAMPLES, int(CORRECTION_VALUES / max(1.0, largest)))


def judges(probe: Probe) -> Probe:
    """Return the feeds that corrections from the others are judged on: every second one."""
    return probe.only(range(1, len(probe.small), 2))


def corrected(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    recipe: Recipe,
    probe: Probe,
    samples: int,
    simulator: Simulator,
    parts: Mapping[str, tuple[Part, ...]],
    store: Store,
    way: str | None = None,
    known: Mapping[int, SampleScores] | None = None,
) -> tuple[Parameters, Biases]:
    """Correct biases where the recipe says so, or where it makes the outputs better.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
        recipe: Says whether.
        probe: Samples.
        samples: How many of them can be held at once.
        simulator: Runs the simulated model.
        parts: Parts of the tensors that ways are compared by.
        store: What is known of the model.
        way: How to correct, where that is decided already.
        known: What the parameters are known to lose, by batch of the probe (`tuning.judged`).
    """
    mode = recipe.bias_correction
    if mode == "off" or len(probe.feeds) < 2 or not plan.weights:
        return params, Biases()
    few = probe.part(samples)
    if mode == "on":
        store.work.whole(2 * few.samples)
        params, walked = correct_bias(model, plan, params, few.feeds, runtime=store.runtime)
        return params, Biases("walked", tuple(walked))
    if len(few.feeds) < 4:
        return params, Biases()  # corrections from one half could not be checked on it
    trying = _Trying(model, plan, params, few, simulator, parts, store, known or {})
    if way is None:
        way = drive(biases(WAYS, trying.compared, enough_db=ENOUGH_DB), trying.answer)
    params, report = trying.result(way)
    return params, Biases(way, report, trying.trials(way))


@dataclass(slots=True, eq=False)
class _Trying:
    """Answers what ways to correct lose: corrections from even feeds, judged on odd ones."""

    model: ir.Model
    plan: Plan
    params: Parameters
    probe: Probe
    simulator: Simulator
    parts: Mapping[str, tuple[Part, ...]]
    store: Store
    known: Mapping[int, SampleScores]
    scores: dict[str, dict[int, SampleScores]] = field(default_factory=dict)
    said: dict[str, Comparison] = field(default_factory=dict)
    _corrected: dict[str, tuple[Parameters, tuple[Correction, ...]]] = field(default_factory=dict)
    _errors: dict[int, LocalErrors] = field(default_factory=dict)
    _twins: Twins | None = None

    def answer(self, question: tuple[str, int]) -> Verdict:
        """Return what a way loses on the first odd feeds; nothing where it changes nothing."""
        way, samples = question
        params, report = self._from_even(way)
        if way != "off" and not any(c.kept for c in report):
            return Verdict(None)
        odd = judges(self.probe)
        few = odd.first_samples(samples)
        if not is_light(self.model):
            few = odd  # each way has biases of its own, and so a session, which is opened once
            self.simulator.close()
        known = self.scores.setdefault(way, {})
        if way == "off":
            known |= {id(b): self.known[id(b)] for b in few.small if id(b) in self.known}
        new = few.only(i for i, b in enumerate(few.small) if id(b) not in known)
        known |= judged(self.simulator, self.plan, params, new, self.parts, self.store)
        scores = [known[id(b)] for b in few.small]
        return Verdict(SampleScores.joined(scores), all=len(few.small) == len(odd.small))

    def compared(self, way: str, found: Comparison) -> None:
        """Remember a comparison."""
        self.said[way] = found

    def result(self, way: str) -> tuple[Parameters, tuple[Correction, ...]]:
        """Return the parameters of a way. Local errors are at hand for all feeds; a walk is not walked again."""
        if way == "local":
            every = joined(self._local(0), self._local(1))
            return correct_by_local_errors(self.model, self.params, every)
        if way == "off":
            reports = [r for w, (_, r) in self._corrected.items() if w != "off"]
            report = reports[-1] if reports else ()
            return self.params, tuple(replace(c, kept=False) for c in report)
        return self._from_even(way)

    def trials(self, taken: str) -> tuple[Trial, ...]:
        """Return what was tried."""
        found = []
        for way in sorted(self.scores, key=lambda w: w != "off"):  # the simplest first
            scores = SampleScores.joined([*self.scores[way].values()])
            score = Score.of(scores)
            reason = self.said[way].reason if way in self.said else ""
            found.append(
                Trial(
                    "bias correction",
                    way,
                    score.db,
                    way == taken,
                    outputs=score.parts,
                    samples=scores.samples,
                    reason=reason,
                )
            )
        return tuple(found) if len(found) > 1 else ()

    def _from_even(self, way: str) -> tuple[Parameters, tuple[Correction, ...]]:
        if way not in self._corrected:
            self._corrected[way] = self._correct(way)
        return self._corrected[way]

    def _correct(self, way: str) -> tuple[Parameters, tuple[Correction, ...]]:
        if way == "off":
            return self.params, ()
        if way == "walked":
            even = self.probe.only(range(0, len(self.probe.small), 2))
            self.store.work.whole(2 * even.samples)
            params, report = correct_bias(
                self.model, self.plan, self.params, even.feeds, runtime=self.store.runtime
            )
            return params, tuple(report)
        return correct_by_local_errors(self.model, self.params, self._local(0))

    def _local(self, half: int) -> LocalErrors:
        """Return the local errors on even feeds (0) or on odd ones (1)."""
        if half not in self._errors:
            feeds = self.probe.only(range(half, len(self.probe.small), 2))
            twins = self._twins or Twins(self.model, self.plan, self.params, self.store.runtime)
            if is_light(self.model):
                self._twins = twins  # the other half may be asked for
            self._errors[half], new = local_errors(
                self.model,
                self.plan,
                self.params,
                feeds.feeds,
                runtime=self.store.runtime,
                known=self.store.local[half] if self.store.shared else None,
                twins=twins,
            )
            self.store.work.part(feeds.samples, min(2.0, 1.0 + new) if new else 0.0)
        return self._errors[half]
