"""Dissolve each If whose condition is known: its branch takes its place.

The branch's nodes and initializers move into the graph that holds the If. Each output of the If becomes an
Identity of what the branch answers, under the name that it had; `passes.identities` takes out those that are not
needed.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.ops import is_constant
from calibrant.graph.values import Names

__all__ = ["dissolve_branches"]


def dissolve_branches(model: ir.Model) -> bool:
    """Dissolve every If with a constant condition, in place, those in bodies too; say whether there was one.

    Args:
        model: A model in which every node and value has a name of its own.
    """
    names = Names(model.graph)
    found = [n for n in model.graph.all_nodes() if n.op_type == "If" and is_constant(n.inputs[0])]
    for node in reversed(found):  # from the inside out
        _dissolve(node, names)
    return bool(found)


def _dissolve(node: ir.Node, names: Names) -> None:
    graph, condition = node.graph, node.inputs[0]
    assert graph is not None
    assert condition is not None
    assert condition.const_value is not None
    taken = "then_branch" if bool(condition.const_value.numpy().all()) else "else_branch"
    branch = node.attributes[taken].as_graph()
    answers = list(branch.outputs)
    branch.outputs.clear()
    constants = list(branch.initializers.values())
    branch.initializers.clear()
    for value in constants:
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for out, answer in zip(node.outputs, answers, strict=True):
        copy = ir.Node("", "Identity", [answer], name=names.fresh(f"{out.name}__of_branch"))
        handed = copy.outputs[0]
        handed.type = out.type or answer.type
        handed.shape = out.shape if out.is_graph_output() else answer.shape
        graph.insert_before(node, copy)
        out.replace_all_uses_with(handed, replace_graph_outputs=True)
        handed.name, out.name = out.name, names.fresh(f"{out.name}__dissolved")
    graph.remove(node, safe=True)
