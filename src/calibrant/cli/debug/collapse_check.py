"""`calibrant debug collapse-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json, Verbose
from calibrant.cli.debug._options import CalibratedData, CalibratedModel, DataNum

__all__ = ["EXAMPLES", "collapse_check"]

EXAMPLES = """Examples:

`calibrant debug collapse-check run/calibrated_model.onnx calibration_data/`
"""


def collapse_check(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    data_num: DataNum = None,
    save_dir: Annotated[
        Path | None,
        typer.Option(
            "-s",
            "--save-dir",
            metavar="DIR",
            help="Write collapse_check.csv and .json into a folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the first node at which the quantized model stops saying anything of its input.

    A tensor has collapsed where it keeps less than 5 % of its distinct values, or is the same for every sample.
    """
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_collapse
    from calibrant.debug import collapse_check as run

    if save_dir is not None:
        check_folder(save_dir)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose)) as progress:
        found = run(model, data, data_num, save_dir, progress=progress)
    if as_json:
        print_json(found.content())
    else:
        print_collapse(found, verbose=verbose)
