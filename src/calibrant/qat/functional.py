"""Quantizers that learn, as functions: what they compute, and the gradients they are given by definition.

    ulq          activations: a clip range that is learned (Universal Learned Quantization)
    ulq_weight   weights: a scale that is learned

Rounding has no gradient, so each function says what its gradients are. They are plain torch operations: the oracle
of the faster kernels (`kernels`), and what runs where these do not.

Source: the public code of AMCT for PyTorch (training with quantization); docs/explanation/training.md has the
formulas.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from calibrant.errors import ConfigValueError
from calibrant.numerics.dtype import IntType
from calibrant.numerics.params import SCALE_EPS

__all__ = ["grid_of", "ulq", "ulq_weight", "usable_clips"]

#: float32 epsilon: two clips nearer than this are one, and a scale below it becomes 1.
EPS = float(SCALE_EPS)


def usable_clips(
    clip_max: Tensor,
    clip_min: Tensor,
    *,
    fixed_min: bool = False,
    clip_max_pre: Tensor | None = None,
    clip_min_pre: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the clips that a step quantizes with.

        clip_min := 0                                   where `fixed_min`
        both     := the last usable ones                where clip_max - clip_min <= 1.19e-7
        clip_max := the last usable one                 where clip_max < 0
        clip_min := the last usable one                 where clip_min > 0

    The first of the last three that applies is taken.

    Args:
        clip_max: Upper end of the range, any shape [units of x].
        clip_min: Lower end, of the same shape.
        fixed_min: The lower end is 0.
        clip_max_pre: The upper end that was used last; None where there is none, and `clip_max` stays.
        clip_min_pre: The lower end that was used last.
    """
    high = clip_max.detach()
    low = torch.zeros_like(high) if fixed_min else clip_min.detach()
    before_high = high if clip_max_pre is None else clip_max_pre.detach()
    before_low = low if clip_min_pre is None else clip_min_pre.detach()
    empty = ~(high - low > EPS)  # NaN, too
    return (
        torch.where(empty | (high < 0), before_high, high),
        torch.where(empty | ((low > 0) & ~(high < 0)), before_low, low),
    )


def grid_of(
    clip_max: Tensor, clip_min: Tensor, *, bits: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of the grid over a range, both float32.

    Asymmetric, with the range widened to contain 0:

        scale = (max - min) / (2**bits - 1);   zero point = round(-2**(bits-1) - min / scale)

    Symmetric, with b = max(|max|, |min|):

        scale = b / (2**(bits-1) if |min| > |max| else 2**(bits-1) - 1);   zero point = 0

    A scale below 1.19e-7 becomes 1, and the asymmetric zero point the lowest value of the grid.

    Args:
        clip_max: Upper end of the range, any shape [units of x].
        clip_min: Lower end, of the same shape.
        bits: Width of the grid, one of 4, 6, 7, 8, 16.
        symmetric: The zero point is 0.
    """
    grid = IntType(bits)
    if symmetric:
        high, low = clip_max.abs(), clip_min.abs()
        levels = torch.where(low > high, float(grid.qmax + 1), float(grid.qmax))
        scale = torch.maximum(high, low) / levels
        return torch.where(scale < EPS, 1.0, scale), torch.zeros_like(scale)
    high, low = clip_max.clamp(min=0.0), clip_min.clamp(max=0.0)
    scale = (high - low) / float(grid.qmax - grid.qmin)
    tiny = scale < EPS
    usable = torch.where(tiny, 1.0, scale)
    zero_point = torch.where(tiny, float(grid.qmin), torch.round(grid.qmin - low / usable))
    return usable, zero_point


class _Ulq(torch.autograd.Function):
    """Quantize with a clip range; the gradients are those of `ulq`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, clip_max: Tensor, clip_min: Tensor, asked: tuple[Any, ...]
    ) -> Tensor:
        bits, symmetric, fixed_min, high, low = asked
        scale, zero_point = grid_of(high, low, bits=bits, symmetric=symmetric)
        grid = IntType(bits)
        q = torch.clamp(torch.round(x / scale + zero_point), grid.qmin, grid.qmax)
        ctx.save_for_backward(x, high, low, scale, zero_point)
        ctx.grid, ctx.fixed_min, ctx.shape = grid, fixed_min, clip_max.shape
        y: Tensor = (q - zero_point) * scale
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, high, low, scale, zero_point = ctx.saved_tensors
        grid: IntType = ctx.grid
        up = x > scale * (grid.qmax - zero_point)
        down = x < scale * (grid.qmin - zero_point)
        v = torch.where(up, high, torch.where(down, low, x)) / scale
        e = (torch.round(v) - v) / float(grid.qmax - grid.qmin)
        of_x = torch.where(up | down, torch.zeros_like(g), g)
        of_max = ((e + up.to(e.dtype)) * g).sum().reshape(ctx.shape)
        of_min = ((down.to(e.dtype) - e) * g).sum().reshape(ctx.shape)
        return of_x, of_max, torch.zeros_like(of_min) if ctx.fixed_min else of_min, None


def ulq(
    x: Tensor,
    clip_max: Tensor,
    clip_min: Tensor,
    *,
    bits: int = 8,
    symmetric: bool = False,
    fixed_min: bool = False,
    clip_max_pre: Tensor | None = None,
    clip_min_pre: Tensor | None = None,
) -> Tensor:
    """Quantize activations to a grid over a range whose ends are learned.

        q = clamp(round(x / scale + zero point), qmin, qmax);   y = (q - zero point) * scale

    with the clips of `usable_clips` and the grid of `grid_of`. With g = dL/dy, B bits, and

        up = x > scale (qmax - zero point);   dn = x < scale (qmin - zero point)
        v  = clip_max where up, clip_min where dn, x elsewhere, all / scale
        e  = (round(v) - v) / (2**B - 1)

    the gradients are

        dL/dx        = g where neither up nor dn, else 0
        dL/dclip_max = sum (e + up) g
        dL/dclip_min = sum (dn - e) g, and 0 with `fixed_min`

    Args:
        x: Activations, any shape.
        clip_max: Upper end of the range, one number, shape () or (1,) [units of x].
        clip_min: Lower end, of the same shape.
        bits: Width of the grid, one of 4, 6, 7, 8, 16.
        symmetric: The zero point is 0.
        fixed_min: The lower end is 0 and stays so.
        clip_max_pre: The upper end that was used last, for a step whose clips cannot be used.
        clip_min_pre: The lower end that was used last.

    Returns:
        y, of the shape of x.

    Raises:
        ConfigValueError: A bit width that does not exist, or clips of more than one number.

    Example:
        >>> x = torch.tensor([-2.0, -0.3, 0.0, 0.7, 5.0])
        >>> y = ulq(x, torch.tensor(2.55), torch.tensor(-0.5))
        >>> [round(v, 6) for v in y.tolist()]
        [-0.502353, -0.29902, 0.0, 0.705686, 2.547647]
    """
    if clip_max.numel() != 1 or clip_min.numel() != 1:
        raise ConfigValueError(
            f"clip_max has {clip_max.numel()} values and clip_min {clip_min.numel()}; ulq takes one of each."
        )
    high, low = usable_clips(
        clip_max,
        clip_min,
        fixed_min=fixed_min,
        clip_max_pre=clip_max_pre,
        clip_min_pre=clip_min_pre,
    )
    asked = (bits, symmetric, fixed_min, high.reshape(()), low.reshape(()))
    y: Tensor = _Ulq.apply(x, clip_max, clip_min, asked)
    return y


class _UlqWeight(torch.autograd.Function):
    """Quantize a weight with scales; the gradients are those of `ulq_weight`."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, bits: int, axis: int | None) -> Tensor:
        grid = IntType(bits)
        s = along(scale, axis, w.ndim)
        steps = w / s
        ctx.save_for_backward(w, scale)
        ctx.grid, ctx.axis = grid, axis
        y: Tensor = torch.clamp(torch.round(steps), grid.qmin, grid.qmax) * s
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        w, scale = ctx.saved_tensors
        grid: IntType = ctx.grid
        s = along(scale, ctx.axis, w.ndim)
        steps = w / s
        # w is compared, not w / s: the largest weight lies on the end of the grid, and its quotient may round beyond it
        t = torch.where(
            w < grid.qmin * s,
            float(grid.qmin),
            torch.where(w > grid.qmax * s, float(grid.qmax), torch.round(steps) - steps),
        )
        row = steps.numel() // scale.numel() if scale.numel() else 1
        factor = 1.0 / math.sqrt(row * grid.qmax)
        products = t * g
        axis = ctx.axis
        if axis is None or scale.numel() == 1:
            of_scale = products.sum().reshape(scale.shape)
        else:
            of_scale = products.sum(dim=[d for d in range(g.ndim) if d != axis])
        return g, of_scale * factor, None, None


def along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    """Give one value a channel the shape that broadcasts along `axis` of an array of `rank`."""
    if axis is None or values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def ulq_weight(w: Tensor, scale: Tensor, *, bits: int = 8, axis: int | None = 0) -> Tensor:
    """Quantize a weight with scales that are learned; the zero point is 0.

        y = clamp(round(w / s), -h, h - 1) * s,    h = 2**(bits - 1)

    With g = dL/dy and M the number of weights that share a scale, the gradients are

        dL/dw = g
        dL/ds = sum over these of t g / sqrt(M (h - 1))
        t     = round(w / s) - w / s;   -h where w < -h s;   h - 1 where w > (h - 1) s

    Args:
        w: Weight, any shape.
        scale: Scales > 0, (channels,) or one number [units of w per step].
        bits: Width of the grid, one of 4, 6, 7, 8, 16.
        axis: Axis that has one scale for each index; None for one scale in all.

    Returns:
        y, of the shape of w.

    Raises:
        ConfigValueError: A bit width that does not exist, or scales that are not one for each channel.

    Example:
        >>> w = torch.tensor([[0.5, -1.0, 0.25], [0.1, 0.2, -0.05]])
        >>> ulq_weight(w, torch.tensor([0.5, 0.1]), bits=4, axis=0)
        tensor([[ 0.5000, -1.0000,  0.0000],
                [ 0.1000,  0.2000, -0.0000]])
    """
    channels = 1 if axis is None else w.shape[axis]
    if scale.numel() not in (1, channels):
        raise ConfigValueError(
            f"There are {scale.numel()} scales for {channels} channels on axis {axis} of a weight of shape "
            f"{tuple(w.shape)}; there is one for each, or one in all."
        )
    y: Tensor = _UlqWeight.apply(w, scale, bits, axis)
    return y
