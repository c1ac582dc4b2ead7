"""The bias of a layer, rounded while it is trained to the steps in which the deployed layer adds it.

    b ~ s_x s_w round(b / (s_x s_w))

With a float bias in its place the trained network is off by up to half a step in every layer, and with 4 bits its
predictions differ from those of the deployed model in one of twenty cases. The arithmetic is that of `plan.biases`.

Source: ONNX Runtime, integer kernels of Conv and Gemm (int32 sums); docs/explanation/training.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibrant.plan.biases import LARGEST
from calibrant.qat.quantizers.whole import WholeModule

__all__ = ["BiasQuantizer"]

#: Steps that a bias beside an operand of 16 bits stays below, since float32 rounds its scale.
_ROOM = LARGEST - 2**8


class BiasQuantizer(WholeModule):
    """A bias; called with the scales of input and weight, it gives what the deployed layer adds.

    Args:
        bias: The bias to begin with (out,).
        size: What a step of an optimizer is measured in (out,) or a number: about the size of the layer's answers.
        integers: The layer adds it in integers.
        wide: An operand of the layer has 16 bits, so that the step may be too fine for int32.
        groups: Groups of a transposed convolution, whose channels share scales.
    """

    def __init__(
        self,
        bias: npt.NDArray[np.float32],
        *,
        size: npt.NDArray[np.float32] | float = 1.0,
        integers: bool = True,
        wide: bool = False,
        groups: int = 1,
    ) -> None:
        """Begin with a bias."""
        super().__init__()
        self.integers, self.wide, self.groups = integers, wide, groups
        given = torch.from_numpy(np.array(bias, dtype=np.float32))
        unit = torch.as_tensor(np.asarray(size, dtype=np.float32)).expand(given.shape).clone()
        self.register_buffer("start", given)
        self.register_buffer("size", unit)
        self.change = nn.Parameter(torch.zeros_like(given))

    @property
    def bias(self) -> Tensor:
        """The bias before rounding (out,)."""
        return self.start + self.change * self.size

    def forward(self, of_input: Tensor | None, of_weight: Tensor) -> Tensor:
        """Round to steps of the product of both scales."""
        bias = self.bias
        if not self.integers or of_input is None:
            return bias
        with torch.no_grad():
            rounded = self._rounded(bias, of_input, of_weight)
        return bias + (rounded - bias).detach()

    def _rounded(self, bias: Tensor, of_input: Tensor, of_weight: Tensor) -> Tensor:
        scale = of_weight.double()
        if scale.ndim and scale.numel() != bias.numel():  # the groups share them
            scale = scale.repeat(self.groups)
        read = of_input.double()
        if read.ndim:  # one a channel, of which each filter of a depthwise layer reads one
            read = read.repeat_interleave(bias.numel() // read.numel())
        step = (read * scale).float().expand(bias.shape)
        if self.wide:
            step = torch.maximum(step, (bias.double().abs() / _ROOM).float())
        steps = torch.round(bias.double() / step.double())
        fits = (steps.abs() <= LARGEST).all()  # not where a step is NaN
        return torch.where(fits, steps.float() * step, bias)

    @torch.no_grad()
    def floats(self) -> npt.NDArray[np.float32]:
        """Return the bias before rounding."""
        found: npt.NDArray[np.float32] = self.bias.cpu().numpy()
        return found
