"""`calibrant report`, and `--report` of the commands that can be shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from tests.models import NETS

pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
pytest.importorskip("plotly", reason="the page is made with the extra 'report'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with float.onnx and calib.npz."""
    model, feeds = NETS["residual"]()
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=8))  # type: ignore[arg-type]
    return tmp_path


def run(command: str, folder: Path, *more: str) -> int:
    model, data = str(folder / "float.onnx"), str(folder / "calib.npz")
    return main([command, model, *more, "--data", data, "--out", str(folder / "run")])


def test_quantize_writes_the_page_and_what_it_shows(folder: Path) -> None:
    assert run("quantize", folder, "--report", "--no-latency", "-q") == 0
    there = {p.name for p in (folder / "run").iterdir()}
    assert {"report.html", "graph.json", "distributions.json", "attribution.json"} <= there
    lines = json.loads((folder / "run" / "commands.json").read_text(encoding="utf-8"))["lines"]
    assert lines["quantize"][:3] == ["calibrant", "quantize", str(folder / "float.onnx")]
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["files"]) == there
    assert run("quantize", folder, "--no-latency", "-q") == 0  # the folder holds one run
    assert "report.html" not in {p.name for p in (folder / "run").iterdir()}


def test_report_makes_a_page_of_any_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quantize", folder, "--no-latency", "-q") == 0
    assert main(["report", str(folder / "run"), "-o", str(folder / "page.html")]) == 0
    assert "page.html" in capsys.readouterr().out
    assert "<h1>" in (folder / "page.html").read_text(encoding="utf-8")
    assert main(["report", str(folder / "run")]) == 0
    assert (folder / "run" / "report.html").is_file()


def test_a_folder_without_a_run_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder)]) == 5
    assert "holds no run" in capsys.readouterr().err


def test_a_record_without_data_has_a_page_without_measurements(folder: Path) -> None:
    assert run("quantize", folder, "--no-latency", "-q") == 0
    record = str(folder / "run" / "record.txt")
    out = ["--record", record, "--out", str(folder / "again"), "--report", "-q"]
    assert main(["quantize", str(folder / "float.onnx"), *out]) == 0
    there = {p.name for p in (folder / "again").iterdir()}
    assert {"report.html", "graph.json", "distributions.json"} <= there
    assert "attribution.json" not in there


def test_a_comparison_and_a_ranking_have_pages(folder: Path) -> None:
    assert run("quantize", folder, "--no-latency", "-q") == 0
    model, data = str(folder / "float.onnx"), str(folder / "calib.npz")
    for command, more in (("compare", [str(folder / "run" / "deploy.onnx")]), ("sensitivity", [])):
        out = folder / command
        assert main([command, model, *more, "--data", data, "--out", str(out), "--report"]) == 0
        assert {"report.html", "graph.json", "commands.json"} <= {p.name for p in out.iterdir()}
    page = (folder / "compare" / "report.html").read_text(encoding="utf-8")
    assert sections(page) == ["comparison", "network", "origins", "accumulated", "again"]
    page = (folder / "sensitivity" / "report.html").read_text(encoding="utf-8")
    assert sections(page) == ["verdict", "network", "sensitivity", "again"]


def test_one_folder_shows_all_that_was_done_in_it(folder: Path) -> None:
    assert run("quantize", folder, "--no-latency", "-q", "--report") == 0
    graph = (folder / "run" / "graph.json").read_text(encoding="utf-8")
    assert run("compare", folder, str(folder / "run" / "deploy.onnx"), "--report") == 0
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert sections(page)[:3] == ["verdict", "comparison", "network"]
    assert "calibrant quantize " in page
    assert "calibrant compare " in page
    assert (folder / "run" / "graph.json").read_text(encoding="utf-8") == graph


def test_two_runs_are_shown_side_by_side(folder: Path) -> None:
    assert run("quantize", folder, "--no-latency", "-q") == 0
    (folder / "run").rename(folder / "before")
    assert run("quantize", folder, "--no-latency", "-q", "--per-tensor") == 0
    assert main(["report", str(folder / "before"), str(folder / "run")]) == 0
    page = (folder / "run" / "side_by_side.html").read_text(encoding="utf-8")
    assert sections(page) == ["outcome", "changes", "again"]
    assert "weight per channel" in page


def test_report_without_a_folder_is_refused_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(folder / "missing.npz"), "--report"]
    assert main(["sensitivity", str(folder / "float.onnx"), *data]) == 5
    assert "--report is given without --out" in capsys.readouterr().err


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)
