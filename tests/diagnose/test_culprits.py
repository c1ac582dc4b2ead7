"""Networks with one thing wrong are told by every metric: who is first, and why.

What is wrong is wrong in the quantized model alone, or in how the float one carries its values; each function of `CASES` says who
may be named and with which cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.analysis.compare import compare
from calibrant.analysis.metrics import MEASURES
from calibrant.demo import digits
from calibrant.diagnose import rank
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from tests.models import NETS, Feeds, sabotaged

PLAIN, ONNXRUNTIME = rank.PLAIN, replace(rank.PLAIN, target="onnxruntime")


@dataclass(frozen=True, eq=False)
class Case:
    """A network with one thing wrong.

    Args:
        model: The float model.
        quantized: The other one.
        data: Samples as it meets them.
        names: Layers that may be named.
        cause: Why.
        recipe: How it was quantized; None where only the quantized model is wrong.
    """

    model: onnx.ModelProto
    quantized: Any
    data: dict[str, Any]
    names: frozenset[str]
    cause: str
    recipe: Recipe | None = None


def case(net: tuple[onnx.ModelProto, Feeds], recipe: Recipe, names: set[str], cause: str) -> Case:
    model, feeds = net
    result = calibrant.quantize(model, feeds(batch=32, seed=1), recipe)
    data = feeds(batch=16, seed=5)
    return Case(model, result.deploy, data, frozenset(names), cause, recipe)


def ranged(low: float, high: float) -> Settings:
    return Settings(activation=AlgorithmChoice.of("fixed", {"low": low, "high": high}))


def digits_net(times: float = 1.0) -> tuple[onnx.ModelProto, Feeds]:
    """The trained network of the demo; two channels between two layers are so many times as large as they were."""
    model = onnx.load(digits.MODEL)
    held = {t.name: t for t in model.graph.initializer}
    by_name = {n.name: n for n in model.graph.node}
    for node, name in ((by_name["dw2_conv"], "out"), (by_name["pw2_conv"], "in")):
        for tensor in node.input[1:] if name == "out" else node.input[1:2]:
            w = onnx.numpy_helper.to_array(held[tensor]).copy()
            if name == "out":
                w[[1, 5]] *= times
            else:
                w[:, [1, 5]] /= times
            held[tensor].CopyFrom(onnx.numpy_helper.from_array(w, tensor))

    def feeds(*, batch: int, seed: int = 0) -> dict[str, Any]:
        image = digits.calibration().image if seed == 1 else digits.evaluation().image
        return {"image": image[:batch]}

    return model, feeds


def hostile() -> Case:
    return case(sabotaged.hostile_channels(), PLAIN, {"conv2", "conv3"}, "range")


def hostile_onnxruntime() -> Case:
    return case(sabotaged.hostile_channels(), ONNXRUNTIME, {"conv2", "conv3"}, "range")


def hostile_digits() -> Case:
    return case(digits_net(300.0), PLAIN, {"dw2_conv", "pw2_conv"}, "range")


def clipped() -> Case:
    recipe = PLAIN.with_rules(Rule(Layer("conv3"), ranged(-0.05, 0.05)))
    return case(NETS["residual"](), recipe, {"conv3"}, "clipping")


def clipped_digits() -> Case:
    recipe = ONNXRUNTIME.with_rules(Rule(Layer("pw3_conv"), ranged(-0.1, 0.1)))
    return case(digits_net(), recipe, {"pw3_conv"}, "clipping")


def mask() -> Case:
    recipe = replace(PLAIN, target="horizon-like")
    return case(sabotaged.masked_scores(), recipe, {"masked", "placed", "weight"}, "mask")


def shared() -> Case:
    """Both calls of a module have the range of the call that reads large values."""
    recipe = PLAIN.with_rules(*(Rule(Layer(n), ranged(-30, 300)) for n in ("conv2", "conv3")))
    return case(sabotaged.shared_unlike(), recipe, {"conv2"}, "range")


def normalized() -> Case:
    """Calibrated on images from 0 to 1/255, used on images from 0 to 1."""
    model, feeds = NETS["residual"]()[0], sabotaged.smooth_images()
    small = {n: x / np.float32(255) for n, x in feeds(batch=32, seed=1).items()}
    quantized = calibrant.quantize(model, small, PLAIN).deploy
    return Case(model, quantized, feeds(batch=16, seed=5), frozenset({"conv0"}), "clipping")


def too_wide() -> Case:
    """Calibrated on images from 0 to 255, used on images from 0 to 1: all ranges are too wide."""
    model, feeds = NETS["residual"]()[0], sabotaged.smooth_images()
    large = {n: x * np.float32(255) for n, x in feeds(batch=32, seed=1).items()}
    quantized = calibrant.quantize(model, large, PLAIN).deploy
    return Case(model, quantized, feeds(batch=16, seed=5), frozenset({"conv0"}), "range")


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: cache(f)
    for f in (
        hostile,
        hostile_onnxruntime,
        hostile_digits,
        clipped,
        clipped_digits,
        mask,
        shared,
        normalized,
        too_wide,
    )
}

#: By these metrics one case is looked at each time; all others by `slow` tests.
SOME = ("sqnr_db", "kullback_leibler_divergence", "max_relative_error")


def by_metric(quick: str) -> list[Any]:
    return [
        pytest.param(n, m, marks=() if m in SOME[: 3 if n == quick else 1] else pytest.mark.slow)
        for n in CASES
        for m in MEASURES
    ]


@pytest.mark.parametrize(("name", "metric"), by_metric("hostile"))
def test_compare_names_the_culprit_first(name: str, metric: str) -> None:
    x = CASES[name]()
    found = compare(x.model, x.quantized, x.data, metric=metric)
    first = found.worst_first[0]
    assert first.name in x.names
    assert first.born is not None
    assert first.born.cause == x.cause
    assert first == found.at_fault[0]
    assert found.content()["layers"][0]["born"]["cause"] == x.cause


@pytest.mark.parametrize(("name", "metric"), by_metric("mask"))
def test_sensitivity_names_the_culprit_first(name: str, metric: str) -> None:
    x = CASES[name]()
    if x.recipe is None:
        pytest.skip("the float model and its data are right")
    found = calibrant.sensitivity(x.model, x.data, x.recipe, "int8", metric)
    assert found.layers[0].name in x.names
    assert found.layers[0].cause == x.cause


def test_what_outputs_lose_by_a_layer_is_what_they_lose_with_its_roundings_alone() -> None:
    """A quantized model in which one layer alone is quantized: its row has the whole loss of the outputs."""
    model, feeds = NETS["residual"]()
    alone = PLAIN.with_rules(
        Rule(AllNodes(), Settings(compute="float32")),
        Rule(Layer("conv3"), Settings(compute="int")),
    )
    quantized = calibrant.quantize(model, feeds(batch=16, seed=1), alone).deploy
    found = compare(model, quantized, feeds(batch=8, seed=5))
    first, *others = found.worst_first
    assert first.name == "conv3"
    assert first.loss is not None
    assert all(not row.loss for row in others)
    # the activation and the weight are measured one by one: the worse one is most of it, and not more
    whole = 10 ** (-found.outputs[0].whole.metrics["sqnr_db"] / 10)
    assert 0.3 * whole < first.loss < 1.3 * whole
