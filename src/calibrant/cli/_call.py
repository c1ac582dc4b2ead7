"""What a command was called with, kept in its results, so that a later one can go on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from calibrant.data.imports import is_function_name
from calibrant.errors import ConfigValueError

__all__ = ["CALL", "filled", "text_of"]

#: File of a results folder.
CALL = "tune.json"

#: What is a path, and is kept as an absolute one.
_PATHS = ("model", "data", "evaluation", "recipe", "preprocess", "train_data")


#: Ways to say one thing: where one of them is given, the others of an earlier run do not count.
_EITHER = (("train_minutes", "train_epochs"),)


def filled(call: Mapping[str, Any], context: typer.Context, source: Path | None) -> dict[str, Any]:
    """Return what a command was called with, what was not given taken from an earlier run.

    Args:
        call: Parameter -> value.
        context: Knows which of them were given.
        source: Folder of the earlier run; None for none.

    Raises:
        ConfigValueError: The folder holds no such run.
    """
    if source is None:
        return dict(call)
    path = source / CALL
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is no JSON"
        raise ConfigValueError(
            f"'{source}' is no folder of an earlier run: {path.name} cannot be read ({reason})."
        ) from e
    if not isinstance(known, dict):
        raise ConfigValueError(f"'{path}' does not hold what a run was called with.")
    came = {name: context.get_parameter_source(name) for name in call}
    given = {
        name for name, source in came.items() if source is not None and source.name != "DEFAULT"
    }
    said = {n for names in _EITHER if given & {*names} for n in names} | given
    return {n: v if n in said or n not in known else known[n] for n, v in call.items()}


def text_of(call: Mapping[str, Any]) -> str:
    """Return the content of the file."""
    plain = {}
    for name, value in call.items():
        is_path = name in _PATHS and value is not None and not is_function_name(str(value))
        there = is_path and Path(value).exists()
        plain[name] = (
            str(Path(value).absolute())
            if there
            else str(value)
            if isinstance(value, Path)
            else value
        )
    return json.dumps(plain, indent=2) + "\n"
