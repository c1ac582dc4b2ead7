"""`calibrant quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._names import activations, completing, weights
from calibrant.cli._options import (
    DATA_PANEL,
    HOW_PANEL,
    RUN_PANEL,
    BatchSize,
    Debug,
    Dialect,
    Fix,
    Jobs,
    Json,
    Model,
    Preprocess,
    Provider,
    Quiet,
    Ray,
    Report,
    Strict,
    Target,
    Threads,
    Verbose,
)

if TYPE_CHECKING:
    from calibrant.recipe import Recipe

__all__ = ["EXAMPLES", "quantize"]

EXAMPLES = """Examples:

`calibrant quantize model.onnx --data calib.npz --out run`

`calibrant quantize model.onnx --data images --out run --target onnxruntime`

`calibrant quantize model.onnx --data my_data:batches --out run --bits 16`

`calibrant quantize model.onnx --data calib.npz --out run --skip 'head/*'`

`calibrant quantize model.onnx --data calib.npz --out run --fix sr=16000`

`calibrant quantize model.onnx --record run/record.txt --out again`

`calibrant quantize model.onnx --data calib.npz --out run --report`

`calibrant quantize model.onnx --data calib.npz --out run --format horizon --prefix resnet`
"""


def quantize(
    model: Model,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A .npz file (arrays by input name) or .npy file; a folder of .npy, .npz, .bin or image files "
            "(images need a preprocessing file); or module:function, which yields batches. Needed unless the "
            "recipe names data, asks for random values, or keeps the scales that the model has.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder for the results: deploy.onnx, fake_quant.onnx, record, plan.json, summary.json.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is wanted, layer by layer; 'calibrant init' writes one to edit. - for standard input.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    dialect: Dialect = None,
    strict: Strict = False,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A record (record.txt, record.json, or one written by hand): both models are built from its "
            "numbers, and nothing is calibrated. --data then only shows how good the result is.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Write a vendor's files as well: ascend (its fake-quant and deploy graphs), horizon (stage models); "
            "quant_info.json with either, one for both. May be given several times.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What the names of the vendor's files begin with, an underscore behind it. Default: nothing.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = "",
    batch_size: BatchSize = None,
    batch_num: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Batches to use. Default: all.",
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    preprocess: Preprocess = None,
    target: Target = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="ALGO",
            autocompletion=completing(activations),
            help="How ranges of activations are chosen: {activations}. 'calibrant list algorithms' says what each does. "
            "Default: min-max or mse, whichever serves the model's outputs better.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="ALGO",
            autocompletion=completing(weights),
            help="How scales of weights are chosen: {weights}. Default: mse, the least squared error.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="8|16",
            help="Width of activations and weights. Default: 8.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric",
            help="Zero point 0 for activations, or one that fits. Default: as the target has it.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--per-tensor",
            help="One scale for each output channel of a weight, or one in all. Default: per channel.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    bias_correction: Annotated[
        bool | None,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Take the mean error of each layer out of its bias. Default: where it helps.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    equalize: Annotated[
        bool | None,
        typer.Option(
            "--equalize/--no-equalize",
            help="Balance channels between layers before quantizing. Default: where it helps.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="Leave a layer in float; a name, or a pattern such as 'head/*'. May be given several times.",
            rich_help_panel=HOW_PANEL,
            show_default=False,
        ),
    ] = None,
    fix: Fix = None,
    keep_fixed_inputs: Annotated[
        bool,
        typer.Option(
            "--keep-fixed-inputs",
            help="Keep the inputs that --fix or the recipe fixes among the inputs of the written models, which do not "
            "read them: for callers that go on giving them.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Keep the raw values instead of histograms: the vendors' results to the last digit, for "
            "memory that grows with the data.",
            rich_help_panel=HOW_PANEL,
        ),
    ] = False,
    report: Report = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency",
            help="Time both models in ONNX Runtime here, for under a second.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = True,
    provider: Provider = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
    ray: Ray = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Quantize a float ONNX model on calibration data.

    The result is a standard ONNX model with QuantizeLinear and DequantizeLinear (deploy.onnx). How close
    its outputs are to the float model's is always measured and shown. Some 32 to 500 samples that look
    like what the model will see are enough.
    """
    from calibrant.cli._called import called
    from calibrant.cli._module import model_of
    from calibrant.cli._overrides import with_options
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import (
        check_folder,
        check_loudness,
        print_json,
        print_summary,
        print_warnings,
        quiet_stdout,
    )
    from calibrant.diagnose.evidence import evidence_of
    from calibrant.dialects import load_recipe
    from calibrant.errors import ConfigValueError
    from calibrant.formats import check_formats
    from calibrant.pipeline import quantize as run
    from calibrant.rebuild import quantize_from_record
    from calibrant.recipe import Recipe
    from calibrant.report.evidence import COMMANDS_FILE, Commands, text_of
    from calibrant.report.page import check_packages

    check_loudness(quiet=quiet, verbose=verbose)
    wanted = with_options(
        load_recipe(recipe_source(recipe), dialect=dialect, strict=strict)
        if recipe is not None
        else Recipe(),
        activation=activation,
        weight=weight,
        bits=bits,
        symmetric=symmetric,
        per_channel=per_channel,
        skip=skip or (),
        target=target,
        bias_correction=bias_correction,
        equalize=equalize,
        exact=exact,
        fix=fix or (),
        keep_fixed_inputs=keep_fixed_inputs,
    )
    check_formats(formats or (), prefix)
    check_folder(out)
    if report:
        check_packages()
    per_node = verbose or "horizon" in (formats or ())  # quant_info.json says it, too
    with quiet_stdout(as_json), progress_bars(show=not (as_json or verbose or quiet)) as progress:
        if record is not None:
            _check_alone(recipe, wanted, batch_num)
            if jobs is not None or ray is not None:
                raise ConfigValueError(
                    "A record says all scales, so no data is looked at that --jobs or --ray could divide."
                )
            result = quantize_from_record(
                model_of(model, data),
                record,
                data,
                provider=provider,
                threads=threads,
                batch_size=batch_size,
                preprocess=preprocess,
                progress=progress,
                per_node=per_node,
                latency=latency,
            )
        else:
            result = run(
                model_of(model, data),
                data,
                wanted,
                provider=provider,
                threads=threads,
                jobs=jobs,
                ray=ray,
                batch_size=batch_size,
                batch_num=batch_num,
                preprocess=preprocess,
                progress=progress,
                per_node=per_node,
                latency=latency,
            )
        shown = {}
        if report:
            shown = {COMMANDS_FILE: text_of(Commands().with_line(called()))} | evidence_of(
                result,
                data,
                wanted,
                batch_size=batch_size,
                preprocess=preprocess,
                provider=provider,
                threads=threads,
                progress=progress,
            )
        files = result.save(out, formats=formats or (), prefix=prefix, texts=shown, report=report)
    if as_json:
        print_json({**result.summary, "files": [str(f) for f in files]})
    elif quiet:
        print_warnings(result.summary)
    else:
        print_summary(result.summary, files, verbose=verbose)


def _check_alone(recipe: Path | None, wanted: Recipe, batch_num: int | None) -> None:
    """Refuse what a record decides already."""
    from calibrant.errors import ConfigValueError
    from calibrant.recipe import Recipe

    asked = [r.origin.removeprefix("command line ") for r in wanted.rules]
    if recipe is not None:
        asked = ["--recipe"]
    elif batch_num is not None:
        asked.append("--batch-num")
    elif not asked and wanted != Recipe():
        asked = ["an option of how to quantize"]
    if asked:
        raise ConfigValueError(
            f"--record says all there is to know about the quantized model; {', '.join(asked)} cannot be given "
            "beside it."
        )
