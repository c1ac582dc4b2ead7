"""What a search for precisions asks, what it is told, and what it ends with.

A strategy yields a `Question` and is sent its answer (`tuning.driver`), so a search can be tested with invented networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calibrant.tuning.menu import Assignment

__all__ = [
    "Found",
    "Full",
    "Glance",
    "Glances",
    "Improve",
    "Losses",
    "Question",
    "Reached",
    "Show",
    "Together",
    "Train",
    "Trial",
    "Whole",
]


@dataclass(frozen=True, slots=True)
class Losses:
    """What does each layer lose alone in a precision? Answer: layer -> energy of the error over energy of the signal."""

    precision: str


@dataclass(frozen=True, slots=True)
class Together:
    """What do the outputs lose with an assignment? Answer: energy of the error over energy of the signal."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Full:
    """What does an assignment reach on all evaluation data? Answer: `Reached`."""

    assignment: Assignment
    phase: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Glance:
    """What does an assignment lose on the samples that tell trials apart, if it loses nothing on all others?

    Answer: loss of score; None where scores are not known sample by sample, or no trial has differed from the float model yet.
    """

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Glances:
    """How many looks at assignments (`Glance`) take as many samples as one evaluation? Answer: a number; 0 without looks."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What does an assignment that was evaluated reach on all samples, those too that the search does not see?

    Answer: `Reached`.

    Args:
        assignment: One precision a layer.
        trained: With what was trained (`Train`).
    """

    assignment: Assignment
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Show:
    """May looks see those of the samples held out in which an assignment that was evaluated scores other than the float model?

    Answer: whether they see them from now on, so that a look tells what is lost on all samples.

    Args:
        assignment: One precision a layer.
        trained: With what was trained (`Train`).
    """

    assignment: Assignment
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Train:
    """What does an assignment reach on all evaluation data with weights and ranges that were trained, without labels?

    Answer: `Reached`; None where training cannot be had, or is not clearly better than calibration.
    """

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Improve:
    """Can the recipe be made better, without labels, where no layer is made wider? Answer: whether it was.

    Args:
        back: Take that back: assignments stand on the recipe as it was given again.
    """

    back: bool = False


Question = Losses | Together | Full | Glance | Glances | Whole | Show | Improve | Train


@dataclass(frozen=True, slots=True)
class Reached:
    """What a full evaluation says.

    Args:
        score: The score.
        loss: What it lost against the float model; below 0 where it is better.
        met: It meets the requirement.
        free: It was known without an evaluation.
        cost: What it costs, where that was measured of the whole model; None where the menu says it.
        scores: Scores by name, where there are several; `score` is then the one that is nearest to its limit.
        energy: The loss is an energy of the outputs' error, so both grow alike.
    """

    score: float
    loss: float
    met: bool
    free: bool = False
    cost: float | None = None
    scores: Mapping[str, float] | None = None
    energy: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """An assignment that was evaluated.

    Args:
        assignment: One precision a layer.
        cost: What it costs.
        error: Of its outputs, without labels; None where that was not measured.
        predicted: What the layers' own errors add up to; None before they were measured.
        reached: What the evaluation says.
        phase: What it was tried for.
        improved: It stands on the recipe that was made better (`Improve`), not on the one that was given.
        trained: Its weights and ranges were trained (`Train`).
    """

    assignment: Assignment
    cost: float
    error: float | None
    predicted: float | None
    reached: Reached
    phase: str
    improved: bool = field(default=False, kw_only=True)
    trained: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        best: The cheapest trial that meets the requirement, or the one that loses least where none does.
        trials: All trials, in order.
        reason: Why it ended, as a sentence.
        within: What the best may cost, where that was limited.
        reachable: Error of the most precise assignment, known without labels; None where it was not asked for.
        looks: What assignments that were looked at seemed to lose, and were not evaluated for it: more than is allowed.
    """

    best: Trial
    trials: tuple[Trial, ...]
    reason: str
    reachable: float | None = None
    within: float | None = None
    looks: Mapping[Assignment, float] = field(default_factory=dict)
