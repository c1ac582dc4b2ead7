"""With integer sums the trained module and the deployed file are equal, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.demo.digits import MODEL, calibration, evaluation
from calibrant.errors import ConfigValueError
from calibrant.qat import prepare
from calibrant.qat.integers import integer_outputs
from tests.models import Weights, build, normal
from tests.qat.quick import RECIPE
from tests.qat.test_trainable import retrain, steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activations", "weights"), [("INT8", "INT8"), ("INT8", "INT4"), ("INT4", "INT4")]
)
def test_integers_are_equal_bit_for_bit(activations, weights):
    qat = prepare(MODEL, {"image": calibration().image}, retrain(activations, weights))
    steps(qat)
    result = qat.convert(check="integers")
    said = result.summary["training"]["agreement"]
    assert said["integers_db"] > 100
    assert said["integers_top1"] == 1
    feeds = [{"image": evaluation().image[:200]}]
    theirs, layers = integer_outputs(result.deploy, feeds)
    assert len(layers) == len(qat.solution.plan.weights) == 10
    assert said["integers_left_out"] == []
    mine = qat.integers(feeds)
    for name, x in theirs[0].items():
        np.testing.assert_array_equal(mine[0][name], x)
    with pytest.raises(ConfigValueError, match="check is 'integer'"):
        qat.convert(check="integer")


DEPTHWISE = """
net (float[N,4,8,8] x) => (float[N,4,8,8] y) {
    d = Conv <group = 4, pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w0, b0)
    y = Conv <kernel_shape = [1, 1]> (d, w1, b1)
}"""
TRANSPOSED = """
net (float[N,4,8,8] x) => (float[N,6,16,16] y) {
    y = ConvTranspose <group = 2, strides = [2, 2], kernel_shape = [2, 2]> (x, w0, b0)
}"""


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("text", [DEPTHWISE, TRANSPOSED], ids=["depthwise", "transposed"])
def test_layers_that_read_a_scale_for_each_channel_have_integer_sums(text, per_channel):
    some = Weights()
    weights = {"w0": some.conv(4, 1), "b0": some.vector(4)}
    weights |= {"w1": some.conv(4, 4, 1), "b1": some.vector(4)}
    if text is TRANSPOSED:
        weights = {"w0": some.conv(4, 3, 2), "b0": some.vector(6)}
    model, feeds = build(text, weights, normal(4, 8, 8))
    x = feeds(batch=16)["x"] * np.array([0.01, 1, 30, 5], np.float32).reshape(-1, 1, 1)
    activation = {"algorithm": "max", "per_channel": True}
    rule = {"where": "all", "activation": activation, "weight": {"per_channel": per_channel}}
    qat = prepare(model, {"x": x}, {**RECIPE, "target": "layers-only", "rules": [rule]})
    assert any(d.spec.axis is not None for d in qat.solution.plan.activations)
    said = qat.convert(check="integers").summary["training"]["agreement"]
    assert said["integers_left_out"] == []
    assert said["integers_db"] > 100


def test_layers_without_integer_sums_are_named(caplog):
    """The weight stands on the left, where no integer kernel reads it."""
    text = "net (float[N,6,2] x) => (float[N,3,2] y) { y = MatMul (w, x) }"
    model, feeds = build(text, {"w": Weights().dense(3, 6)}, normal(6, 2))
    qat = prepare(model, feeds(batch=16), {**RECIPE, "target": "layers-only"})
    said = qat.convert(measure=True).summary["training"]["agreement"]
    assert said["integers_left_out"] == ["y"]
    with caplog.at_level("WARNING"):
        qat.integers()
    assert "Without integer sums: y." in caplog.text
