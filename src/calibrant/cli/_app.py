"""The commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from calibrant.cli._names import NamedCommand
from calibrant.cli.advise import EXAMPLES as ADVISE_EXAMPLES
from calibrant.cli.advise import advise
from calibrant.cli.compare import EXAMPLES as COMPARE_EXAMPLES
from calibrant.cli.compare import compare
from calibrant.cli.convert_config import EXAMPLES as CONVERT_EXAMPLES
from calibrant.cli.convert_config import convert_config
from calibrant.cli.debug import group as debug_group
from calibrant.cli.demo import demo
from calibrant.cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from calibrant.cli.evaluate import evaluate
from calibrant.cli.explain import EXAMPLES as EXPLAIN_EXAMPLES
from calibrant.cli.explain import explain
from calibrant.cli.init import EXAMPLES as INIT_EXAMPLES
from calibrant.cli.init import init
from calibrant.cli.list import EXAMPLES as LIST_EXAMPLES
from calibrant.cli.list import list_names
from calibrant.cli.quantize import EXAMPLES as QUANTIZE_EXAMPLES
from calibrant.cli.quantize import quantize
from calibrant.cli.report import EXAMPLES as REPORT_EXAMPLES
from calibrant.cli.report import report
from calibrant.cli.sensitivity import EXAMPLES as SENSITIVITY_EXAMPLES
from calibrant.cli.sensitivity import sensitivity
from calibrant.cli.train import EXAMPLES as TRAIN_EXAMPLES
from calibrant.cli.train import train
from calibrant.cli.tune import EXAMPLES as TUNE_EXAMPLES
from calibrant.cli.tune import tune

__all__ = ["command"]

HELP = """Quantize a trained network so that it still meets its accuracy requirement.

A first run, on data that comes with the package: **calibrant demo**

Your own model: **calibrant quantize model.onnx --data calib.npz --out run/**
"""

EPILOG = "Exit codes: 0 done, 1 below a limit that was set, 2 command line, 3 model, 4 data, 5 recipe or option, 6 not supported, 7 not writable, 8 requirement not met (the best is written), 9 package missing."


def _version(value: bool) -> None:
    if value:
        from calibrant._version import __version__

        typer.echo(f"calibrant {__version__}")
        raise typer.Exit()


def command() -> Any:
    """Return the command line as click has it."""
    app = typer.Typer(
        name="calibrant",
        help=HELP,
        epilog=EPILOG,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
        ] = False,
    ) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.command(cls=NamedCommand, epilog=QUANTIZE_EXAMPLES)(quantize)
    app.command(cls=NamedCommand, epilog=TUNE_EXAMPLES)(tune)
    app.command(cls=NamedCommand, epilog=TRAIN_EXAMPLES)(train)
    app.command(cls=NamedCommand, epilog=EVALUATE_EXAMPLES)(evaluate)
    app.command(cls=NamedCommand, epilog=COMPARE_EXAMPLES)(compare)
    app.command(cls=NamedCommand, epilog=SENSITIVITY_EXAMPLES)(sensitivity)
    app.command(cls=NamedCommand, epilog=REPORT_EXAMPLES)(report)
    app.command(cls=NamedCommand, epilog=ADVISE_EXAMPLES)(advise)
    app.command(cls=NamedCommand, epilog=INIT_EXAMPLES)(init)
    app.command(cls=NamedCommand, epilog=EXPLAIN_EXAMPLES)(explain)
    app.command("list", cls=NamedCommand, epilog=LIST_EXAMPLES)(list_names)
    app.command("convert-config", cls=NamedCommand, epilog=CONVERT_EXAMPLES)(convert_config)
    app.command(cls=NamedCommand)(demo)
    app.add_typer(debug_group(), name="debug")
    return typer.main.get_command(app)
