"""AMCT's `config.json` for training with quantization: one object a layer.

    {
        "version":1,
        "batch_num":1,
        "conv1":{
            "retrain_enable":true,
            "retrain_data_config":{"algo":"ulq_quantize", "clip_max":3.0, "clip_min":-3.0, "dst_type":"INT8"},
            "retrain_weight_config":{"algo":"arq_retrain", "channel_wise":true, "dst_type":"INT8"}
        }
    }

| Key of a layer | Means |
|---|---|
| `retrain_enable` | whether it is quantized |
| `retrain_data_config` | its activations: `algo`, `clip_max`, `clip_min`, `fixed_min`, `dst_type` |
| `retrain_weight_config` | its weight: `algo`, `channel_wise`, `dst_type` |
| `regular_prune_enable`, `regular_prune_config` | pruning: a note |

A layer that is not in the file stays in float. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator

from calibrant.dialects.amct.common import TRAINING_KEYS
from calibrant.dialects.amct.retrain_write import write_for, write_recipe
from calibrant.dialects.amct.training import (
    BITS,
    TRAINING_LIMITS,
    WEIGHTS,
    check_pair,
    pruning_note,
    split,
    training_rules,
    ulq,
)
from calibrant.dialects.dialect import Dialect
from calibrant.errors import ConfigValueError, Problems, did_you_mean
from calibrant.recipe import Calibration, Layer, Note, Recipe, Rule, Settings
from calibrant.text.fields import Section, interval, one_of, read_section, without_null
from calibrant.text.json_text import json_keys, read_json
from calibrant.text.schema import FieldsError
from calibrant.text.yaml_text import Document, KeyPath

__all__ = ["DIALECT"]

_GLOBAL_KEYS = ("version", "batch_num", "fakequant_precision_mode")


class Globals(Section):
    """The global keys; layers stand beside them."""

    version: Annotated[int, one_of(1)] = 1
    batch_num: Annotated[int, interval("[1, inf)")] = 1
    fakequant_precision_mode: Annotated[str, one_of("DEFAULT", "FORCE_FP16_QUANT")] = "DEFAULT"


class DataConfig(Section):
    """`retrain_data_config`."""

    algo: Annotated[str, one_of("ulq_quantize")] = "ulq_quantize"
    clip_max: Annotated[float, interval("(0, inf)")] | None = None
    clip_min: Annotated[float, interval("(-inf, 0)")] | None = None
    fixed_min: bool | None = None
    dst_type: Annotated[str, one_of("INT4", "INT8", "INT16")] = "INT8"

    @model_validator(mode="after")
    def _both_or_neither(self) -> DataConfig:
        if (self.clip_max is None) != (self.clip_min is None):
            alone, other = (
                ("clip_max", "clip_min") if self.clip_min is None else ("clip_min", "clip_max")
            )
            raise FieldsError(
                f"it is given with {other}, or not at all", alone, getattr(self, alone)
            )
        return self


class WeightConfig(Section):
    """`retrain_weight_config`."""

    algo: Annotated[str, one_of("arq_retrain", "ulq_retrain")] = "arq_retrain"
    channel_wise: bool | None = None
    dst_type: Annotated[str, one_of("INT4", "INT8")] = "INT8"


class LayerConfig(Section):
    """The object of one layer; the sections are checked by themselves."""

    retrain_enable: bool = True
    retrain_data_config: dict[str, Any] | None = None
    retrain_weight_config: dict[str, Any] | None = None
    regular_prune_enable: bool = False
    regular_prune_config: dict[str, Any] | None = None


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text is a JSON object whose layers have this dialect's words."""
    outer, inner = json_keys(text)
    return "calibrant" not in outer and bool(inner & TRAINING_KEYS)


def load(text: str, path: Path | None) -> Recipe:
    """Read a configuration for training.

    Raises:
        ConfigValueError: No valid JSON, a key twice, an unknown key, a value that is not allowed, or no
            layer that is enabled; all that is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    problems = Problems()
    document = without_null(read_json(text, path, problems), problems)
    said = {k: v for k, v in document.content.items() if k in _GLOBAL_KEYS}
    content = Globals()
    with problems.caught():
        content = read_section(Globals, replace(document, content=said))
    rules = training_rules(path.name if path is not None else "config.json")
    notes: list[Note] = []
    layers = [k for k in document.content if k not in _GLOBAL_KEYS]
    enabled = []
    for name in layers:
        with problems.caught():
            enabled.append(_layer(name, document, rules, notes, problems))
    problems.check()
    if not any(enabled):
        raise ConfigValueError(
            f'{document.source}: No layer retrain enabled: every layer has "retrain_enable": false, or '
            "there is none."
        )
    return Recipe(
        rules=tuple(rules),
        target="layers-only",
        tiny_scales="one",
        limits=TRAINING_LIMITS,
        calibration=Calibration(batch_num=content.batch_num),
        bias_correction="off",
        equalize="off",
        scale_format="float16"
        if content.fakequant_precision_mode == "FORCE_FP16_QUANT"
        else "float32",
        training=True,
        notes=tuple(notes),
    )


def _layer(
    name: str, document: Document, rules: list[Rule], notes: list[Note], problems: Problems
) -> bool:
    """Add the rules of one layer; say whether it is enabled. `problems` gets what is wrong inside its sections."""
    if not isinstance(document.content[name], dict):
        raise ConfigValueError(
            f"{document.where((name,))}: {name} is neither a layer, which is an object, nor a global key. "
            f"Global keys: {', '.join(_GLOBAL_KEYS)}." + did_you_mean(name, _GLOBAL_KEYS)
        )
    layer = read_section(LayerConfig, document, (name,), layer=name)
    settings = Settings(compute="int" if layer.retrain_enable else "float32")
    with problems.caught():
        if layer.retrain_data_config is not None:
            data = read_section(DataConfig, document, (name, "retrain_data_config"), layer=name)
            settings = Settings(
                activation=ulq(data.clip_max, data.clip_min, data.fixed_min),
                activation_bits=BITS[data.dst_type],
            ).over(settings)
    with problems.caught():
        if layer.retrain_weight_config is not None:
            at: KeyPath = (name, "retrain_weight_config")
            weight = read_section(WeightConfig, document, at, layer=name)
            settings = Settings(
                weight=WEIGHTS[weight.algo],
                weight_bits=BITS[weight.dst_type],
                weight_per_channel=weight.channel_wise,
            ).over(settings)
    place = document.where((name,))
    try:
        check_pair(settings.activation_bits, settings.weight_bits)
    except ValueError as e:
        raise ConfigValueError(f"{place}: {name}: {e} in layer {name}") from e
    if layer.regular_prune_enable:
        notes.append(pruning_note(f"{place}: {name}.regular_prune_enable"))
    rules += split(Rule(Layer(name), settings, f"{Path(place).name} '{name}'", "required"))
    return layer.retrain_enable


DIALECT = Dialect(
    "amct-retrain",
    "AMCT config.json for training",
    recognises,
    load,
    write_recipe,
    write_for,
    if_empty="amct-retrain-cfg",
)
