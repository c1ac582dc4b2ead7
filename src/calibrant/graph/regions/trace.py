"""Follow a tensor back through operators that move or map values, to the layers whose answers it holds.

Followed are views (Reshape, Transpose, Slice, …), functions of each value, elementwise arithmetic with constants or
with what shapes alone say, and Concat. Everything else is a layer: its output is one block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.regions.layout import Dim, Layout, Region, Role
from calibrant.graph.regions.operators import CARRIED, ELEMENTWISE, carried, dims_of

__all__ = ["layout_of"]

#: Layers and operators whose channels lie on axis 1, whatever the rank.
_CHANNELS_FIRST = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GridSample",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "MaxPool",
        "Resize",
        "RoiAlign",
        "SpaceToDepth",
        "Upsample",
    }
)


def layout_of(value: ir.Value) -> Layout | None:
    """Return how a tensor is put together, or None where not even its rank is known."""
    given: dict[ir.Value, bool] = {}
    found: dict[ir.Value, Layout | None] = {}
    stack = [value]
    while stack:
        v = stack[-1]
        if v in found:
            stack.pop()
            continue
        missing = [i for i in _followed(v, given) if i not in found]
        if missing:
            stack += missing
            continue
        stack.pop()
        found[v] = _layout(v, found, given)
    return found[value]


def _followed(value: ir.Value, given: dict[ir.Value, bool]) -> list[ir.Value]:
    """Return the inputs of a tensor's node that say how it is put together."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return []
    if node.op_type == "Concat":
        return [v for v in node.inputs if v is not None]
    if node.op_type in ELEMENTWISE:
        return [v for v in node.inputs if v is not None and not _is_given(v, given)]
    if node.op_type in CARRIED and node.inputs and node.inputs[0] is not None:
        return [node.inputs[0]]
    return []


def _layout(
    value: ir.Value, found: Mapping[ir.Value, Layout | None], given: dict[ir.Value, bool]
) -> Layout | None:
    node = value.producer()
    sources = _followed(value, given)
    layouts = [found[v] for v in sources]
    if node is not None and layouts:
        known = [x for x in layouts if x is not None]
        if len(known) == len(layouts):
            layout = carried(node, value, known)
            if layout is not None:
                return layout
    return _leaf(value, layouts)


def _leaf(value: ir.Value, inputs: Sequence[Layout | None]) -> Layout | None:
    """Return the layout of what a layer gives: one block."""
    node = value.producer()
    dims = dims_of(value)
    if dims is None:
        dims = _dims_of_layer(node)
    if dims is None:
        return None
    roles: tuple[Role, ...] | None = None
    if node is not None and node.op_type in ELEMENTWISE:  # of several tensors: none of them alone
        roles = next((x.roles for x in inputs if x is not None and x.rank == len(dims)), None)
    kind = node.op_type if node is not None else "constant" if is_constant(value) else "input"
    region = Region((kind,), frozenset({value.name or ""}))
    return Layout(dims, roles or _roles(node, len(dims)), (region,))


def _dims_of_layer(node: ir.Node | None) -> tuple[Dim, ...] | None:
    """Return what the weight of a layer says of its output, where shape inference said nothing."""
    if node is None or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    shape = node.inputs[1].shape
    weight = [d for d in shape or () if isinstance(d, int)]
    if shape is None or len(weight) != len(shape) or len(weight) < 2:
        return None
    if node.op_type == "Conv":
        return None, weight[0], *[None] * (len(weight) - 2)
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return None, weight[0 if transposed is not None and transposed.as_int() else 1]
    return None


def _roles(node: ir.Node | None, rank: int) -> tuple[Role, ...]:
    """Say on which axis a layer answers: axis 1 of a map, else the last one."""
    op_type = node.op_type if node is not None else ""
    feature = rank - 1
    if rank > 3 or (op_type in _CHANNELS_FIRST and rank > 1):
        feature = 1
    if op_type == "MatMul":
        left = node is not None and is_constant(node.inputs[0]) and rank > 1
        feature = rank - 2 if left else rank - 1
    elif op_type in ("LayerNormalization", "LSTM", "GRU", "RNN", "Gather"):
        feature = rank - 1
    return tuple("feature" if a == feature else "position" for a in range(rank))


def _is_given(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    """Whether a tensor is the same for all data of one shape: made of constants and shapes alone."""
    if value in known:
        return known[value]
    answer = True
    stack, seen = [value], set[ir.Value]()
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        if v in known:
            if known[v]:
                continue
            answer = False
            break
        node = v.producer()
        if node is None:
            if not is_constant(v):
                answer = False
                break
            continue
        if node.op_type in ("Shape", "Size"):
            continue
        if node.op_type.startswith("Random") or any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        ):
            answer = False
            break
        stack += [i for i in node.inputs if i is not None]
    known[value] = answer
    return answer
