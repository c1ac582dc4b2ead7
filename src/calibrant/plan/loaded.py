"""A plan whose quantizers are those that the model came with.

The scales of a trained model are authoritative: quantizers stand where they stood in it, and
nowhere else. A recipe may leave nodes in float; asking for another width is an error, since the scale was
trained for the one the model has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.errors import ConfigRuntimeError, ConfigValueError, ModelError
from calibrant.graph.ops import rule_of, weight_index
from calibrant.graph.passes.lift_qdq import LiftedQuantizer
from calibrant.graph.values import values_by_name
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.plan.decisions import ActivationDecision, Edge, LayerDecision, WeightDecision
from calibrant.plan.effective import Effective
from calibrant.plan.given import Given
from calibrant.plan.match import at
from calibrant.plan.resolve import resolve
from calibrant.recipe import AlgorithmChoice, Note, Recipe
from calibrant.recipe.settings import FROM_MODEL

__all__ = ["keeps_scales", "resolve_loaded"]


def keeps_scales(recipe: Recipe) -> bool:
    """Say whether a recipe takes ranges from the model.

    Raises:
        ConfigValueError: It does so for a part of the model only.
    """
    choices = [
        (r.settings.activation.name, r) for r in recipe.rules if r.settings.activation is not None
    ]
    if not any(name == FROM_MODEL for name, _ in choices):
        return False
    first = next(i for i, (name, _) in enumerate(choices) if name == FROM_MODEL)
    for name, rule in choices[first + 1 :]:
        if name != FROM_MODEL:
            raise ConfigValueError(
                f"{at(rule.origin)}algorithm '{name}' is asked for {rule.where}, and '{FROM_MODEL}' for the model; a "
                "model whose scales are kept is not calibrated."
            )
    return True


def resolve_loaded(recipe: Recipe, model: ir.Model, lifted: Sequence[LiftedQuantizer]) -> Given:
    """Bring a recipe together with a model and the quantizers that were taken out of it.

    Args:
        recipe: What is wanted; `keeps_scales` holds.
        model: A prepared float model.
        lifted: What `lift_quantizers` took out of it.

    Raises:
        ConfigValueError: The recipe asks for another width than the model was trained with.
        ConfigRuntimeError: No quantizer is left.
        ModelError: A weight has a zero point, or scales along another axis than its output channels.
    """
    resolved = resolve(replace(recipe, output_precision="float32"), model)
    notes = list(resolved.notes)
    effective = Effective(recipe, model, resolved.target, [])
    nodes = {node.name or "": node for node in model.graph}
    values = values_by_name(model.graph)
    weights = {
        name: q.params
        for q in lifted
        if q.is_constant
        for name, index in q.users
        if name in nodes
        and rule_of(nodes[name]).kind == "compute"
        and index == weight_index(nodes[name])
    }
    activations: list[ActivationDecision] = []
    params: dict[str, QuantParams] = {}
    for q in lifted:
        if q.is_constant:
            continue
        users = tuple(
            e for e in q.users if e[0] in nodes and _is_wanted(e, q.params, effective, nodes)
        )
        for_all = q.is_output or any(name not in nodes for name, _ in q.users)
        producer = values[q.tensor].producer() if for_all else None
        others = {(u.node.name, u.idx) for u in values[q.tensor].uses()} - set(q.users)
        if for_all and (producer is None or others):
            message = f"Tensor '{q.tensor}' stays in float where an output or a body reads it."
            notes.append(Note("the model", message))
            producer = None
        if not users and producer is None:
            continue
        n = sum(d.tensor == q.tensor for d in activations)
        name = q.tensor if n == 0 else f"{q.tensor}#{n + 1}"
        activations.append(_activation(name, q, users, producer))
        params[name] = q.params
    if not activations:
        raise ConfigRuntimeError(
            "The recipe keeps the scales that the model has, and the model holds no quantizer of an activation"
            + (
                " that the recipe leaves in integers."
                if lifted
                else ". Give a model with QDQ pairs."
            )
        )
    edges = {e for d in activations for e in d.users}
    decided = tuple(
        _weight(w, weights.get(w.layer), effective)
        for w in resolved.weights
        if (w.layer, 1 - w.input_index) in edges
    )
    plan = replace(
        resolved,
        activations=tuple(activations),
        weights=decided,
        layers=tuple(_layer(d, edges) for d in resolved.layers),
        followers=tuple(f for f in resolved.followers if any(n == f for n, _ in edges)),
        notes=tuple(notes),
    )
    kept = {w.layer for w in decided}
    return Given(plan, params, {n: p for n, p in weights.items() if n in kept})


def _activation(
    name: str, q: LiftedQuantizer, users: tuple[Edge, ...], producer: ir.Node | None
) -> ActivationDecision:
    return ActivationDecision(
        id=name,
        tensor=q.tensor,
        users=users,
        producer=producer.name if producer is not None else None,
        spec=QuantSpec(
            bits=q.params.dtype.bits,
            symmetric=not q.params.zero_point.any(),
            axis=q.params.axis,
        ),
        algorithm=AlgorithmChoice(FROM_MODEL),
        fixed_range=None,
        group=name,
        origin={"activation": "the model's own quantizer"},
    )


def _is_wanted(
    edge: Edge, params: QuantParams, effective: Effective, nodes: Mapping[str, ir.Node]
) -> bool:
    """Say whether the recipe leaves an edge in integers, of the width it has."""
    name, index = edge
    if effective.of(nodes[name], index)[0].compute != "int":
        return False
    _check_width(edge, "activation_bits", params, effective)
    return True


def _check_width(edge: Edge, field: str, params: QuantParams, effective: Effective) -> None:
    name, index = edge
    asked = [
        (getattr(rule.settings, field), rule)
        for rule, edges in effective.matched
        if rule.force != "implied"
        and getattr(rule.settings, field) is not None
        and ((name, None) in edges or edge in edges)
    ]
    if asked and asked[-1][0] != params.dtype.bits:
        bits, rule = asked[-1]
        raise ConfigValueError(
            f"{at(rule.origin)}input {index} of layer '{name}' is to have {bits} bits, and the model comes with a "
            f"scale for {params.dtype.bits}; its scales are kept, so leave the width out."
        )


def _weight(w: WeightDecision, params: QuantParams | None, effective: Effective) -> WeightDecision:
    """Return the decision with the grid that the model has for a weight."""
    if params is None:
        return w
    if params.zero_point.any():
        raise ModelError(
            f"The weight of layer '{w.layer}' has zero point {int(params.zero_point.flat[0])} on the signed grid; "
            "weights have 0."
        )
    if params.axis is not None and params.axis != w.channel_axis:
        raise ModelError(
            f"The weight of layer '{w.layer}' has scales along axis {params.axis}; its output channels lie on axis "
            f"{w.channel_axis}."
        )
    _check_width((w.layer, w.input_index), "weight_bits", params, effective)
    spec = QuantSpec(bits=params.dtype.bits, symmetric=True, axis=params.axis)
    return replace(
        w,
        spec=spec,
        algorithm=AlgorithmChoice(FROM_MODEL),
        origin={"weight": "the model's own quantizer"},
    )


def _layer(decision: LayerDecision, edges: set[Edge]) -> LayerDecision:
    done = any(name == decision.node for name, _ in edges)
    if done or not decision.quantized:
        return replace(decision, quantized=done)
    return replace(decision, quantized=False, reason="the model has no quantizer at its inputs")
