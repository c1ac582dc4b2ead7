"""Train a network with its quantizers: a loop with a schedule, a budget, checkpoints, and a verdict.

    steps: loss ─► gradients ─► AdamW, warm-up and cosine
    checks: the deployed model is built and scored; the best state is kept
    end: the best state, if it scores better than calibration alone; else the calibrated model

Every order of samples follows from the seed and the epoch, so a run that was killed and goes on computes what it would
have computed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor

from calibrant.analysis.parts import parts_of
from calibrant.errors import ConfigValueError
from calibrant.qat.checkpoint import load_checkpoint, save_checkpoint, state_of, with_state
from calibrant.qat.losses import Loss, loss_of
from calibrant.qat.samples import TrainingData, read_samples
from calibrant.qat.schedule import rate_share
from calibrant.qat.trainable import Trainable
from calibrant.results import QuantizedModel
from calibrant.runtime.measure import compare, run
from calibrant.solution import build

__all__ = ["Check", "Fitted", "fit"]

#: Scores a model; more is better.
Evaluate = Callable[[ir.Model], float]

#: Samples that are held back to score on, where no evaluation is given: this share, at most so many.
HELD_SHARE, HELD_SAMPLES = 0.1, 512
#: The deployed model is scored about so often in a run.
CHECKS = 4
#: A loss so many times as large as the median of the last ones is a run that diverges.
DIVERGED = 20.0
#: Losses that the median is taken from.
RECENT = 25
#: How often a run that diverges goes back, each time with half the rate.
MOST_RETURNS = 4
#: Bytes of outputs of the float network that are kept, so that it runs once a sample.
KEPT_BYTES = 2**30
#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 30.0
#: Steps that tell how long a step takes, where minutes are the budget.
TIMED_STEPS = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the deployed model.

    Args:
        step: Steps that were done.
        epoch: The same in epochs.
        loss: Mean loss since the last look.
        score: Score of the deployed model.
        seconds: Since the run began [s].
    """

    step: int
    epoch: float
    loss: float
    score: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a run came to.

    Args:
        result: The better one of the trained and the calibrated model.
        better: The trained model scores better than the calibrated one.
        float_score: Score of the float model.
        calibrated_score: Score of the calibrated model.
        trained_score: Best score of the trained model.
        checks: Every look at the deployed model.
        losses: Loss of every step.
        notes: What went otherwise than planned.
        seconds: Wall time [s].
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


@dataclass(slots=True)
class _State:
    """Where a run is; all of it is in a checkpoint."""

    step: int = 0
    steps: int = 0
    factor: float = 1.0
    returns: int = 0
    seconds: float = 0.0
    calibrated: float = math.nan
    floating: float = math.nan
    best: float = -math.inf
    losses: list[float] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> _State:
        checks = [Check(**c) for c in meta["checks"]]
        return cls(**{**meta, "checks": checks})


def fit(
    qat: Trainable,
    train: Any,
    *,
    evaluate: Evaluate | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    lr: float = 1e-3,
    batch_size: int = 64,
    loss: str | Loss = "distill",
    weight_decay: float = 0.0,
    seed: int = 0,
    preprocess: str | Path | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Fitted:
    """Train a network with its quantizers.

    Torch runs on as many threads as `prepare` was told; on a machine that is busy otherwise, one is faster than two.

    Args:
        qat: What `prepare` returned; it is in the best state afterwards.
        train: Training samples, in any form that calibration data may have; labels are not needed.
        evaluate: Scores a deployed model (`onnx_ir.Model`), more is better. Without it, some training samples are
            held back, and the score is the SQNR of the outputs against the float model's [dB].
        epochs: How often all samples are gone through; 3 where neither epochs nor minutes are given.
        minutes: Wall time instead.
        lr: Largest learning rate, as a share of what is trained.
        batch_size: Samples in a step.
        loss: `distill` (the float network's outputs), `labels`, `module:function` or a function.
        weight_decay: Decay of the weights.
        seed: Decides the order of the samples.
        preprocess: File that says how raw samples become inputs.
        folder: Where the journal and the checkpoint go; None for none.
        resume: Go on where a run in this folder ended.

    Raises:
        ConfigValueError: A budget or rate out of range, both budgets, or nothing to go on with.
        DataError: The samples do not fit the model.
    """
    return _Run(
        qat,
        train,
        evaluate=evaluate,
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        weight_decay=weight_decay,
        seed=seed,
        preprocess=preprocess,
        folder=folder,
        resume=resume,
    ).run()


class _Run:
    """One run of training."""

    def __init__(
        self,
        qat: Trainable,
        train: Any,
        *,
        evaluate: Evaluate | None,
        epochs: float | None,
        minutes: float | None,
        lr: float,
        batch_size: int,
        loss: str | Loss,
        weight_decay: float,
        seed: int,
        preprocess: str | Path | None,
        folder: str | Path | None,
        resume: bool,
    ) -> None:
        _check_budget(epochs, minutes, lr, batch_size)
        if qat.runtime.threads is not None:
            torch.set_num_threads(qat.runtime.threads)
        self.qat, self.lr, self.seed = qat, lr, seed
        model = qat.solution.model
        data = (
            train
            if isinstance(train, TrainingData)
            else read_samples(qat.solution.original, train, preprocess)
        )
        self.held: TrainingData | None = None
        if evaluate is None:
            data, self.held = data.split(min(HELD_SAMPLES, max(1, int(HELD_SHARE * len(data)))))
        self.evaluate = evaluate if evaluate is not None else self._likeness
        self.data, self.size = data, data.batch_size(batch_size)
        self.per_epoch = len(data) // self.size
        if self.per_epoch == 0:
            raise ConfigValueError(
                f"There are {len(data)} training samples, fewer than a batch of {self.size}."
            )
        reference = qat.probe.reference
        parts = [parts_of(model, n, [r[n] for r in reference]) for n in qat.outputs]
        self.loss = loss_of(loss, model, parts)
        self.minutes = minutes
        self.state = _State()
        if minutes is None:
            self.state.steps = max(1, round((3.0 if epochs is None else epochs) * self.per_epoch))
        self.optimizer = torch.optim.AdamW(
            qat.parameter_groups(lr, weight_decay=weight_decay), eps=1e-12
        )
        self.folder = Path(folder) if folder is not None else None
        self.answers = _Answers(qat, len(data))
        self.best = self.good = state_of(qat.module)
        self.begin = time.perf_counter()
        self.saved = self.begin
        if resume:
            self._resume()

    # --------------------------------------------------------------------------------------------- run

    def run(self) -> Fitted:
        state, progress = self.state, self.qat.progress
        if math.isnan(state.calibrated):
            with progress.stage("score"):
                state.floating = self.evaluate(self.qat.solution.original)
                state.calibrated = self.evaluate(self.qat.calibrated.deploy)
        with progress.stage("train"):
            self._train()
        with_state(self.best, self.qat.module)
        better = state.best > state.calibrated
        with progress.stage("convert"):
            result = self.qat.convert() if better else self.qat.calibrated
        seconds = self._seconds()
        summary = self._summary(result, seconds, better=better)
        return Fitted(
            replace(result, summary=summary),
            better,
            state.floating,
            state.calibrated,
            state.best,
            tuple(state.checks),
            tuple(state.losses),
            tuple(state.notes),
            seconds,
        )

    def _train(self) -> None:
        state = self.state
        self.qat.module.train()
        every = None
        timed = time.perf_counter(), state.step
        while not self._done():
            epoch, first = divmod(state.step, self.per_epoch)
            for rows, inputs, extras in self.data.batches(
                self.size, self.qat.inputs, seed=self.seed, epoch=epoch, first=first
            ):
                if not self._step(rows, inputs, extras):
                    break  # the run went back
                if not state.steps and state.step - timed[1] >= TIMED_STEPS:
                    taken = (time.perf_counter() - timed[0]) / (state.step - timed[1])
                    state.steps = self._affordable(taken)
                every = every or self._every()
                self.qat.progress.step(state.step, state.steps or None)
                if every and state.step % every == 0 and not self._done():
                    self._look()
                self._save()
                if self._done():
                    break
        self._look()
        self._save(now=True)

    def _done(self) -> bool:
        state = self.state
        out_of_time = self.minutes is not None and self._seconds() > 60 * self.minutes
        return (
            bool(state.steps and state.step >= state.steps)
            or (out_of_time and state.step > 0)
            or state.returns > MOST_RETURNS
        )

    def _affordable(self, seconds: float) -> int:
        """Return the steps that minutes allow for, with a tenth of the time for looks at the deployed model."""
        assert self.minutes is not None
        left = 60 * self.minutes * 0.9 - self._seconds()
        return max(self.state.step + 1, self.state.step + int(left / max(seconds, 1e-6)))

    def _every(self) -> int | None:
        steps = self.state.steps
        return max(1, -(-steps // CHECKS)) if steps else None

    def _step(
        self,
        rows: npt.NDArray[np.int64],
        inputs: tuple[Tensor, ...],
        extras: Mapping[str, Tensor],
    ) -> bool:
        """Take one step; say whether it was taken, or the run went back to the last good state."""
        state = self.state
        share = rate_share(state.step, state.steps) if state.steps else 1 / (10 * TIMED_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share * state.factor
        answer = self.qat.module(*inputs)
        answers = answer if isinstance(answer, tuple) else (answer,)
        loss = self.loss(answers, self.answers.of(rows, inputs), extras)
        value = float(loss.detach())
        recent = state.losses[-RECENT:]
        usual = float(np.median(recent)) if len(recent) == RECENT else math.inf
        if not math.isfinite(value) or value > DIVERGED * usual:
            self._go_back(value)
            return False
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        state.step += 1
        state.losses.append(value)
        return True

    def _go_back(self, value: float) -> None:
        """Return to the last good state, and go on with half the rate."""
        state = self.state
        state.returns += 1
        state.factor /= 2
        state.notes.append(
            f"At step {state.step} the loss was {value:.4g}: back to the last good state, with rate "
            f"{self.lr * state.factor:.3g}."
        )
        with_state(self.good, self.qat.module)
        self.optimizer.state.clear()
        state.step += 1  # another batch

    # ------------------------------------------------------------------------------------------- looks

    def _look(self) -> None:
        """Score the deployed model, and keep the state where it is the best."""
        state = self.state
        if state.checks and state.checks[-1].step == state.step:
            return
        now = state_of(self.qat.module)
        if not all(np.isfinite(v).all() for v in now.values()):
            self._go_back(math.nan)
            return
        with self.qat.progress.stage("score"):
            score = float(self.evaluate(build(self.qat.to_solution()).deploy))
        before = state.checks[-1].step if state.checks else 0
        since = state.losses[before - state.step :] or [math.nan]
        check = Check(
            state.step,
            state.step / self.per_epoch,
            float(np.mean(since)),
            score,
            self._seconds(),
        )
        state.checks.append(check)
        self.good = now
        if score > state.best:
            state.best, self.best = score, now
        self.qat.module.train()
        self._tell(check)

    def _likeness(self, model: ir.Model) -> float:
        """Return the SQNR of a model's outputs on samples that were held back [dB], the mean over outputs."""
        assert self.held is not None
        size = self.held.batch_size(32)
        feeds = [
            {n: x.numpy() for n, x in zip(self.qat.inputs, inputs, strict=True)}
            for _, inputs, _ in self.held.batches(
                min(size, len(self.held)), self.qat.inputs, seed=0, epoch=0
            )
        ]
        if not hasattr(self, "_reference"):
            self._reference = run(self.qat.solution.original, feeds, runtime=self.qat.runtime)
        mine = run(model, feeds, integers=False, runtime=self.qat.runtime)
        found = [min(q.sqnr_db, 120.0) for q in compare(self._reference, mine)]
        return float(np.mean(found)) if found else 0.0

    # ------------------------------------------------------------------------------------------ on disk

    def _seconds(self) -> float:
        return self.state.seconds + time.perf_counter() - self.begin

    def _save(self, *, now: bool = False) -> None:
        if self.folder is None:
            return
        if not now and time.perf_counter() - self.saved < CHECKPOINT_SECONDS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saved = time.perf_counter()
        arrays = state_of(self.qat.module, self.optimizer)
        arrays |= {f"best/{k}": v for k, v in self.best.items()}
        arrays |= {f"good/{k}": v for k, v in self.good.items()}
        meta = {**self.state.as_json(), "seconds": self._seconds()}
        save_checkpoint(self.folder / CHECKPOINT, arrays, {"run": self._identity(), "state": meta})

    def _identity(self) -> dict[str, Any]:
        """Return what two runs have to share so that one can go on with the other."""
        return {"seed": self.seed, "lr": self.lr, "batch": self.size, "samples": len(self.data)}

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not path.is_file():
            raise ConfigValueError(
                f"There is no run to go on with: '{path}' does not exist."
                if path is not None
                else "resume needs the folder of a run."
            )
        arrays, meta = load_checkpoint(path)
        if meta["run"] != self._identity():
            raise ConfigValueError(
                f"'{path}' is of a run with {meta['run']}; this one has {self._identity()}."
            )
        held = _State.of(meta["state"])
        if self.state.steps:
            held.steps = self.state.steps
        self.state = held
        self.best = {
            k.removeprefix("best/"): v for k, v in arrays.items() if k.startswith("best/")
        }
        self.good = {
            k.removeprefix("good/"): v for k, v in arrays.items() if k.startswith("good/")
        }
        with_state(arrays, self.qat.module, self.optimizer)

    def _tell(self, check: Check) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(check)) + "\n")

    def _summary(self, result: QuantizedModel, seconds: float, *, better: bool) -> dict[str, Any]:
        state = self.state
        training = {
            **result.summary.get("training", {}),
            "better": better,
            "scores": {
                "float": state.floating,
                "calibrated": state.calibrated,
                "trained": state.best,
            },
            "steps": state.step,
            "epochs": state.step / self.per_epoch,
            "batch_size": self.size,
            "samples": len(self.data),
            "seed": self.seed,
            "rate": self.lr * state.factor,
            "seconds": seconds,
            "checks": [dataclasses.asdict(c) for c in state.checks],
            "notes": list(state.notes),
        }
        return {**result.summary, "training": training}


#: Names of the files of a run.
CHECKPOINT, JOURNAL = "checkpoint.npz", "training.jsonl"


class _Answers:
    """What the float network answers; kept, so that each sample is asked for once."""

    def __init__(self, qat: Trainable, samples: int) -> None:
        self.teacher, self.samples = qat.teacher, samples
        self.kept: list[Tensor] | None = None
        self.known = torch.zeros(samples, dtype=torch.bool)
        self.keeps = True

    @torch.no_grad()
    def of(self, rows: npt.NDArray[np.int64], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        index = torch.from_numpy(rows)
        if self.kept is not None and bool(self.known[index].all()):
            return tuple(k[index] for k in self.kept)
        answer = self.teacher(*inputs)
        answers = answer if isinstance(answer, tuple) else (answer,)
        if self.keeps and self.kept is None:
            size = sum(a.nbytes for a in answers) / len(rows) * self.samples
            self.keeps = size <= KEPT_BYTES and all(
                a.ndim and a.shape[0] == len(rows) for a in answers
            )
            if self.keeps:
                self.kept = [a.new_empty((self.samples, *a.shape[1:])) for a in answers]
        if self.kept is not None:
            for store, a in zip(self.kept, answers, strict=True):
                store[index] = a
            self.known[index] = True
        return answers


def _check_budget(epochs: float | None, minutes: float | None, lr: float, batch_size: int) -> None:
    if epochs is not None and minutes is not None:
        raise ConfigValueError("epochs and minutes are given; one of them can be.")
    for name, value in (("epochs", epochs), ("minutes", minutes), ("lr", lr)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigValueError(f"{name} is {value}; it is above 0.")
    if batch_size < 1:
        raise ConfigValueError(f"batch_size is {batch_size}; it is 1 or more.")
