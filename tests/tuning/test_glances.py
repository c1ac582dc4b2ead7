"""Looks at the samples that tell trials apart, on invented networks whose samples each have a margin of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from calibrant.tuning.driver import Strategy, drive
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.questions import (
    Found,
    Full,
    Glance,
    Improve,
    Losses,
    Question,
    Reached,
    Together,
    Whole,
)
from calibrant.tuning.strategies.assigning import Search
from calibrant.tuning.strategies.auto import auto

SHRINK = {"int8": 1.0, "int16": 2.0**-8, "float32": 0.0}
BITS = {"int8": 8, "int16": 16, "float32": 32}


@dataclass
class Margins:
    """A network that is right in a sample while the errors of its layers, which have a sign there, leave its margin.

    Args:
        seed: Of layers, margins and signs.
        layers: How many.
        samples: How many the search sees.
        held: Further ones that it does not see.
        glances: Whether single samples can be looked at.
    """

    seed: int
    layers: int = 16
    samples: int = 400
    held: int = 0
    glances: bool = True
    precisions: tuple[str, ...] = ("int8", "int16")
    asked: list[Question] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.sizes: Any = 10 ** rng.uniform(-3, -1, self.layers)
        self.signs = rng.normal(size=(self.samples + self.held, self.layers))
        self.margins = rng.normal(size=self.samples + self.held)
        self.macs: Any = 10 ** rng.uniform(2, 4, self.layers)
        self.tells: set[int] = set()

    def menu(self) -> Menu:
        bits = np.array([BITS[p] for p in self.precisions])
        names = tuple(f"layer{i}" for i in range(self.layers))
        return Menu(names, self.precisions, self.macs[:, np.newaxis] * bits)

    def losses(self, assignment: Assignment) -> Any:
        sizes = self.sizes * [SHRINK[p] for p in assignment]
        return (self.margins > 0).astype(int) - (self.margins + self.signs @ sizes > 0).astype(int)

    def answer(self, question: Question) -> Any:
        self.asked.append(question)
        if isinstance(question, Losses):
            factor = SHRINK[question.precision]
            names = [f"layer{i}" for i in range(self.layers)]
            return {n: float((s * factor) ** 2) for n, s in zip(names, self.sizes, strict=True)}
        if isinstance(question, Together):
            shrink = np.array([SHRINK[p] for p in question.assignment])
            return float(np.sum((self.sizes * shrink) ** 2))
        if isinstance(question, Improve):
            return False
        losses = self.losses(question.assignment)
        if isinstance(question, Whole):
            loss = float(losses.mean())
            return Reached(0.9 - loss, loss, loss <= 0.001)
        losses = losses[: self.samples]
        if isinstance(question, Glance):
            return losses[sorted(self.tells)].sum() / self.samples if self.glances else None
        self.tells |= set(np.flatnonzero(losses).tolist())
        loss = float(losses.mean())
        return Reached(0.9 - loss, loss, loss <= 0.001)

    @property
    def full(self) -> int:
        return sum(isinstance(q, Full) for q in self.asked)

    def tuned(self, evaluations: int = 7) -> Found:
        return drive(auto(self.menu(), 0.001, evaluations), self.answer)

    def greedy(self) -> tuple[float, int]:
        """Return the cost, and the number of evaluations, of raising layers in the order of what each alone wins."""
        menu = self.menu()
        alone = []
        for i in range(self.layers):
            one = tuple("int16" if i == k else "int8" for k in range(self.layers))
            alone.append(self.losses(one).mean())
        raised: set[int] = set()
        for i in [-1, *np.argsort(alone, kind="stable")]:
            raised |= {int(i)} - {-1}
            assignment = tuple("int16" if k in raised else "int8" for k in range(self.layers))
            if self.losses(assignment).mean() <= 0.001:
                break
        return menu.cost_of(assignment), 1 + self.layers + max(0, len(raised) - 1)


SEEDS = range(20)


def tuned(seed: int, **changes: Any) -> tuple[Margins, Found]:
    net = Margins(seed, **changes)
    return net, net.tuned()


def test_the_requirement_is_met_within_the_evaluations_that_are_allowed() -> None:
    for seed in SEEDS:
        net, found = tuned(seed)
        assert found.best.reached.met
        assert net.losses(found.best.assignment).mean() <= 0.001
        assert net.full <= 7


def test_it_takes_a_quarter_of_the_evaluations_of_greedy_search_and_costs_no_more_on_average() -> (
    None
):
    mine, greedy, full, evaluated = 0.0, 0.0, 0, 0
    for seed in SEEDS:
        net, found = tuned(seed)
        if net.full > 1:
            cost, count = net.greedy()
            base = net.menu().cost_of(net.menu().narrowest)
            mine, greedy = mine + found.best.cost / base, greedy + cost / base
            full, evaluated = full + net.full, evaluated + count
    assert full <= evaluated / 4
    assert mine <= greedy


def test_looks_save_cost_beside_errors_alone() -> None:
    with_looks = sum(tuned(seed)[1].best.cost for seed in SEEDS)
    without = sum(tuned(seed, glances=False)[1].best.cost for seed in SEEDS)
    assert with_looks < 0.95 * without


def test_looks_that_promise_too_much_leave_evaluations_for_what_is_sure() -> None:
    class Wrong(Margins):
        def answer(self, question: Question) -> Any:
            return -1.0 if isinstance(question, Glance) else super().answer(question)

    for seed in SEEDS:
        net = Wrong(seed)
        found = net.tuned()
        assert found.best.reached.met
        assert net.full <= 7


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_few_evaluations_are_not_exceeded(evaluations: int) -> None:
    for seed in SEEDS:
        net = Margins(seed)
        net.tuned(evaluations)
        assert net.full <= evaluations


def test_what_fails_on_samples_that_the_search_did_not_see_is_searched_on_for() -> None:
    failed, held_up = 0, 0
    for seed in range(40):
        net, found = tuned(seed, held=200)
        assert net.full <= 7
        asked = [q.assignment for q in net.asked if isinstance(q, Whole)]
        holds = [net.losses(a).mean() <= 0.001 for a in asked]
        assert all(not h for h in holds[:-1])  # nothing is asked once one holds
        if holds and not holds[0]:
            failed += 1
            held_up += found.best.reached.met and bool(
                net.losses(found.best.assignment).mean() <= 0.001
            )
    assert failed > 3
    assert held_up > 0.6 * failed


def test_a_cheapest_assignment_that_costs_nothing_ends_the_way_up_too() -> None:
    class Free(Margins):
        def menu(self) -> Menu:
            return replace(super().menu(), cost=super().menu().cost * [0.0, 1.0])

    for seed in SEEDS:
        net = Free(seed)
        assert net.tuned().best.reached.met
        assert net.full <= 7


def test_each_trial_has_the_error_of_its_own_assignment() -> None:
    net = Margins(1, precisions=("int8", "float32"))
    menu = net.menu()
    search = Search(menu, 0.001, 7, menu.narrowest)

    def steps() -> Strategy[Question, Any, None]:
        yield from search.evaluate(menu.narrowest, "cheapest")
        yield from search.evaluate(("float32",) * net.layers, "the float model")
        yield from search.measure()

    drive(steps(), net.answer)
    errors = [t.error for t in search.trials]
    assert errors == [net.answer(Together(menu.narrowest)), 0.0]
