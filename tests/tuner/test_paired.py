"""Models are scored beside the float model, sample by sample, on no more samples than it takes; some are held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import calibrant
from calibrant.analysis.task_metrics import batch_metric
from calibrant.demo import digits
from calibrant.graph.load import load
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.runtime.runtime import Runtime
from calibrant.tuner.looks import PairedLooks
from calibrant.tuner.paired import PRECHECK, Paired, Seen, interval
from calibrant.tuner.samples import Samples
from tests.models.rescaled import rescaled
from tests.road import quantize


def evaluation() -> dict[str, Any]:
    found = digits.evaluation()
    return {"image": found.image, "labels": found.labels}


def paired(**options: Any) -> Paired:
    found = Paired(
        Samples(evaluation(), load(digits.MODEL), Runtime(), **options), batch_metric("top1")
    )
    found.open()
    return found


def quantized(bits: int = 8) -> ir.Model:
    recipe = Recipe((Rule(AllNodes(), Settings(weight_bits=bits)),))
    return quantize(digits.MODEL, {"image": digits.calibration().image}, recipe).deploy


def test_scores_are_those_of_evaluate() -> None:
    found = paired()
    told = calibrant.evaluate(digits.MODEL, evaluation(), "top1").value
    assert found.reference.mean() == pytest.approx(told, abs=1e-12)
    model = quantized(4)
    told = calibrant.evaluate(model, evaluation(), "top1").value
    assert found.run(model).values.mean() == pytest.approx(told, abs=1e-12)


def test_a_run_goes_on_where_it_ended() -> None:
    found, model = paired(), quantized(4)
    first = found.run(model, until=50)
    assert len(first.values) == 50
    whole = found.run(model, known=first)
    assert whole.values.tolist() == found.run(model).values.tolist()


def test_held_out_samples_are_never_seen_by_the_search() -> None:
    found = paired(holdout=0.25)
    assert 0.7 * found.count < found.tuned < 0.8 * found.count
    assert paired().tuned == found.count
    data = evaluation()
    result = calibrant.tune(
        digits.MODEL,
        {"image": digits.calibration().image},
        (data, "top1"),
        "max-drop 5%",
        holdout=0.25,
    )
    held = result.verdict.held_out
    assert held is not None
    assert held.samples == found.count - found.tuned
    told = calibrant.evaluate(result.result, data, "top1").value
    assert result.score == pytest.approx(told, abs=1e-12)
    assert result.verdict.interval is not None
    low, high = result.verdict.interval
    assert low <= result.best.reached.loss <= high


def test_a_hopeless_trial_ends_with_the_first_samples() -> None:
    """A network whose output is noise once it is quantized is given up after the precheck."""
    wrong = dict(evaluation())
    result = calibrant.tune(
        digits.MODEL,
        {
            "image": digits.calibration().image * 0
            + np.linspace(0, 1e-3, 96)[:, None, None, None].astype(np.float32)
        },
        (wrong, "top1"),
        "max-drop 1%",
        allow="int8",
    )
    assert not result.met
    assert result.counts.full == 1  # the float model
    assert result.counts.precheck_samples == PRECHECK


@pytest.mark.slow
def test_early_ends_spare_samples_and_change_no_verdict() -> None:
    data = {"image": digits.calibration().image}
    recipe = Recipe((Rule(AllNodes(), Settings(weight_bits=4)),))
    options: dict[str, Any] = {"recipe": recipe, "allow": "int8,float32"}
    sure = calibrant.tune(
        digits.MODEL, data, (evaluation(), "top1"), "max-drop 40%", confidence=1, **options
    )
    early = calibrant.tune(digits.MODEL, data, (evaluation(), "top1"), "max-drop 40%", **options)
    assert sure.met
    assert early.met
    assert early.score == sure.score
    assert (early.counts.precheck_samples, sure.counts.precheck_samples) == (PRECHECK, 0)


def test_differences_of_equal_models_are_nothing() -> None:
    found = paired()
    assert (found.losses(found.reference) == 0).all()


def test_an_interval_is_never_surer_than_its_samples() -> None:
    """Where no sample differs, as many unseen ones may differ as the rule of three allows."""
    for n in (32, 600, 10_000):
        found = interval(np.zeros(n), 1.0)
        assert found is not None
        assert found[1] == pytest.approx(3 / n, rel=0.1)
        assert found[0] == -found[1]
    assert interval(np.zeros(10), None) is None
    assert interval(np.ones(1), None) is None


@pytest.mark.parametrize(("worse", "better"), [(0.0, 0.002), (0.01, 0.0), (0.02, 0.02)])
def test_intervals_hold_the_truth_as_often_as_they_say(worse: float, better: float) -> None:
    rng, held, rounds = np.random.default_rng(0), 0, 400
    for _ in range(rounds):
        draw = rng.random(500)
        losses = np.where(draw < worse, 1.0, np.where(draw > 1 - better, -1.0, 0.0))
        found = interval(losses, 1.0)
        assert found is not None
        held += found[0] <= worse - better <= found[1]
    assert held / rounds > 0.95 - 2 * (0.05 * 0.95 / rounds) ** 0.5


def test_less_is_better_for_errors() -> None:
    data = {"image": evaluation()["image"], "logits": np.zeros((600, 10), np.float32)}
    found = Paired(Samples(data, load(digits.MODEL), Runtime()), batch_metric("mse"))
    found.open()
    assert np.allclose(found.losses(found.reference + 1), 1)
    assert found.certainty(0.1) is None  # an error has no largest value


def test_what_was_seen_is_kept_in_order() -> None:
    found = paired()
    known = Seen(found.reference[:100])
    assert found.run(load(digits.MODEL), known=known).values.tolist() == found.reference.tolist()


def test_rescaled_networks_compute_the_same() -> None:
    from tests.models import convolution
    from tests.road import outputs

    model, feeds = convolution.residual()
    x = feeds(batch=2, seed=5)
    mine, other = outputs(model, x)[0], outputs(rescaled(model, "w1", "w2"), x)[0]
    assert np.allclose(mine, other, rtol=1e-3, atol=1e-4)


def test_what_was_held_out_is_looked_at_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look after a trial failed among the samples held out tells what is lost on all, as far as trials differed there."""
    found, model = paired(holdout=0.25), load(digits.MODEL)
    values = found.reference.copy()
    differs = [3, 50, found.tuned + 2, found.count - 1]
    values[differs] = 1 - values[differs]
    assert found.margins is not None
    found.margins[[*differs, *range(found.tuned, found.count)]] = (
        0  # all held out are near to another answer
    )
    asked: list[list[int]] = []

    def at(_: Paired, model: ir.Model, indices: list[int]) -> Any:
        asked.append(indices)
        return values[indices]

    monkeypatch.setattr(Paired, "at", at)
    looks = PairedLooks(found)
    looks.learn("trial", {"values": values[: found.tuned]})
    before = looks.at({}, lambda: model)
    assert (looks.shown_to, looks.shown) == (False, 0)
    assert before.loss == pytest.approx(found.losses(values[: found.tuned]).mean())
    looks.learn("trial", {"values": values})
    after = looks.at(before.known, lambda: model)
    assert (looks.shown_to, looks.shown) == (True, 2)
    assert after.loss == pytest.approx(found.losses(values).mean())
    assert asked == [differs[:2], differs[2:]]
