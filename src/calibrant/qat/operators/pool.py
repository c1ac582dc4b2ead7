"""Pooling: averages and maxima over windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.qat.operators.conv import begins_and_ends, padded
from calibrant.qat.operators.registry import operator

__all__: list[str] = []

_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _whole(size: int, kernel: int, stride: int, dilation: int, before: int, behind: int) -> int:
    """Return the padding behind an axis with which the last window is whole, where it counts."""
    room = size + before + behind - dilation * (kernel - 1) - 1
    windows = -(-room // stride) + 1
    if (windows - 1) * stride >= size + before:  # a window may not begin in the padding behind
        windows -= 1
    return max((windows - 1) * stride + dilation * (kernel - 1) + 1 - size - before, behind)


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Return the largest value of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    size = tuple(x.shape[2:])
    before, behind = begins_and_ends(auto_pad, pads, size, kernel_shape, strides, dilations)
    whole = tuple(
        _whole(n, k, s, d, a, b) if ceil_mode else b
        for n, k, s, d, a, b in zip(
            size, kernel_shape, strides, dilations, before, behind, strict=True
        )
    )
    if any(before) or any(whole):
        x = padded(x, before, whole, float("-inf"))
    y: Tensor = _MAX[rank](x, kernel_shape, strides, 0, dilations)
    return y


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Return the mean of each window; values that were padded count where `count_include_pad` says so."""
    rank = len(kernel_shape)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    size = tuple(x.shape[2:])
    before, behind = begins_and_ends(auto_pad, pads, size, kernel_shape, strides, dilations)
    whole = tuple(
        _whole(n, k, s, d, a, b) if ceil_mode else b
        for n, k, s, d, a, b in zip(
            size, kernel_shape, strides, dilations, before, behind, strict=True
        )
    )
    is_plain = not any(before) and not any(whole) and set(dilations) == {1}
    if is_plain:
        y: Tensor = _AVERAGE[rank](x, kernel_shape, strides)
        return y
    counted = torch.ones((1, 1, *size), dtype=x.dtype, device=x.device)
    if count_include_pad:
        counted = padded(counted, before, behind, 1.0)
        more = tuple(w - b for w, b in zip(whole, behind, strict=True))
        counted = padded(counted, (0,) * rank, more, 0.0)
    else:
        counted = padded(counted, before, whole, 0.0)
    x = padded(x, before, whole, 0.0)
    return _sums(x, kernel_shape, strides, dilations) / _sums(
        counted, kernel_shape, strides, dilations
    )


def _sums(
    x: Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Tensor:
    """Return the sum of each window."""
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        reach = d * (k - 1) + 1
        x = x.unfold(axis, reach, s)[..., ::d].sum(-1)
    return x


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Return the mean over all spatial axes, which keep a length of 1."""
    y: Tensor = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    return y


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Return the largest value over all spatial axes, which keep a length of 1."""
    y: Tensor = x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)
    return y
