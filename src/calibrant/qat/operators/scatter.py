"""Operators that take from places and put into places that an input names, and that look for places.

Source: ONNX, Operator Schemas, GatherND, ScatterND, ScatterElements, NonZero, OneHot, TopK.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import ints, operator

__all__: list[str] = []

#: Reduction of ONNX -> that of torch.
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Take what lies at places; each is a list of indices of the first axes."""
    if batch_dims:
        taken = [
            gather_nd(a, i, batch_dims=batch_dims - 1) for a, i in zip(x, indices, strict=True)
        ]
        return torch.stack(taken)
    return x[_at(indices)]


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Put values at places; each is a list of indices of the first axes."""
    where = _at(indices)
    if reduction == "none":
        return x.index_put(where, updates)
    if reduction == "add":
        return x.index_put(where, updates, accumulate=True)
    numbers = torch.arange(x.numel(), device=x.device).reshape(x.shape)[where].reshape(-1)
    flat = x.reshape(-1).scatter_reduce(0, numbers, updates.reshape(-1), _reduction(reduction))
    return flat.reshape(x.shape)


@operator("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Put values along an axis, an index for each."""
    n = x.shape[axis]
    where = torch.where(indices < 0, indices + n, indices)
    if reduction == "none":
        y: Tensor = x.scatter(axis, where, updates)
        return y
    return x.scatter_reduce(axis, where, updates, _reduction(reduction))


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """Return where values are that are not 0, an axis a row."""
    return x.nonzero().t()


@operator("OneHot", static=(1,))
def one_hot(indices: Tensor, depth: Any, values: Tensor, *, axis: int = -1) -> Tensor:
    """Put one of two values at each index of a new axis, and the other one elsewhere."""
    n = ints(depth)[0]
    at = torch.where(indices < 0, indices + n, indices).to(torch.int64)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    shape = [1] * (indices.ndim + 1)
    shape[axis] = n
    chosen = at.unsqueeze(axis) == torch.arange(n, device=indices.device).reshape(shape)
    return torch.where(chosen, values[1], values[0])


@operator("TopK", static=(1,), several=True)
def top_k(
    x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest values along an axis, and where they lie; of equal ones the first."""
    values, order = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    n = ints(k)[0]
    return values.narrow(axis, 0, n), order.narrow(axis, 0, n)


def _at(indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(indices.unbind(-1))


def _reduction(name: str) -> str:
    if name not in _REDUCTIONS:
        raise UnsupportedError(f"reduction '{name}'.")
    return _REDUCTIONS[name]
