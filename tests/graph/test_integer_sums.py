"""Integer sums: the very integers, whatever the widths, the sizes and the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from calibrant.graph.passes.integer_sums import with_integer_sums
from calibrant.runtime.measure import run


def model(text: str, constants: dict[str, Any]) -> ir.Model:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    made = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    proto.graph.initializer.extend(made)
    return ir.from_proto(proto)


CONV = """
net (float[N,C,4,4] x) => (float[N,O,P,Q] y) {
    q = QuantizeLinear (x, s, z)
    a = DequantizeLinear (q, s, z)
    v = DequantizeLinear <axis = 0> (w, t, u)
    c = DequantizeLinear <axis = 0> (b, st, o)
    y = Conv <pads = [1,0,0,1]> (a, v, c)
}"""


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("channels", [3, 700])
def test_a_convolution_adds_up_integers(dtype, channels):
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    zero = dtype(info.min // 2 + info.max // 2 + 3)
    stored = rng.choice([info.min, info.max], size=(2, channels, 4, 4)).astype(dtype)
    weight = rng.choice([-128, 127, 5], size=(4, channels, 3, 3)).astype(np.int8)
    s, t = np.float32(0.013), rng.uniform(0.001, 0.1, 4).astype(np.float32)
    bias = rng.integers(-(2**30), 2**30, 4).astype(np.int32)
    net = model(
        CONV,
        {
            "s": np.asarray(s),
            "z": np.asarray(zero),
            "w": weight,
            "t": t,
            "u": np.zeros(4, np.int8),
            "b": bias,
            "st": s * t,
            "o": np.zeros(4, np.int32),
        },
    )
    x = (stored.astype(np.float64) - float(zero)) * float(s)
    changed, layers = with_integer_sums(net)
    assert len(layers) == 1
    found = run(changed, [{"x": x.astype(np.float32)}], optimize=False)[0]["y"]

    integers = np.pad(stored.astype(np.int64) - int(zero), ((0, 0), (0, 0), (1, 0), (0, 1)))
    sums = np.zeros((2, 4, 3, 3), dtype=np.int64)
    for i in range(3):
        for j in range(3):
            window = integers[:, :, i : i + 3, j : j + 3]
            sums += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j].astype(np.int64))
    wanted = (sums + bias.reshape(-1, 1, 1)).astype(np.float32) * (s * t).reshape(-1, 1, 1)
    np.testing.assert_array_equal(found, wanted)


def test_a_product_of_matrices_adds_up_integers():
    rng = np.random.default_rng(1)
    weight = rng.integers(-128, 128, size=(6, 5000)).astype(np.int8)
    stored = rng.integers(0, 256, size=(3, 5000))
    s, t = np.float32(0.02), rng.uniform(0.001, 0.1, 6).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)  # in float
    net = model(
        """
        net (float[N,5000] x) => (float[N,6] y) {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            v = DequantizeLinear <axis = 0> (w, t)
            y = Gemm <transB = 1> (a, v, b)
        }""",
        {"s": np.asarray(s), "z": np.asarray(128, np.uint8), "w": weight, "t": t, "b": bias},
    )
    x = ((stored - 128) * float(s)).astype(np.float32)
    changed, layers = with_integer_sums(net)
    assert len(layers) == 1
    sums = (stored - 128) @ weight.astype(np.int64).T
    wanted = sums.astype(np.float32) * (s * t) + bias
    np.testing.assert_array_equal(run(changed, [{"x": x}], optimize=False)[0]["y"], wanted)


def test_a_matmul_whose_weight_has_a_scale_for_each_column():
    weight = np.array([[3, -4], [5, 6], [-7, 8]], dtype=np.int8)
    s, t = np.float32(0.5), np.array([0.25, 2.0], np.float32)
    net = model(
        """
        net (float[N,M,3] x) => (float[N,M,2] y) {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            v = DequantizeLinear <axis = 1> (w, t)
            y = MatMul (a, v)
        }""",
        {"s": s, "z": np.uint8(7), "w": weight, "t": t},
    )
    stored = np.arange(12).reshape(1, 4, 3)
    changed, layers = with_integer_sums(net)
    assert len(layers) == 1
    x = ((stored - 7) * s).astype(np.float32)
    wanted = ((stored - 7) @ weight.astype(np.int64)).astype(np.float32) * (s * t)
    np.testing.assert_array_equal(run(changed, [{"x": x}], optimize=False)[0]["y"], wanted)


def test_what_is_not_quantized_stays():
    net = model(
        """
        net (float[N,3] x) => (float[N,2] y) {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            y = MatMul (a, w)
        }""",
        {
            "s": np.asarray(0.1, np.float32),
            "z": np.asarray(0, np.uint8),
            "w": np.ones((3, 2), np.float32),
        },
    )
    changed, layers = with_integer_sums(net)
    assert layers == ()
    assert [n.op_type for n in changed.graph] == [n.op_type for n in net.graph]


def test_a_convolution_whose_sums_no_digits_fit_stays_as_it_is():
    channels = 70_000
    net = model(
        """
        net (float[N,C,1,1] x) => (float[N,1,P,Q] y) {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            v = DequantizeLinear (w, s)
            y = Conv (a, v)
        }""",
        {
            "s": np.asarray(np.float32(0.5)),
            "z": np.asarray(0, np.uint8),
            "w": np.full((1, channels, 1, 1), 127, np.int8),
        },
    )
    changed, layers = with_integer_sums(net)
    assert layers == ()
    assert [n.op_type for n in changed.graph] == [n.op_type for n in net.graph]
