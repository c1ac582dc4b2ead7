"""The vendor's tuning of training with invented answers: which configurations it trains, in which order, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calibrant.dialects.amct.retrain_write import default_retrain_recipe
from calibrant.recipe import EndLayers, Layer, Recipe
from calibrant.tuning.driver import drive
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.amct_retrain import CLIPS, DEFAULTS, SKIPPED, amct_retrain
from calibrant.tuning.strategies.recipes import LayerFacts, Layers, Outcome, Seen, Try

FACTS = (
    LayerFacts("stem", True, False, 100, None),
    LayerFacts("body", False, False, 10000, None),
    LayerFacts("head", False, True, 1000, None),
)
SEEN = {"stem": (-2.0, 2.5), "body": (0.0, 6.0), "head": (-1.0, 0.0)}


class Invented:
    """Answers with what a function says each configuration loses; 0 or less is enough."""

    def __init__(self, loss: Callable[[Try], float], facts: Any = FACTS) -> None:
        self.loss, self.facts = loss, facts
        self.tried: list[Try] = []

    def answer(self, question: Any) -> Any:
        if isinstance(question, Try):
            self.tried.append(question)
            loss = self.loss(question)
            return Reached(1 - loss, loss, loss <= 0)
        if isinstance(question, Layers):
            return self.facts
        assert isinstance(question, Seen)
        return SEEN

    def run(self, recipe: Recipe | None = None) -> Outcome:
        return drive(amct_retrain(recipe or default_retrain_recipe()), self.answer)

    @property
    def phases(self) -> list[str]:
        return [t.phase for t in self.tried]


def factor_of(asked: Try) -> float | None:
    """Return the multiple of what was seen that clips stand at."""
    for rule in asked.recipe.rules:
        if rule.where == Layer("stem") and rule.settings.activation is not None:
            return round(float(dict(rule.settings.activation.options)["clip_max"]) / 2.5, 3)
    return None


def skips_ends(asked: Try) -> bool:
    return any(isinstance(r.where, EndLayers) for r in asked.recipe.rules)


def test_the_configuration_as_it_is_may_be_enough() -> None:
    net = Invented(lambda _: 0.0)
    found = net.run()
    assert net.phases == [DEFAULTS]
    assert found.best == net.tried[0]
    assert found.best.recipe.training


def test_then_both_ends_stay_in_float() -> None:
    net = Invented(lambda t: 0.0 if skips_ends(t) else 0.1)
    found = net.run()
    assert net.phases == [DEFAULTS, SKIPPED]
    assert found.best == net.tried[1]
    ends = [r for r in net.tried[1].recipe.rules if isinstance(r.where, EndLayers)]
    assert {r.where.which for r in ends if isinstance(r.where, EndLayers)} == {"first", "last"}
    assert {r.settings.compute for r in ends} == {"float32"}


def test_then_clips_are_multiples_of_what_was_seen_on_what_lost_least() -> None:
    net = Invented(lambda t: 0.0 if factor_of(t) == 1.3 else 0.2 if skips_ends(t) else 0.1)
    found = net.run()
    assert net.phases == [DEFAULTS, SKIPPED, CLIPS, CLIPS, CLIPS]
    assert [factor_of(t) for t in net.tried[2:]] == [1.0, 0.7, 1.3]
    assert not any(skips_ends(t) for t in net.tried[2:])
    assert "1.3 times" in found.reason


def test_it_goes_on_to_the_end_of_the_range_on_the_side_that_loses_least() -> None:
    down = Invented(lambda t: 0.1 + (factor_of(t) or 2.0))
    assert down.run().best is None
    assert [factor_of(t) for t in down.tried[2:]] == [1.0, 0.7, 1.3, 0.5, 0.3]
    up = Invented(lambda t: 3.0 - (factor_of(t) or 0.0))
    assert up.run().best is None
    assert [factor_of(t) for t in up.tried[2:]] == [1.0, 0.7, 1.3, 1.5, 1.7]
    here = Invented(lambda t: 0.1 + abs((factor_of(t) or 3.0) - 1.0))
    assert "not suited to training" in here.run().reason
    assert [factor_of(t) for t in here.tried[2:]] == [1.0, 0.7, 1.3]


def test_it_stops_where_more_is_lost_again() -> None:
    net = Invented(lambda t: 0.1 + abs((factor_of(t) or 3.0) - 0.75))
    net.run()
    assert [factor_of(t) for t in net.tried[2:]] == [1.0, 0.7, 1.3, 0.5]


def test_clips_have_the_signs_that_the_toolkit_asks_for() -> None:
    net = Invented(lambda _: 0.1)
    net.run()
    said = {
        r.where.name: dict(r.settings.activation.options)
        for r in net.tried[2].recipe.rules
        if isinstance(r.where, Layer) and r.settings.activation is not None
    }
    assert said["stem"] == {"clip_max": 2.5, "clip_min": -2.0}
    assert said["body"]["fixed_min"] is True
    assert -6.0 / 255 / 2 < said["body"]["clip_min"] < 0  # 0 on a grid of 8 bits
    assert "head" not in said  # nothing above 0 was seen


def test_where_all_layers_are_ends_none_is_skipped() -> None:
    net = Invented(lambda _: 0.1, (FACTS[0], FACTS[2]))
    net.run()
    assert SKIPPED not in net.phases


def test_a_recipe_for_calibration_is_trained_too() -> None:
    net = Invented(lambda _: 0.0)
    net.run(Recipe())
    assert net.tried[0].recipe.training
