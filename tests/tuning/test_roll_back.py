"""The decisions of accuracy-based automatic calibration, with invented answers: what goes back to float, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.tuning.driver import drive
from calibrant.tuning.strategies.roll_back import (
    BinarySearch,
    Configured,
    Kept,
    Ranked,
    RollBack,
    RollBackQuestion,
    roll_back,
)


class Invented:
    """A network that is good enough once so many of its most sensitive layers are back.

    Args:
        ranking: Layer -> similarity, in the order of the configuration.
        needed: Layers of the ranking that have to be back; more than there are for a target that cannot be reached.
    """

    def __init__(self, ranking: dict[str, float], needed: int) -> None:
        self.ranking, self.needed = ranking, needed
        self.order = sorted(ranking, key=lambda n: ranking[n])
        self.tried: list[int] = []

    def answer(self, question: RollBackQuestion) -> Any:
        if isinstance(question, Ranked):
            return self.ranking
        assert isinstance(question, Configured)
        kept = dict(question.kept or {})
        back = [n for n in self.order if not kept.get(n, True)]
        assert back == self.order[: len(back)]  # always the leading ones
        self.tried.append(len(back))
        return len(back) >= self.needed, float(max(0, self.needed - len(back)))

    def run(self, strategy: Any = None) -> RollBack:
        return drive(roll_back((True, 0.0), strategy), self.answer)


FIVE = {"e": 0.9, "a": 0.1, "d": 0.7, "b": 0.3, "c": 0.5}


@pytest.mark.parametrize(
    ("needed", "tried", "back"),
    [
        (0, [0], 0),
        (1, [0, 3, 1], 1),
        (2, [0, 3, 1, 2], 2),
        (3, [0, 3, 1, 2, 3], 3),  # the last one that met it is evaluated again
        (4, [0, 3, 4], 4),
        (5, [0, 3, 4], None),  # with all five back there is nothing to evaluate
    ],
)
def test_the_published_example_of_five_layers(
    needed: int, tried: list[int], back: int | None
) -> None:
    net = Invented(FIVE, needed)
    found = net.run()
    assert net.tried == tried
    if back is None:
        assert found.outcome == "all rolled back"
        assert not any(found.kept.values())
        assert found.history[-1] == (dict.fromkeys("abcde", False), (True, 0.0))
    else:
        assert found.outcome == ("partial" if back else "quantized")
        assert [n for n, stays in found.kept.items() if not stays] == list("abcde")[:back]
    evaluated = found.history[: len(tried)]
    assert [sum(not v for v in kept.values()) for kept, _ in evaluated] == tried


def test_one_layer_is_not_tried_in_float() -> None:
    net = Invented({"only": 0.5}, 1)
    assert net.run().outcome == "all rolled back"
    assert net.tried == [0]


def test_the_history_is_plain_values_in_order() -> None:
    content = Invented({"b": 0.4, "a": 0.2, "c": 0.9}, 2).run().history_content()
    assert content[0] == {
        "roll_back_config": {"b": True, "a": True, "c": True},
        "metric_eval": [False, 2.0],
    }
    assert content[1]["roll_back_config"] == {"a": False, "b": False, "c": True}
    assert content[1]["metric_eval"] == [True, 0.0]
    assert content[2]["roll_back_config"] == {"a": False, "b": True, "c": True}
    assert content[3] == content[1]


def test_equal_layers_go_back_in_the_order_of_the_configuration() -> None:
    net = Invented({"z": 0.5, "a": 0.5, "m": 0.5}, 1)
    net.order = ["z", "a", "m"]
    assert net.run().kept == {"z": False, "a": True, "m": True}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.data())
def test_the_fewest_leading_layers_are_found_in_few_evaluations(
    similarities: list[float], draw: st.DataObject
) -> None:
    ranking = {f"layer{i}": s for i, s in enumerate(similarities)}
    n = len(ranking)
    needed = draw.draw(st.integers(0, n))
    net = Invented(ranking, needed)
    found = net.run()
    assert len(net.tried) <= 2 + n.bit_length() + 1
    if needed == n:
        assert found.outcome == "all rolled back"
    else:
        assert sum(not v for v in found.kept.values()) == needed
        assert found.history[-1][1][
            0
        ]  # what stands met the requirement when it was evaluated last
    assert found.ordered == sorted(ranking.items(), key=lambda item: item[1])


@given(st.integers(1, 12), st.data())
def test_what_stands_was_met_whatever_the_evaluations_say(n: int, draw: st.DataObject) -> None:
    """Accuracy need not grow with every layer that goes back."""
    met = {k: draw.draw(st.booleans()) for k in range(n)}
    order = [f"layer{i}" for i in range(n)]

    def answer(question: RollBackQuestion) -> Any:
        if isinstance(question, Ranked):
            return {name: i / n for i, name in enumerate(order)}
        back = sum(not v for _, v in question.kept or ())
        return met[back], 0.0

    found = drive(roll_back((True, 0.0)), answer)
    if found.outcome != "all rolled back":
        assert met[sum(not v for v in found.kept.values())]


class OneByOne:
    """A strategy as a user writes it."""

    def initialize(self, ranking_info: dict[str, float]) -> None:
        self.order = sorted(ranking_info, key=lambda n: ranking_info[n])
        self.kept: Kept = dict.fromkeys(self.order, True)

    def update_quant_config(self, metric_eval: tuple[bool, float]) -> dict[str, Any]:
        if not metric_eval[0]:
            self.kept[next(n for n in self.order if self.kept[n])] = False
        return {"stop_flag": metric_eval[0], "roll_back_config": self.kept}


def test_a_strategy_of_the_users_own_decides() -> None:
    net = Invented(FIVE, 2)
    found = net.run(OneByOne())
    assert net.tried == [0, 1, 2]  # what it stops with was evaluated last, and is not again
    assert [n for n, stays in found.kept.items() if not stays] == ["a", "b"]


def test_a_strategy_that_stops_with_something_new_has_it_evaluated() -> None:
    class AtOnce(BinarySearch):
        def update_quant_config(self, metric_eval: tuple[bool, float]) -> dict[str, Any]:
            return {"stop_flag": True, "roll_back_config": {"d": False}}

    net = Invented(FIVE, 1)
    net.order = ["d", "a", "b", "c", "e"]
    found = net.run(AtOnce())
    assert net.tried == [0, 1]
    assert found.kept == {"a": True, "b": True, "c": True, "d": False, "e": True}


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (None, ConfigTypeError, "NoneType"),
        ({"stop_flag": True}, ConfigValueError, "without 'roll_back_config'"),
        ({"stop_flag": True, "roll_back_config": {"x": False}}, ConfigValueError, "layer 'x'"),
    ],
)
def test_a_strategy_that_says_something_else_is_told_so(
    answer: Any, error: type[Exception], text: str
) -> None:
    class Odd(BinarySearch):
        def update_quant_config(self, metric_eval: tuple[bool, float]) -> Any:
            return answer

    with pytest.raises(error, match=text):
        Invented(FIVE, 3).run(Odd())
