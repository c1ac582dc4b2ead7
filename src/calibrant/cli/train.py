"""`calibrant train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._names import completing, metrics
from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    Debug,
    Dialect,
    Fix,
    Json,
    Model,
    Preprocess,
    Provider,
    Quiet,
    Report,
    Strict,
    Target,
    Threads,
    Verbose,
)

__all__ = ["EXAMPLES", "train"]

#: Exit code where training is no better than calibration alone; the calibrated model is written.
BEST_EFFORT = 8

_PANEL = "Training"

EXAMPLES = """Examples:

`calibrant train model.onnx --data train.npz --eval eval.npz --metric top1 --recipe qat.cfg --out run`

`calibrant train model.onnx --data train.npz --minutes 10 --out run`

`calibrant train model.onnx --data train.npz --out run --resume`

`calibrant train model.onnx --data train.npz --minutes 10 --out run --report`
"""


def train(
    model: Model,
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Training samples, in any form that calibration data may have; labels are not needed. Ranges are calibrated "
            "on some of them first.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder for the results: the files of quantize, trained.onnx (the float model with trained weights), "
            "training.jsonl and checkpoint.npz, from which a run that was ended goes on.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ],
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="DATA",
            help="Evaluation data with references, as for 'calibrant evaluate': it says whether training is better than "
            "calibration, and chooses nothing else. Default: outputs are compared with the float model's on training samples "
            "that are held back.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            autocompletion=completing(metrics),
            help="{metrics} (any number behind top; options behind a comma: map,head=yolox), or module:function (more is better); needed with --eval.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is wanted, in any dialect: AMCT's configurations for training, or any recipe. - for standard input.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    dialect: Dialect = None,
    strict: Strict = False,
    target: Target = None,
    fix: Fix = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="How often all samples are gone through. Default: 3.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Wall time of training, in the place of epochs.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="distill: answer as the float model does; labels: cross entropy with an array 'labels' in the data; "
            "module:function: a function of outputs, the float model's outputs, and a dict of what else the data has.",
            rich_help_panel=_PANEL,
        ),
    ] = "distill",
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="module:function that changes samples each time they are shown: called with a tuple of inputs, a dict of what "
            "else the data has, and a generator; returns the first two.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Largest learning rate, as a share of what is trained. Default: what suits the widths, about 2e-4 for 8 bits "
            "and 2e-3 for 4.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Samples in a step.", rich_help_panel=_PANEL),
    ] = 64,
    calibration_samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Samples that ranges are calibrated on, evenly over the data.",
            rich_help_panel=_PANEL,
        ),
    ] = 128,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Decides the order of the samples.", rich_help_panel=_PANEL
        ),
    ] = 0,
    bn: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Statistics of batch normalization: frozen (those of the file; for short runs) or live (those of each batch; "
            "for runs of many epochs).",
            rich_help_panel=_PANEL,
        ),
    ] = "frozen",
    float_too: Annotated[
        bool,
        typer.Option(
            "--float-too",
            help="Train the float model as long with the same loss and score it beside: what of a gain is not due to "
            "quantizers. It stays as it is with distill.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where a run in this folder ended.", rich_help_panel=_PANEL
        ),
    ] = False,
    preprocess: Preprocess = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where torch trains: cpu, cuda, cuda:1.",
            rich_help_panel=_PANEL,
        ),
    ] = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    page: Report = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train a float ONNX model with its quantizers, and write what comes out as quantize does.

    Calibration comes first. Training then moves weights, biases and ranges so that the deployed model answers as the
    float model does; labels are not needed. What is trained is the graph that is deployed, which is checked. Where
    training is no better than calibration alone, the calibrated model is written and the exit code is 8. Needs torch:
    pip install "calibrant[torch]".
    """
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._reported import add_report, check_report
    from calibrant.cli._summary import (
        check_folder,
        check_loudness,
        print_json,
        print_warnings,
        quiet_stdout,
    )
    from calibrant.cli._trained import print_trained
    from calibrant.dialects import load_recipe
    from calibrant.errors import ConfigValueError
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.qat import train_files
    from calibrant.recipe import Recipe
    from calibrant.recipe.fixed import fixed_by_text, merged
    from calibrant.report.evidence import network_of

    if (evaluation is None) != (metric is None):
        raise ConfigValueError(
            "--eval and --metric go together: one says on what, the other by what."
        )
    wanted = (
        load_recipe(recipe_source(recipe), dialect=dialect, strict=strict)
        if recipe is not None
        else Recipe()
    )
    if fix:
        wanted = replace(wanted, fix=merged(wanted.fix, fixed_by_text(fix, "--fix")))
    check_report(out, report=page)
    check_folder(out)
    check_loudness(quiet=quiet, verbose=verbose)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        fitted, files = train_files(
            model_of(model, data),
            data,
            wanted,
            out=out,
            evaluation=evaluation,
            metric=metric,
            target=target,
            epochs=epochs,
            minutes=minutes,
            loss=loss,
            augment=augment,
            lr=lr,
            batch_size=batch_size,
            calibration_samples=calibration_samples,
            seed=seed,
            bn=bn,
            float_too=float_too,
            resume=resume,
            preprocess=preprocess,
            provider=provider,
            threads=threads,
            device=device,
            progress=progress,
        )
    if page:
        network = prepare(load(model_of(model, data)))
        fuse_batchnorm(network)
        files = [*files, *add_report(out, network_of(network))]
    if as_json:
        print_json({**fitted.result.summary, "files": [str(f) for f in files]})
    elif quiet:
        print_warnings(fitted.result.summary)
    else:
        print_trained(fitted, metric or "sqnr_db", files)
    if not fitted.better:
        raise typer.Exit(BEST_EFFORT)
