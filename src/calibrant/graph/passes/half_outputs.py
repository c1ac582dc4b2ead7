"""Round the outputs of a model through float16; they stay float32, so that whoever reads them finds what they did.

Source: docs/reference/horizon-configurations.md (`model_output_type`: float16).
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.values import Names

__all__ = ["round_outputs"]


def round_outputs(model: ir.Model) -> list[str]:
    """Put two Casts behind every computed float32 output, in place; return the names of these outputs."""
    graph = model.graph
    names = Names(graph)
    done = []
    for i, value in enumerate(list(graph.outputs)):
        producer = value.producer()
        if producer is None or value.dtype != ir.DataType.FLOAT:
            continue
        name = value.name or ""
        down = _cast(names, value, ir.DataType.FLOAT16, f"{name}__to_float16")
        up = _cast(names, down.outputs[0], ir.DataType.FLOAT, f"{name}__to_float32")
        graph.insert_after(producer, [down, up])
        graph.outputs[i] = up.outputs[0]
        value.name = names.fresh(f"{name}__float")
        up.outputs[0].name = name
        done.append(name)
    return done


def _cast(names: Names, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=names.fresh(name))
    node.outputs[0].name = names.fresh(f"{name}_output")
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
    return node
