"""Answers what a strategy asks: builds each assignment on the bench, and measures or evaluates it.

Answers come from the journal where they are in it.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from calibrant.data.digests import text_digest
from calibrant.errors import CalibrantError
from calibrant.qat.recipe import for_calibration
from calibrant.recipe import AllNodes, Layer, Recipe, Rule
from calibrant.runtime.measure import Latency, measure_latency
from calibrant.solution import build
from calibrant.tuner.evaluations import Counts, Evaluations, Verdict
from calibrant.tuner.journal import Journal, LayerFigures
from calibrant.tuner.layers_alone import WORST, LayersAlone, energy_of
from calibrant.tuner.markdown import shown
from calibrant.tuner.moves import Moves, MoveTried, find_moves
from calibrant.tuner.moves.trained import cannot_be_tried, move_of
from calibrant.tuner.precisions import settings_of
from calibrant.tuner.trainer import Trainer
from calibrant.tuning.bench import Bench
from calibrant.tuning.guide import essence, without_widths
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.questions import (
    Found,
    Full,
    Glance,
    Glances,
    Improve,
    Losses,
    Question,
    Reached,
    Show,
    Together,
    Train,
    Trial,
    Whole,
)

__all__ = ["TimeIsUp", "Trials"]

#: How long what was chosen is timed once more [s], and how often at the least: fewer runs never say for sure which is faster.
_SECONDS, _RUNS = 2.0, 15

#: Share of the time that is left which moves may take: without time for layers to be raised, nothing but the float model may meet
#: the requirement.
_OF_MOVES = 1 / 3


class TimeIsUp(Exception):  # noqa: N818  it ends a run as asked, and is no error
    """The time that was allowed is over."""


@dataclass(slots=True, eq=False)
class Trials:
    """Answers the questions of a strategy.

    Args:
        bench: Where recipes are solved.
        recipe: What is wanted but for precisions.
        menu: What layers may be.
        evaluations: Scores models.
        samples: Samples that layers are measured on; None for all.
        journal: What is known already.
        context: Digest of all that answers depend on beside the recipe and the evaluation.
        scoring: Digest of how models are scored.
        timed: Each trial is timed beside the float model, and that is its cost.
        deadline: When to stop, by `time.monotonic`; None for never.
        kinds: Kinds of moves that are tried before layers are raised.
        trainer: Trains assignments; None where that is not asked for.
        by: How layers are measured alone: `runs`, or `gradient`.
        most: Trials, at most; None where nobody knows.
    """

    bench: Bench
    recipe: Recipe
    menu: Menu
    evaluations: Evaluations
    samples: int | None
    journal: Journal
    context: str
    scoring: str
    deadline: float | None = None
    timed: bool = False
    kinds: tuple[str, ...] = ()
    trainer: Trainer | None = None
    by: str = "runs"
    most: int | None = None
    moves: tuple[MoveTried, ...] = ()
    improved: Recipe | None = None
    reached: dict[tuple[Assignment, bool, bool], Reached] = field(default_factory=dict)
    _now: bool = False
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    _alone: LayersAlone = field(init=False)

    def __post_init__(self) -> None:
        """Say how layers are measured alone."""
        self._alone = LayersAlone(
            self.bench, self.menu, self.samples, self.by, self.journal, self.recipe_of
        )

    @property
    def counts(self) -> Counts:
        """What was evaluated."""
        return self.evaluations.counts

    @property
    def notes(self) -> list[str]:
        """What is to be said of the run."""
        return self.evaluations.notes

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
        if isinstance(question, Glance):
            return self._glance(question.assignment)
        if isinstance(question, Glances):
            return self.evaluations.glances
        if isinstance(question, Whole):
            return self._whole(question)
        if isinstance(question, Show):
            return self._show(question)
        if isinstance(question, Improve):
            return self._improve(question)
        if isinstance(question, Train):
            return self._train(question.assignment)
        return self._full(question)

    def recipe_of(self, assignment: Assignment, *, improved: bool | None = None) -> Recipe:
        """Return the recipe of an assignment: a rule for each layer that does not have what the recipe gives it.

        Args:
            assignment: One precision a layer.
            improved: It stands on the recipe with moves, or on the one that was given; None for the present one.
        """
        stands = self._now if improved is None else improved
        base = self.improved if stands and self.improved is not None else self.recipe
        return self._with(base, assignment)

    def _with(self, base: Recipe, assignment: Assignment) -> Recipe:
        first = self.menu.precisions[0]
        default = "int8"
        if without_widths(base) == essence(base) and first != default:
            rule = Rule(AllNodes(), settings_of(first), "tune: all layers")
            base, default = base.with_rules(rule), first
        elif without_widths(base) != essence(base):
            default = ""
        rules = [
            Rule(Layer(glob.escape(layer)), settings_of(precision), "tune")
            for layer, precision in zip(self.menu.layers, assignment, strict=True)
            if precision != default
        ]
        return base.with_rules(*rules)

    # ----------------------------------------------------------------------------------------- answers

    def _full(self, question: Full) -> Reached:
        recipe = self.recipe_of(question.assignment)
        if self._is_float(question.assignment, recipe):
            cost = self.milliseconds(None)
            known = self.evaluations
            reached = Reached(known.reference, 0.0, not known.above_float, free=True, cost=cost)
            self.reached[question.assignment, self._now, False] = reached
            return reached
        with self.bench.store.progress.stage(self._so_far(question.phase)):
            self.bench.store.progress.step(len(self.reached) + 1, self.most)
            reached = self.evaluations.reach(
                self._key(recipe),
                self._shown(question.assignment),
                lambda: build(self.bench.solve(recipe)).deploy,
                self.milliseconds,
            )
        self.reached[question.assignment, self._now, False] = reached
        return reached

    def _so_far(self, phase: str) -> str:
        """Return what is told while a trial runs: what it is for, and the best so far."""
        met = [
            (self.menu.cost_of(a) if r.cost is None else r.cost, r)
            for (a, _, _), r in self.reached.items()
            if r.met
        ]
        best = "none meets the requirement yet"
        if met:
            cost, reached = min(met, key=lambda m: m[0])
            dearest = max(self.menu.cost_of(self.menu.widest), 1e-300)
            best = f"the best so far scores {shown(reached.scores or reached.score)} at {100 * cost / dearest:.0f} % of the cost"
        return f"trials; {phase}; {best}"

    def _train(self, assignment: Assignment) -> Reached | None:
        """Train an assignment, and evaluate what comes out where that is clearly better without labels."""
        trainer = self.trainer
        if trainer is None:
            return None
        recipe = self.recipe_of(assignment)
        beside, raised = self._now, self.menu.raised(assignment)
        try:
            found = trainer.train(recipe, self._shown(assignment))
        except CalibrantError as e:
            self.moves = (*self.moves, cannot_be_tried(trainer.budget, raised, e))
            return None
        self.moves = (*self.moves, move_of(found, trainer.budget, raised, beside=beside))
        if not found.better:
            return None
        reached = self.evaluations.reach(
            self._trained_key(recipe, found.model),
            f"trained: {self._shown(assignment)}",
            lambda: trainer.model(recipe).deploy,
            self.milliseconds,
        )
        self.reached[assignment, self._now, True] = reached
        return reached

    def _trained_key(self, recipe: Recipe, model: str) -> str:
        return text_digest(
            self.context, self.scoring, "full", "trained", repr(essence(recipe)), model
        )

    def _improve(self, question: Improve) -> bool:
        """Make the recipe better by moves that keep the cost, or take that back."""
        if question.back:
            self._now = False
            self.notes.append(
                "The moves that gained without labels lost with them, and were taken back."
            )
            return False
        if not self.kinds:
            return False
        recipe = self._with(self.recipe, self.menu.narrowest)
        key = text_digest(self.context, "moves", repr(self.kinds), repr(essence(recipe)))
        known = self.journal.get(key)
        if known is None:
            start = time.perf_counter()
            found = self._tried_moves()
            taken = time.perf_counter() - start
            if not found.left_out:  # a run with more time tries the rest
                self.journal.put(key, "moves", ", ".join(self.kinds), found.content(), taken)
        else:
            found = Moves.from_content(known)
        self.counts.partial_samples += found.samples
        self.counts.passes += found.samples
        self.notes.extend([found.note] if found.note else [])
        self.moves = found.tried
        self._now = any(m.taken for m in found.tried)
        self.improved = found.recipe if self._now else None
        return self._now

    def _tried_moves(self) -> Moves:
        now = time.monotonic()
        end = math.inf if self.deadline is None else now + _OF_MOVES * (self.deadline - now)
        return find_moves(
            self.bench.store,
            self.recipe,
            lambda recipe: self._with(recipe, self.menu.narrowest),
            self.kinds,
            figures=LayerFigures(self.journal),
            goes_on=lambda: time.monotonic() < end,
        )

    def settled(self, found: Found) -> tuple[Found, Verdict]:
        """Run what was found on all samples; where it does not meet the requirement there, the next cheapest that does.

        Args:
            found: What a strategy found.
        """
        if found.within is not None:
            verdict = self._verdict_of(found.best)
            met_too = verdict.reached.met and found.best.reached.met
            verdict = replace(verdict, reached=replace(verdict.reached, met=met_too))
            return _with_best(found, found.best, verdict), verdict
        met = sorted(
            (t for t in found.trials if t.reached.met), key=lambda t: (t.cost, t.reached.loss)
        )
        plain = self.timed and any(t.reached.free for t in met)
        first: tuple[Trial, Verdict] | None = None
        passed: list[bool] = []
        for trial in met or [found.best]:
            verdict = self._verdict_of(trial)
            first = first if first is not None else (trial, verdict)
            passed.append(verdict.reached.met)
            if verdict.reached.met and (trial.reached.free or not plain or self._pays(trial)):
                break
        else:
            assert first is not None
            trial, verdict = first
        if met and not all(passed):
            self.notes.append(
                "What is cheaper met the requirement on the samples that the search saw, and not on all: it was passed over."
            )
        if plain and trial.reached.free and trial is not met[0]:
            reason = "Nothing that meets the requirement is surely faster than the float model."
            found = replace(found, reason=reason)
        return _with_best(found, trial, verdict), verdict

    def _whole(self, asked: Whole) -> Reached:
        return self._verdict(asked.assignment, improved=self._now, trained=asked.trained).reached

    def _show(self, asked: Show) -> bool:
        recipe = self.recipe_of(asked.assignment)
        if asked.trained:
            return False
        key = self._key(recipe)
        if self.evaluations.can_show(key):
            self._verdict(asked.assignment, improved=self._now, trained=False)
            self.evaluations.show(key)
        return self.evaluations.shows

    def _verdict_of(self, trial: Trial) -> Verdict:
        return self._verdict(trial.assignment, improved=trial.improved, trained=trial.trained)

    def _verdict(self, assignment: Assignment, *, improved: bool, trained: bool) -> Verdict:
        recipe = self.recipe_of(assignment, improved=improved)
        if trained:
            trainer = self.trainer
            assert trainer is not None
            model = trainer.train(recipe, self._shown(assignment)).model
            return self.evaluations.settle(
                self._trained_key(recipe, model),
                f"trained: {self._shown(assignment)}",
                self.reached[assignment, improved, True],
                lambda: trainer.model(recipe).deploy,
            )
        return self.evaluations.settle(
            self._key(recipe),
            self._shown(assignment),
            self.reached[assignment, improved, False],
            lambda: build(self.bench.solve(recipe)).deploy,
        )

    def _key(self, recipe: Recipe) -> str:
        return text_digest(self.context, self.scoring, "full", repr(essence(recipe)))

    def _is_float(self, assignment: Assignment, recipe: Recipe) -> bool:
        """Whether nothing is quantized, so that the model is the float one."""
        if any(p != "float32" for p in assignment):
            return False
        return not any(d.quantized for d in self.bench.solve(recipe).plan.layers)

    def milliseconds(self, deploy: ir.Model | None) -> float | None:
        """Return what a model takes, in units of the table; None where costs are not measured.

        Args:
            deploy: The model; None for the float one, which all are timed beside.
        """
        if not self.timed:
            return None
        base = self.menu.cost_of(("float32",) * len(self.menu.layers))
        if deploy is None:
            return base
        timed = self._timed(deploy)  # of pairs, since a busy machine is slow by turns
        return base * (timed.share or 1 / timed.speedup)

    def _timed(self, deploy: ir.Model, **how: Any) -> Latency:
        probe, store = self.bench.found(for_calibration(self.recipe)).probe, self.bench.store
        assert probe is not None
        original = store.original(self.recipe)
        return measure_latency(original, deploy, probe.first, runtime=store.runtime, **how)

    def _pays(self, trial: Trial) -> bool:
        """Whether what was chosen for its time is faster than the float model, timed once more, for longer.

        The cheapest of several trials is the one that chance has favoured most, so the time that it was chosen by does not count.
        """
        recipe = self.recipe_of(trial.assignment, improved=trial.improved)
        key = text_digest(self._key(recipe), "timed again", repr(trial.trained))
        known = self.journal.get(key)
        if known is None:
            trainer, start = self.trainer, time.perf_counter()
            if trial.trained:
                assert trainer is not None
                deploy = trainer.model(recipe).deploy
            else:
                deploy = build(self.bench.solve(recipe)).deploy
            timed = self._timed(deploy, seconds=_SECONDS, least_runs=_RUNS)
            known = {
                "float": timed.float_ms,
                "quantized": timed.quantized_ms,
                "surely": timed.surely_faster,
            }
            taken = time.perf_counter() - start
            self.journal.put(key, "latency", self._shown(trial.assignment), known, taken)
        said = f"{known['quantized']:.4g} ms beside {known['float']:.4g} ms of the float model"
        if known["surely"]:
            self.notes.append(f"Timed once more, it takes {said}.")
            return True
        self.notes.append(
            f"Timed once more, a model that seemed faster takes {said}, which is not surely less: it was passed over."
        )
        return False

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
                "error": energy_of(score.parts.values()) if math.isfinite(score.db) else WORST,
                "samples": probe.samples if probe is not None else 0,
            }
            seconds = time.perf_counter() - start
            self.journal.put(key, "together", self._shown(assignment), known, seconds)
        self.counts.partial_samples += int(known["samples"])
        self.counts.passes += int(known["samples"])
        return float(known["error"])

    def _glance(self, assignment: Assignment) -> float | None:
        if not self.evaluations.looks:
            return None
        recipe = self.recipe_of(assignment)
        if self._is_float(assignment, recipe):
            return 0.0
        return self.evaluations.glance(
            text_digest(self.context, self.scoring, "glance", repr(essence(recipe))),
            self._shown(assignment),
            lambda: build(self.bench.solve(recipe)).deploy,
        )

    def _losses(self, precision: str) -> Mapping[str, float]:
        one = tuple(precision for _ in self.menu.layers)
        recipe = self.recipe_of(one)
        said = (repr(essence(recipe)), repr(self.menu.layers), repr(self.samples))
        key = text_digest(
            self.context, "losses", *(["gradient"] if self.by == "gradient" else []), *said
        )
        known = self.journal.get(key)
        if known is None:
            start = time.perf_counter()
            known = self._alone.of(precision, recipe)
            self.journal.put(key, "losses", precision, known, time.perf_counter() - start)
        self.counts.partial_samples += int(known["samples"])
        self.counts.passes += float(known["passes"])
        self.errors[precision] = known["losses"]
        return self.errors[precision]

    def _shown(self, assignment: Assignment) -> str:
        raised = self.menu.raised(assignment)
        said = ", ".join(f"{n}: {p}" for n, p in raised.items())
        return f"{self.menu.narrowest[0]}{f', {said}' if said else ''}"


def _with_best(found: Found, trial: Trial, verdict: Verdict) -> Found:
    """Return what was found, with what the best trial reaches on all samples."""
    best = replace(trial, reached=verdict.reached)
    return replace(found, best=best, trials=tuple(best if t is trial else t for t in found.trials))
