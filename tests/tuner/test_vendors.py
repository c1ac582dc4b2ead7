"""The vendors' own procedures on small real networks: what they decide, what they write, and that a run goes on where it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.dialects import load_recipe
from calibrant.dialects.amct.write import create_config
from calibrant.errors import ConfigValueError, ModelError
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.solution import Solution
from calibrant.tuner import Runner, TuningResult
from calibrant.tuner.recipe_trials import RecipeTrial, RecipeTrials
from calibrant.tuning.strategies import ascend_traverse
from calibrant.tuning.strategies.recipes import Try
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches

Truth = list[np.ndarray]


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer options for `ascend-traverse`: its whole grid is tried with invented answers (tests/tuning)."""
    for name, values in (("KINDS", ("kl",)), ("BINS", (150, 200)), ("IMAGES", (10,))):
        monkeypatch.setattr(ascend_traverse, name, values)


def network() -> onnx.ModelProto:
    """A network of which one layer loses far more than all the others."""
    return rescaled(convolution.residual()[0], "w1", "w2")


def data() -> list[dict[str, Any]]:
    return batches(convolution.residual()[1])


class Likeness:
    """SQNR of the outputs [dB], with the float model at 100; counts how often it is called."""

    def __init__(self) -> None:
        self.truth: Truth = []
        self.calls = 0
        self.stop_at = 0

    def __call__(self, runner: Runner) -> float:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        found = [runner(feed)[runner.outputs[0]] for feed in data()]
        self.truth = self.truth or found
        noise = sum(float(np.square(a - b).sum()) for a, b in zip(found, self.truth, strict=True))
        signal = sum(float(np.square(b).sum()) for b in self.truth)
        return min(100.0, 10 * np.log10(signal / noise)) if noise else 100.0


def tuned(strategy: str, least: float, **options: Any) -> tuple[TuningResult, Likeness]:
    evaluate = options.pop("evaluate", None) or Likeness()
    result = calibrant.tune(
        network(), data(), evaluate, f"min {least}", strategy=strategy, **options
    )
    return result, evaluate


def trials(result: TuningResult) -> list[RecipeTrial]:
    found = [t for t in result.search.trials if isinstance(t, RecipeTrial)]
    assert len(found) == len(result.search.trials)
    return found


def phases(result: TuningResult) -> list[str]:
    return list(dict.fromkeys(t.phase for t in trials(result)))


#: Strategy -> the least score that takes it more than two evaluations.
LEAST = {"amct-rollback": 25.0, "amct-manual": 25.0, "ascend-traverse": 25.0, "horizon": 42.0}


# ---------------------------------------------------------------------------------------- amct-rollback


def test_rollback_takes_back_the_layer_that_loses(tmp_path: Path) -> None:
    result, evaluate = tuned("amct-rollback", 25.0)
    assert result.met
    assert result.raised == ("conv2",)
    assert result.told is not None
    assert next(iter(result.told.ranking)) == "conv2"
    assert result.counts.full == evaluate.calls
    layers = len(result.precisions)
    back = [sum(p == "float32" for p in t.assignment) for t in trials(result)]
    assert back[0] == 0
    assert back[1] == (layers - 1) // 2 + 1  # half of the ranking first
    assert back[-1] == 1


def test_rollback_writes_the_vendors_files(tmp_path: Path) -> None:
    result, _ = tuned("amct-rollback", 25.0)
    result.save(tmp_path)
    prefix = "accuracy_based_auto_calibration"
    history = json.loads((tmp_path / f"{prefix}_record.json").read_text())
    assert [h["metric_eval"][0] for h in history] == [t.reached.met for t in trials(result)]
    ranking = json.loads((tmp_path / f"{prefix}_ranking_information.json").read_text())
    assert ranking[0][0] == "conv2"
    config = (tmp_path / "config.json").read_text()
    assert config == (tmp_path / f"{prefix}_final_config.json").read_text()
    enabled = {n: v["quant_enable"] for n, v in json.loads(config).items() if isinstance(v, dict)}
    assert [n for n, on in enabled.items() if not on] == ["conv2"]
    again = calibrant.quantize(network(), data(), tmp_path / "config.json", latency=False)
    assert again.to_bytes() == (tmp_path / "deploy.onnx").read_bytes()
    native = calibrant.quantize(network(), data(), tmp_path / "recipe.yaml", latency=False)
    assert native.to_bytes() == (tmp_path / "deploy.onnx").read_bytes()


def test_rollback_begins_with_what_the_configuration_says(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(create_config(network(), skip_layers=["conv2"], batch_num=2))
    result, evaluate = tuned("amct-rollback", 25.0, recipe=config)
    assert evaluate.calls == result.counts.full == 2
    assert "conv2" not in result.precisions
    assert [t.phase for t in trials(result)] == ["everything quantized"]


def test_rollback_that_cannot_reach_it_says_so(tmp_path: Path) -> None:
    result, _ = tuned("amct-rollback", 99.0)
    assert not result.met
    assert "the procedure ends without a model" in result.search.reason
    losses = [t.reached.loss for t in trials(result)]
    assert result.best.reached.loss == min(losses)
    result.save(tmp_path)
    assert not (tmp_path / "accuracy_based_auto_calibration_final_config.json").exists()
    report = (tmp_path / "tuning_report.md").read_text()
    assert "**Not met**" in report
    assert "## What to try next" in report


# ----------------------------------------------------------------------- amct-manual and ascend-traverse


def test_manual_goes_on_to_the_layer_that_loses(tmp_path: Path) -> None:
    result, evaluate = tuned("amct-manual", 25.0)
    assert result.met
    assert "conv2" in result.raised
    assert phases(result)[-1] == "3 sensitive layers"
    assert result.counts.full == evaluate.calls < 9
    result.save(tmp_path)
    again = calibrant.quantize(network(), data(), tmp_path / "config.json", latency=False)
    off = [d.node for d in again.plan.layers if not d.quantized]
    assert set(result.raised) <= set(off)
    report = json.loads((tmp_path / "tuning_report.json").read_text())
    assert report["strategy"] == "amct-manual"
    assert all(t["change"] for t in report["trials"])


def test_traverse_leaves_layers_out_from_the_first() -> None:
    result, _ = tuned("ascend-traverse", 25.0)
    assert result.met
    assert phases(result)[0] == "1 defaults"
    assert phases(result)[-1] == "6 blacklist"
    layers = list(result.precisions)
    assert result.raised == tuple(layers[: layers.index("conv2") + 1])


# --------------------------------------------------------------------------------------------- horizon


def one_scale_a_tensor() -> Recipe:
    """Weights with one scale a tensor, which is what the channels of the network are hostile to."""
    recipe = load_recipe(
        {"model_config": {"activation": {"calibration_type": "max"}}}, dialect="horizon"
    )
    return recipe.with_rules(Rule(AllNodes(), Settings(weight_per_channel=False), "test"))


def test_horizon_raises_the_nodes_that_lose(tmp_path: Path) -> None:
    result, _ = tuned("horizon", 28.0, recipe=one_scale_a_tensor(), target="generic")
    assert result.met
    assert result.raised == ("conv1", "conv2")
    assert set(result.precisions.values()) == {"int8", "int16"}
    assert phases(result) == ["A int8", "C1 all int16", "D int8 and int16"]
    result.save(tmp_path)
    folders = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert folders == {"output_int8", "output_int16", "output_int8_int16_mixed"}
    for folder in folders:
        onnx.checker.check_model(str(tmp_path / folder / "deploy.onnx"))
        assert json.loads((tmp_path / folder / "quant_config.json").read_text())["node_config"]
    mixed = (tmp_path / "output_int8_int16_mixed" / "deploy.onnx").read_bytes()
    assert mixed == (tmp_path / "deploy.onnx").read_bytes()
    report = (tmp_path / "tuning_report.md").read_text()
    assert "D int8 and int16" in report
    assert "## Ranking" in report


def test_horizon_compensates_the_operands_that_lose(tmp_path: Path) -> None:
    result, _ = tuned("horizon", 28.0, recipe=one_scale_a_tensor())
    assert result.met
    assert phases(result)[-1] == "F int16 and single operands"
    assert {w.layer for w in result.result.plan.weights if w.compensation} == {"conv1", "conv2"}
    result.save(tmp_path)
    again = calibrant.quantize(network(), data(), tmp_path / "recipe.yaml", latency=False)
    assert again.to_bytes() == (tmp_path / "deploy.onnx").read_bytes()


def test_horizon_writes_a_configuration_that_makes_the_same_model(tmp_path: Path) -> None:
    result, _ = tuned("horizon", 43.0)
    assert result.met
    assert phases(result)[-1] in ("C1 all int16", "D int8 and int16")
    result.save(tmp_path)
    config = json.loads((tmp_path / "final_quant_config.json").read_text())
    assert {n["qtype"] for n in config["node_config"].values()} >= {"int16"}
    again = calibrant.quantize(
        network(), data(), tmp_path / "final_quant_config.json", latency=False
    )
    assert again.to_bytes() == (tmp_path / "deploy.onnx").read_bytes()


def test_horizon_leaves_nodes_alone_that_the_configuration_names() -> None:
    config = {
        "model_config": {"activation": {"calibration_type": "max"}},
        "node_config": {"conv3": {"qtype": "float32"}, "conv0": {"qtype": "int16"}},
    }
    result, _ = tuned("horizon", 25.0, recipe=config)
    assert not {"conv0", "conv3"} & set(result.precisions)
    plan = {d.node: d.quantized for d in result.result.plan.layers}
    assert plan["conv0"]
    assert not plan["conv3"]


# ------------------------------------------------------------------------------------------- all of them


@pytest.mark.slow
@pytest.mark.parametrize("strategy", LEAST)
def test_a_run_that_was_ended_goes_on_and_ends_with_the_same(
    strategy: str, tmp_path: Path
) -> None:
    whole, once = tuned(strategy, LEAST[strategy])
    ended = Likeness()
    ended.stop_at = 3
    part, _ = tuned(strategy, LEAST[strategy], evaluate=ended, out=tmp_path)
    assert part.interrupted == "Ctrl-C"
    assert part.result.to_bytes()
    rest = Likeness()
    rest.truth = once.truth
    again, _ = tuned(strategy, LEAST[strategy], evaluate=rest, out=tmp_path)
    assert again.result.to_bytes() == whole.result.to_bytes()
    assert again.counts.full == whole.counts.full
    assert ended.calls - 1 + rest.calls == once.calls  # nothing ran twice


@pytest.mark.parametrize("strategy", LEAST)
def test_evaluations_are_limited(strategy: str) -> None:
    result, evaluate = tuned(strategy, LEAST[strategy], max_trials=3)
    assert evaluate.calls <= 3
    if evaluate.calls == 3:
        assert "evaluations of quantized models are spent" in result.search.reason


def test_the_keys_of_the_answer_are_those_of_auto(tmp_path: Path) -> None:
    mine, _ = tuned("amct-rollback", 25.0)
    auto, _ = tuned("auto", 25.0)
    assert list(mine.content(tmp_path)) == list(auto.content(tmp_path))


def test_a_strategy_that_cannot_do_what_is_allowed_says_so() -> None:
    with pytest.raises(ConfigValueError, match="gives layers int8, float32"):
        tuned("amct-rollback", 25.0, allow="int8,int16")


def test_a_recipe_that_cannot_be_built_counts_as_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RecipeTrials.solution_of

    def solution_of(self: RecipeTrials, asked: Try) -> Solution:
        if asked.phase == "2 calibration data":
            raise ModelError("no room for it")
        return real(self, asked)

    monkeypatch.setattr(RecipeTrials, "solution_of", solution_of)
    result, evaluate = tuned("amct-manual", 25.0)
    assert result.met
    failed = [t for t in trials(result) if t.phase == "2 calibration data"]
    assert failed
    assert not any(t.reached.met for t in failed)
    assert any("no room for it" in n for n in result.notes)
    assert result.counts.full == evaluate.calls


def test_a_report_of_a_procedure_is_a_page(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    result, _ = tuned("amct-rollback", 25.0)
    result.save(tmp_path, report=True)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "roll back" in page
