"""`calibrant init`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibrant.cli._files import Force, OutFile, check_free, recipe_source
from calibrant.cli._names import completing, dialects_for_models
from calibrant.cli._options import Debug, Fix, Json, Model, Target
from calibrant.save.whole import write_whole

if TYPE_CHECKING:
    from calibrant.graph.load import ModelLike
    from calibrant.plan import LayerDecision

__all__ = ["EXAMPLES", "init"]

EXAMPLES = """Examples:

`calibrant init model.onnx -o recipe.yaml`

`calibrant quantize model.onnx --data c.npz --recipe recipe.yaml --out run`

`calibrant init model.onnx -o recipe.yaml --fix sr=16000`

`calibrant init model.onnx --dialect amct --from quant.cfg -o config.json`

`calibrant init model.onnx --dialect amct --batch-num 2 --skip-layers conv1 --skip-layers fc`
"""


def init(
    model: Model,
    *,
    out: OutFile = None,
    dialect: Annotated[
        str,
        typer.Option(
            metavar="DIALECT",
            autocompletion=completing(dialects_for_models),
            help="What to write: {dialects_for_models}. 'calibrant list dialects' says what each is.",
        ),
    ] = "native",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A configuration in any dialect to start from, such as a simplified quant.cfg; - for standard input. Default: what "
            "the vendor does when nothing is said.",
            show_default=False,
        ),
    ] = None,
    skip_layers: Annotated[
        list[str] | None,
        typer.Option(
            "--skip-layers",
            metavar="NAME",
            help="Dialect amct: a layer that stays in float; give it once a layer.",
            show_default=False,
        ),
    ] = None,
    batch_num: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Dialect amct: batches for calibration. Default: 1.",
            show_default=False,
        ),
    ] = None,
    activation_offset: Annotated[
        bool | None,
        typer.Option(
            "--activation-offset/--no-activation-offset",
            help="Dialect amct: activations with or without a zero point. Default: with.",
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    fix: Fix = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a configuration with every layer of this model, ready to edit.

    The native recipe is commented, and as it comes it changes nothing. A vendor's file says what holds for
    each layer. 'calibrant quantize … --recipe FILE' takes either.
    """
    from calibrant.cli._summary import print_json
    from calibrant.errors import ConfigValueError, did_you_mean

    if dialect not in (written := dialects_for_models()):
        raise ConfigValueError(
            f"--dialect is '{dialect}'; it is {', '.join(written)}."
            + did_you_mean(dialect, written)
        )
    given = {
        "skip_layers": skip_layers or None,
        "batch_num": batch_num,
        "activation_offset": activation_offset,
    }
    given = {k: v for k, v in given.items() if v is not None}
    if given and dialect != "amct":
        raise ConfigValueError(
            f"--{next(iter(given)).replace('_', '-')} is for dialect amct; dialect '{dialect}' has no such "
            "option."
        )
    path = check_free(out, force=force)
    notes: tuple[str, ...] = ()
    if dialect == "native":
        if source is not None:
            raise ConfigValueError(
                f"--from is for a vendor's dialect; 'calibrant convert-config {source} --to native' writes "
                "a native recipe."
            )
        text, layers = _native(model, target or "generic", fix or ())
    else:
        if target is not None:
            raise ConfigValueError(
                f"--target is for a native recipe; dialect '{dialect}' has its own target."
            )
        text, layers, notes = _vendor(model, dialect, source, given, fix or ())
    if path is not None:
        write_whole(path, text)
    if as_json:
        file = str(path) if path is not None else None
        listed = [_as_dict(d) for d in layers]
        said: dict[str, Any] = {"file": file, "dialect": dialect, "recipe": text, "layers": listed}
        print_json({**said, "notes": list(notes)})
        return
    if path is not None:
        kind = "recipe" if dialect == "native" else f"configuration in dialect {dialect}"
        typer.echo(f"{path}: a {kind} with the {len(layers)} layers of {model.name}.")
    else:
        typer.echo(text, nl=False)
    for note in notes:
        typer.echo(f"Note: {note}", err=True)


def _native(model: Path, target: str, fix: Sequence[str]) -> tuple[str, tuple[LayerDecision, ...]]:
    """Return a recipe that changes nothing, and its layers."""
    from calibrant.cli._module import model_of
    from calibrant.cli._overrides import with_options
    from calibrant.cli._starter import starter_recipe
    from calibrant.graph.load import load, prepare
    from calibrant.plan import resolve
    from calibrant.plan.fixed import with_fixed
    from calibrant.recipe import Recipe

    recipe = with_options(Recipe(target=target), fix=fix)
    prepared = prepare(with_fixed(load(model_of(model)), recipe))
    plan = resolve(recipe, prepared)
    return starter_recipe(prepared, plan, model.name, recipe), plan.layers


def _vendor(
    path: Path, dialect: str, source: Path | None, given: dict[str, Any], fix: Sequence[str]
) -> tuple[str, tuple[LayerDecision, ...], tuple[str, ...]]:
    """Return a vendor's configuration, its layers as read back, and what gave way in `source`."""
    import json

    from calibrant.cli._module import model_of
    from calibrant.cli._overrides import with_options
    from calibrant.cli._prepared import prepared_for
    from calibrant.dialects import load_recipe
    from calibrant.dialects.amct.retrain_write import create_retrain_config
    from calibrant.dialects.amct.write import create_config
    from calibrant.dialects.horizon.write import effective_config
    from calibrant.graph.load import load
    from calibrant.plan import explain
    from calibrant.plan.fixed import with_fixed
    from calibrant.recipe import Recipe

    model: ModelLike = model_of(path)
    if fix:
        model = with_fixed(load(model), with_options(Recipe(), fix=fix))
    unsaid = [
        f"The file does not say that inputs are fixed: 'calibrant quantize' needs --fix {f}, too."
        for f in fix
    ]
    config = load_recipe(recipe_source(source), if_empty=dialect) if source is not None else None
    if dialect == "amct":
        text = create_config(model, config=config, **given)
    elif dialect == "amct-retrain":
        text = create_retrain_config(model, config=config)
    else:
        text = effective_config(config or load_recipe({"model_config": {}}), model)
    written = load_recipe(text)
    content = json.loads(text)
    listed = content.get("node_config", content)
    resolved = explain(written, prepared_for(written, model)).layers
    layers = tuple(d for d in resolved if d.node in listed)
    if config is None:
        return text, layers, tuple(unsaid)
    notes = [
        *unsaid,
        *(
            f"--{name.replace('_', '-')} has no effect beside --from: {source} says it."
            for name in given
        ),
    ]
    found = explain(config, prepared_for(config, model))
    return text, layers, (*notes, *(f"{n.where}: {n.message}" for n in found.notes))


def _as_dict(d: LayerDecision) -> dict[str, Any]:
    return {"layer": d.node, "op_type": d.op_type, "quantized": d.quantized, "reason": d.reason}
