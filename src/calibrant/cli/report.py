"""`calibrant report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import DATA_PANEL, Debug

__all__ = ["EXAMPLES", "report"]

EXAMPLES = """Examples:

`calibrant report run/`

`calibrant report run/ -o report.html`
"""


def report(
    run_dir: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR",
            help="The folder of a run: what quantize, compare or sensitivity wrote with --out.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="File to write. Default: report.html in RUN_DIR.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a run as one HTML page that opens offline: the verdict, the network, each layer, and how to make it again.

    Runs with --report hold more to show: distributions, where errors come from, what each layer loses.
    """
    from calibrant.cli._files import write_whole
    from calibrant.cli._tables import console, escaped
    from calibrant.report.page import PAGE_FILE, check_packages, page_of, read_run

    check_packages()
    page = page_of(read_run(run_dir))
    place = out if out is not None else run_dir / PAGE_FILE
    write_whole(place, page)
    console().print(f"Written: {escaped(str(place))}")
