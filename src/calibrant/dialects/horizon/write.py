"""Recipes as Horizon's `quant_config`: as they are, or as what holds for each node of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calibrant.dialects.horizon.candidates import candidates
from calibrant.dialects.horizon.schema import PAIRED, TARGET, Activation
from calibrant.dialects.losses import lose, merge, refuse_settings, refuse_wishes
from calibrant.graph.ops import weight_index
from calibrant.recipe import (
    AllNodes,
    AllOf,
    InputOf,
    Layer,
    LayerInput,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
    Where,
)
from calibrant.recipe.words import setting_words

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.graph.load import ModelLike
    from calibrant.graph.targets import Target

__all__ = ["effective_config", "write_recipe"]

_CAN_SAY = {"output_precision", "search", "promote", "bias_correction", "random"}
_TYPE_FIELDS = ("compute", "activation_bits", "weight_bits", "compensation")
_RANGE_FIELDS = ("activation", "activation_symmetric", "activation_per_channel", "candidates")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "max": {"max_percentile": 1.0},
    "kl-merge": {"bins": 1024, "max_bins": 16384},
}
_FIELDS = {
    *_TYPE_FIELDS,
    *_RANGE_FIELDS,
    "weight",
    "weight_per_channel",
    "bias_samples",
    "bias_metric",
}


def write_recipe(recipe: Recipe) -> str:
    """Write a recipe whose rules stand in the order of the levels.

    Raises:
        UnsupportedError: It says what a quant_config has no words for, or in another order.
    """
    refuse_wishes(recipe, "horizon", can=_CAN_SAY)
    rules = [r for r in recipe.rules if r.force != "implied"]
    for fields in (_TYPE_FIELDS, _RANGE_FIELDS):
        _check_order(rules, fields)
    content: dict[str, Any] = {"model_config": _model(recipe, rules)}
    for where in dict.fromkeys(_owner(r.where) for r in rules):
        if where is None or isinstance(where, AllNodes):
            continue
        place = _place(where)
        if place is None:
            continue
        section, name = place
        said = merge(r for r in rules if r.where == where)
        entry = _entry(said, f"{section}.{name}")
        if isinstance(where, Subgraph):
            entry = {"inputs": list(where.inputs), "outputs": list(where.outputs)} | entry
        granted, origins = set(), {r.origin for r in rules if r.where == where}
        for index in sorted({i for r in rules if (i := _index(r.where, where)) is not None}):
            own = [r for r in rules if _index(r.where, where) == index]
            entry |= _input_type(merge(own), f"{section}.{name}.input{index}")
            by_type = own[-1].force == "granted" and own[-1].origin in origins
            granted |= {index} if by_type else set()
        entry = _paired(entry) if granted == {0, 1} else entry
        if entry:
            content.setdefault(section, {})[name] = entry
    _check_combined(rules)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def effective_config(recipe: Recipe, model: ModelLike) -> str:
    """Write what holds for each node that the target quantizes, as a quant_config of nodes alone.

    A quant_config is for the vendor's devices. What these quantize and the recipe's own target does not stays in float
    there, by name.

    Raises:
        ConfigValueError: The recipe names what the model does not have.
        UnsupportedError: It says what a quant_config has no words for.
    """
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.graph.targets import get
    from calibrant.plan.effective import Effective

    refuse_wishes(recipe, "horizon", can=_CAN_SAY)
    prepared = prepare(load(model))
    if recipe.fusion.batch_norm:
        fuse_batchnorm(prepared, skip=recipe.fusion.skip, check=False)
    target, device = get(recipe.target), get(TARGET)
    effective = Effective(recipe, prepared, target, [])
    own = {
        name
        for rule, edges in effective.matched
        for name, _ in edges
        if rule.force != "implied" and not isinstance(rule.where, AllNodes)
    }
    nodes: dict[str, Any] = {}
    for node in prepared.graph:
        name = node.name or ""
        if node.op_type not in target.anchors and name not in own:
            if node.op_type in device.anchors:
                nodes[name] = {"qtype": "float32"}
            continue
        settings = _as_asked(effective.of(node)[0], node, target)
        entry = _entry(settings, f"node_config.{name}")
        for index in range(len(node.inputs)):
            of_input = _as_asked(effective.of(node, index)[0], node, target)
            kind = _type(of_input, name) if of_input.compute == "int" else None
            if kind is not None and kind != entry.get("qtype"):
                entry |= _input_type(of_input, f"node_config.{name}.input{index}")
        if node.op_type in PAIRED and _is_wide(effective.of(node, 1)[0], node, target):
            entry = _paired(
                entry | {"input0": entry.get("input0", entry.get("qtype")), "input1": "int16"}
            )
        nodes[name] = entry
    rules = [r for r in recipe.rules if isinstance(r.where, AllNodes) and r.force != "implied"]
    content = {"model_config": _model(recipe, rules), "node_config": nodes}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _is_wide(settings: Settings, node: ir.Node, target: Target) -> bool:
    """Say whether the second operand has 16 bits although the target itself would lower it."""
    bits = settings.weight_bits if weight_index(node) == 1 else settings.activation_bits
    limits = (
        w for w in target.limits if w.op_type in (None, node.op_type) and w.input in (None, 1)
    )
    return settings.compute == "int" and bits == 16 and any(w.nearest(16) != 16 for w in limits)


def _paired(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with one type for both operands, where the device has one for the types of the two."""
    types = f"{entry.get('input0')} {entry.get('input1')}"
    both = {"int16 int16": "dual-int16", "int16 ec": "int16-ec"}.get(types)
    if both is None:
        return entry
    return {k: v for k, v in entry.items() if k not in ("input0", "input1")} | {"qtype": both}


def _as_asked(settings: Settings, node: ir.Node, target: Target) -> Settings:
    """Return settings with the width of the weight that the target lowered, so that both are one type again."""
    asked = settings.activation_bits
    limits = [
        limit
        for limit in target.limits
        if limit.op_type in (None, node.op_type) and limit.input in (None, weight_index(node))
    ]
    if asked is None or not any(limit.nearest(asked) == settings.weight_bits for limit in limits):
        return settings
    return replace(settings, weight_bits=asked)


# ------------------------------------------------------------------------------------------- levels


def _model(recipe: Recipe, rules: Iterable[Rule]) -> dict[str, Any]:
    said = merge(r for r in rules if isinstance(r.where, AllNodes))
    entry = _entry(
        said, "model_config", default=recipe.search is not None and recipe.search.then_per_channel
    )
    content: dict[str, Any] = {}
    if "qtype" in entry:
        content["all_node_type"] = entry.pop("qtype")
    if recipe.output_precision != "float32":
        content["model_output_type"] = recipe.output_precision
    content |= entry
    if recipe.bias_correction == "on" and not any(r.settings.bias_samples for r in recipe.rules):
        content["weight"] = {"bias_correction": {}}
    if recipe.calibration.random:
        content["activation"] = {"calibration_type": "skip"}
    if recipe.search is not None:
        s = recipe.search
        search: dict[str, Any] = {
            "metric": s.metric,
            "num_sample": s.samples,
            "aggregate": s.aggregate,
        }
        if s.good_enough is not None:
            search["early_stop"] = s.good_enough
        content["layerwise_search" if s.scope == "layer" else "modelwise_search"] = search
    if recipe.promote is not None:
        p = recipe.promote
        measure = {"topk": p.count, "threshold": p.threshold, "budget": p.budget}
        layer = {k: v for k, v in measure.items() if v is not None}
        content["search"] = {"layer": {**layer, "qtype": p.precision, "metric": p.metric}}
    return content


def _entry(settings: Settings, where: str, *, default: bool = False) -> dict[str, Any]:
    """Return the fields of one level."""
    refuse_settings(settings, "horizon", where, can=_FIELDS)
    if settings.weight is not None and settings.weight.name not in ("max", "auto"):
        lose(
            f"quant_config cannot say {setting_words('weight', settings.weight)} ({where}).",
            at=where,
        )
    if settings.weight_per_channel is False:
        lose(f"quant_config cannot say one weight scale a tensor ({where}).", at=where)
    entry: dict[str, Any] = {}
    kind = _type(settings, where)
    if kind is not None:
        entry["qtype"] = kind
    activation = _activation(settings, where)
    if activation is not None:
        entry["activation"] = {"calibration_type": "default"} if default else activation
    if settings.bias_samples:
        entry["weight"] = {
            "bias_correction": {
                "num_sample": settings.bias_samples,
                "metric": settings.bias_metric or "cosine-similarity",
            }
        }
    return entry


def _type(settings: Settings, where: str) -> str | None:
    if settings.compute in ("float16", "float32"):
        return settings.compute
    if settings.activation_bits is None and settings.weight_bits is None:
        return None
    bits = settings.activation_bits or settings.weight_bits
    if settings.weight_bits not in (None, bits) or bits not in (8, 16):
        lose(
            f"quant_config has one type for activations and weights, int8 or int16, and cannot say {_widths(settings)} "
            f"({where}).",
            at=where,
        )
        bits = 16 if 16 in (settings.activation_bits, settings.weight_bits) else 8
    return "ec" if settings.compensation else f"int{bits}"


def _widths(settings: Settings) -> str:
    said = [n for n in ("activation_bits", "weight_bits") if getattr(settings, n) is not None]
    return " and ".join(setting_words(n, getattr(settings, n)) for n in said)


def _input_type(settings: Settings, where: str) -> dict[str, str]:
    """Return the entry of one input: its name and type, or nothing where there is no word for it."""
    kind = _type(settings, where)
    if kind not in ("int8", "int16", "ec"):
        what = kind or ", ".join(setting_words(*said) for said in settings.items())
        lose(f"quant_config cannot say {what or 'nothing'} of one input ({where}).", at=where)
        return {}
    return {where.rsplit(".", 1)[1]: kind}


def _activation(settings: Settings, where: str) -> dict[str, Any] | None:
    """Return the section whose candidates are those of the settings."""
    tried = settings.candidates or (settings,)
    if all(t.activation is None for t in tried):
        if settings.activation_symmetric is None and settings.activation_per_channel is None:
            return None
        lose(f"quant_config says symmetry only with a calibration_type ({where}).", at=where)
        return None
    names = {
        "max": "max",
        "kl-merge": "kl",
        "min-max": "min-max",
        "mse": "mse",
        "from-model": "load",
    }
    methods, lists = dict[str, None](), dict[str, dict[Any, None]]()
    for t in tried:
        if t.activation is None or t.activation.name not in names:
            lose(
                f"quant_config cannot say {setting_words('activation', t.activation)} ({where}).",
                at=where,
            )
            continue
        options = dict(t.activation.options)
        methods[names[t.activation.name]] = None
        if t.activation.name == "max":
            lists.setdefault("max_percentile", {})[options.get("max_percentile", 1.0)] = None
        if t.activation.name == "kl-merge":
            lists.setdefault("num_bin", {})[options.get("bins", 1024)] = None
            lists.setdefault("max_num_bin", {})[options.get("max_bins", 16384)] = None
        lists.setdefault("per_channel", {})[bool(t.activation_per_channel)] = None
        lists.setdefault("asymmetric", {})[not t.activation_symmetric] = None
    if not methods:
        return None
    section: dict[str, Any] = {"calibration_type": list(methods)} | {
        k: list(v) for k, v in lists.items()
    }
    section = {k: v[0] if len(v) == 1 else v for k, v in section.items()}
    wanted = {_ranges(t) for t in tried if t.activation is not None and t.activation.name in names}
    if (
        isinstance(section.get("max_num_bin"), list)
        or {_ranges(c) for c in candidates(Activation.model_validate(section))} != wanted
    ):
        lose(f"quant_config cannot list exactly these candidates ({where}).", at=where)
        if isinstance(section.get("max_num_bin"), list):
            section["max_num_bin"] = max(section["max_num_bin"])
    return section


def _ranges(settings: Settings) -> tuple[Any, ...]:
    """Return what makes a candidate, with the options that are left out."""
    assert settings.activation is not None
    name = settings.activation.name
    options = _DEFAULTS.get(name, {}) | dict(settings.activation.options)
    return (
        name,
        tuple(sorted(options.items())),
        bool(settings.activation_symmetric),
        bool(settings.activation_per_channel),
    )


# -------------------------------------------------------------------------------------------- order


def _owner(where: Where) -> Where | None:
    """Return the level that a rule belongs to, or None where it follows from others."""
    match where:
        case LayerInput(name, _, _):
            return Layer(name)
        case InputOf(nodes, _):
            return nodes
        case AllOf():
            return None
        case _:
            return where


def _place(where: Where) -> tuple[str, str] | None:
    """Return the section and the name of a level's entry, or None where there is none for it."""
    match where:
        case OpType(name):
            return "op_config", name
        case Subgraph():
            return "subgraph_config", where.name
        case Layer(name) if not any(c in name for c in "*?["):
            return "node_config", name
        case _:
            lose(f"quant_config has no entry for '{where}'; nodes stand in it by name.")
            return None


def _index(where: Where, owner: Where) -> int | None:
    if _owner(where) == owner and isinstance(where, LayerInput | InputOf):
        return where.index
    return None


def _check_order(rules: list[Rule], fields: tuple[str, ...]) -> None:
    """Refuse a coarser rule behind a finer one: in a quant_config the finer one would win."""
    ranks = {AllNodes: 0, OpType: 1, Subgraph: 2, Layer: 3, InputOf: 4, LayerInput: 5}
    last = 0
    for rule in rules:
        if isinstance(rule.where, AllOf) or not any(n in fields for n, _ in rule.settings.items()):
            continue
        rank = ranks.get(type(rule.where), 6)
        # The operands of `dual-int16` follow their own node at once, before the next level.
        if rank < last and last < 4:
            lose(
                f"In a quant_config nodes beat subgraphs, these operators, and these the model; the rule for "
                f"'{rule.where}' ({rule.origin or 'a rule'}) comes after a finer one."
            )
        last = rank if rank < 4 else last


def _check_combined(rules: list[Rule]) -> None:
    for rule in rules:
        if isinstance(rule.where, AllOf):
            own = merge(r for r in rules if r.where == rule.where.parts[-1])
            if any(getattr(own, n) != v for n, v in rule.settings.items()):
                lose(
                    f"quant_config cannot say what holds for '{rule.where}' alone ({rule.origin or 'a rule'})."
                )
