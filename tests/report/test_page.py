"""The page of a run: what it says, that it is one file, and that names out of a model stay text."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from calibrant.errors import ConfigValueError, MissingPackageError
from calibrant.report.page import Run, page_of, read_run
from calibrant.report.page.measured import Loss, Rank
from calibrant.report.page.sections import training
from calibrant.report.page.sections.ranked import sentence
from calibrant.report.page.sections.verdict import verdict
from tests.report.runs import HOSTILE, hostile, saved
from tests.road import quantized

pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
pytest.importorskip("plotly", reason="the page is made with the extra 'report'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run"))


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def without_plotly(page: str) -> str:
    return re.sub(r'(?s)<script type="text/plain" id="plotly">.*?</script>', "", page)


def test_the_page_says_all_that_the_run_left(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page == page_of(read_run(folder))
    assert sections(page) == [
        "verdict",
        "network",
        "origins",
        "accumulated",
        "sensitivity",
        "candidates",
        "plan",
        "again",
    ]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for decision in summary["decisions"]:
        assert decision["name"] in page
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    for tensor in plan["tensors"]:
        assert tensor["tensor"] in page
    assert "calibrant quantize &#39;my model.onnx&#39;" in page
    assert "report.html" in summary["files"]


def test_the_page_loads_nothing_and_holds_plotly_once(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert len(page) < 6e6
    rest = without_plotly(page)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!#|data:)[^"'\s>]*//""", rest)
    assert "@import" not in rest
    assert not re.search(r"url\(", rest)


def test_a_run_without_a_report_still_has_a_page(tmp_path: Path) -> None:
    quantized("residual", "generic").save(tmp_path)
    page = page_of(read_run(tmp_path))
    assert sections(page) == ["verdict", "candidates", "plan", "again"]
    assert "The commands were not written down" in page


def test_names_out_of_a_model_stay_text(tmp_path: Path) -> None:
    result, shown = hostile()
    result.save(tmp_path, texts=shown, report=True)
    page = without_plotly((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "<img" not in page
    data = re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    cards = json.loads(data.group(1))["cards"]
    assert HOSTILE in [card["name"] for card in cards]
    labels = re.findall(r'aria-label="(MatMul [^"]*)"', page)
    assert any(HOSTILE in unescape(label) for label in labels)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigValueError, match=r"holds no run: there is none of summary\.json"):
        read_run(tmp_path)
    with pytest.raises(ConfigValueError, match="is no folder"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("summary.json", "{", "is no JSON"),
        ("summary.json", "[]", "holds no JSON object"),
        ("summary.json", "{}", "is no summary"),
        ("graph.json", '{"inputs": [], "outputs": [], "nodes": 3}', "nodes: "),
        ("attribution.json", '{"samples": 1}', "layers: Field required"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    saved(tmp_path)
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigValueError, match=f"{file}'.*{said}"):
        read_run(tmp_path)


def test_what_an_earlier_run_left_is_not_shown(tmp_path: Path) -> None:
    saved(tmp_path)
    old = (tmp_path / "attribution.json").read_text(encoding="utf-8")
    quantized("residual", "generic").save(tmp_path)
    assert not (tmp_path / "attribution.json").exists()  # `summary.json` had listed it
    (tmp_path / "attribution.json").write_text(old, encoding="utf-8")
    when = (tmp_path / "summary.json").stat().st_mtime - 60
    os.utime(tmp_path / "attribution.json", (when, when))
    run = read_run(tmp_path)
    assert run.origins is None
    assert "'attribution.json' is older than 'summary.json' and was left out." in run.notes


def test_the_verdict_names_the_worst_part() -> None:
    summary = dict(quantized("residual", "generic").summary)
    one = summary["quality"]["outputs"]["y"]
    parts = [
        {**one["parts"][0], "name": "y[0]", "sqnr_db": 31.0},
        {**one["parts"][0], "name": "y[1]", "sqnr_db": 3.0, "collapsed": "has collapsed"},
    ]
    summary["quality"] = {**summary["quality"], "outputs": {"y": {**one, "parts": parts}}}
    grade, sentence = verdict(summary)
    assert grade == "bad"
    assert "collapsed in y[1]" in sentence
    assert "keeps 3.0 dB SQNR: its error holds 50 % of the signal's energy" in sentence
    summary["quality"] = {**summary["quality"], "outputs": {}}
    assert verdict(summary)[0] == "unknown"


@pytest.mark.parametrize(
    ("sqnr", "grade"),
    [(20.0, "good"), (19.9, "fair"), (10.0, "fair"), (9.9, "bad"), ("nan", "bad")],
)
def test_the_grade_follows_the_energy_of_the_error(sqnr: float | str, grade: str) -> None:
    summary = dict(quantized("residual", "generic").summary)
    one = {**summary["quality"]["outputs"]["y"], "sqnr_db": sqnr, "parts": []}
    summary["quality"] = {**summary["quality"], "outputs": {"y": one}}
    assert verdict(summary)[0] == grade


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_without_its_packages_one_sentence_says_how_to_get_them(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else known(name)
    )
    said = rf'needs the package {package}, .* pip install "calibrant\[report\]"'
    with pytest.raises(MissingPackageError, match=said):
        page_of(Run("run"))
    with pytest.raises(MissingPackageError):
        quantized("residual", "generic").save(tmp_path / "run", report=True)
    assert not (tmp_path / "run").exists()


def test_a_page_takes_a_run_with_numbers_that_json_does_not_have(folder: Path) -> None:
    run = read_run(folder)
    assert run.origins is not None
    worst = run.origins.layers[0]
    shares = replace(worst.shares, sqnr_db=float("inf"), born=float("nan"))
    rows = (replace(worst, energy=float("nan"), shares=shares), *run.origins.layers[1:])
    page = page_of(replace(run, origins=replace(run.origins, layers=rows)))
    assert "NaN" not in without_plotly(page).replace("Number.isNaN", "")


def rank(*losses: float) -> Rank:
    rows = tuple(
        Loss(f"layer{i}", "Conv", "int8", 0.0, loss, 1.0, i + 1, i + 1, False)
        for i, loss in enumerate(losses)
    )
    return Rank("m.onnx", "alone", "sqnr_db", "macs", 4, rows)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((0.9, 0.1), "Layer 'layer0' has 90 % of the loss of all 2 layers"),
        ((0.3, 0.3, 0.2, 0.2), "Layers 'layer0', 'layer1' have 60 %"),
        ((0.125,) * 16, "The loss is spread: it takes 8 of 16 layers"),
        ((0.0, 0.0), "No layer loses anything"),
        ((float("inf"), 0.1), "'layer0' loses everything"),
    ],
)
def test_a_ranking_says_where_to_look(losses: tuple[float, ...], said: str) -> None:
    assert said in sentence(rank(*losses))


def test_a_training_is_shown_with_its_way(folder: Path) -> None:
    run = read_run(folder)
    assert run.summary is not None
    assert training.section(run) is None
    check = {"step": 5, "epoch": 2.5, "loss": 0.25, "score": 31.25, "seconds": 7.0}
    told = {
        "better": True,
        "scores": {"float": 120.0, "calibrated": 30.5, "trained": 31.25},
        "steps": 5,
        "epochs": 2.5,
        "batch_size": 16,
        "seconds": 77.0,
        "checks": [check, {**check, "step": 6, "loss": "nan", "score": "-inf"}],
        "notes": ["Something to know."],
    }
    trained = replace(run, summary={**run.summary, "training": told})
    page = page_of(trained)
    for text in ("31.25 trained", "30.5 calibrated", "Something to know.", "77 s", "of training"):
        assert text in page, text
    assert '"scores":[31.25,null]' in unescape(page)
    assert "Trained for 5 steps; kept." in page


def test_only_large_pages_are_laid_out_in_pieces(folder: Path) -> None:
    """A picture of the whole page shows all sections where they are laid out at once."""
    assert '<main id="main">' in page_of(read_run(folder))
