"""The commands that made a run folder, so that a report can say how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["COMMANDS_FILE", "Commands"]

COMMANDS_FILE = "commands.json"


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines by command; the last of each kind counts.

    Args:
        lines: `quantize` -> its arguments, the program first.

    Example:
        >>> Commands().with_line(["calibrant", "quantize", "my model.onnx"]).texts
        ("calibrant quantize 'my model.onnx'",)
    """

    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def with_line(self, words: Sequence[str]) -> Commands:
        """Return the commands with one more."""
        return Commands({**self.lines, words[1]: tuple(words)})

    @property
    def texts(self) -> tuple[str, ...]:
        """What to type, one command a line."""
        return tuple(shlex.join(words) for words in self.lines.values())
