"""Histograms and box plots hold the values they are about."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant import debug
from calibrant.debug.channelwise import channels_of
from calibrant.debug.distribution import distributions_of
from calibrant.debug.samples import opened_subject
from calibrant.errors import ConfigValueError
from calibrant.runtime.measure import run
from tests.debug.nets import chain, samples, without


def weight(model: onnx.ModelProto, name: str) -> Any:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def test_a_weight_is_shown_before_and_after() -> None:
    model = chain(v1=0.1)
    (found,) = distributions_of(opened_subject(model, samples(), None), ["w1__calib"])
    before, after = found.histograms
    w = weight(model, "w1")
    assert (before.name, after.name) == ("float", "quantized")
    assert before.counts.sum() == after.counts.sum() == 64
    assert (before.low, before.high) == pytest.approx((w.min(), w.max()))
    rounded = np.clip(np.rint(w / np.float32(0.1)), -128, 127) * 0.1
    assert np.count_nonzero(after.counts) == len(np.unique(rounded))
    assert found.threshold == pytest.approx(12.7)
    assert found.clip_share == 0


def test_an_activation_is_what_its_node_reads_and_clipping_is_told() -> None:
    x = samples()
    (found,) = distributions_of(opened_subject(chain(s=0.01), x, None), ["x__calib"])
    (histogram,) = found.histograms
    assert histogram.counts.sum() == x["x"].size
    low, high = -1.28 - 0.005, 1.27 + 0.005
    assert found.clip_share == pytest.approx(np.mean((x["x"] < low) | (x["x"] > high)))


def test_an_ordinary_node_is_shown_in_both_models_with_the_difference() -> None:
    x, model = samples(), chain()
    (found,) = distributions_of(opened_subject(model, x, None), ["third"])
    truth = run(without(model, set()), [x], optimize=False)[0]["y"]
    mine = run(model, [x], optimize=False, integers=False)[0]["y"]
    assert [h.name for h in found.histograms] == ["float", "quantized", "difference"]
    for histogram, given in zip(found.histograms, (truth, mine, mine - truth), strict=True):
        assert histogram.low == pytest.approx(float(given.min()), rel=1e-4)
        assert histogram.high == pytest.approx(float(given.max()), rel=1e-4)


def test_one_picture_and_one_table_a_node(tmp_path: Path) -> None:
    names = ["w0__calib", "x__calib", "second"]
    found = debug.plot_distribution(chain(), samples(), names, tmp_path, log_count=True)
    assert list(found) == names
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{n}.{e}" for n in names for e in ("png", "csv")
    }
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in found.values())
    rows = list(csv.DictReader((tmp_path / "x__calib.csv").read_text().splitlines()))
    assert sum(int(r["count"]) for r in rows) == samples()["x"].size


def test_boxes_are_quartiles_of_channels() -> None:
    x = samples(40)
    (found,) = channels_of(opened_subject(chain(), x, 40), ["x__calib"])
    assert found.axis == 1
    for i, box in enumerate(found.boxes):
        column = x["x"][:, i].astype(np.float64)
        assert (box.q1, box.median, box.q3) == pytest.approx(np.percentile(column, (25, 50, 75)))
        assert (box.low, box.high, box.mean) == pytest.approx(
            (column.min(), column.max(), column.mean())
        )
        reach = 1.5 * (box.q3 - box.q1)
        inside = column[(column >= box.q1 - reach) & (column <= box.q3 + reach)]
        assert (box.whisker_low, box.whisker_high) == pytest.approx((inside.min(), inside.max()))
        assert len(box.points) == column.size - inside.size


def test_the_axis_is_the_weights_own_or_what_is_asked_for() -> None:
    subject = opened_subject(chain(), samples(), None)
    w = weight(chain(), "w0")
    (rows,) = channels_of(subject, ["w0__calib"])
    (columns,) = channels_of(subject, ["w0__calib"], -1)
    assert [b.largest for b in rows.boxes] == pytest.approx(np.abs(w).max(axis=1))
    assert [b.largest for b in columns.boxes] == pytest.approx(np.abs(w).max(axis=0))
    with pytest.raises(ConfigValueError, match="rank 2"):
        channels_of(subject, ["w0__calib"], 2)


def test_a_hostile_channel_shows_in_the_spread() -> None:
    x = samples()
    x["x"][:, 3] *= 20
    (found,) = channels_of(opened_subject(chain(), x, None), ["x__calib"])
    largest = np.abs(x["x"]).max(axis=0)
    assert found.spread == pytest.approx(largest.max() / np.median(largest))
    assert found.spread > 10


@pytest.mark.slow
def test_many_channels_take_several_pages(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        wide (float[N,300] x) => (float[N,300] y)
        <float s = {0.02}, int8 z = {0}>
        {
          q = QuantizeLinear (x, s, z)
          d = DequantizeLinear (q, s, z)
          y = Relu (d)
        }
        """
    )
    model.graph.node[1].name = "x__calib"
    x = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    found = debug.get_channelwise_data_distribution(model, x, "x__calib", tmp_path)
    assert [p.name for p in found["x__calib"]] == ["x__calib_0.png", "x__calib_1.png"]
    assert len((tmp_path / "x__calib.csv").read_text().splitlines()) == 301


@pytest.mark.parametrize("names", [[], ["w0"], ["first"]])
def test_box_plots_take_calibration_nodes_alone(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigValueError, match="nodes_list"):
        debug.get_channelwise_data_distribution(chain(), samples(), names, tmp_path)
