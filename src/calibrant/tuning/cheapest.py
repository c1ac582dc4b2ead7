"""The cheapest assignment of precisions within a budget of error, and the one of least error within a budget of cost.

With x[l, p] = 1 where layer l has precision p:

    minimize    sum c[l, p] x[l, p]
    subject to  sum over p of x[l, p] = 1 for each l,    sum e[l, p] x[l, p] <= budget

a multiple-choice knapsack, solved exactly as a mixed-integer program (HiGHS, by `scipy.optimize.milp`). The other
question has c and e exchanged.

Source: Sinha, Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27 (3), 1979. Precisions chosen so:
Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibrant.tuning.menu import Assignment, Floats, Menu

__all__ = ["cheapest", "most_precise", "nearest_below"]

#: Part of the cost that decides between assignments which are equal in it: the less error, the better.
_TIE = 1e-9


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
    found = _least(menu.weighed, error, budget)
    return menu.named(found) if found is not None else None


def nearest_below(menu: Menu, error: Floats, cost: float) -> Assignment | None:
    """Return the assignment of least error that costs less than a limit; None where there is none.

    Args:
        menu: What layers may be.
        error: What each layer loses in each precision (layers, precisions).
        cost: What all layers together have to stay below.
    """
    below = cost - 1e-9 * abs(cost)
    found = _least(np.where(np.isfinite(menu.cost), error, np.inf), menu.cost, below)
    if found is None or menu.cost_of(menu.named(found)) >= cost:
        return None
    return menu.named(found)


def most_precise(menu: Menu, error: Floats) -> Assignment:
    """Return the assignment of least error, of equal ones the cheapest; one layer at least is left quantized.

    Where all layers would be in float32, the one that loses least is not.
    """
    allowed = np.where(np.isfinite(menu.cost), error, np.inf)
    least = allowed.min(axis=1, keepdims=True)
    columns = np.where(allowed <= least, menu.weighed, np.inf).argmin(axis=1)
    if "float32" in menu.precisions:
        plain = menu.precisions.index("float32")
        others = allowed.copy()
        others[:, plain] = np.inf
        if (columns == plain).all() and np.isfinite(others).any():
            layer = int(np.argmin(others.min(axis=1)))
            columns[layer] = int(np.argmin(others[layer]))
    return menu.named(columns)


def _least(value: Floats, weight: Floats, budget: float) -> npt.NDArray[np.intp] | None:
    """Return the columns of least value, one a row, whose weights add up to no more than a budget."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, columns = value.shape
    usable = np.isfinite(value) & np.isfinite(weight) & ~_dominated(value, weight)
    if budget < 0 or not usable.any(axis=1).all():
        return None
    lightest = np.where(usable, weight, np.inf).min(axis=1)
    if lightest.sum() > budget:
        return None
    free = np.where(usable, value, np.inf).argmin(axis=1)
    if weight[np.arange(rows), free].sum() <= budget:
        return np.asarray(free)
    slack = budget - (lightest.sum() - lightest)
    usable &= weight <= slack[:, np.newaxis]
    scale = budget if budget > 0 else 1.0
    v = np.where(usable, value, 0.0)
    w = np.where(usable, weight, 0.0) / scale
    v = v / (v.max() or 1.0) + _TIE * w
    one_each = np.kron(np.eye(rows), np.ones(columns))
    found = milp(
        v.ravel(),
        integrality=np.ones(rows * columns),
        bounds=Bounds(0, usable.ravel().astype(float)),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(w.reshape(1, -1), -np.inf, budget / scale),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return np.asarray(found.x.reshape(rows, columns).argmax(axis=1))


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
