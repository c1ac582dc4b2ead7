"""`calibrant debug compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import Debug, Json

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """Examples:

`calibrant debug compare run/original_float_model.onnx run/optimized_float_model.onnx -i x.npy`

`calibrant debug compare run/calibrated_model.onnx run/quantized_model.onnx -i calib.npz --compare-digits 3`
"""


def compare(
    model_a: Annotated[
        Path, typer.Argument(metavar="A", help="The model that is right.", show_default=False)
    ],
    model_b: Annotated[
        Path, typer.Argument(metavar="B", help="The model to compare with it.", show_default=False)
    ],
    *,
    inputs: Annotated[
        str,
        typer.Option(
            "-i",
            "--input",
            metavar="DATA",
            help="A .npy file, a .npz file with arrays by input name, a folder of samples, or module:function.",
            show_default=False,
        ),
    ],
    compare_digits: Annotated[
        int,
        typer.Option(
            "--compare-digits",
            metavar="N",
            min=0,
            max=15,
            help="Decimal digits that have to agree.",
        ),
    ] = 5,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="NAME",
            help="What counts: consistency (all values agree) or cosine (similarity above 0.99). Default: consistency for "
            "two float models and for two with integer weights, cosine for all other pairs.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the outputs of two models on the same inputs; exit code 1 where they are not as they should be.

    Used on the models of one run, stage by stage, it says which stage changed what is computed. calibrant compare looks at
    every layer.
    """
    from calibrant.cli._progress import progress_bars
    from calibrant.cli._summary import print_json, quiet_stdout
    from calibrant.cli.debug._shown import print_verified
    from calibrant.debug.verifier import verify

    with quiet_stdout(as_json), progress_bars(show=not as_json) as progress:
        found = verify(model_a, model_b, inputs, compare_digits, mode=mode, progress=progress)
    if as_json:
        print_json(found.content())
    else:
        print_verified(found)
    if not found.passed:
        raise typer.Exit(1)
