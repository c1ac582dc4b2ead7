"""A move as a value: what was tried, what it gained, and whether it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrant.errors import ConfigValueError, did_you_mean

__all__ = ["KINDS", "TRAINING", "MoveTried", "kinds_of"]

#: Kinds of moves, and what each does.
KINDS: Mapping[str, str] = {
    "data": "more of the calibration data, where a recipe takes a part of it",
    "algorithm": "other ranges of activations, or other scales of weights",
    "per-channel": "one scale a channel",
    "balance": "channels evened out between layers, or between an input and its weight",
    "bias-correction": "biases corrected",
    "rounding": "learned rounding of weights",
}

#: The kind of a move that trains; it is asked for by its budget.
TRAINING = "training"


@dataclass(frozen=True, slots=True)
class MoveTried:
    """A move that was tried.

    Args:
        kind: One of `KINDS`, or `training`.
        what: What is done, a clause.
        layers: Nodes it is for, up to all; empty where it is for the whole model.
        gain_db: What the outputs gain by it alone, on samples that nothing of it comes from [dB]; None where it could not be
            tried.
        noise_db: How far such a gain may lie from nothing by chance [dB].
        with_others_db: What it gains beside the moves that were taken before it [dB]; None where it was not looked at so.
        taken: It became a part of the recipe.
        reason: The comparison in a sentence, or why it could not be tried.
        rules: What it adds to a recipe, as text (YAML).
    """

    kind: str
    what: str
    layers: tuple[str, ...]
    gain_db: float | None
    noise_db: float | None
    with_others_db: float | None
    taken: bool
    reason: str
    rules: str

    def content(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> MoveTried:
        """Return the move of plain values."""
        return cls(**{**content, "layers": tuple(content["layers"])})


def kinds_of(said: str | Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of moves that are asked for.

    Args:
        said: `auto` for all, `none`, or kinds: a sequence, or with commas.

    Raises:
        ConfigValueError: An unknown kind.

    Example:
        >>> kinds_of("rounding,algorithm")
        ('algorithm', 'rounding')
    """
    named = [k.strip() for k in said.split(",")] if isinstance(said, str) else list(said)
    if named == ["auto"]:
        return tuple(KINDS)
    if named in (["none"], []):
        return ()
    for name in named:
        if name not in KINDS:
            known = ("auto", "none", *KINDS)
            raise ConfigValueError(
                f"Unknown kind of moves '{name}'. Known: auto, none, or some of {', '.join(KINDS)}."
                + did_you_mean(str(name), known)
            )
    return tuple(k for k in KINDS if k in named)
