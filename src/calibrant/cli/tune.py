"""`calibrant tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._names import completing, metrics
from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    BatchSize,
    Data,
    Debug,
    Json,
    Model,
    Preprocess,
    Provider,
    Target,
    Threads,
    Verbose,
)

__all__ = ["BEST_EFFORT", "EXAMPLES", "tune"]

#: Exit code where the requirement is not met; the best that was found is written.
BEST_EFFORT = 8

_PANEL = "Requirement"

EXAMPLES = """Examples:

`calibrant tune model.onnx --data calib.npz --eval eval.npz --metric top1 --max-drop 0.5% --out run`

`calibrant tune model.onnx --data calib.npz --metric my_eval:accuracy --min 0.87 --allow int8,float16,float32 --out run`

`calibrant tune model.onnx --data calib.npz --metric sqnr_db --min 25 --cost size --out run`
"""


def tune(
    model: Model,
    *,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder for the results: the files of quantize, recipe.yaml, tuning_report.md and .json, and journal.sqlite, "
            "from which a run that was ended goes on.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ],
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="DATA",
            help="Evaluation data with references, as for 'calibrant evaluate'. Default: none; outputs are then compared with "
            "the float model's on the calibration data, or --metric evaluates by itself.",
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
            help="{metrics} (any number behind top), or module:function, with references in --eval; without --eval, "
            "module:function gets a runner and returns a number. cosine_similarity and sqnr_db need no labels. Default: "
            "cosine_similarity.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--eval-command",
            metavar="'CMD {model}'",
            help="A command that scores a model, on a device or in another stack: {model} stands for the file, and the last "
            "line it prints is JSON, a number or an object of scores by name.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="VALUE|NAME=VALUE",
            help="The least score; of several scores, with its name, as often as there are.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            "--max-drop",
            metavar="VALUE|SHARE%|NAME=…",
            help="How much less than the float model's the score may be: 0.005 in its own units, or 0.5% of it. "
            "Of several scores, with its name, as often as there are. One of --min and --max-drop is needed; of both, both hold.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="What is wanted beside precisions, in any dialect; layers whose precision a rule names keep it. - for "
            "standard input.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(
            "--allow",
            metavar="NAMES",
            help="Precisions that layers may have: int8, int16, float16, float32, with commas. Default: int8, int16 where the "
            "target has it, and float32.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(
            "--cost",
            metavar="macs|size|latency|FILE.csv",
            help="What is made small: multiplications times bits, bytes of weights, milliseconds on this machine, or a table of yours with a column 'layer' "
            "(a name or a pattern) and one for each precision.",
            rich_help_panel=_PANEL,
        ),
    ] = "macs",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="How to search: auto.", rich_help_panel=_PANEL
        ),
    ] = "auto",
    max_trials: Annotated[
        int,
        typer.Option(
            "--max-trials",
            metavar="N",
            min=2,
            help="Full evaluations, at most, the float model's among them.",
            rich_help_panel=_PANEL,
        ),
    ] = 8,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes",
            metavar="M",
            help="End after so many minutes with the best so far.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            "--holdout",
            metavar="SHARE",
            help="Share of the evaluation samples that the search does not see; the chosen model is run on them, too. For "
            "scores that are means over samples.",
            rich_help_panel=_PANEL,
        ),
    ] = 0.2,
    confidence: Annotated[
        float,
        typer.Option(
            "--confidence",
            metavar="P",
            help="An evaluation ends early once it is so certain whether the requirement is met; 1 for no chance at all.",
            rich_help_panel=_PANEL,
        ),
    ] = 0.99,
    samples: Annotated[
        int,
        typer.Option(
            "--samples-for-sensitivity",
            metavar="N",
            min=0,
            help="Samples that layers are measured on alone; 0 for all.",
            rich_help_panel=_PANEL,
        ),
    ] = 16,
    batch_size: BatchSize = None,
    preprocess: Preprocess = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the cheapest quantized model that meets an accuracy requirement.

    Each layer gets one of the allowed precisions. Exit code 0: met; 8: not met, the best that was found is written.
    Ctrl-C ends with the best so far.
    """
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import check_folder, print_json, quiet_stdout
    from calibrant.cli._tuned import print_tuned
    from calibrant.data.imports import is_function_name
    from calibrant.errors import ConfigValueError
    from calibrant.tuner import Command, Requirement
    from calibrant.tuner import tune as run

    required = Requirement.of(_required(at_least or [], max_drop or []))
    check_folder(out)
    evaluate: object
    if command is not None and (evaluation is not None or metric is not None):
        raise ConfigValueError(
            "--eval-command scores models by itself; --eval and --metric are not read beside it."
        )
    if command is not None:
        evaluate = Command(command)
    elif evaluation is None and metric is not None and is_function_name(metric):
        evaluate = metric
    else:
        evaluate = (evaluation if evaluation is not None else data, metric or "cosine_similarity")
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose)) as progress:
        result = run(
            model,
            data,
            evaluate,
            required,
            recipe=recipe_source(recipe) if recipe is not None else None,
            target=target,
            allow=allow,
            cost=cost,
            strategy=strategy,
            max_trials=max_trials,
            max_minutes=max_minutes,
            holdout=holdout,
            confidence=confidence,
            samples_for_sensitivity=samples or None,
            out=out,
            batch_size=batch_size,
            preprocess=preprocess,
            provider=provider,
            threads=threads,
            progress=progress,
        )
        files = result.save(out)
    if as_json:
        print_json(result.content(out))
    else:
        print_tuned(result, files)
    if not result.met:
        raise typer.Exit(BEST_EFFORT)


def _required(least: Sequence[str], drops: Sequence[str]) -> Mapping[str, Any]:
    """Return what is required, of one score or of several by name."""
    from calibrant.errors import ConfigValueError

    plain: dict[str, str] = {}
    named: dict[str, dict[str, str]] = {}
    for key, texts in (("min", least), ("max_drop", drops)):
        for text in texts:
            name, equals, value = text.rpartition("=")
            place = named.setdefault(name, {}) if equals else plain
            if key in place:
                raise ConfigValueError(
                    f"--{key.replace('_', '-')} is given twice{f' of {name}' if equals else ''}."
                )
            place[key] = value
    if plain and named:
        raise ConfigValueError(
            "Some requirements name their score and some do not; of several scores all are named."
        )
    if not plain and not named:
        raise ConfigValueError("Nothing is required: give --min, --max-drop, or both.")
    return plain or named
