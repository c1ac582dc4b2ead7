"""The strategy `auto`, on invented networks: which layers are raised, and how many evaluations that takes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.tuning.cheapest import cheapest, least_cost, nearest_below
from calibrant.tuning.driver import drive
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
    Together,
    Whole,
)
from calibrant.tuning.strategies.auto import auto

BITS = {"int8": 8, "int16": 16, "float16": 16, "float32": 32}


@dataclass
class Invented:
    """A network whose layers lose what they are said to lose.

    Args:
        losses: Layer -> energy of the error that it makes in int8.
        allowed: Loss of score that is allowed.
        gain: True errors over the sum of the layers' own.
        slope: Loss of score is 0.5 * error**slope, up to 0.6.
    """

    losses: dict[str, float]
    allowed: float = 0.01
    gain: float = 1.0
    slope: float = 0.5
    precisions: tuple[str, ...] = ("int8", "int16", "float32")
    macs: dict[str, float] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)

    def menu(self) -> Menu:
        macs = np.array([self.macs.get(n, 100.0) for n in self.losses])
        bits = np.array([BITS[p] for p in self.precisions])
        return Menu(tuple(self.losses), self.precisions, macs[:, np.newaxis] * bits)

    def alone(self, precision: str) -> dict[str, float]:
        shrink = {"int8": 1.0, "int16": 2.0**-16, "float16": 2.0**-6, "float32": 0.0}[precision]
        return {n: e * shrink for n, e in self.losses.items()}

    def error(self, assignment: Assignment) -> float:
        parts = [self.alone(p)[n] for n, p in zip(self.losses, assignment, strict=True)]
        return self.gain * sum(parts)

    def loss(self, assignment: Assignment) -> float:
        return min(0.6, 0.5 * self.error(assignment) ** self.slope)

    def answer(self, question: Question) -> Any:
        self.asked.append(question)
        if isinstance(question, Losses):
            return self.alone(question.precision)
        if isinstance(question, Together):
            return self.error(question.assignment)
        if isinstance(question, Glance):
            return None
        if isinstance(question, Glances):
            return 0.0
        if isinstance(question, Improve):
            return False
        loss = self.loss(question.assignment)
        return Reached(0.9 - loss, loss, loss <= self.allowed)

    def tuned(self, evaluations: int = 7) -> tuple[Found, dict[str, str]]:
        menu = self.menu()
        found = drive(auto(menu, self.allowed, evaluations), self.answer)
        return found, menu.raised(found.best.assignment)

    @property
    def full(self) -> int:
        return sum(isinstance(q, Full) for q in self.asked)


def network(count: int = 24, seed: int = 0, **sensitive: float) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    losses = {f"layer{i}": float(10 ** rng.uniform(-9, -7)) for i in range(count)}
    return {**losses, **sensitive}


def test_what_meets_the_requirement_at_once_takes_one_evaluation() -> None:
    net = Invented(network())
    found, raised = net.tuned()
    assert raised == {}
    assert net.asked == [Full(net.menu().narrowest), Whole(net.menu().narrowest)]
    assert found.reason == "The cheapest assignment meets the requirement."


@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("slope", [0.5, 1.0])
@pytest.mark.parametrize(
    "sensitive",
    [
        {"layer3": 0.2},
        {"layer3": 0.5, "layer11": 0.05},
        {"layer0": 0.02, "layer7": 0.3, "layer23": 0.9, "layer9": 0.04},
    ],
    ids=len,
)
def test_exactly_the_sensitive_layers_are_raised(
    sensitive: dict[str, float], slope: float, gain: float
) -> None:
    net = Invented(network() | sensitive, slope=slope, gain=gain)
    least = min(0.5 * (gain * e) ** slope for e in sensitive.values())
    net.allowed = least / 2  # each sensitive layer alone is too much, all others together are not
    found, raised = net.tuned()
    assert raised == dict.fromkeys(sensitive, "int16")
    assert found.best.reached.met
    assert net.full <= 7


def test_layers_that_cost_less_are_raised_first() -> None:
    net = Invented({"dear": 0.1, "cheap": 0.1, "quiet": 1e-8}, macs={"dear": 1000.0})
    net.allowed = net.loss(("int8", "int16", "int8")) * 1.01
    _, raised = net.tuned()
    assert raised == {"cheap": "int16"}


def test_what_int16_cannot_do_is_left_in_float() -> None:
    net = Invented(network(layer5=4e4), allowed=0.01)  # int16 leaves 0.6, whose root is too much
    found, raised = net.tuned()
    assert raised == {"layer5": "float32"}
    assert found.best.reached.met


def test_what_cannot_be_met_is_said_with_the_best_that_was_found() -> None:
    net = Invented(network(layer5=4e4), allowed=0.01, precisions=("int8", "int16"))
    found, _ = net.tuned()
    assert not found.best.reached.met
    assert found.reason == "The most precise assignment does not meet the requirement."
    assert found.reachable == pytest.approx(4e4 * 2**-16, rel=0.01)
    losses = [t.reached.loss for t in found.trials]
    assert found.best.reached.loss == min(losses)
    assert net.full <= 7


def test_a_requirement_above_the_float_model_costs_two_evaluations() -> None:
    net = Invented(network(layer5=0.1), allowed=-0.01)
    found, _ = net.tuned()
    assert net.full == 2
    assert found.reason == "The requirement is above what the float model reaches."


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5])
def test_no_more_evaluations_than_allowed(evaluations: int) -> None:
    net = Invented(network(layer3=0.5, layer11=0.05, layer13=0.004), allowed=0.01)
    found, _ = net.tuned(evaluations)
    assert net.full <= evaluations
    assert len(found.trials) == net.full
    assert found.best.reached.met == (evaluations > 1)


def test_nothing_is_evaluated_twice() -> None:
    rng = np.random.default_rng(3)
    net = Invented({f"layer{i}": float(10 ** rng.uniform(-6, -1)) for i in range(40)})
    net.tuned(30)
    full = [q.assignment for q in net.asked if isinstance(q, Full)]
    assert len(full) == len(set(full))


@pytest.mark.parametrize("seed", range(8))
def test_seven_evaluations_come_near_the_best_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(30)]
    losses = {n: float(10 ** rng.uniform(-6, -1)) for n in names}
    macs = {n: float(10 ** rng.uniform(2, 4)) for n in names}
    net = Invented(losses, macs=macs, slope=float(rng.uniform(0.4, 1.0)))
    menu = net.menu()
    net.allowed = 0.3 * net.loss(menu.narrowest)
    found, _ = net.tuned()
    assert found.best.reached.met
    assert net.full <= 7
    best = _optimum(net, menu)
    dearest = menu.cost_of(("float32",) * 30)
    assert (found.best.cost - best) / dearest < 0.02


def _optimum(net: Invented, menu: Menu) -> float:
    """Return the least cost at which the requirement is met, knowing all."""
    errors = np.stack([list(net.alone(p).values()) for p in menu.precisions], axis=1)
    budget = (net.allowed / 0.5) ** (1 / net.slope) / net.gain
    found = cheapest(menu, errors, budget)
    assert found is not None
    return menu.cost_of(found)


def test_trials_that_say_nothing_end_in_the_most_precise_assignment() -> None:
    net = Invented(network(layer3=0.5))

    def answer(question: Question) -> Any:
        if isinstance(question, Full) and "int8" in question.assignment:
            return Reached(math.nan, math.inf, False)
        return net.answer(question)

    found = drive(auto(net.menu(), 0.01, 5), answer)
    assert len(found.trials) == 5
    assert not found.best.reached.met or "int8" not in found.best.assignment


# ------------------------------------------------------------------------------- what layers have together


def test_a_reader_of_integers_loses_what_they_lose() -> None:
    """On devices whose kernels give integers, a layer in float behind one in int8 reads 8-bit numbers all the same."""
    cost = np.array([[8.0, 32.0], [8.0, 32.0], [8.0, 32.0]])
    menu = Menu(("a", "b", "c"), ("int8", "float32"), cost, feeds=((0, 1), (1, 2)))
    errors = np.array([[0.01, 0.0], [0.5, 0.0], [0.01, 0.0]])
    assert menu.errors_of(errors, ("int8", "float32", "int8")).tolist() == [0.01, 0.5, 0.01]
    assert cheapest(menu, errors, 0.05) == ("float32", "float32", "int8")
    assert cheapest(menu, errors, 0.6) == ("int8", "int8", "int8")
    assert nearest_below(menu, errors, 72.1) == ("float32", "float32", "int8")


def test_a_border_is_paid_once_and_on_one_side_alone() -> None:
    """An int8 kernel that saves less than the conversions around it cost is not used."""
    cost = np.array([[5.0, 6.0], [1.0, 9.0], [5.0, 6.0]])
    menu = Menu(("a", "b", "c"), ("int8", "float32"), cost, borders=((0, 1, 5.0), (1, 2, 5.0)))
    assert menu.cost_of(("float32", "int8", "float32")) == 23.0
    assert least_cost(menu) == ("int8", "int8", "int8")
    alone = Menu(
        ("a", "b"), ("int8", "float32"), np.array([[8.0, 9.0], [9.0, 1.0]]), borders=((0, 1, 2.0),)
    )
    assert least_cost(alone) == ("float32", "float32")


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_no_assignment_is_cheaper_within_the_budget(seed: int) -> None:
    """Beside every assignment there is, of a few layers with feeds and borders."""
    rng = np.random.default_rng(seed)
    layers, precisions = 5, ("int8", "int16", "float32")[: int(rng.integers(2, 4))]
    pairs = [(a, b) for a in range(layers) for b in range(a + 1, layers) if rng.random() < 0.4]
    cost = np.sort(rng.uniform(1, 10, (layers, len(precisions))), axis=1)
    errors = -np.sort(-rng.uniform(0, 1, (layers, len(precisions))), axis=1)
    borders = tuple((a, b, float(rng.uniform(0, 5))) for a, b in pairs if rng.random() < 0.5)
    names = tuple(f"l{i}" for i in range(layers))
    menu = Menu(names, precisions, cost, feeds=tuple(pairs), borders=borders)
    budget = float(rng.uniform(0.2, layers))
    every = list(itertools.product(precisions, repeat=layers))
    fit = [
        menu.cost_of(a) for a in every if menu.errors_of(errors, a).sum() <= budget * (1 + 1e-9)
    ]
    found = cheapest(menu, errors, budget)
    if found is None:
        assert not [a for a in every if menu.errors_of(errors, a).sum() < budget * (1 - 1e-6)]
        return
    assert menu.cost_of(found) <= min(fit, default=math.inf) * (1 + 1e-5)
