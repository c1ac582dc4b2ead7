"""Moves that keep the cost: judged on samples that they do not come from, taken where they clearly gain, told and journaled."""

from __future__ import annotations

import json
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigValueError
from calibrant.recipe import AlgorithmChoice, AllNodes, Calibration, Recipe, Rule, Settings
from calibrant.tuner.moves import KINDS, Moves, find_moves
from calibrant.tuning.store import Store
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches


def images(count: int = 96) -> Any:
    return digits.calibration().image[:count]


def dim_first(count: int = 48) -> Any:
    """Calibration images of which the first ones are much darker."""
    found = np.array(images(count))
    found[:8] *= 0.2
    return found


def moves_of(data: Any, recipe: Recipe, *kinds: str) -> Moves:
    store = Store(digits.MODEL, {"image": data}, shared=True)
    return find_moves(store, recipe, lambda r: r, kinds)


@pytest.mark.slow
def test_more_data_is_taken_where_the_recipe_takes_too_little() -> None:
    part = Recipe(calibration=Calibration(batch_size=1, batch_num=8))
    found = moves_of(dim_first(), part, "data")
    (move,) = found.tried
    assert move.taken
    assert move.gain_db is not None
    assert move.gain_db > 3
    assert found.recipe.calibration.batch_num is None


def test_all_data_cannot_become_more() -> None:
    assert moves_of(images(24), Recipe(), "data").tried == ()


@cache
def one_scale(**options: Any) -> calibrant.TuningResult:
    """Return a run on a network whose channels differ much, with one scale for all of them."""
    network, data = convolution.residual()
    said = Recipe((Rule(AllNodes(), Settings(activation_per_channel=False)),), equalize="off")
    model = rescaled(network, "w1", "w2")
    return calibrant.tune(model, batches(data), None, "min 0.9995", recipe=said, **options)


def test_a_move_takes_the_place_of_a_wider_layer() -> None:
    raised, moved = one_scale(moves="none"), one_scale()
    assert set(raised.raised) == {"conv2"}
    assert moved.met
    assert moved.raised == ()
    assert moved.cost < raised.cost
    best = moved.moves[0]
    assert best.taken
    assert best.kind == "balance"
    assert best.gain_db is not None
    assert best.noise_db is not None
    assert best.gain_db > best.noise_db
    assert moved.counts.full <= 8


def test_two_moves_of_one_place_are_not_laid_over_each_other() -> None:
    taken = [m.rules for m in one_scale().moves if m.taken]
    assert len(taken) == len(set(taken))


def test_a_move_that_does_not_gain_is_not_taken() -> None:
    for move in one_scale().moves:
        if move.gain_db is not None and move.gain_db < 0.1:
            assert not move.taken


@pytest.mark.slow
def test_learned_rounding_of_the_worst_weights_is_measured() -> None:
    found = moves_of(images(24), Recipe(), "rounding")
    assert {m.kind for m in found.tried} == {"rounding"}
    assert all("ada" in m.rules and m.gain_db is not None for m in found.tried)


def test_what_a_recipe_says_stays() -> None:
    said = Recipe((Rule(AllNodes(), Settings(weight=AlgorithmChoice("max"))),))
    assert moves_of(images(24), said, "rounding").tried == ()


def test_few_samples_are_said() -> None:
    found = moves_of(images(9), Recipe(), "algorithm")
    assert found.tried == ()
    assert "there are 9 samples" in found.note


def test_without_time_moves_are_left_out_and_that_is_said() -> None:
    store = Store(digits.MODEL, {"image": images(24)}, shared=True)
    times = iter([True, False])
    found = find_moves(store, Recipe(), lambda r: r, ("algorithm",), goes_on=lambda: next(times))
    assert len(found.tried) == 1
    assert found.left_out > 0
    assert found.note.startswith(f"{found.left_out} of {found.left_out + 1} cheaper moves were")
    assert "left_out" not in found.content()  # what was cut short is not kept


@pytest.mark.slow
def test_moves_that_had_no_time_are_not_kept(tmp_path: Path) -> None:
    def kinds() -> set[str]:
        with sqlite3.connect(tmp_path / "journal.sqlite") as rows:
            return {k for (k,) in rows.execute("SELECT kind FROM answers")}

    short = missed(tmp_path, moves="algorithm", max_minutes=0.001)
    assert "moves" not in kinds()
    assert short.interrupted == "time"
    longer = missed(tmp_path, moves="algorithm")
    assert "moves" in kinds()
    assert longer.met


@pytest.mark.slow
def test_moves_survive_the_journal() -> None:
    found = moves_of(
        dim_first(), Recipe(calibration=Calibration(batch_size=1, batch_num=8)), "data"
    )
    again = Moves.from_content(json.loads(json.dumps(found.content())))
    assert again.tried == found.tried
    assert again.content() == found.content()


def missed(out: Path, **options: Any) -> calibrant.TuningResult:
    """Return a run whose cheapest assignment misses the requirement, on data of which the recipe takes too little."""
    part = Recipe(calibration=Calibration(batch_size=1, batch_num=8))
    data = {"image": dim_first()}
    how: dict[str, Any] = {"recipe": part, "out": out, "moves": "data", **options}
    return calibrant.tune(digits.MODEL, data, (data, "sqnr_db"), "min 20", **how)


@pytest.mark.slow
def test_moves_are_told_and_a_run_that_goes_on_does_not_try_them_again(tmp_path: Path) -> None:
    result = missed(tmp_path)
    assert result.met
    assert result.counts.full <= 8
    assert [m.kind for m in result.moves if m.taken] == ["data"]
    assert result.recipe.calibration.batch_num is None
    (told,) = result.content()["moves"]
    assert told["taken"] is True
    result.save(tmp_path)
    assert "## Moves that keep the cost" in (tmp_path / "tuning_report.md").read_text()
    rows = sqlite3.connect(tmp_path / "journal.sqlite")
    (seconds,) = rows.execute("SELECT seconds FROM answers WHERE kind = 'moves'").fetchone()
    again = missed(tmp_path)
    (same,) = rows.execute("SELECT seconds FROM answers WHERE kind = 'moves'").fetchone()
    rows.close()
    assert seconds == same
    assert again.content()["moves"] == result.content()["moves"]
    assert again.result.to_bytes() == result.result.to_bytes()


@pytest.mark.slow
def test_without_moves_layers_are_raised(tmp_path: Path) -> None:
    result = missed(tmp_path, moves="none")
    assert result.moves == ()
    assert result.raised


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigValueError, match="Did you mean 'rounding'"):
        calibrant.tune(digits.MODEL, images(24), moves="roundin")


def test_a_vendors_procedure_has_moves_of_its_own() -> None:
    with pytest.raises(ConfigValueError, match="has its own"):
        calibrant.tune(digits.MODEL, images(24), moves="auto", strategy="amct-manual")


def test_every_kind_says_what_it_does() -> None:
    assert all(text and text[0].islower() for text in KINDS.values())
