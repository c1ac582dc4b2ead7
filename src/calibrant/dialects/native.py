"""The native recipe, in YAML.

    calibrant: 1
    target: generic
    calibration: {batch_size: 8, batch_num: 16, exact: false}
    fusion: {batch_norm: true, skip: []}
    bias_correction: auto         # auto, on, off
    equalize: auto
    rounding: auto
    rules:                        # in order; the last match wins, field by field
      - where: all
        precision: int8           # int4, int8, int16, float16, float32; int leaves the widths to others
        activation: {algorithm: mse, bits: 8, symmetric: false, per_channel: false}
        weight: {algorithm: arq, bits: 8, per_channel: true}
      - where: {op: Conv}
        activation: percentile    # an algorithm alone; options are further keys beside `algorithm`
      - where: {layer: conv1}     # a name, a pattern with * ? [ ], or a list of both
        precision: float32
      - where: {layer: add1, input: 1}
        activation: {bits: 16}
      - where: {subgraph: {name: head, inputs: [a], outputs: [b]}}
        balance: 0.5

Only `calibrant: 1` is required. `load(dump(recipe))` gives the recipe back; only the origins of its rules
become the lines of the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from calibrant.dialects._dialect import Dialect
from calibrant.dialects._native_schema import (
    NAMES,
    AlgorithmSection,
    RecipeDocument,
    RuleSection,
    WhereSection,
)
from calibrant.dialects._schema import config_error
from calibrant.dialects._yaml import Document, KeyPath, path_text, read, write
from calibrant.errors import ConfigError, ConfigValueError, did_you_mean
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Calibration,
    Fusion,
    Layer,
    LayerInput,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
    Where,
)

__all__ = ["DIALECT"]


# ---------------------------------------------------------------------------------------------- load


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text is a mapping with the key `calibrant`, or begins with it."""
    try:
        content = read(text, path).content
    except ConfigValueError:
        return any(line.startswith(("calibrant:", '"calibrant":')) for line in text.splitlines())
    return isinstance(content, dict) and "calibrant" in content


def load(text: str, path: Path | None) -> Recipe:
    """Read a native recipe.

    Raises:
        ConfigValueError: No valid YAML, an unknown key, algorithm or option, or a value that is not
            allowed; with file, line and key path.
        ConfigTypeError: A value of the wrong type.
    """
    document = read(text, path, names=NAMES)
    try:
        content = RecipeDocument.model_validate(document.content)
    except ValidationError as e:
        raise config_error(e, RecipeDocument, document) from e
    name = path.name if path is not None else "recipe"
    rules: list[Rule] = []
    for i, rule in enumerate(content.rules):
        at: KeyPath = ("rules", i)
        line = f":{document.lines[at]}" if at in document.lines else ""
        origin = f"{name}{line} rules[{i}]"
        settings = _settings(rule, document, at)
        rules += [Rule(where, settings, origin) for where in _wheres(rule.where)]
    return Recipe(
        rules=tuple(rules),
        target=content.target,
        calibration=Calibration(**content.calibration.model_dump()),
        fusion=Fusion(content.fusion.batch_norm, tuple(content.fusion.skip)),
        bias_correction=content.bias_correction,
        equalize=content.equalize,
        rounding=content.rounding,
        notes=tuple(Note(n.where, n.message, n.honoured) for n in content.notes),
    )


def _wheres(where: WhereSection) -> list[Where]:
    if where.op is not None:
        return [OpType(name) for name in where.op]
    if where.layer is not None and where.input is not None:
        return [LayerInput(name, where.input) for name in where.layer]
    if where.layer is not None:
        return [Layer(name) for name in where.layer]
    if where.subgraph is not None:
        s = where.subgraph
        return [Subgraph(s.name, tuple(s.inputs), tuple(s.outputs))]
    return [AllNodes()]


def _settings(rule: RuleSection, document: Document, at: KeyPath) -> Settings:
    said: dict[str, Any] = {"balance": rule.balance}
    if rule.activation is not None:
        a = rule.activation
        said |= {
            "activation": _choice("activation", a, document, (*at, "activation")),
            "activation_bits": a.bits,
            "activation_symmetric": a.symmetric,
            "activation_per_channel": a.per_channel,
        }
    if rule.weight is not None:
        w = rule.weight
        said |= {
            "weight": _choice("weight", w, document, (*at, "weight")),
            "weight_bits": w.bits,
            "weight_per_channel": w.per_channel,
        }
    base = Settings()
    if rule.precision is not None:
        base = (
            Settings(compute="int")
            if rule.precision == "int"
            else Settings.of_precision(rule.precision)
        )
    return Settings(**said).over(base)


def _choice(
    kind: Literal["activation", "weight"],
    section: AlgorithmSection,
    document: Document,
    at: KeyPath,
) -> AlgorithmChoice | None:
    """Return the algorithm asked for, once `calibrant.algorithms` has accepted name and options."""
    from calibrant import algorithms

    options = section.model_extra or {}
    where = f"{document.where((*at, next(iter(options), 'algorithm')))}: {path_text(at)}"
    if section.algorithm in (None, "auto"):
        if options:
            key, known = next(iter(options)), list(type(section).model_fields)
            why = "no algorithm is named" if section.algorithm is None else "auto has none"
            raise ConfigValueError(
                f"{where}.{key} is neither a key nor an option of an algorithm ({why}). "
                f"Known: {', '.join(known)}." + did_you_mean(key, known)
            )
        return None if section.algorithm is None else AlgorithmChoice("auto")
    try:
        make = algorithms.activation if kind == "activation" else algorithms.weight
        make(section.algorithm, **options)
    except ConfigError as e:
        raise type(e)(f"{where}: {e}") from e
    return AlgorithmChoice.of(section.algorithm, options)


# ---------------------------------------------------------------------------------------------- dump


def dump(recipe: Recipe) -> str:
    """Write a recipe in YAML; what is at its default is left out, but for the target."""
    content: dict[str, Any] = {"calibrant": 1, "target": recipe.target}
    c = recipe.calibration
    calibration = {"batch_size": c.batch_size, "batch_num": c.batch_num, "exact": c.exact or None}
    content["calibration"] = _without_none(calibration)
    if recipe.fusion != Fusion():
        content["fusion"] = {
            "batch_norm": recipe.fusion.batch_norm,
            "skip": list(recipe.fusion.skip),
        }
    for key in ("bias_correction", "equalize", "rounding"):
        content[key] = getattr(recipe, key) if getattr(recipe, key) != "auto" else None
    content["rules"] = [_rule_content(rule) for rule in recipe.rules]
    content["notes"] = [
        {"where": n.where, "message": n.message, "honoured": n.honoured} for n in recipe.notes
    ]
    return write({k: v for k, v in content.items() if v not in (None, {}, [])})


def _rule_content(rule: Rule) -> dict[str, Any]:
    s = rule.settings
    content: dict[str, Any] = {"where": _where_content(rule.where)}
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
    return {k: v for k, v in content.items() if v not in (None, {})}


def _where_content(where: Where) -> Any:
    match where:
        case AllNodes():
            return "all"
        case OpType(name):
            return {"op": name}
        case Layer(name):
            return {"layer": name}
        case LayerInput(name, index):
            return {"layer": name, "input": index}
        case Subgraph(name, inputs, outputs):
            return {"subgraph": {"name": name, "inputs": list(inputs), "outputs": list(outputs)}}


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


DIALECT = Dialect("native", "YAML with the key 'calibrant: 1'", recognises, load, dump)
