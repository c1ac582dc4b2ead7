"""The best score within a limit of cost, and limits of what single layers may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.cli import main
from calibrant.demo import digits
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.recipe import Layer
from calibrant.tuner.costs import average_bits_of, bytes_of, limited
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


def test_bits_on_average_are_bytes_of_all_weights() -> None:
    menu = Menu(("a", "b"), ("int4", "int8"), np.array([[2.0, 4.0], [np.inf, 12.0]]))
    assert bytes_of(menu, 8) == 16
    assert average_bits_of(menu, 14) == 7
    nothing = Menu(("a",), ("int8",), np.array([[0.0]]))
    assert average_bits_of(nothing, 0) is None
    with pytest.raises(ConfigValueError, match="no layer that is free has one"):
        bytes_of(nothing, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"average_bits": 0}, "above 0, and at most 32"),
        ({"average_bits": 33}, "above 0, and at most 32"),
        ({"average_bits": 5, "max_cost": 10.0, "cost": "size"}, "without max_cost"),
        ({"average_bits": 5, "cost": "latency"}, "cost 'size'"),
        ({"average_bits": 5, "strategy": "amct-manual"}, "belongs to strategy 'auto'"),
    ],
)
def test_bits_that_cannot_be_asked_for_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigValueError, match=said):
        calibrant.tune(digits.MODEL, DATA, None, **options)


@pytest.mark.slow
def test_bits_on_average_become_a_configuration_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "qat.yaml"
    call = ["tune", str(digits.MODEL), "--data", str(calibration(tmp_path)), "--average-bits", "5"]
    call += ["--limit", "stem_conv=int8,int16", "--emit-training", str(config), "--json"]
    assert main([*call, "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 4 < found["average_bits"] <= 5
    assert found["layers"]["int4"] > 0
    plan = calibrant.quantize(digits.MODEL, DATA, load_recipe(tmp_path / "recipe.yaml")).plan
    bits = {w.layer: w.spec.bits for w in plan.weights}
    assert bits["stem_conv"] >= 8
    again = load_recipe(config)
    assert again.training
    sizes = {
        r.where.name: r.settings.weight_bits for r in again.rules if isinstance(r.where, Layer)
    }
    assert any(b != 4 for b in sizes.values())


def test_two_budgets_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["tune", "m.onnx", "--data", "d", "--average-bits", "5", "--compression", "6"]
    assert main([*call, "--out", "x"]) == 5
    assert "One budget is given at a time" in " ".join(capsys.readouterr().err.split())


def calibration(folder: Path) -> Path:
    path = folder / "calib.npz"
    np.savez(path, image=DATA["image"])
    return path
