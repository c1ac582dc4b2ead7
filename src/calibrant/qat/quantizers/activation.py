"""The quantizer of an activation: a clip range that is learned (ULQ).

What is learned are the ends of the range over their distance at the start, so that a step of an optimizer moves every
range by the same share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from calibrant.numerics import QuantParams, QuantSpec
from calibrant.numerics.dtype import IntType
from calibrant.qat.functional import grid_of, usable_clips
from calibrant.qat.quantizers.fake import fake_quantize, fake_quantize_compiled
from calibrant.qat.quantizers.whole import WholeModule

__all__ = ["ActivationQuantizer", "ActivationSpec"]


@dataclass(frozen=True, slots=True)
class ActivationSpec:
    """What does not change while a quantizer learns.

    Args:
        bits: Width of the grid.
        symmetric: The zero point is 0.
        fixed_min: The lower end is 0 and stays so.
        learns: Its range is learned; one that is fixed by definition is not.
        half_scale: The scale is rounded through float16.
    """

    bits: int = 8
    symmetric: bool = False
    fixed_min: bool = False
    learns: bool = True
    half_scale: bool = False


class ActivationQuantizer(WholeModule):
    """Quantizes its input; called with nothing, it gives scale and zero point.

    Args:
        clip_max: Upper end of the range to begin with [units of x].
        clip_min: Lower end.
        spec: What does not change.
    """

    def __init__(self, clip_max: float, clip_min: float, spec: ActivationSpec) -> None:
        """Begin with a range."""
        super().__init__()
        self.spec, self.dtype = spec, IntType(spec.bits)
        span = max(clip_max - clip_min, 1e-30)
        self.register_buffer("unit", torch.tensor(span, dtype=torch.float32))
        ends = torch.tensor([clip_max / span, clip_min / span], dtype=torch.float32)
        self.ends = nn.Parameter(ends, requires_grad=spec.learns)
        start = torch.tensor([clip_max, clip_min], dtype=torch.float32)
        self.register_buffer("last", start)

    @classmethod
    def of(
        cls, p: QuantParams, spec: QuantSpec, *, fixed_min: bool, learns: bool, half_scale: bool
    ) -> ActivationQuantizer:
        """Begin with the range of parameters that were chosen; scale and zero point come out as they were."""
        low, high = (float(end) for end in p.range)
        asked = ActivationSpec(spec.bits, spec.symmetric, fixed_min, learns, half_scale)
        return cls(high, low, asked)

    @property
    def clip_max(self) -> Tensor:
        """Upper end of the range [units of x]."""
        return self.ends[0] * self.unit

    @property
    def clip_min(self) -> Tensor:
        """Lower end of the range [units of x]."""
        return self.ends[1] * self.unit

    def forward(self, x: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Quantize; without an input, return scale and zero point."""
        if self.ends.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._compiled(x)
        high, low = self.clip_max, self.clip_min
        used, grid = self._grid(high.detach(), low.detach())
        if x is None:
            return grid
        if self.training and self.spec.learns:
            with torch.no_grad():
                self.last.copy_(torch.stack(used))
        if self.spec.fixed_min:
            low = low.detach()
        return fake_quantize(x, high, low, used, grid, self.dtype)

    def _compiled(self, x: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """The same in compiled loops."""
        from calibrant.qat import kernels

        spec, found = self.spec, np.empty(4, dtype=np.float32)
        unit = self.unit.item()
        asked = np.float32(self.dtype.qmin), np.float32(self.dtype.qmax)
        kernels.grid(
            self.ends.detach().numpy(),
            self.last.numpy(),
            np.float32(unit),
            (*asked, spec.symmetric, spec.fixed_min),
            found,
        )
        if spec.half_scale:
            found[2] = np.float32(np.float16(found[2]))
        if x is None:
            grid = torch.from_numpy(found)
            return grid[2], grid[3]
        if self.training and spec.learns:
            self.last.copy_(torch.from_numpy(found[:2]))
        return fake_quantize_compiled(
            x, self.ends, unit, found, self.dtype, fixed_min=spec.fixed_min
        )

    def _grid(
        self, high: Tensor, low: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the clips that are used, and scale and zero point."""
        spec = self.spec
        used = usable_clips(
            high,
            low,
            fixed_min=spec.fixed_min,
            clip_max_pre=self.last[0],
            clip_min_pre=self.last[1],
        )
        scale, zero_point = grid_of(*used, bits=spec.bits, symmetric=spec.symmetric)
        if spec.half_scale:
            scale = scale.half().float()
        return used, (scale, zero_point)

    def params(self) -> QuantParams:
        """Return scale and zero point as the deployed model has them."""
        with torch.no_grad():
            _, (scale, zero_point) = self._grid(self.clip_max, self.clip_min)
        return QuantParams(
            scale.cpu().numpy().astype(np.float32),
            zero_point.cpu().numpy().astype(np.int32),
            self.dtype,
        )
