"""Casts to a type that is known are written as such: `CastLike(x, y)` becomes `Cast(x)` to the type of y.

Exporters write the bounds of a ReLU6 as `Clip(y, CastLike(0, y), CastLike(6, y))`. As a Cast of a constant, a bound is
computed beforehand, and the Clip is one whose ends are known.

Source: ONNX, CastLike (opset 15).
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["has_untyped_casts", "type_casts"]


def has_untyped_casts(model: ir.Model) -> bool:
    """Whether there is a CastLike."""
    return any(_is_untyped(node) for node in model.graph.all_nodes())


def type_casts(model: ir.Model) -> None:
    """Write each CastLike whose type is known as a Cast, in place, bodies included."""
    for node in list(model.graph.all_nodes()):
        like = node.inputs[1] if _is_untyped(node) else None
        if like is None or like.dtype is None:
            continue
        cast = ir.node(
            "Cast", [node.inputs[0]], attributes={"to": int(like.dtype)}, name=node.name or None
        )
        cast.metadata_props.update(node.metadata_props)
        cast.meta.update(node.meta)
        old, new = node.outputs[0], cast.outputs[0]
        name, new.type, new.shape = old.name, ir.TensorType(like.dtype), old.shape
        graph = node.graph
        assert graph is not None
        graph.insert_before(node, cast)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        new.name = name


def _is_untyped(node: ir.Node) -> bool:
    return node.op_type == "CastLike" and node.domain in ("", "ai.onnx")
