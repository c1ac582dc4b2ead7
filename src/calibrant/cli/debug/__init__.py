"""`calibrant debug`: the commands of the accuracy debug tool, one file a command."""

from __future__ import annotations

import typer

from calibrant.cli._names import NamedCommand
from calibrant.cli.debug import get_sensitivity_of_nodes as sensitivity

__all__ = ["group"]

HELP = """Find out where a calibrated model loses its accuracy, with the commands of the vendor's debug tool.

A calibrated model is the float model with its quantizers in it: **calibrant quantize model.onnx --data calib.npz --out run/
--format horizon** writes run/calibrated_model.onnx. The float reference is the same model with all of them switched off.
"""


def group() -> typer.Typer:
    """Return the commands."""
    app = typer.Typer(help=HELP, rich_markup_mode="markdown", no_args_is_help=True)
    app.command("get-sensitivity-of-nodes", cls=NamedCommand, epilog=sensitivity.EXAMPLES)(
        sensitivity.get_sensitivity_of_nodes
    )
    return app
