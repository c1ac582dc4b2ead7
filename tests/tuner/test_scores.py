"""Scores of every kind: several by name, one a sample, and those of a command."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError
from calibrant.tuner import Command, Requirement, Runner
from calibrant.tuner.ending import _better
from tests.models import convolution
from tests.road import batches

DATA = {"image": digits.calibration().image}


def accuracy(runner: Runner, keep: slice = slice(None)) -> Any:
    found = digits.evaluation()
    scores = runner({"image": found.image[keep]})[runner.outputs[0]]
    return scores.argmax(-1) == found.labels[keep]


def test_each_of_several_scores_has_its_limit() -> None:
    def evaluate(runner: Runner) -> dict[str, float]:
        return {
            "first": accuracy(runner, slice(300)).mean(),
            "second": accuracy(runner, slice(300, 600)).mean(),
        }

    result = calibrant.tune(
        digits.MODEL, DATA, evaluate, {"first": "max-drop 2%", "second": {"min": 0.9}}
    )
    assert result.met
    assert isinstance(result.score, dict)
    assert set(result.score) == {"first", "second"}
    assert "first" in result.markdown()


@pytest.mark.slow
def test_one_score_below_its_limit_is_enough_to_fail() -> None:
    def evaluate(runner: Runner) -> dict[str, float]:
        calls.append(1)
        return {"good": 1.0, "bad": 1.0 if len(calls) == 1 else 0.5}

    calls: list[int] = []
    result = calibrant.tune(digits.MODEL, DATA, evaluate, "max-drop 10%", allow="int8,int16")
    assert not result.met
    assert result.search.best.reached.scores == {"good": 1.0, "bad": 0.5}


def test_scores_that_are_required_and_not_given_are_named() -> None:
    with pytest.raises(ConfigValueError, match=r"'thrid'.*first"):
        calibrant.tune(
            digits.MODEL, DATA, lambda _: {"first": 1.0}, {"first": "min 0.5", "thrid": "min 0.5"}
        )
    with pytest.raises(ConfigValueError, match="nothing is required"):
        calibrant.tune(digits.MODEL, DATA, lambda _: {"first": 1.0}, {"second": "min 0.5"})
    with pytest.raises(ConfigValueError, match="without a name"):
        calibrant.tune(digits.MODEL, DATA, lambda _: 1.0, {"second": "min 0.5"})
    assert str(Requirement.of({"a": "min 1"})) == "a: at least 1"


def test_one_number_a_sample_counts_as_their_mean() -> None:
    result = calibrant.tune(digits.MODEL, DATA, accuracy_by_sample, "max-drop 2%")
    assert result.score == pytest.approx(accuracy(Runner(result.result.deploy)).mean())


def accuracy_by_sample(runner: Runner) -> Any:
    return accuracy(runner).astype(float)


def test_scores_by_sample_are_compared_in_pairs() -> None:
    result = calibrant.tune(digits.MODEL, DATA, accuracy_by_sample, "max-drop 2%")
    assert result.verdict.interval is not None
    low, high = result.verdict.interval
    assert low < result.best.reached.loss < high
    assert f"between {low:.5g} and {high:.5g}" in result.markdown()


@pytest.mark.parametrize(("count", "text"), [(599, "scores of 599 samples"), (None, "one score")])
def test_scores_of_other_samples_are_no_scores(count: int | None, text: str) -> None:
    def evaluate(runner: Runner) -> Any:
        calls.append(1)
        found = accuracy(runner)  # right or wrong, by sample
        return found if len(calls) == 1 else found.mean() if count is None else found[:count]

    calls: list[int] = []
    with pytest.raises(ConfigValueError, match=f"{text}.*the scores of 600 samples"):
        calibrant.tune(digits.MODEL, DATA, evaluate, "max-drop 2%", moves="none")


@pytest.mark.slow
def test_what_an_evaluation_does_to_its_process_stays_its_own(tmp_path: Path) -> None:
    def evaluate(runner: Runner) -> float:
        os.chdir(tmp_path)
        calls.append(1)
        if len(calls) == 2:
            sys.exit("no board")
        return float(accuracy(runner).mean())

    calls: list[int] = []
    here = Path.cwd()
    result = calibrant.tune(
        digits.MODEL, DATA, evaluate, "max-drop 2%", moves="none", allow="int8,int16,float32"
    )
    assert Path.cwd() == here
    assert any("SystemExit: no board" in n for n in result.notes)
    assert result.met


@pytest.mark.slow
def test_a_noisy_evaluation_is_told_from_a_lucky_one() -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        return float(accuracy(runner).mean()) + (0.01 * len(calls) if noisy else 0.0)

    for noisy in (True, False):
        calls: list[int] = []
        result = calibrant.tune(digits.MODEL, DATA, evaluate, "max-drop 5%", moves="none")
        assert any("is noisy" in n for n in result.notes) == noisy
        assert len(calls) == result.counts.full


def test_a_floor_above_the_float_model_is_told_before_trials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def evaluate(runner: Runner) -> dict[str, float]:
        told.append(len(caplog.messages))
        return {"good": 0.9, "bad": float(accuracy(runner).mean())}

    told: list[int] = []
    caplog.set_level(logging.WARNING, logger="calibrant.tuner")
    result = calibrant.tune(
        digits.MODEL, DATA, evaluate, {"good": "max-drop 1%", "bad": "min 1.0"}
    )
    assert told[0] == 0
    assert min(told[1:]) == 1
    assert "does not meet the requirement" in caplog.messages[0]
    assert "bad" in caplog.messages[0]
    assert not result.met
    assert result.counts.full <= 3


@pytest.mark.parametrize(
    "value",
    ["0.5", None, True, np.bool_(1), [[1], [1, 2]], np.zeros((2, 2)), {"a": "b"}, {}, object()],
)
def test_what_is_no_score_is_said(value: Any) -> None:
    with pytest.raises(ConfigTypeError, match="gives a"):
        calibrant.tune(digits.MODEL, DATA, lambda _: value, "max-drop 1%")


SCRIPT = """
import sys, json
import numpy as np, onnxruntime as ort
from calibrant.demo import digits
session = ort.InferenceSession(sys.argv[1])
found = digits.evaluation()
scores = session.run(None, {"image": found.image})[0]
print("some words before it")
sys.stdout.buffer.write(b"\\xff\\n")
print(json.dumps({"top1": float((scores.argmax(-1) == found.labels).mean())}, indent=2))
assert not sys.stdin.read()
"""


def test_a_command_scores_models(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCRIPT)
    command = Command(f"{sys.executable} {script} {{model}}")
    result = calibrant.tune(digits.MODEL, DATA, command, "max-drop 5%")
    assert result.met
    assert isinstance(result.score, dict)
    assert result.score["top1"] > 0.9


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("no-such-program {model}", "cannot be run.*no-such-program"),
        (
            f"{sys.executable} -c 'import sys; sys.exit(\"no device\")' {{model}}",
            "ended with 1: no device",
        ),
        (f"{sys.executable} -c 'print(\"fine\")' {{model}}", "gives a str"),
        (f"{sys.executable} -c '' {{model}}", "gives a NoneType"),
    ],
)
def test_a_command_that_fails_says_so(line: str, text: str) -> None:
    model, feeds = convolution.conv_bn_relu()
    with pytest.raises(ConfigError, match=text):
        calibrant.tune(model, batches(feeds), Command(line), "max-drop 5%")


def test_a_command_says_where_the_model_belongs() -> None:
    with pytest.raises(ConfigValueError, match=r"\{model\}"):
        Command("./evaluate")


def test_an_evaluation_that_fails_for_every_quantized_model_is_an_error(tmp_path: Path) -> None:
    """The float model alone was scored, which says nothing of what was asked for."""

    def evaluate(runner: Runner) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("the board is busy")
        return 0.9

    calls: list[int] = []
    with pytest.raises(ConfigValueError, match="the board is busy") as told:
        calibrant.tune(digits.MODEL, DATA, evaluate, "max-drop 1%", moves="none", out=tmp_path)
    assert "The float model was scored before (0.9)" in str(told.value)
    assert f"kept in '{tmp_path / 'journal.sqlite'}'" in str(told.value)


@pytest.mark.parametrize(
    ("interval", "text"),
    [((-0.4, -0.2), "more than chance"), ((-0.1, 0.1), "is chance on this"), (None, "by much")],
)
def test_what_scores_better_than_the_float_model_is_put_down_to_chance_only_where_that_can_be(
    interval: tuple[float, float] | None, text: str
) -> None:
    assert text in _better(interval)


def test_where_no_quantized_model_has_a_score_it_is_said() -> None:
    def evaluate(runner: Runner) -> float:
        calls.append(1)
        return 0.9 if len(calls) == 1 else float("nan")

    calls: list[int] = []
    result = calibrant.tune(digits.MODEL, DATA, evaluate, "max-drop 1%", moves="none")
    assert result.search.best.reached.free
    assert any("look at the evaluation first" in n for n in result.notes)
