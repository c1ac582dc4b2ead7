"""A quantized model that is called as a module of torch, for an evaluator that was written for one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["DeployedModule"]


class Called(Protocol):
    """A model that is called with arrays by name (`compat.amct.Net`)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""

    def __call__(self, feeds: dict[str, Any], /) -> dict[str, Any]:
        """Return the outputs by name."""


class DeployedModule(nn.Module):
    """Takes tensors and returns tensors, on the device of the first of them; nothing in it learns.

    Args:
        net: What computes.
    """

    def __init__(self, net: Called) -> None:
        """Keep the model."""
        super().__init__()
        self._net = net
        empty = torch.empty(0)
        self.place = nn.Parameter(empty, requires_grad=False)  # `next(model.parameters()).device`

    @torch.no_grad()
    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Answer: a tensor, or a tuple where there are several outputs."""
        given = {**dict(zip(self._net.inputs, inputs, strict=False)), **named}
        device = next((x.device for x in given.values()), self.place.device)
        found = self._net({n: np.asarray(x.detach().cpu()) for n, x in given.items()})
        answers = tuple(torch.from_numpy(np.array(x)).to(device) for x in found.values())
        return answers[0] if len(answers) == 1 else answers
