"""Train a network with its quantizers within a budget, and keep what is better than calibration alone.

    calibration ─► a rate from the widths ─► the loop (`loop`) ─► the best state ─► a verdict

The best state is chosen on samples that are not trained on, and not on those of the verdict.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from calibrant.analysis.parts import parts_of
from calibrant.errors import ConfigValueError, DataError
from calibrant.qat.augmentation import Augment, augment_of
from calibrant.qat.judge import Evaluate, Held
from calibrant.qat.loop import Asked, Loop
from calibrant.qat.losses import Distill, Loss, check_loss, loss_of
from calibrant.qat.networks import FloatNetwork, QuantizedNetwork
from calibrant.qat.rates import suggested_rate
from calibrant.qat.run_state import FLOAT, Check, Folder
from calibrant.qat.samples import TrainingData, read_samples
from calibrant.qat.trainable import Trainable
from calibrant.results import QuantizedModel

__all__ = ["Check", "Fitted", "check_asked", "check_enough", "fit"]

#: Samples that are held back to score on, where no evaluation is given: this share, at most so many.
HELD_SHARE, HELD_SAMPLES = 0.1, 512
#: How often samples are gone through, where no budget is given.
EPOCHS = 3.0
#: Statistics of batch normalization.
BN = ("frozen", "live")


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a run came to.

    Args:
        result: The better one of the trained and the calibrated model.
        better: The trained model scores better than the calibrated one.
        float_score: Score of the float model.
        calibrated_score: Score of the calibrated model.
        trained_score: Score of the trained model.
        checks: Every look at the deployed model.
        losses: Loss of every step.
        notes: What went otherwise than planned.
        seconds: Wall time [s].
        float_trained_score: Score of the float model trained as long with the same loss; None where it was not asked for.
    """

    result: QuantizedModel
    better: bool
    float_score: float
    calibrated_score: float
    trained_score: float
    checks: tuple[Check, ...]
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    seconds: float
    float_trained_score: float | None = None


def fit(
    qat: Trainable,
    train: Any,
    *,
    evaluate: Evaluate | None = None,
    verdict: Evaluate | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    lr: float | None = None,
    batch_size: int = 64,
    loss: str | Loss = "distill",
    augment: str | Augment | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    bn: str = "frozen",
    float_too: bool = False,
    device: str = "cpu",
    preprocess: str | Path | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Fitted:
    """Train a network with its quantizers.

    Torch runs on as many threads as `prepare` was told; on a machine that is busy otherwise, one is faster than two.

    Args:
        qat: What `prepare` returned; it is in the best state afterwards, on the CPU.
        train: Training samples, in any form that calibration data may have; labels are not needed.
        evaluate: Chooses the best state: scores a deployed model (`onnx_ir.Model`), more is better. Without it, some
            training samples are held back, and the score is the SQNR of the outputs against the float model's [dB], or
            where labels or a function are the loss, minus the loss.
        verdict: Scores the float, the calibrated and the chosen model at the end, and decides whether training is
            better; without it, what chose the state does. It is called once for each of them, and once for the float
            model that was trained beside, so data that it scores on chooses nothing else.
        epochs: How often all samples are gone through; 3 where neither epochs nor minutes are given.
        minutes: Wall time instead.
        lr: Largest learning rate, as a share of what is trained; without it, what suits the widths (`rates`): about
            2e-4 for 8 bits, 2e-3 for 4.
        batch_size: Samples in a step.
        loss: `distill` (the float network's outputs), `labels`, `module:function` or a function.
        augment: `module:function` or a function that changes samples each time they are shown (`augmentation`).
        weight_decay: Decay of the weights.
        seed: Decides the order of the samples.
        bn: Statistics of batch normalization: `frozen` (those of the file; for short runs) or `live` (those of each batch;
            for runs of many epochs).
        float_too: Train the float network in the same loop, with the same samples, loss and number of steps, and score
            it beside: what of a gain is not due to quantizers. With `distill` it stays as it is, since its loss is 0;
            otherwise it doubles the time. Its batch normalizations keep the statistics of the file.
        device: Where torch trains: `cpu`, `cuda`, `cuda:1`.
        preprocess: File that says how raw samples become inputs.
        folder: Where the journal and the checkpoint go; None for none.
        resume: Go on where a run in this folder ended, with the same losses; at the start where it was killed before it
            trained.

    Raises:
        ConfigValueError: A budget or rate out of range, both budgets, a device that is not there, or no folder to go
            on in.
        DataError: The samples do not fit the model.
    """
    check_asked(
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        augment=augment,
        bn=bn,
        device=device,
    )
    if qat.runtime.threads is not None:
        torch.set_num_threads(qat.runtime.threads)
    rate = lr if lr is not None else suggested_rate(qat.solution)
    data = (
        train
        if isinstance(train, TrainingData)
        else read_samples(qat.solution.original, train, preprocess)
    )
    reference = qat.probe.reference
    model = qat.solution.model
    parts = [parts_of(model, n, [r[n] for r in reference]) for n in qat.outputs]
    wanted = loss_of(loss, model, parts)
    held = None
    if evaluate is None:
        check_enough(data)
        data, held = data.split(min(HELD_SAMPLES, max(1, int(HELD_SHARE * len(data)))))
    size = data.batch_size(batch_size)
    per_epoch = len(data) // size
    if per_epoch == 0:
        raise ConfigValueError(
            f"There are {len(data)} training samples, fewer than a batch of {size}."
        )
    if evaluate is None:
        assert held is not None
        evaluate = Held(qat, held, wanted)
    steps = 0 if minutes is not None else max(1, round((epochs or EPOCHS) * per_epoch))
    asked = Asked(
        rate,
        size,
        wanted,
        evaluate,
        seed,
        minutes,
        steps,
        weight_decay,
        augment_of(augment),
        device,
    )
    identity = {
        "seed": seed,
        "lr": rate,
        "batch": size,
        "samples": len(data),
        "bn": bn,
        "loss": _name(loss),
        "augment": _name(augment),
        "weight_decay": weight_decay,
    }
    if bn == "live":
        qat.live_bn()
    place = Folder(Path(folder) if folder is not None else None, identity)
    loop = Loop(QuantizedNetwork(qat), data, asked, place)
    if resume:
        place.check()
        loop.resume()
    else:
        place.clear()
    return _fitted(qat, loop, verdict, float_too=float_too, resume=resume)


def _name(what: object) -> str:
    """Return the name of a function, or of what was named by its name."""
    return what if isinstance(what, str) else str(getattr(what, "__qualname__", what))


def _fitted(
    qat: Trainable, loop: Loop, verdict: Evaluate | None, *, float_too: bool, resume: bool
) -> Fitted:
    """Run a loop, and say what it came to."""
    state, evaluate = loop.state, loop.asked.evaluate
    if math.isnan(state.calibrated):
        with qat.progress.stage("score"):
            state.floating = evaluate(qat.solution.original)
            state.calibrated = evaluate(qat.calibrated.deploy)
    with qat.progress.stage("train"):
        loop.run()
    seconds = loop.seconds
    floating, calibrated, trained = state.floating, state.calibrated, state.best
    result = None
    if verdict is not None:
        with qat.progress.stage("score"):
            result = qat.convert(measure=True)
            models = (qat.solution.original, qat.calibrated.deploy, result.deploy)
            floating, calibrated, trained = (float(verdict(m)) for m in models)
    better = trained > calibrated
    with qat.progress.stage("convert"):
        if not better:
            result = qat.calibrated
        elif result is None:
            result = qat.convert(measure=True)
    assert result is not None
    scores = {"float": floating, "calibrated": calibrated, "trained": trained}
    beside = None
    if float_too:
        beside = scores["float_trained"] = (
            floating
            if isinstance(loop.asked.loss, Distill)
            else _float_beside(qat, loop, verdict, resume=resume)
        )
    summary = _summary(loop, result, scores, seconds, better=better)
    return Fitted(
        replace(result, summary=summary),
        better,
        floating,
        calibrated,
        trained,
        tuple(state.checks),
        tuple(state.losses),
        tuple(state.notes),
        seconds,
        beside,
    )


def _float_beside(qat: Trainable, done: Loop, verdict: Evaluate | None, *, resume: bool) -> float:
    """Train the float network as a run was, and return its score."""
    asked = replace(done.asked, minutes=None, steps=done.state.step)
    place = done.folder.within(FLOAT, {"steps": asked.steps})
    loop = Loop(FloatNetwork(qat), done.data, asked, place)
    if resume:
        loop.resume()
    else:
        place.clear()
    with qat.progress.stage("train the float model"):
        loop.run()
    if verdict is None:
        return loop.state.best
    return float(verdict(loop.network.as_scored(())))


def _summary(
    loop: Loop, result: QuantizedModel, scores: dict[str, float], seconds: float, *, better: bool
) -> dict[str, Any]:
    state, asked = loop.state, loop.asked
    training = {
        **result.summary.get("training", {}),
        "better": better,
        "scores": scores,
        "steps": state.step,
        "epochs": state.step / loop.per_epoch,
        "batch_size": asked.size,
        "samples": len(loop.data),
        "seed": asked.seed,
        "rate": asked.lr * state.factor,
        "seconds": seconds,
        "checks": [dataclasses.asdict(c) for c in state.checks],
        "notes": list(state.notes),
    }
    return {**result.summary, "training": training}


def check_asked(
    *,
    epochs: float | None,
    minutes: float | None,
    lr: float | None,
    batch_size: int,
    loss: str | Loss,
    augment: str | Augment | None,
    bn: str,
    device: str,
) -> None:
    """Check what a run is told; the arguments are those of `fit`.

    Raises:
        ConfigValueError: Something is out of range, there is no such function, or the device is not there.
    """
    if epochs is not None and minutes is not None:
        raise ConfigValueError("epochs and minutes are given; one of them can be.")
    for name, value in (("epochs", epochs), ("minutes", minutes), ("lr", lr)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigValueError(f"{name} is {value}; it is above 0.")
    if batch_size < 1:
        raise ConfigValueError(f"batch_size is {batch_size}; it is 1 or more.")
    if bn not in BN:
        raise ConfigValueError(f"bn is '{bn}'; it is one of {', '.join(BN)}.")
    check_loss(loss)
    augment_of(augment)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        why = str(e).splitlines()[0]
        raise ConfigValueError(f"The device '{device}' cannot be used: {why}") from e


def check_enough(data: TrainingData) -> None:
    """Check that there are samples to train on beside those that are held back.

    Raises:
        DataError: There are not.
    """
    least = 2 * (data.fixed or 1)
    if len(data) < least:
        raise DataError(
            f"The data has {len(data)} of the {least} training samples that are needed at least: some are held back to score on."
        )
