"""Factors of a Gemm go into its constants, and its bias gets one axis; the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import Array, Weights, build, normal
from tests.road import outputs, prepared

W = Weights(60)
MATRIX, ROW = W.dense(12, 5), W.vector(5)

CASES: dict[str, tuple[str, dict[str, Array]]] = {
    "alpha": ("Gemm <alpha = 0.3> (x, w, b)", {"w": MATRIX, "b": ROW}),
    "beta": ("Gemm <beta = 0.7> (x, w, b)", {"w": MATRIX, "b": ROW}),
    "both, transposed": (
        "Gemm <alpha = -2.0, beta = 3.0, transB = 1> (x, w, b)",
        {"w": MATRIX.T.copy(), "b": ROW},
    ),
    "without a bias": ("Gemm <alpha = 0.3> (x, w)", {"w": MATRIX}),
    "beta 0": ("Gemm <beta = 0.0> (x, w, b)", {"w": MATRIX, "b": ROW}),
    "a row": ("Gemm (x, w, b)", {"w": MATRIX, "b": ROW[None]}),
    "a number": ("Gemm (x, w, b)", {"w": MATRIX, "b": np.array(0.4, np.float32)}),
    "one value": ("Gemm <beta = 2.0> (x, w, b)", {"w": MATRIX, "b": ROW[:1]}),
    "a bias for each row": ("Gemm (x, w, b)", {"w": MATRIX, "b": W.dense(4, 5)}),
    "a column": ("Gemm (x, w, b)", {"w": MATRIX, "b": W.dense(4, 1)}),
    "a weight that two read": (
        "Sum (one, two) one = Gemm <alpha = 0.5> (x, w, b) two = Gemm (x, w, b)",
        {"w": MATRIX, "b": ROW},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay(name: str) -> None:
    call, weights = CASES[name]
    first, _, rest = call.partition(" one = ")
    text = f"one = {rest} y = {first}" if rest else f"y = {call}"
    model, feeds = build(
        f"net (float[4,12] x) => (float[4,5] y) {{ {text} }}", weights, normal(12)
    )
    plain = prepared(model)
    (want,), (found,) = (outputs(m, feeds()) for m in (model, plain))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    for node in plain.graph:
        if node.op_type == "Gemm":
            assert not {"alpha", "beta"} & set(node.attributes)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if "each row" not in name and "column" not in name and bias is not None:
                assert bias.const_value is not None
                assert bias.const_value.numpy().shape == (5,)


def test_what_is_no_constant_keeps_its_factor() -> None:
    model, feeds = build(
        "net (float[4,12] x, float[4,5] c) => (float[4,5] y) { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, c) }",
        {"w": MATRIX},
        lambda batch=4, seed=0: normal(12)(batch, seed) | normal(5, name="c")(batch, seed + 1),
    )
    plain = prepared(model)
    (node,) = plain.graph
    assert set(node.attributes) == {"beta"}
    np.testing.assert_allclose(outputs(plain, feeds())[0], outputs(model, feeds())[0], rtol=1e-5)
