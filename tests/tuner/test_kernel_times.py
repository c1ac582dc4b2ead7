"""Layers are booked the time of their kernels, and nothing is called faster than it was measured to be."""

from __future__ import annotations

import numpy as np
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.runtime.kernels import kernel_seconds
from calibrant.runtime.measure import Latency
from calibrant.runtime.runtime import Runtime
from calibrant.tuner import latency
from calibrant.tuner.latency import Neighbours, measured_latencies
from tests.models import convolution
from tests.road import batches, quantize

ONE = Runtime(threads=1)


def test_nodes_belong_to_the_layer_in_front_and_the_first_ones_to_the_layer_behind() -> None:
    model = quantize(convolution.residual()[0], batches(convolution.residual()[1])).float_model
    layers = [n.name or "" for n in model.graph if n.op_type == "Conv"]
    around = Neighbours.of(model, layers)
    for node in model.graph:
        assert around.owner[node.name or ""] in layers
        if node.op_type == "Conv":
            assert around.owner[node.name or ""] == node.name
    assert around.of_kernel(f"fused {layers[1]}_nchwc") == layers[1]
    assert around.of_kernel("ReorderOutput") is None
    for front, behind in around.meets:
        assert layers.index(front) < layers.index(behind)


def test_columns_add_up_to_the_time_of_the_whole_model() -> None:
    done = quantize(
        convolution.conv_bn_relu()[0],
        batches(convolution.conv_bn_relu()[1]),
        None,
        target="onnxruntime",
    )
    model = done.float_model
    layers = [d.node for d in done.plan.layers if d.quantized]
    feed = {k: v[:1] for k, v in convolution.conv_bn_relu()[1](batch=1, seed=0).items()}
    models = {"int8": done.deploy, "float32": model}
    found = measured_latencies(models, model, layers, ["int8", "float32"], feed, ONE)
    assert (found.cost > 0).any(axis=0).all()
    for column, precision in enumerate(("int8", "float32")):
        assert found.cost[:, column].sum() <= found.whole[precision] * 1.0001
    assert {(a, b) for a, b, _ in found.borders} >= {(0, 1), (1, 2)}
    assert all(c > 0 for _, _, c in found.borders)


def test_kernels_have_the_names_of_nodes_and_take_time() -> None:
    done = quantize(convolution.pools()[0], batches(convolution.pools()[1]))
    feed = convolution.pools()[1](batch=1, seed=0)
    found = kernel_seconds(done.float_model, feed, runtime=ONE, seconds=0.05)
    assert found
    assert all(0 <= s < 1 for s in found.values())


def test_where_integers_are_slower_nothing_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(models: object, model: object, layers: list[str], *_: object) -> latency.Latencies:
        cost = np.stack([np.full(len(layers), 2.0), np.full(len(layers), 1.0)], axis=1)
        return latency.Latencies(cost, (), {})

    monkeypatch.setattr("calibrant.tuner.costs.measured_latencies", slow)
    data = {"image": digits.calibration().image}
    result = calibrant.tune(
        digits.MODEL, data, None, "min 0.9", target="onnxruntime", cost="latency"
    )
    assert set(result.precisions.values()) == {"float32"}
    assert result.met
    assert result.search.reason == "Nothing that was measured is faster than the float model."


def test_a_trial_costs_what_it_was_measured_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says that int8 is fast; timed as a whole it is slower than float, and float is what is returned."""

    def fast(models: object, model: object, layers: list[str], *_: object) -> latency.Latencies:
        cost = np.stack([np.full(len(layers), 1.0), np.full(len(layers), 2.0)], axis=1)
        return latency.Latencies(cost, (), {})

    def timed(*_: object, **__: object) -> Latency:
        return Latency(1.0, 3.0, None, 5)

    monkeypatch.setattr("calibrant.tuner.costs.measured_latencies", fast)
    monkeypatch.setattr("calibrant.tuner.trials.measure_latency", timed)
    data = {"image": digits.calibration().image}
    result = calibrant.tune(
        digits.MODEL, data, None, "min 0.9", target="onnxruntime", cost="latency"
    )
    assert result.search.trials[0].reached.met
    assert result.search.trials[0].cost == pytest.approx(3 * result.best.cost)
    assert set(result.precisions.values()) == {"float32"}


@pytest.mark.parametrize(("faster", "precision"), [(28, "int8"), (16, "float32")])
def test_what_is_not_surely_faster_when_timed_once_more_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, faster: int, precision: str
) -> None:
    def fast(models: object, model: object, layers: list[str], *_: object) -> latency.Latencies:
        cost = np.stack([np.full(len(layers), 1.0), np.full(len(layers), 2.0)], axis=1)
        return latency.Latencies(cost, (), {})

    def timed(*_: object, **how: object) -> Latency:
        return Latency(1.0, 0.9, None, 30, faster)

    monkeypatch.setattr("calibrant.tuner.costs.measured_latencies", fast)
    monkeypatch.setattr("calibrant.tuner.trials.measure_latency", timed)
    data = {"image": digits.calibration().image}
    result = calibrant.tune(
        digits.MODEL, data, None, "min 0.9", target="onnxruntime", cost="latency"
    )
    assert set(result.precisions.values()) == {precision}
    assert any("Timed once more" in n for n in result.notes)
    assert ("surely faster" in result.search.reason) == (precision == "float32")
