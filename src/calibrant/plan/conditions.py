"""Which nodes a limit of a device is for, beyond their type.

The conditions are those of the layers that docs/reference/ascend-configurations.md lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from calibrant.graph.ops import bias_of, is_constant, matches_type, weight_index
from calibrant.recipe import AllNodes, Condition, InputOf, Limit, OpType

__all__ = ["applies"]


def applies(limit: Limit, node: ir.Node, index: int | None = None) -> bool:
    """Say whether a limit is for a node, or for one of its inputs."""
    where = limit.where
    if isinstance(where, InputOf):
        if index != where.index:
            return False
        where = where.nodes if isinstance(where.nodes, OpType) else AllNodes()
    if isinstance(where, OpType) and not matches_type(node, where.name):
        return False
    return _CONDITIONS[limit.condition](node)


def _grouped_or_odd(node: ir.Node) -> bool:
    """Whether the weight has groups or an odd number of input channels."""
    weight = _weight(node)
    if weight is None or weight.shape is None:
        return False
    channels = weight.shape[0 if node.op_type in ("ConvTranspose", "MatMul") else 1]
    odd = isinstance(channels, int) and channels % 2 == 1
    return odd or _int(node, "group", 1) > 1


def _dilated_in_depth(node: ir.Node) -> bool:
    """Whether the first of three dilations is not 1."""
    dilations = node.attributes.get("dilations")
    return dilations is not None and next(iter(dilations.as_ints())) != 1


def _transposed_input(node: ir.Node) -> bool:
    return _int(node, "transA", 0) != 0


def _no_constant_weight(node: ir.Node) -> bool:
    """Whether the second input is not constant, or of a product no matrix."""
    if weight_index(node) != 1:
        return True
    weight = _weight(node)
    rank = None if weight is None or weight.shape is None else len(weight.shape)
    return node.op_type in ("Gemm", "MatMul") and rank not in (None, 2)


def _shared_weight(node: ir.Node) -> bool:
    weight = _weight(node)
    return weight is not None and len(weight.uses()) > 1


def _no_plain_recurrence(node: ir.Node) -> bool:
    """Whether a recurrent layer runs other than forward, from no given state, or resets before its product."""
    direction = node.attributes.get("direction")
    states = (5, 6) if node.op_type == "LSTM" else (5,)
    given = all(len(node.inputs) > i and node.inputs[i] is not None for i in states)
    resets = node.op_type == "GRU" and _int(node, "linear_before_reset", 0) != 1
    return (direction is not None and direction.as_string() != "forward") or not given or resets


_CONDITIONS: Mapping[Condition, Callable[[ir.Node], bool]] = {
    "always": lambda node: True,
    "no bias": lambda node: bias_of(node) is None,
    "grouped or odd inputs": _grouped_or_odd,
    "dilated in depth": _dilated_in_depth,
    "transposed input": _transposed_input,
    "no constant weight": _no_constant_weight,
    "shared weight": _shared_weight,
    "no plain recurrence": _no_plain_recurrence,
}


def _weight(node: ir.Node) -> ir.Value | None:
    index = weight_index(node)
    weight = node.inputs[index] if index is not None else None
    return weight if is_constant(weight) else None


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
