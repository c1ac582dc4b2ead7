"""A run that is killed goes on as if it had not been; an earlier run answers another requirement."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.cli import main
from calibrant.demo import digits


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    found = digits.evaluation()
    np.savez(tmp_path / "calib.npz", image=digits.calibration().image)
    np.savez(tmp_path / "eval.npz", image=found.image, labels=found.labels)
    return [
        str(digits.MODEL), "--data", str(tmp_path / "calib.npz"),
        "--eval", str(tmp_path / "eval.npz"), "--metric", "top1",
    ]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_result(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*files, "--max-drop", "0", "--allow", "int8,int16", "--json"]
    assert main(["tune", *asked, "--out", str(tmp_path / "whole")]) in (0, 8)
    whole = said(capsys)
    rng = random.Random(int(os.environ.get("CALIBRANT_SEED", "0")))
    command = [
        sys.executable,
        "-m",
        "calibrant.cli",
        "tune",
        *asked,
        "--out",
        str(tmp_path / "run"),
    ]
    for _ in range(int(os.environ.get("CALIBRANT_KILLS", "2"))):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(["tune", *asked, "--out", str(tmp_path / "run")]) in (0, 8)
    again = said(capsys)
    for key in ("met", "score", "cost", "layers", "raised", "evaluations"):
        assert again[key] == whole[key], key
    for name in ("deploy.onnx", "recipe.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_an_earlier_run_answers_another_requirement(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["tune", *files, "--max-drop", "5%", "--out", str(out), "--json"]) == 0
    first = said(capsys)
    more = [
        "tune",
        "--from",
        str(out),
        "--max-drop",
        "4%",
        "--out",
        str(tmp_path / "more"),
        "--json",
    ]
    assert main(more) == 0
    again = said(capsys)
    assert again["reused"] > 0
    assert again["score"] == first["score"]
    assert again["required"] == "a drop of at most 4 %"
    assert (tmp_path / "more" / "deploy.onnx").read_bytes() == (out / "deploy.onnx").read_bytes()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--max-drop", "1%", "--out", "x"], "MODEL is missing"),
        (["--from", "nowhere", "--max-drop", "1%"], "no folder of an earlier run"),
        (["m.onnx", "--data", "d.npz", "--out", "x"], "Nothing is required"),
        (
            ["m.onnx", "--data", "d.npz", "--out", "x", "--max-drop", "a=1", "--min", "2"],
            "name their score",
        ),
        (["m.onnx", "--data", "d.npz", "--out", "x", "--max-size", "many"], "number of bytes"),
        (
            ["m.onnx", "--data", "d.npz", "--out", "x", "--max-size", "1M", "--cost", "macs"],
            "One thing",
        ),
        (
            ["m.onnx", "--data", "d.npz", "--out", "x", "--min", "1", "--limit", "int8"],
            "layers=precisions",
        ),
    ],
)
def test_calls_that_cannot_be_meant_say_what_is_allowed(
    args: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *args]) == 5
    assert text in " ".join(capsys.readouterr().err.split())
