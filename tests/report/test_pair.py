"""The page of two runs: what changed, and what it did."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from calibrant.diagnose.evidence import evidence_of
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.report.page import Run, page_of_pair, read_run
from calibrant.report.page.sections.pair import changes, curves, network, outcome
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.report.runs import saved
from tests.road import batches, quantize, quantized

pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
pytest.importorskip("plotly", reason="the page is made with the extra 'report'")


@cache
def coarse() -> tuple[QuantizedModel, dict[str, str]]:
    """Quantize the same network with weights of 4 bits."""
    model, feeds = NETS["residual"]()
    recipe = Recipe((Rule(AllNodes(), Settings(weight_bits=4), "four bits"),), target="generic")
    result = quantize(model, batches(feeds), recipe)
    return result, evidence_of(result, batches(feeds))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    fine, rough = tmp_path_factory.mktemp("fine"), tmp_path_factory.mktemp("rough")
    saved(fine)
    result, shown = coarse()
    result.save(rough, texts=shown)
    return read_run(fine, "fine"), read_run(rough, "rough")


def test_the_outcome_says_which_run_is_closer(runs: tuple[Run, Run]) -> None:
    fine, rough = runs
    worse = outcome.section(fine, rough).context["sentence"]
    better = outcome.section(rough, fine).context["sentence"]
    assert worse.startswith("The outputs are worse by")
    assert better.startswith("The outputs are better by")
    lost = quantized("residual", "generic").summary["quality"]["outputs"]["y"]["sqnr_db"]
    lost -= coarse()[0].summary["quality"]["outputs"]["y"]["sqnr_db"]
    assert f"by {lost:.1f} dB" in worse
    assert outcome.section(fine, fine).context["sentence"].startswith("Both reach")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (20.0, 20.3, "about as good as before (+0.3 dB)"),
        (20.0, 26.0, "better by 6.0 dB"),
        (26.0, 20.0, "worse by 6.0 dB"),
        (26.0, "nan", "not finite"),
    ],
)
def test_a_small_difference_is_none(
    runs: tuple[Run, Run], first: Any, second: Any, said: str
) -> None:
    def with_sqnr(run: Run, sqnr: Any) -> Run:
        assert run.summary is not None
        one = {**run.summary["quality"]["outputs"]["y"], "sqnr_db": sqnr, "parts": []}
        quality = {**run.summary["quality"], "outputs": {"y": one}}
        return replace(run, summary={**run.summary, "quality": quality})

    pair = with_sqnr(runs[0], first), with_sqnr(runs[1], second)
    assert said in outcome.section(*pair).context["sentence"]


def test_the_changes_are_the_settings_and_the_quantizers(runs: tuple[Run, Run]) -> None:
    found = changes.section(*runs)
    assert found is not None
    layers = {row[0] for row in found.context["layers"].rows if row[1] == "weight bits"}
    assert layers == {d.node for d in quantized("residual", "generic").plan.layers if d.quantized}
    types = {row for row in found.context["quantizers"].rows if row[1] == "type"}
    assert {row[2:] for row in types} == {("int8", "int4")}
    same = changes.section(runs[0], runs[0])
    assert same is not None
    assert same.context["same"]


def test_every_layer_has_both_runs_on_its_card(runs: tuple[Run, Run]) -> None:
    found = network.section(*runs)
    assert found is not None
    for card in found.data["cards"]:
        first, second = card["sides"]
        assert (first["run"], second["run"]) == ("fine", "rough")
        assert first["name"] == second["name"] == card["name"]
        if "weight" in first:
            types = [
                dict(found.data["seen"][side["weight"]]["facts"])["Type"]
                for side in (first, second)
            ]
            assert types == ["int8", "int4"]
    way = found.data["ways"][0]
    assert way["two_sided"]
    assert max(way["steps"].values()) > 3  # four bits lose something


def test_the_cards_are_in_order_where_only_the_first_run_has_a_graph(
    runs: tuple[Run, Run],
) -> None:
    found = network.section(runs[0], replace(runs[1], network=None))
    assert found is not None
    assert [s["run"] for s in found.data["cards"][1]["sides"]] == ["fine", "rough"]


def test_the_table_of_layers_has_the_largest_loss_first(runs: tuple[Run, Run]) -> None:
    found = curves.section(*runs)
    assert found is not None
    texts = [row[3] for row in found.context["table"].rows]
    values = [float(t.removesuffix(" dB").replace("\u2212", "-")) for t in texts]
    assert values == sorted(values)
    assert values[0] < 0


def test_the_page_of_two_runs(runs: tuple[Run, Run]) -> None:
    page = page_of_pair(*runs)
    found = re.findall(r'<section id="(\w+)"', page)
    assert found == ["outcome", "changes", "network", "layers", "again"]
    assert page.count("plotly.js v") == 1
    data = re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    json.loads(data.group(1))
    again = page_of_pair(replace(runs[0], name="run"), replace(runs[1], name="run"))
    assert "run (first)" in again


def test_runs_without_anything_in_common_have_a_page(tmp_path: Path) -> None:
    quantized("residual", "generic").save(tmp_path / "a")
    model, feeds = NETS["gemm_mlp"]()
    quantize(model, batches(feeds)).save(tmp_path / "b")
    page = page_of_pair(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert 'id="outcome"' in page
    assert 'id="network"' not in page
