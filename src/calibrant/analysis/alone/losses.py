"""From sums over samples to the score and the loss of each layer, those of layers that saw few samples estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibrant.analysis.alone.jury import Sums, means
from calibrant.analysis.alone.measuring import Measured
from calibrant.analysis.alone.metric import RankedBy
from calibrant.analysis.metrics import MEASURES

__all__ = ["Loss", "Losses"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a layer loses.

    Args:
        loss: By which layers are ordered.
        score: The metric of the part that loses most.
        estimated: From the first samples.
        metrics: All metrics of that part.
        parts: The metric of each part.
    """

    loss: float
    score: float
    estimated: bool
    metrics: dict[str, float]
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Losses:
    """How sums become losses.

    Args:
        metric: What layers are ranked by.
        regained: A loss is what the model wins back against `base`.
    """

    metric: RankedBy
    regained: bool = False

    def worst(self, layers: Mapping[str, Sums], base: Sums) -> list[str]:
        """Return layers, worst first; equal ones in their order."""
        whole = self._of(base)[0] if self.regained else 0.0
        found = {n: self._of(sums)[0] for n, sums in layers.items()}
        keys = {n: _regained(whole, x) if self.regained else x for n, x in found.items()}
        return sorted(keys, key=lambda n: -keys[n])

    def all(self, measured: Measured) -> dict[str, Loss]:
        """Return the loss of each layer, estimated where it was not measured on all samples."""
        complete = {n: f for n, f in measured.layers.items() if f.all is not None}
        whole = self._of(measured.base)[0]
        ratio = self._ratio([(f.first, f.all) for f in complete.values() if f.all is not None])
        found = {}
        for name, figures in measured.layers.items():
            loss, part, scores, perfect = self._of(figures.all or figures.first)
            score, estimated = scores[part], figures.all is None
            if estimated and math.isfinite(loss):
                loss *= ratio
                score = self.metric.score(loss, perfect, score)
            sums = figures.all or figures.first
            metrics = {k: v for k, v in means(sums[part]).items() if k in MEASURES}
            if self.metric.function is not None:
                metrics[self.metric.name] = scores[part]
            if self.regained:
                loss = _regained(whole, loss)
            found[name] = Loss(loss, score, estimated, metrics, scores)
        return found

    def base(self, measured: Measured) -> float:
        """Return the score of the model that layers are changed in."""
        _, part, scores, _ = self._of(measured.base)
        return scores[part]

    def _of(self, sums: Sums) -> tuple[float, str, dict[str, float], float]:
        """Return the largest loss of a part, the part, the scores of all, and what equal outputs would give it."""
        scores, losses, best = {}, {}, {}
        for part, total in sums.items():
            found = means(total)
            own = self.metric.function is not None
            scores[part] = found["own"] if own else found[self.metric.name]
            best[part] = found["perfect"] if own else MEASURES[self.metric.name].perfect
            losses[part] = self.metric.loss(scores[part], best[part])
        worst = max(losses, key=lambda p: losses[p])
        return losses[worst], worst, scores, best[worst]

    def _ratio(self, pairs: Sequence[tuple[Sums, Sums]]) -> float:
        """Return how much larger losses are over all samples than over the first ones."""
        losses = [(self._of(first)[0], self._of(every)[0]) for first, every in pairs]
        finite = [(a, b) for a, b in losses if math.isfinite(a) and math.isfinite(b)]
        before, after = sum(a for a, _ in finite), sum(b for _, b in finite)
        return after / before if before > 0 and after > 0 else 1.0


def _regained(whole: float, loss: float) -> float:
    if whole == loss:
        return 0.0
    return whole - loss
