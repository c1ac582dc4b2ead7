"""The parts of an output: what is judged by itself, since one figure over all of it would hide the small ones.

A detector gives boxes of 0 to 640 and scores of 0 to 1 in one tensor. If all scores were lost, the tensor's SQNR would
still be above 50 dB. So parts are found,

1. from the graph: what is concatenated, along the axis on which layers answer, or behind different functions
   (`calibrant.graph.regions`); levels of a pyramid, one behind the other along positions, are one part;
2. inside these, by size: neighbouring columns of which one group is at least 16 times as large as the other (root mean
   square), and each column of it at least 4 times as large as each of the other.

Why 16: an 8-bit grid over both groups leaves the smaller one half of its 8 bits, and an SQNR over both would show
10 log10(16**2) = 24 dB, a usable figure, with nothing left of it. It is a ratio, so the unit of an output makes no
difference. The gap of 4 (a quarter of the bits) asks for two groups and no gradual fall, such as that of a spectrum.
Where a part is the direct answer of a Sigmoid, a Softmax or a Tanh, all its values have one scale by definition, and
classes that are rare in the data are no part of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import DataError, ModelError, did_you_mean
from calibrant.graph.ops import OP_RULES
from calibrant.graph.regions import Layout, Range, layout_of
from calibrant.graph.values import values_by_name

__all__ = ["Part", "find_parts", "parts_by_size", "parts_of"]

Array = npt.NDArray[Any]

#: How many times as large one group of columns is as the other, at least: half the bits of an 8-bit grid …
SIZE_RATIO = 2.0 ** (8 / 2)
#: … and each column of it as each of the other: a quarter.
SIZE_GAP = 2.0 ** (8 / 4)

#: Values that the size of a column is taken from, at least. Of 4 normal values the root mean square comes out 16 times
#: too small by chance in 3 of 100,000 columns, of 2 in 4 of 1,000.
COLUMN_VALUES = 4

#: Ranges that a name spells out.
_NAMED_RANGES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a tensor.

    Args:
        name: As people read it: `output[..., 0:4]`, or the tensor's name where the part is all of it.
        where: Ranges by axis, as slices: first entry, and the one behind the last or None for the end. An axis that is
            not named is whole.
    """

    name: str
    where: tuple[tuple[int, tuple[Range, ...]], ...] = ()

    def take(self, array: Array) -> Array:
        """Return the values of the part: a view where it is one block, else a copy.

        Raises:
            DataError: The array has too few axes.
        """
        x = np.asarray(array)
        for axis, ranges in self.where:
            if axis >= x.ndim:
                raise DataError(
                    f"Part '{self.name}' selects on axis {axis}; the array has {x.ndim} axes."
                )
            rest = (slice(None),) * axis
            blocks = [x[(*rest, slice(a, b))] for a, b in ranges]
            x = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=axis)
        return x


def find_parts(model: ir.Model, tensors: Sequence[str]) -> dict[str, tuple[Part, ...]]:
    """Return the parts of tensors as the graph shows them.

    Args:
        model: A prepared model.
        tensors: Names of its tensors.

    Returns:
        Parts by tensor. A tensor of one origin, or of unknown rank, is one part with the tensor's name.

    Raises:
        ModelError: The model has no such tensor.

    Example:
        The head of a detector, (N, 3549, 85): boxes, objectness and classes of three levels.
        `output[..., 0:4]`, `output[..., 4]`, `output[..., 5:85]`.
    """
    values = values_by_name(model.graph)
    found = {}
    for name in tensors:
        if name not in values:
            raise ModelError(
                f"The model has no tensor '{name}' whose parts could be found."
                + did_you_mean(name, values)
            )
        layout = layout_of(values[name])
        found[name] = _whole(name) if layout is None else _graph_parts(name, layout)
    return found


def parts_by_size(
    reference: Sequence[Array], name: str = "output", *, axis: int | None = None
) -> tuple[Part, ...]:
    """Return the groups of neighbouring columns that differ much in size; one part where there are none.

    Args:
        reference: The float model's values, one array for each run of the model.
        name: The tensor's name.
        axis: Axis of the columns; None takes axis 1 of arrays with more than 3 axes, else the last.
    """
    arrays = [np.asarray(x) for x in reference]
    sizes = _column_sizes(arrays, axis)
    if sizes is None:
        return _whole(name)
    rank = arrays[0].ndim
    columns = _columns_axis(rank, axis)
    bounds = [0, *_cuts(sizes), len(sizes)]
    if len(bounds) == 2:
        return _whole(name)
    return tuple(_part(name, ((columns, ((a, b),)),), rank) for a, b in itertools.pairwise(bounds))


def parts_of(model: ir.Model, name: str, reference: Sequence[Array]) -> tuple[Part, ...]:
    """Return the parts of a tensor: as the graph shows them, and by size inside these.

    Args:
        model: A prepared model.
        name: One of its tensors.
        reference: The float model's values of it, one array for each run of the model.

    Raises:
        ModelError: The model has no such tensor.
    """
    parts = find_parts(model, [name])[name]
    arrays = [np.asarray(x) for x in reference]
    layout = layout_of(values_by_name(model.graph)[name])
    if layout is None or not arrays or any(x.ndim != layout.rank for x in arrays):
        return parts_by_size(arrays, name)  # the graph does not tell, or not truly
    kinds = [r.kind for r in layout.regions]
    found: list[Part] = []
    for part, kind in zip(parts, kinds, strict=True):
        found += [part] if _has_one_scale(kind) else _split_by_size(part, name, layout, arrays)
    return tuple(found)


def _whole(name: str) -> tuple[Part, ...]:
    return (Part(name),)


def _graph_parts(name: str, layout: Layout) -> tuple[Part, ...]:
    return tuple(_part(name, r.where, layout.rank) for r in layout.regions)


def _part(name: str, where: tuple[tuple[int, tuple[Range, ...]], ...], rank: int) -> Part:
    return Part(name + _subscript(where, rank) if where else name, where)


def _subscript(where: tuple[tuple[int, tuple[Range, ...]], ...], rank: int) -> str:
    """Return ranges as one indexes in Python; an ellipsis stands for all axes in front of the last."""
    chosen = dict(where)
    last = max(chosen)
    if set(chosen) == {rank - 1}:
        axes = ["..."] * (rank > 1) + [_spelled(chosen[last])]
    else:
        axes = [_spelled(chosen[a]) if a in chosen else ":" for a in range(last + 1)]
    return f"[{', '.join(axes)}]"


def _spelled(ranges: tuple[Range, ...]) -> str:
    words = [
        str(a) if b == a + 1 else f"{a}:{'' if b is None else b}"
        for a, b in ranges[:_NAMED_RANGES]
    ]
    if len(ranges) > _NAMED_RANGES:
        words.append(f"… {len(ranges)} ranges")
    return " + ".join(words)


# ----------------------------------------------------------------------------------------------- by size


def _has_one_scale(kind: Sequence[str]) -> bool:
    """Whether the last function that values went through says what range all of them have."""
    rule = OP_RULES.get(kind[-1])
    return rule is not None and rule.output_range is not None


def _split_by_size(part: Part, name: str, layout: Layout, arrays: Sequence[Array]) -> list[Part]:
    """Split a part at the axis on which layers answer, and where the graph does not say which that is, the usual one."""
    taken = [part.take(x) for x in arrays]
    axes = [a for a, role in enumerate(layout.roles) if role == "feature" and layout.dims[a] != 1]
    for axis in axes or [_columns_axis(layout.rank, None)] if layout.rank else []:
        groups = parts_by_size(taken, name, axis=axis)
        if len(groups) > 1:
            columns = _columns(part, axis, arrays[0].shape[axis])
            return [_narrowed(part, name, axis, columns, g, layout.rank) for g in groups]
    return [part]


def _columns(part: Part, axis: int, length: int) -> list[int]:
    """Return the entries of an axis that a part takes."""
    ranges = dict(part.where).get(axis, ((0, None),))
    return [i for r in ranges for i in range(*slice(*r).indices(length))]


def _narrowed(
    part: Part, name: str, axis: int, columns: list[int], group: Part, rank: int
) -> Part:
    ((start, stop),) = dict(group.where)[axis]
    ranges: list[Range] = []
    for i in columns[start:stop]:
        if ranges and ranges[-1][1] == i:
            ranges[-1] = ranges[-1][0], i + 1
        else:
            ranges.append((i, i + 1))
    where = dict(part.where) | {axis: tuple(ranges)}
    return _part(name, tuple(sorted(where.items())), rank)


def _columns_axis(rank: int, axis: int | None) -> int:
    if axis is not None:
        return axis % rank
    return 1 if rank > 3 else rank - 1


def _column_sizes(arrays: Sequence[Array], axis: int | None) -> npt.NDArray[np.float64] | None:
    """Return the root mean square of each column (columns,), or None where columns say nothing.

    Values that are not finite are left out.
    """
    if not arrays or any(x.dtype.kind != "f" for x in arrays):
        return None
    rank = arrays[0].ndim
    if rank < 2 or any(x.ndim != rank for x in arrays):
        return None
    columns = _columns_axis(rank, axis)
    length = arrays[0].shape[columns]
    if any(x.shape[columns] != length for x in arrays):
        return None
    others = tuple(a for a in range(rank) if a != columns)
    sums, counts = np.zeros(length), np.zeros(length)
    for x in arrays:
        finite = np.isfinite(x)
        sums += np.square(np.where(finite, x, 0), dtype=np.float64).sum(axis=others)
        counts += finite.sum(axis=others)
    if length < 2 or counts.min() < COLUMN_VALUES:
        return None
    return np.asarray(np.sqrt(sums / counts))


def _cuts(sizes: npt.NDArray[np.float64]) -> list[int]:
    """Return the columns at which a new group begins, the clearest cut first and then inside the groups.

    Columns of zeros fit into any group.
    """
    cuts: list[int] = []
    stack = [(0, len(sizes))]
    while stack:
        start, stop = stack.pop()
        part = sizes[start:stop]
        if np.count_nonzero(part) < 2:
            continue
        ahead, behind = _groups(part), tuple(x[::-1] for x in _groups(part[::-1]))
        ratios = np.zeros(len(part) - 1)
        for large, little in ((ahead, behind), (behind, ahead)):
            least, most, size = large[0], little[1], large[2]
            apart = (most > 0) & np.isfinite(least) & (least >= SIZE_GAP * most)
            ratio = size / np.where(apart, little[2], 1)
            ratios = np.where(apart, np.maximum(ratios, ratio), ratios)
        best = int(np.argmax(ratios))
        if ratios[best] >= SIZE_RATIO:
            cut = start + best + 1
            cuts.append(cut)
            stack += [(start, cut), (cut, stop)]
    return sorted(cuts)


def _groups(sizes: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the least, the largest and the pooled size of the columns in front of each cut, zeros left out."""
    seen = sizes > 0
    least = np.minimum.accumulate(np.where(seen, sizes, np.inf))
    most = np.maximum.accumulate(sizes)
    unit = sizes.max()  # so that squares neither overflow nor vanish
    pooled = unit * np.sqrt(np.cumsum((sizes / unit) ** 2) / np.maximum(1, np.cumsum(seen)))
    return least[:-1], most[:-1], pooled[:-1]
