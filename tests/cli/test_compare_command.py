"""`calibrant compare` on files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from tests.models import build, normal
from tests.road import batches, quantize

GRAPH = """g (float[N, 3, 8, 8] x) => (float[N, 4] y)
{ a = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(a)  p = GlobalAveragePool(r)  y = Flatten(p) }"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with float.onnx, calib.npz and the results of a quantization."""
    w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model, feeds = build(GRAPH, {"w": w}, normal(3, 8, 8))
    onnx.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=8))  # type: ignore[arg-type]
    quantize(model, batches(feeds)).save(tmp_path / "run")
    return tmp_path


def run(folder: Path, *more: str, mine: str = "run/deploy.onnx") -> int:
    paths = [str(folder / "float.onnx"), str(folder / mine), "--data", str(folder / "calib.npz")]
    return main(["compare", *paths, *more])


def test_tables_and_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--out", str(folder / "out")) == 0
    text = capsys.readouterr().out
    assert "8 samples" in text
    assert "worst first by sqnr_db of the outputs" in " ".join(text.split())
    assert "0 nodes of the first model without a counterpart" in text
    assert (folder / "out" / "compare.csv").read_text(encoding="utf-8").startswith("Index,OpType")


def test_json_has_the_worst_layer_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--json", "--samples", "4") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["samples"] == 4
    losses = [float(x["loss"]) for x in content["layers"] if x["loss"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(10 ** (-content["layers"][0]["alone"]["sqnr_db"] / 10))
    born = content["layers"][0]["born"]
    assert born["share"] + born["arrived"] == pytest.approx(1)
    assert born["clipping"] + born["rounding"] + born["bias"] + born["other"] == pytest.approx(
        born["share"]
    )
    assert content["at_fault"]
    assert "y" in content["outputs"]


def test_equal_files_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--digits", "6", "--json", mine="float.onnx") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["passed"]
    assert content["outputs"]["y"]["digits"]["mismatches"] == 0


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--metric", "cosine"], 5, "Did you mean 'cosine_similarity'?"),
        (["--record", "missing.txt"], 5, "missing.txt"),
        (["--info", "missing.json"], 5, "missing.json"),
        (["--provider", "abacus"], 5, "abacus"),
    ],
)
def test_errors(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, words: str
) -> None:
    assert run(folder, *more) == code
    assert words in capsys.readouterr().err


def test_a_damaged_quant_info_file_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = folder / "info.json"
    info.write_text('{"layers": [{"quant_nodes": "a"}]}', encoding="utf-8")
    assert run(folder, "--info", str(info)) == 5
    assert "layers[0].quant_nodes is 'a'; it is a list of names" in capsys.readouterr().err
