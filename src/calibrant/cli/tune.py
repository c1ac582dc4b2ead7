"""`calibrant tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._names import completing, metrics
from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    BatchSize,
    Debug,
    Fix,
    Jobs,
    Json,
    Preprocess,
    Provider,
    Quiet,
    Ray,
    Target,
    Threads,
    Verbose,
)
from calibrant.save.whole import write_whole

__all__ = ["BEST_EFFORT", "EXAMPLES", "tune"]

#: Exit code where the requirement is not met; the best that was found is written.
BEST_EFFORT = 8

_PANEL = "Requirement"

EXAMPLES = """Examples:

`calibrant tune model.onnx --data calib.npz --eval eval.npz --metric top1 --max-drop 0.5% --out run`

`calibrant tune model.onnx --data calib.npz --metric my_eval:accuracy --min 0.87 --allow int8,float16,float32 --out run`

`calibrant tune model.onnx --data calib.npz --metric sqnr_db --min 25 --cost size --out run`

`calibrant tune model.onnx --data calib.npz --eval eval.npz --metric top1 --max-drop 0.5% --allow int4,int8 --train-data train.npz --train-minutes 10 --out run`

`calibrant tune model.onnx --data calib.npz --average-bits 5 --emit-training qat.yaml --out run`

`calibrant tune --from run --max-drop 1% --out run2`
"""


def tune(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An ONNX file, or module:function, which returns a module of torch; with --from that of the earlier run.",
            show_default=False,
        ),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Calibration data, as for 'calibrant quantize'.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder for the results: the files of quantize, recipe.yaml, tuning_report.md and .json, and journal.sqlite, "
            "from which a run that was ended goes on. With --from: that folder, unless another is named.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="An earlier run, for another requirement: options that are not given are taken from it, and its journal answers "
            "what it can.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    knowledge: Annotated[
        Path | None,
        typer.Option(
            "--knowledge",
            metavar="DIR",
            help="Keep what met a requirement by the structure of the graph, and try it first for the next model of the same.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
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
            help="{metrics} (any number behind top; options behind a comma: map,head=yolox), or module:function, with references in --eval; without --eval, "
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
            help="A command that scores a model, on a device or in another stack. The path of the model takes the place of the word "
            "in braces; the last line that it prints is JSON, a number or an object of scores by name.",
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
            help="Precisions that layers may have: int4 (weights, beside 8-bit activations), int8, ec (8 bits with a second 8-bit value), int16, float16, float32, with commas. Default: int8, int16 where the "
            "target has it, and float32.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            "--cost",
            metavar="macs|size|latency|FILE.csv",
            help="What is made small: multiplications times bits, bytes of weights, milliseconds on this machine, or a table of yours with a column 'layer' "
            "(a name or a pattern) and one for each precision. Default: macs.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="LAYERS=NAMES",
            help="Precisions that some layers may have, such as 'head*=int16,float32'; as often as needed.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="BYTES",
            help="The best score with weights of so many bytes at most: 250000, 250K or 1.5M. A requirement holds beside it.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            "--max-latency",
            metavar="MS",
            help="The best score with at most so many milliseconds on this machine. A requirement holds beside it.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    average_bits: Annotated[
        float | None,
        typer.Option(
            "--average-bits",
            metavar="B",
            help="The best score with so many bits of a weight on average: 5. int4 is then allowed where B is below 8 and --allow is "
            "not given. A requirement holds beside it.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    compression: Annotated[
        float | None,
        typer.Option(
            "--compression",
            metavar="R",
            help="The same as a ratio: weights take an R-th of what they do in float32.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="NAME",
            help="How to search: auto, or a vendor's own procedure: amct-rollback, amct-manual, amct-retrain, ascend-traverse, horizon.",
            rich_help_panel=_PANEL,
        ),
    ] = "auto",
    max_trials: Annotated[
        int | None,
        typer.Option(
            "--max-trials",
            metavar="N",
            min=2,
            help="Full evaluations, at most, the float model's among them. Default: 8 with auto; with a vendor's procedure as "
            "many as it takes, 40 at most with horizon.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
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
        float | None,
        typer.Option(
            "--holdout",
            metavar="SHARE",
            help="Share of the evaluation samples that the search does not see; the chosen model is run on them, too. For "
            "metrics by name. Default: 0.2 with auto and a mean over samples, otherwise 0.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence",
            metavar="P",
            help="An evaluation ends early once it is so certain whether the requirement is met; 1 for no chance at all. "
            "Default: 0.99 with auto, 1 with a vendor's procedure.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
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
    sensitivity_by: Annotated[
        str,
        typer.Option(
            "--sensitivity-by",
            metavar="runs|gradient",
            help="How that is done: runs (what lies behind a layer is run again), or gradient (estimated for all layers together from a "
            "few backward passes). Needs torch (the extra torch).",
            rich_help_panel=_PANEL,
        ),
    ] = "runs",
    moves: Annotated[
        str | None,
        typer.Option(
            "--moves",
            metavar="auto|none|NAMES",
            help="What is tried without labels before layers are raised: data, algorithm, per-channel, balance, bias-correction, "
            "rounding, with commas. What clearly gains becomes a part of the recipe. Default: auto, which is all, with strategy auto.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    train_minutes: Annotated[
        float | None,
        typer.Option(
            "--train-minutes",
            metavar="M",
            help="Where moves are not enough, train the cheapest assignment for so many minutes before layers are raised, without "
            "labels; with a budget, the best within it. With strategy amct-retrain what each trial takes. Needs torch (the extra torch). Default: no training; 3 epochs with amct-retrain.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    train_epochs: Annotated[
        float | None,
        typer.Option(
            "--train-epochs",
            metavar="N",
            help="The same in epochs, in the place of minutes.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(
            "--train-data",
            metavar="DATA",
            help="Samples to train on, in any form that calibration data may have; labels are not read. Default: --data.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = None,
    preprocess: Preprocess = None,
    fix: Fix = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write report.html, too: one page that opens offline, with the search as a picture.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = False,
    emit_training: Annotated[
        Path | None,
        typer.Option(
            "--emit-training",
            metavar="FILE",
            help="Write what was found as a configuration for 'calibrant train --recipe', too: .cfg as AMCT's retraining has it, .yaml "
            "as a recipe of calibrant.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
    ray: Ray = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the cheapest quantized model that meets an accuracy requirement.

    Each layer gets one of the allowed precisions. Exit code 0: met; 8: not met, the best that was found is written.
    Ctrl-C ends with the best so far.
    """
    from calibrant.cli._call import CALL, filled, text_of
    from calibrant.cli._called import called
    from calibrant.cli._fixed import fixed_values
    from calibrant.cli._module import model_of
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._required import bits_of, budget_of, evaluation_of, limits_of, required_of
    from calibrant.cli._summary import (
        check_folder,
        check_loudness,
        print_json,
        print_warnings,
        quiet_stdout,
    )
    from calibrant.cli._told import told_at_once
    from calibrant.cli._tuned import print_tuned
    from calibrant.errors import ConfigValueError
    from calibrant.report.evidence import COMMANDS_FILE, GRAPH_FILE, Commands, network_of
    from calibrant.report.evidence import text_of as as_text
    from calibrant.report.page import check_packages
    from calibrant.tuner import Requirement
    from calibrant.tuner import tune as run
    from calibrant.tuner.training import check_training_file, training_text

    call: dict[str, Any] = {
        "model": model,
        "data": data,
        "evaluation": evaluation,
        "metric": metric,
        "command": command,
        "target": target,
        "recipe": recipe,
        "allow": allow,
        "limit": limit or [],
        "cost": cost,
        "holdout": holdout,
        "confidence": confidence,
        "samples": samples,
        "sensitivity_by": sensitivity_by,
        "strategy": strategy,
        "moves": moves,
        "train_minutes": train_minutes,
        "train_epochs": train_epochs,
        "train_data": train_data,
        "batch_size": batch_size,
        "preprocess": preprocess,
        "fix": fix or [],
    }
    call = filled(call, context, source)
    place = out if out is not None else source
    for name, value in (("MODEL", call["model"]), ("--data", call["data"]), ("--out", place)):
        if value is None:
            raise ConfigValueError(f"{name} is missing; without --from it has to be given.")
    assert place is not None
    unit, most = budget_of(call["cost"], max_size, max_latency)
    bits = bits_of(average_bits, compression, limited=most is not None)
    said = required_of(at_least or [], max_drop or [], needed=most is None and bits is None)
    check_folder(place)
    if report:
        check_packages()
    if emit_training is not None:
        check_training_file(emit_training)
    check_loudness(quiet=quiet, verbose=verbose)
    with (
        quiet_stdout(as_json),
        progress_bars(show=not (as_json or verbose or quiet)) as progress,
        told_at_once("calibrant.tuner", show=not verbose),
    ):
        result = run(
            model_of(call["model"], call["data"]),
            call["data"],
            evaluation_of(call),
            Requirement.of(said) if said else None,
            recipe=recipe_source(Path(call["recipe"])) if call["recipe"] is not None else None,
            target=call["target"],
            fix=fixed_values(call["fix"]),
            allow=call["allow"],
            limits=limits_of(call["limit"]),
            cost=unit,
            max_cost=most,
            average_bits=bits,
            strategy=call["strategy"],
            max_trials=max_trials,
            max_minutes=max_minutes,
            holdout=call["holdout"],
            confidence=call["confidence"],
            samples_for_sensitivity=call["samples"] or None,
            sensitivity_by=call["sensitivity_by"],
            moves=call["moves"],
            train_minutes=call["train_minutes"],
            train_epochs=call["train_epochs"],
            train_data=call["train_data"],
            out=place,
            start_from=source,
            knowledge=knowledge,
            batch_size=call["batch_size"],
            preprocess=call["preprocess"],
            provider=provider,
            threads=threads,
            jobs=jobs,
            ray=ray,
            progress=progress,
        )
        more = {CALL: text_of(call)}
        if report:
            more[COMMANDS_FILE] = as_text(Commands().with_line(called()))
            more[GRAPH_FILE] = as_text(network_of(result.result.float_model))
        files = result.save(place, more=more, report=report)
    if emit_training is not None:
        lost: list[str] = []
        text = training_text(result.recipe, emit_training, result.result.original, lost)
        write_whole(emit_training, text)
        for sentence in lost:
            typer.echo(f"{emit_training}: {sentence}", err=True)
    if as_json:
        print_json(result.content(place))
    elif quiet:
        print_warnings(result.result.summary)
    else:
        print_tuned(result, files)
    if not result.met:
        raise typer.Exit(BEST_EFFORT)
