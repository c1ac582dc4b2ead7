"""Sums, means and extremes along axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calibrant.qat.operators.registry import ints, operator

__all__: list[str] = []


def _axes(x: Tensor, said: Any, noop: int) -> tuple[int, ...] | None:
    """Return the axes to reduce; None for none at all."""
    found = ints(said) if said is not None else ()
    if found:
        return tuple(a % x.ndim for a in found)
    return None if noop else tuple(range(x.ndim))


@operator("ReduceMean", static=(1,))
def reduce_mean(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the mean along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    return x if along is None else x.mean(dim=along, keepdim=bool(keepdims))


@operator("ReduceSum", static=(1,))
def reduce_sum(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the sum along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    return x if along is None else x.sum(dim=along, keepdim=bool(keepdims))


@operator("ReduceMax", static=(1,))
def reduce_max(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the largest value along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    return x if along is None else x.amax(dim=along, keepdim=bool(keepdims))


@operator("ReduceMin", static=(1,))
def reduce_min(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the smallest value along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    return x if along is None else x.amin(dim=along, keepdim=bool(keepdims))


@operator("ReduceL2", static=(1,))
def reduce_l2(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the root of the sum of squares along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    if along is None:
        return x.abs()
    y: Tensor = torch.linalg.vector_norm(x, dim=along, keepdim=bool(keepdims))
    return y


@operator("ReduceSumSquare", static=(1,))
def reduce_sum_square(
    x: Tensor,
    axes_in: Any = None,
    *,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Return the sum of squares along axes."""
    along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
    return x.square() if along is None else x.square().sum(dim=along, keepdim=bool(keepdims))


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return where the largest value lies along an axis."""
    if select_last_index:
        n = x.shape[axis]
        return n - 1 - x.flip(axis).argmax(dim=axis, keepdim=bool(keepdims))
    return x.argmax(dim=axis, keepdim=bool(keepdims))
