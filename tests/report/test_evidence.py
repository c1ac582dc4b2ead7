"""What a run leaves for its report: histograms, ranges, channels, the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calibrant.diagnose.evidence import evidence_of
from calibrant.errors import ModelError
from calibrant.graph.load import load, prepare
from calibrant.numerics import fake_quantize
from calibrant.report.evidence import Distributions, Network, read_value, text_of
from calibrant.report.evidence.distributions import distributions_of
from calibrant.report.evidence.network import network_of
from calibrant.report.evidence.spread import BARS, bars_of, boxes_of
from calibrant.stats import Statistics, TensorStats
from tests.models import NETS
from tests.report.runs import evidence
from tests.road import batches, quantized

FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=1, max_side=40),
    elements=st.floats(-100, 100, width=32),
)


@given(FLOATS)
def test_bars_hold_every_value(x: np.ndarray) -> None:
    bars = bars_of(x)
    assert len(bars.counts) == BARS
    assert sum(bars.counts) == x.size
    assert bars.low <= x.min() and x.max() <= bars.high  # noqa: PT018


def test_boxes_are_the_quantiles_of_each_channel() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    boxes = boxes_of(x, 1, 10)
    assert (boxes.axis, boxes.channels, len(boxes.shown)) == (1, 3, 3)
    for box in boxes.shown:
        row = x[:, box.channel].ravel()
        found = [box.low, box.q1, box.median, box.q3, box.high]
        assert found == pytest.approx(np.percentile(row, [0, 25, 50, 75, 100]).tolist(), rel=1e-4)


def test_of_many_channels_the_narrowest_and_the_widest_are_shown() -> None:
    rng = np.random.default_rng(0)
    widths = rng.permutation(100) + 1.0
    x = (widths[:, None] * np.linspace(-1, 1, 9)).astype(np.float32)
    boxes = boxes_of(x, 0, 8)
    shown = [b.channel for b in boxes.shown]
    assert (boxes.channels, len(shown)) == (100, 8)
    assert shown == sorted(shown)
    assert {int(widths.argmin()), int(widths.argmax())} <= set(shown)


def test_ranges_are_those_of_the_plan_and_judged_as_the_values_are() -> None:
    rng = np.random.default_rng(1)
    result = quantized("residual", "generic")
    decision = next(d for d in result.plan.activations if d.fixed_range is None)
    x = rng.normal(size=4000).astype(np.float32)
    seen = Statistics({decision.tensor: TensorStats.exact(x)})
    found = distributions_of(result.solution, seen)
    (tensor,) = found.tensors
    p = result.params.activations[decision.id]
    chosen = tensor.ranges[0]
    assert chosen.chosen
    assert (chosen.low, chosen.high) == pytest.approx([float(e) for e in p.range], rel=1e-4)
    error = x - fake_quantize(x, p)
    sqnr = 10 * np.log10(np.square(x, dtype=float).sum() / np.square(error, dtype=float).sum())
    assert chosen.sqnr_db == pytest.approx(sqnr, rel=1e-3)
    half = float(p.scale) / 2
    low, high = (float(e) for e in p.range)
    assert chosen.clipped == pytest.approx(((x < low - half) | (x > high + half)).mean(), rel=1e-3)
    others = {r.algorithm: r for r in tensor.ranges[1:]}
    assert {"min-max", "percentile", "mse", "kl"} <= {*others, chosen.algorithm}
    assert not any(r.chosen for r in others.values())
    best = max(tensor.ranges[1:], key=lambda r: r.sqnr_db)
    assert best.sqnr_db <= others.get("mse", chosen).sqnr_db + 0.1


def test_weights_before_and_after_are_those_of_the_solution() -> None:
    result = quantized("residual", "generic")
    found = distributions_of(result.solution, result.statistics)
    assert [w.layer for w in found.weights] == [w.layer for w in result.plan.weights]
    for seen in found.weights:
        layer = result.params.layers[seen.layer]
        assert sum(seen.before.counts) == sum(seen.after.counts) == layer.values.size
        assert seen.largest_error <= float(np.max(layer.weight.scale)) * 40
        assert seen.sqnr_db > 20
        assert seen.channels is not None
        assert len(seen.limits) == len(seen.channels.shown)


def test_the_graph_has_every_node_and_what_it_reads() -> None:
    model, _ = NETS["residual"]()
    prepared = prepare(load(model))
    network = network_of(prepared)
    made = set(network.inputs)
    for node, real in zip(
        network.nodes, (n for n in prepared.graph if n.op_type != "Constant"), strict=True
    ):
        assert (node.name, node.op_type) == (real.name, real.op_type)
        assert set(node.inputs) <= made  # constants are no edges
        made.update(node.outputs)
    assert set(network.outputs) <= made


@pytest.mark.parametrize(
    ("file", "kind"), [("graph.json", Network), ("distributions.json", Distributions)]
)
def test_what_is_written_is_read_again(file: str, kind: type, tmp_path: Path) -> None:
    text = evidence("residual")[file]
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert text_of(read_value(tmp_path / file, kind)) == text


def test_what_cannot_be_measured_is_said_and_the_rest_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
    pytest.importorskip("plotly", reason="the page is made with the extra 'report'")

    def fails(*_: Any, **__: Any) -> None:
        raise ModelError("Node 'a' does not run alone.")

    monkeypatch.setattr("calibrant.diagnose.evidence.ranking_of", fails)
    _, feeds = NETS["residual"]()
    result = quantized("residual", "generic")
    shown = evidence_of(result, batches(feeds))
    assert set(shown) == {"graph.json", "distributions.json", "attribution.json"}
    result.save(tmp_path, texts=shown, report=True)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not all could be measured for the report: Node &#39;a&#39; does not run alone." in page


def test_channels_of_activations_are_looked_at_on_samples() -> None:
    found = json.loads(evidence("residual")["distributions.json"])
    assert found["samples"] > 0
    shown = [t["channels"] for t in found["tensors"] if t["channels"] is not None]
    assert shown
    for boxes in shown:
        for box in boxes["shown"]:
            five = [box[k] for k in ("low", "q1", "median", "q3", "high")]
            assert five == sorted(five)
