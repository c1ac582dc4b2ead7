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

`calibrant report before/ after/`
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
    other_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_DIR2",
            help="A second run, of the same model: the page shows what changed from the first to the second, and what it did.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="File to write. Default: report.html in RUN_DIR; of two runs, side_by_side.html in RUN_DIR2.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show a run as one HTML page that opens offline: the verdict, the network, each layer, and how to make it again.

    Runs with --report hold more to show: distributions, where errors come from, what each layer loses.
    """
    from calibrant.cli._tables import console, escaped
    from calibrant.report.page import (
        PAGE_FILE,
        SIDE_BY_SIDE_FILE,
        check_packages,
        page_of,
        page_of_pair,
        read_run,
    )
    from calibrant.save.whole import write_whole

    check_packages()
    if other_dir is None:
        page, place = page_of(read_run(run_dir)), run_dir / PAGE_FILE
    else:
        page = page_of_pair(read_run(run_dir), read_run(other_dir))
        place = other_dir / SIDE_BY_SIDE_FILE
    place = out if out is not None else place
    write_whole(place, page)
    console().print(f"Written: {escaped(str(place))}")
