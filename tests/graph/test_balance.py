"""Balancing changes nothing that a model computes, and follows the vendor's formula."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibrant.errors import ConfigValueError, DataError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.balance import (
    EPS,
    balance,
    balance_factors,
    channel_axis,
    weight_magnitudes,
)
from calibrant.runtime.session import open_session

RNG = np.random.default_rng(0)

#: Operator, input shape, weight shape, attributes, input channels.
LAYERS: dict[str, tuple[Any, ...]] = {
    "conv": ("Conv", (2, 6, 5, 5), (8, 6, 3, 3), {}, 6),
    "grouped conv": ("Conv", (2, 6, 5, 5), (8, 3, 3, 3), {"group": 2}, 6),
    "depthwise conv": ("Conv", (2, 6, 5, 5), (6, 1, 3, 3), {"group": 6}, 6),
    "conv 1d": ("Conv", (2, 6, 9), (8, 6, 3), {}, 6),
    "grouped conv 3d": ("Conv", (2, 6, 4, 4, 4), (4, 3, 2, 2, 2), {"group": 2}, 6),
    "conv transpose": ("ConvTranspose", (2, 6, 5, 5), (6, 4, 3, 3), {}, 6),
    "grouped conv transpose": ("ConvTranspose", (2, 6, 5, 5), (6, 2, 3, 3), {"group": 3}, 6),
    "conv transpose 1d": ("ConvTranspose", (2, 6, 5), (6, 4, 3), {}, 6),
    "gemm": ("Gemm", (2, 6), (6, 4), {}, 6),
    "gemm, transposed": ("Gemm", (2, 6), (4, 6), {"transB": 1}, 6),
    "matmul": ("MatMul", (2, 3, 6), (6, 4), {}, 6),
}


def one_layer(name: str, values: npt.NDArray[np.float32] | None = None) -> ir.Model:
    op, shape, weight, attributes, _ = LAYERS[name]
    data = RNG.normal(size=weight) if values is None else values
    w = numpy_helper.from_array(data.astype(np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return prepare(load(model))


@pytest.mark.parametrize("name", LAYERS)
def test_a_balanced_layer_computes_the_same_from_a_divided_input(name):
    model = one_layer(name)
    channels = LAYERS[name][4]
    magnitudes = weight_magnitudes(model.graph.node("layer"))
    assert magnitudes is not None
    assert magnitudes.shape == (channels,)
    feed = {"x": RNG.normal(size=LAYERS[name][1]).astype(np.float32)}
    before = open_session(model).run(None, feed)[0]
    factors = RNG.uniform(0.1, 10, channels)
    balance(model, "x", ["layer"], factors)
    assert [n.op_type for n in model.graph] == ["Mul", LAYERS[name][0]]
    np.testing.assert_allclose(
        open_session(model).run(None, feed)[0], before, rtol=1e-4, atol=1e-4
    )
    after = weight_magnitudes(model.graph.node("layer"))
    assert after is not None
    np.testing.assert_allclose(after, magnitudes * factors, rtol=1e-5)


def test_the_vendors_worked_example():
    f = balance_factors([4.0, 0.0, 9.0], [0.5, 2.0, 4.0], 0.5)  # worked by hand
    np.testing.assert_allclose(f, [2.82842708, 3.0, 1.5], rtol=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from([0.2, 0.5, 0.8]))
@pytest.mark.parametrize("name", LAYERS)
def test_balancing_by_powers_of_two_is_exact(name, data, strength):
    """Where f is a power of two, no product rounds differently: (x / f) (f w) is x w, bit for bit."""
    _, shape, weight, _, channels = LAYERS[name]
    exponents = data.draw(st.lists(st.integers(-6, 6), min_size=channels, max_size=channels))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, w = (rng.integers(-8, 9, s).astype(np.float32) for s in (shape, weight))
    model = one_layer(name, w)
    before = open_session(model).run(None, {"x": x})[0]
    balance(model, "x", ["layer"], 2.0 ** np.array(exponents))
    np.testing.assert_array_equal(open_session(model).run(None, {"x": x})[0], before)
    # and with the factors of the formula, to the precision of float32
    model = one_layer(name, w)
    magnitudes = weight_magnitudes(model.graph.node("layer"))
    assert magnitudes is not None
    axis = channel_axis(model.graph.node("layer"))
    seen = np.abs(np.moveaxis(x, axis, 0).reshape(channels, -1)).max(axis=1)
    balance(model, "x", ["layer"], balance_factors(seen, magnitudes, strength))
    after = open_session(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_each_row_of_a_weight_belongs_to_one_input_channel(name):
    """Input channel j alone is heard where every other is zero, whatever the groups are."""
    _, shape, _, _, channels = LAYERS[name]
    model = one_layer(name)
    axis = channel_axis(model.graph.node("layer"))
    for j in range(channels):
        x = np.zeros(shape, dtype=np.float32)
        np.moveaxis(x, axis, 0)[j] = 1
        before = open_session(model).run(None, {"x": x})[0]
        factors = np.ones(channels)
        factors[j] = 4.0
        changed = model.clone()
        balance(changed, "x", ["layer"], factors)
        changed.graph.node("layer").replace_input_with(0, changed.graph.inputs[0])  # no division
        heard = open_session(changed).run(None, {"x": x})[0]
        np.testing.assert_allclose(heard, 4 * before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv", (1, 6, 1, 1)),
        ("conv 1d", (1, 6, 1)),
        ("grouped conv 3d", (1, 6, 1, 1, 1)),
        ("conv transpose", (1, 6, 1, 1)),
        ("gemm", (1, 6)),
        ("matmul", (1, 6)),
    ],
)
def test_the_inverse_has_the_shape_of_the_vendor(name, shape):
    model = one_layer(name)
    done = balance(model, "x", ["layer"], RNG.uniform(0.1, 10, 6))
    (mul,) = [n for n in model.graph if n.op_type == "Mul"]
    by = mul.inputs[1]
    assert by is not None
    assert by.const_value is not None
    inverse = by.const_value.numpy()
    assert inverse.shape == shape
    # what the record has is enough to build the same constant again
    np.testing.assert_array_equal(inverse.reshape(-1), np.float32(1) / done.factors)


def by_the_letter(x, w, a):
    """The factors of docs/explanation/equalization.md, channel by channel."""
    n = len(x)
    if all(v < EPS for v in x) or all(v < EPS for v in w):
        return [1.0] * n
    f = [0.0 if w[j] < EPS else x[j] ** a / w[j] ** (1 - a) for j in range(n)]
    valid = [j for j in range(n) if f[j] >= EPS]
    xo = max([x[j] / f[j] for j in valid], default=1.0)
    wo = max([w[j] * f[j] for j in valid], default=1.0)
    for j in range(n):
        if x[j] < EPS and w[j] < EPS:
            f[j] = 1.0
        elif x[j] < EPS:
            f[j] = wo / w[j]
        elif w[j] < EPS:
            f[j] = x[j] / xo
    return f


magnitudes = st.sampled_from([0.0, 1e-9, EPS / 2]) | st.floats(1e-3, 1e3)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(magnitudes, magnitudes), min_size=1, max_size=8),
    st.floats(0.2, 0.8),
)
def test_factors_are_those_of_the_formula(channels, strength):
    x, w = ([c[i] for c in channels] for i in (0, 1))
    wanted = by_the_letter(x, w, strength)
    if all(EPS < f < 1 / EPS for f in wanted):
        found = balance_factors(x, w, strength, tiny_to_one=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    else:
        with pytest.raises(DataError, match=r"balance factor of channel \d"):
            balance_factors(x, w, strength, tiny_to_one=True)


@pytest.mark.parametrize("strength", [0.2, 0.8])
def test_a_larger_strength_moves_more_to_the_weights(strength):
    x, w = np.array([8.0, 1.0]), np.array([1.0, 1.0])
    f = balance_factors(x, w, strength)
    np.testing.assert_allclose(x / f, [8 ** (1 - strength), 1.0])
    np.testing.assert_allclose(w * f, [8**strength, 1.0])


def test_a_factor_that_float32_cannot_divide_by_is_refused():
    with pytest.raises(DataError, match=r"factor of channel 1 is 3.16e\+07.*activation of 1e\+15"):
        balance_factors([1.0, 1e15], [1.0, 1.0], tiny_to_one=True)
    with pytest.raises(DataError, match=r"lies in \(2\*\*-23, 2\*\*23\)"):
        balance_factors([1e-15, 1e15], [1.0, 1.0])


@given(st.lists(st.tuples(magnitudes, magnitudes), min_size=1, max_size=8), st.integers(-80, 80))
def test_the_unit_of_the_activation_moves_into_the_factors(channels, k):
    x, w = (np.array([c[i] for c in channels]) for i in (0, 1))
    try:
        before = balance_factors(x, w, 0.5)
    except DataError:
        return  # too uneven, in any unit
    after = balance_factors(np.ldexp(x, k), np.ldexp(w, -k), 0.5)
    alive = (x > 0) | (w > 0)
    octaves = np.log2((after / before)[alive])
    np.testing.assert_allclose(octaves, np.rint(octaves), atol=1e-9)
    assert np.unique(np.rint(octaves)).size <= 1


def test_channels_that_are_zero():
    assert balance_factors([0.0, 4.0], [0.0, 1.0]).tolist() == [1.0, 2.0]
    assert balance_factors([3.0, 4.0], [0.0, 1.0]).tolist() == [1.5, 2.0]
    assert balance_factors([0.0, 0.0], [1.0, 2.0]).tolist() == [1.0, 1.0]
    assert balance_factors([1.0, 2.0], [0.0, 0.0]).tolist() == [1.0, 1.0]


def test_strengths_and_shapes_that_are_refused():
    with pytest.raises(ConfigValueError, match=r"0\.9; it lies in \[0\.2, 0\.8\]"):
        balance_factors([1.0], [1.0], 0.9)
    with pytest.raises(DataError, match="2 activation channels and 1 weight channels"):
        balance_factors([1.0, 1.0], [1.0])
