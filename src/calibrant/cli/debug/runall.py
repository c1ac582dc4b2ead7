"""`calibrant debug runall`."""

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
    Interested,
    OutputNode,
    ResultDir,
)

__all__ = ["EXAMPLES", "runall"]

EXAMPLES = """Examples:

`calibrant debug runall run/calibrated_model.onnx calibration_data/ -s debug_result/`

`calibrant debug runall run/calibrated_model.onnx calib.npz -nt node -nm [cosine-similarity,sqnr] -dn 8`
"""


def _nodes(*names: str, about: str) -> object:
    return typer.Option(*names, metavar="NODES", help=about, show_default=False)


def runall(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    save_dir: ResultDir = Path("./debug_result/"),
    ns_metrics: Annotated[
        list[str] | None,
        typer.Option(
            "-nm",
            "--ns-metrics",
            metavar="NAMES",
            help=f"Metrics of the rankings, of {METRICS}: {LISTS}; the first one orders. Default: cosine-similarity.",
            show_default=False,
        ),
    ] = None,
    output_node: OutputNode = None,
    node_type: Annotated[
        str | None,
        typer.Option(
            "-nt",
            "--node-type",
            metavar="NAME",
            help="node, weight or activation. Default: weight, then activation.",
            show_default=False,
        ),
    ] = None,
    data_num: Annotated[
        int, typer.Option("-dn", "--data-num", metavar="N", min=1, help="Samples of all parts.")
    ] = 1,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print the rankings.")] = False,
    interested_nodes: Interested = None,
    dis_nodes_list: Annotated[
        list[str] | None,
        _nodes(
            "-dnl",
            "--dis-nodes-list",
            about=f"Nodes of the distributions: {LISTS}. Default: the worst 5 of each ranking.",
        ),
    ] = None,
    cw_nodes_list: Annotated[
        list[str] | None,
        _nodes("-cn", "--cw-nodes-list", about="Nodes of the box plots. Default: the same nodes."),
    ] = None,
    axis: Annotated[
        int | None,
        typer.Option(
            "-a", "--axis", metavar="N", help="Axis of the channels.", show_default=False
        ),
    ] = None,
    quantize_node: Annotated[
        list[str] | None,
        _nodes(
            "-qn",
            "--quantize-node",
            about="Curves with these nodes alone quantized. Default, with neither list: weight and activation.",
        ),
    ] = None,
    non_quantize_node: Annotated[
        list[str] | None,
        _nodes("-nqn", "--non-quantize-node", about="Curves with all but these nodes quantized."),
    ] = None,
    ae_metric: Annotated[
        str, typer.Option("-am", "--ae-metric", metavar="NAME", help="Metric of the curves.")
    ] = "cosine-similarity",
    average_mode: Annotated[
        bool,
        typer.Option(
            "-avm", "--average-mode", help="Each value of a curve is the mean of all up to it."
        ),
    ] = False,
    pick_threshold: Annotated[
        float | None,
        typer.Option(
            "-pt",
            "--pick-threshold",
            metavar="X",
            help="Nodes are raised that are not better than this. Default: 0.999 with cosine-similarity.",
            show_default=False,
        ),
    ] = None,
    sensitive_nodes: Annotated[
        list[str] | None,
        _nodes("-sn", "--sensitive-nodes", about="Raise these nodes."),
    ] = None,
    as_json: Json = False,
    page: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write report.html into the folder as well: all of it, with the network and the pictures, in one page that "
            'opens offline. Needs pip install "calibrant[report]".',
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Run all parts of the debug tool into one folder, with one page (index.html) that shows them.

    Rankings, distributions, channels, curves of accumulated error, tensors, collapse, and what raising sensitive nodes wins. A
    part that fails does not stop the others.
    """
    from calibrant.cli._lists import flat, names_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._reported import add_report, check_report
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_parts
    from calibrant.debug import runall as run
    from calibrant.errors import ConfigValueError

    if pick_threshold is not None and sensitive_nodes:
        raise ConfigValueError("-pt picks nodes, and -sn names them; give one of the two.")
    check_report(save_dir, report=page)
    check_folder(save_dir)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose)) as progress:
        summary = run(
            model,
            data,
            save_dir,
            flat(names_of(ns_metrics, "-nm"), "-nm") or "cosine-similarity",
            output_node,
            node_type,
            data_num,
            verbose,
            names_of(interested_nodes, "-i"),
            flat(names_of(dis_nodes_list, "-dnl"), "-dnl"),
            flat(names_of(cw_nodes_list, "-cn"), "-cn"),
            axis,
            names_of(quantize_node, "-qn"),
            names_of(non_quantize_node, "-nqn"),
            ae_metric,
            average_mode,
            pick_threshold,
            flat(names_of(sensitive_nodes, "-sn"), "-sn"),
            progress=progress,
        )
    made = add_report(save_dir, None) if page else []
    if as_json:
        print_json(summary)
    else:
        print_parts(summary, save_dir, made[-1:])
