"""Keep standard output for what calibrant prints: some compiled libraries write to it whatever they are told."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["nothing_on_stdout"]

_STDOUT = 1


@contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Throw away what compiled code writes to standard output meanwhile; what Python wrote before comes out first.

    HiGHS, which `scipy.optimize.milp` calls, writes a line there in some cases even where it was told to be silent, and would
    spoil what `--json` prints.
    """
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # there is no standard output
        yield
        return
    with suppress(ValueError, AttributeError):  # closed, or none
        sys.stdout.flush()
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(nowhere)
        os.close(kept)


def _flush() -> None:
    """Write what the C library still holds back."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)
