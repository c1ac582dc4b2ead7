"""What one recipe decided, for others that differ from it in widths alone.

On a shared bench forty recipes may each raise another layer to 16 bits. What they leave open (form of the model,
algorithm, how biases are corrected) is decided once, for the recipe without its widths, and holds for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.tuning.forms import Form
from calibrant.tuning.strategies.ranges import RangeOption

__all__ = ["Guide", "as_decided", "essence", "without_widths"]

#: Fields of the settings that say how wide numbers are, and nothing else.
_WIDTHS = {"activation_bits": None, "weight_bits": None, "compute": None, "compensation": None}


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What was decided.

    Args:
        form: The form of the model that was taken.
        option: The option that was taken.
        way: How biases are corrected.
        narrow: Whether weights are fitted to sums of two products in 16 bits.
    """

    form: Form
    option: RangeOption
    way: str
    narrow: bool = True


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


def as_decided(recipe: Recipe, guide: Guide | None) -> Recipe:
    """Return a recipe that says what was decided of what it leaves open, as far as a recipe can say it.

    Balanced layers and scales by channel that were found to help have no word of their own in a recipe: one that led to
    them stays as it is.

    Args:
        recipe: A recipe.
        guide: What was decided for it, or for the same with other widths; None where nothing was open.
    """
    if guide is None or guide.option.form == "balanced" or guide.option.channel_scales:
        return recipe
    option = guide.option
    rules = recipe.rules
    if option.algorithm:
        choice = Settings(activation=AlgorithmChoice(option.algorithm))
        rules = (Rule(AllNodes(), choice, "decided"), *rules)
    return replace(
        recipe,
        rules=rules,
        equalize="on" if option.form == "equalized" else "off",
        calibration=replace(recipe.calibration, behind=option.behind),
        bias_correction="off" if guide.way == "off" else recipe.bias_correction,
    )
