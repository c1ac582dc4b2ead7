"""Look at a model on few samples before it is worth an evaluation.

Scores by sample: the samples that tell trials apart (`tuner.telling`). Likeness: some samples spread over the data. What a trial t,
which was evaluated, lost there and in all says how to read a look at another model m:

    loss of m in all = loss of m on few samples * loss of t in all / loss of t on few samples

with the trial whose loss on the few samples is nearest to that of m. Errors of two models are large in the same samples, so the
ratio varies less than losses do.

Source: the ratio estimator, Cochran, "Sampling Techniques", 3rd edition, 1977, chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.tuner.paired import Paired
from calibrant.tuner.requirement import loss_of
from calibrant.tuner.telling import telling

__all__ = ["Looked", "Looks", "PairedLooks", "RatioLooks"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look says.

    Args:
        loss: What the model loses on all samples, as far as few of them say it.
        samples: How many it was looked at on.
        known: What the next look at the same model need not find out again; plain values.
    """

    loss: float
    samples: int
    known: Mapping[str, float]


class Looks(Protocol):
    """Looks at models."""

    @property
    def ready(self) -> bool:
        """Whether a look says anything yet."""
        ...

    @property
    def shown_to(self) -> bool:
        """Whether looks see samples that were held out, too."""
        ...

    @property
    def shown(self) -> int:
        """How many of the samples that were held out they see."""
        ...

    @property
    def cheaper(self) -> float:
        """How many looks take as many samples as an evaluation."""
        ...

    def learn(self, trial: str, said: Mapping[str, Any]) -> None:
        """Learn from a trial that was evaluated.

        Args:
            trial: Its key.
            said: What the evaluation said of it.
        """
        ...

    def at(self, known: Mapping[str, float], deploy: Callable[[], ir.Model]) -> Looked:
        """Look at a model.

        Args:
            known: What an earlier look at it found; empty where there was none.
            deploy: Returns the model.
        """
        ...


@dataclass(slots=True, eq=False)
class PairedLooks:
    """Looks at the samples that tell trials apart.

    Args:
        paired: Scores models sample by sample.
    """

    paired: Paired
    _losses: dict[str, Floats] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether single samples can be looked at, and some of them tell trials apart."""
        return self.paired.divisible and bool(self._telling()[0])

    @property
    def shown_to(self) -> bool:
        """Whether a trial that was learned from was run on samples held out."""
        return any(len(x) > self.paired.tuned for x in self._losses.values())

    @property
    def shown(self) -> int:
        """How many of the samples that were held out are looked at."""
        return sum(i >= self.paired.tuned for i in self._telling()[0])

    @property
    def cheaper(self) -> float:
        """Samples of an evaluation over those of a look."""
        return self.paired.tuned / max(1, len(self._telling()[0]))

    def _telling(self) -> tuple[list[int], float]:
        count = self.paired.count if self.shown_to else self.paired.tuned
        margins = self.paired.margins
        seen = margins[: self.paired.tuned] if margins is not None else None
        return telling(list(self._losses.values()), count, seen)

    def learn(self, trial: str, said: Mapping[str, Any]) -> None:
        """Learn from the `values` of a trial, sample by sample; those of samples held out only where the search is shown them."""
        self._losses[trial] = self.paired.losses(np.asarray(said["values"]))

    def at(self, known: Mapping[str, float], deploy: Callable[[], ir.Model]) -> Looked:
        """Return what a model loses on these samples, if it loses nothing on all others."""
        indices, share = self._telling()
        new = [i for i in indices if str(i) not in known]
        if new:
            values = self.paired.at(deploy(), new)
            known = {**known, **{str(i): float(v) for i, v in zip(new, values, strict=True)}}
        found = np.array([known[str(i)] for i in indices])
        losses = [self.paired.losses(found[k : k + 1], i)[0] for k, i in enumerate(indices)]
        return Looked(share * float(np.mean(losses)), len(indices), known)


@dataclass(slots=True, eq=False)
class RatioLooks:
    """Looks at the same few samples each time, and reads them by the trials that were evaluated.

    Args:
        score: Returns what a model scores on the few samples, and how many these are.
        reference: What the float model scores.
    """

    score: Callable[[ir.Model], tuple[float, int]]
    reference: float
    shown_to: bool = False
    shown: int = 0
    cheaper: float = 0.0
    _trials: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether some trial has lost something, on the few samples and in all."""
        return bool(self._trials)

    def learn(self, trial: str, said: Mapping[str, Any]) -> None:
        """Learn from the `score` of a trial, and from its score at the `look`."""
        if said.get("look") is None:
            return
        few, all_ = (loss_of(float(said[n]), self.reference) for n in ("look", "score"))
        if 0 < few < math.inf and 0 < all_ < math.inf:
            self._trials[trial] = (few, all_)

    def at(self, known: Mapping[str, float], deploy: Callable[[], ir.Model]) -> Looked:
        """Return what a model loses, by what trials lost on these samples and in all."""
        if not known:
            score, count = self.score(deploy())
            known = {"look": score, "samples": float(count)}
        loss = loss_of(known["look"], self.reference)
        if 0 < loss < math.inf:
            few, all_ = min(self._trials.values(), key=lambda t: (abs(math.log(t[0] / loss)), t))
            loss *= all_ / few
        return Looked(math.inf if math.isnan(loss) else loss, int(known["samples"]), known)
