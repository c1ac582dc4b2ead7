"""`calibrant convert-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibrant.cli._files import Force, OutFile, check_free, name_of, recipe_source
from calibrant.cli._names import completing, dialects, dialects_written
from calibrant.cli._options import Debug, Json
from calibrant.save.whole import write_whole

__all__ = ["EXAMPLES", "convert_config"]

EXAMPLES = """Examples:

`calibrant convert-config quant.cfg --to native -o recipe.yaml`

`calibrant convert-config quant.cfg --to amct --model model.onnx -o config.json`

`calibrant convert-config quant_config.json --to horizon --model model.onnx`
"""


def convert_config(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A configuration in any dialect, recognised by what it says; - for standard input.",
            show_default=False,
        ),
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="DIALECT",
            autocompletion=completing(dialects_written),
            help="What to write: {dialects_written}.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DIALECT",
            autocompletion=completing(dialects),
            help="The dialect of IN: {dialects}. Default: recognised by what it says. An empty file then means all defaults.",
            show_default=False,
        ),
    ] = None,
    out: OutFile = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="The ONNX model that it is for. Dialects that list layers then write out all of them, with "
            "what holds for each.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail where the old file asks for something that is not done, or the new dialect has no words for "
            "something.",
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a configuration in another dialect.

    What the new dialect has no words for is listed on stderr, and the file says what comes nearest; --strict
    makes it an error. What the old one says and nothing here can do is a note on stderr, too.
    """
    from calibrant.cli._summary import print_json
    from calibrant.dialects import convert, load_recipe

    path = check_free(out, force=force)
    recipe = load_recipe(recipe_source(config), dialect=source, strict=strict)
    lost: list[str] = []
    text = convert(recipe, to, model=model, lost=None if strict else lost)
    if to == "native":
        text = f"# {name_of(config)}, as a recipe of calibrant's own\n{text}"
    if path is not None:
        write_whole(path, text)
    if as_json:
        notes = [
            {"where": n.where, "message": n.message, "honoured": n.honoured} for n in recipe.notes
        ]
        file = str(path) if path is not None else None
        print_json({"file": file, "dialect": to, "config": text, "lost": lost, "notes": notes})
        return
    if path is not None:
        typer.echo(f"{path}: {name_of(config)} in dialect {to}.")
    else:
        typer.echo(text, nl=False)
    for sentence in lost:
        typer.echo(f"Lost: {sentence}", err=True)
    for note in recipe.notes:
        typer.echo(f"Note: {note.where}: {note.message}", err=True)
