"""Options that the debug commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "LISTS",
    "METRICS",
    "CalibratedData",
    "CalibratedModel",
    "DataNum",
    "Interested",
    "Metrics",
    "NodesList",
    "OutputNode",
    "ResultDir",
]

#: How lists are written, for helps.
LISTS = "[a,b], an option given several times, or @file with one a line"

METRICS = "cosine-similarity, mse, mae, mre, sqnr, chebyshev"

CalibratedModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="The calibrated model: calibrated_model.onnx, or another QDQ model with float weights.",
        show_default=False,
    ),
]
CalibratedData = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Calibration data: a folder with a sub-folder of .npy files for each input, a .npz file, or module:function.",
        show_default=False,
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--metrics",
        metavar="NAMES",
        help=f"Of {METRICS}: one or several ({LISTS}); the first one orders. Default: cosine-similarity.",
        show_default=False,
    ),
]
OutputNode = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output-node",
        metavar="NODE",
        help="Compare at what this ordinary node gives, and not at the outputs of the model.",
        show_default=False,
    ),
]
Interested = Annotated[
    list[str] | None,
    typer.Option(
        "-i",
        "--interested-nodes",
        metavar="NODES",
        help=f"Only these nodes, of any kind (the node type does not count then): {LISTS}. [[a,b],[c]] quantizes a and b together.",
        show_default=False,
    ),
]
DataNum = Annotated[
    int | None,
    typer.Option(
        "-d",
        "--data-num",
        metavar="N",
        min=1,
        help="Samples. Default: 8, or all where there are fewer.",
        show_default=False,
    ),
]
NodesList = Annotated[
    list[str],
    typer.Option(
        "-n",
        "--nodes-list",
        metavar="NODES",
        help=f"Nodes to look at: {LISTS}. 'calibrant debug list-nodes' says what there is.",
        show_default=False,
    ),
]
ResultDir = Annotated[
    Path, typer.Option("-s", "--save-dir", metavar="DIR", help="Folder of the results.")
]
