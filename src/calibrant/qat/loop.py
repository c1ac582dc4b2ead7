"""The loop of a run: steps with a schedule, looks at the deployed model, and the way back from a step that went wrong.

    step    loss ─► gradients ─► AdamW, warm-up and cosine ─► the mean of the last steps
    look    the model is built from the mean and scored; the best state is kept
    back    a loss that is no number, or losses far above the usual: the last good state, half the rate

Every order of samples follows from the seed and the epoch, so a run that was killed and goes on computes what it would
have computed. What is trained is a network with quantizers, or the float one beside it (`networks`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibrant.qat.answers import Answers
from calibrant.qat.augmentation import Augment
from calibrant.qat.average import Average
from calibrant.qat.checkpoint import state_of, with_state
from calibrant.qat.judge import Evaluate
from calibrant.qat.losses import Loss
from calibrant.qat.networks import Network
from calibrant.qat.run_state import Check, Folder, State, chosen, prefixed, stays_finite
from calibrant.qat.samples import TrainingData
from calibrant.qat.schedule import rate_share

__all__ = ["Asked", "Loop"]

#: The deployed model is scored so often in a run.
CHECKS = 4
#: A loss so many times as large as the median of those before is a run that diverges.
DIVERGED = 1000.0
#: So are some in a row that are so many times as large: with small batches, a single one may be far above the others.
IN_A_ROW, HIGH = 3, 20.0
#: Losses that the median is taken from.
RECENT = 25
#: How often a run that diverges goes back, each time with half the rate.
MOST_RETURNS = 4
#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 30.0
#: Steps that tell how long a step takes, where minutes are the budget.
TIMED_STEPS = 5
#: Share of the minutes that a look takes, before one was taken.
LOOK_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is told.

    Args:
        lr: Largest learning rate.
        size: Samples in a step.
        loss: What is made small.
        evaluate: What the best state is chosen by.
        seed: Decides the order of the samples.
        minutes: Wall time; None where steps are counted.
        steps: Steps, where they are.
        weight_decay: Decay of the weights.
        augment: Changes samples each time they are shown; None for samples as they are.
        device: Where it trains.
    """

    lr: float
    size: int
    loss: Loss
    evaluate: Evaluate
    seed: int
    minutes: float | None
    steps: int
    weight_decay: float = 0.0
    augment: Augment | None = None
    device: str = "cpu"


class Loop:
    """One run of training.

    Args:
        network: What is trained.
        data: Training samples.
        asked: What the run is told.
        folder: Where it writes.
    """

    def __init__(self, network: Network, data: TrainingData, asked: Asked, folder: Folder) -> None:
        """Stand before the first step."""
        self.network, self.data, self.asked, self.folder = network, data, asked, folder
        self.module = network.module.to(asked.device)
        teacher = network.teacher.to(asked.device)
        self.per_epoch = len(data) // asked.size
        self.state = State(steps=asked.steps)
        groups = network.parameter_groups(asked.lr, asked.weight_decay)
        self.rates = [float(g["lr"]) for g in groups]
        self.optimizer = torch.optim.AdamW(groups, eps=1e-12)
        self.answers = Answers(teacher, len(data), keeps=asked.augment is None)
        self.average = Average(self.module)
        self.best = self.good = state_of(self.module)
        self.begin = self.saved = time.perf_counter()
        self.trained, self.timed, self.looked = 0.0, 0, 0.0

    @property
    def seconds(self) -> float:
        """Wall time of the run, with that of processes before this one [s]."""
        return self.state.seconds + time.perf_counter() - self.begin

    def run(self) -> None:
        """Train until the budget is spent; the module is in the best state afterwards, on the CPU."""
        self.folder.begin(self.state.checks)
        self._save(now=True)
        self.module.train()
        while not self._done():
            epoch, first = divmod(self.state.step, self.per_epoch)
            for batch in self.data.batches(
                self.asked.size,
                self.network.inputs,
                seed=self.asked.seed,
                epoch=epoch,
                first=first,
            ):
                start = time.perf_counter()
                if not self._step(*self.moved(*batch, step=self.state.step)):
                    break  # the run went back
                self._plan(time.perf_counter() - start)
                self.network.progress.step(self.state.step, self.state.steps or None)
                looks = self._due() and not self._done()
                if looks:
                    self._look()
                self._save(now=looks)
                if self._done():
                    break
        self._look(last=True)
        self._save(now=True)
        self.module.to("cpu")
        self.network.teacher.to("cpu")
        with_state(self.best, self.module)

    # ------------------------------------------------------------------------------------------ budget

    def _done(self) -> bool:
        state, minutes = self.state, self.asked.minutes
        late = minutes is not None and self.seconds > 60 * minutes
        return (
            bool(state.steps and state.step >= state.steps)
            or (late and state.step > 0)
            or state.returns > MOST_RETURNS
        )

    def _plan(self, seconds: float) -> None:
        """Say anew how many steps the minutes allow for, from how long steps and looks took."""
        minutes = self.asked.minutes
        self.timed += 1
        if self.timed > 1:  # the first one compiles
            self.trained += seconds
        if minutes is None or self.timed < TIMED_STEPS:
            return
        look = self.looked if self.looked else 60 * minutes * LOOK_SHARE
        looks = CHECKS + 1 - len(self.state.checks)  # the last one scores twice
        left = 60 * minutes - self.seconds - looks * look
        each = self.trained / (self.timed - 1)
        self.state.steps = self.state.step + max(0, int(left / max(each, 1e-6)))

    def _due(self) -> bool:
        """Whether it is time for a look."""
        state = self.state
        return bool(state.steps) and CHECKS * state.step >= state.steps * (len(state.checks) + 1)

    # ------------------------------------------------------------------------------------------- steps

    def moved(
        self,
        rows: npt.NDArray[np.int64],
        inputs: tuple[Tensor, ...],
        extras: dict[str, Tensor],
        *,
        step: int,
    ) -> tuple[npt.NDArray[np.int64], tuple[Tensor, ...], dict[str, Tensor]]:
        """Change samples where that is asked for, and bring them to where the network is."""
        if self.asked.augment is not None:
            generator = np.random.default_rng((self.asked.seed, step, 1))
            inputs, extras = self.asked.augment(inputs, extras, generator)
        device = self.asked.device
        return (
            rows,
            tuple(x.to(device) for x in inputs),
            {k: v.to(device) for k, v in extras.items()},
        )

    def _step(
        self,
        rows: npt.NDArray[np.int64],
        inputs: tuple[Tensor, ...],
        extras: Mapping[str, Tensor],
    ) -> bool:
        """Take one step; say whether it was taken, or the run went back to the last good state."""
        state = self.state
        share = rate_share(state.step, state.steps) if state.steps else 1 / (10 * TIMED_STEPS)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share * state.factor
        with self.placed():
            answer = self.module(*inputs)
            answers = answer if isinstance(answer, tuple) else (answer,)
            loss = self.asked.loss(answers, self.answers.of(rows, inputs), extras)
        value = float(loss.detach())
        if not math.isfinite(value) or _diverges([*state.losses, value]):
            self._go_back(value)
            return False
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(state.step, state.steps or state.step + 1)
        state.step += 1
        state.losses.append(value)
        return True

    def placed(self) -> AbstractContextManager[Any]:
        """What a graph works out from shapes is made where the network is."""
        return nullcontext() if self.asked.device == "cpu" else torch.device(self.asked.device)

    def _go_back(self, value: float) -> None:
        """Return to the last good state, and go on with half the rate."""
        state = self.state
        state.returns += 1
        state.factor /= 2
        state.notes.append(
            f"At step {state.step} the loss was {value:.4g}: back to the last good state, with rate "
            f"{self.asked.lr * state.factor:.3g}."
        )
        with_state(self.good, self.module)
        self.average.reset()
        self.optimizer.state.clear()
        state.step += 1  # another batch

    # ------------------------------------------------------------------------------------------- looks

    def _look(self, *, last: bool = False) -> None:
        """Score the deployed model of the mean, at the end that of the last step too; keep the best state."""
        state, start = self.state, time.perf_counter()
        if state.checks and state.checks[-1].step == state.step:
            return
        now = state_of(self.module)
        if not stays_finite(now, self.good):
            self._go_back(math.nan)
            if not last or state.checks:
                return  # what it went back to was scored
            now = state_of(self.module)
        scores = []
        with self.network.progress.stage("score"):
            if Average.matters(state.steps):
                with self.average.taken():
                    scores.append(self._scored())
            if last or not scores:
                scores.append(self._scored())
        since = state.losses[state.told :] or state.losses[-1:] or [math.nan]
        state.told = len(state.losses)
        check = Check(
            state.step,
            state.step / self.per_epoch,
            float(np.mean(since)),
            max(scores),
            self.seconds,
        )
        state.checks.append(check)
        self.good = now
        self.module.train()
        self.folder.tell(check)
        self.looked = (time.perf_counter() - start) / len(scores)

    def _scored(self) -> float:
        """Score the module as it is, and keep its state where it is the best."""
        score = float(self.asked.evaluate(self.network.as_scored(self._samples())))
        if score > self.state.best:
            self.state.best, self.best = score, state_of(self.module)
        return score

    def _samples(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield inputs of training samples, for statistics."""
        order = self.data.batches(
            self.asked.size, self.network.inputs, seed=self.asked.seed, epoch=0
        )
        return (inputs for _, inputs, _ in order)

    # ----------------------------------------------------------------------------------------- on disk

    def _save(self, *, now: bool = False) -> None:
        if self.folder.path is None:
            return
        if not now and time.perf_counter() - self.saved < CHECKPOINT_SECONDS:
            return
        self.saved = time.perf_counter()
        mean = {n: v.cpu().numpy() for n, v in self.average.state().items()}
        arrays = {
            **state_of(self.module, self.optimizer),
            **prefixed(self.best, "best"),
            **prefixed(self.good, "good"),
            **prefixed(mean, "mean"),
        }
        self.folder.save(arrays, self.state, self.seconds)

    def resume(self) -> None:
        """Go on where a run in the folder ended; at the start where it left no state."""
        found = self.folder.load()
        if found is None:
            self.state.notes.append(
                "There was no state to go on with: the run began at its start."
            )
            return
        arrays, held = found
        if self.asked.steps:
            held.steps = self.asked.steps
        self.state = held
        self.best, self.good = chosen(arrays, "best"), chosen(arrays, "good")
        with_state(arrays, self.module, self.optimizer)
        mean: dict[str, Any] = chosen(arrays, "mean")
        self.average.load({n: torch.from_numpy(v.copy()) for n, v in mean.items()})


def _diverges(losses: Sequence[float]) -> bool:
    """Whether the last losses are far above the usual."""
    before, last = losses[:-IN_A_ROW][-RECENT:], losses[-IN_A_ROW:]
    if len(before) < RECENT:
        return False
    usual = float(np.median(before))
    return last[-1] > DIVERGED * usual or min(last) > HIGH * usual
