"""Graphs inside graphs: what a node needs is what it reads and what its bodies take from outside."""

from __future__ import annotations

from calibrant.graph.bodies import bodies, captured, dependencies, nodes_in_bodies
from calibrant.graph.load import load, unsupported_subgraphs
from calibrant.graph.values import Names
from calibrant.runtime.walk import reads
from tests.models import NETS
from tests.road import prepared


def test_an_if_in_an_if_takes_the_values_of_both_graphs_around_it_and_nothing_of_its_own() -> None:
    model = prepared(NETS["if_in_if"]())
    node = model.graph.node("inner")
    assert len(bodies(node)) == 2
    assert {v.name for v in captured(node)} == {"relu1", "glaring", "x", "w1"}
    assert {v.name for v in dependencies(node)} == {"bright", "relu1", "glaring", "x", "w1"}
    assert len(reads(node)) == len(set(reads(node)))


def test_the_inputs_of_a_body_are_its_own() -> None:
    model = prepared(NETS["loop"]())
    (node,) = [n for n in model.graph if n.op_type == "Loop"]
    assert [v.name for v in captured(node)] == ["w2"]
    assert reads(node) == ["times", "yes", "fc1", "w2"]


def test_an_output_of_a_body_that_stands_outside_of_it_is_taken_from_outside() -> None:
    model = prepared(NETS["if_hands_on"]())
    node = next(n for n in model.graph if n.op_type == "If")
    assert [v.name for v in captured(node)] == ["conv1"]


def test_a_node_without_bodies_needs_its_inputs() -> None:
    model = prepared(NETS["residual"]())
    for node in model.graph:
        assert not bodies(node)
        assert not captured(node)
        assert dependencies(node) == [v for v in node.inputs if v is not None]


def test_nodes_in_bodies_are_those_of_every_depth() -> None:
    model = load(NETS["if_in_if"]()[0])
    inside = list(nodes_in_bodies(model.graph))
    assert sum(n.op_type == "Conv" for n in inside) == 1
    assert not {*inside} & {*model.graph}
    assert {*inside} | {*model.graph} == {*model.graph.all_nodes()}


def test_new_names_avoid_those_in_bodies() -> None:
    model = prepared(NETS["if_in_if"]())
    names = Names(model.graph)
    for graph in model.graph.subgraphs():
        for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs):
            assert names.fresh(value.name or "") != value.name


def test_nodes_with_bodies_are_listed() -> None:
    assert unsupported_subgraphs(prepared(NETS["loop"]())) == ["turned"]
