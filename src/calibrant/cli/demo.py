"""`calibrant demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import OUTPUT_PANEL, Debug, Json

__all__ = ["demo"]


def demo(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Keep the models, their data and the summaries here. Default: calibrant-demo/.",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Quantize a small network that comes with the package: handwritten digits, under a minute.

    It shows the accuracy of the float model, of a naive int8 model, and of what calibrant makes.
    """
    from calibrant.demo import run

    return run(out=out, json=as_json)
