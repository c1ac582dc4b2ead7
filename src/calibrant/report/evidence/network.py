"""The network as a graph: nodes, and the tensors that one gives and another reads."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibrant.graph.bodies import dependencies

__all__ = ["GRAPH_FILE", "Network", "NetworkNode", "network_of"]

GRAPH_FILE = "graph.json"


@dataclass(frozen=True, slots=True)
class NetworkNode:
    """One node.

    Args:
        name: Its name.
        op_type: Its operator.
        inputs: Tensors that it reads, without constants.
        outputs: Tensors that it gives.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """All nodes, in order of execution.

    Args:
        inputs: Inputs of the model.
        outputs: Outputs of the model.
        nodes: Its nodes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[NetworkNode, ...]


def network_of(model: ir.Model) -> Network:
    """Return the main graph of a model; what bodies of If, Loop and Scan read counts as read by their node."""
    graph = model.graph
    constants = {n for n, v in graph.initializers.items() if v.producer() is None}
    nodes = []
    for node in graph:
        if node.op_type == "Constant":
            constants.update(v.name or "" for v in node.outputs)
            continue
        read = dict.fromkeys(v.name or "" for v in dependencies(node))
        inputs = tuple(n for n in read if n and n not in constants)
        outputs = tuple(v.name for v in node.outputs if v.name)
        if node.op_type == "DequantizeLinear" and not inputs:  # a weight, held as integers
            constants.update(outputs)
            continue
        nodes.append(NetworkNode(node.name or "", node.op_type, inputs, outputs))
    return Network(
        tuple(v.name or "" for v in graph.inputs if v.name not in constants),
        tuple(v.name or "" for v in graph.outputs),
        tuple(nodes),
    )
