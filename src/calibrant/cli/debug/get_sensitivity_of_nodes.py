"""`calibrant debug get-sensitivity-of-nodes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json
from calibrant.cli.debug._options import (
    CalibratedData,
    CalibratedModel,
    Interested,
    Metrics,
    OutputNode,
)

__all__ = ["EXAMPLES", "get_sensitivity_of_nodes"]

EXAMPLES = """Examples:

`calibrant debug get-sensitivity-of-nodes run/calibrated_model.onnx calibration_data/ -n weight -v`

`calibrant debug get-sensitivity-of-nodes run/calibrated_model.onnx calib.npz -m [cosine-similarity,mse] -s sensitivity/`

`calibrant debug get-sensitivity-of-nodes run/calibrated_model.onnx calib.npz -i [[/a/Conv,/b/Conv],[/c/Conv]]`
"""


def get_sensitivity_of_nodes(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    metrics: Metrics = None,
    output_node: OutputNode = None,
    node_type: Annotated[
        str,
        typer.Option(
            "-n",
            "--node-type",
            metavar="NAME",
            help="node: ordinary nodes, with all calibration nodes in front of them; weight or activation: calibration "
            "nodes of that kind.",
        ),
    ] = "node",
    data_num: Annotated[
        int | None,
        typer.Option(
            "-d",
            "--data-num",
            metavar="N",
            min=1,
            help="Samples. Default: 8, or all where there are fewer.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Show all nodes, not the worst 15 alone."),
    ] = False,
    interested_nodes: Interested = None,
    save_dir: Annotated[
        Path | None,
        typer.Option(
            "-s",
            "--save-dir",
            metavar="DIR",
            help="Write sensitivity_of_TYPE.log, .csv and .json into a folder, and figures as they come: a run that was "
            "interrupted goes on from there.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank nodes by what the outputs lose when each alone is quantized.

    All other nodes are float. The worst node is first: raise its precision, or look at its distribution next.
    """
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_ranked
    from calibrant.debug.samples import opened_subject
    from calibrant.debug.sensitivity import rank_nodes

    if save_dir is not None:
        check_folder(save_dir)
    asked = flat(names_of(metrics, "-m"), "-m")
    nodes = names_of(interested_nodes, "-i")
    with quiet_stdout(as_json), progress_bars(show=not as_json) as progress:
        subject = opened_subject(model, data, data_num)
        found = rank_nodes(
            subject,
            asked or "cosine-similarity",
            output_node=output_node,
            node_type=node_type,
            interested_nodes=nodes,
            save_dir=save_dir,
            progress=progress,
        )
    files = found.save(save_dir) if save_dir is not None else []
    if as_json:
        print_json(found.content())
    else:
        print_ranked(found, files, verbose=verbose)
