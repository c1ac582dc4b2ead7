"""How wide an operand is: what the rules ask for, within what the device takes.

A request that a device does not take is lowered and noted, naming the node; one that is required is an error.
One that is granted holds all the same. An operator whose inputs share a width (Concat) gives each the widest that is asked
for one of them. Which operands a device limits stands in its target (docs/reference/targets.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import onnx_ir as ir

from calibrant.errors import ConfigValueError
from calibrant.graph.ops import is_constant, weight_index
from calibrant.graph.targets import Target, WidthLimit
from calibrant.recipe import Note, Rule, Settings

__all__ = ["activation_bits", "within_widths"]

_Width = Literal["activation_bits", "weight_bits"]


def within_widths(
    settings: Settings,
    deciders: Mapping[str, Rule],
    node: ir.Node,
    index: int | None,
    target: Target,
    notes: list[Note],
) -> Settings:
    """Return the settings of a node, or of one of its inputs, with widths that the device takes.

    Args:
        settings: What the rules say.
        deciders: Field of the settings -> the rule that decided it.
        node: The node.
        index: The input; None for the node, where its weight is meant and, if all inputs are limited, they.
        target: The device.
        notes: Gets what is lowered, of an input.

    Raises:
        ConfigValueError: A rule requires a width that the device does not take.
    """
    if settings.compute != "int":
        return settings
    for limit in target.limits:
        if limit.op_type not in (None, node.op_type):
            continue
        for field, operand in _limited(limit, node, index):
            value = getattr(settings, field)
            lowered = limit.nearest(value)
            rule = deciders.get(field)
            granted = rule is not None and rule.force == "granted" and value in limit.granted
            if lowered != value and not granted:
                if (
                    index is not None
                ):  # a rule for the input may say otherwise than one for the node
                    what = f"{node.op_type} {operand}"
                    _lower(rule, field, what, value, lowered, node, target, notes)
                change: dict[str, Any] = {field: lowered}
                settings = replace(settings, **change)
    return settings


def _limited(limit: WidthLimit, node: ir.Node, index: int | None) -> list[tuple[_Width, str]]:
    """Return the fields that a limit is for, each with the name of its operand."""
    weight = weight_index(node)
    found: list[tuple[_Width, str]] = []
    if weight is not None and limit.input in (None, weight) and index in (None, weight):
        found.append(("weight_bits", "weight"))
    if index is None and limit.input is None:
        found.append(("activation_bits", "inputs"))
    elif index is not None and index != weight and limit.input in (None, index):
        found.append(("activation_bits", f"input{index}"))
    return found


def _lower(
    rule: Rule | None,
    field: str,
    operand: str,
    value: int,
    lowered: int,
    node: ir.Node,
    target: Target,
    notes: list[Note],
) -> None:
    if rule is None or rule.force == "implied":
        return
    where, what = (
        rule.place(field),
        f"{operand} int{value} not supported by profile '{target.name}'",
    )
    if rule.force == "required":
        raise ConfigValueError(f"{where}: {what} (node '{node.name}'); it runs int{lowered}.")
    note = Note(where, f"{what} -> int{lowered} (node '{node.name}').")
    if note not in notes:
        notes.append(note)


def activation_bits(
    node: ir.Node,
    index: int | None,
    target: Target,
    settings_of: Callable[..., tuple[Settings, dict[str, str]]],
) -> int:
    """Return the width of an activation: its own, or the widest among inputs that share one."""
    bits = settings_of(node, index)[0].activation_bits
    assert bits is not None
    if index is None or node.op_type not in target.widest:
        return bits
    others = [
        settings_of(node, i)[0]
        for i, value in enumerate(node.inputs)
        if value is not None and not is_constant(value)
    ]
    return max([bits, *(s.activation_bits or 0 for s in others if s.compute == "int")])
