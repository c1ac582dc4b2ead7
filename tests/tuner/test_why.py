"""The report says of each raised layer what lost too much without."""

from __future__ import annotations

import numpy as np

from calibrant.tuner.why import why
from calibrant.tuning.menu import Menu
from calibrant.tuning.questions import Found, Reached, Trial


def trial(assignment: tuple[str, ...], score: float, *, met: bool) -> Trial:
    return Trial(assignment, 1.0, None, None, Reached(score, 0.9 - score, met), "")


def test_a_layer_is_raised_for_what_was_tried_nearest_to_the_result() -> None:
    menu = Menu(("a", "b", "c"), ("int8", "int16"), np.array([[1.0, 2.0]] * 3))
    best = trial(("int16", "int16", "int8"), 0.9, met=True)
    trials = (trial(("int8", "int8", "int8"), 0.7, met=False), best)
    found = Found(best, trials, "", looks={("int16", "int8", "int8"): 0.02})
    assert why(found, menu) == {
        "a": "in int8, with 1 other layer changed, trial 1 scored 0.7: too much",
        "b": "in int8, it was expected to lose 0.02: too much",
    }
    assert why(Found(best, (best,), ""), menu) == {}
