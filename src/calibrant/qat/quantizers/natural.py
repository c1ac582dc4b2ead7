"""Quantizers whose parameters are the values themselves, with AMCT's arithmetic while they train.

A script of the vendor's brings an optimizer and rates of its own, made for clips, scales, weights and biases as they are.
So nothing is measured in shares here, and a step moves what it moves in the toolkit:

| | While training | In evaluation, and deployed |
|---|---|---|
| activation | clip(round(x / s + o)), and clips that cannot be used are set back | clip(round(x / s) + o) |
| weight | rounded | rounded |
| bias | as it is | rounded to steps of both scales |

The two orders of rounding differ where x / s ends on a half and the offset is odd.

Source: the public code of AMCT for PyTorch (training with quantization); docs/explanation/training.md.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibrant.qat.functional import EPS, along, ulq, ulq_weight, usable_clips
from calibrant.qat.quantizers.activation import ActivationQuantizer
from calibrant.qat.quantizers.bias import BiasQuantizer
from calibrant.qat.quantizers.weight import ArqWeight, UlqWeight, WeightQuantizer, arq_scale

__all__ = ["NaturalActivation", "NaturalBias", "natural_weight"]


class NaturalActivation(ActivationQuantizer):
    """A clip range that is learned; `ends` are clip_max and clip_min."""

    @classmethod
    def like(cls, other: ActivationQuantizer, *, fixed_min: bool) -> NaturalActivation:
        """Begin where another one is."""
        spec = replace(other.spec, fixed_min=fixed_min)
        found = cls(other.clip_max.item(), other.clip_min.item(), spec)
        ends = torch.stack((other.clip_max, other.clip_min)).detach()
        found.unit = torch.ones_like(other.unit)
        found.ends = nn.Parameter(ends, requires_grad=other.ends.requires_grad)
        return found

    def forward(self, x: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Quantize; without an input, return scale and zero point."""
        spec = self.spec
        if x is None or not self.training or not spec.learns or spec.half_scale:
            return super().forward(x)
        high, low = self.ends[0], self.ends[1]
        before = {"clip_max_pre": self.last[0].clone(), "clip_min_pre": self.last[1].clone()}
        y = ulq(
            x.float(),
            high,
            low,
            bits=spec.bits,
            symmetric=spec.symmetric,
            fixed_min=spec.fixed_min,
            **before,
        )
        with torch.no_grad():
            used = torch.stack(usable_clips(high, low, fixed_min=spec.fixed_min, **before))
            self.last.copy_(used)
            self.ends.copy_(used)
        return y


class _Through(torch.autograd.Function):
    """Give a rounded weight; the gradient passes to the weight."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class _Natural(WeightQuantizer):
    """A weight as it is."""

    @classmethod
    def like(
        cls, other: WeightQuantizer, weight: npt.NDArray[np.float32], *, gains: bool
    ) -> _Natural:
        """Begin where another one is, whose weight is given as it is."""
        found = cls.__new__(cls)
        nn.Module.__init__(found)
        found.dtype, found.axis = other.dtype, other.axis
        found.register_buffer("size", torch.ones_like(other.size))
        found.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        found.log_gain = nn.Parameter(torch.zeros_like(other.log_gain), requires_grad=gains)
        found._begin(torch.from_numpy(other.params()[0].scale.copy()))
        return found

    @abstractmethod
    def rounded(self) -> tuple[Tensor, Tensor]:
        """Return the weight as it is rounded, and its scale."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the weight as the deployed model has it, and its scale (channels,) or ()."""
        w, scale = self.rounded()
        if not self.log_gain.requires_grad:
            return w, scale.detach()
        gain = self.gain
        deployed = (scale * gain).detach()
        steps = torch.round(w.detach() / along(scale.detach(), self.axis, w.ndim))
        moved = w * along(gain, self.axis, w.ndim)
        exact = steps * along(deployed, self.axis, w.ndim)
        return moved + (exact - moved).detach(), deployed


class NaturalArq(_Natural, ArqWeight):
    """The scale of the largest weight, anew in every step."""

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Return the weight as it is rounded, and its scale."""
        w = self.weight.detach()
        scale = arq_scale(w, self.dtype, self.axis)
        s = along(scale, self.axis, w.ndim)
        steps = torch.clamp(torch.round(w / s), self.dtype.qmin, self.dtype.qmax)
        rounded: Tensor = _Through.apply(self.weight, steps * s)
        return rounded, scale


class NaturalUlq(_Natural, UlqWeight):
    """A scale that is learned."""

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Return the weight as it is rounded, and its scale."""
        scale = torch.clamp(self.scale, min=EPS)
        return ulq_weight(self.weight, scale, bits=self.dtype.bits, axis=self.axis), scale


def natural_weight(
    other: WeightQuantizer, weight: npt.NDArray[np.float32], *, gains: bool
) -> WeightQuantizer:
    """Return the quantizer of a weight in the units of the weight.

    Args:
        other: The quantizer.
        weight: The float weight.
        gains: Each channel has a gain that is learned, in the place of a batch normalization.
    """
    kind = NaturalUlq if isinstance(other, UlqWeight) else NaturalArq
    return kind.like(other, weight, gains=gains)


class NaturalBias(BiasQuantizer):
    """A bias as it is; `change` is the bias."""

    @classmethod
    def like(cls, other: BiasQuantizer) -> NaturalBias:
        """Begin where another one is."""
        bias = other.bias.detach()
        found = cls(
            torch.zeros_like(bias).numpy(),
            integers=other.integers,
            wide=other.wide,
            groups=other.groups,
        )
        found.change = nn.Parameter(bias.clone())
        return found

    def forward(self, of_input: Tensor | None, of_weight: Tensor) -> Tensor:
        """Return the bias; in evaluation, rounded to steps of the product of both scales."""
        return self.bias if self.training else super().forward(of_input, of_weight)
