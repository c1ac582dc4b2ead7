"""`calibrant explain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibrant.cli._files import recipe_source
from calibrant.cli._options import OUTPUT_PANEL, Debug, Dialect, Fix, Json, Model, Strict

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.cli._levels import Decided
    from calibrant.plan import Explanation
    from calibrant.recipe import Recipe

__all__ = ["EXAMPLES", "explain"]

EXAMPLES = """Examples:

`calibrant explain model.onnx --recipe quant.cfg`

`calibrant explain model.onnx --recipe quant.cfg --layer 'layer3/*'`

`calibrant explain model.onnx --recipe recipe.yaml --json`

`calibrant explain model.onnx --recipe recipe.yaml --fix sr=16000`
"""


def explain(
    model: Model,
    *,
    recipe: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A recipe or a vendor's configuration, recognised by what it says; - for standard input.",
            show_default=False,
        ),
    ],
    dialect: Dialect = None,
    strict: Strict = False,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="GLOB",
            help="Show these layers alone, a name or a pattern such as 'layer3/*', and every setting of theirs with "
            "the rule that decided it.",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Show every setting of every layer with the rule that decided it.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    fix: Fix = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a configuration means for the layers of a model, and which rules decided it.

    Layers with equal settings stand in one row. --layer and --all show each setting with its level (default, model,
    type, subgraph, layer, input) and the place of the rule that decided. What cannot be done as asked is listed with
    its reason. No data is needed.
    """
    from calibrant.cli._explained import in_brief, in_full
    from calibrant.cli._module import model_of
    from calibrant.cli._overrides import with_options
    from calibrant.cli._prepared import prepared_for
    from calibrant.cli._summary import print_json
    from calibrant.dialects import load_recipe
    from calibrant.plan import explain as explained

    wanted = with_options(
        load_recipe(recipe_source(recipe), dialect=dialect, strict=strict), fix=fix or ()
    )
    prepared = prepared_for(wanted, model_of(model))
    found = _content(explained(wanted, prepared), wanted, prepared)
    if layer is not None:
        found["layers"] = _selected(found["layers"], layer)
    content = {"model": str(model), "recipe": str(recipe), **found}
    if as_json:
        print_json({**content, "layers": [_plain(d) for d in content["layers"]]})
    elif everything or layer is not None:
        typer.echo("\n".join(in_full(content, everything=everything)))
    else:
        typer.echo("\n".join(in_brief(content)))


def _selected(layers: list[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    """Return the layers that a name or a pattern is for.

    Raises:
        ConfigValueError: There is none.
    """
    from fnmatch import fnmatchcase

    from calibrant.errors import ConfigValueError, did_you_mean

    names = [d["layer"] for d in layers]
    found = [d for d in layers if d["layer"] == pattern or fnmatchcase(d["layer"], pattern)]
    if not found:
        raise ConfigValueError(
            f"--layer is '{pattern}', and none of the {len(names)} layers is called so."
            + did_you_mean(pattern, names)
        )
    return found


def _content(explanation: Explanation, recipe: Recipe, model: ir.Model) -> dict[str, Any]:
    from calibrant.cli._levels import Levels

    levels = Levels(recipe, model)
    layers = []
    for layer in (*explanation.layers, *levels.others(explanation.layers)):
        inputs = [
            {"input": index, "tensor": tensor, "settings": decided}
            for index, tensor, decided in levels.of_inputs(layer)
        ]
        layers.append(
            {
                "layer": layer.node,
                "op_type": layer.op_type,
                "quantized": layer.quantized,
                "reason": layer.reason,
                "settings": levels.of_layer(layer),
                "inputs": inputs,
            }
        )
    notes = [
        {"where": n.where, "message": n.message, "honoured": n.honoured} for n in explanation.notes
    ]
    return {
        "whole_model": _whole_model(recipe),
        "wishes": _wishes(recipe),
        "layers": layers,
        "notes": notes,
        "not_implemented": list(explanation.unsupported),
    }


def _whole_model(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of the whole model, as plain values."""
    from dataclasses import asdict, fields

    plain = asdict(recipe)
    del plain["fusion"]["origin"]
    plain["fix"] = {f.name: f.plain for f in recipe.fix} or None
    names = [f.name for f in fields(recipe) if f.name not in ("rules", "limits", "notes")]
    return {name: plain[name] for name in names}


def _wishes(recipe: Recipe) -> list[str]:
    """Return what a recipe wants of the whole model and is not the default, in words."""
    from dataclasses import fields

    from calibrant.recipe import Recipe
    from calibrant.recipe.words import wish_words

    plain, told = Recipe(), ("rules", "limits", "notes", "target", "calibration")
    names = [f.name for f in fields(recipe) if f.name not in told]
    wanted = [n for n in names if getattr(recipe, n) != getattr(plain, n)]
    wanted += [
        f.name
        for f in fields(recipe.calibration)
        if getattr(recipe.calibration, f.name) != getattr(plain.calibration, f.name)
    ]
    return [wish_words(recipe, name) for name in wanted]


def _plain(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a layer as plain values."""
    inputs = [{**e, "settings": _settings(e["settings"])} for e in layer["inputs"]]
    return {**layer, "settings": _settings(layer["settings"]), "inputs": inputs}


def _settings(decided: Mapping[str, Decided]) -> dict[str, Any]:
    from calibrant.cli._explained import told

    return {
        name: {"value": told(d.value), "level": d.level, "rule": d.rule}
        for name, d in decided.items()
    }
