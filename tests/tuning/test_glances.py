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
    Glances,
    Improve,
    Losses,
    Question,
    Reached,
    Show,
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
        shows: Whether those that are held out can be looked at, too, once a trial failed there.
    """

    seed: int
    layers: int = 16
    samples: int = 400
    held: int = 0
    glances: bool = True
    shows: bool = True
    precisions: tuple[str, ...] = ("int8", "int16")
    asked: list[Question] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.sizes: Any = 10 ** rng.uniform(-3, -1, self.layers)
        self.signs = rng.normal(size=(self.samples + self.held, self.layers))
        self.margins = rng.normal(size=self.samples + self.held)
        self.macs: Any = 10 ** rng.uniform(2, 4, self.layers)
        self.tells: set[int] = set()
        self.seen = self.samples

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
        if isinstance(question, Glances):
            return self.samples / max(1, len(self.tells))
        losses = self.losses(question.assignment)
        if isinstance(question, Whole):
            loss = float(losses.mean())
            return Reached(0.9 - loss, loss, loss <= 0.001)
        if isinstance(question, Show):
            if self.shows:
                self.tells |= set(np.flatnonzero(losses).tolist())
                self.seen = len(losses)
            return self.shows
        if isinstance(question, Glance):
            return losses[sorted(self.tells)].sum() / self.seen if self.glances else None
        losses = losses[: self.samples]
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
        menu, high = self.menu(), self.precisions[1]
        alone = []
        for i in range(self.layers):
            one = tuple(high if i == k else "int8" for k in range(self.layers))
            alone.append(self.losses(one).mean())
        raised: set[int] = set()
        for i in [-1, *np.argsort(alone, kind="stable")]:
            raised |= {int(i)} - {-1}
            assignment = tuple(high if k in raised else "int8" for k in range(self.layers))
            if self.losses(assignment).mean() <= 0.001:
                break
        return menu.cost_of(assignment), 1 + self.layers + max(0, len(raised) - 1)


@dataclass
class Energies(Margins):
    """A network of which the energy of the error counts, without labels; each layer's is its own in each sample.

    A look at 16 samples is read by the trial that lost the most like it there; errors are those of 16 further samples.
    """

    precisions: tuple[str, ...] = ("int8", "int16", "float32")

    def __post_init__(self) -> None:
        super().__post_init__()
        rng = np.random.default_rng(self.seed)
        every = np.exp(rng.normal(0, 0.5, (self.samples + 16, 1)))
        own = np.exp(rng.normal(0, 0.5, (self.samples + 16, self.layers)))
        self.energies = self.sizes**2 * every * own
        self.read: list[tuple[float, float]] = []
        self.allowed = float(rng.uniform(0.1, 0.7)) * self.energy(self.menu().narrowest)

    def energy(self, assignment: Assignment, some: slice | None = None) -> float:
        shrink = np.array([SHRINK[p] for p in assignment]) ** 2
        chosen = self.energies[some or slice(self.samples)]
        return float((chosen @ shrink).mean())

    def answer(self, question: Question) -> Any:
        self.asked.append(question)
        if isinstance(question, Losses):
            factor = SHRINK[question.precision] ** 2
            alone = self.energies[self.samples :].mean(axis=0) * factor
            return {f"layer{i}": float(x) for i, x in enumerate(alone)}
        if isinstance(question, Improve):
            return False
        if isinstance(question, Glances):
            return 0.0
        if isinstance(question, Together):
            return self.energy(question.assignment, slice(self.samples, None))
        look, loss = self.energy(question.assignment, slice(16)), self.energy(question.assignment)
        if isinstance(question, Glance):
            if not self.read or not self.glances:
                return None
            few, all_ = min(self.read, key=lambda t: abs(np.log(t[0] / look))) if look else (1, 1)
            return look * all_ / few
        if isinstance(question, Full) and loss > 0:
            self.read.append((look, loss))
        return Reached(-loss, loss, loss <= self.allowed, free=loss == 0, energy=True)

    def tuned(self, evaluations: int = 7) -> Found:
        return drive(auto(self.menu(), self.allowed, evaluations), self.answer)

    def greedy(self) -> tuple[float, int]:
        menu = self.menu()
        alone = [
            self.energy(tuple("int16" if i == k else "int8" for k in range(self.layers)))
            for i in range(self.layers)
        ]
        for count in range(self.layers + 1):
            raised = set(np.argsort(alone, kind="stable")[:count].tolist())
            found = tuple("int16" if k in raised else "int8" for k in range(self.layers))
            if self.energy(found) <= self.allowed:
                break
        return menu.cost_of(found), 1 + self.layers + max(0, count - 1)


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


@pytest.mark.parametrize("glances", [True, False])
def test_without_labels_errors_add_up_so_few_evaluations_do(*, glances: bool) -> None:
    evaluated, costs = [], []
    for seed in range(10):
        net = Energies(seed, glances=glances)
        found = net.tuned()
        cost, count = net.greedy()
        assert found.best.reached.met
        assert found.best.cost <= 1.01 * cost
        costs.append((found.best.cost, cost))
        evaluated.append(sum(not t.reached.free for t in found.trials))
        assert evaluated[-1] <= max(count / 4, 3)
    assert np.mean(evaluated) <= 3
    mine, greedy = np.array(costs).T
    assert np.mean(mine / greedy) < 0.95


@pytest.mark.parametrize("layers", [6, 16, 40])
def test_to_save_cost_takes_a_quarter_of_what_trying_each_layer_alone_takes(layers: int) -> None:
    """Scores of which nothing is known but one number, and in which chance decides."""
    for seed in range(5):
        net = Margins(seed, layers=layers, glances=False)
        found = drive(auto(net.menu(), 0.001, 30), net.answer)
        assert found.best.reached.met
        last = max(
            i
            for i, t in enumerate(found.trials)
            if t.phase in ("back up", "give back", "cheapest")
        )
        assert last + 1 <= max(2, (2 + layers) // 4 - 1)


def test_whoever_asks_for_more_evaluations_gets_them() -> None:
    for seed in SEEDS:
        nets = [Margins(seed, glances=False), Margins(seed, glances=False)]
        few, many = (
            drive(auto(n.menu(), 0.001, 30, (), thrifty=thrifty), n.answer)
            for n, thrifty in zip(nets, (True, False), strict=True)
        )
        if "max_trials allows more" in few.reason:
            assert len(many.trials) > len(few.trials)
            assert many.best.cost <= few.best.cost
            return
    raise AssertionError("no search was thrifty")


def test_looks_save_cost_beside_errors_alone() -> None:
    with_looks = [tuned(seed)[1] for seed in SEEDS]
    without = [tuned(seed, glances=False)[1] for seed in SEEDS]
    assert sum(f.best.cost for f in with_looks) < 0.95 * sum(f.best.cost for f in without)
    assert sum(len(f.trials) for f in with_looks) < sum(len(f.trials) for f in without)


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


@pytest.mark.slow
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


def test_one_layer_that_brings_back_what_was_lost_is_found_by_looks() -> None:
    """Where few samples were lost and a raised layer is dear, its error says little; looks at layers alone do what greedy does."""
    shares, full, evaluated = [], 0, 0
    for seed in range(300, 312):
        net, found = tuned(seed, layers=10, samples=900, precisions=("int8", "float32"))
        if net.full > 1:
            cost, count = net.greedy()
            shares.append(found.best.cost / cost)
            full, evaluated = full + net.full + 1, evaluated + count + 1
            assert found.best.reached.met
    assert len(shares) > 4
    assert np.mean(shares) < 1.05
    assert full < evaluated / 2


@pytest.mark.slow
def test_what_failed_among_samples_held_out_guides_the_search_by_name() -> None:
    """Shown what went wrong there, it costs nearly what a search costs that sees all samples; by the amount alone, much more."""
    costs = []
    for seed in range(200, 225):
        kinds = [
            {"samples": 720, "held": 180},
            {"samples": 720, "held": 180, "shows": False},
            {"samples": 900},
        ]
        nets = [Margins(seed, layers=10, **kind) for kind in kinds]  # type: ignore[arg-type]
        found = [n.tuned() for n in nets]
        assert all(n.full <= 7 for n in nets)
        if sum(isinstance(q, Show) for q in nets[0].asked):
            costs.append(
                [
                    f.best.cost / n.menu().cost_of(n.menu().narrowest)
                    for n, f in zip(nets, found, strict=True)
                ]
            )
    assert len(costs) > 4
    named, by_amount, seen = np.mean(costs, axis=0)
    assert named < 1.05 * seen
    assert named < 0.9 * by_amount


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
