"""The page of a run of the debug tool."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import debug
from calibrant.cli import main
from calibrant.errors import ConfigValueError
from calibrant.report.page import page_of, read_run
from calibrant.report.page.debugged import Debugged
from tests.debug.nets import chain, samples

pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
pytest.importorskip("matplotlib", reason="pictures are drawn with the extra 'debug'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which one weight is far too coarse."""
    place = tmp_path_factory.mktemp("debug")
    debug.runall(chain(v1=0.1), samples(), place, node_type="weight", ns_metrics=["sqnr", "mse"])
    return place


def test_a_run_of_the_debug_tool_has_a_page(folder: Path) -> None:
    run = read_run(folder)
    assert run.debugged is not None
    assert run.rank is not None
    worst = run.rank.layers[0]
    assert worst.name == "second"  # who reads w1, and not the calibration node itself
    assert worst.precision == "weight int8"
    assert worst.loss == pytest.approx(10 ** (-worst.score / 10))
    assert run.network is not None
    assert {n.name for n in run.network.nodes} >= {"first", "second"}
    assert all(n.op_type != "DequantizeLinear" for n in run.network.nodes)
    page = page_of(run)
    steps = page.split('id="next"')[1].split("</section>")[0]
    assert "w1__calib: sqnr" in steps
    looked = page.split('id="looked"')[1].split("</section>")[0]
    assert looked.count('src="data:image/png;base64,') == len(list(folder.rglob("*.png"))) > 3
    assert 'src="data_distribution' not in page  # nothing is loaded from elsewhere


def test_the_command_writes_it(tmp_path: Path) -> None:
    onnx.save(chain(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **samples())
    out = tmp_path / "out"
    call = [
        "debug",
        "runall",
        str(tmp_path / "model.onnx"),
        str(tmp_path / "data.npz"),
        "-s",
        str(out),
    ]
    assert main([*call, "--report"]) == 0
    page = (out / "report.html").read_text()
    assert f"calibrant debug runall {tmp_path}" in page
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page


def test_a_failed_part_is_told(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["parts"]["accumulate_error"] |= {
        "failed": "no curve <today>",
        "found": {},
        "files": [],
    }
    run = read_run(folder)
    found = Debugged.read(folder, summary)
    page = page_of(type(run)("x", debugged=found, rank=found.rank("x")))
    assert "Accumulated error failed: no curve &lt;today&gt;" in page


def test_values_that_json_has_not_are_read(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["parts"]["node_sensitivity"]["found"]["weight"]["nodes"]:
        row["metrics"]["sqnr"] = "Infinity"
    rank = Debugged.read(folder, summary).rank("x")
    assert rank is not None
    assert all(math.isinf(r.score) and r.loss == 0 for r in rank.layers)


def test_a_damaged_summary_is_refused(folder: Path, tmp_path: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    del summary["parts"]["collapse_check"]["files"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigValueError, match="runall"):
        read_run(tmp_path)
