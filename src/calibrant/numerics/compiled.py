"""Loops that numpy has no single call for, as machine code.

This module imports numba, which takes a second; so it and the modules of loops that import it are themselves
imported on first use. The machine code is cached between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use; keep the machine code for other processes where some folder can be written.

    A division by zero gives what it does in numpy. Sums are added in the order that is written.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no place for its cache
        return njit(nogil=True, error_model="numpy")(function)
