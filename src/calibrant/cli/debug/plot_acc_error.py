"""`calibrant debug plot-acc-error`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json
from calibrant.cli.debug._options import (
    LISTS,
    METRICS,
    CalibratedData,
    CalibratedModel,
    DataNum,
    ResultDir,
)

__all__ = ["EXAMPLES", "plot_acc_error"]

EXAMPLES = """Examples:

`calibrant debug plot-acc-error run/calibrated_model.onnx calibration_data/ -q [weight,activation]`

`calibrant debug plot-acc-error run/calibrated_model.onnx calib.npz -nq [[/a/Conv],[/a/Conv,/b/Conv]] -m sqnr`
"""


def plot_acc_error(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    quantize_node: Annotated[
        list[str] | None,
        typer.Option(
            "-q",
            "--quantize-node",
            metavar="NODES",
            help=f"One curve for each entry, that node alone quantized: {LISTS}. [[a,b],[c]] quantizes a and b together. "
            "weight and activation stand for all nodes of that kind.",
            show_default=False,
        ),
    ] = None,
    non_quantize_node: Annotated[
        list[str] | None,
        typer.Option(
            "-nq",
            "--non-quantize-node",
            metavar="NODES",
            help="One curve for each entry, all quantized but that node. Lists as for -q.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option("-m", "--metric", metavar="NAME", help=f"One of {METRICS}.")
    ] = "cosine-similarity",
    average_mode: Annotated[
        bool,
        typer.Option("-a", "--average-mode", help="Each value is the mean of all up to it."),
    ] = False,
    data_num: DataNum = None,
    save_dir: ResultDir = Path("./debug_result/"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw how errors add up along the network, one curve for each set of quantized nodes.

    A curve that falls at one node shows a sensitive node; one that falls all along shows errors that add up.
    """
    from calibrant.cli._lists import names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_curves
    from calibrant.debug.acc_error import check_lists, curves_of
    from calibrant.debug.distances import one_metric
    from calibrant.debug.pictures import check_pictures
    from calibrant.debug.samples import opened_subject

    check_pictures()
    check_folder(save_dir)
    lists = names_of(quantize_node, "-q"), names_of(non_quantize_node, "-nq")
    check_lists(*lists)
    with quiet_stdout(as_json), progress_bars(show=not as_json) as progress:
        found = curves_of(
            opened_subject(model, data, data_num),
            *lists,
            one_metric(metric),
            average_mode=average_mode,
            progress=progress,
        )
    files = found.save(save_dir)
    if as_json:
        print_json({"metric": metric, "samples": found.samples, "curves": found.as_dict()})
    else:
        print_curves(found, files)
