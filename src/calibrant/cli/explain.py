"""`calibrant explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibrant.cli._options import Debug, Dialect, Json, Model, Strict

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.plan import Explanation
    from calibrant.recipe import Recipe

__all__ = ["EXAMPLES", "explain"]

EXAMPLES = """Examples:

`calibrant explain model.onnx --recipe quant.cfg`

`calibrant explain model.onnx --recipe recipe.yaml --json`
"""

#: Columns for a value in the text.
VALUE_WIDTH = 18


def explain(
    model: Model,
    *,
    recipe: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A recipe or a vendor's configuration, recognised by what it says.",
            show_default=False,
        ),
    ],
    dialect: Dialect = None,
    strict: Strict = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a configuration means for every layer, and which rule decided it.

    Beside each setting stand the level (default, model, type, subgraph, layer, input) and the place of the
    rule that decided. What cannot be done as asked is listed with its reason. No data is needed.
    """
    from calibrant.cli._prepared import prepared_for
    from calibrant.cli._summary import print_json
    from calibrant.dialects import load_recipe
    from calibrant.plan import explain as explained

    wanted = load_recipe(recipe, dialect=dialect, strict=strict)
    prepared = prepared_for(wanted, model)
    found = _content(explained(wanted, prepared), wanted, prepared)
    content = {"model": str(model), "recipe": str(recipe), **found}
    if as_json:
        print_json(content)
    else:
        typer.echo("\n".join(_lines(content)))


def _content(explanation: Explanation, recipe: Recipe, model: ir.Model) -> dict[str, Any]:
    from calibrant.cli._levels import Levels

    levels = Levels(recipe, model)
    layers = []
    for layer in (*explanation.layers, *levels.others(explanation.layers)):
        inputs = [
            {"input": index, "tensor": tensor, "settings": _settings(decided)}
            for index, tensor, decided in levels.of_inputs(layer)
        ]
        layers.append(
            {
                "layer": layer.node,
                "op_type": layer.op_type,
                "quantized": layer.quantized,
                "reason": layer.reason,
                "settings": _settings(levels.of_layer(layer)),
                "inputs": inputs,
            }
        )
    notes = [
        {"where": n.where, "message": n.message, "honoured": n.honoured} for n in explanation.notes
    ]
    return {
        "whole_model": _whole_model(recipe),
        "layers": layers,
        "notes": notes,
        "not_implemented": list(explanation.unsupported),
    }


def _whole_model(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of the whole model, as plain values."""
    from dataclasses import asdict, fields

    plain = asdict(recipe)
    del plain["fusion"]["origin"]
    names = [f.name for f in fields(recipe) if f.name not in ("rules", "limits", "notes")]
    return {name: plain[name] for name in names}


def _settings(decided: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"value": _value(d.value), "level": d.level, "rule": d.rule}
        for name, d in decided.items()
    }


def _value(value: Any) -> Any:
    """Return a setting as a number, a text or a list of candidates."""
    if isinstance(value, tuple):
        return [", ".join(f"{_words(k)} {_shown(v)}" for k, v in c.items()) for c in value]
    return value if isinstance(value, bool | int | float) else str(value)


# --------------------------------------------------------------------------------------------- text


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    layers = content["layers"]
    count = sum(layer["quantized"] for layer in layers)
    whole = content["whole_model"]
    yield f"{content['recipe']} for {content['model']}, target {whole['target']}"
    if whole["training"]:
        yield "It is for training with quantization: ranges are learned. 'calibrant quantize' does not train."
    yield f"{len(layers)} layers: {count} quantized, {len(layers) - count} left in float"
    yield ""
    yield "Whole model"
    for name, value in whole.items():
        if name != "target" and value is not None:
            yield f"  {_words(name):<22}  {_whole(value)}"
    for layer in layers:
        yield ""
        state = "quantized" if layer["quantized"] else f"stays in float: {layer['reason']}"
        yield f"{layer['layer']} ({layer['op_type']}), {state}"
        shown = layer["settings"]
        if not layer["quantized"]:  # what would hold is of no effect
            shown = {"compute": shown["compute"]}
        yield from _table(shown)
        for entry in layer["inputs"]:
            if layer["quantized"] or "compute" in entry["settings"]:
                yield f"  input {entry['input']} '{entry['tensor']}'"
                yield from _table(entry["settings"], "  ")
    kept = [n for n in content["notes"] if not n["honoured"]]
    other = [n for n in content["notes"] if n["honoured"]]
    yield from _list("Not done as asked", [f"{n['where']}: {n['message']}" for n in kept])
    yield from _list("Done in another way", [f"{n['where']}: {n['message']}" for n in other])
    yield from _list(
        "Not implemented yet, so 'calibrant quantize' refuses it", content["not_implemented"]
    )


def _table(settings: Mapping[str, Mapping[str, Any]], indent: str = "") -> Iterator[str]:
    for name, s in settings.items():
        *before, value = (
            s["value"] if isinstance(s["value"], list) and s["value"] else [s["value"]]
        )
        head = f"{indent}  {_words(name):<{22 - len(indent)}}"
        for line in before:
            yield f"{head}  {line}"
            head = " " * 24
        head = f"{head}  {_shown(value):<{VALUE_WIDTH}}"
        if len(_shown(value)) > VALUE_WIDTH:  # what decided it stands on a line of its own
            yield head
            head = " " * (26 + VALUE_WIDTH)
        yield f"{head}  {s['level']:<8}  {s['rule']}"


def _whole(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = [f"{_words(k)} {_shown(v)}" for k, v in value.items() if v not in (None, (), [])]
        return ", ".join(parts)
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _list(title: str, entries: list[str]) -> Iterator[str]:
    if entries:
        yield ""
        yield title
        yield from (f"  {entry}" for entry in entries)
