"""Bias correction finds a shift that was put in, and never keeps what does not hold on other samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.choose import choose_activations, choose_layers
from calibrant.data.batch import Batch
from calibrant.emit.qdq import emit_qdq, emit_simulated
from calibrant.graph.load import load, prepare
from calibrant.graph.opset import WIDE_OPSET, raise_opset
from calibrant.plan import Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.refine.bias_correction import correct_bias
from calibrant.runtime.observe import observe
from tests.models import NETS, Array, Feeds, Model, Weights, build, normal
from tests.road import every_net, outputs, sqnr_db

W = Weights(0)
FINE = Settings(activation_bits=16, weight_bits=16)
COARSE = Settings(weight_bits=4, weight_per_channel=False)


def parts(feeds: Feeds, *, count: int = 8, size: int = 8) -> list[dict[str, Array]]:
    return [feeds(batch=size, seed=seed) for seed in range(count)]


def prepared(model: object) -> ir.Model:
    """A model at an opset with 4 and 16 bits."""
    return prepare(raise_opset(load(model), WIDE_OPSET))  # type: ignore[arg-type]


def chosen(model: ir.Model, feeds: Feeds, settings: Settings) -> tuple[Plan, Parameters]:
    """Resolve and choose, as the pipeline does."""
    plan = resolve(Recipe(rules=(Rule(AllNodes(), settings),)), model)
    batches = [Batch(f, {}, 0, len(next(iter(f.values()))), "data") for f in parts(feeds)]
    statistics = observe(model, plan.observed_tensors, batches)
    return plan, Parameters(choose_activations(plan, statistics), choose_layers(plan, model))


def bias_of_model(model: ir.Model, name: str | None) -> Array:
    const = model.graph.initializers[name or ""].const_value
    assert const is not None
    return np.array(const.numpy())


def gemm(attributes: str) -> Model:
    return build(
        f"net (float[N,24] x) => (float[N,8] y) {{ y = Gemm <{attributes}> (x, w, b) }}",
        {"w": W.dense(24, 8), "b": W.vector(8)},
        normal(24),
    )


SHIFTED: dict[str, tuple[Model, str]] = {
    "conv": (NETS["residual"](), "conv1"),
    "transposed": (NETS["conv_transpose"](), "y"),
    "gemm": (NETS["gemm_mlp"](), "fc1"),
    "matmul and add": (NETS["matmul_mlp"](), "fc1"),
    "matmul and add on the left": (NETS["matmul_mlp"](), "fc3"),
    "beta": (gemm("beta = 4.0"), "y"),
    "alpha": (gemm("alpha = 0.25"), "y"),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_of_a_bias_is_taken_back(name: str) -> None:
    (proto, feeds), layer = SHIFTED[name]
    model = prepared(proto)
    plan, params = chosen(model, feeds, FINE)
    (weight,) = [w for w in plan.weights if w.layer == layer]
    right = bias_of_model(model, weight.bias).astype(np.float32)
    shift = np.linspace(-0.5, 0.5, right.size, dtype=np.float32)
    layers = dict(params.layers)
    layers[layer] = replace(layers[layer], bias=right + shift)
    found, report = correct_bias(model, plan, replace(params, layers=layers), parts(feeds))
    assert {c.layer: c.kept for c in report}[layer]
    corrected = found.layers[layer].bias
    assert corrected is not None
    np.testing.assert_allclose(corrected, right, atol=1e-3)
    feed = parts(feeds)[0]
    assert sqnr_db(outputs(model, feed), outputs(emit_qdq(model, plan, found), feed)) > 55


def layer_error(
    model: ir.Model, plan: Plan, params: Parameters, feeds: list[dict[str, Array]]
) -> float:
    """Squared error of the outputs over the mean square of the float ones."""
    simulated = emit_simulated(model, plan, params)
    pairs = [(outputs(model, f)[0], outputs(simulated, f)[0]) for f in feeds]
    error = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return error / sum(float((a**2).sum()) for a, _ in pairs)


ONE_LAYER = {
    "gemm": gemm("transB = 0"),
    "conv": build(
        "net (float[N,8,6,6] x) => (float[N,8,6,6] y) { y = Conv <pads = [1,1,1,1]> (x, w, b) }",
        {"w": W.conv(8, 8), "b": W.vector(8)},
        normal(8, 6, 6, shift=1.5),
    ),
}


@pytest.mark.parametrize("name", ONE_LAYER)
@pytest.mark.parametrize(
    "settings", [FINE, COARSE, Settings()], ids=["16 bits", "4 bits", "8 bits"]
)
def test_a_layer_is_not_worse_on_samples_that_it_has_not_seen(
    name: str, settings: Settings
) -> None:
    proto, feeds = ONE_LAYER[name]
    model = prepared(proto)
    plan, params = chosen(model, feeds, settings)
    found, _ = correct_bias(model, plan, params, parts(feeds))
    others = [feeds(batch=8, seed=100 + s) for s in range(8)]
    before, after = (layer_error(model, plan, p, others) for p in (params, found))
    assert after <= before * 1.02


def test_a_bias_that_clips_on_one_side_gains() -> None:
    """Inputs far from zero and coarse weights: the mean error is most of the error."""
    proto, feeds = ONE_LAYER["conv"]
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    found, report = correct_bias(model, plan, params, parts(feeds))
    assert report[0].kept
    assert report[0].gain > 0
    others = [feeds(batch=8, seed=100 + s) for s in range(4)]
    before, after = (layer_error(model, plan, p, others) for p in (params, found))
    assert after < 0.8 * before


def test_noise_is_not_kept() -> None:
    """Halves that disagree: each would correct in the other direction."""
    proto, feeds = gemm("transB = 0")
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    mirrored = [{"x": f["x"] * sign} for f in parts(feeds, count=1) for sign in (1, -1)]
    bias = bias_of_model(model, "b")
    layers = {"y": replace(params.layers["y"], bias=bias)}
    found, report = correct_bias(model, plan, replace(params, layers=layers), mirrored)
    assert [c.kept for c in report] == [False]
    np.testing.assert_array_equal(found.layers["y"].bias, bias)


@pytest.mark.parametrize("name", every_net())
def test_every_network_is_corrected_without_changing_its_model(name: str) -> None:
    proto, feeds = NETS[name]()
    model = prepared(proto)
    before = ir.to_proto(model).SerializeToString()
    plan, params = chosen(model, feeds, COARSE)
    found, report = correct_bias(model, plan, params, parts(feeds, count=2, size=2))
    assert ir.to_proto(model).SerializeToString() == before
    kept = {c.layer for c in report if c.kept}
    assert {n for n, p in found.layers.items() if p.bias is not None} == kept
    outputs(emit_qdq(model, plan, found), feeds(batch=2))


def test_one_feed_is_too_few() -> None:
    proto, feeds = NETS["residual"]()
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    assert correct_bias(model, plan, params, parts(feeds, count=1)) == (params, [])


def test_layers_whose_bias_cannot_change_are_left_out() -> None:
    """A product without an Add, and a Gemm whose bias is computed."""
    proto, feeds = build(
        """net (float[N,24] x) => (float[N,8] y) {
            a = MatMul (x, v) y = Gemm (x, w, a)
        }""",
        {"v": W.dense(24, 8), "w": W.dense(24, 8)},
        normal(24),
    )
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    assert correct_bias(model, plan, params, parts(feeds)) == (params, [])
