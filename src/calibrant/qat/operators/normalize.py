"""Normalizations. Statistics of batches are those that the model holds: they do not change while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import operator

__all__: list[str] = []


@operator("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """(x - mean) / root(var + epsilon) * scale + bias, channel by channel."""
    if training_mode:
        raise UnsupportedError(
            "BatchNormalization in training mode; export the model for inference."
        )
    y: Tensor = F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    return y


@operator("InstanceNormalization")
def instance_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """Normalize each channel of each sample."""
    y: Tensor = F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)
    return y


@operator("LayerNormalization")
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Normalize over the axes from one on."""
    axis = axis % x.ndim
    shape = tuple(x.shape[axis:])
    if tuple(scale.shape) == shape and (bias is None or tuple(bias.shape) == shape):
        y: Tensor = F.layer_norm(x, shape, scale, bias, epsilon)
        return y
    y = F.layer_norm(x, shape, eps=epsilon) * scale
    return y if bias is None else y + bias


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """X over the root of its mean square, over the axes from one on."""
    along = tuple(range(axis % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(dim=along, keepdim=True) + epsilon) * scale


@operator("GroupNormalization")
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Normalize groups of channels of each sample."""
    if scale.shape[0] == num_groups != x.shape[1]:
        each = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    y: Tensor = F.group_norm(x, num_groups, scale, bias, epsilon)
    return y


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """X over its norm along an axis."""
    y: Tensor = x / torch.linalg.vector_norm(x, ord=p, dim=axis, keepdim=True)
    return y
