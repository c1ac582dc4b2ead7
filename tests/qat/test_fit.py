"""Training: the budget, the verdict, divergence, and runs that were killed."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.analysis.evaluate import evaluate
from calibrant.cli import main
from calibrant.demo.digits import MODEL, calibration, evaluation
from calibrant.errors import ConfigValueError, DataError
from calibrant.qat import fit, prepare
from calibrant.qat.average import Average
from calibrant.qat.checkpoint import load_checkpoint, save_checkpoint
from calibrant.qat.judge import Held
from calibrant.qat.loop import Asked, Loop, _diverges
from calibrant.qat.rates import suggested_rate
from calibrant.qat.run_state import FLOAT, Check, Folder, State
from calibrant.qat.samples import read_samples
from calibrant.qat.schedule import rate_share
from calibrant.runtime.measure import run

W4A4 = """
    batch_num: 4
    retrain_data_quant_config { ulq_quantize { dst_type: INT4 } }
    retrain_weight_quant_config { ulq_retrain { dst_type: INT4 channel_wise: true } }
"""


CALIBRATION = {"image": calibration().image}


@cache
def prepared(recipe):
    return prepare(MODEL, CALIBRATION, recipe)


def fresh(recipe=None):
    """Return the network of a recipe as calibration left it."""
    qat = prepared(recipe)
    module = copy.deepcopy(qat.trained.module)
    return replace(qat, trained=replace(qat.trained, module=module))


@pytest.fixture(scope="module")
def training():
    """Return the digits that accuracy is measured on with the first half taken out: no label is read of these."""
    return {"image": evaluation().image[:300]}


def top1(model: ir.Model) -> float:
    held = evaluation()
    labelled = {"image": held.image[300:], "labels": held.labels[300:]}
    return evaluate(model, labelled, "top1", batch_size=100).value


@pytest.mark.slow
def test_training_wins_back_what_4_bits_lose(training):
    qat = fresh(W4A4)
    fitted = fit(qat, training, evaluate=top1, epochs=12, lr=3e-3, batch_size=30)
    assert fitted.better
    assert fitted.calibrated_score < fitted.float_score - 0.02
    assert fitted.trained_score > fitted.calibrated_score + 0.02
    assert top1(fitted.result.deploy) == pytest.approx(fitted.trained_score)
    said = fitted.result.summary["training"]
    assert said["better"] is True
    assert said["steps"] == 120 == len(fitted.losses)
    assert said["agreement"]["typical_db"] > 40
    assert np.mean(fitted.losses[-10:]) < np.mean(fitted.losses[:10])


@pytest.mark.slow
def test_what_is_no_better_than_calibration_is_not_kept(training):
    qat = fresh()
    scores = iter([1.0, 0.9, *[0.5] * 20])
    fitted = fit(qat, training, evaluate=lambda _: next(scores), epochs=1)
    assert not fitted.better
    assert fitted.result.deploy is qat.calibrated.deploy
    assert fitted.result.summary["training"]["scores"] == {
        "float": 1.0,
        "calibrated": 0.9,
        "trained": 0.5,
    }


def test_the_best_state_is_kept_not_the_last(training):
    qat = fresh()
    scores = iter([1.0, 0.1, 0.3, 0.9, 0.2, 0.4])
    fitted = fit(qat, training, evaluate=lambda _: next(scores), epochs=4, batch_size=75)
    assert fitted.trained_score == 0.9
    assert [c.score for c in fitted.checks] == [0.3, 0.9, 0.2, 0.4]


@pytest.mark.slow
def test_without_an_evaluation_samples_are_held_back(training):
    qat = fresh(W4A4)
    fitted = fit(qat, training, epochs=6, lr=3e-3, batch_size=30)
    assert fitted.better
    assert fitted.result.summary["training"]["samples"] == 270
    assert fitted.trained_score > fitted.calibrated_score + 1  # dB


def test_a_loss_that_is_no_number_sends_the_run_back_with_half_the_rate(training):
    qat = fresh()
    calls = []

    def loss(outputs, wanted, extras):
        calls.append(1)
        value = (outputs[0] - wanted[0]).square().mean()
        return value * math.nan if len(calls) == 3 else value

    fitted = fit(qat, training, evaluate=top1, epochs=2, loss=loss, batch_size=50)
    assert len(fitted.notes) == 1
    assert "At step 2 the loss was nan" in fitted.notes[0]
    assert fitted.result.summary["training"]["rate"] == pytest.approx(
        suggested_rate(qat.solution) / 2
    )
    assert all(math.isfinite(v) for v in fitted.losses)


def test_a_state_that_is_no_number_is_left_at_the_next_look(training):
    qat = fresh()
    calls = []

    def loss(outputs, wanted, extras):
        calls.append(1)
        if len(calls) == 4:
            with torch.no_grad():
                next(qat.module.parameters()).fill_(math.nan)
            return outputs[0].square().mean() * 0 + 1.0
        return (outputs[0] - wanted[0]).square().mean()

    fitted = fit(qat, training, evaluate=top1, epochs=2, loss=loss, batch_size=50)
    assert fitted.notes
    assert all(np.isfinite(v.detach().numpy()).all() for v in qat.module.parameters())
    assert math.isfinite(fitted.trained_score)


def test_a_loss_that_grows_out_of_all_proportion_sends_the_run_back(training):
    qat = fresh(W4A4)
    calls = []

    def loss(outputs, wanted, extras):
        calls.append(1)
        value = (outputs[0] - wanted[0]).square().mean()
        return value * 1e4 if len(calls) == 30 else value

    fitted = fit(qat, training, evaluate=top1, epochs=5, loss=loss, batch_size=30)
    assert len(fitted.notes) == 1
    assert "back to the last good state, with rate" in fitted.notes[0]


@pytest.mark.slow
def test_the_verdict_scores_three_models_once_each_and_chooses_nothing(training):
    qat, asked = fresh(W4A4), []

    def verdict(model):
        asked.append(model)
        return top1(model)

    fitted = fit(qat, training, verdict=verdict, epochs=6, batch_size=30)
    assert len(asked) == 3
    assert asked[1] is qat.calibrated.deploy
    assert fitted.float_score == top1(qat.solution.original)
    assert fitted.trained_score == pytest.approx(top1(fitted.result.deploy))
    assert fitted.checks[-1].score not in (fitted.trained_score, fitted.calibrated_score)  # in dB


def test_the_rate_follows_from_how_coarsely_a_network_is_rounded():
    eight, four = (suggested_rate(prepared(r).solution) for r in (None, W4A4))
    assert 5e-5 < eight < 5e-4 < four < 5e-3


def test_the_mean_is_what_the_formula_says_and_leaves_the_module_where_it_is():
    module = torch.nn.Linear(1, 1, bias=False)
    average = Average(module)
    start = wanted = float(module.weight.detach())
    for step in range(200):
        with torch.no_grad():
            module.weight.fill_(start + step)
        average.update(step, 200)
        decay = min(1 - 1 / 10, (1 + step) / (10 + step))
        wanted += (1 - decay) * (start + step - wanted)
    with average.taken():
        assert module.weight.item() == pytest.approx(wanted, rel=1e-5)
    assert module.weight.item() == pytest.approx(start + 199)
    assert [Average.matters(n) for n in (39, 40)] == [False, True]


@pytest.mark.slow
def test_samples_are_changed_anew_each_time_and_the_float_network_asked_anew(training):
    qat, seen, asked = fresh(W4A4), [], []
    teacher = qat.teacher.forward

    def flipped(inputs, extras, generator):
        flips = generator.random(len(inputs[0])) < 0.5
        x = inputs[0].clone()
        x[flips] = x[flips].flip(-1)
        seen.append(flips)
        return (x,), extras

    def counted(x):
        asked.append(1)
        return teacher(x)

    qat.teacher.forward = counted
    try:
        first = fit(qat, training, evaluate=top1, epochs=2, batch_size=50, augment=flipped)
        assert len(asked) == len(seen) == 12
        again = fit(fresh(W4A4), training, evaluate=top1, epochs=2, batch_size=50, augment=flipped)
    finally:
        del qat.teacher.forward
    assert first.losses == again.losses
    assert not np.array_equal(seen[0], seen[6])
    with pytest.raises(ConfigValueError, match="augment is 'flip'"):
        fit(fresh(W4A4), training, evaluate=top1, epochs=1, augment="flip")


class Clocked(Loop):
    """A loop whose steps take 1 s and whose scores 2 s."""

    seconds = 0.0

    def __init__(self):
        self.asked = Asked(1e-3, 1, lambda *_: torch.zeros(()), lambda _: 0.0, 0, 2.0, 0)
        self.state = State()
        self.timed, self.trained, self.looked = 0, 0.0, 0.0


def test_minutes_end_with_the_rate_at_0_and_time_for_the_last_look():
    loop, rates = Clocked(), []
    while not loop._done():
        steps = loop.state.steps
        rates.append(rate_share(loop.state.step, steps) if steps else 0.02)
        loop.state.step += 1
        loop.seconds += 1.0
        loop._plan(1.0)
        if loop._due() and not loop._done():
            loop.state.checks.append(Check(loop.state.step, 0.0, 0.0, 0.0, 0.0))
            loop.seconds += 2.0
            loop.looked = 2.0
    assert 115 <= loop.seconds + 2 * 2.0 <= 120
    assert len(loop.state.checks) == 3
    assert max(rates) > 0.9
    assert rates[-1] < 0.01


def test_labels_train_where_they_are_there_and_are_missed_where_not():
    held = evaluation()
    qat = fresh(W4A4)
    labelled = {"image": held.image[:300], "labels": held.labels[:300]}
    fitted = fit(qat, labelled, evaluate=top1, epochs=1, loss="labels", batch_size=30)
    assert np.isfinite(fitted.losses).all()
    with pytest.raises(DataError, match="needs an array 'labels'"):
        fit(qat, CALIBRATION, evaluate=top1, epochs=1, loss="labels")
    with pytest.raises(ConfigValueError, match="The loss is 'distil'"):
        fit(qat, CALIBRATION, evaluate=top1, epochs=1, loss="distil")


LABELLED = {"image": evaluation().image[:300], "labels": evaluation().labels[:300]}


@pytest.mark.slow
def test_the_float_network_is_trained_beside_with_the_same_samples_steps_and_rates(tmp_path):
    qat, seen = fresh(W4A4), []

    def loss(outputs, wanted, extras):
        seen.append(extras["labels"].tolist())
        return torch.nn.functional.cross_entropy(outputs[0], extras["labels"].long())

    before = {k: v.clone() for k, v in qat.teacher.state_dict().items()}
    asked = {"evaluate": top1, "epochs": 8, "batch_size": 50, "float_too": True, "lr": 5e-3}
    fitted = fit(qat, LABELLED, loss=loss, folder=tmp_path, **asked)
    steps = len(fitted.losses)
    assert steps == 48
    assert seen[steps:] == seen[:steps]
    losses, checks = journal(tmp_path / "float")
    assert len(losses) == steps
    assert np.mean(losses[-6:]) < np.mean(losses[:6])  # it trains
    assert fitted.float_trained_score == max(c["score"] for c in checks)  # its best state
    assert [c["step"] for c in checks] == [c.step for c in fitted.checks]
    said = fitted.result.summary["training"]["scores"]
    assert said["float_trained"] == fitted.float_trained_score
    assert all(torch.equal(v, before[k]) for k, v in qat.teacher.state_dict().items())


def journal(folder):
    """Return the losses and the looks of a run on disk."""
    _, meta = load_checkpoint(folder / "checkpoint.npz")
    lines = (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return meta["state"]["losses"], [json.loads(line) for line in lines]


def test_a_rate_that_ruins_any_network_ruins_the_float_one_beside_and_its_best_state_is_scored():
    asked = {"evaluate": top1, "epochs": 1, "batch_size": 50, "float_too": True}
    fitted = fit(fresh(), LABELLED, loss="labels", lr=0.2, **asked)
    assert fitted.float_trained_score < fitted.float_score - 0.1


def test_what_distils_leaves_the_float_network_as_it_is_and_scores_it_once():
    models = []

    def verdict(model):
        models.append(model)
        return top1(model)

    asked = {"verdict": verdict, "epochs": 1, "batch_size": 50, "float_too": True}
    alike = fit(fresh(), LABELLED, **asked)
    assert alike.float_trained_score == alike.float_score
    assert len(models) == 3
    models.clear()
    other = fit(fresh(), LABELLED, loss="labels", lr=5e-3, **asked)
    assert len(models) == 4
    assert other.float_trained_score == top1(models[3])
    first, last = (m.graph.initializers for m in (models[0], models[3]))
    assert any(
        not np.array_equal(v.const_value.numpy(), last[k].const_value.numpy())
        for k, v in first.items()
        if k in last
    )


def test_every_sample_that_is_held_back_is_scored_on():
    samples = read_samples(MODEL, LABELLED)
    rest, held = samples.split(45)
    assert (len(rest), len(held)) == (255, 45)
    qat = fresh()
    loss = torch.nn.functional.cross_entropy
    score = Held(qat, held, lambda y, _, extras: loss(y[0], extras["labels"].long()))
    answers = run(qat.solution.original, [dict(held.inputs)])[0][qat.outputs[0]]
    wanted = loss(torch.from_numpy(answers), torch.from_numpy(held.extras["labels"]).long())
    assert score(qat.solution.original) == pytest.approx(-wanted.item(), rel=1e-4)
    fixed = replace(samples, fixed=32)
    assert len(fixed.split(45)[1]) == 64  # whole batches


def test_a_look_behind_a_step_back_tells_the_losses_since_the_last_look(training):
    qat = fresh(W4A4)
    losses: list[float] = []

    def loss(outputs, wanted, extras):
        value = (outputs[0] - wanted[0]).square().mean()
        losses.append(math.nan if len(losses) in (13, 15) else value.item())
        return value * losses[-1] if math.isnan(losses[-1]) else value

    fitted = fit(qat, training, evaluate=top1, epochs=4, loss=loss, batch_size=50)
    assert len(fitted.notes) == 2
    ends = [c.step for c in fitted.checks]
    assert ends == [6, 12, 18, 24]
    for start, end, check in zip([0, *ends], ends, fitted.checks, strict=False):
        since = [x for x in losses[start:end] if not math.isnan(x)]
        assert check.loss == pytest.approx(np.mean(since), rel=1e-6)


def test_a_run_that_ends_in_no_number_scores_what_it_went_back_to(training):
    qat = fresh(W4A4)

    def loss(outputs, wanted, extras):
        with torch.no_grad():
            next(qat.module.parameters()).fill_(math.nan)
        return outputs[0].square().mean() * 0 + 1.0

    fitted = fit(qat, training, evaluate=top1, epochs=0.2, loss=loss, batch_size=50)
    assert fitted.checks
    assert fitted.trained_score == fitted.calibrated_score
    assert not fitted.better


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_losses(training, tmp_path, monkeypatch):
    monkeypatch.setattr("calibrant.qat.loop.CHECKPOINT_SECONDS", 0.0)

    asked = {"evaluate": top1, "epochs": 3, "batch_size": 50, "lr": 3e-3}
    count = 0

    def dying(outputs, wanted, extras):
        nonlocal count
        count += 1
        if count == 8:
            raise KilledError
        return plain(outputs, wanted, extras)

    def plain(outputs, wanted, extras):
        return (outputs[0] - wanted[0]).square().mean()

    dying.__qualname__ = plain.__qualname__  # a run goes on with the loss that it began with
    whole = fit(fresh(W4A4), training, loss=plain, **asked)
    with pytest.raises(KilledError):
        fit(fresh(W4A4), training, loss=dying, folder=tmp_path, **asked)
    resumed = fit(fresh(W4A4), training, loss=plain, folder=tmp_path, resume=True, **asked)
    assert resumed.losses == whole.losses
    assert [c.score for c in resumed.checks] == [c.score for c in whole.checks]
    lines = (tmp_path / "training.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [c.step for c in whole.checks]
    with pytest.raises(ConfigValueError, match="is of a run with"):
        fit(fresh(W4A4), training, folder=tmp_path, resume=True, **{**asked, "lr": 1e-4})
    with pytest.raises(ConfigValueError, match="is of a run with"):
        fit(fresh(W4A4), training, loss="distill", folder=tmp_path, resume=True, **asked)
    with pytest.raises(ConfigValueError, match="no run to go on with"):
        fit(fresh(W4A4), training, folder=tmp_path / "other", resume=True, **asked)


def test_a_fresh_start_leaves_nothing_of_an_earlier_run_to_go_on_with(tmp_path):
    earlier = Folder(tmp_path, {"seed": 0})
    for place in (earlier, earlier.within(FLOAT, {"steps": 3})):
        place.save({"x": np.zeros(1)}, State(step=3), 1.0)
        place.begin([])
        assert place.load() is not None
    fresh_run = Folder(tmp_path, {"seed": 0})
    fresh_run.clear()
    assert fresh_run.load() is None
    assert fresh_run.within(FLOAT, {"steps": 3}).load() is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_checkpoint_holds_arrays_and_json_alone(tmp_path):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, {"a/b": np.arange(3)}, {"x": [1, 2.5]})
    arrays, meta = load_checkpoint(path)
    np.testing.assert_array_equal(arrays["a/b"], [0, 1, 2])
    assert meta == {"x": [1, 2.5]}
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigValueError, match="no checkpoint"):
        load_checkpoint(path)
    np.savez(path, meta=np.array([object()]))
    with pytest.raises(ConfigValueError, match="no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"epochs": 1, "minutes": 1}, "epochs and minutes are given"),
        ({"epochs": 0}, "epochs is 0"),
        ({"minutes": -1}, "minutes is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "cuda:99"}, "The device 'cuda:99' cannot be used"),
        ({"device": "moon"}, "The device 'moon' cannot be used"),
    ],
)
def test_a_budget_or_rate_out_of_range_is_refused(asked, message):
    with pytest.raises(ConfigValueError, match=message):
        fit(None, None, **asked)


def test_the_rate_rises_then_falls_to_0():
    shares = [rate_share(i, 100) for i in range(100)]
    assert shares[0] == 0.2
    assert max(shares) == 1
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert shares[-1] < 1e-3


def test_samples_come_in_an_order_that_the_seed_and_the_epoch_decide():
    samples = read_samples(MODEL, {"image": calibration().image, "labels": calibration().labels})
    rows = [
        [tuple(r) for r, _, _ in samples.batches(16, ["image"], seed=s, epoch=e)]
        for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert rows[0] == rows[1]
    assert len({str(r) for r in rows}) == 3
    late = [tuple(r) for r, _, _ in samples.batches(16, ["image"], seed=0, epoch=0, first=4)]
    assert late == rows[0][4:]
    chosen, inputs, extras = next(samples.batches(16, ["image"], seed=0, epoch=0))
    np.testing.assert_array_equal(inputs[0].numpy(), calibration().image[chosen])
    np.testing.assert_array_equal(extras["labels"].numpy(), calibration().labels[chosen])


def test_the_page_of_a_run_of_training(tmp_path):
    pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
    pytest.importorskip("plotly", reason="the page is made with the extra 'report'")
    train = tmp_path / "train.npz"
    np.savez(train, image=evaluation().image[:60])
    run = ["train", str(MODEL), "--data", str(train), "--out", str(tmp_path / "run"), "--report"]
    assert main([*run, "--epochs", "0.5", "--batch-size", "30"]) in (0, 8)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "pw3_conv" in page
    assert "calibrant train" in page
    graph = json.loads((tmp_path / "run" / "graph.json").read_text(encoding="utf-8"))
    assert {"dw1_conv", "pw4_conv"} <= {n["name"] for n in graph["nodes"]}


def test_the_command_writes_what_quantize_writes_and_says_how_it_went(tmp_path, capsys):
    held = evaluation()
    train, test = tmp_path / "train.npz", tmp_path / "eval.npz"
    np.savez(train, image=held.image[:300])
    np.savez(test, image=held.image[300:], labels=held.labels[300:])
    recipe = tmp_path / "qat.cfg"
    recipe.write_text(W4A4, encoding="utf-8")
    run = ["train", str(MODEL), "--data", str(train), "--eval", str(test), "--metric", "top1"]
    run += ["--recipe", str(recipe), "--out", str(tmp_path / "run"), "--batch-size", "30"]
    assert main([*run, "--epochs", "6", "--lr", "0.003", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    scores = said["training"]["scores"]
    assert scores["trained"] > scores["calibrated"]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"deploy.onnx", "record.txt", "trained.onnx", "training.jsonl"} <= names
    assert main([*run, "--epochs", "0.1", "--lr", "1e-9"]) == 8
    assert "the calibrated model was written" in " ".join(capsys.readouterr().out.split())
    assert main([*run[:4], "--out", str(tmp_path / "x"), "--metric", "top1"]) == 5


def test_one_loss_far_above_the_others_is_a_sample_and_three_in_a_row_are_a_run_that_diverges():
    usual = [1.0, 2.0] * 20
    assert not _diverges([*usual, 100.0])
    assert not _diverges([*usual, 100.0, 1.0, 100.0])
    assert _diverges([*usual, 100.0, 50.0, 100.0])
    assert _diverges([*usual, 9000.0])
    assert not _diverges([1.0] * 10 + [9000.0] * 3)  # too few to tell what is usual
