"""AMCT's simplified configuration for post-training quantization: protobuf text.

    batch_num : 2
    activation_offset : true
    common_config : { ifmr_quantize : { search_step : 0.02 } }
    override_layer_types : { layer_type : "Conv2D" calibration_config : { … } }
    override_layer_configs : { layer_name : "conv1" calibration_config : { … } }
    skip_layers : "fc"

A layer has the block of its name, or that of its type, or the common one; blocks are not merged. Skipping
beats a block. A setting of the common block gives way where a layer cannot have it; one of a block of its
own is an error there.

Source: ascend.md 12; 10.3 to 10.7.
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
    of_activation,
)
from calibrant.dialects.amct.common import (
    LIMITS,
    QUANTIZABLE,
    TENSOR_TYPES,
    TRAINING_FIELDS,
    add_tensor,
    base_rules,
    default_settings,
)
from calibrant.dialects.amct.retrain_cfg_schema import AMCTRetrainConfig
from calibrant.dialects.dialect import Dialect
from calibrant.dialects.mapping_file import mapped_layers
from calibrant.errors import ConfigValueError
from calibrant.recipe import (
    AllNodes,
    Calibration,
    Force,
    Fusion,
    Layer,
    LayerInput,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Where,
)
from calibrant.text.json_text import is_json
from calibrant.text.textproto import field_names, origin_of, parse, place_of
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["DIALECT"]

#: Fields that the configuration for training has as well, and those that it has not.
_SHARED = set(AMCTConfig.model_fields) & set(AMCTRetrainConfig.model_fields)
_OWN = set(AMCTConfig.model_fields) - _SHARED


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text has fields of this dialect; those it shares with training count for it."""
    if is_json(text):
        return False
    names = field_names(text)
    if "calibrant" in names:
        return False
    training = names & TRAINING_FIELDS or "retrain_" in text
    return bool(names & (_SHARED if not training else set()) | names & _OWN)


def load(text: str, path: Path | None) -> Recipe:
    """Read a simplified configuration.

    Raises:
        ConfigValueError: No valid text, an unknown field, a name twice, or a value that is not allowed.
        ConfigTypeError: A value of the wrong type.
    """
    content, document, notes = parse(text, path, AMCTConfig)
    said = content.model_fields_set
    base = base_rules(
        Path(document.source).name if path is not None else "quant.cfg",
        offset=content.activation_offset,
        offset_origin=origin_of(document, "activation_offset")
        if "activation_offset" in said
        else "",
        types=QUANTIZABLE,
    )
    tensors, doubled = _tensors(content, document)
    return Recipe(
        rules=(*base, *_blocks(content, document, path), *_skips(content, document), *tensors),
        target="layers-only",
        tiny_scales="one",
        limits=LIMITS,
        calibration=Calibration(batch_num=content.batch_num, balance_batches=1, behind="weights"),
        fusion=Fusion(
            content.do_fusion,
            tuple(content.skip_fusion_layers),
            origin_of(document, "skip_fusion_layers"),
        ),
        bias_correction="off",
        equalize="off",
        joint=content.joint_quant,
        scale_format="float16"
        if content.fakequant_precision_mode == "FORCE_FP16_QUANT"
        else "float32",
        notes=(*notes, *doubled, *_without_effect(content, document)),
    )


def _blocks(content: AMCTConfig, document: Document, path: Path | None) -> list[Rule]:
    """Return the rules of the blocks, from the common one to those of single layers."""
    common = content.common_config
    rules = []
    written = common.settings()
    if written != Settings():
        at: KeyPath = ("common_config",)
        places = _places(common, document, at, "common_config")
        rules.append(
            Rule(AllNodes(), written, origin_of(document, "common_config"), "wished", places)
        )
    blocks: list[tuple[Where, str, CalibrationConfig, KeyPath]] = []
    for i, by_type in enumerate(content.override_layer_types):
        origin = origin_of(document, "override_layer_types", i, f"'{by_type.layer_type}'")
        at = ("override_layer_types", i, "calibration_config")
        blocks.append((OpType(by_type.layer_type), origin, by_type.calibration_config, at))
    for i, by_name in enumerate(content.override_layer_configs):
        origin = origin_of(document, "override_layer_configs", i, f"'{by_name.layer_name}'")
        at = ("override_layer_configs", i, "calibration_config")
        blocks.append((Layer(by_name.layer_name), origin, by_name.calibration_config, at))
    _refuse_doubled([(where, origin) for where, origin, *_ in blocks])
    for where, origin, block, at in blocks:
        symmetric = _inherited_symmetry(block, content)
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
        mapped = mapped_layers(content.nuq_config.mapping_file, path)
        rules.append(
            _nuq(
                mapped,
                content.nuq_config.nuq_quantize,
                origin_of(document, "nuq_config"),
                "wished",
            )
        )
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


def _inherited_symmetry(block: CalibrationConfig, content: AMCTConfig) -> bool:
    """Return what holds where a block leaves `asymmetric` out (ascend.md 10.5).

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


def _refuse_doubled(blocks: Sequence[tuple[Where, str]]) -> None:
    seen: dict[Where, str] = {}
    for where, origin in blocks:
        if where in seen:
            raise ConfigValueError(f"{origin} has a block already, at {seen[where]}.")
        seen[where] = origin


def _skips(content: AMCTConfig, document: Document) -> list[Rule]:
    skip = Settings(compute="float32")
    return [
        Rule(make(name), skip, origin_of(document, field, i, f"'{name}'"), "required")
        for field, make in (("skip_layers", Layer), ("skip_layer_types", OpType))
        for i, name in enumerate(getattr(content, field))
    ]


def _tensors(content: AMCTConfig, document: Document) -> tuple[tuple[Rule, ...], tuple[Note, ...]]:
    """Read the inputs that are quantized for their own sake (ascend.md 10.3)."""
    rules: dict[tuple[str, int], Rule] = {}
    notes: list[Note] = []
    for i, tensor in enumerate(content.tensor_quantize):
        section = tensor.ifmr_quantize or tensor.hfmg_quantize
        block = CalibrationConfig(
            ifmr_quantize=tensor.ifmr_quantize, hfmg_quantize=tensor.hfmg_quantize
        )
        symmetric = _inherited_symmetry(block, content)
        default = default_settings(symmetric=symmetric)
        settings = of_activation(section).over(
            Settings(
                compute="int",
                activation=default.activation,
                activation_bits=8,
                activation_symmetric=symmetric,
            )
        )
        where = LayerInput(tensor.layer_name, tensor.input_index, TENSOR_TYPES)
        origin = origin_of(document, "tensor_quantize", i, f"'{tensor.layer_name}'")
        add_tensor(rules, notes, where, settings, origin)
    return tuple(rules.values()), tuple(notes)


def _without_effect(content: AMCTConfig, document: Document) -> list[Note]:
    notes = []
    if content.skip_approximation_layers:
        at = document.where(("skip_approximation_layers",))
        notes.append(
            Note(at, "Calibrated approximation is not done, so skipping it has no effect.")
        )
    if "version" in content.model_fields_set:
        at = document.where(("version",))
        notes.append(Note(at, "There is one version, so naming it has no effect.", honoured=True))
    return notes


DIALECT = Dialect("amct-cfg", "AMCT simplified configuration, protobuf text", recognises, load)
