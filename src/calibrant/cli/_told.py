"""What a run has to say before it ends: warnings of the library, on stderr at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["told_at_once"]


@contextmanager
def told_at_once(part: str, *, show: bool) -> Iterator[None]:
    """Write warnings of a part of the library to stderr when they come.

    Args:
        part: Name of its logger, such as `calibrant.tuner`.
        show: False where the whole log is shown anyway.
    """
    log, handler = logging.getLogger(part), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("Warning: %(message)s"))
    if show:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
