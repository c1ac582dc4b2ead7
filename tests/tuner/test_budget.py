"""The best score within a limit of cost, and limits of what single layers may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigValueError
from calibrant.tuner.costs import limited
from calibrant.tuning.driver import drive
from calibrant.tuning.menu import Menu
from calibrant.tuning.questions import Full, Losses, Reached, Together
from calibrant.tuning.strategies.within import within

DATA = {"image": digits.calibration().image}
MENU = Menu(("a", "b", "c"), ("int8", "float32"), np.array([[1.0, 4.0], [2.0, 8.0], [3.0, 12.0]]))
ALONE = {"int8": {"a": 0.5, "b": 0.1, "c": 0.01}, "float32": dict.fromkeys("abc", 0.0)}


def answer(question: Any, slow: float = 1.0) -> Any:
    if isinstance(question, Losses):
        return ALONE[question.precision]
    error = sum(ALONE[p][n] for n, p in zip(MENU.layers, question.assignment, strict=True))
    if isinstance(question, Together):
        return error
    assert isinstance(question, Full)
    cost = slow * MENU.cost_of(question.assignment) if slow != 1 else None
    return Reached(1 - error, error, True, cost=cost)


def test_the_least_error_within_the_limit_is_taken() -> None:
    found = drive(within(MENU, 9.0, float("inf"), 5), answer)
    assert found.best.assignment == ("float32", "int8", "int8")
    assert found.best.cost == 9
    assert len(found.trials) == 1


def test_what_is_measured_to_take_longer_is_tried_smaller() -> None:
    found = drive(within(MENU, 20.0, float("inf"), 5), lambda q: answer(q, slow=1.5))
    assert found.best.cost <= 20
    assert found.best.reached.met


def test_a_limit_below_the_cheapest_is_not_met_and_says_what_that_costs() -> None:
    found = drive(within(MENU, 5.0, float("inf"), 5), answer)
    assert not found.best.reached.met
    assert "costs 6, more than the limit of 5" in found.reason


@pytest.mark.slow
def test_weights_stay_within_the_bytes_that_are_asked_for() -> None:
    free = calibrant.tune(digits.MODEL, DATA, None, "min 0.9", cost="size")
    most = 2.0 * free.cost
    result = calibrant.tune(
        digits.MODEL, DATA, None, cost="size", max_cost=most, allow="int8,int16"
    )
    assert result.met
    assert free.cost <= result.cost <= most
    assert result.best.reached.score >= free.best.reached.score


def test_layers_have_only_what_limits_leave_them() -> None:
    result = calibrant.tune(
        digits.MODEL, DATA, None, "min 0.5", limits={"*": "int8,int16", "stem*": ["int16"]}
    )
    assert result.precisions["stem_conv"] == "int16"
    assert set(result.precisions.values()) <= {"int8", "int16"}


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"d": "int8"}, "none of the 3 layers"),
        ({"a": "int9"}, "int9.*allowed are int8, float32"),
        ({"a": "int8", "*": "float32"}, "no precision for layer 'a'"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigValueError, match=text):
        limited(MENU, limits)
