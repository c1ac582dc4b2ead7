"""What the layers of a plan end in, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from calibrant.plan import Plan
from calibrant.tuning.menu import Menu

__all__ = ["COMPENSATED", "precision_of", "with_precision"]

#: What a layer is called of whose operands one has a second 8-bit value; that takes the time of 16 bits.
COMPENSATED = "ec"


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
