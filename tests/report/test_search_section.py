"""The page of a tuning run shows the search."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from calibrant.cli import main
from calibrant.demo import digits
from calibrant.report.page import page_of, read_run

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'calibrant[report]'")


def test_a_tuning_run_is_shown_with_its_trials_and_layers(tmp_path: Path) -> None:
    found = digits.evaluation()
    np.savez(tmp_path / "calib.npz", image=digits.calibration().image)
    np.savez(tmp_path / "eval.npz", image=found.image, labels=found.labels)
    out = tmp_path / "run"
    call = [
        str(digits.MODEL),
        "--data",
        str(tmp_path / "calib.npz"),
        "--eval",
        str(tmp_path / "eval.npz"),
    ]
    assert main(
        ["tune", *call, "--metric", "top1", "--max-drop", "0", "--out", str(out), "--report"]
    ) in (0, 8)
    page = (out / "report.html").read_text()
    for text in ("Search", "Score against cost", "a drop of at most 0,", "calibrant tune"):
        assert text in page, text
    run = read_run(out)
    assert run.tuning is not None
    assert run.network is not None
    assert len(re.findall("for=|cheapest", page)) > 0
    label = "Met" if run.tuning["met"] else "Not met"
    assert f"<strong>{label}</strong> The requirement, a drop of at most 0," in page
    assert page_of(run) == page
