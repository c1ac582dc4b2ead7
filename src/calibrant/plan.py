"""What will happen: a Plan is a Recipe brought together with one model.

`resolve` walks the rules once a node, merges their settings by field, and remembers which rule decided
each field. It answers with one decision for each quantizer and one for each layer; everything after it
reads decisions and never a recipe. Names that the model does not have fail here, with a near name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from calibrant.errors import ConfigRuntimeError, ConfigValueError, UnsupportedError, did_you_mean
from calibrant.graph import targets
from calibrant.graph.ops import OP_RULES, matches_type, rule_of
from calibrant.graph.passes.half import can_be_half
from calibrant.graph.points import ActivationPoint, LayerPoint, find_points
from calibrant.graph.targets import Target
from calibrant.numerics import QuantSpec
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Layer,
    LayerInput,
    Note,
    OpType,
    Recipe,
    Settings,
    Subgraph,
    Where,
)

__all__ = ["ActivationDecision", "LayerDecision", "Plan", "WeightDecision", "resolve"]

#: Settings of a node (or of one of its inputs), and the rule that decided each field.
SettingsOf = Callable[..., tuple[Settings, dict[str, str]]]

#: What holds where no rule says otherwise.
DEFAULTS = Settings(
    compute="int",
    activation=AlgorithmChoice("auto"),
    activation_bits=8,
    activation_symmetric=False,
    activation_per_channel=False,
    weight=AlgorithmChoice("auto"),
    weight_bits=8,
    weight_per_channel=True,
)


@dataclass(frozen=True, slots=True)
class ActivationDecision:
    """One activation quantizer.

    Args:
        id: Name of the quantizer: its tensor's, with a number where a tensor has several.
        tensor: Tensor that is quantized.
        users: Edges (node, input index) that read the quantized tensor.
        producer: Node that needs this quantizer to run in integers; then every reader takes it.
        spec: Grid and symmetry.
        algorithm: How its range is chosen.
        fixed_range: Range by definition; no statistics are used.
        group: Quantizers with equal groups share their parameters.
        origin: Field of the settings -> the rule that decided it.
    """

    id: str
    tensor: str
    users: tuple[tuple[str, int], ...]
    producer: str | None
    spec: QuantSpec
    algorithm: AlgorithmChoice
    fixed_range: tuple[float, float] | None
    group: str
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightDecision:
    """One weight quantizer, by the layer that owns it.

    Args:
        layer: Node name.
        weight: Initializer.
        input_index: Input of the layer that the weight is.
        bias: Bias initializer, or None.
        spec: Grid; `axis` is the output channel axis or None.
        channel_axis: Output channel axis, whether or not the scales follow it.
        algorithm: How its scale is chosen.
        origin: Field of the settings -> the rule that decided it.
    """

    layer: str
    weight: str
    input_index: int
    bias: str | None
    spec: QuantSpec
    channel_axis: int | None
    algorithm: AlgorithmChoice
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """What becomes of one operator of the target.

    Args:
        node: Its name.
        op_type: Its operator.
        settings: All settings, complete.
        origin: Field -> the rule that decided it.
        quantized: Whether it runs in integers.
        reason: Why not, or an empty string.
    """

    node: str
    op_type: str
    settings: Settings
    origin: Mapping[str, str]
    quantized: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every decision for one model.

    Args:
        target: The device.
        activations: Activation quantizers, in graph order.
        weights: Weight quantizers, in graph order.
        layers: Every operator that some target quantizes, and what becomes of it.
        followers: Nodes that are kept in integers because their inputs are.
        half: Nodes that compute in float16.
        notes: What could not be done as asked.
    """

    target: Target
    activations: tuple[ActivationDecision, ...]
    weights: tuple[WeightDecision, ...]
    layers: tuple[LayerDecision, ...]
    followers: tuple[str, ...]
    half: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def observed_tensors(self) -> tuple[str, ...]:
        """Tensors whose statistics are needed, in graph order."""
        return tuple(dict.fromkeys(d.tensor for d in self.activations if d.fixed_range is None))

    @property
    def needs_wide_types(self) -> bool:
        """Whether a quantizer uses a type that came with opset 21."""
        bits = [d.spec.bits for d in self.activations] + [d.spec.bits for d in self.weights]
        return any(b in (4, 16) for b in bits)


def resolve(recipe: Recipe, model: ir.Model) -> Plan:
    """Bring a recipe together with a prepared model.

    Raises:
        ConfigValueError: A rule names a layer, type, input or subgraph that the model does not have,
            or asks for a width that the target does not run.
        ConfigRuntimeError: Nothing is left to quantize.
        UnsupportedError: A setting that is understood and not implemented.
    """
    target = targets.get(recipe.target)
    notes = list(recipe.notes)
    matched = [_match(rule.where, model, rule.origin, notes) for rule in recipe.rules]
    effective: dict[str, tuple[Settings, dict[str, str]]] = {}

    def settings_of(node: ir.Node, index: int | None = None) -> tuple[Settings, dict[str, str]]:
        key = f"{node.name}:{index}"
        if key not in effective:
            settings = replace(DEFAULTS, activation_symmetric=target.symmetric)
            origin: dict[str, str] = {}
            for rule, edges in zip(recipe.rules, matched, strict=True):
                if (node.name, None) in edges or (
                    index is not None and (node.name, index) in edges
                ):
                    settings = rule.settings.over(settings)
                    origin |= {
                        name: rule.origin or str(rule.where) for name, _ in rule.settings.items()
                    }
            effective[key] = settings, origin
        return effective[key]

    def enabled(node: ir.Node) -> bool:
        return settings_of(node)[0].compute == "int"

    extra = tuple(
        (name, index)
        for rule, edges in zip(recipe.rules, matched, strict=True)
        if isinstance(rule.where, LayerInput) and rule.settings.compute == "int"
        for name, index in edges
        if index is not None
    )
    points = find_points(model, target, enabled=enabled, extra_inputs=extra)
    nodes = {node.name or "": node for node in model.graph}
    activations = [
        d for p in points.activations for d in _activation(p, nodes, settings_of, target)
    ]
    weights = [
        w for p in points.layers if (w := _weight(p, nodes, settings_of, target)) is not None
    ]
    layers = _layers(model, target, settings_of, {p.node for p in points.layers})
    half = _half(model, settings_of, notes)
    if not points.layers and not activations and not half:
        raise ConfigRuntimeError(
            f"Nothing is left to quantize: the model has {len(layers)} layers that target "
            f"'{target.name}' runs in integers, and the recipe leaves all of them in float."
            if layers
            else f"The model has no operator that target '{target.name}' quantizes "
            f"({', '.join(sorted(target.anchors))}) outside of If, Loop and Scan bodies."
        )
    return Plan(
        target,
        tuple(activations),
        tuple(weights),
        tuple(layers),
        points.followers,
        half,
        tuple(notes),
    )


# ---------------------------------------------------------------------------------------------- rules


def _match(
    where: Where, model: ir.Model, origin: str, notes: list[Note]
) -> frozenset[tuple[str, int | None]]:
    """Return the (node, input) pairs a rule selects; input None is the whole node."""
    nodes = list(model.graph)
    match where:
        case AllNodes():
            return frozenset((n.name or "", None) for n in nodes)
        case OpType(name):
            found = frozenset((n.name or "", None) for n in nodes if matches_type(n, name))
            if not found:
                notes.append(
                    Note(origin or str(where), f"The model has no operator of type '{name}'.")
                )
            return found
        case Layer(name):
            return frozenset((n, None) for n in _layer_names(name, nodes, origin))
        case LayerInput(name, index):
            found_names = _layer_names(name, nodes, origin)
            for node in nodes:
                if node.name in found_names and not 0 <= index < len(node.inputs):
                    raise ConfigValueError(
                        f"{_at(origin)}layer '{node.name}' has no input {index}; it has inputs 0 to "
                        f"{len(node.inputs) - 1}."
                    )
            return frozenset((n, index) for n in found_names)
        case Subgraph():
            return frozenset((n, None) for n in _between(where, model, origin))


def _at(origin: str) -> str:
    return f"{origin}: " if origin else ""


def _layer_names(pattern: str, nodes: list[ir.Node], origin: str) -> set[str]:
    names = [n.name or "" for n in nodes]
    if pattern in names:
        return {pattern}
    if any(c in pattern for c in "*?["):
        found = {n for n in names if fnmatch.fnmatchcase(n, pattern)}
        if found:
            return found
    layers = [n.name or "" for n in nodes if rule_of(n).kind == "compute"]
    near = did_you_mean(pattern, names)
    raise ConfigValueError(
        f"{_at(origin)}layer '{pattern}' is not in the model ({len(layers)} quantizable layers, "
        f"{len(names)} nodes).{near}"
    )


def _between(where: Subgraph, model: ir.Model, origin: str) -> set[str]:
    """Nodes on any path from the inputs to the outputs (horizon.md 7.5)."""
    nodes = {n.name or "": n for n in model.graph}
    values: dict[str, ir.Value] = {v.name or "": v for v in model.graph.inputs}
    values |= {v.name or "": v for n in model.graph for v in n.outputs}

    def ends(names: Iterable[str], *, start: bool) -> list[ir.Node]:
        found: list[ir.Node] = []
        for name in names:
            if name in nodes:
                found.append(nodes[name])
            elif name in values:
                producer = values[name].producer()
                found += values[name].consumers() if start else [producer] if producer else []
            else:
                raise ConfigValueError(
                    f"{_at(origin)}subgraph '{where.name}' names '{name}', which is no node or tensor of "
                    f"the model.{did_you_mean(name, [*nodes, *values])}"
                )
        return found

    def reach(start: list[ir.Node], *, forward: bool) -> set[ir.Node]:
        seen, stack = set(start), list(start)
        while stack:
            node = stack.pop()
            for n in node.successors() if forward else node.predecessors():
                if n not in seen:
                    seen.add(n)
                    stack.append(n)
        return seen

    inside = reach(ends(where.inputs, start=True), forward=True) & reach(
        ends(where.outputs, start=False), forward=False
    )
    if not inside:
        raise ConfigValueError(
            f"{_at(origin)}subgraph '{where.name}' is empty: no path leads from its inputs to its outputs."
        )
    return {n.name or "" for n in inside}


# ------------------------------------------------------------------------------------------ decisions


def _activation(
    point: ActivationPoint, nodes: Mapping[str, ir.Node], settings_of: SettingsOf, target: Target
) -> list[ActivationDecision]:
    """One decision for each distinct setting among the readers of a tensor."""
    edges: tuple[tuple[str, int | None], ...] = point.users
    if point.producer is not None and not edges:
        edges = ((point.producer, None),)
    grouped: dict[tuple[QuantSpec, AlgorithmChoice], list[tuple[str, int | None]]] = {}
    origins: dict[tuple[QuantSpec, AlgorithmChoice], dict[str, str]] = {}
    for name, index in edges:
        settings, origin = settings_of(nodes[name], index)
        if settings.activation_per_channel:
            raise UnsupportedError(
                f"Activations with one scale a channel are not supported (layer '{name}')."
            )
        bits, algorithm = settings.activation_bits, settings.activation
        assert bits is not None
        assert algorithm is not None
        _check_bits("activation", bits, target.activation_bits, name, target)
        symmetric = bool(settings.activation_symmetric) and point.fixed_range is None
        spec = QuantSpec(bits=bits, symmetric=symmetric)
        grouped.setdefault((spec, algorithm), []).append((name, index))
        origins.setdefault((spec, algorithm), origin)
    if point.producer is not None:  # one quantizer serves every reader of an integer output
        widest = max(grouped, key=lambda key: key[0].bits)
        grouped = {widest: [e for users in grouped.values() for e in users]}
    decisions = []
    for n, ((spec, algorithm), users) in enumerate(grouped.items()):
        decisions.append(
            ActivationDecision(
                id=point.tensor if n == 0 else f"{point.tensor}#{n + 1}",
                tensor=point.tensor,
                users=tuple((name, index) for name, index in users if index is not None),
                producer=point.producer,
                spec=spec,
                algorithm=algorithm,
                fixed_range=point.fixed_range,
                group=f"{point.root}|{spec.bits}|{spec.symmetric}|{algorithm}",
                origin=origins[spec, algorithm],
            )
        )
    return decisions


def _weight(
    point: LayerPoint, nodes: Mapping[str, ir.Node], settings_of: SettingsOf, target: Target
) -> WeightDecision | None:
    if point.weight is None or point.weight_input is None:
        return None
    settings, origin = settings_of(nodes[point.node])
    bits, algorithm = settings.weight_bits, settings.weight
    assert bits is not None
    assert algorithm is not None
    _check_bits("weight", bits, target.weight_bits, point.node, target)
    axis = point.axis if settings.weight_per_channel else None
    return WeightDecision(
        layer=point.node,
        weight=point.weight,
        input_index=point.weight_input,
        bias=point.bias,
        spec=QuantSpec(bits=bits, symmetric=True, axis=axis),
        channel_axis=point.axis,
        algorithm=algorithm,
        origin=origin,
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
        elif any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs):
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
        if node.op_type not in OP_RULES or rule_of(node).kind not in ("compute", "pool"):
            continue
        if rule_of(node).kind == "pool" and node.op_type not in target.anchors:
            continue
        settings, origin = settings_of(node)
        done = node.name in quantized
        reason = ""
        if not done:
            if settings.compute != "int":
                reason = f"{settings.compute} asked for by {origin.get('compute', 'the recipe')}"
            elif node.op_type not in target.anchors:
                reason = f"target '{target.name}' has no integer kernel for {node.op_type}"
            else:
                reason = "no input of it carries float activations"
        decisions.append(
            LayerDecision(node.name or "", node.op_type, settings, origin, done, reason)
        )
    return decisions
