"""Which options a command was given, whatever their values."""

from __future__ import annotations

import typer

__all__ = ["is_given"]


def is_given(context: typer.Context, parameter: str) -> bool:
    """Whether an option stands on the command line or in the environment; its default value counts as well there."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"
