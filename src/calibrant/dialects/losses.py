"""What the writers share: merging rules without a model, and what a dialect cannot say.

A writer hands everything that its dialect has no words for to `lose` and goes on with what comes nearest. That is
an error by itself; inside `collecting` it is put on a list, so that a caller gets the file and the list.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from calibrant.errors import UnsupportedError
from calibrant.recipe import Recipe, Rule, Settings
from calibrant.recipe.words import setting_words, wish_words

__all__ = [
    "collecting",
    "lose",
    "merge",
    "refuse_settings",
    "refuse_unlisted",
    "refuse_wishes",
    "vendor_json",
]


#: Stands for the place in a sentence.
_PLACE = "\0"

#: How many places a sentence of the list names.
_NAMED = 3

#: Sentence, with its place left out -> its places.
_LOST: ContextVar[dict[str, list[str]] | None] = ContextVar("lost", default=None)


@contextmanager
def collecting(lost: list[str]) -> Iterator[None]:
    """Put what the writers cannot say on a list, each once with the places of it, when this ends."""
    found: dict[str, list[str]] = {}
    token = _LOST.set(found)
    try:
        yield
    finally:
        _LOST.reset(token)
    for sentence, places in found.items():
        named = ", ".join(places[:_NAMED])
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        lost.append(sentence.replace(_PLACE, named + more))


def lose(message: str, *, at: str = "") -> None:
    """Say that a dialect has no words for something.

    Args:
        message: What and why; with the place in it in brackets, if there is one.
        at: The place.

    Raises:
        UnsupportedError: Nobody collects what is lost.
    """
    lost = _LOST.get()
    if lost is None:
        raise UnsupportedError(message)
    places = lost.setdefault(message.replace(f"({at})", f"({_PLACE})") if at else message, [])
    if at and at not in places:
        places.append(at)


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
    wanted = [
        name
        for name in ("joint", "scale_format", "output_precision", "search", "promote", "training")
        if getattr(recipe, name) != getattr(plain, name)
    ]
    wanted += [n for n in ("bias_correction", "equalize") if getattr(recipe, n) == "on"]
    wanted += ["fix"] if recipe.fix else []
    wanted += [
        name
        for name in ("batch_size", "batch_num", "exact", "random", "sources", "behind")
        if getattr(recipe.calibration, name) != getattr(plain.calibration, name)
    ]
    if recipe.fusion != plain.fusion:
        wanted.append("fusion")
    lost = [wish_words(recipe, name) for name in wanted if name not in can]
    if lost:
        lose(f"A file of dialect '{dialect}' cannot say: {'; '.join(lost)}.")


def refuse_unlisted(rule: Rule) -> None:
    """Refuse a rule for layers that are not named, where a file lists layers by name.

    Raises:
        UnsupportedError: It decides which layers there are; of other rules nothing is said then.
    """
    message = (
        f"config.json lists layers by name, so '{rule.where}' ({rule.origin or 'a rule'}) needs the model: "
        "give it, and every layer is written out."
    )
    if rule.settings.compute == "int":
        raise UnsupportedError(message)
    lose(message)


def refuse_settings(settings: Settings, dialect: str, where: str, *, can: Collection[str]) -> None:
    """Refuse settings that a dialect has no words for.

    Raises:
        UnsupportedError: There is one that is set, and not to what holds without it.
    """
    lost = [
        setting_words(name, value)
        for name, value in settings.items()
        if name not in can and value not in (False, 0, ())
    ]
    if lost:
        lose(f"A file of dialect '{dialect}' cannot say {', '.join(lost)} ({where}).", at=where)


def vendor_json(content: Any) -> str:
    """Write JSON as the vendor's tools do: four spaces, no space behind a separator."""
    return json.dumps(content, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"
