"""Names that the registries know: for helps, for `calibrant list`, and for the completion of a shell.

A help that names them holds a placeholder, such as `{targets}`, which is filled when that help is shown. So no name is
written twice, and the start-up of a command does not pay for the registries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

__all__ = [
    "NAMES",
    "NamedCommand",
    "activations",
    "completing",
    "dialects",
    "dialects_for_models",
    "dialects_written",
    "filled",
    "metrics",
    "targets",
    "weights",
]


def activations() -> list[str]:
    """Return all activation algorithms."""
    from calibrant import algorithms

    return algorithms.names()["activation"]


def weights() -> list[str]:
    """Return all weight algorithms."""
    from calibrant import algorithms

    return algorithms.names()["weight"]


def targets() -> list[str]:
    """Return all targets, those of installed packages too."""
    from calibrant.graph.targets import names

    return names()


def metrics() -> list[str]:
    """Return the metrics of `calibrant evaluate`."""
    from calibrant.analysis.tasks.registry import TASK_METRICS

    return list(TASK_METRICS)


def dialects() -> list[str]:
    """Return all dialects."""
    from calibrant.dialects import dialects as known

    return list(known())


def dialects_written() -> list[str]:
    """Return the dialects that a recipe can be written in."""
    from calibrant.dialects import dialects as known

    return [d.name for d in known().values() if d.dump is not None]


def dialects_for_models() -> list[str]:
    """Return calibrant's own dialect, and those that list the layers of a model."""
    from calibrant.dialects import dialects as known

    return ["native", *(d.name for d in known().values() if d.dump_for is not None)]


#: What a placeholder stands for.
NAMES: dict[str, Callable[[], list[str]]] = {
    f.__name__: f
    for f in (
        activations,
        weights,
        targets,
        metrics,
        dialects,
        dialects_written,
        dialects_for_models,
    )
}


def filled(text: str | None) -> str:
    """Return a help with its placeholders filled.

    Example:
        >>> filled("One of {metrics}.").startswith("One of top1, top5, mse, mae")
        True
    """
    return re.sub(
        r"\{(\w+)\}", lambda m: ", ".join(NAMES[m[1]]()) if m[1] in NAMES else m[0], text or ""
    )


def completing(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """Return what a shell is told where an option takes one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


class NamedCommand(TyperCommand):
    """A command whose help may hold placeholders."""

    def get_help(self, ctx: Any) -> str:
        """Fill the placeholders, and write the help."""
        for param in self.params:
            if hasattr(param, "help"):
                param.help = filled(param.help)
        return super().get_help(ctx)
