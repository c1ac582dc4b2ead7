"""`calibrant debug list-nodes`."""

from __future__ import annotations

import csv
import sys
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json
from calibrant.cli.debug._options import CalibratedData, CalibratedModel, DataNum

__all__ = ["EXAMPLES", "list_nodes"]

EXAMPLES = """Examples:

`calibrant debug list-nodes run/calibrated_model.onnx calibration_data/`

`calibrant debug list-nodes run/calibrated_model.onnx calib.npz --csv > nodes.csv`
"""


def list_nodes(
    model: CalibratedModel,
    data: CalibratedData,
    *,
    data_num: DataNum = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the nodes of a calibrated model: the names that all other commands take, types, thresholds, and what is clipped."""
    from calibrant.cli._summary import print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_nodes
    from calibrant.debug import list_nodes as run
    from calibrant.errors import ConfigValueError

    if as_csv and as_json:
        raise ConfigValueError("--csv and --json are given; one of them can be.")
    with quiet_stdout(as_json or as_csv):
        rows = run(model, data, data_num)
    if as_json:
        print_json({"nodes": rows})
    elif as_csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(rows[0])
        for row in rows:
            table.writerow([" ".join(v) if isinstance(v, tuple) else v for v in row.values()])
    else:
        print_nodes(rows)
