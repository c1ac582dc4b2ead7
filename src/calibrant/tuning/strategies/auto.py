"""Find the cheapest assignment of precisions that meets a requirement, with few full evaluations.

1. The cheapest assignment is evaluated: where it does, nothing is left to do.
2. Layers are measured alone, without labels, on a few samples; what the most precise assignment loses is known from there on.
   Where that is the float model itself, its score is known, too, and costs no evaluation.
3. Down to the requirement: the cheapest assignment within a budget of error is solved for (`tuning.cheapest`), its true
   error measured without labels and the budget corrected by it, and it is evaluated. The budget comes from what trials have
   lost so far (`tuning.loss_curve`), and is at most a quarter of the smallest error that was too large. The last evaluation
   goes to the most precise assignment.
4. Back up: between the cheapest assignment that meets it and the most precise one that does not, until none is left.
5. Layers are given back, those first that save most for the error they bring: one, then two, then four; half as many where
   that was too much; a single layer that was too much stays.

What is asked: `Losses` of a precision, the error of an assignment as a whole (`Together`), and its score (`Full`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calibrant.tuning.cheapest import cheapest, least_cost, most_precise, nearest_below
from calibrant.tuning.driver import Strategy
from calibrant.tuning.loss_curve import Point, error_for
from calibrant.tuning.menu import Assignment, Floats, Menu

__all__ = ["Found", "Full", "Losses", "Question", "Reached", "Search", "Together", "Trial", "auto"]

#: While nothing meets the requirement, an error that was too large is divided by so much at the least.
_STEP = 4.0

#: How often a budget is corrected by the true error of what it led to.
_CORRECTIONS = 5

#: How near to either end of what is known the next budget may lie, as a share of the way on a logarithmic scale.
_MARGIN = 0.15

#: A trial gives up so much of what the best costs more than what failed, where its error allows it.
_GAP = 0.35


@dataclass(frozen=True, slots=True)
class Losses:
    """What does each layer lose alone in a precision? Answer: layer -> energy of the error over energy of the signal."""

    precision: str


@dataclass(frozen=True, slots=True)
class Together:
    """What do the outputs lose with an assignment? Answer: energy of the error over energy of the signal."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Full:
    """What does an assignment reach on all evaluation data? Answer: `Reached`."""

    assignment: Assignment
    phase: str = field(default="", compare=False)


Question = Losses | Together | Full


@dataclass(frozen=True, slots=True)
class Reached:
    """What a full evaluation says.

    Args:
        score: The score.
        loss: What it lost against the float model; below 0 where it is better.
        met: It meets the requirement.
        free: It was known without an evaluation.
        cost: What it costs, where that was measured of the whole model; None where the menu says it.
        scores: Scores by name, where there are several; `score` is then the one that is nearest to its limit.
    """

    score: float
    loss: float
    met: bool
    free: bool = False
    cost: float | None = None
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """An assignment that was evaluated.

    Args:
        assignment: One precision a layer.
        cost: What it costs.
        error: Of its outputs, without labels; None where that was not measured.
        predicted: What the layers' own errors add up to; None before they were measured.
        reached: What the evaluation says.
        phase: What it was tried for.
    """

    assignment: Assignment
    cost: float
    error: float | None
    predicted: float | None
    reached: Reached
    phase: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        best: The cheapest trial that meets the requirement, or the one that loses least where none does.
        trials: All trials, in order.
        reason: Why it ended, as a sentence.
        within: What the best may cost, where that was limited.
        reachable: Error of the most precise assignment, known without labels; None where it was not asked for.
    """

    best: Trial
    trials: tuple[Trial, ...]
    reason: str
    reachable: float | None = None
    within: float | None = None


def auto(
    menu: Menu, allowed: float, evaluations: int, known: Sequence[Assignment] = ()
) -> Strategy[Question, Any, Found]:
    """Return the cheapest assignment that meets the requirement, with all that was tried.

    Args:
        menu: What layers may be.
        allowed: Loss of score that is allowed, in its own units.
        evaluations: Full evaluations, at most; 1 or more.
        known: Assignments that met a requirement for another model of the same structure, the cheapest first: one is tried
            early.
    """
    search = Search(menu, allowed, evaluations, least_cost(menu))
    yield from search.evaluate(search.lowest, "cheapest")
    if search.best is not None and search.best.reached.cost is not None:
        yield from search.beside_float()
    if search.best is not None:
        return search.found(
            "The cheapest assignment meets the requirement."
            if not search.best.reached.free
            else "Nothing that was measured is faster than the float model."
        )
    if np.isfinite(menu.cost).sum() == len(menu.layers):
        return search.found("There is one assignment only.")
    if not search.left:
        return search.found(search.spent)
    yield from search.measure()
    if allowed < 0:
        yield from search.evaluate(search.top, "most precise")
        return search.found("The requirement is above what the float model reaches.")
    yield from search.remember(known)
    yield from search.reach()
    if search.best is None:
        return search.found(
            "The most precise assignment does not meet the requirement."
            if any(t.assignment == search.top for t in search.trials)
            else search.spent
        )
    yield from search.between()
    yield from search.give_back()
    if search.best.reached.free:
        return search.found(
            "Nothing but the float model itself was found to meet the requirement."
        )
    return search.found(
        "Nothing more can be given up: what is cheaper failed, or is further off than what failed."
        if search.left
        else search.spent
    )


@dataclass(slots=True, eq=False)
class Search:
    """One search on its way: what is known, and how it goes on."""

    menu: Menu
    allowed: float
    evaluations: int
    lowest: Assignment
    trials: list[Trial] = field(default_factory=list)
    errors: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    top: Assignment = ()
    reachable: float | None = None
    _true: dict[Assignment, float] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------- what is known

    @property
    def left(self) -> int:
        """Full evaluations that are left."""
        return self.evaluations - sum(not t.reached.free for t in self.trials)

    @property
    def spent(self) -> str:
        """Why a search ends that has no evaluation left."""
        return f"All {self.evaluations} evaluations of quantized models are spent."

    @property
    def best(self) -> Trial | None:
        """The cheapest trial that meets the requirement."""
        met = [t for t in self.trials if t.reached.met]
        return min(met, key=lambda t: (t.cost, t.reached.loss), default=None)

    @property
    def points(self) -> list[Point]:
        """What the trials say of error and loss."""
        return [Point(t.error, t.reached.loss) for t in self.trials if t.error is not None]

    @property
    def too_much(self) -> float:
        """The smallest error that was too large, of what costs less than the best; inf where there is none."""
        below = math.inf if self.best is None else self.best.cost
        failed = [t for t in self.trials if not t.reached.met and t.cost < below]
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
            not t.reached.met and (self.menu.errors_of(self.errors, t.assignment) <= mine).all()
            for t in self.trials
        )

    def found(self, reason: str, *, within: float | None = None) -> Found:
        """Return what was found.

        Args:
            reason: Why the search ended.
            within: What the best may cost; then of those that do, the one that loses least is the best.
        """
        if within is not None:
            fits = [t for t in self.trials if t.cost <= within * (1 + 1e-9)]
            dearer = not fits
            best = min(fits or self.trials, key=lambda t: (t.reached.loss, t.cost))
            if dearer:
                best = replace(best, reached=replace(best.reached, met=False))
            trials = tuple(best if t.assignment == best.assignment else t for t in self.trials)
            return Found(best, trials, reason, self.reachable, within=within)
        best = self.best or min(self.trials, key=lambda t: (t.reached.loss, t.cost))
        return Found(best, tuple(self.trials), reason, self.reachable)

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
        )
        self.trials.append(trial)
        return trial

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
        error = yield from self.error(self.lowest)
        self.trials = [
            replace(t, error=error, predicted=self.predicted(self.lowest)) for t in self.trials
        ]
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

    # -------------------------------------------------------------------------------------------- phases

    def remember(self, known: Sequence[Assignment]) -> Strategy[Question, Any, None]:
        """Try what another model of the same structure ended with."""
        for assignment in known:
            if self.left > 1 and all(t.assignment != assignment for t in self.trials):
                yield from self.error(assignment)
                yield from self.evaluate(assignment, "known from before")
                return

    def reach(self) -> Strategy[Question, Any, None]:
        """Find an assignment that meets the requirement."""
        if all(p == "float32" for p in self.top):
            yield from self.evaluate(self.top, "the float model")
        while self.best is None and self.left:
            limit = self.too_much
            wanted = error_for(self.points, self.allowed)
            error = min(wanted if wanted is not None else math.inf, limit / _STEP)
            assignment: Assignment | None = None
            if self.left > 1 and math.isfinite(error):
                assignment = yield from self.fitting(error, limit)
            tried = {t.assignment for t in self.trials}
            if assignment is None:
                if self.top in tried:
                    return
                assignment = self.top
            yield from self.evaluate(assignment, "down to the requirement")
            if assignment == self.top:
                return

    def between(self) -> Strategy[Question, Any, None]:
        """Try what lies between the best assignment and what failed."""
        while self.left:
            best, high = self.best, self.too_much
            assert best is not None
            if best.error is None or not math.isfinite(high):
                return
            low = max(best.error, 1e-6 * high)
            if low >= high:
                return
            wanted = error_for(self.points, self.allowed) or math.sqrt(low * high)
            share = math.log(wanted / low) / math.log(high / low)
            if not best.reached.free and best.reached.loss <= 0:
                share = max(share, 0.5)  # nothing is lost yet, so the curve says too little
            share = min(max(share, _MARGIN), 1 - _MARGIN)
            error = low * (high / low) ** share
            assignment = yield from self.fitting(error, high)
            known = self.menu.cost_of(best.assignment)
            if assignment is None or self.menu.cost_of(assignment) > known - _GAP * self.gap:
                bolder = yield from self.cheaper_than(known - _GAP * self.gap, high)
                assignment = assignment if bolder is None else bolder
            if assignment is None or self.menu.cost_of(assignment) >= known:
                assignment = yield from self.cheaper_than(known, high)
            if assignment is None:
                return
            yield from self.evaluate(assignment, "back up")

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

    def give_back(self) -> Strategy[Question, Any, None]:
        """Give layers back, one after the other."""
        stays: set[int] = set()
        step = 1
        while self.left:
            best = self.best
            assert best is not None
            moves = self.moves(best.assignment, stays)
            if not moves:
                return
            taken = moves[:step]
            assignment = _with(best.assignment, taken)
            failed = (
                self.fails_for_sure(assignment)
                or self.predicted(assignment) * self.off_by(self.too_much) > 2 * self.too_much
            )
            if not failed:
                true = yield from self.error(assignment)
                failed = true >= self.too_much
            if not failed:
                trial = yield from self.evaluate(assignment, "give back")
                failed = not trial.reached.met
            if not failed:
                step *= 2
            elif len(taken) > 1:
                step = len(taken) // 2
            else:
                stays.add(taken[0][0])

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
                changed = _with(assignment, [(layer, to)])
                saved = cost - self.menu.cost_of(changed)
                if saved > 0:
                    worths.append((saved / max(self.predicted(changed) - error, 1e-15), to))
            if worths:
                worth, to = max(worths)
                found.append((worth, layer, to))
        return [(layer, to) for _, layer, to in sorted(found, key=lambda m: (-m[0], m[1]))]


def _with(assignment: Assignment, moves: Sequence[tuple[int, str]]) -> Assignment:
    """Return an assignment with some layers changed."""
    changed = dict(moves)
    return tuple(changed.get(i, p) for i, p in enumerate(assignment))
