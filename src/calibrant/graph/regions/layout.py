"""The layout of a tensor: which blocks of it have one origin, and what its axes run over.

A block is cut out by ranges on some axes, as slices are written: (0, 4) are the first four entries, (-80, None) the
last eighty, where the length in front of them is not known before the model runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Dim", "Layout", "Range", "Region", "Role", "Where", "concatenated", "sliced"]

#: Length of an axis: a number, the name of an unknown number, or nothing known.
Dim = int | str | None

#: First entry and the one behind the last, as in a slice.
Range = tuple[int, int | None]

#: Ranges by axis, in order of the axes; an axis that is not named is whole.
Where = tuple[tuple[int, tuple[Range, ...]], ...]

#: What an axis runs over: what one layer answers at each position (`feature`), positions and samples (`position`), or
#: nothing yet (`new`: an axis of length 1 that a reshape put in).
Role = Literal["feature", "position", "new"]


@dataclass(frozen=True, slots=True)
class Region:
    """A block of a tensor with one origin.

    Args:
        kind: Operators that made its values, from the layer on; those that only move values are left out.
        sources: Names of the tensors that the layers give.
        where: What it takes of the tensor.
    """

    kind: tuple[str, ...]
    sources: frozenset[str]
    where: Where = ()

    def moved(self, where: Mapping[int, tuple[Range, ...]]) -> Region:
        """Return the same block at another place."""
        return replace(self, where=tuple(sorted(where.items())))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is put together.

    Args:
        dims: Length of each axis.
        roles: What each axis runs over.
        regions: Blocks that fill the tensor and do not overlap.
    """

    dims: tuple[Dim, ...]
    roles: tuple[Role, ...]
    regions: tuple[Region, ...]

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.dims)

    def splits(self, axis: int) -> bool:
        """Whether blocks take a part of this axis."""
        return any(axis in dict(r.where) for r in self.regions)

    def behind(self, op_type: str) -> Layout:
        """Return the layout behind an operator that maps each value by itself."""
        regions = tuple(replace(r, kind=(*r.kind, op_type)) for r in self.regions)
        return replace(self, regions=regions)

    def mixed(self) -> Layout:
        """Return the layout with all blocks in one, where they cannot be told apart any more."""
        if len(self.regions) == 1:
            return replace(self, regions=(replace(self.regions[0], where=()),))
        kind = tuple(sorted({op for r in self.regions for op in r.kind}))
        sources = frozenset[str]().union(*(r.sources for r in self.regions))
        return replace(self, regions=(Region(kind, sources),))


def sliced(layout: Layout, axis: int, start: int, stop: int | None) -> Layout:
    """Return the layout of `tensor[start:stop]` on one axis."""
    n = layout.dims[axis]
    if not isinstance(n, int):
        return _sliced_unknown(layout, axis, start, stop)
    start, end, _ = slice(start, stop).indices(n)
    length = max(0, end - start)
    layout = _with_length(layout, axis, length)
    if not layout.splits(axis):
        return layout
    kept = []
    for region in layout.regions:
        where = dict(region.where)
        if axis in where:
            bounds = (slice(*r).indices(n)[:2] for r in where.pop(axis))
            cut = [(max(a, start) - start, min(b, end) - start) for a, b in bounds]
            ranges = tuple((a, b) for a, b in cut if a < b)
            if not ranges:
                continue
            if ranges != ((0, length),):
                where[axis] = ranges
        kept.append(region.moved(where))
    return replace(layout, regions=tuple(kept)) if kept else layout.mixed()


def _sliced_unknown(layout: Layout, axis: int, start: int, stop: int | None) -> Layout:
    """Slice an axis of unknown length, which is taken to be long enough; blocks on it cannot be told apart then."""
    if (start, stop) == (0, None):
        return layout
    known = start >= 0 and stop is not None and stop >= 0
    length = max(0, stop - start) if known and stop is not None else None
    return _with_length(layout.mixed() if layout.splits(axis) else layout, axis, length)


def _with_length(layout: Layout, axis: int, length: Dim) -> Layout:
    return replace(layout, dims=(*layout.dims[:axis], length, *layout.dims[axis + 1 :]))


# ------------------------------------------------------------------------------------------ concatenation

#: A place on the joined axis: number of the input, and how far into it.
_Place = tuple[int, int]


def concatenated(layouts: Sequence[Layout], axis: int) -> Layout | None:
    """Return the layout of tensors put together on one axis; None where they have different ranks.

    What a layer answers at a position stays apart from what another layer answers there: boxes and scores are two
    things, also where both are plain convolutions. Along positions, blocks of one kind are joined: the levels of a
    pyramid answer the same question at other places.
    """
    first = layouts[0]
    if any(x.rank != first.rank for x in layouts):
        return None
    lengths = [x.dims[axis] for x in layouts]
    role = _joined_role([x.roles[axis] for x in layouts])
    groups: dict[object, list[tuple[Region, list[tuple[_Place, _Place]]]]] = {}
    for i, layout in enumerate(layouts):
        for region in layout.regions:
            where = dict(region.where)
            ranges = where.pop(axis, ((0, None),))
            rest = tuple(sorted(where.items()))
            key = (region.kind, rest, region.sources if role == "feature" else None)
            places = [
                (_place(i, a, lengths[i]), _place(i, b, lengths[i], end=True)) for a, b in ranges
            ]
            groups.setdefault(key, []).append((region, places))
    regions: list[Region] = []
    failed = False
    for members in groups.values():
        runs = _runs(p for _, places in members for p in places)
        sources = frozenset[str]().union(*(r.sources for r, _ in members))
        where = {a: r for a, r in members[0][0].where if a != axis}
        if runs != [((0, 0), (len(layouts), 0))]:
            found = _ranges(runs, lengths)
            failed |= found is None
            where[axis] = found or ()
        regions.append(Region(members[0][0].kind, sources).moved(where))
    known = [n for n in lengths if isinstance(n, int)]
    dims = [_common_dim([x.dims[a] for x in layouts]) for a in range(first.rank)]
    dims[axis] = sum(known) if len(known) == len(lengths) else None
    roles: list[Role] = [_joined_role([x.roles[a] for x in layouts]) for a in range(first.rank)]
    regions.sort(key=lambda r: [(a, [_order(x) for x in ranges]) for a, ranges in r.where])
    layout = Layout(tuple(dims), tuple(roles), tuple(regions))
    return layout.mixed() if failed else layout


def _joined_role(roles: Sequence[Role]) -> Role:
    for role in ("position", "feature"):
        if role in roles:
            return role
    return "new"


def _common_dim(dims: Sequence[Dim]) -> Dim:
    return next((d for d in dims if isinstance(d, int)), dims[0])


def _place(i: int, bound: int | None, length: Dim, *, end: bool = False) -> _Place:
    """Return a place in input i; its end is the beginning of the next one."""
    if bound is None or (end and bound == length):
        return i + 1, 0
    if bound < 0 and isinstance(length, int):
        bound += length
    return i, bound


def _runs(places: Iterable[tuple[_Place, _Place]]) -> list[tuple[_Place, _Place]]:
    """Sort ranges and join those that touch."""
    found: list[tuple[_Place, _Place]] = []
    for start, stop in sorted(places, key=lambda p: (p[0][0], p[0][1] < 0, p[0][1])):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found


def _ranges(
    runs: Sequence[tuple[_Place, _Place]], lengths: Sequence[Dim]
) -> tuple[Range, ...] | None:
    """Return places as bounds of slices, or None where unknown lengths lie on either side."""
    found: list[Range] = []
    for start, stop in runs:
        a = _bound(start, lengths)
        b = None if stop == (len(lengths), 0) else _bound(stop, lengths)
        if a is None or (b is None and stop != (len(lengths), 0)):
            return None
        found.append((a, b))
    total = [n for n in lengths if isinstance(n, int)]
    if len(total) == len(lengths):
        return tuple((a, sum(total) if b is None else b) for a, b in found)
    return tuple(found)


def _bound(place: _Place, lengths: Sequence[Dim]) -> int | None:
    i, offset = place
    front = [n for n in lengths[:i] if isinstance(n, int)]
    if len(front) == i and offset >= 0:
        return sum(front) + offset
    behind = lengths[i + 1 :] if offset < 0 else lengths[i:]
    back = [n for n in behind if isinstance(n, int)]
    if len(back) == len(behind) and offset <= 0 and (offset < 0 or back):
        return offset - sum(back)
    return None


def _order(r: Range) -> tuple[bool, int]:
    return r[0] < 0, r[0]
