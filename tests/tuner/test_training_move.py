"""Training in the place of wider layers: a met requirement from one command, kept states, and what cannot be asked for."""

from __future__ import annotations

import importlib.util
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError, DataError, MissingPackageError
from calibrant.tuner import TuningResult
from calibrant.tuner.ending import _as_it_ended
from calibrant.tuner.moves.trained import move_of, what_is_trained
from calibrant.tuner.trainer import FOLDER, STATE, Budget, Trained
from calibrant.tuning.questions import Reached, Trial
from tests.models import NETS

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="training needs torch")

RECIPE = {
    "calibrant": 1,
    "bias_correction": "off",
    "equalize": "off",
    "rules": [{"where": "all", "activation": "mse", "weight": "arq"}],
}


@cache
def network() -> tuple[Any, dict[str, np.ndarray]]:
    model, feeds = NETS["conv_bn_relu"]()
    return model, {"x": np.asarray(feeds(batch=96, seed=0)["x"])}


def tuned(least: float, out: Path | None = None, **options: Any) -> TuningResult:
    model, data = network()
    how: dict[str, Any] = {
        "recipe": RECIPE,
        "allow": "int4,int8,float32",
        "moves": "none",
        "train_epochs": 40,
        "out": out,
        **options,
    }
    return calibrant.tune(model, data, (data, "sqnr_db"), f"min {least}", **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuningResult, TuningResult, Path]:
    """Return a run without training, one with it for a score that only that reaches, and its folder."""
    place = tmp_path_factory.mktemp("run")
    plain = tuned(0.0, train_epochs=None)
    assert set(plain.precisions.values()) <= {"int4", "int8"}
    trained = tuned(plain.best.reached.score + 1.0, place)
    trained.save(place)
    return plain, trained, place


@needs_torch
@pytest.mark.slow
def test_training_takes_the_place_of_wider_layers(run: Any) -> None:
    plain, trained, _ = run
    assert trained.met
    assert trained.trained
    assert trained.raised == ()
    assert trained.precisions == plain.precisions
    assert trained.cost == plain.cost
    (move,) = trained.moves
    assert move.kind == "training"
    assert move.taken
    assert move.gain_db is not None
    assert move.gain_db > 0.1
    assert trained.result.solution.source == "training"


@needs_torch
@pytest.mark.slow
def test_the_folder_has_the_trained_model_and_says_what_training_won(run: Any) -> None:
    _, trained, place = run
    data = network()[1]
    content = json.loads((place / "tuning_report.json").read_text())
    assert content["trained"] is True
    assert [t["trained"] for t in content["trials"]] == [False, True]
    text = (place / "tuning_report.md").read_text()
    assert "Trained, 40 epochs: " in text
    assert "dB trained" in text
    for name in ("deploy.onnx", "trained.onnx", "record.txt"):
        assert (place / name).is_file()
    deployed = _answers(place / "deploy.onnx", data)
    floats = _answers_of(network()[0], data)
    noise = float(np.square(deployed - floats).sum())
    measured = 10 * np.log10(float(np.square(floats).sum()) / noise)
    assert measured == pytest.approx(trained.best.reached.score, abs=0.5)
    assert (place / "trained.onnx").read_bytes() != (place / "deploy.onnx").read_bytes()


@needs_torch
@pytest.mark.slow
def test_what_is_trained_is_not_trained_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibrant.qat.loop import Loop

    plain, trained, place = run
    (state,) = (place / FOLDER).iterdir()
    assert (state / STATE).is_file()

    def never(*_: Any) -> bool:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(Loop, "_step", never)
    again = tuned(plain.best.reached.score + 1.0, place)
    assert again.result.to_bytes() == trained.result.to_bytes()
    assert again.score == trained.score


@needs_torch
@pytest.mark.slow
def test_another_folder_takes_the_state_over(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibrant.qat.loop import Loop

    plain, trained, place = run
    monkeypatch.setattr(Loop, "_step", lambda *_: pytest.fail("a step was trained"))
    again = tuned(plain.best.reached.score + 0.5, tmp_path, start_from=place)
    assert again.met
    assert again.result.to_bytes() == trained.result.to_bytes()


@needs_torch
def test_what_cannot_be_trained_is_told_and_the_search_goes_on() -> None:
    few = {"x": network()[1]["x"][:9]}
    found = tuned(60.0, allow="int8,float32", train_data=few)
    assert found.met
    (move,) = found.moves
    assert not move.taken
    assert "9 training samples" in move.reason


def test_without_torch_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingPackageError, match="torch, which is not installed"):
        tuned(20.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_minutes": 1.0}, "one of them can be"),
        ({"train_epochs": 0.0}, "above 0"),
        ({"train_epochs": None, "train_data": "x.npz"}, "how long to train"),
        ({"strategy": "amct-manual", "allow": None}, "auto, amct-retrain"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigValueError, match=said):
        tuned(20.0, **options)


def test_of_two_trainings_the_one_that_the_result_has_is_taken() -> None:
    trained = Trained(True, "better", 3.0, 1.0, 8.0, 11.0, 100, 12, 50, 1.0, 4.0, "")
    moves = [move_of(trained, Budget(4), raised, beside=False) for raised in ((), ("a", "b"))]
    best = Trial((), 1.0, None, None, Reached(1, 0, met=True), "", trained=True)
    told = what_is_trained(Budget(4), ("a", "b"))
    assert [_as_it_ended(m, best, told).taken for m in moves] == [False, True]


def test_a_budget_is_told() -> None:
    assert str(Budget(minutes=0.5)) == "0.5 minutes"


def _answers(path: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    return np.asarray(session.run(None, data)[0])


def _answers_of(model: Any, data: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime as ort

    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, data)[0])


@needs_torch
def test_training_samples_that_are_not_there_are_an_error_at_once() -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        tuned(0.0, train_data="nowhere.npz")


@needs_torch
@pytest.mark.slow
def test_a_training_that_the_end_of_the_run_cuts_short_is_not_kept(tmp_path: Path) -> None:
    """A run that goes on trains anew, as long as it was told to."""
    from calibrant.tuner.journal import Journal
    from calibrant.tuner.trainer import Trainer
    from calibrant.tuning.bench import Bench

    model, data = network()
    bench, journal = Bench(model, data), Journal(tmp_path)
    recipe = load_recipe(RECIPE)
    budget = Budget(minutes=0.05)
    short = Trainer(bench, data, budget, journal, "here", tmp_path, deadline=time.monotonic() + 1)
    found = short.train(recipe, "all")
    assert short.train(recipe, "again") == found  # the run itself knows it
    assert journal.get(short.key_of(recipe)) is None
    assert not any((tmp_path / FOLDER).glob("*/" + STATE))
    whole = Trainer(bench, data, budget, journal, "here", tmp_path)
    assert whole.train(recipe, "all").steps > 0
    assert journal.get(whole.key_of(recipe)) is not None
