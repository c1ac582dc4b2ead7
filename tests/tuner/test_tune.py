"""A requirement is met at the least cost, on real and small networks; what was tried is told, and never tried twice."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigError, ConfigValueError, DataError
from calibrant.recipe import AllNodes, Promotion, Recipe, Rule, Settings
from calibrant.tuner import Requirement, Runner, TuningResult
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches


def data() -> list[dict[str, Any]]:
    return batches(convolution.residual()[1])


def tuned(model: Any, calibration: Any, *args: Any, **options: Any) -> TuningResult:
    return calibrant.tune(model, calibration, *args, **{"moves": "none", **options})


def calibration() -> dict[str, Any]:
    return {"image": digits.calibration().image}


def evaluation() -> dict[str, Any]:
    found = digits.evaluation()
    return {"image": found.image, "labels": found.labels}


# ------------------------------------------------------------------------------------------ what is found


def test_what_passes_in_int8_stays_there() -> None:
    options = {"holdout": 0, "confidence": 1}
    result = tuned(digits.MODEL, calibration(), (evaluation(), "top1"), "max-drop 2%", **options)
    assert result.met
    assert result.raised == ()
    assert result.counts.full == 2  # the float model, and one quantized model


def test_a_sensitive_layer_is_raised_and_no_other() -> None:
    model = rescaled(convolution.residual()[0], "w1", "w2")
    as_it_is = Recipe((Rule(AllNodes(), Settings(activation_per_channel=False)),), equalize="off")
    result = tuned(model, data(), None, "min 0.9995", recipe=as_it_is)
    assert result.met
    assert set(result.raised) == {"conv2"}


def test_the_score_told_is_that_of_the_written_model(tmp_path: Path) -> None:
    result = tuned(
        digits.MODEL,
        calibration(),
        (evaluation(), "top1"),
        "max-drop 0%",
        out=tmp_path,
    )
    result.save(tmp_path)
    told = calibrant.evaluate(tmp_path / "deploy.onnx", evaluation(), "top1")
    assert told.value == pytest.approx(result.score, abs=1e-12)
    content = result.content(tmp_path)
    again = calibrant.quantize(digits.MODEL, calibration(), content["recipe"], latency=False)
    assert again.to_bytes() == (tmp_path / "deploy.onnx").read_bytes()
    assert json.loads((tmp_path / "tuning_report.json").read_text())["met"] is True
    assert "**Met**" in (tmp_path / "tuning_report.md").read_text()


def test_what_cannot_be_met_is_said(tmp_path: Path) -> None:
    result = tuned(digits.MODEL, calibration(), (evaluation(), "top1"), "min 1.0", out=tmp_path)
    assert not result.met
    assert any("float model itself does not meet" in n for n in result.notes)
    result.save(tmp_path)
    onnx.checker.check_model(str(tmp_path / "deploy.onnx"))


# ------------------------------------------------------------------------------------------ evaluations


def test_identical_trials_never_run_twice(tmp_path: Path) -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        x = evaluation()
        return float((runner(x)[runner.outputs[0]].argmax(-1) == x["labels"]).mean())

    calls: list[int] = []
    first = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0.001", out=tmp_path)
    ran = len(calls)
    again = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0.001", out=tmp_path)
    assert len(calls) == ran
    assert again.search.best.assignment == first.search.best.assignment
    assert first.reused == 0  # what one run asks twice is no earlier run
    assert again.reused > 0


def test_an_interrupted_run_ends_with_the_best_so_far() -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0 if len(calls) == 1 else 0.5

    calls: list[int] = []
    result = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0.1")
    assert result.interrupted == "Ctrl-C"
    assert set(result.precisions.values()) == {
        "float32"
    }  # known to meet it, without an evaluation
    assert result.result.to_bytes()


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        if len(calls) == stop:
            raise RuntimeError("killed")
        x = evaluation()
        return float((runner(x)[runner.outputs[0]].argmax(-1) == x["labels"]).mean())

    calls: list[int] = []
    stop = 0
    whole = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0")
    calls, stop = [], 1
    with pytest.raises(ConfigError, match="killed"):
        tuned(digits.MODEL, calibration(), evaluate, "max-drop 0", out=tmp_path)
    calls, stop = [], 0
    again = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0", out=tmp_path)
    assert again.search.best.assignment == whole.search.best.assignment
    assert again.result.to_bytes() == whole.result.to_bytes()


@pytest.mark.parametrize(
    "value",
    [float("nan"), pytest.param(RuntimeError("no device"), marks=pytest.mark.slow)],
)
def test_a_trial_that_cannot_be_scored_counts_as_not_met(value: Any) -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        if len(calls) == 2:
            if isinstance(value, Exception):
                raise value
            return float(value)
        return 1.0

    calls: list[int] = []
    result = tuned(digits.MODEL, calibration(), evaluate, "max-drop 0.1")
    assert result.met
    assert not result.search.trials[0].reached.met
    assert result.notes


def test_a_float_model_that_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(ConfigValueError, match="float model's"):
        tuned(digits.MODEL, calibration(), lambda _: float("nan"), "max-drop 0.1")


def test_without_labels_outputs_are_compared_and_that_is_said() -> None:
    result = tuned(convolution.residual()[0], data(), None, "min 0.9")
    assert not result.labelled
    assert result.met
    assert "no labels" in result.markdown()


# ------------------------------------------------------------------------------------------ costs


def test_a_table_of_costs_decides_what_is_cheap(tmp_path: Path) -> None:
    table = tmp_path / "npu.csv"
    table.write_text("layer,int8,int16,float32\nconv0,9,1,9\n*,1,2,4\n")
    result = tuned(convolution.residual()[0], data(), None, "min 0.5", cost=table)
    assert result.precisions["conv0"] == "int16"


def test_precisions_that_are_not_allowed_are_not_used() -> None:
    model = rescaled(convolution.residual()[0], "w1", "w2")
    result = tuned(model, data(), None, "min 0.99999", allow="int8,float32")
    assert set(result.precisions.values()) <= {"int8", "float32"}


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"allow": "int9"}, ConfigValueError, "int9.*Known"),
        ({"allow": "float32"}, ConfigValueError, "nothing to quantize"),
        ({"strategy": "greedy"}, ConfigValueError, "Unknown strategy"),
        ({"cost": "joules"}, ConfigValueError, "Unknown cost"),
        ({"max_trials": 1}, ConfigValueError, "max_trials"),
        ({"max_minutes": 0}, ConfigValueError, "max_minutes"),
        ({"samples_for_sensitivity": 0}, ConfigValueError, "samples_for_sensitivity"),
        ({"target": "int8-only", "allow": "int16"}, ConfigValueError, "8 bits alone"),
        (
            {"recipe": Recipe(promote=Promotion(precision="int16", count=1))},
            ConfigValueError,
            "raises layers",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        tuned(convolution.residual()[0], data(), None, "min 0.5", **options)


@pytest.mark.parametrize(
    "text", ["", "max-drop", "drop 1%", "min x", "max-drop -1%", "max-drop nan"]
)
def test_a_requirement_says_what_it_may_be(text: str) -> None:
    with pytest.raises(ConfigValueError):
        Requirement.of(text)


def test_data_without_references_is_said() -> None:
    x = {k: v for k, v in evaluation().items() if k != "labels"}
    with pytest.raises(DataError, match="labels"):
        tuned(digits.MODEL, calibration(), (x, "top1"), "max-drop 1%")


def test_a_file_that_is_no_journal_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(calibrant.CalibrantError, match=r"journal\.sqlite"):
        tuned(digits.MODEL, calibration(), None, "min 0.5", out=tmp_path)
    assert path.read_bytes().startswith(b"no database")


def test_the_journal_is_readable_sql(tmp_path: Path) -> None:
    tuned(digits.MODEL, calibration(), None, "min 0.5", out=tmp_path)
    rows = (
        sqlite3.connect(tmp_path / "journal.sqlite").execute("SELECT kind FROM answers").fetchall()
    )
    assert ("full",) in rows


def test_a_model_without_layers_to_tune_is_an_error() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    )
    with pytest.raises(
        calibrant.CalibrantError, match="no operator that target 'generic' quantizes"
    ):
        tuned(model, {"x": np.arange(24, dtype=np.float32).reshape(8, 3) - 9}, None, "min 0.5")


@pytest.mark.slow
def test_a_floor_in_decibels_is_a_floor() -> None:
    """The float model has infinitely many decibels against itself."""
    below = tuned(digits.MODEL, calibration(), (calibration(), "sqnr_db"), "min 25")
    assert below.raised == ()
    assert isinstance(below.score, float)
    least = below.score + 6
    result = tuned(digits.MODEL, calibration(), (calibration(), "sqnr_db"), f"min {least}")
    assert result.met
    assert isinstance(result.score, float)
    assert result.score >= least
    assert result.raised
    losses = [t.reached.loss for t in result.search.trials]
    assert [t.reached.met for t in result.search.trials] == [x <= result.allowed for x in losses]
    hopeless = tuned(
        digits.MODEL, calibration(), (calibration(), "sqnr_db"), "min 200", allow="int8,int16"
    )
    assert not hopeless.met
