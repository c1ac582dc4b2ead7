"""The question what to do now has an answer: a step that reaches 20 dB, several together, or what is reachable."""

from __future__ import annotations

from dataclasses import replace

import pytest

import calibrant
from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.score import Score
from calibrant.diagnose import rank
from calibrant.diagnose.advice.answer import answer_of
from calibrant.diagnose.advice.candidates import everywhere, singles
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.together import way_to, worst_part
from calibrant.diagnose.advice.units import Unit, units_of
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.tuning.bench import Bench
from calibrant.tuning.solved import Solved
from tests.models import NETS

COARSE = rank.PLAIN.with_rules(Rule(AllNodes(), Settings(weight_bits=4)))


@pytest.fixture(scope="module")
def solved() -> tuple[Solved, list[Unit]]:
    model, feeds = NETS["residual"]()
    bench = Bench(model, feeds(batch=16, seed=1))
    found = bench.found(COARSE)
    assert found.probe is not None
    samples = take_feeds(iter(found.probe.small), 4, free=True)
    store = bench.store
    return found, units_of(found, samples, found.probe.scored, store.progress, store.runtime)


def score(db: float) -> Score:
    return Score(db + 5, {"boxes": db + 10, "scores": db})


def way(
    solved: tuple[Solved, list[Unit]],
    per_rule: float,
    kept: list[tuple[Tried, Score]] | None = None,
    most: float = 100.0,
) -> tuple[Tried | None, float, list[int]]:
    """Look for a way where each rule more is worth so many dB; return the step, what it reaches, and what was solved."""
    found, units = solved
    base = len(COARSE.rules)
    asked: list[int] = []

    def solve(recipe: Recipe) -> Score:
        asked.append(len(recipe.rules) - base)
        return score(min(most, 5 + per_rule * asked[-1]))

    answer = way_to(kept or [], units, found.solution, COARSE, score(5.0), solve)
    return (answer.found[-1][0] if answer.found else None), answer.reached_db, asked


def test_as_few_places_as_reach_the_goal(solved: tuple[Solved, list[Unit]]) -> None:
    step, reached, asked = way(solved, 5.0)
    assert step is not None
    assert step.units == 3  # 5 + 3 * 5
    assert step.move == "int16"
    assert reached == 20.0
    assert len(asked) <= 5
    assert step.layers[0] == solved[1][0].layers[0]


def test_what_is_reachable_is_said_where_nothing_reaches_the_goal(
    solved: tuple[Solved, list[Unit]],
) -> None:
    step, reached, _ = way(solved, 5.0, most=17.0)
    assert step is not None
    assert reached == 17.0
    text = answer_of(5.0, reached, [(step, score(17.0), 12.0)])
    assert "Nothing that was tried brings" in text
    assert "17.0 dB" in text


def test_steps_are_put_together_before_more_places_are_tried(
    solved: tuple[Solved, list[Unit]],
) -> None:
    found, units = solved
    steps = [s for s in singles(units, found.solution, COARSE) if s.move == "int16"][:3]
    step, reached, asked = way(solved, 8.0, [(s, score(13.0)) for s in steps])
    assert step is not None
    assert step.move == "together"
    assert step.recipe.rules[: len(COARSE.rules)] == COARSE.rules
    assert reached >= 20.0
    assert max(asked) == 2
    assert set(step.layers) == {n for s in steps[:2] for n in s.layers}


def test_fewer_places_are_looked_for_where_a_step_changes_most_of_them(
    solved: tuple[Solved, list[Unit]],
) -> None:
    found, units = solved
    one = next(s for s in singles(units, found.solution, COARSE) if s.move == "int16")
    step, _, _ = way(solved, 5.0, [(replace(one, units=len(units)), score(30.0))])
    assert step is not None
    assert step.units == 3
    nothing, reached, asked = way(solved, 5.0, [(one, score(30.0))])
    assert nothing is None
    assert reached == 30.0
    assert asked == []


def test_a_part_that_is_bad_counts() -> None:
    assert worst_part(score(3.0)) == 3.0


def test_the_answer_names_a_step_that_reaches_the_goal_and_costs_least() -> None:
    model, feeds = NETS["residual"]()
    found = calibrant.advise(model, feeds(batch=16, seed=1), recipe=COARSE)
    assert min(found.parts.values()) < 20
    assert found.answer.startswith("Take step ")
    number = int(found.answer.split()[2].rstrip(":"))
    step = found.steps[number - 1]
    assert min(step.parts.values()) >= 20
    enough = [s for s in found.steps if min(s.parts.values()) >= 20]
    assert len(step.layers) == min(len(s.layers) for s in enough)
    assert found.command.startswith("calibrant tune ")
    assert found.content()["answer"] == found.answer


def test_nothing_has_to_be_done_where_outputs_are_good() -> None:
    model, feeds = NETS["residual"]()
    found = calibrant.advise(model, feeds(batch=8, seed=1), recipe=rank.PLAIN, minutes=0.2)
    assert "nothing has to be done" in found.answer
    assert found.command == ""


def test_a_step_for_the_whole_model_names_the_layers_that_lose_most(
    solved: tuple[Solved, list[Unit]],
) -> None:
    found, units = solved
    step = next(iter(everywhere(units, found.solution, rank.PLAIN)))
    assert step.whole
    first = next(u for u in units if u.kind == "activation")
    assert step.layers[0] == first.layers[0]
