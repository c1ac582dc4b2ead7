"""What the writers share: merging rules without a model, and refusing what a dialect cannot say."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from calibrant.errors import UnsupportedError
from calibrant.recipe import Calibration, Fusion, Recipe, Rule, Settings

__all__ = ["merge", "refuse_settings", "refuse_wishes", "vendor_json"]


def merge(rules: Iterable[Rule], base: Settings | None = None) -> Settings:
    """Return the settings of rules that all match, later over earlier."""
    settings = base or Settings()
    for rule in rules:
        settings = rule.settings.over(settings)
    return settings


def refuse_wishes(recipe: Recipe, dialect: str, *, can: Collection[str]) -> None:
    """Refuse a recipe that wants something for the whole model which a dialect has no words for.

    Args:
        recipe: The recipe.
        dialect: For messages.
        can: What the dialect has words for: names of fields of Recipe and Calibration.

    Raises:
        UnsupportedError: It wants something else; the message lists it.
    """
    plain = Recipe()
    lost = [
        f"{name} {getattr(recipe, name)!r}"
        for name in ("joint", "scale_format", "output_precision", "search", "promote", "training")
        if name not in can and getattr(recipe, name) != getattr(plain, name)
    ]
    lost += [
        f"{name} on"
        for name in ("bias_correction", "equalize")
        if name not in can and getattr(recipe, name) == "on"
    ]
    calibration = Calibration()
    lost += [
        f"calibration.{name} {getattr(recipe.calibration, name)!r}"
        for name in ("batch_size", "batch_num", "exact", "random", "sources")
        if name not in can and getattr(recipe.calibration, name) != getattr(calibration, name)
    ]
    if "fusion" not in can and recipe.fusion != Fusion():
        lost.append("fusion other than of every batch normalization")
    if lost:
        raise UnsupportedError(f"A file of dialect '{dialect}' cannot say: {'; '.join(lost)}.")


def refuse_settings(settings: Settings, dialect: str, where: str, *, can: Collection[str]) -> None:
    """Refuse settings that a dialect has no words for.

    Raises:
        UnsupportedError: There is one that is set, and not to what holds without it.
    """
    lost = [
        name for name, value in settings.items() if name not in can and value not in (False, 0, ())
    ]
    if lost:
        raise UnsupportedError(
            f"A file of dialect '{dialect}' cannot say {', '.join(lost)} ({where})."
        )


def vendor_json(content: Any) -> str:
    """Write JSON as the vendor's tools do: four spaces, no space behind a separator."""
    return json.dumps(content, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"
