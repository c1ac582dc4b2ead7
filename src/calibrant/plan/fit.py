"""What a layer has to be for a weight of few levels, and for balancing, and what becomes of a request elsewhere.

A rule that requires it is an error there, one that wishes it leaves a note, and an implied one gives way without
a word: the weight has the whole grid, the layer is not balanced.

A weight of few levels is for Conv with a 4-D filter, no dilation and one group, and for products with a constant matrix
(docs/explanation/algorithms/weight-nuq.md); balancing needs a weight with input channels
(docs/explanation/equalization.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from calibrant.errors import ConfigValueError
from calibrant.graph.ops import RECURRENT, is_constant, rule_of, weight_index
from calibrant.graph.passes.balance import weight_magnitudes
from calibrant.plan.match import Edges, an, at
from calibrant.plan.roles import codebook
from calibrant.recipe import AlgorithmChoice, MappedLayers, Note, Rule, Settings

__all__ = ["check_mapped", "fitting", "why_no_balance", "why_no_levels"]

#: What a weight has whose layer cannot keep a few levels: the grid that these are levels of.
UNIFORM = AlgorithmChoice("arq")


def fitting(
    settings: Settings, deciders: Mapping[str, Rule], node: ir.Node, notes: list[Note]
) -> Settings:
    """Return the settings of a node without the few levels, or the balancing, that it cannot have.

    Args:
        settings: What the rules say.
        deciders: Field of the settings -> the rule that decided it.
        node: The node.
        notes: Gets what gives way.

    Raises:
        ConfigValueError: A rule requires what the node cannot have, or asks for few levels and for another
            width than 8 bits.
    """
    if not settings.balance:
        settings = replace(settings, balance=None)
    layer = rule_of(node).kind in ("compute", "pool") or node.op_type in RECURRENT
    if settings.compute != "int" or not layer:
        return settings
    if settings.weight is not None and codebook(settings.weight) is not None:
        reason = why_no_levels(node, settings)
        if reason:
            _give_way("weight", settings.weight, reason, deciders["weight"], node, notes)
            settings = replace(settings, weight=UNIFORM)
    if settings.balance is not None:
        reason = why_no_balance(node)
        if reason:
            _give_way("balance", settings.balance, reason, deciders["balance"], node, notes)
            settings = replace(settings, balance=None)
    return settings


def _give_way(
    field: str, value: object, reason: str, rule: Rule, node: ir.Node, notes: list[Note]
) -> None:
    where = rule.place(field)
    what = f"{field} is {value} for {an(node.op_type)}, but {reason}"
    contradicts_itself = field == "weight" and rule.settings.weight_bits not in (None, 8)
    if rule.force == "required" or contradicts_itself:
        raise ConfigValueError(f"{where}: {what} in layer {node.name}")
    if field == "weight" and weight_index(node) is None:
        return  # there is no weight to speak of
    note = Note(where, f"{what}: layer '{node.name}' goes without.")
    if rule.force in ("wished", "granted") and note not in notes:
        notes.append(note)


def check_mapped(rule: Rule, edges: Edges, nodes: Mapping[str, ir.Node]) -> None:
    """Refuse a mapping file for few levels that names no layer which can keep them.

    Raises:
        ConfigValueError: It is one; the message has the reason for the first of its layers.
    """
    choice = rule.settings.weight
    if not isinstance(rule.where, MappedLayers) or codebook(choice) is None:
        return
    why = {n: why_no_levels(nodes[n], Settings(weight_bits=8)) for n, _ in edges}
    if all(why.values()):
        name = sorted(why)[0]
        raise ConfigValueError(
            f"{at(rule.origin)}the mapping file '{rule.where.file}' names {len(why)} nodes of the model, and "
            f"none can have weights of few levels ('{name}': {why[name]})."
        )


def why_no_levels(node: ir.Node, settings: Settings) -> str:
    """Say why a weight cannot keep a few levels, as a clause; an empty string where it can."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return "the weights of Conv, Gemm and MatMul alone can keep a few levels"
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or not is_constant(weight):
        return "its second input is not a constant weight"
    rank = len(weight.shape) if weight.shape is not None else 0
    if node.op_type == "Conv":
        dilations = _ints(node, "dilations")
        groups = _number(node, "group", 1)
        if rank != 4:
            return f"its filter has {rank} dimensions, not 4"
        if any(d != 1 for d in dilations):
            return f"its filter is dilated by {' and '.join(map(str, dilations))}"
        if groups != 1:
            return f"it has {groups:g} groups"
    elif rank != 2:
        return f"its weight has {rank} dimensions, not 2"
    elif node.op_type == "Gemm":
        if _number(node, "transA", 0):
            return "its input is transposed"
        for name in ("alpha", "beta"):
            if _number(node, name, 1) != 1:
                return f"its {name} is {_number(node, name, 1):g}, not 1"
    if settings.weight_bits != 8:
        return f"levels are of the 8-bit grid, and its weight has {settings.weight_bits} bits"
    return ""


def why_no_balance(node: ir.Node) -> str:
    """Say why a layer cannot be balanced, as a clause; an empty string where it can."""
    if rule_of(node).kind == "compute" and weight_magnitudes(node) is not None:
        return ""
    return "it has no constant weight to move difficulty to, input channel by input channel"


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    integer = attribute.type == ir.AttributeType.INT
    return attribute.as_int() if integer else attribute.as_float()


def _ints(node: ir.Node, name: str) -> list[int]:
    attribute = node.attributes.get(name)
    return list(attribute.as_ints()) if attribute is not None else []
