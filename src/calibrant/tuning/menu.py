"""What each layer may be, and what that costs: the space that assignments of precisions come from.

An assignment names one precision a layer, in the order of the layers. With c the costs and e the errors that layers make
alone, an assignment a has

    cost(a)  = sum over layers of c[layer, a[layer]]  +  sum over borders between integers and floats of what they cost
    error(a) ~ sum over layers of e[layer, a[layer]]  +  sum over readers of e[reader, narrow]
                                                            [energy of the error over energy of the signal]

since errors of different layers have little to do with each other, so that their energies add up. A reader is a layer in a
wider precision that reads what a kernel of 8-bit activations gives: these numbers are on the kernel's grid, whatever it does with
them. The first precisions are those of such kernels (int4 weights, int8, `ec`); `narrow` is the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Assignment", "Floats", "Menu"]

Floats = npt.NDArray[np.float64]

#: One precision a layer, in the order of the menu's layers.
Assignment = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Menu:
    """What each layer may be.

    Args:
        layers: Names, in graph order.
        precisions: Precisions that are allowed, the one of least bits first.
        cost: What a layer costs in a precision (layers, precisions), in units of the cost model; inf where it may not
            have that precision.
        ties: Decides between assignments of equal cost (layers, precisions): the smaller sum is taken.
        feeds: Pairs (feeder, reader) of layers: where the feeder is in a narrow precision, the reader reads numbers of it.
        borders: (one layer, another, cost): what it costs more where one of them is in a narrow precision and the other
            is not.
        narrow: How many precisions are narrow, the first ones: their kernels have 8-bit activations.

    Example:
        >>> menu = Menu(("a", "b"), ("int8", "int16"), np.array([[8.0, 16.0], [80.0, 160.0]]))
        >>> menu.narrowest, menu.cost_of(("int16", "int8"))
        (('int8', 'int8'), 96.0)
    """

    layers: tuple[str, ...]
    precisions: tuple[str, ...]
    cost: Floats
    ties: Floats | None = None
    feeds: tuple[tuple[int, int], ...] = ()
    borders: tuple[tuple[int, int, float], ...] = ()
    narrow: int = 1

    @property
    def narrowest(self) -> Assignment:
        """Each layer in the precision of least bits that it may have."""
        return self.named(np.isfinite(self.cost).argmax(axis=1))

    @property
    def widest(self) -> Assignment:
        """Each layer in the precision of most bits that it may have."""
        last = len(self.precisions) - 1
        return self.named(last - np.isfinite(self.cost)[:, ::-1].argmax(axis=1))

    @property
    def scale(self) -> float:
        """What all layers cost in their dearest precision; 1 where that is nothing."""
        return float(np.where(np.isfinite(self.cost), self.cost, 0).max(axis=1).sum()) or 1.0

    @property
    def weighed(self) -> Floats:
        """Costs over those of all layers in their dearest precision, with a millionth of the ties (layers, precisions)."""
        found = self.cost / self.scale
        if self.ties is not None:
            found = found + 1e-6 * self.ties / (self.ties.max(axis=1).sum() or 1.0)
        return np.asarray(found)

    def named(self, chosen: npt.ArrayLike) -> Assignment:
        """Return the assignment of these columns, one a layer."""
        return tuple(self.precisions[int(i)] for i in np.asarray(chosen))

    def columns(self, assignment: Assignment) -> npt.NDArray[np.intp]:
        """Return the column of each layer."""
        return np.array([self.precisions.index(p) for p in assignment], dtype=np.intp)

    def cost_of(self, assignment: Assignment) -> float:
        """Return what an assignment costs."""
        columns = self.columns(assignment)
        found = self.cost[np.arange(len(self.layers)), columns].sum()
        more = sum(
            c
            for a, b, c in self.borders
            if (columns[a] < self.narrow) != (columns[b] < self.narrow)
        )
        return float(found + more)

    def errors_of(self, errors: Floats, assignment: Assignment) -> Floats:
        """Return the error that each layer adds, from those it makes alone (layers, precisions)."""
        columns = self.columns(assignment)
        found = errors[np.arange(len(self.layers)), columns]
        on_a_grid = columns < self.narrow
        rows = sorted({r for f, r in self.feeds if on_a_grid[f] and not on_a_grid[r]})
        found[rows] += errors[rows, self.narrow - 1]
        return np.asarray(found)

    def raised(self, assignment: Assignment) -> dict[str, str]:
        """Return the layers that are not in the precision of least bits they may have, and what they are in."""
        pairs = zip(self.layers, assignment, self.narrowest, strict=True)
        return {layer: mine for layer, mine, least in pairs if mine != least}

    def counts(self, assignment: Assignment) -> Mapping[str, int]:
        """Return how many layers have each precision."""
        return {p: assignment.count(p) for p in self.precisions}
