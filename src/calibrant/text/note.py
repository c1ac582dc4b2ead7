"""What is to be said of a configuration: something in it that is not done as written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Note"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something a configuration says that is not done as written, and why.

    Args:
        where: Key path or file and line.
        message: One sentence.
        honoured: False when what was asked for does not hold: it is dropped, or the nearest that the device
            takes holds in its place. True when it is met, if in another way or with a remark.
    """

    where: str
    message: str
    honoured: bool = False
