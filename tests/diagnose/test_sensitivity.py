"""Layers are ranked by what the outputs lose through each: figures are those of whole models, within the budget."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import calibrant
from calibrant.analysis import metrics
from calibrant.analysis.alone import journal, measuring
from calibrant.analysis.metrics import MEASURES
from calibrant.diagnose import Ranking, rank
from calibrant.dialects.asked import asked
from calibrant.emit.qdq import emit_simulated
from calibrant.errors import ConfigValueError, DataError, OutputError
from calibrant.graph.passes.half_nodes import round_layers
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.runtime.downstream import Whole
from calibrant.runtime.session import infer, open_session
from calibrant.solution import Solution
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store
from tests.models import NETS
from tests.road import every_net

Array = npt.NDArray[Any]

#: Quantizers on outputs, one scale a channel, folded scales, and 16 bits beside the defaults.
RECIPES = {
    "defaults": None,
    "onnxruntime": Recipe(target="onnxruntime"),
    "corrected": Recipe(bias_correction="on"),
    "by_channel": Recipe((Rule(AllNodes(), Settings(activation_per_channel=True)),)),
}


def rows(ranking: Ranking) -> dict[str, Any]:
    return {row.name: row for row in ranking.layers}


def solution(model: Any, x: dict[str, Array], recipe: Any) -> Solution:
    """Return what the layers are quantized with."""
    wanted = rank.PLAIN if recipe is None else asked(recipe)
    rule = Rule(AllNodes(), Settings.of_precision("int8"), "precision: int8")
    return solve(Store(model, x, shared=True), wanted.with_rules(rule)).solution


def only(found: Solution, keep: Any) -> Solution:
    """Return a solution whose quantizers stand in front of some layers alone."""
    plan = found.plan
    activations = [
        replace(d, users=tuple(e for e in d.users if keep(e[0])), producer=None)
        for d in plan.activations
    ]
    return replace(
        found,
        plan=replace(
            plan,
            activations=tuple(d for d in activations if d.users),
            weights=tuple(w for w in plan.weights if keep(w.layer)),
        ),
    )


def answers(found: Solution, x: dict[str, Array], names: list[str]) -> dict[str, Array]:
    """Run the whole model once, with every operator as the graph has it."""
    model = emit_simulated(found.model, found.plan, found.params)
    session = open_session(model, optimize=False)
    fed = {i.name: x[i.name] for i in session.get_inputs()}
    return dict(zip(names, infer(session, names, fed), strict=True))


def direct(found: Solution, x: dict[str, Array], keep: Any) -> float:
    """Return the SQNR of the model's output with some layers quantized, all samples at once."""
    names = [v.name or "" for v in found.model.graph.outputs][:1]
    truth = answers(only(found, lambda _: False), x, names)[names[0]]
    return metrics.sqnr_db(answers(only(found, keep), x, names)[names[0]], truth)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "depthwise_leaky"])
def test_a_score_is_that_of_the_whole_model_with_one_layer_quantized(
    name: str, recipe: str
) -> None:
    model, feeds = NETS[name]()
    x = feeds(batch=8, seed=3)
    ranking = calibrant.sensitivity(model, x, RECIPES[recipe], budget=None)
    found = solution(model, x, RECIPES[recipe])
    assert [r.estimated for r in ranking.layers] == [False] * len(ranking.layers)
    assert set(rows(ranking)) == {d.node for d in found.plan.layers if d.quantized}
    for row in ranking.layers:
        wanted = direct(found, x, lambda n, layer=row.name: n == layer)
        if len(row.parts) == 1 and math.isfinite(wanted):
            assert row.score == pytest.approx(wanted, abs=0.02), row.name
            assert row.loss == pytest.approx(10 ** (-row.score / 10))


@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "depthwise_leaky"])
def test_all_but_one_is_the_quantized_model_with_one_layer_in_float(name: str) -> None:
    model, feeds = NETS[name]()
    x = feeds(batch=8, seed=3)
    ranking = calibrant.sensitivity(model, x, mode="all-but", budget=None)
    found = solution(model, x, None)
    baseline = direct(found, x, lambda _: True)
    assert ranking.baseline["int8"] == pytest.approx(baseline, abs=0.02)
    for row in ranking.layers:
        wanted = direct(found, x, lambda n, layer=row.name: n != layer)
        assert row.score == pytest.approx(wanted, abs=0.02)
        won = 10 ** (-baseline / 10) - 10 ** (-wanted / 10)
        assert row.loss == pytest.approx(won, abs=0.01 * 10 ** (-baseline / 10))
    assert [r.loss for r in ranking.layers] == sorted(
        (r.loss for r in ranking.layers), reverse=True
    )


@pytest.mark.parametrize("name", every_net(but=()))
def test_every_network_is_ranked_worst_first(name: str) -> None:
    model, feeds = NETS[name]()
    ranking = calibrant.sensitivity(model, feeds(batch=4, seed=1))
    losses = [r.loss for r in ranking.layers]
    assert losses == sorted(losses, reverse=True)
    assert all(loss >= 0 for loss in losses)
    assert [r.rank for r in ranking.layers] == list(range(1, len(losses) + 1))
    per = [r.loss_per_cost for r in ranking.per_cost]
    assert per == sorted(per, reverse=True)


# -------------------------------------------------------------------------------------------- sabotage


def sabotaged(name: str = "residual", layer: str = "conv2") -> tuple[onnx.ModelProto, Any]:
    """One layer's weight gets an outlier in each channel, which no scale can stand."""
    model, feeds = NETS[name]()
    node = next(n for n in model.graph.node if n.name == layer)
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    w = onnx.numpy_helper.to_array(tensor).copy()
    w[:, 0, 0, 0] = 60 * np.abs(w).max()
    tensor.CopyFrom(onnx.numpy_helper.from_array(w, tensor.name))
    return model, feeds


RELIABLE = [m for m in MEASURES if "relative_error" not in m]


@pytest.mark.parametrize("mode", ["alone", "all-but"])
@pytest.mark.parametrize("metric", RELIABLE)
def test_a_sabotaged_layer_is_first_by_every_metric(metric: str, mode: Any) -> None:
    model, feeds = sabotaged()
    ranking = calibrant.sensitivity(
        model, feeds(batch=16, seed=2), None, "int8", metric, mode=mode
    )
    assert ranking.layers[0].name == "conv2"
    assert not ranking.layers[0].estimated


def passes(ranking: Ranking) -> float:
    found = ranking.work["passes"]
    assert found is not None
    return found


def worst_value(mine: Array, truth: Array) -> float:
    """A metric of the user's own."""
    return -float(np.abs(mine - truth).max())


def test_a_metric_of_the_users_own() -> None:
    model, feeds = sabotaged()
    x = feeds(batch=8, seed=2)
    named = "tests.diagnose.test_sensitivity:worst_value"
    metrics: tuple[Any, ...] = (worst_value, named)
    for metric in metrics:
        ranking = calibrant.sensitivity(model, x, None, "int8", metric, budget=None)
        assert ranking.layers[0].name == "conv2"
        for row in ranking.layers:
            assert row.score == pytest.approx(-row.metrics["max_absolute_error"])
            assert row.loss == pytest.approx(-row.score)
    assert ranking.metric.endswith(":worst_value")


def test_a_layer_that_overflows_in_float16_is_first() -> None:
    model, feeds = NETS["residual"]()
    x = {n: v * 1e5 for n, v in feeds(batch=4, seed=2).items()}
    ranking = calibrant.sensitivity(model, x, precision="float16")
    first = next(n.name for n in model.graph.node if n.op_type == "Conv")
    bad = [r.name for r in ranking.layers if math.isnan(r.score)]
    assert first in bad
    assert ranking.layers[0].loss == math.inf


def test_more_bits_lose_less() -> None:
    model, feeds = NETS["residual"]()
    found = calibrant.sensitivity(
        model, feeds(batch=8, seed=2), precision=["int4", "int8", "int16", "float16"], budget=None
    )
    scores = {(r.name, r.precision): r.score for r in found.layers}
    for name in {r.name for r in found.layers if r.op_type == "Conv"}:
        each = [scores[name, p] for p in ("int4", "int8", "int16")]
        assert each == sorted(each)
        assert scores[name, "float16"] > scores[name, "int8"]


@pytest.mark.parametrize("smallest", [1, 16])
@pytest.mark.parametrize("name", ["residual", "gemm_mlp", "attention_add"])
def test_all_but_one_in_float16_is_the_model_with_the_others_rounded(
    name: str, smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibrant.runtime.segments.SMALLEST", smallest)  # casts at every border
    model, feeds = NETS[name]()
    x = feeds(batch=8, seed=2)
    ranking = calibrant.sensitivity(
        model, x, precision="float16", mode="all-but", budget=None, samples=None
    )
    base = solution(model, x, None)
    layers = [d.node for d in base.plan.layers if d.quantized]
    names = [v.name or "" for v in base.model.graph.outputs]
    assert {r.name for r in ranking.layers} == set(layers)

    def answer(rounded: list[str]) -> Array:
        copy = base.model.clone()
        round_layers(copy, rounded)
        session = open_session(copy, optimize=False)
        return np.asarray(
            infer(session, names[:1], {i.name: x[i.name] for i in session.get_inputs()})[0]
        )

    truth = answer([])
    assert ranking.baseline["float16"] == pytest.approx(
        metrics.sqnr_db(answer(layers), truth), abs=0.2
    )
    for row in ranking.layers:
        left = answer([n for n in layers if n != row.name])
        assert row.score == pytest.approx(metrics.sqnr_db(left, truth), abs=0.2)


# ------------------------------------------------------------------------------------- cost and memory


def test_cost_is_what_a_layer_multiplies_or_weighs() -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=4, seed=2)
    macs = rows(calibrant.sensitivity(model, x))
    half = rows(calibrant.sensitivity(model, x, precision="int16", cost="bytes"))
    found = solution(model, x, None)
    whole = Whole.of(found.model, ["y"], [{n: v[:1] for n, v in x.items()}])
    for w in found.plan.weights:
        assert macs[w.layer].cost == whole.macs_of(w.layer)
        value = found.model.graph.initializers[w.weight].const_value
        assert value is not None
        assert half[w.layer].cost == 2 * value.size
        assert macs[w.layer].loss_per_cost == macs[w.layer].loss / macs[w.layer].cost


@pytest.mark.parametrize("samples", [8, 16, 48])
def test_work_stays_within_the_budget_and_the_worst_are_measured(samples: int) -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=samples, seed=4)
    budget = 0.7  # of few layers, the float model's own pass is a large part
    some = calibrant.sensitivity(model, x, samples=None, budget=budget)
    every = calibrant.sensitivity(model, x, samples=None, budget=None)
    allowed = some.work["allowed"]
    assert allowed == budget * len(some.layers)
    assert passes(some) <= allowed < passes(every)
    assert any(r.estimated for r in some.layers)
    exact = rows(every)
    assert some.layers[0].name == every.layers[0].name
    for row in some.layers:
        near = 1.5 if row.estimated else 1e-9
        assert row.score == pytest.approx(exact[row.name].score, abs=near)


def test_memory_is_limited_by_running_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=12, seed=4)
    largest = []
    on = Whole.on

    def watched(self: Whole, some: Any) -> Whole:
        found = on(self, some)
        largest.append(found.bytes)
        return found

    plain = calibrant.sensitivity(model, x, samples=None, budget=None)
    monkeypatch.setattr(Whole, "on", watched)
    one = {n: v[:1] for n, v in x.items()}
    limit = int(2.5 * Whole.of(solution(model, x, None).model, ["y"], [one]).bytes)
    largest.clear()
    tight = calibrant.sensitivity(model, x, samples=None, budget=None, memory_bytes=limit)
    assert max(largest[1:]) <= limit
    for name, row in rows(tight).items():
        assert row.score == pytest.approx(rows(plain)[name].score, abs=1e-3)


# ----------------------------------------------------------------------------------------------- resume


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=8, seed=4)
    plain = calibrant.sensitivity(model, x)
    put = journal.Journal.put
    written: list[tuple[Any, ...]] = []

    def killed(self: journal.Journal, *line: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(line)
        put(self, *line)

    monkeypatch.setattr(journal.Journal, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrant.sensitivity(model, x, out=tmp_path)
    monkeypatch.undo()
    path = tmp_path / journal.JOURNAL_FILE
    assert len(path.read_text().splitlines()) == 3
    path.write_text(path.read_text() + '{"key": "cut o')  # the end of a killed process
    again = calibrant.sensitivity(model, x, out=tmp_path)
    assert again.work["reused"] == 3
    assert passes(again) < passes(plain)
    assert again.layers == plain.layers
    last = calibrant.sensitivity(model, x, out=tmp_path)
    assert last.layers == plain.layers
    assert passes(last) <= 1
    json.loads(path.read_text().splitlines()[-1])


def test_figures_of_other_content_are_not_taken(tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=4, seed=4)
    calibrant.sensitivity(model, x, out=tmp_path)
    other, _ = sabotaged()
    data = feeds(batch=4, seed=5)
    for again in (
        calibrant.sensitivity(other, x, out=tmp_path),
        calibrant.sensitivity(model, data, out=tmp_path),
        calibrant.sensitivity(model, x, out=tmp_path, precision="int4"),
        calibrant.sensitivity(model, x, out=tmp_path, mode="all-but"),
    ):
        assert again.work["reused"] == 0


def test_progress_ends_where_it_said() -> None:
    model, feeds = NETS["residual"]()
    said: list[tuple[str, int, int | None]] = []
    calibrant.sensitivity(model, feeds(batch=8, seed=1), progress=lambda *s: said.append(s))
    mine = [(done, of) for stage, done, of in said if stage == "layers in int8"]
    assert mine[-1][0] == mine[-1][1]
    assert [d for d, _ in mine] == sorted(d for d, _ in mine)


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int7"}, "Unknown precision 'int7'. Known: int8, int16, int4, float16."),
        ({"precision": []}, "There is no precision"),
        ({"metric": "cosine"}, "Did you mean 'cosine_similarity'?"),
        ({"metric": "no_module_of_mine:f"}, "cannot be imported"),
        ({"metric": 3}, "The metric is a int"),
        ({"mode": "alon"}, "mode is 'alon'; it is alone or all-but"),
        ({"cost": "time"}, "cost is 'time'; it is macs or bytes"),
        ({"layers": ["conv"]}, "Layer 'conv' is none of the"),
        ({"samples": 0}, "samples is 0"),
        ({"budget": -1.0}, "budget is -1.0"),
        ({"memory_bytes": 0}, "memory_bytes is 0"),
    ],
)
def test_errors_say_what_is_allowed(options: dict[str, Any], words: str) -> None:
    model, feeds = NETS["residual"]()
    with pytest.raises(ConfigValueError, match=words.replace("(", r"\(").replace("?", r"\?")):
        calibrant.sensitivity(model, feeds(batch=2), **options)


def test_no_data_and_no_folder(tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    with pytest.raises(DataError):
        calibrant.sensitivity(model, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        calibrant.sensitivity(model, feeds(batch=2), out=tmp_path / "file")


def test_one_layer_alone_is_measured_where_it_is_named() -> None:
    model, feeds = NETS["residual"]()
    x = feeds(batch=4, seed=1)
    every = rows(calibrant.sensitivity(model, x, budget=None))
    one = calibrant.sensitivity(model, x, layers=["conv2"], budget=None)
    assert [r.name for r in one.layers] == ["conv2"]
    assert one.layers[0].score == every["conv2"].score
    assert measuring.MEMORY_BYTES > 0
