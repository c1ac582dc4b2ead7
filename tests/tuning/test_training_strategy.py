"""The cheapest assignment is trained before any layer is raised: enough, not enough, not to be had, and within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibrant.tuning.driver import drive
from calibrant.tuning.menu import Menu
from calibrant.tuning.questions import (
    Found,
    Full,
    Glance,
    Glances,
    Improve,
    Losses,
    Question,
    Reached,
    Together,
    Train,
    Whole,
)
from calibrant.tuning.strategies.auto import auto
from calibrant.tuning.strategies.within import within

LAYERS, SHRINK = 12, {"int8": 1.0, "int16": 2.0**-16}


@dataclass
class Learner:
    """A network whose layers all lose the same, and so much of that after training.

    Args:
        keeps: Losses after training over those before; None where training does not gain.
        allowed: Loss of score that is allowed.
        unseen: So much more is lost on all samples by what is not trained.
        unseen_trained: The same of what is trained.
    """

    keeps: float | None
    allowed: float = 0.5
    unseen: float = 0.0
    unseen_trained: float = 0.0
    asked: list[Question] = field(default_factory=list)

    def menu(self) -> Menu:
        names = tuple(f"layer{i}" for i in range(LAYERS))
        return Menu(names, ("int8", "int16"), np.full((LAYERS, 2), [8.0, 16.0]))

    def answer(self, question: Question) -> Any:
        self.asked.append(question)
        if isinstance(question, Improve):
            return False
        if isinstance(question, Losses):
            return {f"layer{i}": SHRINK[question.precision] for i in range(LAYERS)}
        if isinstance(question, Glance):
            return None
        if isinstance(question, Glances):
            return 0.0
        error = sum(SHRINK[p] for p in question.assignment)
        if isinstance(question, Together):
            return error
        loss = error / LAYERS
        trained = isinstance(question, Train) or (isinstance(question, Whole) and question.trained)
        if trained:
            if self.keeps is None:
                return None
            loss *= self.keeps
            loss += self.unseen_trained if isinstance(question, Whole) else 0.0
        elif isinstance(question, Whole):
            loss += self.unseen
        return Reached(1 - loss, loss, loss <= self.allowed)

    def tuned(self, evaluations: int = 7, *, trains: bool = True) -> Found:
        asking = auto(self.menu(), self.allowed, evaluations, trains=trains)
        return drive(asking, self.answer)


def test_where_training_is_enough_no_layer_is_raised() -> None:
    found = Learner(keeps=0.4).tuned()
    assert found.best.trained
    assert set(found.best.assignment) == {"int8"}
    assert found.reason == "The cheapest assignment meets the requirement, after training."
    assert [t.trained for t in found.trials] == [False, True]


def test_where_training_is_not_enough_layers_are_raised_and_the_trial_is_told() -> None:
    found = Learner(keeps=1.0).tuned()
    assert found.best.reached.met
    assert not found.best.trained
    assert "int16" in found.best.assignment
    assert [t.trained for t in found.trials][:2] == [False, True]
    plain = Learner(keeps=None).tuned(6)
    untrained = [t.assignment for t in found.trials if not t.trained]
    assert untrained == [t.assignment for t in plain.trials]


def test_the_best_effort_may_be_the_trained_one() -> None:
    net = Learner(keeps=0.9, allowed=1e-9)
    found = net.tuned(2)
    assert not found.best.reached.met
    assert sum(isinstance(q, Full | Train) for q in net.asked) == 2


def test_training_that_does_not_gain_costs_no_evaluation() -> None:
    with_it, without = Learner(keeps=None), Learner(keeps=None)
    assert with_it.tuned().trials == without.tuned(trains=False).trials


def test_nothing_is_trained_where_the_cheapest_is_enough() -> None:
    net = Learner(keeps=0.1, allowed=1.5)
    net.tuned()
    assert not any(isinstance(q, Train) for q in net.asked)


def test_it_is_trained_where_the_cheapest_fails_on_all_samples_alone() -> None:
    net = Learner(keeps=0.4, allowed=1.0, unseen=0.5)
    found = net.tuned()
    assert found.best.trained
    assert sum(isinstance(q, Train) for q in net.asked) == 1
    assert sum(isinstance(q, Full) for q in net.asked) == 1


def test_one_assignment_alone_can_be_trained() -> None:
    net = Learner(keeps=0.4, allowed=0.1)
    menu = Menu(("a", "b"), ("int8",), np.array([[8.0], [8.0]]))
    found = drive(auto(menu, net.allowed, 7, trains=True), net.answer)
    assert found.best.trained
    assert found.best.reached.met


def test_the_best_within_a_budget_is_trained() -> None:
    net = Learner(keeps=0.4)
    limit = 8.0 * LAYERS + 16.0
    found = drive(within(net.menu(), limit, float("inf"), 7, trains=True), net.answer)
    assert found.best.trained
    assert found.best.cost <= limit
    assert found.best.assignment.count("int16") == 2


def test_what_was_not_enough_is_trained_again_with_fewer_layers_raised() -> None:
    """Training keeps 0.6 of the loss, so ten of twelve layers may stay narrow instead of six."""
    net, plain = Learner(keeps=0.6), Learner(keeps=None)
    found, without = net.tuned(), plain.tuned(trains=False)
    assert found.best.trained
    assert found.best.reached.met
    assert found.best.assignment.count("int8") in (9, 10)
    assert found.best.cost < without.best.cost
    assert sum(isinstance(q, Train) for q in net.asked) == 2
    assert found.reason.startswith("With fewer layers raised")
    assert [t.trained for t in found.trials].count(True) == 2


def test_training_that_does_not_help_the_score_is_not_done_again() -> None:
    net = Learner(keeps=1.0)
    assert net.tuned().best.reached.met
    assert sum(isinstance(q, Train) for q in net.asked) == 1


def test_what_is_trained_again_has_to_hold_on_all_samples() -> None:
    found = Learner(keeps=0.6, unseen_trained=0.3).tuned()
    assert found.best.reached.met
    assert not found.best.trained
    assert not found.reason.startswith("With fewer layers raised")
