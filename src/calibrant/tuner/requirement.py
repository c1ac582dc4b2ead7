"""What a score has to reach: a floor, a drop in its own units, a share of the float model's score, or several of these.

With f the float model's score, of a score for which more is better:

    min V          score >= V
    max-drop D     score >= f - D
    max-drop P%    score >= f - P / 100 * |f|

What is lost is f - score. Where f is infinite (an SQNR), it is 10**(-score / 10), so that losses can be compared.

Where less is better (an error), `max-drop` is by how much it may grow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean

__all__ = ["Requirement", "loss_of"]

_KEYS = ("min", "max_drop")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a score has to reach; where several are given, all of them.

    Args:
        min: The least score.
        max_drop: How much less than the float model's score it may be: a number in units of the score, or a text such as
            `0.5%`, a share of the float model's score.
        scores: What each of several scores has to reach, by name; then the other two say nothing.
        anything: Every score will do: what counts is another limit.

    Raises:
        ConfigValueError: Nothing is required, or a value is no number, or a drop is negative.

    Example:
        >>> Requirement(max_drop="0.5%").allowed(0.8)
        0.004
        >>> Requirement(min=0.79, max_drop=0.02).allowed(0.8)
        0.010000000000000009
    """

    min: float | None = None
    max_drop: float | str | None = None
    scores: Mapping[str, Requirement] = field(default_factory=dict)
    anything: bool = False

    def __post_init__(self) -> None:
        if self.scores or self.anything:
            return
        if self.min is None and self.max_drop is None:
            raise ConfigValueError(
                "Nothing is required: give the least score (min), or how much it may drop (max_drop), or both."
            )
        if self.min is not None and not (_is_number(self.min) and math.isfinite(self.min)):
            raise ConfigValueError(f"min is {self.min!r}; it is a number.")
        if self.max_drop is not None:
            self._drop()

    @classmethod
    def of(cls, required: Requirement | str | Mapping[str, Any]) -> Requirement:
        """Return a requirement from what a caller may write: `"max-drop 0.5%"`, `{"min": 0.87}`, or itself.

        Raises:
            ConfigTypeError: It is none of these.
            ConfigValueError: It says what no requirement says.
        """
        if isinstance(required, Requirement):
            return required
        if required == "any":
            return cls(anything=True)
        if isinstance(required, str):
            parts = [p.split() for p in re.split(r"[,;]", required)]
            if any(len(p) != 2 for p in parts):
                raise ConfigValueError(
                    f"The requirement is '{required}'; it is 'min 0.87', 'max-drop 0.005' or 'max-drop 0.5%', several "
                    "with commas."
                )
            required = {key.replace("-", "_"): value for key, value in parts}
        if not isinstance(required, Mapping):
            raise ConfigTypeError(
                f"The requirement is a {type(required).__name__}; it is a Requirement, a text such as 'max-drop 0.5%', "
                "or a mapping such as {'min': 0.87}."
            )
        if (
            required
            and not any(k in _KEYS for k in required)
            and all(map(_says, required.values()))
        ):
            return cls(scores={str(n): cls.of(v) for n, v in required.items()})
        for key in required:
            if key not in _KEYS:
                raise ConfigValueError(
                    f"The requirement says '{key}'; it may say {' and '.join(_KEYS)}."
                    + did_you_mean(str(key), _KEYS)
                )
        least = required.get("min")
        return cls(
            min=_number(least, "min") if least is not None else None,
            max_drop=required.get("max_drop"),
        )

    def of_score(self, name: str) -> Requirement:
        """Return what one of several scores has to reach.

        Raises:
            ConfigValueError: Scores are named, and this one is not.
        """
        if not self.scores:
            return self
        if name not in self.scores:
            raise ConfigValueError(
                f"The evaluation gives a score '{name}', of which nothing is required; required are "
                f"{', '.join(self.scores)}."
            )
        return self.scores[name]

    def check_scores(self, given: Collection[str]) -> None:
        """Check that scores which are named are given.

        Raises:
            ConfigValueError: One is not.
        """
        for name in self.scores:
            if name not in given:
                raise ConfigValueError(
                    f"Something is required of a score '{name}', and the evaluation gives {', '.join(given)}."
                    + did_you_mean(name, given)
                )

    def allowed(self, reference: float, *, higher_is_better: bool = True) -> float:
        """Return how much worse than the float model's a score may be; below 0 where that one does not meet it either.

        Args:
            reference: The float model's score.
            higher_is_better: Of the score.

        Raises:
            ConfigValueError: A floor for a score of which less is better, or a drop from a score that is not finite.
        """
        if self.anything:
            return math.inf
        if self.scores:
            raise ConfigValueError(
                f"Scores are required by name ({', '.join(self.scores)}), and the evaluation gives one without a name."
            )
        found = []
        if self.min is not None:
            if not higher_is_better:
                raise ConfigValueError(
                    "min is a floor, and of this score less is better; say by how much it may grow (max-drop)."
                )
            found.append(loss_of(self.min, reference))
        if self.max_drop is not None:
            drop, relative = self._drop()
            if not math.isfinite(reference):
                raise ConfigValueError(
                    f"The float model's score is {reference}, so no drop from it can be told; give the least score (min)."
                )
            found.append(drop * abs(reference) if relative else drop)
        return min(found)

    def _drop(self) -> tuple[float, bool]:
        """Return the drop, and whether it is a share of the float model's score."""
        text = str(self.max_drop).strip()
        relative = text.endswith("%")
        value = _number(text.removesuffix("%"), "max_drop", shown=text)
        if value < 0:
            raise ConfigValueError(f"max_drop is {text}; it is 0 or more.")
        return (value / 100 if relative else value), relative

    def __str__(self) -> str:
        if self.anything:
            return "any score"
        if self.scores:
            return ", ".join(f"{n}: {r}" for n, r in self.scores.items())
        said = [f"at least {self.min:g}"] if self.min is not None else []
        if self.max_drop is not None:
            drop, relative = self._drop()
            said.append(f"a drop of at most {f'{100 * drop:g} %' if relative else f'{drop:g}'}")
        return " and ".join(said)


def _says(value: Any) -> bool:
    """Whether a value may be a requirement."""
    return isinstance(value, str | Mapping | Requirement)


def loss_of(score: float, reference: float, *, higher_is_better: bool = True) -> float:
    """Return how much worse than the float model's a score is; below 0 where it is better.

    A score of which the float model has infinitely much, such as the SQNR of its outputs against themselves, is one in decibels:
    10**(-score / 10) is lost of it, the energy of the error over that of the signal.

    Args:
        score: The score.
        reference: The float model's score.
        higher_is_better: Of the score.

    Returns:
        The loss, in units of the score; NaN where the score is.

    Example:
        >>> loss_of(0.75, 1.0), loss_of(20.0, float("inf")), loss_of(float("inf"), float("inf"))
        (0.25, 0.01, 0.0)
    """
    if reference == math.inf and higher_is_better:
        return math.inf if score < -3000 else float(10.0 ** (-score / 10))
    return reference - score if higher_is_better else score - reference


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any, key: str, *, shown: str | None = None) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        example = ", or a share such as 0.5%" if key == "max_drop" else ""
        raise ConfigValueError(f"{key} is {shown or value!r}; it is a number{example}.")
    return found
