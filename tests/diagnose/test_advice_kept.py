"""Which steps are shown: what gains, few places before many, the cheap before the dear."""

from __future__ import annotations

from calibrant.analysis.score import Score
from calibrant.diagnose.advice.keep import best_first
from calibrant.diagnose.advice.risks import catalogue
from calibrant.diagnose.advice.steps import Tried
from calibrant.recipe import Recipe

BEFORE = Score(10.0, {"y": 10.0})


def step(layers: str, gain: float, *, price: int = 0, units: int = 1) -> tuple[Tried, Score]:
    tried = Tried(
        tuple(layers), "range", "", "", f"move {price}", price, "", Recipe(), Recipe(), units
    )
    return tried, Score(10 + gain, {"y": 10 + gain})


def kept(*steps: tuple[Tried, Score]) -> list[tuple[str, int]]:
    return [("".join(t.layers), t.price) for t, _, _ in best_first(steps, BEFORE)]


def test_what_gains_nothing_is_not_shown() -> None:
    assert kept(step("a", -1), step("b", 0.05), step("c", 0.3)) == [("c", 0)]


def test_the_best_is_first() -> None:
    assert kept(step("a", 1), step("b", 3), step("c", 2)) == [("b", 0), ("c", 0), ("a", 0)]


def test_a_dearer_step_has_to_gain_clearly_more() -> None:
    assert kept(step("a", 3), step("a", 3.5, price=3)) == [("a", 0)]
    assert kept(step("a", 3), step("a", 4.5, price=3)) == [("a", 3), ("a", 0)]


def test_many_places_are_shown_where_few_do_not_do() -> None:
    assert kept(step("a", 14), step("abcd", 40, units=4)) == [("a", 0)]
    assert kept(step("a", 1), step("abcd", 5, units=4)) == [("abcd", 0), ("a", 0)]
    assert kept(step("a", 7), step("abcd", 12, units=4)) == [("abcd", 0), ("a", 0)]
    assert kept(step("a", 4), step("abcd", 4.5, units=4)) == [("a", 0)]


def test_the_risk_catalogue_is_whole() -> None:
    assert len(catalogue()) >= 12
    for risk in catalogue():
        assert risk.ops
        assert risk.advice
        assert risk.reason
        assert risk.place in ("", "depthwise", "shared", "first", "last")
