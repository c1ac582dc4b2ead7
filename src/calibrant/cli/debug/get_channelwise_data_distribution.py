"""`calibrant debug get-channelwise-data-distribution`."""

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

__all__ = ["EXAMPLES", "get_channelwise_data_distribution"]

EXAMPLES = """Examples:

`calibrant debug get-channelwise-data-distribution run/calibrated_model.onnx calibration_data/ -n [x__calib,w__calib]`

`calibrant debug get-channelwise-data-distribution run/calibrated_model.onnx calib.npz -n tokens__calib -a 2`
"""


def get_channelwise_data_distribution(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    nodes_list: NodesList,
    save_dir: ResultDir = Path("./debug_result/"),
    axis: Annotated[
        int | None,
        typer.Option(
            "-a",
            "--axis",
            metavar="N",
            help="Axis of the channels. Default: 1 for activations, the node's own axis for weights.",
            show_default=False,
        ),
    ] = None,
    data_num: DataNum = None,
    debug: Debug = False,
) -> None:
    """Draw a box plot of each channel of what calibration nodes read.

    Where one channel is much wider than the others, one scale for all leaves these few steps: give each channel a scale of its
    own, or balance the channels.
    """
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder
    from calibrant.cli.debug._shown import print_files
    from calibrant.debug import get_channelwise_data_distribution as run

    check_folder(save_dir)
    names = flat(names_of(nodes_list, "-n"), "-n") or []
    with progress_bars(show=True) as progress:
        found = run(model, data, names, save_dir, axis, data_num=data_num, progress=progress)
    print_files([f for files in found.values() for f in files])
