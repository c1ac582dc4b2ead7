"""Sums of two products stay inside 16 bits on the samples, and weights pay no more for it than the samples ask."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.choose import choose_parameters
from calibrant.data.batch import Batch
from calibrant.graph.ops import contracted_axis
from calibrant.graph.values import node_named
from calibrant.numerics import quantize
from calibrant.numerics.pairs import PAIR_LIMIT, pair_sums
from calibrant.plan import resolve
from calibrant.recipe import Recipe
from calibrant.refine.narrow_sums import fit_narrow_sums
from calibrant.runtime.observe import observe
from tests.models import Array, Weights, build, normal
from tests.road import prepared

TEXT = "net (float[N,8] x) => (float[N,6] y) { y = Gemm (x, w, b) }"


def made(w: Array, x: Array):
    """A Gemm (8 in, 6 out), its plan, parameters and samples."""
    net = build(TEXT, {"w": w, "b": Weights(3).vector(6)}, normal(8))
    model = prepared(net)
    batches = [Batch({"x": x}, {}, 0, len(x), "test", ())]
    plan = resolve(Recipe(target="onnxruntime"), model)
    params = choose_parameters(plan, model, observe(model, plan.observed_tensors, batches))
    return model, plan, params, batches


def largest_sum(plan, params, x: Array) -> int:
    """The largest sum of two products of any sample, as a kernel of 16 bits would add them up."""
    p = params.activations[plan.activations[0].id]
    numbers = quantize(x, p).astype(int) - p.dtype.qmin  # (N, 8), in [0, 255]
    w = params.layers[plan.weights[0].layer].values  # (8, 6)
    products = (numbers[:, :, None] * w[None]).reshape(len(x), 4, 2, -1)
    return int(np.abs(products.sum(axis=2)).max())


def test_what_was_beyond_16_bits_is_inside() -> None:
    x = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
    model, plan, params, batches = made(np.ones((8, 6), np.float32), x)
    assert largest_sum(plan, params, x) > 2**15 - 1
    fitted, changed = fit_narrow_sums(model, plan, params, batches)
    assert changed == (plan.weights[0].layer,)
    assert largest_sum(plan, fitted, x) <= 2**15 - 1


def test_a_channel_that_stays_small_leaves_its_neighbour_the_whole_range() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (64, 8)).astype(np.float32) * np.array([1, 0.3] * 4, np.float32)
    w = np.tile(np.array([[1.0], [0.9]], np.float32), (4, 6))
    model, plan, params, batches = made(w, x)
    layer = plan.weights[0].layer
    assert (
        pair_sums(params.layers[layer].values, 1, 0).max() > PAIR_LIMIT
    )  # some input would saturate
    fitted, _ = fit_narrow_sums(model, plan, params, batches)
    growth = fitted.layers[layer].weight.scale / params.layers[layer].weight.scale
    most = (127 * 255 + 114 * 255 * 0.33) / (PAIR_LIMIT * 255)
    assert (growth <= most * 1.01).all()  # 1.88 times where both neighbours could be 255
    assert largest_sum(plan, fitted, x) <= 2**15 - 1


def test_weights_that_fit_are_the_same_objects() -> None:
    x = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
    w = np.tile(np.array([[1.0], [-1.0]], np.float32), (4, 6))  # no neighbours of one sign
    model, plan, params, batches = made(w, x)
    fitted, changed = fit_narrow_sums(model, plan, params, batches)
    assert not changed
    assert fitted.layers[plan.weights[0].layer] is params.layers[plan.weights[0].layer]


def test_a_convolution_of_one_channel_adds_pairs_and_one_of_one_filter_a_channel_does_not() -> (
    None
):
    def conv(group: int, shape: tuple[int, ...]) -> int | None:
        text = f"net (float[N,{group},9,9] x) => (float[N,{shape[0]},7,7] y) {{ y = Conv <group = {group}> (x, w) }}"
        w = np.ones(shape, np.float32)
        model = prepared(build(text, {"w": w}, normal(group, 9, 9)))
        node: ir.Node = next(n for n in model.graph if n.op_type == "Conv")
        return contracted_axis(node_named(model.graph, node.name or ""))

    assert conv(1, (16, 1, 3, 3)) == 1
    assert conv(4, (8, 1, 3, 3)) == 1
    assert conv(4, (4, 1, 3, 3)) is None
