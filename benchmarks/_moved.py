"""Images moved and turned at random, for who trains in `training.py` and for its rivals, in environments of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

__all__ = ["moved"]

#: Pixels that an image is moved by at most.
SHIFT = 4


def moved(x: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Move each image by up to 4 pixels, edges mirrored, and turn half of them left to right."""
    wide = functional.pad(x, (SHIFT,) * 4, mode="reflect")
    size, found = x.shape[-1], []
    for image, (down, right, turn) in zip(
        wide, generator.integers(0, (2 * SHIFT + 1, 2 * SHIFT + 1, 2), (len(x), 3)), strict=True
    ):
        part = image[:, down : down + size, right : right + size]
        found.append(part.flip(-1) if turn else part)
    return torch.stack(found)
