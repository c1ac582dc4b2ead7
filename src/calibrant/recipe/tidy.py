"""Say the same with fewer words: rules as a person would write them.

A dialect spells out what its vendor takes for granted, layer by layer. Here

1. options of an algorithm that are at their defaults are left out,
2. what a rule says again, because it holds already wherever the rule is for, is left out,
3. a rule is joined with an earlier one for the same nodes, where nothing between them speaks of the same,
4. remarks on how the old text was read are left out; what is not done as asked stays.

The recipe means the same for every model: the same settings, and the same errors and notes. So a rule for one input, a
subgraph or a mapping file stays as it is, since more than its settings counts, and a layer or a type that is named
stays named, so that a name that a model does not have is still found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from calibrant import algorithms
from calibrant.recipe.recipe import Recipe, Rule
from calibrant.recipe.settings import AlgorithmChoice, Settings
from calibrant.recipe.where import AllNodes, Layer, OpType, Where

__all__ = ["tidy"]

#: What holds before any rule. Whether zero points are 0 is the target's to say.
BEFORE: dict[str, Any] = {
    "compute": "int",
    "activation": AlgorithmChoice("auto"),
    "activation_bits": 8,
    "activation_per_channel": False,
    "weight": AlgorithmChoice("auto"),
    "weight_bits": 8,
    "weight_per_channel": True,
    "balance": 0,
    "compensation": False,
    "candidates": (),
    "bias_samples": 0,
}

#: The fields of which `precision` is one word.
PRECISION = ("compute", "activation_bits", "weight_bits")

#: The fields that a rule has to have right together: levels of a weight are of the 8-bit grid.
GRID = frozenset({"weight", "weight_bits"})

#: A value and how strongly it was asked for.
Said = tuple[Any, str]


def tidy(recipe: Recipe) -> Recipe:
    """Return a recipe that means the same and says it shorter."""
    rules = [replace(rule, settings=_plain(rule.settings)) for rule in recipe.rules]
    notes = tuple(note for note in recipe.notes if not note.honoured)
    while (shorter := _joined(_new(rules))) != rules:
        rules = shorter
    return replace(recipe, rules=tuple(rules), notes=notes)


# ------------------------------------------------------------------------------------------ algorithms


def _plain(settings: Settings) -> Settings:
    """Return settings whose algorithms name the options alone that are not at their defaults."""
    changes: dict[str, Any] = {}
    kinds: tuple[Literal["activation", "weight"], ...] = ("activation", "weight")
    for kind in kinds:
        choice = getattr(settings, kind)
        if choice is not None and choice.name in algorithms.names()[kind]:
            usual = {o.name: o.default for o in algorithms.describe(kind, choice.name)}
            other = {k: v for k, v in choice.options if v != usual.get(k)}
            changes[kind] = AlgorithmChoice.of(choice.name, other)
    if settings.candidates:
        changes["candidates"] = tuple(map(_plain, settings.candidates))
    return replace(settings, **changes)


# ------------------------------------------------------------------------------------ what is said again


def _new(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Yield the rules without what holds already, asked for as strongly, where they are for."""
    held: dict[str, set[Said]] = {name: {(value, "implied")} for name, value in BEFORE.items()}

    def holds(rule: Rule, name: str) -> bool:
        return held.get(name) == {(getattr(rule.settings, name), rule.force)}

    listed: Rule | None = None  # the candidates that hold everywhere
    named: set[Where] = set()
    for rule in rules:
        if listed is not None and rule.where in named and _same_choice(rule, listed):
            continue
        kept = rule
        if isinstance(rule.where, AllNodes | OpType | Layer):
            kept = _without(rule, {n for n, _ in rule.settings.items() if holds(rule, n)})
        for name in _touched(rule.settings):
            value = (getattr(rule.settings, name), rule.force)
            if name in dict(rule.settings.items()) and isinstance(rule.where, AllNodes):
                held[name] = {value}
            else:
                held.setdefault(name, {(None, "")}).add(value)
        for candidate in rule.settings.candidates or ():  # nobody knows which one is taken
            for name, value in candidate.items():
                held.setdefault(name, {(None, "")}).add((value, rule.force))
        if listed is not None and _touched(rule.settings) & _touched(listed.settings):
            listed = None
        if rule.settings.candidates and isinstance(rule.where, AllNodes):
            listed = rule
        if any(True for _ in kept.settings.items()):
            named.add(kept.where)
            yield kept


def _same_choice(rule: Rule, listed: Rule) -> bool:
    """Say whether a rule offers the candidates that hold everywhere, and says nothing else."""
    return rule.settings == listed.settings and rule.force == listed.force


def _without(rule: Rule, again: set[str]) -> Rule:
    """Return a rule without fields that hold already, but for those that it is there for."""
    settings = rule.settings
    if settings.compensation:
        again = again - {"compensation"}  # it asks for quantizers where there are none
    if not isinstance(rule.where, AllNodes):
        again = again - {"compute"}  # what is named has to be there, and to be quantized
    if settings.weight is not None:
        again = again - GRID  # an algorithm and a width that stand together have to agree
    if settings.compute is not None and "compute" not in again:
        again = again - set(PRECISION)
    if settings.candidates or (again >= {n for n, _ in settings.items()} and not _may_go(rule)):
        return rule
    return replace(rule, settings=replace(settings, **dict.fromkeys(again)))


def _may_go(rule: Rule) -> bool:
    """Say whether nobody misses a rule that says nothing new: no name of the model's stands in it."""
    return isinstance(rule.where, AllNodes) or (
        isinstance(rule.where, OpType) and rule.force == "implied"
    )


# ------------------------------------------------------------------------------------------- joined rules


def _joined(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules, each together with an earlier one for the same nodes where that changes nothing."""
    kept: list[Rule] = []
    for rule in rules:
        index = _partner(kept, rule)
        if index is None:
            kept.append(rule)
        else:
            first = kept[index]
            both = rule.settings.over(first.settings)
            kept[index] = replace(first, settings=both, places=(*first.places, *rule.places))
    return kept


def _partner(kept: list[Rule], rule: Rule) -> int | None:
    if not isinstance(rule.where, AllNodes | OpType | Layer) or rule.settings.compensation:
        return None
    touched = _touched(rule.settings)
    for index in range(len(kept) - 1, -1, -1):
        other = kept[index]
        before = _touched(other.settings)
        same = other.where == rule.where and other.force == rule.force
        chosen = other.settings.candidates and touched & before
        apart = touched & GRID and before & GRID and touched & GRID != before & GRID
        if same and not chosen and not apart and not other.settings.compensation:
            return index
        if touched & before:
            return None
    return None


def _touched(settings: Settings) -> set[str]:
    """Return the fields that a rule decides, itself or through the candidate that is taken."""
    own = {name for name, _ in settings.items()}
    return own.union(*({n for n, _ in c.items()} for c in settings.candidates or ()))
