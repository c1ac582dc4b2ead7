"""Write a recipe in YAML, laid out as a person would; `native` has the form.

Rules that follow each other and say the same of layers, or of types, stand as one rule for all of them, and limits that
have a name stand as that. Reading the text gives the same recipe back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from typing import Any

from calibrant.dialects.limits import named_limits
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    AllOf,
    Calibration,
    EndLayers,
    Fusion,
    InputOf,
    Layer,
    LayerInput,
    Limit,
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
from calibrant.text.yaml_text import Block, write

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
    if recipe.fix:
        content["fix"] = {f.name: f.plain for f in recipe.fix}
    if recipe.keep_fixed_inputs:
        content["keep_fixed_inputs"] = True
    content["limits"] = _limits(recipe.limits)
    content["rules"] = [_rule_content(rules) for rules in _alike(recipe.rules)]
    content["notes"] = [
        Block(where=n.where, message=n.message, honoured=n.honoured) for n in recipe.notes
    ]
    sections = {k: v for k, v in content.items() if v not in (None, {}, [])}
    return "".join(_section_text(key, value) for key, value in sections.items())


def _section_text(key: str, value: Any) -> str:
    """Return one key of the recipe; lists of mappings stand apart."""
    apart = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    return ("\n" if apart else "") + write(Block({key: value}))


def _limits(limits: tuple[Limit, ...]) -> list[Any]:
    """Return limits as they are written: those that a vendor's devices have, by name."""
    for name, known in named_limits().items():
        if known and limits[: len(known)] == known:
            return [name, *_limits(limits[len(known) :])]
    return [_limit_content(limit) for limit in limits]


def _limit_content(limit: Limit) -> Block:
    content = Block(
        where=_where_content(limit.where),
        setting=limit.setting,
        allowed=list(limit.allowed),
        reason=limit.reason,
    )
    if limit.condition != "always":
        content["condition"] = limit.condition
    return content


def _alike(rules: Iterable[Rule]) -> Iterator[list[Rule]]:
    """Yield rules that follow each other and say the same, of layers or of types."""
    for _, group in itertools.groupby(rules, key=lambda r: (type(r.where), r.settings, r.force)):
        alike = list(group)
        if isinstance(alike[0].where, Layer | OpType):
            yield alike
        else:
            yield from ([rule] for rule in alike)


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


def _rule_content(rules: list[Rule]) -> Block:
    """Return one rule of the text, for one rule or for several that are alike."""
    rule = rules[0]
    where = _where_content(rule.where)
    if len(rules) > 1:
        where = {key: [_where_content(r.where)[key] for r in rules] for key in where}
    content = Block(where=where, **_settings_content(rule.settings))
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
        case EndLayers(which):
            return which
        case InputOf(nodes, index):
            inner = {nodes.which: True} if isinstance(nodes, EndLayers) else _where_content(nodes)
            return inner | {"input": index}
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
