"""The network and the handwritten digits that ship with calibrant (see data/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MODEL", "Digits", "calibration", "evaluation"]

_DATA = Path(__file__).parent / "data"

#: The float network: input `image` (N, 1, 16, 16) float32, output `logits` (N, 10).
MODEL = _DATA / "digits.onnx"


class Digits(NamedTuple):
    """Images as the network reads them, and the digit each shows.

    Args:
        image: (N, 1, 16, 16) float32, 0 to 1.
        labels: (N,) int64, 0 to 9.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def calibration() -> Digits:
    """Return the 96 digits to calibrate with; the network was not trained on them."""
    return _read("calibration.npz")


def evaluation() -> Digits:
    """Return the 600 digits to measure accuracy on; neither trained on nor in `calibration()`."""
    return _read("test.npz")


def _read(name: str) -> Digits:
    with np.load(_DATA / name, allow_pickle=False) as stored:
        image, labels = stored["image"], stored["labels"]
    large = image.repeat(2, axis=1).repeat(2, axis=2)  # (N, 16, 16)
    return Digits(large[:, None].astype(np.float32) / 16, labels.astype(np.int64))
