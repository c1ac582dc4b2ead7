"""A walk through phases: recipes are tried one after another, on top of what lost least until then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calibrant.recipe import Recipe
from calibrant.tuning.driver import Strategy
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.recipes import Outcome, RecipeQuestion, Try

__all__ = ["Walk"]


@dataclass(slots=True)
class Walk:
    """The walk so far.

    Args:
        base: What the next change is made to.
        lost: What the last recipe lost.
    """

    base: Recipe
    lost: float = float("inf")
    _best: Try | None = None
    _least: float = float("inf")
    _last: Try | None = None

    def keep(self) -> None:
        """Make what lost least the base of what follows."""
        if self._best is not None:
            self.base = self._best.recipe

    def tried(
        self, recipe: Recipe, phase: str, change: str
    ) -> Strategy[RecipeQuestion, Any, bool]:
        """Try a recipe, and return whether it meets the requirement."""
        self._last = Try(recipe, phase, change)
        reached: Reached = yield self._last
        self.lost = reached.loss
        if self._best is None or reached.loss < self._least:
            self._best, self._least = self._last, reached.loss
        return reached.met

    def found(self, reason: str) -> Outcome:
        """Return the last recipe as the result."""
        return Outcome(self._last, reason)
