"""Files with activations of 4 bits open in ONNX Runtime as everyone opens them, and answer what they say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from tests.models import Array, Weights, build, normal
from tests.road import batches, quantize

#: What stands behind a convolution, as ONNX text from r to p.
BEHIND = {
    "nothing": "p = Identity (r)",
    "Relu": "p = Relu (r)",
    "Clip": "p = Clip (r, low, high)",
    "MaxPool": "p = MaxPool <kernel_shape = [2, 2]> (r)",
    "Relu, MaxPool": "a = Relu (r) p = MaxPool <kernel_shape = [2, 2]> (a)",
    "MaxPool, Relu": "a = MaxPool <kernel_shape = [2, 2]> (r) p = Relu (a)",
    "ReduceMax": "a = Relu (r) p = ReduceMax <axes = [2]> (a)",
    "ReduceMin": "p = ReduceMin <axes = [2]> (r)",
    "Transpose": "p = Transpose <perm = [0, 1, 3, 2]> (r)",
    "MaxPool, Transpose": (
        "a = MaxPool <kernel_shape = [2, 2]> (r) p = Transpose <perm = [0, 1, 3, 2]> (a)"
    ),
    "Transpose, MaxPool": (
        "a = Transpose <perm = [0, 1, 3, 2]> (r) p = MaxPool <kernel_shape = [2, 2]> (a)"
    ),
    "AveragePool": "p = AveragePool <kernel_shape = [2, 2]> (r)",
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("behind", BEHIND)
def test_a_plain_session_answers_what_the_file_says(behind: str, symmetric: bool) -> None:
    w = Weights()
    model, feeds = build(
        f"""net (float[N,3,8,8] x) => (float[N,4,K,L] y) {{
            r = Conv <pads = [1,1,1,1]> (x, w1, b1)
            {BEHIND[behind]}
            y = Conv (p, w2)
        }}""",
        {
            "w1": w.conv(4, 3),
            "b1": w.vector(4),
            "w2": w.conv(4, 4, kernel=1),
            "low": np.float32(0),
            "high": np.float32(1.5),
        },
        normal(3, 8, 8),
    )
    rule = Rule(
        AllNodes(),
        Settings(
            activation_bits=4, weight_bits=4 if symmetric else 8, activation_symmetric=symmetric
        ),
    )
    result = quantize(
        model, batches(feeds), Recipe(rules=(rule,), target="layers-only", bias_correction="off")
    )
    file = ir.to_proto(result.deploy).SerializeToString()
    x = np.asarray(feeds(batch=4, seed=9)["x"])

    def answers(level: ort.GraphOptimizationLevel) -> Array:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        found: Array = session.run(None, {"x": x})[0]
        return found

    plain = answers(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    np.testing.assert_allclose(
        plain, answers(ort.GraphOptimizationLevel.ORT_DISABLE_ALL), atol=1e-4
    )
