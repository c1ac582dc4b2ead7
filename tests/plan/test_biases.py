"""The bias of a layer as integers: no channel's bias is coarse, none saturates, and what is scored is what is shipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrant.analysis.simulate import Simulator
from calibrant.choose import choose_parameters, with_algorithm
from calibrant.data.batch import Batch
from calibrant.emit.parametric import visible_biases
from calibrant.emit.qdq import emit_simulated
from calibrant.plan import resolve
from calibrant.plan.biases import LARGEST, ROOM, final_bias
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from calibrant.runtime.measure import run
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import Runtime
from tests.models import Array, Model, Weights, build, normal
from tests.road import batches, op_types, outputs, prepared, quantize, sqnr_db

AS_IT_IS = Recipe(equalize="off", bias_correction="off")
ONE_SCALE = replace(AS_IT_IS, rules=(Rule(AllNodes(), Settings(weight_per_channel=False)),))
TARGETS = ("generic", "layers-only", "onnxruntime", "horizon-like")


def one_layer(kind: str, *, small: float, bias: float = 1.0, seed: int = 70) -> Model:
    """Two layers; half the channels of the first have weights `small` times the others, and biases of `bias`."""
    w = Weights(seed)
    factor = np.where(np.arange(8) % 2, np.float32(small), np.float32(1))
    size = np.where(np.arange(8) % 2, np.float32(bias), np.float32(1))
    b1 = w.vector(8) * size
    if kind == "dense":
        weights = {"w1": w.dense(16, 8) * factor, "b1": b1, "w2": w.dense(8, 4)}
        text = """net (float[N,16] x) => (float[N,4] y) {
            one = Gemm (x, w1, b1)
            act = Tanh (one)
            y = MatMul (act, w2)
        }"""
        return build(text, weights, normal(16))
    layer = {
        "conv": ("Conv (x, w1, b1)", w.conv(8, 8) * factor.reshape(-1, 1, 1, 1)),
        "depthwise": ("Conv <group = 8> (x, w1, b1)", w.conv(8, 1) * factor.reshape(-1, 1, 1, 1)),
        "transposed": (
            "ConvTranspose <group = 2> (x, w1, b1)",
            w.conv(8, 4) * factor[:4].reshape(1, -1, 1, 1),
        ),
    }
    call, first = layer[kind]
    text = f"""net (float[N,8,6,6] x) => (float[N,4,H,W] y) {{
        one = {call}
        act = Tanh (one)
        y = Conv (act, w2)
    }}"""
    return build(text, {"w1": first, "b1": b1, "w2": w.conv(4, 8, 1)}, normal(8, 6, 6))


def reached(model: Model, recipe: Recipe) -> tuple[QuantizedModel, float]:
    """Return the worse of the SQNR with and without ONNX Runtime's optimizer [dB]."""
    result = quantize(model[0], batches(model[1], count=2), recipe)
    feed = model[1](batch=16, seed=9)
    want = outputs(model[0], feed)
    found = (outputs(result.deploy, feed, optimize=o) for o in (True, False))
    return result, min(sqnr_db(want, y) for y in found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["dense", "conv", "depthwise", "transposed"])
@pytest.mark.parametrize("small", [0.0, 1e-30, 1e-9, 1e-6])
def test_empty_and_tiny_channels_cost_nothing(kind: str, small: float, target: str) -> None:
    recipe = replace(AS_IT_IS, target=target)
    _, plain = reached(one_layer(kind, small=1.0), recipe)
    result, found = reached(one_layer(kind, small=small), recipe)
    assert found > plain - 4
    for w in result.plan.weights:
        bias = final_bias(result.solution.model, result.plan, result.params, w)
        if bias is not None and bias.steps is not None:
            few = np.abs(bias.steps.values[1::2]).min()
            assert few > 1000, f"{few} steps are left of a bias"


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", ["dense", "conv", "depthwise", "transposed"])
@pytest.mark.parametrize("recipe", [AS_IT_IS, ONE_SCALE], ids=["by channel", "one scale"])
@pytest.mark.parametrize("bias", [1e6, 1e8, 1e12, 1e30])
def test_a_bias_beyond_int32_does_not_saturate(
    bias: float, recipe: Recipe, kind: str, optimize: bool
) -> None:
    """The channel sits at one end of Tanh; the others must not notice."""
    model, feeds = one_layer(kind, small=1.0, bias=bias)
    result = quantize(model, batches(feeds, count=2), recipe)
    feed = feeds(batch=16, seed=9)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed, optimize=optimize)) > 20
    (w,) = [w for w in result.plan.weights if w.layer == "one"]
    found = final_bias(result.solution.model, result.plan, result.params, w)
    assert found is not None
    if recipe is ONE_SCALE:
        assert found.apart == (found.steps is None)
        assert found.apart or int(np.abs(found.steps.values).max()) <= LARGEST  # type: ignore[union-attr]
        assert found.apart == (op_types(result.deploy).count("Add") == 1)
    else:
        assert found.steps is not None
        assert int(np.abs(found.steps.values.astype(np.int64)).max()) <= ROOM + 2**8


def test_an_input_that_was_zero_gets_a_step_fine_enough_for_the_bias() -> None:
    model, feeds = one_layer("dense", small=1.0)
    zeros = [{"x": np.zeros_like(feed["x"])} for feed in batches(feeds, count=2)]
    result = quantize(model, zeros, AS_IT_IS)
    assert sqnr_db(outputs(model, zeros[0]), outputs(result.deploy, zeros[0])) > 35
    used = result.params.activations["x"].scale
    assert 0 < used < 0.5


def test_a_corrected_bias_is_written_the_same_way() -> None:
    model, feeds = one_layer("conv", small=0.0)
    shifted = [{"x": f["x"] + 3} for f in batches(feeds, count=2)]
    result = quantize(model, shifted, replace(AS_IT_IS, bias_correction="on"))
    for w in result.plan.weights:
        bias = final_bias(result.solution.model, result.plan, result.params, w)
        if bias is not None and bias.steps is not None:
            np.testing.assert_allclose(bias.floats, bias.given, atol=float(bias.steps.scale.max()))


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@settings(max_examples=4)
@given(
    st.sampled_from(["dense", "conv", "depthwise", "transposed"]),
    st.sampled_from([0.0, 1e-12, 1e-3, 1.0]),
    st.sampled_from([1e-6, 1.0, 1e4, 1e9]),
    st.sampled_from([None, 16, 8]),
)
def test_what_is_scored_is_what_is_shipped(
    target: str, kind: str, small: float, bias: float, bits: int | None
) -> None:
    model, feeds = one_layer(kind, small=small, bias=bias)
    rules = (Rule(AllNodes(), Settings(activation_bits=bits)),) if bits == 16 else ()
    if rules and target == "onnxruntime":
        rules = ()
    result = quantize(
        model, batches(feeds, count=2), replace(AS_IT_IS, target=target, rules=rules)
    )
    scored = emit_simulated(result.solution.model, result.plan, result.params)
    feed = feeds(batch=16, seed=9)
    shipped = outputs(result.deploy, feed, optimize=False)
    assert sqnr_db(shipped, outputs(scored, feed, optimize=False)) > 60


def test_the_simulation_sees_a_coarse_bias() -> None:
    """Candidates are judged with biases as they ship: rounded to the step that both scales make."""
    model, feeds = one_layer("dense", small=1.0)
    coarse = [{"x": f["x"] * 3e3} for f in batches(feeds, count=2)]
    result = quantize(model, coarse, AS_IT_IS)
    (w,) = [w for w in result.plan.weights if w.layer == "one"]
    bias = final_bias(result.solution.model, result.plan, result.params, w)
    assert bias is not None
    scored: ir.Model = emit_simulated(result.solution.model, result.plan, result.params)
    value = scored.graph.node("one").inputs[2]
    assert value is not None
    assert value.const_value is not None
    found: Array = value.const_value.numpy()
    np.testing.assert_array_equal(found, bias.floats)
    assert np.abs(found - bias.given).max() > 0.01


def test_a_bias_whose_rounding_is_seen_follows_the_range_of_each_candidate() -> None:
    """A depthwise layer of 4-bit weights: its sums are a few steps, and so is its bias."""
    given, feeds = one_layer("depthwise", small=1.0)
    model = prepared(given)
    feed = {"x": feeds(batch=8)["x"] * 10}
    feed["x"][0, 0, 0, 0] = 300.0  # percentile leaves it out
    plan = resolve(Recipe(rules=(Rule(AllNodes(), Settings(weight_bits=4)),)), model)
    seen = observe(model, plan.observed_tensors, [Batch(feed, {}, 0, 8, "test", ())])
    simulator = Simulator(model, ("y",), Runtime(threads=1))
    biases = []
    for algorithm in ("min-max", "percentile"):
        tried = with_algorithm(plan, AlgorithmChoice(algorithm))
        params = choose_parameters(tried, model, seen)
        assert "one" in visible_biases(model, tried, params)
        found = simulator.simulate(tried, params, [feed])
        expected = run(
            emit_simulated(model, tried, params),
            [feed],
            runtime=Runtime(threads=1),
            integers=False,
        )
        assert sqnr_db([expected[0]["y"]], [found[0]["y"]]) > 55  # a tie may fall to either side
        bias = final_bias(model, tried, params, tried.weights[0])
        assert bias is not None
        biases.append(bias.floats)
    assert simulator.opened == 1
    assert (biases[0] != biases[1]).any()
