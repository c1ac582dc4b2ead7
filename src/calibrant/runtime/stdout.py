"""Keep standard output for what calibrant prints: some compiled libraries write to it whatever they are told."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["nothing_on_stdout", "stdout_to_stderr"]

_STDOUT, _STDERR = 1, 2


@contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Throw away what compiled code writes to standard output meanwhile; what Python wrote before comes out first.

    HiGHS, which `scipy.optimize.milp` calls, writes a line there in some cases even where it was told to be silent, and would
    spoil what `--json` prints.
    """
    with Path(os.devnull).open("wb") as nowhere, _stdout_to(nowhere.fileno()):
        yield


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Let what compiled code and other programs write to standard output meanwhile go to standard error."""
    with _stdout_to(_STDERR):
        yield


@contextmanager
def _stdout_to(place: int) -> Iterator[None]:
    try:
        kept, there = os.dup(_STDOUT), os.dup(place)
    except OSError:  # there is no standard output, or no standard error
        yield
        return
    with suppress(ValueError, AttributeError):  # closed, or none
        sys.stdout.flush()
    _flush()
    try:
        os.dup2(there, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(there)
        os.close(kept)


def _flush() -> None:
    """Write what the C library still holds back."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)
