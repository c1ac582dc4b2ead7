"""`calibrant compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    RUN_PANEL,
    Data,
    Debug,
    Fix,
    Json,
    Preprocess,
    Provider,
    Quiet,
    Report,
    Threads,
    Verbose,
)

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """Examples:

`calibrant compare model.onnx run/deploy.onnx --data calib.npz`

`calibrant compare model.onnx other_tool.onnx --data calib.npz --out comparison/`

`calibrant compare model.onnx run/deploy.onnx --data calib.npz --out run --report`

`calibrant compare old.onnx new.onnx --data calib.npz --digits 5`
"""


def compare(
    float_model: Annotated[
        Path,
        typer.Argument(
            metavar="FLOAT",
            help="The model that is right; module:function for a module of torch.",
            show_default=False,
        ),
    ],
    quantized: Annotated[
        Path,
        typer.Argument(
            metavar="QUANTIZED",
            help="The model to compare with it: QDQ of any tool, fake-quant, or float.",
            show_default=False,
        ),
    ],
    *,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write compare.csv and compare.json into a folder.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="N",
            min=0,
            help="Samples to compare; 0 for all.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = 16,
    preprocess: Preprocess = None,
    fix: Fix = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="The record of the quantization, which says what was done to the float model. Default: record.txt beside "
            "QUANTIZED, if it is there.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    info: Annotated[
        Path | None,
        typer.Option(
            "--info",
            metavar="FILE",
            help="A quant-info file, which names the nodes around each layer. Default: quant_info.json beside QUANTIZED, if "
            "it is there.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="What layers are ordered by: a name of the metrics, such as sqnr_db or cosine_similarity.",
            rich_help_panel=HOW_PANEL.split(" (")[0],
        ),
    ] = "sqnr_db",
    digits: Annotated[
        int | None,
        typer.Option(
            "--digits",
            metavar="N",
            min=0,
            max=15,
            help="Demand that values agree to N decimal digits, and count those that do not: for two models that should be "
            "equal.",
            rich_help_panel=HOW_PANEL.split(" (")[0],
            show_default=False,
        ),
    ] = None,
    born: Annotated[
        bool,
        typer.Option(
            "--born/--no-born",
            help="Say how much of each layer's error arrived, how much is its own, and where that comes from.",
            rich_help_panel=HOW_PANEL.split(" (")[0],
        ),
    ] = True,
    provider: Provider = "cpu",
    quantized_provider: Annotated[
        str | None,
        typer.Option(
            "--quantized-provider",
            metavar="NAME",
            help="Where QUANTIZED runs. Default: where FLOAT does.",
            rich_help_panel=RUN_PANEL,
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    page: Report = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare a quantized model with its float model, layer by layer.

    Layers are found by name, by structure and by the record; what is not found is listed. Any two models of one network may
    be compared.
    """
    from calibrant.analysis.compare import compare as run
    from calibrant.cli._compared import print_report
    from calibrant.cli._fixed import fixed_values
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._reported import add_report, check_report
    from calibrant.cli._summary import check_folder, check_loudness, print_json, quiet_stdout

    check_report(out, report=page)
    if out is not None:
        check_folder(out)
    check_loudness(quiet=quiet, verbose=verbose)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        report = run(
            model_of(float_model, data),
            quantized,
            data,
            fix=fixed_values(fix),
            record=record,
            info=info,
            samples=samples or None,
            metric=metric,
            digits=digits,
            born=born,
            preprocess=preprocess,
            provider=provider,
            quantized_provider=quantized_provider,
            threads=threads,
            progress=progress,
        )
    files = report.save(out) if out is not None else []
    if page and out is not None:
        files += add_report(out, report.network)
    if as_json:
        print_json(report.content())
    elif not quiet:
        print_report(report, files, verbose=verbose)
