"""The mean of a network over its last steps: what is deployed is steadier than where the last step ended.

    mean := mean + (1 - d) (now - mean),   d = min(1 - 1 / (0.05 steps), (1 + n) / (10 + n)) behind step n

Weights, ranges and biases are averaged before they are rounded, so the mean is on the grid as well. A run of fewer than
40 steps has no mean.

Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the shorter mean at the start as
in TensorFlow's `ExponentialMovingAverage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]

#: Steps that count, as a share of all.
REACH = 0.05


class Average:
    """A mean of what a module learns.

    Args:
        module: What is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        """Begin with where the module is."""
        self.parameters = [p for p in module.parameters() if p.is_floating_point()]
        self.names = [n for n, p in module.named_parameters() if p.is_floating_point()]
        self.held = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int, steps: int) -> None:
        """Take a step into the mean.

        Args:
            step: Steps that were done.
            steps: Steps of the whole run.
        """
        decay = min(1 - 1 / max(REACH * steps, 1.0), (1 + step) / (10 + step))
        torch._foreach_lerp_(self.held, [p.detach() for p in self.parameters], 1 - decay)

    @staticmethod
    def matters(steps: int) -> bool:
        """Whether the mean of a run is another than its end."""
        return REACH * steps >= 2

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Bring the module to the mean, meanwhile."""
        own = [p.detach().clone() for p in self.parameters]
        self._set(self.held)
        try:
            yield
        finally:
            self._set(own)

    def reset(self) -> None:
        """Begin again with where the module is."""
        self.held = [p.detach().clone() for p in self.parameters]

    def state(self) -> dict[str, Tensor]:
        """Return the mean, by the names of the parameters."""
        return dict(zip(self.names, self.held, strict=True))

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on with a mean."""
        self.held = [
            state[n].to(p.device) for n, p in zip(self.names, self.parameters, strict=True)
        ]

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for p, v in zip(self.parameters, values, strict=True):
            p.copy_(v)
