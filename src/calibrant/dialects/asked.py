"""A recipe in whatever form a call was given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant.dialects import load_recipe
from calibrant.recipe import Recipe
from calibrant.recipe.fixed import as_fixed, merged

__all__ = ["RecipeLike", "asked"]

#: A path, a text, a mapping, or a Recipe that was made already.
RecipeLike = str | Path | Mapping[str, Any] | Recipe


def asked(
    recipe: RecipeLike | None,
    target: str | Path | None = None,
    fix: Mapping[str, Any] | None = None,
    *,
    keep_fixed_inputs: bool = False,
) -> Recipe:
    """Return what is wanted.

    Args:
        recipe: The recipe in any form; None for the defaults.
        target: The device, a name or a file, over the recipe's; None leaves that of the recipe.
        fix: Inputs to fix, by name, over the recipe's of the same name.
        keep_fixed_inputs: The written models keep them, whatever the recipe says.

    Raises:
        ConfigError: It cannot be read, or it says what is not allowed.
    """
    wanted = Recipe() if recipe is None else load_recipe(recipe)
    if target is not None:
        wanted = wanted.on_target(str(target), "target")
    return replace(
        wanted,
        fix=merged(wanted.fix, as_fixed(fix or {}, "fix")),
        keep_fixed_inputs=keep_fixed_inputs or wanted.keep_fixed_inputs,
    )
