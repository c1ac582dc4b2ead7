"""Progress of a long run: which stage it is in, how far, and what each stage took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Callback", "Progress"]

logger = logging.getLogger(__name__)

#: Called with a stage, what is done of it, and how much there is (None where nobody knows).
Callback = Callable[[str, int, int | None], None]


@dataclass(slots=True, eq=False)
class Progress:
    """Tells a listener how far a run is, and keeps what each stage took.

    Args:
        callback: Who listens, or None.
        seconds: Stage -> wall time [s]; a stage that comes again adds to its time.
    """

    callback: Callback | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _stage: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say that it runs.

        Args:
            name: Its name. What stands behind a semicolon is told, and no part of the name that its time is kept under.
        """
        logger.info("%s", name)
        before, self._stage = self._stage, name
        self.step(0)
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            key = name.partition(";")[0]
            self.seconds[key] = self.seconds.get(key, 0.0) + taken
            self._stage = before
        logger.info("%s: %.2f s", name, taken)

    def step(self, done: int, of: int | None = None) -> None:
        """Say how much of the present stage is done."""
        if self.callback is not None:
            self.callback(self._stage, done, of)
