"""Pairs that can exchange scale, and equalization: what the model computes stays the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.data.batch import Batch
from calibrant.graph.passes.equalize import GROW_LIMIT, SHRINK_LIMIT, Equalized, equalize
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.graph.passes.pairs import find_pairs
from calibrant.runtime.observe import channel_magnitudes
from tests.models import NETS, Array, Feeds, Weights, build, normal
from tests.models.convolution import IMAGE
from tests.road import every_net, outputs, prepared, sqnr_db

W = Weights(0)
UNEVEN = np.logspace(-1, 1, 8, dtype=np.float32)


def batch(feeds: Feeds, seed: int = 0) -> Batch:
    return Batch(feeds(batch=8, seed=seed), {}, 0, 8, "data")


def even(model: ir.Model, feeds: Feeds) -> tuple[ir.Model, list[Equalized]]:
    """Equalise a copy and check that its outputs did not move."""
    changed = model.clone()
    pairs = find_pairs(changed)
    axes = {p.tensor: p.axis for p in pairs}
    magnitudes = channel_magnitudes(model, axes, [batch(feeds, s) for s in range(2)])
    done = equalize(changed, pairs, magnitudes)
    feed = feeds(batch=4, seed=9)
    for a, b in zip(outputs(model, feed), outputs(changed, feed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * max(1e-30, float(np.abs(a).max())))
    assert sqnr_db(outputs(model, feed), outputs(changed, feed)) > 100
    return changed, done


@pytest.mark.parametrize("name", every_net())
def test_equalization_moves_no_output(name: str) -> None:
    model, feeds = NETS[name]()
    made = prepared(model)
    fuse_batchnorm(made)
    even(made, feeds)


def test_the_network_with_channels_over_decades_becomes_even() -> None:
    model, feeds = NETS["depthwise_leaky"]()
    made = prepared(model)
    changed, done = even(made, feeds)
    assert max(d.spread for d in done) > 30

    def spread(m: ir.Model) -> float:
        x = channel_magnitudes(m, {"act2": 1}, [batch(feeds)])["act2"]
        return float(x.max() / x.min())

    assert spread(changed) < spread(made) / 20


def test_factors_keep_their_limits() -> None:
    model, feeds = NETS["depthwise_leaky"]()
    made = prepared(model)
    before = {n: v.const_value.numpy() for n, v in made.graph.initializers.items()}  # type: ignore[union-attr]
    changed, _ = even(made, feeds)
    for pair in find_pairs(made):
        for sink in pair.sinks:
            after = changed.graph.initializers[sink.weight].const_value
            assert after is not None
            w, v = (np.moveaxis(x, sink.axis, 0) for x in (before[sink.weight], after.numpy()))
            f = np.abs(v).reshape(len(v), -1).max(1) / np.abs(w).reshape(len(w), -1).max(1)
            if sink.weight not in dict(q for p in find_pairs(made) for q in p.source_values):
                made_by = next(before[n] for n, _ in pair.source_values if before[n].ndim > 1)
                own = np.abs(made_by).reshape(len(made_by), -1).max(1)
                r = own / np.exp(np.log(own).mean())
                assert (f >= np.minimum(1, r) / GROW_LIMIT * 0.999).all()
                assert (f <= np.maximum(1, r) * SHRINK_LIMIT * 1.001).all()


def pairs(text: str, weights: dict[str, Array], feeds: Feeds = IMAGE) -> list[tuple[str, str]]:
    """Return (source, tensor) of each pair of a network, after checking that it can be evened."""
    values = {"w1": W.conv(8, 3, 1) * UNEVEN[:, None, None, None], "w2": W.conv(4, 8, 1)}
    values |= {"b1": W.vector(8), "w3": W.conv(4, 8, 1), "d1": W.conv(8, 1)}
    values |= weights
    made = prepared(build(text, {n: v for n, v in values.items() if n in text}, feeds))
    even(made, feeds)
    return [(p.source, p.tensor) for p in find_pairs(made)]


HEAD = "net (float[N,3,16,16] x) => (float[N,4,16,16] y) "


@pytest.mark.parametrize(
    ("between", "tensor"),
    [
        ("", "a"),
        ("b = Relu (a)", "b"),
        ("b = LeakyRelu <alpha = 0.1> (a)", "b"),
        ("b = PRelu (a, slope)", "b"),
        ("b = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a)", "b"),
        ("r = Relu (a) b = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)", "b"),
    ],
)
def test_scale_passes_homogeneous_functions(between: str, tensor: str) -> None:
    text = f"{HEAD} {{ a = Conv (x, w1, b1) {between} y = Conv ({tensor}, w2) }}"
    slope = np.linspace(-0.5, 0.5, 8, dtype=np.float32)[:, None, None]
    assert pairs(text, {"slope": slope}) == [("a", tensor)]


@pytest.mark.parametrize(
    "between",
    [
        "b = Clip (a, low, high)",
        "g = Sigmoid (a) b = Mul (a, g)",
        "b = HardSwish (a)",
        "b = Tanh (a)",
        "b = Add (a, low)",
    ],
)
def test_scale_does_not_pass_other_functions(between: str) -> None:
    text = f"{HEAD} {{ a = Conv (x, w1) {between} y = Conv (b, w2) }}"
    limits = {"low": np.array(0, dtype=np.float32), "high": np.array(6, dtype=np.float32)}
    assert pairs(text, limits) == []


def test_all_readers_share_the_factors() -> None:
    text = f"{HEAD} {{ a = Conv (x, w1) b = Conv (a, w2) c = Conv (a, w3) y = Add (b, c) }}"
    assert pairs(text, {}) == [("a", "a")]


def test_a_reader_without_a_weight_ends_it() -> None:
    text = f"{HEAD} {{ a = Conv (x, w1) b = Conv (a, w2) c = Add (a, a) d = Conv (c, w3) y = Add (b, d) }}"
    assert pairs(text, {}) == []


def test_a_tensor_that_is_an_output_is_left_alone() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,8,16,16] r) {
        a = Conv (x, w1) r = Relu (a) y = Conv (r, w2)
    }"""
    assert pairs(text, {}) == []


def test_a_weight_that_is_shared_is_left_alone() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[N,4,16,16] z, float[N,8,16,16] v) {
        a = Conv (x, w1) y = Conv (a, w2) v = Conv (x, w1) z = Conv (v, w3)
    }"""
    assert pairs(text, {}) == []


def test_a_weight_that_is_an_output_is_left_alone() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,4,16,16] y, float[4,8,1,1] w2) {
        a = Conv (x, w1) y = Conv (a, w2)
    }"""
    assert pairs(text, {}) == []


def test_a_tensor_that_a_body_reads_is_left_alone() -> None:
    text = """net (float[N,3,16,16] x, bool c) => (float[N,4,16,16] y) {
        a = Conv (x, w1)
        y = If (c) <
            then_branch = yes () => (float[N,4,16,16] t) { t = Conv (a, w2) },
            else_branch = no () => (float[N,4,16,16] u) { u = Conv (a, w3) }
        >
    }"""

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        return IMAGE(batch, seed) | {"c": np.array(seed % 2 == 0)}

    assert pairs(text, {}, feeds) == []


def test_a_depthwise_layer_is_both_sink_and_source() -> None:
    text = f"{HEAD} {{ a = Conv (x, w1) d = Conv <group = 8, pads = [1,1,1,1]> (a, d1) y = Conv (d, w2) }}"
    assert pairs(text, {}) == [("a", "a"), ("d", "d")]


def test_a_product_over_the_last_axis_does_not_take_scale_of_channels() -> None:
    """As many columns as channels: the shapes would let it pass."""
    text = """net (float[N,8,8,8] x) => (float[N,8,8,8] y) {
        a = Conv (x, w) r = Relu (a) y = MatMul (r, v)
    }"""
    weights = {"w": W.conv(8, 8, 1) * UNEVEN[:, None, None, None], "v": W.dense(8, 8)}
    assert pairs(text, weights, normal(8, 8, 8)) == []


def test_a_convolution_does_not_take_scale_of_the_last_axis() -> None:
    text = """net (float[N,8,8,8] x) => (float[N,8,8,8] y) {
        a = LayerNormalization <axis = -1> (x, gain, shift) y = Conv (a, w)
    }"""
    weights = {"gain": UNEVEN, "shift": W.vector(8), "w": W.conv(8, 8, 1)}
    assert pairs(text, weights, normal(8, 8, 8)) == []


def test_pooling_over_the_normalized_axis_ends_it() -> None:
    text = """net (float[N,6,8] x) => (float[N,6,8] y) {
        a = LayerNormalization <axis = -1> (x, gain, shift)
        p = MaxPool <kernel_shape = [3], pads = [1,1]> (a)
        y = MatMul (p, v)
    }"""
    weights = {"gain": UNEVEN, "shift": W.vector(8), "v": W.dense(8, 8)}
    assert pairs(text, weights, normal(6, 8)) == []


def test_a_layer_normalization_gives_scale_to_products() -> None:
    text = """net (float[N,6,8] x) => (float[N,6,8] y) {
        a = LayerNormalization <axis = -1> (x, gain, shift)
        p = MatMul (a, v) q = MatMul (a, u) y = Add (p, q)
    }"""
    weights = {"gain": UNEVEN, "shift": W.vector(8), "v": W.dense(8, 8), "u": W.dense(8, 8)}
    assert pairs(text, weights, normal(6, 8)) == [("a", "a")]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_exchanges_scale_in_either_layout(first: int, second: int) -> None:
    text = f"""net (float[N,24] x) => (float[N,4] y) {{
        a = Gemm <transB = {first}> (x, u, b1) r = Relu (a) y = Gemm <transB = {second}> (r, v)
    }}"""
    u = W.dense(24, 8) * UNEVEN
    weights = {"u": u.T.copy() if first else u, "v": W.dense(4, 8) if second else W.dense(8, 4)}
    assert pairs(text, weights, normal(24)) == [("a", "r")]


@pytest.mark.parametrize("zero", ["w1", "w2"])
def test_weights_that_are_zero_change_nothing(zero: str) -> None:
    text = f"{HEAD} {{ a = Conv (x, w1) y = Conv (a, w2) }}"
    shape = {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1)}[zero]
    made = prepared(
        build(
            text,
            {"w1": W.conv(8, 3, 1), "w2": W.conv(4, 8, 1)}
            | {zero: np.zeros(shape, dtype=np.float32)},
            IMAGE,
        )
    )
    magnitudes = channel_magnitudes(made, {"a": 1}, [batch(IMAGE)])
    assert equalize(made, find_pairs(made), magnitudes) == []
