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
from calibrant.qat.quantizers.dense import dense, flat, in_parts, like

__all__ = ["fake_quantize", "fake_quantize_compiled"]


def fake_quantize(
    x: Tensor,
    clip_max: Tensor,
    clip_min: Tensor,
    used: tuple[Tensor, Tensor],
    grid: tuple[Tensor, Tensor],
    dtype: IntType,
) -> Tensor:
    """Quantize with a grid that comes from two clips, in torch operations.

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
    y: Tensor = _Plain.apply(x.float(), clip_max, clip_min, *used, *grid, dtype)
    return y


def fake_quantize_compiled(
    x: Tensor,
    ends: Tensor,
    unit: float,
    found: np.ndarray[Any, np.dtype[np.float32]],
    dtype: IntType,
    *,
    fixed_min: bool,
) -> Tensor:
    """The same in compiled loops, on the CPU.

    Args:
        x: Activations, any shape and floating point type.
        ends: Both clips over `unit` as they are learned, the upper one first, shape (2,).
        unit: What clips are measured in.
        found: The clips that the grid comes from, scale and zero point (`kernels.grid`).
        dtype: The integers.
        fixed_min: The lower end is not learned.

    Returns:
        y, float32 of the shape of x.
    """
    y: Tensor = _Compiled.apply(x.float(), ends, unit, found, dtype, fixed_min)
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
        ends: Tensor,
        unit: float,
        found: np.ndarray[Any, np.dtype[np.float32]],
        dtype: IntType,
        fixed_min: bool,
    ) -> Tensor:
        from calibrant.qat import kernels

        x = dense(x.detach())
        y = torch.empty_like(x)
        source, result, size = flat(x), flat(y), kernels.BLOCK
        lo, hi = np.float32(dtype.qmin), np.float32(dtype.qmax)

        def work(a: int, b: int) -> None:
            part = slice(a * size, b * size)
            kernels.forward(source[part], result[part], found[2], found[3], lo, hi)

        in_parts(work, -(-x.numel() // size))
        ctx.save_for_backward(x)
        ctx.dtype, ctx.found, ctx.unit, ctx.fixed_min = dtype, found, unit, fixed_min
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        from calibrant.qat import kernels

        (x,) = ctx.saved_tensors
        dtype: IntType = ctx.dtype
        s, z = ctx.found[2], ctx.found[3]
        high, low = (v / s for v in ctx.found[:2])
        of_x, size = torch.empty_like(x), kernels.BLOCK
        source, given, result = flat(x), flat(like(g, x)), flat(of_x)
        sums = np.zeros((-(-x.numel() // size), 3))
        ends = s * np.float32(dtype.qmin - z), s * np.float32(dtype.qmax - z)
        residues = np.rint(low) - low, np.rint(high) - high

        def work(a: int, b: int) -> None:
            part = slice(a * size, b * size)
            kernels.backward(source[part], given[part], result[part], sums[a:b], s, ends, residues)

        in_parts(work, len(sums))
        inside, above, below = sums.sum(axis=0)
        e = inside / float(dtype.qmax - dtype.qmin)
        of_min = 0.0 if ctx.fixed_min else (below - e) * ctx.unit
        return of_x, x.new_tensor([(e + above) * ctx.unit, of_min]), None, None, None, None
