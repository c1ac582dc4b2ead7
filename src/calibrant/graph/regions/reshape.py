"""Where blocks of a tensor lie after a reshape, which keeps the order of the values.

Axes before and after are matched in groups of equal size, from both ends:

    (N, 85, 52, 52) -> (N, 85, 2704)        N | 85 | 52, 52      N | 85 | 2704
    (N, 255, 13, 13) -> (N, 3, 85, 13, 13)  N | 255 | 13 | 13    N | 3, 85 | 13 | 13

In a group of several axes a range is followed through the positions of its values in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from calibrant.graph.regions.layout import Dim, Layout, Range, Region, Role

__all__ = ["reshaped"]

_Group = tuple[list[int], list[int]]


def reshaped(layout: Layout, dims: Sequence[Dim]) -> Layout:
    """Return the layout of a tensor in another shape; its blocks are one where they have no shape there."""
    groups = _groups(layout.dims, dims)
    roles: list[Role] = ["new"] * len(dims)
    for before, after in groups:
        found = [layout.roles[a] for a in before if layout.dims[a] != 1]
        found = found or [layout.roles[a] for a in before]
        for b in after:
            if dims[b] != 1 or len(after) == 1:
                roles[b] = "position" if "position" in found else found[0] if found else "new"
    regions = []
    for region in layout.regions:
        moved = _moved(region, layout.dims, dims, groups)
        if moved is None:
            return replace(layout, dims=tuple(dims), roles=tuple(roles)).mixed()
        regions.append(moved)
    return Layout(tuple(dims), tuple(roles), tuple(regions))


def _groups(before: Sequence[Dim], after: Sequence[Dim]) -> list[_Group]:
    """Match axes from the left, the rest from the right, and the middle by lengths that stand out."""
    left, i, j = _matched(before, after)
    right, k, m = _matched(before[i:][::-1], after[j:][::-1])
    right = [
        ([len(before) - 1 - a for a in x][::-1], [len(after) - 1 - b for b in y][::-1])
        for x, y in reversed(right)
    ]
    middle = (
        list(range(i, len(before) - k)),
        list(range(j, len(after) - m)),
    )
    return [*left, *_by_length(middle, before, after), *right]


def _matched(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[list[_Group], int, int]:
    """Match axes in order while their lengths are known; answer how many of either are used."""
    groups: list[_Group] = []
    i = j = 0
    while i < len(before) and j < len(after):
        if before[i] is not None and before[i] == after[j]:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        a, b, x, y = before[i], after[j], i + 1, j + 1
        while isinstance(a, int) and isinstance(b, int) and a != b:
            if a < b:
                if x == len(before):
                    return groups, i, j
                a, x = _times(a, before[x]), x + 1
            else:
                if y == len(after):
                    return groups, i, j
                b, y = _times(b, after[y]), y + 1
        if not isinstance(a, int) or a != b:
            return groups, i, j
        groups.append((list(range(i, x)), list(range(j, y))))
        i, j = x, y
    return groups, i, j


def _times(a: int, b: Dim) -> Dim:
    return a * b if isinstance(b, int) else None


def _by_length(group: _Group, before: Sequence[Dim], after: Sequence[Dim]) -> list[_Group]:
    """Split a group with unknown lengths at a known one that either side has once."""
    x, y = group
    for a in x:
        twins = [b for b in y if after[b] == before[a]]
        once = sum(before[c] == before[a] for c in x) == 1
        if before[a] not in (None, 1) and once and len(twins) == 1:
            b = twins[0]
            first = ([c for c in x if c < a], [c for c in y if c < b])
            rest = ([c for c in x if c > a], [c for c in y if c > b])
            return [first, ([a], [b]), *_by_length(rest, before, after)]
    return [group] if x or y else []


def _moved(
    region: Region, before: Sequence[Dim], after: Sequence[Dim], groups: Sequence[_Group]
) -> Region | None:
    where: dict[int, tuple[Range, ...]] = {}
    old = dict(region.where)
    for x, y in groups:
        cut = [a for a in x if a in old]
        if not cut:
            continue
        if len(x) == len(y) == 1:
            where[y[0]] = old[cut[0]]
            continue
        if len(cut) > 1:
            return None
        flat = _flat(old[cut[0]], [before[a] for a in x], x.index(cut[0]))
        found = None if flat is None else _folded(flat, [after[b] for b in y])
        if found is None:
            return None
        where[y[found[0]]] = found[1]
    return region.moved(where)


def _flat(ranges: Sequence[Range], dims: Sequence[Dim], axis: int) -> tuple[Range, ...] | None:
    """Return ranges on one of several axes as ranges on all of them in one."""
    outer, inner = _product(dims[:axis]), _product(dims[axis + 1 :])
    if outer is None or inner is None:
        return None
    flat = [(a * inner, None if b is None else b * inner) for a, b in ranges]
    n = dims[axis]
    if outer == 1:
        return tuple(flat)
    if not isinstance(n, int):
        return None
    step = n * inner
    bounds = [slice(a, b).indices(step)[:2] for a, b in flat]
    return tuple((o * step + a, o * step + b) for o in range(outer) for a, b in bounds)


def _folded(
    ranges: tuple[Range, ...], dims: Sequence[Dim]
) -> tuple[int, tuple[Range, ...]] | None:
    """Return ranges on several axes in one as ranges on one of them, the first that serves."""
    for axis in range(len(dims)):
        outer, inner = _product(dims[:axis]), _product(dims[axis + 1 :])
        if outer is None or inner is None or dims[axis] == 1:
            continue
        if any(a % inner or (b is not None and b % inner) for a, b in ranges):
            continue
        steps = tuple((a // inner, None if b is None else b // inner) for a, b in ranges)
        if outer == 1:
            return axis, steps
        n = dims[axis]
        if not isinstance(n, int):
            continue
        bounds = [slice(a, b).indices(n * outer)[:2] for a, b in steps]
        once = [(a, b) for a, b in bounds if b <= n]
        if bounds == [(o * n + a, o * n + b) for o in range(outer) for a, b in once]:
            return axis, tuple(once)
    return None


def _product(dims: Sequence[Dim]) -> int | None:
    known = [d for d in dims if isinstance(d, int)]
    return math.prod(known) if len(known) == len(dims) else None
