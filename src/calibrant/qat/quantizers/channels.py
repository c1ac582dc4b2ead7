"""The quantizer of an activation whose channels have scales of their own: these stay as calibration chose them.

    q = clip(round(x / s_c) + z_c, qmin, qmax);   y = (q - z_c) * t

t is s_c, or where the readers take the scales into their weights, the largest of them (`plan.granularity`). The weight
behind it trains with the scales in it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from calibrant.numerics import QuantParams
from calibrant.qat.functional import along
from calibrant.qat.quantizers.whole import WholeModule

__all__ = ["ChannelQuantizer"]


class ChannelQuantizer(WholeModule):
    """Quantizes its input channel by channel; called with nothing, it gives what its readers read with.

    Args:
        p: Scale and zero point of each channel.
        folded: The readers take the scales into their weights.
    """

    def __init__(self, p: QuantParams, *, folded: bool) -> None:
        """Keep the parameters."""
        super().__init__()
        self.chosen = p
        read_at = np.full_like(p.scale, p.common_scale) if folded else p.scale
        self.folded = folded
        self.register_buffer("scale", torch.from_numpy(np.array(p.scale)), persistent=False)
        self.register_buffer("read_at", torch.from_numpy(np.array(read_at)), persistent=False)
        zero_point = torch.from_numpy(p.zero_point.astype(np.float32))
        self.register_buffer("zero_point", zero_point, persistent=False)

    def forward(self, x: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Quantize; without an input, return scale and zero point as the readers have them."""
        if x is None:
            return (self.read_at[0] if self.folded else self.read_at), self.zero_point
        s, t, z = (
            along(v, self.chosen.axis, x.ndim) for v in (self.scale, self.read_at, self.zero_point)
        )
        steps = x.float() / s
        inside = torch.clamp(steps, self.chosen.dtype.qmin - z, self.chosen.dtype.qmax - z)
        return (inside + (torch.round(inside) - inside).detach()) * t

    def params(self) -> QuantParams:
        """Return scale and zero point as the deployed model has them."""
        return self.chosen
