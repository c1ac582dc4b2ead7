"""Shapes and types of the values in a model, as ONNX infers them.

The inference writes the type of a list's elements on a list that has no type yet (SequenceConstruct, Optional), as if it
were a tensor, and a runtime refuses that. Lists are left without a type: who runs the model knows.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.graph.bodies import bodies

__all__ = ["infer_shapes"]

#: Operators that answer with a list of tensors, or with a tensor or nothing.
_LISTS = frozenset(
    {
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    }
)


def infer_shapes(model: ir.Model) -> None:
    """Infer shapes and types of all values, in place."""
    common.ShapeInferencePass()(model)
    lists: set[ir.Value] = set()
    _find(model.graph, lists)
    for value in lists:
        if isinstance(value.type, ir.TensorType):
            value.type = value.shape = None


def _find(graph: ir.Graph, lists: set[ir.Value]) -> None:
    """Find the values that are lists, by the operators they come from."""
    for node in graph:
        inner = bodies(node)
        for body in inner:
            if node.op_type == "Loop":  # iteration, condition, what is carried
                lists.update(
                    v for o, v in zip(node.inputs[2:], body.inputs[2:], strict=False) if o in lists
                )
            _find(body, lists)
        if node.op_type in _LISTS or (node.op_type == "Identity" and node.inputs[0] in lists):
            lists.update(node.outputs)
        for body in inner:
            answers = body.outputs[1:] if node.op_type == "Loop" else body.outputs
            for value, answer in zip(node.outputs, answers, strict=False):
                if answer in lists:
                    lists.add(value)
