"""What a dialect is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibrant.recipe import Recipe

if TYPE_CHECKING:
    from calibrant.graph.load import ModelLike

__all__ = ["Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way to write a recipe down. A module of this package has one, named `DIALECT`.

    Args:
        name: As asked for on the command line.
        title: What it is, for messages.
        recognises: Tells from text and file name (None for bare text) whether it is this dialect.
        load: Reads it; raises ConfigError with file and line.
        dump: Writes a recipe, where the dialect can say what is in it.
        dump_for: Writes a recipe for a model, with what it means for every layer.
        if_empty: Dialect of the same vendor that reads a text without a word as all defaults; by default this one.
    """

    name: str
    title: str
    recognises: Callable[[str, Path | None], bool]
    load: Callable[[str, Path | None], Recipe]
    dump: Callable[[Recipe], str] | None = None
    dump_for: Callable[[Recipe, ModelLike], str] | None = None
    if_empty: str = ""
