"""A network with its quantizers: what it computes is what is deployed, before a step and behind it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.demo.digits import MODEL, calibration, evaluation
from calibrant.errors import ModelError, UnsupportedError
from calibrant.numerics import quantize
from calibrant.plan.biases import final_bias
from calibrant.qat import agreement, prepare
from calibrant.qat.agreement import Agreement, agreement_of
from calibrant.qat.build import build_module
from calibrant.qat.integers import integer_outputs
from calibrant.qat.recipe import DEFAULT_WEIGHT, Asked
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.runtime.measure import run
from tests.models import NETS
from tests.qat.quick import network


def retrain(activations: str, weights: str, algorithm: str = "ulq_retrain", more: str = "") -> str:
    return f"""
        batch_num: 4
        retrain_data_quant_config {{ ulq_quantize {{ dst_type: {activations} {more} }} }}
        retrain_weight_quant_config {{ {algorithm} {{ dst_type: {weights} channel_wise: true }} }}
    """


def steps(qat, count: int = 4) -> None:
    """Take a few steps of any loss, so that everything is another than before."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(qat.parameter_groups(1e-2))
    x = torch.from_numpy(calibration().image)
    qat.module.train()
    for _ in range(count):
        loss = (qat.module(x) - 1.1 * qat.teacher(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def data():
    return {"image": calibration().image}


@pytest.mark.parametrize(
    "recipe",
    [
        None,
        retrain("INT8", "INT8"),
        retrain("INT4", "INT4"),
        retrain("INT8", "INT4", "arq_retrain"),
        retrain("INT16", "INT8"),
    ],
    ids=["default", "W8A8", "W4A4", "W4A8", "W8A16"],
)
def test_what_is_trained_is_what_is_deployed(recipe, data):
    qat = prepare(MODEL, data, recipe)
    feeds = [{"image": evaluation().image[:200]}]
    for taken in (0, 4):
        steps(qat, taken)
        result = qat.convert()
        found = qat.agreement(result, feeds)
        assert found.samples == 200
        assert found.holds
        assert found.typical_db > 40
        assert result.summary["training"]["agreement"]["typical_db"] > 40


def test_without_a_step_the_result_is_that_of_calibration(data):
    qat = prepare(MODEL, data)
    result = qat.convert()
    for name, p in qat.calibrated.params.activations.items():
        mine = result.params.activations[name]
        np.testing.assert_allclose(mine.scale, p.scale, rtol=1e-6)
        np.testing.assert_array_equal(mine.zero_point, p.zero_point)
    for layer, chosen in qat.calibrated.params.layers.items():
        np.testing.assert_array_equal(result.params.layers[layer].values, chosen.values)


def test_a_step_changes_weights_biases_and_ranges(data):
    qat = prepare(MODEL, data, retrain("INT8", "INT8"))
    before = qat.convert()
    steps(qat)
    after = qat.convert()
    for name in before.params.activations:
        assert after.params.activations[name].scale != before.params.activations[name].scale
    for layer in before.params.layers:
        one, other = (r.params.layers[layer] for r in (before, after))
        assert not np.array_equal(one.weight.scale, other.weight.scale)
        assert not np.array_equal(one.values, other.values)
        assert not np.array_equal(one.bias, other.bias)


def test_biases_are_rounded_as_the_deployed_model_has_them(data):
    qat = prepare(MODEL, data)
    steps(qat)
    solution = qat.to_solution()
    for w in solution.plan.weights:
        wanted = final_bias(solution.model, solution.plan, solution.params, w)
        assert wanted is not None
        assert wanted.steps is not None
        read = solution.plan.at((w.layer, 1 - w.input_index))
        of_input, _ = qat.trained.activation(read.id)()
        _, of_weight = qat.trained.weight(w.layer)()
        mine = qat.trained.bias(w.layer)(of_input, of_weight)
        np.testing.assert_array_equal(mine.detach().numpy(), wanted.floats)


def test_the_trained_float_model_rounds_to_the_trained_integers(data):
    qat = prepare(MODEL, data, retrain("INT8", "INT4"))
    steps(qat)
    solution = qat.to_solution()
    for w in solution.plan.weights:
        chosen = solution.params.layers[w.layer]
        held = solution.model.graph.initializers[w.weight].const_value.numpy()
        same = quantize(held, chosen.weight) == chosen.values
        assert (
            same.mean() > 0.999
        )  # a weight on the edge between two steps may fall to either side


def test_every_parameter_learns_and_has_its_group(data):
    qat = prepare(MODEL, data)
    groups = {g["name"]: g for g in qat.parameter_groups(1e-3, weight_decay=0.1)}
    assert set(groups) == {"weights", "offsets", "scales"}
    assert [groups[n]["weight_decay"] for n in ("weights", "offsets", "scales")] == [0.1, 0, 0]
    grouped = {id(p) for g in groups.values() for p in g["params"]}
    assert grouped == {id(p) for p in qat.module.parameters()}
    qat.module(torch.from_numpy(calibration().image)).square().sum().backward()
    learning = [p for p in qat.module.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learning)


def test_freezing_keeps_parts_as_they_are(data):
    qat = prepare(MODEL, data, retrain("INT8", "INT8"))
    qat.freeze(ranges=True)
    before = qat.convert()
    steps(qat)
    after = qat.convert()
    for name, p in before.params.activations.items():
        assert after.params.activations[name].scale == p.scale


@pytest.mark.slow
def test_a_state_dict_brings_a_fresh_network_to_the_same_place(data):
    qat = prepare(MODEL, data)
    steps(qat)
    other = prepare(MODEL, data)
    other.load_state_dict(qat.state_dict())
    x = torch.from_numpy(evaluation().image[:32])
    assert torch.equal(other.module.eval()(x), qat.module.eval()(x))


@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
def test_a_training_recipe_says_how_weights_and_ranges_train(algorithm, data):
    clips = "clip_max_min { clip_max: 3.0 clip_min: -1.0 } fixed_min: false"
    qat = prepare(MODEL, data, retrain("INT8", "INT8", algorithm, clips))
    kind = {"arq_retrain": "ArqWeight", "ulq_retrain": "UlqWeight"}[algorithm]
    for d in qat.solution.plan.activations:
        quantizer = qat.trained.activation(d.id)
        assert quantizer.spec.learns
        assert (quantizer.clip_max - quantizer.clip_min).item() == pytest.approx(4.0, rel=1e-5)
    for w in qat.solution.plan.weights:
        assert type(qat.trained.weight(w.layer)).__name__ == kind


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "depthwise_leaky",
        "conv_transpose",
        "grouped",
        "concat_branches",
        "matmul_mlp",
        "gemm_scaled",
        "shared_weight",
        "two_in_two_out",
        "attention_add",
    ],
)
def test_other_networks_agree_with_what_is_deployed(name):
    model, feeds = NETS[name]()
    data = [feeds(batch=4, seed=i) for i in range(6)]
    qat = prepare(model, data)
    assert qat.convert().summary["training"]["agreement"]["sqnr_db"] > 40


def test_a_model_that_is_not_what_was_trained_is_refused(data):
    qat = prepare(MODEL, data)
    result = qat.convert()
    steps(qat)
    found = agreement_of(qat.module, result.deploy, qat.inputs, [{"image": calibration().image}])
    assert not found.holds
    with pytest.raises(ModelError, match="not what was trained"):
        found.check()


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Agreement(64, 45.0, 1.0, 44.0), True),
        (Agreement(64, 30.0, 1.0, 90.0), True),  # one sample fell to the other side of an edge
        (Agreement(64, 36.0, 1.0, 37.0, 38.0), True),  # a deep network: as near as float32 itself
        (Agreement(64, 21.0, 0.96, 21.0, 90.0), False),  # biases that were not rounded
        (Agreement(64, 36.0, 1.0, 37.0, 44.0), False),
        (Agreement(64, 45.0, 1.0, 44.0, None, 30.0, 1.0, 90.0), True),
        (Agreement(64, 36.0, 1.0, 37.0, 38.0, 36.0, 1.0, 37.0), True),
        (Agreement(64, 45.0, 1.0, 44.0, None, 21.0, 0.9, 21.0), False),  # in integers alone
    ],
)
def test_rounding_at_an_edge_is_no_fault_and_all_samples_apart_is_one(found, holds):
    assert found.holds is holds
    if not holds:
        with pytest.raises(ModelError, match="not what was trained"):
            found.check()


def test_integers_that_differ_are_refused_where_they_were_asked_for(monkeypatch):
    _, _, qat = network()

    def other(deploy, feeds, runtime):
        found, layers = integer_outputs(deploy, feeds, runtime)
        return [{n: 2 * x for n, x in each.items()} for each in found], layers

    monkeypatch.setattr(agreement, "integer_outputs", other)
    with pytest.raises(ModelError, match="with integer sums both agree to"):
        qat.convert(check="integers")
    said = qat.convert(measure=True).summary["training"]["agreement"]
    assert said["integers_db"] < 10 < said["sqnr_db"]


def test_what_cannot_be_trained_is_refused_by_name(data):
    recipe = Recipe(rules=(Rule(AllNodes(), Settings(weight=AlgorithmChoice("nuq"))),))
    with pytest.raises(UnsupportedError, match="Training does not know weights of few levels"):
        prepare(MODEL, data, recipe)


def test_a_solution_builds_the_graph_that_emit_writes(data):
    qat = prepare(MODEL, data)
    solution = qat.solution
    asked = Asked({w.layer: DEFAULT_WEIGHT for w in solution.plan.weights}, {})
    made = build_module(solution, asked)
    x = calibration().image[:32]
    theirs = run(qat.calibrated.deploy, [{"image": x}], optimize=False, integers=False)[0]
    mine = made.module.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine, theirs["logits"], rtol=0.02, atol=0.05)
