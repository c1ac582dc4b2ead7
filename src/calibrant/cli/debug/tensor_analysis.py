"""`calibrant debug tensor-analysis`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json
from calibrant.cli.debug._options import LISTS, CalibratedData, CalibratedModel, DataNum, ResultDir

__all__ = ["EXAMPLES", "tensor_analysis"]

EXAMPLES = """Examples:

`calibrant debug tensor-analysis run/calibrated_model.onnx calibration_data/ -n [/a/Conv,x__calib] -d 4`
"""


def tensor_analysis(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    node_names: Annotated[
        list[str],
        typer.Option(
            "-n",
            "--node-names",
            metavar="NODES",
            help=f"Calibration nodes and ordinary nodes: {LISTS}.",
            show_default=False,
        ),
    ],
    save_dir: ResultDir = Path("./debug_result/"),
    num_processes: Annotated[
        int | None,
        typer.Option(
            "-np",
            "--num-processes",
            metavar="N",
            min=1,
            help="Threads that run the model. Default: one for each processor.",
            show_default=False,
        ),
    ] = None,
    data_num: DataNum = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at the tensors of nodes, sample by sample: values, what is lost, why, and where it was born."""
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_tensors
    from calibrant.debug import tensor_analysis as run

    check_folder(save_dir)
    names = flat(names_of(node_names, "-n"), "-n") or []
    with quiet_stdout(as_json), progress_bars(show=not as_json) as progress:
        found = run(
            model, data, names, save_dir, num_processes, data_num=data_num, progress=progress
        )
    if as_json:
        print_json({"tensors": found})
    else:
        print_tensors(found, [save_dir / f"tensor_analysis.{end}" for end in ("csv", "json")])
