"""`calibrant advise` on the command line."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.cli import main
from tests.models import sabotaged

RECIPE = """calibrant: 1
equalize: off
bias_correction: off
rules:
  - where: all
    activation: mse
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, feeds = sabotaged.hostile_channels()
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=feeds(batch=24, seed=1)["x"])
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def run(folder: Path, *more: str) -> int:
    return main(
        [
            "advise",
            str(folder / "model.onnx"),
            "--data",
            str(folder / "calib.npz"),
            "--recipe",
            str(folder / "recipe.yaml"),
            *more,
        ]
    )


def test_a_report_shows_the_steps_and_the_layers_they_are_for(folder: Path) -> None:
    pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
    pytest.importorskip("plotly", reason="the page is made with the extra 'report'")
    assert run(folder, "--out", str(folder / "advice"), "--report", "--json") == 0
    page = (folder / "advice" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', page) == ["advice", "network", "again"]
    advice = json.loads((folder / "advice" / "advice.json").read_text(encoding="utf-8"))
    assert advice["steps"]
    for step in advice["steps"]:
        assert step["what"] in unescape(page)
    worst = advice["culprits"][0]["layers"][0]
    assert f'data-layer="{worst}"' in page
    data = re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    cards = {card["name"]: card for card in json.loads(data.group(1))["cards"]}
    assert cards[worst]["advice"][0][0] == "Of all that is lost"


def test_steps_are_told_and_one_is_applied(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--apply", "1", "--out", str(folder / "run")) == 0
    text = capsys.readouterr().out
    assert "Where the outputs lose most" in text
    assert "channels hold the range" in text
    assert "dB expected" in text
    written = folder / "run" / "recipe.yaml"
    again = calibrant.quantize(
        folder / "model.onnx", folder / "calib.npz", recipe=written, latency=False
    )
    assert again.summary["quality"]
    assert (folder / "run" / "deploy.onnx").is_file()


def test_json_has_steps_best_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--json", "--out", str(folder / "advice")) == 0
    content = json.loads(capsys.readouterr().out)
    first = content["steps"][0]
    assert first["cause"] == "range"
    assert "conv3" in first["layers"]
    gains = [step["gain_db"] for step in content["steps"]]
    assert gains == sorted(gains, reverse=True)
    calibrant.load_recipe(first["recipe"])
    saved = json.loads((folder / "advice" / "advice.json").read_text(encoding="utf-8"))
    assert saved["steps"][0]["layers"] == first["layers"]


def test_what_cannot_be_applied_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--apply", "1") == 5
    assert "--out" in capsys.readouterr().err
    assert run(folder, "--apply", "99", "--out", str(folder / "run")) == 5
    assert "There is no step 99" in capsys.readouterr().err
