"""A node by its name: as a walk over the graph finds it, also after the graph has changed."""

from __future__ import annotations

import gc
import weakref

import onnx_ir as ir
import pytest

from calibrant.graph.values import node_named


def chain(*names: str) -> ir.Graph:
    """Relu behind Relu."""
    value = x = ir.Value(name="x")
    nodes = []
    for name in names:
        nodes.append(ir.Node("", "Relu", [value], name=name))
        value = nodes[-1].outputs[0]
    return ir.Graph([x], [], nodes=nodes)


def test_it_is_the_node_of_that_name() -> None:
    graph = chain("a", "b", "c")
    assert all(node_named(graph, n) is graph.node(n) for n in "abc")


def test_of_two_it_is_the_first() -> None:
    graph = chain("a", "b", "b")
    assert node_named(graph, "b") is graph[1]


def test_a_node_that_was_renamed_removed_or_added_is_looked_up_again() -> None:
    graph = chain("a", "b")
    assert node_named(graph, "b") is graph[1]
    graph[1].name = "c"
    assert node_named(graph, "c") is graph[1]
    with pytest.raises(ValueError, match="'b'"):
        node_named(graph, "b")
    last = graph[1]
    graph.remove(last)
    with pytest.raises(ValueError, match="'c'"):
        node_named(graph, "c")
    graph.append(ir.Node("", "Relu", [graph[0].outputs[0]], name="d"))
    assert node_named(graph, "d") is graph[1]


def test_a_clone_has_nodes_of_its_own() -> None:
    graph = chain("a")
    clone = graph.clone()
    assert node_named(graph, "a") is graph[0]
    assert node_named(clone, "a") is clone[0]


def test_no_graph_is_kept_alive() -> None:
    graph = chain("a")
    node_named(graph, "a")
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None
