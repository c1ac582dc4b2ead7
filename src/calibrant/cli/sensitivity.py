"""`calibrant sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli._files import recipe_source
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
    Threads,
    Verbose,
)

__all__ = ["EXAMPLES", "sensitivity"]

EXAMPLES = """Examples:

`calibrant sensitivity model.onnx --data calib.npz`

`calibrant sensitivity model.onnx --data calib.npz --precision int8,int16 --out layers/`

`calibrant sensitivity model.onnx --data calib.npz --mode all-but --metric cosine_similarity --json`

`calibrant sensitivity model.onnx --data calib.npz --precision int8,int4 --by gradient`

`calibrant sensitivity model.onnx --data calib.npz --out layers/ --report`
"""

_PANEL = HOW_PANEL.split(" (")[0]


def sensitivity(
    context: typer.Context,
    model: Model,
    *,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write sensitivity.csv and sensitivity.json into a folder, and figures as they come: a run that was "
            "interrupted goes on from there.",
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
            help="Samples that layers are ranked on; 0 for all. Scales are chosen from all data.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = 16,
    batch_size: BatchSize = None,
    preprocess: Preprocess = None,
    fix: Fix = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="How scales are chosen, in any dialect; - for standard input. Default: ranges by mse, nothing tried.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAMES",
            help="int8, int16, int4 (weights 4 bits, activations 8) or float16; several with commas.",
            rich_help_panel=_PANEL,
        ),
    ] = "int8",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="NAME",
            help="alone: one layer is quantized, all else float; all-but: one layer is float, all else quantized.",
            rich_help_panel=_PANEL,
        ),
    ] = "alone",
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="runs|gradient",
            help="runs: what lies behind a layer is run again; gradient: all layers and outputs at once from a few backward passes, "
            "an estimate, for --mode alone and --metric sqnr_db, without --budget. Needs torch (the extra torch).",
            rich_help_panel=_PANEL,
        ),
    ] = "runs",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="What layers are ranked by: a name of the metrics, such as sqnr_db or cosine_similarity, or "
            "module:function.",
            rich_help_panel=_PANEL,
        ),
    ] = "sqnr_db",
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Measure this layer; may be given several times. Default: all that are quantized.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="NAME",
            help="What a layer costs: macs (multiplications of one sample) or bytes (of its weight).",
            rich_help_panel=_PANEL,
        ),
    ] = "macs",
    per_cost: Annotated[
        bool,
        typer.Option(
            "--per-cost",
            help="Show those first in the table that lose most for what they cost.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    budget: Annotated[
        float,
        typer.Option(
            "--budget",
            metavar="X",
            min=0,
            help="Passes of the samples through the model that a layer may cost on average; layers that lose little are "
            "then estimated from the first samples. 0 measures each on all.",
            rich_help_panel=_PANEL,
        ),
    ] = 0.45,
    provider: Provider = "cpu",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    page: Report = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Rank the layers of a float model by what its outputs lose when each is quantized.

    One layer alone is quantized, or one alone is left in float; only what lies behind it is run again.
    """
    from calibrant.cli._fixed import fixed_values
    from calibrant.cli._given import is_given
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._ranked import print_ranking
    from calibrant.cli._reported import add_report, check_report
    from calibrant.cli._summary import check_folder, check_loudness, print_json, quiet_stdout
    from calibrant.diagnose import sensitivity as run
    from calibrant.diagnose.ways import check_by
    from calibrant.errors import ConfigValueError

    check_by(by, "--by")
    if by == "gradient" and (mode, metric) != ("alone", "sqnr_db"):
        raise ConfigValueError(
            f"--by gradient ranks layers alone by sqnr_db; the mode is '{mode}' and the metric '{metric}'."
        )
    if by == "gradient" and is_given(context, "budget"):
        raise ConfigValueError(
            "--budget is for --by runs: gradients tell of all layers at once. Leave one of the two out."
        )
    if per_cost and (as_json or quiet):
        raise ConfigValueError(
            f"--per-cost orders the table, and {'--json' if as_json else '--quiet'} prints none; in JSON and in the files each layer "
            "has its rank_per_cost."
        )
    check_report(out, report=page)
    if out is not None:
        check_folder(out)
    check_loudness(quiet=quiet, verbose=verbose)
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        common: dict[str, Any] = {
            "fix": fixed_values(fix),
            "cost": cost,
            "layers": layer or None,
            "samples": samples or None,
            "batch_size": batch_size,
            "preprocess": preprocess,
            "provider": provider,
            "threads": threads,
            "progress": progress,
        }
        what = (
            model_of(model, data),
            data,
            recipe_source(recipe) if recipe is not None else None,
            [p.strip() for p in precision.split(",")],
        )
        if by == "gradient":
            from calibrant.qat import gradient_sensitivity

            ranking = gradient_sensitivity(*what, **common)
        else:
            ranking = run(
                *what,
                metric,
                mode=mode,  # type: ignore[arg-type]  # any text: the function says what is allowed
                budget=budget or None,
                out=out,
                **common,
            )
    files = ranking.save(out) if out is not None else []
    if page and out is not None:
        files += add_report(out, ranking.network)
    if as_json:
        print_json(ranking.content())
    elif not quiet:
        print_ranking(ranking, files, per_cost=per_cost, verbose=verbose)
