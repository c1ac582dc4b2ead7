"""`calibrant init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._options import OUTPUT_PANEL, Debug, Json, Model

__all__ = ["EXAMPLES", "init"]

EXAMPLES = """Examples:

`calibrant init model.onnx -o recipe.yaml`

`calibrant quantize model.onnx --data c.npz --recipe recipe.yaml --out run`
"""


def init(
    model: Model,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="File to write. Default: stdout.",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What the model will run on: generic, onnxruntime, layers-only."
        ),
    ] = "generic",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write over a file that is there.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented recipe with every layer of this model, ready to edit.

    As it comes it changes nothing; 'calibrant quantize … --recipe FILE' takes it.
    """
    from calibrant.cli._starter import starter_recipe
    from calibrant.cli._summary import print_json
    from calibrant.errors import OutputError
    from calibrant.graph.load import load, prepare
    from calibrant.plan import resolve
    from calibrant.recipe import Recipe

    if out is not None and out.exists() and not force:
        raise OutputError(f"'{out}' exists; give another file, or --force to write over it.")
    prepared = prepare(load(model))
    plan = resolve(Recipe(target=target), prepared)
    text = starter_recipe(prepared, plan, model.name)
    if out is not None:
        _write(out, text)
    if as_json:
        layers = [
            {"layer": d.node, "op_type": d.op_type, "quantized": d.quantized, "reason": d.reason}
            for d in plan.layers
        ]
        print_json(
            {"file": str(out) if out is not None else None, "recipe": text, "layers": layers}
        )
    elif out is not None:
        typer.echo(f"{out}: a recipe with the {len(plan.layers)} layers of {model.name}.")
    else:
        typer.echo(text, nl=False)


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    from calibrant.errors import OutputError

    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror}.") from e
