"""Recipes as others write them: text in, Recipe out.

Each vendor has a folder here, whose `DIALECTS` are found by themselves. A file is matched to its dialect by what
it says, not by its name.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.dialects.dialect import Dialect
from calibrant.dialects.losses import collecting
from calibrant.errors import (
    ConfigTypeError,
    ConfigValueError,
    UnsupportedError,
    did_you_mean,
    together,
)
from calibrant.graph.targets import is_path
from calibrant.recipe import Recipe
from calibrant.recipe.tidy import tidy

if TYPE_CHECKING:
    from calibrant.graph.load import ModelLike

__all__ = ["Dialect", "convert", "dialects", "dump_recipe", "load_recipe"]


@cache
def dialects() -> dict[str, Dialect]:
    """Return every dialect by name."""
    vendors = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)
    found = [importlib.import_module(f"{__name__}.{v}").DIALECTS for v in vendors]
    return {d.name: d for listed in found for d in listed}


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    *,
    dialect: str | None = None,
    if_empty: str | None = None,
    strict: bool = False,
) -> Recipe:
    """Read a recipe in any dialect.

    Args:
        source: A path, the text itself (a string with a line break or a `key: value` in it), or its
            content as a mapping. A Recipe is returned as it is.
        dialect: Its dialect; None finds it by what the text says.
        if_empty: The dialect of a text without a word, which asks for all defaults; None refuses one, but for a
            file that ends in `.cfg`.
        strict: Refuse a text that asks for something which is not done; without it that is a note.

    Raises:
        ConfigValueError: The file does not exist, no dialect knows the text, or several do, or it says what
            is not allowed. All that is wrong with a text is one error; its `parts` are the single ones.
        ConfigTypeError: The first thing that is wrong is a value of the wrong type.
        UnsupportedError: With `strict`, something is not done.
    """
    if isinstance(source, Recipe):
        return source
    text, path = _text(source)
    name = dialect
    if _is_empty(text):
        name = dialect or if_empty
        name = name if name is None else _named(name).if_empty or name
    found = _named(name) if name is not None else _recognised(text, path)
    recipe = found.load(text, path)
    if strict:
        _refuse_undone(recipe)
    return _located(recipe, path)


def _recognised(text: str, path: Path | None) -> Dialect:
    """Return the dialect of a text."""
    known = dialects()
    found = [d for d in known.values() if d.recognises(text, path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigValueError(
            f"{path or 'The recipe'} has keys of several dialects, so it is not clear what it says: "
            f"{' and '.join(f'{d.name} ({d.title})' for d in found)}. A file is in one of them."
        )
    if _is_empty(text):
        raise ConfigValueError(
            f"{path or 'The recipe'} is in no dialect that is known: it says nothing. That means all defaults where the "
            f"dialect is named (--dialect, one of {', '.join(known)}) or the file ends in .cfg."
        )
    listed = "; ".join(f"{d.name} ({d.title})" for d in known.values())
    raise ConfigValueError(
        f"{path or 'The recipe'} is in no dialect that is known. Known: {listed}. A recipe of calibrant's own "
        "begins with 'calibrant: 1'."
    )


def _is_empty(text: str) -> bool:
    """Say whether a text has nothing but spaces and comments."""
    return all(line.lstrip()[:1] in ("", "#") for line in text.removeprefix("\ufeff").splitlines())


def _refuse_undone(recipe: Recipe) -> None:
    """Refuse a recipe that asks for what is not done.

    Raises:
        UnsupportedError: It does; one error for all.
    """
    undone = [UnsupportedError(f"{n.where}: {n.message}") for n in recipe.notes if not n.honoured]
    if undone:
        raise together(undone)


def _named(name: str) -> Dialect:
    known = dialects()
    if name not in known:
        raise ConfigValueError(
            f"Unknown dialect '{name}'. Known: {', '.join(known)}." + did_you_mean(name, known)
        )
    return known[name]


def _located(recipe: Recipe, path: Path | None) -> Recipe:
    """Remember where a recipe stands, if it names data or a target's file by relative paths."""
    if path is None:
        return recipe
    if is_path(recipe.target) and (path.parent / recipe.target).is_file():
        recipe = replace(recipe, target=str(path.parent / recipe.target))
    sources = recipe.calibration.sources
    if not sources:
        return recipe
    placed = tuple(replace(s, beside=str(path.parent)) for s in sources)
    return replace(recipe, calibration=replace(recipe.calibration, sources=placed))


def dump_recipe(
    recipe: Recipe,
    dialect: str = "native",
    *,
    model: ModelLike | None = None,
    lost: list[str] | None = None,
) -> str:
    """Write a recipe down.

    Args:
        recipe: The recipe.
        dialect: Its new form.
        model: The model it is for. Dialects that list layers then write out all of them, with what the
            recipe means for each; others write the recipe as it is.
        lost: Gets what the dialect has no words for, one sentence each; the text then has what comes nearest.
            None makes it an error.

    Raises:
        ConfigValueError: An unknown dialect, or a recipe that does not fit the model.
        UnsupportedError: A dialect that is only read, or that has no words for what the recipe says while
            nothing is to be `lost`.
    """
    if lost is not None:
        with collecting(lost):
            return dump_recipe(recipe, dialect, model=model)
    known = dialects()
    found = _named(dialect)
    if model is not None and found.dump_for is not None:
        return found.dump_for(recipe, model)
    if found.dump is None:
        written = ", ".join(n for n, d in known.items() if d.dump is not None)
        raise UnsupportedError(f"Dialect '{dialect}' is read, not written. Written: {written}.")
    return found.dump(recipe)


def convert(
    source: str | Path | Mapping[str, Any] | Recipe,
    dialect: str,
    *,
    model: ModelLike | None = None,
    lost: list[str] | None = None,
) -> str:
    """Read a recipe in any dialect and write it in another; arguments and errors as for both.

    A native recipe is written as short as a person would (`recipe.tidy`).
    """
    recipe = load_recipe(source)
    if dialect == "native":
        recipe = tidy(recipe)
    return dump_recipe(recipe, dialect, model=model, lost=lost)


def _text(source: str | Path | Mapping[str, Any]) -> tuple[str, Path | None]:
    if isinstance(source, Mapping):
        try:
            return json.dumps(source), None
        except (TypeError, ValueError) as e:
            raise ConfigTypeError(
                f"A recipe as a mapping holds texts, numbers, lists and mappings: {e}."
            ) from e
    if not isinstance(source, str | Path):
        raise ConfigTypeError(
            f"A recipe is a path, a text, a mapping or a Recipe, not a {type(source).__name__}."
        )
    if isinstance(source, str) and (
        "\n" in source or ": " in source or source.lstrip().startswith("{") or source.endswith("}")
    ):
        return source, None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8-sig"), path
    except UnicodeDecodeError as e:
        raise ConfigValueError(f"The recipe '{path}' is not a text file in UTF-8.") from e
    except OSError as e:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigValueError(
            f"The recipe '{path}' cannot be read: {e.strerror}." + did_you_mean(path.name, near)
        ) from e
