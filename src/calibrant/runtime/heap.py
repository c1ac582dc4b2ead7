"""Give memory that was freed back to the system.

Opening a session takes pieces of memory of all sizes and frees most of them again. The allocator of glibc keeps such
pieces, and they are too scattered for what comes next, so a process grows with each large model that it opens. Graphs are
cycles of nodes and values: what nobody has any more stays, with its weights, until Python looks for cycles.

Source: malloc_trim(3), Linux man-pages.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["collect", "give_back"]


def collect() -> None:
    """Let go of graphs that nobody has any more, and give their memory back."""
    gc.collect()
    give_back()


def give_back() -> None:
    """Return freed memory to the system; nothing is done where the C library has no such call."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
