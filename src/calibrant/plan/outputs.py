"""Quantizers behind the outputs of a model, for a device that is to hand out integers.

The output keeps its name and its type, float32; its values lie on an integer grid, with scale and zero point
in the last QuantizeLinear and DequantizeLinear, which a compiler takes off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.graph.ops import before_cast, fixed_output_range, rule_of
from calibrant.graph.targets import Target
from calibrant.numerics import QuantSpec
from calibrant.plan.decisions import ActivationDecision
from calibrant.recipe import AlgorithmChoice, Note, Precision, Settings

__all__ = ["OUTPUT_BITS", "with_outputs"]

#: Precisions of outputs that are integers, with their widths.
OUTPUT_BITS = {"int8": 8, "int16": 16}

SettingsOf = Callable[[ir.Node], tuple[Settings, dict[str, str]]]


def with_outputs(
    activations: Sequence[ActivationDecision],
    model: ir.Model,
    precision: Precision,
    settings_of: SettingsOf,
    target: Target,
    notes: list[Note],
) -> list[ActivationDecision]:
    """Return the decisions with a quantizer behind every float output of the model, in front of a Cast to its type.

    Args:
        activations: Those so far.
        model: The model.
        precision: What the outputs are to be.
        settings_of: Settings of a node.
        target: The device.
        notes: Gets outputs that stay as they are.
    """
    bits = OUTPUT_BITS.get(precision)
    if bits is None:
        return list(activations)
    found = list(activations)
    for output in model.graph.outputs:
        value = before_cast(output)
        producer = value.producer()
        name = output.name or ""
        if producer is None or value.dtype not in (None, ir.DataType.FLOAT):
            what = (
                "no floating point tensor"
                if producer is not None
                else "no tensor that is computed"
            )
            message = f"Output '{name}' stays as it is: it is {what}."
            notes.append(Note("model outputs", message))
            continue
        if bits not in target.activation_bits:
            notes.append(
                Note(
                    "model outputs",
                    f"Target '{target.name}' has no {precision}: output '{name}' stays in float.",
                )
            )
            continue
        found = _with_output(found, value, producer, bits, settings_of(producer)[0])
    return found


def _with_output(
    activations: list[ActivationDecision],
    value: ir.Value,
    producer: ir.Node,
    bits: int,
    settings: Settings,
) -> list[ActivationDecision]:
    """Add one quantizer; whoever else reads the tensor reads it too."""
    name = value.name or ""
    others = [d for d in activations if d.tensor == name]
    users = tuple(dict.fromkeys(e for d in others for e in d.users))
    algorithm = settings.activation if settings.activation is not None else AlgorithmChoice("auto")
    fixed = _fixed_range(producer)
    spec = QuantSpec(bits=bits, symmetric=bool(settings.activation_symmetric) and fixed is None)
    decision = ActivationDecision(
        id=name,
        tensor=name,
        users=users,
        producer=producer.name,
        spec=spec,
        algorithm=algorithm,
        fixed_range=fixed,
        group=f"output {name}",
        origin={"activation_bits": "output_precision"},
    )
    if others:  # at the place of the first, since the order is that of the graph
        first = activations.index(others[0])
        rest = [d for d in activations if d not in others]
        return [*rest[:first], replace(decision, id=others[0].id), *rest[first:]]
    return [*activations, decision]


def _fixed_range(node: ir.Node) -> tuple[float, float] | None:
    producer: ir.Node | None = node
    while producer is not None and rule_of(producer).kind == "pass_through":
        source = producer.inputs[0]
        producer = source.producer() if source is not None else None
    return fixed_output_range(producer) if producer is not None else None
