"""A recipe in whatever form a call was given it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrant.dialects import load_recipe
from calibrant.recipe import Recipe

__all__ = ["RecipeLike", "asked"]

#: A path, a text, a mapping, or a Recipe that was made already.
RecipeLike = str | Path | Mapping[str, Any] | Recipe


def asked(recipe: RecipeLike | None, target: str | Path | None = None) -> Recipe:
    """Return what is wanted.

    Args:
        recipe: The recipe in any form; None for the defaults.
        target: The device, a name or a file, over the recipe's; None leaves that of the recipe.

    Raises:
        ConfigError: It cannot be read, or it says what is not allowed.
    """
    wanted = Recipe() if recipe is None else load_recipe(recipe)
    return wanted if target is None else wanted.on_target(str(target), "target")
