"""AMCT's `config.json` for post-training quantization: one object a layer.

    {
        "version":1,
        "batch_num":2,
        "activation_offset":true,
        "conv1":{
            "quant_enable":true,
            "dmq_balancer_param":0.5,
            "activation_quant_params":{"num_bits":8, "act_algo":"ifmr", "asymmetric":false, …},
            "weight_quant_params":{"num_bits":8, "wts_algo":"arq_quantize", "channel_wise":true}
        }
    }

| Key of a layer | Means |
|---|---|
| `quant_enable` | whether it is quantized |
| `dmq_balancer_param` | strength of balancing |
| `activation_quant_params` | its activations: `num_bits`, `act_algo`, `asymmetric`, options of the algorithm |
| `weight_quant_params` | its weight: `num_bits`, `wts_algo`, `channel_wise`, options of the algorithm |

A layer that is not in the file stays in float. A parameter that is left out has the vendor's default; without
`asymmetric`, `activation_offset` says it. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from calibrant.dialects.amct.asides import LAYER_ASIDE, without_asides
from calibrant.dialects.amct.common import (
    FUSED,
    GLOBAL_KEYS,
    LIMITS,
    TENSOR_TYPES,
    TRAINING_KEYS,
    add_tensor,
    base_rules,
)
from calibrant.dialects.amct.json_schema import (
    ActivationParams,
    ConfigDocument,
    LayerParams,
    TensorQuantize,
    WeightParams,
)
from calibrant.dialects.amct.write import write_for, write_recipe
from calibrant.dialects.dialect import Dialect
from calibrant.errors import ConfigRuntimeError, ConfigValueError, Problems, did_you_mean
from calibrant.recipe import (
    Calibration,
    Fusion,
    Layer,
    LayerInput,
    Note,
    Recipe,
    Rule,
    Settings,
)
from calibrant.text.fields import read_section, without_null
from calibrant.text.json_text import json_keys, read_json
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["DIALECT"]

_OF_A_LAYER = {
    "quant_enable",
    "dmq_balancer_param",
    "activation_quant_params",
    "weight_quant_params",
}


_ACTIVATION = "activation_quant_params"
_WEIGHT = "weight_quant_params"

#: Key of a layer that says a setting; of several, the first that is written.
_PLACES: dict[str, tuple[KeyPath, ...]] = {
    "compute": (("quant_enable",),),
    "balance": (("dmq_balancer_param",),),
    "activation_bits": ((_ACTIVATION, "num_bits"),),
    "activation_symmetric": ((_ACTIVATION, "asymmetric"),),
    "activation": ((_ACTIVATION, "act_algo"), (_ACTIVATION, "num_of_bins"), (_ACTIVATION,)),
    "weight_bits": ((_WEIGHT, "num_bits"),),
    "weight_per_channel": ((_WEIGHT, "channel_wise"),),
    "weight": ((_WEIGHT, "wts_algo"),),
}


def recognises(text: str, path: Path | None) -> bool:
    """Tell whether the text is a JSON object with this dialect's words; those it shares with training count for it."""
    outer, inner = json_keys(text)
    if "calibrant" in outer:
        return False
    return bool(inner & (_OF_A_LAYER | LAYER_ASIDE)) or (
        bool(outer & set(GLOBAL_KEYS)) and not inner & TRAINING_KEYS
    )


def load(text: str, path: Path | None) -> Recipe:
    """Read a configuration.

    Raises:
        ConfigValueError: No valid JSON, a key twice, an unknown key, or a value that is not allowed; all that is
            wrong, in one error.
        ConfigTypeError: The first of these is a value of the wrong type.
        ConfigRuntimeError: Nothing is to be quantized.
    """
    problems = Problems()
    document = without_null(read_json(text, path, problems), problems)
    document, notes = without_asides(document)
    said = {k: v for k, v in document.content.items() if k in GLOBAL_KEYS}
    content = ConfigDocument()
    with problems.caught():
        content = read_section(ConfigDocument, replace(document, content=said))
    name = path.name if path is not None else "config.json"
    offset_at = _origin(document, ("activation_offset",), "activation_offset")
    rules = base_rules(
        name,
        offset=content.activation_offset,
        offset_origin=offset_at if "activation_offset" in said else "",
    )
    for key in document.content:
        if key not in GLOBAL_KEYS:
            with problems.caught():
                rules.append(_layer(key, document, problems))
    tensors = _tensors(content, document, notes, problems)
    problems.check()
    if not tensors and not any(
        r.settings.compute == "int" and isinstance(r.where, Layer) for r in rules
    ):
        others = "".join(f" {note.message}" for note in notes)
        raise ConfigRuntimeError(
            f'{document.source}: no layer has "quant_enable": true and there is no tensor_quantize, '
            f"so nothing would be quantized.{others}"
        )
    return Recipe(
        rules=(*rules, *tensors),
        target="layers-only",
        tiny_scales="one",
        limits=LIMITS,
        calibration=Calibration(batch_num=content.batch_num, balance_batches=1, behind="weights"),
        fusion=Fusion(
            content.do_fusion,
            tuple(content.skip_fusion_layers),
            _origin(document, ("skip_fusion_layers",), "skip_fusion_layers"),
            FUSED,
        ),
        bias_correction="off",
        equalize="off",
        joint=content.joint_quant,
        scale_format="float16"
        if content.fakequant_precision_mode == "FORCE_FP16_QUANT"
        else "float32",
        notes=tuple(notes),
    )


def _layer(name: str, document: Document, problems: Problems) -> Rule:
    """Return the rule of one layer; `problems` gets what is wrong inside its two sections."""
    at: KeyPath = (name,)
    if not isinstance(document.content[name], dict):
        raise ConfigValueError(
            f"{document.where(at)}: {name} is neither a layer, which is an object, nor a global key. "
            f"Global keys: {', '.join(GLOBAL_KEYS)}." + did_you_mean(name, GLOBAL_KEYS)
        )
    layer = read_section(LayerParams, document, at, layer=name)
    settings = Settings(
        compute="int" if layer.quant_enable else "float32", balance=layer.dmq_balancer_param
    )
    with problems.caught():
        if layer.activation_quant_params is not None:
            params = read_section(ActivationParams, document, (*at, _ACTIVATION), layer=name)
            settings = settings.over(params.settings())
    with problems.caught():
        if layer.weight_quant_params is not None:
            weight = read_section(WeightParams, document, (*at, _WEIGHT), layer=name)
            settings = settings.over(weight.settings())
    said = document.content[name]
    places = []
    for setting, keys in _PLACES.items():
        key = next((k for k in keys if _says(said, k)), None)
        if key is not None:
            places.append((setting, _origin(document, (name, *key), path_text((name, *key)))))
    origin = _origin(document, at, f"'{name}'")
    return Rule(Layer(name), settings, origin, "required", tuple(places))


def _says(content: Any, key: KeyPath) -> bool:
    """Say whether a layer's object has a key."""
    for step in key:
        if step not in content:
            return False
        content = content[step]
    return True


def _tensors(
    content: ConfigDocument, document: Document, notes: list[Note], problems: Problems
) -> tuple[Rule, ...]:
    """Read the inputs that are quantized for their own sake."""
    rules: dict[tuple[str, int], Rule] = {}
    for i in range(len(content.tensor_quantize)):
        with problems.caught():
            at: KeyPath = ("tensor_quantize", i)
            tensor = read_section(TensorQuantize, document, at)
            settings = Settings(compute="int")
            if tensor.activation_quant_params is not None:
                where = (*at, _ACTIVATION)
                params = read_section(ActivationParams, document, where, layer=tensor.layer_name)
                settings = settings.over(params.settings())
            add_tensor(
                rules,
                notes,
                LayerInput(tensor.layer_name, tensor.input_index, TENSOR_TYPES),
                settings,
                _origin(document, at, f"tensor_quantize '{tensor.layer_name}'"),
            )
    return tuple(rules.values())


def _origin(document: Document, at: KeyPath, what: str) -> str:
    return f"{Path(document.where(at)).name} {what}"


DIALECT = Dialect(
    "amct", "AMCT config.json", recognises, load, write_recipe, write_for, if_empty="amct-cfg"
)
