"""Tensors that must have one range: what an operator that only moves values reads, and what it writes.

Such operators keep a grid only if it is the same on both sides. Tensors that hang together through them are one
group: their statistics are merged, and their range is chosen once. A Concat that keeps a grid joins the groups of
all that it reads.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.data_inputs import fills_with_inf
from calibrant.graph.ops import is_constant, rule_of
from calibrant.graph.targets import Target

__all__ = ["Ranges"]


class Ranges:
    """The groups of a model's tensors for a target.

    Args:
        model: A prepared model.
        target: The device; its `shared` operators keep a range.
    """

    def __init__(self, model: ir.Model, target: Target) -> None:
        """Walk the model once."""
        self._parent: dict[ir.Value, ir.Value] = {}
        for node in model.graph:
            if node.op_type not in target.shared or fills_with_inf(node):
                continue
            for source in node.inputs if rule_of(node).data is None else node.inputs[:1]:
                if source is not None and not is_constant(source):
                    for value in node.outputs:
                        self._join(source, value)

    def root(self, value: ir.Value) -> ir.Value:
        """Return the tensor that stands for the group of a tensor."""
        while value in self._parent:
            value = self._parent[value]
        return value

    def _join(self, source: ir.Value, value: ir.Value) -> None:
        first, second = self.root(source), self.root(value)
        if first is not second:
            self._parent[second] = first
