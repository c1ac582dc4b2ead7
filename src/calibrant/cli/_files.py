"""One text file as a result: refused where it would hide another, and written whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import OUTPUT_PANEL
from calibrant.errors import ConfigValueError, OutputError

__all__ = ["Force", "OutFile", "check_free", "name_of", "recipe_source"]

OutFile = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="File to write; '-' is stdout. Default: stdout.",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Write over a file that is there.", rich_help_panel=OUTPUT_PANEL),
]

STDOUT = STDIN = Path("-")


def check_free(out: Path | None, *, force: bool) -> Path | None:
    """Return the file to write, or None for stdout.

    Raises:
        OutputError: It is a folder, or it exists and is not to be written over.
    """
    if out is None or out == STDOUT:
        return None
    if out.is_dir():
        raise OutputError(f"'{out}' is a folder; give the name of a file.")
    if out.exists() and not force:
        raise OutputError(f"'{out}' exists; give another file, or --force to write over it.")
    return out


def name_of(path: Path) -> str:
    """Return what a text calls a recipe's file."""
    return "standard input" if path == STDIN else path.name


def recipe_source(path: Path) -> Path | str:
    """Return a recipe's file, or for `-` the text on standard input.

    Raises:
        ConfigValueError: Standard input is closed, or is no text in UTF-8.
    """
    if path != STDIN:
        return path
    if sys.stdin is None:
        raise ConfigValueError("The recipe is to come from standard input (-), which is closed.")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigValueError("The recipe on standard input is no text in UTF-8.") from e
    return text + "\n"  # a text is told from a path by its line breaks
