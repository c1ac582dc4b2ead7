"""Scales rounded through float16, for devices that keep them so.

    s' = float16(s)                  2**-14 <= s <= 65504
    s' = float16(sqrt(s))**2         elsewhere, computed in float32

Source: docs/reference/ascend-configurations.md, "Scales through float16" (FORCE_FP16_QUANT).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["through_float16"]

_SMALLEST, _LARGEST = np.float32(2.0**-14), np.float32(65504)


def through_float16(scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return scales of any shape as float16 keeps them, inf where it cannot; doing it again changes nothing.

    Example:
        >>> through_float16([0.3, 1e-6]).tolist()
        [0.300048828125, 1.000808879325632e-06]
    """
    s = np.asarray(scale, dtype=np.float32)
    with np.errstate(over="ignore"):
        plain = s.astype(np.float16).astype(np.float32)
        root = np.sqrt(s).astype(np.float16).astype(np.float32)
    inside = (s >= _SMALLEST) & (s <= _LARGEST)
    return np.where(inside, plain, root * root).astype(np.float32)
