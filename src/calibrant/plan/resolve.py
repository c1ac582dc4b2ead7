"""Walk the rules once a node, merge their settings by field, and decide for every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import onnx_ir as ir

from calibrant.errors import ConfigRuntimeError, ConfigValueError, ModelError
from calibrant.graph import targets
from calibrant.graph.notes import notes_of
from calibrant.graph.ops import OP_RULES, is_constant, rule_of
from calibrant.graph.passes.half import can_be_half
from calibrant.graph.points import ActivationPoint, LayerPoint, find_points
from calibrant.graph.targets import Target
from calibrant.numerics import QuantSpec
from calibrant.plan.compensation import is_compensated
from calibrant.plan.decisions import ActivationDecision, LayerDecision, Plan, WeightDecision
from calibrant.plan.effective import Chosen, Effective
from calibrant.plan.granularity import Channels, Granularity
from calibrant.plan.in_bodies import layers_in_bodies
from calibrant.plan.joint import join_additions
from calibrant.plan.nothing import why_nothing
from calibrant.plan.open_weights import open_weights
from calibrant.plan.outputs import with_outputs
from calibrant.plan.roles import codebook
from calibrant.plan.widths import activation_bits
from calibrant.recipe import AlgorithmChoice, Note, Recipe, Settings
from calibrant.recipe.unsupported import check_supported

__all__ = ["resolve"]

#: Settings of a node (or of one of its inputs), and the rule that decided each field.
SettingsOf = Callable[..., tuple[Settings, dict[str, str]]]


def resolve(
    recipe: Recipe, model: ir.Model, *, check: bool = True, chosen: Chosen | None = None
) -> Plan:
    """Bring a recipe together with a prepared model.

    Args:
        recipe: What is wanted.
        model: A prepared model.
        check: Refuse what is not implemented; without it the plan is for reading alone.
        chosen: Says which of its candidates a node or input takes; without it, the first.

    Raises:
        ConfigValueError: A rule names a layer, type, input or subgraph that the model does not have,
            or asks for a width that the target does not run.
        ConfigValueError: Rules that are required leave every layer in float.
        ConfigRuntimeError: Nothing can be quantized, and nobody asked for that; without `check` the plan is empty.
        ModelError: Every layer stands in the body of an If, Loop or Scan.
        UnsupportedError: A setting that is understood and not implemented.
    """
    target = targets.get(recipe.target)
    notes = [*recipe.notes, *(Note("the model", s, honoured=True) for s in notes_of(model))]
    if chosen is None and check:
        chosen = _first
    effective = Effective(recipe, model, target, notes, chosen)
    settings_of = effective.of
    if check:
        check_supported(recipe)
    if recipe.search is not None and not any(rule.settings.candidates for rule in recipe.rules):
        message = "There is nothing to search: no rule lists candidates."
        notes.append(Note("search", message, honoured=True))

    def enabled(node: ir.Node, index: int | None) -> bool:
        return settings_of(node, index)[0].compute == "int"

    points = find_points(model, target, enabled=enabled, extra_inputs=effective.extra_inputs())
    nodes = {node.name or "": node for node in model.graph}
    weights = [
        w
        for p in points.layers
        if (w := _weight(p, nodes, settings_of, target, notes)) is not None
    ]

    def by_channel(edge: tuple[str, int | None]) -> str | None:
        settings, origin = settings_of(nodes[edge[0]], edge[1])
        if not settings.activation_per_channel:
            return None
        rule = origin.get("activation_per_channel", "the recipe")
        if settings.compensation and edge[1] is not None:
            message = f"Input {edge[1]} of '{edge[0]}' keeps one scale: its error is compensated."
            notes.append(Note(rule, message))
            return None
        return rule

    granularity = Granularity(nodes, {w.layer: w for w in weights}, target, by_channel)
    activations = [
        d
        for p in points.activations
        for d in _activation(p, nodes, settings_of, target, granularity, notes)
    ]
    notes += granularity.notes()
    layers = _layers(model, target, settings_of, {p.node for p in points.layers})
    if recipe.joint:
        activations = join_additions(activations, model)
    activations = with_outputs(
        activations, model, recipe.output_precision, settings_of, target, notes
    )
    half = _half(model, settings_of, notes)
    read = {(n, i) for d in activations for n, i in d.users}
    effective.note_unheard(read | {(w.layer, w.input_index) for w in weights}, target)
    inside = layers_in_bodies(model, target)
    notes += [Note("the model", str(i), honoured=True) for i in inside]
    notes += [Note("the model", s, honoured=True) for s in open_weights(points.layers, nodes)]
    if not points.layers and not activations:
        names = [layer.node for layer in layers]
        if effective.skipped(names) and not half:
            raise ConfigValueError(why_nothing(layers, target))
        wish = effective.wished_float(x.node for x in layers if not _stays_anyway(x))
        if wish is not None:
            message = "Every layer stays in float, as asked: nothing is quantized."
            notes.append(Note(wish, message, honoured=True))
        elif check and not half:
            fault = ModelError if inside and not layers else ConfigRuntimeError
            raise fault(why_nothing(layers, target, inside))
    plan = Plan(
        target,
        tuple(activations),
        tuple(weights),
        tuple(layers),
        points.followers,
        half,
        tuple(notes),
        half_scales=recipe.scale_format == "float16",
    )
    return plan.with_tiny_to_one() if recipe.tiny_scales == "one" else plan


#: Operators with weights or products inside that no target quantizes.
_NOT_QUANTIZED = frozenset(
    {
        "Attention",
        "DeformConv",
        "Einsum",
        "GRU",
        "GroupQueryAttention",
        "LSTM",
        "MultiHeadAttention",
        "RNN",
    }
)

#: What ONNX Runtime's optimizer makes of layers: no operators of ONNX, which other devices do not know.
_FUSED = frozenset({"FusedConv", "FusedGemm", "FusedMatMul"})


def _first(node: str, index: int | None, candidates: tuple[Settings, ...]) -> Settings:
    return candidates[0]


class _Kind(NamedTuple):
    """What readers of a tensor must agree on to share a quantizer."""

    spec: QuantSpec
    algorithm: AlgorithmChoice
    channels: Channels | None
    compensation: bool


def _activation(
    point: ActivationPoint,
    nodes: Mapping[str, ir.Node],
    settings_of: SettingsOf,
    target: Target,
    granularity: Granularity,
    notes: list[Note],
) -> list[ActivationDecision]:
    """One decision for each distinct setting among the readers of a tensor."""
    edges: tuple[tuple[str, int | None], ...] = point.users
    if point.producer is not None and not edges:
        edges = ((point.producer, None),)
    grouped: dict[_Kind, list[tuple[str, int | None]]] = {}
    origins: dict[_Kind, dict[str, str]] = {}
    by_channel = granularity.of(point, edges)
    for name, index in edges:
        settings, origin = settings_of(nodes[name], index)
        bits, algorithm = (
            activation_bits(nodes[name], index, target, settings_of),
            settings.activation,
        )
        assert algorithm is not None
        _check_bits("activation", bits, target.activation_bits, name, target)
        symmetric = bool(settings.activation_symmetric) and point.fixed_range is None
        if not target.zero_points and not symmetric:
            symmetric = True
            if settings.activation_symmetric is False:
                _note_zero_point(origin, target, notes)
        channels = by_channel.get((name, index))
        spec = QuantSpec(bits=bits, symmetric=symmetric, axis=channels.axis if channels else None)
        rule = origin.get("compensation", "the recipe")
        compensation = is_compensated(settings, bits, (name, index), rule, notes)
        kind = _Kind(spec, algorithm, channels, compensation)
        grouped.setdefault(kind, []).append((name, index))
        origins.setdefault(kind, origin)
    if point.producer is not None:  # one quantizer serves every reader of an integer output
        widest = max(grouped, key=lambda kind: (kind.spec.bits, kind.compensation))
        grouped = {widest: [e for users in grouped.values() for e in users]}
    decisions = []
    for n, (kind, users) in enumerate(grouped.items()):
        spec, algorithm, channels, compensation = kind
        root = granularity.group(point, channels) if channels else point.root
        decisions.append(
            ActivationDecision(
                id=point.tensor if n == 0 else f"{point.tensor}#{n + 1}",
                tensor=point.tensor,
                users=tuple((name, index) for name, index in users if index is not None),
                producer=point.producer,
                spec=spec,
                algorithm=algorithm,
                fixed_range=point.fixed_range,
                group=f"{root}|{spec.bits}|{spec.symmetric}|{algorithm}",
                origin=origins[kind],
                folded=channels is not None and channels.folded,
                channels=channels.count if channels else None,
                compensation=compensation,
            )
        )
    return decisions


def _note_zero_point(origin: Mapping[str, str], target: Target, notes: list[Note]) -> None:
    where = origin.get("activation_symmetric", "the recipe")
    note = Note(
        where, f"Target '{target.name}' knows no zero point: activations keep zero point 0."
    )
    if note not in notes:
        notes.append(note)


def _weight(
    point: LayerPoint,
    nodes: Mapping[str, ir.Node],
    settings_of: SettingsOf,
    target: Target,
    notes: list[Note],
) -> WeightDecision | None:
    if point.weight is None or point.weight_input is None:
        return None
    settings, origin = settings_of(nodes[point.node], point.weight_input)
    bits, algorithm = settings.weight_bits, settings.weight
    assert bits is not None
    assert algorithm is not None
    _check_bits("weight", bits, target.weight_bits, point.node, target)
    axis = point.axis if settings.weight_per_channel else None
    edge, rule = (point.node, point.weight_input), origin.get("compensation", "the recipe")
    levels = codebook(algorithm)
    return WeightDecision(
        layer=point.node,
        weight=point.weight,
        input_index=point.weight_input,
        bias=point.bias,
        spec=QuantSpec(bits=bits, symmetric=True, axis=axis),
        channel_axis=point.axis,
        algorithm=algorithm,
        origin=origin,
        compensation=is_compensated(settings, bits, edge, rule, notes, levels=levels is not None),
        stores_indices=levels is not None and levels.storage == "indices",
    )


def _check_bits(
    what: str, bits: int, allowed: tuple[int, ...], layer: str, target: Target
) -> None:
    if bits not in allowed:
        raise ConfigValueError(
            f"Target '{target.name}' does not run {bits}-bit {what}s (layer '{layer}'); it runs "
            f"{', '.join(map(str, allowed))}."
        )


def _half(model: ir.Model, settings_of: SettingsOf, notes: list[Note]) -> tuple[str, ...]:
    """Return the nodes that compute in float16; those that cannot become notes."""
    found = []
    for node in model.graph:
        settings, origin = settings_of(node)
        if settings.compute != "float16":
            continue
        if can_be_half(node):
            found.append(node.name or "")
        elif node.op_type != "Cast" and any(
            v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs
        ):
            where = origin.get("compute", "the recipe")
            notes.append(
                Note(
                    where,
                    f"Node '{node.name}' ({node.op_type}) stays in float32: it has no float16 form.",
                )
            )
    return tuple(found)


def _layers(
    model: ir.Model, target: Target, settings_of: SettingsOf, quantized: set[str]
) -> list[LayerDecision]:
    """One entry for each node that could have been quantized on some target."""
    decisions = []
    for node in model.graph:
        if node.op_type in _NOT_QUANTIZED | _FUSED:
            settings, origin = settings_of(node)
            reason = f"calibrant does not quantize {node.op_type}"
            if node.op_type in _FUSED:
                reason += (
                    ", which ONNX Runtime's optimizer writes: give the model as it was before"
                )
            wished = settings.compute != "int"
            decisions.append(
                LayerDecision(
                    node.name or "", node.op_type, settings, origin, False, reason, wished
                )
            )
        known = node.op_type in OP_RULES and rule_of(node).kind in ("compute", "pool")
        if not known and node.op_type not in target.anchors:
            continue
        if rule_of(node).kind == "pool" and node.op_type not in target.anchors:
            continue
        settings, origin = settings_of(node)
        done = node.name in quantized
        reason, by_recipe = "", False
        if not done:
            if settings.compute != "int":
                reason = f"{settings.compute} asked for by {origin.get('compute', 'the recipe')}"
                by_recipe = True
            elif node.op_type not in target.anchors:
                reason = f"target '{target.name}' has no integer kernel for {node.op_type}"
            else:
                held_back = _without_points(node)
                by_recipe = held_back is None
                reason = held_back or "the recipe leaves its inputs in float"
        decisions.append(
            LayerDecision(node.name or "", node.op_type, settings, origin, done, reason, by_recipe)
        )
    return decisions


def _stays_anyway(layer: LayerDecision) -> bool:
    """Say whether a layer is in float although the recipe wants integers: nobody has to ask for that."""
    return not layer.quantized and not layer.by_recipe


def _without_points(node: ir.Node) -> str | None:
    """Say why no input of an operator that the target quantizes can be quantized; None where they can."""
    inputs = [v for v in node.inputs if v is not None and not is_constant(v)]
    others = {v.dtype.name.lower() for v in inputs if v.dtype not in (None, ir.DataType.FLOAT)}
    if others:
        return f"its input is {' and '.join(sorted(others))}, and float32 alone is quantized"
    return None if inputs else "all its inputs are constant"
