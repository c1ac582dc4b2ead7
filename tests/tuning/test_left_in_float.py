"""A layer that integers cannot carry stays in float where the outputs collapse otherwise, and is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import calibrant
from calibrant.runtime.measure import compare, run

SPECTRUM = """<ir_version: 8, opset_import: ["" : 17]>
spectrum (float[n, 16] x) => (float[n, 6] y) {
    a = MatMul (x, basis)
    power = Mul (a, a)
    bands = MatMul (power, filters)
    floor = Constant <value_float = 1e-10> ()
    raised = Max (bands, floor)
    y = Log (raised)
}"""


def spectrum() -> onnx.ModelProto:
    r = np.random.default_rng(0)
    model = parser.parse_model(SPECTRUM)
    loud = 10.0 ** np.linspace(0, 4, 24)  # powers of 1 to 1e8: eight bits hold the loudest alone
    basis = (r.normal(0, 1, (16, 24)) * loud).astype(np.float32)
    filters = np.kron(np.eye(6), np.ones((4, 1))).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(basis, "basis"), numpy_helper.from_array(filters, "filters")]
    )
    return model


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(0, 1, (48, 16)).astype(np.float32)}


def quality(result: calibrant.QuantizedModel) -> float:
    feeds = [{"x": np.random.default_rng(2).normal(0, 1, (32, 16)).astype(np.float32)}]
    float_outputs = run(spectrum(), feeds, integers=False)
    return compare(float_outputs, run(result.deploy, feeds, integers=False))[0].sqnr_db


def test_powers_in_front_of_a_logarithm_are_left_in_float(data):
    result = calibrant.quantize(spectrum(), data, latency=False)
    left = result.summary["layers"]["float"]
    assert [x["reason"] for x in left] == ["the outputs collapse where it is quantized"]
    assert list(result.summary["layers"]["collapse_in_integers"]) == [left[0]["layer"]]
    assert left[0]["layer"] in result.summary["warnings"][0]
    assert not any("has collapsed" in w for w in result.summary["warnings"])
    assert result.summary["layers"]["quantized"] == 1
    assert quality(result) > 20


def test_a_precision_that_a_rule_gives_is_kept(data):
    rules = [{"where": "all", "precision": "int8"}]
    result = calibrant.quantize(spectrum(), data, {"calibrant": 1, "rules": rules}, latency=False)
    assert result.summary["layers"]["quantized"] == 2
    assert result.summary["layers"]["collapse_in_integers"] == {}
    assert any("has collapsed" in w for w in result.summary["warnings"])
    assert quality(result) < 5


def test_positions_behind_which_one_sample_is_right_by_chance_are_left_in_float():
    """The first position is 0, which every grid has: its answer alone is perfect."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        positions (float[n, 1] p) => (float[n, 3] y) {
            a = MatMul (p, f)
            s = Sin (a)
            y = MatMul (s, w)
        }"""
    )
    r = np.random.default_rng(3)
    rates = 10.0 ** -np.linspace(0, 3, 8, dtype=np.float32)[None]
    weight = r.normal(0, 0.4, (8, 3)).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(rates, "f"), numpy_helper.from_array(weight, "w")]
    )
    data = {"p": np.arange(64, dtype=np.float32)[:, None] * 17}
    result = calibrant.quantize(model, data, latency=False)
    assert len(result.summary["layers"]["collapse_in_integers"]) == 1
    assert result.summary["quality"]["outputs"]["y"]["sqnr_db"] > 30
