"""What recipes and their parts show of themselves, and what they refuse to be made of."""

from __future__ import annotations

import pytest

import calibrant
from calibrant import AlgorithmChoice, AllNodes, Fusion, Layer, OpType, Recipe, Rule, Settings
from calibrant.errors import ConfigTypeError, ConfigValueError

PARTS = [
    Settings(),
    Settings(activation=AlgorithmChoice.of("percentile", {"percentile": 0.999}), balance=0.5),
    Rule(OpType("Conv"), Settings(compute="float32"), "here", "required"),
    Recipe(),
    Recipe(
        rules=(Rule(AllNodes(), Settings(activation_bits=16)),),
        target="onnxruntime",
        equalize="off",
        fusion=Fusion(skip=("conv1",)),
    ),
]


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_what_is_shown_makes_the_same_again(part: object) -> None:
    assert eval(repr(part), vars(calibrant)) == part


def test_only_what_is_said_is_shown() -> None:
    assert repr(Recipe()) == "Recipe()"
    assert repr(Settings(weight_bits=4)) == "Settings(weight_bits=4)"


def test_many_rules_are_counted() -> None:
    rules = tuple(Rule(Layer(f"layer{i}"), Settings(weight_bits=4)) for i in range(500))
    text = repr(Recipe(rules=rules))
    assert "and 492 more" in text
    assert len(text) < 1000


def test_a_list_of_rules_is_taken_and_anything_else_is_refused() -> None:
    rule = Rule(AllNodes(), Settings(weight_bits=4))
    listed = Recipe(rules=[rule])  # type: ignore[arg-type]
    assert listed == Recipe(rules=(rule,))
    assert listed.with_rules(rule).rules == (rule, rule)
    with pytest.raises(ConfigTypeError, match="has a Settings among its rules"):
        Recipe(rules=(Settings(),))  # type: ignore[arg-type]


def test_an_algorithm_is_a_choice() -> None:
    with pytest.raises(ConfigTypeError, match=r"activation is 'mse'.*AlgorithmChoice\('mse'\)"):
        Settings(activation="mse")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bias_correction", "equalize"])
def test_a_switch_is_one_of_three(name: str) -> None:
    with pytest.raises(ConfigValueError, match=f"{name} is True; it is 'auto', 'on' or 'off'"):
        Recipe(**{name: True})  # type: ignore[arg-type]
