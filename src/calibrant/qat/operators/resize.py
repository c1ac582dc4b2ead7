"""Resize, and sampling at points of a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import floats, ints, operator

__all__: list[str] = []


@operator("Resize", static=(1, 2, 3))
def resize(
    x: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resize along axes, one axis after the other: nearest values, linear or cubic interpolation.

    Raises:
        UnsupportedError: Smoothing, or a region of interest.
    """
    if (
        mode not in ("nearest", "linear", "cubic")
        or antialias
        or coordinate_transformation_mode == "tf_crop_and_resize"
        or keep_aspect_ratio_policy != "stretch"
    ):
        raise UnsupportedError(
            f"Resize with mode '{mode}', antialias {antialias}, '{coordinate_transformation_mode}', "
            f"'{keep_aspect_ratio_policy}'."
        )
    along = tuple(a % x.ndim for a in axes) if axes is not None else tuple(range(x.ndim))
    if scales is not None and (not hasattr(scales, "__len__") or len(scales)):
        factors = floats(scales)
        lengths = [int(x.shape[a] * f) for a, f in zip(along, factors, strict=True)]
    else:
        lengths = list(ints(sizes))
        factors = tuple(n / x.shape[a] for a, n in zip(along, lengths, strict=True))
    for axis, n, factor in zip(along, lengths, factors, strict=True):
        if n != x.shape[axis] or factor != 1:
            at = _positions(x.shape[axis], n, factor, coordinate_transformation_mode, x)
            if mode == "cubic":
                x = _cubic(x, axis, at, cubic_coeff_a, exclude_outside=bool(exclude_outside))
            else:
                x = (
                    _nearest(x, axis, at, nearest_mode)
                    if mode == "nearest"
                    else _linear(x, axis, at)
                )
    return x


def _positions(size: int, n: int, factor: float, mode: str, x: Tensor) -> Tensor:
    """Return where in the input each value of the output lies (n,)."""
    i = torch.arange(n, dtype=torch.float32, device=x.device)
    if mode == "asymmetric":
        return i / factor
    if mode == "align_corners":
        return i * ((size - 1) / (n - 1)) if n > 1 else torch.zeros_like(i)
    if mode == "pytorch_half_pixel" and n == 1:
        return torch.zeros_like(i)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = n / (factor * size)
        offset = size / 2 * (1 - adjusted)
        return offset + (i + 0.5) / factor - 0.5
    raise UnsupportedError(f"Resize with coordinate_transformation_mode '{mode}'.")


def _nearest(x: Tensor, axis: int, at: Tensor, mode: str) -> Tensor:
    rounded = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
    }[mode](at)
    y: Tensor = x.index_select(axis, rounded.long().clamp(0, x.shape[axis] - 1))
    return y


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    n = x.shape[axis]
    at = at.clamp(0, n - 1)
    left = at.floor()
    weight = (at - left).to(x.dtype)
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = weight.reshape(shape)
    first = x.index_select(axis, left.long())
    second = x.index_select(axis, (left.long() + 1).clamp(max=n - 1))
    return first * (1 - weight) + second * weight


def _cubic(x: Tensor, axis: int, at: Tensor, a: float, *, exclude_outside: bool) -> Tensor:
    """Interpolate with the four neighbours; those beyond an end are the end itself, or count nothing.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4, with the slope `a`.
    """
    n, left = x.shape[axis], at.floor()
    neighbours = left.long()[None] + torch.arange(-1, 3, device=x.device)[:, None]  # (4, out)
    d = (at[None] - neighbours).abs()
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weights = torch.where(d <= 1, near, far)
    if exclude_outside:
        weights = weights * ((neighbours >= 0) & (neighbours < n))
        weights = weights / weights.sum(dim=0)
    shape = [1] * x.ndim
    shape[axis] = -1
    parts = [
        x.index_select(axis, k.clamp(0, n - 1)) * w.to(x.dtype).reshape(shape)
        for k, w in zip(neighbours, weights, strict=True)
    ]
    return parts[0] + parts[1] + parts[2] + parts[3]


@operator("GridSample")
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Take values at points of a grid."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    y: Tensor = F.grid_sample(
        x,
        grid,
        mode=names.get(mode, mode),
        padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )
    return y
