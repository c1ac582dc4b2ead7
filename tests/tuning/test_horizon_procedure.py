"""Horizon's state machine with invented answers: which phases it goes through, what it raises, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calibrant.dialects import load_recipe
from calibrant.recipe import AllNodes, Layer, LayerInput, Recipe, Settings
from calibrant.tuning.driver import drive
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.horizon import C1, C2, C3, A, B, D, F, G, H, horizon
from calibrant.tuning.strategies.recipes import (
    Alone,
    Decided,
    LayerAlone,
    NarrowOperands,
    Operand,
    Outcome,
    Try,
)

ALL = ("int8", "int16", "float16", "float32")
NODES = [f"n{i}" for i in range(8)]


def base(**said: Any) -> Recipe:
    """A recipe whose calibration method is said, so that phase B has nothing to try."""
    activation = {"calibration_type": "max", **said}
    return load_recipe(
        {"model_config": {"all_node_type": "int8", "activation": activation}}, dialect="horizon"
    )


def type_of(recipe: Recipe, node: str) -> str:
    """Return the type that rules give a node."""
    settings = Settings()
    for rule in recipe.rules:
        if isinstance(rule.where, AllNodes) or rule.where == Layer(node):
            settings = rule.settings.over(settings)
    assert settings.compute is not None
    return settings.compute if settings.compute != "int" else f"int{settings.activation_bits}"


def operands(recipe: Recipe, node: str) -> str:
    """Return what a rule says of the weight of a node."""
    for rule in reversed(recipe.rules):
        if isinstance(rule.where, LayerInput) and rule.where.name == node:
            return "ec" if rule.settings.compensation else f"int{rule.settings.weight_bits}"
    return ""


class Invented:
    """A network whose nodes need a type each.

    Args:
        meets: Question -> whether the requirement is met.
        cosines: Of each node alone.
        narrow: Operands that stay in 8 bits under int16.
        macs: Multiplications of each node.
    """

    def __init__(
        self,
        meets: Callable[[Try], bool],
        cosines: dict[str, float] | None = None,
        narrow: tuple[Operand, ...] = (),
        macs: dict[str, float] | None = None,
    ) -> None:
        self.meets, self.narrow, self.macs = meets, narrow, macs or {}
        self.cosines = dict.fromkeys(NODES, 1.0) | (cosines or {})
        self.tried: list[Try] = []
        self.ranked: list[Alone] = []

    def answer(self, question: Any) -> Any:
        match question:
            case Try():
                self.tried.append(question)
                met = self.meets(question)
                return Reached(1.0, 0.0 if met else 1.0, met)
            case Alone():
                self.ranked.append(question)
                return tuple(
                    LayerAlone(n, c, self.macs.get(n, 100.0)) for n, c in self.cosines.items()
                )
            case NarrowOperands():
                return self.narrow
            case Decided():
                return None
        raise AssertionError(question)

    def run(self, recipe: Recipe | None = None, precisions: tuple[str, ...] = ALL) -> Outcome:
        return drive(horizon(recipe or base(), precisions), self.answer)

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(t.phase for t in self.tried))


def needs(precision: str, *nodes: str) -> Callable[[Try], bool]:
    """Return a function: whether these nodes have at least a precision."""

    def met(asked: Try) -> bool:
        order = list(ALL)
        return all(order.index(type_of(asked.recipe, n)) >= order.index(precision) for n in nodes)

    return met


def test_int8_that_is_enough_is_the_result() -> None:
    net = Invented(lambda _: True)
    found = net.run()
    assert net.phases == [A]
    assert found.best == net.tried[0]


def test_methods_are_tried_where_the_recipe_leaves_them_open() -> None:
    net = Invented(lambda t: t.recipe.search is not None and t.recipe.search.scope == "layer")
    found = net.run(load_recipe({"model_config": {"all_node_type": "int8"}}, dialect="horizon"))
    assert [t.phase for t in net.tried] == [A, B, B, B]
    assert found.best == net.tried[-1]
    said = [t.recipe.rules for t in net.tried[1:]]
    counts = [max(len(r.settings.candidates or ()) for r in rules) for rules in said]
    assert counts == [12, 12, 12]
    assert any(r.settings.bias_samples for r in said[1])


@pytest.mark.parametrize("sensitive", [("n3",), ("n1", "n6"), ("n0", "n2", "n7")], ids=len)
def test_exactly_the_sensitive_nodes_end_in_int16(sensitive: tuple[str, ...]) -> None:
    cosines = {n: 0.9985 - 0.0001 * i for i, n in enumerate(sensitive)}
    net = Invented(needs("int16", *sensitive), cosines)
    found = net.run()
    assert net.phases == [A, C1, D]
    assert found.best is not None
    assert {n for n in NODES if type_of(found.best.recipe, n) == "int16"} == set(sensitive)
    assert next(iter(found.ranking)) == sensitive[-1]
    assert "round 2" in found.reason


def test_the_first_round_that_is_enough_wins_and_is_made_smaller() -> None:
    cosines = {"n0": 0.98, "n1": 0.995, "n2": 0.9951, "n3": 0.9952, "n4": 0.99991}
    net = Invented(needs("int16", "n0", "n2"), cosines, macs={"n1": 1000.0})
    found = net.run()
    rounds = [t.change for t in net.tried if t.phase == D and t.change.startswith("round")]
    assert len(rounds) == 2  # 0.99 raises n0, 0.999 the next three
    assert found.best is not None
    assert [n for n in NODES if type_of(found.best.recipe, n) == "int16"] == ["n0", "n2"]
    back = [t.change for t in net.tried if "given back" in t.change]
    assert back[0] == "'n1' is given back"  # of most multiplications


def test_the_upper_bound_stands_where_no_round_is_enough() -> None:
    net = Invented(needs("int16", "n5"), {"n0": 0.98})
    found = net.run()
    assert found.best is not None
    assert all(type_of(found.best.recipe, n) == "int16" for n in NODES)
    assert found.best.phase == C1
    assert "upper bound" in found.reason
    assert found.advice


def test_operands_get_error_compensation_where_that_is_enough() -> None:
    narrow = tuple((n, "Conv", 1) for n in ("n1", "n4", "n6"))

    def met(asked: Try) -> bool:
        return all(operands(asked.recipe, n) in ("int16", "ec") for n in ("n4", "n6"))

    net = Invented(met, {"n4": 0.99, "n6": 0.98, "n1": 0.999}, narrow)
    found = net.run()
    assert net.phases == [A, C1, C2, F]
    assert found.best is not None
    assert {
        n: operands(found.best.recipe, n) for n in NODES if operands(found.best.recipe, n)
    } == {
        "n4": "ec",
        "n6": "ec",
    }
    assert type_of(found.best.recipe, "n0") == "int16"


def test_both_operands_get_16_bits_where_compensation_is_not_enough() -> None:
    narrow = tuple((n, "Conv", 1) for n in ("n1", "n4", "n6"))
    net = Invented(lambda t: operands(t.recipe, "n4") == "int16", {"n4": 0.9}, narrow)
    found = net.run()
    assert net.phases == [A, C1, C2, F]
    assert found.best is not None
    assert operands(found.best.recipe, "n4") == "int16"
    assert not operands(found.best.recipe, "n1")


def test_operands_that_no_configuration_can_widen_lead_on_to_float16() -> None:
    narrow = (("n2", "Resize", 0),)

    def met(asked: Try) -> bool:
        return ("n2", "Resize", 0) in asked.raised or type_of(asked.recipe, "n2") == "float16"

    net = Invented(met, {"n2": 0.98}, narrow)
    found = net.run()
    assert net.phases == [A, C1, C2, F, C3, G]
    assert found.best is not None
    assert [n for n in NODES if type_of(found.best.recipe, n) == "float16"] == ["n2"]
    assert type_of(found.best.recipe, "n0") == "int16"


def test_what_float16_cannot_do_ends_in_float32() -> None:
    net = Invented(needs("float32", "n3"), {"n3": 0.97})
    found = net.run()
    assert net.phases == [A, C1, C3, H]
    assert net.ranked[-1].half
    assert found.best is not None
    types = {n: type_of(found.best.recipe, n) for n in NODES}
    assert types == dict.fromkeys(NODES, "float16") | {"n3": "float32"}


@pytest.mark.parametrize(
    ("allowed", "phases"),
    [
        (("int8", "float32"), [A, H]),
        (("int8", "int16", "float32"), [A, C1, H]),
        (("int8", "float16", "float32"), [A, C3, H]),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else "",
)
def test_types_that_are_not_allowed_are_left_out(
    allowed: tuple[str, ...], phases: list[str]
) -> None:
    net = Invented(needs("float32", "n3"), {"n3": 0.97})
    found = net.run(precisions=allowed)
    assert net.phases == phases
    assert found.best is not None
    assert [n for n in NODES if type_of(found.best.recipe, n) == "float32"] == ["n3"]
    assert {type_of(found.best.recipe, n) for n in NODES} <= set(allowed)


def test_a_requirement_that_float_does_not_meet_has_no_result() -> None:
    net = Invented(lambda _: False)
    found = net.run()
    assert found.best is None
    assert "float model itself" in found.reason


def test_nodes_whose_type_the_recipe_names_keep_it() -> None:
    recipe = load_recipe(
        {
            "model_config": {"activation": {"calibration_type": "max"}},
            "node_config": {"n2": {"qtype": "int8"}},
        },
        dialect="horizon",
    )
    net = Invented(lambda t: t.phase == C1, {"n0": 0.9})
    net.run(recipe)
    wide = next(t for t in net.tried if t.phase == C1)
    assert type_of(wide.recipe, "n2") == "int8"
    assert type_of(wide.recipe, "n0") == "int16"
