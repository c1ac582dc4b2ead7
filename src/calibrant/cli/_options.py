"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._names import completing, dialects, targets

__all__ = [
    "DATA_PANEL",
    "HOW_PANEL",
    "OUTPUT_PANEL",
    "RUN_PANEL",
    "BatchSize",
    "Data",
    "Debug",
    "Dialect",
    "Fix",
    "Jobs",
    "Json",
    "Model",
    "Preprocess",
    "Provider",
    "Quiet",
    "Ray",
    "Report",
    "Strict",
    "Target",
    "Threads",
    "Verbose",
]

DATA_PANEL = "In and out"
HOW_PANEL = "How to quantize (over the recipe)"
RUN_PANEL = "Running the model"
OUTPUT_PANEL = "Messages"

Model = Annotated[
    Path,
    typer.Argument(
        help="An ONNX file; or module:function, which returns a module of torch, or that and what it is called with.",
        show_default=False,
    ),
]

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A .npz file (arrays by input name) or .npy file; a folder of .npy, .npz, .bin or image files "
        "(images need a preprocessing file); or module:function, which yields batches.",
        rich_help_panel=DATA_PANEL,
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Samples in a batch. Default: the model's own if it is fixed, otherwise up to 32 samples of at "
        "most 4 MiB together.",
        rich_help_panel=DATA_PANEL,
        show_default=False,
    ),
]
Preprocess = Annotated[
    Path | None,
    typer.Option(
        "--preprocess",
        metavar="FILE",
        help="How stored samples become inputs, in YAML or JSON: resize, crop, color, scale, mean, std, "
        "layout, dtype. Default: preprocess.yaml in the data folder.",
        rich_help_panel=DATA_PANEL,
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME|FILE",
        help="What the model will run on: {targets}; or a file of your own, such as my_npu.yaml. Default: the recipe's, "
        "or generic. 'calibrant list targets' says what each is.",
        rich_help_panel=HOW_PANEL,
        autocompletion=completing(targets),
        show_default=False,
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="NAME=VALUE",
        help="An input of the model that is the same in every use, such as sr=16000, training=false or "
        "size=[224,224]: it becomes a constant, and an If that it decides gives way to its branch. May be given "
        "several times.",
        rich_help_panel=DATA_PANEL,
        show_default=False,
    ),
]
Provider = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Where ONNX Runtime runs the model: cpu, cuda, tensorrt, openvino, …",
        rich_help_panel=RUN_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Threads of ONNX Runtime. Default: its own choice, fewer while a model of small layers is quantized.",
        rich_help_panel=RUN_PANEL,
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        help="Processes that look at the calibration data, each at a part of it; with tune they also measure layers and evaluate. The result is the same.",
        rich_help_panel=RUN_PANEL,
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="A Ray cluster whose workers look at the calibration data (the extra 'ray'); they see the same files.",
        rich_help_panel=RUN_PANEL,
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result, or the error, as JSON on stdout.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Write report.html into the folder of --out as well, one page that opens offline, with the measurements that "
        'it shows. Needs pip install "calibrant[report]".',
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print warnings and errors alone; with --json, the result as JSON.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        help="Show each step, each layer and each choice.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show where an error comes from (also CALIBRANT_DEBUG=1).",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Dialect = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        metavar="DIALECT",
        help="The recipe's dialect: {dialects}. Default: recognised by what it says. An empty file "
        "then means all defaults.",
        rich_help_panel=DATA_PANEL,
        autocompletion=completing(dialects),
        show_default=False,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail where the recipe asks for something that calibrant does not do, instead of a note.",
        rich_help_panel=DATA_PANEL,
    ),
]
