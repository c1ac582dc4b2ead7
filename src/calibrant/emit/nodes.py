"""What a quantized model makes of each node: its type, and the thresholds its inputs are clipped at.

Source: the table of nodes that Horizon's tools print; docs/reference/artefacts.md (threshold = scale * qmax).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.numerics import QuantParams
from calibrant.plan import ActivationDecision, Plan
from calibrant.plan.parameters import Parameters

__all__ = ["NodeType", "node_types", "threshold"]


@dataclass(frozen=True, slots=True)
class NodeType:
    """One node of the float model, as the quantized model has it.

    Args:
        node: Its name.
        op_type: Its operator.
        data_type: `int8`, `int16`, `int4`, `float16` or `float32`: that of the activations it reads.
        thresholds: Input index -> the largest magnitude that the input's quantizer keeps, of all
            channels the largest; empty where no input is quantized.
    """

    node: str
    op_type: str
    data_type: str
    thresholds: dict[int, float]

    @property
    def threshold(self) -> float | None:
        """That of the first quantized input."""
        return self.thresholds[min(self.thresholds)] if self.thresholds else None


def threshold(p: QuantParams) -> float:
    """Return the largest magnitude that a quantizer keeps.

    With zero point 0 it is `scale * qmax`, so that the threshold of 127 has scale 1 in 8 bits; else the
    farther end of the range. Of several channels the largest counts.
    """
    low, high = p.range
    ends = high if p.is_symmetric else np.maximum(np.abs(low), np.abs(high))
    return float(np.max(ends))


def node_types(model: ir.Model, plan: Plan, params: Parameters) -> list[NodeType]:
    """Return one entry for each node of the float model, in graph order."""
    reads: dict[str, dict[int, ActivationDecision]] = {}
    by_tensor = {d.tensor: d for d in plan.activations if d.producer is not None}
    for d in plan.activations:
        for reader, index in d.users:
            reads.setdefault(reader, {})[index] = d
    found = []
    for node in model.graph:
        name = node.name or ""
        quantized = dict(reads.get(name, {}))
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in by_tensor:
                quantized.setdefault(index, by_tensor[value.name])
        found.append(
            NodeType(
                name,
                node.op_type,
                _type(name, plan, quantized),
                {i: threshold(params.activations[d.id]) for i, d in sorted(quantized.items())},
            )
        )
    return found


def _type(name: str, plan: Plan, quantized: dict[int, ActivationDecision]) -> str:
    if name in plan.half:
        return "float16"
    if not quantized:
        return "float32"
    return f"int{max(d.spec.bits for d in quantized.values())}"
