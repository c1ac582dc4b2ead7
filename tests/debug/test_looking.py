"""Tensors, collapse, the list of nodes, and all of it in one call."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant import debug
from calibrant.debug.acc_error import curves_of
from calibrant.debug.collapse import look_for_collapse
from calibrant.debug.samples import opened_subject
from calibrant.debug.sensitivity import KINDS, rank_nodes
from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics.metrics import METRICS
from calibrant.runtime.measure import run
from tests.debug.nets import (
    ACTIVATIONS,
    NODES,
    WEIGHTS,
    calibrated,
    chain,
    data_of,
    samples,
    without,
)
from tests.models import NETS

MASKED = """
<ir_version: 10, opset_import: ["" : 21]>
masked (float[N,8] x) => (float[N,8] y)
<float[8] mask = {0, 0, 0, 0, 0, 0, -1000000000, -1000000000}, float s = {0.02}, int8 z = {0}, float t = {7800000}>
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  sum = Add (d, mask)
  sq = QuantizeLinear (sum, t, z)
  sd = DequantizeLinear (sq, t, z)
  p = Softmax <axis = -1> (sd)
  y = Relu (p)
}
"""


def masked() -> onnx.ModelProto:
    """Return a softmax behind a mask of -1e9 that sets the range of what it reads."""
    model = onnx.parser.parse_model(MASKED)
    called = {"d": "x__calib", "sum": "add_mask", "sd": "sum__calib", "p": "softmax", "y": "relu"}
    for node in model.graph.node:
        node.name = called.get(node.output[0], f"{node.output[0]}__node")
    return model


def test_a_mask_that_sets_the_range_is_found_where_it_does() -> None:
    found = debug.collapse_check(masked(), samples())
    assert found.first == "sum__calib"
    assert "'softmax'" in found.message
    assert "mask" in found.message
    collapsed = [r.node for r in found.collapsed]
    assert collapsed == ["sum__calib", "softmax", "relu", "y"]
    assert found.rows[-1].kind == "output"


def test_a_sound_model_does_not_collapse() -> None:
    assert debug.collapse_check(chain(), samples()).first is None
    for name in ("residual", "attention_add", "matmul_mlp"):
        assert debug.collapse_check(calibrated(name), data_of(name)).first is None


def test_the_same_answer_for_every_sample_is_a_collapse(tmp_path: Path) -> None:
    found = debug.collapse_check(chain(t=100.0), samples(), save_dir=tmp_path)
    assert found.first == "a__calib"
    row = next(r for r in found.rows if r.node == "second")
    assert row.same_for_all
    assert row.distinct == 1
    assert row.entropy_bits == 0
    content = json.loads((tmp_path / "collapse_check.json").read_text())
    assert content["first"] == "a__calib"
    assert (tmp_path / "collapse_check.csv").exists()


def test_tensors_are_told_sample_by_sample(tmp_path: Path) -> None:
    x, model = samples(), chain(v1=0.3)
    found = debug.tensor_analysis(model, x, ["third", "second", "w1__calib", "x__calib"], tmp_path)
    assert [len(found[n]) for n in found] == [4, 4, 1, 4]
    truth = run(without(model, set()), [x], optimize=False)[0]["y"]
    mine = run(model, [x], optimize=False, integers=False)[0]["y"]
    alone = run(without(model, {"b__calib", "w2__calib"}), [x], optimize=False, integers=False)[0][
        "y"
    ]
    for i, row in enumerate(found["third"]):
        assert row["sample"] == i
        assert row["sqnr_db"] == pytest.approx(
            METRICS["sqnr"].measure(truth[i], mine[i]), rel=1e-5
        )
        error = (mine - truth)[i].astype(np.float64)
        born = float(((alone - truth)[i] * error).sum() / (error * error).sum())
        assert row["own"] == pytest.approx(born, rel=1e-4)
        assert row["own"] + row["inherited"] == pytest.approx(1)
        assert row["mean"] == pytest.approx(truth[i].mean(), rel=1e-4, abs=1e-6)
    assert all(r["own"] > 0.8 for r in found["second"])  # its weight is the sabotaged one
    assert all(r["inherited"] > 0.8 for r in found["third"])
    assert found["w1__calib"][0]["cause"] == "rounding"
    assert (
        json.loads((tmp_path / "tensor_analysis.json").read_text())["tensors"][0]["node"]
        == "third"
    )
    assert (tmp_path / "tensor_analysis.csv").read_text().startswith("node,sample,")


def test_clipping_is_told_from_rounding(tmp_path: Path) -> None:
    found = debug.tensor_analysis(chain(s=0.005), samples(), "x__calib", tmp_path)
    for row in found["x__calib"]:
        assert row["cause"] == "truncation"
        assert row["truncation"] + row["rounding"] == pytest.approx(1)
        assert row["clip_share"] > 0.2


def test_every_node_is_listed() -> None:
    rows = {r["name"]: r for r in debug.list_nodes(chain(s=0.01), samples())}
    assert set(rows) == {*NODES, *WEIGHTS, *ACTIVATIONS}
    row = rows["x__calib"]
    assert row["kind"] == "activation"
    assert row["consumers"] == ("first",)
    assert row["threshold_max"] == pytest.approx(1.27)
    assert row["clip_share"] > 0.1
    assert row["used_share"] == pytest.approx(1)
    assert rows["first"]["consumers"] == ("x__calib", "w0__calib")
    assert rows["first"]["qtype"] == "int8"


TREE = {
    "node_sensitivity/sensitivity_of_weight.log",
    "node_sensitivity/sensitivity_of_activation.log",
    "accumulate_error/accumulate_error.png",
    "sensitivity_analysis/sensitivity_analysis.png",
    "collapse_check/collapse_check.json",
    "tensor_analysis/tensor_analysis.csv",
    "index.html",
    "summary.json",
    *(
        f"{f}/{n}.png"
        for f in ("data_distribution", "channelwise_distribution")
        for n in WEIGHTS + ACTIVATIONS
    ),
}


class Links(HTMLParser):
    """What a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found += [v for k, v in attrs if k in ("src", "href")]


def test_all_in_one_call_fills_the_tree(tmp_path: Path) -> None:
    summary = debug.runall(chain(v1=0.1), samples(), tmp_path)
    assert summary["failed"] == []
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files >= TREE
    said = {f for part in summary["parts"].values() for f in part["files"]}
    assert said <= files
    page = (tmp_path / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert said == set(links.found)  # nothing from elsewhere, nothing left out
    assert "w1__calib: cosine-similarity" in page.split("What to do next")[1]
    assert json.loads((tmp_path / "summary.json").read_text())["samples"] == 1


@pytest.mark.slow
def test_ordinary_nodes_bring_the_calibration_nodes_in_front_of_them(tmp_path: Path) -> None:
    summary = debug.runall(
        chain(), samples(), tmp_path, node_type="node", ns_metrics=["sqnr"], pick_threshold=99.0
    )
    assert summary["failed"] == []
    assert set(summary["parts"]["data_distribution"]["found"]) == {*NODES, *WEIGHTS, *ACTIVATIONS}
    assert set(summary["parts"]["channelwise_distribution"]["found"]) == {*WEIGHTS, *ACTIVATIONS}


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no curve today")

    monkeypatch.setattr(sys.modules["calibrant.debug.runall"], "curves_of", broken)
    summary = debug.runall(chain(), samples(), tmp_path, cw_nodes_list=["first"])
    assert summary["failed"] == ["channelwise_distribution", "accumulate_error"]
    assert "no curve today" in summary["parts"]["accumulate_error"]["failed"]
    assert "nodes_list" in summary["parts"]["channelwise_distribution"]["failed"]
    assert (tmp_path / "sensitivity_analysis" / "sensitivity_analysis.png").exists()
    page = (tmp_path / "index.html").read_text()
    assert "Failed: RuntimeError: no curve today" in page


def test_one_ranking_that_fails_leaves_the_other(tmp_path: Path) -> None:
    result = calibrated("gemm_mlp")  # the weights of its deployed model are integers
    summary = debug.runall(result.deploy, data_of("gemm_mlp"), tmp_path)
    assert summary["failed"] == ["node_sensitivity"]
    assert "integers" in summary["parts"]["node_sensitivity"]["failed"]
    assert summary["parts"]["node_sensitivity"]["found"]["activation"]["nodes"]


def test_what_stops_all_of_it_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigValueError, match="node_type"):
        debug.runall(chain(), samples(), tmp_path, node_type="nodes")
    with pytest.raises(ConfigValueError, match="cosine-similarity"):
        debug.runall(chain(), samples(), tmp_path, ns_metrics="cosine")
    with pytest.raises(DataError):
        debug.runall(chain(), {"z": samples()["x"]}, tmp_path)


@pytest.mark.parametrize("name", list(NETS))
def test_every_network_goes_through(name: str) -> None:
    subject = opened_subject(calibrated(name), data_of(name), 2)
    for kind in KINDS:
        found = rank_nodes(subject, list(METRICS), node_type=kind)
        assert {n.name for n in found.nodes} == set(subject.calibrated.of_kind(kind))
    curves = curves_of(subject, ["weight", "activation"], None, METRICS["mse"])
    assert all(len(v) == len(curves.nodes) for v in curves.curves.values())
    assert look_for_collapse(subject).rows


@pytest.mark.parametrize("name", ["attention_add", "two_in_two_out"])
def test_networks_fill_the_tree(name: str, tmp_path: Path) -> None:
    few = list(calibrated_nodes(name))[:2]
    summary = debug.runall(
        calibrated(name),
        data_of(name),
        tmp_path,
        data_num=2,
        dis_nodes_list=few,
        cw_nodes_list=few,
    )
    assert summary["failed"] == []  # a node of the first is called `weight`


def calibrated_nodes(name: str) -> list[str]:
    return [
        r["name"] for r in debug.list_nodes(calibrated(name), data_of(name)) if r["kind"] != "node"
    ]
