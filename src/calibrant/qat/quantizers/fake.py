"""Quantize activations as the deployed model does, with the gradients of ULQ.

    q = clip(round(x / scale) + zero point, qmin, qmax);   y = (q - zero point) * scale

ONNX rounds before it adds the zero point, `functional.ulq` behind it; the two differ where x / scale ends on exactly a
half and the zero point is odd. On the CPU both passes are compiled loops (`kernels`); elsewhere, and while torch
compiles, they are torch operations.

Source: ONNX, QuantizeLinear; docs/explanation/training.md for the gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibrant.numerics.dtype import IntType

__all__ = ["fake_quantize"]


def fake_quantize(
    x: Tensor,
    clip_max: Tensor,
    clip_min: Tensor,
    used: tuple[Tensor, Tensor],
    grid: tuple[Tensor, Tensor],
    dtype: IntType,
) -> Tensor:
    """Quantize with a grid that comes from two clips.

    Args:
        x: Activations, any shape and floating point type.
        clip_max: Upper end of the range as it is learned, shape ().
        clip_min: Lower end.
        used: The clips that the grid comes from.
        grid: Scale and zero point, shape ().
        dtype: The integers.

    Returns:
        y, float32 of the shape of x.
    """
    plain = x.device.type != "cpu" or torch.compiler.is_compiling()
    function = _Plain if plain else _Compiled
    y: Tensor = function.apply(x.float(), clip_max, clip_min, *used, *grid, dtype)
    return y


class _Plain(torch.autograd.Function):
    """The oracle: torch operations."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        clip_max: Tensor,
        clip_min: Tensor,
        high: Tensor,
        low: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        dtype: IntType,
    ) -> Tensor:
        ctx.save_for_backward(x, high, low, scale, zero_point)
        ctx.dtype = dtype
        q = torch.clamp(torch.round(x / scale), dtype.qmin - zero_point, dtype.qmax - zero_point)
        y: Tensor = q * scale
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, high, low, scale, zero_point = ctx.saved_tensors
        dtype: IntType = ctx.dtype
        up = x > scale * (dtype.qmax - zero_point)
        down = x < scale * (dtype.qmin - zero_point)
        v = torch.where(up, high, torch.where(down, low, x)) / scale
        e = (torch.round(v) - v) / float(dtype.qmax - dtype.qmin)
        of_x = torch.where(up | down, torch.zeros_like(g), g)
        of_max = ((e + up.to(e.dtype)) * g).sum()
        of_min = ((down.to(e.dtype) - e) * g).sum()
        return of_x, of_max, of_min, None, None, None, None, None


class _Compiled(torch.autograd.Function):
    """The same as compiled loops over the values as they lie in memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        clip_max: Tensor,
        clip_min: Tensor,
        high: Tensor,
        low: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        dtype: IntType,
    ) -> Tensor:
        from calibrant.qat import kernels

        x = _dense(x.detach())
        y = torch.empty_like(x)
        s, z = np.float32(scale.item()), np.float32(zero_point.item())
        kernels.forward(_flat(x), _flat(y), s, z, np.float32(dtype.qmin), np.float32(dtype.qmax))
        ctx.save_for_backward(x)
        ctx.dtype, ctx.grid = dtype, (s, z)
        ctx.clips = np.float32(high.item()), np.float32(low.item())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        from calibrant.qat import kernels

        (x,) = ctx.saved_tensors
        dtype: IntType = ctx.dtype
        s, z = ctx.grid
        high, low = (v / s for v in ctx.clips)
        if g.stride() != x.stride() or g.dtype != torch.float32:
            g = torch.empty_like(x).copy_(g)
        of_x = torch.empty_like(x)
        sums = np.zeros((-(-x.numel() // kernels.BLOCK), 3))
        ends = s * np.float32(dtype.qmin - z), s * np.float32(dtype.qmax - z)
        residues = np.rint(low) - low, np.rint(high) - high
        kernels.backward(_flat(x), _flat(g), _flat(of_x), sums, s, ends, residues)
        inside, above, below = sums.sum(axis=0)
        e = inside / float(dtype.qmax - dtype.qmin)
        of_max, of_min = x.new_tensor(e + above), x.new_tensor(below - e)
        return of_x, of_max, of_min, None, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """Return a tensor whose values lie one behind the other, in some order of its axes."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    """Return the values of a dense tensor as they lie in memory, as a view."""
    flat: np.ndarray[Any, Any] = x.as_strided((x.numel(),), (1,)).numpy()
    return flat
