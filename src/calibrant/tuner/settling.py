"""Run the chosen model on all samples, those too that the search did not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from calibrant.tuner.journal import Journal

__all__ = ["Compared", "Settled", "Settles"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A model beside the float model, on some samples.

    Args:
        samples: How many.
        score: Its score on them.
        loss: What it lost.
        interval: Between which values the loss on all such samples lies, with 95 % confidence; None where they do not say.
    """

    samples: int
    score: float
    loss: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a model reaches on all samples.

    Args:
        whole: On all samples.
        held: On those that the search did not see; None where there are none.
        further: Samples that it was run on beside those of its evaluation.
        notes: What is to be said of it.
    """

    whole: Compared
    held: Compared | None
    further: int
    notes: tuple[str, ...] = ()


class Settles(Protocol):
    """Scores that are known of more samples than the search sees."""

    def settle(
        self,
        journal: Journal,
        key: str,
        shown: str,
        cost: float | None,
        deploy: Callable[[], ir.Model],
    ) -> Settled:
        """Return what a model reaches on all samples.

        Args:
            journal: Where the evaluation of the model is, and where this is kept.
            key: Key of the evaluation.
            shown: What is evaluated, for people who read the journal.
            cost: What it costs, where that was measured.
            deploy: Returns the model.
        """
        ...
