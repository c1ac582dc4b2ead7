"""AMCT's simplified configuration for post-training quantization: protobuf text.

    batch_num : 2
    activation_offset : true
    common_config : { ifmr_quantize : { search_step : 0.02 } }
    override_layer_types : { layer_type : "Conv2D" calibration_config : { … } }
    override_layer_configs : { layer_name : "conv1" calibration_config : { … } }
    skip_layers : "fc"

| Field | Means |
|---|---|
| `batch_num`, `activation_offset`, `joint_quant`, `fakequant_precision_mode` | for the whole model |
| `do_fusion`, `skip_fusion_layers` | folding of batch normalization |
| `common_config`, `override_layer_types`, `override_layer_configs` | blocks: `cfg_blocks` |
| `skip_layers`, `skip_layer_types` | layers that stay in float, whatever a block says |
| `tensor_quantize` | inputs that are quantized for their own sake |
| `nuq_config` | few levels for the layers of a mapping file |

Fields for what calibrant does not do stand in `asides`. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from pathlib import Path

from calibrant.dialects.amct.asides import ASIDE, asides
from calibrant.dialects.amct.cfg_blocks import (
    OLDER_BLOCKS,
    blocks_of,
    inherited_symmetry,
    older_blocks_count,
)
from calibrant.dialects.amct.cfg_schema import AMCTConfig, CalibrationConfig, of_activation
from calibrant.dialects.amct.common import (
    FUSED,
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
from calibrant.errors import Problems
from calibrant.recipe import (
    Calibration,
    Fusion,
    Layer,
    LayerInput,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
)
from calibrant.text.json_text import is_json
from calibrant.text.textproto import field_names, origin_of, parse, says_nothing, set_aside
from calibrant.text.yaml_text import Document

__all__ = ["DIALECT"]

#: Fields that the configuration for training has as well, and those that it has not.
_SHARED = set(AMCTConfig.model_fields) & set(AMCTRetrainConfig.model_fields)
_OWN = set(AMCTConfig.model_fields) - _SHARED


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text has fields of this dialect; those it shares with training count for it.

    A file whose name ends in `.cfg` and that says nothing has all defaults.
    """
    if is_json(text):
        return False
    names = field_names(text)
    if not names and path is not None and path.suffix == ".cfg":
        return says_nothing(text)
    if "calibrant" in names:
        return False
    words = "retrain_" in text or "prune_config" in text
    training = words or (names & TRAINING_FIELDS and not names & ASIDE)
    return bool(names & (_SHARED if not training else set()) | names & (_OWN | ASIDE))


def load(text: str, path: Path | None) -> Recipe:
    """Read a simplified configuration.

    Raises:
        ConfigValueError: No valid text, an unknown field, a name twice, fields that exclude each other, or a value
            that is not allowed; all that is wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
    """
    text, left = set_aside(text, path, ASIDE)
    content, document, notes = parse(text, path, AMCTConfig)
    found = [*notes, *asides(left)]
    problems = Problems()
    said = content.model_fields_set
    base = base_rules(
        Path(document.source).name if path is not None else "quant.cfg",
        offset=content.activation_offset,
        offset_origin=origin_of(document, "activation_offset")
        if "activation_offset" in said
        else "",
        types=QUANTIZABLE,
    )
    blocks = blocks_of(content, document, path, problems)
    tensors = _tensors(content, document, found, problems)
    problems.check()
    return Recipe(
        rules=(*base, *blocks, *_skips(content, document), *tensors),
        target="layers-only",
        tiny_scales="one",
        limits=LIMITS,
        calibration=Calibration(batch_num=content.batch_num, balance_batches=1, behind="weights"),
        fusion=Fusion(
            content.do_fusion,
            tuple(content.skip_fusion_layers),
            origin_of(document, "skip_fusion_layers"),
            FUSED,
        ),
        bias_correction="off",
        equalize="off",
        joint=content.joint_quant,
        scale_format="float16"
        if content.fakequant_precision_mode == "FORCE_FP16_QUANT"
        else "float32",
        notes=(*found, *_without_effect(content, document)),
    )


#: Fields that leave layers in float, the second pair in files for distillation.
_SKIPS = (
    ("skip_layers", Layer),
    ("skip_layer_types", OpType),
    ("quant_skip_layers", Layer),
    ("quant_skip_layer_types", OpType),
)


def _skips(content: AMCTConfig, document: Document) -> list[Rule]:
    skip = Settings(compute="float32")
    return [
        Rule(make(name), skip, origin_of(document, field, i, f"'{name}'"), "required")
        for field, make in _SKIPS
        for i, name in enumerate(getattr(content, field))
    ]


def _tensors(
    content: AMCTConfig, document: Document, notes: list[Note], problems: Problems
) -> tuple[Rule, ...]:
    """Read the inputs that are quantized for their own sake."""
    rules: dict[tuple[str, int], Rule] = {}
    for i, tensor in enumerate(content.tensor_quantize):
        section = tensor.ifmr_quantize or tensor.hfmg_quantize
        block = CalibrationConfig(
            ifmr_quantize=tensor.ifmr_quantize, hfmg_quantize=tensor.hfmg_quantize
        )
        symmetric = inherited_symmetry(block, content)
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
        with problems.caught():
            add_tensor(rules, notes, where, settings, origin)
    return tuple(rules.values())


def _without_effect(content: AMCTConfig, document: Document) -> list[Note]:
    notes = []
    if content.skip_approximation_layers:
        at = document.where(("skip_approximation_layers",))
        notes.append(
            Note(at, "Calibrated approximation is not done, so skipping it has no effect.")
        )
    older = [f for f in OLDER_BLOCKS if getattr(content, f) is not None]
    if older and not older_blocks_count(content):
        what = " and ".join(older)
        notes.append(
            Note(
                document.where((older[0],)),
                f"{what} {'have' if len(older) > 1 else 'has'} no effect beside common_config and override_layer_types.",
            )
        )
    if "version" in content.model_fields_set:
        at = document.where(("version",))
        notes.append(Note(at, "There is one version, so naming it has no effect.", honoured=True))
    return notes


DIALECT = Dialect("amct-cfg", "AMCT simplified configuration, protobuf text", recognises, load)
