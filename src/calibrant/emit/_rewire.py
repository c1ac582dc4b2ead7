"""Put quantizers on the edges of a copied model: what the two emitters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.load import values_by_name
from calibrant.plan import ActivationDecision

__all__ = ["Names", "attach", "constant"]


class Names:
    """Hands out value names that the graph does not have yet."""

    def __init__(self, graph: ir.Graph) -> None:
        """Start from the names of the graph."""
        self._taken = set(values_by_name(graph)) | set(graph.initializers)

    def fresh(self, name: str) -> str:
        """Return `name`, with a number where it is taken."""
        candidate, n = name, 1
        while candidate in self._taken:
            candidate, n = f"{name}_{n}", n + 1
        self._taken.add(candidate)
        return candidate


def constant(
    graph: ir.Graph, name: str, data: npt.NDArray[np.generic], dtype: ir.DataType | None = None
) -> ir.Value:
    """Add an initializer; `dtype` names a type that numpy does not have (4 bits)."""
    tensor = ir.tensor(data, dtype=dtype, name=name) if dtype else ir.tensor(data, name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def attach(
    graph: ir.Graph,
    source: ir.Value,
    decision: ActivationDecision,
    build: Callable[[ir.Value], Sequence[ir.Node]],
) -> None:
    """Insert the nodes that `build` makes behind `source`, and let the decision's readers take them.

    A quantizer that a producer needs serves every reader, the graph's outputs too: the model's output
    keeps its name, and the tensor before the quantizer gets a new one.
    """
    producer = source.producer()
    readers = source.uses()
    was_output = source.is_graph_output()
    nodes = list(build(source))
    last = nodes[-1].outputs[0]
    last.shape, last.type = source.shape, source.type
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    edges = set(decision.users)
    for use in readers:
        node, index = use.node, use.idx
        if decision.producer is not None or (node.name, index) in edges:
            node.replace_input_with(index, last)
    if was_output and decision.producer is not None:
        name = source.name
        for i, output in enumerate(graph.outputs):
            if output is source:
                graph.outputs[i] = last
        source.name = f"{name}__float"
        last.name = name
