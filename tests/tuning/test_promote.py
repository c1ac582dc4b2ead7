"""Layers that lose most are raised to a higher precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant.analysis.simulate import Simulator
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.numerics.metrics import METRICS
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Layer,
    OpType,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.results import QuantizedModel
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store
from tests.models import NETS
from tests.road import batches, outputs, quantize, sqnr_db


def sabotaged(name: str = "residual", layer: str = "conv2") -> tuple[onnx.ModelProto, Any]:
    """One layer's weight gets an outlier, which one scale a tensor cannot stand."""
    model, feeds = NETS[name]()
    node = next(n for n in model.graph.node if n.name == layer)
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    w = onnx.numpy_helper.to_array(tensor).copy()
    w.reshape(-1)[0] = 60 * np.abs(w).max()
    tensor.CopyFrom(onnx.numpy_helper.from_array(w, tensor.name))
    return model, feeds


def run(
    promotion: Promotion | None, *rules: Rule, net: Any = None, **options: Any
) -> QuantizedModel:
    model, feeds = net or sabotaged()
    whole = Rule(
        AllNodes(),
        Settings(
            activation=AlgorithmChoice("min-max"),
            weight=AlgorithmChoice("arq"),
            weight_per_channel=False,
        ),
    )
    plain = {"equalize": "off", "bias_correction": "off"}
    recipe = Recipe((whole, *rules), promote=promotion, **{**plain, **options})
    return quantize(model, batches(feeds), recipe)


def raised(result: QuantizedModel) -> list[str]:
    return [x["node"] for x in result.summary["promotion"]["ranking"] if x["raised"]]


@pytest.mark.parametrize("metric", METRICS)
def test_a_sabotaged_layer_is_first_by_every_metric(metric: str) -> None:
    report = run(Promotion(metric=metric, count=1)).summary["promotion"]
    assert report["metric"] == metric
    assert report["ranking"][0]["node"] == "conv2"
    assert [x["raised"] for x in report["ranking"]] == [True] + [False] * (
        len(report["ranking"]) - 1
    )
    scores = [x["score"] for x in report["ranking"]]
    assert METRICS[metric].worst_first(scores) == list(range(len(scores)))


@pytest.mark.parametrize("precision", ["int16", "float16", "float32"])
def test_what_is_raised_is_better_and_round_trips(precision: Any, tmp_path: Path) -> None:
    model, feeds = sabotaged()
    before, after = run(None), run(Promotion(precision=precision, count=1))
    feed = feeds(batch=8, seed=9)
    (reference,) = outputs(model, feed)
    reached = [
        sqnr_db([reference], outputs(r.deploy, feed, optimize=False)) for r in (before, after)
    ]
    assert reached[1] > reached[0] + 6
    edges = {e: d for d in after.plan.activations for e in d.users}
    if precision == "int16":
        assert edges["conv2", 0].spec.bits == 16
        assert edges["conv1", 0].spec.bits == 8
        origin = edges["conv2", 0].origin["activation_bits"]
        assert origin.startswith("promotion: cosine-similarity ")
        assert origin.endswith(", rank 1")
    else:
        assert ("conv2", 0) not in edges
    after.save(tmp_path)
    again = quantize_from_record(model, tmp_path / "record.txt")
    np.testing.assert_array_equal(
        outputs(after.deploy, feed, optimize=False)[0],
        outputs(again.deploy, feed, optimize=False)[0],
    )


def test_so_many_layers_are_raised() -> None:
    for count in (1, 3):
        result = run(Promotion(count=count))
        ranking = [x["node"] for x in result.summary["promotion"]["ranking"]]
        assert raised(result) == ranking[:count]


def test_all_layers_at_or_beyond_a_threshold_are_raised() -> None:
    ranking = run(Promotion(metric="sqnr", count=1)).summary["promotion"]["ranking"]
    for place in (0, 2):
        limit = ranking[place]["score"]
        result = run(Promotion(metric="sqnr", threshold=limit))
        assert raised(result) == [x["node"] for x in ranking if x["score"] <= limit]


def test_as_many_as_fit_into_a_share_of_the_multiplications() -> None:
    report = run(Promotion(budget=0.45)).summary["promotion"]
    used = sum(x["macs"] for x in report["ranking"] if x["raised"])
    assert 0 < used <= 0.45
    left = [x["macs"] for x in report["ranking"] if not x["raised"]]
    assert min(left) > 0.45 - used
    assert sum(x["macs"] for x in report["ranking"]) == pytest.approx(1, abs=0.05)
    assert raised(run(Promotion(budget=1e-9))) == []


def test_layers_that_a_rule_names_are_neither_ranked_nor_raised() -> None:
    rule = Rule(
        Layer("conv2"), Settings(activation_bits=8, weight_bits=8), "recipe.yaml: rules[1]"
    )
    result = run(Promotion(count=1), rule)
    report = result.summary["promotion"]
    assert report["fixed"] == ["conv2"]
    assert "conv2" not in [x["node"] for x in report["ranking"]]
    assert raised(result) != ["conv2"]


def test_the_vendors_section_does_it_after_a_search(tmp_path: Path) -> None:
    path = tmp_path / "quant_config.json"
    config = {
        "activation": {"calibration_type": ["max", "kl"], "asymmetric": [True, False]},
        "search": {"layer": {"topk": 2, "qtype": "int16", "metric": "mse"}},
    }
    path.write_text(json.dumps({"model_config": config}))
    model, feeds = sabotaged()
    result = quantize(model, batches(feeds), load_recipe(path))
    names = raised(result)
    assert len(names) == 2
    (winner,) = [d["name"] for d in result.summary["decisions"] if d["chosen"]]
    for d in result.plan.activations:
        assert d.spec.bits == (16 if any(n in names for n, _ in d.users) else 8)
        assert d.algorithm.name == winner.split(":")[0]
        assert d.spec.symmetric == ("asymmetric" not in winner)


def searched(promotion: Promotion | None, *own: Settings) -> QuantizedModel:
    """A search by node between ranges, the winner by channel too; asks for more samples than there are."""
    model, feeds = NETS["residual"]()
    listed = own or (
        Settings(activation=AlgorithmChoice("max")),
        Settings(activation=AlgorithmChoice.of("percentile", {"percentile": 0.9})),
        Settings(activation=AlgorithmChoice("mse"), activation_symmetric=True),
    )
    recipe = Recipe(
        (Rule(AllNodes(), Settings(candidates=listed)),),
        search=Search(scope="layer", metric="mse", samples=99, then_per_channel=not own),
        promote=promotion,
        equalize="off",
        bias_correction="off",
    )
    return quantize(model, batches(feeds), recipe)


def chosen_at(result: QuantizedModel) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Edge -> all that was chosen there but the width."""
    return {
        e: (d.algorithm, replace(d.spec, bits=8), d.folded, d.channels)
        for d in result.plan.activations
        for e in d.users
    }


@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_what_a_search_by_node_chose_stays_beside_what_is_raised(precision: Any) -> None:
    before, after = searched(None), searched(Promotion(count=2, precision=precision))
    chosen, kept = chosen_at(before), chosen_at(after)
    assert any(folded for _, _, folded, _ in chosen.values())
    assert len({algorithm for algorithm, *_ in chosen.values()}) > 1
    names = raised(after)
    stay = {e: c for e, c in chosen.items() if precision == "int16" or e[0] not in names}
    assert kept == stay
    assert len({d.id for d in after.plan.activations}) == len(after.plan.activations)
    said = {n["message"] for n in after.summary["notes"]}
    assert {n["message"] for n in before.summary["notes"]} <= said
    assert any("is to look at 99 samples" in message for message in said)
    of_layers = {d.node: d.settings for d in before.plan.layers}
    for d in after.plan.layers:
        assert d.settings.activation == of_layers[d.node].activation


def test_widths_that_a_search_by_node_chose_stay() -> None:
    widths = [Settings(activation_bits=b) for b in (8, 16)]
    before = searched(None, *widths)
    assert {d.spec.bits for d in before.plan.activations} == {16}
    after = searched(Promotion(count=1), *widths)
    assert {d.spec.bits for d in after.plan.activations} == {16}


def test_a_raised_layer_has_the_whole_grid_of_its_width() -> None:
    """Weights that keep a few levels of 8 bits keep them where they are not raised."""
    few = Rule(AllNodes(), Settings(weight=AlgorithmChoice("nuq"), weight_per_channel=True))
    result = run(Promotion(count=1), few, net=NETS["residual"]())
    for w in result.plan.weights:
        wide = w.layer in raised(result)
        assert (w.spec.bits, w.codebook is None) == ((16, True) if wide else (8, False))


def test_biases_are_judged_on_the_model_that_computes_in_float16() -> None:
    """The simulated model without the layer in float16 would be the one of before."""
    model, feeds = sabotaged()
    recipe = Recipe(
        (Rule(AllNodes(), Settings(weight_bits=4, weight_per_channel=False)),),
        promote=Promotion(precision="float16", count=1),
        equalize="off",
    )
    solved = solve(Store(model, batches(feeds, count=8)), recipe)
    assert solved.solution.form.half_later == ("conv2",)
    assert solved.simulator is not None
    assert solved.simulator.model is solved.solution.model
    trials = {t.name: t for t in solved.findings.trials if t.stage == "bias correction"}
    assert len(trials) > 1
    plain = replace(recipe, bias_correction="off")
    alone = solve(Store(model, batches(feeds, count=8)), plain)
    probe, done = alone.probe, alone.solution
    assert probe is not None
    odd = range(1, len(probe.feeds), 2)
    answers = Simulator(done.model, probe.scored).simulate(
        done.plan, done.params, [probe.feeds[i] for i in odd]
    )
    (name,) = probe.scored
    truth = [probe.scored_reference[i][name] for i in odd]
    found = sqnr_db(truth, [a[name] for a in answers])
    assert trials["off"].score == pytest.approx(found, abs=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "it says none"),
        ({"count": 1, "budget": 0.5}, "it says count and budget"),
        ({"count": 0}, "promote.count is 0; it is 1 or more"),
        ({"budget": 2.0}, r"promote.budget is 2.0; it lies in \(0, 1\]"),
    ],
)
def test_a_promotion_says_one_thing(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigValueError, match=message):
        Promotion(**change)


def test_a_required_type_is_not_raised() -> None:
    rule = Rule(OpType("Conv"), Settings(weight_bits=8), "quant.cfg:3", "required")
    assert raised(run(Promotion(count=2), rule)) == []
