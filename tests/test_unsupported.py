from __future__ import annotations

import pytest

from calibrant.errors import UnsupportedError
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Layer,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.recipe.unsupported import check_supported, unsupported


def test_the_default_and_what_the_core_runs_are_supported() -> None:
    check_supported(Recipe())
    run = Settings(
        compute="float16",
        activation=AlgorithmChoice("ifmr"),
        activation_bits=16,
        weight=AlgorithmChoice("arq"),
        balance=0.5,
        candidates=(),
        compensation=False,
    )
    check_supported(Recipe(rules=(Rule(AllNodes(), run),)))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(activation=AlgorithmChoice("no such")),
        Settings(weight=AlgorithmChoice("no such")),
        Settings(candidates=(Settings(activation=AlgorithmChoice("no such")),)),
        Settings(candidates=(Settings(activation=AlgorithmChoice("from-model")),)),
        Settings(candidates=(Settings(weight_bits=4),)),
        Settings(candidates=(Settings(compute="float32"),)),
    ],
    ids=str,
)
def test_what_a_layer_asks_for_is_named_with_its_rule(settings: Settings) -> None:
    recipe = Recipe(rules=(Rule(Layer("a"), settings, "file:7"),))
    with pytest.raises(UnsupportedError, match=r"not implemented yet: .*\(file:7\)"):
        check_supported(recipe)


def test_all_that_is_asked_for_is_listed() -> None:
    recipe = Recipe(
        rules=(Rule(Layer("a"), Settings(weight=AlgorithmChoice("no such"))),),
        joint=True,
        scale_format="float16",
        output_precision="int16",
        search=Search(),
        promote=Promotion(count=3),
        training=True,
        calibration=Calibration(random=True),
    )
    listed = unsupported(recipe)
    assert len(listed) == len(set(listed))
    assert "weight algorithm 'no such'" in listed
