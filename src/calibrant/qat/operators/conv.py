"""Convolutions and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import operator

__all__ = ["begins_and_ends", "padded"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def begins_and_ends(
    auto_pad: str,
    pads: tuple[int, ...] | None,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding before and behind each spatial axis, as `auto_pad` and `pads` say."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", ""):
        both = pads if pads is not None else (0,) * (2 * rank)
        return both[:rank], both[rank:]
    if auto_pad == "VALID":
        return (0,) * rank, (0,) * rank
    before, behind = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        less, more = total // 2, total - total // 2
        before.append(less if auto_pad == "SAME_UPPER" else more)
        behind.append(more if auto_pad == "SAME_UPPER" else less)
    return tuple(before), tuple(behind)


def padded(x: Tensor, before: tuple[int, ...], behind: tuple[int, ...], value: float) -> Tensor:
    """Pad the last axes."""
    flat = [n for pair in zip(reversed(before), reversed(behind), strict=True) for n in pair]
    return F.pad(x, flat, value=value)


@operator("Conv")
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Convolve over 1, 2 or 3 spatial axes."""
    rank = w.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    before, behind = begins_and_ends(
        auto_pad, pads, tuple(x.shape[2:]), tuple(w.shape[2:]), strides, dilations
    )
    if before != behind:
        x, before = padded(x, before, behind, 0.0), (0,) * rank
    y: Tensor = _CONV[rank](x, w, b, strides, before, dilations, group)
    return y


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Convolve the other way round; what the padding leaves out is cut from the full answer."""
    rank = w.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    more = output_padding or (0,) * rank
    kernel = tuple(w.shape[2:])
    full = [
        s * (n - 1) + o + (k - 1) * d + 1
        for n, s, o, k, d in zip(x.shape[2:], strides, more, kernel, dilations, strict=True)
    ]
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = output_shape or tuple(n * s for n, s in zip(x.shape[2:], strides, strict=True))
        total = [f - w_ for f, w_ in zip(full, wanted[-rank:], strict=True)]
        less = [t // 2 for t in total]
        rest = [t - n for t, n in zip(total, less, strict=True)]
        upper = auto_pad == "SAME_UPPER"
        before, behind = (less, rest) if upper else (rest, less)
    else:
        both = pads if pads is not None and auto_pad in ("NOTSET", "") else (0,) * (2 * rank)
        before, behind = list(both[:rank]), list(both[rank:])
    if before == behind and output_shape is None and min(before) >= 0:
        y: Tensor = _TRANSPOSED[rank](x, w, b, strides, before, more, group, dilations)
        return y
    y = _TRANSPOSED[rank](x, w, b, strides, 0, more, group, dilations)
    for axis, (first, last) in enumerate(zip(before, behind, strict=True)):
        if first < 0 or last < 0:
            raise UnsupportedError(
                f"ConvTranspose with output_shape {output_shape} larger than what it computes."
            )
        y = y.narrow(axis + 2, first, y.shape[axis + 2] - first - last)
    return y


@operator("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's name
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Compute alpha A B + beta C."""
    left, right = (a.t() if transA else a), (b.t() if transB else b)
    if c is None:
        product = left @ right
        return product if alpha == 1 else alpha * product
    if c.ndim == 1 and alpha == 1 and beta == 1:
        return F.linear(left, right.t(), c) if c.shape[0] == right.shape[1] else left @ right + c
    return alpha * (left @ right) + beta * c


@operator("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices, or stacks of them."""
    return a @ b


@operator("Einsum")
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    """Sum products as an equation says."""
    y: Tensor = torch.einsum(equation, *inputs)
    return y
