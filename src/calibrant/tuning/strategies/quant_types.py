"""Recipes with other types of nodes and operands, and with other calibration methods, as a quant_config would say it.

What holds for all nodes stands before what the recipe says of operators, subgraphs and nodes, which wins; what a procedure
says of single nodes stands behind it.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import replace

from calibrant.dialects.horizon.candidates import candidates
from calibrant.dialects.horizon.schema import PAIRED, Activation
from calibrant.plan.compensation import COMPENSATED
from calibrant.recipe import AllNodes, Layer, LayerInput, Recipe, Rule, Search, Settings
from calibrant.tuning.strategies.recipes import Operand

__all__ = ["all_nodes", "methods", "nodes_as", "operands_as", "pinned", "wide_operands"]


def all_nodes(recipe: Recipe, precision: str) -> Recipe:
    """Return a recipe in which all nodes have a type that nothing else says another one of."""
    place = 0
    for rule in recipe.rules:
        if not (isinstance(rule.where, AllNodes) or rule.force == "implied"):
            break
        place += 1
    rule = Rule(AllNodes(), _type(precision), f"tune: all nodes {precision}")
    return replace(recipe, rules=(*recipe.rules[:place], rule, *recipe.rules[place:]))


def nodes_as(recipe: Recipe, nodes: Sequence[str], precision: str) -> Recipe:
    """Return a recipe in which some nodes have a type."""
    return recipe.with_rules(
        *(Rule(Layer(glob.escape(n)), _type(precision), f"tune: {precision}") for n in nodes)
    )


def _type(precision: str) -> Settings:
    settings = Settings.of_precision(precision)
    return Settings(compensation=False).over(settings) if settings.compute == "int" else settings


def wide_operands(
    recipe: Recipe, operands: Sequence[Operand]
) -> tuple[Recipe, tuple[Operand, ...]]:
    """Return a recipe that gives operands 16 bits, and the operands that no recipe can ask it for."""
    asked = [o for o in operands if o[1] in PAIRED and o[2] == 1]
    wide = Settings(activation_bits=16, weight_bits=16, compensation=False)
    rules = [
        Rule(LayerInput(node, index, (kind,)), wide, "tune: dual-int16", "granted")
        for node, kind, index in asked
    ]
    return recipe.with_rules(*rules), tuple(o for o in operands if o not in asked)


def operands_as(recipe: Recipe, operands: Sequence[Operand], qtype: str) -> Recipe | None:
    """Return a recipe that gives operands error compensation; None where one of them has no place for it."""
    if any(index not in COMPENSATED.get(kind, ()) for _, kind, index in operands):
        return None
    settings = Settings(activation_bits=8, weight_bits=8, compensation=qtype == "ec")
    rules = [
        Rule(LayerInput(node, index, (kind,)), settings, f"tune: {qtype}", "granted")
        for node, kind, index in operands
    ]
    return recipe.with_rules(*rules)


def pinned(recipe: Recipe, method: Settings | None) -> Recipe:
    """Return a recipe with the calibration method that was chosen for another one, in the place of its candidates."""
    if method is None:
        return recipe
    rules = tuple(
        replace(r, settings=method.over(r.settings)) if _is_open(r) else r for r in recipe.rules
    )
    return replace(recipe, rules=rules, search=None)


def methods(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Yield what else may calibrate a recipe that leaves the method open, each on top of the one before it."""
    if not any(_is_open(r) for r in recipe.rules):
        return
    wider = candidates(Activation(asymmetric=[False, True], per_channel=[False, True]))
    first = wider[0]
    settings = Settings(candidates=wider).over(first)
    rules = tuple(
        replace(r, settings=settings.over(r.settings)) if _is_open(r) else r for r in recipe.rules
    )
    found = replace(recipe, rules=rules)
    yield f"{len(wider)} methods, asymmetric and by channel too", found
    bias = Settings(bias_samples=1, bias_metric="cosine-similarity")
    found = found.with_rules(Rule(AllNodes(), bias, "tune: bias correction"))
    yield "… and biases are corrected", found
    yield "… and the method is chosen for each node", replace(found, search=Search(scope="layer"))


def _is_open(rule: Rule) -> bool:
    return isinstance(rule.where, AllNodes) and len(rule.settings.candidates or ()) > 1
