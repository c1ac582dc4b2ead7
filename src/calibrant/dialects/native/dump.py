"""Write a recipe in YAML; `native` has the form."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    AllOf,
    Calibration,
    Fusion,
    InputOf,
    Layer,
    LayerInput,
    MappedLayers,
    OpType,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
    Subgraph,
    Where,
)
from calibrant.text.yaml_text import write

__all__ = ["dump"]


def dump(recipe: Recipe) -> str:
    """Write a recipe in YAML; what is at its default is left out, but for the target."""
    plain = Recipe()
    content: dict[str, Any] = {"calibrant": 1, "target": recipe.target}
    content["calibration"] = _calibration(recipe.calibration)
    if recipe.fusion != Fusion():
        content["fusion"] = {
            "batch_norm": recipe.fusion.batch_norm,
            "skip": list(recipe.fusion.skip),
        }
    for key in (
        "bias_correction",
        "equalize",
        "joint",
        "scale_format",
        "tiny_scales",
        "output_precision",
        "training",
    ):
        if getattr(recipe, key) != getattr(plain, key):
            content[key] = getattr(recipe, key)
    if recipe.search is not None:
        content["search"] = _differences(recipe.search, Search()) or {"scope": "model"}
    if recipe.promote is not None:
        content["promote"] = _unlike_defaults(recipe.promote)
    content["limits"] = [
        {
            "where": _where_content(limit.where),
            "setting": limit.setting,
            "allowed": list(limit.allowed),
            "reason": limit.reason,
        }
        | ({"condition": limit.condition} if limit.condition != "always" else {})
        for limit in recipe.limits
    ]
    content["rules"] = [_rule_content(rule) for rule in recipe.rules]
    content["notes"] = [
        {"where": n.where, "message": n.message, "honoured": n.honoured} for n in recipe.notes
    ]
    return write({k: v for k, v in content.items() if v not in (None, {}, [])})


def _calibration(calibration: Calibration) -> dict[str, Any]:
    content = _differences(replace(calibration, sources=()), Calibration())
    if calibration.sources:
        content["sources"] = [
            {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in asdict(s).items()
                if k != "beside" and v not in (None, ())
            }
            for s in calibration.sources
        ]
    return content


def _unlike_defaults(value: Promotion) -> dict[str, Any]:
    """Return the fields that are not at their defaults, of a class that has no default whole."""
    return {f.name: v for f in fields(value) if (v := getattr(value, f.name)) != f.default}


def _differences(value: Any, plain: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not at their defaults."""
    defaults = asdict(plain)
    return {k: v for k, v in asdict(value).items() if v != defaults[k]}


def _rule_content(rule: Rule) -> dict[str, Any]:
    content = {"where": _where_content(rule.where), **_settings_content(rule.settings)}
    if rule.force != "wished":
        content["force"] = rule.force
    if rule.settings.candidates is not None:
        content["candidates"] = [_settings_content(c) for c in rule.settings.candidates]
    return content


def _settings_content(s: Settings) -> dict[str, Any]:
    content: dict[str, Any] = {}
    bits = {"activation": s.activation_bits, "weight": s.weight_bits}
    if s.compute is not None:
        content["precision"] = s.compute
        for name in ("int4", "int8", "int16"):
            full = Settings.of_precision(name)
            if s.compute == "int" and bits == {
                "activation": full.activation_bits,
                "weight": full.weight_bits,
            }:
                content["precision"], bits = name, {"activation": None, "weight": None}
                break
    content["activation"] = _section(
        s.activation,
        bits=bits["activation"],
        symmetric=s.activation_symmetric,
        per_channel=s.activation_per_channel,
    )
    content["weight"] = _section(s.weight, bits=bits["weight"], per_channel=s.weight_per_channel)
    content["balance"] = s.balance
    content["compensation"] = s.compensation
    content["bias"] = _without_none({"samples": s.bias_samples, "metric": s.bias_metric})
    return {k: v for k, v in content.items() if v is not None and v != {}}


def _where_content(where: Where) -> Any:
    match where:
        case AllNodes():
            return "all"
        case OpType(name):
            return {"op": name}
        case Layer(name):
            return {"layer": name}
        case LayerInput(name, index, types):
            own = {"layer": name, "input": index}
            return own | {"types": list(types)} if types else own
        case Subgraph(name, inputs, outputs, exclusive):
            graph = {"name": name, "inputs": list(inputs), "outputs": list(outputs)}
            return {"subgraph": graph | {"exclusive": True} if exclusive else graph}
        case InputOf(nodes, index):
            return _where_content(nodes) | {"input": index}
        case AllOf(parts):
            return {"all_of": [_where_content(p) for p in parts]}
        case MappedLayers(file, names):
            mapped: dict[str, Any] = {"file": file}
            return {"mapped": mapped if names is None else mapped | {"names": list(names)}}


def _section(choice: AlgorithmChoice | None, **settings: Any) -> dict[str, Any]:
    section: dict[str, Any] = {
        "algorithm": choice.name if choice is not None else None,
        **settings,
    }
    options = choice.options if choice is not None else ()
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options}
    return _without_none(section) | plain


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if v is not None}
