"""The arguments of the command that runs, as they were given."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

__all__ = ["called", "set_called"]

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


def set_called(arguments: Sequence[str]) -> None:
    """Keep the arguments of this run."""
    _ARGUMENTS.set(tuple(arguments))


def called() -> tuple[str, ...]:
    """Return what was typed, the program first."""
    return ("calibrant", *_ARGUMENTS.get())
