"""What each operator does to the layout of a tensor: one function a kind of operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import ACTIVATION_FUNCTIONS
from calibrant.graph.regions.layout import Dim, Layout, Role, concatenated, sliced
from calibrant.graph.regions.reshape import reshaped

__all__ = ["CARRIED", "ELEMENTWISE", "carried", "dims_of"]

#: Operators of several tensors, value by value.
ELEMENTWISE = frozenset({"Add", "Div", "Max", "Min", "Mod", "Mul", "Pow", "Sub", "Sum", "Where"})

#: Operators that hand values on, or change some places of a tensor and hand on the others.
_SAME = frozenset(
    {
        "Cast",
        "DequantizeLinear",
        "Dropout",
        "Identity",
        "QuantizeLinear",
        "ScatterElements",
        "ScatterND",
    }
)

#: Functions of each value beside those that networks call activation functions.
_MAPS = ACTIVATION_FUNCTIONS | frozenset(
    {
        "Abs", "Atan", "BatchNormalization", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal",
        "Round", "Sign", "Sin", "Sqrt", "Tan",
    }
)  # fmt: skip

#: Functions of the values on one axis together.
_NORMALIZED = frozenset({"Hardmax", "LogSoftmax", "Softmax"})

_Rule = Callable[[ir.Node, ir.Value, Layout], Layout | None]


def carried(node: ir.Node, value: ir.Value, inputs: Sequence[Layout]) -> Layout | None:
    """Return the layout of a node's output, from those of the inputs that are followed.

    None where the operator makes one block of what it reads, or where its attributes are not known before it runs.
    """
    if node.op_type == "Concat":
        axis = _axis(_integer(node, "axis", 0), inputs[0].rank)
        layout = None if axis is None else concatenated(inputs, axis)
    elif node.op_type in ELEMENTWISE:
        layout = _elementwise(node, value, inputs)
    else:
        layout = CARRIED[node.op_type](node, value, inputs[0])
    dims = dims_of(value)
    if layout is None or dims is None:
        return layout
    if len(dims) != layout.rank:
        return None
    pairs = zip(dims, layout.dims, strict=True)
    return replace(layout, dims=tuple(a if isinstance(a, int) else b for a, b in pairs))


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """Return the lengths that a value is declared with; a negative one says nothing."""
    if value.shape is None:
        return None
    return tuple((d if d >= 0 else None) if isinstance(d, int) else d.value for d in value.shape)


# ----------------------------------------------------------------------------------------- value by value


def _elementwise(node: ir.Node, value: ir.Value, inputs: Sequence[Layout]) -> Layout | None:
    """Carry one tensor through arithmetic with constants, or with tensors that do not tell its blocks apart."""
    if not inputs:
        return None
    ranks = [len(s) for v in node.inputs if v is not None and (s := v.shape) is not None]
    rank = max([x.rank for x in inputs] + ranks)
    split = [x for x in inputs if len(x.regions) > 1]
    if len(inputs) > 1 and len(split) != 1:
        return None
    main = split[0] if split else inputs[0]
    layout = _with_axes(main, tuple(range(rank - main.rank)))
    for other in inputs:
        padded = (1,) * (rank - other.rank) + other.dims
        if other is not main and any(d != 1 and layout.splits(a) for a, d in enumerate(padded)):
            return None
    constant = [v.shape for v in node.inputs if v is not None and v.const_value is not None]
    for shape in constant:
        assert shape is not None
        padded = (1,) * (rank - len(shape)) + tuple(
            d if isinstance(d, int) else None for d in shape
        )
        wide = [b if a == 1 else a for a, b in zip(layout.dims, padded, strict=True)]
        layout = replace(layout, dims=tuple(wide))
    return layout.behind(node.op_type)


def _same(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    return x


def _mapped(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    return x.behind(node.op_type)


def _normalized(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    axis = _axis(_integer(node, "axis", -1), x.rank)
    if axis is None or x.splits(axis):
        return None
    return x.behind(node.op_type)


# ----------------------------------------------------------------------------------------- views


def _reshape(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    dims = dims_of(value)
    shape = _constant(node, 1)
    if dims is None and shape is None:
        return None
    if shape is not None and not _integer(node, "allowzero", 0):
        asked = [int(d) for d in shape]
        copied = [x.dims[i] if d == 0 and i < x.rank else d for i, d in enumerate(asked)]
        said = [None if d == -1 else d for d in copied]
        if dims is None or len(dims) != len(said):
            dims = tuple(said)
        pairs = zip(dims, said, strict=True)
        dims = tuple(d if isinstance(d, int) or s is None else s for d, s in pairs)
    assert dims is not None
    return reshaped(x, dims)


def _flatten(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    axis = _integer(node, "axis", 1)
    axis += x.rank if axis < 0 else 0
    dims = []
    for part in (x.dims[:axis], x.dims[axis:]):
        known = [d for d in part if isinstance(d, int)]
        single = part[0] if len(part) == 1 else None
        dims.append(int(np.prod(known)) if len(known) == len(part) else single)
    return reshaped(x, dims)


def _transpose(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    attribute = node.attributes.get("perm")
    perm = list(attribute.as_ints()) if attribute is not None else list(range(x.rank))[::-1]
    if len(perm) != x.rank:
        return None
    regions = tuple(r.moved({perm.index(a): ranges for a, ranges in r.where}) for r in x.regions)
    return Layout(tuple(x.dims[p] for p in perm), tuple(x.roles[p] for p in perm), regions)


def _squeeze(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    axes = _axes(node, x.rank)
    if axes is None:
        if len(node.inputs) > 1 or not all(isinstance(d, int) for d in x.dims):
            return None
        axes = tuple(a for a, d in enumerate(x.dims) if d == 1)
    return _without_axes(x, axes)


def _unsqueeze(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    given = _constant(node, 1) if len(node.inputs) > 1 else _attribute_ints(node, "axes")
    if given is None:
        return None
    rank = x.rank + len(given)
    return _with_axes(x, tuple(sorted(int(a) % rank for a in given)))


def _slice(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    starts, ends = _constant(node, 1), _constant(node, 2)
    axes, steps = _constant(node, 3), _constant(node, 4)
    if starts is None or ends is None:
        return None
    if (axes is None and _has(node, 3)) or (steps is None and _has(node, 4)):
        return None
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps if steps is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        a = int(axis) % x.rank
        if step != 1:
            x = x.mixed() if x.splits(a) else x
            x = replace(x, dims=(*x.dims[:a], None, *x.dims[a + 1 :]))
            continue
        x = sliced(x, a, int(start), None if end >= 2**31 - 1 else int(end))
    return x


def _split(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    axis = _axis(_integer(node, "axis", 0), x.rank)
    if axis is None:
        return None
    index, count = value.index() or 0, len(node.outputs)
    sizes = _constant(node, 1) if len(node.inputs) > 1 else _attribute_ints(node, "split")
    n = x.dims[axis]
    if sizes is None:
        if not isinstance(n, int) or _has(node, 1):
            return None
        each = -(-n // count)
        sizes = [min(each, n - i * each) for i in range(count)]
    start = int(sum(sizes[:index]))
    return sliced(x, axis, start, start + int(sizes[index]))


def _gather(node: ir.Node, value: ir.Value, x: Layout) -> Layout | None:
    """Carry an index, or a run of indices; what is picked in another order is one block."""
    axis, indices = _axis(_integer(node, "axis", 0), x.rank), _constant_array(node, 1)
    if axis is None or indices is None or indices.ndim > 1 or not indices.size:
        return None
    first, count = int(indices.flat[0]), indices.size
    is_run = np.array_equal(indices.reshape(-1), np.arange(first, first + count))
    if is_run and (first >= 0 or first + count < 0):
        x = sliced(x, axis, first, first + count)
    elif is_run:
        x = sliced(x, axis, first, None)
    elif x.splits(axis):
        x = x.mixed()
    x = replace(x, dims=(*x.dims[:axis], count, *x.dims[axis + 1 :]))
    return _without_axes(x, (axis,)) if indices.ndim == 0 else x


#: Operators that one tensor is carried through.
CARRIED: dict[str, _Rule] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_MAPS, _mapped),
    **dict.fromkeys(_NORMALIZED, _normalized),
    "Flatten": _flatten,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _with_axes(x: Layout, axes: Sequence[int]) -> Layout:
    """Put axes of length 1 in, named by where they are in the result."""
    old = [a for a in range(x.rank + len(axes)) if a not in axes]
    dims: list[Dim] = [1] * (x.rank + len(axes))
    roles: list[Role] = ["new"] * (x.rank + len(axes))
    for i, a in enumerate(old):
        dims[a], roles[a] = x.dims[i], x.roles[i]
    regions = tuple(r.moved({old[a]: ranges for a, ranges in r.where}) for r in x.regions)
    return Layout(tuple(dims), tuple(roles), regions)


def _without_axes(x: Layout, axes: Sequence[int]) -> Layout | None:
    """Take axes of length 1 out."""
    if any(x.splits(a) for a in axes):
        x = x.mixed()
    kept = [a for a in range(x.rank) if a not in axes]
    regions = tuple(r.moved({kept.index(a): ranges for a, ranges in r.where}) for r in x.regions)
    return Layout(tuple(x.dims[a] for a in kept), tuple(x.roles[a] for a in kept), regions)


# ----------------------------------------------------------------------------------------- attributes


def _has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _constant_array(node: ir.Node, index: int) -> npt.NDArray[np.generic] | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _constant(node: ir.Node, index: int) -> list[int] | None:
    array = _constant_array(node, index)
    return None if array is None else [int(v) for v in array.reshape(-1)]


def _attribute_ints(node: ir.Node, name: str) -> list[int] | None:
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(v) for v in attribute.as_ints()]


def _axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    given = _constant(node, 1) if len(node.inputs) > 1 else _attribute_ints(node, "axes")
    return None if given is None else tuple(a % rank for a in given)


def _axis(axis: int, rank: int) -> int | None:
    return axis % rank if rank and -rank <= axis < rank else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default
