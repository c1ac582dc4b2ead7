"""The arithmetic of a weight whose scale is learned: rounded to its grid, with the gradients of LSQ.

    y = q * (s * gain),   q = round(clip(v / s, qmin, qmax))

    dL/dv    = g gain inside the grid, 0 outside
    dL/ds    = gain sum g (q - v / s inside the grid, q outside)
    dL/dgain = s sum g q

On the CPU both passes are compiled loops (`kernels`); elsewhere, and while torch compiles, they are torch operations.

Source: Esser et al., "Learned step size quantization", ICLR 2020, without the factor of the gradient of s, which an
optimizer that goes by signs does not see.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibrant.numerics.dtype import IntType
from calibrant.qat.functional import along
from calibrant.qat.quantizers.dense import dense, like, rows_of

__all__ = ["lsq"]


def lsq(v: Tensor, scale: Tensor, gain: Tensor, dtype: IntType, axis: int | None) -> Tensor:
    """Quantize a weight.

    Args:
        v: The weight over its size, any shape.
        scale: Units of v per step, (channels,) or ().
        gain: What a step of v is multiplied with, of the same shape.
        dtype: The integers.
        axis: Axis of the channels; None for one scale in all.

    Returns:
        y, float32 of the shape of v.
    """
    rowwise = axis is None or scale.numel() == 1 or axis % v.ndim == 0
    compiled = (
        rowwise
        and v.numel() > 0
        and v.device.type == "cpu"
        and v.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )
    function = _Compiled if compiled else _Plain
    y: Tensor = function.apply(v, scale, gain, dtype, axis)
    return y


class _Plain(torch.autograd.Function):
    """The oracle: torch operations."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, scale: Tensor, gain: Tensor, dtype: IntType, axis: int | None
    ) -> Tensor:
        ctx.save_for_backward(v, scale, gain)
        ctx.dtype, ctx.axis = dtype, axis
        steps = torch.round(torch.clamp(v / along(scale, axis, v.ndim), dtype.qmin, dtype.qmax))
        y: Tensor = steps * along(scale * gain, axis, v.ndim)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        v, scale, gain = ctx.saved_tensors
        dtype, axis = ctx.dtype, ctx.axis
        t = v / along(scale, axis, v.ndim)
        inside = torch.clamp(t, dtype.qmin, dtype.qmax)
        within = inside == t
        q = torch.round(inside)
        of_v = torch.where(within, g * along(gain, axis, v.ndim), torch.zeros_like(g))
        of_scale = _summed(g * torch.where(within, q - t, q), axis, scale) * gain
        of_gain = _summed(g * q, axis, gain) * scale
        return of_v, of_scale, of_gain, None, None


def _summed(x: Tensor, axis: int | None, like_this: Tensor) -> Tensor:
    """Sum over all that shares a scale."""
    if axis is None or like_this.numel() == 1:
        return x.sum().reshape(like_this.shape)
    return x.sum(dim=[d for d in range(x.ndim) if d != axis % x.ndim])


class _Compiled(torch.autograd.Function):
    """The same as compiled loops over the rows as they lie in memory."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, scale: Tensor, gain: Tensor, dtype: IntType, axis: int | None
    ) -> Tensor:
        from calibrant.qat import kernels

        v = dense(v.detach())
        y = torch.empty_like(v)
        rows = scale.numel()
        s, deployed = scale.reshape(-1).numpy(), (scale * gain).reshape(-1).numpy()
        ends = np.float32(dtype.qmin), np.float32(dtype.qmax)
        kernels.weight_forward(rows_of(v, rows), s, deployed, *ends, rows_of(y, rows))
        ctx.save_for_backward(v, scale, gain)
        ctx.ends = ends
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        from calibrant.qat import kernels

        v, scale, gain = ctx.saved_tensors
        g, rows = like(g, v), scale.numel()
        of_v, of_scale, of_gain = (torch.empty_like(t) for t in (v, scale, gain))
        kernels.weight_backward(
            rows_of(v, rows),
            rows_of(g, rows),
            (scale.reshape(-1).numpy(), gain.reshape(-1).numpy()),
            ctx.ends,
            (rows_of(of_v, rows), of_scale.reshape(-1).numpy(), of_gain.reshape(-1).numpy()),
        )
        return of_v, of_scale, of_gain, None, None
