"""`calibrant evaluate`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from calibrant.cli._names import completing, metrics
from calibrant.cli._options import (
    DATA_PANEL,
    BatchSize,
    Data,
    Debug,
    Json,
    Model,
    Preprocess,
    Provider,
    Quiet,
    Threads,
    Verbose,
)

__all__ = ["EXAMPLES", "evaluate"]

EXAMPLES = """Examples:

`calibrant evaluate model.onnx --data eval.npz --metric top1`

`calibrant evaluate run/deploy.onnx --data eval.npz --metric my_metrics:iou`

`calibrant evaluate run/deploy.onnx --data eval.npz --metric top1 --min 0.87 && ship run/deploy.onnx`
"""


def evaluate(
    model: Model,
    *,
    data: Data,
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            autocompletion=completing(metrics),
            help="{metrics} (any number behind top; options behind a comma: map,head=yolox), or module:function, which gets a list of all outputs and "
            "a dict of references and returns a number.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ],
    at_least: Annotated[
        float | None,
        typer.Option(
            "--min",
            metavar="VALUE",
            help="Exit with 1 where the value is below this, for scripts.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = None,
    preprocess: Preprocess = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure a float or quantized model with a task metric.

    DATA holds the references beside the inputs: an array 'labels' in the .npz file, a file labels.npy or
    labels.txt in the folder, or an array named like the output it belongs to.
    """
    from calibrant.analysis.evaluate import evaluate as run
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_loudness, print_evaluation, print_json, quiet_stdout
    from calibrant.errors import ConfigValueError

    if at_least is not None and math.isnan(at_least):
        raise ConfigValueError("--min is nan; it is a number.")
    check_loudness(quiet=quiet, verbose=verbose)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        result = run(
            model_of(model, data),
            data,
            metric,
            batch_size=batch_size,
            preprocess=preprocess,
            provider=provider,
            threads=threads,
            progress=progress,
        )
    if as_json:
        from dataclasses import asdict

        limit = {} if at_least is None else {"min": at_least, "met": result.value >= at_least}
        print_json({"model": str(model), **asdict(result), **limit})
    elif not quiet:
        print_evaluation(str(model), result)
    if at_least is not None and not result.value >= at_least:  # NaN is below everything
        typer.echo(f"{result.metric} is {result.value:.6g}, below {at_least:g}.", err=True)
        raise typer.Exit(1)
