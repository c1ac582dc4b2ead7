"""Numbers that a model computes from shapes, where these are known before it runs.

A condition such as "is the second dimension 1" is written as Shape, Gather and Equal. With known shapes it is
decided, and the If behind it can be dissolved. Source of the operators' meaning: ONNX operators, `Shape`, `Size`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.bodies import bodies
from calibrant.graph.ops import is_constant

__all__ = ["fixed_graphs", "forget_inferred_shapes", "known_dimensions"]

Array = npt.NDArray[Any]


def forget_inferred_shapes(model: ir.Model) -> None:
    """Forget the shapes between the operators of ONNX, in place, so that they can be inferred anew.

    A file may hold shapes of an earlier state of the model, such as a batch of 1 that has become free since.
    """
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None


def fixed_graphs(model: ir.Model) -> set[ir.Graph]:
    """Return the graphs whose shapes stay the same in one run: the main one, and the branches of Ifs in such."""
    found = {model.graph}
    waiting = [model.graph]
    while waiting:
        for node in waiting.pop():
            if node.op_type == "If":
                found.update(bodies(node))
                waiting += bodies(node)
    return found


def known_dimensions(node: ir.Node) -> list[Array] | None:
    """Return what a Shape, a Size or a Gather of a Shape answers, where all of it is known; else None."""
    if node.op_type in ("Shape", "Size"):
        known = _known(_dimensions(node))
        if known is None:
            return None
        return [np.array(math.prod(known) if node.op_type == "Size" else known, np.int64)]
    source, index = (*node.inputs, None, None)[:2]
    if node.op_type != "Gather" or source is None or index is None or not is_constant(index):
        return None
    maker = source.producer()
    dims = _dimensions(maker) if maker is not None and maker.op_type == "Shape" else None
    assert index.const_value is not None
    places = index.const_value.numpy()
    if dims is None or not ((-len(dims) <= places) & (places < len(dims))).all():
        return None
    picked = _known([dims[int(i)] for i in places.ravel()])
    return None if picked is None else [np.array(picked, np.int64).reshape(places.shape)]


def _known(dims: list[int | None] | None) -> list[int] | None:
    """Return dimensions of which none is free."""
    known = [d for d in dims or () if d is not None]
    return known if dims is not None and len(known) == len(dims) else None


def _dimensions(node: ir.Node) -> list[int | None] | None:
    """Return the dimensions that a Shape or Size looks at, None for each that is free."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    dims = [d if isinstance(d, int) and d > 0 else None for d in value.shape]
    start, end = (node.attributes.get(name) for name in ("start", "end"))
    first = start.as_int() if start is not None else 0
    last = end.as_int() if end is not None else len(dims)
    return dims[slice(first, last)]
