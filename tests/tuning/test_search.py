"""Searches between candidates: what is chosen, by what, and at what cost."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.analysis.judge import Judge
from calibrant.choose import choose_parameters
from calibrant.dialects import load_recipe
from calibrant.emit.parametric import emit_parametric
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigRuntimeError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.numerics import fake_quantize
from calibrant.numerics.metrics import METRICS, get_metric
from calibrant.pipeline import observe as observe_all
from calibrant.plan import resolve
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Layer,
    Limit,
    OpType,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.results import QuantizedModel
from calibrant.runtime.downstream import Whole, Work
from calibrant.runtime.observe import observe
from calibrant.runtime.session import infer, open_session
from calibrant.tuning.space import candidates
from tests.models import NETS, build, normal
from tests.road import batches, every_net, outputs, quantize, sqnr_db

GRID = {
    "calibration_type": ["max", "kl"],
    "max_percentile": [1.0, 0.99],
    "asymmetric": [True, False],
}


def recipe(tmp_path: Path, activation: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    path = tmp_path / "quant_config.json"
    nodes = sections.pop("node_config", {})
    config = {"activation": activation or {}, **sections}
    path.write_text(json.dumps({"model_config": config, "node_config": nodes}))
    return load_recipe(path)


def run(name: str, wanted: Recipe) -> QuantizedModel:
    model, feeds = NETS[name]()
    return quantize(model, batches(feeds), wanted)


def selected(result: QuantizedModel) -> str:
    decisions = result.summary["decisions"]
    (name,) = [d["name"] for d in decisions if d["chosen"] and d["stage"] == "search"]
    return str(name)


# ------------------------------------------------------------------------------------------- modelwise


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["residual", "matmul_mlp"])
def test_modelwise_takes_what_brute_force_finds(name: str, metric: str, tmp_path: Path) -> None:
    found = run(name, recipe(tmp_path, GRID, modelwise_search={"metric": metric, "num_sample": 4}))
    scores = {d["name"]: d["score"] for d in found.summary["decisions"]}
    assert len(scores) == 6
    model, feeds = NETS[name]()
    feed = {n: x[:4] for n, x in batches(feeds)[0].items()}
    (reference,) = outputs(model, feed, optimize=False)
    brute = {}
    for asymmetric in (False, True):
        for label, method in (
            ("max:max_percentile=1.0", {"calibration_type": "max"}),
            ("max:max_percentile=0.99", {"calibration_type": "max", "max_percentile": 0.99}),
            ("kl-merge:bins=1024,max_bins=16384", {"calibration_type": "kl"}),
        ):
            single = run(name, recipe(tmp_path, {**method, "asymmetric": asymmetric}))
            (y,) = outputs(single.fake_quant, feed, optimize=False)
            measure = get_metric(metric).measure
            each = [measure(a, b) for a, b in zip(reference, y, strict=True)]
            brute[label + (",asymmetric" if asymmetric else "")] = float(np.mean(each))
    assert scores.keys() == brute.keys()
    for label, value in brute.items():
        # the search runs float biases; a mean of relative errors lives from values near 0, where their steps count
        near = 0.3 if metric == "mre" else 5e-2
        assert scores[label] == pytest.approx(value, rel=near, abs=1e-4)
    best = min(get_metric(metric).badness(s) for s in scores.values())
    assert get_metric(metric).badness(scores[selected(found)]) == best


def test_lists_without_a_section_are_searched_for_the_model_by_cosine(tmp_path: Path) -> None:
    found = run("residual", recipe(tmp_path, GRID))
    assert (found.summary["search"]["scope"], found.summary["search"]["metric"]) == (
        "model",
        "cosine-similarity",
    )
    assert found.summary["search"]["selected"] == selected(found)


def test_the_winner_is_what_is_written(tmp_path: Path) -> None:
    found = run("residual", recipe(tmp_path, GRID))
    name = selected(found)
    single: dict[str, Any] = {
        "calibration_type": "kl" if name.startswith("kl") else "max",
        "asymmetric": "asymmetric" in name,
    }
    if "0.99" in name:
        single["max_percentile"] = 0.99
    alone = run("residual", recipe(tmp_path, single))
    for key, p in alone.params.activations.items():
        assert float(found.params.activations[key].scale) == float(p.scale)


def test_one_candidate_is_not_searched(tmp_path: Path) -> None:
    found = run("residual", recipe(tmp_path, {"calibration_type": "max"}, modelwise_search={}))
    assert found.summary["search"] is None
    assert found.summary["decisions"] == []


def test_a_file_without_a_method_is_the_default_search(tmp_path: Path) -> None:
    names = [d["name"] for d in run("residual", recipe(tmp_path)).summary["decisions"]]
    assert names[:3] == [
        "max:max_percentile=1.0",
        "max:max_percentile=0.99995",
        "kl-merge:bins=1024,max_bins=16384",
    ]
    assert len(names) == 4  # the winner with a scale for each channel
    assert names[3].endswith(",per_channel")


def test_a_good_enough_score_ends_the_search(tmp_path: Path) -> None:
    wanted = recipe(tmp_path, GRID, modelwise_search={"metric": "sqnr", "early_stop": 1.0})
    assert len(run("residual", wanted).summary["decisions"]) == 1


def test_more_samples_than_there_are_is_a_note(tmp_path: Path) -> None:
    found = run("residual", recipe(tmp_path, GRID, modelwise_search={"num_sample": 1000}))
    assert found.summary["search"]["samples"] == 32
    assert any("1000 samples" in n["message"] for n in found.summary["notes"])


def test_the_number_of_samples_matters(tmp_path: Path) -> None:
    scores = [
        run("residual", recipe(tmp_path, GRID, modelwise_search={"num_sample": n})).summary[
            "decisions"
        ][0]["score"]
        for n in (1, 8)
    ]
    assert scores[0] != scores[1]


def test_a_node_with_a_list_of_its_own_keeps_to_it(tmp_path: Path) -> None:
    own = {"conv1": {"activation": {"calibration_type": ["max"], "max_percentile": 0.5}}}
    found = run("residual", recipe(tmp_path, GRID, node_config=own))
    (d,) = [d for d in found.plan.activations if ("conv1", 0) in d.users]
    assert d.algorithm == AlgorithmChoice.of("max", {"max_percentile": 0.5})


def native(*candidates: Settings, then: tuple[Rule, ...] = (), **fields: Any) -> Recipe:
    """Return a recipe with candidates for every node, and rules behind it."""
    base = Settings(activation=AlgorithmChoice("min-max"), candidates=candidates)
    search = fields.pop("search", Search(metric="mse"))
    options: dict[str, Any] = {"bias_correction": "off", "equalize": "off", **fields}
    return Recipe((Rule(AllNodes(), base, "all"), *then), search=search, **options)


MAX, PERCENTILE, MSE = (
    Settings(activation=AlgorithmChoice(n)) for n in ("max", "percentile", "mse")
)


def algorithms_at(result: QuantizedModel, node: str) -> set[str]:
    return {d.algorithm.name for d in result.plan.activations for n, _ in d.users if n == node}


def test_a_node_may_have_the_name_of_its_output() -> None:
    """`up` is a layer, and its quantized output: two things that a search has numbers for."""
    w = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    model, feeds = build(
        "net (float[N,24] x) => (float[N,24] y) { up = MatMul (x, w1) y = MatMul (up, w2) }",
        {"w1": w, "w2": w},
        normal(24),
    )
    assert model.graph.node[0].name == "up"
    lists = (
        Settings(activation=AlgorithmChoice("min-max")),
        Settings(activation_per_channel=True),
    )
    result = quantize(model, batches(feeds), native(*lists))
    assert result.summary["search"]["selected"]


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_a_later_rule_stands_over_candidates(scope: Literal["model", "layer"]) -> None:
    later = Rule(Layer("conv1"), Settings(activation=AlgorithmChoice("kl-merge")), "later")
    search = Search(scope=scope, metric="mse")
    found = run("residual", native(MAX, MSE, then=(later,), search=search))
    assert algorithms_at(found, "conv1") == {"kl-merge"}
    assert algorithms_at(found, "conv2") <= {"max", "mse"}


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_limits_hold_for_candidates(scope: Literal["model", "layer"]) -> None:
    limit = Limit(OpType("Conv"), "activation_symmetric", (True,), "the device has no offsets")
    lists = [Settings(activation_symmetric=flag) for flag in (False, True)]
    search = Search(scope=scope, metric="mse")
    found = run("residual", native(*lists, limits=(limit,), search=search))
    at_conv = [d for d in found.plan.activations if any("conv" in n for n, _ in d.users)]
    assert at_conv
    assert all(d.spec.symmetric for d in at_conv)


def test_the_only_candidate_is_taken() -> None:
    found = run("residual", native(MSE))
    assert found.summary["search"] is None
    assert algorithms_at(found, "conv1") == {"mse"}


def test_a_search_of_nothing_is_noted() -> None:
    found = run("residual", Recipe(search=Search()))
    assert any("nothing to search" in n["message"] for n in found.summary["notes"])


def test_candidates_of_16_bits_are_better_and_raise_the_opset() -> None:
    found = run("residual", native(*(Settings(activation_bits=b) for b in (8, 16))))
    assert selected(found) == "as set:16 bits"
    assert found.summary["opset"]["after"] == 21
    assert {d.spec.bits for d in found.plan.activations} == {16}


def test_statistics_are_those_of_every_candidate() -> None:
    model, feeds = NETS["residual"]()
    wanted = native(MAX, Settings(activation_per_channel=True))
    seen = observe_all(model, batches(feeds), wanted)
    alone = observe_all(model, batches(feeds), native(MAX))
    assert any(s.by_channel for s in seen.values())
    assert not any(s.by_channel for s in alone.values())


def test_an_output_without_samples_in_its_rows_is_compared() -> None:
    graph = """g (float[n, 4] x) => (float[4] y) {
        h = MatMul (x, w)
        y = ReduceSum <keepdims = 0> (h, axes)
    }"""
    w = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    model, feeds = build(graph, {"w": w, "axes": np.array([0])}, normal(4))
    found = quantize(model, [feeds(batch=16)], native(MAX, PERCENTILE, search=Search(samples=3)))
    assert found.summary["search"]["samples"] == 3
    assert all(d["score"] > 0.99 for d in found.summary["decisions"])


def test_candidates_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "calibrant"):
        found = run("residual", native(MAX, MSE))
    rows = [d for d in found.summary["decisions"] if d["stage"] == "search"]
    for row in rows:
        assert any(r.message.startswith(row["name"]) for r in caplog.records)
        assert row["outputs"].keys() == found.summary["quality"]["outputs"].keys()
        assert row["seconds"] > 0
    assert f"Select {selected(found)}" in caplog.messages


# ------------------------------------------------------------------------------------------- layerwise


def test_the_winner_of_a_node_is_tried_by_channel() -> None:
    search = Search(scope="layer", metric="mse", samples=8, then_per_channel=True)
    found = run("residual", native(MAX, PERCENTILE, search=search))
    by_node: dict[str, list[str]] = {}
    for c in found.choices:
        by_node.setdefault(c.node, []).append(c.candidate)
    assert all(len(names) == 3 and "per_channel" in names[2] for names in by_node.values())
    taken = {c.node for c in found.choices if c.chosen and c.candidate.endswith("per_channel")}
    assert taken
    by_channel = {n for d in found.plan.activations if d.spec.axis is not None for n, _ in d.users}
    assert by_channel & taken


def test_a_good_enough_score_ends_the_search_of_a_node() -> None:
    search = Search(scope="layer", metric="sqnr", good_enough=1.0)
    found = run("residual", native(MAX, PERCENTILE, MSE, search=search))
    tried = {c.candidate for c in found.choices if c.score is not None}
    assert tried == {"max"}


def test_layerwise_wins_over_modelwise(tmp_path: Path) -> None:
    found = run(
        "residual",
        recipe(tmp_path, GRID, modelwise_search={}, layerwise_search={"metric": "mse"}),
    )
    report = found.summary["search"]
    assert (report["scope"], report["metric"]) == ("layer", "mse")


def test_each_node_takes_the_best_of_its_candidates(tmp_path: Path) -> None:
    found = run("residual", recipe(tmp_path, GRID, layerwise_search={"metric": "mse"}))
    out = tmp_path / "run"
    found.save(out)
    with (out / "layerwise_search.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_node: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_node.setdefault(row["node"], []).append(row)
    order = [n.name or "" for n in found.float_model.graph]
    assert list(by_node) == [n for n in order if n in by_node]
    assert {"conv0", "conv1", "conv2"} <= set(by_node)
    for node, tried in by_node.items():
        (best,) = [r for r in tried if r["chosen"] == "true"]
        scored = [float(r["metric"]) for r in tried if r["metric"]]
        assert not scored or float(best["metric"]) == min(scored)
        (d,) = [d for d in found.plan.activations if (node, 0) in d.users]
        assert best["candidate"].split(":")[0] == d.algorithm.name
        assert ("asymmetric" in best["candidate"]) == (not d.spec.symmetric)
    quantize(*_plain("residual")).save(out)
    assert not (out / "layerwise_search.csv").exists()  # no file of another run is left


def _plain(name: str) -> tuple[Any, Any]:
    model, feeds = NETS[name]()
    return model, batches(feeds)


def test_a_score_is_that_of_the_model_with_one_node_quantized(tmp_path: Path) -> None:
    search = {"metric": "mse", "num_sample": 3}
    found = run("residual", recipe(tmp_path, GRID, layerwise_search=search))
    model, feeds = NETS["residual"]()
    feed = {n: x[:3] for n, x in batches(feeds)[0].items()}
    alone = run("residual", recipe(tmp_path, {"calibration_type": "max", "asymmetric": True}))
    (d,) = [d for d in alone.plan.activations if ("conv2", 0) in d.users]
    plain = prepare(load(model))
    fuse_batchnorm(plain)
    names = [v.name or "" for v in plain.graph.outputs]
    whole = Whole.of(plain, names, [feed])
    x = fake_quantize(whole.values[0][d.tensor], alone.params.activations[d.id])
    outs = _with_input(plain, "conv2", names, feed, x)
    reference = whole.reference()[0]
    each = [
        METRICS["mse"].measure(a, b)
        for a, b in zip(reference[names[0]], outs[names[0]], strict=True)
    ]
    (row,) = [
        c
        for c in found.choices
        if (c.node, c.candidate) == ("conv2", "max:max_percentile=1.0,asymmetric")
    ]
    assert len(names) == 1
    assert row.score == pytest.approx(float(np.mean(each)), rel=1e-9)


def test_layerwise_runs_half_of_the_work_at_most(tmp_path: Path) -> None:
    grid = {**GRID, "per_channel": [True, False]}
    report = run("residual", recipe(tmp_path, grid, layerwise_search={})).summary["search"]
    assert 0 < report["nodes_run"] <= 0.6 * report["nodes_of_full_runs"]  # a net of five layers


def test_mix_is_a_search_for_each_node(tmp_path: Path) -> None:
    report = run("residual", recipe(tmp_path, {"calibration_type": "mix"})).summary["search"]
    assert report["scope"] == "layer"


@pytest.mark.parametrize("name", every_net())
def test_running_what_lies_behind_a_node_equals_running_all(name: str) -> None:
    model, feeds = NETS[name]()
    prepared = prepare(load(model))
    feed = feeds(batch=3, seed=5)
    final = [v.name or "" for v in prepared.graph.outputs]
    whole = Whole.of(prepared, final, [feed])
    rng = np.random.default_rng(0)
    for node in prepared.graph:
        source = node.inputs[0]
        if node.op_type not in ANCHORS or source is None or source.name not in whole.values[0]:
            continue
        changed = whole.values[0][source.name]
        changed = changed + rng.normal(0, 0.1, changed.shape).astype(np.float32)
        part = whole.part(node.name or "", [0])
        assert part.work.nodes <= len(whole.behind(node.name or "")) <= len(prepared.graph)
        found = whole.reference()[0] | part.run(0, {0: changed})
        expected = _with_input(prepared, node.name or "", final, feed, changed)
        for out in final:
            np.testing.assert_array_equal(found[out], expected[out])


ANCHORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Resize")


def _with_input(
    model: ir.Model, name: str, names: list[str], feed: dict[str, np.ndarray], x: np.ndarray
) -> dict[str, np.ndarray]:
    """Run the whole model with other values at the first input of one node."""
    model = model.clone()
    own = ir.Value(name="other_values", type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(own)
    model.graph.node(name).replace_input_with(0, own)
    session = open_session(model, optimize=False)
    inputs = [i.name for i in session.get_inputs()]
    fed = {n: v for n, v in {**feed, "other_values": x}.items() if n in inputs}
    return dict(zip(names, infer(session, names, fed), strict=True))


def test_work_is_counted_in_nodes_and_multiplications() -> None:
    model, feeds = NETS["residual"]()
    prepared = prepare(load(model))
    whole = Whole.of(prepared, [v.name or "" for v in prepared.graph.outputs], [feeds(batch=2)])
    macs = 0
    for node in prepared.graph:
        if node.op_type in ("Conv", "Gemm"):
            weight = node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
            out = whole.values[0][node.outputs[0].name or ""]
            macs += out.size * int(np.prod(weight.shape[1:]))
    assert whole.work == Work(len(prepared.graph), macs)
    first = next(n.name for n in prepared.graph if n.op_type == "Conv")
    assert whole.part(first or "", [0]).work.macs == macs


# ------------------------------------------------------------------------------------ one model for all


@pytest.mark.parametrize("name", every_net())
def test_a_model_fed_with_parameters_computes_what_one_with_them_inside_does(name: str) -> None:
    model, feeds = NETS[name]()
    prepared = prepare(load(model))
    wanted = Recipe(
        (
            Rule(
                AllNodes(),
                Settings(
                    activation=AlgorithmChoice("min-max"),
                    candidates=(
                        Settings(activation=AlgorithmChoice("min-max")),
                        Settings(activation=AlgorithmChoice("percentile")),
                        Settings(activation_per_channel=True),
                        Settings(activation_per_channel=True, activation_symmetric=True),
                    ),
                ),
            ),
        )
    )
    from calibrant.data.batch import Batch

    feed = feeds(batch=4, seed=1)
    data = [Batch(feed, {}, 0, 4, "test", ())]
    for t in candidates(wanted, prepared, resolve(wanted, prepared)):
        plan = t.plan
        statistics = observe(prepared, plan.observed_tensors, data, per_channel=plan.channel_axes)
        params = choose_parameters(plan, prepared, statistics)
        free = [w.layer for w in plan.weights]
        emitted, made = emit_parametric(prepared, plan, params, free=free)
        fed = {**feed, **made.feeds(params)}
        want = outputs(emit_simulated(prepared, plan, params), feed, optimize=False)
        assert sqnr_db(want, outputs(emitted, fed, optimize=False)) > 30  # but for some biases


# ------------------------------------------------------------------------------------------------ judge


def judge(aggregate: Literal["worst", "mean"], metric: str = "mse") -> Judge:
    reference = [{"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 4.0]])}]
    return Judge(Search(aggregate=aggregate, metric=metric), [{}], reference, rows=True)


def test_several_outputs_count_by_the_worst_or_the_mean() -> None:
    outs = [{"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 6.0]])}]
    assert judge("worst").judge(outs).score == 2.0
    assert judge("mean").judge(outs).score == 1.0
    assert judge("worst", "sqnr").judge(outs).outputs["a"] == np.inf


def test_equal_worst_outputs_are_decided_by_the_mean() -> None:
    j = judge("worst")
    one = j.judge([{"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 6.0]])}])
    other = j.judge([{"a": np.array([[1.0, 3.0]]), "b": np.array([[3.0, 6.0]])}])
    assert j.better(one, other)
    assert not j.better(other, one)
    assert not j.better(one, one)


def test_outputs_that_say_nothing_are_left_out() -> None:
    same = np.ones((2, 3), np.float32)
    labels = np.array([1, 2])
    scores = np.array([[1.0], [2.0]], np.float32)
    bare = Judge(Search(), [{}], [], rows=True)
    assert bare.against([{"a": same, "b": labels, "c": scores}]).names == ["c"]
    assert bare.against([{"c": scores[:1]}]).names == ["c"]  # one number is a result, too
    with pytest.raises(ConfigRuntimeError, match="no output to compare"):
        bare.against([{"a": same, "b": labels}])


def test_an_output_of_another_shape_is_the_worst() -> None:
    found = judge("worst").judge([{"a": np.ones((3, 2)), "b": np.array([[3.0, 4.0]])}])
    assert np.isnan(found.score)
    assert not judge("worst").better(found, judge("worst").judge([{}]))
