"""What an evaluator is, and what it says of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from calibrant.tuner.looks import Looks
from calibrant.tuner.paired import Paired
from calibrant.tuner.settling import Settles

__all__ = ["Evaluator", "Score"]


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluation says.

    Args:
        value: The score; NaN where there are several.
        samples: Samples it was measured on; 0 where only the user's function knows.
        notes: What is to be said of it.
        several: Scores by name, where there are several.
        look: The score on the few samples that models are looked at on first; None where they say nothing.
        each: One score a sample, where a function of the user's own gives them.
    """

    value: float
    samples: int
    notes: tuple[str, ...] = ()
    several: Mapping[str, float] | None = None
    look: float | None = None
    each: tuple[float, ...] | None = None


class Evaluator(Protocol):
    """Scores models."""

    @property
    def name(self) -> str:
        """Name of the score."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether it knows what is right, or only what the float model says."""
        ...

    @property
    def own(self) -> bool:
        """Whether code of the user's own runs the model, which may score it otherwise each time."""
        ...

    @property
    def paired(self) -> Paired | None:
        """Scores sample by sample, where the score is a mean over samples."""
        ...

    @property
    def settling(self) -> Settles | None:
        """Says what a model reaches on all samples; None where the search sees all there is."""
        ...

    def looks(self, reference: float) -> Looks | None:
        """Return what looks at models on few samples; None where scores are not known so.

        Args:
            reference: What the float model scores.
        """
        ...

    def digest(self) -> str:
        """Return a text that is another one where scores may come out otherwise."""
        ...

    def score(self, model: ir.Model) -> Score:
        """Score a model.

        Raises:
            CalibrantError: It cannot be scored; the message says why.
        """
        ...
