"""Corrections that rules ask for: what they are taken from, when they are kept, and which layers have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.choose import choose_activations, choose_layers
from calibrant.data.batch import Batch
from calibrant.dialects import load_recipe
from calibrant.emit.qdq import emit_qdq, emit_simulated
from calibrant.emit.weights_only import emit_weights_only
from calibrant.errors import ConfigValueError
from calibrant.graph.load import load, prepare
from calibrant.graph.opset import WIDE_OPSET, raise_opset
from calibrant.numerics.metrics import METRICS, get_metric
from calibrant.plan import Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import AllNodes, Layer, Recipe, Rule, Settings
from calibrant.refine._biases import output_of
from calibrant.refine.bias_by_rule import correct_by_rule
from calibrant.runtime.observe import observe
from calibrant.runtime.tap import expose
from tests.models import NETS, Array, Feeds, Model, Weights, build, normal
from tests.road import batches, every_net, outputs, quantize, sqnr_db

W = Weights(0)
COARSE = Settings(weight_bits=4, weight_per_channel=False, bias_samples=8, bias_metric="mse")
#: Networks of which every batch has the same length and rows are samples.
SHIFTED = {
    "conv": ("residual", "conv1"),
    "transposed": ("conv_transpose", "y"),
    "gemm": ("gemm_mlp", "fc1"),
    "matmul and add": ("matmul_mlp", "fc1"),
}


def prepared(model: object) -> ir.Model:
    return prepare(raise_opset(load(model), WIDE_OPSET))  # type: ignore[arg-type]


def chosen(model: ir.Model, feeds: Feeds, *settings: Settings) -> tuple[Plan, Parameters]:
    plan = resolve(Recipe(rules=tuple(Rule(AllNodes(), s) for s in settings)), model)
    seen = [Batch(f, {}, 0, 8, "data") for f in batches(feeds)]
    statistics = observe(model, plan.observed_tensors, seen)
    return plan, Parameters(choose_activations(plan, statistics), choose_layers(plan, model))


def singles(feeds: Feeds, count: int) -> list[dict[str, Array]]:
    feed = feeds(batch=count, seed=3)
    return [{n: x[i : i + 1] for n, x in feed.items()} for i in range(count)]


def layer_outputs(model: ir.Model, tensor: str, feeds: list[dict[str, Array]]) -> list[Array]:
    return [outputs(expose(model, [tensor]), f, optimize=False)[0] for f in feeds]


def no_bias() -> Model:
    """A Conv, a Gemm and two MatMuls without biases; the last one's product is an output."""
    return build(
        """net (float[N,3,6,6] x) => (float[N,5] y, float[N,5] z) {
            c = Conv <pads = [1,1,1,1]> (x, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p)
            g = Gemm (f, w1) a = MatMul (g, w2) s = Sigmoid (a) y = Mul (a, s) z = MatMul (s, w3)
        }""",
        {"w": W.conv(8, 3), "w1": W.dense(8, 6), "w2": W.dense(6, 5), "w3": W.dense(5, 5)},
        normal(3, 6, 6, shift=1.0),
    )


# -------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_of_a_bias_is_taken_back(name: str) -> None:
    net, layer = SHIFTED[name]
    proto, feeds = NETS[net]()
    model = prepared(proto)
    settings = Settings(activation_bits=16, weight_bits=16, bias_samples=4)
    plan, params = chosen(model, feeds, settings)
    (weight,) = [w for w in plan.weights if w.layer == layer]
    const = model.graph.initializers[weight.bias or ""].const_value
    assert const is not None
    right = const.numpy().astype(np.float32)
    shift = np.linspace(-0.5, 0.5, right.size, dtype=np.float32)
    layers = dict(params.layers)
    layers[layer] = replace(layers[layer], bias=right + shift)
    shifted = replace(params, layers=layers)
    found, report = correct_by_rule(model, plan, shifted, singles(feeds, 4), [1] * 4)
    assert {c.layer: c.kept for c in report}[layer]
    assert found.layers[layer].bias == pytest.approx(right, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["residual", "gemm_mlp", "matmul_mlp", "conv_transpose"])
def test_no_node_gets_worse_on_the_used_samples(name: str, metric: str) -> None:
    """Computed again layer by layer: the model as it was when the layer was looked at, without and with."""
    proto, feeds = NETS[name]()
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE, Settings(bias_metric=metric, bias_samples=5))
    used = singles(feeds, 5)
    found, report = correct_by_rule(model, plan, params, used, [1] * 5)
    assert [c.layer for c in report] == [w.layer for w in plan.weights]
    assert any(c.kept for c in report)
    measure = get_metric(metric)
    near = 5e-2 if metric == "mre" else 1e-3  # outputs near 0 make rounding in float32 large
    upstream = dict(params.layers)
    for weight, c in zip(plan.weights, report, strict=True):
        tensor = output_of(model, weight)
        reference = layer_outputs(model, tensor, used)
        scores = []
        for layer in (params.layers[c.layer], found.layers[c.layer]):
            layers = {**upstream, c.layer: layer}
            part = emit_weights_only(model, plan, replace(params, layers=layers))
            pairs = zip(reference, layer_outputs(part, tensor, used), strict=True)
            scores.append(float(np.mean([measure.measure(a, b) for a, b in pairs])))
        before, after = scores
        assert c.before == pytest.approx(before, rel=near, abs=1e-5)
        if c.kept:
            assert measure.better(after, before)
            assert c.after == pytest.approx(after, rel=near, abs=1e-5)
        else:
            assert found.layers[c.layer].bias is params.layers[c.layer].bias
        upstream[c.layer] = found.layers[c.layer]


def test_a_correction_that_the_metric_does_not_like_is_left() -> None:
    """Errors of 0, 0, 0 and e: their squares shrink, but 3 e/4 + 3 e/4 is more than e."""
    proto, feeds = build(
        "net (float[N,2] x) => (float[N,1] y) { y = MatMul (x, w) }",
        {"w": np.array([[1.0], [0.04]], dtype=np.float32)},
        normal(2),
    )
    model = prepared(proto)
    rows = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    used = [{"x": np.array([row], dtype=np.float32)} for row in rows]
    kept = {}
    for metric in ("mse", "chebyshev"):
        asked = Settings(weight_bits=4, bias_samples=4, bias_metric=metric)
        plan, params = chosen(model, feeds, asked)
        assert params.layers["y"].floats[1, 0] == 0  # the small weight is rounded away
        (c,) = correct_by_rule(model, plan, params, used, [1] * 4)[1]
        kept[metric] = c.kept
    assert kept == {"mse": True, "chebyshev": False}


def test_a_layer_takes_its_own_number_of_samples() -> None:
    proto, feeds = NETS["gemm_mlp"]()
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    used = singles(feeds, 6)
    found = {}
    for count in (1, 6):
        asked = replace(
            plan,
            layers=tuple(
                replace(d, settings=replace(d.settings, bias_samples=count)) for d in plan.layers
            ),
        )
        params_, report = correct_by_rule(model, asked, params, used, [1] * 6)
        assert {c.samples for c in report} == {count}
        found[count] = params_.layers["fc1"].bias
    first, _ = correct_by_rule(model, plan, params, used[:1], [1])
    np.testing.assert_array_equal(found[1], first.layers["fc1"].bias)
    assert np.abs(found[1] - found[6]).max() > 1e-4  # type: ignore[operator]


def test_layers_without_a_bias_get_one() -> None:
    proto, feeds = no_bias()
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    used = singles(feeds, 8)
    found, report = correct_by_rule(model, plan, params, used, [1] * 8)
    assert {c.layer: c.kept for c in report} == dict.fromkeys(["c", "g", "a", "z"], True)
    for emit in (emit_weights_only, emit_simulated, emit_qdq):
        made = emit(model, plan, found)
        onnx.checker.check_model(ir.to_proto(made), full_check=True)
        assert [o.name for o in made.graph.outputs] == ["y", "z"]
    reference = [outputs(model, f)[1] for f in used]
    error = [
        float(
            np.mean(
                [
                    (a - outputs(emit_simulated(model, plan, p), f)[1]) ** 2
                    for a, f in zip(reference, used, strict=True)
                ]
            )
        )
        for p in (params, found)
    ]
    assert error[1] < error[0]


@pytest.mark.parametrize("name", every_net())
def test_every_network_is_corrected_without_changing_its_model(name: str) -> None:
    proto, feeds = NETS[name]()
    model = prepared(proto)
    before = ir.to_proto(model).SerializeToString()
    plan, params = chosen(model, feeds, COARSE)
    found, report = correct_by_rule(model, plan, params, [feeds(batch=2, seed=1)], [2])
    assert ir.to_proto(model).SerializeToString() == before
    assert [c.layer for c in report] == [w.layer for w in plan.weights]
    assert all(c.reason or c.samples == 2 for c in report)
    kept = {c.layer for c in report if c.kept}
    assert {n for n, p in found.layers.items() if p.bias is not None} == kept
    outputs(emit_qdq(model, plan, found), feeds(batch=2))


def test_layers_that_cannot_have_a_bias_say_why() -> None:
    proto, feeds = build(
        """net (float[N,24] x) => (float[N,8] y, float[4,N] z) {
            a = MatMul (x, v) y = Gemm (x, w, a) t = Transpose (y) z = MatMul (u, t)
        }""",
        {"v": W.dense(24, 8), "w": W.dense(24, 8), "u": W.dense(4, 8)},
        normal(24),
    )
    model = prepared(proto)
    plan, params = chosen(model, feeds, COARSE)
    _, report = correct_by_rule(model, plan, params, [feeds(batch=4, seed=0)], [4])
    assert {c.layer: c.reason for c in report} == {
        "a": "",
        "y": "its bias is computed",
        "z": "its weight is its first input",
    }


# ------------------------------------------------------------------------------------------- the road


def run(*rules: Rule, name: str = "gemm_mlp", **options: Any) -> Any:
    model, feeds = NETS[name]()
    coarse = Rule(AllNodes(), Settings(weight_bits=4, weight_per_channel=False))
    options = {"bias_correction": "off", "equalize": "off"} | options
    return quantize(model, batches(feeds), Recipe(rules=(coarse, *rules), **options))


def corrected(result: Any) -> set[str]:
    return {n for n, p in result.params.layers.items() if p.bias is not None}


def test_a_rule_corrects_its_layers_where_the_recipe_does_not() -> None:
    assert corrected(run()) == set()
    result = run(Rule(Layer("fc2"), Settings(bias_samples=8, bias_metric="mse")))
    assert corrected(result) == {"fc2"}
    (entry,) = result.summary["passes"]["bias_by_rule"]
    assert (entry["layer"], entry["kept"], entry["metric"], entry["samples"]) == (
        "fc2",
        True,
        "mse",
        8,
    )
    assert entry["after"] < entry["before"]
    assert result.summary["passes"]["bias_corrected"] == []


def test_a_rule_stands_over_the_recipe() -> None:
    plain = run(bias_correction="on")
    assert "fc2" in corrected(plain)
    left = run(Rule(Layer("fc2"), Settings(bias_samples=0)), bias_correction="on")
    assert corrected(left) == corrected(plain) - {"fc2"}
    assert left.summary["passes"]["bias_by_rule"] == []
    own = run(Rule(Layer("fc2"), Settings(bias_samples=3)), bias_correction="on")
    assert "fc2" not in {c["layer"] for c in own.summary["passes"]["bias_corrected"]}
    assert not np.array_equal(own.params.layers["fc2"].bias, plain.params.layers["fc2"].bias)


def test_the_metric_alone_asks_for_one_sample_and_samples_alone_for_cosine() -> None:
    for settings, expected in (
        (Settings(bias_metric="sqnr"), ("sqnr", 1)),
        (Settings(bias_samples=2), ("cosine-similarity", 2)),
    ):
        (entry,) = run(Rule(Layer("fc2"), settings)).summary["passes"]["bias_by_rule"]
        assert (entry["metric"], entry["samples"]) == expected


def test_fewer_samples_than_asked_for_are_noted() -> None:
    result = run(Rule(Layer("fc1"), Settings(bias_samples=1000)))
    (entry,) = result.summary["passes"]["bias_by_rule"]
    assert entry["samples"] == 32
    (note,) = [n for n in result.summary["notes"] if n["where"] == "bias correction"]
    assert "from 1000 samples" in note["message"]
    assert "has 32" in note["message"]


def test_more_samples_than_the_probe_has_are_kept() -> None:
    model, feeds = NETS["gemm_mlp"]()
    recipe = Recipe(rules=(Rule(Layer("fc1"), Settings(bias_samples=80)),))
    result = quantize(model, batches(feeds, count=12), recipe)
    assert result.summary["passes"]["bias_by_rule"][0]["samples"] == 80


def test_the_number_of_samples_changes_the_bias() -> None:
    one, many = (
        run(Rule(Layer("fc1"), Settings(bias_samples=n, bias_metric="mse"))) for n in (1, 16)
    )
    assert not np.array_equal(one.params.layers["fc1"].bias, many.params.layers["fc1"].bias)


def test_a_quant_config_is_run(tmp_path: Path) -> None:
    path = tmp_path / "quant_config.json"
    config = {"weight": {"bias_correction": {"num_sample": 4, "metric": "mse"}}}
    path.write_text(json.dumps({"model_config": {"all_node_type": "int8", **config}}))
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds), load_recipe(path))
    found = result.summary["passes"]["bias_by_rule"]
    assert {e["layer"] for e in found} == {w.layer for w in result.plan.weights}
    assert {(e["metric"], e["samples"]) for e in found} == {("mse", 4)}
    assert corrected(result) == {e["layer"] for e in found if e["kept"]} != set()


def test_a_bias_that_was_created_is_in_the_record(tmp_path: Path) -> None:
    proto, feeds = no_bias()
    recipe = Recipe(rules=(Rule(AllNodes(), Settings(bias_samples=8, bias_metric="mse")),))
    result = quantize(proto, batches(feeds), replace(recipe, bias_correction="off"))
    assert {"a", "z"} & corrected(result)
    result.save(tmp_path)
    again = quantize_from_record(proto, tmp_path / "record.txt")
    feed = feeds(batch=4, seed=9)
    for a, b in zip(outputs(result.deploy, feed), outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigValueError, match="Did you mean 'mse'"):
        Settings(bias_metric="msee")


@pytest.mark.parametrize("kind", ["ascend", "horizon"])
def test_files_of_the_vendors_have_the_biases_that_were_created(kind: str, tmp_path: Path) -> None:
    proto, feeds = no_bias()
    asked = Settings(bias_samples=8, bias_metric="mse", activation_symmetric=True)
    recipe = Recipe((Rule(AllNodes(), asked),), bias_correction="off", equalize="off")
    result = quantize(proto, batches(feeds), recipe)
    assert corrected(result) == {"c", "g", "a", "z"}
    result.save(tmp_path, formats=[kind])
    feed = feeds(batch=4, seed=5)
    name = {"ascend": "fake_quant_model.onnx", "horizon": "calibrated_model.onnx"}[kind]
    found = outputs(tmp_path / name, feed, optimize=False)
    assert sqnr_db(outputs(result.fake_quant, feed, optimize=False), found) > 60
    if kind == "ascend":
        deployed = onnx.load(tmp_path / "deploy_model.onnx").graph.node
        assert {len(n.input) for n in deployed if n.op_type == "MatMul"} == {2}
        assert sum(n.op_type == "Add" for n in deployed) == 2
