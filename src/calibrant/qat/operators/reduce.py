"""Sums, means and extremes along axes."""

from __future__ import annotations

from collections.abc import Callable
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


def _reduction(
    name: str,
    along_axes: Callable[[Tensor, tuple[int, ...], bool], Tensor],
    alone: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Declare an operator that reduces axes.

    Args:
        name: Its name in ONNX.
        along_axes: (x, axes, whether they stay with size 1) -> the result.
        alone: What becomes of each value where no axis is reduced.
    """

    def reduce(
        x: Tensor,
        axes_in: Any = None,
        *,
        axes: Any = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        along = _axes(x, axes_in if axes_in is not None else axes, noop_with_empty_axes)
        return alone(x) if along is None else along_axes(x, along, bool(keepdims))

    reduce.__name__ = reduce.__qualname__ = name
    operator(name, static=(1,))(reduce)


_reduction("ReduceMean", lambda x, axes, keep: x.mean(dim=axes, keepdim=keep))
_reduction("ReduceSum", lambda x, axes, keep: x.sum(dim=axes, keepdim=keep))
_reduction("ReduceMax", lambda x, axes, keep: x.amax(dim=axes, keepdim=keep))
_reduction("ReduceMin", lambda x, axes, keep: x.amin(dim=axes, keepdim=keep))
_reduction(
    "ReduceL2",
    lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep),
    torch.abs,
)
_reduction(
    "ReduceSumSquare", lambda x, axes, keep: x.square().sum(dim=axes, keepdim=keep), torch.square
)


_reduction(
    "ReduceL1",
    lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep),
    torch.abs,
)
_reduction("ReduceLogSumExp", lambda x, axes, keep: torch.logsumexp(x, dim=axes, keepdim=keep))
_reduction("ReduceLogSum", lambda x, axes, keep: x.sum(dim=axes, keepdim=keep).log(), torch.log)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


_reduction("ReduceProd", _product)


@operator("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return where the smallest value lies along an axis."""
    if select_last_index:
        n = x.shape[axis]
        return n - 1 - x.flip(axis).argmin(dim=axis, keepdim=bool(keepdims))
    return x.argmin(dim=axis, keepdim=bool(keepdims))


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Return where the largest value lies along an axis."""
    if select_last_index:
        n = x.shape[axis]
        return n - 1 - x.flip(axis).argmax(dim=axis, keepdim=bool(keepdims))
    return x.argmax(dim=axis, keepdim=bool(keepdims))
