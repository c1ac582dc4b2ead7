"""The blocks of AMCT's simplified configuration, as rules.

| Block | For |
|---|---|
| `common_config` | all layers |
| `conv_calibration_config` | of the older edition: layers whose weights may have a scale for each channel |
| `fc_calibration_config` | of the older edition: fully connected layers and average pooling |
| `override_layer_types` | a type |
| `override_layer_configs` | a layer |

A layer has the block of its name, or that of its type, or the common one; blocks are not merged. A setting of the
common block, or of one of the older edition, gives way with a note where a layer cannot have it; one of a block of its
own is an error there. What a block leaves out has the vendor's default; `asymmetric` has what the common block says of
the same algorithm, or `activation_offset`. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from calibrant.dialects.amct.cfg_schema import (
    AMCTConfig,
    CalibrationConfig,
    HFMGQuantize,
    NUQuantize,
)
from calibrant.dialects.amct.common import CHANNELLED, QUANTIZABLE, default_settings
from calibrant.dialects.mapping_file import mapped_layers
from calibrant.errors import ConfigValueError, Problems
from calibrant.recipe import AllNodes, Force, Layer, OpType, Rule, Settings, Where
from calibrant.text.textproto import origin_of, place_of
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["OLDER_BLOCKS", "blocks_of", "inherited_symmetry", "older_blocks_count"]

#: Blocks of the older edition, and the types that each is for.
OLDER_BLOCKS = {
    "conv_calibration_config": CHANNELLED,
    "fc_calibration_config": tuple(t for t in QUANTIZABLE if t not in CHANNELLED),
}


def older_blocks_count(content: AMCTConfig) -> bool:
    """Say whether the older edition's blocks count: beside newer ones for all layers or for types they do not."""
    return not {"common_config", "override_layer_types"} & content.model_fields_set


def blocks_of(
    content: AMCTConfig, document: Document, path: Path | None, problems: Problems
) -> list[Rule]:
    """Return the rules of the blocks, from the common one to those of single layers.

    Args:
        content: The file.
        document: The same, with places.
        path: The file's path, for the mapping file beside it.
        problems: Gets layers and types that have two blocks.
    """
    common = content.common_config
    rules = []
    written = common.settings()
    if written != Settings():
        at: KeyPath = ("common_config",)
        places = _places(common, document, at, "common_config")
        rules.append(
            Rule(AllNodes(), written, origin_of(document, "common_config"), "wished", places)
        )
    if older_blocks_count(content):
        rules += _older(content, document, problems)
    blocks: list[tuple[Where, str, CalibrationConfig, KeyPath]] = []
    for i, by_type in enumerate(content.override_layer_types):
        origin = origin_of(document, "override_layer_types", i, f"'{by_type.layer_type}'")
        at = ("override_layer_types", i, "calibration_config")
        blocks.append((OpType(by_type.layer_type), origin, by_type.calibration_config, at))
    for i, by_name in enumerate(content.override_layer_configs):
        origin = origin_of(document, "override_layer_configs", i, f"'{by_name.layer_name}'")
        at = ("override_layer_configs", i, "calibration_config")
        blocks.append((Layer(by_name.layer_name), origin, by_name.calibration_config, at))
    _refuse_doubled([(where, origin) for where, origin, *_ in blocks], problems)
    for where, origin, block, at in blocks:
        symmetric = inherited_symmetry(block, content)
        default = default_settings(symmetric=symmetric)
        flag = (("activation_symmetric", _flag_place(block, content, document)),)
        rules.append(Rule(where, default, origin, "implied", flag))
        if isinstance(where, Layer):  # a layer that cannot be quantized has no block of its own
            rules.append(Rule(where, Settings(compute="int"), origin, "required"))
        name = origin.removeprefix(Path(document.source).name)
        places = _places(block, document, at, name[name.index(" ") + 1 :])
        said, weight = block.settings(), Settings()
        if isinstance(where, OpType) and said.weight is not None and said.weight.name != "arq":
            # of a type, the layers that can have such weights get them
            weight = Settings(weight=said.weight)
            said = replace(said, weight=None)
        rules.append(Rule(where, said, origin, "required", places))
        if weight != Settings():
            rules.append(Rule(where, weight, origin, "wished", places))
    if content.nuq_config is not None:
        with problems.caught():
            mapped = mapped_layers(content.nuq_config.mapping_file, path)
            origin = origin_of(document, "nuq_config")
            rules.append(_nuq(mapped, content.nuq_config.nuq_quantize, origin, "wished"))
        rules += [
            _nuq(where, block.nuq_quantize, origin, "required")
            for where, origin, block, _ in blocks
            if block.nuq_quantize is not None
        ]
    return rules


def _places(
    block: CalibrationConfig, document: Document, at: KeyPath, name: str
) -> tuple[tuple[str, str], ...]:
    """Return where each setting of a block stands."""
    weights = ("nuq_quantize", "ada_quantize")
    weight = next((n for n in weights if getattr(block, n) is not None), "arq_quantize")
    activation = "hfmg_quantize" if block.hfmg_quantize is not None else "ifmr_quantize"
    keys = {
        "activation": (activation,),
        "activation_bits": (activation, "dst_type"),
        "activation_symmetric": (activation, "asymmetric"),
        "weight": (weight,),
        "weight_bits": (weight, "quant_bits"),
        "weight_per_channel": (weight, "channel_wise"),
        "balance": ("dmq_balancer",),
    }
    return tuple(
        (setting, place_of(document, (*at, *key), f"{name} {path_text(key)}"))
        for setting, key in keys.items()
        if (*at, *key) in document.lines
    )


def _nuq(where: Where, nuq: NUQuantize, origin: str, force: Force) -> Rule:
    return Rule(where, nuq.settings(), origin, force)


def inherited_symmetry(block: CalibrationConfig, content: AMCTConfig) -> bool:
    """Return what holds where a block leaves `asymmetric` out.

    The common block decides if it has the same algorithm, and otherwise `activation_offset`.
    """
    common = content.common_config.activation()
    if common is not None and common.asymmetric is not None and _common_decides(block, content):
        return not common.asymmetric
    return not content.activation_offset


def _common_decides(block: CalibrationConfig, content: AMCTConfig) -> bool:
    """Say whether the common block has a flag, for the algorithm of this one."""
    common = content.common_config.activation()
    same = isinstance(common, HFMGQuantize) == isinstance(block.activation(), HFMGQuantize)
    return common is not None and common.asymmetric is not None and same


def _flag_place(block: CalibrationConfig, content: AMCTConfig, document: Document) -> str:
    """Return where the flag stands that a block without one takes."""
    common = dict(_places(content.common_config, document, ("common_config",), "common_config"))
    if _common_decides(block, content) and "activation_symmetric" in common:
        return common["activation_symmetric"]
    if "activation_offset" in content.model_fields_set:
        return origin_of(document, "activation_offset")
    return f"{Path(document.source).name}: default"


def _refuse_doubled(blocks: Sequence[tuple[Where, str]], problems: Problems) -> None:
    seen: dict[Where, str] = {}
    for where, origin in blocks:
        if where in seen:
            problems.add(ConfigValueError(f"{origin} has a block already, at {seen[where]}."))
        seen.setdefault(where, origin)


def _older(content: AMCTConfig, document: Document, problems: Problems) -> list[Rule]:
    """Return the rules of the older edition's two blocks, one for each type that a block is for.

    What a type cannot have gives way with a note, as in the common block. A scale for each channel is an error in the
    block of the types that have none.
    """
    rules = []
    fc = content.fc_calibration_config
    if fc is not None and fc.settings().weight_per_channel:
        weight = next(n for n in ("arq_quantize", "ada_quantize") if getattr(fc, n) is not None)
        path = ("fc_calibration_config", weight, "channel_wise")
        text = f"{document.where(path)}: {path_text(path)} is true; it is false: these layers have one scale."
        problems.add(ConfigValueError(text))
    for field, types in OLDER_BLOCKS.items():
        block: CalibrationConfig | None = getattr(content, field)
        if block is None:
            continue
        origin = origin_of(document, field)
        places = _places(block, document, (field,), field)
        rules += [Rule(OpType(t), block.settings(), origin, "wished", places) for t in types]
    return rules
