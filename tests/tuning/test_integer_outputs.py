"""What it costs that layers answer in integers is measured and said, with the layers that it comes from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import calibrant

#: The channels of `a` are of very different size, and evened out behind it.
NORMALIZED = """<ir_version: 8, opset_import: ["" : 17]>
normalized (float[n, 3, 8, 8] x) => (float[n, 4, 2, 2] y) {
    a = Conv (x, w)
    b = InstanceNormalization (a, ones, zeros)
    c = Conv (b, v)
    d = Relu (c)
    y = Conv (d, u)
}"""


def normalized(spread: float) -> onnx.ModelProto:
    r = np.random.default_rng(0)
    model = parser.parse_model(NORMALIZED)
    sizes = np.geomspace(1, spread, 8)[:, None, None, None]
    given = {
        "w": r.normal(0, 1, (8, 3, 3, 3)) * sizes,
        "v": r.normal(0, 0.2, (8, 8, 3, 3)),
        "u": r.normal(0, 0.2, (4, 8, 3, 3)),
        "ones": np.ones(8),
        "zeros": np.zeros(8),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(x.astype(np.float32), n) for n, x in given.items()
    )
    return model


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(0, 1, (32, 3, 8, 8)).astype(np.float32)}


def test_the_layer_whose_output_loses_is_named_and_leaving_it_in_float_helps(data):
    model = normalized(1000)
    result = calibrant.quantize(model, data, target="onnxruntime", latency=False)
    found = result.summary["integer_outputs"]
    assert found["layers"] == [model.graph.node[0].name or "Conv_a"]
    assert found["best_db"] - found["db"] > 6
    assert found["left_db"] > found["best_db"] - 3
    (text,) = [w for w in result.summary["warnings"] if "answer in integers" in w]
    assert f"--skip '{found['layers'][0]}'" in text
    rules = [{"where": {"layer": found["layers"][0]}, "precision": "float32"}]
    other = calibrant.quantize(
        model, data, {"calibrant": 1, "rules": rules}, target="onnxruntime", latency=False
    )
    assert sqnr_db(other) > sqnr_db(result) + 6
    assert other.summary["integer_outputs"] is None


@pytest.mark.parametrize(("spread", "target"), [(1.5, "onnxruntime"), (1000, "generic")])
def test_nothing_is_said_where_nothing_is_lost(data, spread, target):
    result = calibrant.quantize(normalized(spread), data, target=target, latency=False)
    assert result.summary["integer_outputs"] is None
    assert not any("answer in integers" in w for w in result.summary["warnings"])


def sqnr_db(result: calibrant.QuantizedModel) -> float:
    return float(result.summary["quality"]["outputs"]["y"]["sqnr_db"])
