"""Bring a model to the part that computes: what is known beforehand is computed, what only hands on goes.

    lift constants → dropouts, identities → type casts → fold constants → dissolve Ifs, and again until no node goes

The outputs keep their names, types, order and values.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.graph.inferred import infer_shapes
from calibrant.graph.passes.branches import dissolve_branches
from calibrant.graph.passes.casts import has_untyped_casts, type_casts
from calibrant.graph.passes.constants import fold_constants, lift_constants
from calibrant.graph.passes.dropout import pass_dropouts
from calibrant.graph.passes.identities import remove_identities
from calibrant.graph.passes.shapes import forget_inferred_shapes

__all__ = ["simplify"]


def simplify(model: ir.Model) -> None:
    """Simplify a model, in place.

    Args:
        model: A model without functions, in which every node and value has a name of its own.
    """
    while True:
        before = _size(model)
        lift_constants(model)
        pass_dropouts(model)
        remove_identities(model)
        branching = any(node.op_type == "If" for node in model.graph.all_nodes())
        if branching:
            forget_inferred_shapes(model)
        if branching or has_untyped_casts(model):
            infer_shapes(model)
        type_casts(model)
        fold_constants(model, shapes=branching)
        dissolved = dissolve_branches(model)
        remove_unused(model)
        if not dissolved and _size(model) == before:
            return


def _size(model: ir.Model) -> int:
    """Count the nodes: every step takes some out where it has something to do."""
    return sum(1 for _ in model.graph.all_nodes())


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that nobody reads, in place, bodies included."""
    common.RemoveUnusedNodesPass()(model)
    for graph in model.graph.subgraphs():
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del graph.initializers[name]
