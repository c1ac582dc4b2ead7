"""Casts whose type is known are computed beforehand where they cast constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.graph.load import load, prepare
from calibrant.runtime.measure import run
from tests.models import Weights, build, normal

RELU6 = """
net (float[N,4] x) => (float[N,3] y) {
    h = MatMul (x, w)
    low = CastLike (zero, h)
    high = CastLike (six, h)
    y = Clip (h, low, high)
}"""

#: The type of the reference is known only behind what decides it.
OF_AN_IF = """
net (float[N,4] x) => (float[N,3] y) {
    h = MatMul (x, w)
    c = Constant <value = bool {1}> ()
    k = If (c) <then_branch = a () => (float[N,3] p) { p = Relu (h) },
                else_branch = b () => (float[N,3] q) { q = Neg (h) }>
    low = CastLike (zero, k)
    high = CastLike (six, k)
    y = Clip (k, low, high)
}"""


@pytest.mark.parametrize("text", [RELU6, OF_AN_IF])
def test_the_bounds_of_a_clip_that_are_cast_like_its_input_are_constants(text):
    weights = {"w": 9 * Weights().dense(4, 3), "zero": np.int64(0), "six": np.int64(6)}
    model, feeds = build(text, weights, normal(4))
    feed = feeds(batch=8)
    prepared = prepare(load(model))
    assert "CastLike" not in {n.op_type for n in prepared.graph}
    clip = next(n for n in prepared.graph if n.op_type == "Clip")
    ends = [prepared.graph.initializers[str(v and v.name)] for v in clip.inputs[1:]]
    assert [float(v.const_value.numpy()) for v in ends if v.const_value is not None] == [0, 6]
    assert all(v.dtype == ir.DataType.FLOAT for v in ends)
    wanted, found = (run(m, [feed], optimize=False)[0]["y"] for m in (load(model), prepared))
    np.testing.assert_array_equal(found, wanted)
