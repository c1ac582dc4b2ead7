"""Layers whose weight is no constant, and why: they are named, because such a weight is quantized as an activation.

A product of two activations (the scores of an attention) has no weight and is not named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from calibrant.graph.bodies import dependencies
from calibrant.graph.ops import is_constant, rule_of
from calibrant.graph.passes.constants import why_not_folded
from calibrant.graph.points import LayerPoint

__all__ = ["open_weights"]


def open_weights(layers: Iterable[LayerPoint], nodes: Mapping[str, ir.Node]) -> Iterator[str]:
    """Yield one sentence for each layer whose weight is computed when the model runs.

    Args:
        layers: The layers to quantize.
        nodes: The nodes of the model by name.
    """
    for layer in layers:
        node = nodes[layer.node]
        rule = rule_of(node)
        if rule.kind != "compute" or rule.weight is None or layer.weight is not None:
            continue
        operands = (rule.weight, 0) if node.op_type in ("Gemm", "MatMul") else (rule.weight,)
        reasons = [_why_open(node.inputs[i]) for i in operands]
        reason = next((r for r in reasons if r), "")
        if not reason and node.op_type == "MatMul":
            continue
        reason = reason or "it depends on the inputs of the model"
        yield (
            f"The weight of layer '{layer.node}' ({node.op_type}) is no constant, so it is quantized as an "
            f"activation: {reason}."
        )


def _why_open(value: ir.Value | None) -> str:
    """Say which node keeps a value from being computed beforehand; empty where it depends on inputs."""
    found = ""
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen or is_constant(value):
            continue
        seen.add(value)
        maker = value.producer()
        if maker is None:
            return ""
        why = why_not_folded(maker)
        if why:
            found = f"node '{maker.name}' ({maker.op_type}) in front of it is left as it is, because {why}"
        waiting += dependencies(maker)
    return found
