"""Scores that an evaluation of the user's own gives sample by sample: what a model loses is the mean of differences.

The samples of the float model and of a quantized one are the same ones, in the same order, so there are as many of them. Where there
are not, pairs would be of different samples, and the trial has no score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.errors import ConfigValueError
from calibrant.tuner.journal import Journal
from calibrant.tuner.paired import interval
from calibrant.tuner.settling import Compared, Settled

__all__ = ["Each", "check_pairs"]


@dataclass(frozen=True, slots=True, eq=False)
class Each:
    """The float model's scores, sample by sample, and what others lose beside them.

    Args:
        reference: The float model's scores.
        higher_is_better: Of the score.
    """

    reference: tuple[float, ...]
    higher_is_better: bool

    def settle(
        self,
        journal: Journal,
        key: str,
        shown: str,
        cost: float | None,
        deploy: Callable[[], ir.Model],
    ) -> Settled:
        """Return what a model reaches (`tuner.settling`): its evaluation was on all samples.

        Scores that are all 0 or 1 say right or wrong, so a sample loses 1 at most; of others nobody knows.
        """
        mine = np.array(journal.get(key)["each"])
        losses = np.array(self.reference) - mine
        losses = losses if self.higher_is_better else -losses
        right = np.isin(mine, (0, 1)).all() and np.isin(self.reference, (0, 1)).all()
        ends = interval(losses, 1.0 if right else None) if np.isfinite(losses).all() else None
        return Settled(
            Compared(len(mine), float(mine.mean()), float(losses.mean()), ends), None, 0
        )


def check_pairs(each: Sequence[float] | None, reference: Sequence[float] | None) -> None:
    """Check that a quantized model has as many scores as the float model.

    Args:
        each: Scores of a quantized model, one a sample; None where there is one score.
        reference: Those of the float model.

    Raises:
        ConfigValueError: There are more, or fewer.
    """
    mine, before = (len(x) if x is not None else None for x in (each, reference))
    if mine != before:
        raise ConfigValueError(
            f"The evaluation gives {_said(mine)} for a quantized model, and {_said(before)} for the float model; each evaluation "
            "scores the same samples."
        )


def _said(count: int | None) -> str:
    return "one score" if count is None else f"the scores of {count} samples"
