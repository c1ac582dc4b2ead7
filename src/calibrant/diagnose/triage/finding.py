"""What one check saw, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "sure"]

#: From which number on a word is said.
_WORDS = ((0.95, "certain"), (0.8, "likely"), (0.5, "possible"))


def sure(confidence: float) -> str:
    """Return the word for a confidence in [0, 1]: `certain`, `likely`, `possible` or `unlikely`."""
    return next((word for least, word in _WORDS if confidence >= least), "unlikely")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw.

    Args:
        check: Name of the check.
        cause: `data`, `model`, `mask`, `overflow`, `integers` or `shared`.
        saw: What was seen, in a sentence with numbers.
        do: What to do about it, in a sentence.
        confidence: How sure it is that this is a mistake, in [0, 1].
        where: Inputs or nodes it is of.
        preprocess: Lines of a preprocessing file that mend the calibration data, where such lines are known.
    """

    check: str
    cause: str
    saw: str
    do: str
    confidence: float
    where: tuple[str, ...] = ()
    preprocess: str = ""

    @property
    def word(self) -> str:
        """How sure it is, in a word."""
        return sure(self.confidence)

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "check": self.check,
            "cause": self.cause,
            "saw": self.saw,
            "do": self.do,
            "sure": self.word,
            "confidence": self.confidence,
            "where": list(self.where),
            "preprocess": self.preprocess,
        }
