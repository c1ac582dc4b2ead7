"""One search for an assignment of precisions on its way: what is known of it, and the questions that find out more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calibrant.tuning.cheapest import cheapest, most_precise, nearest_below
from calibrant.tuning.driver import Strategy
from calibrant.tuning.loss_curve import Point, error_for, loss_at
from calibrant.tuning.menu import Assignment, Floats, Menu
from calibrant.tuning.questions import (
    Found,
    Full,
    Glance,
    Losses,
    Question,
    Reached,
    Show,
    Together,
    Train,
    Trial,
    Whole,
)

__all__ = ["Search", "changed"]

#: How often a budget is corrected by the true error of what it led to.
_CORRECTIONS = 5

#: What is made cheaper takes, with all before it and the float model's, at most this share of the evaluations that trying each
#: layer alone takes. So many of quantized models are allowed in any case; and so many where looks say what they are worth.
SHARE, LEAST, LEAST_LOOKED = 0.25, 2, 4

#: Where the expected loss is within this factor of the limit, the error is measured and not predicted.
_NEAR = 1.25

#: A loss was foretold where it is between what was expected over this and what was expected times this.
_FORETOLD = 1.5


@dataclass(slots=True, eq=False)
class Search:
    """One search on its way: what is known, and how it goes on.

    Args:
        menu: What layers may be.
        allowed: Loss of score that is allowed on all samples, in its own units.
        evaluations: Full evaluations, at most.
        lowest: The cheapest assignment.
        trials: What was evaluated, in order.
        errors: What each layer loses alone in each precision (layers, precisions).
        top: The most precise assignment.
        reachable: Its error.
        wanted: Loss that is allowed on the samples that the search sees, where more was lost on all of them; inf before.
        earlier: Trials that stand on another recipe than those of now.
        improved: Assignments stand on the recipe that was made better.
        trained: Trials that were trained, each with how many were evaluated before it; they say nothing of what errors lose.
        thrifty: Not all evaluations are spent to make cheaper what meets the requirement (`pays`).
        looked: Models can be looked at on few samples.
        shown: Assignments that failed, and showed by name what goes wrong among the samples held out.
        dropped: Assignments that seemed to lose too much, by looks or by their errors, and what.
    """

    menu: Menu
    allowed: float
    evaluations: int
    lowest: Assignment
    trials: list[Trial] = field(default_factory=list)
    errors: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    top: Assignment = ()
    reachable: float | None = None
    wanted: float = math.inf
    earlier: list[Trial] = field(default_factory=list)
    improved: bool = False
    trained: list[tuple[int, Trial]] = field(default_factory=list)
    thrifty: bool = True
    looked: bool = False
    shown: set[Assignment] = field(default_factory=set)
    dropped: dict[Assignment, float] = field(default_factory=dict)
    _true: dict[Assignment, float] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------- what is known

    @property
    def left(self) -> int:
        """Full evaluations that are left."""
        done = (*self.earlier, *self.trials, *(t for _, t in self.trained))
        return self.evaluations - sum(not t.reached.free for t in done)

    @property
    def pays(self) -> bool:
        """Whether one more evaluation is worth it, to make cheaper what meets the requirement already."""
        if not self.thrifty:
            return self.left > 0
        least = LEAST_LOOKED if self.looked else LEAST
        most = max(least, int(SHARE * (2 + len(self.menu.layers))) - 1)
        return self.left > max(0, self.evaluations - most)

    @property
    def spent(self) -> str:
        """Why a search ends that has no evaluation left."""
        return f"All {self.evaluations} evaluations of quantized models are spent."

    @property
    def best(self) -> Trial | None:
        """The cheapest trial that meets the requirement."""
        tried = (*self.trials, *(t for _, t in self.trained))
        met = [t for t in tried if self.enough(t.reached)]
        return min(met, key=lambda t: (t.cost, t.reached.loss), default=None)

    @property
    def limit(self) -> float:
        """Loss that is allowed on the samples that the search sees."""
        return min(self.allowed, self.wanted)

    def enough(self, reached: Reached) -> bool:
        """Whether a trial meets what is asked on the samples that the search sees."""
        return reached.met and (reached.free or reached.loss <= self.wanted)

    @property
    def points(self) -> list[Point]:
        """What the trials say of error and loss."""
        return [Point(t.error, t.reached.loss) for t in self.trials if t.error is not None]

    @property
    def proportional(self) -> bool:
        """Whether losses are energies of the outputs' error."""
        return any(t.reached.energy for t in self.trials)

    def error_for(self, loss: float) -> float | None:
        """Return the error at which so much is lost, as far as trials say it; None where none has lost anything."""
        return error_for(self.points, loss, proportional=self.proportional)

    @property
    def too_much(self) -> float:
        """The smallest error that was too large, of what costs less than the best; inf where there is none."""
        below = math.inf if self.best is None else self.best.cost
        failed = [t for t in self.trials if not self.enough(t.reached) and t.cost < below]
        return min((t.error for t in failed if t.error is not None), default=math.inf)

    def predicted(self, assignment: Assignment) -> float:
        """Return what the layers' own errors add up to."""
        return float(self.menu.errors_of(self.errors, assignment).sum())

    def off_by(self, budget: float) -> float:
        """Return how many times as large true errors are as predicted ones, by the trial nearest to a budget."""
        pairs = [
            (true, self.predicted(a))
            for a, true in self._true.items()
            if true > 0 and self.predicted(a) > 0
        ]
        if not pairs or budget <= 0:
            return 1.0
        true, predicted = min(pairs, key=lambda p: abs(math.log(p[0] / budget)))
        return true / predicted

    def fails_for_sure(self, assignment: Assignment) -> bool:
        """Whether some assignment failed, or was too far off, in which no layer is less precise."""
        mine = self.menu.errors_of(self.errors, assignment)
        return any(
            not self.enough(t.reached)
            and (self.menu.errors_of(self.errors, t.assignment) <= mine).all()
            for t in self.trials
        )

    def found(self, reason: str, *, within: float | None = None) -> Found:
        """Return what was found.

        Args:
            reason: Why the search ended.
            within: What the best may cost; then of those that do, the one that loses least is the best.
        """
        trials = [*self.earlier, *self.trials]
        for behind, trial in self.trained:
            trials.insert(behind, trial)
        if within is not None:
            fits = [t for t in trials if t.cost <= within * (1 + 1e-9)]
            best = min(fits or trials, key=lambda t: (t.reached.loss, t.cost))
            marked = best if fits else replace(best, reached=replace(best.reached, met=False))
            shown = tuple(marked if t is best else t for t in trials)
            return Found(marked, shown, reason, self.reachable, within=within)
        best = self.best or min(trials, key=lambda t: (t.reached.loss, t.cost))
        return Found(best, tuple(trials), reason, self.reachable, looks=self.dropped)

    # ----------------------------------------------------------------------------------------- questions

    def evaluate(self, assignment: Assignment, phase: str) -> Strategy[Question, Any, Trial]:
        """Evaluate an assignment."""
        reached: Reached = yield Full(assignment, phase)
        known = len(self.errors) > 0
        trial = Trial(
            assignment,
            self.menu.cost_of(assignment) if reached.cost is None else reached.cost,
            self._true.get(assignment),
            self.predicted(assignment) if known else None,
            reached,
            phase,
            improved=self.improved,
        )
        self.trials.append(trial)
        return trial

    def train(self, assignment: Assignment, phase: str) -> Strategy[Question, Any, Trial | None]:
        """Train an assignment, and evaluate what comes out; None where training is no better than calibration."""
        reached: Reached | None = yield Train(assignment)
        if reached is None:
            return None
        cost = self.menu.cost_of(assignment) if reached.cost is None else reached.cost
        trial = Trial(
            assignment,
            cost,
            None,
            None,
            reached,
            phase,
            improved=self.improved,
            trained=True,
        )
        before = len(self.earlier) + len(self.trials) + len(self.trained)
        self.trained.append((before, trial))
        return trial

    def on(self, *, improved: bool) -> None:
        """Let assignments stand on another recipe: trials and errors of the present one are kept for the end alone."""
        kept = [t for t in self.earlier if t.improved == improved]
        rest = [t for t in self.earlier if t.improved != improved]
        self.earlier, self.trials = [*rest, *self.trials], kept
        self.improved, self._true = improved, {}

    def beside_float(self) -> Strategy[Question, Any, None]:
        """Where costs are measured, ask what the float model costs: what is slower than it is not worth having."""
        plain = ("float32",) * len(self.menu.layers)
        if "float32" in self.menu.precisions and math.isfinite(self.menu.cost_of(plain)):
            yield from self.evaluate(plain, "the float model")

    def error(self, assignment: Assignment) -> Strategy[Question, Any, float]:
        """Return the true error of an assignment."""
        if assignment not in self._true:
            self._true[assignment] = yield Together(assignment)
        return self._true[assignment]

    def holds(self) -> Strategy[Question, Any, bool]:
        """Whether the best meets the requirement on all samples; where not, see that what is tried next does.

        Where single samples can be looked at, looks then see by name what went wrong among the samples held out: in this trial, and in
        the trial that failed by least before it. Elsewhere more is asked of what is tried next: it is taken to lose as much more on
        all samples than on those that the search sees.
        """
        best = self.best
        if best is None or best.reached.free:
            return True
        whole: Reached = yield Whole(best.assignment, best.trained)
        if whole.met:
            return True
        self.shown.add(best.assignment)
        shown: bool = yield Show(best.assignment, best.trained)
        if shown:
            yield from self._show_more()
        else:
            self.wanted = self.limit - (whole.loss - best.reached.loss)
            least = best.reached.loss - 1e-9 * max(1.0, abs(best.reached.loss))
            self.wanted = min(self.wanted, least)
        self.trials = [replace(t, reached=whole) if t is best else t for t in self.trials]
        self.trained = [
            (n, replace(t, reached=whole) if t is best else t) for n, t in self.trained
        ]
        return False

    def _show_more(self) -> Strategy[Question, Any, None]:
        """Let looks see what was held out and goes wrong in the trial of those that failed that was least off."""
        failed = [t for t in self.trials if not t.reached.met and t.assignment not in self.shown]
        if failed:
            near = min(failed, key=lambda t: (t.reached.loss, t.cost))
            self.shown.add(near.assignment)
            yield Show(near.assignment)

    def look(self, assignment: Assignment) -> Strategy[Question, Any, float | None]:
        """Return what an assignment loses by a look at few samples; None where models cannot be looked at."""
        loss: float | None = yield Glance(assignment)
        self.looked = self.looked or loss is not None
        if loss is not None:
            self.dropped.pop(assignment, None)
            if loss > self.limit + 1e-12:
                self.dropped[assignment] = loss
        return loss

    def hopeless(self, assignment: Assignment) -> Strategy[Question, Any, bool | None]:
        """Whether too much is lost: on few samples where models can be looked at, else by the error; None where nobody knows."""
        loss = yield from self.look(assignment)
        if loss is None:
            loss = self.expected(assignment)
            if loss is not None and self.limit / _NEAR < loss < self.limit * _NEAR:
                yield from self.error(assignment)
                loss = self.expected(assignment)
        if loss is None:
            return None
        if loss > self.limit + 1e-12:
            self.dropped[assignment] = loss
            return True
        self.dropped.pop(assignment, None)
        return False

    @property
    def foretold(self) -> bool:
        """Whether the best loses what other trials let expect of its error: then errors say what is worth a trial."""
        best = self.best
        if best is None or best.error is None or best.reached.loss <= 0:
            return False
        others = [
            Point(t.error, t.reached.loss)
            for t in self.trials
            if t is not best and t.error is not None
        ]
        loss = loss_at(others, best.error, proportional=self.proportional)
        return loss is not None and 1 / _FORETOLD <= loss / best.reached.loss <= _FORETOLD

    def expected(self, assignment: Assignment) -> float | None:
        """Return the loss that is expected by the error and by what trials lost at theirs; None before that is known."""
        if not len(self.errors):
            return None
        error = self._true.get(assignment)
        if error is None:
            predicted = self.predicted(assignment)
            error = predicted * self.off_by(predicted)
        return loss_at(self.points, error, proportional=self.proportional)

    def measure(self) -> Strategy[Question, Any, None]:
        """Measure each layer alone, the cheapest assignment, and the most precise one."""
        columns = []
        for precision in self.menu.precisions:
            if precision == "float32":
                columns.append(np.zeros(len(self.menu.layers)))
                continue
            losses: Mapping[str, float] = yield Losses(precision)
            columns.append(np.array([losses[layer] for layer in self.menu.layers]))
        self.errors = np.stack(columns, axis=1)
        for i, trial in enumerate(self.trials):
            error = yield from self.error(trial.assignment)
            predicted = self.predicted(trial.assignment)
            self.trials[i] = replace(trial, error=error, predicted=predicted)
        self.top = most_precise(self.menu, self.errors)
        self.reachable = yield from self.error(self.top)

    def fitting(self, error: float, below: float) -> Strategy[Question, Any, Assignment | None]:
        """Return the cheapest assignment whose true error is about so large, and no more than that.

        Args:
            error: The true error it may have.
            below: True errors that are too large.
        """
        budget = error / self.off_by(error)
        tried = {t.assignment for t in self.trials}
        small = large = math.nan
        near: Assignment | None = None
        for _ in range(_CORRECTIONS):
            found = cheapest(self.menu, self.errors, budget)
            if found is None:
                return near
            if found in tried:
                small = budget
            else:
                true = yield from self.error(found)
                if true < below and true <= 2 * error:
                    return found
                near = found if true < below else near
                large = budget
            if not math.isnan(small) and not math.isnan(large):
                budget = math.sqrt(small * large)
            elif found in tried:
                budget *= 2
            else:
                budget *= min(0.5, error / true)
        return near

    @property
    def gap(self) -> float:
        """How much more the best costs than the trial that was least off; 0 where there is none."""
        assert self.best is not None
        known = self.menu.cost_of(self.best.assignment)
        costs = [self.menu.cost_of(t.assignment) for t in self.trials if t.error == self.too_much]
        return max(0.0, known - max(costs, default=known))

    def cheaper_than(
        self, cost: float, below: float
    ) -> Strategy[Question, Any, Assignment | None]:
        """Return the assignment of least error that costs less than so much; None where it is too far off."""
        found = nearest_below(self.menu, self.errors, cost)
        if found is None or any(t.assignment == found for t in self.trials):
            return None
        true = yield from self.error(found)
        return found if true < below else None

    def moves(self, assignment: Assignment, stays: set[int]) -> Sequence[tuple[int, str]]:
        """Return layers with the next cheaper precision they may have, those first that save most for their error."""
        found = []
        cost, error = self.menu.cost_of(assignment), self.predicted(assignment)
        for layer, now in enumerate(assignment):
            if layer in stays:
                continue
            worths = []
            for to in self.menu.precisions:
                if (
                    to == now
                    or not self.menu.cost[layer, self.menu.precisions.index(to)] < math.inf
                ):
                    continue
                other = changed(assignment, [(layer, to)])
                saved = cost - self.menu.cost_of(other)
                if saved > 0:
                    worths.append((saved / max(self.predicted(other) - error, 1e-15), to))
            if worths:
                worth, to = max(worths)
                found.append((worth, layer, to))
        return [(layer, to) for _, layer, to in sorted(found, key=lambda m: (-m[0], m[1]))]


def changed(assignment: Assignment, moves: Sequence[tuple[int, str]]) -> Assignment:
    """Return an assignment with some layers changed."""
    new = dict(moves)
    return tuple(new.get(i, p) for i, p in enumerate(assignment))
