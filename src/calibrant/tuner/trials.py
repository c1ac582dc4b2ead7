"""Answers what a strategy asks: builds each assignment on the bench, and measures or evaluates it.

Answers come from the journal where they are in it.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrant.analysis.probe import rows_are_free
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.diagnose.feeds import take_feeds
from calibrant.diagnose.losses import Losses as LossesOf
from calibrant.diagnose.measuring import Question as LayersOf
from calibrant.diagnose.measuring import measure
from calibrant.diagnose.metric import ranked_by
from calibrant.errors import CalibrantError, ConfigError, ModelError
from calibrant.recipe import AllNodes, Layer, Recipe, Rule, Settings
from calibrant.runtime.measure import measure_latency
from calibrant.solution import build
from calibrant.tuner.digests import text_digest
from calibrant.tuner.evaluator import Evaluator
from calibrant.tuner.journal import Journal, LayerFigures
from calibrant.tuning.bench import Bench
from calibrant.tuning.guide import essence, without_widths
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.strategies.auto import Full, Losses, Question, Reached, Together

__all__ = ["Counts", "TimeIsUp", "Trials"]

#: Energy of the error over energy of the signal where outputs are not finite, or worse than this.
WORST = 1e3

#: Passes of the samples through the model that a layer may cost on average.
BUDGET = 0.45


class TimeIsUp(Exception):  # noqa: N818  it ends a run as asked, and is no error
    """The time that was allowed is over."""


@dataclass(slots=True)
class Counts:
    """What was evaluated, answers of earlier runs with the same journal among it.

    Args:
        full: Passes over all evaluation samples; the float model's counts as one.
        partial_samples: Samples that some quantized model, or a layer alone, was run on without labels.
        precheck_samples: Samples on which a trial was looked at before its evaluation; the joint error of an assignment
            stands in for that, and is counted as partial.
        passes: What the partial runs amount to, in samples through the whole model.
    """

    full: int = 0
    partial_samples: int = 0
    precheck_samples: int = 0
    passes: float = 0.0


@dataclass(slots=True, eq=False)
class Trials:
    """Answers the questions of a strategy.

    Args:
        bench: Where recipes are solved.
        recipe: What is wanted but for precisions.
        menu: What layers may be.
        evaluator: Scores models.
        reference: The float model's score.
        allowed: How much worse a score may be.
        samples: Samples that layers are measured on; None for all.
        journal: What is known already.
        context: Digest of all that answers depend on beside the recipe and the evaluation.
        timed: Each trial is timed beside the float model, and that is its cost.
        deadline: When to stop, by `time.monotonic`; None for never.
        said: Told what is going on.
    """

    bench: Bench
    recipe: Recipe
    menu: Menu
    evaluator: Evaluator
    reference: float
    allowed: float
    samples: int | None
    journal: Journal
    context: str
    scoring: str
    deadline: float | None = None
    timed: bool = False
    said: Callable[[str], None] = lambda _: None
    counts: Counts = field(default_factory=Counts)
    reached: dict[Assignment, Reached] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[Assignment, float] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: CalibrantError | None = None

    def answer(self, question: Question) -> Any:
        """Answer a question.

        Raises:
            TimeIsUp: The time is over, and some assignment was evaluated.
        """
        if self.deadline is not None and self.reached and time.monotonic() > self.deadline:
            raise TimeIsUp
        if isinstance(question, Losses):
            return self._losses(question.precision)
        if isinstance(question, Together):
            return self._together(question.assignment)
        return self._full(question)

    def recipe_of(self, assignment: Assignment) -> Recipe:
        """Return the recipe of an assignment: a rule for each layer that does not have what the recipe gives it."""
        base, first = self.recipe, self.menu.precisions[0]
        default = "int8"
        if without_widths(base) == essence(base) and first != default:
            rule = Rule(AllNodes(), Settings.of_precision(first), "tune: all layers")
            base, default = base.with_rules(rule), first
        elif without_widths(base) != essence(base):
            default = ""
        rules = [
            Rule(Layer(glob.escape(layer)), Settings.of_precision(precision), "tune")
            for layer, precision in zip(self.menu.layers, assignment, strict=True)
            if precision != default
        ]
        return base.with_rules(*rules)

    # ----------------------------------------------------------------------------------------- answers

    def _full(self, question: Full) -> Reached:
        recipe = self.recipe_of(question.assignment)
        if self._is_float(question.assignment, recipe):
            cost = self._milliseconds(None)
            reached = Reached(self.reference, 0.0, self.allowed >= 0, free=True, cost=cost)
            self.reached[question.assignment] = reached
            return reached
        self.counts.full += 1
        key = text_digest(self.context, self.scoring, "full", repr(essence(recipe)))
        known = self.journal.get(key)
        start = time.perf_counter()
        if known is None:
            solution = self.bench.solve(recipe)
            deploy = build(solution).deploy
            try:
                found = self.evaluator.score(deploy)
                value, notes = found.value, found.notes
            except (ConfigError, ModelError) as e:
                self.failed = e
                self.notes.append(f"An evaluation failed, and its trial counts as not met: {e}")
                reached = Reached(math.nan, math.inf, False)
                self.reached[question.assignment] = reached
                return reached
            self.notes += [n for n in notes if n not in self.notes]
            seconds = time.perf_counter() - start
            if math.isnan(value):
                self.notes.append("An evaluation returned NaN, and its trial counts as not met.")
            cost = self._milliseconds(deploy)
            answer = {"score": value, "seconds": seconds, "cost": cost}
            self.journal.put(key, "full", self._shown(question.assignment), answer, seconds)
        else:
            value, seconds = float(known["score"]), float(known["seconds"])
            cost = known["cost"]
        loss = (
            self.reference - value if self.evaluator.higher_is_better else value - self.reference
        )
        loss = math.inf if math.isnan(loss) else loss
        met = loss <= self.allowed + _rounding(self.reference)
        reached = Reached(value, loss, met, cost=cost)
        self.reached[question.assignment] = reached
        self.seconds[question.assignment] = seconds
        self.said(f"{self.evaluator.name} {value:.6g}, {'met' if reached.met else 'not met'}")
        return reached

    def _is_float(self, assignment: Assignment, recipe: Recipe) -> bool:
        """Whether nothing is quantized, so that the model is the float one."""
        if any(p != "float32" for p in assignment):
            return False
        return not any(d.quantized for d in self.bench.solve(recipe).plan.layers)

    def _milliseconds(self, deploy: ir.Model | None) -> float | None:
        """Return what a model takes, in units of the table; None where costs are not measured.

        Args:
            deploy: The model; None for the float one, which all are timed beside.
        """
        if not self.timed:
            return None
        base = self.menu.cost_of(("float32",) * len(self.menu.layers))
        if deploy is None:
            return base
        found = self.bench.found(self.recipe)
        assert found.probe is not None
        runtime = self.bench.store.runtime
        timed = measure_latency(found.solution.model, deploy, found.probe.first, runtime=runtime)
        return base / timed.speedup

    def _together(self, assignment: Assignment) -> float:
        recipe = self.recipe_of(assignment)
        key = text_digest(self.context, "together", repr(essence(recipe)))
        known = self.journal.get(key)
        if known is None:
            start = time.perf_counter()
            solution = self.bench.solve(recipe)
            score = self.bench.score(solution)
            probe = self.bench.found(recipe).probe
            known = {
                "error": _energy(score.parts.values()) if math.isfinite(score.db) else WORST,
                "samples": probe.samples if probe is not None else 0,
            }
            seconds = time.perf_counter() - start
            self.journal.put(key, "together", self._shown(assignment), known, seconds)
        self.counts.partial_samples += int(known["samples"])
        self.counts.passes += int(known["samples"])
        return float(known["error"])

    def _losses(self, precision: str) -> Mapping[str, float]:
        one = tuple(precision for _ in self.menu.layers)
        recipe = self.recipe_of(one)
        said = (repr(essence(recipe)), repr(self.menu.layers), repr(self.samples))
        key = text_digest(self.context, "losses", *said)
        known = self.journal.get(key)
        if known is None:
            start = time.perf_counter()
            known = self._measured(precision, recipe)
            self.journal.put(key, "losses", precision, known, time.perf_counter() - start)
        self.counts.partial_samples += int(known["samples"])
        self.counts.passes += float(known["passes"])
        self.errors[precision] = known["losses"]
        return self.errors[precision]

    def _measured(self, precision: str, recipe: Recipe) -> dict[str, Any]:
        """Measure each layer alone in a precision."""
        if precision == "float16":
            recipe = self.recipe_of(self.menu.narrowest)
        solution = self.bench.solve(recipe)
        probe, store = self.bench.found(recipe).probe, self.bench.store
        assert probe is not None
        model = solution.model
        reading: Reading = QuantizedAlone(model, solution.plan, solution.params)
        if precision == "float16":
            reading = HalfAlone(model)
        feeds = take_feeds(store.samples(recipe).first(), self.samples, free=rows_are_free(model))
        metric = ranked_by("sqnr_db")
        losses = LossesOf(metric)
        with store.progress.stage(f"layers in {precision}"):
            measured = measure(
                LayersOf(model, model, reading, self.menu.layers, probe.scored),
                feeds,
                metric,
                losses.worst,
                budget=BUDGET,
                journal=LayerFigures(self.journal),
                progress=store.progress,
                runtime=store.runtime,
            )
        found: dict[str, float] = {}
        samples = 0
        for layer, loss in losses.all(measured).items():
            samples += measured.first if loss.estimated else measured.samples
            energy = _energy(loss.parts.values())
            worst = _energy([min(loss.parts.values())])
            grows = loss.loss / worst if math.isfinite(loss.loss) and worst > 0 else 1.0
            found[layer] = min(WORST, energy * grows)
        return {
            "losses": found,
            "samples": samples,
            "passes": measured.passes * measured.samples,
        }

    def _shown(self, assignment: Assignment) -> str:
        raised = self.menu.raised(assignment)
        said = ", ".join(f"{n}: {p}" for n, p in raised.items())
        return f"{self.menu.narrowest[0]}{f', {said}' if said else ''}"


def _energy(values: Any) -> float:
    """Return the mean over parts of the energy of the error over that of the signal, from SQNR [dB]."""
    found = [
        WORST if math.isnan(v) else min(WORST, 10 ** (-v / 10)) if v > -math.inf else WORST
        for v in values
    ]
    return float(np.mean(found)) if found else 0.0


def _rounding(reference: float) -> float:
    """What two equal scores may differ by, written in float64 [units of the score]."""
    return 1e-12 * max(1.0, abs(reference)) if math.isfinite(reference) else 0.0
