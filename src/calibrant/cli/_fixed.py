"""What `--fix` says, as values by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["fixed_values"]


def fixed_values(said: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return the inputs that are fixed, with their values; None where there is none.

    Raises:
        ConfigError: A text is not NAME=VALUE, or one name is given two values.
    """
    from calibrant.recipe.fixed import fixed_by_text

    return {f.name: f.value for f in fixed_by_text(said, "--fix")} if said else None
