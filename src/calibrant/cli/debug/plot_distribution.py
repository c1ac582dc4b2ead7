"""`calibrant debug plot-distribution`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug
from calibrant.cli.debug._options import (
    CalibratedData,
    CalibratedModel,
    DataNum,
    NodesList,
    ResultDir,
)

__all__ = ["EXAMPLES", "plot_distribution"]

EXAMPLES = """Examples:

`calibrant debug plot-distribution run/calibrated_model.onnx calibration_data/ -n [x__calib,/a/Conv]`

`calibrant debug plot-distribution run/calibrated_model.onnx calib.npz -n @worst.txt --log-count -s distributions/`
"""


def plot_distribution(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    nodes_list: NodesList,
    save_dir: ResultDir = Path("./debug_result/"),
    log_count: Annotated[
        bool, typer.Option("--log-count", help="Draw counts on a logarithmic axis.")
    ] = False,
    data_num: DataNum = None,
    debug: Debug = False,
) -> None:
    """Draw how the values of nodes are distributed, and where the threshold lies.

    Of a weight before and after rounding, of what an activation's calibration node reads, and of what an ordinary node gives
    in the float and in the quantized model, with the difference. Blue triangles: the largest value; red lines: the threshold.
    """
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder
    from calibrant.cli.debug._shown import print_files
    from calibrant.debug import plot_distribution as run

    check_folder(save_dir)
    names = flat(names_of(nodes_list, "-n"), "-n") or []
    with progress_bars(show=True) as progress:
        found = run(
            model,
            data,
            names,
            save_dir,
            log_count=log_count,
            data_num=data_num,
            progress=progress,
        )
    print_files(list(found.values()))
