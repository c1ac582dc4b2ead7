"""Modules whose numbers are float32 and stay so: a range or a weight in half precision is not the one that is deployed.

Autocast leaves parameters as they are, so networks with quantizers train under it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from calibrant.errors import ConfigValueError

__all__ = ["WholeModule"]


class WholeModule(nn.Module):
    """A module that refuses another type than float32 for its parameters."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Do what `to`, `half`, `cuda` and the like do.

        Raises:
            ConfigValueError: Parameters would have another type; none is changed.
        """
        dtype = fn(torch.empty(0, dtype=torch.float32)).dtype
        if dtype != torch.float32:
            raise ConfigValueError(
                f"A network with quantizers has parameters in float32; in {str(dtype).removeprefix('torch.')} it would not be the one "
                "that is deployed. Autocast trains in half precision and leaves parameters whole: torch.autocast, "
                "precision='bf16-mixed' in Lightning, bf16=True in the Trainer of transformers, mixed_precision='bf16' in accelerate."
            )
        return super()._apply(fn, recurse)
