"""Joint quantization: tensors that an Add brings together share one range.

An integer Add whose inputs and output have different scales has to rescale them. With one scale for all of
them it only adds. The quantizers of an Add's inputs and output form a group, looking through ReLU and
Identity; Adds that share a tensor form one group together (the residual stream of a whole stage).

The vendors' documents name such a switch and what it is for, and not how ranges are joined; the groups here are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.plan.decisions import ActivationDecision

__all__ = ["join_additions"]

_SEEN_THROUGH = frozenset({"Relu", "Identity"})


def join_additions(
    activations: Sequence[ActivationDecision], model: ir.Model
) -> list[ActivationDecision]:
    """Return the decisions with one group for the quantizers of each sum.

    Quantizers of another width, symmetry, algorithm or number of channels, or with a fixed range, keep
    their own.
    """
    sums = _Sets()
    for node in model.graph:
        if node.op_type == "Add" and not any(is_constant(v) for v in node.inputs):
            output = _name(node.outputs[0])
            for value in node.inputs:
                sums.join(output, _name(value))
        elif node.op_type in _SEEN_THROUGH:
            sums.join(_name(node.outputs[0]), _name(node.inputs[0]))
    sizes: dict[str, int] = {}
    for d in activations:
        sizes[sums.root(d.tensor)] = sizes.get(sums.root(d.tensor), 0) + 1
    return [
        replace(
            d,
            group=f"sum {root}|{d.spec.bits}|{d.spec.symmetric}|{d.algorithm}"
            + (f"|{d.channels} channels on {d.spec.axis}" if d.channels else ""),
        )
        if d.fixed_range is None and sizes[root := sums.root(d.tensor)] > 1
        else d
        for d in activations
    ]


class _Sets:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def join(self, a: str, b: str) -> None:
        self._parent[self.root(a)] = self.root(b)


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
