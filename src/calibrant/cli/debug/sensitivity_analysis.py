"""`calibrant debug sensitivity-analysis`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json
from calibrant.cli.debug._options import LISTS, METRICS, CalibratedData, CalibratedModel

__all__ = ["EXAMPLES", "sensitivity_analysis"]

EXAMPLES = """Examples:

`calibrant debug sensitivity-analysis run/calibrated_model.onnx calibration_data/ -q int16 -p 0.9999`

`calibrant debug sensitivity-analysis run/calibrated_model.onnx calib.npz -sn [/a/Conv,/b/Conv] -m sqnr`
"""


def sensitivity_analysis(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    metric: Annotated[
        str, typer.Option("-m", "--metric", metavar="NAME", help=f"One of {METRICS}.")
    ] = "cosine-similarity",
    pick_threshold: Annotated[
        float | None,
        typer.Option(
            "-p",
            "--pick-threshold",
            metavar="X",
            help="Nodes are sensitive that are not better than this when each alone is quantized. Default: 0.999 with "
            "cosine-similarity; other metrics need one.",
            show_default=False,
        ),
    ] = None,
    data_num: Annotated[
        int, typer.Option("-d", "--data-num", metavar="N", min=1, help="Samples.")
    ] = 1,
    sensitive_nodes: Annotated[
        list[str] | None,
        typer.Option(
            "-sn",
            "--sensitive-nodes",
            metavar="NODES",
            help=f"Raise these nodes, the first one first: {LISTS}.",
            show_default=False,
        ),
    ] = None,
    qtype: Annotated[
        str,
        typer.Option("-q", "--qtype", metavar="NAME", help="float32, float16 or int16."),
    ] = "float32",
    save_dir: Annotated[
        Path, typer.Option("-sd", "--save-dir", metavar="DIR", help="Folder of the results.")
    ] = Path("./debug_result/"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what the outputs win when sensitive nodes get a higher type.

    Nodes are raised one after the other, worst first, and stay raised: so one reads off how many have to be.
    """
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_raised
    from calibrant.debug.distances import one_metric
    from calibrant.debug.pictures import check_pictures
    from calibrant.debug.raising import raise_nodes, threshold_of
    from calibrant.debug.samples import opened_subject
    from calibrant.errors import ConfigValueError

    if pick_threshold is not None and sensitive_nodes:
        raise ConfigValueError("-p picks nodes, and -sn names them; give one of the two.")
    check_pictures()
    check_folder(save_dir)
    nodes = flat(names_of(sensitive_nodes, "-sn"), "-sn")
    wanted = one_metric(metric)
    threshold = threshold_of(wanted, pick_threshold, nodes)
    with quiet_stdout(as_json), progress_bars(show=not as_json) as progress:
        found = raise_nodes(
            opened_subject(model, data, data_num),
            wanted,
            threshold,
            sensitive_nodes=nodes,
            qtype=qtype,
            progress=progress,
        )
    files = found.save(save_dir)
    if as_json:
        print_json(
            {
                "metric": metric,
                "qtype": qtype,
                "steps": found.steps,
                "worst": found.worst,
                "note": found.note,
            }
        )
    else:
        print_raised(found, files)
