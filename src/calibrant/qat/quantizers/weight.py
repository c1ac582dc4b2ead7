"""Quantizers of a weight: what is trained are the integers, and beside them the scale.

    v      the weight over its size, channel by channel        learned
    s      units of v per step                                  learned, or that of the largest weight
    gain   of the channel                                       learned
    w      = clip(round(v / s)) * (s * gain * size)

The gain is what a batch normalization with frozen statistics does behind the layer: it moves the scale of the deployed
weight and leaves the integers alone. Since v is about 1 everywhere, a step of an optimizer moves every channel by the same
share, whether the model's batch normalizations were folded or not.

| Name | Scale s | Gradient of v |
|---|---|---|
| `lsq` | learned, as its logarithm | passes inside the grid |
| `ulq` | learned | passes |
| `arq` | of the largest weight, anew in every step | passes |

Source: Esser et al., "Learned step size quantization", ICLR 2020 (`lsq`); the public code of AMCT for PyTorch (`ulq`
and `arq`, named ulq_retrain and arq_retrain there).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibrant.numerics import QuantParams
from calibrant.numerics.dtype import IntType
from calibrant.qat.functional import EPS, along, ulq_weight
from calibrant.qat.quantizers.lsq import lsq
from calibrant.qat.quantizers.whole import WholeModule

__all__ = ["WEIGHTS", "WeightQuantizer"]


class WeightQuantizer(WholeModule, ABC):
    """The weight of a layer on its grid; called with nothing, it gives the weight and its scale.

    Args:
        weight: The float weight, whose rounding is what `values` say.
        values: The integers to begin with, of the same shape; None where the weight is to begin as it is.
        p: Their scale, grid and axis.
        own_units: What is trained is the weight itself: its size is 1.
    """

    def __init__(
        self,
        weight: npt.NDArray[np.float32],
        values: npt.NDArray[np.int32] | None,
        p: QuantParams,
        *,
        own_units: bool = False,
    ) -> None:
        """Begin with a weight that was rounded."""
        super().__init__()
        self.dtype, self.axis = p.dtype, p.axis
        scale = torch.from_numpy(np.array(p.scale, dtype=np.float32))
        start = torch.from_numpy(np.array(weight, dtype=np.float32))
        if values is not None:
            start = _inside(start, values, p)
        size = torch.ones_like(scale) if own_units else _size(start, self.axis)
        self.register_buffer("size", size)
        self.weight = nn.Parameter(start / along(size, self.axis, start.ndim))
        self.log_gain = nn.Parameter(torch.zeros_like(size))
        self._begin(scale / size)

    def in_own_units(
        self, weight: npt.NDArray[np.float32], p: QuantParams, *, gains: bool
    ) -> Self:
        """Return a quantizer of the same kind that trains a weight as it is.

        Args:
            weight: The float weight.
            p: The scale to begin with, to the last digit: the largest weight lies on the end of the grid.
            gains: Each channel has a gain that is learned, in the place of a batch normalization.
        """
        found = type(self)(weight, None, p, own_units=True)
        found.log_gain.requires_grad_(gains)
        return found

    @abstractmethod
    def _begin(self, scale: Tensor) -> None:
        """Take the scale to begin with [units of v per step]."""

    @abstractmethod
    def quantized(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return v as it is rounded, its steps, and the scale [units of v per step]."""

    @property
    def gain(self) -> Tensor:
        """What a step of v is multiplied with, (channels,) or ()."""
        return torch.exp(self.log_gain) * self.size

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the weight as the deployed model has it, and its scale (channels,) or ()."""
        v, steps, scale = self.quantized()
        gain = self.gain
        deployed = (scale * gain).detach()
        w = v * along(gain, self.axis, v.ndim)
        exact = steps * along(deployed, self.axis, v.ndim)
        return w + (exact - w).detach(), deployed

    @torch.no_grad()
    def params(self) -> tuple[QuantParams, npt.NDArray[np.int32]]:
        """Return scale and integers as the deployed model has them."""
        _, steps, scale = self.quantized()
        deployed = (scale * self.gain).cpu().numpy().astype(np.float32)
        zero = np.zeros(deployed.shape, dtype=np.int32)
        p = QuantParams(deployed, zero, self.dtype, self.axis)
        return p, steps.cpu().numpy().astype(np.int32)

    @torch.no_grad()
    def floats(self) -> npt.NDArray[np.float32]:
        """Return the weight before rounding."""
        w = self.weight * along(self.gain, self.axis, self.weight.ndim)
        found: npt.NDArray[np.float32] = w.cpu().numpy()
        return found


class LsqWeight(WeightQuantizer):
    """A scale that is learned as its logarithm."""

    def _begin(self, scale: Tensor) -> None:
        self.log_scale = nn.Parameter(torch.log(scale))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the weight as the deployed model has it, and its scale (channels,) or ()."""
        scale, gain = torch.exp(self.log_scale), self.gain
        w = lsq(self.weight, scale, gain, self.dtype, self.axis)
        return w, (scale * gain).detach()

    def quantized(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return v as it is rounded, its steps, and the scale."""
        scale = torch.exp(self.log_scale)
        s = along(scale, self.axis, self.weight.ndim)
        inside = torch.clamp(self.weight / s, self.dtype.qmin, self.dtype.qmax)
        steps = torch.round(inside).detach()
        return (inside + (steps - inside).detach()) * s, steps, scale


class UlqWeight(WeightQuantizer):
    """A scale that is learned, with the gradients of `functional.ulq_weight`."""

    def _begin(self, scale: Tensor) -> None:
        self.scale = nn.Parameter(scale)

    def quantized(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return v as it is rounded, its steps, and the scale."""
        scale = torch.clamp(self.scale, min=EPS)
        v = ulq_weight(self.weight, scale, bits=self.dtype.bits, axis=self.axis)
        s = along(scale, self.axis, self.weight.ndim)
        return v, torch.round(v / s).detach(), scale


class ArqWeight(WeightQuantizer):
    """The scale of the largest weight, anew in every step; the gradient passes on."""

    def _begin(self, scale: Tensor) -> None:
        """Begin with nothing: the scale comes from the weight."""

    def quantized(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return v as it is rounded, its steps, and the scale."""
        scale = arq_scale(self.weight.detach(), self.dtype, self.axis)
        s = along(scale, self.axis, self.weight.ndim)
        steps = torch.clamp(
            torch.round(self.weight.detach() / s), self.dtype.qmin, self.dtype.qmax
        )
        v: Tensor = _Through.apply(self.weight, steps * s)
        return v, steps, scale


class _Through(torch.autograd.Function):
    """Give what a weight is rounded to, to the last digit; the gradient passes to the weight."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def arq_scale(w: Tensor, dtype: IntType, axis: int | None) -> Tensor:
    """Return the scale with which the largest weight is at the end of the grid, (channels,) or ().

        scale = b / (2**(B-1) if |min| > |max| else 2**(B-1) - 1),   b = max(|max|, |min|)

    A scale below 1.19e-7 becomes 1.
    """
    rows = w.reshape(-1) if axis is None else w.movedim(axis, 0).reshape(w.shape[axis], -1)
    high, low = rows.amax(dim=-1), rows.amin(dim=-1)
    levels = torch.where(low.abs() > high.abs(), float(-dtype.qmin), float(dtype.qmax))
    scale = torch.maximum(high.abs(), low.abs()) / levels
    return torch.where(scale < EPS, 1.0, scale)


#: Algorithm -> how its weights are trained.
WEIGHTS: dict[str, type[WeightQuantizer]] = {"lsq": LsqWeight, "ulq": UlqWeight, "arq": ArqWeight}


def _size(w: Tensor, axis: int | None) -> Tensor:
    """Return the root mean square of each channel, or of all; 1 where there is nothing."""
    rows = w.reshape(-1) if axis is None else w.movedim(axis, 0).reshape(w.shape[axis], -1)
    size = rows.square().mean(dim=-1).sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def _inside(w: Tensor, values: npt.NDArray[Any], p: QuantParams) -> Tensor:
    """Move a weight that was rounded to another step than the nearest into that step.

    Beyond the ends of the grid it stays where it is.
    """
    s = along(torch.from_numpy(np.array(p.scale)), p.axis, w.ndim)
    steps = torch.from_numpy(values.astype(np.float32))
    low = torch.where(steps <= p.dtype.qmin, -torch.inf, steps - 0.49) * s
    high = torch.where(steps >= p.dtype.qmax, torch.inf, steps + 0.49) * s
    other = torch.clamp(torch.round(w / s), p.dtype.qmin, p.dtype.qmax) != steps
    return torch.where(other, torch.clamp(w, low, high), w)
