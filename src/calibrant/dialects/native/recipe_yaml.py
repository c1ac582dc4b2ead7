"""The native recipe, in YAML.

    calibrant: 1
    target: generic
    calibration: {batch_size: 8, batch_num: 16, exact: false}
    fusion: {batch_norm: true, skip: []}
    bias_correction: auto         # auto, on, off
    equalize: auto
    rules:                        # in order; the last match wins, field by field
      - where: all
        precision: int8           # int4, int8, int16, float16, float32; int leaves the widths to others
        activation: {algorithm: mse, bits: 8, symmetric: false, per_channel: false}
        weight: {algorithm: arq, bits: 8, per_channel: true}
      - where: {op: Conv}
        activation: percentile    # an algorithm alone; options are further keys beside `algorithm`
      - where: {layer: conv1}     # a name, a pattern with * ? [ ], or a list of both
        precision: float32
      - where: first              # layers that read an input of the model; last: those that give an output
        precision: int8
      - where: {layer: add1, input: 1}
        activation: {bits: 16}
      - where: {subgraph: {name: head, inputs: [a], outputs: [b]}}
        balance: 0.5                # 0 takes it back
        candidates: [{activation: max}, {activation: mse}]      # chosen between by `search`
    search: {scope: model, metric: cosine-similarity, samples: 8}
    fix: {sr: 16000}                # inputs that are the same in every use become constants

Only `calibrant: 1` is required. `load(dump(recipe))` gives the recipe back; only the origins of its rules
become the lines of the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from calibrant.dialects.dialect import Dialect
from calibrant.dialects.limits import named_limits
from calibrant.dialects.mapping_file import mapped_layers
from calibrant.dialects.native.dump import dump
from calibrant.dialects.native.schema import (
    NAMES,
    AlgorithmSection,
    CalibrationSection,
    LimitSection,
    RecipeDocument,
    SettingsSection,
    WhereSection,
)
from calibrant.errors import ConfigError, ConfigValueError, Problems, did_you_mean
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    AllOf,
    Calibration,
    EndLayers,
    FixedInput,
    Fusion,
    InputOf,
    Layer,
    LayerInput,
    Limit,
    MappedLayers,
    Note,
    OpType,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
    Source,
    Subgraph,
    Where,
)
from calibrant.recipe.fixed import as_fixed
from calibrant.text.schema import validated
from calibrant.text.yaml_text import Document, KeyPath, path_text, read

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
            allowed; with file, line and key path. All that is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    problems = Problems()
    document = read(text, path, names=NAMES, problems=problems)
    content = validated(RecipeDocument, document, problems)
    if content is None:
        problems.check()
    assert content is not None
    rules = _rules(content, document, path, problems)
    problems.check()
    whole = {
        k: getattr(content, k)
        for k in (
            "bias_correction",
            "equalize",
            "joint",
            "keep_fixed_inputs",
            "scale_format",
            "tiny_scales",
            "training",
        )
    }
    return Recipe(
        rules=tuple(rules),
        target=content.target,
        limits=tuple(
            x for i, limit in enumerate(content.limits) for x in _limits(limit, document, i)
        ),
        calibration=_calibration(content.calibration),
        fusion=Fusion(content.fusion.batch_norm, tuple(content.fusion.skip)),
        output_precision=content.output_precision,
        search=Search(**content.search.model_dump()) if content.search is not None else None,
        fix=_fixed(content, document, path),
        promote=Promotion(**content.promote.model_dump()) if content.promote is not None else None,
        notes=tuple(Note(n.where, n.message, n.honoured) for n in content.notes),
        **whole,
    )


def _rules(
    content: RecipeDocument, document: Document, path: Path | None, problems: Problems
) -> list[Rule]:
    """Return the rules; `problems` gets what is wrong with each."""
    name = path.name if path is not None else "recipe"
    rules: list[Rule] = []
    for i, rule in enumerate(content.rules):
        at: KeyPath = ("rules", i)
        line = f":{document.lines[at]}" if at in document.lines else ""
        origin = f"{name}{line} rules[{i}]"
        settings = _settings(rule, document, at, problems)
        if rule.candidates is not None:
            tried = tuple(
                _settings(c, document, (*at, "candidates", n), problems)
                for n, c in enumerate(rule.candidates)
            )
            settings = Settings(candidates=tried).over(settings)
        with problems.caught():
            rules += [
                Rule(where, settings, origin, rule.force) for where in _wheres(rule.where, path)
            ]
    return rules


def _fixed(
    content: RecipeDocument, document: Document, path: Path | None
) -> tuple[FixedInput, ...]:
    name = path.name if path is not None else "recipe"
    found: list[FixedInput] = []
    for key, value in content.fix.items():
        at: KeyPath = ("fix", key)
        line = f":{document.lines[at]}" if at in document.lines else ""
        found += as_fixed({key: value}, f"{name}{line} {path_text(at)}")
    return tuple(found)


def _calibration(section: CalibrationSection) -> Calibration:
    sources = tuple(
        Source(path=s.path, kind=s.kind, color=s.color, mean=tuple(s.mean), std=tuple(s.std))
        for s in section.sources
    )
    return Calibration(
        section.batch_size,
        section.batch_num,
        section.exact,
        section.random,
        sources,
        section.balance_batches,
        section.behind,
    )


def _limits(section: LimitSection | str, document: Document, index: int) -> tuple[Limit, ...]:
    """Return the limits that one entry stands for: itself, or all that a name stands for."""
    if isinstance(section, str):
        known = named_limits()
        if section not in known:
            place = document.where(("limits", index))
            raise ConfigValueError(
                f"{place}: limits[{index}] is '{section}'; it is a limit, or one of {', '.join(known)}."
                + did_you_mean(section, known)
            )
        return known[section]
    where: AllNodes | OpType | InputOf = AllNodes()
    if section.where.op is not None:
        where = OpType(section.where.op[0])
        if section.where.input is not None:
            where = InputOf(where, section.where.input)
    allowed = tuple(section.allowed)
    return (Limit(where, section.setting, allowed, section.reason, section.condition),)


def _wheres(where: WhereSection, path: Path | None) -> list[Where]:
    """Return what a `where` selects, one for each name in it.

    A mapping file whose names do not stand in the recipe is read, beside the recipe or from where we are.
    """
    parts = [part for section in where.all_of or () for part in _parts(section)]
    if parts:
        return [AllOf(tuple(parts))]
    if where.mapped is not None:
        mapped = where.mapped
        if mapped.names is None:
            return [mapped_layers(mapped.file, path)]
        return [MappedLayers(mapped.file, tuple(mapped.names))]
    found = _parts(where)
    if where.input is None:
        return [*found] or [AllNodes()]
    index, types = where.input, tuple(where.types or ())
    return [
        LayerInput(f.name, index, types) if isinstance(f, Layer) else InputOf(f, index)
        for f in found
    ]


def _parts(where: WhereSection) -> list[OpType | Layer | Subgraph | EndLayers]:
    if where.first is not None:
        return [EndLayers("first")]
    if where.last is not None:
        return [EndLayers("last")]
    if where.op is not None:
        return [OpType(name) for name in where.op]
    if where.layer is not None:
        return [Layer(name) for name in where.layer]
    if where.subgraph is not None:
        s = where.subgraph
        return [Subgraph(s.name, tuple(s.inputs), tuple(s.outputs), s.exclusive)]
    return []


def _settings(
    section: SettingsSection, document: Document, at: KeyPath, problems: Problems
) -> Settings:
    """Return what a section says; `problems` gets algorithms and options that do not exist."""
    said: dict[str, Any] = {
        "balance": section.balance,
        "compensation": section.compensation,
        "bias_samples": section.bias.samples,
        "bias_metric": section.bias.metric,
    }
    if section.activation is not None:
        a = section.activation
        with problems.caught():
            said["activation"] = _choice("activation", a, document, (*at, "activation"))
        said |= {
            "activation_bits": a.bits,
            "activation_symmetric": a.symmetric,
            "activation_per_channel": a.per_channel,
        }
    if section.weight is not None:
        w = section.weight
        with problems.caught():
            said["weight"] = _choice("weight", w, document, (*at, "weight"))
        said |= {
            "weight_bits": w.bits,
            "weight_per_channel": w.per_channel,
        }
    base = Settings()
    if section.precision is not None:
        base = (
            Settings(compute="int")
            if section.precision == "int"
            else Settings.of_precision(section.precision)
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
    from calibrant.recipe.unsupported import RESERVED

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
    if section.algorithm in RESERVED[kind]:
        return AlgorithmChoice.of(section.algorithm, options)
    try:
        make = algorithms.activation if kind == "activation" else algorithms.weight
        make(section.algorithm, **options)
    except ConfigError as e:
        raise type(e)(f"{where}: {e}") from e
    return AlgorithmChoice.of(section.algorithm, options)


DIALECT = Dialect("native", "YAML with the key 'calibrant: 1'", recognises, load, dump)
