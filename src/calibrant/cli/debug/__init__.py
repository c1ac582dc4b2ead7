"""`calibrant debug`: the commands of the accuracy debug tool, one file a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from calibrant.cli._names import NamedCommand
from calibrant.cli.debug.collapse_check import EXAMPLES as COLLAPSE_EXAMPLES
from calibrant.cli.debug.collapse_check import collapse_check
from calibrant.cli.debug.compare import EXAMPLES as COMPARE_EXAMPLES
from calibrant.cli.debug.compare import compare
from calibrant.cli.debug.get_channelwise_data_distribution import EXAMPLES as CHANNEL_EXAMPLES
from calibrant.cli.debug.get_channelwise_data_distribution import (
    get_channelwise_data_distribution,
)
from calibrant.cli.debug.get_sensitivity_of_nodes import EXAMPLES as SENSITIVITY_EXAMPLES
from calibrant.cli.debug.get_sensitivity_of_nodes import get_sensitivity_of_nodes
from calibrant.cli.debug.list_nodes import EXAMPLES as LIST_EXAMPLES
from calibrant.cli.debug.list_nodes import list_nodes
from calibrant.cli.debug.plot_acc_error import EXAMPLES as CURVE_EXAMPLES
from calibrant.cli.debug.plot_acc_error import plot_acc_error
from calibrant.cli.debug.plot_distribution import EXAMPLES as DISTRIBUTION_EXAMPLES
from calibrant.cli.debug.plot_distribution import plot_distribution
from calibrant.cli.debug.runall import EXAMPLES as RUNALL_EXAMPLES
from calibrant.cli.debug.runall import runall
from calibrant.cli.debug.sensitivity_analysis import EXAMPLES as RAISING_EXAMPLES
from calibrant.cli.debug.sensitivity_analysis import sensitivity_analysis
from calibrant.cli.debug.tensor_analysis import EXAMPLES as TENSOR_EXAMPLES
from calibrant.cli.debug.tensor_analysis import tensor_analysis

__all__ = ["group"]

HELP = """Find out where a calibrated model loses its accuracy, with the commands of the vendor's debug tool.

A calibrated model is the float model with its quantizers in it: **calibrant quantize model.onnx --data calib.npz --out run/
--format horizon** writes run/calibrated_model.onnx. The float reference is the same model with all of them switched off.

Everything at once: **calibrant debug runall run/calibrated_model.onnx calib.npz**. Step by step: curves of weights against
activations, then the ranking of the worse kind, then the distributions and channels of its worst nodes.
"""

COMMANDS: tuple[tuple[Callable[..., Any], str], ...] = (
    (runall, RUNALL_EXAMPLES),
    (list_nodes, LIST_EXAMPLES),
    (plot_acc_error, CURVE_EXAMPLES),
    (get_sensitivity_of_nodes, SENSITIVITY_EXAMPLES),
    (plot_distribution, DISTRIBUTION_EXAMPLES),
    (get_channelwise_data_distribution, CHANNEL_EXAMPLES),
    (sensitivity_analysis, RAISING_EXAMPLES),
    (tensor_analysis, TENSOR_EXAMPLES),
    (collapse_check, COLLAPSE_EXAMPLES),
    (compare, COMPARE_EXAMPLES),
)


def group() -> typer.Typer:
    """Return the commands."""
    app = typer.Typer(help=HELP, rich_markup_mode="markdown", no_args_is_help=True)
    for function, examples in COMMANDS:
        name = function.__name__.replace("_", "-")
        app.command(name, cls=NamedCommand, epilog=examples)(function)
    return app
