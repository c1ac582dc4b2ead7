"""What one recipe decided, for others that differ from it in widths alone.

On a shared bench forty recipes may each raise another layer to 16 bits. What they leave open (form of the model,
algorithm, how biases are corrected) is decided once, for the recipe without its widths, and holds for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calibrant.recipe import Recipe, Rule
from calibrant.tuning.forms import Form
from calibrant.tuning.strategies.ranges import RangeOption

__all__ = ["Guide", "essence", "without_widths"]

#: Fields of the settings that say how wide numbers are, and nothing else.
_WIDTHS = {"activation_bits": None, "weight_bits": None, "compute": None, "compensation": None}


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What was decided.

    Args:
        forms: The forms of the model that were tried.
        option: The option that was taken.
        way: How biases are corrected.
    """

    forms: Sequence[Form]
    option: RangeOption
    way: str


def essence(recipe: Recipe) -> Recipe:
    """Return a recipe without the places that its rules came from: equal ones mean the same."""
    rules = tuple(replace(r, origin="", places=()) for r in recipe.rules)
    fusion = replace(recipe.fusion, origin="")
    return replace(recipe, rules=rules, fusion=fusion, notes=())


def without_widths(recipe: Recipe) -> Recipe:
    """Return the essence of a recipe, with nothing in it on widths; rules that said nothing else are gone."""
    found: list[Rule] = []
    for rule in essence(recipe).rules:
        settings = replace(rule.settings, **_WIDTHS)
        if any(True for _ in settings.items()):
            found.append(replace(rule, settings=settings))
    return replace(essence(recipe), rules=tuple(found), promote=None)
