"""`calibrant sensitivity` on files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from tests.models import NETS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with float.onnx and calib.npz."""
    model, feeds = NETS["residual"]()
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=8))  # type: ignore[arg-type]
    return tmp_path


def run(folder: Path, *more: str) -> int:
    data = str(folder / "calib.npz")
    return main(["sensitivity", str(folder / "float.onnx"), "--data", data, *more])


def test_table_and_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--out", str(folder / "out"), "--precision", "int8, int4") == 0
    text = capsys.readouterr().out
    assert "8 samples: one layer quantized, all else float" in text
    assert "Layers, largest loss first" in text
    table = (folder / "out" / "sensitivity.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    assert {r["precision"] for r in rows} == {"int4", "int8"}
    assert [int(r["rank"]) for r in rows] == list(range(1, len(rows) + 1))
    saved = json.loads((folder / "out" / "sensitivity.json").read_text(encoding="utf-8"))
    assert [x["name"] for x in saved["layers"]] == [r["name"] for r in rows]


def test_json_has_the_worst_layer_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--json", "--metric", "cosine_similarity", "--budget", "0") == 0
    content = json.loads(capsys.readouterr().out)
    scores = [x["score"] for x in content["layers"]]
    assert scores == sorted(scores)
    assert {"name", "score", "cost", "loss", "loss_per_cost"} <= set(content["layers"][0])
    assert content["work"]["passes"] > 0
    assert content["work"]["allowed"] is None


def test_an_interrupted_run_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder / "out")
    assert run(folder, "--out", out, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    journal = folder / "out" / "sensitivity.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20], encoding="utf-8")
    assert run(folder, "--out", out, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["work"]["reused"] == 2
    assert again["layers"] == first["layers"]


def test_all_but_one_and_order_by_cost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--mode", "all-but", "--per-cost", "--cost", "bytes", "--layer", "conv1")
    assert run(folder, *more, "--layer", "conv2", "-v") == 0
    text = capsys.readouterr().out
    assert "one layer float, all else quantized" in text
    assert "All layers in int8: sqnr_db" in text
    assert "largest loss per byte first" in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--metric", "cosine"], "Did you mean 'cosine_similarity'?"),
        (["--precision", "int3"], "Known: int8, int16, int4, float16"),
        (["--layer", "conv9"], "Layer 'conv9' is none of"),
        (["--mode", "both"], "mode is 'both'; it is alone or all-but."),
        (["--by", "gradient", "--budget", "0.45"], "--budget is for --by runs"),
        (["--per-cost", "--json"], "--per-cost orders the table"),
        (["--per-cost", "--quiet"], "--per-cost orders the table"),
    ],
)
def test_errors(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert run(folder, *more) == 5
    assert words in capsys.readouterr().err
