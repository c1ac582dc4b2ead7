"""A module that is calibrated: it answers as the user's does, and what it is called with is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

__all__ = ["WatchedModule"]


class Batches(Protocol):
    """Takes what a network is called with."""

    def append(self, feed: dict[str, Any], /) -> None:
        """Take a batch: input -> array."""


class WatchedModule(nn.Module):
    """A copy of a module, in evaluation; a loop that calls it calibrates.

    Args:
        network: The user's module; it is not changed.
        names: Names of the inputs, in the order of the arguments.
        batches: Takes what the module is called with.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], batches: Batches) -> None:
        """Copy the module."""
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self._names, self._batches = tuple(names), batches

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Answer as the module does."""
        answer = self.network(*inputs, **named)
        given: Mapping[str, Tensor] = {
            **dict(zip(self._names, inputs, strict=False)),
            **named,
        }
        self._batches.append({n: _array(x) for n, x in given.items()})
        return answer


def _array(x: Tensor) -> Any:
    return np.array(x.detach().cpu().numpy())
