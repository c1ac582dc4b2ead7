"""The vendors' procedures with invented answers: which recipes they try, in which order, and what they end with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from calibrant.recipe import Layer, Recipe
from calibrant.tuning.driver import Strategy, drive
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.amct_manual import amct_manual, few_parameters
from calibrant.tuning.strategies.ascend_traverse import ascend_traverse, default_recipe
from calibrant.tuning.strategies.recipes import BatchOf, LayerFacts, Layers, Outcome, Try

FACTS = (
    LayerFacts("stem", True, False, 100, 0.9999),
    LayerFacts("body", False, False, 10000, 0.999),
    LayerFacts("tiny", False, False, 9, 0.9999),
    LayerFacts("odd", False, False, 5000, 0.97),
    LayerFacts("head", False, True, 1000, 0.9999),
)


class Invented:
    """Answers questions about a network.

    Args:
        loss: Recipe -> what it loses; 0 or less meets the requirement.
        batch: Samples in a batch of the data, where that is fixed.
    """

    def __init__(self, loss: Callable[[Try], float], batch: int | None = None) -> None:
        self.loss, self.batch = loss, batch
        self.tried: list[Try] = []

    def answer(self, question: Any) -> Any:
        if isinstance(question, Try):
            self.tried.append(question)
            loss = self.loss(question)
            return Reached(1 - loss, loss, loss <= 0)
        if isinstance(question, Layers):
            return FACTS
        assert isinstance(question, BatchOf)
        return self.batch or question.recipe.calibration.batch_size

    def run(self, procedure: Strategy[Any, Any, Outcome]) -> Outcome:
        return drive(procedure, self.answer)

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(t.phase for t in self.tried))


def in_float(recipe: Recipe) -> list[str]:
    return [
        r.where.name
        for r in recipe.rules
        if isinstance(r.where, Layer) and r.settings.compute == "float32"
    ]


def samples(recipe: Recipe) -> int:
    c = recipe.calibration
    return (c.batch_size or 0) * (c.batch_num or 0)


# ------------------------------------------------------------------------------------------ amct-manual


def test_manual_ends_with_the_defaults_where_they_are_enough() -> None:
    net = Invented(lambda _: 0.0)
    found = net.run(amct_manual(Recipe()))
    assert len(net.tried) == 1
    assert found.best == net.tried[0]


def test_manual_goes_through_the_phases_in_order() -> None:
    net = Invented(lambda _: 1.0)
    found = net.run(amct_manual(Recipe()))
    assert found.best is None
    assert "not suited" in found.reason
    assert found.advice
    assert net.phases == [
        "1 defaults",
        "2 calibration data",
        "3 sensitive layers",
        "4 parameters",
    ]
    assert [samples(t.recipe) for t in net.tried[1:3]] == [16, 32]
    sensitive = [in_float(t.recipe) for t in net.tried if t.phase == "3 sensitive layers"]
    assert sensitive == [
        ["stem", "head"],
        ["stem", "tiny", "head"],
        ["stem", "tiny", "odd", "head"],
    ]


def test_manual_keeps_what_lost_least() -> None:
    def loss(asked: Try) -> float:
        less = 0.1 * (samples(asked.recipe) == 16) + 0.2 * (
            in_float(asked.recipe) == ["stem", "head"]
        )
        return 1.0 - less

    net = Invented(loss)
    net.run(amct_manual(Recipe()))
    parameters = [t for t in net.tried if t.phase == "4 parameters"]
    assert len({t.recipe for t in parameters}) == len(parameters)
    for t in parameters:
        assert samples(t.recipe) == 16
        assert in_float(t.recipe) == ["stem", "head"]


def test_manual_takes_more_batches_where_their_size_is_fixed() -> None:
    net = Invented(lambda _: 1.0, batch=10)
    net.run(amct_manual(Recipe()))
    counts = [t.recipe.calibration.batch_num for t in net.tried if t.phase == "2 calibration data"]
    assert counts == [2, 4]


@pytest.mark.parametrize(
    ("sizes", "few"),
    [([90, 10000, 9], {"c", "a"}), ([1, 1, 1], set()), ([0, 1000, 5], {"c"}), ([], set())],
)
def test_layers_of_few_parameters_hold_a_hundredth(sizes: Sequence[int], few: set[str]) -> None:
    facts = [LayerFacts(n, False, False, s, None) for n, s in zip("abc", sizes, strict=False)]
    assert few_parameters(facts) == few


# -------------------------------------------------------------------------------------- ascend-traverse


def options(recipe: Recipe) -> dict[str, Any]:
    last = next(r.settings.activation for r in reversed(recipe.rules) if r.settings.activation)
    return {"kind": last.name, **dict(last.options), "images": samples(recipe)}


def test_traverse_tries_one_option_after_another_then_the_grid_then_layers() -> None:
    net = Invented(lambda _: 1.0)
    found = net.run(ascend_traverse(default_recipe()))
    assert found.best is None
    assert "stays in float" in found.reason
    first = [options(t.recipe) for t in net.tried[:6]]
    assert [(o["start_ratio"], o["bins"], o["max_percentile"]) for o in first[:5]] == [
        (0.7, 150, 1.0),
        (0.3, 150, 1.0),
        (0.3, 200, 1.0),
        (0.3, 250, 1.0),
        (0.3, 250, 0.99999),
    ]
    grid = [t for t in net.tried if t.phase not in ("1 defaults", "6 blacklist")]
    kinds = {tuple(sorted(options(t.recipe).items())) for t in grid}
    assert len(kinds) == len(grid) == 3 * 2 * 2 * 3 * 3
    black = [in_float(t.recipe) for t in net.tried if t.phase == "6 blacklist"]
    names = [f.layer for f in FACTS]
    assert black == [names[:k] for k in range(1, len(names))]


def test_traverse_leaves_layers_out_with_the_options_that_lost_least() -> None:
    def loss(asked: Try) -> float:
        o = options(asked.recipe)
        good = o["kind"] == "jsd" and o["bins"] == 200 and o["images"] == 20
        left = len(in_float(asked.recipe))
        return 1.0 - 0.5 * good - (0.5 if left >= 2 else 0.0)

    net = Invented(loss)
    found = net.run(ascend_traverse(default_recipe()))
    assert found.best is not None
    o = options(found.best.recipe)
    assert (o["kind"], o["bins"], o["images"]) == ("jsd", 200, 20)
    assert in_float(found.best.recipe) == ["stem", "body"]


def test_traverse_stops_at_the_first_that_is_enough() -> None:
    net = Invented(lambda t: 0.0 if options(t.recipe)["bins"] == 200 else 1.0)
    found = net.run(ascend_traverse(default_recipe()))
    assert len(net.tried) == 3
    assert found.best == net.tried[-1]
    assert net.tried[-1].phase == "3 bins"
