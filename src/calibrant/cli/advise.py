"""`calibrant advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._names import completing, metrics
from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    BatchSize,
    Data,
    Debug,
    Fix,
    Json,
    Model,
    Preprocess,
    Provider,
    Quiet,
    Report,
    Target,
    Threads,
    Verbose,
)

__all__ = ["EXAMPLES", "advise"]

EXAMPLES = """Examples:

`calibrant advise model.onnx --data calib.npz --target onnxruntime`

`calibrant advise model.onnx --data calib.npz --recipe recipe.yaml --eval eval.npz --metric top1`

`calibrant advise model.onnx --data calib.npz --apply 1 --out run/`

`calibrant advise model.onnx --data calib.npz --out advice/ --report`

How to read a step: the layers it is for, what is wrong there, what to do, and what the outputs gain by it in dB. 6 dB are half
the error, 20 dB a tenth. Causes: clipping (values lie beyond the range: choose a wider one), rounding (steps are too coarse:
more bits, or float), range (few channels or values hold the range: one scale a channel, balancing, a narrower range), mask
(-inf or -1e9 spoils the range: clamp it), data (calibration data is not like real data: mend it first).
"""

_PANEL = HOW_PANEL.split(" (")[0]


def advise(
    model: Model,
    *,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="With --apply: folder for the quantized model, as of 'calibrant quantize'. Without: folder for advice.json.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    apply: Annotated[
        int | None,
        typer.Option(
            "--apply",
            metavar="N",
            min=1,
            help="Quantize with step N and write the model, with its recipe, to --out.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="DATA",
            help="Samples like those of real use: calibration data is checked against them, and scores are taken on them. "
            "Default: scores on the calibration data.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL|DATA",
            help="What the float model should answer to the calibration data: outputs of the trained network by name (.npz), or "
            "another ONNX file of it.",
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
            help="{metrics} (any number behind top; options behind a comma: map,head=yolox), or module:function, with references in --eval: told beside the scores.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="How the model is quantized now, in any dialect; - for standard input. Default: as 'calibrant quantize' does "
            "it.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="N",
            min=1,
            help="Samples that choose the steps, half of all at most; gains are told on up to 16 others. Ranges come from all data.",
            rich_help_panel=_PANEL,
        ),
    ] = 8,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            metavar="M",
            min=0,
            help="Minutes of processor time for trials, about; 0 for as many as they take.",
            rich_help_panel=_PANEL,
        ),
    ] = 3.0,
    batch_size: BatchSize = None,
    preprocess: Preprocess = None,
    fix: Fix = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    page: Report = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Say what to do about the accuracy that a quantized model loses, best step first.

    Data and model are checked first. Then each quantizer is measured alone, and what could be done about the worst is tried: the
    gain of a step is that of a recipe that was solved, not a guess. Steps that gain nothing are not shown.
    """
    from calibrant.cli._advised import applied, print_advice
    from calibrant.cli._fixed import fixed_values
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._reported import add_report, check_report
    from calibrant.cli._summary import check_folder, check_loudness, print_json, quiet_stdout
    from calibrant.diagnose import advise as run
    from calibrant.errors import ConfigValueError
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.report.evidence import network_of

    if apply is not None and out is None:
        raise ConfigValueError("--apply writes a model; give a folder for it (--out).")
    check_report(out, report=page)
    if out is not None:
        check_folder(out)
    files: list[Path] = []
    check_loudness(quiet=quiet, verbose=verbose)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        network = model_of(model, data)
        advice = run(
            network,
            data,
            target=target,
            recipe=recipe_source(recipe) if recipe is not None else None,
            fix=fixed_values(fix),
            evaluation=evaluation,
            reference=reference,
            metric=metric,
            samples=samples,
            minutes=minutes or None,
            batch_size=batch_size,
            preprocess=preprocess,
            provider=provider,
            threads=threads,
            progress=progress,
        )
        if apply is not None and out is not None:
            files = applied(
                advice,
                apply,
                out,
                model=network,
                data=data,
                batch_size=batch_size,
                preprocess=preprocess,
                provider=provider,
                threads=threads,
                progress=progress,
            )
        elif out is not None:
            files = advice.save(out)
        if page and out is not None:
            if apply is not None:
                files += advice.save(out)
            prepared = prepare(load(network))
            fuse_batchnorm(prepared)
            files += add_report(out, network_of(prepared))
    if as_json:
        print_json(advice.content())
    elif not quiet:
        print_advice(advice, files, verbose=verbose)
