"""AMCT's simplified configuration for training with quantization: protobuf text.

    batch_num: 1
    retrain_data_quant_config: { ulq_quantize: { clip_max_min: { clip_max: 6.0 clip_min: -6.0 } } }
    retrain_weight_quant_config: { arq_retrain: { channel_wise: true } }
    skip_layers: "conv1"
    override_layer_configs: { layer_name: "conv2" … }

| Field | Holds for |
|---|---|
| `retrain_data_quant_config`, `retrain_weight_quant_config` | all layers |
| `override_layer_types`, `override_layer_configs` | a type, a layer |
| `skip_layers`, `skip_layer_types`, `quant_skip_layers`, `quant_skip_types` | layers that stay in float |
| `prune_config`, `regular_prune_skip_layers`, `regular_prune_skip_types` | pruning: a note |

A layer has the block of its name, or that of its type, or the global one; blocks are not merged. A block
beats skipping, other than in the configuration for post-training quantization.

Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from pathlib import Path

from calibrant.dialects.amct.asides import ASIDE
from calibrant.dialects.amct.common import TRAINING_FIELDS
from calibrant.dialects.amct.retrain_cfg_schema import AMCTRetrainConfig, Override
from calibrant.dialects.amct.retrain_write import write_cfg
from calibrant.dialects.amct.training import (
    TRAINING_LIMITS,
    TRAINING_TYPES,
    check_pair,
    default_training,
    pruning_note,
    split,
    training_rules,
)
from calibrant.dialects.dialect import Dialect
from calibrant.errors import ConfigValueError, Problems
from calibrant.recipe import (
    AllNodes,
    Calibration,
    Layer,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Where,
)
from calibrant.text.json_text import is_json
from calibrant.text.textproto import field_names, origin_of, parse
from calibrant.text.yaml_text import Document

__all__ = ["DIALECT"]


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text has fields of training."""
    names = set() if is_json(text) else field_names(text)
    overrides = names & {"override_layer_configs", "override_layer_types"}
    words = "retrain_" in text or "prune_config" in text
    return bool(names & TRAINING_FIELDS and not names & ASIDE) or bool(overrides and words)


def load(text: str, path: Path | None) -> Recipe:
    """Read a simplified configuration for training.

    Raises:
        ConfigValueError: No valid text, an unknown field, a block twice, or a value that is not allowed; all that
            is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    content, document, notes = parse(text, path, AMCTRetrainConfig)
    found: list[Note] = list(notes)
    problems = Problems()
    rules = training_rules(Path(document.source).name, TRAINING_TYPES)
    with problems.caught():
        rules += _global(content, document)
    rules += _skips(content, document, found)
    rules += _blocks(content, document, found, problems)
    problems.check()
    found += [
        pruning_note(document.where((field,)))
        for field in ("prune_config", "regular_prune_skip_layers", "regular_prune_skip_types")
        if field in content.model_fields_set
    ]
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
        notes=tuple(found),
    )


def _global(content: AMCTRetrainConfig, document: Document) -> list[Rule]:
    """Return the rules of the global block; each of its two sections has a line of its own."""
    _settings(content, document.source)
    rules = []
    data, weight = content.retrain_data_quant_config, content.retrain_weight_quant_config
    if data is not None:
        origin = origin_of(document, "retrain_data_quant_config")
        rules.append(Rule(AllNodes(), data.settings(), origin))
    if weight is not None:
        origin = origin_of(document, "retrain_weight_quant_config")
        rules.append(Rule(AllNodes(), weight.settings(), origin))
    return rules


def _settings(block: AMCTRetrainConfig | Override, where: str) -> Settings:
    said = Settings()
    try:
        for section in (block.retrain_data_quant_config, block.retrain_weight_quant_config):
            if section is not None:
                said = section.settings().over(said)
        check_pair(said.activation_bits, said.weight_bits)
    except ValueError as e:
        raise ConfigValueError(f"{where}: {e}.") from e
    return said


def _skips(content: AMCTRetrainConfig, document: Document, notes: list[Note]) -> list[Rule]:
    rules: dict[Where, Rule] = {}
    fields = ("skip_layers", "quant_skip_layers", "skip_layer_types", "quant_skip_types")
    for field in fields:
        for i, name in enumerate(getattr(content, field)):
            where: Where = Layer(name) if field.endswith("layers") else OpType(name)
            origin = origin_of(document, field, i, f"'{name}'")
            if where in rules:
                message = f"{rules[where].origin} skips it already."
                notes.append(Note(origin, message, honoured=True))
                continue
            rules[where] = Rule(where, Settings(compute="float32"), origin, "required")
    return list(rules.values())


def _blocks(
    content: AMCTRetrainConfig, document: Document, notes: list[Note], problems: Problems
) -> list[Rule]:
    blocks: list[tuple[Where, str, str, Override]] = []
    for i, by_type in enumerate(content.override_layer_types):
        name = by_type.layer_type
        origin = origin_of(document, "override_layer_types", i, f"'{name}'")
        blocks.append((OpType(name), origin, document.where(("override_layer_types", i)), by_type))
    for i, by_name in enumerate(content.override_layer_configs):
        name = by_name.layer_name
        origin = origin_of(document, "override_layer_configs", i, f"'{name}'")
        blocks.append(
            (Layer(name), origin, document.where(("override_layer_configs", i)), by_name)
        )
    rules: list[Rule] = []
    seen: dict[Where, str] = {}
    for where, origin, place, block in blocks:
        if where in seen:
            problems.add(ConfigValueError(f"{origin} has a block already, at {seen[where]}."))
        seen.setdefault(where, origin)
        if block.prune_config is not None:
            notes.append(pruning_note(place))
        rules.append(Rule(where, default_training(), origin, "implied"))
        with problems.caught():
            settings = Settings(compute="int").over(_settings(block, place))
            rules += split(Rule(where, settings, origin, "required"))
    return rules


DIALECT = Dialect(
    "amct-retrain-cfg",
    "AMCT simplified configuration for training, protobuf text",
    recognises,
    load,
    write_cfg,
)
