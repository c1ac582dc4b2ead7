"""Moves that keep the cost, before any layer is raised: evaluated again, taken back where they lose, counted like all trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

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
)
from calibrant.tuning.strategies.auto import auto

LAYERS, SHRINK = 12, {"int8": 1.0, "int16": 2.0**-16}


@dataclass
class Improvable:
    """A network whose layers all lose the same, and so much of that with a better recipe.

    Args:
        better: Errors with the better recipe over those with the one that is given; None where there is none.
        allowed: Loss of score that is allowed.
        honest: The score says the same as errors do; else it gets worse with them.
        glance: What a look at single samples says; None where nobody can look.
    """

    better: float | None
    allowed: float
    honest: bool = True
    glance: float | None = None
    improved: bool = False
    asked: list[Question] = field(default_factory=list)

    def menu(self) -> Menu:
        names = tuple(f"layer{i}" for i in range(LAYERS))
        return Menu(names, ("int8", "int16"), np.full((LAYERS, 2), [8.0, 16.0]))

    def answer(self, question: Question) -> Any:
        self.asked.append(question)
        factor = (self.better or 1.0) if self.improved else 1.0
        if isinstance(question, Improve):
            self.improved = self.better is not None and not question.back
            return self.improved
        if isinstance(question, Losses):
            return {f"layer{i}": factor * SHRINK[question.precision] for i in range(LAYERS)}
        if isinstance(question, Glance):
            return self.glance
        if isinstance(question, Glances):
            return 0.0
        error = factor * sum(SHRINK[p] for p in question.assignment)
        if isinstance(question, Together):
            return error
        loss = error / LAYERS if self.honest or not self.improved else 2 * error / LAYERS / factor
        return Reached(1 - loss, loss, loss <= self.allowed)

    def tuned(self, evaluations: int = 7) -> Found:
        return drive(auto(self.menu(), self.allowed, evaluations), self.answer)

    @property
    def full(self) -> int:
        return sum(isinstance(q, Full) for q in self.asked)


def test_where_moves_are_enough_no_layer_is_raised() -> None:
    net = Improvable(better=0.5, allowed=0.5)
    found = net.tuned()
    assert found.best.reached.met
    assert found.best.improved
    assert set(found.best.assignment) == {"int8"}
    assert [t.improved for t in found.trials] == [False, True]
    assert net.full == 2


def test_moves_are_not_asked_for_where_the_cheapest_meets_the_requirement() -> None:
    net = Improvable(better=0.5, allowed=1.0)
    net.tuned()
    assert not any(isinstance(q, Improve) for q in net.asked)


def test_layers_are_raised_on_top_of_moves() -> None:
    with_moves, without = Improvable(0.5, 0.3), Improvable(None, 0.3)
    better, plain = with_moves.tuned(), without.tuned()
    assert better.best.reached.met
    assert plain.best.reached.met
    assert better.best.cost < plain.best.cost
    assert better.best.improved
    assert not plain.best.improved


def test_what_loses_more_than_before_is_taken_back() -> None:
    net = Improvable(better=0.5, allowed=0.3, honest=False)
    found = net.tuned()
    assert Improve(back=True) in net.asked
    assert not net.improved
    assert found.best.reached.met
    assert not found.best.improved
    assert any(t.improved for t in found.trials)  # it was tried, and is told


def test_a_hopeless_look_spares_the_evaluation() -> None:
    net = Improvable(better=0.9, allowed=0.1, glance=0.5)
    net.tuned()
    after = net.asked[net.asked.index(Improve()) + 1]
    assert isinstance(after, Glance)
    lowest = [q for q in net.asked if isinstance(q, Full) and set(q.assignment) == {"int8"}]
    assert len(lowest) == 1


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7])
def test_evaluations_of_both_recipes_are_counted(evaluations: int) -> None:
    net = Improvable(better=0.9, allowed=0.01)
    net.tuned(evaluations)
    assert net.full <= evaluations
