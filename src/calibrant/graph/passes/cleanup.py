"""Take out what only stands in the way: dropouts, weights in another layout, missing names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

__all__ = ["fold_weight_layout", "name_everything", "remove_dropout"]


def remove_dropout(graph: ir.Graph) -> None:
    """Remove dropouts whose mask nobody reads: at inference they change nothing."""
    for node in list(graph):
        if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx"):
            continue
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            continue
        source = node.inputs[0]
        if source is None or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def fold_weight_layout(graph: ir.Graph) -> None:
    """Apply Transpose, Reshape and Cast nodes whose inputs are all constant."""
    for node in list(graph):
        if node.op_type not in {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast"}:
            continue
        values = [v for v in node.inputs if v is not None]
        if not values or any(v.const_value is None or v.is_graph_input() for v in values):
            continue
        if node.outputs[0].is_graph_output():
            continue
        source = values[0]
        assert source.const_value is not None
        data = source.const_value.numpy()
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            data = np.transpose(data, perm.as_ints() if perm else None)
        elif node.op_type == "Reshape":
            assert values[1].const_value is not None
            shape = [int(n) for n in values[1].const_value.numpy()]
            if 0 in shape:
                continue  # 0 copies a dimension, unless allowzero says otherwise: leave it to the runtime
            data = data.reshape(shape)
        elif node.op_type == "Cast":
            to = ir.DataType(node.attributes["to"].as_int())
            if not (source.const_value.dtype.is_floating_point() and to == ir.DataType.FLOAT):
                continue
            data = data.astype(np.float32)
        else:
            if len(values) < 2:
                continue
            assert values[1].const_value is not None
            axes = tuple(int(a) for a in values[1].const_value.numpy())
            data = (
                np.squeeze(data, axes) if node.op_type == "Squeeze" else np.expand_dims(data, axes)
            )
        new = ir.Value(
            name=f"{node.outputs[0].name}",
            const_value=ir.tensor(np.ascontiguousarray(data), name=node.outputs[0].name),
            shape=ir.Shape(data.shape),
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        )
        node.outputs[0].replace_all_uses_with(new)
        node.outputs[0].name = f"{new.name}__folded"
        graph.remove(node, safe=True)
        graph.register_initializer(new)


def name_everything(model: ir.Model) -> None:
    """Give every node and value a name of its own; names that the model has are kept."""
    taken: set[str] = set()
    for node in model.graph.all_nodes():
        base = node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else 'node'}"
        name, n = base, 1
        while name in taken:
            name, n = f"{base}_{n}", n + 1
        if name != node.name:
            node.name = name
        taken.add(name)
    common.NameFixPass()(model)
