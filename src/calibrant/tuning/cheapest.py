"""The cheapest assignment of precisions within a budget of error, and the one of least error within a budget of cost.

With x[l, p] = 1 where layer l has precision p:

    minimize    sum c[l, p] x[l, p] + sum over borders of c[b] y[b]
    subject to  sum over p of x[l, p] = 1 for each l,    sum e[l, p] x[l, p] + sum over readers of e[r, n] z[r] <= budget
                y[b] >= |x[l, N] - x[m, N]| for the two layers of a border
                z[r] >= x[l, N] for each layer l that feeds r, and for r itself (of whose narrow e[r, p] that part is left out)

where x[l, N] is the sum over the narrow precisions p of x[l, p], and n the last of them (`tuning.menu`):

a multiple-choice knapsack, solved exactly as a mixed-integer program (HiGHS, by `scipy.optimize.milp`). The other
question has c and e exchanged.

Source: Sinha, Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27 (3), 1979. Precisions chosen so:
Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.runtime.stdout import nothing_on_stdout
from calibrant.tuning.menu import Assignment, Floats, Menu

__all__ = ["cheapest", "least_cost", "most_precise", "nearest_below"]

#: Part of the cost that decides between assignments which are equal in it: the less error, the better.
_TIE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class _More:
    """A variable that is as large as sums of others ask for: costs and errors that two layers have together.

    Args:
        cost: What it costs where it is 1.
        error: The error where it is 1.
        least: Lower bounds, each a sum of (layer, sign) over x[layer, N].
    """

    cost: float
    error: float
    least: tuple[tuple[tuple[int, int], ...], ...]


def least_cost(menu: Menu) -> Assignment:
    """Return the cheapest assignment of all; of equal precisions those of least bits."""
    if not menu.borders:
        return menu.named(np.argmin(menu.weighed, axis=1))
    bits = np.arange(len(menu.precisions), dtype=float) + np.zeros_like(menu.cost)
    found = cheapest(menu, bits, math.inf)
    assert found is not None
    return found


def cheapest(menu: Menu, error: Floats, budget: float) -> Assignment | None:
    """Return the cheapest assignment whose errors add up to no more than a budget; None where there is none.

    Args:
        menu: What layers may be.
        error: What each layer loses in each precision (layers, precisions).
        budget: For the sum over layers.

    Example:
        >>> menu = Menu(("a", "b"), ("int8", "int16"), np.array([[8.0, 16.0], [80.0, 160.0]]))
        >>> cheapest(menu, np.array([[0.5, 0.0], [0.1, 0.0]]), 0.2)
        ('int16', 'int8')
    """
    cost, error, more = _terms(menu, menu.weighed, error, 1 / menu.scale)
    found = _least(cost, error, budget, [(m.cost, m.error, m.least) for m in more], menu.narrow)
    return menu.named(found) if found is not None else None


def nearest_below(menu: Menu, error: Floats, cost: float) -> Assignment | None:
    """Return the assignment of least error that costs less than a limit; None where there is none.

    Args:
        menu: What layers may be.
        error: What each layer loses in each precision (layers, precisions).
        cost: What all layers together have to stay below.
    """
    below = cost - 1e-5 * abs(cost)  # the solver's own tolerance is a tenth of this
    costs, error, more = _terms(menu, menu.cost, error, 1.0)
    error = np.where(np.isfinite(menu.cost), error, np.inf)
    found = _least(error, costs, below, [(m.error, m.cost, m.least) for m in more], menu.narrow)
    if found is None or menu.cost_of(menu.named(found)) >= cost:
        return None
    return menu.named(found)


def most_precise(menu: Menu, error: Floats) -> Assignment:
    """Return the assignment of least error, of equal ones the cheapest."""
    allowed = np.where(np.isfinite(menu.cost), error, np.inf)
    least = allowed.min(axis=1, keepdims=True)
    columns = np.where(allowed <= least, menu.weighed, np.inf).argmin(axis=1)
    return menu.named(columns)


def _terms(
    menu: Menu, cost: Floats, error: Floats, unit: float
) -> tuple[Floats, Floats, list[_More]]:
    """Return costs and errors of layers alone, and those that they have together."""
    more = [
        _More(c * unit, 0.0, (((a, 1), (b, -1)), ((b, 1), (a, -1)))) for a, b, c in menu.borders
    ]
    readers: dict[int, list[int]] = {}
    for feeder, reader in menu.feeds:
        readers.setdefault(reader, [reader]).append(feeder)
    error = error.copy()
    for reader, sources in readers.items():
        grid = float(error[reader, menu.narrow - 1])
        more.append(_More(0.0, grid, tuple(((s, 1),) for s in sources)))
        error[reader, : menu.narrow] = np.maximum(error[reader, : menu.narrow] - grid, 0.0)
    return cost, error, more


def _least(
    value: Floats,
    weight: Floats,
    budget: float,
    more: Sequence[tuple[float, float, tuple[tuple[tuple[int, int], ...], ...]]],
    narrow: int,
) -> npt.NDArray[np.intp] | None:
    """Return the columns of least value, one a row, whose weights add up to no more than a budget.

    Args:
        value: (rows, columns).
        weight: The same.
        budget: Of the weights; may be inf.
        more: (value, weight, lower bounds) of further variables.
        narrow: Columns, from the first, over which a layer's term in a bound is the sum.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    rows, columns = value.shape
    usable = np.isfinite(value) & np.isfinite(weight)
    if not more:
        usable &= ~_dominated(value, weight)
    if budget < 0 or not usable.any(axis=1).all():
        return None
    lightest = np.where(usable, weight, np.inf).min(axis=1)
    if lightest.sum() > budget:
        return None
    if not more:
        free = np.where(usable, value, np.inf).argmin(axis=1)
        if weight[np.arange(rows), free].sum() <= budget:
            return np.asarray(free)
    slack = budget - (lightest.sum() - lightest)
    usable &= weight <= slack[:, np.newaxis]
    scale = budget if 0 < budget < math.inf else 1.0
    v, w = np.where(usable, value, 0.0).ravel(), np.where(usable, weight, 0.0).ravel() / scale
    v = np.concatenate([v, [m[0] for m in more]])
    w = np.concatenate([w, [m[1] / scale for m in more]])
    v = v / (v.max() or 1.0) + _TIE * np.minimum(w, 1.0)
    count, n = rows * columns, len(v)
    one_each = csr_array(
        (np.ones(count), (np.repeat(np.arange(rows), columns), np.arange(count))), shape=(rows, n)
    )
    constraints = [LinearConstraint(one_each, 1, 1)]
    if math.isfinite(budget):
        constraints.append(LinearConstraint(csr_array(w.reshape(1, -1)), -np.inf, budget / scale))
    entries = [
        (row, place, sign)
        for row, (k, terms) in enumerate((k, terms) for k, m in enumerate(more) for terms in m[2])
        for place, sign in [
            (count + k, 1),
            *((layer * columns + p, -s) for layer, s in terms for p in range(narrow)),
        ]
    ]
    if entries:
        r, c, data = (np.array(x) for x in zip(*entries, strict=True))
        bounds = csr_array((data.astype(float), (r, c)), shape=(r.max() + 1, n))
        constraints.append(LinearConstraint(bounds, 0, np.inf))
    with nothing_on_stdout():
        found = milp(
            v,
            integrality=np.concatenate([np.ones(count), np.zeros(len(more))]),
            bounds=Bounds(0, np.concatenate([usable.ravel().astype(float), np.ones(len(more))])),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
    if found.x is None:
        return None
    return np.asarray(found.x[:count].reshape(rows, columns).argmax(axis=1))


def _dominated(value: Floats, weight: Floats) -> npt.NDArray[np.bool_]:
    """Return which entries lose on both counts to another of their row, of equal ones all but the first."""
    v, w = value[:, :, np.newaxis], weight[:, :, np.newaxis]
    others_v, others_w = value[:, np.newaxis, :], weight[:, np.newaxis, :]
    no_worse = (others_v <= v) & (others_w <= w)
    better = no_worse & ((others_v < v) | (others_w < w))
    count = value.shape[1]
    earlier = np.arange(count)[np.newaxis, :] < np.arange(count)[:, np.newaxis]
    equal = no_worse & ~better & earlier[np.newaxis]
    return np.asarray((better | equal).any(axis=2))
