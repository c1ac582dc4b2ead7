"""Strategy `amct-retrain` on a small network: what it trains, what it writes, and that a run goes on where it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.dialects import load_recipe
from calibrant.tuner import TuningResult
from tests.models import NETS

torch = pytest.importorskip("torch")

CFG = "batch_num: 2\nretrain_weight_quant_config { ulq_retrain { dst_type: INT8 } }\n"


def tuned(
    out: Path, least: float, recipe: str | None = None, max_trials: int | None = None
) -> TuningResult:
    model, feeds = NETS["conv_bn_relu"]()
    data = {"x": np.asarray(feeds(batch=48, seed=0)["x"])}
    return calibrant.tune(
        model,
        data,
        (data, "sqnr_db"),
        f"min {least}",
        strategy="amct-retrain",
        recipe=recipe,
        train_epochs=1,
        max_trials=max_trials,
        out=out,
    )


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuningResult, Path]:
    """Return a run that nothing is enough for, and its folder."""
    out = tmp_path_factory.mktemp("missed")
    result = tuned(out, 95.0)
    result.save(out)
    return result, out


@pytest.mark.slow
def test_a_network_that_nothing_is_enough_for_is_not_suited(missed: Any) -> None:
    result, out = missed
    assert not result.met
    assert "not suited to training" in result.search.reason
    phases = [t["phase"] for t in result.report()["trials"]]
    assert phases[:2] == ["1 defaults", "2 input and output layers"]
    assert phases[2:].count("3 clips") in (3, 4, 5)
    text = (out / "tuning_report.md").read_text()
    assert "clips at 0.7 times what was seen" in text
    assert "What to try next" in text
    config = json.loads((out / "config.json").read_text())
    assert any("retrain_enable" in v for v in config.values() if isinstance(v, dict))
    assert load_recipe(out / "config.json").training
    assert load_recipe(out / "recipe.yaml").training


@pytest.mark.slow
def test_it_goes_on_without_training_again(missed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibrant.qat.loop import Loop

    result, out = missed
    monkeypatch.setattr(Loop, "_step", lambda *_: pytest.fail("a step was trained"))
    again = tuned(out, 95.0)
    assert again.result.to_bytes() == result.result.to_bytes()
    assert [t.reached.score for t in again.search.trials] == [
        t.reached.score for t in result.search.trials
    ]


@pytest.mark.slow
def test_a_configuration_of_the_vendor_that_is_enough_ends_it(tmp_path: Path) -> None:
    result = tuned(tmp_path, 5.0, CFG)
    assert result.met
    (trial,) = result.search.trials
    assert trial.phase == "1 defaults"
    result.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = [v["retrain_weight_config"]["algo"] for v in config.values() if isinstance(v, dict)]
    assert set(weights) == {"ulq_retrain"}
    assert result.told is not None
    assert result.told.strategy == "amct-retrain"


def test_what_cannot_be_evaluated_any_more_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibrant.tuner.trainer import Trainer

    trained: list[str] = []
    train = Trainer.train

    def counted(self: Trainer, recipe: Any, shown: str) -> Any:
        trained.append(shown)
        return train(self, recipe, shown)

    monkeypatch.setattr(Trainer, "train", counted)
    tuned(tmp_path, 95.0, max_trials=2)  # the float model's, and one more
    assert set(trained) == {"1 defaults: as the configuration says"}
