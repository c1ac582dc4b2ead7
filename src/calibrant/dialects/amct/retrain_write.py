"""Recipes as AMCT's configurations for training: `config.json` and protobuf text (tables: `retrain_json`, `retrain_cfg`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calibrant.dialects.amct.common import LAYER_LIMITS
from calibrant.dialects.amct.training import TRAINING_LIMITS, TRAINING_TYPES, training_rules
from calibrant.dialects.losses import (
    lose,
    merge,
    refuse_settings,
    refuse_unlisted,
    refuse_wishes,
    vendor_json,
)
from calibrant.errors import ConfigValueError
from calibrant.recipe import (
    AllNodes,
    Calibration,
    Layer,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from calibrant.graph.load import ModelLike
from calibrant.recipe.words import setting_words

__all__ = [
    "create_retrain_config",
    "default_retrain_recipe",
    "write_cfg",
    "write_for",
    "write_recipe",
]

#: `behind` needs no word: while training starts, weights are rounded already.
_CAN_SAY = {"scale_format", "batch_num", "training", "behind"}
_FIELDS = {
    "compute",
    "activation",
    "activation_bits",
    "activation_symmetric",
    "weight",
    "weight_bits",
    "weight_per_channel",
}
_TYPES = {4: "INT4", 8: "INT8", 16: "INT16"}


def create_retrain_config(model: ModelLike, *, config: str | Path | Recipe | None = None) -> str:
    """Write the configuration of a model: every layer that training quantizes, in graph order.

    Args:
        model: The float model.
        config: A simplified configuration, or a recipe in any dialect; None for the vendor's defaults.

    Raises:
        ConfigValueError: An unknown layer, a setting that does not fit its layer, or no layer enabled.
        UnsupportedError: The recipe says what this file cannot.
    """
    from calibrant.dialects import load_recipe

    return write_for(default_retrain_recipe() if config is None else load_recipe(config), model)


def default_retrain_recipe() -> Recipe:
    """Return what the vendor's tools train where nothing is said: every layer that training quantizes, in 8 bits."""
    return Recipe(
        rules=tuple(training_rules("amct", TRAINING_TYPES)),
        target="layers-only",
        tiny_scales="one",
        limits=TRAINING_LIMITS,
        calibration=Calibration(batch_num=1),
        bias_correction="off",
        equalize="off",
        training=True,
    )


def write_for(recipe: Recipe, model: ModelLike) -> str:
    """Write a recipe for a model; errors as for `create_retrain_config`."""
    from calibrant.graph.load import load, prepare
    from calibrant.graph.ops import matches_type
    from calibrant.graph.targets import get
    from calibrant.plan.conditions import applies
    from calibrant.plan.effective import Effective

    refuse_wishes(recipe, "amct-retrain", can=_CAN_SAY)
    prepared = prepare(load(model))
    Effective(recipe, prepared, get(recipe.target), known := list[Note]())
    given: list[Note] = []
    vendors = replace(recipe, limits=(*recipe.limits, *TRAINING_LIMITS), target="layers-only")
    effective = Effective(vendors, prepared, get("layers-only"), given)
    layers = {
        node.name or "": effective.of(node)[0]
        for node in prepared.graph
        if any(matches_type(node, t) for t in TRAINING_TYPES)
        and not any(applies(limit, node) for limit in LAYER_LIMITS)
    }
    if recipe.target != "layers-only":
        for note in (n for n in given if n not in known):
            lose(f"{note.where} does not fit a layer that AMCT trains: {note.message}")
    if not any(s.compute == "int" for s in layers.values()):
        raise ConfigValueError(
            f"No layer retrain enabled: the model has {len(layers)} that training quantizes, and none is "
            "left."
        )
    return vendor_json(_globals(recipe) | {n: _layer(n, s) for n, s in layers.items()})


def write_recipe(recipe: Recipe) -> str:
    """Write a recipe that names its layers as `config.json`.

    Raises:
        UnsupportedError: It has rules for types or patterns, or says what this file cannot.
    """
    refuse_wishes(recipe, "amct-retrain", can=_CAN_SAY)
    names: dict[str, None] = {}
    for rule in recipe.rules:
        if isinstance(rule.where, Layer) and not any(c in rule.where.name for c in "*?["):
            names[rule.where.name] = None
        elif not isinstance(rule.where, AllNodes):
            refuse_unlisted(rule)
    content = _globals(recipe)
    for name in names:
        said = [
            r
            for r in recipe.rules
            if r.force != "implied" and (isinstance(r.where, AllNodes) or r.where == Layer(name))
        ]
        content[name] = _layer(name, merge(said))
    return vendor_json(content)


def _globals(recipe: Recipe) -> dict[str, Any]:
    content: dict[str, Any] = {"version": 1, "batch_num": recipe.calibration.batch_num or 1}
    if recipe.scale_format == "float16":
        content["fakequant_precision_mode"] = "FORCE_FP16_QUANT"
    return content


def _layer(name: str, settings: Settings) -> dict[str, Any]:
    refuse_settings(settings, "amct-retrain", f"layer '{name}'", can=_FIELDS)
    layer: dict[str, Any] = {"retrain_enable": settings.compute == "int"}
    data = _data(settings, name)
    weight = _weight(settings, name)
    if data:
        layer["retrain_data_config"] = data
    if weight:
        layer["retrain_weight_config"] = weight
    return layer


def _data(settings: Settings, name: str) -> dict[str, Any]:
    section: dict[str, Any] = {}
    if settings.activation is not None:
        if settings.activation.name != "ulq":
            _unsayable(setting_words("activation", settings.activation), name)
        section = {"algo": "ulq_quantize"} | {
            k: v
            for k in ("clip_max", "clip_min", "fixed_min")
            if (v := dict(settings.activation.options).get(k)) is not None
        }
    if settings.activation_symmetric:
        _unsayable("symmetric activations", name)
    if settings.activation_bits is not None:
        section["dst_type"] = _TYPES[settings.activation_bits]
    return section


def _weight(settings: Settings, name: str) -> dict[str, Any]:
    section: dict[str, Any] = {}
    if settings.weight is not None:
        if settings.weight.name not in ("arq", "ulq"):
            _unsayable(setting_words("weight", settings.weight), name)
        section["algo"] = "ulq_retrain" if settings.weight.name == "ulq" else "arq_retrain"
    if settings.weight_per_channel is not None:
        section["channel_wise"] = settings.weight_per_channel
    if settings.weight_bits is not None:
        if settings.weight_bits not in (4, 8):
            _unsayable(f"weights of {settings.weight_bits} bits", name)
        section["dst_type"] = "INT4" if settings.weight_bits == 4 else "INT8"
    return section


def _unsayable(what: str, name: str) -> None:
    lose(
        f"A configuration for training cannot say {what} ({name}); it knows ulq for activations, and arq "
        "and ulq of 4 or 8 bits for weights.",
        at=name,
    )


# ----------------------------------------------------------------------------------- protobuf text


def write_cfg(recipe: Recipe) -> str:
    """Write a recipe with rules for all nodes, types and layers as the simplified configuration.

    A rule for all nodes is the global block; it may not come after one for a type or a layer, nor one for
    a type after one for a layer, since the file has no other order.

    Raises:
        UnsupportedError: Another order or kind of rule, or what this file cannot say.
    """
    refuse_wishes(recipe, "amct-retrain-cfg", can=_CAN_SAY)
    rules = [r for r in recipe.rules if r.force != "implied"]
    _check_order(rules)
    lines = [f"batch_num: {recipe.calibration.batch_num or 1}"]
    if recipe.scale_format == "float16":
        lines.append("fakequant_precision_mode: FORCE_FP16_QUANT")
    common = merge(r for r in rules if isinstance(r.where, AllNodes))
    lines += _sections(common, "all", 0)
    for kind, skip, block, key in (
        (OpType, "skip_layer_types", "override_layer_types", "layer_type"),
        (Layer, "skip_layers", "override_layer_configs", "layer_name"),
    ):
        for where in dict.fromkeys(r.where for r in rules if isinstance(r.where, kind)):
            settings = merge(r for r in rules if r.where == where)
            name = json.dumps(where.name, ensure_ascii=False)
            if settings.compute == "float32":
                lines.append(f"{skip}: {name}")
            else:
                lines += [f"{block} {{", f"  {key}: {name}", *_sections(settings, name, 1), "}"]
    return "\n".join(lines) + "\n"


def _check_order(rules: Sequence[Rule]) -> None:
    rank = {AllNodes: 0, OpType: 1, Layer: 2}
    last = 0
    for rule in rules:
        found = rank.get(type(rule.where))
        pattern = isinstance(rule.where, Layer) and any(c in rule.where.name for c in "*?[")
        if found is None or pattern:
            lose(
                f"A simplified configuration has blocks for all layers, for types and for layers by name; "
                f"'{rule.where}' ({rule.origin or 'a rule'}) is none of these."
            )
            continue
        is_skip = rule.settings.compute == "float32"
        if found < last and not is_skip:
            lose(
                f"In a simplified configuration a layer beats a type and a type beats all; the rule for "
                f"'{rule.where}' ({rule.origin or 'a rule'}) comes after a narrower one."
            )
        last = max(last, found) if not is_skip else last


def _sections(settings: Settings, where: str, depth: int) -> list[str]:
    refuse_settings(settings, "amct-retrain-cfg", where, can=_FIELDS)
    lines = []
    data, weight = _data(settings, where), _weight(settings, where)
    if data:
        lines += _block("retrain_data_quant_config", "ulq_quantize", _clip_form(data))
    if weight:
        algorithm = weight.pop("algo", "arq_retrain")
        lines += _block("retrain_weight_quant_config", algorithm, _plain(weight))
    return ["  " * depth + line for line in lines]


def _block(outer: str, inner: str, fields: list[str]) -> list[str]:
    return [f"{outer} {{", f"  {inner} {{", *(f"    {f}" for f in fields), "  }", "}"]


def _clip_form(data: dict[str, Any]) -> list[str]:
    data.pop("algo", None)
    clips: dict[str, Any] = {k: data.pop(k) for k in ("clip_max", "clip_min") if k in data}
    head = ["clip_max_min { " + " ".join(_plain(clips)) + " }"] if clips else []
    return head + _plain(data)


def _plain(fields: dict[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [f"{k}: {text(v)}" for k, v in fields.items()]
