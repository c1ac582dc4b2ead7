"""What the layers of a plan end in, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from calibrant.errors import ConfigValueError
from calibrant.plan import Plan
from calibrant.recipe import Settings
from calibrant.tuning.menu import Menu

__all__ = [
    "COMPENSATED",
    "NARROW",
    "precision_of",
    "settings_of",
    "where_they_are",
    "with_precision",
]

#: What a layer is called of whose operands one has a second 8-bit value; that takes the time of 16 bits.
COMPENSATED = "ec"

#: Precisions whose kernels have 8-bit activations, the one of least bits first.
NARROW = ("int4", "int8", COMPENSATED)


def precision_of(plan: Plan, layer: str) -> str:
    """Return what a layer ends in: `int8`, `int16` where any of its inputs has 16 bits, `ec`, `float16` or `float32`."""
    if layer in plan.half:
        return "float16"
    if not any(d.quantized for d in plan.layers if d.node == layer):
        return "float32"
    inputs = [d for d in plan.activations if any(n == layer for n, _ in d.users)]
    weight = plan.weight_of(layer)
    bits = [d.spec.bits for d in inputs] + ([weight.spec.bits] if weight is not None else [])
    if any(b > 8 for b in bits):
        return "int16"
    twice = any(d.compensation for d in inputs) or (weight is not None and weight.compensation)
    return COMPENSATED if twice else "int8"


def with_precision(menu: Menu, name: str) -> Menu:
    """Return a menu with one precision more, which costs what the next wider one does that the menu has."""
    wider = {"int8": ("int16", "float32"), COMPENSATED: ("int16", "float32")}
    near = next((p for p in wider.get(name, ()) if p in menu.precisions), menu.precisions[-1])
    column = menu.precisions.index(near)
    cost = np.concatenate([menu.cost, menu.cost[:, column : column + 1]], axis=1)
    ties = menu.ties
    if ties is not None:
        ties = np.concatenate([ties, ties[:, column : column + 1]], axis=1)
    return replace(menu, precisions=(*menu.precisions, name), cost=cost, ties=ties)


def settings_of(precision: str) -> Settings:
    """Return the settings of a precision, by the names that layers end in."""
    if precision == COMPENSATED:
        return replace(Settings.of_precision("int8"), compensation=True)
    return Settings.of_precision(precision)


def where_they_are(menu: Menu, plan_of: Callable[[str], Plan]) -> Menu:
    """Return a menu without int4 weights and `ec` at layers that have no such thing.

    A layer without a weight, or whose weight the target does not take in 4 bits, has no int4. One that has no place for a second
    8-bit value has no `ec`.

    Args:
        menu: What layers may be.
        plan_of: Returns the plan with all layers in a precision.

    Raises:
        ConfigValueError: A layer has nothing else to be.
    """
    cost = menu.cost.copy()
    for column, precision in enumerate(menu.precisions):
        if precision not in ("int4", COMPENSATED):
            continue
        plan = plan_of(precision)
        for row, layer in enumerate(menu.layers):
            weight = plan.weight_of(layer)
            if precision == "int4":
                there = weight is not None and weight.spec.bits == 4
            else:
                there = precision_of(plan, layer) == COMPENSATED
            if not there:
                cost[row, column] = math.inf
    for layer, row in zip(menu.layers, cost, strict=True):
        if not np.isfinite(row).any():
            raise ConfigValueError(
                f"Layer '{layer}' cannot be {' or '.join(menu.precisions)} on this target; allow int8, too."
            )
    return replace(menu, cost=cost)
