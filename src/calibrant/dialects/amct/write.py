"""Recipes as AMCT's `config.json` (its table: `config_json`), from a recipe alone or for a model.

Without a model only what is said of layers by name can be written. With one, every layer that the vendor
quantizes is listed with all that holds for it, as the vendor's `create_quant_config` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.dialects.amct.common import (
    GLOBAL_KEYS,
    LAYER_LIMITS,
    LIMITS,
    QUANTIZABLE,
    TENSOR_TYPES,
    base_rules,
)
from calibrant.dialects.losses import (
    lose,
    merge,
    refuse_settings,
    refuse_unlisted,
    refuse_wishes,
    vendor_json,
)
from calibrant.errors import ConfigValueError, UnsupportedError
from calibrant.recipe import (
    AllNodes,
    Calibration,
    Layer,
    LayerInput,
    Note,
    Recipe,
    Rule,
    Settings,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph.load import ModelLike
from calibrant.recipe.words import all_options, setting_words, wish_words

__all__ = ["create_config", "default_recipe", "write_for", "write_recipe"]

#: `behind` needs no word: AMCT always observes behind rounded weights.
_CAN_SAY = {"joint", "scale_format", "batch_num", "fusion", "behind"}
_FIELDS = {
    "compute",
    "activation",
    "activation_bits",
    "activation_symmetric",
    "weight",
    "weight_bits",
    "weight_per_channel",
    "balance",
}


def default_recipe(*, batch_num: int = 1, activation_offset: bool = True) -> Recipe:
    """Return what the vendor does when nothing is said."""
    rules = base_rules(
        "amct", offset=activation_offset, offset_origin="activation_offset", types=QUANTIZABLE
    )
    return Recipe(
        rules=tuple(rules),
        target="layers-only",
        tiny_scales="one",
        limits=LIMITS,
        calibration=Calibration(batch_num=batch_num, balance_batches=1, behind="weights"),
        bias_correction="off",
        equalize="off",
    )


def create_config(
    model: ModelLike,
    *,
    skip_layers: Sequence[str] = (),
    batch_num: int = 1,
    activation_offset: bool = True,
    config: str | Path | Recipe | None = None,
) -> str:
    """Write the configuration of a model.

    Args:
        model: The float model.
        skip_layers: Layers that stay in float.
        batch_num: Batches for calibration.
        activation_offset: Asymmetric activations.
        config: A simplified configuration, or a recipe in any dialect; the other options are left aside
            then, as the vendor does.

    Raises:
        ConfigValueError: An unknown layer, a layer's own setting that does not fit it, or nothing to
            quantize.
        UnsupportedError: The recipe says what this file cannot.
    """
    from calibrant.dialects import load_recipe

    if config is not None:
        return write_for(load_recipe(config), model)
    recipe = default_recipe(batch_num=batch_num, activation_offset=activation_offset)
    skips = [
        Rule(Layer(name), Settings(compute="float32"), "skip_layers", "required")
        for name in skip_layers
    ]
    return write_for(recipe.with_rules(*skips), model)


def write_for(recipe: Recipe, model: ModelLike) -> str:
    """Write a recipe for a model: every layer that the vendor quantizes, sorted by name.

    Raises:
        ConfigValueError: See `create_config`.
        UnsupportedError: The recipe says what this file cannot.
    """
    from calibrant.graph.load import load, prepare
    from calibrant.graph.ops import matches_type
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.graph.targets import get
    from calibrant.plan.conditions import applies
    from calibrant.plan.effective import Effective

    refuse_wishes(recipe, "amct", can=_CAN_SAY)
    prepared = prepare(load(model))
    if recipe.fusion.batch_norm:
        fuse_batchnorm(prepared, skip=recipe.fusion.skip, check=False)
    Effective(recipe, prepared, get(recipe.target), known := list[Note]())
    given: list[Note] = []
    vendors = replace(recipe, limits=(*recipe.limits, *LIMITS), target="layers-only")
    effective = Effective(vendors, prepared, get("layers-only"), given)
    layers = {
        node.name or "": effective.of(node)[0]
        for node in prepared.graph
        if any(matches_type(node, t) for t in QUANTIZABLE)
        and not any(applies(limit, node) for limit in LAYER_LIMITS)
    }
    if recipe.target != "layers-only":
        for note in (n for n in given if n not in known):
            lose(f"{note.where} does not fit a layer that AMCT quantizes: {note.message}")
    _check_names(layers)
    tensors = _tensors(recipe, prepared)
    if not tensors and not any(s.compute == "int" for s in layers.values()):
        raise ConfigValueError(
            "No layer is left to quantize: the model has "
            f"{len(layers)} that AMCT quantizes, and the configuration skips them all."
        )
    document = _globals(recipe, tensors)
    for name in sorted(layers):
        document[name] = _layer(name, layers[name])
    return vendor_json(document)


def _check_names(layers: Iterable[str]) -> None:
    """Refuse a layer that is called like a global key."""
    for name in layers:
        if name in GLOBAL_KEYS:
            raise ConfigValueError(
                f"The model has a layer '{name}', and config.json has a global key of that name: rename it."
            )


def write_recipe(recipe: Recipe) -> str:
    """Write a recipe that names its layers.

    Raises:
        UnsupportedError: It has rules for types or patterns, or says what this file cannot.
    """
    refuse_wishes(recipe, "amct", can=_CAN_SAY)
    names: dict[str, None] = {}
    for rule in recipe.rules:
        match rule.where:
            case AllNodes() | LayerInput():
                pass
            case Layer(name) if not any(c in name for c in "*?["):
                names[name] = None
            case _:
                refuse_unlisted(rule)
    common = [r for r in recipe.rules if isinstance(r.where, AllNodes)]
    if merge(common).compute != "float32":
        raise UnsupportedError(
            "config.json lists every layer that is quantized, so a recipe that quantizes all of them "
            "needs the model: give it, and every layer is written out."
        )
    document = _globals(recipe, _tensors(recipe))
    for name in names:
        said = merge(
            r
            for r in recipe.rules
            if r.force != "implied" and (isinstance(r.where, AllNodes) or r.where == Layer(name))
        )
        document[name] = _layer(name, said)
    return vendor_json(document)


def _globals(recipe: Recipe, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    symmetric = merge(
        r for r in recipe.rules if r.force == "implied" and isinstance(r.where, AllNodes)
    ).activation_symmetric
    batches = recipe.calibration.balance_batches
    if batches is not None and batches > 1:
        lose(
            f"config.json cannot say {wish_words(recipe, 'balance_batches')}: AMCT looks at one batch."
        )
    document: dict[str, Any] = {
        "version": 1,
        "batch_num": recipe.calibration.batch_num or 1,
        "activation_offset": not symmetric,
    }
    if recipe.joint:
        document["joint_quant"] = True
    document["do_fusion"] = recipe.fusion.batch_norm
    document["skip_fusion_layers"] = list(recipe.fusion.skip)
    if recipe.scale_format == "float16":
        document["fakequant_precision_mode"] = "FORCE_FP16_QUANT"
    if tensors:
        document["tensor_quantize"] = tensors
    return document


def _layer(name: str, settings: Settings) -> dict[str, Any]:
    where = f"layer '{name}'"
    refuse_settings(settings, "amct", where, can=_FIELDS)
    if settings.compute == "float16":
        lose(f"config.json cannot say float16 ({where}); the layer stays in float32.", at=where)
    layer: dict[str, Any] = {"quant_enable": settings.compute == "int"}
    if settings.balance:
        layer["dmq_balancer_param"] = settings.balance
    activation = _activation(settings, where)
    weight = _weight(settings, where)
    if activation:
        layer["activation_quant_params"] = activation
    if weight:
        layer["weight_quant_params"] = weight
    return layer


def _activation(settings: Settings, where: str) -> dict[str, Any]:
    section: dict[str, Any] = {}
    bits = settings.activation_bits
    if bits is not None:
        section["num_bits"] = _width(bits, (8, 16), f"activations of {bits} bits", where)
    options = dict(settings.activation.options) if settings.activation is not None else {}
    algorithm = settings.activation.name if settings.activation is not None else None
    if algorithm not in (None, "ifmr", "hfmg"):
        lose(
            f"config.json cannot say {_words('activation', settings)} ({where}); it knows ifmr, "
            "which stands there with its defaults, and hfmg.",
            at=where,
        )
        algorithm, options = "ifmr", {}
    if algorithm == "ifmr":
        section["max_percentile"] = float(options.get("max_percentile", 0.999999))
        section["min_percentile"] = float(options.get("min_percentile", 0.999999))
        section["search_range"] = [float(r) for r in options.get("search_range", (0.7, 1.3))]
        section["search_step"] = float(options.get("search_step", 0.01))
    if algorithm is not None:
        section["act_algo"] = algorithm
    if settings.activation_symmetric is not None:
        section["asymmetric"] = not settings.activation_symmetric
    if algorithm == "hfmg":
        section["num_of_bins"] = options.get("bins", 4096)
    return section


def _weight(settings: Settings, where: str) -> dict[str, Any]:
    section: dict[str, Any] = {}
    bits = settings.weight_bits
    if bits is not None:
        section["num_bits"] = _width(bits, (4, 6, 7, 8), f"weights of {bits} bits", where)
    algorithm = settings.weight.name if settings.weight is not None else None
    options = dict(settings.weight.options) if settings.weight is not None else {}
    if algorithm == "nuq":
        if options.get("storage", "int8") != "int8":
            lose(f"config.json cannot say how weights are stored ({where}).", at=where)
        section["num_steps"] = options.get("levels", 32)
        section["num_of_iteration"] = options.get("rounds", 1)
    elif algorithm == "ada":
        assert settings.weight is not None
        options = all_options("weight", settings.weight)
        section["num_iteration"] = options["iterations"]
        section["reg_param"] = options["regularization"]
        section["beta_range"] = list(options["beta_range"])
        section["warm_start"] = options["warm_start"]
    elif algorithm not in (None, "arq"):
        lose(
            f"config.json cannot say {_words('weight', settings)} ({where}); it knows arq, which "
            "stands there, nuq and ada.",
            at=where,
        )
        algorithm = "arq"
    if settings.weight_per_channel is not None:
        section["channel_wise"] = settings.weight_per_channel
    if algorithm is not None:
        section["wts_algo"] = f"{algorithm}_quantize"
    return section


def _words(kind: str, settings: Settings) -> str:
    return setting_words(kind, getattr(settings, kind))


def _width(bits: int, known: tuple[int, ...], what: str, where: str) -> int:
    if bits not in known:
        lose(f"config.json cannot say {what} ({where}); 8 stand there.", at=where)
        return 8
    return bits


def _tensors(recipe: Recipe, model: ir.Model | None = None) -> list[dict[str, Any]]:
    """Return the inputs that are quantized for their own sake."""
    types = {n.name: n.op_type for n in model.graph} if model is not None else {}
    found = []
    for rule in recipe.rules:
        where = rule.where
        if not isinstance(where, LayerInput):
            continue
        kinds = (types[where.name],) if where.name in types else where.types
        if rule.settings.compute != "int" or not {*kinds} <= {*TENSOR_TYPES}:
            lose(f"config.json cannot say what holds for one input ({where}).", at=str(where))
        else:
            found.append(_tensor(rule))
    return found


def _tensor(rule: Rule) -> dict[str, Any]:
    assert isinstance(rule.where, LayerInput)
    where = rule.where
    can = {"compute", "activation", "activation_bits", "activation_symmetric"}
    refuse_settings(rule.settings, "amct", str(where), can=can)
    tensor: dict[str, Any] = {"layer_name": where.name, "input_index": where.index}
    params = _activation(rule.settings, str(where))
    if params:
        tensor["activation_quant_params"] = params
    return tensor
