"""The command line: thin, one file a command. What takes time to import is imported when it is used."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes a hundredth of a second, in which nothing answers to Ctrl-C
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `calibrant` with these arguments (those of the process if None) and return its exit code."""
    try:
        from calibrant.cli._run import run

        return run(argv)
    except KeyboardInterrupt:  # while the line above loads, or while an end is told
        import sys

        sys.stderr.write("calibrant: error: interrupted.\n")
        return 130
